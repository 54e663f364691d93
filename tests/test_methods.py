"""The captum-shaped classes against captum itself; maps; baselines; the package's front door."""

import subprocess
import sys
import warnings
from configparser import ConfigParser

import captum.attr
import captum.metrics
import numpy as np
import pytest
import torch
from helpers import ROOT, rand, seeded, small_net
from torch import nn

import manifold_xai
from manifold_xai.attribution.base import PathMethod
from manifold_xai.attribution.integral import Attribution, path_attribution
from manifold_xai.attribution.maps import heat_map, load_map, save_map
from manifold_xai.attribution.methods import BlurIG, IntegratedGradients
from manifold_xai.paths.baseline import baseline
from manifold_xai.paths.blur import blur, blur_path, gaussian_rows
from manifold_xai.paths.straight import straight_path
from manifold_xai.score import score
from manifold_xai.subjects import store


def net():
    return small_net(bends=(nn.SiLU(), nn.ReLU(inplace=True)))


@pytest.fixture
def x():
    return rand(4, 1, 12, 12, seed=2)


METHODS = dict(ig=IntegratedGradients, blur=BlurIG)
y = torch.tensor([3, 0, 4, 3])


# against captum


@pytest.mark.parametrize("target", [2, y, None])
def test_equal_to_captums_gauss_legendre(x, target):
    model, x0 = net(), torch.full((4, 1, 12, 12), 0.3, dtype=torch.float64)
    theirs = target if target is not None else model(x).argmax(1)
    expected = captum.attr.IntegratedGradients(model).attribute(x, x0, target=theirs, n_steps=20)
    A = IntegratedGradients(model).attribute(
        x, x0, target=target, n_steps=20, rule="gauss-legendre"
    )
    # captum rounds its weights to float32
    assert (A - expected).abs().max() < 1e-6 * expected.abs().max()


def test_the_delta_is_captums_delta(x):
    for method in (IntegratedGradients(net()), BlurIG(net())):
        A, delta = method.attribute(x, target=y, n_steps=8, return_convergence_delta=True)
        start = None if isinstance(method, IntegratedGradients) else blur(x, 3.0)
        expected = method.compute_convergence_delta(
            A, torch.zeros_like(x) if start is None else start, x, target=y
        )
        torch.testing.assert_close(delta, expected)
        assert method.has_convergence_delta() and method.multiplies_by_inputs


def test_the_delta_counts_what_the_paths_ends_leave_out(x):
    class Short(PathMethod):
        def path(self, f, x0, x, steps, batch):
            gamma = straight_path(x0 + 0.1, x - 0.1, steps)
            gamma.x0, gamma.x = x0, x
            return gamma

    A, delta = Short(net()).attribute(x, target=y, n_steps=50, return_convergence_delta=True)
    f = score(net(), y, "logit")
    torch.testing.assert_close(delta, A.flatten(1).sum(1) - f(x) + f(torch.zeros_like(x)))
    assert delta.abs().max() > 1e-3


@pytest.mark.parametrize("name", METHODS)
def test_inside_captums_tools(x, name):
    method = METHODS[name](net())
    torch.manual_seed(0)
    tunnel = captum.attr.NoiseTunnel(method)
    smooth = tunnel.attribute(
        x, nt_samples=3, stdevs=0.01, target=y, n_steps=5, internal_batch_size=7
    )
    A = method.attribute(x, target=y, n_steps=5)
    assert (smooth - A).abs().max() < 0.2 * A.abs().max() and smooth.ne(A).any()
    sensitivity = captum.metrics.sensitivity_max(
        method.attribute, x, perturb_radius=0.01, n_perturb_samples=2, target=y, n_steps=5
    )

    def noise(inputs):
        return (0.1 * torch.rand_like(inputs), inputs - 0.1 * torch.rand_like(inputs))

    infidelity = captum.metrics.infidelity(net(), noise, x, A, target=y, n_perturb_samples=2)
    assert sensitivity.shape == infidelity.shape == (4,) and sensitivity.min() > 0


def test_in_captums_visualization(x):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    A = IntegratedGradients(net()).attribute(x, target=y, n_steps=5)
    figure, _ = captum.attr.visualization.visualize_image_attr(
        A[0].permute(1, 2, 0).numpy(), sign="all", use_pyplot=False
    )
    assert figure.axes
    plt.close("all")


# what the face takes


def test_every_kind_of_target_and_baseline_and_tuple(x):
    model, method = net(), IntegratedGradients(net())
    A = method.attribute(x, target=2, n_steps=5)
    for target in (torch.tensor([2]), torch.full((4,), 2), [2] * 4, (2,)):
        torch.testing.assert_close(method.attribute(x, target=target, n_steps=5), A)
    for x0 in (
        0,
        0.0,
        torch.zeros_like(x),
        torch.zeros(1, 1, 12, 12).double(),
        torch.zeros_like,
        (torch.zeros_like(x),),
    ):
        torch.testing.assert_close(method.attribute(x, x0, target=2, n_steps=5), A)
    (inside,), delta = method.attribute((x,), target=2, n_steps=5, return_convergence_delta=True)
    assert torch.equal(inside, A) and delta.shape == (4,)
    one_output = IntegratedGradients(lambda x: model(x)[:, 2])
    torch.testing.assert_close(one_output.attribute(x, n_steps=5), A)


def test_scores_are_forward_functions(x):
    model = net()
    expected = path_attribution(score(model, y), straight_path(torch.zeros_like(x), x, 6)).A
    torch.testing.assert_close(
        IntegratedGradients(score(model)).attribute(x, target=y, n_steps=6), expected
    )
    torch.testing.assert_close(
        IntegratedGradients(score(model, y)).attribute(x, n_steps=6, internal_batch_size=3),
        expected,
    )
    predicted = IntegratedGradients(score(model)).attribute(x, n_steps=6)
    torch.testing.assert_close(
        predicted, IntegratedGradients(score(model, model(x).argmax(1))).attribute(x, n_steps=6)
    )


def test_further_arguments_follow_their_rows(x):
    model, shift = net(), torch.rand(4, 1, 1, 1).double()
    method = IntegratedGradients(lambda x, shift, scale: model(scale * (x + shift)))
    A = method.attribute(
        x, target=y, additional_forward_args=(shift, 2.0), n_steps=5, internal_batch_size=3
    )
    for i in range(4):
        alone = IntegratedGradients(lambda x, i=i: model(2 * (x + shift[i]))).attribute(
            x[[i]], target=int(y[i]), n_steps=5
        )
        torch.testing.assert_close(A[[i]], alone)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("batch", [1, 3, 1000])
def test_the_internal_batch_changes_nothing(x, name, batch):
    method = METHODS[name](net())
    A = [method.attribute(x, target=y, n_steps=7, internal_batch_size=n) for n in (None, batch)]
    assert (A[0] - A[1]).abs().max() < 1e-12


def test_vectors_are_inputs_too():
    model = (
        nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)).double().requires_grad_(False)
    )
    x = 40 * torch.rand(5, 6).double()
    A, delta = IntegratedGradients(model).attribute(x, n_steps=400, return_convergence_delta=True)
    assert A.shape == x.shape and delta.abs().max() < 1e-2


def test_bad_input_is_refused(x):
    method = IntegratedGradients(net())
    with pytest.raises(ValueError, match=r"0…4, got 5; the model's output is \(\d+, 5\)"):
        method.attribute(x, target=5)
    for f in (net(), score(net(), torch.tensor([1, 2]))):
        with pytest.raises(ValueError, match="one class per row, got 2 for 4 rows"):
            IntegratedGradients(f).attribute(
                x, target=None if f.__class__.__name__ == "Score" else torch.tensor([1, 2])
            )
    with pytest.raises(
        ValueError,
        match=(
            r"`baselines` must have the shape of `inputs`, \(4, 1, 12, 12\), or one row, got \(4, "
            r"1, 12, 3\)"
        ),
    ):
        method.attribute(x, x[..., :3], target=1)
    with pytest.raises(ValueError, match="`inputs` must be finite"):
        method.attribute(x / 0, target=1)
    with pytest.raises(ValueError, match="one row for each, got"):
        method.attribute((x, x[:2]), target=1)
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        method.attribute(x, target=1, n_steps=0)
    with pytest.raises(ValueError, match="batch must be at least 1"):
        method.attribute(x, target=1, internal_batch_size=0)
    with pytest.raises(ValueError, match="leave baselines at None"):
        BlurIG(net()).attribute(x, x, target=1)
    with pytest.raises(ValueError, match=r"images \(b, C, H, W\) to be blurred, got \(4, 144\)"):
        BlurIG(lambda x: x).attribute(x.flatten(1), target=1)
    noisy = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(144, 3).double())
    for args in (None, ()):
        with pytest.raises(ValueError, match="in train mode: 1"):
            IntegratedGradients(noisy).attribute(x, target=1, additional_forward_args=args)
    with pytest.raises(NotImplementedError, match="PathMethod must say which path it takes"):
        PathMethod(net()).attribute(x, target=1)


def test_inputs_in_another_range_are_warned_about_not_refused(x):
    with pytest.warns(
        UserWarning, match=r"`inputs` must hold images in \[0, 1\].*baseline, 0, is then not black"
    ):
        A = IntegratedGradients(net()).attribute(6 * x - 3, target=1, n_steps=5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = captum.attr.IntegratedGradients(net()).attribute(6 * x - 3, target=1, n_steps=5)
    assert (A - expected).abs().max() < expected.abs().max()


# the blur path


@pytest.mark.parametrize("edge", ["renormalise", "black"])
def test_blur_matrices(edge):
    assert torch.equal(gaussian_rows(9, 0, edge), torch.eye(9))
    K = gaussian_rows(101, 3.0, edge, torch.zeros(1).double())
    middle = K[50]
    i = torch.arange(101).double() - 50
    # the variance is σ²
    assert (middle.sum() - 1).abs() < 1e-12
    assert ((middle * i**2).sum() - 9).abs() < 1e-6
    assert (K.sum(1) <= 1 + 1e-12).all()
    assert ((K.sum(1) - 1).abs().max() < 1e-12) == (edge == "renormalise")
    with pytest.raises(ValueError, match="edge must be 'renormalise' or 'black'"):
        gaussian_rows(9, 1, "wrap")


def test_blurring_twice_is_blurring_once_wider(x):
    x = nn.functional.pad(x, (20, 20, 20, 20))
    # Gaussians add their variances; sampled ones do so up to e^(-2π²σ²), 3e-9 for σ = 1
    torch.testing.assert_close(
        blur(blur(x, 1.0, "black"), 2.0, "black"), blur(x, 5**0.5, "black"), rtol=0, atol=1e-7
    )
    torch.testing.assert_close(blur(torch.full_like(x, 0.4), 7.0), torch.full_like(x, 0.4))


def test_blur_path_ends_and_errors(x):
    gamma = blur_path(x, 5, sigma=2.0).stack()
    assert torch.equal(gamma[-1], x) and torch.equal(gamma[0], blur(x, 2.0)) and len(gamma) == 6
    torch.testing.assert_close(gamma[2], blur(x, 1.2))
    with pytest.raises(ValueError, match="sigma must be above 0"):
        blur_path(x, 5, sigma=0)


def test_blur_ig_against_its_authors_code(x):
    core = pytest.importorskip("saliency.core")
    f = score(net(), 3)

    def call(images, call_model_args=None, expected_keys=None):
        from manifold_xai.chunks import value_and_grad

        grad = value_and_grad(f, torch.tensor(images).permute(0, 3, 1, 2))[1]
        return {core.base.INPUT_OUTPUT_GRADIENTS: grad.permute(0, 2, 3, 1).numpy()}

    image = x[0].permute(1, 2, 0).numpy()
    theirs = core.BlurIG().GetMask(
        image, call, max_sigma=3, steps=400, grad_step=1e-4, batch_size=100
    )
    ours = (
        BlurIG(f, sigma=3, edge="black").attribute(x[:1], n_steps=400)[0].permute(1, 2, 0).numpy()
    )
    # theirs: left rule, so an error of order 1/400, and kernels cut at 4σ, 6e-5 of their weight
    assert np.abs(theirs - ours).max() < 0.02 * np.abs(ours).max()


# baselines, maps


@pytest.mark.parametrize("kind", ["black", "white", "mean", "blur", "noise"])
def test_baselines(x, kind):
    x0 = baseline(x, kind, seeded(0))
    assert x0.shape == x.shape and x0.dtype == x.dtype and 0 <= x0.min() and x0.max() <= 1
    assert torch.equal(x0, baseline(x, kind, seeded(0)))
    torch.testing.assert_close(baseline(x, "mean")[1, 0], x[1, 0].mean().expand(12, 12))
    with pytest.raises(ValueError, match="needs a generator"):
        baseline(x, "noise")
    with pytest.raises(ValueError, match="kind must be one of black, white"):
        baseline(x, "grey")


def test_heat_maps_share_their_scale():
    A = torch.tensor([[[[1.0, -2.0]], [[1.0, 0.0]]], [[[-4.0, 0.0]], [[0.0, 1.0]]]])
    torch.testing.assert_close(heat_map(A), torch.tensor([[[2.0, -2.0]], [[-4.0, 1.0]]]) / 4)
    torch.testing.assert_close(
        heat_map(A, signed=False), torch.tensor([[[2.0, 2.0]], [[4.0, 1.0]]]) / 4
    )
    torch.testing.assert_close(
        heat_map(A, scale="each"), torch.tensor([[[1.0, -1.0]], [[-1.0, 0.25]]])
    )
    torch.testing.assert_close(heat_map(A[:1], scale=8.0), torch.tensor([[[2.0, -2.0]]]) / 8)
    assert heat_map(torch.stack([A, A / 2]), channel=2).shape == (2, 2, 1, 2)
    assert heat_map(0 * A).eq(0).all()
    with pytest.raises(ValueError, match=r"one map per row.*got \(2,\)"):
        heat_map(A[0, 0, 0])
    for scale in ("max", 0):
        with pytest.raises(ValueError, match="scale must be"):
            heat_map(A, scale=scale)


def test_maps_are_kept_with_their_settings(tmp_path, x):
    result = path_attribution(score(net(), y), straight_path(0 * x, x, 3))
    file = tmp_path / "map.safetensors"
    save_map(file, result, method="ig", steps=3)
    (A, gap, ends), about = load_map(file)
    assert about == {"method": "ig", "steps": 3}
    assert all(torch.equal(a, b) for a, b in zip(result, (A, gap, ends)))
    save_map(file, result.A)
    assert load_map(file)[0][1:] == (None, None) and isinstance(load_map(file)[0], Attribution)
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(ValueError, match="map.safetensors"):
        load_map(file)
    store.save_tensors(file, {"weight": x})
    with pytest.raises(
        ValueError, match="does not hold an attribution written by save_map, but weight"
    ):
        load_map(file)


def test_maps_of_several_inputs_are_kept_apart(tmp_path):
    file, ends = tmp_path / "maps.safetensors", (torch.rand(2, 3), torch.rand(2, 12))
    found = path_attribution(
        lambda a, b: a.prod(1) + b.square().sum(1),
        straight_path(tuple(map(torch.zeros_like, ends)), ends, 4),
    )
    for kept in (found, found.A, (*found.A, *[torch.ones(2, i) for i in range(9)])):
        save_map(file, kept, n_steps=4)
        again, about = load_map(file)
        maps = kept.A if isinstance(kept, Attribution) else kept
        assert len(again.A) == len(maps) and all(map(torch.equal, again.A, maps))
        assert about == {"n_steps": 4}
    assert again.gap is None
    for bad in ([ends[0]], (ends[0], "b"), 3.0, None):
        with pytest.raises(ValueError, match="A must be a map, a tuple of maps"):
            save_map(file, bad)


# the front door


def test_importing_the_package_brings_neither_plots_nor_captum_and_score_is_the_function():
    code = """if True:
        import sys, manifold_xai, manifold_xai.attribution.integral, manifold_xai.score
        from manifold_xai import heat_map, path_attribution, score, straight_path
        assert callable(score) and manifold_xai.score is score
        unwanted = "matplotlib", "IPython", "captum", "jupyter_core", "notebook"
        print(*[name for name in unwanted if name in sys.modules])
        manifold_xai.IntegratedGradients
        print(*[name for name in unwanted if name in sys.modules])
    """
    before, after = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert before == "" and "captum" in after  # so the first line could have been otherwise


def test_every_name_at_the_front_door_opens():
    for name in manifold_xai.__all__:
        value = getattr(manifold_xai, name)
        assert value.__name__ == name and value.__doc__, name
    assert set(manifold_xai.__all__) <= set(dir(manifold_xai))
    with pytest.raises(AttributeError, match="no attribute 'scores'"):
        manifold_xai.scores


def test_the_version_is_that_of_settings():
    settings = ConfigParser(interpolation=None)
    settings.read(ROOT / "settings.ini", encoding="utf8")
    assert manifold_xai.__version__ == settings["DEFAULT"]["version"]
