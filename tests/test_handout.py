"""What a teacher hands out: student notebooks that run anywhere, without a solution in sight."""

import json
import os
import re
import subprocess
import sys

import nbformat
import pytest
from helpers import ROOT

from manifold_xai.course.cli import main
from manifold_xai.course.handout import notes, within
from manifold_xai.course.notebooks import chapters, reading_minutes
from manifold_xai.course.says import says
from manifold_xai.course.seats import stored_seats


def given(folder, *words):
    """The exit code of `manifold-xai handout`."""
    return main(["handout", str(folder), "--root", str(ROOT), *words])


def sources(path):
    return "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)


def test_students_get_every_lesson_and_no_solution(tmp_path):
    assert given(tmp_path / "a") == 0
    made = sorted(p.name for p in (tmp_path / "a" / "nbs").glob("[0-9]*.ipynb"))
    assert made == [p.name for p in chapters(ROOT, "lessons")]
    for path in (tmp_path / "a" / "nbs").glob("[0-9]*.ipynb"):
        nb = nbformat.read(path, as_version=4)
        nbformat.validate(nb)
        tags = [tag for cell in nb.cells for tag in cell.metadata.get("tags", [])]
        assert "solution" not in tags and tags.count("stub") == tags.count("check")
        assert not any(cell.get("outputs") for cell in nb.cells)
        assert "_solution" not in sources(path).replace("check_", "")
        assert "Do not edit" in nb.cells[1].source


def test_the_teachers_copy_has_solutions_and_what_a_class_needs(tmp_path):
    assert given(tmp_path / "a", "--chapters", "20-21", "--teacher") == 0
    own = sources(tmp_path / "a" / "teacher" / "20_metric.ipynb")
    assert "_solution" in own
    for heading in ("Section by section", "Exercises, and wrong answers", "To end with"):
        assert heading in own
    assert not (tmp_path / "a" / "nbs" / "evidence").exists()
    assert given(tmp_path / "b", "--chapters", "evidence/20") == 0
    assert (tmp_path / "b" / "nbs" / "evidence" / "20_metric.ipynb").exists()


@pytest.mark.parametrize("path", chapters(ROOT, "lessons"), ids=lambda path: path.stem)
def test_a_teacher_is_told_every_question_and_every_minute(path):
    nb = nbformat.read(path, as_version=4)
    prose = "\n".join(cell.source for cell in nb.cells if cell.cell_type == "markdown")
    told = notes(nb)
    asked = len(re.findall(r"Predict\s+first:", prose))
    questions = told[: told.index("**Exercises")]
    assert questions.count("\n  - ") == asked
    posed = [c for c in nb.cells if "exercise" in c.metadata.get("tags", [])]
    predicted = sum(bool(re.search(r"Predict\s+first:", cell.source)) for cell in posed)
    assert len(re.findall(r"^  - Exercise \d+: ", questions, re.M)) == predicted
    assert "Further reading" not in told and "Next:" not in told
    minutes = sum(int(m) for m in re.findall(r"^- \*.+\*, (\d+) min$", told, re.M))
    assert abs(minutes - reading_minutes(nb)) <= 1 + len(re.findall("^- [*]", told, re.M)) / 2


def test_a_handout_leads_nowhere_outside(tmp_path, monkeypatch):
    """No link to a chapter that was not handed out; what the doctor compares with is there."""
    assert given(tmp_path / "a", "--chapters", "00,30", "--teacher") == 0
    for folder in ("nbs", "teacher"):
        for path in (tmp_path / "a" / folder).glob("*.ipynb"):
            links = re.findall(r"\]\(([\w/.-]+\.ipynb)", sources(path))
            assert not [link for link in links if not (path.parent / link).exists()]
    assert "30_path_integrals.ipynb" in sources(tmp_path / "a" / "nbs" / "00_tour.ipynb")
    assert stored_seats(tmp_path / "a")["lessons"]
    monkeypatch.setenv("MANIFOLD_XAI_ROOT", str(tmp_path / "a"))
    assert says("MIG-04").startswith("- MIG-04 ")


def test_what_only_a_link_could_explain_goes_with_it():
    text = "Sorted ([how](library/a.ipynb#x)), see [31](31_b.ipynb) ([there](30_c.ipynb))."
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])
    left = within(nb, {"30_c.ipynb"}).cells[0].source
    assert left == "Sorted, see 31 ([there](30_c.ipynb))."


def test_a_folder_of_somebody_else_is_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("mine")
    assert given(tmp_path) == 2
    assert "holds other things" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_it_is_made_anew_where_it_was(tmp_path):
    assert given(tmp_path / "a", "--chapters", "20-21") == 0
    assert given(tmp_path / "a", "--chapters", "20") == 0
    assert not (tmp_path / "a" / "nbs" / "21_geodesics.ipynb").exists()


@pytest.mark.parametrize("chapter", ["10_data"])
def test_a_student_can_run_it_outside_a_clone_and_read_only(tmp_path, chapter):
    """Run All from the handout's own folder: every checker speaks, none raises."""
    assert given(tmp_path / "a", "--chapters", chapter[:2]) == 0
    page = tmp_path / "a" / "nbs" / f"{chapter}.ipynb"
    nb = nbformat.read(page, as_version=4)
    for cell in nb.cells:
        if "parameters" in cell.metadata.get("tags", []):
            cell.source = cell.source.replace('"cpu"', '"smoke"')
    nbformat.write(nb, page)
    for folder in (tmp_path / "a", page.parent):
        folder.chmod(0o555)
    env = {k: v for k, v in os.environ.items() if k != "MANIFOLD_XAI_ROOT"}
    env |= {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = tmp_path / "done.ipynb"
    words = [sys.executable, "-m", "papermill", str(page), str(done), "--cwd", str(page.parent)]
    ran = subprocess.run([*words, "-k", "python3"], env=env, capture_output=True, text=True)
    for folder in (tmp_path / "a", page.parent):
        folder.chmod(0o755)
    assert ran.returncode == 0, ran.stderr[-2000:]
    said = json.dumps(json.loads(done.read_text())["cells"])
    assert said.count("still to be written") >= 4
