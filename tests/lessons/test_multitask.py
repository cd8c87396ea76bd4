"""Several tasks in one run: the weightings against formulas of their own, and the run that carries them."""

import math
from functools import partial

import numpy as np
import pytest
import tiny
import torch
from datasets import Dataset, DatasetDict, Value
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from finetune_lessons.cross_entropy import classification_loss
from finetune_lessons.lab.training.run import NonFiniteLoss, Run
from finetune_lessons.lab.training.tasks import IGNORE_INDEX
from finetune_lessons.lora import add_lora
from finetune_lessons.multitask import (
    DynamicWeightAverage,
    FixedWeights,
    GradNorm,
    MultiTask,
    MultiTaskModel,
    PCGrad,
    UncertaintyWeighting,
    gradient_cosines,
    gradnorm_loss,
    project_conflicts,
    regression_loss,
    task_gradients,
)

pytestmark = pytest.mark.usefixtures("one_thread")

TASKS = {"sentiment": 2, "length": 1, "parity": 3}
LOSSES = {"sentiment": classification_loss, "length": regression_loss, "parity": classification_loss}
WEIGHTINGS = {
    "sum": lambda: None,
    "fixed": partial(FixedWeights, sentiment=2.0, length=0.1, parity=1.0),
    "uncertainty": partial(UncertaintyWeighting, TASKS, regressions=["length"]),
    "dynamic": partial(DynamicWeightAverage, TASKS),
    "gradnorm": partial(GradNorm, TASKS),
    "pcgrad": PCGrad,
}
positive = st.floats(1e-2, 1e2)


def data(train: int = 24, **others: int) -> dict[str, DatasetDict]:
    "Three tasks on the tiny texts: their sentiment, their length, and their length modulo 3."

    def task(name: str) -> DatasetDict:
        texts = tiny.tiny_data(others.get(name, train), 9, 0)
        if name == "sentiment":
            return texts
        texts = texts.cast_column("label", Value("float64" if name == "length" else "int64"))
        words = {"length": lambda n: n / 10, "parity": lambda n: n % 3}[name]
        return texts.map(lambda row: {"label": words(len(row["text"].split()))})

    return {name: task(name) for name in TASKS}


def model(arch: str = "bert", **options) -> MultiTaskModel:
    return MultiTaskModel(tiny.tiny_model(arch, dropout=False), TASKS, dropout=0.0, **options)


def run(weighting="sum", net=None, tasks=None, **settings) -> Run:
    loss = MultiTask(LOSSES, WEIGHTINGS[weighting]())
    settings = {"lr": 3e-3, "epochs": 2, "batch_size": 8, "precision": "fp32", "eval_every": 0} | settings
    settings = {"sampling": "together"} | settings
    return Run(net or model(), tiny.tiny_tokenizer(), tasks or data(), loss=loss, **settings)


def losses(**values: float) -> dict[str, torch.Tensor]:
    return {task: torch.tensor(value) for task, value in values.items()}


# uncertainty


@given(loss=positive, s=st.floats(-3, 3), regression=st.booleans())
def test_uncertainty_is_the_formula_of_the_paper(loss, s, regression):
    weighting = UncertaintyWeighting(["a"], regressions=["a"] if regression else [])
    weighting.s["a"].data.fill_(s)
    total, weights = weighting(losses(a=loss), None, 0.0)
    sigma2 = math.exp(s)
    expected = (loss / (2 * sigma2) if regression else loss / sigma2) + math.log(math.sqrt(sigma2))
    assert total.item() == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert float(weights["a"]) == pytest.approx((0.5 if regression else 1) / sigma2, rel=1e-4)


@pytest.mark.parametrize(("regressions", "optimum"), [(["a"], math.log(0.3)), ([], math.log(2 * 0.3))])
def test_uncertainty_converges_to_its_closed_form_and_the_total_is_negative(regressions, optimum):
    weighting = UncertaintyWeighting(["a"], regressions)
    optimizer = torch.optim.SGD(weighting.parameters(), lr=0.5)
    for _ in range(300):
        optimizer.zero_grad()
        total, _ = weighting(losses(a=0.3), None, 0.0)
        total.backward()
        optimizer.step()
    assert float(weighting.s["a"].detach()) == pytest.approx(optimum, abs=1e-4)
    if regressions:
        assert float(total.detach()) == pytest.approx((1 + math.log(0.3)) / 2, abs=1e-4) and total < 0


# dynamic weight average


def test_dynamic_weights_are_ones_for_two_epochs_and_then_the_softmax_of_the_ratios():
    weighting = DynamicWeightAverage(["a", "b"], temperature=2.0)
    history = {0: [(4.0, 1.0), (2.0, 1.0)], 1: [(1.5, 1.0), (1.5, 0.8)], 2: [(1.0, 0.5)]}
    seen = {
        epoch: [weighting(losses(a=a, b=b), None, epoch + i / 2)[1] for i, (a, b) in enumerate(steps)]
        for epoch, steps in history.items()
    }
    assert all(float(w[task]) == 1 for epoch in (0, 1) for w in seen[epoch] for task in "ab")
    ratios = np.array([1.5 / 3.0, 0.9 / 1.0])
    expected = 2 * np.exp(ratios / 2) / np.exp(ratios / 2).sum()
    assert_close(torch.stack([seen[2][0][task] for task in "ab"]).double(), torch.tensor(expected), atol=1e-6, rtol=0)


# GradNorm


@given(
    weights=st.lists(positive, min_size=3, max_size=3),
    norms=st.lists(positive, min_size=3, max_size=3),
    progress=st.lists(positive, min_size=3, max_size=3),
    alpha=st.floats(0, 3),
)
def test_gradnorm_is_the_formula_and_its_target_carries_no_gradient(weights, norms, progress, alpha):
    w = torch.tensor(weights, dtype=torch.float64, requires_grad=True)
    G, r = np.array(weights) * np.array(norms), np.array(progress) / np.mean(progress)
    target = G.mean() * r**alpha
    value = gradnorm_loss(
        w, torch.tensor(norms, dtype=torch.float64), torch.tensor(progress, dtype=torch.float64), alpha
    )
    assert float(value) == pytest.approx(np.abs(G - target).sum(), rel=1e-5, abs=1e-9)
    value.backward()
    far = np.abs(G - target) > 1e-5 * np.abs(G)  # at the corner either sign is right
    assert_close(w.grad.numpy()[far], (np.sign(G - target) * np.array(norms))[far], atol=1e-5, rtol=1e-5)


def test_gradnorm_weights_sum_to_the_number_of_tasks_and_only_its_balance_moves_them():
    steps = list(run("gradnorm", epochs=4))
    weights = [[step.parts[f"weight of {task}"] for task in TASKS] for step in steps]
    assert all(sum(w) == pytest.approx(3, abs=1e-5) for w in weights)
    assert weights[0] == pytest.approx([1, 1, 1]) and max(abs(x - 1) for x in weights[-1]) > 0.05
    for step in steps:
        parts = [step.parts[task] for task in TASKS]
        shown = sum(
            w * part for w, part in zip([step.parts[f"weight of {task}"] for task in TASKS], parts, strict=True)
        )
        assert step.loss == pytest.approx(shown, rel=1e-4)


def test_gradnorm_measures_the_gradient_on_the_last_layer():
    net = model().double()
    training = run("gradnorm", net)
    batch = training.splits["train"].load(training._plan[0], torch.device("cpu"))
    weighting = training.loss.weighting.double()
    training.loss.train()(net, batch | {"epoch": 0.0})["loss"].backward()
    layer = list(net.encoder.encoder.layer[-1].parameters())
    norms = []
    for task in TASKS:
        value = LOSSES[task](partial(net, task), batch["tasks"][task])
        norms.append(torch.cat([g.flatten() for g in torch.autograd.grad(value, layer)]).norm())
    u = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    G = 3 * u.softmax(0) * torch.stack(norms)
    (G - G.mean().detach()).abs().sum().backward()
    assert_close(weighting.u.grad, u.grad, atol=1e-8, rtol=1e-6)


# PCGrad

vectors = st.lists(st.lists(st.floats(-10, 10), min_size=4, max_size=4), min_size=2, max_size=4)


@given(vectors)
def test_pcgrad_leaves_gradients_that_agree_untouched(rows):
    g = torch.tensor(rows, dtype=torch.float64).abs()
    assert torch.equal(project_conflicts(g), g)


@given(st.lists(st.lists(st.floats(-10, 10), min_size=4, max_size=4), min_size=2, max_size=2))
def test_two_tasks_never_conflict_after_pcgrad_and_no_gradient_grows(rows):
    g = torch.tensor(rows, dtype=torch.float64)
    p = project_conflicts(g)
    tolerance = 1e-9 * (1 + float(g.square().sum()))
    assert float(p[0] @ g[1]) >= min(0.0, float(g[0] @ g[1])) - tolerance
    assert float(p[0] @ g[1]) >= -tolerance and float(p[1] @ g[0]) >= -tolerance
    assert (p.norm(dim=1) <= g.norm(dim=1) + tolerance).all()


@pytest.mark.parametrize("scale", [1e-25, 1e-38, 1e-44, 0.0])
def test_pcgrad_of_a_gradient_whose_square_rounds_to_zero_is_finite(scale):
    g = torch.tensor([[1.0, -1.0], [-scale, scale]])
    p = project_conflicts(g)
    assert p.isfinite().all() and (p.norm(dim=1) <= g.norm(dim=1) + 1e-6).all()
    assert scale == 0 or p.abs().max() < 1e-6


def test_pcgrad_by_hand_with_the_originals_in_the_given_order():
    g = torch.tensor([[1.0, 0.0], [-1.0, 1.0], [0.0, -2.0]])
    p = project_conflicts(g, orders=[[1, 2], [0, 2], [1, 0]])
    # g0 against g1: + 1/2 g1 = (.5, .5); that against g2: . = -1 -> + 1/4 g2 = (.5, 0)
    # g1 against g0: + g0 = (0, 1); that against g2: . = -2 -> + 1/2 g2 = (0, 0)
    # g2 against g1 (the original): . = -2 -> + g1 = (-1, -1); that against g0: . = -1 -> + g0 = (0, -1)
    assert_close(p, torch.tensor([[0.5, 0.0], [0.0, 0.0], [0.0, -1.0]]))


def test_the_gradient_of_a_pcgrad_step_is_the_projected_one_and_heads_keep_theirs():
    net = model()
    training = run("pcgrad", net)
    batch = training.splits["train"].load(training._plan[0], torch.device("cpu"))
    values = {task: LOSSES[task](partial(net, task), batch["tasks"][task]) for task in TASKS}
    shared = [p for p in net.encoder.parameters() if p.requires_grad]
    plain = task_gradients(values.values(), shared)
    assert (plain @ plain.T).min() < 0  # or the test shows nothing
    torch.manual_seed(3)
    expected = project_conflicts(plain).sum(0)
    torch.manual_seed(3)
    total = training.loss.train()(net, batch | {"epoch": 0.0})["loss"]
    total.backward()
    assert_close(torch.cat([p.grad.flatten() for p in shared]), expected, atol=1e-6, rtol=1e-4)
    assert_close(float(total), float(sum(values.values())), atol=1e-5, rtol=1e-5)
    for task in TASKS:
        value = LOSSES[task](partial(net, task), batch["tasks"][task])
        (own,) = torch.autograd.grad(value, net.heads[task].weight)
        assert_close(net.heads[task].weight.grad, own, atol=1e-6, rtol=1e-4)


# the run


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_every_weighting_learns_and_says_what_each_task_counts(weighting):
    training = run(weighting, epochs=12)
    steps = list(training)
    for task in ("sentiment", "length"):
        assert np.mean([s.parts[task] for s in steps[-4:]]) < 0.8 * np.mean([s.parts[task] for s in steps[:4]])
        assert f"weight of {task}" in steps[-1].parts
    metrics = training.evaluate("validation")
    assert {"sentiment/accuracy", "length/mse", "parity/accuracy"} <= metrics.keys()


@pytest.mark.parametrize("sampling", ["proportional", "round_robin", 2.0])
@pytest.mark.parametrize("weighting", ["fixed", "uncertainty", "dynamic"])
def test_a_step_of_one_task_counts_that_task(weighting, sampling):
    for step in run(weighting, epochs=3, sampling=sampling):
        (task,) = (part for part in step.parts if not part.startswith("weight"))
        if weighting == "fixed":
            assert step.loss == pytest.approx(step.parts[task] * {"sentiment": 2.0, "length": 0.1}.get(task, 1.0))


@pytest.mark.parametrize("weighting", ["gradnorm", "pcgrad"])
def test_weightings_that_compare_tasks_need_them_together(weighting):
    with pytest.raises(ValueError, match=r"compares all tasks in each step.*sampling='together'"):
        next(run(weighting, sampling="round_robin"))


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_a_resumed_run_takes_the_same_steps(weighting, tmp_path):
    whole, first = run(weighting, epochs=4), run(weighting, epochs=4)
    expected = list(whole)
    for _ in range(7):
        next(first)
    first.save(tmp_path / "run.safetensors")
    loss = MultiTask(LOSSES, WEIGHTINGS[weighting]())
    resumed = Run.resume(tmp_path / "run.safetensors", model(), tiny.tiny_tokenizer(), data(), loss=loss)
    list(resumed)
    assert [(s.loss, s.parts) for s in resumed.steps] == [(s.loss, s.parts) for s in expected]
    assert tiny.same_bits(resumed.learner.state_dict(), whole.learner.state_dict())


@pytest.mark.parametrize("weighting", ["dynamic", "gradnorm"])
def test_a_step_that_failed_leaves_no_trace_in_a_weighting(weighting):
    def fails_in_step_2(net, batch):
        if len(calls) == 2 and not failed:
            failed.append(True)
            raise KeyboardInterrupt
        calls.append(True)
        return classification_loss(net, batch)

    calls, failed = [], []
    loss = MultiTask({**LOSSES, "parity": fails_in_step_2}, WEIGHTINGS[weighting]())
    whole = run(weighting, epochs=4)
    interrupted = Run(model(), tiny.tiny_tokenizer(), data(), loss=loss, **whole.config)
    with pytest.raises(KeyboardInterrupt):
        list(interrupted)
    list(interrupted)
    assert failed and [s.loss for s in interrupted.steps] == [s.loss for s in whole]


def test_accumulated_joint_steps_have_the_gradient_of_the_whole_batch():
    whole, pieces = run(batch_size=8), run(batch_size=4, grad_accum=2)
    for a, b in zip(whole, pieces, strict=True):
        assert a.loss == pytest.approx(b.loss, rel=1e-4) and a.grad_norm == pytest.approx(b.grad_norm, rel=1e-3)


def test_weights_learn_at_their_own_rate_and_clipping_is_for_the_model():
    training = run("uncertainty", lr=1e-4, warmup=0.0, schedule="constant", max_grad_norm=1e-9)
    next(training)
    assert all(abs(float(s.detach())) == pytest.approx(0.01, rel=1e-3) for s in training.loss.weighting.s.values())
    training.lr *= 10
    assert training.optimizer.param_groups[-1]["initial_lr"] == pytest.approx(0.1)


def test_evaluation_counts_each_task_plainly_and_changes_no_weighting():
    training = run("dynamic")
    next(training)
    before = training.loss.state_dict()
    before = {name: value.clone() for name, value in before.items()}
    metrics = training.evaluate("train")
    assert tiny.same_bits(
        {k: v.nan_to_num() for k, v in before.items()},
        {k: v.nan_to_num() for k, v in training.loss.state_dict().items()},
    )
    assert metrics["length/loss"] == pytest.approx(metrics["length/mse"], rel=1e-4)


@pytest.mark.parametrize("arch", ["distilbert", "modernbert", "gpt2", "llama", "bart"])
def test_any_encoder_or_decoder_can_be_shared(arch):
    training = run("gradnorm", model(arch), epochs=1)
    assert all(math.isfinite(step.loss) for step in training)


def test_lora_composes_with_several_tasks():
    body = add_lora(tiny.tiny_model("bert", dropout=False).base_model)
    net = MultiTaskModel(body, TASKS, dropout=0.0)
    for weighting in ("gradnorm", "pcgrad"):
        list(run(weighting, net, epochs=1))
    assert {name.split(".")[-1] for name, p in net.encoder.named_parameters() if p.requires_grad} == {"A", "B"}


def test_the_mean_leaves_padding_out():
    net = model().eval()
    ids = torch.tensor([[2, 9, 10, 3]])
    padded = torch.tensor([[2, 9, 10, 3, 0, 0]])
    with torch.no_grad():
        plain = net("parity", ids, torch.ones_like(ids)).logits
        assert_close(net("parity", padded, (padded > 0).long()).logits, plain, atol=1e-5, rtol=1e-4)


def test_cosines_are_those_of_the_tasks_gradients():
    net = model()
    batch = run(net=net).splits["train"].load(run()._plan[0], torch.device("cpu"))
    table = gradient_cosines(MultiTask(LOSSES), net, batch)
    a, b = (LOSSES[task](partial(net, task), batch["tasks"][task]) for task in ("sentiment", "length"))
    shared = [p for p in net.encoder.parameters() if p.requires_grad]
    ga, gb = (torch.cat([g.flatten() for g in torch.autograd.grad(x, shared)]) for x in (a, b))
    assert table.loc["sentiment", "length"] == pytest.approx(float(ga @ gb / ga.norm() / gb.norm()), abs=1e-5)
    assert table.loc["sentiment", "sentiment"] == pytest.approx(1)


# bad input


def empty(name: str) -> dict[str, DatasetDict]:
    tasks = data()
    tasks[name] = DatasetDict(train=Dataset.from_dict({"text": [], "label": []}))
    return tasks


def unlabelled(*names: str) -> dict[str, DatasetDict]:
    tasks = data()
    return {k: v.map(lambda row: {"label": IGNORE_INDEX}) if k in names else v for k, v in tasks.items()}


def test_bad_input_is_refused_in_words():
    tasks = data()
    with pytest.raises(ValueError, match="no head 'topic'"):
        model()("topic", torch.ones(1, 2).long(), torch.ones(1, 2).long())
    with pytest.raises(ValueError, match="data for 'topic', but the model has no such head; its heads are sentiment"):
        run(tasks={**tasks, "topic": tasks["parity"]})
    with pytest.raises(ValueError, match="of one task without a name"):
        run(tasks=tasks["sentiment"], sampling="proportional")
    with pytest.raises(ValueError, match="no data for the task 'parity': its head would stay random"):
        run(tasks={k: v for k, v in tasks.items() if k != "parity"})
    with pytest.raises(ValueError, match="the train split of task 'length' is empty"):
        run(tasks=empty("length"))
    with pytest.raises(ValueError, match="label 3 in row . of the split 'train', but the model has 3 outputs"):
        run(tasks={**tasks, "parity": tasks["parity"].map(lambda row: {"label": row["label"] + 1})})
    with pytest.raises(ValueError, match="no loss for the task 'parity'"):
        next(
            Run(
                model(),
                tiny.tiny_tokenizer(),
                tasks,
                loss=MultiTask({"sentiment": classification_loss, "length": regression_loss}),
                sampling="together",
                precision="fp32",
            )
        )
    with pytest.raises(ValueError, match="sampling must be one of proportional, round_robin, together"):
        run(sampling="alternate")
    with pytest.raises(ValueError, match="there is one task"):
        tiny.tiny_run(sampling="together")
    for weighting in (FixedWeights(sentiment=2.0), GradNorm([*TASKS, "topic"])):
        with pytest.raises(ValueError, match="the weighting is for .*; there are losses for sentiment, length, parity"):
            MultiTask(LOSSES, weighting)
    with pytest.raises(ValueError, match="heads are outputs by task"):
        MultiTaskModel(tiny.tiny_model("bert"), {})


def test_a_task_without_labels_in_the_batch_takes_no_part_and_none_at_all_is_an_error():
    (step, *_) = run(tasks=unlabelled("parity"))
    assert "parity" not in step.parts and math.isfinite(step.loss)
    with pytest.raises(NonFiniteLoss, match="nothing to learn from"):
        next(run(tasks=unlabelled("parity", "sentiment", "length"), sampling="together"))
