"""A handout in JupyterLab, as a student runs it: `python tests/handout_browser.py [LESSON]`.

The handout is mounted read-only. Run All must end without an error, with every checker speaking,
and nothing that was opened may hold a solution.
"""

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.request import urlopen

from playwright.sync_api import sync_playwright

from manifold_xai.course.cli import main

ROOT = Path(__file__).parents[1]
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && cd "$0" && exec "$@"'
KERNEL = "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status"
RUN_ALL = "() => window.jupyterapp.commands.execute('notebook:run-all-cells').then(() => true)"
CELLS = "() => window.jupyterapp.shell.currentWidget.content.model.sharedModel.toJSON().cells"
MINUTES = 15  # that a lesson may take, small, on a busy machine


def room(folder: Path, lesson: str) -> Path:
    """A handout of one lesson, at the size of tests."""
    assert main(["handout", str(folder / "room"), "--root", str(ROOT), "--chapters", lesson]) == 0
    (page,) = (folder / "room" / "nbs").glob(f"{lesson}_*.ipynb")
    text = page.read_text(encoding="utf8")
    page.write_text(text.replace('out, retrain = \\"cpu\\"', 'out, retrain = \\"smoke\\"'))
    return page


def serve(page: Path, folder: Path, port: int, token: str) -> subprocess.Popen:
    """A Jupyter server over the handout, which it can only read, with caches of its own."""
    env = {k: v for k, v in os.environ.items() if k != "MANIFOLD_XAI_ROOT"}
    env |= {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(folder / "cache")}
    env |= {"JUPYTER_CONFIG_DIR": str(folder / "conf"), "IPYTHONDIR": str(folder / "ipython")}
    options = [f"--ServerApp.port={port}", f"--IdentityProvider.token={token}", "--no-browser"]
    options += ["--allow-root", "--expose-app-in-browser"]
    lab = [sys.executable, "-m", "jupyter", "lab", *options]
    alone = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", READ_ONLY]
    with (folder / "server.log").open("w") as log:
        command = [*alone, str(page.parents[1]), *lab]
        server = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    for _ in range(240):
        try:
            urlopen(f"http://127.0.0.1:{port}/api?token={token}", timeout=5)
            return server
        except OSError:
            time.sleep(1)
    server.terminate()
    raise RuntimeError((folder / "server.log").read_text()[-800:])


def wrong(cells: list[dict], heard: list[str]) -> list[str]:
    """What a student should not have met."""
    outputs = [o for cell in cells for o in cell.get("outputs", [])]
    said = ["".join(o.get("text", "")) for o in outputs]
    found = [f"{o['ename']}: {o['evalue']}" for o in outputs if o["output_type"] == "error"]
    found += [
        "a solution is in sight"
        for cell in cells
        if "solution" in cell["metadata"].get("tags", []) or "_solution(" in cell["source"]
    ]
    code = [c for c in cells if c["cell_type"] == "code"]
    found += ["a cell did not run"] * any(c["execution_count"] is None for c in code)
    stubs = sum("stub" in cell["metadata"].get("tags", []) for cell in cells)
    spoke = sum("still to be written" in text for text in said)
    found += [f"{spoke} of {stubs} checkers spoke"] * (spoke < stubs or not stubs)
    return found + heard


def run(lesson: str) -> list[str]:
    """Run a lesson's student copy in a browser; what was wrong."""
    heard: list[str] = []
    with tempfile.TemporaryDirectory() as name, socket.socket() as free:
        folder = Path(name)
        page = room(folder, lesson)
        free.bind(("127.0.0.1", 0))
        port, token = free.getsockname()[1], secrets.token_hex(8)
        free.close()
        server = serve(page, folder, port, token)
        try:
            with sync_playwright() as play:
                browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
                tab = browser.new_page()
                tab.set_default_timeout(MINUTES * 60_000)
                tab.on("pageerror", lambda error: heard.append(f"page: {error}"))
                tab.goto(f"http://127.0.0.1:{port}/lab/tree/nbs/{page.name}?token={token}")
                tab.wait_for_function(f"() => ['idle', 'unknown'].includes(({KERNEL})())")
                tab.evaluate(RUN_ALL)
                cells = tab.evaluate(CELLS)
                browser.close()
        finally:
            server.terminate()
            server.wait(60)
        made = list((page.parents[1]).rglob("_out"))
    return wrong(cells, heard) + ["something was written into the handout"] * bool(made)


if __name__ == "__main__":
    found = run(sys.argv[1] if len(sys.argv) > 1 else "00")
    print(*found or ["the handout ran: no error, no solution, every checker spoke"], sep="\n")
    sys.exit(bool(found))
