"""A telling case is one on which no mistake can be taken for another."""

from itertools import count

import pytest
import torch

from finetune_lessons.exercises.cases import telling


def square(x):
    return x**2


def test_the_first_case_on_which_no_two_answers_are_alike_is_taken():
    numbers = count()  # 0: all alike; 1: square and x; 2: square and double; 3: none
    assert telling(lambda: (float(next(numbers)),), square, [lambda x: x, lambda x: 2 * x]) == (3.0,)


def test_mistakes_are_told_from_each_other_too():
    numbers = iter([5.0, -7.0])
    assert telling(lambda: (next(numbers),), square, [abs, lambda x: x]) == (-7.0,)


@pytest.mark.parametrize(("off", "taken"), [(0.005, 2.0), (0.05, 1.0)], ids=["less than apart", "more than apart"])
def test_what_differs_by_less_is_alike(off, taken):
    numbers = iter([1.0, 2.0])
    assert telling(lambda: (next(numbers),), lambda x: x, [lambda x: x + off * (1 + (x > 1) * 9)], 0.01) == (taken,)


def test_another_shape_and_nan_are_other_answers_and_two_nans_are_not():
    case = telling(lambda: (torch.ones(3),), lambda x: x, [torch.sum, lambda x: x * float("nan")])
    assert torch.equal(case[0], torch.ones(3))
    with pytest.raises(RuntimeError):
        telling(lambda: (torch.ones(3),), lambda x: x, [lambda x: x / 0 * 0, lambda x: x * float("nan")])


def test_a_mistake_may_change_its_arguments():
    assert telling(lambda: (torch.ones(2),), torch.sum, [lambda x: x.mul_(3).sum()])[0].tolist() == [1, 1]


def test_where_no_case_tells_it_says_so():
    with pytest.raises(RuntimeError, match="these 2 functions"):
        telling(lambda: (1.0,), square, [abs])
