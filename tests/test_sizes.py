"""The profile gpu has its own sizes in every chapter in which anything scales."""

import ast
from typing import NamedTuple

import pytest
from helpers import ROOT

from manifold_xai.course.notebooks import chapter_name, chapters, read

NOTHING_SCALES = {
    "00_tour": "one digit and one path of 200 steps, the papers'",
    "10_data": "pictures of single digits, and what the loaders say",
    "52_ledger": "computes verdicts from records",
}
AS_ON_THE_CPU = {  # picks without a size for the gpu
    ("21_geodesics", "the three worlds whose geodesics are known in closed form"),
    ("22_fast_solvers", "every solver's own bound of iterations"),
}
PROFILES = ("smoke", "cpu", "gpu", "evidence")
OWN = {"images", "epochs", "full", "network"}  # fields of Run that the profile gpu enlarges


class Picked(NamedTuple):
    """What a chapter asks of its profile."""

    sizes: list[dict[str, str]]  # by profile
    fields: set[str]


def picked(page) -> Picked:
    """All `run.pick(…)` of a page, and what else it reads of `run`."""
    found = Picked([], set())
    for cell in read(page)["cells"]:
        if cell["cell_type"] == "code" and "run." in cell["source"]:
            for node in ast.walk(ast.parse(cell["source"].replace("%", "#"))):
                if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "run":
                    found.fields.add(node.attr)
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "run.pick":
                    given = [*zip(PROFILES, node.args), *((k.arg, k.value) for k in node.keywords)]
                    found.sizes.append({name: ast.unparse(value) for name, value in given})
    return found


PAGES = {chapter_name(ROOT, page): page for page in chapters(ROOT) if page.stem[:2].isdigit()}


@pytest.mark.parametrize("name", [name for name in PAGES if name not in NOTHING_SCALES])
def test_a_chapter_is_larger_on_a_gpu(name):
    sizes, fields = picked(PAGES[name])
    larger = [s for s in sizes if s.get("gpu", s["cpu"]) != s["cpu"]]
    assert larger or fields & OWN, f"the profile gpu runs {name} with the sizes of cpu"


@pytest.mark.parametrize("name", PAGES)
def test_every_size_says_what_it_is_on_a_gpu(name):
    silent = [s for s in picked(PAGES[name]).sizes if "gpu" not in s]
    assert len(silent) == sum(page == name for page, _ in AS_ON_THE_CPU), silent


@pytest.mark.parametrize("name", NOTHING_SCALES)
def test_what_is_said_not_to_scale_picks_nothing(name):
    sizes, fields = picked(PAGES[name])
    assert not sizes and not fields & OWN
