"""`manifold-xai doctor --workshop`: a seat that is ready, and each way in which one is not."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from helpers import ROOT

from manifold_xai.course import workshop
from manifold_xai.course.seats import STORED, computed, stored_seats


@pytest.fixture
def seat(tmp_path):
    """A handout's folder, with the files that the doctor checks."""
    (tmp_path / "nbs" / "results").mkdir(parents=True)
    for folder in ("requirements", "docs"):
        (tmp_path / folder).mkdir()
    for name in ("settings.ini", workshop.PINS, STORED):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def remember(seat: Path, **changed):
    known = stored_seats(seat) | changed
    (seat / STORED).write_text(json.dumps(known))


def server(folder: Path, data: Path, monkeypatch):
    """A `jupyter` that says its data lie in `data`, first on the path."""
    folder.mkdir()
    said = json.dumps({"data": [str(data)]})
    (folder / "jupyter").write_text(f"#!/bin/sh\necho '{said}'\n")
    (folder / "jupyter").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_results_need_a_place(seat, monkeypatch):
    assert workshop.folders(seat).state == "ok"
    (seat / "_out").write_text("a file where the folder should be")
    found = workshop.folders(seat)
    assert found.state == "ok" and "read-only: results go to" in found.text
    monkeypatch.setenv("XDG_CACHE_HOME", str(seat / "_out"))
    found = workshop.folders(seat)
    assert found.state == "FAIL" and "XDG_CACHE_HOME" in found.advice


def test_a_kernel_that_does_not_start_is_named(seat, monkeypatch):
    spec = seat / "jupyter" / "kernels" / "python3"
    spec.mkdir(parents=True)
    broken = {"argv": [sys.executable, "-c", "1 / 0"], "display_name": "x", "language": "python"}
    (spec / "kernel.json").write_text(json.dumps(broken))
    monkeypatch.setenv("JUPYTER_PATH", str(seat / "jupyter"))
    found = workshop.kernel(seat, patience=60)
    assert found.state == "FAIL" and "ipykernel install" in found.advice


def test_memory_is_what_the_largest_lesson_took(seat):
    lesson = {"cells": {"a": 1.0}, "figure": 1.0, "megabytes": 1}
    remember(seat, lessons={"00_tour": lesson})
    assert workshop.memory(seat).state == "ok"
    remember(seat, lessons={"00_tour": lesson, "b": lesson | {"megabytes": 10**8}})
    found = workshop.memory(seat)
    assert found.state == "FAIL" and "close other programs" in found.advice


def test_other_versions_than_the_locked_ones_are_named(seat):
    (seat / workshop.PINS).write_text("pytest==1.0\ntorch==0.1 ; sys_platform == 'none'\n")
    found = workshop.locked(seat)
    assert found.state == "FAIL" and "1 packages" in found.text and "pytest" in found.text
    assert workshop.PINS in found.advice
    (seat / workshop.PINS).write_text(f"pytest=={pytest.__version__}\nnot-installed==1\n")
    assert workshop.locked(seat).state == "ok"
    (seat / workshop.PINS).unlink()
    assert workshop.locked(seat).state == "note"


def test_widgets_need_a_front_end_in_the_servers_environment(seat, monkeypatch):
    server(seat / "bin", seat / "share", monkeypatch)
    found = list(workshop.front_ends())
    assert [f.state for f in found] == ["FAIL", "FAIL"]
    assert all(str(seat / "bin" / "python") in f.advice for f in found)
    for extension in workshop.FRONT_ENDS.values():
        (seat / "share" / "labextensions" / extension).mkdir(parents=True)
    assert [f.state for f in workshop.front_ends()] == ["ok", "ok"]
    monkeypatch.setenv("PATH", str(seat))
    assert [f.state for f in workshop.front_ends()] == ["FAIL"]


def test_minutes_follow_from_a_timed_piece_of_work(seat, monkeypatch):
    lesson = {"cells": {"a": 30.0, "b": 60.0}, "figure": 1.0, "megabytes": 1}
    remember(seat, probe=2.0, lessons={"00_tour": lesson, "99_not_handed_out": lesson})
    (seat / "nbs" / "00_tour.ipynb").touch()
    monkeypatch.setattr(workshop, "probe", lambda clock: 4.0)
    found = list(workshop.speed(seat))
    assert found[1].text == "00_tour computes 3.0 minutes on this seat" and found[0].state == "ok"
    assert len(found) == 2
    monkeypatch.setattr(workshop, "probe", lambda clock: 40.0)
    assert next(workshop.speed(seat)).state == "FAIL"
    remember(seat, lessons={})
    assert next(workshop.speed(seat)).advice == "manifold-xai seats"


def test_what_a_process_computes_is_no_time_it_sleeps():
    import time

    import psutil

    before = computed(psutil.Process())
    time.sleep(0.3)
    assert computed(psutil.Process()) - before < 0.2
