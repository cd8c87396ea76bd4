"""Checks of lesson 11, cross-entropy."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from finetune_lessons.exercises.calls import AUTOGRAD, LOSSES
from finetune_lessons.exercises.check import Draw, Exercises, Function, Verdict, as_tensor, check, name_of

exercise = Exercises(11)


@exercise
def check_cross_entropy(
    learner: Function,  # learner(logits (examples, classes), targets (examples,)) -> mean loss; target -100: left out
) -> Verdict:
    "Is it the mean of -log softmax(logits)[target], over the targets that are not -100, even for huge logits?"
    draw = Draw()
    logits, targets = draw(6, 4), draw.wholes(0, 3, 6)
    padded = targets.masked_fill(draw.order(6) < 3, -100)
    cases = {
        "six examples": (logits, targets),
        "targets of -100": (logits, padded),
        "logits of 10,000": (torch.tensor([[1e4, -1e4], [-1e4, 1e4]]), torch.tensor([0, 0])),
    }
    mistakes: dict[str, Function] = {
        "your loss averages over the padding too": lambda z, y: F.cross_entropy(z, y, reduction="sum") / len(y),
        "your loss is a sum, not a mean": lambda z, y: F.cross_entropy(z, y, reduction="sum"),
        "your loss has the sign of a log-probability; surprise is minus that": lambda z, y: -F.cross_entropy(z, y),
        "your loss is in bits, log2; nats (log) are the convention": lambda z, y: F.cross_entropy(z, y) / 0.6931471806,
        "your loss takes the softmax twice": lambda z, y: F.cross_entropy(z.softmax(-1), y),
        "your loss reads the target -100 as the last class": lambda z, y: F.cross_entropy(z, y % z.shape[-1]),
        "your softmax runs over the examples, not the classes": lambda z, y: F.nll_loss(z.log_softmax(0), y),
        "your loss overflows: subtract the largest logit first": lambda z, y: F.nll_loss(_naive_log_softmax(z), y),
    }
    return check(learner, cases, F.cross_entropy, mistakes, without=LOSSES)


def _naive_log_softmax(logits: Tensor) -> Tensor:
    return (logits.exp() / logits.exp().sum(-1, keepdim=True)).log()


@exercise
def check_gradient(
    learner: Function,  # learner(logits (examples, classes), targets (examples,)) -> gradient (examples, classes)
) -> Verdict:
    "Is it the gradient of the mean cross-entropy with respect to the logits, without autograd's help?"
    draw = Draw()

    def solution(logits: Tensor, targets: Tensor) -> Tensor:
        logits = logits.clone().requires_grad_()
        return torch.autograd.grad(F.cross_entropy(logits, targets), logits)[0]

    def residual(logits: Tensor, targets: Tensor) -> Tensor:
        return logits.softmax(-1) - F.one_hot(targets, logits.shape[-1])

    cases = {
        "two classes": (draw(3, 2), draw.wholes(0, 1, 3)),
        "five classes": (draw(7, 5), draw.wholes(0, 4, 7)),
    }
    mistakes: dict[str, Function] = {
        "your gradient is that of the sum: the mean divides it by the number of examples": residual,
        "your gradient points downhill; a gradient points uphill": lambda z, y: -residual(z, y) / len(z),
        "your gradient leaves out the softmax": lambda z, y: (z - F.one_hot(y, z.shape[-1])) / len(z),
        "your gradient leaves out the target": lambda z, y: z.softmax(-1) / len(z),
    }
    return check(learner, cases, solution, mistakes, without=AUTOGRAD)


@exercise
def check_smooth_targets(
    learner: Function,  # learner(targets (examples,), classes, epsilon) -> probabilities (examples, classes)
) -> Verdict:
    "Is it the target distribution of label smoothing, such that cross-entropy with it equals torch's?"
    draw = Draw()

    def solution(targets: Tensor, classes: int, epsilon: float) -> Tensor:
        return (1 - epsilon) * F.one_hot(targets, classes) + epsilon / classes

    def others_only(targets: Tensor, classes: int, epsilon: float) -> Tensor:
        one_hot = F.one_hot(targets, classes).float()
        return (1 - epsilon) * one_hot + epsilon / (classes - 1) * (1 - one_hot)

    def no_discount(targets: Tensor, classes: int, epsilon: float) -> Tensor:
        return F.one_hot(targets, classes) + epsilon / classes

    targets, epsilon = draw.wholes(0, 2, 5), draw.number(0.05, 0.4)
    cases = {
        f"epsilon = {epsilon:g}": (targets, 3, epsilon),
        "four classes": (targets, 4, draw.number(0.05, 0.4)),
        "epsilon = 0": (targets, 3, 0.0),
    }
    mistakes: dict[str, Function] = {
        "your epsilon goes to the other classes only; the target gets its share epsilon / K too": others_only,
        "your rows do not sum to 1: take epsilon from the target first": no_discount,
        "your targets are not smoothed": lambda y, k, e: F.one_hot(y, k).float(),
    }
    return check(learner, cases, solution, mistakes, 1e-6)


@exercise
def check_temperature(
    learner: Function,  # learner(logits (examples, classes), labels (examples,)) -> temperature
) -> Verdict:
    "Is it the temperature T at which the mean cross-entropy of logits / T is lowest? To 2%."
    draw = Draw()

    def solution(logits: Tensor, labels: Tensor) -> Tensor:
        grid = torch.logspace(-1.5, 1.5, 6001, dtype=torch.double)
        losses = torch.stack([F.cross_entropy(logits.double() / t, labels) for t in grid])
        return grid[losses.argmin()]

    def drawn(temperature: float) -> tuple[Tensor, Tensor]:
        "Logits, and labels drawn from softmax(logits / temperature)."
        logits = draw(2000, 3)
        return logits, draw.sample((logits / temperature).softmax(-1))

    cases = {
        "an overconfident model": drawn(draw.number(2.0, 3.0)),
        "a timid model": drawn(draw.number(0.4, 0.6)),
    }
    mistakes: dict[str, Function] = {
        "you return 1 / T: the logits are divided by T": lambda z, y: 1 / solution(z, y),
        "you return the lowest loss, not the temperature": lambda z, y: F.cross_entropy(z / solution(z, y).float(), y),
        "your temperature changes nothing": lambda z, y: 1.0,
    }
    return check(_as_number(learner), cases, solution, mistakes, 0.02)


def _as_number(learner: Function) -> Function:
    "One number in a list or a tensor is a right answer too."

    def number(*arguments: Any) -> Any:
        answer = learner(*arguments)
        numbers = as_tensor(answer)
        return answer if numbers is None or numbers.numel() != 1 else numbers.reshape(())

    number.__name__ = name_of(learner)
    return number


@exercise
def check_perplexity(
    learner: Function,  # learner(logits (texts, tokens, vocabulary), input_ids, attention_mask) -> perplexity
) -> Verdict:
    "Is it exp of the mean surprise at each next token, over all real tokens of all texts together?"
    draw = Draw()

    def solution(logits: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), _labels(ids, mask)[:, 1:].flatten()).exp()

    def not_shifted(logits: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        return F.cross_entropy(logits.flatten(0, 1), _labels(ids, mask).flatten()).exp()

    def backwards(logits: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        return F.cross_entropy(logits[:, 1:].flatten(0, 1), _labels(ids, mask)[:, :-1].flatten()).exp()

    def with_padding(logits: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).exp()

    def mean_of_texts(logits: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        return torch.stack([solution(*(x[i : i + 1] for x in (logits, ids, mask))) for i in range(len(ids))]).mean()

    def exp_of_mean_of_means(logits: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        each = [solution(*(x[i : i + 1] for x in (logits, ids, mask))).log() for i in range(len(ids))]
        return torch.stack(each).mean().exp()

    ids = draw.wholes(0, 6, 3, 9)
    full, mask = torch.ones_like(ids), torch.ones_like(ids)
    mask[1, 4:], mask[2, 6:] = 0, 0
    logits = draw(3, 9, 7)
    cases = {"texts of one length": (logits, ids, full), "padded texts": (logits, ids, mask)}
    mistakes: dict[str, Function] = {
        "you compare each token with its own logits; those at t speak of token t + 1": not_shifted,
        "you shifted the wrong way: the logits at t speak of token t + 1": backwards,
        "you count the padding": with_padding,
        "you average the perplexities of the texts; average the surprise of all tokens": mean_of_texts,
        "you average each text first; every token counts the same": exp_of_mean_of_means,
        "you return the loss; perplexity is its exp": lambda *arguments: solution(*arguments).log(),
    }
    return check(learner, cases, solution, mistakes)


def _labels(ids: Tensor, mask: Tensor) -> Tensor:
    return ids.masked_fill(mask == 0, -100)


@exercise
def check_focal_loss(
    learner: Function,  # learner(logits (examples, classes), targets (examples,), gamma) -> mean loss
) -> Verdict:
    "Is it the focal loss, the mean of (1 - p)^gamma (-log p) with p the target's probability (arXiv:1708.02002)?"
    draw = Draw()

    def solution(logits: Tensor, targets: Tensor, gamma: float, power: Function = lambda p, g: (1 - p) ** g) -> Tensor:
        log_p = logits.log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1)
        return (power(log_p.exp(), gamma) * -log_p).mean()

    logits, targets = draw(8, 3), draw.wholes(0, 2, 8)
    cases = {f"gamma = {gamma:g}": (logits, targets, gamma) for gamma in (0.0, 2.0, 0.5)}
    mistakes: dict[str, Function] = {
        "your factor is p^gamma: it silences the hard examples": lambda z, y, g: solution(z, y, g, lambda p, g: p**g),
        "your factor ignores gamma": lambda z, y, g: solution(z, y, 1.0),
        "you left out the factor": lambda z, y, g: F.cross_entropy(z, y),
    }
    return check(learner, cases, solution, mistakes)


__all__ = [
    "check_cross_entropy",
    "check_gradient",
    "check_smooth_targets",
    "check_temperature",
    "check_perplexity",
    "check_focal_loss",
]
