"""Batches by a number of tokens: within the budget, every text once, the same steps in every epoch."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import classification, same_bits, tiny_data, tiny_model, tiny_run, tiny_tokenizer, tiny_tokens, weights

from finetune_lessons.lab.training import checkpoint
from finetune_lessons.lab.training.batches import train_batches
from finetune_lessons.lab.training.run import Run
from finetune_lessons.lab.training.run_files import read_header
from finetune_lessons.lab.training.sampling import Rows, plan_epoch, steps_per_epoch
from finetune_lessons.lab.training.token_budget import TokenBudget

pytestmark = pytest.mark.usefixtures("one_thread")
LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=120).map(np.array)


@given(
    lengths=LENGTHS, room=st.integers(0, 2000), texts=st.integers(1, 40), pieces=st.integers(1, 5),
    seed=st.integers(0, 9),
)  # fmt: skip
def test_no_pass_holds_more_than_its_budget_and_every_text_comes_once(lengths, room, texts, pieces, seed):
    budget = TokenBudget(int(lengths.max()) + room, texts, pieces)
    steps = budget.batches(lengths, np.random.default_rng(seed))
    assert sorted(np.concatenate(steps)) == list(range(len(lengths))) and len(steps) == budget.steps(lengths)
    for step in steps:
        assert len(step)
        for piece in Rows("", step).split(pieces):
            if len(piece.index):
                assert len(piece.index) <= texts
                assert len(piece.index) * lengths[piece.index].max() <= budget.tokens


def test_the_budget_is_used_and_which_texts_meet_changes():
    lengths, budget = np.random.default_rng(0).integers(5, 200, 4000), TokenBudget(4096, 10**6)
    epochs = [budget.batches(lengths, np.random.default_rng([0, epoch])) for epoch in (0, 0, 1)]
    used = [len(step) * lengths[step].max() / 4096 for step in epochs[0]]
    real = sum(lengths) / sum(len(step) * lengths[step].max() for step in epochs[0])
    assert np.median(used) > 0.9 and real > 0.9
    first, again, other = ({tuple(sorted(step)) for step in epoch} for epoch in epochs)
    assert first == again and not first & other
    assert len(epochs[0]) == len(epochs[2]) == budget.steps(lengths)
    assert [len(s) for s in epochs[0]] != sorted(len(s) for s in epochs[0]), "the order of the steps is random"


@pytest.mark.parametrize("sampling", ["proportional", "round_robin", 2.0])
def test_several_tasks_have_batches_of_the_budget(sampling):
    lengths = {"a": np.arange(50) % 9 + 1, "b": np.arange(20) + 1}
    budget = TokenBudget(24, 8)
    steps = plan_epoch(lengths, budget, np.random.default_rng(0), sampling)
    assert len(steps) == steps_per_epoch(lengths, budget, sampling)
    assert all(len(s.index) * lengths[s.task][s.index].max() <= 24 for s in steps)


def padded(batch) -> int:
    return batch["input_ids"].numel()


def test_a_run_and_its_evaluation_stay_within_the_budget():
    sizes = []

    def loss(model, batch):
        sizes.append((model.training, padded(batch), len(batch["index"])))
        return classification(model, batch)

    run = tiny_run(loss=loss, max_tokens=70, batch_size=6, epochs=1, eval_every=None)
    assert len(run) == run.steps_per_epoch == len(list(run))
    assert {training for training, *_ in sizes} == {True, False}
    assert max(tokens for _, tokens, _ in sizes) <= 70 and max(texts for *_, texts in sizes) == 6
    assert min(texts for *_, texts in sizes) < 6
    wide = tiny_run(batch_size=6, epochs=1)
    assert run.evaluate("test")["loss"] != wide.evaluate("test")["loss"]  # another curve
    assert sum(step.tokens for step in run.steps) == sum(step.tokens for step in wide)


def test_a_step_is_the_mean_over_its_texts_whatever_its_pieces():
    model = tiny_model("bert", dropout=False)
    run = tiny_run(model, max_tokens=140, batch_size=64, epochs=1, lr=1e-9, optimizer=sgd)
    rows = [run._plan[i] for i in range(len(run))]
    before = [classification(model.eval(), run.splits["train"].load(r, run.device)).item() for r in rows]
    assert [step.loss for step in run] == pytest.approx(before, abs=1e-5)
    pieces = tiny_run(tiny_model("bert", dropout=False), max_tokens=70, batch_size=32, grad_accum=2, epochs=1)
    whole = tiny_run(tiny_model("bert", dropout=False), max_tokens=140, batch_size=64, epochs=1)
    assert len({len(r.index) for r in rows}) > 1
    if len(pieces) == len(whole):
        assert next(pieces).tokens > 0


def sgd(groups, lr):
    return torch.optim.SGD(groups, lr=lr)


def test_it_resumes_to_the_bit(tmp_path):
    whole = tiny_run(max_tokens=80).finish()
    run = tiny_run(max_tokens=80)
    for _ in range(5):
        next(run)
    run.save(tmp_path / "run")
    again = Run.resume(tmp_path / "run", tiny_model("bert"), tiny_tokenizer(), tiny_tokens(), loss=classification)
    assert again.config["max_tokens"] == 80
    assert [step.loss for step in again.finish().steps] == [step.loss for step in whole.steps]
    assert same_bits(weights(again.model), weights(whole.model))


def test_another_number_of_processes_keeps_the_forward_passes(tmp_path, monkeypatch):
    run = tiny_run(max_tokens=80, batch_size=8, grad_accum=6)
    next(run)
    run.save(tmp_path / "run")
    header = read_header(tmp_path / "run")
    for count, accum in ((2, 3), (3, 2), (6, 1)):
        monkeypatch.setattr(checkpoint.Processes, "__init__", lambda self, count=count: vars(self).update(
            count=count, rank=0, device=torch.device("cpu"), is_main=True
        ))  # fmt: skip
        config = checkpoint.config_here(tmp_path / "run", header)
        assert (config["batch_size"], config["grad_accum"], config["max_tokens"]) == (8, accum, 80)
    with pytest.raises(ValueError, match="keeps batch_size=8: start a number of processes that divides the 6 forward"):
        checkpoint.config_here(tmp_path / "run", header, batch_size=4)


def test_train_batches_are_those_of_the_run():
    run, data = tiny_run(max_tokens=80, batch_size=8, data=tiny_data(40), seed=3), tiny_data(40)
    given = train_batches(data["train"], tiny_tokenizer(), batch_size=8, seed=3, epoch=1, max_tokens=80)
    for step, batch in enumerate(given):
        assert batch["index"].tolist() == run._plan[run.steps_per_epoch + step].index.tolist()
    assert step + 1 == run.steps_per_epoch


@pytest.mark.parametrize("value", [0, -5, 3.5, "many", True])
def test_it_is_a_number_of_tokens(value):
    with pytest.raises(ValueError, match="max_tokens must be None or a number of tokens; given: "):
        tiny_run(max_tokens=value)


def test_a_text_without_room_and_batches_of_all_tasks_are_refused():
    longest = max(map(len, tiny_tokens()["train"]["input_ids"]))
    tiny_run(max_tokens=longest)
    with pytest.raises(ValueError, match=rf"row \d+ has {longest} tokens; given: {longest - 1}. Truncate"):
        tiny_run(max_tokens=longest - 1)
    with pytest.raises(ValueError, match="sampling='together' has all tasks in every batch: leave one out"):
        tiny_run(max_tokens=80, sampling="together")
