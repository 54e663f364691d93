"""What the website is built from: sources that Sphinx reads, without building any page."""

import json
import re
import sys
from base64 import b64encode
from io import BytesIO

import nbformat
import pytest
from helpers import ROOT
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image

from manifold_xai.course.notebooks import chapters

sys.path.insert(0, str(ROOT / "website"))

import alive
import docstrings
import ledger_page
import slides
import stage

LESSONS = chapters(ROOT, "lessons")


@pytest.fixture
def tour():
    return nbformat.read(LESSONS[0], as_version=4)


def test_pages_show_no_directive_and_fold_what_gives_an_answer_away(tour):
    tour.cells[2].source = "#| export\n" + tour.cells[2].source
    page = stage.page(tour, LESSONS[0].relative_to(ROOT / "nbs"))
    assert not any(re.search(r"^#\|", c.source, re.M) for c in page.cells)
    for tag, folds in stage.FOLDED.items():
        tagged = [c for c in page.cells if tag in c.metadata.get("tags", [])]
        assert tagged and all(folds in c.metadata.tags for c in tagged)


def test_a_page_offers_notebook_students_copy_colab_and_slides(tour):
    offered = stage.page(tour, LESSONS[0].relative_to(ROOT / "nbs")).cells[1].source
    for link in ("downloads/00_tour", "students/00_tour", "colab.research", "slides/00_tour.html"):
        assert link in offered
    evidence = stage.take_along((ROOT / "nbs/evidence/20_metric.ipynb").relative_to(ROOT / "nbs"))
    assert "../downloads/evidence/20_metric.ipynb" in evidence and "slides" not in evidence


def test_anchors_are_those_of_the_notebooks():
    assert stage.anchor("MIG-01: the sum along a path ") == "MIG-01:-the-sum-along-a-path"


def test_links_lead_to_pages_or_to_the_clone():
    text = "[a](../LEDGER.md) [b](nbs/00_tour.ipynb) [c](../10_data.ipynb) [d](../tests/typed.py)"
    linked = re.findall(r"\((.+?)\)", stage.local_links(text))
    assert linked[:3] == ["ledger.md", "00_tour.ipynb", "../10_data.ipynb"]
    assert linked[3] == f"{stage.clone()}/blob/main/tests/typed.py"
    below = "[a](../../LEDGER.md) [b](../../nbs/evidence/20_metric.ipynb#x) [c](expectations.md)"
    linked = re.findall(r"\((.+?)\)", stage.local_links(below, 1))
    assert linked == ["../ledger.md", "../evidence/20_metric.ipynb#x", "expectations.md"]
    drawn = stage.local_links("![f](../../nbs/images/ledger-mig.svg)", 1)
    assert drawn == "![f](../images/ledger-mig.svg)"
    table = stage.local_links("[d](nbs/results/conditions.csv) [e](docs/ledger/mig.md)")
    assert f"]({stage.clone()}/blob/main/nbs/results/conditions.csv)" in table
    assert "](ledger/mig.md)" in table


@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)
def test_every_lesson_has_slides_that_fit_and_give_nothing_away(path):
    nb = slides.with_slides(nbformat.read(path, as_version=4))
    kinds = [c.metadata["slideshow"]["slide_type"] for c in nb.cells]
    assert kinds.count("slide") >= 5 and nb.cells[0].source.startswith("# ")
    used = 0
    for cell, kind in zip(nb.cells, kinds):
        if kind == "skip":
            continue
        assert not {"check", "solution"} & {*cell.metadata.get("tags", [])}
        begins = kind in ("slide", "subslide")
        used = slides.lines(cell) + (0 if begins else used)
        assert begins or used <= slides.LINES
    asked = nbformat.read(path, as_version=4)
    asked.cells[1].metadata["slideshow"] = {"slide_type": "notes"}
    assert slides.with_slides(asked).cells[1].metadata["slideshow"]["slide_type"] == "notes"


def test_a_slide_shows_no_empty_cell():
    nb = new_notebook(cells=[new_code_cell("#| default_exp paths.order"), new_code_cell("1 + 1")])
    kinds = [c.metadata["slideshow"]["slide_type"] for c in slides.with_slides(nb).cells]
    assert kinds == ["skip", "-"]


@pytest.mark.parametrize("natural, size, wide", [(600, 9, 600), (1000, 9, 801), (351, 7, 362)])
def test_a_figure_is_as_wide_as_its_labels_ask(natural, size, wide):
    """A figure's own width, at most a page's; wider where labels would have under ten pixels."""
    file = BytesIO()
    Image.new("L", (natural, 300)).save(file, "PNG", dpi=(100, 100))
    cell = new_code_cell(f"ax.legend(fontsize={size})")
    cell.outputs = [new_output("display_data", {"image/png": b64encode(file.getvalue()).decode()})]
    assert stage.width(cell) == wide
    assert size / 72 * 100 * wide / natural >= stage.LABEL


def test_the_ledgers_page_has_every_claim_a_drawing_and_filters():
    page = ledger_page.ledger_page(ROOT)
    named = json.loads((ROOT / "nbs/results/ledger.json").read_text())
    assert [name for name in named if f"({name})=\n" not in page] == []
    assert "Stories: [MIG (Zaher et al. 2024)](docs/ledger/mig.md) · " in page
    assert page.count("<svg") > 60 and 'data-choices="{&quot;paper' in page


WORDS = """# Ledger

| claim | says | measured | outcome | controls |
| --- | --- | --- | --- | --- |
| [A-01](nbs/e.ipynb#B) | It \\| holds. | one 0.5 [0.4, 0.6] (n = 3); two -1e-3 (n = 1) \
| **upheld**: above 0 | survives |
| [B-02](nbs/evidence/x.ipynb#C) | No. | | **undecided** | none |
"""  # noqa: E501

CONDITIONS = """claim,condition,role,value,low,high
A-01,one,headline,0.5,0.4,0.6
A-01,two,headline,-0.1,-0.2,0
A-01,three,control,7,6,8
"""


def test_the_ledgers_page_takes_other_columns_and_words(tmp_path):
    (tmp_path / "LEDGER.md").write_text(WORDS)
    (tmp_path / "nbs" / "results").mkdir(parents=True)
    (tmp_path / "nbs" / "results" / "conditions.csv").write_text(CONDITIONS)
    page = ledger_page.ledger_page(tmp_path)
    choices = json.loads(re.search(r'data-choices="(.+?)"', page)[1].replace("&quot;", '"'))
    assert choices == {
        "paper": ["A", "B"],
        "says": ["It \\| holds.", "No."],
        "outcome": ["undecided", "upheld"],
        "controls": ["none", "survives"],
    }
    assert "claim is-a" in page and "is-upheld" in page and page.count("<circle") == 2
    (tmp_path / "LEDGER.md").write_text("# Ledger\nnothing yet")
    with pytest.raises(ValueError, match="no table"):
        ledger_page.ledger_page(tmp_path)


def test_the_reference_lists_every_module(tmp_path):
    stage.reference(tmp_path)
    listed = (tmp_path / "api" / "index.md").read_text().splitlines()
    made = {path.stem for path in (tmp_path / "api").glob("*.md")} - {"index"}
    assert len(made) > 60 and made <= set(listed)
    assert "course.widgets.plane" in made and "benchmark.run" in made


WIDGET = """
import anywidget
class Moving(anywidget.AnyWidget):
    _esm = "export default { render({ model, el }) { el.textContent = 'moves'; } }"
Moving()
"""


def test_a_page_gets_the_state_of_its_widgets_that_move_and_runs_nothing_else():
    def cell(source, *tags):
        return new_code_cell(source, metadata={"tags": list(tags)})

    cells = [cell("x = 1"), cell("1 / 0", "figure"), cell("def f(x): ...", "stub")]
    cells += [cell(f"assert x == 1\n{WIDGET}", "alive", "figure"), cell("1 / 0")]
    page = alive.alive(new_notebook(cells=cells), ROOT)
    assert [len(c.outputs) for c in page.cells] == [0, 0, 0, 1, 0]
    shown = page.cells[3].outputs[0].data[alive.VIEW]["model_id"]
    assert "moves" in page.metadata.widgets[alive.STATE]["state"][shown]["state"]["_esm"]
    with pytest.raises(ValueError, match="shows no widget"):
        alive.alive(new_notebook(cells=[cell("x = 1", "alive")]), ROOT)
    still = new_notebook(cells=[cell("1 / 0")])
    assert "widgets" not in alive.alive(still, ROOT).metadata  # not run


def test_intervals_are_drawn_where_their_numbers_lie():
    near = ledger_page.scale([0.0, 1.0])
    assert (near(0), near(0.5), near(1)) == (300, 460, 620)
    far = ledger_page.scale([1e-6, 1.0])
    assert far(1e-3) == pytest.approx(460)


def test_docstrings_become_fields():
    text = """Metric `J` of |f|.

Parameters:
    z: latents, (b, d),
        or none
    x0, x: ends
Returns: `G`s, (b, d, d)
Raises: ValueError if z is flat
Source: Shao 2018

>>> 1 * 2
2"""
    lines = docstrings.converted(text.splitlines())
    page = "\n".join(lines)
    assert r"Metric ``J`` of \|f\|." in page
    assert "    ``z``\n        latents, (b, d), or none" in page
    assert "    ``x0, x``\n        ends" in page
    assert r":Returns: ``G``\ s, (b, d, d)" in page and ":Source: Shao 2018" in page
    assert ">>> 1 * 2\n2" in page
