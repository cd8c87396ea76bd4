"""Checks of lesson 34, contrastive learning."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from finetune_lessons.exercises.cases import telling
from finetune_lessons.exercises.check import Draw, Exercises, Function, Verdict, check

exercise = Exercises(34)


@exercise
def check_pool(
    learner: Function,  # learner(hidden (texts, tokens, width), mask (texts, tokens) of 0 and 1) -> (texts, width)
) -> Verdict:
    "Is it the mean over the real tokens of each text?"
    draw = Draw()

    def case(*lengths: int) -> tuple[Tensor, Tensor]:
        longest = max(lengths)
        return draw(len(lengths), longest, 3), (torch.arange(longest) < torch.tensor(lengths)[:, None]).long()

    n = draw.whole(5, 8)
    cases = {
        "texts of one length": case(4, 4),
        "texts of unlike length": case(n, 2, n - 1),
        "a text of one token": case(3, 1),
    }

    def mean(hidden: Tensor, mask: Tensor) -> Tensor:
        return (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)

    mistakes: dict[str, Function] = {
        "your mean is over the padding too": lambda hidden, mask: hidden.mean(1),
        "your sum is right, and is divided by the longest text; divide by the tokens of each": lambda hidden, mask: (
            (hidden * mask[:, :, None]).mean(1)
        ),
        "your sum is not divided by the number of tokens": lambda hidden, mask: (hidden * mask[:, :, None]).sum(1),
        "your sum is divided by the tokens of all texts; divide by those of each": lambda hidden, mask: (
            (hidden * mask[:, :, None]).sum(1) / mask.sum()
        ),
        "your vector is that of the first token alone": lambda hidden, mask: hidden[:, 0],
        "your mask is the wrong way round: 1 is a real token": lambda hidden, mask: (
            mean(hidden, 1 - mask).nan_to_num(0.0)
        ),
    }
    return check(learner, cases, mean, mistakes)


@exercise
def check_info_nce(
    learner: Function,  # learner(queries (rows, width), positives (rows, width), temperature) -> a number
) -> Verdict:
    "Is it the mean cross-entropy of cosines / temperature, where row i is to find candidate i?"
    draw = Draw()
    cases = {
        "vectors of any length": (draw(5, 4), draw(5, 4), draw.number(0.2, 0.4)),
        "a low temperature": (draw(3, 4), draw(3, 4), 0.05),
        "temperature 1": (draw(4, 6), draw(4, 6), 1.0),
        "a single row": (draw(1, 4), draw(1, 4), 0.1),
    }

    def scores(q: Tensor, p: Tensor) -> Tensor:
        return normalize(q, dim=-1) @ normalize(p, dim=-1).T

    def loss(logits: Tensor) -> Tensor:
        return cross_entropy(logits, torch.arange(len(logits)))

    def without_the_pair(q: Tensor, p: Tensor, t: float) -> Tensor:
        logits = scores(q, p) / t
        others = logits.masked_fill(torch.eye(len(q)) > 0, float("-inf"))
        return (others.logsumexp(-1) - logits.diagonal()).mean().nan_to_num(0.0, neginf=0.0)

    mistakes: dict[str, Function] = {
        "your products are no cosines: bring both vectors to length 1": lambda q, p, t: loss(q @ p.T / t),
        "your cosines are multiplied by the temperature; divide by it": lambda q, p, t: loss(scores(q, p) * t),
        "your temperature is left out": lambda q, p, t: loss(scores(q, p)),
        "your loss is a sum over the rows; take the mean": lambda q, p, t: len(q) * loss(scores(q, p) / t),
        "your softmax goes over the queries; each query is to find its candidate": lambda q, p, t: (
            loss(scores(p, q) / t)
        ),
        "your sum leaves the positive out; it is one of the candidates": without_the_pair,
        "your loss is that of the positives alone; the others have to be pushed away": lambda q, p, t: (
            -(scores(q, p) / t).diagonal().mean()
        ),
    }
    return check(learner, cases, lambda q, p, t: loss(scores(q, p) / t), mistakes)


@exercise
def check_false_negatives(
    learner: Function,  # learner(scores (rows, rows), names (rows,)) -> a number
) -> Verdict:
    "Is it the loss in which a candidate with the row's name, other than its own, does not count?"
    draw = Draw()
    cases = {
        "six times the same": (draw(6, 6, size=1.0), torch.zeros(6, dtype=torch.long)),
        "some are the same": (draw(6, 6, size=1.0), torch.tensor([0, 1, 0, 2, 1, 0])[draw.order(6)]),
        "all are different": (draw(4, 4, size=1.0), draw.order(4)),
    }

    def masked(scores: Tensor, names: Tensor, fill: float = float("-inf"), own: bool = True) -> Tensor:
        same = names == names[:, None]
        if own:
            same = same & ~torch.eye(len(names), dtype=torch.bool)
        return scores.masked_fill(same, fill)

    def loss(logits: Tensor, positives: Tensor) -> Tensor:
        return (logits.logsumexp(-1) - positives.diagonal()).mean()

    def solution(scores: Tensor, names: Tensor) -> Tensor:
        return loss(masked(scores, names), scores)

    mistakes: dict[str, Function] = {
        "your loss counts equal names as negatives": lambda scores, names: loss(scores, scores),
        "your mask sets scores to 0, and e^0 is 1; set them to -infinity": lambda scores, names: (
            loss(masked(scores, names, 0.0), scores)
        ),
        "your mask takes the row's own candidate away too": lambda scores, names: (
            loss(masked(scores, names, -1e9, own=False), scores)
        ),
        "your rows that share a name are left out; they still have negatives": lambda scores, names: (
            _of_single_rows(scores, names)
        ),
        "your loss is a sum over the rows; take the mean": lambda scores, names: len(names) * solution(scores, names),
    }
    return check(learner, cases, solution, mistakes)


def _of_single_rows(scores: Tensor, names: Tensor) -> Tensor:
    single = (names == names[:, None]).sum(1) == 1
    if not single.any():
        return scores.new_zeros(())
    return (scores.logsumexp(-1) - scores.diagonal())[single].mean()


@exercise
def check_mrr(
    learner: Function,  # learner(cosines (queries, documents), right (queries,)) -> a number
) -> Verdict:
    "Is it the mean of 1 / rank of the right document, where a tie counts against it?"
    draw = Draw()

    def own(cosines: Tensor, right: Tensor) -> Tensor:
        return cosines[torch.arange(len(right)), right][:, None]

    def ranks(cosines: Tensor, right: Tensor) -> Tensor:
        return (cosines >= own(cosines, right)).sum(1).double()

    def mrr(cosines: Tensor, right: Tensor) -> Tensor:
        return (1 / ranks(cosines, right)).mean()

    mistakes: dict[str, Function] = {
        "your answer is the mean rank; take the mean of 1 / rank": lambda *given: ranks(*given).mean(),
        "your mean is taken before you turn it over: the mean of 1 / rank, not 1 / mean rank": lambda *given: (
            1 / ranks(*given).mean()
        ),
        "your answer is recall@1: it only asks who comes first": lambda *given: (ranks(*given) == 1).double().mean(),
        "your ranks begin at 0; the first has the rank 1": lambda *given: (1 / (ranks(*given) - 1)).mean(),
        "your order is upside down: the highest cosine comes first": lambda cosines, right: (
            (1 / (cosines <= own(cosines, right)).sum(1).double()).mean()
        ),
    }
    ties: dict[str, Function] = {
        "your ties count for the right document: a model that has collapsed would be perfect": lambda cosines, right: (
            (1 / ((cosines > own(cosines, right)).sum(1) + 1.0)).mean()
        ),
    }
    cases = {
        "any cosines": telling(lambda: (draw(5, 7, size=0.3), draw.wholes(0, 6, 5)), mrr, mistakes.values()),
        "one document": (draw(2, 1, size=0.3), torch.zeros(2, dtype=torch.long)),
        "all alike": (torch.full((3, draw.whole(3, 6)), 0.5), torch.tensor([0, 1, 2])),
    }
    return check(learner, cases, mrr, mistakes | ties)


@exercise
def check_uniformity(
    learner: Function,  # learner(x (texts, width)), vectors of length 1 -> a number
) -> Verdict:
    "Is it the log of the mean of e^(-2 squared distance) over all pairs of different texts?"
    draw = Draw()
    n = draw.whole(4, 7)
    cases = {
        "any vectors": (normalize(draw(n, 3), dim=-1),),
        "two texts": (normalize(draw(2, 5), dim=-1),),
        "all in one point": (normalize(draw(1, 3), dim=-1).expand(4, -1).clone(),),
    }

    def squares(x: Tensor) -> Tensor:
        return torch.pdist(x.double()).square()

    mistakes: dict[str, Function] = {
        "your mean takes each text with itself as well, a distance of 0": lambda x: (
            torch.cat([(-2 * squares(x)).exp().repeat(2), torch.ones(len(x))]).mean().log()
        ),
        "your distances are not squared": lambda x: (-2 * torch.pdist(x.double())).exp().mean().log(),
        "your factor of 2 is missing": lambda x: (-squares(x)).exp().mean().log(),
        "your logarithm is missing": lambda x: (-2 * squares(x)).exp().mean(),
        "your logarithm is taken before the mean": lambda x: (-2 * squares(x)).mean(),
        "your sum over the pairs is not divided by their number": lambda x: (-2 * squares(x)).exp().sum().log(),
    }
    return check(learner, cases, lambda x: (-2 * squares(x)).exp().mean().log(), mistakes)


__all__ = [
    "check_pool",
    "check_info_nce",
    "check_false_negatives",
    "check_mrr",
    "check_uniformity",
]
