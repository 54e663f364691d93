"""Equal to the published codes' own answers, where those are at hand (`../shared/golden`, not part of the repository)."""
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from manifold_xai.attribution.integral import path_attribution
from manifold_xai.paths.straight import straight_path
from manifold_xai.score import score

GOLDEN = Path(__file__).parents[2] / "shared" / "golden" / "official.safetensors"
pytestmark = pytest.mark.skipif(not GOLDEN.exists(), reason=f"no golden values at {GOLDEN}")


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN)


def weights(golden, name):
    return {k.removeprefix(f"{name}."): v for k, v in golden.items() if k.startswith(f"{name}.")}


@pytest.fixture(scope="module")
def classifier(golden):
    layers = nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 10)
    net = nn.Sequential(*layers).double().eval().requires_grad_(False)
    net.load_state_dict(weights(golden, "classifier"))
    return net


def relative(A, B):
    return ((A - B).abs().max() / B.abs().max()).item()


def test_integrated_gradients(golden, classifier):
    x = golden["x"]
    gamma = straight_path(torch.zeros_like(x), x, 49)  # 50 points
    f = score(classifier, golden["target"])
    A, gap, _ = path_attribution(f, gamma, rule="left")
    assert relative(A, golden["ig.attribution"]) < 1e-10
    assert relative(path_attribution(f, gamma).A, golden["ig.attribution"]) > 1e-3  # the trapezoid differs: the rule is what we match
    torch.testing.assert_close(gap, golden["ig.attribution"].flatten(1).sum(1) - (f(x) - f(torch.zeros_like(x))))
