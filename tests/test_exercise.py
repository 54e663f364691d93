"""The checker of exercises: an answer that changes its arguments changes nothing else."""

import torch

from manifold_xai.course.exercise import Exercise


def doubled_in_place(x):
    return x.mul_(2)


def test_an_answer_that_works_in_place_spoils_neither_the_case_nor_the_lessons_data():
    x = torch.ones(3)
    double = Exercise("double", "double(x) -> 2x", [((x,), 2 * x)], "it doubles.", {})
    assert [bool(double.judge(doubled_in_place)) for _ in range(2)] == [True, True]
    assert torch.equal(x, torch.ones(3))


def test_an_answer_that_empties_a_list_is_judged_by_what_it_returns():
    add = Exercise("add", "add(x) -> their sum", [(([1, 2],), 3)], "it adds.", {})

    def by_taking(x):
        total = 0
        while x:
            total += x.pop()
        return total

    assert add.judge(by_taking) and add.judge(by_taking)


def test_the_word_that_a_question_asks_for_is_not_named():
    word = Exercise("word", "word() -> a word", [((), "undecided")], "so it is.", {})
    says = word.judge(lambda: "supported").says
    assert "supported" in says and "undecided" not in says


def test_whoever_errs_in_a_new_way_is_told_where_to_look():
    double = Exercise("double", "double(x) -> 2x", [((3,), 6)], "it doubles.", {})

    def stops(x):
        raise ValueError("x is not a number.")

    assert double.judge(lambda x: 7).says.endswith("Hint: the folded one below says how to begin.")
    assert "is not a number.\n" in double.judge(stops).says
