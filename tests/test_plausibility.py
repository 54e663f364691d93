"""Plausibility of paths: closed forms on a sphere, laws of areas,
independent libraries and brute force for everything in feature space."""

import math

import numpy as np
import pytest
import torch
from helpers import rand, randn, seeded
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from manifold_xai.evaluation.area import area
from manifold_xai.evaluation.plausibility import (
    along,
    distance_to,
    feature_distance,
    features_to,
    free_energy,
    gaussian,
    jump_path,
    largest_step,
    nearest_on_manifold,
    neighbour_distance,
    prdc,
    remaining,
    support,
    taps,
)
from manifold_xai.geometry import worlds
from manifold_xai.paths.guided import guided_path
from manifold_xai.paths.path import Path, Step
from manifold_xai.paths.straight import straight_path
from manifold_xai.subjects.classifiers import digit_classifier


def ends(b=3, d=5):
    return randn(b, d), randn(b, d, seed=1)


def close(a, b, tol=1e-12):
    torch.testing.assert_close(a, torch.as_tensor(b, dtype=a.dtype).expand_as(a), atol=tol, rtol=0)


# --- walking a path -------------------------------------------------------------------------------


def off_sphere(points):
    return (points.norm(dim=1) - 1).abs()


@pytest.mark.parametrize("theta", [0.3, 1.0, math.pi / 2, 2.5])
def test_a_chord_s_area_is_that_on_paper_and_the_great_circle_s_is_zero(theta):
    p = torch.tensor([[1.0, 0.0, 0.0]]).double()
    q = torch.tensor([[math.cos(theta), math.sin(theta), 0.0]]).double()
    half = theta / 2
    paper = 0.5 - math.cos(half) ** 2 * math.asinh(math.tan(half)) / (2 * math.sin(half))
    gap = [
        abs(float(area(along(straight_path(p, q, T), {"off": off_sphere})["off"])) - paper)
        for T in (50, 100)
    ]
    assert gap[1] < 1e-3 and 3 < gap[0] / gap[1] < 5  # the trapezoid's order
    t = torch.linspace(0, 1, 51, dtype=torch.float64)[:, None, None] * theta
    circle = t.cos() * p + t.sin() * torch.tensor([[0.0, 1.0, 0.0]]).double()
    assert area(along(circle, {"off": off_sphere})["off"]).item() < 1e-12


def test_every_form_of_a_path_is_walked_once_and_says_the_same():
    x0, x = ends()
    line, walks = straight_path(x0, x, 7), []
    counted = Path(lambda: walks.append(1) or line.walk(), x0, x, 7)
    measures = {
        "norm": lambda points: points.norm(dim=1),
        "points": lambda points: points,
        "row": lambda points, rows: rows.double(),
    }
    found = [
        along(gamma, measures)
        for gamma in (counted, line.stack(), [Step(p) for p in line], iter(line))
    ]
    assert len(walks) == 1
    for other in found[1:]:
        assert all(torch.equal(found[0][name], other[name]) for name in measures)
    assert torch.equal(found[0]["points"], line.stack())
    assert torch.equal(found[0]["row"], torch.arange(3.0).double().expand(8, 3))
    close(found[0]["norm"], line.stack().norm(dim=2))


@pytest.mark.parametrize("batch", [1, 2, 5, 100])
def test_the_batch_does_not_matter(batch):
    x0, x = torch.zeros(3, 1, 32, 32), torch.rand(3, 1, 32, 32, generator=seeded(0))
    model = digit_classifier("smooth").double()
    line = straight_path(x0.double(), x.double(), 6)
    eye = taps(model, ["3", "11"])
    measures = {
        "left": remaining(line.x0, line.x),
        "near": features_to(line.x, eye),
        "logits": model,
    }
    want, found = along(line, measures), along(line, measures, batch=batch)
    for name in measures:
        close(found[name], want[name], 1e-10)


@pytest.mark.parametrize("weighted", [False, True])
def test_features_to_is_the_distance_of_each_point_to_its_own_input(weighted):
    x, points, rows = rand(3, 4, 5, 5), rand(6, 4, 5, 5, seed=1), torch.tensor([2, 0, 1, 1, 0, 2])
    weights = [rand(4, seed=2), None] if weighted else None

    def layers(x):
        return [x, x.square()]

    found = features_to(x, layers, weights)(points, rows)
    close(found, feature_distance(layers(points), layers(x[rows]), weights))


def test_out_of_memory_halves_the_batch_and_says_so():
    def greedy(points):
        if len(points) > 3:
            raise torch.OutOfMemoryError("too much")
        return points.sum(1)

    x0, x = ends()
    with pytest.warns(UserWarning, match="Out of memory"):
        found = along(straight_path(x0, x, 5), {"sum": greedy})["sum"]
    close(found, straight_path(x0, x, 5).stack().sum(2))


# --- areas ----------------------------------------------------------------------------------------


@given(st.integers(0, 10**6), st.integers(1, 30), st.floats(-5, 5))
@settings(deadline=None, max_examples=40)
def test_laws_of_the_area(seed, T, height):
    curve, left = randn(T + 1, 4, seed=seed), rand(T + 1, 4, seed=seed)
    left[0], left[-1] = 1.0, 0.0
    flat = torch.full_like(curve, height)
    # the mean height of a constant
    close(area(flat), height, 1e-9)
    close(area(flat, left), height, 1e-8)
    wait = torch.arange(T + 1).repeat_interleave(2)
    close(area(curve[wait], left[wait]), area(curve, left), 1e-9)  # waiting counts for nothing
    back = torch.cat([torch.arange(T + 1), torch.arange(T, -1, -1), torch.arange(T + 1)])
    close(area(curve[back], left[back]), area(curve, left), 1e-8)  # there and back cancels
    assert (area(curve) <= curve.max(0).values + 1e-12).all()
    close(area(2 * curve + 1, left), 2 * area(curve, left) + 1, 1e-8)


def test_pace_changes_the_area_over_the_index_only():
    t = torch.linspace(0, 1, 2001, dtype=torch.float64)[:, None]
    for power in (1, 3, 9):
        left = (1 - t) ** power
        assert area(1 - left**2, left).item() == pytest.approx(2 / 3, abs=1e-4)
        assert area(1 - left**2).item() == pytest.approx(1 - 1 / (2 * power + 1), abs=1e-4)


def test_guided_and_straight_paths_keep_their_schedule_and_a_row_without_a_way_has_none():
    x0, x = ends()
    x[1] = x0[1]
    weight = randn(5, seed=2)
    t = torch.linspace(1, 0, 9).double()[:, None] * torch.tensor([1.0, 0.0, 1.0]).double()
    for gamma in (
        straight_path(x0, x, 8),
        guided_path(lambda p: (p * weight).sin().sum(1), x0, x, 8),
    ):
        found = along(gamma, {"left": remaining(x0, x), "F": lambda p: p @ weight})
        close(found["left"], t, 1e-9)
        assert area(found["F"], found["left"]).isfinite().all()
    close(area(found["F"], found["left"])[1], float(x[1] @ weight), 1e-9)


def test_the_jump_arrives_at_once():
    x0, x = ends()
    gamma = jump_path(x0, x, 5)
    assert len(gamma) == 6
    assert torch.equal(gamma[0], x0)
    assert all(torch.equal(point, x) for point in gamma.stack()[1:])
    close(largest_step(gamma), 1.0)
    close(largest_step(straight_path(x0, x, 8)), 1 / 8, 1e-9)
    assert (largest_step(straight_path(x, x, 3)) == 0).all()
    found = along(
        gamma, {"left": remaining(x0, x), "far": distance_to(x, lambda a, b: (a - b).norm(dim=1))}
    )
    close(area(found["far"], found["left"]), (x - x0).norm(dim=1) / 2, 1e-12)
    close(area(found["far"]), (x - x0).norm(dim=1) / 10, 1e-12)


# --- distance from a manifold ---------------------------------------------------------------------


def torus(z, R=2.0, r=0.5):
    u, v = z.unbind(-1)
    return torch.stack([(R + r * v.cos()) * u.cos(), (R + r * v.cos()) * u.sin(), r * v.sin()], -1)


KNOWN = {
    "sphere": (worlds.sphere, lambda x: (x.norm(dim=1) - 1).abs()),
    "cylinder": (worlds.cylinder, lambda x: (x[:, :2].norm(dim=1) - 2).abs()),
    "torus": (
        torus,
        lambda x: (((x[:, :2].norm(dim=1) - 2) ** 2 + x[:, 2] ** 2).sqrt() - 0.5).abs(),
    ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_the_distance_is_that_on_paper(name):
    decode, off = KNOWN[name]
    z = 0.8 * randn(40, 2).clamp(-1, 1)
    x = decode(z) + 0.1 * randn(40, 3, seed=1)
    found = nearest_on_manifold(decode, x, z, 100, tol=1e-13)
    close(found.distance, off(x), 1e-9)
    assert found.slope.max() < 1e-4
    close(found.distance, (decode(found.z) - x).norm(dim=1), 1e-12)
    early = nearest_on_manifold(decode, x, z, 1)
    # too large, never too small
    assert (early.distance >= off(x) - 1e-12).all()
    assert early.distance.mean() > 1.0001 * off(x).mean()


def test_rows_are_found_alone_and_the_manifold_finds_itself():
    z, x = randn(6, 2), torus(randn(6, 2)) + 0.1
    whole = nearest_on_manifold(torus, x, z, 50)
    for batch in (1, 4):
        close(nearest_on_manifold(torus, x, z, 50, batch=batch).distance, whole.distance, 1e-10)
    close(nearest_on_manifold(torus, x[2:3], z[2:3], 50).distance, whole.distance[2:3], 1e-10)
    assert nearest_on_manifold(torus, torus(z), z).distance.max() == 0


# --- features -------------------------------------------------------------------------------------


def test_taps_are_what_the_layers_answer():
    model = (
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 2, 3), nn.Flatten())
        .double()
        .eval()
    )
    x = randn(3, 1, 8, 8)
    first, last = taps(model, ["0", "2"], preprocess=lambda x: 2 * x)(x)
    # what the convolution said, not what the ReLU made of it in place
    close(first, model[0](2 * x), 1e-12)
    close(last, model[:3](2 * x), 1e-12)
    assert not model[0]._forward_hooks


def test_the_perceptual_distance_by_loops():
    a, b = [randn(2, 3, 4, 4), randn(2, 6)], [randn(2, 3, 4, 4, seed=1), randn(2, 6, seed=1)]
    weights = [randn(3, seed=2).abs(), randn(6, seed=3).abs()]
    want = []
    for i in range(2):
        total = (
            sum(
                (
                    (
                        (
                            a[0][i, :, h, w] / a[0][i, :, h, w].norm()
                            - b[0][i, :, h, w] / b[0][i, :, h, w].norm()
                        )
                        ** 2
                    )
                    @ weights[0]
                ).item()
                for h in range(4)
                for w in range(4)
            )
            / 16
        )
        want.append(
            total
            + (((a[1][i] / a[1][i].norm() - b[1][i] / b[1][i].norm()) ** 2) @ weights[1]).item()
        )
    close(feature_distance(a, b, weights), torch.tensor(want, dtype=torch.float64), 1e-12)
    close(feature_distance(b, a, weights), torch.tensor(want, dtype=torch.float64), 1e-12)
    # only directions count
    close(
        feature_distance([7 * v for v in a], b, weights),
        torch.tensor(want, dtype=torch.float64),
        1e-12,
    )
    close(feature_distance(a, a), 0.0)


def test_it_is_lpips_on_lpips_own_layers():
    lpips = pytest.importorskip(
        "torchmetrics.functional.image.lpips", reason="torchmetrics holds the published LPIPS"
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        # its fitted weights; the network's own would be a download
        theirs = lpips._LPIPS(net="alex", pnet_rand=True)
    a, b = (torch.rand(3, 3, 64, 64, generator=seeded(s)) for s in (0, 1))

    def layers(x):
        return list(theirs.net(theirs.scaling_layer(2 * x - 1)))

    weights = [lin.model[-1].weight.flatten() for lin in theirs.lins]
    with torch.no_grad():
        want = theirs(a, b, normalize=True).flatten()
        close(feature_distance(layers(a), layers(b), weights), want, 1e-6)
        assert want.min() > 1e-4


def test_neighbours_as_scikit_learn_finds_them():
    from sklearn.neighbors import NearestNeighbors

    real, points = randn(50, 4), randn(30, 4, seed=1)
    tree = NearestNeighbors().fit(real.numpy())
    for k in (1, 3, 50):
        close(
            neighbour_distance(points, real, k), tree.kneighbors(points.numpy(), k)[0][:, -1], 1e-12
        )
    close(
        neighbour_distance(real, real, 3, own=True),
        tree.kneighbors(real.numpy(), 4)[0][:, -1],
        1e-12,
    )
    assert torch.equal(
        neighbour_distance(points, real, 3, batch=7), neighbour_distance(points, real, 3)
    )


def brute(real, fake, k):
    "The four numbers pair by pair, after the definitions."

    def radius(v, i):
        return sorted(np.linalg.norm(v[i] - v[j]) for j in range(len(v)) if j != i)[k - 1]

    d = np.array([[np.linalg.norm(a - b) for b in fake] for a in real])
    r, s = [radius(real, i) for i in range(len(real))], [radius(fake, j) for j in range(len(fake))]
    n, m = range(len(real)), range(len(fake))
    return (
        np.mean([any(d[i, j] < r[i] for i in n) for j in m]),
        np.mean([any(d[i, j] < s[j] for j in m) for i in n]),
        np.mean([sum(d[i, j] < r[i] for i in n) / k for j in m]),
        np.mean([any(d[i, j] < r[i] for j in m) for i in n]),
    )


@given(st.integers(0, 10**6), st.integers(1, 5), st.floats(0.2, 2), st.floats(0, 2))
@settings(deadline=None, max_examples=15)
def test_prdc_by_brute_force(seed, k, spread, shift):
    real, fake = randn(18, 3, seed=seed), spread * randn(11, 3, seed=seed + 1) + shift
    found = prdc(real, fake, k)
    assert [v.mean().item() for v in found] == pytest.approx(
        brute(real.numpy(), fake.numpy(), k), abs=1e-6
    )
    for batch in (1, 4):
        assert all(torch.equal(a, b) for a, b in zip(prdc(real, fake, k, batch), found))
    # precision and recall trade places with the sets
    assert torch.equal(prdc(fake, real, k).precision, found.recall)


def test_support_on_a_line():
    real = torch.arange(10.0)[:, None]
    region = support(real, 2, quantile=0.75)  # second neighbours: 2 at the ends, 1 between
    assert region.threshold.item() == 1.0
    points = torch.tensor([[[4.4], [9.5]], [[9.0], [-1.0]]])
    close(region.distance(points), torch.tensor([[0.6, 1.5], [1.0, 2.0]]), 1e-6)
    assert torch.equal(region.inside(points), torch.tensor([[1.0, 0.0], [1.0, 0.0]]))


def test_mahalanobis_as_scikit_learn_and_scipy_have_it():
    from scipy.spatial.distance import mahalanobis
    from sklearn.covariance import LedoitWolf

    for n, D in ((40, 6), (10, 30)):  # more images than features, and fewer
        real, points = randn(n, D) @ randn(D, D, seed=1) + 3, randn(5, D, seed=2)
        oracle, fit = LedoitWolf().fit(real.numpy()), gaussian(real)
        assert fit.shrink == pytest.approx(oracle.shrinkage_, abs=1e-9)
        close(
            fit.distance(points),
            [mahalanobis(p, oracle.location_, oracle.precision_) for p in points.numpy()],
            1e-6,
        )
    flat = gaussian(real, shrink=1.0)
    # a ball: its radius is that of the data
    close(flat.distance(real).square().sum(), float(n * D), 1e-6)


def test_without_shrinking_it_depends_on_no_choice_of_axes():
    real, points, A = randn(50, 4), randn(6, 4, seed=1), randn(4, 4, seed=2)
    close(gaussian(real @ A, 0.0).distance(points @ A), gaussian(real, 0.0).distance(points), 1e-9)


def test_free_energy():
    logits = 5 * randn(2, 7, 10)
    close(free_energy(logits), -logits.exp().sum(-1).log(), 1e-12)
    close(free_energy(logits, 1e-3), -logits.max(-1).values, 1e-2)
    close(free_energy(logits + 3), free_energy(logits) - 3, 1e-12)


# --- what is refused ------------------------------------------------------------------------------


X0, X = ends()
LINE = straight_path(X0, X, 3)
NAN = torch.full((3, 5), torch.nan, dtype=torch.float64)
BAD = {
    "a measure that averages": (
        lambda: along(LINE, {"lpips": lambda p: p.mean()}),
        "'lpips' must return a number or a vector for each of 12 points.*reduction",
    ),
    "a measure of maps": (
        lambda: along(LINE, {"maps": lambda p: p[:, None, None]}),
        r"'maps'.*\(12, 1, 1, 5\)",
    ),
    "a measure of nothing": (lambda: along(LINE, {"none": lambda p: None}), "NoneType"),
    "a path of one point": (lambda: along([X], {}), "two points or more.*got 1"),
    "a leap of one point": (lambda: largest_step([X]), "two points or more"),
    "no batch": (lambda: along(LINE, {}, batch=0), "batch must be at least 1"),
    "NaN on the way": (
        lambda: along([X0, NAN, X], {"sum": lambda p: p.sum(1)}),
        "`gamma` must be finite",
    ),
    "ends of two shapes": (lambda: remaining(X0, X[:, :2]), "x0"),
    "a jump in no steps": (lambda: jump_path(X0, X, 0), "steps must be at least 1, got 0"),
    "a curve of one point": (lambda: area(torch.ones(1, 3)), r"T ≥ 1, got \(1, 3\)"),
    "a curve of another path": (
        lambda: area(torch.ones(4, 3), torch.ones(5, 3)),
        r"\(4, 3\) and \(5, 3\)",
    ),
    "maps for features": (
        lambda: prdc(torch.rand(9, 3, 2), torch.rand(9, 3)),
        "one vector per row",
    ),
    "two embeddings": (
        lambda: prdc(torch.rand(9, 3), torch.rand(9, 4)),
        "one embedding, but have 4 and 3",
    ),
    "NaN features": (lambda: support(torch.full((9, 2), torch.nan)), "NaN"),
    "integers for features": (
        lambda: support(torch.ones(9, 2, dtype=torch.long)),
        "floating-point tensor, got torch.int64",
    ),
    "more neighbours than images": (
        lambda: support(torch.rand(5, 2), 5),
        r"`k` must be in 1…4.*got 5",
    ),
    "no neighbours": (lambda: neighbour_distance(X, X, 0), "`k` must be in 1…3"),
    "a quantile of 2": (lambda: support(torch.rand(9, 2), 2, 2.0), "quantile"),
    "a flat Gaussian": (
        lambda: gaussian(torch.rand(3, 9), 0.0),
        "3 images in 9 features has no inverse",
    ),
    "one image": (lambda: gaussian(torch.rand(1, 9)), "two images or more"),
    "temperature 0": (lambda: free_energy(X, 0.0), "`temperature` must be above 0"),
    "no iterations": (
        lambda: nearest_on_manifold(torus, X[:, :3], X[:, :2], 0),
        "`iterations` must be at least 1",
    ),
    "a point of another world": (lambda: nearest_on_manifold(torus, X, X[:, :2]), r"\(3, 5\)"),
    "a NaN point": (lambda: nearest_on_manifold(torus, NAN[:, :3], X[:, :2]), "`x` must be finite"),
    "a layer that is not there": (
        lambda: taps(nn.Sequential(nn.ReLU()), ["7"]),
        r"unknown: \['7'\]",
    ),
    "layers that differ": (lambda: feature_distance([X], [X[:, :2]]), "one shape"),
    "a layer missing": (lambda: feature_distance([X, X], [X]), "same layers.*2, 1"),
    "weights of one layer for two": (
        lambda: features_to(X, lambda x: [x, x], [torch.ones(5)]),
        "same layers.*2, 2 and 1",
    ),
    "no weights for a layer": (lambda: features_to(X, lambda x: [x], []), "same layers.*0"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_refused(what):
    call, says = BAD[what]
    with pytest.raises(ValueError, match=says):
        call()


def test_a_network_in_train_mode_and_a_layer_that_was_not_run_are_named():
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)).double()
    with pytest.raises(ValueError, match="train mode: 1"):
        taps(model, ["0"])(X)
    model.spare = nn.Linear(2, 2)
    model.forward = lambda x: model[0](x)
    with pytest.raises(ValueError, match=r"\['spare'\] were not run"):
        taps(model.eval(), ["spare"])(X)
