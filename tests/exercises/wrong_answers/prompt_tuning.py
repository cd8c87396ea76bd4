"""Lesson 24."""

import torch
import torch.nn.functional as F

from finetune_lessons.exercises import prompt_tuning as checks


def grown(p, e, m, value):
    return torch.cat(
        [torch.cat([p.expand(len(e), -1, -1), e], 1), F.pad(m.float(), (len(p), 0), value=value)[..., None]], -1
    )


def behind(p, e, m):
    return torch.cat(
        [torch.cat([e, p.expand(len(e), -1, -1)], 1), F.pad(m.float(), (0, len(p)), value=1.0)[..., None]], -1
    )


WRONG = [
    (checks.check_prepend, lambda p, e, m: grown(p, e, m, 0.0), "hides the prompt"),
    (checks.check_prepend, behind, "stands behind the text"),
    (checks.check_prepend, lambda p, e, m: grown(p, e, m.fill_(1), 1.0), "shows the padding"),
    (
        checks.check_prepend,
        lambda p, e, m: torch.cat([grown(p, e, m, 1.0)[..., :-1], F.pad(m, (0, len(p)), value=1)[..., None]], -1),
        "wrong end",
    ),
    (checks.check_parameter_counts, lambda n, d, k, r: torch.tensor([n * d, n * d * k, 4 * r * d * k]), "needs both"),
    (
        checks.check_parameter_counts,
        lambda n, d, k, r: torch.tensor([n * d * k, 2 * n * d * k, 4 * r * d * k]),
        "at the input only",
    ),
    (
        checks.check_parameter_counts,
        lambda n, d, k, r: torch.tensor([n * d, 2 * n * d, 4 * r * d * k]),
        "in all of them",
    ),
    (
        checks.check_parameter_counts,
        lambda n, d, k, r: torch.tensor([n * d, 2 * n * d * k, 2 * r * d * k]),
        "one of its two factors",
    ),
    (
        checks.check_parameter_counts,
        lambda n, d, k, r: torch.tensor([n * d, 2 * n * d * k, 2 * d * d * k]),
        "full matrices",
    ),
    (checks.check_class_logits, lambda z, m, w: z[:, -1][:, w], "last column"),
    (checks.check_class_logits, lambda z, m, w: z[range(len(z)), m.sum(1) % z.shape[1]][:, w], "one token too far"),
    (checks.check_class_logits, lambda z, m, w: z[range(len(z)), m.sum(1) - 2][:, w], "one token too early"),
    (checks.check_class_logits, lambda z, m, w: z[:, 0][:, w], "first token"),
    (
        checks.check_class_logits,
        lambda z, m, w: z[range(len(z)), m.sum(1) - 1, : len(w)],
        "first words of the vocabulary",
    ),
    (checks.check_class_logits, lambda z, m, w: z[range(len(z)), m.sum(1) - 1][:, w.flip(0)], "another order"),
    (checks.check_nearest, lambda v, t: (v @ t.T).argmax(-1), "long embeddings win"),
    (checks.check_nearest, lambda v, t: (v[:, None] - t).norm(dim=-1).argmin(-1), "short embeddings win"),
    (checks.check_nearest, lambda v, t: F.cosine_similarity(v[:, None], t, dim=-1).argmin(-1), "points away"),
    (checks.check_prompt_labels, lambda i, m, n: F.pad(i.masked_fill(m == 0, -100), (n, 0)), "label 0"),
    (
        checks.check_prompt_labels,
        lambda i, m, n: F.pad(i.masked_fill(m == 0, -100), (0, n), value=-100),
        "behind the text",
    ),
    (checks.check_prompt_labels, lambda i, m, n: F.pad(i, (n, 0), value=-100), "hold the padding"),
    (checks.check_prompt_labels, lambda i, m, n: F.pad(i.masked_fill(m == 0, -100), (n - 1, 1), value=-100), "shifted"),
]
