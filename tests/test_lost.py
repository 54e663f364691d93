"""Nothing lost, and nothing believed that did not finish: faults of every kind, on toy courses."""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from helpers import ROOT
from papermill import execute_notebook
from papermill.engines import papermill_engines
from torture import CLAIM, FIGURE
from toys import course, own_processes, status, text

from manifold_xai import files
from manifold_xai.course import execute, products
from manifold_xai.course.cli import main
from manifold_xai.course.session import end_survivors, read_summary

RUNNER = "import sys; from manifold_xai.course.cli import main; sys.exit(main(sys.argv[1:]))"
# no other thread runs
HOLDS_THE_LOCK = "import re\nprint('begun', flush=True)\nre.match('(a+)+$', 'a' * 60 + 'b')"


def call(*words) -> tuple[int, str]:
    """Exit code and what was printed."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
        code = main([str(word) for word in words])
    return code, out.getvalue()


def start(*words, **more) -> subprocess.Popen:
    """A runner of its own."""
    return subprocess.Popen([sys.executable, "-c", RUNNER, *map(str, words)], cwd=ROOT, **more)


def wait_for(condition, seconds=120):
    until = time.time() + seconds
    while not condition():
        assert time.time() < until, "waited in vain"
        time.sleep(0.05)


def kernels_end(out: Path, seconds: float = 10) -> bool:
    """Whether every process that computes into `out` ends within so many seconds."""
    until = time.time() + seconds
    while any(own_processes(out).values()) and time.time() < until:
        time.sleep(0.05)
    return not any(own_processes(out).values())


# What did not finish does not count


@pytest.fixture(scope="module")
def faults(tmp_path_factory):
    """Chapters that record a claim and fail in every way before their end; two complete ones."""
    record = f"{CLAIM}\nrecord('MIG-06', 1.0)"
    root = course(
        tmp_path_factory.mktemp("clone"),
        **{
            "01_exit": [record, FIGURE, "import sys; sys.exit()", "print('never')"],
            "02_exit_last": [record.replace("06", "07"), "raise SystemExit(0)"],
            "03_raises": [record.replace("06", "08"), FIGURE, "1 / 0"],
            "04_dies": [record.replace("06", "09"), "import os; os._exit(0)"],
            "05_whole": [record.replace("06", "10"), FIGURE],
            "06_loud": [
                "print('x' * 50_000_000)\nprint('after')",
                "for _ in range(100):\n    print('y' * 100_000)",
                "from IPython.display import HTML, display\n"
                "display(HTML('z' * 20_000_000))\nprint('told')",
                "print('as usual')",
            ],
        },
    )
    code, said = call("run", "--root", root, "--profile", "smoke", "--jobs", 2)
    return SimpleNamespace(root=root, out=root / "_out" / "smoke", code=code, said=said)


def test_a_chapter_that_stopped_leaves_no_claim_and_no_figure(faults):
    stopped = dict.fromkeys(["01_exit", "02_exit_last", "03_raises", "04_dies"], "failed")
    assert faults.code == 1 and status(faults.out) == stopped | {
        "05_whole": "done",
        "06_loud": "done",
    }
    assert [p.name for p in (faults.out / "claims").iterdir()] == ["MIG-10.json"]
    assert [
        p.relative_to(faults.out / "figures").as_posix() for p in faults.out.rglob("*.png")
    ] == ["05_whole/01.png"]
    assert not list((faults.out / ".running").iterdir())
    ledger = json.loads((faults.out / "ledger.json").read_text())
    assert [name for name, entry in ledger.items() if entry["conditions"]] == ["MIG-10"]


def test_the_way_out_is_named(faults):
    assert "01_exit failed in cell 5\n    import sys; sys.exit()\nSystemExit" in faults.said
    assert "02_exit_last failed in cell 4\n    raise SystemExit(0)\nSystemExit: 0" in faults.said
    assert "04_dies failed in cell 4\n    import os; os._exit(0)\nthe kernel died" in faults.said
    assert (faults.out / "notebooks" / "01_exit.failed.ipynb").exists()


def test_an_output_without_end_is_cut_with_a_note(faults):
    notebook = faults.out / "notebooks" / "06_loud.ipynb"
    assert notebook.stat().st_size < 12e6
    said = text(notebook)
    assert said.count("[cut: this cell wrote more than 5 million letters]") == 3
    assert "after" not in said and said.count("y") <= 5_000_000 and "as usual" in said


@pytest.fixture
def whole(faults, tmp_path):
    """A copy of the run of the chapter that is whole."""
    out = Path(shutil.copytree(faults.out, tmp_path / "out"))
    assert not products.amiss(out, "05_whole")
    return out


@pytest.mark.parametrize(
    "product",
    [
        "notebooks/05_whole.ipynb",
        "figures/05_whole/01.png",
        "claims/MIG-10.json",
        "finished/05_whole.json",
    ],
)
@pytest.mark.parametrize("how", ["removed", "emptied", "cut", "one byte"])
def test_every_damage_to_every_product_is_seen(whole, product, how):
    path = whole / product
    content = path.read_bytes()
    new = {
        "emptied": b"",
        "cut": content[:-1],
        "one byte": content[:5] + bytes([content[5] ^ 1]) + content[6:],
    }
    path.unlink()
    if how != "removed":
        path.write_bytes(new[how])
    assert products.amiss(whole, "05_whole")


def test_resume_makes_again_what_is_amiss_and_leaves_the_rest(faults, whole):
    (whole / "claims" / "MIG-10.json").unlink()
    before = (whole / "notebooks" / "06_loud.ipynb").stat().st_mtime_ns
    code, said = call(
        "run",
        "--root",
        faults.root,
        "--profile",
        "smoke",
        "--out",
        whole,
        "--only",
        "05,06",
        "--resume",
    )
    assert code == 0 and "05_whole" in said and (whole / "claims" / "MIG-10.json").exists()
    # the folder is not that of the first run, so both run once; then only damaged ones run
    assert (whole / "notebooks" / "06_loud.ipynb").stat().st_mtime_ns > before
    before = (whole / "notebooks" / "06_loud.ipynb").stat().st_mtime_ns
    (whole / "claims" / "MIG-10.json").write_text("{}")
    code, said = call(
        "run",
        "--root",
        faults.root,
        "--profile",
        "smoke",
        "--out",
        whole,
        "--only",
        "05,06",
        "--resume",
    )
    assert (
        code == 0 and "claims/MIG-10.json is not what a finished chapter recorded: removed" in said
    )
    assert "05_whole runs again: claims/MIG-10.json is missing" in said
    assert (
        status(whole)["06_loud"] == "done earlier"
        and (whole / "notebooks" / "06_loud.ipynb").stat().st_mtime_ns == before
    )
    assert json.loads((whole / "claims" / "MIG-10.json").read_text())["claim"] == "MIG-10"


class Power(BaseException):
    """A power cut, which no handler can catch."""


@pytest.mark.parametrize("step", range(6))
def test_cut_off_while_it_is_put_away_a_chapter_counts_whole_or_not_at_all(
    faults, tmp_path, monkeypatch, step
):
    """At each rename in turn, as if the power went."""
    out, name = tmp_path / "out", "05_whole"
    stage = products.stage(out, name)
    shutil.copytree(faults.out / "figures" / name, stage / "figures")
    shutil.copytree(faults.out / "claims", stage / "claims")
    shutil.copy(faults.out / "claims" / "MIG-10.json", stage / "claims" / "MIG-11.json")
    shutil.copy(faults.out / "notebooks" / f"{name}.ipynb", stage / "notebook.ipynb")
    left, rename = [step], os.replace

    def until(source, target):
        left[0] -= 1
        if left[0] < 0:
            raise Power
        rename(source, target)

    monkeypatch.setattr(os, "replace", until)
    with contextlib.suppress(Power):
        products.put_away(out, name)
    monkeypatch.undo()
    said = products.sweep(out, [name])
    made = sorted(
        p.name
        for folder in ("notebooks", "figures", "claims")
        for p in (out / folder).rglob("*")
        if p.is_file()
    )
    if step < 5:  # three products in four files, and the note
        assert made == [] and f"{name} had not finished: what it left is removed" in said
    else:
        assert made == ["01.png", "05_whole.ipynb", "MIG-10.json", "MIG-11.json"] and said == []
        assert not products.amiss(out, name)


def test_a_claim_recorded_by_hand_does_not_count_as_a_run(whole):
    entry = json.loads((whole / "claims" / "MIG-10.json").read_text())
    (whole / "claims" / "MIG-11.json").write_text(json.dumps(entry | {"claim": "MIG-11"}))
    assert products.sweep(whole, ["05_whole"]) == [
        "claims/MIG-11.json is not what a finished chapter recorded: removed"
    ]
    assert [p.name for p in (whole / "claims").iterdir()] == ["MIG-10.json"]


def test_a_run_killed_at_its_start_leaves_no_chapter_that_looks_done(whole, faults, monkeypatch):
    """Without --resume everything runs again: at no moment is an unfinished chapter called done."""

    def killed(out, name):
        raise Power

    monkeypatch.setattr(products, "clean", killed)
    with pytest.raises(Power):
        main(
            [
                "run",
                "--root",
                str(faults.root),
                "--profile",
                "smoke",
                "--out",
                str(whole),
                "--only",
                "05",
            ]
        )
    assert status(whole)["05_whole"] == "not run"


# Time-outs and orphans


@pytest.mark.parametrize("limit", ["--timeout", "--cell-timeout"])
def test_what_takes_too_long_is_ended_and_named(tmp_path, limit):
    root = course(tmp_path, **{"01_endless": [HOLDS_THE_LOCK], "02_b": ["2"]})
    seconds = 15 if limit == "--timeout" else 8
    code, said = call("run", "--root", root, "--profile", "smoke", limit, seconds)
    out = root / "_out" / "smoke"
    assert code == 1 and status(out) == {"01_endless": "failed", "02_b": "done"}
    what = "the chapter" if limit == "--timeout" else "the cell"
    assert f"{what} took longer than {seconds} s: allow more with {limit}" in said
    assert "01_endless failed in cell 3" in said
    assert kernels_end(out)


def test_every_profile_says_what_is_too_long():
    for name, spend in files.profiles(ROOT).items():
        assert float(spend["timeout"]) >= float(spend["cell_timeout"]) > 0, name


@pytest.mark.parametrize(
    "words", [["--timeout", "-1"], ["--cell-timeout", "soon"], ["--timeout", "nan"]]
)
def test_a_limit_is_a_number_of_seconds(words, capsys):
    with pytest.raises(SystemExit) as refused:
        main(["run", *words])
    assert refused.value.code == 2 and "a number of seconds, 0 or more" in capsys.readouterr().err


@pytest.mark.parametrize("whom", ["runner", "runner, then driver", "driver and runner at once"])
def test_a_kernel_does_not_outlive_its_runner(tmp_path, request, whom):
    """Not even in a cell that never lets another thread run."""
    if sys.platform != "linux" and whom != "runner":
        pytest.skip(
            "only Linux kills a process when its parent dies; "
            "elsewhere ipykernel's own thread must find time to look"
        )
    root, out = course(tmp_path / "clone", **{"01_endless": [HOLDS_THE_LOCK]}), tmp_path / "out"
    runner = start(
        "run",
        "--root",
        root,
        "--out",
        out,
        "--profile",
        "smoke",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    request.addfinalizer(lambda: (runner.kill(), runner.wait()))
    wait_for(
        lambda: (
            (kernel := own_processes(out)["kernel"])
            and psutil.Process(kernel[0]).cpu_times().user > 1.5
        )
    )
    (driver,) = own_processes(out)["driver"]
    victims = {"runner": [runner.pid], "runner, then driver": [runner.pid, driver]}.get(
        whom, [driver, runner.pid]
    )
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    runner.wait()
    assert kernels_end(out, 5)


def test_what_an_earlier_run_left_computing_is_ended_and_named(tmp_path, request):
    out = tmp_path / "out"
    alike = [sys.executable, "-c", "import time; time.sleep(600)", "ipykernel_launcher"]
    ours = subprocess.Popen(alike, env=os.environ | {"MANIFOLD_XAI_RUN": str(out)})
    others = subprocess.Popen(alike, env=os.environ | {"MANIFOLD_XAI_RUN": str(tmp_path / "other")})
    request.addfinalizer(lambda: [(process.kill(), process.wait()) for process in (ours, others)])
    wait_for(lambda: own_processes(out)["kernel"])
    assert end_survivors(out, patience=0.1) == [ours.pid]
    assert not psutil.pid_exists(ours.pid) and others.poll() is None


def test_signals_that_were_ignored_stay_ignored(tmp_path):
    """As under nohup, or in the background of a shell."""
    root, out = (
        course(tmp_path / "clone", **{"01_a": ["import time; time.sleep(3)"]}),
        tmp_path / "out",
    )
    numbers = [signal.SIGHUP, signal.SIGINT, signal.SIGTERM]
    ignore = "; ".join(
        ["import signal", *(f"signal.signal({int(n)}, signal.SIG_IGN)" for n in numbers)]
    )
    words = ["run", "--root", str(root), "--out", str(out), "--profile", "smoke"]
    runner = subprocess.Popen(
        [sys.executable, "-c", f"{ignore}; {RUNNER}", *words], cwd=ROOT, stdout=subprocess.DEVNULL
    )
    wait_for(lambda: own_processes(out)["kernel"])
    for number in numbers:
        runner.send_signal(number)
    assert runner.wait(120) == 0 and status(out) == {"01_a": "done"}


@pytest.mark.parametrize("where", ["only_run", "_carry_out", "write_results"])
def test_an_interrupt_at_any_moment_is_an_interrupt(tmp_path, monkeypatch, where):
    """Also before the first chapter, while libraries load, and after the last."""

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"manifold_xai.course.cli.{where}", interrupted)
    root = course(tmp_path, **{"01_a": ["1"]})
    (root / "nbs" / "01_a.ipynb").write_text("{")  # so that no kernel starts
    code, said = call("run", "--root", root, "--profile", "smoke")
    assert code == 130 and "interrupted; what is finished is kept" in said


# Disks


def unshared(script: str, *words, network: bool = True) -> subprocess.CompletedProcess:
    """A shell script in namespaces of its own, as root there; skips where that is not permitted."""
    if not shutil.which("unshare"):
        pytest.skip("no unshare on this machine")
    call = [
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        *([] if network else ["--net"]),
        "sh",
        "-ec",
    ]
    if subprocess.run([*call, "mount -t tmpfs tmpfs /mnt"], capture_output=True).returncode:
        pytest.skip("this machine does not permit namespaces (unshare --user --mount)")
    return subprocess.run(
        [*call, script, "sh", *map(str, words)], capture_output=True, text=True, cwd=ROOT
    )


def test_a_full_disk_fails_chapters_by_name_and_the_next_try(tmp_path):
    """A real one, of 300 kB, on which the first chapter does not fit."""
    root = course(
        tmp_path / "clone",
        **{"01_large": ["print('x' * 2_000_000)"], "02_small": [f"{CLAIM}\nrecord('MIG-06', 1.0)"]},
    )
    (tmp_path / "out").mkdir()
    script = """
mount -t tmpfs -o size=300k tmpfs "$2"
"$1" -c "$3" run --root "$4" --out "$2" --profile smoke && code=0 || code=$?
ls "$2/notebooks"
"$1" -c "$3" run --root "$4" --out "$2" --profile smoke --resume --only 02
exit "$code"
"""
    ran = unshared(script, sys.executable, tmp_path / "out", RUNNER, root)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert (
        "01_large failed" in ran.stdout + ran.stderr
        and "no room is left there" in ran.stdout + ran.stderr
    )
    assert "02_small.ipynb" in ran.stdout.split() and "02_small done earlier" in ran.stdout
    assert "Traceback" not in ran.stdout + ran.stderr


@pytest.mark.parametrize(
    "error, says",
    [
        (
            OSError(28, "No space left on device", "/d/x"),
            "/d/x could not be written whole: no room is left there. "
            "Free some, or name another folder",
        ),
        (OSError(122, "Disk quota exceeded", "/d/x"), "no room is left there"),
        (
            PermissionError(13, "Permission denied", "/d/x"),
            "/d/x is not yours to write (Permission denied). Ask its owner, or name another",
        ),
        (OSError(30, "Read-only file system", "/d/x"), "not yours to write"),
    ],
)
def test_what_the_disk_answers_is_said_with_the_way_out(tmp_path, monkeypatch, error, says):
    def refuse(*_):
        raise error

    monkeypatch.setattr("manifold_xai.course.cli.only_run", refuse)
    code, said = call("run", "--root", course(tmp_path, **{"01_a": ["1"]}), "--profile", "smoke")
    assert code == 1 and says in said and "Traceback" not in said


def test_a_clone_that_cannot_be_written_leaves_results_in_the_users_cache(tmp_path):
    root = course(tmp_path / "clone", **{"01_a": ["1"]})
    script = (
        'mount --bind "$2" "$2"; mount -o remount,ro,bind "$2"; export XDG_CACHE_HOME="$3"; '
        '"$1" -c "$4" run --root "$2" --profile smoke'
    )
    ran = unshared(script, sys.executable, root, tmp_path / "cache", RUNNER)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    out = tmp_path / "cache" / "manifold_xai" / "_out" / "smoke"
    assert status(out) == {"01_a": "done"} and str(out) in ran.stdout


def test_a_course_runs_without_a_network(tmp_path):
    refused = (
        "import socket\ntry:\n    socket.create_connection(('1.1.1.1', 53), 5)\n"
        "except OSError as error:\n    print('no network:', error.errno)"
    )
    root = course(tmp_path / "clone", **{"01_a": [refused]})
    ran = unshared(
        '"$1" tests/offline.py run --root "$2" --out "$3" --profile smoke',
        sys.executable,
        root,
        tmp_path / "out",
        network=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "no network: 101" in text(tmp_path / "out" / "notebooks" / "01_a.ipynb")


# Records are checked as they are read


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"chapters": 3}',
        '{"chapters": ["a"]}',
        '{"chapters": [{"chapter": "a"}]}',
        "\x00",
        "[" * 5000,
        '{"chapters": [{"chapter": "a", "status": "done", "seconds": NaN}]}',
        '{"chapters": [{"chapter": "a", "status": "done", "seconds": "1"}]}',
    ],
)
def test_a_damaged_summary_costs_what_it_said_and_nothing_else(tmp_path, content):
    root = course(tmp_path, **{"01_a": ["1"]})
    out = root / "_out" / "smoke"
    out.mkdir(parents=True)
    (out / "summary.json").write_text(content)
    with pytest.raises(ValueError, match="summary.json"):
        read_summary(out)
    (root / "nbs" / "01_a.ipynb").write_text("{")  # so that no kernel starts
    code, said = call("run", "--root", root, "--profile", "smoke")
    assert (
        code == 1
        and "what earlier runs cost is unknown" in said
        and status(out) == {"01_a": "failed"}
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["chapter", "status", "seconds", "claims", "x"]), inner, max_size=4
        )
    ),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(JSON | st.fixed_dictionaries({"chapters": JSON | st.lists(JSON, max_size=2), "cores": JSON}))
def test_any_summary_is_read_right_or_refused_by_name(tmp_path_factory, content):
    out = tmp_path_factory.mktemp("out")
    (out / "summary.json").write_text(json.dumps(content))
    try:
        chapters = read_summary(out)["chapters"]
    except ValueError as error:
        assert str(out / "summary.json") in str(error)
    else:
        assert all(
            isinstance(c["chapter"], str)
            and (c["seconds"] is None or 0 <= c["seconds"] < float("inf"))
            for c in chapters
        )


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60) | JSON.map(lambda x: json.dumps(x).encode()))
def test_any_note_is_read_right_or_its_chapter_does_not_count(tmp_path_factory, content):
    out = tmp_path_factory.mktemp("out")
    products.note(out, "a").parent.mkdir()
    products.note(out, "a").write_bytes(content)
    (out / "claims").mkdir()
    (out / "claims" / "MIG-06.json").write_text("{}")
    assert products.amiss(out, "a")
    products.sweep(out, ["a"])
    assert not list((out / "claims").iterdir())


# All of it at once


def test_three_disturbed_runs_end_as_if_undisturbed():
    """Killed at random moments, starved, damaged, and resumed; `make torture` does a hundred."""
    ran = subprocess.run(
        [sys.executable, Path(__file__).with_name("torture.py"), "--rounds", "3"],
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


# A cell's end is heard while a widget answers

ANSWERS = """from ipywidgets import interact
interact(lambda which: print(which), which=["x", "y"])
import time
time.sleep(0.5)  # its end comes while the runner is busy with what it printed"""


def test_a_cells_end_is_heard_while_a_widget_answers(tmp_path, monkeypatch):
    from nbclient.output_widget import OutputWidget

    answered = []
    sync_state = OutputWidget.sync_state

    def slowly(self):
        time.sleep(1.5)
        answered.append(True)
        sync_state(self)

    monkeypatch.setattr(OutputWidget, "sync_state", slowly)
    papermill_engines.register("course", execute.Engine)
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(ANSWERS)])
    nb.metadata.kernelspec = {"name": "python3", "display_name": "Python", "language": "python"}
    nbformat.write(nb, tmp_path / "in.ipynb")
    where = str(tmp_path / "in.ipynb"), str(tmp_path / "out.ipynb")
    execute_notebook(*where, engine_name="course", execution_timeout=60, progress_bar=False)
    cell = nbformat.read(where[1], 4).cells[-1]
    assert answered
    assert cell.metadata.papermill.duration < 30  # without the fix it takes the time-out's 60 s
