"""What stands beside a parameter is what `help()` says of it."""

import inspect
import pydoc

import pytest

import finetune_lessons.lab
from finetune_lessons import cross_entropy, multitask
from finetune_lessons.lab.notes import add_notes

PARTS = {
    "a lesson's function": (cross_entropy.cross_entropy, "weight: (classes,), how much each class counts"),
    "a lesson's method": (multitask.GradNorm.__init__, "alpha: how much slower tasks are helped; 0: equal gradients"),
    "the lab's function": (finetune_lessons.lab.load_encoder, "num_labels: outputs of the head, 1 for a regression"),
    "the lab's method": (finetune_lessons.lab.Run.finish, "save_every: steps"),
    "a method of the class": (finetune_lessons.lab.Run.resume, "path: a file that `save` wrote, or a folder of them"),
    "a note of two lines": (finetune_lessons.lab.Run, "the mean over the batch; a Module's parameters are trained too"),
}


def plain(function) -> str:
    return pydoc.plaintext.document(function)


@pytest.mark.parametrize("part", PARTS)
def test_the_notes_beside_parameters_are_in_the_help(part):
    function, note = PARTS[part]
    assert note in plain(function)


def test_the_first_sentence_stays_the_first():
    assert inspect.getdoc(cross_entropy.cross_entropy).startswith("Mean surprise -log p(target)")


def wrapped(function):
    def wrapper(*args):
        return function(*args)

    wrapper.__wrapped__, wrapper.__doc__ = function, function.__doc__
    return wrapper


@wrapped
def noted(
    a: int = 1,  # the first, as in f(  # of something
    *others: int,  # as many as you like
    b: str = "#",
    c: tuple = (),  # one note
    #                 in two lines
):
    """One.

    More of it.
    """
    return (
        a,  # no parameter
    )


def without_notes(a, b):  # the signature's own
    "Two."


def test_a_wrapped_function_has_the_notes_of_its_signature_and_no_others():
    add_notes(noted)
    assert noted.__doc__ == (
        "One.\n\nMore of it.\n\nArguments:\n    a: the first, as in f(  # of something\n"
        "    *others: as many as you like\n    c: one note in two lines"
    )


def test_what_has_no_notes_keeps_its_docstring():
    add_notes(without_notes)
    assert without_notes.__doc__ == "Two."
    add_notes({"no": "function"})
