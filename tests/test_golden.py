"""Equal to the published codes' own answers, where those are at hand (`../shared/golden`, not part of the repository)."""

import pytest
import torch

from manifold_xai.attribution.integral import path_attribution
from manifold_xai.autoencoder import adapt
from manifold_xai.geometry.geodesic import published_sweeps
from manifold_xai.paths.manifold import decoded_path, enhanced_path
from manifold_xai.paths.straight import straight_path
from manifold_xai.score import score

@pytest.fixture(scope="module")
def autoencoder(published):
    return adapt(*published[1:])


def relative(A, B):
    return ((A - B).abs().max() / B.abs().max()).item()


def test_integrated_gradients(answers, published):
    x = answers["x"]
    gamma = straight_path(torch.zeros_like(x), x, 49)  # 50 points
    f = score(published[0], answers["target"])
    A, gap, _ = path_attribution(f, gamma, rule="left")
    assert relative(A, answers["ig.attribution"]) < 1e-10
    assert relative(path_attribution(f, gamma).A, answers["ig.attribution"]) > 1e-3  # the trapezoid differs: the rule is what we match
    torch.testing.assert_close(gap, answers["ig.attribution"].flatten(1).sum(1) - (f(x) - f(torch.zeros_like(x))))


def test_enhanced_ig(answers, published, autoencoder):
    x = answers["x"]
    f, gamma = score(published[0], answers["target"]), enhanced_path(autoencoder, torch.zeros_like(x), x, 49)  # 50 points, none of them raw
    assert relative(path_attribution(f, gamma, rule="left").A, answers["eig.attribution"]) < 1e-10
    anchored = enhanced_path(autoencoder, torch.zeros_like(x), x, 49, anchor="published")
    assert relative(path_attribution(f, anchored, rule="left").A, answers["eig.attribution"]) > 1e-3
    if "eig.path" in answers:
        assert relative(gamma.stack()[::7].transpose(0, 1), answers["eig.path"]) < 1e-10


def test_manifold_ig_with_published_sweeps(answers, published, autoencoder):
    x = answers["x"]
    x0, f = torch.zeros_like(x), score(published[0], answers["target"])
    gamma_z = published_sweeps(autoencoder.decode, autoencoder.encode(x0), autoencoder.encode(x), points=20, iterations=10, lr=1e-3)
    gamma = decoded_path(autoencoder.decode, gamma_z, x0, x)
    assert relative(gamma.stack().transpose(0, 1), answers["mig.path"]) < 1e-10
    assert relative(path_attribution(f, gamma, rule="left").A, answers["mig.attribution"]) < 1e-10
    line = enhanced_path(autoencoder, x0, x, 19)
    assert relative(path_attribution(f, line, rule="left").A, answers["mig.attribution"]) > 1e-4  # the sweeps are seen
