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
    return json.loads((ROOT / "benchmarks" / "results" / "audit.json").read_text(encoding="utf8"))


def test_ten_claims_three_of_them_on_photographs_meet_the_evidence(audit):
    kept = json.loads((ROOT / "nbs" / "results" / "evidence.json").read_text(encoding="utf8"))
    assert len(audit["claims"]) == 10
    assert sum("photographs" in a["condition"] for a in audit["claims"].values()) == 3
    for claim, a in audit["claims"].items():
        _, low, high, n = a["audit"]
        e = kept[claim]["conditions"].get(a["condition"])
        if e is None:
            pytest.skip(f"{claim} is recorded under other conditions now: run the audit again")
        assert n >= 16 and low <= e["high"] and e["low"] <= high, claim
