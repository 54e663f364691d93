"""The bar for every complete method with its defaults: sixteen held-out digits, 200 steps,
probability. benchmarks/tolerance.py measures the same on more digits."""

import pytest
import torch

from manifold_xai.attribution.integral import path_attribution
from manifold_xai.attribution.methods import (
    BlurIG,
    EnhancedIG,
    GuidedIG,
    IntegratedGradients,
    ManifoldAlignedGuidedIG,
    ManifoldIG,
)
from manifold_xai.chunks import value_and_grad
from manifold_xai.paths.path import Path, Step
from manifold_xai.score import score
from manifold_xai.subjects.autoencoders import digit_vae
from manifold_xai.subjects.classifiers import digit_classifier

# torch's own, on first use of torch.func
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")

BARE = {"IG": IntegratedGradients, "GIG": GuidedIG, "BlurIG": BlurIG}
ANCHORED = {"EIG": EnhancedIG, "MIG": ManifoldIG, "MA-GIG": ManifoldAlignedGuidedIG}


@pytest.mark.parametrize("name", BARE | ANCHORED)
def test_maps_of_held_out_digits_add_up(held_out, name):
    """Mean |gap| at most 0.01. Where there is an anchor, one walk serves both:
    the ten segments of each jump come first and last."""
    x = held_out.x[:16]
    f = score(digit_classifier("smooth")).at(x)
    method = BARE[name](f) if name in BARE else ANCHORED[name](f, digit_vae(), anchor=True)
    gamma = method.path(f, method.start(x, None), x, 200, 256)
    if name in ANCHORED:
        steps = [
            measured(f, point if isinstance(point, Step) else Step(point)) for point in gamma.walk()
        ]
        assert len(steps) == 221
        gamma = drawn(steps, gamma.x0, x)
        free = path_attribution(f, drawn(steps[10:-10], gamma.x0, x))
        assert free.gap.abs().mean() <= 0.01 and 1e-3 < free.ends.abs().mean()
    whole = path_attribution(f, gamma)
    assert whole.gap.abs().mean() <= 0.01 and (whole.ends == 0).all()


def measured(f, step):
    return step if step.grad is not None else Step(step.x, *value_and_grad(f, step.x)[::-1])


def drawn(steps, x0, x):
    return Path(lambda: iter(steps), x0, x, len(steps) - 1)


@pytest.mark.parametrize("Method", ANCHORED.values())
def test_without_its_anchor_a_method_draws_the_same_path(held_out, Method):
    """So that the test above, on steps[10:-10], also holds for anchor=False."""
    x = held_out.x[:2]
    f, vae = score(digit_classifier("smooth")).at(x), digit_vae()
    free, tied = (
        Method(f, vae, anchor=anchor).path(f, torch.zeros_like(x), x, 20, None).stack()
        for anchor in (False, True)
    )
    torch.testing.assert_close(tied[10:-10], free)
