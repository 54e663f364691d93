"""The ledger: its answers are computed from the numbers that a run recorded, and nothing else."""

import csv
import hashlib
import io
import itertools
import json
import math
import re
import subprocess

import pytest
import torch
from helpers import ROOT, SHARED
from hypothesis import given, settings
from hypothesis import strategies as st

from manifold_xai.course import report
from manifold_xai.course.chapter import bootstrap, condition, exact
from manifold_xai.course.claims import (
    COLUMNS,
    LATER,
    Condition,
    Estimate,
    Gate,
    as_json,
    claims,
    read_claims,
    read_record,
    revisions,
)
from manifold_xai.course.forest import _inward, inward
from manifold_xai.course.ledger import (
    OLDER,
    as_table,
    changed_since,
    claim_places,
    judged,
    ledger,
    results,
    select,
    stored,
    write_ledger,
)
from manifold_xai.course.notebooks import chapters, read
from manifold_xai.course.outcomes import (
    _explained,
    _splits,
    ITSELF,
    MOST,
    OUTCOMES,
    SIDES,
    Beside,
    answer,
    joint,
    needed,
    outcomes,
    over_seeds,
    pool,
    printed,
    reported,
    smallest_effect,
    standard_error,
)
from manifold_xai.course.provenance import RECORD, outdated


def put(folder, claim, **conditions):
    """A record as a chapter leaves it, with a nonsensical outcome, which must be ignored."""
    (folder / "claims").mkdir(exist_ok=True)
    entry = dict(
        claim=claim,
        outcome="supported",
        why="",
        paper_value="p",
        chapter="40_x",
        profile="cpu",
        conditions={k: e._asdict() for k, e in conditions.items()},
    )
    (folder / "claims" / f"{claim}.json").write_text(json.dumps(entry))


def row(folder, claim):
    return next(r for r in ledger(results(folder)) if r.claim == claim)


def test_a_changed_number_changes_the_outcome(tmp_path):
    n = int(claims()["MAGIG-24"]["n_min"])
    put(tmp_path, "MAGIG-24", a=Estimate(0.2, 0.1, 0.3, n), b=Estimate(0.3, 0.1, 0.5, n))
    assert row(tmp_path, "MAGIG-24").outcome == "supported"
    assert "0.2 [0.1, 0.3]" in row(tmp_path, "MAGIG-24").ours
    put(tmp_path, "MAGIG-24", a=Estimate(0.2, 0.1, 0.3, n), b=Estimate(0.3, -0.1, 0.5, n))
    assert row(tmp_path, "MAGIG-24").outcome == "undecided" and row(tmp_path, "MAGIG-24").needed
    put(tmp_path, "MAGIG-24", a=Estimate(-0.2, -0.3, -0.1, n), b=Estimate(0.3, -0.1, 0.5, n))
    assert row(tmp_path, "MAGIG-24").outcome == "contradicted"
    put(tmp_path, "MAGIG-24", a=Estimate(-0.2, -0.3, -0.1, n), b=Estimate(0.3, 0.1, 0.5, n))
    assert row(tmp_path, "MAGIG-24").outcome == "split"
    put(tmp_path, "MAGIG-24", a=Estimate(0.2, 0.1, 0.3, n - 1))
    assert row(tmp_path, "MAGIG-24").outcome == "undecided"
    assert row(tmp_path, "MAGIG-24").n == n - 1


def test_every_claim_has_a_row_and_the_untested_say_why(tmp_path):
    rows = ledger(results(tmp_path))
    assert [r.claim for r in rows] == list(claims())
    assert {r.outcome for r in rows} == {"not tested"}
    assert next(r for r in rows if r.claim == "BORDT-11").why == "needs answers of people"
    assert all(r.why and r.n == 0 for r in rows)


def test_each_claim_is_recorded_once_and_found():
    where = claim_places(ROOT)
    cells = [cell for path in chapters(ROOT) for cell in read(path)["cells"]]
    recorded = [name for cell in cells for name in RECORD.findall(cell["source"])]
    assert set(where) <= set(claims()) and len(where) >= 87
    assert "20_metric.ipynb#" in where["MIG-04"]
    for claim, place in where.items():
        assert recorded.count(claim) == 1, f"{claim} is recorded {recorded.count(claim)} times"
        name, heading = place.split("#", 1)
        assert heading
        assert heading.replace("-", " ").split()[0] in (ROOT / "nbs" / name).read_text(
            encoding="utf8"
        )


def test_select_narrows_and_orders(tmp_path):
    put(tmp_path, "MIG-06", a=Estimate(0, 0, 0, 5))
    rows = ledger(results(tmp_path))
    assert [r.claim for r in select(rows, outcome="supported")] == ["MIG-06"]
    assert {r.paper for r in select(rows, paper="bordt")} == {
        next(r.paper for r in rows if r.claim == "BORDT-01")
    }
    assert select(rows, by="n")[-1].claim == "MIG-06"
    assert [r.claim for r in select(rows, words="mig-06 SUPPORTED")] == ["MIG-06"]
    for wrong in (dict(outcome="true"), dict(by="size")):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            select(rows, **wrong)


def test_the_written_ledger_reads_back(tmp_path):
    (tmp_path / "nbs" / "results").mkdir(parents=True)
    put(tmp_path, "MIG-06", a=Estimate(0.5, 0.5, 0.5, 5))
    rows = write_ledger(tmp_path, tmp_path)
    text = (tmp_path / "LEDGER.md").read_text(encoding="utf8")
    assert text.count("\n| ") == len(claims()) + 2
    assert all(f"{sum(r.outcome == o for r in rows)} {o}" in text for o in OUTCOMES)
    (tmp_path / "ledger.json").rename(tmp_path / "nbs" / "results" / "ledger.json")
    assert ledger(stored(tmp_path)) == rows and stored(ROOT.parent) == {}


def test_a_bar_in_a_text_does_not_break_the_table(tmp_path, monkeypatch):
    monkeypatch.setitem(claims()["MIG-06"], "plainly", "|A| of a map")
    put(tmp_path, "MIG-06", a=Estimate(0, 0, 0, 5))
    line = next(
        line
        for line in as_table(ledger(results(tmp_path))).splitlines()
        if line.startswith("| MIG-06")
    )
    assert line.replace("\\|", "").count("|") == 8


def damaged(**change):
    """A whole record of MIG-06 with one thing changed."""
    estimate = dict(value=0.0, low=0.0, high=0.0, n=5)
    entry = dict(claim="MIG-06", paper_value="p", chapter="20_metric", profile="cpu")
    entry |= dict(conditions={"a": estimate | change.pop("a", {})})
    return json.dumps(entry | change)


@pytest.mark.parametrize(
    "text, says",
    [
        ("", "Expecting value"),
        ("{", "Expecting"),
        ("[1]", "must be object"),
        ('{"claim": "MIG-06"}', "must contain"),
        ('{"claim": "MIG-06", "claim": "MIG-06"}', "'claim' occurs twice"),
        (damaged(claim="MIG-07"), "the record kept as MIG-06 is of MIG-07"),
        (damaged(conditions={}), "must be one or more"),
        (damaged(a=dict(value=float("nan"))), "NaN is not a finite number"),
        (damaged(a=dict(high=1e999)), "Infinity is not a finite number"),
        (damaged(a=dict(value=2.0)), "low <= value <= high"),
        (damaged(a=dict(low=1.0)), "low <= value <= high"),
        (damaged(a=dict(n=-5)), "must be bigger than or equal to 1"),
        (damaged(a=dict(n="5")), "must be integer"),
        (damaged(a=dict(more=1)), "must not contain"),
        (damaged(later=["b"]), "`later` must name some"),
        (damaged(paper_value=None), "must be string"),
    ],
)
def test_a_damaged_record_is_named_and_stops_no_other(tmp_path, text, says):
    put(tmp_path, "MIG-21", a=Estimate(0.2, 0.1, 0.3, 100))
    (tmp_path / "claims" / "MIG-06.json").write_text(text)
    path = tmp_path / "claims" / "MIG-06.json"
    with pytest.raises(ValueError, match=f"{path} is not the record of a claim: .*{says}"):
        read_record(path)
    ours, other = (row(tmp_path, claim) for claim in ("MIG-06", "MIG-21"))
    assert (ours.outcome, ours.n) == ("not tested", 0) and says in ours.why
    assert "Delete it and run its chapter again" in ours.why and other.outcome == "supported"


def test_evidence_decides_where_the_shorter_record_is_damaged(tmp_path):
    put(tmp_path, "MIG-21", a=Estimate(0.2, 0.1, 0.3, 100))
    long = results(tmp_path) | {}
    (tmp_path / "claims" / "MIG-21.json").write_text("{")

    def judged(old):
        rows = ledger(results(tmp_path), evidence=long, old=old)
        return next(r for r in rows if r.claim == "MIG-21")

    assert judged({}).outcome == "supported" and judged({}).n == 100
    found = judged({"MIG-21": ["solve"]})
    assert found.outcome == "not tested" and "older code: solve changed since" in found.why


def test_evidence_of_other_code_says_so_and_gives_way_to_a_run_of_today(tmp_path):
    put(tmp_path, "MIG-21", a=Estimate(0.2, 0.1, 0.3, 100))
    ours = results(tmp_path)
    long = {"MIG-21": ours["MIG-21"] | {"conditions": {"a": Condition(Estimate(-2, -3, -1, 200))}}}
    old = {"MIG-21": ["solve"]}

    def judged(recorded):
        rows = ledger(recorded, evidence=long, old=old)
        return next(r for r in rows if r.claim == "MIG-21")

    old_alone, with_ours = judged({}), judged(ours)
    assert (old_alone.outcome, old_alone.needed) == ("undecided", OLDER)
    assert old_alone.why.startswith(f"{OLDER}: solve changed since; then contradicted: 0 of 1")
    assert f"**undecided**, {OLDER} |" in as_table([old_alone])
    assert with_ours.outcome == "supported" and with_ours.why.endswith("solve changed since")


def test_what_the_papers_own_table_decides_needs_no_numbers_of_ours():
    long = {"MAGIG-26": stored(ROOT, "evidence")["MAGIG-26"]}
    rows = {old: ledger({}, None, long, {"MAGIG-26": ["solve"]} if old else {}) for old in (0, 1)}
    today, later = (next(r for r in rows[old] if r.claim == "MAGIG-26") for old in (0, 1))
    assert later.outcome == today.outcome != "undecided" and "solve changed since" in later.why


def test_of_many_changes_the_first_are_named():
    assert changed_since(list("abcd")) == f"{OLDER}: a, b, c and 1 more changed since"


def test_a_record_of_no_claim_is_named(tmp_path):
    put(tmp_path, "MIG-99", a=Estimate(0.2, 0.1, 0.3, 100))
    assert "got 'MIG-99'" in results(tmp_path)["MIG-99"]["damaged"]


@pytest.mark.parametrize(
    "change", [{"claim": "MIG-07"}, {"conditions": []}, {"conditions": {"a": 1}}]
)
def test_damage_to_what_is_kept_is_named_by_file_and_claim(tmp_path, change):
    folder = tmp_path / "nbs" / "results"
    folder.mkdir(parents=True)
    (folder / "evidence.json").write_text(json.dumps({"MIG-06": json.loads(damaged(**change))}))
    with pytest.raises(ValueError, match="evidence.json cannot be read: .*MIG-06"):
        stored(tmp_path, "evidence")


TABLE = ROOT / "manifold_xai" / "assets" / "claims.csv"
PRESET = tuple(name for name in COLUMNS if name not in LATER)
# of what was set before testing
HASH = "ae7601f2f82c1adfea844fde4059039a940fa053033abd39f9456d8e6d4d7021"


@pytest.mark.parametrize(
    "old, new, says",
    [
        (
            ",below,0.01,,all,100,,",
            ",under,0.01,,all,100,,",
            "line 2: direction must be one of above",
        ),
        (",below,0.01,,all,100,,", ",below,nan,,all,100,,", "line 2: threshold must be a finite"),
        (",below,0.01,,all,100,,", ",below,,,all,100,,", "line 2: threshold must be a finite"),
        (
            ",below,0.01,,all,100,,",
            ",below,0.01,-1,all,100,,",
            "line 2: tolerance must be empty, or",
        ),
        (
            ",below,0.01,,all,100,,",
            ",below,0.01,,most,100,,",
            "line 2: aggregate must be each, all",
        ),
        (",below,0.01,,all,100,,", ",below,0.01,,share 1.5,100,,", "line 2: aggregate must be"),
        (",below,0.01,,all,100,,", ",below,0.01,,share 0.0,100,,", "line 2: aggregate must be"),
        (",below,0.01,,all,100,,", ",below,0.01,,all,-5,,", "line 2: n_min must be a whole number"),
        (
            ",below,0.01,,all,100,,",
            ",below,0.01,,all,0,,",
            "line 2: n_min must be a whole number, 1",
        ),
        (
            ",below,0.01,,all,100,,",
            ",below,0.01,,all,",
            "line 2 has 22 cells, but the header has 24",
        ),
        (",2026-11-29,", ",yesterday,", "line 2: dated must be a day, such as 2026"),
        (",proof,", ",guess,", "line 2: test must be one of as in the paper, transfer"),
        ("MIG-02,", "MIG-01,", "line 3: id 'MIG-01' is in line 2 already"),
        ("MIG-02,", ",", "line 3: id must be filled in"),
        ("direction,", "side,", "must have a column 'direction'"),
        ("id,paper", "id,id", "'id' occurs twice in its header"),
    ],
)
def test_a_damaged_table_of_claims_is_refused_by_line_and_column(tmp_path, old, new, says):
    text = TABLE.read_text(encoding="utf8")
    assert old in text
    path = tmp_path / "claims.csv"
    path.write_text(text.replace(old, new, 1), encoding="utf8")
    with pytest.raises(ValueError, match=f"{path}.*{re.escape(says)}"):
        read_claims(path)


def test_a_table_of_claims_that_is_not_in_utf8_is_refused(tmp_path):
    (tmp_path / "claims.csv").write_bytes(TABLE.read_bytes() + "ä".encode("latin-1"))
    with pytest.raises(ValueError, match="claims.csv is not a table with commas, in UTF-8"):
        read_claims(tmp_path / "claims.csv")


def test_evidence_decides_where_code_and_data_are_the_same(tmp_path):
    n = int(claims()["MAGIG-24"]["n_min"])
    put(tmp_path, "MAGIG-24", a=Estimate(0.2, 0.1, 0.3, n), b=Estimate(0.3, 0.1, 0.5, n))
    stamp = dict(code="c", data="d", settings="s")
    short = results(tmp_path)["MAGIG-24"] | {"key": stamp, "rows": [1, 2]}
    a, b, c = (-0.2, -0.3, -0.1, 9 * n), (0.3, 0.2, 0.4, 9 * n), (0.1, 0.05, 0.2, 9 * n)
    measured = {k: Condition(Estimate(*e)) for k, e in dict(a=a, b=b, c=c).items()}
    long = short | {"profile": "evidence", "conditions": measured, "rows": [3, 4]}

    def judged(evidence):
        rows = ledger({"MAGIG-24": short}, evidence={"MAGIG-24": evidence})
        return next(r for r in rows if r.claim == "MAGIG-24")

    found = judged(long)
    assert (found.outcome, found.profile, found.n) == ("split", "evidence", 9 * n)
    for key in (dict(code="c", data="other"), dict(code="other", data="d"), {}):
        found = judged(long | {"key": key})
        assert (found.outcome, found.profile) == ("supported", "cpu")


def test_a_run_replicates_only_what_it_measured_again_on_other_images(tmp_path):
    put(tmp_path, "MIG-21", a=Estimate(0.2, 0.1, 0.3, 100), b=Estimate(0.2, 0.1, 0.3, 100))
    stamp = dict(code="c", data="d", settings="s")
    short = results(tmp_path)["MIG-21"] | {"key": stamp, "rows": [1, 2]}
    kept = {"a": Condition(Estimate(0.25, 0.2, 0.31, 200)), "b": short["conditions"]["b"]}
    long = short | {"conditions": kept, "rows": [3, 4], "profile": "evidence"}

    def why(**change):
        rows = ledger({"MIG-21": short}, evidence={"MIG-21": long | change})
        return next(r for r in rows if r.claim == "MIG-21").why

    assert why().endswith("replicates in 1 of 1 (cpu, other images)")  # b was read from a store
    assert "replicates" not in why(rows=[2, 3]) and why(rows=[2, 3]).endswith(
        "run again in 1 of 1 (cpu)"
    )
    assert "(cpu" not in why(conditions=short["conditions"])


# What was set beforehand stays as it was


def test_no_preset_column_of_the_claims_has_changed():
    with TABLE.open(encoding="utf8", newline="") as file:
        rows = [[row[name] for name in PRESET] for row in csv.DictReader(file)]
    assert hashlib.sha256(json.dumps(rows).encode()).hexdigest() == HASH


def test_a_preset_column_comes_first_and_the_later_ones_are_dated():
    head = TABLE.read_text(encoding="utf8").splitlines()[0].split(",")
    assert tuple(head[: len(PRESET)]) == PRESET and head[len(PRESET)] == "dated"
    assert all(about["dated"] > "2026-11-22" for about in claims().values())  # the preset ones' day


@pytest.mark.parametrize("rule", ["exists", "each", "all", "share 0.9", "share 0.5", "share 1"])
def test_every_case_of_every_rule_has_one_outcome(rule):
    for counts in itertools.product(range(12), repeat=3):
        sides = [s for s, k in zip(SIDES, counts) for _ in range(k)]
        said, (held, against, open_) = joint(rule, sides), counts
        if not sides:
            assert said == "undecided"
        elif rule == "exists":
            assert said == ("supported" if held else "undecided")
        elif rule == "all":
            assert said == ("contradicted" if against else "undecided" if open_ else "supported")
        elif rule == "each":
            best = "supported" if not open_ and not against else "undecided"
            assert said == ("split" if held and against else "contradicted" if against else best)
        else:
            least = float(rule.split()[1]) * len(sides) - 1e-9
            never = "contradicted" if held + open_ < least else "undecided"
            assert said == ("supported" if held >= least else never)


def test_the_table_of_outcomes_has_no_other_words():
    assert {row["outcome"] for row in outcomes()} < set(OUTCOMES)
    assert {row["rule"] for row in outcomes()} == {"exists", "each", "all", "share"}


def test_a_later_condition_on_fewer_images_needs_half_of_them():
    for passed, told in ((16, "added later: above 0 for dogs"), (15, "1 fails its gate")):
        late = Condition(YES._replace(n=passed), "exploratory", (Gate("right", passed, 32),))
        assert told in answer("MIG-16", {"a": YES, "dogs": late}).why
        assert answer("MIG-16", {"dogs": late._replace(role="headline")}).outcome == "undecided"


def test_one_of_many_against_a_claim_about_all_has_its_interval_widened():
    near = Estimate(-0.2, -0.39, -0.01, 100)
    for n, outcome in ((1, "contradicted"), (12, "undecided")):
        measured = {f"pair {i}": Estimate(0.01, 0.009, 0.011, 100) for i in range(n - 1)}
        said = answer("MAGIG-08", measured | {"against": near})
        assert said.outcome == outcome and ("one against is enough" in said.why) == (n > 1)
    assert answer("MAGIG-08", measured | {"against": NO}).outcome == "contradicted"


def test_an_interval_is_held_against_the_papers_own_lead_over_that_method():
    for rival, outcome in (("IG", "supported"), ("GIG", "undecided")):
        said = answer("MAGIG-14", {f"any, DiffID, minus {rival}": Estimate(0.1, 0.05, 0.15, 100)})
        assert said.outcome == outcome and said.before == "undecided" and said.revised
        assert ("wider than the effect that the paper reports, 0.037" in said.why) == (
            rival != "IG"
        )


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the papers' tables in ../shared")
def test_the_leads_of_a_claim_are_those_of_the_papers_table():
    with (SHARED / "papers" / "tables" / "magig_table1_main.csv").open(encoding="utf8") as file:
        table = [row for row in csv.DictReader(file) if row["dataset"] == "ImageNet"]
    about = claims()["MAGIG-14"]
    of = {(r["classifier"], r["method"], r["metric"]): float(r["value"]) for r in table}
    for measure in ("DiffID", "Insertion"):
        for method in {r["method"] for r in table} - {"MA-GIG"}:
            pairs = [(v, n) for (n, k, m), v in of.items() if (k, m) == (method, measure)]
            leads = [of[n, "MA-GIG", measure] - v for v, n in pairs]
            named = method.replace("GradInput", "Input × Gradient")
            told = reported(about, f"EfficientNet-Lite0, {measure}, minus {named}")
            assert told == pytest.approx(sum(leads) / 3, abs=6e-4)


# Gates, controls, seeds

YES, NO = Estimate(0.2, 0.1, 0.3, 100), Estimate(-0.2, -0.3, -0.1, 100)


def test_a_condition_that_fails_its_gate_counts_neither_way():
    failed = Condition(NO, gates=(Gate("the attack moves the map", 0),))
    few = Condition(NO, gates=(Gate("the integral converged", 99, 200),))
    for out, why in ((failed, "not passed"), (few, "passed by 99 of 200 images")):
        said = answer("MIG-21", {"a": YES, "b": out})
        what = f"b does not count: the gate, that {out.gates[0].what}, is {why}"
        assert said.outcome == "supported" and what in said.why
    assert answer("MIG-21", {"b": failed}).outcome == "undecided"
    assert answer("MIG-21", {"b": failed}).needed == "a condition that passes its gate"
    few = Condition(NO, gates=(Gate("the integral converged", 64, 200),))
    assert answer("MIG-21", {"b": few}).needed == "100 images that pass, now 64"
    assert answer("MIG-21", {"b": Condition(NO, gates=(Gate("w", 1),))}).outcome == "contradicted"


def test_an_existence_claim_needs_one_condition_that_passes_its_gate():
    fails = Condition(YES, gates=(Gate("the attack moves the map", 0),))
    assert answer("MIG-15", {"a": YES, "b": NO}).outcome == "supported"
    found = answer("MIG-15", {"a": fails, "b": NO})
    assert (found.before, found.outcome) == ("contradicted", "undecided")
    assert found.needed == "none found in what was searched" and found.revised


@pytest.mark.parametrize("e, survives", [(YES, "yes"), (NO, "no"), (Estimate(0, -1, 1, 9), "open")])
def test_a_control_answers_and_never_changes_the_outcome(e, survives):
    for measured in (YES, NO):
        plain = answer("MIG-21", {"a": measured})
        with_control = answer("MIG-21", {"a": measured, "c": Condition(e, "control")})
        assert plain.outcome == with_control.outcome and plain.survives == "not tried"
        assert with_control.survives == (survives if measured is YES else "no effect")


def test_a_control_or_a_later_condition_whose_gate_fails_answers_nothing():
    fails = (Gate("the attack moves the map", 0),)
    for e in (YES, NO):
        found = answer("MIG-21", {"a": YES, "c": Condition(e, "control", gates=fails)})
        assert found.survives == "open" and "c" not in found.sides
        found = answer(
            "MIG-21", {"a": YES, "d": Condition(e, "exploratory", gates=fails)}, later=["d"]
        )
        assert "added later: none counts, 1 fails its gate" in found.why


def test_the_effect_that_could_have_been_seen_is_told_by_quantity():
    far, near = Estimate(9, 1, 17, 100), Estimate(0.9, 0.8, 1.0, 100)
    made = {"energy, a": far, "energy, b": near, "cost, a": near}
    found = answer("MIG-07", made).smallest
    assert found["energy"] == smallest_effect(Condition(far))
    assert found["cost"] == smallest_effect(Condition(near)) < found["energy"]


def test_how_many_images_pass_a_gate_is_said_where_some_do_not():
    some = Condition(YES, gates=(Gate("it adds up", 140, 200), Gate("it is right", 200, 200)))
    why = answer("MIG-21", {"a": some}).why
    assert "each gate is passed by 140 of 200 images, or by a larger share" in why
    assert "each gate" not in answer("MIG-21", {"a": YES}).why


def test_gates_are_asked_before_seeds_are_pooled():
    passed, failed = (Gate("it was trained", k, 1) for k in (1, 0))
    each = {f"net, seed {i}": Condition(YES, gates=(passed,)) for i in (1, 2)}
    each |= {f"net, seed {i}": Condition(NO, gates=(failed,)) for i in (3, 4)}
    found = pool(each, r", seed \d+")
    assert [*found] == ["net", "net, headline, gate not passed"]
    assert found["net"].measured.value == YES.value and found["net"].seeds == 2


def test_seeds_are_pooled_and_as_wide_as_they_spread():
    alike = {f"a, seed {i}": Condition(Estimate(0.2, 0.1, 0.3, 100)) for i in range(4)}
    (one,) = pool(alike, r", seed \d+").values()
    assert one.measured == pytest.approx(Estimate(0.2, 0.1, 0.3, 100)) and one.seeds == 4
    apart = [Condition(Estimate(v, v, v, 100)) for v in (0.0, 1.0)]
    assert over_seeds(apart).measured.high - 0.5 == pytest.approx(
        12.7062 * 0.5, rel=1e-4
    )  # t, n = 2


def test_the_interval_over_seeds_covers_as_often_as_it_says():
    g, hits = torch.Generator().manual_seed(0), 0
    for _ in range(400):
        image, seed = torch.randn(40, generator=g), torch.randn(5, 1, generator=g)
        v = 0.5 * image + 0.3 * seed + 0.5 * torch.randn(5, 40, generator=g)
        each = [Condition(exact(row.mean(), 40), values=(tuple(row.tolist()),)) for row in v]
        e = over_seeds(each).measured
        hits += e.low <= 0 <= e.high
    assert 0.94 <= hits / 400  # 95 %, less two standard errors; wider is allowed


def test_a_condition_comes_back_from_its_record_and_gives_its_interval_again(tmp_path):
    v = torch.randn(60, generator=torch.Generator().manual_seed(1)) + 0.3
    kept = {"right class": torch.arange(60) > 4, "the attack moves the map": True}
    one = condition(v, torch.Generator().manual_seed(2), gates=kept)
    assert one.measured.n == 55 and [g.passed for g in one.gates] == [55, 1]
    text = json.dumps(as_json({"conditions": {"a": one}}))
    entry = dict(claim="MIG-21", paper_value="", profile="cpu", chapter="x") | json.loads(text)
    (tmp_path / "MIG-21.json").write_text(json.dumps(entry))
    back = read_record(tmp_path / "MIG-21.json")["conditions"]["a"]
    assert back._replace(values=()) == one._replace(values=())
    again = bootstrap(torch.tensor(back.values[0]), torch.Generator().manual_seed(2))
    assert again == pytest.approx(one.measured, abs=1e-5)


def test_the_n_that_would_decide_decides():
    """In four trials of five, if the effect is as large as found."""
    about, c = claims()["MIG-21"], Condition(Estimate(0.1, -0.1, 0.3, 100))
    n, g = math.ceil(needed(c, about)), torch.Generator().manual_seed(0)
    sd = standard_error(c.measured) * 10
    means = 0.1 + sd / n**0.5 * torch.randn(4000, generator=g)
    found = (means - 1.96 * sd / n**0.5 > 0).float().mean()
    assert abs(found - 0.8) < 3 * (0.16 / 4000) ** 0.5


def test_a_bar_that_the_papers_own_numbers_cannot_fail_decides_nothing(monkeypatch):
    said = answer("MAGIG-30", {"a": Estimate(0.01, 0.009, 0.011, 200)})
    with (ROOT / "manifold_xai" / "assets" / "paper.csv").open(encoding="utf8") as file:
        theirs = [float(r["value"]) for r in csv.DictReader(file) if r["claim"] == "MAGIG-30"]
    inside = sum(abs(v) <= 0.02 for v in theirs)
    assert said.outcome == "undecided"
    assert said.why.startswith(
        f"decides nothing: its bar contains {inside} of the paper's own {len(theirs)}"
    )
    monkeypatch.setitem(claims()["MAGIG-30"], "tolerance", "0.002")
    assert "decides nothing" not in answer("MAGIG-30", {"a": YES}).why


# What was revised when results were known


def test_a_line_of_the_table_that_was_changed_says_when_and_why():
    changed = [row for row in outcomes() if row["was"]]
    assert all(row["dated"] and row["note"] and row["was"] != row["outcome"] for row in changed)
    assert [row["rule"] for row in changed] == ["exists"]


def test_every_revision_names_a_claim_its_day_and_conditions_that_it_finds():
    for claim, change in revisions().items():
        assert change.dated > "2026-11-22" and change.reason
        first = [n for n, c in SHOWN[claim]["conditions"].items() if c.role == "headline"]
        pooled = [
            *pool({n: SHOWN[claim]["conditions"][n] for n in first}, claims()[claim]["pooled"])
        ]
        assert any(re.search(change.which, name) for name in pooled), claim


def test_a_claim_about_all_is_not_supported_by_the_minority_that_counts():
    fails = Condition(YES, gates=(Gate("an untrained network does not pass already", 0),))
    for n, outcome in ((1, "supported"), (2, "undecided")):
        said = answer("BORDT-04", {"a": YES} | {f"size {i}": fails for i in range(n)})
        assert (said.outcome, said.before) == (outcome, "supported")
        assert said.needed == ("" if n == 1 else revisions()["BORDT-04"].needs)
    now = found()
    for r in now.rows:
        said, least = now.answers.get(r.claim), claims()[r.claim]
        if r.outcome == "supported" and "all" in (least["rule"], least["aggregate"]):
            asked = [k for k, c in said.conditions.items() if c.role == "headline"]
            assert 2 * sum(k in said.sides for k in asked) >= len({*asked} - {*said.aside}), r.claim


def test_the_first_rule_is_told_where_the_sentences_words_ask_for_another():
    said = answer("MAGIG-21", {"a": YES, "b": NO})
    assert (said.before, said.outcome) == ("split", "contradicted")
    assert "about every case" in said.revised and "contradicted: b" in said.why
    assert answer("MAGIG-21", {"a": YES}).revised == ""


@pytest.mark.parametrize(
    "claim, ends, needs",
    [
        ("MIG-21", [(-0.1, 0.3)], "(supported)"),
        ("MIG-21", [(-0.1, 0.3), (-0.03, 0.01)], "(contradicted)"),
        ("MIG-21", [(0.1, 0.3), (-0.03, 0.01)], "(split)"),
        ("MIG-15", [(-0.1, 0.3), (-0.3, 0.1)], "(supported)"),
        ("MIG-15", [(-0.3, 0.1)], "none found in what was searched"),
    ],
)
def test_the_n_that_would_decide_says_how(claim, ends, needs):
    measured = {str(i): Estimate(sum(e) / 2, *e, 200) for i, e in enumerate(ends)}
    assert answer(claim, measured).needed.endswith(needs)


def test_no_n_is_told_where_more_images_change_the_quantity_itself():
    said = answer("MAGIG-20", {"half and half": Estimate(0.85, 0.75, 0.92, 200)})
    assert said.outcome == said.before == "undecided"
    assert said.needed == revisions()["MAGIG-20"].needs and not re.search(r"\d", said.needed)


def test_diffid_as_published_has_an_outcome_beside_that_of_our_own_score():
    def later(e):
        return Condition(e, "exploratory")

    hard = "published DiffID, hard"
    yes, no = (Estimate(v, v - 0.01, v + 0.01, 100) for v in (0.2, -0.2))  # finer than its effect
    some = {"IG, a": no, f"IG, a, {hard}": later(yes), f"GIG, 20 steps, a, {hard}": later(no)}
    said = answer("MAGIG-17", some)
    assert said.outcome == "contradicted" and "published DiffID, soft" not in said.why
    assert f"by the {hard}, where it was kept: supported, 1 of 1 above 0" in said.why
    many = answer("MAGIG-17", {"IG, a": yes, **{f"IG, {i}, {hard}": later(no) for i in range(5)}})
    assert "added later: 5 the other way" in many.why and "kept: contradicted" in many.why
    few = answer("MAGIG-17", {"IG, a": yes, f"IG, b, {hard}": later(no._replace(n=99))})
    assert "by the published" not in few.why


def test_what_is_set_aside_is_shown_and_the_answer_says_what_it_would_be_without():
    kept, aside = {"fails, kept: against IG": YES}, {"fails, drawn anew: against IG": NO}
    found = answer("BORDT-23", kept | aside)
    assert (found.before, found.outcome) == ("split", "supported")
    assert found.aside == (*aside,) and found.aside[0] not in found.sides
    assert "set aside, 0 of 1 above 0 (1 contradicted)" in found.why
    assert {*aside} < {*found.conditions}
    both = answer("BORDT-23", {"fails, kept: against IG": NO} | aside)
    assert (both.before, both.outcome) == ("contradicted", "contradicted")


@pytest.mark.parametrize("e", [YES, NO])
@pytest.mark.parametrize("claim", ["BORDT-12", "BORDT-13", "BORDT-27"])
def test_a_stand_in_for_people_and_a_number_of_theirs_decide_neither_way(claim, e):
    found = answer(claim, {"a": e._replace(n=1000)})
    assert found.outcome == "undecided" and found.before in ("supported", "contradicted")
    assert found.needed == revisions()[claim].needs


def test_one_cell_of_the_papers_own_table_is_enough_against_every_cell(monkeypatch):
    theirs = printed()["MAGIG-26"][ITSELF]
    found = answer("MAGIG-26", {"a": YES})
    assert (found.before, found.outcome) == ("supported", "contradicted")
    assert f"{sum(v > 0 for v in theirs)} of {len(theirs)} above 0" in found.why
    assert "contradicted: Tables 1 and 5, Oxford 102 Flower, ResNet18, p = 0.2)" in found.why
    monkeypatch.setitem(printed(), "MAGIG-26", {ITSELF: [abs(v) for v in theirs]})
    assert answer("MAGIG-26", {"a": NO}).outcome == "supported"


@pytest.mark.parametrize("claim, table", [("MAGIG-26", "fraction"), ("MAGIG-29", "autoencoder")])
def test_the_papers_own_cells_are_those_of_its_tables(claim, table):
    folder = SHARED / "papers" / "tables"
    if not folder.exists():
        pytest.skip("the papers' tables are not on this machine")
    with (folder / "magig_vae_and_slerp_full.csv").open(encoding="utf8") as file:
        rows = [r for r in csv.DictReader(file) if r["metric"] == "DiffID"]
    key = "dataset", "classifier", "method", "vae", "slerp"
    of = {tuple(r[k] for k in key): float(r["value"]) for r in rows}
    if table == "fraction":
        with (folder / "magig_fraction_ablation.csv").open(encoding="utf8") as file:
            cells = [
                ((r["dataset"], r["classifier"]), float(r["value"])) for r in csv.DictReader(file)
            ]
        wanted = [v - of[*where, "GIG", "", ""] for where, v in cells]
    else:
        ours = {k: v for k, v in of.items() if k[2] == "MA-GIG" and k[4] == "no"}
        wanted = [v - max(of[*k[:2], m, "", ""] for m in ("IG", "GIG")) for k, v in ours.items()]
    assert sorted(printed()[claim][ITSELF]) == pytest.approx(sorted(wanted), abs=1e-9)


# What people read

SHOWN = stored(ROOT, "evidence")


def found(change=None):
    """The committed evidence as the ledger finds it, one thing of it changed."""
    both = judged({}, claim_places(ROOT), SHOWN | (change or {}), {})
    answers = {a.claim: a for _, a in both if a}
    return report.LedgerNow([row for row, _ in both], answers, {}, {})


def answered(claim):
    return found().answers[claim]


def changed(claim, values, **more):
    entry, n = SHOWN[claim], int(claims()[claim]["n_min"])
    conditions = {k: Condition(Estimate(v, v - 0.001, v + 0.001, n)) for k, v in values.items()}
    return {claim: entry | {"conditions": conditions | more, "later": []}}


def test_a_row_has_the_papers_numbers_in_one_unit_with_ours():
    row = {r.claim: r.effect for r in found().rows}
    with (ROOT / "nbs" / "results" / "conditions.csv").open(encoding="utf8") as file:
        beside = [line for line in csv.DictReader(file) if line["paper"]]
    for claim, named, of in (
        ("MAGIG-24", "% area larger than GIG's", "area larger"),
        ("MAGIG-19", "published", "published DiffID"),
        ("MIG-18", "SENS_max of MIG", "of MIG"),
    ):
        kept = [line for line in beside if line["claim"] == claim and of in line["condition"]]
        ours = [float(line["value"]) for line in kept]
        theirs = [float(v) for line in kept for v in line["paper"].split()]
        told = re.search(rf"; {named} (\S+) … (\S+), paper (\S+) … (\S+)$", row[claim])
        ends = min(ours), max(ours), min(theirs), max(theirs)
        assert [*map(float, told.groups())] == pytest.approx(ends, rel=0.01)
    assert "; paper " in row["MAGIG-25"]  # the claim's unit
    assert "; published " in row["MAGIG-17"] and "; published " in row["MAGIG-26"]
    assert re.search("Insertion [^;]*, paper [^;]*$", row["MAGIG-14"])  # by quantity


def test_a_stored_result_changes_outcome_control_row_page_and_table():
    held = Condition(Estimate(0.5, 0.4, 0.6, 200), "control")
    was, now = found(), found(changed("MAGIG-24", {"a": 0.5, "b": 0.7}, blurred=held))
    before, after = ({r.claim: r for r in f.rows}["MAGIG-24"] for f in (was, now))
    assert before.outcome != "supported" and before.survives != "yes"
    assert (after.outcome, after.survives) == ("supported", "yes")
    line = "| [MAGIG-24]({}) | {} | {} | {} | transfer | **supported** | yes |"
    line = line.format(f"nbs/{after.where}", after.plainly, after.on, after.effect)
    assert after.effect.startswith("0.5 … 0.7 (2); % area larger than GIG's ")
    assert line in report.page(now, ROOT) and line not in report.page(was, ROOT)
    assert after.why in report.story(now, "magig")
    assert before.why in report.story(was, "magig")
    tables = [report.conditions_table([*f.answers.values()], {}) for f in (was, now)]
    assert tables[0] != tables[1] and "MAGIG-24,blurred,control" in tables[1]
    assert report.calibration(was.rows) != report.calibration(
        found(changed("MIG-23", {"a": -1})).rows
    )


def test_the_committed_pages_are_what_the_command_writes():
    """Words, numbers and outcomes come from the kept evidence, not from an editor."""
    old = outdated(ROOT)
    both = judged({}, claim_places(ROOT), stored(ROOT, "evidence"), old)
    dates = json.loads((ROOT / "nbs" / "results" / "added.json").read_text(encoding="utf8"))
    answers = {a.claim: a for _, a in both if a}
    written = report.texts(report.LedgerNow([r for r, _ in both], answers, old, dates), ROOT)
    assert {"LEDGER.md", "docs/ledger/mig.md", "nbs/results/ledger.json"} < set(written)
    for name, text in written.items():
        assert (ROOT / name).read_text(encoding="utf8") == text, name
    chapter = (ROOT / "nbs" / "52_ledger.ipynb").read_text(encoding="utf8")
    for outcome in OUTCOMES:  # its outputs show the same ledger
        assert f"**{sum(r.outcome == outcome for r, _ in both)}** {outcome}" in chapter


def test_a_row_is_short_enough_to_read():
    for row in as_table(found().rows, "nbs/").splitlines()[2:]:
        shown = re.sub(r"\]\([^)]*\)", "]", row).replace("**", "")
        assert len(shown) <= 200, shown


def test_an_effect_of_unlike_quantities_is_no_range_over_them():
    made = {"energy, a": Estimate(-0.4, -0.5, -0.3, 100), "cost, a": Estimate(0.6, 0.5, 0.7, 100)}
    (row,) = [
        r for r in found(changed("MIG-07", dict.fromkeys(made, 0.5))).rows if r.claim == "MIG-07"
    ]
    assert row.effect == "energy 0.5; cost 0.5"
    rows = {r.claim: r.effect for r in found().rows}
    assert " of " in rows["MAGIG-23"] and "quantities" in rows["MAGIG-23"]
    assert rows["MIG-06"].startswith("2 (")


def test_no_n_is_asked_for_that_nobody_has():
    far = Condition(Estimate(1e-4, -0.1, 0.1002, 100))
    assert answer("MIG-21", {"a": far}).needed == f"n > {MOST:,}"


def test_an_outcome_that_changed_is_listed_with_its_reason():
    rows = found().rows
    page = report.page(found(), ROOT)
    for r in rows:
        line = f"- **{r.claim}** {r.plainly}: {r.before} → *{r.outcome}*. {r.revised}."
        assert (line in page) == (r.outcome != r.before) and bool(r.revised) >= (line in page)


def test_a_number_near_the_papers_is_not_told_as_a_miss():
    near = Beside("ratio", Estimate(5.17, 5.14, 5.23, 100), [5.258], 0)
    assert report._near(near) == ", ours is 98% of it"
    assert report._near(near._replace(inside=1)) == ", within our interval"
    assert "contains 0 of 2" in report._near(near._replace(paper=[5.258, 6]))


@pytest.mark.parametrize("claim, inside, outside", [("MAGIG-05", 1.05, 1.2), ("MIG-21", 1, -1)])
@pytest.mark.parametrize("below", [False, True])
def test_what_is_as_claimed_stands_on_the_claimed_side_of_a_forest(claim, inside, outside, below):
    about = claims()[claim]
    if below and about["direction"] == "above":
        about, inside, outside = about | {"direction": "below"}, outside, inside
    assert inward(inside, about) > 0 > inward(outside, about)
    low, value, high = _inward(Estimate(inside, inside - 0.01, inside + 0.01, 9), about)
    assert 0 < low <= value <= high


def test_every_undecided_claim_says_what_would_decide_and_every_split_why():
    for r in found().rows:
        assert bool(r.needed) == (r.outcome == "undecided")
        if r.outcome == "split":
            assert " for " in r.why and ", the other way for " in r.why


def test_each_split_is_explained_as_long_as_its_conditions_are_where_they_were():
    assert (split := [r for r in found().rows if r.outcome == "split"])
    for r in split:
        assert r.why.startswith(_splits()[r.claim]["says"] + "; "), r.claim
    sides = dict(answered("MIG-21").sides)
    assert [*_explained("MIG-21", sides)] and len(sides) == 9
    for name in sides:  # none may move, be it only to where it decides nothing
        for other in {"supported", "contradicted", "undecided"} - {sides[name]}:
            assert not [*_explained("MIG-21", sides | {name: other})]
    assert {*_splits()} <= {*claims()}


def test_a_paper_has_a_place_for_each_outcome_and_no_number_in_its_prose():
    for short in ("mig", "magig", "bordt"):
        text = (ROOT / "manifold_xai" / "assets" / f"story-{short}.md").read_text(encoding="utf8")
        assert not re.search(r"\d", text), short
        assert {"supported", "contradicted", "split", "undecided"} < set(
            re.findall(r"{(\w+)}", text)
        )
        assert not re.search(r"{\w+}", report.story(found(), short))


def test_every_claim_was_guessed_and_every_guess_is_counted():
    assert [e["claim"] for e in report.expectations()] == [*claims()]
    assert {e["expected"] for e in report.expectations()} == {*report.EXPECTED}


def test_no_guess_becomes_right_by_a_revision():
    rows = found().rows
    unrevised = [r._replace(outcome=r.before) for r in rows]
    assert report.calibration(rows) == report.calibration(unrevised)
    assert any(r.outcome != r.before for r in rows)


def test_what_would_change_what_was_not_found_is_one_that_is_found():
    assert "MIG-15" in {r.claim for r in found().rows if r.needed.startswith("none found")}
    assert "(undecided): one condition above 0, found anywhere." in report.story(found(), "mig")


def test_dates_of_what_came_later_are_those_of_the_history():
    git = ["git", "-C", str(ROOT), "rev-parse", "--is-shallow-repository"]
    if subprocess.run(git, capture_output=True, text=True).stdout.strip() != "false":
        pytest.skip("this copy has no history")
    history = report.first_kept(ROOT)
    kept = json.loads((ROOT / "nbs" / "results" / "added.json").read_text(encoding="utf8"))
    for claim, of in kept.items():
        for name, day in of.items():
            assert day in (history[claim].get(name), report.NOT_YET)


def test_stored_measurements_of_older_code_are_named_on_top(monkeypatch):
    read = "attacks.json"  # by page 43; no page reads the other
    old = {read: ["targeted_attack"], "tolerance_digits.json": ["bends"]}
    monkeypatch.setattr(report, "outdated_results", lambda root: old)
    assert report._scale(found(), ROOT)[-1].endswith("code that has changed since: attacks.json")
    monkeypatch.setattr(report, "outdated_results", lambda root: {})
    assert report._scale(found(), ROOT)[-1].endswith("that they read, none is older")


def test_what_the_papers_print_is_for_claims_that_exist_and_has_its_place():
    with (ROOT / "manifold_xai" / "assets" / "paper.csv").open(encoding="utf8") as file:
        rows = [*csv.DictReader(file)]
    assert {r["claim"] for r in rows} < set(claims()) and all(
        r["where"] and r["unit"] for r in rows
    )


# Whatever a file holds: it is read correctly, or refused by name

CELL = st.sampled_from(["", "-5", "nan", "inf", "1e999", "share 0", "below", "MIG-01", '"', "a,b"])


@st.composite
def damaged_tables(draw):
    """The table of claims with a cell, a line or a few bytes changed."""
    content = TABLE.read_bytes()
    lines = content.decode().splitlines(keepends=True)
    i = draw(st.integers(0, len(lines) - 1))
    how = draw(st.sampled_from(["cell", "line twice", "no line", "cut", "bytes"]))
    if how == "cell":
        cells = lines[i].rstrip("\n").split(",")
        cells[draw(st.integers(0, len(cells) - 1))] = draw(CELL | st.text(max_size=5))
        lines[i] = ",".join(cells) + "\n"
    elif how == "line twice":
        lines.insert(i, lines[i])
    elif how == "no line":
        del lines[i]
    elif how == "cut":
        return content[: draw(st.integers(0, len(content)))]
    else:
        place = draw(st.integers(0, len(content) - 1))
        return content[:place] + draw(st.binary(min_size=1, max_size=3)) + content[place + 1 :]
    return "".join(lines).encode("utf8", "surrogatepass")


@settings(max_examples=100, deadline=None)
@given(damaged_tables())
def test_any_table_of_claims_is_read_right_or_refused_by_name(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("table") / "claims.csv"
    path.write_bytes(content)
    try:
        found = read_claims(path)
    except ValueError as error:
        assert str(path) in str(error)
        return
    assert [*found.items()] == [
        (row["id"], row)
        for row in csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""))
    ]
    for about in found.values():
        assert about["direction"] in ("above", "below", "equal") and int(about["n_min"]) >= 1
        assert math.isfinite(float(about["threshold"])) and float(about["tolerance"] or 0) >= 0


NUMBER = st.floats() | st.integers(-(10**20), 10**20) | st.sampled_from([10**400, "1", None, True])
VALUE = st.recursive(
    NUMBER | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
)
LETTERS = st.text(st.characters(exclude_categories=()), max_size=3)  # halves of letters, too
ANYTHING = st.fixed_dictionaries(dict.fromkeys(["value", "low", "high", "n"], NUMBER))
IN_ORDER = st.lists(st.floats(-1, 1), min_size=3, max_size=3).map(sorted)
ESTIMATES = st.builds(
    lambda order, n: dict(low=order[0], value=order[1], high=order[2], n=n),
    IN_ORDER,
    st.integers(-3, 200),
)
RECORDS = st.fixed_dictionaries(
    dict(
        claim=st.just("MIG-21"),
        conditions=st.dictionaries(LETTERS, ESTIMATES | ESTIMATES | ANYTHING | VALUE, max_size=2),
    ),
    optional=dict(key=VALUE, later=st.lists(LETTERS, max_size=2) | VALUE)
    | {name: st.just("x") | st.just("x") | LETTERS | VALUE for name in ["paper_value", "profile"]}
    | {"chapter": st.just("31_x")},
)


WHOLE = st.fixed_dictionaries(
    dict(claim=st.just("MIG-21"), paper_value=LETTERS, profile=LETTERS, chapter=LETTERS)
    | dict(conditions=st.dictionaries(LETTERS, ESTIMATES, min_size=1, max_size=2))
)


@settings(max_examples=200, deadline=None)
@given(
    WHOLE.map(json.dumps).map(str.encode)
    | RECORDS.map(json.dumps).map(str.encode)
    | VALUE.map(json.dumps).map(str.encode)
    | st.binary(max_size=40)
)
def test_any_record_is_read_right_or_counts_as_none(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("out")
    put(folder, "MIG-06", a=Estimate(0.0, 0.0, 0.0, 5))
    (folder / "claims" / "MIG-21.json").write_bytes(content)
    (folder / "nbs" / "results").mkdir(parents=True)
    rows = {r.claim: r for r in write_ledger(folder, folder)}
    assert rows["MIG-06"].outcome == "supported"
    entry = results(folder)["MIG-21"]
    if "damaged" in entry:
        assert str(folder / "claims" / "MIG-21.json") in rows["MIG-21"].why
        assert rows["MIG-21"].outcome == "not tested" and rows["MIG-21"].n == 0
    else:
        said = json.loads(content)["conditions"]
        assert as_json(entry)["conditions"] == said | as_json(entry)["conditions"]
        found = answer("MIG-21", entry["conditions"], later=entry.get("later", ()))
        assert rows["MIG-21"].outcome == found.outcome
        assert ledger(results(folder)) == ledger({"MIG-21": entry} | results(folder))
