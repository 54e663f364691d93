"""Every relative link in notebooks, ledger and pages leads to a file that exists,
and to a heading in it."""

import json
import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from helpers import ROOT

PAGES = sorted(
    [
        *(p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts),
        *ROOT.glob("*.md"),
        *(ROOT / "benchmarks").glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
    ]
)
LINK = re.compile(r"\]\((?!\w+:|#?\))([^)\s]+)\)")


def prose(path: Path) -> str:
    """A page's Markdown, without code."""
    text = path.read_text(encoding="utf8")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.S)


def anchors(path: Path) -> set[str]:
    """The headings of a page as Jupyter (case kept) or, for Markdown files, GitHub names them."""
    source = path.read_text(encoding="utf8")
    if path.suffix == ".ipynb":
        cells = json.loads(source)["cells"]
        source = "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
        headings = re.findall(r"^#+ (.+?)\s*$", source, re.M)
        return {heading.replace(" ", "-") for heading in headings}
    headings = re.findall(r"^#+ (.+?)\s*$", source, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    wrong = []
    for link in LINK.findall(prose(page)):
        file, _, anchor = unquote(link).partition("#")
        target = (page.parent / file).resolve() if file else page
        if not target.exists():
            wrong.append(f"{link}: no such file")
        elif anchor and target.suffix in (".ipynb", ".md") and anchor not in anchors(target):
            wrong.append(f"{link}: no such heading")
    assert not wrong, "\n".join(wrong)


def test_the_test_of_links_sees(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A heading, *here*\n[a](page.md#a-heading-here) [b](gone.md) [c](#nothing)")
    with pytest.raises(
        AssertionError, match="(?s)gone.md: no such file.+#nothing: no such heading"
    ):
        test_links_lead_somewhere(page)
