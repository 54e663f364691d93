"""The repeatability benchmarks take hours: after an interruption nothing is done again,
and nothing is mixed with results of other settings."""

import json
from argparse import Namespace

import pytest
import torch
from helpers import benchmark


@pytest.fixture
def script(monkeypatch):
    """benchmarks/guided_repeatability.py as a module with its clock stopped."""
    module = benchmark("guided_repeatability", monkeypatch)
    monkeypatch.setattr(module.time, "process_time", lambda: 0.0)
    return module


@pytest.fixture
def images():
    return Namespace(x=torch.arange(5.0)[:, None], rows=torch.arange(5) * 10)


def settings(results, **changed):
    return Namespace(
        **dict(photographs=5, wide=2, steps=4, size=8, batch=2, results=results, quick=False)
        | changed
    )


def measured(images, calls, fails_at=None):
    """Each image's number and its square; the first two get one quantity more."""

    def one(at):
        calls.append(at.start)
        if at.start == fails_at:
            raise KeyboardInterrupt
        q = images.x[at, 0].tolist()
        return dict(line=dict(number=q) | (dict(square=[v * v for v in q]) if at.start < 2 else {}))

    return one


def test_an_interrupted_benchmark_goes_on_where_it_stopped(script, images, tmp_path, capsys):
    whole, broken, calls = tmp_path / "whole.json", tmp_path / "broken.json", []
    script.collect(
        "guided_repeatability", settings(whole), images, measured(images, []), note="same"
    )
    with pytest.raises(KeyboardInterrupt):
        script.collect(
            "guided_repeatability",
            settings(broken),
            images,
            measured(images, [], fails_at=2),
            note="same",
        )
    assert json.loads(broken.read_text())["rows"] == [0, 10]
    script.collect(
        "guided_repeatability", settings(broken), images, measured(images, calls), note="same"
    )
    assert calls == [2, 4] and broken.read_bytes() == whole.read_bytes()
    script.collect(
        "guided_repeatability", settings(broken), images, measured(images, calls), note="same"
    )
    assert calls == [2, 4] and broken.read_bytes() == whole.read_bytes()  # done is done
    stored = json.loads(whole.read_text())
    assert stored["rows"] == images.rows.tolist()
    assert stored["variants"]["line"] == dict(number=[0, 1, 2, 3, 4], square=[0, 1])


@pytest.mark.parametrize(
    "script_name, changed, note",
    [
        ("repeatability", {}, "same"),
        ("guided_repeatability", dict(steps=5), "same"),
        ("guided_repeatability", {}, "other"),
    ],
)
def test_a_file_made_with_other_settings_is_refused(
    script, images, tmp_path, script_name, changed, note
):
    results, calls = tmp_path / "results.json", []
    script.collect(
        "guided_repeatability", settings(results), images, measured(images, []), note="same"
    )
    before = results.read_bytes()
    with pytest.raises(SystemExit, match="name another file with --results, or delete it"):
        script.collect(
            script_name, settings(results, **changed), images, measured(images, calls), note=note
        )
    assert calls == [] and results.read_bytes() == before


def test_a_file_made_with_other_code_is_refused(script, images, tmp_path):
    results, calls = tmp_path / "results.json", []
    script.collect("guided_repeatability", settings(results), images, measured(images, []))
    made = json.loads(results.read_text())
    results.write_text(json.dumps(made | {"key": made["key"] | {"code": "of yesterday"}}))
    with pytest.raises(SystemExit, match="other code"):
        script.collect("guided_repeatability", settings(results), images, measured(images, calls))
    assert calls == []


def test_a_quick_run_keeps_nothing(script, images, tmp_path):
    results = tmp_path / "results.json"
    script.collect(
        "guided_repeatability", settings(results, quick=True), images, measured(images, [])
    )
    assert not results.exists()
