"""The teacher's page: its table was measured, its plans add up and name what is there."""

import json
import re
import symtable

import pytest
from helpers import ROOT

from manifold_xai.course.cli import parser
from manifold_xai.course.notebooks import chapters, read
from manifold_xai.course.seats import (
    CELL,
    FIGURE,
    PATIENCE,
    lessons,
    seat_table,
    section,
    silent,
    stored_seats,
)

PAGE = (ROOT / "docs" / "teach.md").read_text(encoding="utf8")


def headings(number: str) -> set[str]:
    (path,) = (ROOT / "nbs").glob(f"{number}_*.ipynb")
    text = "\n".join(c["source"] for c in read(path)["cells"] if c["cell_type"] == "markdown")
    return {h.partition(" ·")[0] for h in re.findall(r"^#+ (.+?)\s*$", text, re.M)}


def test_the_table_is_what_was_measured():
    written = PAGE.split("<!-- seats -->\n")[1].split("\n<!-- /seats -->")[0]
    assert written == seat_table(ROOT), "run: manifold-xai seats --write"


@pytest.mark.parametrize("name", stored_seats(ROOT)["lessons"])
def test_what_was_measured_is_the_lesson_of_today(name):
    """The lesson's code cells are those that were timed."""
    cells = read(ROOT / "nbs" / f"{name}.ipynb")["cells"]
    today = {c["id"] for c in cells if c["cell_type"] == "code"}
    kept = stored_seats(ROOT)["lessons"][name]["cells"]
    assert today == set(kept), f"manifold-xai seats --only {name}"


@pytest.mark.parametrize("name", stored_seats(ROOT)["lessons"])
def test_a_cell_that_takes_long_shows_a_bar(name):
    cells = stored_seats(ROOT)["lessons"][name]["cells"]
    assert not silent(read(ROOT / "nbs" / f"{name}.ipynb"), cells)


def test_a_long_cell_without_a_bar_is_found():
    sources = {
        "defines": "def fit(n):\n    return [n for _ in tqdm(range(n))]",
        "shows": "maps = {name: way(x) for name, way in tqdm(ways.items())}",
        "calls": "found = fit(3)",
        "watches": "gamma = geodesic(decode, z0, z1, watch=ticking())",
        "waits": "found = profit(3)",
        "is quick": "found = 3",
    }
    cells = [dict(cell_type="code", id=name, source=text) for name, text in sources.items()]
    took = dict.fromkeys(sources, PATIENCE + 1.0) | {"is quick": 1.0, "defines": 0.0}
    assert silent({"cells": cells}, took) == ["waits"]


def test_a_number_means_the_lesson_and_not_its_evidence():
    assert [page.stem for page in lessons(ROOT, "20-21")] == ["20_metric", "21_geodesics"]
    assert all(page.parent.name == "nbs" for page in lessons(ROOT, None))


def test_the_lesson_of_the_shortest_plan_fits_a_class():
    tour = stored_seats(ROOT)["lessons"]["00_tour"]
    assert max(tour["cells"].values()) <= CELL and tour["figure"] <= FIGURE


def plans(page: str) -> dict[str, tuple[int, list[list[str]]]]:
    """By heading: the minutes that a plan states, and the cells of its rows."""
    found = {}
    for heading, text in re.findall(r"^##+ (.+?)\n(.+?)(?=^##|\Z)", page, re.M | re.S):
        lines = re.findall(r"^\| \d.*", text, re.M)
        rows = [re.split(r" ?(?<!\\)\| ?", line)[1:-1] for line in lines]
        rows = [row for row in rows if re.fullmatch(r"\d+–\d+", row[0])]
        if rows:
            found[heading] = int(re.search(r"^(\d+) minutes", text, re.M)[1]), rows
    return found


def uneven(minutes: int, rows: list[list[str]]) -> list[str]:
    """Rows of a plan that do not begin where the one before ended, and a last one that is off."""
    spans = [[int(t) for t in row[0].split("–")] for row in rows]
    ends = [0, *(end for _, end in spans)]
    wrong = [row[0] for row, (start, end), at in zip(rows, spans, ends) if start != at or end <= at]
    return wrong + ["the end"] * (ends[-1] != minutes)


def named(run: str) -> list[tuple[str, str]]:
    """What a plan's third column names: pairs of a lesson's number and a heading."""
    lesson, found = "", []
    for number, heading in re.findall(r"(\d\d): |\*(.+?)\*", run):
        lesson = number or lesson
        found += [(lesson, heading)] if heading else []
    return found


PLANS = plans(PAGE)


def test_the_plans_are_all_read():
    assert [minutes for minutes, _ in PLANS.values()] == [90, 210, 190, 180, 190, 180]
    assert sum(len(named(row[2])) for _, rows in PLANS.values() for row in rows) > 80


@pytest.mark.parametrize("plan", PLANS)
def test_the_minutes_of_a_plan_add_up(plan):
    assert not uneven(*PLANS[plan])


@pytest.mark.parametrize("plan", PLANS)
def test_a_plan_names_what_is_there(plan):
    asked = [pair for row in PLANS[plan][1] for pair in named(row[2])]
    missing = [(number, heading) for number, heading in asked if heading not in headings(number)]
    assert not missing


@pytest.mark.parametrize("plan", PLANS)
def test_a_row_is_as_long_as_its_exercises(plan):
    for minutes, _, run, *_ in PLANS[plan][1]:
        start, end = map(int, minutes.split("–"))
        asked = sum(exercises(number).get(heading, 0) for number, heading in named(run))
        assert asked <= end - start, minutes


def exercises(number: str) -> dict[str, int]:
    """Minutes of a lesson's exercises, by heading."""
    (path,) = (ROOT / "nbs").glob(f"{number}_*.ipynb")
    text = "\n".join(c["source"] for c in read(path)["cells"] if c["cell_type"] == "markdown")
    return {k: int(v) for k, v in re.findall(r"^### (Exercise \d+) · (\d+) min", text, re.M)}


def test_a_gap_an_overlap_and_a_missing_end_are_seen():
    assert uneven(30, [["0–10"], ["12–30"]]) == ["12–30"]
    assert uneven(30, [["0–10"], ["8–30"]]) == ["8–30"]
    assert uneven(40, [["0–10"], ["10–30"]]) == ["the end"]
    assert named("30: to *A*, *B*; 20: *C*") == [("30", "A"), ("30", "B"), ("20", "C")]


@pytest.mark.parametrize("part", re.split(r"^## ", PAGE, flags=re.M)[1:], ids=lambda p: p[:20])
def test_what_is_handed_out_is_what_the_plan_runs(part, tmp_path):
    """The lessons after a plan's --chapters are those that its rows name."""
    runs = {row[2] for _, rows in plans("## " + part).values() for row in rows}
    used = {number for run in runs for number, _ in named(run)}
    if used:
        (words,) = re.findall(r"--chapters ([\d,-]+)", part)
        lessons = [path for path in chapters(ROOT, words) if path.parent.name == "nbs"]
        assert used == {path.name[:2] for path in lessons}


def commands() -> list[list[str]]:
    """Every call of `manifold-xai` on the page, as words."""
    found = re.findall(r"`(?:\.venv/bin/)?manifold-xai ([^`]+)`", PAGE)
    return [call.split() for call in found]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_a_command_on_the_page_is_understood(words):
    parser().parse_args(words)


def test_no_later_cell_needs_an_exercises_answer():
    """A reader who skips an exercise, or has a copy without solutions, gets through the lesson."""
    for path in chapters(ROOT, "lessons"):
        here, answers = set(), {}
        for cell in read(path)["cells"]:
            if cell["cell_type"] != "code":
                continue
            tags = cell["metadata"].get("tags", [])
            made, used = names(cell["source"])
            if "solution" in tags:
                answers |= dict.fromkeys(made - here, cell["id"])
            else:
                assert not (used - made - here) & set(answers), (path.stem, cell["id"])
                here |= made


def names(source: str) -> tuple[set[str], set[str]]:
    """Names that a cell gives to the notebook, and those that it asks of it."""
    code = re.sub(r"^[%!].*$", "", source, flags=re.M)
    whole = symtable.symtable(code, "cell", "exec")
    made = {s.get_name() for s in whole.get_symbols() if s.is_assigned() or s.is_imported()}
    used, tables = set(), [whole]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        used |= {s.get_name() for s in table.get_symbols() if s.is_referenced() and s.is_global()}
    return made, used | {s.get_name() for s in whole.get_symbols() if s.is_referenced()}


def test_a_name_from_a_solution_is_seen():
    assert names("def f(a):\n    b = a\n    return b + c") == ({"f"}, {"c"})


def test_a_cell_that_is_gone_is_missed():
    page = {"cells": [{"cell_type": "markdown", "source": "## Here", "id": "a"}]}
    assert section(page, "a") == "Here"
    with pytest.raises(ValueError, match="cell b is gone"):
        section(page, "b")


def test_the_container_is_what_the_project_says():
    """No container can be built here, so the test checks what can be read from its file."""
    docker = (ROOT / "Dockerfile").read_text(encoding="utf8")
    for copied in re.findall(r"^COPY (?:--\S+ )?(.+) \S+$", docker, re.M):
        assert all((ROOT / name).exists() for name in copied.split()), copied
    assert "USER seat" in docker and "OMP_WAIT_POLICY=passive" in docker
    assert re.search(r"^FROM python:3\.11", docker, re.M)
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert (ROOT / ".devcontainer" / container["build"]["dockerfile"]).resolve().exists()
