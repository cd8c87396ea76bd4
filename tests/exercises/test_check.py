"""What a check says to whatever it is given, and what it does not let pass."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import finetune_lessons.cross_entropy as lesson
from finetune_lessons.exercises.adapters import check_adapter_parameters
from finetune_lessons.exercises.cross_entropy import check_cross_entropy, check_gradient
from finetune_lessons.exercises.distillation import check_soft_gradient, check_soft_loss
from finetune_lessons.exercises.lora import check_lora_merge, check_lora_parameters


def by_hand(z, y):
    kept = y != -100
    z, y = z[kept], y[kept]
    return (z.logsumexp(-1) - z[torch.arange(len(y)), y]).mean()


@pytest.mark.parametrize(
    ("learner", "says"),
    [
        (lambda z, y: None, "returned None"),
        (lambda z, y: "2.3", "returned a str"),
        (lambda z, y: [], "returned a list"),
        (lambda z, y: np.array(["a"]), "returned a ndarray"),
        (lambda z, y: z, "shape (6, 4); expected ()"),
        (lambda z, y: z.nonsense, "AttributeError"),
        (lambda z: z, "TypeError"),
        (lambda z, y: -17.0, "the answer is -17, expected"),
    ],
)
def test_any_answer_gets_a_sentence(learner, says):
    assert says in repr(check_cross_entropy(learner))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (None, "given is None: did the cell that defines it run"),
        (torch.tensor(1.0), "given is a Tensor: leave out the brackets"),
        (3.5, "given is a float"),
    ],
)
def test_what_is_no_function_gets_a_sentence(given, says):
    found = check_cross_entropy(given)
    assert not found and says in repr(found) and "check_cross_entropy(my_function)" in repr(found)


class Callable:
    def __call__(self, z, y):
        return by_hand(z, y)


def test_whatever_can_be_called_is_a_function():
    assert "`by_hand` passes" in repr(check_cross_entropy(partial(by_hand)))
    assert "`Callable` passes" in repr(check_cross_entropy(Callable()))
    assert "still waits" in repr(check_cross_entropy(partial(stub)))


def stub(z, y):
    raise NotImplementedError


@pytest.mark.parametrize("kind", [int, float, np.int64, np.int32, np.float32, np.float64, np.array, torch.tensor])
def test_a_number_may_be_of_any_kind(kind):
    assert check_adapter_parameters(lambda d, b, n: kind(n * (2 * d * b + b + d)))
    assert check_lora_parameters(lambda shapes, r: kind(r * sum(map(sum, shapes))))


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.stack, lambda rows: [row.tolist() for row in rows]])
def test_a_tensor_may_be_of_any_kind(kind):
    assert check_lora_merge(lambda W, A, B, a: kind(list(W + a / len(A) * B @ A)))


def test_the_line_at_fault_is_shown():
    said = repr(check_cross_entropy(faulty))
    assert "(line " in said and "`return z.softmx(-1).log()`" in said


def test_of_a_library_that_raises_the_learners_line_is_shown():
    assert "`return F.nll_loss(z.log_softmax(-1), y.float())`" in repr(check_cross_entropy(wrongly_typed))


def faulty(z, y):
    z = z - z.max()
    return z.softmx(-1).log()


def wrongly_typed(z, y):
    return F.nll_loss(z.log_softmax(-1), y.float())


AUTOGRAD = {
    "torch.autograd.grad": lambda loss, z: torch.autograd.grad(loss, z)[0],
    "torch.Tensor.backward": lambda loss, z: loss.backward() or z.grad,
    "torch.autograd.backward": lambda loss, z: torch.autograd.backward(loss) or z.grad,
}


@pytest.mark.parametrize("name", AUTOGRAD)
def test_autograd_does_not_pass_where_the_gradient_is_asked_for_by_hand(name):
    def learner(z, y):
        z.requires_grad_()
        return AUTOGRAD[name](by_hand(z, y), z)

    def of_soft_loss(s, t, T):
        s.requires_grad_()
        p, q = ((x / T).log_softmax(-1) for x in (t, s))
        return AUTOGRAD[name](T**2 * (p.exp() * (p - q)).sum(), s)

    for found in (check_gradient(learner), check_soft_gradient(of_soft_loss)):
        assert not found and f"calls `{name}`" in repr(found)


def test_torch_func_does_not_pass_either():
    found = check_gradient(lambda z, y: torch.func.grad(by_hand)(z, y))
    assert not found and "the answers are right, but" in repr(found)


LIBRARY = {
    "torch.nn.functional.cross_entropy": F.cross_entropy,
    "cross_entropy": torch.nn.CrossEntropyLoss(),
    "log_softmax": lambda z, y: -z.log_softmax(-1)[y >= 0].gather(1, y[y >= 0, None]).mean(),
    "nll_loss": lambda z, y: F.nll_loss(z - z.logsumexp(-1, keepdim=True), y),
    "finetune_lessons.cross_entropy.cross_entropy": lesson.cross_entropy,
}


@pytest.mark.parametrize("name", LIBRARY)
def test_a_librarys_loss_does_not_pass_where_it_is_to_be_written(name):
    found = check_cross_entropy(LIBRARY[name])
    assert not found and name in repr(found) and "do without it" in repr(found)


def test_a_librarys_loss_passes_where_nothing_is_said_of_it():
    assert check_soft_loss(
        lambda s, t, T: T**2 * F.kl_div((s / T).log_softmax(1), (t / T).softmax(1), reduction="batchmean")
    )


def test_a_matrix_that_is_to_stay_may_not_be_changed():
    def in_place(weight, A, B, alpha):
        weight += alpha / len(A) * B @ A
        return weight

    found = check_lora_merge(in_place)
    assert not found and "changes `W` itself" in repr(found)


def test_a_check_does_not_let_the_learner_change_its_inputs():
    def greedy(z, y):
        z.zero_()
        y.zero_()
        return by_hand(z, y)

    assert not check_cross_entropy(greedy)
    assert check_cross_entropy(by_hand)
