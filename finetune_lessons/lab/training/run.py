"""A training run as an iterator of steps."""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from finetune_lessons.lab.training.activations import ActivationCache
from finetune_lessons.lab.training.batches import Batches, batches_by_split
from finetune_lessons.lab.training.cpu_functions import fast_cpu_functions
from finetune_lessons.lab.training.metrics import Loss, Scores, count_terms, count_tokens, forward
from finetune_lessons.lab.training.metrics import prediction_tables, predicts_tokens
from finetune_lessons.lab.training.modes import DTYPES, FrozenWeights, mode, native_precision
from finetune_lessons.lab.training.random_state import RandomState
from finetune_lessons.lab.training.sampling import STRATEGIES, JointRows, Rows, is_strategy

if TYPE_CHECKING:
    import pandas as pd
    from datasets import DatasetDict
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}
OptimizerFactory = Callable[..., torch.optim.Optimizer]


class NonFiniteLoss(ValueError):
    "The loss or its gradient is NaN or infinite. The model is as it was before the step."


@dataclass(frozen=True, slots=True)
class Step:
    "What happened in one optimizer step."

    index: int  # number of the step, from 0
    epoch: int  # from 0
    loss: float  # mean over the step's examples (or tokens), before the update
    parts: dict[str, float]  # the loss's parts, where it names some
    lr: float  # of the first parameter group
    grad_norm: float  # over all trained parameters, before clipping
    tokens: int  # without padding
    seconds: float  # without evaluation
    metrics: dict[str, float] = field(default_factory=dict)  # of the validation split, at the end of an epoch


class Run:
    """A fine-tuning run: iterate over it to train, one optimizer step at a time.

    Leaving the loop, an interrupt or an error leaves the run as it was after its last whole step;
    entering the loop again goes on from there. The run owns its random state: the same arguments give
    the same curve, whatever else the process does between two steps; on a CPU to the bit, in another process too. With
    another number of threads sums are rounded otherwise: losses of fp32 then differ from the seventh digit on.

    Raises ValueError for arguments that cannot train, and NonFiniteLoss when a step's loss or gradient is
    not a finite number.
    """

    def __init__(
        self,
        model: "PreTrainedModel",  # trained in place; parameters that require no gradient stay as they are
        tokenizer: "PreTrainedTokenizerBase",
        data: "DatasetDict | Mapping[str, DatasetDict]",  # splits of texts, or tokenised; or such splits by task name
        *,
        loss: Loss,  # loss(model, batch) -> scalar tensor, or {"loss": total, "part": ...}; the mean over the batch;
        #              a Module's parameters are trained too, at the rate `loss.lr` if it has one
        lr: float = 1e-4,  # peak learning rate
        epochs: float = 2,
        batch_size: int = 32,  # examples in one forward pass of one process
        schedule: str = "linear",  # of the learning rate after the warm-up: "linear", "cosine" or "constant"
        warmup: float = 0.1,  # share of the steps in which the learning rate climbs from 0
        weight_decay: float = 0.01,  # on matrices only, not on biases and normalisation weights
        max_grad_norm: float = 1.0,  # gradients longer than this are scaled down to it
        grad_accum: int = 1,  # forward passes whose gradients make one step
        optimizer: OptimizerFactory | None = None,  # optimizer(parameter_groups, lr=lr); None: AdamW
        sampling: str | float = "proportional",  # of several tasks: "round_robin", "together", or a temperature
        precision: str = "auto",  # "fp32", "bf16", "fp16"; "auto": the fastest that the device has natively
        eval_every: int | None = None,  # steps between evaluations; None: at the end of each epoch, 0: never
        seed: int = 0,  # of data order and dropout
        cache: ActivationCache | None = None,  # computes frozen first layers once for each text, without dropout
    ):
        from accelerate import PartialState
        from accelerate.utils import broadcast, parse_flag_from_env

        config = dict(
            lr=lr, epochs=epochs, batch_size=batch_size, schedule=schedule, warmup=warmup, weight_decay=weight_decay,
            max_grad_norm=max_grad_norm, grad_accum=grad_accum, sampling=sampling, precision=precision,
            eval_every=eval_every, seed=seed,
        )  # fmt: skip
        self.config: dict[str, Any] = {k: v.item() if isinstance(v, np.generic) else v for k, v in config.items()}
        _check_config(self.config)
        processes = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))  # copied: a Trainer resets it
        self.device, self.rank, self.world_size = processes.device, processes.process_index, processes.num_processes
        self.is_main_process = processes.is_main_process
        self.precision = native_precision(self.device) if precision == "auto" else precision
        self.splits = batches_by_split(data, tokenizer, model)
        self.model, self.tokenizer, self.loss = model.to(self.device), tokenizer, loss
        self.learner: torch.nn.Module = model  # with the loss, where that can learn too
        if isinstance(loss, torch.nn.Module):
            self.learner = torch.nn.ModuleDict({"model": model, "loss": loss.to(self.device)})
        _check_together(self.config["sampling"], self.splits["train"].tasks, loss)
        self.cache = cache
        if cache is not None:
            cache.check(model)
        if self.world_size > 1:
            broadcast([parameter.data for parameter in self.learner.parameters()])
        self.optimizer = self._make_optimizer(optimizer)
        self.scaler = self._make_scaler()
        self._frozen = FrozenWeights(DTYPES[self.precision])
        self.steps_per_epoch = self.splits["train"].steps_per_epoch(self._examples_per_step, sampling)
        self._lr_factor = self._make_schedule()
        self.random_state = RandomState(self.config["seed"] + self.rank, self.device)
        self._plan: tuple[int, list[Rows] | list[JointRows]] = (-1, [])
        self.trained: set[str] = set()  # names of the parameters that some step has changed
        self.index = 0
        self.steps: list[Step] = []

    # what the run is

    def __len__(self) -> int:
        "The number of steps of the whole run."
        return max(1, round(self.config["epochs"] * self.steps_per_epoch))

    @property
    def done(self) -> bool:
        return self.index >= len(self)

    @property
    def history(self) -> "pd.DataFrame":
        "One row a step, with a column for each field of `Step`, each part of the loss and each metric."
        import pandas as pd

        nested = {"parts", "metrics"}
        numbers = [f.name for f in fields(Step) if f.name not in nested]
        rows = [
            {name: getattr(step, name) for name in numbers} | step.parts | _prefixed("validation", step.metrics)
            for step in self.steps
        ]
        return pd.DataFrame(rows, columns=list(dict.fromkeys([*numbers, *(name for row in rows for name in row)])))

    @property
    def lr(self) -> float:
        "The peak learning rate. Setting it scales all parameter groups, from the next step on."
        return self.config["lr"]

    @lr.setter
    def lr(self, value: float) -> None:
        _check_config({**self.config, "lr": value})
        for group in self.optimizer.param_groups:
            group["initial_lr"] *= value / self.config["lr"]
        self.config["lr"] = value

    # training

    def __iter__(self) -> Iterator[Step]:
        return self

    def __next__(self) -> Step:
        if not self._evaluation_is_due:  # it is, where an interrupt came between a step and its evaluation
            if self.done:
                raise StopIteration
            with self.random_state.swapped_in(), torch.enable_grad(), mode(self.learner, training=True):
                self._discard_leftovers()
                with self._nothing_left_behind(), self._computing():
                    self._train_step()
        if self._evaluation_is_due:
            self.steps[-1] = replace(self.steps[-1], metrics=self.evaluate("validation"))
        return self.steps[-1]

    @contextmanager
    def _nothing_left_behind(self) -> Iterator[None]:
        "No gradients; and of a step that failed, nothing in buffers either, such as running means."
        index, buffers = self.index, [(buffer, buffer.clone()) for buffer in self.learner.buffers()]
        try:
            yield
        finally:
            self.optimizer.zero_grad()
            if self.index == index:
                for buffer, before in buffers:
                    buffer.copy_(before)

    def _discard_leftovers(self) -> None:
        "Forget what an interrupted step, or other code, left: gradients, and the scaler's notes on them."
        self.optimizer.zero_grad()
        if self.scaler.is_enabled():
            scaler = self._make_scaler()
            scaler.load_state_dict(self.scaler.state_dict())
            self.scaler = scaler

    def _train_step(self) -> None:
        started = time.perf_counter()
        rows = self._rows(self.index)
        parameters = self._trainable_parameters()
        lr = self._set_learning_rate()
        losses, tokens = self._backward(rows)
        grad_norm = self._clip(list(parameters.values()))
        self._check_finite(losses["loss"], grad_norm, rows)
        with uninterrupted():
            self.scaler.step(self.optimizer)
            self.scaler.update()
            epoch, seconds = self.index // self.steps_per_epoch, time.perf_counter() - started
            step = Step(self.index, epoch, losses.pop("loss"), losses, lr, grad_norm, tokens, seconds)
            self.steps.append(step)
            self.index += 1
            self.trained.update(parameters)
            self.random_state.keep()

    @property
    def _evaluation_is_due(self) -> bool:
        every = self.config["eval_every"]
        if every == 0 or "validation" not in self.splits or not self.steps or self.steps[-1].metrics:
            return False
        return self.index % (every or self.steps_per_epoch) == 0 or self.done

    def finish(
        self,
        save: str | Path | None = None,  # file that the run is saved to on the way and at the end, for `resume`
        save_every: int = 100,  # steps
    ) -> "Run":
        "Train the steps that are left, with a progress bar; returns the run."
        import sys

        from tqdm import tqdm

        if not _whole(save_every, 1):
            raise ValueError(f"save_every is a number of steps, at least 1; given: {save_every!r}")
        hidden = not self.is_main_process
        with tqdm(total=len(self), initial=self.index, unit="step", file=sys.stdout, disable=hidden) as bar:
            for step in self:
                bar.set_postfix({"loss": f"{step.loss:.3f}", **_shown(step.metrics)}, refresh=False)
                bar.update(self.index - bar.n)
                if save and (self.index % save_every == 0 or self.done):
                    self.save(save)
        return self

    def _rows(self, index: int) -> Rows | JointRows:
        epoch, step = divmod(index, self.steps_per_epoch)
        if self._plan[0] != epoch:
            train = self.splits["train"]
            plan = train.epoch(self._examples_per_step, self.config["seed"], epoch, self.config["sampling"])
            self._plan = (epoch, plan)
        return self._plan[1][step]

    @property
    def _examples_per_step(self) -> int:
        return self.config["batch_size"] * self.config["grad_accum"] * self.world_size

    def _trainable_parameters(self) -> dict[str, torch.nn.Parameter]:
        known = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        named = {name: p for name, p in self.learner.named_parameters() if p.requires_grad}
        if unknown := [name for name, p in named.items() if id(p) not in known]:
            raise ValueError(
                f"the optimizer does not know {', '.join(unknown[:5])}{' ...' if len(unknown) > 5 else ''}: "
                "change the model before you make the Run, or make a new Run"
            )
        if half := [name for name, p in named.items() if p.dtype != torch.float32]:
            raise ValueError(
                f"trainable parameters must be float32, but {half[0]} is {named[half[0]].dtype}: "
                "load the model with dtype=torch.float32; precision= says what is computed in half precision"
            )
        return named

    def _set_learning_rate(self) -> float:
        factor = self._lr_factor(self.index)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        return self.optimizer.param_groups[0]["lr"]

    def _backward(self, rows: Rows | JointRows) -> tuple[dict[str, float], int]:
        "Gradients of the mean loss over all terms of the step, whatever pieces it is computed in; losses and tokens."
        accum = min(self.config["grad_accum"], len(rows.index))
        mine = rows.split(self.world_size * accum)[self.rank * accum : (self.rank + 1) * accum]
        epoch = self.index / self.steps_per_epoch
        batches = [self.splits["train"].load(p, self.device) | {"epoch": epoch} for p in mine if len(p.index)]
        terms = [count_terms(self.model, self.loss, batch) for batch in batches]
        tokens = sum(map(count_tokens, batches))
        all_terms, tokens = (int(x) for x in self._summed(torch.tensor([sum(terms), tokens])))
        if all_terms == 0:
            raise NonFiniteLoss(f"nothing to learn from in {_where(self.index, rows)}: every label is -100")
        total: dict[str, torch.Tensor] = {}
        for batch, n in zip(batches, terms, strict=True):
            if n:
                losses = self._losses(batch)
                self.scaler.scale(losses["loss"] * (n / all_terms)).backward()
                for name, value in losses.items():
                    total[name] = total.get(name, 0) + value.detach().float().to(self.device) * (n / all_terms)
        return self._reported(total), tokens

    def _losses(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        with self._autocast(), self._from_cache("train"):
            losses = self.loss(self.model, batch)
        losses = losses if isinstance(losses, dict) else {"loss": losses}
        for name, value in {"loss": None, **losses}.items():
            if not isinstance(value, torch.Tensor) or value.ndim:
                given = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)
                raise ValueError(
                    "loss(model, batch) must return a scalar tensor, or a dict of them with the total as 'loss'; "
                    f"{name!r} is {given}"
                )
        if not losses["loss"].requires_grad:
            raise ValueError("the loss does not depend on any trainable parameter: is everything it uses frozen?")
        return losses

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, DTYPES[self.precision], enabled=self.precision != "fp32")

    @contextmanager
    def _computing(self) -> Iterator[None]:
        "Without doing over what needs to be done once, and with functions that suit the device."
        on_cpu = self.device.type == "cpu"
        with self._frozen_cast(), fast_cpu_functions() if on_cpu else nullcontext():
            yield

    def _frozen_cast(self) -> AbstractContextManager[None]:
        return self._frozen.cast(self.learner) if self.precision != "fp32" else nullcontext()

    def _from_cache(self, split: str) -> AbstractContextManager[None]:
        return self.cache.serving(self.model, self.splits[split]) if self.cache else nullcontext()

    def _reported(self, losses: dict[str, torch.Tensor]) -> dict[str, float]:
        "The losses as numbers, summed over processes: of which some may have had no example in this step."
        from accelerate.utils import gather_object

        values = torch.stack(list(losses.values())).tolist() if losses else []
        parts = gather_object([dict(zip(losses, values, strict=True))])
        names = sorted({name for part in parts for name in part})
        return {name: sum(part.get(name, 0.0) for part in parts) for name in names}

    def _summed(self, values: torch.Tensor) -> torch.Tensor:
        from accelerate.utils import reduce

        return reduce(values.to(self.device), "sum")

    def _clip(self, parameters: list[torch.nn.Parameter]) -> float:
        "Sum the gradients over processes, clip those of the model, and return their norm before that."
        if self.world_size > 1:
            self._share_gradients(parameters)
        self.scaler.unscale_(self.optimizer)
        of_model = [p for p in self.model.parameters() if p.requires_grad]
        return float(torch.nn.utils.clip_grad_norm_(of_model, self.config["max_grad_norm"]))

    def _share_gradients(self, parameters: list[torch.nn.Parameter]) -> None:
        users = self._summed(torch.tensor([int(p.grad is not None) for p in parameters])).tolist()
        used = [p for p, n in zip(parameters, users, strict=True) if n]  # the others keep None: AdamW leaves them alone
        zero_if_none = [torch.zeros_like(p) if p.grad is None else p.grad for p in used]
        summed = self._summed(torch.cat([g.flatten() for g in zero_if_none]))
        for p, gradient in zip(used, summed.split([p.numel() for p in used]), strict=True):
            p.grad = gradient.view_as(p)

    def _check_finite(self, loss: float, grad_norm: float, rows: Rows | JointRows) -> None:
        scaled = self.scaler.is_enabled() and self.scaler.get_scale() > 1  # then a smaller scale is tried, step by step
        if math.isfinite(loss) and (math.isfinite(grad_norm) or scaled):
            return
        gradient = f", and its gradient {grad_norm}" if math.isfinite(loss) else ""
        raise NonFiniteLoss(
            f"the loss is {loss:.3g}{gradient} at {_where(self.index, rows)}. The model is as it was before this step. "
            f"Often the learning rate is too high (lr={self.lr:g}: try a tenth, in a new run)"
        )

    def _make_scaler(self) -> torch.amp.GradScaler:
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")

    def _make_optimizer(self, factory: OptimizerFactory | None) -> torch.optim.Optimizer:
        if factory is not None and not callable(factory):
            raise ValueError(
                "optimizer is made by the run: pass a function such as torch.optim.SGD or "
                "lambda groups, lr: torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98))"
            )
        if not any(p.requires_grad for p in self.learner.parameters()):
            raise ValueError("no parameter of the model requires a gradient: there is nothing to train")
        # Frozen ones too: they are skipped until somebody unfreezes them.
        parameters = [p for p in self.model.parameters() if p.is_floating_point()]
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.config["weight_decay"]},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        lr = self.config["lr"]
        if isinstance(self.loss, torch.nn.Module) and (of_loss := list(self.loss.parameters())):
            groups.append({"params": of_loss, "weight_decay": 0.0, "lr": getattr(self.loss, "lr", None) or lr})
        optimizer = factory(groups, lr=lr) if factory else torch.optim.AdamW(groups, lr=lr, fused=True)
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        return optimizer

    def _make_schedule(self) -> Callable[[int], float]:
        from transformers import get_scheduler

        warmup_steps = round(self.config["warmup"] * len(self))
        name = SCHEDULES[self.config["schedule"]]
        return get_scheduler(name, self.optimizer, warmup_steps, len(self)).lr_lambdas[0]

    # evaluation

    def evaluate(
        self,
        split: str = "validation",
    ) -> dict[str, float]:
        """The model's metrics on a split: accuracy, precision, recall, F1 and loss of a classifier;
        MSE, MAE, Pearson's correlation and loss of a regression; loss and perplexity of a language model;
        with several tasks, `task/metric` for each.

        Counted over examples, so the batch size changes nothing. Training goes on as if it had not happened.
        """
        from accelerate.utils import gather_object

        scores: dict[str, Scores] = {}
        for batch, value, logits in self._forward(split):
            terms = count_terms(self.model, self.loss, batch)
            empty = Scores(tokens=predicts_tokens(self.model, batch))
            scores.setdefault(batch["task"], empty).add(batch, value, terms, logits)
        if self.world_size > 1:
            everywhere = gather_object([scores])
            tasks = sorted({task for part in everywhere for task in part})
            scores = {task: sum((part.get(task, Scores()) for part in everywhere), Scores()) for task in tasks}
        return {k: v for task, score in scores.items() for k, v in _prefixed(task, score.summary()).items()}

    def predict(
        self,
        split: str = "test",
    ) -> "pd.DataFrame":
        "The split's examples in their order: text, label, prediction, confidence and the logits. For one classifier."
        import pandas as pd
        from accelerate.utils import gather_object

        (source, *others) = self._batches(split).tasks.values()
        if others:
            raise ValueError(f"predict is for one task; this run has {', '.join(self.splits[split].tasks)}")
        table = pd.concat(gather_object(list(prediction_tables(self._forward(split))))).sort_index()
        if "text" in source.column_names:
            table.insert(0, "text", source["text"][:])
        return table

    def _batches(self, split: str) -> Batches:
        if split not in self.splits:
            raise ValueError(f"no split {split!r} with examples in the data; there are: {', '.join(self.splits)}")
        return self.splits[split]

    def _forward(self, split: str) -> Iterator[tuple[dict[str, Any], float, torch.Tensor | None]]:
        batches = self._batches(split)
        for rows in list(batches.in_order(self.config["batch_size"]))[self.rank :: self.world_size]:
            batch = batches.load(rows, self.device)
            with self._evaluating(), self._from_cache(split):
                value, logits = forward(self.model, self.loss, batch)
            yield batch, value, logits

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        "Without dropout and gradients, and without a trace in the training that another thread may be doing."
        random = RandomState(self.config["seed"], self.device)
        with random.swapped_in(), torch.no_grad(), self._autocast(), mode(self.learner, training=False):
            with self._computing():
                yield

    # files

    def save(
        self,
        path: str | Path,  # of the file, such as "run.safetensors"; an older one is replaced, whole or not at all
    ) -> None:
        "Write all that `resume` needs: what was trained, the optimizer's state, the random state, the history."
        from finetune_lessons.lab.training.checkpoint import save_run

        with self.random_state.swapped_in():  # no other thread is in the middle of a step
            save_run(self, Path(path))

    @classmethod
    def resume(
        cls,
        path: str | Path,  # a file that `save` wrote, or a folder of them
        model: "PreTrainedModel",  # as it was when the saved run was made
        tokenizer: "PreTrainedTokenizerBase",
        data: "DatasetDict | Mapping[str, DatasetDict]",  # the same as then
        *,
        loss: Loss,
        optimizer: OptimizerFactory | None = None,
        cache: ActivationCache | None = None,  # if the saved run had one; it may be empty
    ) -> "Run":
        """The run that was saved at `path`, about to take its next step: on a CPU its curve is the same to the bit.

        Of a folder it is the newest whole one; damaged ones are warned of and passed over. Raises ValueError when the
        file is damaged, or model, data or optimizer are not those of the saved run.
        """
        from finetune_lessons.lab.training.checkpoint import load_run, newest_whole

        file, header = newest_whole(Path(path))
        run = cls(model, tokenizer, data, loss=loss, optimizer=optimizer, cache=cache, **header["config"])
        load_run(run, file, header)
        return run


@contextmanager
def uninterrupted() -> Iterator[None]:
    "Hold back Ctrl-C (a kernel's interrupt) until the block is through. Other threads are never interrupted anyway."
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: received.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if received:
        signal.raise_signal(signal.SIGINT)


def _check_config(config: dict[str, Any]) -> None:
    rules: dict[str, tuple[bool, str]] = {
        "lr": (_finite(config["lr"]) and config["lr"] > 0, "a number above 0, such as 1e-4"),
        "epochs": (_finite(config["epochs"]) and 0 < config["epochs"] <= 1e6, "a number above 0, at most a million"),
        "batch_size": (_whole(config["batch_size"], 1), "a whole number of at least 1"),
        "grad_accum": (_whole(config["grad_accum"], 1), "a whole number of at least 1"),
        "warmup": (_finite(config["warmup"]) and 0 <= config["warmup"] <= 1, "a share of the steps, 0 to 1"),
        "weight_decay": (_finite(config["weight_decay"]) and config["weight_decay"] >= 0, "a number of at least 0"),
        "max_grad_norm": (
            config["max_grad_norm"] == math.inf or (_finite(config["max_grad_norm"]) and config["max_grad_norm"] > 0),
            "a number above 0 (math.inf: no clipping)",
        ),
        "schedule": (config["schedule"] in list(SCHEDULES), f"one of {', '.join(SCHEDULES)}"),
        "sampling": (is_strategy(config["sampling"]), f"one of {', '.join(STRATEGIES)}, or a temperature above 0"),
        "precision": (config["precision"] in ("auto", *DTYPES), f"one of auto, {', '.join(DTYPES)}"),
        "eval_every": (config["eval_every"] is None or _whole(config["eval_every"], 0), "None or a number of steps"),
        "seed": (_whole(config["seed"], 0) and config["seed"] < 2**31, "a whole number from 0 to 2**31 - 1"),
    }
    for name, (holds, expected) in rules.items():
        if not holds:
            raise ValueError(f"{name} must be {expected}; given: {config[name]!r}")


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _finite(value: Any) -> bool:
    try:
        return _number(value) and math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def _whole(value: Any, least: int) -> bool:
    return _number(value) and isinstance(value, int) and value >= least


def _check_together(sampling: str | float, tasks: Mapping[str, Any], loss: Loss) -> None:
    if sampling == "together" and (len(tasks) == 1 or not hasattr(loss, "terms")):
        why = "there is one task" if len(tasks) == 1 else "this loss does not know what to do with them: use MultiTask"
        raise ValueError(f"sampling='together' makes batches of several tasks, but {why}")


def _where(index: int, rows: Rows | JointRows) -> str:
    shown = ", ".join(map(str, rows.index[:8])) + (", ..." if len(rows.index) > 8 else "")
    task = f" of task {rows.task!r}" if rows.task else ""
    return f"step {index}, a batch of the train rows {shown}{task}"


def _prefixed(prefix: str, metrics: dict[str, float]) -> dict[str, float]:
    return {f"{prefix}/{name}" if prefix else name: value for name, value in metrics.items()}


def _shown(metrics: dict[str, float]) -> dict[str, str]:
    return {name: f"{value:.3f}" for name, value in metrics.items() if name.endswith(("accuracy", "perplexity", "mse"))}


__all__ = ["NonFiniteLoss", "Run", "Step"]
