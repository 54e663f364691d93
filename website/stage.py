"""What Sphinx builds the site from: committed notebooks, docstrings, the ledger.

Nothing is run but what makes the widgets that move without a kernel.

python website/stage.py FOLDER
"""

import ast
import re
import shutil
import sys
from base64 import b64decode
from io import BytesIO
from pathlib import Path

import nbformat
from alive import alive
from ledger_page import ledger_page
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell
from PIL import Image
from slides import write_slides

import manifold_xai
from manifold_xai.course.handout import student
from manifold_xai.course.notebooks import chapters
from manifold_xai.files import settings

ROOT = Path(__file__).parents[1]
PAGE, LABEL = 800, 10  # pixels: the width of a page on a laptop, the smallest label
DPI = 106  # of figures that do not say: what manifold_xai.course.plot asks for
FOLDED = {
    "parameters": "hide-input",
    "check": "hide-input",
    "solution": "hide-cell",
}
PAGES = r"\d\d_|library|evidence|notation|index|ledger|teach|images"  # what a site has beside
PACKAGES = {  # of the reference, in the order in which one imports the other
    "": "Scores, chunks, autoencoders, files",
    "geometry": "Geometry",
    "paths": "Paths",
    "attribution": "Attribution",
    "evaluation": "Evaluation",
    "subjects": "Data and networks",
    "benchmark": "Benchmark",
    "course": "The course's own tools",
    "course.widgets": "Widgets",
}


def anchor(heading: str) -> str:
    """The name of a heading in links, as Jupyter has it."""
    return heading.strip().replace(" ", "-")


def stage(target: Path) -> None:
    """Write all sources of the site into an empty folder."""
    shutil.rmtree(target, ignore_errors=True)
    for path in sorted((ROOT / "nbs").rglob("[!.]*.ipynb")):
        if ".ipynb_checkpoints" not in path.parts:
            name = path.relative_to(ROOT / "nbs")
            save(target / name, page(alive(nbformat.read(path, as_version=4), ROOT), name))
    shutil.copytree(ROOT / "nbs" / "images", target / "images")
    for path in chapters(ROOT, "lessons"):
        name = path.name
        save(target / "downloads" / "students" / name, student(nbformat.read(path, as_version=4)))
        write_slides(path, target / "extra" / "slides" / f"{path.stem}.html")
    for path in chapters(ROOT):
        copy = target / "downloads" / path.relative_to(ROOT / "nbs")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    write(target / "ledger.md", local_links(ledger_page(ROOT)))
    docs = [path.relative_to(ROOT / "docs") for path in sorted((ROOT / "docs").rglob("*.md"))]
    for name in docs:
        text = (ROOT / "docs" / name).read_text(encoding="utf8")
        write(target / name, local_links(text, len(name.parts) - 1))
    reference(target)
    library(target)
    write(target / "_static" / "readme.txt", "What vendor.sh brought lies beside.\n")
    index(target, [name.with_suffix("").as_posix() for name in docs])


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf8")


def save(path: Path, nb: NotebookNode) -> None:
    write(path, nbformat.writes(nb))


def page(nb: NotebookNode, name: Path) -> NotebookNode:
    """A notebook as a page: no directives of nbdev, answers folded, links to take it along."""
    cells = []
    for cell in nb.cells:
        if cell.cell_type == "code":
            lines = cell.source.splitlines()
            cell.source = "\n".join(line for line in lines if not line.startswith("#|")).strip()
            tags = cell.metadata.get("tags", [])
            if figure := width(cell):
                image = cell.metadata.setdefault("mystnb", {}).setdefault("image", {})
                image["width"] = f"{figure}px"
            cell.metadata["tags"] = sorted({*tags, *(FOLDED[t] for t in tags if t in FOLDED)})
        else:
            cell.source = local_links(cell.source, len(name.parts) - 1)
        if cell.source.strip():
            cells.append(cell)
    nb.cells = cells
    if re.match(r"\d\d_", name.name):
        cells.insert(1, new_markdown_cell(take_along(name)))
    return nb


def width(cell: NotebookNode) -> int:
    """Pixels that a figure takes: its own, at most a page's, more where labels ask for it."""
    found = [o.data["image/png"] for o in cell.outputs if "image/png" in o.get("data", {})]
    if not found:
        return 0
    with Image.open(BytesIO(b64decode(found[0]))) as image:
        dpi, natural = image.info.get("dpi", (DPI, DPI))[0], image.width
    points = min([9.0, *map(float, re.findall(r"fontsize=([\d.]+)", cell.source))])
    legible = natural * LABEL / (points * dpi / 72)
    return round(max(min(natural, PAGE), legible + 1))


def local_links(text: str, depth: int = 0) -> str:
    """Links to files that the site has under another name, or that only the clone has.

    Parameters:
        text: Markdown
        depth: folders between the site's root and the page
    """
    up = "../" * depth
    text = re.sub(r"\]\((?:\.\./)*(nbs/results/[\w./-]+)", source_link, text)
    text = re.sub(r"\]\((?:\.\./)*(?:docs/)?LEDGER\.md", f"]({up}ledger.md", text)
    text = re.sub(r"\]\((?:\.\./)*(?:nbs|docs)/", f"]({up}", text)
    return re.sub(rf"\]\((?:\.\./)+((?!{PAGES})[\w./-]+)", source_link, text)


def source_link(match: re.Match) -> str:
    return f"]({clone()}/blob/main/{match[1]}"


def clone() -> str:
    """Where the course is published."""
    return settings(ROOT)["DEFAULT"]["git_url"]


def take_along(name: Path) -> str:
    """A line below the title: the notebook, the students' copy, Colab, slides."""
    up, lesson = "../" * (len(name.parts) - 1), len(name.parts) == 1
    links = [f"{{download}}`notebook <{up}downloads/{name.as_posix()}>`"]
    if lesson:
        links.append(f"{{download}}`without solutions <downloads/students/{name.name}>`")
    colab = clone().replace("https://github.com", "https://colab.research.google.com/github")
    links.append(f"[open in Colab]({colab}/blob/main/nbs/{name.as_posix()})")
    if lesson:
        links.append(f'<a href="slides/{name.stem}.html">slides</a>')
    return "**Take it along:** " + " · ".join(links)


def reference(target: Path) -> None:
    """A page for each module, and one for the public face.

    Raises: ValueError for a package that no list of the reference would show
    """
    made: dict[str, list[str]] = {}
    for path in sorted((ROOT / "manifold_xai").rglob("*.py")):
        text = path.read_text(encoding="utf8")
        notebook = re.search(r"File to edit: (?:\.\./)+nbs/(.+\.ipynb)", text)
        if not notebook:
            continue
        name = ".".join(path.relative_to(ROOT / "manifold_xai").with_suffix("").parts)
        write(target / "api" / f"{name}.md", module_page(name, text, notebook[1]))
        made.setdefault(name.rpartition(".")[0], []).append(name)
    if unlisted := made.keys() - PACKAGES.keys():
        raise ValueError(f"PACKAGES has no title for {', '.join(sorted(unlisted))}: add one.")
    trees = [tree(title, sorted(made[name])) for name, title in PACKAGES.items()]
    write(target / "api" / "index.md", "\n\n".join([face(), *trees]))


def module_page(name: str, text: str, notebook: str) -> str:
    """The reference of one module, with a link to the notebook that it comes from."""
    kind = "Library" if notebook.startswith("library") else "Lesson"
    return f"""# {name}

{kind}: [{notebook}](../{notebook})

```{{eval-rst}}
.. automodule:: manifold_xai.{name}
   :members:
   :show-inheritance:
```
"""


def tree(title: str, names: list[str]) -> str:
    rows = "\n".join(names)
    return f"## {title}\n\n```{{toctree}}\n:maxdepth: 1\n\n{rows}\n```"


def face() -> str:
    """What `import manifold_xai` offers, a line each."""
    rows = ["# Reference\n", "What `import manifold_xai` offers, and below it every module.\n"]
    rows += ["| name | what it is |", "| --- | --- |"]
    for name in sorted(manifold_xai.__all__, key=str.lower):
        home = "score" if name == "score" else manifold_xai._HOME[name]
        first = summary(ROOT / "manifold_xai" / f"{home.replace('.', '/')}.py", name)
        link = f"{{py:obj}}`{name} <manifold_xai.{home}.{name}>`"
        rows.append(f"| {link} | {first} |")
    return "\n".join(rows)


def summary(path: Path, name: str) -> str:
    """The first line of a definition's docstring."""
    for node in ast.parse(path.read_text(encoding="utf8")).body:
        if getattr(node, "name", "") == name:
            said = ast.get_docstring(node) or ""
            return said.partition("\n")[0].replace("|", "∣")
    return ""


def library(target: Path) -> None:
    """The list of the library's notebooks."""
    names = sorted(p.relative_to(target / "library") for p in (target / "library").rglob("*.ipynb"))
    rows = "\n".join(name.with_suffix("").as_posix() for name in names)
    text = "# Library\n\nWhat lessons import and nobody needs to read first.\n\n"
    write(target / "library" / "index.md", f"{text}```{{toctree}}\n:maxdepth: 1\n\n{rows}\n```\n")


def index(target: Path, docs: list[str]) -> None:
    """Add to the front page what the side bar lists."""
    lessons = [listed(path) for path in sorted(target.glob("[0-9][0-9]_*.ipynb"))]
    names = {
        "Lessons": lessons,
        "Evidence": sorted(f"evidence/{p.stem}" for p in (target / "evidence").glob("*.ipynb")),
        "Look up": ["notation", "ledger", "api/index", "library/index", *docs],
    }
    trees = [
        f"```{{toctree}}\n:hidden:\n:caption: {title}\n\n" + "\n".join(rows) + "\n```"
        for title, rows in names.items()
    ]
    path = target / "index.ipynb"
    nb = nbformat.read(path, as_version=4)
    nb.cells.append(new_markdown_cell("\n\n".join(trees)))
    save(path, nb)


def listed(lesson: Path) -> str:
    """A lesson in the side bar, with its number."""
    title = nbformat.read(lesson, as_version=4).cells[0].source.splitlines()[0].lstrip("# ")
    return f"{lesson.stem[:2]} {title} <{lesson.stem}>"


if __name__ == "__main__":
    stage(Path(sys.argv[1]).absolute())
