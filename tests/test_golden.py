"""Equal to the published codes' own answers, where those are at hand (`../shared/golden`, not part of the repository)."""
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from manifold_xai.attribution.integral import path_attribution
from manifold_xai.autoencoders import adapt
from manifold_xai.geometry.geodesic import published_sweeps
from manifold_xai.paths.manifold import decoded_path, enhanced_path
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


@pytest.fixture(scope="module")
def autoencoder(golden):
    down = nn.Conv2d(1, 8, 4, 2, 1), nn.SiLU(), nn.Conv2d(8, 16, 4, 2, 1), nn.SiLU(), nn.Flatten(), nn.Linear(1024, 24)
    up = nn.Linear(24, 1024), nn.ELU(), nn.Unflatten(1, (16, 8, 8)), nn.ConvTranspose2d(16, 8, 4, 2, 1), nn.ELU(), nn.ConvTranspose2d(8, 1, 4, 2, 1)
    encoder, decoder = (nn.Sequential(*layers).double().eval().requires_grad_(False) for layers in (down, (*up, nn.Sigmoid())))
    encoder.load_state_dict(weights(golden, "encoder"))
    decoder.load_state_dict(weights(golden, "decoder"))
    return adapt(encoder, decoder)


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


def test_enhanced_ig(golden, classifier, autoencoder):
    x = golden["x"]
    f, gamma = score(classifier, golden["target"]), enhanced_path(autoencoder, torch.zeros_like(x), x, 49)  # 50 points, none of them raw
    assert relative(path_attribution(f, gamma, rule="left").A, golden["eig.attribution"]) < 1e-10
    anchored = enhanced_path(autoencoder, torch.zeros_like(x), x, 49, anchor="published")
    assert relative(path_attribution(f, anchored, rule="left").A, golden["eig.attribution"]) > 1e-3
    if "eig.path" in golden:
        assert relative(gamma.stack()[::7].transpose(0, 1), golden["eig.path"]) < 1e-10


def test_manifold_ig_with_published_sweeps(golden, classifier, autoencoder):
    x = golden["x"]
    x0, f = torch.zeros_like(x), score(classifier, golden["target"])
    gamma_z = published_sweeps(autoencoder.decode, autoencoder.encode(x0), autoencoder.encode(x), points=20, iterations=10, lr=1e-3)
    gamma = decoded_path(autoencoder.decode, gamma_z, x0, x)
    assert relative(gamma.stack().transpose(0, 1), golden["mig.path"]) < 1e-10
    assert relative(path_attribution(f, gamma, rule="left").A, golden["mig.attribution"]) < 1e-10
    line = enhanced_path(autoencoder, x0, x, 19)
    assert relative(path_attribution(f, line, rule="left").A, golden["mig.attribution"]) > 1e-4  # the sweeps are seen
