"""The checker of exercises: what an answer does to its arguments stays with the answer."""

import torch

from manifold_xai.course.exercise import Exercise


def doubled_in_place(x):
    return x.mul_(2)


def test_an_answer_that_works_in_place_spoils_neither_the_case_nor_the_lessons_data():
    x = torch.ones(3)
    double = Exercise("double", "double(x) -> 2x", [((x,), 2 * x)], "it doubles.", {})
    assert [bool(double.judge(doubled_in_place)) for _ in range(2)] == [True, True]
    assert torch.equal(x, torch.ones(3))
