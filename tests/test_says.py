"""What lessons show of the evidence is what the ledger says today."""

import json
import shutil

import pytest
from helpers import ROOT

from manifold_xai.course.notebooks import chapters
from manifold_xai.course.says import retell, says, told

LESSONS = {path.stem: path for path in chapters(ROOT, "lessons")}


def outputs(path, root=ROOT):
    """(shown, told) of each cell that says what the evidence says."""
    for cell in json.loads(path.read_text(encoding="utf8"))["cells"]:
        if cell["cell_type"] == "code" and (now := told("".join(cell["source"]), root)):
            yield cell["outputs"], [now]


@pytest.mark.parametrize("name", LESSONS)
def test_no_lesson_shows_an_old_outcome(name):
    for shown, now in outputs(LESSONS[name]):
        assert shown == now, "manifold-xai ledger"


def test_a_changed_outcome_is_shown_and_nothing_else_changes(tmp_path):
    (tmp_path / "nbs" / "results").mkdir(parents=True)
    kept = tmp_path / "nbs" / "results" / "ledger.json"
    page = tmp_path / "nbs" / "22_fast_solvers.ipynb"
    shutil.copy(ROOT / "nbs" / page.name, page)
    shutil.copy(ROOT / "nbs" / "results" / kept.name, kept)
    retell(tmp_path)  # links to pages that are not there are plain words
    before = page.read_text(encoding="utf8")
    assert retell(tmp_path) == [] and page.read_text(encoding="utf8") == before
    ledger = json.loads(kept.read_text(encoding="utf8"))
    ledger["MIG-09"]["row"]["outcome"] = "supported"
    kept.write_text(json.dumps(ledger), encoding="utf8")
    assert retell(tmp_path) == ["22_fast_solvers"]
    after = page.read_text(encoding="utf8")
    differ = [line for line in after.splitlines() if line not in before.splitlines()]
    assert differ and all("MIG-09" in line and "Supported" in line for line in differ)


def test_other_cells_are_left_alone():
    assert told("f = score(model)", ROOT) is None
    assert told('says("MIG-07"); print(1)', ROOT) is None


def test_a_reason_is_not_cut_inside_its_parentheses():
    for name in json.loads((ROOT / "nbs/results/ledger.json").read_text(encoding="utf8")):
        said = says(name)
        assert said.count("(") == said.count(")"), said
