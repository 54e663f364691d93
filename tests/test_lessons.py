"""The form of a lesson: short enough to read, exercises that speak, stated minutes computed."""

import ast
import json
import re
from pathlib import Path
from statistics import median

import pytest

from manifold_xai.course.notebooks import reading_minutes

NBS = Path(__file__).parents[1] / "nbs"
ASIDE = {"exercise", "stub", "check", "hint", "half", "solution"}
LESSONS = sorted(NBS.glob("[0-9][0-9]_*.ipynb"))


def cells(path: Path) -> list[dict]:
    nb = json.loads(path.read_text(encoding="utf8"))
    return [
        c | {"source": "".join(c["source"]), "tags": set(c["metadata"].get("tags", []))}
        for c in nb["cells"]
    ]


def told(path: Path) -> list[dict]:
    """The cells that count: not exercises, nor what follows them up to the next heading."""
    page, inside = [], False
    for cell in cells(path):
        if cell["cell_type"] == "markdown" and cell["source"].startswith("#"):
            inside = "exercise" in cell["tags"]
        if not inside and not cell["tags"] & ASIDE:
            page.append(cell)
    return page


def lines(cell: dict) -> list[str]:
    """Its lines of code, without comments and directives."""
    rows = cell["source"].splitlines()
    return [line for line in rows if line.strip() and not line.lstrip().startswith("#")]


@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)
def test_a_lesson_is_short_enough_to_read(path):
    page = told(path)
    words = sum(len(c["source"].split()) for c in page if c["cell_type"] == "markdown")
    shown = [c for c in page if c["cell_type"] == "code" and "#| export" not in c["source"]]
    sizes = [len(lines(c)) for c in shown]
    assert len(page) <= 70
    assert words <= 2200
    assert median(sizes) <= 4
    assert max(sizes) <= 14


@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)
def test_a_lesson_has_exercises_with_help_in_three_stages(path):
    page = cells(path)
    counts = {tag: sum(tag in c["tags"] for c in page) for tag in ASIDE}
    assert counts["exercise"] >= 4
    assert len(set(counts.values())) == 1, counts
    kinds = []
    for c in page:
        if "exercise" in c["tags"]:
            head = re.match(
                r"### Exercise (\d) · (\d+) min · (warm-up|core|stretch)\n", c["source"]
            )
            assert head, c["source"][:60]
            kinds.append(head[3])
        if "check" in c["tags"]:
            last = ast.parse(c["source"]).body[-1]
            assert isinstance(last, ast.Expr) and ast.unparse(last).startswith("check_")
        if "solution" in c["tags"]:
            assert re.search(r"^assert check_\w+\.proved\(", c["source"], re.M)
    assert {"warm-up", "core", "stretch"} == set(kinds)


@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)
def test_a_lesson_states_minutes_that_were_computed(path):
    stated = re.search(r"^\*About (\d+) minutes to read", cells(path)[0]["source"], re.M)
    assert int(stated[1]) == reading_minutes(json.loads(path.read_text(encoding="utf8")))


@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)
def test_a_lesson_ends_with_what_to_remember(path):
    prose = "\n".join(c["source"] for c in cells(path) if c["cell_type"] == "markdown")
    for heading in ("## What the evidence says", "## What to remember"):
        assert heading in prose, heading
    assert re.search(r"[Ff]urther reading", prose)
    assert any("says(" in c["source"] for c in cells(path) if c["cell_type"] == "code")


def words_of(path: Path) -> str:
    return "\n".join(c["source"] for c in cells(path) if c["cell_type"] == "markdown")


def listed(index: Path) -> list[tuple[str, str, list[str]]]:
    """The index's lessons: file, sentence and the files of its evidence."""
    row = re.compile(r"^\| \[\d\d [^\]]+\]\((\d\d_\w+\.ipynb)\) \| (.+?) \|(.*)\|$", re.M)
    rows = row.findall(words_of(index))
    return [
        (file, said, re.findall(r"\(evidence/(\w+\.ipynb)\)", rest)) for file, said, rest in rows
    ]


def neighbour(path: Path, word: str) -> list[str]:
    """The lessons to which the end of a lesson points as its `Previous` or its `Next`."""
    return re.findall(rf"\b{word}:\*{{0,2}}\s+\[[^\]]+\]\((\w+\.ipynb)\)", words_of(path))


def broken_links(nbs: Path) -> list[str]:
    """Lessons that do not point to the one before and the one after them in the index."""
    order = [file for file, _, _ in listed(nbs / "index.ipynb")]
    found = []
    for k, file in enumerate(order):
        for word, right in ("Previous", order[:k][-1:]), ("Next", order[k + 1 :][:1]):
            if (said := neighbour(nbs / file, word)) != right:
                found.append(f"{file}: {word} is {said}, should be {right}")
    return found


def test_the_index_lists_every_lesson_and_every_evidence_page():
    rows = listed(NBS / "index.ipynb")
    assert [file for file, _, _ in rows] == [path.name for path in LESSONS]
    pages = sorted(path.name for path in (NBS / "evidence").glob("*.ipynb"))
    assert [page for _, _, found in rows for page in found] == pages
    for file, sentence, found in rows:
        assert all(page[:3] == file[:3] for page in found) and (not found or file in found)
        claim = re.search(r"^> (.+)$", cells(NBS / file)[0]["source"], re.M)
        assert claim and claim[1] == sentence, file


def test_previous_and_next_lead_through_all_lessons_in_the_order_of_the_index():
    assert broken_links(NBS) == []


def test_a_lesson_that_is_passed_over_is_seen(tmp_path):
    for path in (NBS / "index.ipynb", *LESSONS):
        (tmp_path / path.name).write_text(path.read_text(encoding="utf8"), encoding="utf8")
    short = tmp_path / LESSONS[3].name
    text = short.read_text(encoding="utf8")
    short.write_text(text.replace(f"({LESSONS[4].name})", f"({LESSONS[5].name})"), encoding="utf8")
    assert [line[: len(short.name)] for line in broken_links(tmp_path)] == [short.name]


def test_claims_are_recorded_on_evidence_pages_alone():
    for path in LESSONS:
        assert not any(re.search(r"\brecord\(", c["source"]) for c in cells(path)), path.stem


def test_minutes_follow_from_words_cells_figures_and_exercises():
    prose = {"cell_type": "markdown", "source": "word " * 300, "metadata": {}}
    long = {"cell_type": "code", "source": "a = 1\nb = 2\nc = 3\nd = 4\n", "metadata": {}}
    short = long | {"source": "a = 1\n"}
    figure = short | {"metadata": {"mystnb": {"image": {"alt": "a line"}}}}
    asked = prose | {
        "source": "### Exercise 1 · 7 min · core\n" + "word " * 500,
        "metadata": {"tags": ["exercise"]},
    }
    help_ = asked | {"source": "word " * 500, "metadata": {"tags": ["hint"]}}
    cells = [prose, long, long, short, figure, asked, help_]
    assert reading_minutes({"cells": cells}) == 2 + 1.5 + 0.5 + 7
