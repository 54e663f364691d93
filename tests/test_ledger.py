"""The ledger: verdicts are computed from the numbers that a run recorded, and from nothing else."""

import csv
import io
import json
import math
import re

import pytest
from helpers import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from manifold_xai.course.claims import Estimate, claims, read_claims, read_record, verdict
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
from manifold_xai.course.notebooks import chapters, read
from manifold_xai.course.provenance import RECORD


def put(folder, claim, **conditions):
    """A record as a chapter leaves it; its verdict is nonsense, since it must not be believed."""
    (folder / "claims").mkdir(exist_ok=True)
    entry = dict(
        claim=claim,
        verdict="reproduced",
        why="",
        paper_value="p",
        chapter="40_x",
        profile="cpu",
        conditions={k: e._asdict() for k, e in conditions.items()},
    )
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
    where = places(ROOT)
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
    assert [r.claim for r in select(rows, verdict="reproduced")] == ["MIG-06"]
    assert {r.paper for r in select(rows, paper="bordt")} == {
        next(r.paper for r in rows if r.claim == "BORDT-01")
    }
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
    line = next(
        line
        for line in as_table(ledger(results(tmp_path))).splitlines()
        if line.startswith("| MIG-06")
    )
    assert line.replace("\\|", "").count("|") == 7


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
        (damaged(claim="MIG-07"), "what is kept as MIG-06 speaks of MIG-07"),
        (damaged(conditions={}), "must be one or more"),
        (damaged(a=dict(value=float("nan"))), "NaN is no finite number"),
        (damaged(a=dict(high=1e999)), "Infinity is no finite number"),
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
    assert (ours.verdict, ours.n) == ("not testable here", 0) and says in ours.why
    assert "Delete it and run its chapter again" in ours.why and other.verdict == "reproduced"


def test_evidence_decides_where_the_shorter_record_is_damaged(tmp_path):
    put(tmp_path, "MIG-21", a=Estimate(0.2, 0.1, 0.3, 100))
    long = results(tmp_path) | {}
    (tmp_path / "claims" / "MIG-21.json").write_text("{")
    (found,) = [r for r in ledger(results(tmp_path), evidence=long, old={}) if r.claim == "MIG-21"]
    assert found.verdict == "reproduced" and found.n == 100
    (found,) = [
        r
        for r in ledger(results(tmp_path), evidence=long, old={"MIG-21": ["solve"]})
        if r.claim == "MIG-21"
    ]
    assert found.verdict == "not testable here" and "since solve changed" in found.why


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


@pytest.mark.parametrize(
    "old, new, says",
    [
        (
            ",below,0.01,,all,100,",
            ",under,0.01,,all,100,",
            "line 2: direction must be one of above",
        ),
        (",below,0.01,,all,100,", ",below,nan,,all,100,", "line 2: threshold must be a finite"),
        (",below,0.01,,all,100,", ",below,,,all,100,", "line 2: threshold must be a finite"),
        (",below,0.01,,all,100,", ",below,0.01,-1,all,100,", "line 2: tolerance must be empty, or"),
        (",below,0.01,,all,100,", ",below,0.01,,most,100,", "line 2: aggregate must be each, all"),
        (",below,0.01,,all,100,", ",below,0.01,,share 1.5,100,", "line 2: aggregate must be"),
        (",below,0.01,,all,100,", ",below,0.01,,share 0.0,100,", "line 2: aggregate must be"),
        (",below,0.01,,all,100,", ",below,0.01,,all,-5,", "line 2: n_min must be a whole number"),
        (",below,0.01,,all,100,", ",below,0.01,,all,0,", "line 2: n_min must be a whole number, 1"),
        (",below,0.01,,all,100,", ",below,0.01,,all", "line 2 has 10 cells, but the header has 12"),
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
    n = int(claims()["MAGIG-17"]["n_min"])
    put(tmp_path, "MAGIG-17", a=Estimate(0.2, 0.1, 0.3, n), b=Estimate(0.3, 0.1, 0.5, n))
    short = results(tmp_path)["MAGIG-17"] | {"key": dict(code="c", data="d", settings="s")}
    long = short | {
        "profile": "evidence",
        "conditions": {
            "a": Estimate(-0.2, -0.3, -0.1, 9 * n),
            "b": Estimate(0.3, 0.2, 0.4, 9 * n),
            "c": Estimate(0.1, 0.05, 0.2, 9 * n),
        },
    }

    def judged(evidence):
        return next(
            r
            for r in ledger({"MAGIG-17": short}, evidence={"MAGIG-17": evidence})
            if r.claim == "MAGIG-17"
        )

    assert (judged(long).verdict, judged(long).profile, judged(long).n) == (
        "mixed",
        "evidence",
        9 * n,
    )
    assert "cpu agrees on 1 of 2 conditions" in judged(long).why
    for key in (dict(code="c", data="other"), dict(code="other", data="d"), {}):
        assert (judged(long | {"key": key}).verdict, judged(long | {"key": key}).profile) == (
            "reproduced",
            "cpu",
        )
    assert (
        ledger(
            {"MAGIG-17": {k: v for k, v in short.items() if k != "key"}},
            evidence={"MAGIG-17": {k: v for k, v in long.items() if k != "key"}},
        )[list(claims()).index("MAGIG-17")].profile
        == "cpu"
    )


# Whatever a file holds: read right, or refused by name

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
    assert rows["MIG-06"].verdict == "reproduced"
    entry = results(folder)["MIG-21"]
    if "damaged" in entry:
        assert str(folder / "claims" / "MIG-21.json") in rows["MIG-21"].why
        assert rows["MIG-21"].verdict == "not testable here" and rows["MIG-21"].n == 0
    else:
        said = json.loads(content)["conditions"]
        assert {name: e._asdict() for name, e in entry["conditions"].items()} == said
        assert rows["MIG-21"].verdict == verdict("MIG-21", entry["conditions"]).verdict
        assert ledger(results(folder)) == ledger({"MIG-21": entry} | results(folder))
