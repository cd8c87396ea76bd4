"""A cache of frozen layers changes the time and no number, is never stale, and leaves nothing behind."""

import copy
from functools import partial

import pytest
import torch
import transformers
from tiny import (
    EVERY,
    classification,
    language_model,
    same_bits,
    tiny_data,
    tiny_language_data,
    tiny_model,
    tiny_run,
    tiny_tokenizer,
    tiny_tokens,
    weights,
)
from torch import nn

from finetune_lessons.adapters import BottleneckAdapter, add_adapters
from finetune_lessons.lab.training.activations import ActivationCache
from finetune_lessons.lab.training.run import Run
from finetune_lessons.lab.training.trunk import Trunk
from finetune_lessons.model_surgery import disable, freeze, inject, unfreeze
from finetune_lessons.prompt_tuning import add_prompt

pytestmark = pytest.mark.usefixtures("one_thread")

CACHEABLE = [arch for arch in EVERY if arch != "t5"]


def frozen(model, layers=1):
    "The model with its first layers frozen, and all that stands before them; the rest and the head are trained."
    freeze(model)
    heads = [child for child in model.children() if child is not model.base_model]
    tied = {id(parameter) for parameter in model.base_model.get_input_embeddings().parameters()}
    for module in (*Trunk(model).layers[layers:], *heads):
        for parameter in module.parameters():
            parameter.requires_grad_(id(parameter) not in tied)
    return model


def curve(run) -> list[float]:
    steps = [number for step in run for number in (step.loss, step.grad_norm, *step.metrics.values())]
    return steps + [v for split in run.splits for v in run.evaluate(split).values()]


def assert_same_with_and_without(make_run, tolerance=1e-5):
    cached, plain = make_run(cache=ActivationCache()), make_run()
    assert curve(cached) == pytest.approx(curve(plain), abs=tolerance, rel=tolerance)
    assert cached.cache.megabytes > 0
    assert len({step.loss for step in plain.steps}) > 1


class Counter:
    "How often the first layer computes."

    def __init__(self, model):
        self.calls = 0
        layer = Trunk(model).layers[0]
        self._forward = layer.forward
        layer.forward = self._count

    def _count(self, *args, **kwargs):
        self.calls += 1
        return self._forward(*args, **kwargs)


# the same numbers


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("arch", CACHEABLE)
def test_every_architecture_learns_the_same_with_a_cache(arch, precision):
    def make_run(**settings):
        model = frozen(tiny_model(arch, dropout=False))
        return tiny_run(model, tiny_tokens(24, 8), eval_every=2, precision=precision, **settings)

    if precision == "fp32":
        assert_same_with_and_without(make_run)
    else:
        runs = make_run(cache=ActivationCache()), make_run()
        cached, plain = ([step.loss for step in run] for run in runs)
        assert cached == pytest.approx(plain, abs=0.05)


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_language_model_learns_the_same_on_either_padding_side(side):
    def make_run(**settings):
        model, tokenizer = frozen(tiny_model("gpt2", "causal_lm", dropout=False)), tiny_tokenizer(side)
        return tiny_run(model, tiny_language_data(), loss=language_model, tokenizer=tokenizer, **settings)

    assert_same_with_and_without(make_run)


def test_adapters_in_the_last_layer_learn_the_same():
    def make_run(**settings):
        torch.manual_seed(0)
        wrap = partial(BottleneckAdapter, bottleneck_size=4)
        return tiny_run(inject(tiny_model("bert", dropout=False), wrap, "layer.1.output.dense"), **settings)

    assert_same_with_and_without(make_run)


def test_layers_that_thaw_on_the_way_learn_the_same():
    def make_run(**settings):
        return tiny_run(frozen(tiny_model("bert", dropout=False), 2), eval_every=3, **settings)

    def thawing(run):
        for step in run:
            if step.index in (3, 7):
                unfreeze(run.model, f"layer.{1 if step.index == 3 else 0}")
        return [step.loss for step in run.steps]

    with_cache, without = make_run(cache=ActivationCache()), make_run()
    assert thawing(with_cache) == pytest.approx(thawing(without), abs=1e-5)
    assert with_cache.steps[-1].metrics == pytest.approx(without.steps[-1].metrics, abs=1e-4)


def test_several_tasks_learn_the_same():
    def make_run(**settings):
        data = {"a": tiny_data(24, 8), "b": tiny_data(16, 8)}
        return tiny_run(frozen(tiny_model("bert", dropout=False)), data, **settings)

    assert_same_with_and_without(make_run)


def test_what_only_leads_to_the_frozen_layers_is_left_out():
    model, calls = frozen(tiny_model("bert")), []
    run = tiny_run(model, cache=ActivationCache())
    next(run)
    norm = model.bert.embeddings.LayerNorm
    norm.forward = lambda x, forward=norm.forward: calls.append(1) or forward(x)
    next(run)
    assert not calls
    norm.register_forward_hook(lambda *_: calls.append(2))  # somebody looks
    next(run)
    assert calls == [1, 2]


def test_embeddings_that_are_read_behind_the_frozen_layers_too_are_computed():
    def make_run(**settings):
        model = frozen(tiny_model("bert", dropout=False))
        model.bert.__class__ = AddsEmbeddings
        return tiny_run(model, eval_every=4, **settings)

    assert_same_with_and_without(make_run)


class AddsEmbeddings(transformers.BertModel):
    "Its output is that of the layers, and of the embeddings again."

    def forward(self, input_ids=None, attention_mask=None, token_type_ids=None, **kwargs):
        seen = []
        hook = self.embeddings.register_forward_hook(lambda _, __, output: seen.append(output))
        output = super().forward(input_ids, attention_mask, token_type_ids, **kwargs)
        hook.remove()
        output.last_hidden_state = output.last_hidden_state + seen[0]
        output.pooler_output = output.pooler_output + seen[0][:, 0]
        return output


# what is computed, and how often


def test_each_text_passes_the_frozen_layers_once_for_all_runs():
    cache, calls = ActivationCache(), []
    for seed in range(3):
        model = frozen(tiny_model("bert"))
        counter = Counter(model)
        curve(tiny_run(model, seed=seed, cache=cache))
        calls.append(counter.calls)
    assert calls == [2 + 1 + 1, 0, 0]  # batches of 32: 64 texts to train, 16 and 21 to evaluate
    assert cache.megabytes == 64


def test_dropout_is_off_where_it_is_frozen_and_on_where_it_is_trained():
    model = frozen(tiny_model("bert"))
    modes = {}

    def looking(model, batch):
        modes.update({name: module.training for name, module in model.named_modules()})
        return classification(model, batch)

    before = {name: module.training for name, module in model.named_modules()}
    next(tiny_run(model, loss=looking, cache=ActivationCache()))
    dropouts = {name: modes[name] for name, m in model.named_modules() if isinstance(m, nn.Dropout)}
    assert not any(on for name, on in dropouts.items() if "embeddings" in name or "layer.0" in name)
    assert all(on for name, on in dropouts.items() if "layer.1" in name or name == "dropout")
    assert {name: module.training for name, module in model.named_modules()} == before


def test_nothing_stays_in_the_model():
    model = frozen(tiny_model("bert"))
    curve(tiny_run(model, cache=ActivationCache()))
    assert not any("forward" in vars(module) or module._forward_hooks for module in model.modules())
    copy.deepcopy(model)


@pytest.mark.parametrize("ask", [{"output_hidden_states": True}, {"output_attentions": True}])
def test_who_asks_for_more_than_the_last_output_gets_it(ask):
    model = frozen(tiny_model("bert", dropout=False, attn_implementation="eager"))

    def loss(model, batch):
        output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], **ask)
        seen = output.hidden_states if "output_hidden_states" in ask else output.attentions
        return seen[1].square().mean() + output.logits.square().mean()

    expected = [step.loss for step in tiny_run(copy.deepcopy(model), loss=loss)]
    assert [step.loss for step in tiny_run(model, loss=loss, cache=ActivationCache())] == pytest.approx(expected)


def test_who_looks_into_a_frozen_layer_sees_what_it_does():
    model, seen = frozen(tiny_model("bert")), []
    model.get_submodule("bert.encoder.layer.0.output").register_forward_hook(lambda *_: seen.append(1))
    run = tiny_run(model, cache=ActivationCache())
    assert len(list(run)) == 16 and len(seen) >= 16


def test_inputs_that_a_loss_made_up_are_computed():
    def shifted(model, batch):
        return classification(model, batch | {"input_ids": batch["input_ids"].clamp(max=50)})

    expected = [s.loss for s in tiny_run(frozen(tiny_model("bert", dropout=False)), loss=shifted)]
    found = [s.loss for s in tiny_run(frozen(tiny_model("bert", dropout=False)), loss=shifted, cache=ActivationCache())]
    assert found == pytest.approx(expected, abs=1e-5)


# never stale


def through_data(model):
    model.bert.encoder.layer[0].output.dense.weight.data.mul_(0.5)


def in_place(model):
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight.mul_(0.5)


def another_tensor(model):
    layer = model.bert.encoder.layer[0].output.dense
    layer.weight = nn.Parameter(layer.weight * 0.5, requires_grad=False)


def loaded(model):
    model.load_state_dict({name: tensor * 0.9 for name, tensor in model.state_dict().items()})


def a_setting(model):
    model.bert.encoder.layer[0].output.LayerNorm.eps = 0.1


@pytest.mark.parametrize("change", [through_data, in_place, another_tensor, loaded, a_setting])
def test_what_changes_in_the_frozen_part_is_noticed(change):
    found = []
    for cache in (ActivationCache(), None):
        run = tiny_run(frozen(tiny_model("bert", dropout=False)), eval_every=0, cache=cache)
        before = run.evaluate("validation")["loss"]
        next(run)
        change(run.model)
        next(run)
        found.append([step.loss for step in run.steps] + [before, run.evaluate("validation")["loss"]])
    assert found[0] == pytest.approx(found[1], abs=1e-5)
    assert found[0][-2] != found[0][-1]


def test_a_method_that_is_switched_off_is_noticed():
    model = freeze(add_adapters(tiny_model("bert", dropout=False), 4))
    for wrapper in [m for m in model.modules() if isinstance(m, BottleneckAdapter)]:
        nn.init.normal_(wrapper.up.weight)
    unfreeze(model, "classifier")
    cached, plain = (tiny_run(model, cache=cache) for cache in (ActivationCache(), None))
    on = cached.evaluate("validation")["loss"]
    with disable(model):
        assert cached.evaluate("validation")["loss"] == pytest.approx(plain.evaluate("validation")["loss"], abs=1e-5)
        assert cached.evaluate("validation")["loss"] != pytest.approx(on, abs=1e-3)


def test_another_precision_is_another_cache():
    model, cache = frozen(tiny_model("bert", dropout=False)), ActivationCache()
    for precision in ("bf16", "fp32", "bf16"):
        cached, plain = (tiny_run(model, precision=precision, cache=given) for given in (cache, None))
        tolerance = 1e-6 if precision == "fp32" else 1e-3
        assert cached.evaluate("test")["loss"] == pytest.approx(plain.evaluate("test")["loss"], abs=tolerance)
    assert len(cache._places) == 2


# saved, stopped, full


@pytest.mark.parametrize("arch", ["bert", "gpt2"])
def test_a_resumed_run_goes_on_to_the_same_bits_with_an_empty_cache(arch, tmp_path):
    whole = tiny_run(frozen(tiny_model(arch)), cache=ActivationCache())
    for step in whole:
        if step.index == 4:
            whole.save(tmp_path / "run")
    arguments = {"loss": classification, "cache": ActivationCache()}
    run = Run.resume(tmp_path / "run", frozen(tiny_model(arch)), tiny_tokenizer(), tiny_tokens(), **arguments)
    assert [step.loss for step in run] == [step.loss for step in whole.steps[5:]]
    assert same_bits(weights(run.model), weights(whole.model))


@pytest.mark.parametrize(("had", "given"), [(True, False), (False, True)])
def test_a_run_with_a_cache_is_resumed_with_one(had, given, tmp_path):
    run = tiny_run(frozen(tiny_model("bert")), cache=ActivationCache() if had else None)
    run.save(tmp_path / "run")
    arguments = {"loss": classification, "cache": ActivationCache() if given else None}
    with pytest.raises(ValueError, match="cache"):
        Run.resume(tmp_path / "run", frozen(tiny_model("bert")), tiny_tokenizer(), tiny_tokens(), **arguments)


def test_what_does_not_fit_into_memory_goes_to_files_that_vanish(tmp_path):
    in_memory = tiny_run(frozen(tiny_model("bert")), cache=ActivationCache())
    expected = curve(in_memory)
    on_disk = tiny_run(frozen(tiny_model("bert")), cache=ActivationCache(memory_mb=0, folder=tmp_path))
    assert curve(on_disk) == expected
    assert sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()) == 64 * 2**20
    on_disk.cache._tensors._folder.cleanup()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_run_that_was_stopped_while_it_filled_the_cache_goes_on(failure, monkeypatch, tmp_path):
    expected = curve(tiny_run(frozen(tiny_model("bert")), cache=ActivationCache()))
    run = tiny_run(frozen(tiny_model("bert")), cache=ActivationCache())
    add, calls = type(run.cache._tensors).add, []

    def failing(self, rows):
        calls.append(1)
        if len(calls) == 40:
            raise failure
        return add(self, rows)

    with monkeypatch.context() as patched:
        patched.setattr(type(run.cache._tensors), "add", failing)
        with pytest.raises(type(failure)):
            next(run)
    assert curve(run) == expected


# what has no cache


@pytest.mark.parametrize(("make_model", "message"), [
    (lambda: tiny_model("bert"), "is trained: freeze layers"),
    (lambda: unfreeze(frozen(tiny_model("bert")), "embeddings"), "is trained: freeze layers"),
    (lambda: add_prompt(tiny_model("bert"), num_virtual_tokens=3), "is trained: freeze layers"),
    (lambda: nn.Embedding(200, 2), "has no transformer layers"),
])  # fmt: skip
def test_a_model_without_a_frozen_first_layer_is_refused(make_model, message):
    with pytest.raises(ValueError, match=message):
        tiny_run(make_model(), cache=ActivationCache())


def test_layers_that_hand_on_more_than_one_tensor_are_refused():
    run = tiny_run(frozen(tiny_model("t5")), cache=ActivationCache())
    with pytest.raises(ValueError, match="puts out tuple, not one tensor"):
        next(run)


@pytest.mark.parametrize("memory", [-1, float("nan")])
def test_nonsense_is_refused(memory):
    with pytest.raises(ValueError, match="memory_mb must be at least 0"):
        ActivationCache(memory)
