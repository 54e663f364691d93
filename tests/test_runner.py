"""The runner, with real papermill and doit, on tiny courses made here."""

import contextlib
import io
import json
import os
import re
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
import torch
from helpers import ROOT
from toys import PIXEL, course, status, text

from manifold_xai.course import doctor, publish
from manifold_xai.course.cli import main
from manifold_xai.course.notebooks import chapter_name, chapters, parameters
from manifold_xai.course.session import Session, slots
from manifold_xai.subjects.store import save_tensors

SLOW = (
    "import subprocess, sys, time; "
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); time.sleep(600)"
)
LEFT_BEHIND = (
    "import subprocess; p = subprocess.Popen("
    "[sys.executable, '-c', 'import time; time.sleep(900)'], start_new_session=True); "
    "print('left', p.pid)"
)
TRAIN = """
import time
from pathlib import Path
from torch import nn
from manifold_xai.subjects.store import trained
def train(model):
    with open(Path(out) / "trainings", "a") as log: log.write("one\\n")
    time.sleep(1)
    return {}
model = trained("line", nn.Linear(2, 1), train, {"width": 2}, root=out)
"""


def call(*words) -> tuple[int, str]:
    """Exit code and what was printed."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
        code = main([str(word) for word in words])
    return code, out.getvalue()


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Four chapters run two at a time: one good, one that fails, and both train the same thing."""
    root = course(
        tmp_path_factory.mktemp("clone"),
        **{
            "01_good": [
                TRAIN,
                "print(profile, seed, device)\nprint(out)",
                "from base64 import b64decode\nfrom IPython.display import Image\n"
                f"Image(b64decode('{PIXEL}'))",
                "from manifold_xai.course import begin, exact, record\nbegin(profile, out=out)\n"
                "record('MIG-06', {'a': exact(2.0)})",
                "import os, sys\nprint(sys.executable)\n"
                "print('waits:', os.environ['OMP_WAIT_POLICY'])",
                LEFT_BEHIND,
            ],
            "02_bad": [
                TRAIN,
                "before = 1",
                "def f():\n    raise KeyError('no such thing')\nf()",
                "print('never')",
            ],
            "index": ["print('index ran')"],
        },
    )
    (root / "_out" / "cpu" / "notebooks").mkdir(parents=True)
    (root / "_out" / "cpu" / "notebooks" / "02_bad.ipynb").write_text("from an earlier run")
    foreign = (
        tmp_path_factory.mktemp("jupyter") / "kernels" / "python3" / "kernel.json"
    )  # what Jupyter would find first
    foreign.parent.mkdir(parents=True)
    foreign.write_text(
        json.dumps(
            {
                "argv": ["false", "{connection_file}"],
                "display_name": "foreign",
                "language": "python",
            }
        )
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(foreign.parents[2]))
        patch.setenv("MPLBACKEND", "no_such_backend")
        patch.delenv("OMP_WAIT_POLICY")
        code, said = call("run", "--root", root, "--jobs", 2, "--seed", 7, "--device", "cpu")
    out = root / "_out" / "cpu"
    left = psutil.Process(
        int(re.search(r"left (\d+)", text(out / "notebooks" / "01_good.ipynb"))[1])
    )
    yield SimpleNamespace(root=root, out=out, code=code, said=said, left=left)
    left.kill()


def test_one_failure_is_exit_code_1_and_the_others_go_on(ran):
    assert ran.code == 1
    assert status(ran.out) == {"01_good": "done", "02_bad": "failed", "index": "done"}
    assert "index ran" in text(ran.out / "notebooks" / "index.ipynb")


def test_a_failed_chapter_cannot_be_mistaken_for_a_finished_one(ran):
    names = sorted(p.name for p in (ran.out / "notebooks").iterdir())
    assert names == ["01_good.ipynb", "02_bad.failed.ipynb", "index.ipynb"]
    assert "never" not in text(ran.out / "notebooks" / "02_bad.failed.ipynb")


def test_the_failing_cell_is_shown(ran):
    assert (
        "02_bad failed in cell 5\n    def f():\n        raise KeyError('no such thing')\n"
        "    f()\nKeyError: 'no such thing'" in ran.said
    )


def test_a_chapter_gets_the_parameters_it_declares(ran):
    assert "cpu 7 cpu\n" + str(ran.out) in text(ran.out / "notebooks" / "01_good.ipynb")
    assert parameters(ran.root / "nbs" / "01_good.ipynb") == {
        "profile",
        "device",
        "seed",
        "out",
    }  # and so not data_root, retrain
    given = nbformat.read(ran.out / "notebooks" / "01_good.ipynb", 4).cells[2].source
    assert "seed = 7" in given and "retrain" not in given


def test_the_kernel_is_the_python_that_runs_the_runner(ran):
    assert sys.executable in text(ran.out / "notebooks" / "01_good.ipynb")


def test_threads_of_a_kernel_wait_without_spinning(ran):
    """Set before torch loads, or it has no effect; the tests themselves too."""
    assert "waits: passive" in text(ran.out / "notebooks" / "01_good.ipynb")
    assert os.environ["OMP_WAIT_POLICY"].lower() == "passive"


def test_what_both_need_is_trained_once(ran):
    assert (ran.out / "trainings").read_text() == "one\n"


def test_what_a_chapter_leaves_running_does_not_hold_up_the_run(ran):
    assert ran.left.is_running()


def test_figures_claims_and_costs_are_kept(ran):
    assert (ran.out / "figures" / "01_good" / "01.png").read_bytes().startswith(b"\x89PNG")
    good, bad, _ = json.loads((ran.out / "summary.json").read_text())["chapters"]
    assert good["claims"] == 1
    assert good["seconds"] > 1
    assert 50 < good["peak_mb"] < 5000
    assert "KeyError" in bad["error"]
    assert json.loads((ran.out / "claims" / "MIG-06.json").read_text())["chapter"] == "01_good"
    header, *rows = [line.split() for line in ran.said.split("\n\n")[-1].splitlines()[:4]]
    assert header == ["chapter", "seconds", "peak", "MB", "claims", "status"]
    assert rows[0][0] == "01_good"
    assert rows[0][3:] == ["1", "done"]


def test_outputs_go_back_into_the_chapters(ran, tmp_path):
    root = Path(shutil.copytree(ran.root, tmp_path / "clone"))
    (root / "_out" / "smoke").mkdir()
    smoke = {"cores": 2, "chapters": [{"chapter": "01_good", "seconds": 1.4, "status": "done"}]}
    (root / "_out" / "smoke" / "summary.json").write_text(json.dumps(smoke))
    bad = (root / "nbs" / "02_bad.ipynb").read_text()
    code, said = call("outputs", "--root", root)
    assert code == 1
    assert "02_bad: not done in the cpu profile" in said
    assert (root / "nbs" / "02_bad.ipynb").read_text() == bad
    nb = nbformat.read(root / "nbs" / "01_good.ipynb", 4)
    source = nbformat.read(ran.root / "nbs" / "01_good.ipynb", 4)
    assert [c.source for c in nb.cells[1:]] == [
        c.source for c in source.cells[1:]
    ]  # no injected cell
    took = json.loads((ran.out / "summary.json").read_text())
    seconds = took["chapters"][0]["seconds"]
    run = f"{seconds:.0f} s to run (cpu profile, {took['cores']} cores; smoke: 1 s)"
    assert nb.cells[0].source.endswith(f"*About 1 minutes to read · {run}*")
    assert "contradicted, no control among its conditions" in text(root / "nbs" / "01_good.ipynb")
    assert {c.get("execution_count") for c in nb.cells} == {None}
    assert "papermill" not in json.dumps(nb)
    assert {tuple(c.metadata) for c in nb.cells} == {(), ("tags",)}
    before = (root / "nbs" / "01_good.ipynb").read_bytes()
    subprocess.run(
        [Path(sys.executable).with_name("nbdev-clean"), "--fname", "nbs/01_good.ipynb"],
        cwd=root,
        check=True,
    )
    assert (root / "nbs" / "01_good.ipynb").read_bytes() == before  # nbdev-clean has nothing to do
    assert f"| {run.split()[0]} s |" in call("table", "--root", root)[1]


def test_outputs_of_changed_cells_are_refused(ran, tmp_path):
    root = Path(shutil.copytree(ran.root, tmp_path / "clone"))
    path = root / "nbs" / "01_good.ipynb"
    path.write_text(path.read_text().replace("print(profile, seed", "print(seed, profile"))
    before = path.read_bytes()
    assert "01_good: cell 4 has changed" in call("outputs", "--root", root)[1]
    assert path.read_bytes() == before


def wait_for(condition, seconds=240):
    until = time.time() + seconds
    while not condition():
        assert time.time() < until, "waited in vain"
        time.sleep(0.1)


def test_interrupt_then_resume(tmp_path, request):
    root = course(tmp_path, **{"01_a": ["1"], "02_b": [SLOW]})
    out = tmp_path / "out"
    words = ["run", "--root", str(root), "--out", str(out), "--profile", "smoke"]
    # what a shell's background jobs ignore
    terminal = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    runner = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"{terminal}; import sys; from manifold_xai.course.cli import main; "
            f"sys.exit(main({words}))",
        ]
    )
    request.addfinalizer(runner.kill)
    started = []

    def sleeping():
        with contextlib.suppress(psutil.NoSuchProcess):
            started[:] = psutil.Process(runner.pid).children(recursive=True)
            return any("import time; time.sleep(600)" in p.cmdline() for p in started)

    wait_for(lambda: (out / "notebooks" / "01_a.ipynb").exists() and sleeping())
    assert len(started) >= 3  # papermill, the kernel, and what the kernel started
    code, said = call(*words)
    assert code == 2 and "another run is writing" in said
    runner.send_signal(signal.SIGINT)
    assert runner.wait(60) == 130
    gone, alive = psutil.wait_procs(started, timeout=20)
    assert not alive
    assert [p.name for p in (out / "notebooks").iterdir()] == ["01_a.ipynb"]
    assert status(out) == {"01_a": "done", "02_b": "interrupted"}
    # a runner that is killed outright leaves what it had begun; and the slow chapter is mended
    (out / ".running" / "02_b").mkdir(parents=True)
    (out / ".running" / "02_b" / "notebook.ipynb").write_text('{"cells": [')
    course(root, **{"02_b": ["2"]})
    first = (out / "notebooks" / "01_a.ipynb").stat().st_mtime_ns
    code, said = call(*words, "--resume")
    assert code == 0 and (out / "notebooks" / "01_a.ipynb").stat().st_mtime_ns == first
    assert "02_b had not finished: what it left is removed" in said
    assert not (out / ".running" / "02_b").exists()
    assert status(out) == {"01_a": "done earlier", "02_b": "done"}
    assert sorted(p.name for p in (out / "notebooks").iterdir()) == ["01_a.ipynb", "02_b.ipynb"]


def test_a_chapter_edited_while_it_runs_runs_again(tmp_path):
    root, out = (
        course(
            tmp_path,
            **{
                "01_a": [
                    "import pathlib\nme = pathlib.Path('01_a.ipynb')\n"
                    "n = me.write_text(me.read_text() + ' ')"
                ]
            },
        ),
        tmp_path / "out",
    )
    words = ["run", "--root", root, "--out", out, "--resume"]
    assert call(*words)[0] == 0
    assert call(*words)[0] == 0 and status(out) == {"01_a": "done"}  # not "done earlier"


def test_what_a_chapter_cost_outlives_an_interrupted_run(tmp_path):
    root, out = course(tmp_path, **{"01_a": ["1"], "02_b": ["2"]}), tmp_path / "out"
    (out / "claims").mkdir(parents=True)
    costs = {"chapter": "02_b", "seconds": 7.0, "peak_mb": 512, "claims": 3, "status": "done"}
    (out / "summary.json").write_text(json.dumps({"chapters": [costs]}))
    session = Session(
        root,
        out,
        sorted((root / "nbs").glob("0*.ipynb")),
        dict(profile="smoke", device=None, seed=0),
        [],
        {},
    )
    session.bar.close()
    assert session.summary()["chapters"][1] == costs | {"status": "not run"}
    assert "512" not in session.table()


def test_the_ledger_comes_last_also_side_by_side(tmp_path):
    look = "import pathlib; assert (pathlib.Path(out) / 'notebooks' / '60_a.ipynb').exists()"
    root, out = (
        course(tmp_path, **{"60_a": ["import time; time.sleep(2)"], "52_ledger": [look]}),
        tmp_path / "out",
    )
    words = ["run", "--root", root, "--out", out]
    assert call(*words, "--jobs", "2")[0] == 0
    assert status(out) == {"52_ledger": "done", "60_a": "done"}
    assert call(*words, "--only", "52", "--resume")[0] == 0
    assert status(out)["52_ledger"] == "done earlier"


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """A lesson and an evidence page with the same number and stem, and the ledger, run together."""
    figure = (
        "from base64 import b64decode\nfrom IPython.display import Image\n"
        f"Image(b64decode('{PIXEL}'))"
    )
    name = "import os; print('I am', os.environ['MANIFOLD_XAI_CHAPTER'])"
    start = "from manifold_xai.course import begin, exact, record\nbegin(profile, out=out)"
    last = "import pathlib; print(sorted(p.name for p in (pathlib.Path(out) / 'claims').iterdir()))"
    root = course(
        tmp_path_factory.mktemp("clone"),
        **{
            "40_alignment": [name, figure],
            "evidence/40_alignment": [
                name,
                figure,
                figure,
                f"{start}\nrecord('MIG-06', {{'a': exact(2.0)}})",
            ],
            "52_ledger": [name, last],
        },
    )
    code, said = call("run", "--root", root, "--jobs", 2)
    return SimpleNamespace(root=root, out=root / "_out" / "cpu", code=code, said=said)


TWINS = ("40_alignment", "evidence/40_alignment")


def test_one_stem_in_two_rooms_is_two_chapters(twins):
    assert twins.code == 0 and status(twins.out) == dict.fromkeys([*TWINS, "52_ledger"], "done")
    for name in TWINS:
        assert f"I am {name}\n" in text(twins.out / "notebooks" / f"{name}.ipynb")
    figures = {p.relative_to(twins.out / "figures").as_posix() for p in twins.out.rglob("*.png")}
    assert figures == {f"{TWINS[0]}/01.png", f"{TWINS[1]}/01.png", f"{TWINS[1]}/02.png"}
    claims = {
        c["chapter"]: c["claims"]
        for c in json.loads((twins.out / "summary.json").read_text())["chapters"]
    }
    assert claims == {TWINS[0]: 0, TWINS[1]: 1, "52_ledger": 0}
    assert "['MIG-06.json']" in text(
        twins.out / "notebooks" / "52_ledger.ipynb"
    )  # it ran after the page


def test_one_room_runs_and_is_cleaned_without_the_other(twins, tmp_path):
    out = Path(shutil.copytree(twins.out, tmp_path / "out"))
    page = (out / "notebooks" / f"{TWINS[1]}.ipynb").stat().st_mtime_ns
    code, said = call("run", "--root", twins.root, "--out", out, "--only", "lessons")
    assert code == 0 and "2 chapters" in said and status(out)["evidence/40_alignment"] == "done"
    assert (out / "notebooks" / f"{TWINS[1]}.ipynb").stat().st_mtime_ns == page
    assert (out / "claims" / "MIG-06.json").exists()
    assert (out / "figures" / TWINS[1] / "02.png").exists()
    code, said = call("run", "--root", twins.root, "--out", out, "--resume")
    assert code == 0 and set(status(out).values()) <= {"done", "done earlier"}


def test_outputs_and_table_find_both_rooms(twins, tmp_path):
    root = Path(shutil.copytree(twins.root, tmp_path / "clone"))
    assert call("outputs", "--root", root)[0] == 0
    for name in TWINS:
        assert f"I am {name}\n" in text(root / "nbs" / f"{name}.ipynb")
    said = call("table", "--root", root)[1]
    assert "(nbs/40_alignment.ipynb)" in said and "(nbs/evidence/40_alignment.ipynb)" in said


def test_fail_fast_and_a_fresh_start(tmp_path):
    root, out = (
        course(tmp_path, **{"01_dies": ["import os; os._exit(3)"], "02_b": ["2"]}),
        tmp_path / "out",
    )
    for made in ("weights/w.safetensors", "figures/02_b/01.png", "notebooks/02_b.ipynb"):
        (out / made).parent.mkdir(parents=True, exist_ok=True)
        (out / made).write_text("of an earlier run")
    code, said = call("run", "--root", root, "--out", out, "--fail-fast", "--retrain")
    assert code == 1
    assert status(out) == {"01_dies": "failed", "02_b": "not run"}
    assert "the kernel died" in said
    assert [p.name for p in out.rglob("*") if p.is_file() and "earlier" in p.read_text()] == []


# What needs no kernel


def test_chapters_are_picked_by_number_range_and_name(tmp_path):
    lessons, pages = (
        ["00_tour", "20_metric", "21_geodesics", "30_paths"],
        ["evidence/21_geodesics", "evidence/30_paths"],
    )
    root = course(
        tmp_path, **{name: ["1"] for name in [*lessons, *pages, "index", "library/33_solvers"]}
    )

    def pick(only):
        return [chapter_name(root, p) for p in chapters(root, only)]

    assert pick(None) == [*lessons, *pages, "index"]
    assert pick("20-21") == ["20_metric", "21_geodesics", "evidence/21_geodesics"]
    assert pick("20,00") == ["00_tour", "20_metric"]
    assert pick("30") == ["30_paths", "evidence/30_paths"]
    assert pick("evidence/30") == ["evidence/30_paths"]
    assert pick("evidence") == pick("evidence/00-99") == pages
    assert pick("lessons") == [*lessons, "index"]
    assert pick("index") == ["index"] and pick("21_geodesics") == ["21_geodesics"]
    assert pick("lessons/30,evidence/21_geodesics") == ["30_paths", "evidence/21_geodesics"]
    nb = nbformat.read(root / "nbs" / "index.ipynb", 4)
    nb.cells = nb.cells[:1]
    nbformat.write(nb, root / "nbs" / "index.ipynb")
    assert "index" not in pick(None)


@pytest.mark.parametrize(
    "words, message",
    [
        (["--only", "77"], "no such chapter; there are 01_a"),
        (["--profile", "huge"], "smoke, cpu, gpu, evidence, got huge"),
    ],
)
def test_what_the_user_should_change_is_exit_code_2(tmp_path, words, message):
    code, said = call("run", "--root", course(tmp_path, **{"01_a": ["1"]}), *words)
    assert code == 2 and message in said


def test_outside_a_clone_the_runner_says_so(tmp_path, monkeypatch):
    monkeypatch.delenv("MANIFOLD_XAI_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    code, said = call("run")
    assert code == 2 and "--root" in said


def test_a_broken_notebook_fails_alone_and_by_name(tmp_path):
    root = course(tmp_path, **{"01_a": ["1"]})
    (root / "nbs" / "01_a.ipynb").write_text("{")
    code, said = call("run", "--root", root)
    assert code == 1
    assert "01_a.ipynb is not a notebook" in said
    assert status(root / "_out" / "cpu") == {"01_a": "failed"}


def test_gpus_are_dealt_out_in_turn(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [s["CUDA_VISIBLE_DEVICES"] for s in slots(3, "cuda")] == ["0", "1", "0"]
    assert all(
        "CUDA_VISIBLE_DEVICES" not in s and "OMP_NUM_THREADS" in s
        for s in slots(3, "cuda:1") + slots(2, "cpu")
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert [s["CUDA_VISIBLE_DEVICES"] for s in slots(2, "cuda")] == ["4", "6"]
    assert slots(1, "cpu") == [{}]


def test_streams_are_joined_and_widgets_and_places_left_out():
    said = [
        {"output_type": "stream", "name": "stdout", "text": ["wrote /home/me/x\n"]},
        {"output_type": "stream", "name": "stdout", "text": ["/data/home/me/y, /home/me\n"]},
        {"output_type": "stream", "name": "stdout", "text": ["b\n"]},
    ]
    widget = {
        "output_type": "display_data",
        "data": {"application/vnd.jupyter.widget-view+json": {}, "text/plain": ["IntSlider()"]},
    }
    picture = {
        "output_type": "display_data",
        "data": {"image/png": "/home/me", "text/plain": ["<Figure>"]},
    }
    both = {"output_type": "display_data", "data": widget["data"] | picture["data"]}
    tidy = publish.tidy([*said, widget, picture, both], {"/home/me": "~"})
    lines = ["wrote ~/x\n", "/data/home/me/y, ~\n", "b\n"]
    assert tidy == [
        {"output_type": "stream", "name": "stdout", "text": lines},
        picture,
        picture,  # a widget that brings its own is shown by it
    ]


def test_a_data_root_has_one_name_wherever_it_lies(tmp_path):
    for place in ("/mnt/disk/data", str(Path.home() / "mine")):
        ran = {"metadata": {"papermill": {"parameters": {"data_root": place}}}}
        said = {"output_type": "stream", "name": "stdout", "text": [f"read {place}/taef2\n"]}
        (shown,) = publish.tidy([said], publish._places(tmp_path / "_out", ran))
        assert shown["text"] == ["read ~/data/taef2\n"]
    assert "~/data" not in publish._places(tmp_path / "_out", {"metadata": {}}).values()


# The doctor


def test_doctor_reports_this_machine():
    code, said = call("doctor", "--root", ROOT)
    assert code == 0 and "FAIL" not in said and f"torch {torch.__version__.split('+')[0]}" in said


def test_doctor_fails_for_essentials_and_notes_the_rest(tmp_path):
    settings = (ROOT / "settings.ini").read_text()
    (tmp_path / "nbs").mkdir()
    for name, changed, code, line in [
        ("core", settings.replace("torch>=2.6", "torch>=99"), 1, "FAIL  torch "),
        (
            "extra",
            settings.replace("diffusers>=0.30", "no-such-package>=1"),
            0,
            "note  no-such-package missing (needs >=1)",
        ),
        ("python", settings.replace("min_python = 3.11", "min_python = 4.0"), 1, "FAIL  Python "),
    ]:
        assert changed != settings
        (tmp_path / "settings.ini").write_text(changed)
        found, said = call("doctor", "--root", tmp_path)
        assert found == code and line in said, name


def test_doctor_finds_damaged_weights_and_a_locked_data_root(tmp_path):
    save_tensors(tmp_path / "a.safetensors", {"w": torch.zeros(3)})
    (tmp_path / "b.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:-1])
    save_tensors(tmp_path / "c.safetensors", {"w": torch.full((3,), float("nan"))})
    found = [(f.state, re.findall(r"/(\w).safetensors", f.text)) for f in doctor.shipped(tmp_path)]
    assert found == [("ok", []), ("FAIL", ["b"]), ("FAIL", ["c"])]
    (tmp_path / "file").write_text("")
    findings = list(doctor.machine(ROOT, str(tmp_path / "file" / "data")))
    assert any(f.state == "FAIL" and "MANIFOLD_XAI_DATA" in f.advice for f in findings)


# The README


def test_readme_shows_the_colab_cell_and_every_chapter():
    readme = (ROOT / "README.md").read_text(encoding="utf8")
    assert f"<!-- colab -->\n```python\n{publish.colab_cell(ROOT)}\n```\n<!-- /colab -->" in readme
    assert not any(
        word in publish.colab_cell(ROOT)
        for word in ('"torch>', '"torchvision', '"ipykernel', '"jupyterlab')
    )
    assert all(
        f"({path.relative_to(ROOT)})" in readme for path in chapters(ROOT) if path.stem != "index"
    )


def test_only_what_is_between_the_marks_changes():
    assert (
        publish.between("a\n<!-- x -->\nold\n<!-- /x -->\nb", "x", r"new \1")
        == "a\n<!-- x -->\nnew \\1\n<!-- /x -->\nb"
    )
    with pytest.raises(ValueError, match="<!-- x -->"):
        publish.between("a", "x", "new")


@pytest.mark.parametrize("tag", ("check", "solution"))
def test_what_gives_an_answer_away_is_folded_once_and_stays_so(tmp_path, tag):
    root = course(tmp_path, **{"01_a": ["1", "2"]})
    path = root / "nbs" / "01_a.ipynb"
    nb = json.loads(path.read_text())
    nb["cells"][-1]["metadata"]["tags"] = [tag]
    path.write_text(json.dumps(nb))
    before = [cell["source"] for cell in nb["cells"]]
    assert main(["fold", "--root", str(root)]) == 0
    cells = json.loads(path.read_text())["cells"]
    assert ["".join(cell["source"]) for cell in cells] == ["".join(s) for s in before]
    assert cells[-1]["metadata"] == {"jupyter": {"source_hidden": True}, "tags": [tag]}
    assert all("jupyter" not in cell["metadata"] for cell in cells[:-1])
    written = path.stat().st_mtime_ns
    assert main(["fold", "--root", str(root)]) == 0 and path.stat().st_mtime_ns == written


def test_large_figures_are_kept_in_fewer_colours():
    from base64 import b64decode, b64encode
    from io import BytesIO

    import numpy as np
    from PIL import Image

    from manifold_xai.course.publish import light

    file = BytesIO()
    picture = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    Image.fromarray(picture).save(file, "PNG")
    png = b64encode(file.getvalue()).decode()
    assert light(png, most=len(png)) == png
    kept = Image.open(BytesIO(b64decode(light(png, most=1000))))
    assert kept.size == (300, 300) and len(light(png, most=1000)) < 0.5 * len(png)
    assert np.abs(np.asarray(kept.convert("RGB")).astype(int) - picture).mean() < 25
