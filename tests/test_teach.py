"""The teacher's page: its table is what was measured, its plans name sections that are there."""

import json
import re

import pytest
from helpers import ROOT

from manifold_xai.course.notebooks import read
from manifold_xai.course.seats import CELL, FIGURE, lessons, seat_table, section, stored

PAGE = (ROOT / "docs" / "teach.md").read_text(encoding="utf8")


def headings(number: str) -> set[str]:
    (path,) = (ROOT / "nbs").glob(f"{number}_*.ipynb")
    text = "\n".join(c["source"] for c in read(path)["cells"] if c["cell_type"] == "markdown")
    return {h.partition(" ·")[0] for h in re.findall(r"^#+ (.+?)\s*$", text, re.M)}


def test_the_table_is_what_was_measured():
    written = PAGE.split("<!-- seats -->\n")[1].split("\n<!-- /seats -->")[0]
    assert written == seat_table(ROOT), "run: manifold-xai seats --write"


@pytest.mark.parametrize("name", stored(ROOT)["lessons"])
def test_what_was_measured_is_the_lesson_of_today(name):
    """Its code cells are those that were timed."""
    cells = read(ROOT / "nbs" / f"{name}.ipynb")["cells"]
    today = {c["id"] for c in cells if c["cell_type"] == "code"}
    assert today == set(stored(ROOT)["lessons"][name]["cells"]), f"manifold-xai seats --only {name}"


def test_a_number_means_the_lesson_and_not_its_evidence():
    assert [page.stem for page in lessons(ROOT, "20-21")] == ["20_metric", "21_geodesics"]
    assert all(page.parent.name == "nbs" for page in lessons(ROOT, None))


def test_the_lesson_of_the_shortest_plan_fits_a_class():
    tour = stored(ROOT)["lessons"]["00_tour"]
    assert max(tour["cells"].values()) <= CELL and tour["figure"] <= FIGURE


def test_plans_name_sections_that_are_there():
    plans = PAGE.split("## Ninety minutes")[1].split("## Two days")[0]
    short, long = plans.split("## Half a day")
    named = [("00", s) for row in short.splitlines() for s in sections(row) if "| 30," not in row]
    for row in long.splitlines():
        for number in re.findall(r"\| (?:\[)?(\d\d)(?:\]\(.+?\))?: ", row):
            named += [(number, s) for s in sections(row)]
    missing = [(number, s) for number, s in named if s not in headings(number)]
    assert len(named) > 15 and not missing


def sections(row: str) -> list[str]:
    """What the third column of a plan's row names in italics."""
    cells = row.split(" | ")
    return re.findall(r"\*(.+?)\*", cells[2]) if len(cells) > 3 and row[:3] != "| m" else []


def test_a_cell_that_is_gone_is_missed():
    page = {"cells": [{"cell_type": "markdown", "source": "## Here", "id": "a"}]}
    assert section(page, "a") == "Here"
    with pytest.raises(ValueError, match="cell b is gone"):
        section(page, "b")


def test_the_container_is_what_the_project_says():
    """No builder is at hand here: what can be read is checked."""
    docker = (ROOT / "Dockerfile").read_text(encoding="utf8")
    for copied in re.findall(r"^COPY (?:--\S+ )?(.+) \S+$", docker, re.M):
        assert all((ROOT / name).exists() for name in copied.split()), copied
    assert "USER seat" in docker and "OMP_WAIT_POLICY=passive" in docker
    assert re.search(r"^FROM python:3\.11", docker, re.M)
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert (ROOT / ".devcontainer" / container["build"]["dockerfile"]).resolve().exists()
