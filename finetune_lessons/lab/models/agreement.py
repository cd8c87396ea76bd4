"""Whether two models can read the same batch, and name the same classes."""

from collections.abc import Sequence
from typing import Any

from finetune_lessons.lab.models.heads import head_of, names_of
from finetune_lessons.lab.models.inputs import most_tokens


def check_same_words(
    student: Any,
    teacher: Any,
    length: int = 0,  # of the longest text of the batch, in tokens
) -> None:
    "ValueError where the teacher cannot read the student's batch: other tokens, other padding, too few positions."
    a, b = (model.config.vocab_size for model in (student, teacher))
    if a != b:
        raise ValueError(
            f"the student knows {a} tokens, the teacher {b}. If they have one tokenizer, the larger vocabulary is "
            f"padded: call {'student' if a > b else 'teacher'}.resize_token_embeddings({min(a, b)}). If not, they "
            "cannot share a batch; add_teacher_logits(data, teacher, its_tokenizer) lets a classifier read its own way"
        )
    a, b = (getattr(model.config, "pad_token_id", None) for model in (student, teacher))
    if head_of(teacher).kind == "text" and a is not None and a != b:
        raise ValueError(
            f"the student takes the token {a} for padding, the teacher {b}. If both have one tokenizer, set "
            f"teacher.config.pad_token_id = {a}; if not, see add_teacher_logits(data, teacher, its_tokenizer)"
        )
    if length > (positions := most_tokens(teacher)):
        raise ValueError(
            f"a text has {length} tokens, the teacher takes {positions}: cut the texts for both, "
            f"tokenize(data, tokenizer, max_length={positions}), or of a classifier for the teacher alone, "
            "add_teacher_logits(data, teacher, its_tokenizer)"
        )


def class_order(
    ours: Sequence[str],  # names of the student's classes, or of the data's; empty: unknown
    theirs: Sequence[str],  # the teacher's
    say: bool = True,  # print what is done
) -> list[int] | None:
    """The teacher's number of each of our classes, by their names in any case; None where it is ours already.

    Raises ValueError where both name their classes, and not the same.
    """
    a, b = ([name.casefold() for name in names] for names in (ours, theirs))
    if not a or not b or a == b:
        return None
    if sorted(a) != sorted(b) or len(set(a)) < len(a):
        raise ValueError(
            f"the student's classes are {list(ours)}, the teacher's {list(theirs)}: give the same class the same name, "
            "in config.id2label or in the data's ClassLabel"
        )
    if say:
        print(f"The teacher's classes {list(theirs)} are read in the student's order, {list(ours)}.")
    return [b.index(name) for name in a]


def named_classes(model: Any, outputs: int) -> Sequence[str]:
    "The names of the model's classes, if it names as many as it has outputs."
    names = names_of(model.config)
    return names if len(names) == outputs else ()
