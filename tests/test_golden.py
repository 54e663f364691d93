"""Equal to what published implementations answer, on a small setting that ships and a larger one.

tests/make_golden.py asks them about the small one. Guided paths, MA-GIG, geodesics and DiffID
are compared with both in their own test files; here are the other methods, and the file itself.
"""

import pytest
import torch
from conftest import GOLDEN
from helpers import relative
from safetensors import safe_open

from manifold_xai.attribution.captum import InputXGradient
from manifold_xai.attribution.integral import path_attribution
from manifold_xai.attribution.methods import AGI, IG2
from manifold_xai.autoencoder import adapt
from manifold_xai.geometry.geodesic import published_sweeps
from manifold_xai.paths.manifold import decoded_path, enhanced_path
from manifold_xai.paths.straight import straight_path
from manifold_xai.score import score

# the whole has no answers of these
SHIPPED = pytest.mark.parametrize("golden", ["shipped"], indirect=True)


@pytest.fixture(scope="session")
def autoencoder(published):
    return adapt(*published[1:])


def test_the_shipped_file_is_small_and_says_how_it_was_made():
    path, _ = GOLDEN["shipped"]
    with safe_open(path, "pt") as file:
        about = file.metadata()
        dtypes = {file.get_slice(key).get_dtype() for key in file.keys()}
    assert path.stat().st_size <= 300_000 and dtypes == {"F64", "I64"}
    assert about["command"] == "python tests/make_golden.py PATH"
    assert "20c87aebd8eddeb98dcbb0c9a2489ebbde403967" in about["ma_gig"]
    assert {"saliency", "torch", "numpy", "python"} <= about.keys()


def test_integrated_gradients(answers, published):
    x = answers["x"]
    gamma = straight_path(torch.zeros_like(x), x, 49)  # 50 points
    f = score(published[0], answers["target"])
    A, gap, _ = path_attribution(f, gamma, rule="left")
    expected = answers["ig.attribution"]
    assert relative(A, expected) < 1e-10
    assert relative(path_attribution(f, gamma).A, expected) > 1e-3  # trapezoid: the rule is seen
    change = f(x) - f(torch.zeros_like(x))
    torch.testing.assert_close(gap, expected.flatten(1).sum(1) - change)


def test_enhanced_ig(answers, published, autoencoder):
    x = answers["x"]
    x0, f = torch.zeros_like(x), score(published[0], answers["target"])
    gamma = enhanced_path(autoencoder, x0, x, 49)  # 50 points, none of them raw
    assert relative(path_attribution(f, gamma, rule="left").A, answers["eig.attribution"]) < 1e-10
    anchored = enhanced_path(autoencoder, x0, x, 49, anchor="published")
    assert relative(path_attribution(f, anchored, rule="left").A, answers["eig.attribution"]) > 1e-3
    if "eig.path" in answers:
        assert relative(gamma.stack()[::7].transpose(0, 1), answers["eig.path"]) < 1e-10


def test_manifold_ig_with_published_sweeps(answers, published, autoencoder):
    x = answers["x"]
    x0, f = torch.zeros_like(x), score(published[0], answers["target"])
    ends = autoencoder.encode(x0), autoencoder.encode(x)
    gamma_z = published_sweeps(autoencoder.decode, *ends, points=20, iterations=10, lr=1e-3)
    gamma = decoded_path(autoencoder.decode, gamma_z, x0, x)
    assert relative(gamma.stack().transpose(0, 1), answers["mig.path"]) < 1e-10
    assert relative(path_attribution(f, gamma, rule="left").A, answers["mig.attribution"]) < 1e-10
    line = path_attribution(f, enhanced_path(autoencoder, x0, x, 19), rule="left").A
    assert relative(line, answers["mig.attribution"]) > 1e-4  # the sweeps are seen


@SHIPPED
def test_input_times_gradient(answers, published):
    A = InputXGradient(score(published[0])).attribute(answers["x"], target=answers["target"])
    assert relative(A, answers["input_x_gradient.attribution"]) < 1e-10


@SHIPPED
def test_ig2_that_listens_to_the_last_features(answers, published):
    model, how = published[0], dict(target=answers["target"], n_steps=15, rule="left")
    method = IG2(score(model), step=0.1, represent=model[4], clip=None)
    A = method.attribute(answers["x"], answers["reference"], **how)
    assert relative(A, answers["ig2.attribution"]) < 1e-10
    outputs = IG2(score(model), step=0.1, clip=None)
    away = outputs.attribute(answers["x"], answers["reference"], **how)
    assert relative(away, answers["ig2.attribution"]) > 1e-3  # it shows which layer is compared


@SHIPPED
def test_agi_to_every_other_class(answers, published):
    how = dict(target=answers["target"], n_steps=15, rule="left")
    A = AGI(score(published[0]), k=9, step=0.05).attribute(answers["x"], **how)
    assert relative(9 * A, answers["agi.attribution"]) < 1e-10  # they add up, we take the mean
