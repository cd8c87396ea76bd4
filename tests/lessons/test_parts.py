"""Before the first step a method knows that its parts are called, learn, and have the right type."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import tiny
import torch
from test_methods import METHODS, disturbed, every_method, logits, texts
from torch import nn
from torch.testing import assert_close

from finetune_lessons.adapters import add_adapters
from finetune_lessons.lora import add_lora
from finetune_lessons.model_surgery import (
    TrainedCopy,
    Wrapper,
    activate,
    eject,
    inject,
    methods_by_row,
    save_method,
    wrappers,
)

pytestmark = pytest.mark.usefixtures("one_thread")
HALVES = (torch.bfloat16, torch.float16)


class Scale(Wrapper):
    def __init__(self, base):
        super().__init__(base)
        self.s = nn.Parameter(torch.zeros(base.out_features))

    def change(self, output, *inputs):
        return output * (1 + self.s.to(output.dtype))


class Odd(nn.Module):
    "Reads the weight of one layer, and calls another in training only, or in evaluation only."

    def __init__(self, when: bool | None = None):
        super().__init__()
        self.read, self.sometimes, self.called, self.when = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4), when
        self.layer_norm = nn.LayerNorm(4)

    @property
    def dummy_inputs(self):
        return {"x": torch.ones(2, 4)}

    def forward(self, x):
        x = self.called(x) @ self.read.weight.T
        x = self.sometimes(x) if self.when is None or self.when == self.training else x
        return self.layer_norm(x)


def state(model):
    return [(name, id(m), m.training) for name, m in model.named_modules()], tiny.weights(model), [
        (name, p.requires_grad) for name, p in model.named_parameters()
    ]


def same_state(before, model):
    modules, weights, required = state(model)
    return before[0] == modules and tiny.same_bits(before[1], weights) and before[2] == required


@pytest.mark.parametrize(
    ("model", "target", "says"),
    [
        (Odd(), "read", "read, one of 1 parts, is never called in evaluation: Odd goes around it"),
        (Odd(when=False), "sometimes", "sometimes, one of 1 parts, is never called in training"),
        (Odd(when=True), "sometimes", "sometimes, one of 1 parts, is never called in evaluation"),
    ],
)
def test_a_part_that_is_never_called_is_named_and_the_model_as_it_was(model, target, says):
    model.called.requires_grad_(False)
    model.layer_norm.train(False)
    before, random = state(model), torch.get_rng_state()
    with pytest.raises(ValueError, match=says):
        inject(model, Scale, [target, "called"], [])
    assert same_state(before, model) and torch.equal(torch.get_rng_state(), random)


class Detached(Odd):
    def forward(self, x):
        return self.called(x) + self.sometimes(x).detach()


def test_a_part_without_a_gradient_is_named_and_the_model_as_it_was():
    before = state(model := Detached())
    with pytest.raises(ValueError, match=r"sometimes, one of 1 parts, gets no gradient in Detached: leave it out"):
        inject(model, Scale, ["sometimes", "called"], [])
    assert same_state(before, model)


def test_parts_that_are_called_now_and_then_are_no_error():
    "Layers that training leaves out at random, and experts that no token was sent to."
    model = tiny.tiny_model("bart", encoder_layerdrop=0.5, decoder_layerdrop=0.5)
    assert wrappers(add_lora(model))


def test_a_cross_attention_that_nothing_comes_to_is_named():
    model = tiny.tiny_model("bert", "causal_lm", is_decoder=True, add_cross_attention=True)
    before = state(model)
    with pytest.raises(ValueError, match=r"layer\.0\.crossattention\.self\.query, one of 4 parts, is never called"):
        add_lora(model)
    assert same_state(before, model)


def test_a_trial_leaves_running_means_as_they_were():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    type(model).dummy_inputs = property(lambda self: {"input": torch.randn(3, 4)})
    try:
        inject(model, Scale, ["0"], [])
    finally:
        del type(model).dummy_inputs
    assert not model[1].num_batches_tracked and not model[1].running_mean.any()


def test_what_is_inside_a_new_head_is_left_out_of_the_targets():
    model = inject(tiny.tiny_model("roberta"), Scale, "dense")
    assert not [path for w, path in wrappers(model).items() if isinstance(w, Scale) and "classifier" in path]
    with pytest.raises(ValueError, match="classifier.dense is trained whole, it or one that shares its weight"):
        inject(tiny.tiny_model("roberta"), Scale, ["query", "classifier.dense"])


def test_targets_are_names_patterns_layers_and_exclusions():
    model = tiny.tiny_model("bert")

    def targets(*args, **kwargs):
        added = inject(model, Scale, *args, modules_to_save=[], **kwargs)
        found = [path.removeprefix("bert.encoder.layer.") for path in wrappers(added).values()]
        eject(model)
        return found

    assert targets("all-linear", exclude=["classifier", "pooler"], layers=[1]) == [
        f"1.{name}"
        for name in "attention.self.query attention.self.key attention.self.value attention.output.dense "
        "intermediate.dense output.dense".split()
    ]
    assert targets(r".*\.1\..*\.(query|key)") == ["1.attention.self.query", "1.attention.self.key"]
    assert targets("query", layers=[0]) == ["0.attention.self.query"]
    assert targets(["query", "value"], exclude=r".*\.0\..*") == ["1.attention.self.query", "1.attention.self.value"]
    for args, kwargs, says in [
        ([r"quer(y"], {}, "neither the name of a module nor a regular expression"),
        ([r"qu.ry"], {}, "no module of BertForSequenceClassification is called 'qu.ry'; there are:"),
        (["query"], {"layers": [0, 7]}, r"layers=\[0, 7\]: none of the modules is in layer 7; they are in \[0, 1\]"),
        (["query"], {"exclude": "kery"}, "is called 'kery': exclude leaves nothing out"),
        (["query"], {"exclude": ["encoder"]}, r"exclude=\['encoder'\] leaves nothing of 'query'"),
    ]:
        with pytest.raises(ValueError, match=says):
            targets(*args, **kwargs)


def test_a_module_under_two_names_is_wrapped_under_both():
    model = nn.Module()
    model.one = model.two = nn.Linear(2, 2)
    inject(model, Scale, "one", [])
    assert model.one is model.two and isinstance(model.one, Scale)


@every_method
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("arch", ["bert", "llama", "t5"])
def test_beside_half_precision_what_is_added_is_fp32_and_computes_in_the_models_type(arch, dtype, method):
    whole = METHODS[method](tiny.tiny_model(arch, dropout=False))
    model = METHODS[method](tiny.tiny_model(arch, dropout=False).to(dtype))
    own = {p for wrapper in wrappers(model) for p in wrapper.own_parameters().values()}
    assert {p.dtype for p in own} == {torch.float32} == {p.dtype for p in model.parameters() if p.requires_grad}
    output = model(**texts()).logits
    assert output.dtype == dtype
    output.float().logsumexp(-1).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in own)
    assert_close(logits(model).float(), logits(whole), rtol=0.1, atol=0.15)


@every_method
def test_a_model_in_half_precision_generates(method):
    model = METHODS[method](tiny.tiny_model("llama", "causal_lm").bfloat16()).eval()
    inputs = {"input_ids": torch.randint(7, 100, (2, 5)), "attention_mask": torch.ones(2, 5, dtype=torch.long)}
    assert model.generate(**inputs, max_new_tokens=4, do_sample=False).shape[1] > 5


def test_doubles_stay_doubles():
    model = inject(tiny.tiny_model("bert").double(), Scale, "query")
    assert {p.dtype for p in model.parameters()} == {torch.float64} and logits(model).dtype == torch.float64


@every_method
@pytest.mark.parametrize("arch", ["bert", "llama", "t5"])
def test_eight_threads_answer_as_one_does(arch, method):
    model = disturbed(METHODS[method](tiny.tiny_model(arch))).eval()
    ids = torch.randint(7, 100, (25, 2, 9), generator=torch.Generator().manual_seed(0))
    ids[..., -1] = tiny.VOCABULARY["[SEP]"]

    @torch.no_grad()
    def answer(i):
        return model(input_ids=ids[i % 25], attention_mask=torch.ones_like(ids[0])).logits

    expected = [answer(i) for i in range(25)]
    with ThreadPoolExecutor(8) as pool:
        for i, found in enumerate(pool.map(answer, range(1000))):
            assert torch.equal(found, expected[i % 25])
    assert torch.equal(answer(3), expected[3])


def two_loras(model, **settings):
    add_lora(model, name="a", seed=1, **settings)
    add_lora(model, name="b", seed=2, **settings)
    return disturbed(model)


def alone(model, *names):
    activate(model, *names)
    return logits(model)


def test_strength_is_linear_in_what_lora_adds():
    model = add_lora(nn.Sequential(nn.Linear(4, 3)), target_modules=["0"], modules_to_save=[], name="a")
    disturbed(add_lora(model, target_modules=["0"], modules_to_save=[], name="b", seed=1))
    x = torch.randn(5, 4)
    first, a, b = (activate(model, *names)(x) for names in ([], ["a"], ["b"]))
    assert_close(activate(model, {"a": 0.7, "b": 0.3})(x), first + 0.7 * (a - first) + 0.3 * (b - first))
    assert_close(activate(model, {"a": -2})(x), first - 2 * (a - first))
    assert torch.equal(activate(model, {"a": 1})(x), a) and torch.equal(activate(model)(x), first)
    activate(model, {"a": 0.7, "b": 0.3})
    merged = first + 0.7 * (a - first) + 0.3 * (b - first)
    assert_close(eject(model, merge=True)(x), merged)


def test_the_heads_of_a_mixture_are_mixed():
    model = two_loras(tiny.tiny_model("bert"), target_modules=["query"])
    with torch.no_grad():
        for wrapper in wrappers(model):
            if not isinstance(wrapper, TrainedCopy):
                wrapper.B.zero_()
    first, a, b = alone(model), alone(model, "a"), alone(model, "b")
    assert_close(alone(model, {"a": 0.7, "b": 0.3}), 0.7 * a + 0.3 * b)
    assert_close(alone(model, {"a": 0.5}), first + 0.5 * (a - first))
    with pytest.raises(ValueError, match="merged at strength 1 only"):
        eject(model, merge=True)


@pytest.mark.parametrize("method", ["prefix", "prompt"])
def test_what_is_on_or_off_has_no_strength_and_no_rows(method):
    model = METHODS[method](tiny.tiny_model("bert"))
    before = logits(model)
    with pytest.raises(ValueError, match=f"'{method}' is on or off, it has no strength"):
        activate(model, {method: 0.5})
    with pytest.raises(ValueError, match=f"'{method}' works for all rows of a batch or for none"):
        with methods_by_row(model, [method, None, None]):
            pass
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("add", [add_lora, add_adapters, partial(add_adapters, placement="parallel")])
@pytest.mark.parametrize("arch", ["bert", "gpt2", "llama", "t5"])
def test_each_row_is_answered_by_its_own_method(arch, add):
    model = tiny.tiny_model(arch)
    for seed, name in enumerate("ab"):
        add(model, name=name, seed=seed)
    disturbed(model)
    separate = {None: alone(model), "a": alone(model, "a"), "b": alone(model, "b")}
    rows = ["b", None, "a"]
    activate(model, "a", "b")
    both = logits(model)
    with methods_by_row(model, rows):
        mixed = logits(model)
    assert_close(mixed, torch.stack([separate[name][i] for i, name in enumerate(rows)]), rtol=1e-4, atol=1e-4)
    assert torch.equal(logits(model), both)


def test_beams_of_a_row_have_its_method_and_other_numbers_of_rows_are_refused():
    model = two_loras(tiny.tiny_model("llama", "causal_lm")).eval()
    ids = {"input_ids": torch.randint(7, 100, (2, 5)), "attention_mask": torch.ones(2, 5, dtype=torch.long)}

    def generate(**inputs):
        return model.generate(**inputs, max_new_tokens=4, num_beams=3, do_sample=False)[:, 5:]

    def row(i):
        return {key: value[i : i + 1] for key, value in ids.items()}

    apart = [generate(**row(i)) for i, name in enumerate("ab") if activate(model, name)]
    activate(model, "a", "b")
    with methods_by_row(model, ["a", "b"]):
        together = generate(**ids)
    for i, expected in enumerate(apart):
        assert together[i, : expected.shape[1]].tolist() == expected[0].tolist()
    with methods_by_row(model, ["a"] * 3), pytest.raises(ValueError, match="named for 3 rows; a module puts out"):
        model(**ids)


def test_rows_are_those_of_this_thread():
    model = two_loras(tiny.tiny_model("bert"))
    both = logits(model)
    with methods_by_row(model, ["a", None, "b"]), ThreadPoolExecutor(1) as pool:
        assert torch.equal(pool.submit(logits, model).result(), both)


def test_ejected_a_model_is_trained_where_it_was_before():
    model = tiny.tiny_model("bert")
    model.bert.embeddings.requires_grad_(False)
    before = state(model)
    add_lora(model, name="a")
    add_lora(model, name="b")
    eject(model, "a")
    assert not model.bert.encoder.layer[0].output.dense.weight.requires_grad
    eject(model, "b")
    assert same_state(before, model)


def test_adding_changes_no_modules_mode():
    model = tiny.tiny_model("bert").train()
    model.bert.encoder.layer[0].eval()
    modes = {path: m.training for path, m in model.named_modules()}
    for method in METHODS.values():
        eject(method(model))
        assert {path: m.training for path, m in model.named_modules()} == modes


def test_a_head_that_lies_under_another_is_not_trained():
    model = two_loras(tiny.tiny_model("bert"))
    trained = {w.name for w in wrappers(model) if isinstance(w, TrainedCopy) and w.copy.weight.requires_grad}
    assert trained == {"b"}
    activate(model, "a")
    assert {w.name for w in wrappers(model) if isinstance(w, TrainedCopy) and w.copy.weight.requires_grad} == {"a"}
    model(**texts()).logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_a_module_of_ones_own_is_saved_and_wrong_arguments_are_refused_before_the_training(tmp_path):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            return self.layer(x)

    save_method(add_lora(Own(), target_modules={"layer"}, modules_to_save=[]), tmp_path)
    for targets in ({"layer": 1}.keys(), {"layer"}, (name for name in ["layer"]), ("layer",)):
        model = add_lora(Own(), target_modules=targets, modules_to_save=[])
        assert next(iter(wrappers(model))).recipe["arguments"]["target_modules"] == ["layer"]
    with pytest.raises(ValueError, match="lora_alpha is a number, a text, or a collection of them; given: object"):
        add_lora(model := Own(), target_modules=["layer"], lora_alpha=object())
    assert not wrappers(model)


def test_what_a_module_that_is_trained_whole_lies_in_is_not_copied_besides():
    model = add_lora(tiny.tiny_model("bert", "masked_lm"), modules_to_save=["cls.predictions.decoder"])
    copied = {path for wrapper, path in wrappers(model).items() if isinstance(wrapper, TrainedCopy)}
    assert copied == {"cls.predictions.decoder", "bert.embeddings.word_embeddings"}
