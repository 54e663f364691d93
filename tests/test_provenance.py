"""Stored results name the code and data that they rest on, and decide nothing once these change."""

import json
import re
import subprocess
import symtable
from argparse import Namespace
from pathlib import Path

import pytest

from manifold_xai.course.cli import main, picked
from manifold_xai.course.notebooks import chapters, read
from manifold_xai.course.provenance import (
    _results,
    is_of,
    kept_definitions,
    keep_definitions,
    key,
    maker,
    outdated,
    outdated_results,
    payload,
    recorded_in,
    restamp,
    rests_on,
    stale,
    write_result,
)

ROOT = Path(__file__).parents[1]
MATHS = "LIMIT = 1\n\n\ndef area(x):\n    return x * LIMIT\n\n\ndef length(x):\n    return x + 1\n"


@pytest.fixture
def clone(tmp_path):
    """Two pages that record a claim each, with evidence and a stored run of today's code."""
    for folder in ("manifold_xai", "nbs/results", "nbs/evidence", "benchmarks/results"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "settings.ini").write_text(
        (ROOT / "settings.ini").read_text(encoding="utf8"), encoding="utf8"
    )
    (tmp_path / "manifold_xai" / "__init__.py").write_text("")
    (tmp_path / "manifold_xai" / "maths.py").write_text(MATHS)
    (tmp_path / "benchmarks" / "speed.py").write_text(
        "from manifold_xai.maths import area\n\nif __name__ == '__main__':\n    area(2)\n"
    )
    for name, claim, call in (
        ("20_area", "MIG-04", "area"),
        ("evidence/30_length", "MIG-06", "length"),
    ):
        source = f'from manifold_xai.maths import {call}\nrecord("{claim}", {{"a": {call}(2)}})'
        cell = dict(cell_type="code", metadata={}, source=source, outputs=[])
        (tmp_path / "nbs" / f"{name}.ipynb").write_text(json.dumps({"cells": [cell]}))
    for name, n in (("evidence", 200), ("ledger", 100)):
        pages = recorded_in(tmp_path).items()
        save(
            tmp_path, name, {claim: entry(tmp_path, claim, page, name, n) for claim, page in pages}
        )
    keep_definitions(
        tmp_path, [rests_on(page, tmp_path) for page in recorded_in(tmp_path).values()]
    )
    return tmp_path


def entry(clone, claim, page, settings, n):
    profile = "evidence" if settings == "evidence" else "cpu"
    conditions = {"a": dict(value=0.1 + 0.2, low=0.1, high=9.0, n=n)}
    return dict(
        claim=claim,
        paper_value="",
        chapter=page.stem,
        profile=profile,
        conditions=conditions,
        key=key(page, clone) | {"settings": settings},
    )


def save(clone, name, values):
    (clone / "nbs" / "results" / f"{name}.json").write_text(json.dumps(values))


def load(clone, name):
    return json.loads((clone / "nbs" / "results" / f"{name}.json").read_text())


def run(clone, profile="cpu", **values):
    """What a run of today's code leaves."""
    for claim, page in recorded_in(clone).items():
        made = entry(clone, claim, page, "evidence" if profile == "evidence" else "ledger", 100)
        made["conditions"]["a"].update(values)
        file = clone / "_out" / profile / "claims" / f"{claim}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(made))


def edit(clone, old, new, file="manifold_xai/maths.py"):
    text = (clone / file).read_text()
    assert old in text
    (clone / file).write_text(text.replace(old, new))


def test_evidence_is_outdated_by_what_its_page_reaches_and_says_by_what(clone):
    assert outdated(clone) == {} and stale(clone) == []
    edit(clone, "LIMIT = 1", "LIMIT = 2")
    assert outdated(clone) == {"MIG-04": ["LIMIT"]} and stale(clone) == ["20_area"]
    assert picked(clone, "lessons,stale") == "lessons,20_area"
    edit(clone, "x + 1", "x + 2")
    assert outdated(clone)["MIG-06"] == ["length"] and stale(clone) == [
        "20_area",
        "evidence/30_length",
    ]


def test_evidence_follows_a_claim_to_another_page(clone):
    (clone / "nbs" / "20_area.ipynb").rename(clone / "nbs" / "evidence" / "20_area.ipynb")
    assert outdated(clone) == {} and recorded_in(clone)["MIG-04"].parent.name == "evidence"
    (clone / "nbs" / "evidence" / "20_area.ipynb").unlink()
    assert outdated(clone) == {"MIG-04": ["the page that recorded it"]} and stale(clone) == []


def test_restamp_where_a_run_gave_the_same_bits_and_nowhere_else(clone, capsys):
    old = load(clone, "evidence")["MIG-04"]["key"]
    edit(clone, "x * LIMIT", "LIMIT * x")
    assert (
        restamp(Namespace(root=clone, out=None, against=None, smaller=None)) == 1
        and "one of the two runs has not recorded it" in capsys.readouterr().out
    )
    run(clone, value=0.3)  # 0.1 + 0.2 is another number
    assert (
        restamp(Namespace(root=clone, out=None, against=None, smaller=None)) == 1
        and "MIG-04: other numbers: a" in capsys.readouterr().out
    )
    assert load(clone, "evidence")["MIG-04"]["key"] == old
    run(clone, role="exploratory")  # which question a number answers is not what was measured
    assert main(["restamp", "--root", str(clone)]) == 0
    for name in ("evidence", "ledger"):
        made = load(clone, name)["MIG-04"]
        assert made["was"][0]["code"] == old["code"] and made["key"]["settings"] == name
        assert {"code": made["key"]["code"], "data": made["key"]["data"]} == key(
            clone / "nbs" / "20_area.ipynb", clone
        )
        assert "was" not in load(clone, name)["MIG-06"]
    assert outdated(clone) == {} and old["code"] not in kept_definitions(clone)
    edit(clone, "LIMIT = 1", "LIMIT = 3")
    assert outdated(clone) == {
        "MIG-04": ["LIMIT"]
    }  # what it rests on is known for the new key, too
    assert (
        restamp(Namespace(root=clone, out=None, against=None, smaller=None)) == 1
        and "other code or data than today's" in capsys.readouterr().out
    )


def test_a_run_vouches_for_evidence_only_through_a_stored_run_of_the_same_code(clone, capsys):
    edit(clone, "x * LIMIT", "LIMIT * x")
    run(clone)
    save(
        clone,
        "ledger",
        {
            claim: e | {"key": e["key"] | {"code": "other"}}
            for claim, e in load(clone, "ledger").items()
        },
    )
    assert restamp(Namespace(root=clone, out=None, against=None, smaller=None)) == 1
    assert "was not made with the code and data of the evidence" in capsys.readouterr().out


def test_on_another_machine_the_old_code_is_run_there_too(clone, capsys):
    run(clone, value=0.7)  # today's code on this machine, before and …
    (clone / "_out").rename(clone / "old")
    edit(clone, "x * LIMIT", "LIMIT * x")
    run(clone, value=0.7)  # … after the change; what is kept has 0.1 + 0.2, of another machine
    assert main(["restamp", "--root", str(clone)]) == 1
    assert main(["restamp", "--root", str(clone), "--against", str(clone / "old" / "cpu")]) == 0
    assert outdated(clone) == {}
    assert load(clone, "evidence")["MIG-04"]["conditions"]["a"]["value"] == 0.1 + 0.2


def test_conditions_of_stored_results_are_taken_over_and_no_others(clone, capsys):
    def add(profile, settings, gates=(), **found):
        for file in (clone / "_out" / profile / "claims").glob("*.json"):
            made = json.loads(file.read_text())
            made["key"]["settings"] = settings
            for name, value in found.items():
                made["conditions"][name] = dict(value=value, low=0.0, high=9.0, n=7)
                made["conditions"][name] |= dict(gates=[*gates]) if gates else {}
            file.write_text(json.dumps(made))

    edit(clone, "x * LIMIT", "LIMIT * x")
    words = ["restamp", "--root", str(clone), "--smaller", str(clone / "_out" / "smoke")]
    for profile, settings, of_size in (("cpu", "ledger", 0.25), ("smoke", "less", 0.5)):
        run(clone, profile)
        add(profile, settings, dogs=3.0, digits=of_size)
    assert main(words) == 1 and "MIG-04: other numbers: digits\n" in capsys.readouterr().out
    add("smoke", "ledger", digits=0.25)  # the same run twice says nothing
    assert main(words) == 1 and "other numbers: dogs; digits" in capsys.readouterr().out
    add("smoke", "less")
    assert main(words) == 0 and outdated(clone) == {}
    kept = load(clone, "evidence")["MIG-04"]
    assert list(kept["conditions"]) == ["a", "dogs", "digits"] and kept["n"] == 7
    assert kept["conditions"]["dogs"]["value"] == 3.0
    edit(clone, "LIMIT * x", "x * LIMIT")  # and once more, with other dogs
    for profile, settings in (("cpu", "ledger"), ("smoke", "less")):
        run(clone, profile, n=100 if profile == "cpu" else 4)
        add(profile, settings, dogs=5.0, digits=0.25)
    assert main(words) == 0
    kept = load(clone, "evidence")["MIG-04"]["conditions"]
    assert kept["dogs"]["value"] == 5.0 and kept["a"]["n"] == 200
    edit(clone, "x * LIMIT", "LIMIT * x")  # the same dogs, and a gate that they had not
    gate = dict(what="right", passed=7, of=7)
    for profile, settings in (("cpu", "ledger"), ("smoke", "less")):
        run(clone, profile, n=100 if profile == "cpu" else 4)
        add(profile, settings, [gate], dogs=5.0)
        add(profile, settings, digits=0.25)
    assert main(words) == 0
    kept = load(clone, "evidence")["MIG-04"]["conditions"]
    assert kept["dogs"]["gates"] == [gate] and "gates" not in kept["digits"]


def test_new_evidence_replaces_what_it_was_made_for_and_leaves_the_rest(clone, capsys):
    edit(clone, "LIMIT = 1", "LIMIT = 2")
    run(clone, "evidence", value=7.0)
    (clone / "_out" / "evidence" / "claims" / "MIG-06.json").unlink()
    before = load(clone, "evidence")
    assert main(["evidence", "--root", str(clone)]) == 0
    after = load(clone, "evidence")
    assert (
        after["MIG-04"]["conditions"]["a"]["value"] == 7.0 and after["MIG-06"] == before["MIG-06"]
    )
    assert outdated(clone) == {} and "to be run again: none" in capsys.readouterr().out
    assert (
        main(["run", "--only", "stale", "--root", str(clone)]) == 0
        and "nothing to run" in capsys.readouterr().out
    )


def test_a_result_carries_key_commit_and_command(clone):
    file = clone / "benchmarks" / "results" / "speed.json"
    command = "python benchmarks/speed.py --n 3"
    write_result(file, dict(machine="this", speed=[1.5, 2.0]), command, clone)
    assert (
        payload(file) == dict(speed=[1.5, 2.0])
        and json.loads(file.read_text())["machine"] == "this"
    )
    assert json.loads(file.read_text())["key"] == key(clone / "benchmarks" / "speed.py", clone)
    assert is_of(json.loads(file.read_text()), command, clone) and outdated_results(clone) == {}
    assert not is_of(json.loads(file.read_text()), command + "0", clone)
    edit(clone, "LIMIT = 1", "LIMIT = 2")
    assert not is_of(json.loads(file.read_text()), command, clone)
    assert (
        maker("manifold-xai run --only 20_area --data-root FOLDER", clone)
        == clone / "nbs" / "20_area.ipynb"
    )
    beside = file.with_name("speed_again.json")  # the script's other results are not its data
    (clone / "benchmarks" / "speed.py").write_text('OUT = "speed.json", "speed_again.json"\n')
    write_result(file, dict(speed=[1.0]), command, clone)
    write_result(beside, dict(speed=[2.0]), command, clone)
    write_result(file, dict(speed=[3.0]), command, clone)
    assert outdated_results(clone) == {}
    for wrong in ("make it so", "python benchmarks/no_such.py"):
        with pytest.raises(ValueError, match="must name a script"):
            maker(wrong, clone)


def test_a_result_of_hours_is_stamped_anew_by_its_first_rows(clone, capsys):
    file, begun = (clone / "benchmarks" / "results" / n for n in ("speed.json", "begun.json"))
    command, out = "python benchmarks/speed.py --n 3", ["restamp", "--root", str(clone)]
    out += ["--result", str(file), "--out", str(begun)]
    (clone / "benchmarks" / "speed.py").write_text(
        (clone / "benchmarks" / "speed.py").read_text() + "OUT = 'speed.json', 'begun.json'\n"
    )
    numbers = dict(machine="this", n=3, rows=[4, 5, 6], of={"a": [0.1, float("nan"), 2.0]})
    numbers["of"]["seconds"] = [1.0, 1.0, 1.0]
    write_result(file, numbers, command, clone)
    old, commit = (json.loads(file.read_text())[name] for name in ("key", "commit"))
    edit(clone, "x * LIMIT", "LIMIT * x")

    def today(**other):
        begin = numbers | dict(rows=[4, 5], of={"a": [0.1, float("nan")]}) | other
        begin["of"]["seconds"] = [2.0, 2.0]
        write_result(begun, begin, command, clone)
        code = main(out)
        return code, capsys.readouterr().out

    for other, why in (
        (dict(of={"a": [0.1, 0.2]}), "other numbers: of"),
        (dict(of={"b": [0.1, float("nan")]}), "other numbers: of"),
        (dict(n=4), "other numbers: n"),
        (dict(rows=[], of={"a": []}), "no rows by its command"),
        (dict(machine="that"), "another machine, this"),
    ):
        code, said = today(**other)
        assert code == 1 and why in said and json.loads(file.read_text())["key"] == old
    for words in (out[:-2], [*out[:-1], str(begun) + "x"]):
        assert main(words) == 2 and "two result files" in capsys.readouterr().err
    assert today() == (0, "speed.json: stamped anew, by 2 of 3 rows\n")
    kept = json.loads(file.read_text())
    assert kept["was"] == [old | {"commit": commit}] and kept["checked"] == 2
    assert kept["rows"] == numbers["rows"]
    assert is_of(kept, command, clone) and "speed.json" not in outdated_results(clone)
    edit(clone, "LIMIT * x", "x * LIMIT * 2")
    assert main(out) == 1 and "no rows by its command and today's code" in capsys.readouterr().out


# The clone itself


@pytest.mark.parametrize("path", _results(ROOT), ids=lambda path: path.name)
def test_every_stored_result_says_how_it_is_made_again(path):
    result = json.loads(path.read_text(encoding="utf8"))
    assert set(result.get("key", ())) == {"code", "data"}, (
        f"{path.name} has no key: write it with write_result"
    )
    assert re.fullmatch(r"[0-9a-f]{12}\+?", result["commit"])
    assert path.name in maker(result["command"], ROOT).read_text(encoding="utf8")


def test_the_commits_of_stored_results_are_known():
    for path in _results(ROOT):
        commit = json.loads(path.read_text(encoding="utf8"))["commit"].rstrip("+")
        found = subprocess.run(
            ["git", "-C", ROOT, "cat-file", "-e", f"{commit}^{{commit}}"],
            capture_output=True,
            text=True,
        )
        if "not a git repository" in found.stderr or (ROOT / ".git" / "shallow").exists():
            pytest.skip("no history here")
        assert found.returncode == 0, f"{path.name}: no commit {commit}"


def names_in(source):
    """The names that a cell takes from earlier ones, and those that it assigns."""
    tables = [symtable.symtable(source, "cell", "exec")]
    top = tables[0].get_symbols()
    own = {s.get_name() for s in top if s.is_assigned() or s.is_imported()}
    for table in tables:
        tables += table.get_children()
    asked = ((s, table) for table in tables for s in table.get_symbols() if s.is_referenced())
    taken = {s.get_name() for s, table in asked if table is tables[0] or s.is_global()}
    return taken - own, own


def taken_from_figures(cells):
    """Names that a cell takes although a figure assigned them last."""
    found, by_figure = set(), set()
    for figure, source in cells:
        taken, own = names_in(source)
        found |= set() if figure else taken & by_figure
        by_figure = by_figure | own if figure else by_figure - own
    return found


def test_no_number_comes_from_a_figure():
    """Figures have no part in the key, so that what they assign must not reach a claim."""
    plot = "for y in (1, 2):\n    plot(y)"
    gate = "def right():\n    return seen == y"
    assert taken_from_figures([(False, "y = 3"), (True, plot), (False, gate)]) == {"y"}
    assert not taken_from_figures([(True, plot), (False, "y = 3"), (False, gate)])
    for page in chapters(ROOT, "evidence"):
        cells = [c for c in read(page)["cells"] if c["cell_type"] == "code"]
        tagged = [("figure" in c["metadata"].get("tags", []), c["source"]) for c in cells]
        assert not taken_from_figures(tagged), page.stem
