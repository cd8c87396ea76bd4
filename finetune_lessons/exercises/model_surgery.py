"""Checks of lesson 14, model surgery."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from finetune_lessons.exercises.check import Draw, Exercises, Function, Verdict, check, name_of

exercise = Exercises(14)


@exercise
def check_low_rank_parameters(
    learner: Function,  # learner(layer, r) -> number of parameters; layer: nn.Linear
) -> Verdict:
    "Is it the number of parameters of A (r, inputs) and B (outputs, r)?"
    draw = Draw()

    def solution(layer: nn.Linear, r: int) -> int:
        return r * (layer.in_features + layer.out_features)

    cases = {
        "a square layer": (nn.Linear(6, 6), 2),
        "more outputs than inputs": (nn.Linear(draw.whole(4, 90), draw.whole(91, 300)), draw.whole(2, 30)),
        "more inputs than outputs": (nn.Linear(draw.whole(91, 300), draw.whole(4, 90), bias=False), draw.whole(2, 30)),
    }
    mistakes: dict[str, Function] = {
        "you count one of the two matrices": lambda layer, r: r * layer.in_features,
        "you count one of the two matrices, B": lambda layer, r: r * layer.out_features,
        "you count a whole matrix; A and B are two thin ones": lambda layer, r: layer.in_features * layer.out_features,
        "you count the frozen layer too": lambda layer, r: solution(layer, r) + _count(layer.parameters()),
        "you multiply inputs and outputs; the two matrices lie beside each other": (
            lambda layer, r: r * layer.in_features * layer.out_features
        ),
    }
    return check(learner, cases, solution, mistakes)


@exercise
def check_last_layers(
    learner: Function,  # learner(model, k) -> number; the model has `embeddings`, `layers` (a ModuleList), `head`
) -> Verdict:
    "Are the head and the last k layers trainable afterwards, and nothing else? Is the number that of their parameters?"
    draw = Draw()

    def train_only(chosen: Callable[[Any, int], Sequence[nn.Module]]) -> Function:
        def function(model: nn.Module, k: int) -> int:
            model.requires_grad_(False)
            for module in chosen(model, k):
                module.requires_grad_(True)
            return _trainable(model)

        return function

    def trained_afterwards(model: nn.Module, k: int) -> int:
        learner(model, k)
        return _trainable(model)

    trained_afterwards.__name__ = name_of(learner)
    last = train_only(lambda m, k: [m.head, *m.layers[len(m.layers) - k :]])
    widths = [draw.whole(low, low + 5) for low in (5, 11, 17)]
    cases = {
        "k = 1": (_Stack(widths), 1),
        "k = 2": (_Stack(widths), 2),
        "k = 0, the head alone": (_Stack(widths), 0),
        "a model that was frozen": (_Stack(widths).requires_grad_(False), 1),
    }
    mistakes: dict[str, Function] = {
        "you train all layers for k = 0: layers[-0:] is the whole list": train_only(
            lambda m, k: [m.head, *m.layers[-k:]]
        ),
        "you train the first layers, not the last": train_only(lambda m, k: [m.head, *m.layers[:k]]),
        "you left the head frozen": train_only(lambda m, k: [*m.layers[len(m.layers) - k :]]),
        "you train the embeddings too": train_only(lambda m, k: [m.embeddings, m.head, *m.layers[len(m.layers) - k :]]),
        "you count the frozen parameters too": lambda m, k: _count(m.parameters()),
        "you count tensors, not the numbers in them": lambda m, k: 2 * (k + 1),
    }
    left: dict[str, Function] = {
        "your number is right, but all of the model would be trained": lambda m, k: _count(m.parameters()),
        "your number is right, but nothing would be trained": lambda m, k: 0,
    }
    return check(learner, cases, last, mistakes) and check(trained_afterwards, cases, last, left)


class _Stack(nn.Module):
    "Each layer has another size, so that their counts tell which they are."

    def __init__(self, widths: Sequence[int]):
        super().__init__()
        self.embeddings = nn.Embedding(11, 4)
        self.layers = nn.ModuleList([nn.Linear(*sizes) for sizes in pairwise([4, *widths])])
        self.head = nn.Linear(widths[-1], 2)


def _count(parameters: Any) -> int:
    return sum(p.numel() for p in parameters)


def _trainable(model: nn.Module) -> int:
    return _count(p for p in model.parameters() if p.requires_grad)


@exercise
def check_names(
    learner: Function,  # learner(paths, name) -> how many of the paths end in the parts of the name
) -> Verdict:
    "Does it compare the last parts of each path, whole parts only?"
    draw = Draw()
    n = draw.whole(1, 99)
    paths = [
        f"layer.{n}", f"layer.{n}0", f"encoder.layer.{n}", f"encoder.layer.{n}1", f"encoder.xlayer.{n}",
        f"encoder.layer.{n}.attention.query", f"encoder.layer.{n}0.attention.query",
        f"encoder.layer.{n}.attention.multiquery", f"encoder.layer.{n}.query.norm",
        *(f"encoder.layer.{n}{i}.attention.query" for i in range(2, draw.whole(3, 30))),
    ]  # fmt: skip
    paths = [paths[i] for i in draw.order(len(paths))]
    names = ("query", f"layer.{n}", "attention.query", f"encoder.layer.{n}1", "value")
    cases = {f"the name {name!r}": (paths, name) for name in names}

    def counting(matches: Callable[[str, str], bool]) -> Function:
        return lambda paths, name: sum(matches(path, name) for path in paths)

    mistakes: dict[str, Function] = {
        "you look for the name anywhere in the path; it must be the end": counting(lambda path, name: name in path),
        "you compare letters, not parts": counting(lambda path, name: path.endswith(name)),
        "you compare the last part alone": counting(lambda path, name: path.rpartition(".")[2] == name),
        "you compare whole paths": counting(lambda path, name: path == name),
        "you miss the path that is the name itself": counting(lambda path, name: path.endswith(f".{name}")),
        "you look for the parts anywhere in the path; they must be the end": counting(
            lambda path, name: f".{name}." in f".{path}."
        ),
    }
    return check(learner, cases, counting(lambda path, name: f".{path}".endswith(f".{name}")), mistakes)


def _layer(draw: Draw, bias: bool = True) -> nn.Linear:
    layer = nn.Linear(4, 4, bias)
    for parameter in layer.parameters():
        parameter.data = draw(*parameter.shape, size=1.0)
    return layer


@exercise
def check_scaled_forward(
    learner: Function,  # learner(base, s, x, enabled) -> output; base: a module, s: one number a feature
) -> Verdict:
    "Is it base(x) * (1 + s) while enabled, and base(x) otherwise?"
    draw = Draw()
    base, x, s = _layer(draw), draw(3, 4), draw(4, size=0.5)
    cases = {
        "s = 0": (base, torch.zeros(4), x, True),
        "any s": (base, s, x, True),
        "switched off": (base, s, x, False),
    }
    mistakes: dict[str, Function] = {
        "your scale is s, which starts at 0 and lets nothing through; it is 1 + s": lambda base, s, x, on: base(x) * s,
        "you scale what goes in, not what comes out": lambda base, s, x, on: base(x * (1 + s)),
        "you add s": lambda base, s, x, on: base(x) + s,
        "you left the base out": lambda base, s, x, on: x * (1 + s),
        "you scale although it is switched off": lambda base, s, x, on: base(x) * (1 + s),
        "you never scale": lambda base, s, x, on: base(x),
    }
    return check(learner, cases, lambda base, s, x, on: base(x) * (1 + s) if on else base(x), mistakes)


@exercise
def check_switched_off(
    learner: Function,  # learner(wrapper, x) -> wrapper(x) while wrapper.enabled is False; then as it was
) -> Verdict:
    "Is the answer that of the base, and the switch afterwards where it was, even if the base raised an error?"
    draw = Draw()

    def solution(wrapper: Any, x: Tensor) -> Tensor:
        return wrapper.base(x)

    def left_on(wrapper: Any, x: Tensor) -> Tensor:
        wrapper.enabled = True
        return solution(wrapper, x)

    def left_off(wrapper: Any, x: Tensor) -> Tensor:
        wrapper.enabled = False
        return solution(wrapper, x)

    def afterwards(function: Function) -> Function:
        def answer(wrapper: nn.Module, x: Tensor) -> Tensor:
            try:
                function(wrapper, x)
            except RuntimeError:  # of shapes that do not fit
                pass
            return wrapper(torch.ones(1, 4))

        answer.__name__ = name_of(learner)
        return answer

    x, too_wide = draw(3, 4), draw(3, 9)
    on, off = _Doubled(enabled=True), _Doubled(enabled=False)
    cases = {"a wrapper that is on": (on, x), "a wrapper that is off": (off, x)}
    then = {
        "a wrapper that was on": (on, x),
        "a wrapper that was off": (off, x),
        "an error inside": (on, too_wide),
    }
    mistakes: dict[str, Function] = {
        "your answer is that of the wrapper switched on": lambda wrapper, x: 2 * wrapper.base(x),
        "your answer leaves out the base": lambda wrapper, x: x,
    }
    switches: dict[str, Function] = {
        "your switch stays off afterwards; after an error too, it needs try and finally": afterwards(left_off),
        "your switch is on afterwards, though it was off before": afterwards(left_on),
    }
    return check(learner, cases, solution, mistakes) and check(
        afterwards(learner), then, afterwards(solution), switches
    )


class _Doubled(nn.Module):
    def __init__(self, enabled: bool):
        super().__init__()
        self.base, self.enabled = nn.Linear(4, 4, bias=False), enabled
        nn.init.eye_(self.base.weight)

    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.base(x) if self.enabled else self.base(x)


@exercise
def check_merged_scale(
    learner: Function,  # learner(layer, s) -> a new nn.Linear with the output layer(x) * (1 + s)
) -> Verdict:
    "Does the new layer answer as the scaled one, and is the old layer as it was?"
    draw = Draw()
    x = draw(3, 4)

    def output(function: Function) -> Function:
        def answer(layer: nn.Linear, s: Tensor) -> Any:
            made = function(layer, s)
            return made(x).detach() if isinstance(made, nn.Module) else made

        answer.__name__ = name_of(learner)
        return answer

    def old_output(function: Function) -> Function:
        def answer(layer: nn.Linear, s: Tensor) -> Any:
            function(layer, s)
            return layer(x).detach()

        answer.__name__ = name_of(learner)
        return answer

    def with_parameters(weight: Function, bias: Function) -> Function:
        def function(layer: nn.Linear, s: Tensor) -> nn.Linear:
            new = deepcopy(layer)
            with torch.no_grad():
                new.weight.copy_(weight(layer.weight, s))
                if new.bias is not None:
                    new.bias.copy_(bias(layer.bias, s))
            return new

        return function

    def rows(weight: Tensor, s: Tensor) -> Tensor:
        return (1 + s)[:, None] * weight

    def scaled(bias: Tensor, s: Tensor) -> Tensor:
        return (1 + s) * bias

    solution = with_parameters(rows, scaled)
    s = draw(4, size=0.5)
    cases = {"a layer": (_layer(draw), s), "a layer without bias": (_layer(draw, bias=False), s)}
    mistakes: dict[str, Function] = {
        "your layer scales the inputs (columns of the weight), not the outputs (rows)": output(
            with_parameters(lambda weight, s: weight * (1 + s), scaled)
        ),
        "your layer leaves the bias unscaled": output(with_parameters(rows, lambda bias, s: bias)),
        "your layer scales by s; it is 1 + s": output(
            with_parameters(lambda weight, s: s[:, None] * weight, lambda bias, s: s * bias)
        ),
        "your layer is the old one": output(lambda layer, s: layer),
    }
    changed: dict[str, Function] = {"you changed the old layer; work on a copy": output(solution)}
    unchanged = old_output(lambda layer, s: None)
    return check(output(learner), cases, output(solution), mistakes) and check(
        old_output(learner), cases, unchanged, changed
    )


__all__ = [
    "check_low_rank_parameters",
    "check_last_layers",
    "check_names",
    "check_scaled_forward",
    "check_switched_off",
    "check_merged_scale",
]
