"""Groups from the top down, their rates, gradual unfreezing and probing, against loops by hand and timm's exponents."""

import math
from functools import partial

import pytest
import torch
import zoo
from hypothesis import given
from hypothesis import strategies as st
from tiny import EVERY, classification, same_bits, tiny_data, tiny_model, tiny_run, tiny_tokenizer, tiny_tokens, weights
from torch import nn

from finetune_lessons.adapters import add_adapters
from finetune_lessons.gradual_unfreezing import (
    check_groups,
    discriminative_groups,
    from_top,
    how_far,
    only_top,
    probe_then_tune,
    unfreeze_gradually,
)
from finetune_lessons.lab.reports.compare import compare
from finetune_lessons.lab.training.activations import ActivationCache
from finetune_lessons.lab.training.guided import Guided
from finetune_lessons.lab.training.run import Run
from finetune_lessons.lab.training.schedules import linear
from finetune_lessons.lora import add_lora
from finetune_lessons.model_surgery import freeze, layer_groups, trainable_parameters, unfreeze
from finetune_lessons.prefix_tuning import add_prefix

every_architecture = pytest.mark.parametrize("arch", EVERY)


def parameters_of(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def trained_of(model) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def layerwise(model, decay, kind=torch.optim.AdamW, **settings):
    return lambda groups, lr: kind(discriminative_groups(model, lr, decay, groups), lr=lr, **settings)


# groups


@every_architecture
def test_groups_from_the_top_are_those_of_lesson_14_turned_round(arch):
    model = tiny_model(arch)
    expected = layer_groups(model)
    found = from_top(model)
    assert list(found) == list(expected)[::-1]
    names = {p: name for name, p in model.named_parameters()}
    assert all([names[p] for p in found[group]] == expected[group] for group in found)


@pytest.mark.parametrize("pair", zoo.PAIRS, ids="-".join)
def test_every_parameter_has_one_place_and_no_group_is_empty(pair):
    model = zoo.model(*pair)
    try:
        found = from_top(model)
    except ValueError as error:
        assert "no transformer layers" in str(error)
        return
    assert all(found.values()) and list(found)[-1] == "embeddings"
    assert len([p for group in found.values() for p in group]) == len(list(model.parameters()))


def test_a_model_without_layers_raises():
    with pytest.raises(ValueError, match="no transformer layers"):
        from_top(nn.Linear(2, 2))


def test_how_far_is_the_root_mean_square_of_the_changes():
    model = tiny_model("bert")
    start = parameters_of(model)
    with torch.no_grad():
        for p in model.bert.encoder.layer[1].parameters():
            p += 0.5
        model.classifier.bias += torch.tensor([3.0, 4.0])
    far = how_far(model, start)
    size = sum(p.numel() for p in from_top(model)["head"])
    assert far["bert.encoder.layer.1"] == pytest.approx(0.5, rel=1e-5)
    assert far["head"] == pytest.approx(5 / math.sqrt(size), rel=1e-5)
    assert far["bert.encoder.layer.0"] == far["embeddings"] == 0


# rates


OF_TIMM = {  # exponents of timm 1.0.31 for a BERT of 12 layers, told to it by a group_matcher
    "bert.embeddings.word_embeddings.weight": 13, "bert.embeddings.LayerNorm.bias": 13,
    **{f"bert.encoder.layer.{i}.attention.self.query.weight": 12 - i for i in range(12)},
    **{f"bert.encoder.layer.{i}.output.LayerNorm.bias": 12 - i for i in range(12)},
    "bert.pooler.dense.weight": 0, "classifier.bias": 0,
}  # fmt: skip


def rates_by_name(model, groups) -> dict[str, float]:
    names = {p: name for name, p in model.named_parameters()}
    return {names[p]: group["lr"] for group in groups for p in group["params"]}


def test_exponents_are_those_of_timm_on_twelve_layers():
    model = tiny_model("bert", num_hidden_layers=12)
    rates = rates_by_name(model, discriminative_groups(model, 2e-3, 0.75))
    assert rates.keys() == dict(model.named_parameters()).keys()
    for name, exponent in OF_TIMM.items():
        assert rates[name] == pytest.approx(2e-3 * 0.75**exponent, rel=1e-12), name


def test_the_groups_are_those_that_timm_makes():
    theirs = pytest.importorskip("timm.optim").param_groups_layer_decay
    model = tiny_model("bert", num_hidden_layers=12)
    matcher = {"stem": r"^bert\.embeddings", "blocks": [(r"^bert\.encoder\.layer\.(\d+)", None)]}
    model.group_matcher = lambda coarse=False: matcher
    scaled = [{**group, "lr": 1e-3 * group["lr_scale"]} for group in theirs(model, layer_decay=0.8)]
    expected = rates_by_name(model, scaled)
    assert rates_by_name(model, discriminative_groups(model, 1e-3, 0.8)) == pytest.approx(expected, rel=1e-12)


@every_architecture
def test_the_first_step_of_adam_is_as_long_as_each_groups_rate(arch):
    model = tiny_model(arch, dropout=False)
    rows = tiny_tokens()["train"].select(range(8))
    batch = {**tiny_tokenizer().pad({"input_ids": rows["input_ids"]}, return_tensors="pt"),
             "labels": torch.tensor(rows["label"])}  # fmt: skip
    optimizer = torch.optim.Adam(discriminative_groups(model, 1e-3, 0.5), eps=1e-15)
    start = parameters_of(model)
    classification(model, batch).backward()
    optimizer.step()
    for depth, (group, names) in enumerate(reversed(layer_groups(model).items())):
        moved = max(float((model.get_parameter(n) - start[n]).detach().abs().max()) for n in names)
        assert moved == pytest.approx(1e-3 * 0.5**depth, rel=0.01), group


def test_given_groups_are_divided_and_keep_what_they_have():
    model, of_loss = tiny_model("bert"), nn.Parameter(torch.zeros(3))
    matrices = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    given = [{"params": matrices, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0, "betas": (0.5, 0.9)},
             {"params": [of_loss], "lr": 0.7}]  # fmt: skip
    found = discriminative_groups(model, 1.0, 0.5, given)
    assert all(group["weight_decay"] == (0.1 if group["params"][0].ndim > 1 else 0.0) for group in found[:-1])
    assert [group["lr"] for group in found] == [1, 0.5, 0.25, 0.125] * 2 + [0.7]
    assert found[4]["betas"] == (0.5, 0.9) and found[-1]["params"] == [of_loss]
    assert len({p for group in found for p in group["params"]}) == len(matrices) + len(rest) + 1
    assert given[0] == {"params": matrices, "weight_decay": 0.1}


@pytest.mark.parametrize("decay", [0, -0.5, 1.01, math.nan])
def test_a_decay_that_is_no_share_raises(decay):
    with pytest.raises(ValueError, match="decay is the share"):
        discriminative_groups(tiny_model("bert"), 1e-3, decay)


def test_a_decay_of_1_is_the_plain_run_to_the_bit():
    plain = tiny_run(optimizer=torch.optim.AdamW, weight_decay=0.1)
    model = tiny_model("bert")
    ours = tiny_run(model, optimizer=layerwise(model, 1.0), weight_decay=0.1)
    assert [step.loss for step in ours] == [step.loss for step in plain]
    assert same_bits(weights(model), weights(plain.model))


def test_a_saved_run_with_rates_by_layer_goes_on_to_the_bit(tmp_path):
    def make():
        model = tiny_model("bert")
        return tiny_run(model, optimizer=layerwise(model, 0.5), schedule="slanted_triangular")

    whole = [step.loss for step in make()]
    begun = make()
    for _ in range(5):
        next(begun)
    begun.save(tmp_path / "run.safetensors")
    model = tiny_model("bert")
    resumed = Run.resume(tmp_path / "run.safetensors", model, tiny_tokenizer(), tiny_tokens(), loss=classification,
                         optimizer=layerwise(model, 0.5))  # fmt: skip
    assert [step.loss for step in resumed] == whole[5:]


def test_a_run_takes_no_groups_whose_lr_scale_nobody_reads():
    def of_timm(groups, lr):
        return torch.optim.AdamW([{**group, "lr_scale": 0.5} for group in groups], lr=lr)

    with pytest.raises(ValueError, match="lr_scale, which only the schedulers of timm"):
        tiny_run(optimizer=of_timm)


# unfreezing


def by_hand(every: int, steps: int, model: nn.Module) -> list[float]:
    "Gradual unfreezing of a BERT of two layers, by names."
    order = [["classifier", "bert.pooler"], ["bert.encoder.layer.1"], ["bert.encoder.layer.0"], ["bert.embeddings"]]
    run, losses = tiny_run(tiny_model("bert")), []  # its batches
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for t in range(steps):
        for name, p in model.named_parameters():
            p.requires_grad_(any(name.startswith(top) for tops in order[: 1 + t // every] for top in tops))
        optimizer.param_groups[0]["lr"] = 0.1 * linear(t, steps, 2)
        optimizer.zero_grad()
        loss = classification(model, run.splits["train"].load(run._plan[t], torch.device("cpu")))
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("every", [1, 3, 5])
def test_gradual_unfreezing_is_the_loop_by_hand(every):
    model, copy = (tiny_model("bert", dropout=False) for _ in range(2))
    sgd = partial(torch.optim.SGD, momentum=0.9)
    run = tiny_run(model, optimizer=sgd, lr=0.1, warmup=2 / 16, weight_decay=0.0)
    losses = [step.loss for step in unfreeze_gradually(run, every=every)]
    assert losses == pytest.approx(by_hand(every, 16, copy), rel=1e-5)
    assert losses[-1] < losses[0]
    for name, p in model.named_parameters():
        torch.testing.assert_close(p, copy.get_parameter(name), rtol=1e-4, atol=1e-6)


@every_architecture
def test_a_group_moves_from_its_step_on_and_not_before(arch):
    model = tiny_model(arch)
    run = tiny_run(model, warmup=0.0, epochs=2)
    start, groups = parameters_of(model), list(from_top(model))
    every = 2
    for step in unfreeze_gradually(run, every=every):
        far = how_far(model, start)
        moved = [group for group in groups if far[group] > 0]
        assert moved == groups[: 1 + step.index // every]
        assert trained_of(model) == {n for g in moved for n in layer_groups(model)[g]}
    assert run.done and trained_of(model) == set(start)


def test_the_pace_gives_each_group_the_same_share_of_the_run_by_default():
    run = tiny_run(tiny_model("bert"))
    seen = [len(trained_of(run.model)) for _ in unfreeze_gradually(run)]
    assert [seen.count(n) for n in sorted(set(seen))] == [4, 4, 4, 4]


@pytest.mark.parametrize("every", [0, -1, 2.5, "2"])
def test_a_pace_that_is_none_raises(every):
    with pytest.raises(ValueError, match="every is a number of steps"):
        next(unfreeze_gradually(tiny_run(), every=every))


def test_a_run_that_ends_before_the_last_group_joins_in_raises_and_trains_nothing():
    run = tiny_run()
    with pytest.raises(ValueError, match="joins in at step 18, and the run has 16 steps: it would never be trained"):
        next(unfreeze_gradually(run, every=6))
    assert run.index == 0 and trained_of(run.model) == set(parameters_of(run.model))
    assert len(list(unfreeze_gradually(run, every=5))) == 16


def test_left_and_entered_again_it_goes_on_and_outside_the_model_is_as_it_was():
    whole = [step.loss for step in unfreeze_gradually(tiny_run(), every=4)]
    run, losses = tiny_run(), []
    for stop in (3, 4, 9, 99):
        for step in unfreeze_gradually(run, every=4):
            losses.append(step.loss)
            if step.index == stop:
                break
        assert trained_of(run.model) == set(parameters_of(run.model))
    assert losses == whole


def test_an_error_in_the_loop_leaves_the_model_as_it_was():
    run = tiny_run()
    with pytest.raises(KeyError):
        for _ in unfreeze_gradually(run):
            raise KeyError
    assert trained_of(run.model) == set(parameters_of(run.model))


@pytest.mark.parametrize("stop", [2, 8, 13])
def test_a_saved_run_is_unfrozen_on_to_the_bit(stop, tmp_path):
    whole = [step.loss for step in unfreeze_gradually(tiny_run(keep_best="loss", eval_every=4), every=4)]
    begun = tiny_run(keep_best="loss", eval_every=4)
    for step in unfreeze_gradually(begun, every=4):
        if step.index == stop - 1:
            break
    begun.save(tmp_path / "run.safetensors")
    resumed = Run.resume(tmp_path / "run.safetensors", tiny_model("bert"), tiny_tokenizer(), tiny_tokens(),
                         loss=classification)  # fmt: skip
    assert [step.loss for step in unfreeze_gradually(resumed, every=4)] == whole[stop:]


def test_what_is_frozen_before_stays_so_and_its_group_is_passed_over():
    model = tiny_model("bert")
    freeze(model, ["embeddings", "layer.1"])
    model.bert.encoder.layer[0].output.dense.weight.requires_grad_(False)
    before, start = trained_of(model), parameters_of(model)
    seen = [trained_of(model) for _ in unfreeze_gradually(tiny_run(model), every=8)]
    assert [len(names) for names in seen] == [4] * 8 + [19] * 8
    assert trained_of(model) == before
    for name, p in model.named_parameters():
        assert torch.equal(p, start[name]) == (name not in before), name


@pytest.mark.parametrize("add", [add_lora, add_adapters, add_prefix], ids=lambda add: add.__name__)
def test_of_a_method_its_own_weights_are_unfrozen_from_the_top_and_no_others(add):
    model = add(tiny_model("bert"))
    before, start = trained_of(model), parameters_of(model)
    counts = [len(trained_of(model)) for _ in unfreeze_gradually(tiny_run(model, warmup=0.0), every=2)]
    assert counts == sorted(counts) and counts[0] < counts[-1] == len(before)
    assert all(torch.equal(p, start[name]) for name, p in model.named_parameters() if name not in before)
    assert any(not torch.equal(p, start[name]) for name, p in model.named_parameters() if "layer.0." in name)


def test_with_a_cache_it_is_the_same_as_without_dropout():
    def losses(cached):
        model = tiny_model("bert", dropout=False)
        with only_top(model):
            assert trained_of(model) == set(layer_groups(model)["head"])
            run = tiny_run(model, cache=ActivationCache() if cached else None)
        assert len(trained_of(model)) == len(list(model.parameters()))
        found = [step.loss for step in unfreeze_gradually(run, every=3)]
        return found, run.cache.megabytes if cached else None

    (cached, megabytes), (plain, _) = losses(True), losses(False)
    assert cached == pytest.approx(plain, rel=1e-4) and megabytes > 0


def test_a_model_of_which_nothing_is_frozen_takes_no_cache_outside_of_only_top():
    with pytest.raises(ValueError, match="freeze layers"):
        tiny_run(tiny_model("bert"), cache=ActivationCache())


# probing


def test_a_probe_is_the_head_alone_and_then_all_is_tuned_at_its_own_rate():
    model = tiny_model("bert")
    run, start = tiny_run(model, lr=1e-2, epochs=1, warmup=0.25), parameters_of(model)
    steps = []
    for step in probe_then_tune(run, lr=1e-3, epochs=2):
        steps.append(step)
        far = how_far(model, start)
        head = {"head": far.pop("head")}
        assert step.index == 0 or head["head"] > 0
        assert any(far.values()) == (step.index > 8)  # the first step of the second warm-up has a rate of 0
    expected = [1e-2 * linear(t, 8, 2) for t in range(8)] + [1e-3 * linear(t, 16, 4) for t in range(16)]
    assert [step.lr for step in steps] == pytest.approx(expected)
    assert trained_of(model) == set(start)


@pytest.mark.parametrize("stop", [3, 8, 12])
def test_a_probe_may_be_left_saved_and_gone_on_with(stop, tmp_path):
    def begun():
        return tiny_run(lr=1e-2, epochs=1)

    whole = [step.loss for step in probe_then_tune(begun(), lr=1e-3, epochs=1)]
    run = begun()
    for step in probe_then_tune(run, lr=1e-3, epochs=1):
        if step.index == stop - 1:
            break
    run.save(tmp_path / "run.safetensors")
    resumed = Run.resume(tmp_path / "run.safetensors", tiny_model("bert"), tiny_tokenizer(), tiny_tokens(),
                         loss=classification)  # fmt: skip
    assert [step.loss for step in probe_then_tune(resumed, lr=1e-3, epochs=1)] == whole[stop:]
    assert [step.loss for step in probe_then_tune(run, lr=1e-3, epochs=1)] == whole[stop:]


@pytest.mark.parametrize("lr", [0, -1e-3, math.nan])
def test_a_rate_that_cannot_tune_raises_before_the_probe(lr):
    run = tiny_run(epochs=1)
    with pytest.raises(ValueError, match="lr"):
        next(probe_then_tune(run, lr=lr))
    assert run.index == 0 and len(run) == 8


# guided


def test_compare_takes_a_guided_run_and_finish_follows_the_guide():
    def make(seed):
        return Guided(tiny_run(tiny_model("bert", seed=seed), seed=seed), partial(unfreeze_gradually, every=4))

    table = compare({"gradual": make}, seeds=(0, 1))
    plain = [step.loss for step in unfreeze_gradually(tiny_run(), every=4)]
    run = make(0)
    assert len(run) == 16 and run.finish() is run and run.done
    assert [step.loss for step in run.steps] == plain
    assert table.loc[0, "loss"] == pytest.approx(run.evaluate("validation")["loss"])


# guards


def test_a_parameter_that_the_optimizer_does_not_know_is_named():
    model = freeze(tiny_model("bert"), "bert")
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    check_groups(model, optimizer)
    unfreeze(model, "layer.1")
    with pytest.raises(ValueError, match=r"^16 parameters .* bert.encoder.layer.1.attention.self.query.weight the"):
        check_groups(model, optimizer)
    optimizer.add_param_group({"params": from_top(model)["bert.encoder.layer.1"]})
    check_groups(model, optimizer)


def test_an_lr_scale_that_nobody_has_applied_is_named():
    model = tiny_model("bert")
    groups = [{"params": of, "lr_scale": 0.5**d} for d, of in enumerate(from_top(model).values())]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    with pytest.raises(ValueError, match="4 different lr_scale and one rate: AdamW does not read"):
        check_groups(model, optimizer)
    for group in optimizer.param_groups:
        group["lr"] = 1e-3 * group["lr_scale"]
    check_groups(model, optimizer)


# shuffled labels


def test_labels_that_mean_nothing_are_learnt_by_no_way():
    data = tiny_data(train=64, validation=16, test=300)
    labels = torch.randint(0, 2, (64,), generator=torch.Generator().manual_seed(0)).tolist()
    features = data["train"].features
    data["train"] = data["train"].remove_columns("label").add_column("label", labels).cast(features)
    for steps in (unfreeze_gradually, partial(probe_then_tune, lr=3e-3)):
        accuracy = Guided(tiny_run(tiny_model("bert"), data), steps).finish().evaluate("test")["accuracy"]
        assert 0.35 < accuracy < 0.65


@given(st.integers(1, 6), st.integers(1, 40))
def test_the_count_of_groups_is_that_of_the_formula(groups, every):
    class Counted:  # what unfreeze_gradually asks a run
        def __init__(self):
            self.index, self.model = 0, None

        def __next__(self):
            self.index += 1
            return self.index - 1

    from finetune_lessons.gradual_unfreezing import _in_stages

    parameters = [[nn.Parameter(torch.zeros(1))] for _ in range(groups)]
    steps = _in_stages(Counted(), parameters, lambda index: 1 + index // every)
    for t in range(groups * every + 2):
        assert next(steps) == t
        assert sum(p.requires_grad for (p,) in parameters) == min(groups, 1 + t // every)
    steps.close()
    assert all(p.requires_grad for (p,) in parameters)


def test_the_table_of_what_is_trained_shows_the_stage():
    run = tiny_run()
    shown = [len(trainable_parameters(run.model)) for _ in unfreeze_gradually(run, every=5)]
    assert shown == [4] * 5 + [20] * 5 + [36] * 5 + [41]
