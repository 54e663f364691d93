"""Every method among the tools people have: captum's, Quantus, other networks, autocast, progress bars; and a path of one's own."""
import shutil

import captum.attr
import captum.metrics
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from every import EVERY, NEIGHBOURS, PATHS, steps_of
from helpers import seeded
from torch import nn

from manifold_xai.attribution.base import PathMethod
from manifold_xai.attribution.methods import IG2
from manifold_xai.autoencoder import adapt
from manifold_xai.score import score

torch.manual_seed(0)
ENCODER = nn.Sequential(nn.Flatten(), nn.Linear(144, 6)).requires_grad_(False)
DECODER = nn.Sequential(nn.Linear(6, 144), nn.Sigmoid(), nn.Unflatten(1, (1, 12, 12))).requires_grad_(False)
TINY = adapt(ENCODER, DECODER)
X = torch.rand(3, 1, 12, 12, generator=seeded(2))
Y = torch.tensor([3, 0, 4])


class InPlace(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(inplace=True), nn.Conv2d(4, 6, 3, 2, 1), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(54, 5))


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 6, 3, 2, 1), nn.Linear(216, 5)

    def forward(self, x):
        return self.head(F.relu(self.conv(x), inplace=True).flatten(1))


class TinyViT(nn.Module):
    """Patches, a class token, positions, one encoder layer."""

    def __init__(self):
        super().__init__()
        self.patch, self.token, self.place = nn.Conv2d(1, 16, 4, 4), nn.Parameter(torch.randn(1, 1, 16)), nn.Parameter(torch.randn(1, 10, 16))
        self.block, self.head = nn.TransformerEncoderLayer(16, 2, 32, 0.0, "gelu", batch_first=True), nn.Linear(16, 5)

    def forward(self, x):
        h = self.patch(x).flatten(2).mT
        h = torch.cat([self.token.expand(len(x), -1, -1), h], 1) + self.place
        return self.head(self.block(h)[:, 0])


def made(kind):
    torch.manual_seed(1)
    return kind().eval().requires_grad_(False)


MODELS = {"in place": made(InPlace), "functional": made(Functional), "vision transformer": made(TinyViT)}
SMOOTH = MODELS["vision transformer"]


def make(name, f=SMOOTH):
    if name == "IG2":  # a random network puts most images in one class: the reference comes as a baseline
        return IG2(f, represent=lambda x: 2 * x)
    return EVERY[name](f, TINY, torch.rand(20, 1, 12, 12, generator=seeded(3)))


def given(name, x=X):
    """What `attribute` needs beside target: IG2 a reference, one for all rows, so that copies of rows may come."""
    return (dict(baselines=torch.full_like(x[:1], 0.2)) if name == "IG2" else {}) | steps_of(name, 4)


# captum's tools


@pytest.mark.parametrize("name", PATHS)
def test_inside_captums_noise_tunnel(name):
    torch.manual_seed(0)
    method, how = make(name), given(name)
    smooth = captum.attr.NoiseTunnel(method).attribute(X, nt_samples=3, stdevs=1e-4, target=Y, **how)
    A = method.attribute(X, target=Y, **how)
    assert smooth.shape == X.shape
    assert (smooth - A).abs().max() < 0.3 * A.abs().max()
    assert smooth.ne(A).any()


@pytest.mark.parametrize("name", EVERY)
def test_captums_metrics_take_it(name):
    method, how = make(name), given(name)
    A = method.attribute(X, target=Y, **how)
    def noise(inputs):
        return (0.1 * torch.ones_like(inputs), inputs - 0.1)
    infidelity = captum.metrics.infidelity(SMOOTH, noise, X, A, target=Y)
    gain = (SMOOTH(X) - SMOOTH(X - 0.1)).gather(1, Y[:, None])[:, 0]
    torch.testing.assert_close(infidelity, (0.1 * A.flatten(1).sum(1) - gain) ** 2)
    sensitivity = captum.metrics.sensitivity_max(method.attribute, X, perturb_radius=0.01, n_perturb_samples=2, target=Y, **how)
    assert sensitivity.shape == (3,) and sensitivity.isfinite().all() and sensitivity.max() > 0


@pytest.mark.parametrize("name", EVERY)
def test_captum_shows_it(name):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    method, how = make(name), given(name)
    A = method.attribute(X, target=Y, **how)
    figure, _ = captum.attr.visualization.visualize_image_attr(A[0].permute(1, 2, 0).numpy(), X[0].permute(1, 2, 0).numpy(), "blended_heat_map", "all", use_pyplot=False)
    assert figure.axes
    plt.close("all")


@pytest.fixture(scope="module")
def quantus():
    return pytest.importorskip("quantus")


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.filterwarnings("ignore")  # Quantus' own
def test_as_quantus_explain_func(quantus, name):
    method, how = make(name), given(name)
    asked = []

    def explain(model, inputs, targets, **kwargs):
        asked.append(len(inputs))
        x, y = torch.as_tensor(inputs, dtype=torch.float32), torch.as_tensor(targets)
        return method.attribute(x, target=y, **how).numpy()

    metric = quantus.Sparseness(disable_warnings=True, display_progressbar=False)
    scores = metric(model=SMOOTH, x_batch=X.numpy(), y_batch=Y.numpy(), explain_func=explain, device="cpu")
    A = np.abs(method.attribute(X, target=Y, **how).numpy()).reshape(3, -1)
    assert asked == [3] and len(scores) == 3
    if name not in ("SmoothGrad", "Smooth IG", "Expected Gradients"):  # those have drawn anew by now
        gini = [float(np.abs(np.subtract.outer(a, a)).mean() / (2 * a.mean())) for a in A]
        np.testing.assert_allclose(scores, gini, rtol=2e-2)  # Quantus: the sample form, another by 1/n, of A over its maximum


# any classifier


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("model", MODELS)
def test_any_classifier(name, model):
    f = MODELS[model]
    A = make(name, score(lambda x: f(x))).attribute(X, target=Y, **given(name))
    assert A.shape == X.shape and A.isfinite().all() and A.abs().max() > 0
    torch.testing.assert_close(make(name, score(f)).attribute(X, target=Y, **given(name)), A)


@pytest.mark.parametrize("name", EVERY)
def test_autocast_sums_in_float32(name):
    how = given(name)
    A = make(name).attribute(X, target=Y, **how)
    with torch.autocast("cpu", torch.bfloat16):
        half = make(name).attribute(X, target=Y, **how)
    assert half.dtype == torch.float32 and half.isfinite().all()
    if name not in ("GIG", "MA-GIG", "AGI"):  # their paths turn on the order, or the sign, of gradients
        assert torch.cosine_similarity(A.flatten(1), half.flatten(1)).min() > 0.95
        assert not torch.equal(A, half)  # so it did run in half precision


@pytest.mark.parametrize("how", ["float32", "bfloat16", "compiled"])
@pytest.mark.parametrize("name", ["IG", "BlurIG", "EIG"])
def test_paths_without_feedback_are_the_same_in_any_chunk(name, how):
    if how == "compiled" and not (shutil.which("c++") or shutil.which("g++")):
        pytest.skip("torch.compile needs a C++ compiler here")
    net = SMOOTH if how != "compiled" else torch.compile(MODELS["functional"], dynamic=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "bfloat16"):
        A, *others = (make(name, score(net)).attribute(X, target=Y, n_steps=12, internal_batch_size=batch) for batch in (None, 2, 5))
    for other in others:
        assert (A - other).abs().max() <= 1e-5 * A.abs().max()


@pytest.mark.parametrize("name", PATHS)
def test_float64_throughout(name):
    precise = made(TinyViT).double()
    autoencoder = adapt(lambda x: ENCODER(x.float()).double(), lambda z: DECODER(z.float()).double())
    method = make(name, precise) if name == "IG2" else EVERY[name](precise, autoencoder, None)
    A, delta = method.attribute(X.double(), target=Y, return_convergence_delta=True, **given(name, X.double()))
    assert A.dtype == delta.dtype == torch.float64


@pytest.mark.parametrize("name", PATHS)
def test_a_bar_on_request_and_quiet_otherwise(name, capfd):
    method = make(name)
    method.attribute(X[:1], target=Y[:1], **given(name))
    assert capfd.readouterr() == ("", "")
    method.progress = True
    method.attribute(X[:1], target=Y[:1], **given(name))
    assert "path" in capfd.readouterr().err


# one's own path


def wipe_path(x0, x, steps):
    """Uncovers the image from left to right."""
    columns = torch.arange(x.shape[-1], dtype=x.dtype, device=x.device)
    for i in range(steps + 1):
        share = (i / steps * len(columns) - columns).clamp(0, 1)
        yield torch.where(share == 1, x, x0 + share * (x - x0))


class Wipe(PathMethod):
    def path(self, f, x0, x, steps, batch):
        return wipe_path(x0, x, steps)


class Short(PathMethod):
    def path(self, f, x0, x, steps, batch):
        return list(wipe_path(x0, x, steps))[:-1]


def test_a_path_of_ones_own_has_every_convenience():
    def square(x):
        return x.square().flatten(1).sum(1)
    A, delta = Wipe(square).attribute(X, n_steps=24, return_convergence_delta=True)
    torch.testing.assert_close(A, X**2)  # each pixel moves alone in the score's terms
    assert delta.abs().max() < 1e-4
    torch.testing.assert_close(Wipe(SMOOTH).attribute(X, target=Y, n_steps=9), Wipe(SMOOTH).attribute(X, target=Y, n_steps=9, internal_batch_size=2))
    assert captum.attr.NoiseTunnel(Wipe(SMOOTH)).attribute(X, nt_samples=2, stdevs=0.1, target=Y, n_steps=4).shape == X.shape
    with pytest.raises(ValueError, match="must end at `x`"):
        Short(SMOOTH).attribute(X, target=Y, n_steps=6)


def test_every_name_is_tested():
    assert len(EVERY) == 15 and set(NEIGHBOURS) < set(EVERY)
