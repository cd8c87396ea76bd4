"""Checks of lesson 24, prompt tuning."""

import torch
import torch.nn.functional as F
from torch import Tensor

from finetune_lessons.exercises.check import Draw, Exercises, Function, Verdict, check

exercise = Exercises(24)

IGNORED = -100


@exercise
def check_prepend(
    learner: Function,  # learner(prompt (n, d), embeddings (texts, tokens, d), mask) -> (texts, n + tokens, d + 1)
) -> Verdict:
    "Are the prompt's vectors in front of every text's, with the extended mask as one more column at the end?"
    draw = Draw()

    def built(prompt: Tensor, words: Tensor, mask: Tensor, seen: float = 1.0, behind: bool = False) -> Tensor:
        everywhere = prompt.expand(len(words), -1, -1)
        parts = [(everywhere, torch.full(everywhere.shape[:2], seen)), (words, mask.to(words))]
        vectors, masks = zip(*(parts[::-1] if behind else parts), strict=True)
        return torch.cat([torch.cat(vectors, dim=1), torch.cat(masks, dim=1).unsqueeze(-1)], dim=-1)

    def mask_behind(prompt: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        right = built(prompt, words, mask)
        right[..., -1] = F.pad(mask.to(words), (0, len(prompt)), value=1.0)
        return right

    def all_ones(prompt: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        return built(prompt, words, torch.ones_like(mask))

    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]])
    cases = {
        "texts of one length": (
            draw(2, 3),
            draw(2, 4, 3),
            torch.ones(2, 4, dtype=torch.long),
        ),
        "padded texts": (draw(3, 2), draw(3, 4, 2), mask),
    }
    mistakes: dict[str, Function] = {
        "your mask hides the prompt: its tokens are real": lambda p, e, m: built(p, e, m, seen=0.0),
        "your prompt stands behind the text": lambda p, e, m: built(p, e, m, behind=True),
        "your mask grew at the wrong end": mask_behind,
        "your mask shows the padding": all_ones,
    }
    return check(learner, cases, built, mistakes)


@exercise
def check_parameter_counts(
    learner: Function,  # learner(n, width, layers, r) -> tensor of three counts: prompt, prefix, LoRA
) -> Verdict:
    "Are these the trained numbers of a prompt, of a prefix in every layer, and of LoRA on two square matrices a layer?"
    draw = Draw()

    def solution(n: int, width: int, layers: int, r: int) -> Tensor:
        return torch.tensor([n * width, 2 * n * width * layers, 2 * 2 * r * width * layers])

    def scaled(prompt: float = 1, prefix: float = 1, lora: float = 1) -> Function:
        return lambda *sizes: solution(*sizes) * torch.tensor([prompt, prefix, lora])

    other = draw.whole(2, 30), draw.whole(400, 2000), draw.whole(7, 60), draw.whole(2, 32)
    cases = {"minilm": (20, 384, 6, 8), "a model of other sizes": other}
    mistakes: dict[str, Function] = {
        "your prompt is counted in every layer: it stands at the input only": lambda n, d, layers, r: (
            solution(n, d, layers, r) * torch.tensor([layers, 1, 1])
        ),
        "your prefix has keys or values; it needs both": scaled(prefix=0.5),
        "your prefix stands in one layer; it stands in all of them": lambda n, d, layers, r: torch.tensor(
            [n * d, 2 * n * d, 4 * r * d * layers]
        ),
        "your LoRA counts one of its two factors": scaled(lora=0.5),
        "your LoRA has full matrices: r rows and r columns are enough": lambda n, d, layers, r: torch.tensor(
            [n * d, 2 * n * d * layers, 2 * d * d * layers]
        ),
    }
    return check(learner, cases, solution, mistakes)


@exercise
def check_class_logits(
    learner: Function,  # learner(logits (texts, tokens, vocabulary), attention_mask, word_ids) -> (texts, classes)
) -> Verdict:
    "Are they the class words' logits after the last real token of each text, padded on the right?"
    draw = Draw()

    def at(logits: Tensor, place: Tensor, word_ids: Tensor) -> Tensor:
        return logits[torch.arange(len(logits)), place % logits.shape[1]][:, word_ids]

    def solution(logits: Tensor, mask: Tensor, word_ids: Tensor) -> Tensor:
        return at(logits, mask.sum(1) - 1, word_ids)

    def last_column(logits: Tensor, mask: Tensor, word_ids: Tensor) -> Tensor:
        return logits[:, -1, word_ids]

    def whole_vocabulary(logits: Tensor, mask: Tensor, word_ids: Tensor) -> Tensor:
        return at(logits, mask.sum(1) - 1, torch.arange(len(word_ids)))

    full = torch.ones(3, 6, dtype=torch.long)
    padded = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0], [1, 1, 0, 0, 0, 0]])
    logits, word_ids = draw(3, 6, 9), 2 + draw.order(7)[:2]  # never the first of the vocabulary
    cases = {"padded texts": (logits, padded, word_ids), "texts of one length": (logits, full, word_ids)}
    mistakes: dict[str, Function] = {
        "you read the last column, which is padding in a short text": last_column,
        "you are one token too far: the last of T tokens is number T - 1": lambda z, m, w: at(z, m.sum(1), w),
        "you are one token too early": lambda z, m, w: at(z, m.sum(1) - 2, w),
        "you read the first token, which has seen nothing of the text": lambda z, m, w: z[:, 0, w],
        "you take the first words of the vocabulary, not the class words": whole_vocabulary,
        "your class words are in another order": lambda z, m, w: solution(z, m, w.flip(0)),
    }
    return check(learner, cases, solution, mistakes)


@exercise
def check_nearest(
    learner: Function,  # learner(vectors (n, d), table (vocabulary, d)) -> word numbers (n,)
) -> Verdict:
    "Is it, for each vector, the number of the word whose embedding has the greatest cosine with it?"
    draw = Draw()

    def solution(vectors: Tensor, table: Tensor) -> Tensor:
        return (F.normalize(vectors, dim=-1) @ F.normalize(table, dim=-1).T).argmax(-1)

    def farthest(vectors: Tensor, table: Tensor) -> Tensor:
        return (F.normalize(vectors, dim=-1) @ F.normalize(table, dim=-1).T).argmin(-1)

    sizes = torch.logspace(-1, 1, 40)[draw.order(40)]
    table = draw(40, 6) * sizes.unsqueeze(-1)
    known = draw.order(40)[:3]
    cases = {
        "vectors of random directions": (draw(8, 6), table),
        "words of the table, made longer": (5 * table[known], table),
    }
    mistakes: dict[str, Function] = {
        "you compare scalar products, and long embeddings win: divide by both lengths": lambda v, t: (v @ t.T).argmax(
            -1
        ),
        "you compare distances, and short embeddings win: divide by both lengths": lambda v, t: torch.cdist(
            v, t
        ).argmin(-1),
        "you return the word that points away most": farthest,
    }
    return check(learner, cases, solution, mistakes)


@exercise
def check_prompt_labels(
    learner: Function,  # learner(input_ids (texts, tokens), attention_mask, n) -> labels (texts, n + tokens)
) -> Verdict:
    "Are they the tokens, with -100 for n virtual tokens in front and for the padding, and not shifted?"
    draw = Draw()

    def solution(ids: Tensor, mask: Tensor, n: int, front: int = IGNORED, behind: bool = False) -> Tensor:
        labels = ids.masked_fill(mask == 0, IGNORED)
        return F.pad(labels, (0, n) if behind else (n, 0), value=front)

    def with_padding(ids: Tensor, mask: Tensor, n: int) -> Tensor:
        return F.pad(ids, (n, 0), value=IGNORED)

    def shifted(ids: Tensor, mask: Tensor, n: int) -> Tensor:
        return F.pad(solution(ids, mask, n)[:, 1:], (0, 1), value=IGNORED)

    ids = draw.wholes(1, 50, 3, 5)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    cases = {"texts of one length": (ids, torch.ones_like(ids), 2), "padded texts": (ids, mask, 3)}
    mistakes: dict[str, Function] = {
        "your virtual tokens have the label 0, which is a word: -100 takes no part": lambda i, m, n: solution(
            i, m, n, 0
        ),
        "your virtual tokens stand behind the text": lambda i, m, n: solution(i, m, n, behind=True),
        "your labels hold the padding": with_padding,
        "your labels are shifted; the loss does that": shifted,
    }
    return check(learner, cases, solution, mistakes)


__all__ = [
    "check_prepend",
    "check_parameter_counts",
    "check_class_logits",
    "check_nearest",
    "check_prompt_labels",
]
