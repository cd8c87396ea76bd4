"""The same seed gives the same bits in a new process, whatever the method; more threads only round otherwise."""

import json
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from tiny import classification, tiny_model, tiny_run, tiny_tokens, weights

from finetune_lessons.adapters import add_adapters
from finetune_lessons.distillation import Distillation, make_student
from finetune_lessons.lab.training.activations import ActivationCache
from finetune_lessons.lab.training.run import Run
from finetune_lessons.lora import add_lora
from finetune_lessons.model_surgery import freeze, unfreeze
from finetune_lessons.multitask import (
    DynamicWeightAverage,
    GradNorm,
    MultiTask,
    MultiTaskModel,
    PCGrad,
    UncertaintyWeighting,
)
from finetune_lessons.prefix_tuning import add_prefix
from finetune_lessons.prompt_tuning import add_prompt

SPREAD = 1e-5  # relative, of losses and gradient norms in fp32, between one thread and two


def seeded(add: Callable) -> Callable[[], Run]:
    "What the method adds is random too."

    def make_run() -> Run:
        torch.manual_seed(0)
        return tiny_run(add(tiny_model("bert")))

    return make_run


def distilling() -> Run:
    teacher = tiny_model("bert", seed=1)
    return tiny_run(make_student(teacher, layers=[1]), loss=Distillation(teacher, temperature=2.0, alpha=0.5))


def multitask(weighting: Callable) -> Callable[[], Run]:
    def make_run() -> Run:
        model = MultiTaskModel(tiny_model("bert"), {"a": 2, "b": 2})
        loss = MultiTask(dict.fromkeys("ab", classification), weighting=weighting())
        return tiny_run(model, {"a": tiny_tokens(), "b": tiny_tokens(48)}, loss=loss, sampling="together")

    return make_run


METHODS: dict[str, Callable[[], Run]] = {
    "full": seeded(lambda model: model),
    "probe": seeded(lambda model: unfreeze(freeze(model), "classifier")),
    "probe with a cache": lambda: tiny_run(unfreeze(freeze(tiny_model("bert")), "classifier"), cache=ActivationCache()),
    "adapters": seeded(lambda model: add_adapters(model, bottleneck_size=8)),
    "LoRA": seeded(lambda model: add_lora(model, r=4, lora_dropout=0.1)),
    "prefix": seeded(lambda model: add_prefix(model, 5)),
    "prompt": seeded(lambda model: add_prompt(model, 5)),
    "distillation": distilling,
    "uncertainty weighting": multitask(lambda: UncertaintyWeighting("ab")),
    "dynamic weight average": multitask(lambda: DynamicWeightAverage("ab")),
    "GradNorm": multitask(lambda: GradNorm("ab")),
    "PCGrad": multitask(PCGrad),
}


def curves() -> dict[str, list[str]]:
    "Of every method: all bits of its losses and gradient norms, and of the sums of the weights it ends with."
    found = {}
    for name, make_run in METHODS.items():
        run = make_run().finish()
        numbers = [number for step in run.steps for number in (step.loss, step.grad_norm)]
        sums = [tensor.double().sum().item() for tensor in weights(run.model).values()]
        found[name] = [float(number).hex() for number in numbers + sums]
    return found


def in_a_process(threads: int, hash_seed: int) -> dict[str, list[str]]:
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONHASHSEED": str(hash_seed)}
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def processes():
    return [in_a_process(threads=1, hash_seed=0), in_a_process(threads=1, hash_seed=1)]


@pytest.mark.parametrize("method", METHODS)
def test_a_new_process_gives_the_same_bits(method, processes):
    first, second = (process[method] for process in processes)
    assert first == second
    assert len(set(first)) > 10


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two processors")
def test_numbers_of_threads_differ_by_rounding_only(processes):
    of_two = in_a_process(threads=2, hash_seed=0)
    for method, curve in processes[0].items():
        steps = 2 * len(METHODS[method]())
        one, two = ([float.fromhex(number) for number in numbers[:steps]] for numbers in (curve, of_two[method]))
        assert one == pytest.approx(two, rel=SPREAD), method


if __name__ == "__main__":
    print(json.dumps(curves()))
