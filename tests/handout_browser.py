"""Handouts in JupyterLab, as a student runs them: `python tests/handout_browser.py [LESSON ...]`.

The handout is mounted read-only. Run All must end without an error, with every checker speaking;
nothing that was opened may hold a solution; every widget must move.
"""

import sys
import tempfile
from pathlib import Path

from browser import CHROMIUM, OTHERS, ROOT, Hand, Server, try_canvases, try_pictures
from playwright.sync_api import sync_playwright

from manifold_xai.course.cli import main
from manifold_xai.course.notebooks import read

LESSONS = ("00", "30", "60")
WIDGETS = {"60"}  # lessons in which there is something to move
KERNEL = "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status"
RUN_ALL = "() => window.jupyterapp.commands.execute('notebook:run-all-cells').then(() => true)"
CELLS = "() => window.jupyterapp.shell.currentWidget.content.model.sharedModel.toJSON().cells"
MINUTES = 15  # that a lesson may take at test size on a busy machine


def room(folder: Path, lesson: str) -> Path:
    """A handout of one lesson, at the size of tests."""
    assert main(["handout", str(folder / "room"), "--root", str(ROOT), "--chapters", lesson]) == 0
    (page,) = (folder / "room" / "nbs").glob(f"{lesson}_*.ipynb")
    text = page.read_text(encoding="utf8")
    small = text.replace('out, retrain = \\"cpu\\"', 'out, retrain = \\"smoke\\"')
    assert small != text, "the parameters cell has another form"
    page.write_text(small, encoding="utf8")
    return page


def wrong(cells: list[dict], answers: list[str]) -> list[str]:
    """What went wrong in cells that ran, compared with the teacher's answers."""
    outputs = [o for cell in cells for o in cell.get("outputs", [])]
    said = ["".join(o.get("text", "")) for o in outputs]
    found = [f"{o['ename']}: {o['evalue']}" for o in outputs if o["output_type"] == "error"]
    sources = ["".join(cell["source"]) for cell in cells]
    tags = [cell["metadata"].get("tags", []) for cell in cells]
    sight = [a for a in answers if any(a in source for source in sources)]
    if sight or any("solution" in t for t in tags) or any("_solution(" in s for s in sources):
        found.append("a solution is in sight")
    code = [c for c in cells if c["cell_type"] == "code"]
    found += ["a cell did not run"] * any(c["execution_count"] is None for c in code)
    stubs = sum("stub" in t for t in tags)
    spoke = sum("still to be written" in text for text in said)
    found += [f"{spoke} of {stubs} checkers spoke"] * (spoke < stubs or not stubs)
    return found


def solutions(lesson: str) -> list[str]:
    """The sources of a lesson's solutions."""
    (page,) = (ROOT / "nbs").glob(f"{lesson}_*.ipynb")
    cells = read(page)["cells"]
    return [c["source"] for c in cells if "solution" in c["metadata"].get("tags", [])]


def run(lesson: str) -> list[str]:
    """Run a lesson's student copy in a browser; what was wrong."""
    heard: list[str] = []

    def said(message):
        if message.type == "error" and not any(word in message.text for word in OTHERS):
            heard.append(f"console: {message.text[:200]}")

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        page = room(folder, lesson)
        with Server(folder, page.parents[1]) as server, sync_playwright() as play:
            browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            tab = browser.new_page(viewport=dict(width=1280, height=1000))
            tab.set_default_timeout(MINUTES * 60_000)
            tab.on("pageerror", lambda error: heard.append(f"page: {error}"))
            tab.on("console", said)
            tab.goto(server.address(f"lab/tree/nbs/{page.name}"))
            tab.wait_for_function(f"() => ['idle', 'unknown'].includes(({KERNEL})())")
            tab.evaluate(RUN_ALL)
            cells = tab.evaluate(CELLS)
            if lesson in WIDGETS:
                hand = Hand(tab, server)
                try_canvases(hand)
                try_pictures(hand)
            browser.close()
        made = list((page.parents[1]).rglob("_out"))
    found = wrong(cells, solutions(lesson)) + heard
    return found + ["something was written into the handout"] * bool(made)


if __name__ == "__main__":
    trouble = {lesson: run(lesson) for lesson in sys.argv[1:] or LESSONS}
    for lesson, found in trouble.items():
        moves = ", every widget moved" * (lesson in WIDGETS)
        good = f"no error, no solution, every checker spoke{moves}"
        print(f"{lesson}:", *found or [good], sep="\n  ")
    sys.exit(any(trouble.values()))
