"""A checker does not give away the number that is asked for, only that of a function's case."""

import pytest

from manifold_xai.course.exercise import Exercise

HOW_LONG = Exercise("length", "a number", [(None, 6.0)], "it is six.", {"The radius too.": 2.0})
DOUBLE = Exercise("double", "double(x) -> 2x", [((3,), 6)], "it doubles.", {})


@pytest.mark.parametrize(
    "answer, word", [(2.0, "too small"), (-6, "too small"), (7.5, "too large"), (5.99, "close")]
)
def test_a_wrong_number_is_not_told_the_right_one(answer, word):
    says = HOW_LONG.judge(answer).says
    assert word in says and "6 " not in says.replace(f"{answer:.6g} ", "")


def test_a_wrong_function_is_told_what_was_expected():
    assert "expected about 6, got 9" in DOUBLE.judge(lambda x: x * x).says
