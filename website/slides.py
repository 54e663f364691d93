"""A lesson as slides: headings start one, and what would not fit goes on below it."""

import re
from pathlib import Path

import nbformat
from nbconvert import SlidesExporter
from nbformat import NotebookNode

LINES = 20  # of text or code that fit on a slide
FIGURE = 13  # lines that a figure takes
ASIDE = {"parameters", "check", "hint", "half", "solution"}


def write_slides(lesson: Path, page: Path) -> None:
    """Write a lesson's slides, which take reveal.js and MathJax from the site."""
    nb = with_slides(nbformat.read(lesson, as_version=4))
    exporter = SlidesExporter(
        extra_template_basedirs=[str(Path(__file__).parent)],
        template_name="slides",
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    body, _ = exporter.from_notebook_node(nb, {"metadata": {"name": lesson.stem}})
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(body, encoding="utf8")


def with_slides(nb: NotebookNode) -> NotebookNode:
    """Give each cell a place in the slides where its metadata names none, in place."""
    nb.cells = [part for cell in nb.cells for part in split(cell)]
    used = 0
    for cell in nb.cells:
        prepare(cell)
        size = lines(cell)
        kind = cell.metadata.setdefault("slideshow", {}).get("slide_type")
        if kind is None:
            kind = starts(cell) or ("subslide" if used + size > LINES else "-")
            cell.metadata["slideshow"]["slide_type"] = kind
        used = size if kind in ("slide", "subslide") else used + size * (kind != "skip")
    return nb


def split(cell: NotebookNode) -> list[NotebookNode]:
    """A cell of prose, cut before each heading that stands within it."""
    if cell.cell_type != "markdown" or {"hint", "half"} & {*cell.metadata.get("tags", [])}:
        return [cell]
    parts = [p for p in re.split(r"^(?=#{1,3} )", cell.source, flags=re.M) if p.strip()]
    return [
        nbformat.from_dict(cell | {"source": part, "id": f"{cell.id}{i}"})
        for i, part in enumerate(parts)
    ]


def starts(cell: NotebookNode) -> str:
    """What a cell's own nature says: a heading starts a slide, an answer or nothing is on none."""
    tags = {*cell.metadata.get("tags", [])}
    silent = not cell.source.strip() or cell.source.startswith(("import ", "from "))
    if tags & ASIDE or silent:
        return "skip"
    if re.match(r"#{1,2} ", cell.source):
        return "slide"
    return "subslide" if re.match(r"### ", cell.source) else ""


def prepare(cell: NotebookNode) -> None:
    """Drop directives; hand a figure's alternative text to its image."""
    if cell.cell_type != "code":
        return
    cell.source = "\n".join(row for row in cell.source.splitlines() if not row.startswith("#|"))
    alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
    for output in cell.outputs:
        if "image/png" in output.get("data", {}):
            output.setdefault("metadata", {}).setdefault("image/png", {})["alt"] = alt


def lines(cell: NotebookNode) -> float:
    """Lines that a cell takes on a slide, roughly."""
    if cell.cell_type == "markdown":
        return sum(1 + len(row) // 90 for row in cell.source.splitlines())
    height = len(cell.source.splitlines()) + 1
    for output in cell.outputs:
        if "image/png" in output.get("data", {}):
            height += FIGURE
        else:
            text = output.get("text", output.get("data", {}).get("text/plain", ""))
            height += len(text.splitlines())
    return height
