"""Fast dropout is dropout: the share, the scale, the gradient, the seed; and fast attention is torch's."""

from itertools import product
from threading import Thread

import pytest
import torch
from tiny import EVERY, same_bits, tiny_model, tiny_run, weights
from torch import nn
from torch.nn import functional as F

from finetune_lessons.lab.training import cpu_functions
from finetune_lessons.lab.training.cpu_functions import SHORT, fast_cpu_functions

pytestmark = pytest.mark.usefixtures("one_thread")
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def of_ones(p: float, *shape: int, dtype=torch.float32) -> torch.Tensor:
    with fast_cpu_functions():
        return F.dropout(torch.ones(shape, dtype=dtype), p)


@pytest.mark.parametrize("p", [0.0001, 0.1, 0.3, 0.5, 0.9, 0.9999])
def test_as_many_are_dropped_as_asked_for_and_the_mean_stays(p):
    n = 4_000_003
    out = of_ones(p, n)
    share = (out == 0).double().mean().item()
    assert share == pytest.approx(p, abs=5 * (p * (1 - p) / n) ** 0.5 + 2**-17)
    assert out.unique().tolist() == [0.0, pytest.approx(1 / (1 - p), rel=1 / 6)]
    assert out.double().mean().item() == pytest.approx(1, abs=5 * (p / (1 - p) / n) ** 0.5)


def test_what_is_dropped_is_dropped_independently():
    dropped = (of_ones(0.3, 1000, 1003) == 0).double() - 0.3
    for shift, dim in product((1, 2, 3, 4, 8), (0, 1)):
        together = (dropped * dropped.roll(shift, dim)).mean().item()
        assert abs(together) < 5 * 0.21 / 1000, (shift, dim)
    assert dropped.mean(0).std().item() == pytest.approx((0.21 / 1000) ** 0.5, rel=0.1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5, 2), (0, 4)])
def test_shape_and_dtype_stay(shape, dtype):
    out = of_ones(0.5, *shape, dtype=dtype)
    assert (out.shape, out.dtype) == (shape, dtype)


def test_the_gradient_passes_where_the_number_passed():
    x = torch.randn(50, 40, requires_grad=True)
    with fast_cpu_functions():
        out = F.dropout(x, 0.4)
    out.sum().backward()
    torch.testing.assert_close(x.grad * x, out)


@pytest.mark.parametrize("p", [0.0, 1.0, 0.3])
def test_where_there_is_nothing_to_draw_torch_does_it(p):
    x = torch.randn(20, 20)
    with fast_cpu_functions():
        assert torch.equal(F.dropout(x, p, training=False), x)
        assert torch.equal(nn.Dropout(p).eval()(x), x)
        if p in (0.0, 1.0):
            assert torch.equal(F.dropout(x, p), x * (1 - p))
        assert F.dropout(x, p, inplace=True) is x
    with pytest.raises(ValueError, match="probability"), fast_cpu_functions():
        F.dropout(x, 1.5)


def test_the_seed_says_what_is_dropped_and_outside_torch_does():
    x = torch.ones(100)
    for inside in (True, False):
        drawn = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            if inside:
                with fast_cpu_functions():
                    drawn.append(nn.Dropout(0.5)(x))
            else:
                drawn.append(nn.Dropout(0.5)(x))
        assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_other_threads_and_what_comes_after_have_torchs_own():
    drawn, at_rest = [], (F.dropout, F.scaled_dot_product_attention)

    def draw():
        torch.manual_seed(3)
        drawn.append(F.dropout(torch.ones(100), 0.5))

    with pytest.raises(RuntimeError, match="in the middle"), fast_cpu_functions(), fast_cpu_functions():
        thread = Thread(target=draw)
        thread.start()
        thread.join()
        draw()
        raise RuntimeError("in the middle")
    assert (F.dropout, F.scaled_dot_product_attention) == at_rest
    draw()
    assert torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], drawn[1])


# attention


def masks(queries: int, keys: int):
    lengths = torch.tensor([keys, keys - 2, 1])
    padding = (torch.arange(keys) < lengths[:, None])[:, None, None, :]
    nothing = torch.ones(queries, keys, dtype=torch.bool)
    nothing[1] = False
    return {
        "none": {}, "causal": {"is_causal": True}, "padding": {"attn_mask": padding},
        "bias": {"attn_mask": torch.randn(3, 4, queries, keys)}, "a query without keys": {"attn_mask": nothing},
        "infinite bias": {"attn_mask": torch.zeros(queries, keys).masked_fill(~nothing, -torch.inf)},
        "scale": {"scale": 0.3}, "groups": {"enable_gqa": True},
    }  # fmt: skip


@pytest.mark.parametrize("piece", [cpu_functions.PIECE, 300, 1])
@pytest.mark.parametrize("p", [0.0, 0.1])
@pytest.mark.parametrize("kind", masks(2, 3))
@pytest.mark.parametrize(("queries", "keys"), [(6, 6), (4, 9), (5, SHORT + 1)])
def test_attention_is_that_of_torch(kind, queries, keys, p, piece, monkeypatch):
    "Where nothing happens to be dropped: values, and gradients of queries, keys and values."
    monkeypatch.setattr(cpu_functions, "PIECE", piece)
    monkeypatch.setattr(cpu_functions, "_keep", lambda like, p: (torch.ones(like.shape, dtype=torch.bool), 1.0))
    options = masks(queries, keys)[kind]
    groups = 2 if kind == "groups" else 4
    inputs = [torch.randn(3, n, t, 8) for n, t in ((4, queries), (groups, keys), (groups, keys))]
    found = []
    for replaced in (True, False):
        q, k, v = (x.clone().requires_grad_() for x in inputs)
        if replaced:
            with fast_cpu_functions():
                out = F.scaled_dot_product_attention(q, k, v, dropout_p=p, **options)
        else:
            out = F.scaled_dot_product_attention(q, k, v, **options)
        out.sin().sum().backward()
        found.append([out, q.grad, k.grad, v.grad])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_query_without_keys_has_a_gradient_of_zero_however_low_its_scores(dtype):
    q, k = torch.full((1, 1, 2, 8), 30.0, dtype=dtype), torch.full((1, 1, 3, 8), -30.0, dtype=dtype)
    q, k, allowed = q.requires_grad_(), k.requires_grad_(), torch.tensor([[False] * 3, [True] * 3])
    with fast_cpu_functions():
        out = F.scaled_dot_product_attention(q, k, torch.randn(1, 1, 3, 8, dtype=dtype), allowed)
    out.square().sum().backward()
    assert not out[0, 0, 0].any() and not q.grad[0, 0, 0].any()
    assert q.grad.isfinite().all() and k.grad.isfinite().all() and out[0, 0, 1].all()


def test_attention_weights_are_dropped_and_scaled():
    q, k = torch.randn(1, 1, 200, 8), torch.randn(1, 1, 300, 8)
    identity = torch.eye(300)[None, None]  # so that the output is the weights
    with fast_cpu_functions():
        out = F.scaled_dot_product_attention(q, k, identity, dropout_p=0.25)
    weights = F.scaled_dot_product_attention(q, k, identity)
    kept = out != 0
    assert kept.double().mean().item() == pytest.approx(0.75, abs=0.01)
    torch.testing.assert_close(out[kept], weights[kept] / 0.75)


# in a run


WITHOUT = ("opt", "llama", "qwen2", "modernbert", "bart")  # dropout of attention, unless it is asked for


@pytest.mark.parametrize("arch", EVERY)
def test_a_run_trains_with_it_on_every_architecture(arch, monkeypatch):
    drawn = []
    keep = cpu_functions._keep
    monkeypatch.setattr(cpu_functions, "_keep", lambda like, p: drawn.append(like.shape) or keep(like, p))
    probabilities = {"attention_dropout": 0.1} if arch in WITHOUT else {}
    run = tiny_run(tiny_model(arch, **probabilities))
    next(run)
    in_layers = sum(isinstance(m, nn.Dropout) and m.p > 0 for m in run.model.modules())
    assert len(drawn) >= max(in_layers, 2)
    assert any(len(shape) == 4 for shape in drawn), "that of attention"
    drawn.clear()
    run.evaluate()
    assert not drawn


def test_gradient_checkpointing_draws_the_same_numbers_again():
    def trained(checkpointing: bool):
        model = tiny_model("bert")
        if checkpointing:
            model.gradient_checkpointing_enable()
        return weights(tiny_run(model, epochs=1).finish().model)

    assert same_bits(trained(True), trained(False))


def test_a_compiled_model_learns_the_same():
    compiled = tiny_model("bert", dropout=False)
    compiled.compile(backend="eager")
    found, expected = ([s.loss for s in tiny_run(m, epochs=1)] for m in (compiled, tiny_model("bert", dropout=False)))
    assert found == pytest.approx(expected, abs=1e-6)
