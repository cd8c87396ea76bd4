"""Linear layers of torch, transformers, bitsandbytes and torchao, on the CPU's kernels."""

import subprocess
import sys
import warnings
from copy import deepcopy

import pytest
import tiny
import torch
from quantised import D_IN, D_OUT, EXACT, QUANTISED, in_4_bits, plain
from torch import nn
from torch.nn.functional import linear
from torch.testing import assert_close
from transformers.pytorch_utils import Conv1D

from finetune_lessons.lab.models.linears import (
    dense_layer,
    dense_weight,
    densified,
    distance,
    is_linear,
    is_quantised,
    keep_gradients,
    shape_of,
    type_of,
    unreached,
    warn_of_rounding,
    written,
)

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning"),
]
LAYERS = EXACT | QUANTISED
every_layer = pytest.mark.parametrize("kind", LAYERS)
every_quantised = pytest.mark.parametrize("kind", QUANTISED)
TOLERANCE = {"bitsandbytes 8": 0.02}  # it rounds what comes in too


@every_layer
def test_shape_and_dense_weight_are_those_of_the_layers_own_output(kind):
    layer, x = LAYERS[kind](), torch.randn(5, D_IN)
    assert is_linear(layer) and shape_of(layer) == (D_OUT, D_IN)
    weight = dense_weight(layer)
    assert weight.shape == (D_OUT, D_IN) and weight.dtype == type_of(layer) == torch.float32
    assert not weight.requires_grad
    expected = layer(x)
    assert_close(linear(x, weight, layer.bias), expected, rtol=0, atol=TOLERANCE.get(kind, 1e-5))
    assert is_quantised(layer) == (kind in QUANTISED)
    assert torch.equal(dense_weight(layer), weight)  # after a first call too


@every_quantised
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_type_that_was_quantised_is_that_of_the_dense_weight(kind, dtype):
    layer = QUANTISED[kind](dtype)
    assert type_of(layer) == dense_weight(layer).dtype == dtype


@every_layer
def test_a_dense_layer_has_the_given_weight_and_the_bias_and_is_its_own(kind):
    layer = LAYERS[kind]().eval()
    weight = dense_weight(layer) + 1
    new, x = dense_layer(layer, weight), torch.randn(5, D_IN)
    assert type(new) is (Conv1D if kind == "Conv1D" else nn.Linear) and not new.training
    assert_close(new(x), linear(x, weight, layer.bias), rtol=1e-5, atol=1e-5)
    assert torch.equal(dense_weight(new), weight) and not is_quantised(new)
    before = new(x)
    with torch.no_grad():
        layer.bias.add_(1)
    assert torch.equal(new(x), before)


@pytest.mark.parametrize("kind", [kind for kind in LAYERS if kind != "Conv1D"])
def test_a_layer_without_a_bias_stays_without(kind):
    assert dense_layer(LAYERS[kind](bias=False), torch.zeros(D_OUT, D_IN)).bias is None


@every_quantised
def test_copies_to_train_whole_are_dense_and_share_what_was_shared(kind):
    layer = QUANTISED[kind]()
    first, second = densified([nn.Sequential(layer, nn.ReLU()), nn.Sequential(layer)])
    assert type(first[0]) is nn.Linear and first[0] is second[0]
    assert_close(first.requires_grad_()[0](torch.eye(D_IN)), layer(torch.eye(D_IN)), rtol=0, atol=0.02)


@every_quantised
def test_how_far_a_dense_layer_is_from_the_quantised_one_is_measured_and_said(kind):
    layer = QUANTISED[kind]().eval()
    same, other = (dense_layer(layer, factor * dense_weight(layer)) for factor in (1, 1.5))
    assert distance(layer, same) < 0.02 < 0.3 < distance(layer, other) < 0.5
    with pytest.warns(UserWarning, match="2 layers .* 2.00% away .* on average, 3.00% at most"):
        warn_of_rounding([0.01, 0.03])
    with warnings.catch_warnings(record=True) as said:
        warn_of_rounding([])
    assert not said


def test_four_bits_pass_gradients_on_after_an_evaluation():
    layer, x = in_4_bits(), torch.randn(5, D_IN)
    weight = dense_weight(layer)

    def gradient():
        inputs = x.clone().requires_grad_()
        layer.train()(inputs).sum().backward()
        return inputs.grad

    assert_close(gradient(), weight.sum(0).expand(5, -1), rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        layer.eval()(x)  # on a CPU with bf16 its numbers are in another order now
    assert_close(dense_weight(layer), weight, rtol=0.01, atol=1e-3)
    assert type_of(layer) == torch.float32
    keep_gradients(nn.Sequential(layer))
    for _ in range(2):
        assert_close(gradient(), weight.sum(0).expand(5, -1), rtol=0.01, atol=0.01)
        with torch.no_grad():
            layer.eval()(x)


def quantised_dynamically():
    return torch.ao.quantization.quantize_dynamic(nn.Sequential(plain()), {nn.Linear}, torch.qint8)[0]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (quantised_dynamically, "Linear of torch.ao.nn.quantized.* known here.*Linear4bit"),
        (lambda: nn.Embedding(3, 4), "Embedding of torch.nn.* is no linear layer"),
        (lambda: nn.MultiheadAttention(8, 2).out_proj, "nn.MultiheadAttention reads the weight of its out_proj"),
        (lambda: nn.LazyLinear(3), "no weight yet"),
        (lambda: with_weight(torch.zeros(D_OUT, D_IN // 2, dtype=torch.uint8)), r"\(96, 64\) as torch.uint8 of"),
        (lambda: with_weight(torch.zeros(D_OUT, D_IN).to(torch.float8_e4m3fn)), "float8_e4m3fn"),
    ],
)
def test_what_is_not_known_is_said_in_one_sentence(make, says):
    layer = make()
    assert not is_linear(layer) and not is_quantised(layer)
    for ask in (shape_of, dense_weight):
        with pytest.raises(ValueError, match=says):
            ask(layer)


def with_weight(weight):
    layer = plain()
    layer.weight = nn.Parameter(weight, requires_grad=False)
    return layer


def test_layers_whose_weight_is_read_by_their_parent_are_found():
    model = nn.ModuleDict({"attend": nn.MultiheadAttention(8, 2), "layer": nn.TransformerEncoderLayer(8, 2)})
    layer = model["layer"]
    assert unreached(model).keys() == {
        model["attend"].out_proj, layer.self_attn.out_proj, layer.linear1, layer.linear2,
    }  # fmt: skip
    assert unreached(tiny.tiny_model("bert")) == {}


@every_layer
def test_that_a_weight_was_written_shows(kind):
    layer = LAYERS[kind]()

    def seen():
        return list(written(layer.weight))

    first = seen()
    assert seen() == first
    with torch.no_grad():
        layer.weight.copy_(deepcopy(layer.weight))
    second = seen()
    assert second != first
    kept = layer.weight  # else the new one may get its place
    layer.weight = nn.Parameter(deepcopy(kept.data), requires_grad=False)
    assert seen() != second


def test_written_knows_a_weight_that_torch_does_not_count():
    with torch.inference_mode():
        layer = plain()
    assert list(written(layer.weight)) == list(written(layer.weight))


def test_nothing_is_imported_for_a_model_without_quantised_layers():
    code = (
        "import sys; from torch import nn; from finetune_lessons.lab.models.linears import is_quantised, dense_weight\n"
        "layer = nn.Linear(2, 3); dense_weight(layer); assert not is_quantised(layer)\n"
        "assert not {'bitsandbytes', 'torchao'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
