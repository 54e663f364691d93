"""Preferences of people who answer often."""

import math

import pytest
import torch
from helpers import seeded

from manifold_xai.evaluation.study import Choice, preference


def asked(people: int, pictures: int, taste: float, generator) -> list[Choice]:
    """Answers of people who have tastes of their own, and no preference on average."""
    bent = torch.randn(people, 1, generator=generator) * taste
    answers = torch.bernoulli(bent.sigmoid().expand(people, pictures), generator=generator)
    return [
        Choice(f"p{i}", f"x{j}", answers[i, j].item())
        for i in range(people)
        for j in range(pictures)
    ]


def test_it_does_not_take_answers_for_people():
    """Without a preference, a test that counts answers often finds one, this one hardly ever."""
    generator, naive, fair = seeded(1), 0, 0
    for _ in range(60):
        found = preference(asked(20, 15, 2.0, generator), generator, draws=400)
        error = math.sqrt(found.share * (1 - found.share) / found.answers)
        naive += abs(found.share - 0.5) > 1.96 * error
        fair += not found.low <= 0.5 <= found.high
    assert naive > 20 and fair <= 8  # 5 % of 60 is 3


def test_it_finds_a_preference_that_is_there():
    generator = seeded(2)
    answers = enumerate(asked(20, 12, 0, generator))
    some = [c._replace(prefers=1.0 if i % 5 else 0.0) for i, c in answers]
    found = preference(some, generator)
    assert found.low > 0.5 and found.share == pytest.approx(0.8)


def test_it_respects_repeated_pictures_as_well():
    """One picture in two is plainly better in B, for everybody: the pictures are the sample."""
    some = [Choice(f"p{i}", f"x{j}", float(j % 2)) for i in range(200) for j in range(6)]
    found = preference(some, seeded(3))
    assert found.low < 0.2 and found.high > 0.8 and found.answers == 1200


def test_few_people_get_no_interval():
    some = [Choice("one", f"x{j}", 1.0, 1.0) for j in range(50)]
    found = preference(some, seeded(4))
    assert (found.low, found.high, found.left) == (0, 1, 1) and "too few" in str(found)
    with pytest.raises(ValueError, match="no answers yet"):
        preference([], seeded())
