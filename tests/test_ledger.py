"""The ledger: verdicts are computed from the numbers that a run recorded, and from nothing else."""
import json

import pytest
from helpers import ROOT

from manifold_xai.course.chapter import Estimate, claims
from manifold_xai.course.ledger import (
    VERDICTS,
    as_table,
    ledger,
    places,
    results,
    select,
    stored,
    write_ledger,
)


def put(folder, claim, **conditions):
    """A record as a chapter leaves it; its own verdict is nonsense, since it must not be believed."""
    (folder / "claims").mkdir(exist_ok=True)
    entry = dict(claim=claim, verdict="reproduced", why="", paper_value="p", chapter="40_x", profile="cpu", conditions={k: e._asdict() for k, e in conditions.items()})
    (folder / "claims" / f"{claim}.json").write_text(json.dumps(entry))


def row(folder, claim):
    return next(r for r in ledger(results(folder)) if r.claim == claim)


def test_a_changed_number_changes_the_verdict(tmp_path):
    n = int(claims()["MAGIG-17"]["n_min"])
    put(tmp_path, "MAGIG-17", a=Estimate(0.2, 0.1, 0.3, n), b=Estimate(0.3, 0.1, 0.5, n))
    assert row(tmp_path, "MAGIG-17").verdict == "reproduced"
    assert "0.2 [0.1, 0.3]" in row(tmp_path, "MAGIG-17").ours
    put(tmp_path, "MAGIG-17", a=Estimate(0.2, 0.1, 0.3, n), b=Estimate(0.3, -0.1, 0.5, n))
    assert row(tmp_path, "MAGIG-17").verdict == "mixed"
    put(tmp_path, "MAGIG-17", a=Estimate(-0.2, -0.3, -0.1, n), b=Estimate(0.3, -0.1, 0.5, n))
    assert row(tmp_path, "MAGIG-17").verdict == "not reproduced"
    put(tmp_path, "MAGIG-17", a=Estimate(0.2, 0.1, 0.3, n - 1))
    assert row(tmp_path, "MAGIG-17").verdict == "not testable here"
    assert row(tmp_path, "MAGIG-17").n == n - 1


def test_every_claim_has_a_row_and_the_untested_say_why(tmp_path):
    rows = ledger(results(tmp_path))
    assert [r.claim for r in rows] == list(claims())
    assert {r.verdict for r in rows} == {"not testable here"}
    assert next(r for r in rows if r.claim == "BORDT-11").why == "needs answers of people"
    assert all(r.why and r.n == 0 for r in rows)


def test_each_claim_is_recorded_once_and_found():
    where, sources = places(ROOT), [p.read_text(encoding="utf8") for p in (ROOT / "nbs").glob("[0-9][0-9]_*.ipynb")]
    assert set(where) <= set(claims()) and where["MIG-04"].startswith("20_metric.ipynb#")
    for claim, place in where.items():
        calls = sum(source.count(f'record(\\"{claim}\\"') for source in sources)
        assert calls == 1, f"{claim} is recorded {calls} times"
        name, heading = place.split("#", 1)
        assert heading
        assert heading.replace("-", " ").split()[0] in (ROOT / "nbs" / name).read_text(encoding="utf8")


def test_select_narrows_and_orders(tmp_path):
    put(tmp_path, "MIG-06", a=Estimate(0, 0, 0, 5))
    rows = ledger(results(tmp_path))
    assert [r.claim for r in select(rows, verdict="reproduced")] == ["MIG-06"]
    assert {r.paper for r in select(rows, paper="bordt")} == {next(r.paper for r in rows if r.claim == "BORDT-01")}
    assert select(rows, by="n")[-1].claim == "MIG-06"
    assert [r.claim for r in select(rows, words="mig-06 REPRODUCED")] == ["MIG-06"]
    for wrong in (dict(verdict="true"), dict(by="size")):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            select(rows, **wrong)


def test_the_written_ledger_reads_back(tmp_path):
    (tmp_path / "nbs" / "results").mkdir(parents=True)
    put(tmp_path, "MIG-06", a=Estimate(0.5, 0.5, 0.5, 5))
    rows = write_ledger(tmp_path, tmp_path)
    text = (tmp_path / "LEDGER.md").read_text(encoding="utf8")
    assert text.count("\n| ") == len(claims()) + 2
    assert all(f"{sum(r.verdict == v for r in rows)} {v}" in text for v in VERDICTS)
    (tmp_path / "ledger.json").rename(tmp_path / "nbs" / "results" / "ledger.json")
    assert ledger(stored(tmp_path)) == rows and stored(ROOT.parent) == {}


def test_a_bar_in_a_text_does_not_break_the_table(tmp_path):
    put(tmp_path, "MIG-06", **{"|A| of a map": Estimate(0, 0, 0, 5)})
    line = next(line for line in as_table(ledger(results(tmp_path))).splitlines() if line.startswith("| MIG-06"))
    assert line.replace("\\|", "").count("|") == 7


@pytest.mark.parametrize("text", ["{", '{"claim": "MIG-06"}', "[1]", '{"claim": "MIG-06", "conditions": {"a": {"value": 1}}}'])
def test_a_damaged_record_is_named(tmp_path, text):
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / "MIG-06.json").write_text(text)
    with pytest.raises(ValueError, match="MIG-06.json is not the record of a claim"):
        results(tmp_path)


def test_evidence_decides_where_code_and_data_are_the_same(tmp_path):
    n = int(claims()["MAGIG-17"]["n_min"])
    put(tmp_path, "MAGIG-17", a=Estimate(0.2, 0.1, 0.3, n), b=Estimate(0.3, 0.1, 0.5, n))
    short = results(tmp_path)["MAGIG-17"] | {"key": dict(code="c", data="d", settings="s")}
    long = short | {"profile": "evidence", "conditions": {"a": Estimate(-0.2, -0.3, -0.1, 9 * n), "b": Estimate(0.3, 0.2, 0.4, 9 * n), "c": Estimate(0.1, 0.05, 0.2, 9 * n)}}
    def judged(evidence):
        return next(r for r in ledger({"MAGIG-17": short}, evidence={"MAGIG-17": evidence}) if r.claim == "MAGIG-17")
    assert (judged(long).verdict, judged(long).profile, judged(long).n) == ("mixed", "evidence", 9 * n)
    assert "cpu agrees on 1 of 2 conditions" in judged(long).why
    for key in (dict(code="c", data="other"), dict(code="other", data="d"), {}):
        assert (judged(long | {"key": key}).verdict, judged(long | {"key": key}).profile) == ("reproduced", "cpu")
    assert ledger({"MAGIG-17": {k: v for k, v in short.items() if k != "key"}}, evidence={"MAGIG-17": {k: v for k, v in long.items() if k != "key"}})[
        list(claims()).index("MAGIG-17")
    ].profile == "cpu"
