"""A plan says what a profile would spend, from what was measured, and runs nothing."""

import contextlib
import io
import json
import math

import pytest
from helpers import ROOT
from toys import course

from manifold_xai.course.cli import main
from manifold_xai.course.notebooks import chapters
from manifold_xai.course.plan import STARTING, amount, extrapolated, growth, planned, sizes
from manifold_xai.files import profiles

PICKS = "n, T = run.pick(smoke=5, cpu=20, gpu=60), 3\nask(len(run.pick(1, 4, evidence=8)))"


def planned_text(root, *words) -> str:
    """What `run --plan` prints."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(["run", "--plan", "--root", str(root), *words]) == 0
    return out.getvalue()


@pytest.fixture
def toy(tmp_path):
    """A chapter whose seconds were stamped, and one that was never measured."""
    root = course(tmp_path, **{"01_timed": [PICKS], "02_new": ["print(run.images)"]})
    page = root / "nbs" / "01_timed.ipynb"
    stamp = f"{STARTING + 40:.0f} s to run (cpu profile, 2 cores; smoke: {STARTING + 10:.0f} s)"
    said = page.read_text(encoding="utf8").replace("not yet timed to run", stamp)
    page.write_text(said, encoding="utf8")
    return root


def test_sizes_are_read_from_the_source(toy):
    first, second = sizes(toy / "nbs" / "01_timed.ipynb")
    assert first.name == "n" and first.said["gpu"] == "60" and first.said["evidence"] == "20"
    assert second.said == dict(smoke="1", cpu="4", gpu="4", evidence="8")


@pytest.mark.parametrize(
    "text, what",
    [("8", 8), ("2_000", 2000), ("run.epochs", 12), ("len(x)", None), ("['sphere']", None)]
    + [("(1, 2, 3)", 6), ("(len(x), run.epochs)", 12), ("dict(pupils=100, epochs=1)", 101)],
)
def test_how_much_a_size_is(text, what):
    assert amount(text, {"epochs": "12"}) == what


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_seconds_follow_the_power_between_the_two_that_were_measured(power):
    def took(size):
        return STARTING + 30 * size**power

    for size in (1.0, 3.0, 20.0):
        guessed = extrapolated(took(0.2), took(1.0), 0.2, size)
        assert math.isclose(guessed, took(size), rel_tol=1e-9)


def test_a_plan_estimates_what_was_measured_and_names_what_was_not(toy):
    notebooks, spends = chapters(toy), profiles(toy)
    assert growth(notebooks[0], "smoke", spends) == pytest.approx(0.25)
    assert growth(notebooks[0], "gpu", spends) == pytest.approx(3**0.5)
    timed, new = planned(toy, notebooks, "gpu")
    assert timed.seconds == pytest.approx(STARTING + 40 * 3**0.5, rel=1e-6)  # as the sizes
    assert timed.sizes == ["n 20 → 60"] and new.seconds is None
    assert new.sizes == [f"run.images {spends['cpu']['images']} → {spends['gpu']['images']}"]
    said = planned_text(toy, "--profile", "gpu")
    assert "an estimate" in said and "not in the sum: 02_new" in said
    assert not (toy / "_out").exists(), "a plan runs and writes nothing"


def test_what_the_last_run_took_goes_before_what_is_stamped(toy):
    summary = toy / "_out" / "gpu" / "summary.json"
    summary.parent.mkdir(parents=True)
    done = dict(chapter="01_timed", status="done", seconds=77.0)
    summary.write_text(json.dumps(dict(chapters=[done])))
    assert planned(toy, chapters(toy, "01"), "gpu")[0].seconds == 77.0


def test_every_chapter_of_the_course_can_be_planned():
    rows = planned(ROOT, chapters(ROOT, "lessons"), "gpu")
    assert all(row.seconds for row in rows if row.chapter[:2].isdigit())
