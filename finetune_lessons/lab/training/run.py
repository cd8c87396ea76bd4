"""A training run as an iterator of steps."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_lessons.lab.models.predicting import predict
from finetune_lessons.lab.training.activations import ActivationCache
from finetune_lessons.lab.training.ahead import Ahead, can_go_ahead
from finetune_lessons.lab.training.batches import Plan
from finetune_lessons.lab.training.best import Best, check_metric
from finetune_lessons.lab.training.checkpoint import config_here, load_run, save_run
from finetune_lessons.lab.training.compiling import compiled
from finetune_lessons.lab.training.evaluation import Evaluation
from finetune_lessons.lab.training.faults import NonFiniteLoss
from finetune_lessons.lab.training.inputs import batches_by_split
from finetune_lessons.lab.training.interrupts import uninterrupted
from finetune_lessons.lab.training.objective import Loss, Objective, with_loss
from finetune_lessons.lab.training.optimisation import OptimizerFactory, Schedule, make_optimizer, make_scaler
from finetune_lessons.lab.training.precision import Computing, choose_precision
from finetune_lessons.lab.training.processes import Processes
from finetune_lessons.lab.training.random_state import RandomState
from finetune_lessons.lab.training.run_files import newest_whole
from finetune_lessons.lab.training.setting_names import knows_its_names
from finetune_lessons.lab.training.settings import checked, is_epochs, is_whole
from finetune_lessons.lab.training.stepping import Stepping
from finetune_lessons.lab.training.steps import NUMBERS, Step
from finetune_lessons.lab.training.token_budget import size_of_a_step

if TYPE_CHECKING:
    import pandas as pd
    from datasets import DatasetDict
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Run(Stepping):
    """A fine-tuning run: iterate over it to train, one optimizer step at a time.

    Leaving the loop, an interrupt or an error leaves the run as it was after its last whole step;
    entering the loop again goes on from there. The run owns its random state: the same arguments give
    the same curve, whatever else the process does between two steps; on a CPU to the bit, in another process too. With
    another number of threads sums are rounded otherwise: losses of fp32 then differ from the seventh digit on.

    What the labels mean is decided when the run is made, from the data's features and the model's head (`run.tasks`);
    a classifier is given the names of the data's classes. Raises ValueError for data, model and tokenizer that do not
    fit, for arguments that cannot train, and NonFiniteLoss when a step's loss or gradient is not a finite number: at
    that step; on a GPU with the next one, or before the run evaluates, saves or ends. It is then as before that step.
    """

    model: "PreTrainedModel"

    @knows_its_names
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
        batch_size: int = 32,  # examples in one forward pass of one process, at most
        max_tokens: int | None = None,  # tokens in one forward pass, padding counted: long texts come fewer at a time
        schedule: str = "linear",  # of the learning rate after the warm-up: a name of `lab.training.schedules`
        warmup: float = 0.1,  # share of the steps in which the learning rate climbs from 0
        weight_decay: float = 0.01,  # on matrices only, not on biases and normalisation weights
        max_grad_norm: float = 1.0,  # gradients longer than this are scaled down to it
        grad_accum: int = 1,  # forward passes whose gradients make one step
        optimizer: OptimizerFactory | None = None,  # optimizer(parameter_groups, lr=lr); None: AdamW
        sampling: str | float = "proportional",  # of several tasks: "round_robin", "together", or a temperature
        precision: str = "auto",  # "fp32", "bf16", "fp16"; "auto": what is measured to be fastest here
        eval_every: int | None = None,  # steps between evaluations; None: at the end of each epoch, 0: never
        seed: int = 0,  # of data order and dropout
        keep_best: str | None = None,  # validation metric, such as "accuracy", whose best weights are kept: `run.best`
        cache: ActivationCache | None = None,  # computes frozen first layers once for each text, without dropout
        compile: bool = False,  # train through torch.compile: minutes at first, then faster; evaluation is as ever
    ):
        self.config: dict[str, Any] = checked(dict(
            lr=lr, epochs=epochs, batch_size=batch_size, schedule=schedule, warmup=warmup, weight_decay=weight_decay,
            max_grad_norm=max_grad_norm, grad_accum=grad_accum, sampling=sampling, precision=precision,
            eval_every=eval_every, seed=seed, keep_best=keep_best, max_tokens=max_tokens, compile=compile,
        ))  # fmt: skip
        self.processes = Processes()
        self.device, self.is_main_process = self.processes.device, self.processes.is_main
        self.splits = batches_by_split(data, tokenizer, model)
        self.computing = Computing(choose_precision(precision, self.device, model, self.processes), self.device)
        self.precision = self.computing.precision
        self.computing.check(model)
        self.tasks = self.splits["train"].tasks
        self.model, self.tokenizer, self.loss = self.processes.placed(model), tokenizer, loss
        self.learner = with_loss(model, loss, self.device)
        self._compiled = compiled(model, self.device, cache is not None) if self.config["compile"] else model
        self.objective = Objective(loss, self.tasks)
        self.objective.check(self.splits["train"], sampling)
        self.cache = cache
        if cache is not None:
            cache.check(model, self.splits["train"])
        self.processes.share_parameters(self.learner)
        self._evaluation = Evaluation(
            model, self.learner, self.objective, self.splits, self.computing, self.processes, cache,
            self.config["seed"], self.config["max_tokens"],
        )  # fmt: skip
        self.optimizer = make_optimizer(optimizer, model, loss, self.config["lr"], self.config["weight_decay"])
        self.scaler = make_scaler(self.precision, self.device)
        ahead = can_go_ahead(self.device, self.processes, self.precision, self.optimizer)
        self._ahead = Ahead() if ahead else None
        pieces = self.config["grad_accum"] * self.processes.count
        size = size_of_a_step(self.config["batch_size"], self.config["max_tokens"], pieces)
        self._plan = Plan(self.splits["train"], size, self.config["seed"], self.config["sampling"])
        self.steps_per_epoch = self._plan.steps_per_epoch
        self.extended: list[float] = []  # epochs added by `extend`
        self._schedule = Schedule(self.optimizer, schedule, self.config["warmup"])
        self._schedule.add(0, len(self))
        self.random_state = RandomState(self.config["seed"] + self.processes.rank, self.device)
        if keep_best:
            check_metric(keep_best, self.splits, self.config["eval_every"])
        self.best = Best(self.learner, keep_best) if keep_best else None  # the weights of the best validation
        self.trained: set[str] = set()  # names of the parameters that some step has changed
        self.index = 0
        self.steps: list[Step] = []
        self.made_with: dict[str, Any] = {}  # what else its files are to say, such as a command's options; as JSON can

    # what the run is

    def __len__(self) -> int:
        "The number of steps of the whole run."
        return max(1, round((self.config["epochs"] + sum(self.extended)) * self.steps_per_epoch))

    @property
    def done(self) -> bool:
        return self.index >= len(self)

    @property
    def history(self) -> "pd.DataFrame":
        "One row a step, with a column for each field of `Step`, each part of the loss and each metric."
        import pandas as pd

        rows = [step.row() for step in self.steps]
        return pd.DataFrame(rows, columns=list(dict.fromkeys([*NUMBERS, *(name for row in rows for name in row)])))

    @property
    def lr(self) -> float:
        "The peak learning rate. Setting it scales all parameter groups, from the next step on."
        return self.config["lr"]

    @lr.setter
    def lr(self, value: float) -> None:
        config = checked({**self.config, "lr": value})
        for group in self.optimizer.param_groups:
            group["initial_lr"] *= config["lr"] / self.config["lr"]
        self.config = config

    # training

    def __iter__(self) -> Iterator[Step]:
        return self

    def __next__(self) -> Step:
        if not self._evaluation_is_due:  # it is, where an interrupt came between a step and its evaluation
            if self.done:
                self._settle()
                raise StopIteration
            with self._training() as buffers:
                self._train_step(buffers)
        if self._evaluation_is_due or self.done:
            self._settle()
        if self._evaluation_is_due:
            metrics = self.evaluate("validation")
            with uninterrupted():
                if self.best:
                    self.best.consider(metrics, self.index - 1, self.trained)
                self.steps[-1] = replace(self.steps[-1], metrics=metrics)
        return self.steps[-1]

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
        log: Callable[[dict[str, float]], Any] | None = None,  # called with each step's numbers by name, for trackers
    ) -> "Run":
        "Train the steps that are left, with a progress bar; returns the run."
        from tqdm import tqdm

        if not is_whole(save_every, 1):
            raise ValueError(f"save_every is a number of steps, at least 1; given: {save_every!r}")
        hidden = not self.is_main_process
        with tqdm(total=len(self), initial=self.index, unit="step", file=sys.stdout, disable=hidden) as bar:
            for step in self:
                if not hidden and (self.done or time.time() - bar.last_print_t >= bar.mininterval):  # waits for a GPU
                    bar.set_postfix({"loss": f"{step.loss:.3f}", **_shown(step.metrics)}, refresh=False)
                bar.update(self.index - bar.n)
                if log and self.is_main_process:
                    log(step.row())
                if save and self.index % save_every == 0:
                    self.save(save)
        if save:
            self.save(save)
        return self

    def extend(
        self,
        epochs: float = 1,  # on top of those that the run has
        say: bool = True,
    ) -> "Run":
        "More epochs, in which the schedule starts anew: the learning rate climbs and falls once more. Returns the run."
        if not is_epochs(epochs):
            raise ValueError(f"epochs must be a number above 0, at most a million; given: {epochs!r}")
        start = len(self)
        self.extended.append(epochs)
        self._schedule.add(start, len(self))
        if say and self.is_main_process:
            print(f"{len(self) - start} more steps; their schedule starts anew, up to lr={self.lr:g}.")
        return self

    # evaluation

    def evaluate(
        self,
        split: str = "validation",
    ) -> dict[str, float]:
        """The model's metrics on a split: accuracy, precision, recall, F1 and loss of a classifier; micro and macro F1,
        the share of exact matches and loss for several classes a text; MSE, MAE, Pearson's correlation and loss of
        a regression; loss and perplexity of a language model; with several tasks, `task/metric` for each.

        Counted over examples, so the batch size changes nothing. Training goes on as if it had not happened.
        """
        return self._evaluation.metrics(split, self.config["batch_size"])

    def predict(
        self,
        texts: str | Sequence[str] = "test",  # a split's name, or texts in a list
    ) -> "pd.DataFrame":
        """What the model says, a row an example, in their order.

        Of a split: text, label, prediction, and of classes (by number) confidence and logits. Of texts: text,
        prediction by name, confidence and the probability of each class. For one task.
        """
        if isinstance(texts, str):
            return self._evaluation.predictions(texts, self.config["batch_size"])
        with self._evaluation.undisturbed():
            return predict(self.model, self.tokenizer, texts, self.config["batch_size"])

    # files

    def save(
        self,
        path: str | Path,  # of the file, such as "run.safetensors"; an older one is replaced, whole or not at all
    ) -> None:
        "Write all that `resume` needs: what was trained, the optimizer's state, the random state, the history."
        with self.random_state.swapped_in():  # no other thread is in the middle of a step
            self._read_steps()
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
        batch_size: int | None = None,  # another one; accumulation keeps the number of examples in a step
    ) -> "Run":
        """The run that was saved at `path`, about to take its next step: on a CPU its curve is the same to the bit.

        Of a folder it is the newest whole one; damaged ones are warned of and passed over. In another number of
        processes steps have the same examples, and sums are rounded otherwise; each process goes on with the random
        numbers of its rank, a further one begins with its own, so that dropout draws others, as with another seed.
        Raises ValueError when the file is damaged, when model, data or optimizer are not those of the saved run, or the
        examples of a step cannot be shared out.
        """
        file, header = newest_whole(Path(path))
        config = config_here(file, header, batch_size)
        run = cls(model, tokenizer, data, loss=loss, optimizer=optimizer, cache=cache, **config)
        load_run(run, file, header)
        return run


def _shown(metrics: dict[str, float]) -> dict[str, str]:
    return {name: f"{value:.3f}" for name, value in metrics.items() if name.endswith(("accuracy", "perplexity", "mse"))}


__all__ = ["NonFiniteLoss", "Run", "Step"]
