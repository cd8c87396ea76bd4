"""Lesson 51."""

import torch
from torch.nn.functional import cross_entropy, nll_loss

from finetune_lessons.exercises import ensembles as checks


def mean_p(f):
    return sum(one.softmax(-1) for one in f) / len(f)


def most(f, tie):
    "Of each row the class with most votes, and of those the largest by `tie`."
    answers = []
    for row in range(f.shape[1]):
        said = f[:, row].argmax(-1).tolist()
        answers.append(max(range(f.shape[2]), key=lambda c: (said.count(c), tie(f[:, row].softmax(-1), c))))
    return answers


def fewest(f):
    answers = []
    for row in range(f.shape[1]):
        said, p = f[:, row].argmax(-1).tolist(), mean_p(f)[row]
        answers.append(min(range(f.shape[2]), key=lambda c: (said.count(c), -p[c])))
    return answers


def each_loss(f, y):
    return [nll_loss(one.log_softmax(-1), y) for one in f]


def gained(f, y):
    return sum(each_loss(f, y)) / len(f) - nll_loss(mean_p(f).log(), y)


def moving(rows, decay, average):
    for w in rows:
        average = average + (1 - decay) * (w - average)
    return average


def kept(v, k, size=abs):
    rows = []
    for vector in v.tolist():
        limit = sorted(map(size, vector))[-k]
        rows.append([x if size(x) >= limit else 0.0 for x in vector])
    return torch.tensor(rows)


def merged(v, sign=None, count=None):
    sign = torch.sign(v.sum(0)) if sign is None else sign
    agree = v * (v * sign > 0)
    return agree.sum(0) / ((agree != 0).sum(0).clamp(min=1) if count is None else count)


def together(v, k):
    limit = v.abs().flatten().sort(descending=True).values[k * len(v) - 1]
    return v * (v.abs() >= limit)


def loss(w, g):
    return ((w - g) ** 2).sum().item()


def soup(m, g, ranked=None, against=None, join=None, stop=False):
    ranked = sorted(m, key=lambda w: loss(w, g)) if ranked is None else list(ranked)
    chosen, now = [ranked[0]], ranked[0]
    for w in ranked[1:]:
        new = join(now, w) if join else sum([*chosen, w]) / (len(chosen) + 1)
        if loss(new, g) <= loss(now if against is None else ranked[0], g):
            chosen, now = [*chosen, w], new
        elif stop:
            break
    return now


def worst_first(m, g):
    return sorted(m, key=lambda w: -loss(w, g))


WRONG = [
    (checks.check_log_mean, lambda f: sum(one.log_softmax(-1) for one in f) / len(f), "the mean of the logarithms"),
    (checks.check_log_mean, lambda f: (sum(f) / len(f)).log_softmax(-1), "the geometric mean"),
    (checks.check_log_mean, lambda f: (mean_p(f) * len(f)).log(), "members are summed"),
    (checks.check_log_mean, mean_p, "return its logarithm"),
    (checks.check_log_mean, lambda f: f.softmax(0).mean(0).log(), "softmax over the members"),
    (checks.check_log_mean, lambda f: f.exp().mean(0).log(), "leave the softmax out"),
    (checks.check_log_mean, lambda f: mean_p(f).log(), "underflow to 0"),
    (checks.check_log_mean, lambda f: f.softmax(-1).mean(1).log(), "mean is over the rows"),
    (checks.check_vote, lambda f: most(f, lambda p, c: -c), "you take the first; take"),
    (checks.check_vote, lambda f: mean_p(f).argmax(-1), "whatever the votes"),
    (checks.check_vote, lambda f: sum(f).argmax(-1), "the mean of the logits"),
    (checks.check_vote, lambda f: most(f, lambda p, c: c), "you take the last"),
    (checks.check_vote, fewest, "fewest votes"),
    (checks.check_vote, lambda f: most(f, lambda p, c: -p[:, c].mean()), "less probable"),
    (checks.check_vote, lambda f: f.argmax(-1)[0], "first member's"),
    (checks.check_vote, lambda f: most(f, lambda p, c: p[:, c].max()), "surest member"),
    (checks.check_gain, lambda f, y: -gained(f, y), "the wrong way round"),
    (checks.check_gain, lambda f, y: sum(each_loss(f, y)) / len(f) - cross_entropy(sum(f) / len(f), y), "the logits"),
    (checks.check_gain, lambda f, y: nll_loss(mean_p(f).log(), y), "the loss of the average"),
    (checks.check_gain, lambda f, y: sum(each_loss(f, y)) / len(f), "the members' mean loss"),
    (checks.check_gain, lambda f, y: sum(each_loss(f, y)) / len(f) - cross_entropy(mean_p(f), y), "takes logits"),
    (checks.check_gain, lambda f, y: min(each_loss(f, y)) - nll_loss(mean_p(f).log(), y), "the best member's loss"),
    (checks.check_gain, lambda f, y: sum(each_loss(f, y)) - nll_loss(mean_p(f).log(), y), "sum the members' losses"),
    (checks.check_gain, lambda f, y: gained(f, y) * y.numel(), "a sum over the rows"),
    (checks.check_ema, lambda w, d: moving(w, d, torch.zeros(w.shape[1])), "begins at 0"),
    (checks.check_ema, lambda w, d: moving(w[1:], 1 - d, w[0]), "wrong way round"),
    (checks.check_ema, lambda w, d: sum(w) / len(w), "the plain mean"),
    (checks.check_ema, lambda w, d: w[len(w) - 1], "the last weights"),
    (checks.check_ema, lambda w, d: moving(w[2:], d, w[1]), "the second row"),
    (checks.check_ema, lambda w, d: moving(w[1:-1], d, w[0]), "the last row out"),
    (checks.check_ema, lambda w, d: moving(w[1:], d, w[0]) / (1 - d ** (len(w) - 1)), "as Adam does"),
    (checks.check_ema, lambda w, d: moving(reversed(w[:-1]), d, w[-1]), "from the last to the first"),
    (
        checks.check_ema,
        lambda w, d: moving(w, d, torch.zeros(w.shape[1])) / (1 - d),
        "decay times the rows alone",
    ),
    (checks.check_ties, lambda v, k: merged(v), "you do not trim"),
    (checks.check_ties, lambda v, k: merged(kept(v, k, lambda x: -abs(x))), "the smallest entries"),
    (checks.check_ties, lambda v, k: merged(kept(v, k), kept(v, k).sign().sum(0).sign()), "by the number of vectors"),
    (checks.check_ties, lambda v, k: merged(kept(v, k), v.sum(0)), "before you trim"),
    (checks.check_ties, lambda v, k: merged(kept(v, k), count=len(v)), "divide by the number of vectors"),
    (checks.check_ties, lambda v, k: merged(kept(v, k), count=1), "sum those that agree"),
    (
        checks.check_ties,
        lambda v, k: kept(v, k).sum(0) / (kept(v, k) != 0).sum(0).clamp(min=1),
        "whatever their sign",
    ),
    (checks.check_ties, lambda v, k: merged(together(v, k)), "all vectors together"),
    (checks.check_ties, lambda v, k: merged(kept(v, k), -kept(v, k).sum(0)), "that disagree"),
    (checks.check_ties, lambda v, k: merged(kept(v, k, float)), "trim by the value"),
    (checks.check_greedy, lambda m, g: sum(m) / len(m), "the mean of all"),
    (checks.check_greedy, lambda m, g: min(m, key=lambda w: loss(w, g)), "the best member alone"),
    (checks.check_greedy, lambda m, g: soup(m, g, ranked=m), "as they come"),
    (checks.check_greedy, lambda m, g: soup(m, g, ranked=worst_first(m, g)), "begin with the worst"),
    (checks.check_greedy, lambda m, g: soup(m, g, against="best"), "compare with the best member"),
    (checks.check_greedy, lambda m, g: soup(m, g, join=lambda a, b: (a + b) / 2), "every member counts alike"),
    (checks.check_greedy, lambda m, g: soup(m, g, stop=True), "you stop at the first"),
]
