"""An option of the wrong kind is refused by name, by every method and every path."""

import inspect

import pytest
import torch
from helpers import rand
from hypothesis import given
from hypothesis import strategies as st

import manifold_xai
from manifold_xai import adapt
from manifold_xai.attribution import captum, methods
from manifold_xai.attribution.base import PathMethod
from manifold_xai.options import _plain, check_options, default, fits, typed

SAME = adapt(lambda x: x, lambda z: z)
FACES = {
    name: getattr(manifold_xai, name)
    for name in manifold_xai.__all__
    if isinstance(getattr(manifold_xai, name), type)
    and issubclass(getattr(manifold_xai, name), (PathMethod, captum.Neighbour))
    and getattr(manifold_xai, name) is not PathMethod
}
NEEDED = dict(autoencoder=SAME, references=torch.zeros(2, 4))
ODD = [0.5, 3, "many", None, True, b"x", [1], (1, 2), {}, object(), print, 1j, float("nan")]


def f(x):
    return x.sum(1)


def made(face, **options):
    names = inspect.signature(face.__init__).parameters
    needed = {name: v for name, v in NEEDED.items() if name in names}
    return face(**dict(forward_func=f) | needed | options)


def options_of(face):
    """Every plain option of a method's constructor, its bases' included, with its kinds."""
    found = {}
    for owner in reversed(face.__mro__):
        if "__init__" in vars(owner) and owner.__module__.startswith("manifold_xai"):
            found |= _plain(owner.__init__)
    return found


CASES = [(name, option) for name, face in FACES.items() for option in options_of(face)]


def test_the_faces_are_all_there():
    assert len(FACES) >= 15 and len(CASES) >= 100
    assert FACES.keys() >= {"IntegratedGradients", "ManifoldIG", "SmoothGrad", "AGI"}


@pytest.mark.parametrize("name, option", CASES)
def test_an_option_of_another_kind_is_refused_by_name(name, option):
    kinds = options_of(FACES[name])[option]
    for odd in ODD:
        if any(fits(odd, kind) for kind in kinds):
            continue
        with pytest.raises(ValueError, match=rf"^{option} must be .*, got"):
            made(FACES[name], **{option: odd})


@given(data=st.data(), name=st.sampled_from(sorted(FACES)))
def test_what_a_call_asks_is_looked_at_too(data, name):
    method = made(FACES[name], check=False, span=False)
    kinds = _plain(inspect.unwrap(type(method).attribute))
    option = data.draw(st.sampled_from(sorted(kinds)))
    odd = data.draw(st.sampled_from(ODD))
    if any(fits(odd, kind) for kind in kinds[option]):
        return
    with pytest.raises(ValueError, match=rf"{option} must be .*, got"):
        method.attribute(rand(2, 4).float(), **{option: odd})


PATHS = {
    "straight_path": ["steps"],
    "blur_path": ["steps", "sigma", "edge"],
    "guided_path": ["steps", "fraction", "max_dist", "schedule", "batch"],
    "settled_path": ["steps", "window", "batch", "order_steps"],
    "iterative_path": ["steps", "step", "clip", "batch"],
    "adversarial_path": ["steps", "step", "step_from", "clip"],
    "enhanced_path": ["steps", "anchor", "jump", "check"],
    "manifold_path": ["steps", "segments", "polish"],
    "manifold_guided_path": ["fraction", "slerp"],
    "manifold_settled_path": ["window", "jump"],
    "least_resistance_path": ["stretch", "solver", "iterations"],
    "path_attribution": ["rule", "refine", "integrand", "finite"],
    "adaptive_attribution": ["tol", "max_steps"],
}


@pytest.mark.parametrize("name, option", [(n, o) for n, os in PATHS.items() for o in os])
def test_a_path_refuses_it_too(name, option):
    with pytest.raises(ValueError, match=rf"^{option} must be .*, got <object"):
        getattr(manifold_xai, name)(**{option: object()})


@typed
def taking(n: int, share: float = 0.5, on: bool = False, name: str | None = None):
    return n, share, on, name


def test_numbers_of_other_libraries_are_numbers():
    import numpy as np

    assert taking(np.int64(3), np.float32(0.5), np.bool_(True)) == (3, 0.5, True, None)
    assert taking(torch.tensor(3), torch.tensor(0.5))[:2] == (3, 0.5)
    assert taking(2, 1) == (2, 1, False, None)
    for bad in (dict(n=True), dict(n=2.0), dict(n=1, on=1), dict(n=1, share=float("nan"))):
        with pytest.raises(ValueError, match="must be"):
            taking(**bad)
    with pytest.raises(ValueError, match="name must be a word or None, got 3"):
        check_options(taking, dict(name=3))


def test_what_help_shows_is_the_signature():
    names = list(inspect.signature(methods.GuidedIG).parameters)
    assert names[:3] == ["forward_func", "fraction", "max_dist"]


PATHS = {
    "IntegratedGradients": "straight_path",
    "BlurIG": "blur_path",
    "GuidedIG": "guided_path",
    "SettledIG": "settled_path",
    "EnhancedIG": "enhanced_path",
    "ManifoldIG": "manifold_path",
    "ManifoldAlignedGuidedIG": "manifold_guided_path",
    "ManifoldSettledIG": "manifold_settled_path",
    "IG2": "iterative_path",
    "AGI": "adversarial_path",
}


@pytest.mark.parametrize(
    "name", sorted(name for name, face in FACES.items() if issubclass(face, PathMethod))
)
def test_a_methods_defaults_are_its_paths(name):
    face = FACES[name]
    path = getattr(methods, PATHS[name])
    theirs, ours = (inspect.signature(of).parameters for of in (path, face.__init__))
    shared = {*ours} & {k for k, p in theirs.items() if p.default is not p.empty} - {"batch"}
    assert {k: ours[k].default for k in shared} == {k: theirs[k].default for k in shared}
    assert face.n_steps == default(path, "steps")


def test_no_default_is_made_up():
    with pytest.raises(KeyError):
        default(methods.guided_path, "fractoin")
    with pytest.raises(ValueError, match="no default for x0"):
        default(methods.guided_path, "x0")
