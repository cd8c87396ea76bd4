"""On a GPU the processor goes on while a step is computed: the same numbers, and what must stop a run still does."""

import copy
import dataclasses
import math
import pickle
import traceback
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from tiny import classification, run_with_running_means, same_bits, tiny_language_data, tiny_model, tiny_run, weights
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from finetune_lessons import cross_entropy as lesson
from finetune_lessons.cross_entropy import classification_loss, language_model_loss
from finetune_lessons.lab.training import batches as batches_module
from finetune_lessons.lab.training import run as run_module
from finetune_lessons.lab.training.ahead import can_go_ahead
from finetune_lessons.lab.training.optimisation import make_optimizer
from finetune_lessons.lab.training.run import NonFiniteLoss, Run, Step
from finetune_lessons.lab.training.steps import Numbers
from finetune_lessons.lora import add_lora

pytestmark = pytest.mark.usefixtures("one_thread")
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
aten = torch.ops.aten


@pytest.fixture
def ahead(monkeypatch):
    "Runs take the way of a GPU on the CPU too."
    monkeypatch.setattr(run_module, "can_go_ahead", lambda *_: True)


def numbers(run) -> list:
    return [(step.index, step.loss, step.parts, step.grad_norm, step.tokens, step.metrics) for step in run.steps]


def waiting(**settings):
    "The same run, whose every step is waited for."
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "can_go_ahead", lambda *_: False)
        return tiny_run(**settings)


def with_part(model, batch):
    return {"loss": classification(model, batch), "part": batch["labels"].float().mean()}


# the same numbers


@pytest.mark.parametrize("settings", [
    {}, {"eval_every": 3}, {"grad_accum": 2, "batch_size": 4, "max_grad_norm": 0.1}, {"precision": "bf16"},
    {"keep_best": "accuracy", "eval_every": 4},
    {"loss": with_part},
], ids=lambda settings: " ".join(settings) or "plain")  # fmt: skip
def test_going_ahead_changes_no_bit(settings, ahead):
    found, expected = tiny_run(**settings), waiting(**settings)
    assert found._ahead and not expected._ahead
    for run in (found, expected):
        for _ in run:
            pass
    assert numbers(found) == numbers(expected)
    assert same_bits(weights(found.model), weights(expected.model))


def test_stopping_saving_and_resuming_changes_no_bit(ahead, tmp_path):
    whole = tiny_run().finish()
    run = tiny_run()
    for _ in range(5):
        next(run)
    run.save(tmp_path / "run")
    again = Run.resume(tmp_path / "run", tiny_model("bert"), run.tokenizer, whole_data(run), loss=classification)
    assert numbers(again.finish()) == numbers(whole)
    assert same_bits(weights(again.model), weights(whole.model))


def whole_data(run):
    return {name: batches.splits[""] for name, batches in run.splits.items()}


# nobody waits


PRETENDED = torch.device("cpu", 0)  # which is not equal to torch.device("cpu")


class Waits(TorchDispatchMode):
    "Notes where a tensor of the pretended device is read by the processor; made of it is of it too."

    READS = (aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten._unique2, aten.is_nonzero)

    def __init__(self, monkeypatch, model):
        super().__init__()
        self.found: list[str] = []
        self._there: dict[int, torch.Tensor] = {}
        self.put(*model.parameters(), *model.buffers())
        monkeypatch.setattr(batches_module, "_to_device", self._moved)
        monkeypatch.setattr(lesson, "_known_classes", lambda y, kept, *_: lesson._nan_for_unknown(y, kept, y < 0))
        for name in ("tolist", "numpy", "cpu"):
            monkeypatch.setattr(torch.Tensor, name, self._noted(getattr(torch.Tensor, name)))

    def put(self, *tensors):
        self._there |= {tensor.untyped_storage()._cdata: tensor for tensor in tensors}
        return tensors[0]

    def _moved(self, device, tensor):
        return self.put(tensor.clone()) if device == PRETENDED else tensor

    def _holds(self, value) -> bool:
        return isinstance(value, torch.Tensor) and value.untyped_storage()._cdata in self._there

    def _noted(self, method):
        def noting(tensor, *args, **kwargs):
            if self._holds(tensor):
                self._note()
            return method(tensor, *args, **kwargs)

        return noting

    def _note(self):
        frames = [f for f in traceback.extract_stack() if "torch/" not in f.filename and __file__ != f.filename]
        self.found.append(f"{frames[-1].filename.rpartition('/')[2]}: {frames[-1].name}")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        if any(map(self._holds, tree_leaves((args, kwargs)))):
            masks = func.overloadpacket is aten.index and any(x is not None and x.dtype == torch.bool for x in args[1])
            if func.overloadpacket in self.READS or masks:
                self._note()
            for tensor in tree_leaves(output):
                if isinstance(tensor, torch.Tensor):
                    self.put(tensor)
        return output


class Bag(nn.Module):
    "Asks nothing itself, as models of transformers do of their masks."

    def __init__(self):
        super().__init__()
        self.words, self.norm, self.out = nn.Embedding(200, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)

    def forward(self, input_ids, attention_mask, **_):
        hidden = (self.words(input_ids) * attention_mask[..., None]).sum(1)
        return SimpleNamespace(logits=self.out(nn.functional.dropout(self.norm(hidden), 0.1, self.training)))


def waits_of_two_steps(monkeypatch, run) -> list[str]:
    next(run)
    run.device = PRETENDED
    waits = Waits(monkeypatch, run.model)
    with waits:
        next(run)
        step = next(run)
    read = list(waits.found)
    with waits:
        assert step.loss == step.row()["loss"]
    assert len(waits.found) > len(read), "reading is a wait, or else this test sees nothing"
    return read


def eager(arch: str, kind: str = "classifier"):
    "Its attention is not the one that a CPU computes its own way."
    model = tiny_model(arch, kind)
    model.set_attn_implementation("eager")
    return model


CASES = {
    "a module": (0, lambda: tiny_run(Bag())),
    "a lesson's loss": (0, lambda: tiny_run(Bag(), loss=classification_loss)),
    "parts": (0, lambda: tiny_run(Bag(), loss=with_part)),
    "several pieces": (0, lambda: tiny_run(Bag(), batch_size=4, grad_accum=2)),
    "a token budget": (0, lambda: tiny_run(Bag(), max_tokens=100)),
    "a model of transformers": (1, lambda: tiny_run(eager("bert"), precision="bf16")),
    "LoRA": (2, lambda: tiny_run(add_lora(eager("bert"), r=2), batch_size=4, grad_accum=2, precision="bf16")),
    "chunks": (0, lambda: tiny_run(
        eager("llama", "causal_lm"), tiny_language_data(), loss=partial(language_model_loss, chunk=20), batch_size=4
    )),
}  # fmt: skip
READS_THE_STEP_BEFORE = "steps.py: <genexpr>"  # which has long been computed when the next is on its way
TRANSFORMERS = "masking_utils.py"  # looks once a forward pass, in some models, whether a mask has gaps


@pytest.mark.skipif(torch.cuda.is_available(), reason="pretends that the CPU is a GPU; with one, see the end")
@pytest.mark.parametrize("case", CASES)
def test_a_step_reads_nothing_from_the_device_but_the_step_before_it(case, ahead, monkeypatch):
    looks, make_run = CASES[case]
    run = make_run()
    waits = waits_of_two_steps(monkeypatch, run)
    others = [wait for wait in waits if wait != READS_THE_STEP_BEFORE]
    assert len(waits) > len(others) and all(TRANSFORMERS in wait for wait in others)
    assert len(others) == 2 * looks


def test_a_process_without_a_progress_bar_finishes_too():
    run = tiny_run(epochs=1)
    run.is_main_process = False
    assert run.finish().done


# what must stop a run


def broken_at(index: int, fault=lambda loss: loss * math.nan):
    "A loss, and the run that it looks at; `run.broken = False` mends it."

    def loss(model, batch):
        value = classification(model, batch)
        run = holder.run
        return fault(value) if run.index == index and holder.broken and model.training else value

    holder = SimpleNamespace(broken=True, loss=loss)
    return holder


def infinite_gradient(loss):
    loss.register_hook(lambda gradient: gradient * math.inf)
    return loss


@pytest.mark.parametrize("index", [0, 3])
@pytest.mark.parametrize(("fault", "named"), [
    (lambda loss: loss * math.nan, "the loss is nan"), (lambda loss: loss * math.inf, "the loss is inf"),
    (infinite_gradient, r"the loss is 0\.\d+, and its gradient (nan|inf)"),
])  # fmt: skip
def test_a_step_that_is_no_number_stops_one_step_later_and_leaves_nothing(fault, named, index, ahead):
    holder = broken_at(index, fault)
    run = holder.run = tiny_run(loss=holder.loss)
    for _ in range(index):
        next(run)
    before, state = weights(run.model), copy.deepcopy(run.optimizer.state_dict()["state"])
    rows = run.splits["train"].epoch(8, 0, 0)[index].index
    for _ in range(2):
        bad = next(run)
        assert bad.index == index and not (math.isfinite(bad.loss) and math.isfinite(bad.grad_norm))
        with pytest.raises(NonFiniteLoss, match=named) as error:
            next(run)
        assert f"at step {index}, a batch of the train rows {', '.join(map(str, rows))}." in str(error.value)
        assert same_bits(weights(run.model), before) and run.index == len(run.steps) == index
        for number, entries in state.items():
            assert same_bits(entries, run.optimizer.state_dict()["state"][number])
    holder.broken = False
    expected = waiting().finish()
    assert numbers(run.finish()) == numbers(expected)
    assert same_bits(weights(run.model), weights(expected.model))


def test_the_last_step_of_a_run_stops_at_once(ahead):
    holder = broken_at(15)
    run = holder.run = tiny_run(loss=holder.loss)
    with pytest.raises(NonFiniteLoss, match="step 15"):
        run.finish()
    assert run.index == 15 and not run.done
    holder.broken = False
    assert numbers(run.finish()) == numbers(waiting().finish())


def test_nothing_is_evaluated_or_saved_after_a_step_that_was_not_taken(ahead, tmp_path):
    holder = broken_at(3)
    run = holder.run = tiny_run(loss=holder.loss, eval_every=4)
    with pytest.raises(NonFiniteLoss, match="step 3"):
        for _ in range(4):
            next(run)
    assert run.index == 3 and not run.steps[-1].metrics
    holder = broken_at(2)
    run = holder.run = tiny_run(loss=holder.loss)
    for _ in range(3):
        next(run)
    with pytest.raises(NonFiniteLoss, match="step 2"):
        run.save(tmp_path / "run")
    assert not (tmp_path / "run").exists() and run.index == 2
    run.save(tmp_path / "run")


def test_running_means_are_those_of_before_the_step(ahead):
    run = run_with_running_means(broken_at=2)
    for _ in range(2):
        next(run)
    before = weights(run.model)
    next(run)
    assert same_bits(weights(run.model), before)
    with pytest.raises(NonFiniteLoss, match="step 2"):
        next(run)
    assert same_bits(weights(run.model), before) and before["norm.num_batches_tracked"] == 2


@pytest.mark.parametrize(("device", "processes", "precision", "optimizer", "expected"), [
    ("cuda", 1, "bf16", {"fused": True}, True), ("cuda", 1, "fp32", {"fused": True}, True),
    ("cuda", 1, "fp16", {"fused": True}, False), ("cuda", 2, "bf16", {"fused": True}, False),
    ("cuda", 1, "bf16", {"foreach": True}, False), ("cpu", 1, "bf16", {"fused": True}, False),
])  # fmt: skip
def test_steps_are_waited_for_unless_the_device_itself_can_skip_one(device, processes, precision, optimizer, expected):
    adamw = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], **optimizer)
    assert can_go_ahead(torch.device(device), SimpleNamespace(count=processes), precision, adamw) == expected


@pytest.mark.parametrize("fused", [True, None])
def test_the_optimizer_is_fused_where_torch_has_it(fused, monkeypatch):
    class Elsewhere(torch.optim.AdamW):
        def __init__(self, groups, **settings):
            if settings.get("fused"):
                raise RuntimeError("`fused=True` requires all the params to be of supported devices")
            super().__init__(groups, **settings)

    if not fused:
        monkeypatch.setattr(torch.optim, "AdamW", Elsewhere)
    optimizer = make_optimizer(None, nn.Linear(2, 2), None, 1e-3, 0.1)
    assert isinstance(optimizer, torch.optim.AdamW) and optimizer.defaults["fused"] is fused
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]


# a step's numbers


def pending() -> Step:
    unread = Numbers({"loss": torch.tensor(0.5), "a": torch.tensor(2.0)}, torch.tensor(3.0))
    return Step(7, 1, unread, unread, 1e-3, unread, 64, 0.1)


READ = Step(7, 1, 0.5, {"a": 2.0}, 1e-3, 3.0, 64, 0.1)


def test_numbers_that_are_read_late_are_python_numbers():
    step = pending()
    assert [type(x) for x in (step.loss, step.grad_norm, *step.parts.values())] == [float] * 3
    assert pending() == READ and repr(pending()) == repr(READ) and pending().row() == READ.row()
    assert dataclasses.asdict(pending()) == dataclasses.asdict(READ)
    changed = dataclasses.replace(pending(), metrics={"accuracy": 1.0})
    assert changed == dataclasses.replace(READ, metrics={"accuracy": 1.0})
    for copied in (pickle.loads(pickle.dumps(pending())), copy.deepcopy(pending()), copy.copy(pending())):
        assert copied == READ and type(object.__getattribute__(copied, "loss")) is float
    with pytest.raises(dataclasses.FrozenInstanceError):
        step.loss = 1.0


# on a real GPU


@on_a_gpu
@pytest.mark.parametrize(("precision", "close"), [("fp32", 1e-3), ("bf16", 0.1)])
def test_a_gpu_computes_what_the_processor_does(precision, close):
    model, settings = tiny_model("bert", dropout=False), {"schedule": "constant", "warmup": 0, "weight_decay": 0}
    run = tiny_run(copy.deepcopy(model), precision=precision, **settings)
    assert run._ahead and run.device.type == "cuda"
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0), []
    for index in range(len(run)):
        loss = classification(model, run.splits["train"].load(run._plan[index], torch.device("cpu")))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert [step.loss for step in run.finish().steps] == pytest.approx(losses, rel=close)


@on_a_gpu
@pytest.mark.parametrize("settings", [
    {"precision": "fp32"}, {"precision": "bf16"}, {"grad_accum": 2}, {"loss": classification_loss},
    {"loss": with_part},
])  # fmt: skip
def test_a_step_on_a_gpu_waits_for_nothing(settings):
    run = tiny_run(Bag(), **settings)
    for _ in range(3):
        next(run)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            next(run)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@on_a_gpu
def test_on_a_gpu_too_a_step_that_is_no_number_leaves_nothing():
    holder = broken_at(3)
    run = holder.run = tiny_run(loss=holder.loss)
    for _ in range(3):
        next(run)
    before = weights(run.model)
    next(run)
    with pytest.raises(NonFiniteLoss, match="step 3"):
        next(run)
    assert same_bits(weights(run.model), before) and run.index == 3
    holder.broken = False
    assert len(run.finish().steps) == 16


@on_a_gpu
@pytest.mark.parametrize("arch", ["gpt2", "llama"])
def test_chunks_on_a_gpu_are_the_whole(arch):
    def losses(chunk):
        loss = partial(language_model_loss, chunk=chunk)
        return [s.loss for s in tiny_run(tiny_model(arch, "causal_lm", dropout=False), tiny_language_data(), loss=loss)]

    assert losses(8) == pytest.approx(losses(None), rel=1e-4)


@on_a_gpu
def test_a_token_budget_and_compiling_on_a_gpu():
    plain = [step.loss for step in tiny_run(tiny_model("bert", dropout=False), max_tokens=60)]
    compiled = [step.loss for step in tiny_run(tiny_model("bert", dropout=False), max_tokens=60, compile=True)]
    assert compiled == pytest.approx(plain, rel=1e-3)
