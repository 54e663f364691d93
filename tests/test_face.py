"""The public face: typed for mypy and editors, and every name with an example that runs."""

import ast
import doctest
import inspect
import io
import re

import pytest
from helpers import ROOT, documented

import manifold_xai


def examples(name: str) -> list[doctest.DocTest]:
    """The examples in the docstring of a public name."""
    thing = getattr(manifold_xai, name)
    finder = doctest.DocTestFinder(recurse=False)
    return [test for test in finder.find(thing, name, globs={}) if test.examples]


def complaints(name: str) -> str:
    """Differences between a name's examples and what they print."""
    said = io.StringIO()
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    for test in examples(name):
        test.globs = {}
        runner.run(test, out=said.write)
    return said.getvalue()


@pytest.mark.parametrize("name", sorted(manifold_xai.__all__))
def test_examples_run_and_import_what_they_use(name):
    assert examples(name), f"{name} has no example"
    assert not (said := complaints(name)), said


def test_what_editors_see_is_what_there_is():
    """The stub names the face's names, from their modules, each under its own name."""
    stub = ast.parse((ROOT / "manifold_xai" / "__init__.pyi").read_text(encoding="utf8"))
    seen = {"score": "score"}
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    for node in imports:
        assert node.level == 1 and all(alias.asname == alias.name for alias in node.names)
        seen |= {alias.name: node.module for alias in node.names}
    assert seen == manifold_xai._HOME | {"score": "score"}


def undocumented(name: str) -> list[str]:
    """Arguments of a public name that its docstring leaves out under `Parameters:`;
    of a tuple with names, the fields without a comment."""
    thing = getattr(manifold_xai, name)
    known = documented(inspect.getdoc(thing))
    if hasattr(thing, "_fields"):  # a comment on its line, or on the line before
        field = r"^    (?:# \S.*\n    (\w+):.*|(\w+):.*  # \S.*)$"
        found = re.findall(field, inspect.getsource(thing), re.M)
        known |= {name for names in found for name in names}
    asked = inspect.signature(thing).parameters.values()
    return [p.name for p in asked if p.name not in known and p.kind != p.VAR_KEYWORD]


@pytest.mark.parametrize("name", sorted(manifold_xai.__all__))
def test_every_argument_is_documented(name):
    assert not (missing := undocumented(name)), f"{name}: {', '.join(missing)}"
