"""The audit measures ten claims again, by code of its own, and its intervals meet the ledger's."""

import ast
import json

import pytest
from helpers import ROOT

SCRIPT = ROOT / "benchmarks" / "audit.py"
METHODS = ("manifold_xai.paths.", "manifold_xai.subjects.", "manifold_xai.course.provenance")


def test_it_takes_only_methods_and_subjects_from_the_library():
    tree = ast.parse(SCRIPT.read_text(encoding="utf8"))
    ours = [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    ours = [name for name in ours if name.startswith("manifold_xai")]
    assert ours and all(name.startswith(METHODS) for name in ours)


@pytest.fixture
def audit():
    file = ROOT / "benchmarks" / "results" / "audit.json"
    return json.loads(file.read_text(encoding="utf8"))


def meets(claim, a):
    """Whether the audit's interval overlaps the one that the ledger keeps now."""
    kept = json.loads((ROOT / "nbs" / "results" / "evidence.json").read_text(encoding="utf8"))
    e = kept[claim]["conditions"].get(a["condition"])
    assert e is not None, f"{claim} is recorded under other conditions now: run the audit again"
    _, low, high, _ = a["audit"]
    return low <= e["high"] and e["low"] <= high


def test_seven_claims_on_digits_meet_the_evidence(audit):
    digits = {k: a for k, a in audit["claims"].items() if "photographs" not in a["condition"]}
    assert len(digits) == 7
    for claim, a in digits.items():
        assert meets(claim, a), claim


def test_three_claims_on_photographs_meet_the_evidence(audit):
    photographs = {k: a for k, a in audit["claims"].items() if "photographs" in a["condition"]}
    assert len(photographs) == 3, "run the audit with --data-root FOLDER"
    for claim, a in photographs.items():
        assert a["audit"][3] >= 24 and meets(claim, a), claim
