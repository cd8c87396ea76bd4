"""Lesson 12."""

import torch

from finetune_lessons.exercises import optimizers as checks


def adam(gradients, beta1, beta2, eps, m_corrected=True, v_corrected=True, root="outside"):
    m = v = torch.zeros(gradients.shape[1])
    for g in gradients:
        m, v = torch.lerp(m, g, 1 - beta1), torch.lerp(v, g**2, 1 - beta2)
    m = m / (1 - beta1 ** len(gradients)) if m_corrected else m
    v = v / (1 - beta2 ** len(gradients)) if v_corrected else v
    return m / {"outside": v**0.5 + eps, "inside": (v + eps) ** 0.5, "none": v + eps}[root]


def momentum(gradients, mu, dampening):
    b = gradients[0] * (1 - dampening)
    for g in gradients[1:]:
        b = mu * b + (1 - dampening) * g
    return b


def lion(w, g, m, lr, beta1, beta2):
    return torch.stack([w - lr * torch.sign(beta1 * m + (1 - beta1) * g), torch.lerp(m, g, 1 - beta2)])


def m_first(w, g, m, lr, beta1, beta2):
    m = torch.lerp(m, g, 1 - beta2)
    return torch.stack([w - lr * m.sign(), m])


WRONG = [
    (checks.check_momentum, lambda gs, mu: momentum(gs, mu, dampening=mu), "is a mean"),
    (checks.check_momentum, lambda gs, mu: gs.sum(0), "sum of all"),
    (checks.check_momentum, lambda gs, mu: gs[-1], "last gradient"),
    (checks.check_momentum, lambda gs, mu: sum(mu * g for g in gs), "multiplies the new"),
    (checks.check_momentum, lambda gs, mu: sum(g * mu**i for i, g in enumerate(gs)), "wrong order"),
    (checks.check_adam, lambda *given: adam(*given, m_corrected=False, v_corrected=False), "not corrected"),
    (checks.check_adam, lambda *given: adam(*given, v_corrected=False), "your v is not"),
    (checks.check_adam, lambda *given: adam(*given, root="inside"), "under the root"),
    (checks.check_adam, lambda *given: adam(*given, root="none"), "root is missing"),
    (checks.check_adam, lambda gs, beta1, beta2, eps: adam(gs, beta2, beta1, eps), "exchanged"),
    (checks.check_decay, lambda w, s, lr, d: w - d * w - lr * s, "lacks the learning rate"),
    (checks.check_decay, lambda w, s, lr, d: (w - lr * s) * (1 - lr * d), "shrinks the step too"),
    (checks.check_decay, lambda w, s, lr, d: w + lr * (d * w - s), "grow"),
    (checks.check_decay, lambda w, s, lr, d: w - lr * s, "do not decay"),
    (checks.check_decay, lambda w, s, lr, d: w - lr * (s + lr * d * w), "twice"),
    (checks.check_lion, m_first, "follows the new m"),
    (
        checks.check_lion,
        lambda w, g, m, lr, b1, b2: torch.stack([lion(w, g, m, lr, b1, b2)[0], torch.lerp(m, g, 1 - b1)]),
        "moves by beta1",
    ),
    (
        checks.check_lion,
        lambda w, g, m, lr, b1, b2: torch.stack([w - lr * torch.lerp(m, g, 1 - b1), torch.lerp(m, g, 1 - b2)]),
        "not a sign",
    ),
    (checks.check_lion, lambda w, g, m, lr, b1, b2: lion(w, g, m, -lr, b1, b2), "uphill"),
    (checks.check_lion, lambda *given: lion(*given).flip(0), "has m first"),
    (checks.check_factored, lambda v: torch.outer(v.mean(1), v.mean(0)), "not divided"),
    (checks.check_factored, lambda v: torch.outer(v.sum(1), v.sum(0)) / v.mean(), "are sums"),
    (checks.check_factored, lambda v: torch.outer(v.mean(1), v.mean(0)) / v.sum(), "is a sum"),
    (checks.check_factored, lambda v: v.mean(1)[:, None].repeat(1, v.shape[1]), "rows alone"),
    (checks.check_factored, lambda v: v.mean(0).repeat(len(v), 1), "columns alone"),
    (checks.check_factored, lambda v: v.clone(), "v itself"),
    (checks.check_linear_schedule, lambda t, n, w: min((t + 1) / max(w, 1), (n - t - 1) / (n - w)), "one step ahead"),
    (checks.check_linear_schedule, lambda t, n, w: t / w if t < w else 1 - t / n, "no warm-up"),
    (checks.check_linear_schedule, lambda t, n, w: min(1.0, (n - t) / (n - w)), "does not climb"),
    (checks.check_linear_schedule, lambda t, n, w: min(1.0, t / w if w else 1.0), "does not fall"),
    (checks.check_linear_schedule, lambda t, n, w: t / w if t < w else 1 - t / (n - w), "count from its end"),
    (checks.check_paired, lambda a, b: (a - b).mean() / (a.var() / len(a) + b.var() / len(b)).sqrt(), "are pairs"),
    (checks.check_paired, lambda a, b: (a - b).mean() / torch.std(a - b), "that of one run"),
    (
        checks.check_paired,
        lambda a, b: (a - b).mean() * len(a) ** 0.5 / torch.std(a - b, correction=0),
        "divides by n",
    ),
    (checks.check_paired, lambda a, b: (b - a).mean() * len(a) ** 0.5 / torch.std(b - a), "are b - a"),
    (checks.check_paired, lambda a, b: a.mean() - b.mean(), "is the mean of the differences"),
]
