"""Batches of as many texts as a number of tokens has room for, padding counted."""

from dataclasses import dataclass

import numpy as np

STEPS_PER_OCTAVE = 8  # classes of length between a number of tokens and its double


@dataclass(frozen=True)
class TokenBudget:
    "How large a step may be: `pieces` forward passes of at most `tokens` tokens with padding, and of `texts` texts."

    tokens: int
    texts: int
    pieces: int = 1

    def batches(self, lengths: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
        """Row numbers of the texts of each step, in random order: every row once.

        Texts of about one length are shuffled among themselves, and all are cut in the order of length. The cuts
        follow from the lengths alone, so that every epoch has as many steps; which texts meet changes.
        """
        order = rng.permutation(len(lengths))
        by_length = order[np.argsort(self._rounded(lengths)[order], kind="stable")]
        batches = np.split(by_length, self._cuts(lengths))
        return [batches[i] for i in rng.permutation(len(batches))]

    def steps(self, lengths: np.ndarray) -> int:
        return len(self._cuts(lengths)) + 1

    def check(self, lengths: np.ndarray) -> None:
        "Raises ValueError for a text that has no room."
        if len(lengths) and lengths.max() > self.tokens:
            row = int(lengths.argmax())
            raise ValueError(
                f"max_tokens must have room for the longest text, and row {row} has {lengths[row]} tokens; given: "
                f"{self.tokens}. Truncate the texts (tokenizer.model_max_length), or allow more"
            )

    def _cuts(self, lengths: np.ndarray) -> list[int]:
        "Where a step ends in the order of length, but for the last."
        widths = np.sort(self._rounded(lengths))
        cuts, start = [], 0
        for end, width in enumerate(widths):
            texts = self.pieces * min(self.texts, max(1, self.tokens // int(width)))
            if end - start + 1 > texts:
                cuts.append(end)
                start = end
        return cuts

    def _rounded(self, lengths: np.ndarray) -> np.ndarray:
        "Up to a class of length that is at most an eighth longer, and never beyond the budget."
        unit = 2 ** np.maximum(np.floor(np.log2(np.maximum(lengths, 1) / STEPS_PER_OCTAVE)), 0).astype(int)
        return np.minimum(-(-lengths // unit) * unit, np.maximum(self.tokens, lengths))


def size_of_a_step(
    batch_size: int,  # texts in one forward pass, at most
    max_tokens: int | None,  # tokens in one forward pass, padding counted
    pieces: int = 1,  # forward passes of one step, in all processes
) -> int | TokenBudget:
    "How many texts, or tokens."
    return batch_size * pieces if max_tokens is None else TokenBudget(max_tokens, batch_size, pieces)
