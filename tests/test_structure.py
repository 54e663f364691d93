"""A key depends on what computes a number, and on nothing else."""

import ast
import inspect
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from helpers import ROOT

from manifold_xai.course.notebooks import chapters
from manifold_xai.course.provenance import key, rests_on
from manifold_xai.course.structure import ASIDE, Reader, _library, _sources, reached

STORE = '''"""Where things lie."""
from manifold_xai.files import place

LIMIT = 3


def load(name, most=LIMIT):
    """Weights of `name`."""
    if not name:
        raise ValueError(f"`name` must not be empty, got {name!r}.")
    return place(name)[:most]
'''
MATHS = '''
from __future__ import annotations

from typing import NamedTuple

import numpy as np

from manifold_xai import store


class Point(NamedTuple):
    """A point."""

    x: float
    y: float = 0.0


def mean(values: list) -> float:
    return np.mean(values) + 1


def _half(values):
    return mean(values) / 2


def unused(values):
    return 7


def load_two(name):
    from manifold_xai.store import load

    return Point(*load(name))


SOLVERS = dict(whole=mean, half=_half)


class Surface:
    def area(self):
        return self.side() ** 2


def _side(self):
    return 4


Surface.side = _side
'''
OTHER = """
from .maths import SOLVERS, Surface


def solve(values, how="half"):
    return SOLVERS[how](values) + Surface().area()
"""
FACE = '_FACE = {"other": ("solve",)}\n'
PAGES = {  # cells: tags and source
    "20_mean": [
        ([], "from manifold_xai.maths import mean\nx = mean([1, 2])"),
        (["figure"], "print(x)"),
        (["solution"], "x = 4"),
    ],
    "30_solve": [([], "from manifold_xai import solve\nsolve([3])")],
    "evidence/40_load": [
        ([], "from manifold_xai import maths\nfrom manifold_xai.plot import show"),
        ([], "show(maths.load_two('a'))"),
    ],
}


@pytest.fixture
def clone(tmp_path):
    """A small clone: a package of a few modules, and three pages that reach parts of it."""
    package = tmp_path / "manifold_xai"
    package.mkdir()
    texts = dict(
        __init__=FACE,
        files="def place(name):\n    return name\n",
        plot="def show(x):\n    print(x)\n",
        store=STORE,
        maths=MATHS,
        other=OTHER,
    )
    for name, text in texts.items():
        (package / f"{name}.py").write_text(text)
    for name, cells in PAGES.items():
        write_page(tmp_path, name, cells)
    return tmp_path


def write_page(clone, name, cells):
    path = clone / "nbs" / f"{name}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps(
            {
                "cells": [
                    dict(cell_type="code", metadata={"tags": tags}, source=source, outputs=[])
                    for tags, source in cells
                ]
            }
        )
    )


def keys(clone):
    return {name: key(clone / "nbs" / f"{name}.ipynb", clone)["code"] for name in PAGES}


def replace(file, old, new):
    "Everywhere in the file."
    text = file.read_text(encoding="utf8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf8")


def changed(clone, file, old, new):
    """Pages whose key changes with an edit of one file."""
    before = keys(clone)
    replace(clone / file, old, new)
    after = keys(clone)
    return {name for name in PAGES if before[name] != after[name]}


NOTHING = [  # file, from, to: computes the same
    (
        "manifold_xai/maths.py",
        "    return np.mean(values) + 1\n",
        "    # the mean, and one\n\n    return (\n        np.mean(values)\n        + 1\n    )\n",
    ),
    ("manifold_xai/maths.py", '"""A point."""', '"""A point, (x, y).\n\n    >>> Point(1)\n    """'),
    ("manifold_xai/store.py", '"""Where things lie."""\n', ""),
    (
        "manifold_xai/store.py",
        '"`name` must not be empty, got {name!r}."',
        '"Say a name, not {name}: {LIMIT}"',
    ),
    ("manifold_xai/maths.py", "values: list) -> float:", "values: tuple[float, ...]):"),
    ("manifold_xai/maths.py", "    x: float\n", "    x: int\n"),
    ("manifold_xai/maths.py", "import numpy as np\n", "import numpy\nimport numpy as np\n"),
    (
        "manifold_xai/maths.py",
        "import numpy as np\n\nfrom manifold_xai import store",
        "from . import store\nimport numpy as np",
    ),
    ("manifold_xai/maths.py", "    return 7\n", "    return 8\n"),  # nobody reaches it
    ("manifold_xai/plot.py", "print(x)", "print(x, x)"),  # figures make no number
    ("manifold_xai/other.py", 'how="half"):', 'how: str = "half") -> float:'),
    ("manifold_xai/__init__.py", "_FACE", "__version__ = '2'\n_FACE"),
    ("manifold_xai/maths.py", "_half", "_one_half"),  # another name for the same
    ("manifold_xai/maths.py", "class Point(", "Point_ = None\n\n\nclass Point("),
]


@pytest.mark.parametrize("file, old, new", NOTHING)
def test_what_computes_nothing_changes_no_key(clone, file, old, new):
    assert changed(clone, file, old, new) == set()


SOMETHING = [  # file, from, to, pages whose numbers may change
    ("manifold_xai/maths.py", "+ 1", "+ 2", {"20_mean", "30_solve"}),
    ("manifold_xai/maths.py", "+ 1", "- 1", {"20_mean", "30_solve"}),
    ("manifold_xai/maths.py", "np.mean", "np.median", {"20_mean", "30_solve"}),
    ("manifold_xai/maths.py", "import numpy as np", "import scipy as np", {"20_mean", "30_solve"}),
    ("manifold_xai/maths.py", "/ 2", "/ 3", {"30_solve"}),  # only through the registry
    ("manifold_xai/maths.py", "half=_half", "half=mean", {"30_solve"}),
    # only through a method that is pasted on
    ("manifold_xai/maths.py", "return 4", "return 5", {"30_solve"}),
    ("manifold_xai/other.py", 'how="half"', 'how="whole"', {"30_solve"}),
    ("manifold_xai/store.py", "LIMIT = 3", "LIMIT = 4", {"evidence/40_load"}),
    ("manifold_xai/store.py", "if not name", "if name is None", {"evidence/40_load"}),
    ("manifold_xai/maths.py", "    x: float\n", "    u: float\n", {"evidence/40_load"}),
    ("manifold_xai/maths.py", "y: float = 0.0", "y: float = 1.0", {"evidence/40_load"}),
    ("nbs/20_mean.ipynb", "[1, 2]", "[1, 3]", {"20_mean"}),
    ("nbs/20_mean.ipynb", "print(x)", "print(2)", set()),  # a figure
    ("nbs/20_mean.ipynb", "x = 4", "x = 5", set()),  # a solution
]


@pytest.mark.parametrize("file, old, new, pages", SOMETHING)
def test_what_computes_changes_the_keys_of_the_pages_that_reach_it(clone, file, old, new, pages):
    assert changed(clone, file, old, new) == pages


def test_a_type_that_is_only_said_changes_no_key(clone):
    """`cast` returns its second argument; any other function of this name counts."""
    file = clone / "manifold_xai" / "maths.py"
    before = keys(clone)
    replace(file, "import numpy as np\n", "from typing import cast\n\nimport numpy as np\n")
    replace(file, "np.mean(values)", "cast(float, np.mean(values))")
    assert keys(clone) == before
    replace(file, "from typing import cast", "from math import copysign as cast")
    assert {name for name in PAGES if keys(clone)[name] != before[name]} == {"20_mean", "30_solve"}


def test_moving_a_definition_changes_no_key_with_or_without_a_shim(clone):
    before, package = keys(clone), clone / "manifold_xai"
    text = package.joinpath("maths.py").read_text()
    at = text.index("SOLVERS =")
    (package / "deep").mkdir()
    (package / "deep" / "__init__.py").write_text("")
    (package / "deep" / "sums.py").write_text(
        "import numpy\n\n\ndef mean(values):\n    return numpy.mean(values) + 1\n"
    )
    start, end = text.index("def mean"), text.index("def _half")
    (package / "maths.py").write_text(
        text[:start] + "from .deep.sums import mean\n\n\n" + text[end:at] + text[at:]
    )
    assert keys(clone) == before
    replace(clone / "nbs" / "20_mean.ipynb", "manifold_xai.maths", "manifold_xai.deep.sums")
    assert keys(clone) == before
    (package / "maths.py").rename(package / "geometry.py")
    (package / "maths.py").write_text(
        "from .geometry import *\nfrom .geometry import Surface as Area\n"
    )
    assert keys(clone) == before
    for file in ("manifold_xai/other.py", "nbs/evidence/40_load.ipynb"):
        replace(clone / file, "maths", "geometry")
    (package / "maths.py").unlink()
    assert keys(clone) == before


IMPORTS = [
    "from manifold_xai.maths import mean\nx = mean([1, 2])",
    "import manifold_xai.maths\nx = manifold_xai.maths.mean([1, 2])",
    "import manifold_xai.maths as m\nx = m.mean([1, 2])",
    "from manifold_xai import maths\nx = maths.mean([1, 2])",
    "from manifold_xai.maths import mean as average\nx = average([1, 2])",
    "from manifold_xai.maths import *\nx = mean([1, 2])",
]


@pytest.mark.parametrize("source", IMPORTS)
def test_the_kind_of_import_does_not_count(clone, source):
    before = keys(clone)
    write_page(clone, "20_mean", [([], source)])
    assert keys(clone) == before


def test_a_cell_that_is_exported_counts_as_the_library_does(clone):
    """Its order is free, what nobody calls costs nothing, and moving it into a library notebook
    costs nothing."""
    body = "def mean(values):\n    return np.mean(values) + SHIFT"
    write_page(
        clone,
        "20_mean",
        [
            ([], "#| export\nimport numpy as np\nSHIFT = 1"),
            ([], f"#| export\n{body}\ndef unused(): return 1"),
            ([], "x = mean([1, 2])"),
        ],
    )
    before = keys(clone)["20_mean"]
    write_page(
        clone,
        "20_mean",
        [
            ([], f"#| export\n{body}"),
            ([], "x = mean([1, 2])"),
            ([], "#| export\nimport numpy as np\nSHIFT = 1"),
        ],
    )
    assert keys(clone)["20_mean"] == before
    (clone / "manifold_xai" / "sums.py").write_text(f"import numpy as np\nSHIFT = 1\n{body}\n")
    write_page(clone, "20_mean", [([], "from manifold_xai.sums import mean\nx = mean([1, 2])")])
    assert keys(clone)["20_mean"] == before
    write_page(clone, "20_mean", [([], "x = 1"), ([], "x = 2")])
    one = keys(clone)["20_mean"]
    # the order of its own cells counts
    write_page(clone, "20_mean", [([], "x = 2"), ([], "x = 1")])
    assert keys(clone)["20_mean"] != one


def test_renaming_what_pages_call_changes_no_key(clone):
    before = keys(clone)
    for file in ("manifold_xai/maths.py", "nbs/evidence/40_load.ipynb"):
        replace(clone / file, "load_two", "load_both")
    for file in ("manifold_xai/maths.py", "manifold_xai/other.py"):
        replace(clone / file, "SOLVERS", "WAYS")
    assert keys(clone) == before


def test_of_two_definitions_that_read_alike_it_counts_who_calls_which(clone):
    """Both read `return @(x)`; what they call, and who calls them, tells them apart."""
    package = clone / "manifold_xai"
    text = "def {0}(x):\n    return {1}(x)\n\n\n"
    ends = "def one(x):\n    return x + 1\n\n\ndef two(x):\n    return x + 2\n\n\n"
    write_page(clone, "20_mean", [([], "from manifold_xai.chain import a, b\na(b(1) * 3)")])
    package.joinpath("chain.py").write_text(
        ends
        + text.format("c", "one")
        + text.format("d", "two")
        + text.format("a", "c")
        + text.format("b", "d")
    )
    before = keys(clone)["20_mean"]
    package.joinpath("chain.py").write_text(
        ends
        + text.format("c", "two")
        + text.format("d", "one")
        + text.format("a", "d")
        + text.format("b", "c")
    )
    assert keys(clone)["20_mean"] == before  # only the names were exchanged
    package.joinpath("chain.py").write_text(
        ends
        + text.format("c", "one")
        + text.format("d", "two")
        + text.format("a", "d")
        + text.format("b", "c")
    )
    assert keys(clone)["20_mean"] != before


def test_of_two_definitions_with_one_name_it_counts_who_calls_which(clone):
    package = clone / "manifold_xai"
    for name, step in (("left", 1), ("right", 2)):
        (package / f"{name}.py").write_text(
            f"def _step(x):\n    return x + {step}\n\n\ndef {name}(x):\n    return _step(x)\n"
        )
    write_page(
        clone,
        "20_mean",
        [
            (
                [],
                "from manifold_xai.left import left\nfrom manifold_xai.right import right\n"
                "left(right(1))",
            )
        ],
    )
    before = keys(clone)
    # swapped: the same definitions, called by others
    for name, step in (("left", 2), ("right", 1)):
        (package / f"{name}.py").write_text(
            f"def _step(x):\n    return x + {step}\n\n\ndef {name}(x):\n    return _step(x)\n"
        )
    assert {name for name in PAGES if keys(clone)[name] != before[name]} == {"20_mean"}


def test_local_names_hide_ours_and_lines_for_ipython_do_no_harm(clone):
    write_page(
        clone,
        "20_mean",
        [
            ([], "from manifold_xai.maths import mean\ndef f(mean): return mean + 1"),
            ([], "%matplotlib inline\nf(1)"),
            ([], "what?"),
        ],
    )
    names = reached(clone / "nbs" / "20_mean.ipynb", clone).definitions
    assert {"f", "mean"} & {*names} == {"f"}


def test_a_script_reaches_its_neighbours(clone):
    (clone / "benchmarks").mkdir()
    (clone / "benchmarks" / "speed.py").write_text(
        "from common import timed\n\ndef main():\n    timed()\n\nif __name__ == '__main__':\n"
        "    main()\n"
    )
    (clone / "benchmarks" / "common.py").write_text(
        "from manifold_xai.maths import mean\n\ndef timed():\n    return mean([1])\n\n"
        "if __name__ == '__main__':\n    print()\n"
    )
    names = reached(clone / "benchmarks" / "speed.py", clone).definitions
    assert {"main", "timed", "mean"} <= {*names} and "unused" not in names


# The data


def test_weights_and_stored_results_count_where_they_are_named(clone):
    torch, store = pytest.importorskip("torch"), pytest.importorskip("manifold_xai.subjects.store")
    weights, results = clone / "manifold_xai" / "assets" / "weights", clone / "nbs" / "results"
    for name in ("vae-silu", "vae-relu", "digits-relu"):
        store.save_tensors(weights / f"{name}.safetensors", {"w": torch.zeros(3)}, {"note": 1})
    results.mkdir()
    (results / "rows.json").write_text('{"rows": [1, 2], "command": "a", "key": {"code": "b"}}')
    (results / "more_rows.json").write_text("[1]")
    replace(clone / "manifold_xai" / "store.py", "place(name)", 'place(f"vae-{name}")')
    replace(
        clone / "nbs" / "evidence" / "40_load.ipynb", "'a'", "'silu', open('nbs/results/rows.json')"
    )
    page = clone / "nbs" / "evidence" / "40_load.ipynb"
    assert {*rests_on(page, clone).names["data"]} == {"vae-silu.safetensors", "rows.json"}
    before = key(page, clone)
    (results / "rows.json").write_text('{"command": "c", "key": {"code": "d"},\n "rows": [1, 2]}')
    store.save_tensors(weights / "vae-silu.safetensors", {"w": torch.zeros(3)}, {"note": 2})
    store.save_tensors(weights / "vae-relu.safetensors", {"w": torch.ones(3)})
    assert key(page, clone) == before
    (results / "rows.json").write_text('{"rows": [1, 3]}')
    after = key(page, clone)
    assert (after["code"], after["data"] == before["data"]) == (before["code"], False)
    store.save_tensors(weights / "vae-silu.safetensors", {"w": torch.ones(3)})
    assert key(page, clone)["data"] != after["data"]


# The clone itself


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """What keys are computed from, of this clone."""
    clone = tmp_path_factory.mktemp("clone")
    skip = shutil.ignore_patterns("__pycache__", "_out")
    for folder in ("manifold_xai", "nbs", "benchmarks"):
        shutil.copytree(ROOT / folder, clone / folder, ignore=skip)
    return clone


def all_codes(clone):
    return {path.name: reached(path, clone)[:2] for path in chapters(clone)}


def test_a_docstring_in_every_module_and_function_leaves_all_keys_alone(copied):
    before = all_codes(copied)
    for path in copied.rglob("manifold_xai/**/*.py"):
        tree = ast.parse(path.read_text(encoding="utf8"))
        for node in ast.walk(tree):
            if (
                isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef))
                and path.name != "_modidx.py"
            ):
                at = 1 if ast.get_docstring(node) is not None else 0
                node.body = [ast.Expr(ast.Constant("Said otherwise.")), *node.body[at:]]
        path.write_text(ast.unparse(tree), encoding="utf8")  # it also lays everything out anew
    assert "Said otherwise." in (copied / "manifold_xai" / "score.py").read_text(encoding="utf8")
    assert all_codes(copied) == before


def test_every_name_of_ours_is_found():
    """A name that cannot be followed would be taken for somebody else's,
    and what it computes would not count."""
    modules, _ = _library(_sources(ROOT))
    said = [
        Reader(modules, module).text(parts)
        for module, home in modules.items()
        for parts in (*home.definitions.values(), home.loose)
    ]
    lost = {
        name
        for text in said
        for name in re.findall(r"(?<![\w.@'\"/])manifold_xai\.[\w.]+", re.sub(r"'[^']*'", "", text))
    }
    assert lost == set()


PAGE = """
import torch
from manifold_xai import catalogue, diffid, score, tangent_basis
from manifold_xai.geometry import worlds
from manifold_xai.geometry.geodesic import geodesic
from manifold_xai.subjects.autoencoders import digit_vae
from manifold_xai.subjects.classifiers import digit_classifier
from manifold_xai.subjects.data import digits

model, vae, images = digit_classifier(), digit_vae(), digits("test")
x, f = images.x[:2], score(model, images.y[:2])
how = dict(references=images.x[2:6], generator=torch.Generator().manual_seed(0))
for name, method in catalogue(score(model), vae, steps=2, **how).items():
    diffid(f, method(x, images.y[:2]), x, 0.1, levels=3)
tangent_basis(vae.decode, vae.encode(x))
for name in ("sphere", "paraboloid"):
    world = getattr(worlds, name)
    z = worlds.draw(world, 2, torch.Generator().manual_seed(0))
    geodesic(world.decode, z[:1], z[1:], 4, iterations=2)
"""


def test_whatever_a_page_calls_is_reached(tmp_path, capsys):
    """Python itself tells what of the package is called while a page runs."""
    called, package = set(), str(ROOT / "manifold_xai")

    def note(frame, event, _):
        code = frame.f_code
        if (
            event == "call"
            and code.co_filename.startswith(package)
            and code.co_flags & inspect.CO_OPTIMIZED
        ):
            called.add((Path(code.co_filename).stem, code.co_qualname.split(".")[0]))

    sys.setprofile(note)
    try:
        exec(PAGE, {"__name__": "page"})
    finally:
        sys.setprofile(None)
    page = tmp_path / "page.py"
    page.write_text(PAGE)
    names = reached(page, ROOT).definitions
    made = {(m, name) for m, name in called if m not in ASIDE and name[0] not in "<"}
    missed = {name for _, name in made if name not in names} - {
        "__getattr__"
    }  # the lazy face itself
    assert len(made) > 100 and missed == set()


def test_what_only_a_gpu_spends_changes_no_key(clone):
    """Numbers that are kept come from the profiles cpu and evidence."""
    page = clone / "nbs" / "20_mean.ipynb"
    replace(page, "[1, 2]", "[1, run.pick(smoke=1, cpu=2, gpu=3)]")
    bigger = changed(clone, "nbs/20_mean.ipynb", "gpu=3", "gpu=4")
    assert bigger == set() and changed(clone, "nbs/20_mean.ipynb", "cpu=2", "cpu=5") == {"20_mean"}
