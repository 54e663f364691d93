"""The record of a path, compared with the integrator, which keeps none."""

import pytest
import torch
from test_plain import PATHS, ends, mixed  # noqa: F401

from manifold_xai import digit_vae, every_path, path_attribution, score, straight_path, trace
from manifold_xai.attribution.plain import gradient
from manifold_xai.paths.path import Step

NAMES = ["IG", "BlurIG", "GIG", "Settled IG", "EIG", "MIG", "MA-GIG", "Settled MA-GIG"]


@pytest.mark.parametrize("name", PATHS)
def test_each_running_map_is_the_integral_so_far(name, ends):  # noqa: F811
    gamma = PATHS[name](*ends, steps=9)
    seen = trace(mixed, gamma, batch=5)
    assert torch.equal(seen.frames, gamma)
    for i in (1, 4, 9):
        cut = path_attribution(mixed, gamma[: i + 1])
        torch.testing.assert_close(seen.maps[i], cut.A, rtol=0, atol=1e-13)  # rounding
        torch.testing.assert_close(seen.gaps[i], cut.gap, rtol=0, atol=1e-13)
    assert not seen.maps[0].any() and not seen.gaps[0].any()
    torch.testing.assert_close(seen.scores[3], mixed(gamma[3]))
    torch.testing.assert_close(seen.grads[3], gradient(mixed, gamma[3]))


@pytest.fixture(scope="module")
def walks(smooth, held_out):
    """A score of two digits' own classes, the digits, and the paths to them."""
    x = held_out.x[:2]
    f = score(smooth).at(x)
    return f, x, every_path(f, digit_vae("silu"), fraction=0.2)


@pytest.mark.parametrize("name", NAMES)
def test_at_the_end_it_is_path_attribution(name, walks):
    f, x, paths = walks
    assert list(paths) == NAMES
    steps = 8
    gamma = paths[name](torch.zeros_like(x), x, steps)
    seen, whole = trace(f, gamma), path_attribution(f, gamma)
    assert len(seen.frames) == len(gamma)
    torch.testing.assert_close(seen.maps[-1], whole.A, rtol=0, atol=1e-6)  # float32, sums reordered
    torch.testing.assert_close(seen.gaps[-1], whole.gap, rtol=0, atol=1e-5)


def test_fraction_reaches_the_guided_paths_and_no_others(walks):
    paths = walks[2]
    assert {n for n in NAMES if "fraction" in getattr(paths[n], "keywords", {})} == {
        "GIG",
        "MA-GIG",
    }
    own = every_path(walks[0])
    assert list(own) == NAMES[:4] and "fraction" not in own["GIG"].keywords


def test_gradients_that_a_path_brings_are_not_asked_again(ends):  # noqa: F811
    asked = []

    def f(x):
        asked.append(len(x))
        return mixed(x)

    points = PATHS["bent"](*ends, steps=3)
    told = [Step(p, torch.full_like(p, 7.0), mixed(p)) for p in points]
    seen = trace(f, iter(told))
    assert (seen.grads == 7).all() and sum(asked) <= 2 * len(points[0])  # but for a look at f
    asked.clear()
    told[1] = Step(points[1])
    assert (trace(f, told).grads[1] != 7).all()


def test_a_score_settles_on_the_class_at_the_input(smooth, held_out):
    x = held_out.x[:3]
    gamma = straight_path(torch.zeros_like(x), x, 4)
    free, told = score(smooth), score(smooth).at(x)
    assert torch.equal(trace(free, gamma).scores, trace(told, gamma).scores)
    assert torch.equal(trace(free, gamma.stack()).scores, trace(told, gamma).scores)


def test_it_says_what_it_cannot_follow():
    x = torch.ones(1, 2)
    with pytest.raises(ValueError, match="at least two points"):
        trace(lambda x: x.sum(1), x[None])
    with pytest.raises(ValueError, match="several at once"):
        trace(lambda a, b: a.sum(1) + b.sum(1), straight_path((0 * x, 0 * x), (x, x), 3))
