"""Toy courses run, killed, starved of disk, damaged and resumed.

What is left must equal an undisturbed run.

`python tests/torture.py --rounds 100` prints what was done and what it found; `make torture` calls
it.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from pathlib import Path

import nbformat
from toys import PIXEL, course, own_processes

from manifold_xai.course import products
from manifold_xai.course.cli import main

CLAIM = """
import json, os, pathlib, time
def record(claim, value):
    "As the course does, without loading torch."
    entry = {"claim": claim, "verdict": "reproduced", "why": "", "paper_value": "1"}
    entry |= {"later": [], "rows": []}
    entry |= {"conditions": {"a": dict(value=value, low=value, high=value, n=100)}}
    entry |= {"profile": "smoke"}
    entry |= {"device": "cpu", "seed": 0, "n": 100, "key": {}}
    entry |= {"chapter": os.environ["MANIFOLD_XAI_CHAPTER"]}
    folder = pathlib.Path(os.environ["MANIFOLD_XAI_CLAIMS"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{claim}.json").write_text(json.dumps(entry))
"""
FIGURE = (
    f"from base64 import b64decode\nfrom IPython.display import Image\nImage(b64decode('{PIXEL}'))"
)
PAUSE = "time.sleep(0.2)"


def toy(root: Path) -> Path:
    """A lesson and an evidence page with the same stem, each with claims and a figure."""
    return course(
        root,
        **{
            "40_toy": [
                CLAIM,
                FIGURE,
                "record('MIG-06', 1.0)",
                PAUSE,
                "record('MIG-07', 2.0); print('done')",
            ],
            "evidence/40_toy": [CLAIM, "record('MIG-21', 3.0)", FIGURE, PAUSE, "print('done')"],
        },
    )


def forked(words: list, log: Path, bytes_a_file: int | None = None) -> int:
    """Process number of a runner of its own.

    Forked, since importing torch takes longer than a toy course.

    Parameters:
        words: of its command line
        log: where it writes
        bytes_a_file: no file may grow beyond it; None for no limit
    """
    read, write = os.pipe()  # no file: the log may grow
    if pid := os.fork():
        os.close(write)
        threading.Thread(target=copy, args=(read, log), daemon=True).start()
        return pid
    code = 99
    try:
        os.setsid()
        os.dup2(write, 1)
        os.dup2(write, 2)
        sys.stdout = sys.stderr = os.fdopen(1, "w", buffering=1)
        for number in (signal.SIGINT, signal.SIGTERM):  # until the runner listens itself
            signal.signal(number, signal.SIG_DFL)
        if bytes_a_file is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_a_file, resource.RLIM_INFINITY))
        code = main([str(word) for word in words])
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def copy(read: int, log: Path) -> None:
    """Append what comes through a pipe to a file."""
    with open(read, "rb", buffering=0) as pipe:
        while said := pipe.read(4096):
            with log.open("ab") as file:
                file.write(said)


def finish(pid: int, seconds: float = 600) -> int:
    """Exit code of a forked runner, minus the signal if it was killed."""
    until = time.time() + seconds
    while time.time() < until:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise AssertionError(f"the runner did not end within {seconds} s")


def picture(out: Path) -> dict[str, str]:
    """Everything in a run's folder that is to be the same in every run, by path."""
    seen = {}
    for path in sorted(p for p in out.rglob("*") if p.is_file()):
        name = path.relative_to(out).as_posix()
        if path.suffix == ".ipynb":
            cells = nbformat.read(path, 4).cells
            content = json.dumps([[c.source, c.get("outputs")] for c in cells]).replace(
                str(out), "OUT"
            )
        elif name.startswith("finished/"):
            content = " ".join(
                sorted(products.products(out, name.removeprefix("finished/").removesuffix(".json")))
            )
        elif name in ("summary.json", "finished.json", ".lock"):
            content = ""
        else:
            content = path.read_text(encoding="latin-1")
        seen[name] = hashlib.sha256(content.encode()).hexdigest()
    return seen


def check(holds: bool, what: str, log: Path) -> None:
    """Raise AssertionError with what the runners wrote if something does not hold."""
    if not holds:
        raise AssertionError(f"{what}\n{log.read_text()[-6000:]}")


def kill(draw: random.Random, root: Path, out: Path, words: list, log: Path, took: float) -> str:
    """Kill the runner, the process that drives a chapter, its kernel, or all, at any moment."""
    whom = draw.choice(["runner", "driver", "kernel", "all", "interrupt", "terminate"])
    pid = forked(words, log)
    time.sleep(draw.uniform(0, took))
    here = own_processes(out)
    gentle = {"interrupt": signal.SIGINT, "terminate": signal.SIGTERM}
    targets = {
        "driver": here["driver"],
        "kernel": here["kernel"],
        "all": [pid, *here["driver"], *here["kernel"]],
    }
    for target in targets.get(whom, [pid]):
        with contextlib.suppress(ProcessLookupError):
            os.kill(target, gentle.get(whom, signal.SIGKILL))
    code = finish(pid)
    unheard = (-signal.SIGKILL, -signal.SIGINT, -signal.SIGTERM)
    check(code in (0, 1, 130, *unheard), f"after {whom} was killed: exit code {code}", log)
    until = time.time() + 10
    while any(own_processes(out).values()) and time.time() < until:
        time.sleep(0.05)
    check(
        not any(own_processes(out).values()),
        f"{whom} was killed, but something goes on computing",
        log,
    )
    return whom


def starve(draw: random.Random, root: Path, out: Path, words: list, log: Path, took: float) -> str:
    """Let no file grow beyond a few kilobytes, as if the disk were full at some moment."""
    most = int(2 ** draw.uniform(9, 16))
    code = finish(forked(words, log, most))
    check(code in (0, 1), f"files of at most {most} bytes: exit code {code}", log)
    done = [c for c in chapters_of(root) if not products.amiss(out, c)]
    check(
        code == 1 or len(done) == 2,
        f"exit code {code} with {done} done and {most} bytes a file",
        log,
    )
    return "full disk"


def damage(draw: random.Random, root: Path, out: Path, words: list, log: Path, took: float) -> str:
    """Remove, cut or change one file that a finished run left."""
    finish(forked(words, log))
    path = draw.choice(sorted(p for p in out.rglob("*") if p.is_file() and p.name != ".lock"))
    content, how = path.read_bytes(), draw.choice(["removed", "cut", "changed"])
    path.unlink()
    if how == "cut":
        path.write_bytes(content[: draw.randrange(len(content))])
    elif how == "changed":
        place = draw.randrange(len(content))
        path.write_bytes(
            content[:place]
            + bytes([content[place] ^ draw.randrange(1, 256)])
            + content[place + 1 :]
        )
    return f"{path.relative_to(out).parts[0]} {how}"


def chapters_of(root: Path) -> list[str]:
    """Names of the toy's chapters."""
    return ["40_toy", "evidence/40_toy"]


FAULTS = [kill, starve, damage, kill, kill]


def torture(rounds: int, seed: int) -> Counter:
    """What was done to how many runs; AssertionError where one was not mended by --resume."""
    draw, done = random.Random(seed), Counter()
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        root = toy(Path(folder) / "clone")
        log = Path(folder) / "log"
        words = ["run", "--root", root, "--profile", "smoke", "--jobs", 2, "--out"]
        start = time.time()
        check(
            finish(forked([*words, Path(folder) / "whole"], log)) == 0, "the undisturbed run", log
        )
        whole, took = picture(Path(folder) / "whole"), time.time() - start
        for i in range(rounds):
            fault = FAULTS[i % len(FAULTS)]
            out = Path(folder) / f"out{i}"
            log.write_text("")
            what = fault(draw, root, out, [*words, out], log, took)
            check(
                finish(forked([*words, out, "--resume"], log)) == 0, f"{what}: --resume failed", log
            )
            after = picture(out)
            wrong = sorted(name for name in {*whole, *after} if whole.get(name) != after.get(name))
            check(
                not wrong,
                f"{what} (round {i}, seed {seed}): after --resume these differ: {wrong}",
                log,
            )
            check("Traceback" not in log.read_text(), f"{what}: a traceback", log)
            done[what] += 1
            print(f"{i + 1}: {what}, {time.time() - start:.0f} s", flush=True)
            shutil.rmtree(out)
    return done


if __name__ == "__main__":
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--rounds", type=int, default=10)
    ask.add_argument("--seed", type=int, default=0)
    asked = ask.parse_args()
    began = time.time()
    counts = torture(asked.rounds, asked.seed)
    print(
        f"{asked.rounds} runs disturbed and resumed in {time.time() - began:.0f} s, "
        "all as if undisturbed:"
    )
    print(", ".join(f"{n} × {what}" for what, n in counts.most_common()))
