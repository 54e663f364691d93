"""Courses in miniature, and what the tests that run them ask."""

import json
import shutil
from contextlib import suppress
from pathlib import Path

import nbformat
import psutil
from helpers import ROOT

PARAMETERS = 'profile, device, seed = "cpu", None, 0\nout: str = None'
PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ"
    "AAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)


def course(root: Path, **cells: list[str]) -> Path:
    """A clone in miniature: settings and one notebook for each keyword."""
    (root / "nbs").mkdir(parents=True, exist_ok=True)
    for file in ("settings.ini", "pyproject.toml"):
        shutil.copy(ROOT / file, root)
    for name, sources in cells.items():
        text = (
            f"# Title of {name}\n> What {name} shows.\n\n"
            "*About 5 minutes to read · not yet timed to run*"
        )
        nb = nbformat.v4.new_notebook(
            metadata={
                "kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}
            }
        )
        nb.cells = [
            nbformat.v4.new_markdown_cell(text),
            nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        ]
        nb.cells += [nbformat.v4.new_code_cell(source) for source in sources]
        for i, cell in enumerate(nb.cells):
            cell["id"] = f"{Path(name).name}-{i}"
        path = root / "nbs" / f"{name}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(nb, path)
    return root


def status(out: Path) -> dict[str, str]:
    """What became of each chapter, by the run's summary."""
    return {
        c["chapter"]: c["status"]
        for c in json.loads((out / "summary.json").read_text())["chapters"]
    }


def text(notebook: Path) -> str:
    """All that a notebook printed."""
    outputs = [o for cell in nbformat.read(notebook, 4).cells for o in cell.get("outputs", [])]
    return "".join(o.get("text", "") or o.get("data", {}).get("text/plain", "") for o in outputs)


def own_processes(out: Path) -> dict[str, list[int]]:
    """Numbers of the processes that compute chapters into `out`: drivers and kernels."""
    found = {"driver": [], "kernel": []}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            words = " ".join(process.cmdline())
            kind = (
                "kernel"
                if "ipykernel_launcher" in words
                else "driver"
                if "execute.py" in words
                else None
            )
            if (
                kind
                and process.status() != psutil.STATUS_ZOMBIE
                and process.environ().get("MANIFOLD_XAI_RUN") == str(out)
            ):
                found[kind].append(process.pid)
    return found
