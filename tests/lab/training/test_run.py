"""A run trains what it should, as the plain loop does, undisturbed and repeatably, and says what it cannot do."""

import copy
import math
import random
import signal
import sys
import threading
import weakref
from functools import partial
from itertools import count

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict, Value
from sklearn.metrics import precision_recall_fscore_support
from tiny import (
    ARCHITECTURES,
    classification,
    language_model,
    run_with_running_means,
    same_bits,
    tiny_data,
    tiny_language_data,
    tiny_model,
    tiny_rows,
    tiny_run,
    tiny_tokenizer,
    tiny_tokens,
    weights,
)
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments, get_scheduler

from finetune_lessons.lab.training import processor, random_state
from finetune_lessons.lab.training.batches import MODEL_INPUTS, model_inputs
from finetune_lessons.lab.training.interrupts import uninterrupted
from finetune_lessons.lab.training.run import NonFiniteLoss, Step

pytestmark = pytest.mark.usefixtures("one_thread")


def losses(run) -> list[float]:
    return [step.loss for step in run.steps]


def finished(run):
    for _ in run:
        pass
    return run


def sgd(groups, lr):
    return torch.optim.SGD(groups, lr=lr)


def regression(model, batch):
    return mse_loss(model(**model_inputs(batch)).logits.squeeze(-1), batch["labels"])


def language_run(arch="gpt2", kind="causal_lm", data=None, **settings):
    settings = {"loss": language_model, "optimizer": sgd, "lr": 0.1, "epochs": 1} | settings
    return tiny_run(tiny_model(arch, kind, dropout=False), data or tiny_language_data(), **settings)


# it trains


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_one_epoch_teaches_every_architecture(arch, precision):
    run = tiny_run(tiny_model(arch), tiny_tokens(192), lr=5e-3, epochs=1, precision=precision)
    before = run.evaluate("train")["loss"]
    steps = list(run)
    assert run.evaluate("train")["loss"] < 0.9 * before
    assert [step.index for step in steps] == list(range(24)) and run.done
    assert {p.dtype for p in run.model.parameters()} == {torch.float32}


@pytest.mark.parametrize(("arch", "kind"), [("gpt2", "causal_lm"), ("llama", "causal_lm"), ("bert", "masked_lm"),
                                            ("t5", "seq2seq")])  # fmt: skip
def test_language_models_learn_their_tokens(arch, kind):
    run = language_run(arch, kind, optimizer=None, lr=1e-2, epochs=10)
    before = run.evaluate("train")
    after = finished(run).evaluate("train")
    assert after["loss"] < 0.8 * before["loss"] and after["perplexity"] < before["perplexity"]


def test_steps_say_what_happened(data):
    run = tiny_run(
        data=data, eval_every=None, loss=lambda m, b: {"loss": classification(m, b), "one": torch.tensor(1.0)}
    )
    steps = list(run)
    tokenised = run.splits["train"].lengths[""]
    assert sum(step.tokens for step in steps) == 2 * tokenised.sum()
    assert [step.epoch for step in steps] == [0] * 8 + [1] * 8
    assert all(step.parts == {"one": 1.0} and step.grad_norm > 0 and step.seconds > 0 for step in steps)
    assert [bool(step.metrics) for step in steps] == ([False] * 7 + [True]) * 2
    history = run.history
    assert list(history.columns[:8]) == ["index", "epoch", "loss", "lr", "grad_norm", "tokens", "seconds", "one"]
    assert history["validation/accuracy"].dropna().tolist() == [s.metrics["accuracy"] for s in steps if s.metrics]
    assert steps[-1].metrics == run.evaluate("validation")
    assert steps == run.steps and isinstance(steps[0], Step)


def test_history_of_a_run_that_has_not_begun_has_the_columns():
    assert {"index", "loss", "lr"} <= set(tiny_run().history.columns) and tiny_run().history.empty


@pytest.mark.parametrize(("every", "expected"), [(0, []), (3, [2, 5, 7]), (None, [3, 7])])
def test_evaluation_comes_when_it_is_asked_for(every, expected):
    run = finished(tiny_run(batch_size=16, eval_every=every))
    assert [step.index for step in run.steps if step.metrics] == expected


@pytest.mark.parametrize(("epochs", "batch_size", "steps"), [(1, 64, 1), (2, 1000, 2), (0.5, 8, 4), (1.25, 8, 10),
                                                            (0.01, 8, 1), (2, 60, 4)])  # fmt: skip
def test_number_of_steps(epochs, batch_size, steps):
    run = tiny_run(epochs=epochs, batch_size=batch_size)
    assert len(run) == steps == len(list(run))


def test_finish_trains_what_is_left_and_shows_it(capsys):
    run = tiny_run(eval_every=None)
    next(run)
    assert run.finish() is run and run.done and len(run.steps) == 16
    printed = capsys.readouterr().out
    assert "16/16" in printed and "accuracy" in printed


def test_finish_saves_on_the_way_and_at_the_end(tmp_path, monkeypatch):
    run, saved = tiny_run(), []
    monkeypatch.setattr(run, "save", lambda path: saved.append((path, run.index)))
    run.finish(save=tmp_path / "run", save_every=5)
    assert saved == [(tmp_path / "run", index) for index in (5, 10, 15, 16)]
    with pytest.raises(ValueError, match="save_every is a number of steps, at least 1; given: 0"):
        tiny_run().finish(save=tmp_path / "run", save_every=0)


# as others do it


plain_adamw = partial(torch.optim.AdamW, fused=False, foreach=False)


def plain_loop(model, batches, total, make_optimizer=plain_adamw):
    "What a newcomer would write."
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    optimizer = make_optimizer(groups, lr=3e-3)
    schedule = get_scheduler("linear", optimizer, round(0.1 * total), total)
    model.train()
    for batch in batches:
        loss = classification(model, batch)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        lr = optimizer.param_groups[0]["lr"]
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        yield loss.item(), float(norm), lr


def batches_of(run):
    train, size = run.splits["train"], run.config["batch_size"]
    for epoch in range(math.ceil(run.config["epochs"])):
        for rows in train.epoch(size, run.config["seed"], epoch):
            yield train.load(rows, run.device)


@pytest.mark.parametrize("arch", ["bert", "gpt2", "t5"])
def test_a_run_is_the_plain_loop_step_by_step(arch):
    model = tiny_model(arch, dropout=False)
    run = tiny_run(copy.deepcopy(model))
    for step, (loss, norm, lr) in zip(run, plain_loop(model, batches_of(run), len(run)), strict=True):
        assert step.loss == pytest.approx(loss, abs=1e-6)
        assert step.grad_norm == pytest.approx(norm, rel=1e-5)
        assert step.lr == pytest.approx(lr, rel=1e-12)
    batch = next(batches_of(run))
    ours, theirs = (classification(m.eval(), batch).item() for m in (run.model, model))
    assert ours == pytest.approx(theirs, abs=1e-6)


def test_a_run_ends_with_the_weights_of_the_plain_loop():
    # With SGD: AdamW blows the rounding errors up where the gradient is exactly 0, as in the bias of attention keys.
    model = tiny_model("bert", dropout=False)
    run = tiny_run(copy.deepcopy(model), optimizer=sgd)
    list(plain_loop(model, batches_of(run), len(run), torch.optim.SGD))
    finished(run)
    for name, tensor in run.model.state_dict().items():
        torch.testing.assert_close(tensor, model.state_dict()[name], atol=1e-6, rtol=0)


@pytest.mark.parametrize("arch", ["bert", "gpt2"])
def test_a_run_is_trainer_step_by_step(arch, tmp_path):
    model = tiny_model(arch, dropout=False)
    run = tiny_run(copy.deepcopy(model))
    order = [int(i) for batch in batches_of(run) for i in batch["index"]]
    rows = run.splits["train"].splits[""].select(order).remove_columns("text")
    arguments = TrainingArguments(
        tmp_path, per_device_train_batch_size=8, num_train_epochs=1, learning_rate=3e-3, weight_decay=0.01,
        lr_scheduler_type="linear", warmup_steps=round(0.1 * len(run)), max_grad_norm=1.0, logging_steps=1,
        logging_nan_inf_filter=False, save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True, seed=0,
        train_sampling_strategy="sequential",
    )  # fmt: skip
    trainer = Trainer(model, arguments, DataCollatorWithPadding(tiny_tokenizer()), train_dataset=rows)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logged) == len(finished(run).steps)
    for step, entry in zip(run.steps, logged, strict=True):
        assert step.loss == pytest.approx(entry["loss"], abs=1e-5)
        assert step.lr == pytest.approx(entry["learning_rate"], rel=1e-9)
    ours, theirs = (without_biases_of_keys(trained.state_dict()) for trained in (run.model, model))
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], atol=1e-5, rtol=0)


def without_biases_of_keys(weights):
    "Their gradients are 0 but for rounding, which AdamW blows up."
    kept = {name: tensor for name, tensor in weights.items() if not name.endswith("key.bias")}
    for name in (name for name in kept if name.endswith("c_attn.bias")):
        queries, _, values = kept[name].chunk(3)
        kept[name] = torch.cat([queries, values])
    return kept


def test_trainer_and_run_do_not_disturb_each_other(tmp_path):
    TrainingArguments(tmp_path, bf16=True, use_cpu=True).device  # noqa: B018 - sets up
    run = tiny_run(epochs=1)
    TrainingArguments(tmp_path, use_cpu=True).device  # noqa: B018
    assert len(finished(run).steps) == 8


@pytest.mark.parametrize(("ours", "theirs"), [("linear", "linear"), ("cosine", "cosine"),
                                              ("constant", "constant_with_warmup")])  # fmt: skip
@pytest.mark.parametrize("warmup", [0, 0.25, 1])
def test_schedule_is_that_of_transformers(ours, theirs, warmup):
    run = finished(tiny_run(schedule=ours, warmup=warmup))
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=3e-3)
    schedule = get_scheduler(theirs, optimizer, round(warmup * 16), 16)
    for step in run.steps:
        assert step.lr == optimizer.param_groups[0]["lr"]
        optimizer.step()
        schedule.step()


def test_learning_rate_can_be_changed_on_the_way():
    run = tiny_run(schedule="constant", warmup=0, optimizer=lambda groups, lr: torch.optim.SGD(
        [groups[0] | {"lr": lr / 10}, groups[1]], lr=lr))  # fmt: skip
    assert next(run).lr == pytest.approx(3e-4)
    run.lr *= 2
    assert run.lr == pytest.approx(6e-3) and next(run).lr == pytest.approx(6e-4)
    assert run.optimizer.param_groups[1]["lr"] == pytest.approx(6e-3)
    with pytest.raises(ValueError, match="lr must be a number above 0.*-1"):
        run.lr = -1
    assert run.lr == pytest.approx(6e-3)


# accumulation


@pytest.mark.parametrize(("arch", "kind"), [("gpt2", "causal_lm"), ("llama", "causal_lm"), ("t5", "seq2seq")])
@pytest.mark.parametrize("accum", [2, 3, 4, 12])
def test_accumulated_gradients_are_those_of_the_full_batch(arch, kind, accum):
    full = finished(language_run(arch, kind, batch_size=12, grad_accum=1))
    pieces = finished(language_run(arch, kind, batch_size=12 // accum, grad_accum=accum))
    assert losses(pieces) == pytest.approx(losses(full), abs=1e-6)
    for name, tensor in pieces.model.state_dict().items():
        torch.testing.assert_close(tensor, full.model.state_dict()[name], atol=1e-6, rtol=0)


def test_accumulation_is_not_the_mean_of_means():
    run = language_run(batch_size=3, grad_accum=4)
    rows = run.splits["train"].epoch(12, 0, 0)[0]
    batches = [run.splits["train"].load(piece, run.device) for piece in rows.split(4)]
    with torch.no_grad():
        mean_of_means = np.mean([language_model(run.model, batch).item() for batch in batches])
    assert abs(next(run).loss - mean_of_means) > 1e-3


def test_without_labels_the_tokens_count():
    def loss(model, batch, scale=1.0):
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        return scale * model(**model_inputs(batch), labels=labels).loss

    data = tiny_language_data().remove_columns("labels")
    runs = [finished(language_run(data=data, batch_size=12 // n, grad_accum=n, loss=partial(loss))) for n in (1, 3, 12)]
    for run in runs[1:]:
        assert losses(run) == pytest.approx(losses(runs[0]), abs=1e-6)
        assert run.evaluate() == pytest.approx(runs[0].evaluate(), rel=1e-5)
    assert set(runs[0].evaluate()) == {"loss", "perplexity"}


def test_pieces_without_a_label_count_for_nothing():
    data = tiny_language_data(12)
    data["train"] = data["train"].map(
        lambda row, i: {"labels": [-100] * len(row["labels"]) if i % 2 else row["labels"]}, with_indices=True
    )
    full = finished(language_run(data=data, batch_size=12))
    pieces = finished(language_run(data=data, batch_size=1, grad_accum=12))
    assert losses(pieces) == pytest.approx(losses(full), abs=1e-6)


def test_a_loss_may_count_its_own_terms(data):
    def first_half(model, batch):
        half = len(batch["labels"]) // 2 + 1
        return cross_entropy(model(**model_inputs(batch)).logits[:half], batch["labels"][:half])

    first_half.terms = lambda batch: len(batch["labels"]) // 2 + 1
    run = tiny_run(tiny_model("bert", dropout=False), tiny_data(63), batch_size=3, grad_accum=3, loss=first_half)
    batches = [run.splits["train"].load(p, run.device) for p in run.splits["train"].epoch(9, 0, 0)[0].split(3)]
    terms = [first_half.terms(batch) for batch in batches]
    expected = np.average([first_half(run.model, batch).item() for batch in batches], weights=terms)
    assert next(run).loss == pytest.approx(expected, abs=1e-6)


# the same seed, the same curve


def test_same_seed_same_bits_and_other_seed_other_curve():
    a, b, c = (finished(tiny_run(tiny_model("bert"), seed=seed)) for seed in (0, 0, 1))
    assert losses(a) == losses(b) and same_bits(weights(a.model), weights(b.model))
    assert losses(a) != losses(c)


def test_dropout_follows_the_seed():
    data = tiny_data(8)
    first = [next(tiny_run(data=data, batch_size=8, seed=seed)).loss for seed in (0, 0, 1)]
    assert first[0] == first[1] != first[2]


def test_no_two_steps_draw_the_same_numbers():
    def loss(model, batch):
        drawn.append((torch.rand(1).item(), np.random.rand(), random.random()))
        return classification(model, batch)

    drawn = []
    finished(tiny_run(loss=loss))
    assert all(len(set(numbers)) == 16 for numbers in zip(*drawn, strict=True))


@pytest.fixture(scope="module")
def undisturbed():
    torch.set_num_threads(1)
    return finished(tiny_run(eval_every=4))


def assert_same(run, other):
    assert losses(run) == losses(other)
    assert [step.metrics for step in run.steps] == [step.metrics for step in other.steps]
    assert same_bits(weights(run.model), weights(other.model))


def test_leaving_the_loop_and_coming_back_changes_nothing(undisturbed):
    run = tiny_run(eval_every=4)
    for step in run:
        if step.index == 4:
            break
    assert len(run.steps) == 5
    for _ in zip(run, range(3), strict=False):
        pass
    assert_same(finished(run), undisturbed)


def test_random_numbers_drawn_between_steps_change_nothing(undisturbed):
    run = tiny_run(eval_every=4)
    for _ in run:
        torch.rand(7), np.random.rand(3), random.random()
        torch.manual_seed(5)
    assert_same(run, undisturbed)


def test_random_state_of_the_process_is_not_touched():
    def drawn(work) -> list:
        torch.manual_seed(1), np.random.seed(1), random.seed(1)
        work()
        return [torch.rand(4).tolist(), np.random.rand(4).tolist(), random.random()]

    def loss(model, batch):
        np.random.rand(), random.random(), torch.rand(3)
        return classification(model, batch)

    def everything():
        run = tiny_run(eval_every=None, loss=loss)
        finished(run).evaluate("test")
        run.predict("test")

    assert drawn(everything) == drawn(lambda: None)


def test_runs_step_by_step_in_turn_change_nothing(undisturbed):
    run, other = tiny_run(eval_every=4), tiny_run(tiny_model("gpt2"), seed=9)
    for _ in zip(run, other, strict=True):
        pass
    assert_same(run, undisturbed)


def test_a_run_in_another_thread_changes_nothing(undisturbed):
    run, other = tiny_run(eval_every=4), tiny_run(tiny_model("gpt2"), seed=9)
    thread = threading.Thread(target=finished, args=[other])
    thread.start()
    finished(run)
    thread.join()
    assert_same(run, undisturbed)
    assert losses(other) == losses(finished(tiny_run(tiny_model("gpt2"), seed=9)))


def test_a_run_can_train_in_a_thread_while_it_is_evaluated(undisturbed):
    run = tiny_run(eval_every=4)
    thread = threading.Thread(target=finished, args=[run])
    thread.start()
    while thread.is_alive():
        run.evaluate("test")
    thread.join()
    assert_same(run, undisturbed)


def test_evaluation_and_prediction_between_steps_change_nothing(undisturbed):
    run = tiny_run(eval_every=4)
    for _ in run:
        run.evaluate("test")
        run.predict("validation")
    assert_same(run, undisturbed)


def test_gradients_and_modes_left_by_other_code_change_nothing(undisturbed):
    run = tiny_run(eval_every=4)
    for step in run:
        (run.model.train if step.index % 2 else run.model.eval)()
        sum(p.sum() for p in run.model.parameters()).backward()
    assert_same(run, undisturbed)


def test_dropout_is_on_in_training_off_in_evaluation_and_as_it_was_afterwards():
    seen = []

    def loss(model, batch):
        seen.append((model.training, torch.is_grad_enabled()))
        return classification(model, batch)

    run = tiny_run(loss=loss, eval_every=1, epochs=1)
    run.model.eval()
    run.model.bert.encoder.train()
    before = {name: module.training for name, module in run.model.named_modules()}
    next(run)
    run.predict("test")
    assert set(seen) == {(True, True), (False, False)}
    assert {name: module.training for name, module in run.model.named_modules()} == before
    with torch.no_grad():
        next(run)
    assert run.evaluate() == run.evaluate()


# interrupts

SOURCES = ("finetune_lessons/lab/run.py", "finetune_lessons/lab/batches.py", "finetune_lessons/lab/metrics.py",
           "torch/optim/adam.py", "torch/amp/grad_scaler.py", "torch/nn/utils/clip_grad.py")  # fmt: skip


def interrupted(work, at: int) -> int:
    "Call `work`, with a real SIGINT at the line number `at` of those it passes in SOURCES; how many it passed."
    passed = count()

    def trace(frame, event, _):
        if not frame.f_code.co_filename.endswith(SOURCES):
            return None
        if event == "line" and next(passed) == at:
            signal.raise_signal(signal.SIGINT)
        return trace

    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(None)
    return next(passed)


def short_run(precision):
    model = tiny_model("bert", num_hidden_layers=1)
    run = tiny_run(model, tiny_tokens(16, 8, 1), eval_every=1, epochs=1, precision=precision)
    next(run)
    return run


@pytest.mark.parametrize(("precision", "every"), [("fp32", 13), ("fp16", 29)])
def test_an_interrupt_at_any_line_leaves_a_run_that_goes_on_to_the_same_bits(precision, every):
    expected = finished(short_run(precision))
    run = short_run(precision)
    lines = interrupted(lambda: next(run), at=-1)
    assert_same(run, expected)
    committed = set()
    for at in range(0, lines, every):
        run = short_run(precision)
        with pytest.raises(KeyboardInterrupt):
            interrupted(lambda run=run: next(run), at)
        committed.add(run.index)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert_same(finished(run), expected)
    assert committed == {1, 2}
    lock = random_state._one_at_a_time
    thread = threading.Thread(target=lambda: lock.acquire(timeout=0) and (lock.release(), committed.add("free")))
    thread.start()
    thread.join()
    assert "free" in committed


@pytest.mark.parametrize("where", ["forward", "backward", "loss"])
def test_an_interrupt_inside_torch_leaves_a_run_that_goes_on_to_the_same_bits(where, undisturbed):
    ready = []

    def stop(*_):
        if len(ready) == 6:
            ready.append(True)
            signal.raise_signal(signal.SIGINT)

    def loss(model, batch):
        if model.training:
            ready.append(True)
        if where == "loss":
            stop()
        value = classification(model, batch)
        if where == "backward" and value.requires_grad:
            value.register_hook(stop)
        return value

    run = tiny_run(eval_every=4, loss=loss)
    if where == "forward":
        run.model.bert.encoder.layer[1].register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        finished(run)
    assert run.index == 5 and all(p.grad is None for p in run.model.parameters())
    assert_same(finished(run), undisturbed)


def test_an_interrupt_during_the_update_comes_after_it(undisturbed):
    class Interrupting(torch.optim.AdamW):
        def step(self, *arguments, **named):
            if run.index == 5:
                signal.raise_signal(signal.SIGINT)
            return super().step(*arguments, **named)

    run = tiny_run(eval_every=4, optimizer=lambda groups, lr: Interrupting(groups, lr=lr, fused=True))
    with pytest.raises(KeyboardInterrupt):
        finished(run)
    assert run.index == len(run.steps) == 6
    assert_same(finished(run), undisturbed)


def test_an_interrupted_evaluation_is_made_up_for(undisturbed):
    def loss(model, batch):
        if not model.training and not stopped:
            stopped.append(True)
            raise KeyboardInterrupt
        return classification(model, batch)

    stopped = []
    run = tiny_run(eval_every=4, loss=loss)
    with pytest.raises(KeyboardInterrupt):
        finished(run)
    assert run.index == 4 and not run.steps[-1].metrics
    assert next(run).index == 3 and run.steps[-1].metrics
    assert_same(finished(run), undisturbed)


def test_uninterrupted_keeps_what_the_block_raises_and_works_in_any_thread():
    with pytest.raises(ZeroDivisionError), uninterrupted():
        1 / 0  # noqa: B018
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    found = []
    thread = threading.Thread(target=lambda: found.extend(tiny_run(epochs=1)))
    thread.start()
    thread.join()
    assert len(found) == 8


# losses that cannot be learnt from


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(("fault", "named"), [
    (lambda loss: loss * math.nan, "the loss is nan"), (lambda loss: loss * math.inf, "the loss is inf"),
])  # fmt: skip
def test_a_loss_that_is_no_number_stops_at_its_step(fault, named, precision):
    def loss(model, batch):
        value = classification(model, batch)
        return fault(value) if run.index == 3 and broken and model.training else value

    broken = True
    run = tiny_run(loss=loss, precision=precision)
    for _ in range(3):
        next(run)
    before, rows = weights(run.model), run.splits["train"].epoch(8, 0, 0)[3].index
    state = copy.deepcopy(run.optimizer.state_dict()["state"])
    for _ in range(2):
        with pytest.raises(NonFiniteLoss, match=named) as error:
            next(run)
        assert f"step 3, a batch of the train rows {', '.join(map(str, rows))}." in str(error.value)
        assert same_bits(weights(run.model), before) and run.index == 3
    for number, entries in run.optimizer.state_dict()["state"].items():
        assert same_bits(entries, state[number])
    assert run.evaluate("test")["loss"] < 10
    broken = False
    assert_same(finished(run), finished(tiny_run(precision=precision)))


def test_a_step_that_failed_leaves_no_trace_in_running_means():
    run = run_with_running_means(broken_at=2)
    for _ in range(2):
        next(run)
    before = weights(run.model)
    assert before["norm.num_batches_tracked"] == 2
    with pytest.raises(NonFiniteLoss):
        next(run)
    assert same_bits(weights(run.model), before)


@pytest.mark.parametrize("factor", [math.inf, math.nan])
def test_a_gradient_that_is_no_number_stops_at_its_step(factor):
    def loss(model, batch):
        logits = model(**model_inputs(batch)).logits
        if broken:
            logits.register_hook(lambda gradient: gradient * factor)
        return cross_entropy(logits, batch["labels"])

    broken = True
    run = tiny_run(loss=loss)
    before = weights(run.model)
    with pytest.raises(NonFiniteLoss, match=r"the loss is 0\.\d+, and its gradient (nan|inf) at step 0"):
        next(run)
    assert same_bits(weights(run.model), before)
    broken = False
    assert_same(finished(run), finished(tiny_run()))


def test_fp16_overflow_lowers_the_scale_and_goes_on():
    run = tiny_run(precision="fp16")
    run.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)
    before = weights(run.model)
    step = next(run)
    assert math.isinf(step.grad_norm) or math.isnan(step.grad_norm)
    assert same_bits(weights(run.model), before) and run.scaler.get_scale() == 2.0**59


def test_fp16_gradient_that_is_infinite_at_every_scale_stops():
    def loss(model, batch):
        logits = model(**model_inputs(batch)).logits
        logits.register_hook(lambda gradient: gradient * math.inf)
        return cross_entropy(logits, batch["labels"])

    run = tiny_run(precision="fp16", loss=loss, epochs=10)
    with pytest.raises(NonFiniteLoss, match="its gradient (nan|inf) at step 16"):
        finished(run)


def test_a_batch_without_labels_stops_and_says_so():
    rows = tiny_rows(64)
    data = DatasetDict(train=Dataset.from_dict(rows | {"label": [-100] * 64}))
    run = tiny_run(data=data)
    with pytest.raises(NonFiniteLoss, match="step 0, a batch of the train rows .*every label is -100"):
        next(run)


@pytest.mark.parametrize(("value", "given"), [
    (lambda loss: loss.expand(3), r"'loss' is a tensor of shape \(3,\)"),
    (lambda loss: loss.item(), r"'loss' is 0\.\d+"), (lambda loss: None, "'loss' is None"),
    (lambda loss: {"part": loss}, "'loss' is None"), (lambda loss: {"loss": loss, "part": 3.0}, "'part' is 3.0"),
    (lambda loss: {"loss": loss, "part": loss.expand(2)}, r"'part' is a tensor of shape \(2,\)"),
])  # fmt: skip
def test_a_loss_must_be_a_scalar_tensor_or_a_dict_of_them(value, given):
    run = tiny_run(loss=lambda model, batch: value(classification(model, batch)))
    with pytest.raises(ValueError, match=given):
        next(run)
    assert run.index == 0


def test_a_loss_without_gradient_is_refused():
    with pytest.raises(ValueError, match="does not depend on any trainable parameter"):
        next(tiny_run(loss=lambda model, batch: classification(model, batch).detach()))


# what moves


def test_only_trainable_parameters_move():
    model = tiny_model("bert")
    model.bert.requires_grad_(False)
    before = weights(model)
    run = finished(tiny_run(model, epochs=1))
    moved = {name for name, tensor in weights(model).items() if not torch.equal(tensor, before[name])}
    assert moved == {"classifier.weight", "classifier.bias"} == run.trained


def test_parameters_unfrozen_on_the_way_move():
    model = tiny_model("bert")
    model.bert.requires_grad_(False)
    run = tiny_run(model)
    next(run), next(run)
    before = weights(model)
    model.bert.encoder.layer[1].requires_grad_(True)
    next(run)
    moved = {name for name, tensor in weights(model).items() if not torch.equal(tensor, before[name])}
    assert moved == run.trained
    assert {name.split(".layer.")[-1][0] for name in moved if "encoder" in name} == {"1"}


def test_parameters_added_after_the_run_was_made_are_refused():
    run = tiny_run()
    run.model.extra = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="the optimizer does not know extra.weight, extra.bias: change the"):
        next(run)


def test_nothing_to_train_is_refused():
    with pytest.raises(ValueError, match="no parameter of the model requires a gradient"):
        tiny_run(tiny_model("bert").requires_grad_(False))


def test_trainable_parameters_must_be_float32():
    with pytest.raises(ValueError, match="trainable parameters must be float32, but .* is torch.bfloat16"):
        next(tiny_run(tiny_model("bert").bfloat16()))


def test_weight_decay_spares_biases_and_normalisation():
    run = tiny_run(weight_decay=0.5)
    decay = {id(p): group["weight_decay"] for group in run.optimizer.param_groups for p in group["params"]}
    found = {name: decay[id(p)] for name, p in run.model.named_parameters()}
    assert {name for name, value in found.items() if not value} == {n for n in found if "bias" in n or "LayerNorm" in n}
    assert set(found.values()) == {0.0, 0.5}


def test_other_optimizers_work_and_an_instance_is_refused_with_advice():
    run = tiny_run(optimizer=lambda groups, lr: torch.optim.SGD(groups, lr=lr, momentum=0.9), lr=0.05, epochs=4)
    before = run.evaluate("train")["loss"]
    assert finished(run).evaluate("train")["loss"] < 0.9 * before
    model = tiny_model("bert")
    for wrong in (torch.optim.SGD(model.parameters(), lr=1), "sgd"):
        with pytest.raises(ValueError, match="optimizer is made by the run: pass a function such as torch.optim.SGD"):
            tiny_run(model, optimizer=wrong)


# evaluation


@pytest.mark.parametrize("classes", [2, 3])
def test_metrics_are_those_of_scikit_learn_whatever_the_batches(classes):
    rows = tiny_rows(37)
    rows["label"] = [i % classes for i in range(37)]
    split = Dataset.from_dict(rows)
    model = tiny_model("bert", num_labels=classes)
    found = []
    for size, order in ((1, split), (8, split), (64, split), (8, split.shuffle(seed=1))):
        data = DatasetDict(train=split, test=order)
        found.append(tiny_run(copy.deepcopy(model), data, batch_size=size).evaluate("test"))
    for other in found[1:]:
        assert other == pytest.approx(found[0], abs=1e-6)
    table = tiny_run(model, DatasetDict(train=split, test=split)).predict("test")
    scores = precision_recall_fscore_support(
        table["label"], table["prediction"], average="binary" if classes == 2 else "macro", zero_division=0
    )
    expected = dict(zip(("precision", "recall", "f1"), scores, strict=False))
    assert found[0] == pytest.approx(
        expected | {"accuracy": (table["label"] == table["prediction"]).mean(), "loss": found[0]["loss"]}
    )
    logits = torch.tensor(np.stack(table["logits"]))
    assert found[0]["loss"] == pytest.approx(cross_entropy(logits, torch.tensor(rows["label"])).item(), abs=1e-6)
    assert table["text"].tolist() == rows["text"] and table["label"].tolist() == rows["label"]
    assert table["confidence"].tolist() == pytest.approx(logits.softmax(-1).max(-1).values.tolist())
    assert table.index.tolist() == list(range(37))


def test_metrics_of_a_regression():
    rows = tiny_rows(40)
    rows["label"] = [float(label) * 2 - 1 for label in rows["label"]]
    data = DatasetDict(train=Dataset.from_dict(rows), validation=Dataset.from_dict(rows))
    run = tiny_run(tiny_model("bert", num_labels=1), data, loss=regression, epochs=4)
    before, after = run.evaluate(), finished(run).evaluate()
    assert set(after) == {"mse", "mae", "pearson", "loss"}
    assert after["mse"] == pytest.approx(after["loss"], abs=1e-6) and after["mse"] < before["mse"]
    table = run.predict("validation")
    assert table["label"].tolist() == rows["label"] and list(table) == ["text", "label", "prediction"]
    assert ((table["prediction"] - table["label"]) ** 2).mean() == pytest.approx(after["mse"], abs=1e-6)


@pytest.mark.parametrize(("arch", "kind"), [("gpt2", "causal_lm"), ("qwen2", "causal_lm"), ("t5", "seq2seq")])
@pytest.mark.parametrize("prompts", [True, False])
def test_perplexity_is_over_tokens_whatever_the_batches(arch, kind, prompts):
    data = tiny_language_data()
    if not prompts:
        data = data.map(lambda row: {"labels": row["input_ids"]})
    found = [language_run(arch, kind, data, batch_size=size).evaluate() for size in (1, 4, 100)]
    model = tiny_model(arch, kind, dropout=False).eval()
    total, tokens = 0.0, 0
    for row in data["validation"]:
        labels = torch.tensor([row["labels"]])
        logits = model(input_ids=torch.tensor([row["input_ids"]]), labels=labels).logits
        if kind == "causal_lm":
            labels, logits = labels[:, 1:], logits[:, :-1]
        total += cross_entropy(logits[0], labels[0], reduction="sum").item()
        tokens += int((labels != -100).sum())
    for metrics in found:
        assert metrics == pytest.approx({"loss": total / tokens, "perplexity": math.exp(total / tokens)}, rel=1e-5)


def test_a_loss_without_labels_has_no_perplexity():
    data = tiny_data().remove_columns("label")
    run = tiny_run(data=data, loss=lambda model, batch: model(**model_inputs(batch)).logits.square().mean())
    assert set(run.evaluate("test")) == {"loss"} and next(run).loss > 0


@pytest.mark.parametrize("kind", ["classifier", "causal_lm"])
def test_evaluation_keeps_no_logits(kind):
    seen, alive = [], []

    def loss(model, batch):
        alive.append(sum(reference() is not None for reference in seen))
        logits = model(**model_inputs(batch)).logits
        seen.append(weakref.ref(logits))
        return logits.float().square().mean()

    data = tiny_language_data(validation=40)
    data = data if kind == "causal_lm" else data.remove_columns("labels").map(lambda _: {"label": 1})
    tiny_run(tiny_model("gpt2", kind), data, loss=loss, batch_size=4).evaluate()
    assert len(alive) == 10 and max(alive) <= (kind == "classifier")


def test_unknown_and_empty_splits_are_refused(data):
    data["test"] = data["test"].select([])
    run = tiny_run(data=data)
    for method in (run.evaluate, run.predict):
        for split in ("dev", "test"):
            with pytest.raises(ValueError, match=f"no split '{split}' with examples in the data; there are: train"):
                method(split)


# several tasks


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.heads = nn.Embedding(200, 16), nn.ModuleDict({"a": nn.Linear(16, 2), "b": nn.Linear(16, 3)})

    def forward(self, input_ids, attention_mask, task):
        hidden = (self.body(input_ids) * attention_mask[..., None]).sum(1) / attention_mask.sum(1, keepdim=True)
        return type("Output", (), {"logits": self.heads[task](hidden)})


def test_several_tasks_share_a_model_and_are_measured_one_by_one():
    def loss(model, batch):
        seen.append((batch["task"], *sorted(batch["index"].tolist())))
        logits = model(batch["input_ids"], batch["attention_mask"], batch["task"]).logits
        return cross_entropy(logits, batch["labels"])

    a, b = tiny_data(13), tiny_data(10).cast_column("label", Value("int64"))
    b = b.map(lambda row, i: {"label": i % 3}, with_indices=True)
    seen = []
    run = finished(tiny_run(TwoHeads(), {"a": a, "b": b}, loss=loss, lr=0.05, epochs=1, eval_every=0))
    rows = sorted((task, row) for task, *index in seen for row in index)
    assert rows == [("a", i) for i in range(13)] + [("b", i) for i in range(10)]
    assert len(run) == 4 and run.trained == dict(run.model.named_parameters()).keys()
    metrics = run.evaluate("test")
    assert {"a/accuracy", "a/loss", "b/accuracy", "b/f1"} <= set(metrics) and "accuracy" not in metrics
    with pytest.raises(ValueError, match="predict is for one task; this run has a, b"):
        run.predict("test")


def test_a_fault_names_its_task():
    run = tiny_run(TwoHeads(), {"a": tiny_data(4)}, loss=lambda m, b: m.heads["a"].bias.sum() * math.nan)
    with pytest.raises(NonFiniteLoss, match="of task 'a'"):
        next(run)


# arguments


@pytest.mark.parametrize(("name", "value", "expected"), [
    *[("lr", value, "a number above 0") for value in (0, -1e-3, math.nan, math.inf, "1e-4", None, True)],
    *[("epochs", value, "a number above 0") for value in (0, -1, math.nan, math.inf, None)],
    *[("batch_size", value, "a whole number of at least 1") for value in (0, -8, 2.5, "8", True)],
    *[("grad_accum", value, "a whole number of at least 1") for value in (0, 1.5)],
    *[("warmup", value, "a share of the steps, 0 to 1") for value in (-0.1, 1.1, 100, math.nan)],
    *[("weight_decay", value, "a number of at least 0") for value in (-1, math.nan, math.inf)],
    *[("max_grad_norm", value, "a number above 0") for value in (0, -1, None, math.nan)],
    *[("schedule", value, "one of linear, cosine, constant") for value in ("polynomial", None, ["linear"])],
    *[("precision", value, "one of auto, fp32, bf16, fp16") for value in ("int8", None, torch.bfloat16)],
    *[("eval_every", value, "None or a number of steps") for value in (-1, 0.5, "epoch")],
    *[("seed", value, "a whole number from 0") for value in (-1, 0.5, None, 2**40)],
])  # fmt: skip
def test_arguments_that_cannot_train_are_refused(name, value, expected):
    with pytest.raises(ValueError, match=f"^{name} must be {expected}") as error:
        tiny_run(**{name: value})
    assert str(error.value).endswith(f"given: {value!r}")


def test_numbers_of_numpy_are_numbers():
    run = tiny_run(lr=np.float32(1e-3), epochs=np.float64(1), batch_size=np.int64(8), seed=np.uint8(3))
    assert not [name for name, value in run.config.items() if isinstance(value, np.generic)]
    next(run)


def test_infinite_norm_switches_clipping_off():
    calm, free = (next(tiny_run(max_grad_norm=limit, optimizer=sgd, warmup=0)) for limit in (1e-9, math.inf))
    assert calm.grad_norm == free.grad_norm


@pytest.mark.parametrize(("capabilities", "expected"), [
    ({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True}, "bf16"), ({"avx512_f": True}, "fp32"), (None, "fp32"),
])  # fmt: skip
def test_precision_auto_is_bf16_only_where_the_processor_has_it(monkeypatch, capabilities, expected):
    monkeypatch.setattr(processor, "gain_of_bf16", lambda shape: 2.0)
    if capabilities is None:
        monkeypatch.delattr(torch.cpu, "get_capabilities")
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert tiny_run(precision="auto").precision == expected


def test_precision_is_that_of_the_computation():
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        seen = []

        def loss(model, batch, seen=seen):
            seen.append(model(**model_inputs(batch)).logits)
            return cross_entropy(seen[-1].float(), batch["labels"])

        next(tiny_run(loss=loss, precision=name))
        assert seen[0].dtype == dtype


def test_model_inputs_leaves_the_labels_out(data):
    run = tiny_run(data=data)
    batch = next(batches_of(run))
    assert set(model_inputs(batch)) <= set(MODEL_INPUTS) and {"input_ids", "attention_mask"} <= set(model_inputs(batch))
