"""Widgets that move on a page without a kernel: their cells are run, their state goes along."""

import os
import tempfile
from pathlib import Path

from nbclient import NotebookClient
from nbformat import NotebookNode, from_dict
from nbformat.v4 import new_output

from manifold_xai.course.session import kernel_environment

TAG = "alive"  # of a cell whose widget moves by itself
ASIDE = {"figure", "stub", "check", "solution"}  # what such a widget does not need
STATE = "application/vnd.jupyter.widget-state+json"
VIEW = "application/vnd.jupyter.widget-view+json"


def alive(nb: NotebookNode, root: Path) -> NotebookNode:
    """Give a notebook's tagged cells their widgets, below the pictures that they have, in place.

    Parameters:
        nb: a lesson; only its tagged cells and what they need are run
        root: the clone
    Raises: nbclient's CellExecutionError where a cell fails; ValueError where one shows no widget
    """
    cells = needed(nb)
    if not cells:
        return nb
    ran = from_dict({**nb, "cells": [from_dict({**cell, "outputs": []}) for cell in cells]})
    with tempfile.TemporaryDirectory() as out, kernel_environment(root, Path(out)) as env:
        before = dict(os.environ)
        os.environ.update(env)
        try:
            NotebookClient(ran, resources={"metadata": {"path": str(root / "nbs")}}).execute()
        finally:
            os.environ.clear()
            os.environ.update(before)
    views = {cell.id: view(cell) for cell in ran.cells if TAG in tags(cell)}
    for cell in nb.cells:
        if cell.get("id") in views:
            data = {VIEW: views[cell.id]}
            cell.outputs.append(new_output("display_data", data))
    nb.metadata["widgets"] = {STATE: ran.metadata["widgets"][STATE]}
    return nb


def needed(nb: NotebookNode) -> list[NotebookNode]:
    """The tagged cells, and the code above the last of them that may have made what they show."""
    code = [cell for cell in nb.cells if cell.cell_type == "code"]
    last = max((i for i, cell in enumerate(code) if TAG in tags(cell)), default=-1)
    return [c for c in code[: last + 1] if TAG in tags(c) or not tags(c) & ASIDE]


def tags(cell: NotebookNode) -> set[str]:
    return {*cell.metadata.get("tags", [])}


def view(cell: NotebookNode) -> NotebookNode:
    """What a page needs to find the widget that a cell has shown.

    Raises: ValueError if it has shown none
    """
    for output in cell.outputs:
        if VIEW in output.get("data", {}):
            return output.data[VIEW]
    raise ValueError(f"cell {cell.id} is tagged {TAG!r} and shows no widget.")
