"""Sanity tests of maps, equal to Quantus where it has them; the curve,
the best network and the split of Bordt et al.'s Theorem 1."""

import math
import warnings

import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from helpers import rand, randn, seeded
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from manifold_xai.chunks import value_and_grad
from manifold_xai.evaluation.efficient_mprt import efficient_mprt
from manifold_xai.evaluation.hypercube import (
    TwoLayer,
    hypercube_corners,
    max_margin_network,
    rounded_walk,
)
from manifold_xai.evaluation.sanity import (
    complexity,
    edges,
    mprt,
    planted,
    randomised,
    rank_correlation,
    share_on,
)
from manifold_xai.score import score
from manifold_xai.subjects.classifiers import DigitCNN


def cnn(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return DigitCNN(width=4).eval().requires_grad_(False)


def same(a, b):
    return {
        name: torch.equal(p, dict(b.named_parameters())[name])
        for name, p in a.named_parameters()
        if name.endswith("weight")
    }


# --- networks with fewer and fewer of their own weights -------------------------------------------


@pytest.mark.parametrize(
    "order, kept", [("top_down", (3, 0)), ("bottom_up", (3, 0)), ("independent", (3, 3))]
)
def test_layers_are_redrawn_one_after_the_other(order, kept):
    model = nn.Sequential(*(nn.Linear(5, 5) for _ in range(4)))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    stages = list(randomised(model, seeded(), order))
    names = ["3", "2", "1", "0"] if order == "top_down" else ["0", "1", "2", "3"]
    assert [name for name, _ in stages] == names
    for done, (name, changed) in enumerate(stages):
        redrawn = {name} if order == "independent" else set(names[: done + 1])
        assert {
            n.split(".")[0] for n, equal in same(model, changed).items() if not equal
        } == redrawn
    assert (
        sum(same(model, stages[0][1]).values()),
        sum(same(model, stages[-1][1]).values()),
    ) == kept
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_layers_of_one_shape_get_weights_of_their_own_and_the_seed_decides():
    model = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5))
    first, again, other = (list(randomised(model, seeded(s)))[-1][1] for s in (0, 0, 1))
    assert not torch.equal(first[0].weight, first[1].weight)
    assert all(same(first, again).values()) and not any(same(first, other).values())
    state = torch.get_rng_state()
    list(randomised(model, seeded()))
    assert torch.equal(state, torch.get_rng_state())  # nobody else's random numbers move


def test_batch_norm_forgets_what_it_has_seen():
    model = nn.Sequential(nn.BatchNorm1d(3)).train()
    model(rand(10, 3).float())
    _, changed = next(randomised(model.eval(), seeded()))
    assert changed[0].running_mean.abs().max() == 0 and not changed.training


def test_parameters_that_stay_are_named():
    class Owner(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.linear = nn.Parameter(torch.ones(3)), nn.Linear(3, 2)

    with pytest.warns(UserWarning, match="stay as trained.*: scale"):
        list(randomised(Owner(), seeded()))


def test_a_model_that_cannot_be_redrawn_and_an_unknown_order_are_refused():
    with pytest.raises(ValueError, match="no layer that can be redrawn"):
        next(randomised(nn.Sequential(nn.ReLU()), seeded()))
    with pytest.raises(
        ValueError, match="order must be one of top_down, bottom_up, independent, got 'up'"
    ):
        next(randomised(nn.Linear(2, 2), seeded(), "up"))


# --- rank correlation -----------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 9999), n=st.integers(3, 60), levels=st.integers(2, 50))
def test_rank_correlation_is_scipys_with_ties(seed, n, levels):
    A, B = ((rand(3, n, seed=seed + i) * levels).floor() for i in (0, 1))
    A[:, 0], B[:, 1], A[:, 1], B[:, 0] = 99, 99, -1, -1  # none is constant
    theirs = [scipy.stats.spearmanr(a, b)[0] for a, b in zip(A, B)]
    torch.testing.assert_close(
        rank_correlation(A, B), torch.tensor(theirs, dtype=torch.float64), rtol=0, atol=1e-12
    )


def test_rank_correlation_where_is_that_of_the_pixels_there():
    A, B, where = rand(3, 1, 6, 6), rand(3, 1, 6, 6, seed=1), rand(3, 1, 6, 6, seed=2) > 0.4
    theirs = [scipy.stats.spearmanr(a[w], b[w])[0] for a, b, w in zip(A, B, where)]
    torch.testing.assert_close(
        rank_correlation(A, B, where), torch.tensor(theirs, dtype=torch.float64), rtol=0, atol=1e-12
    )


def test_rank_correlation_of_constant_maps():
    A, zero = rand(1, 9), torch.zeros(1, 9, dtype=torch.float64)
    assert [
        rank_correlation(*pair).item() for pair in ((zero, zero), (zero, A), (A, A), (A, -A))
    ] == pytest.approx([1, 0, 1, -1])


@pytest.mark.parametrize("p", [0.3, 0.8])
def test_strangers_that_share_a_background_look_alike(p):
    lit = torch.arange(4000) >= 4000 * p
    A, B = (torch.randn(20, 4000, generator=seeded(i)).abs() * lit for i in (0, 1))
    assert rank_correlation(A, B).mean().item() == pytest.approx(
        3 * p / (3 * p + (1 - p) ** 2), abs=5e-3
    )
    assert abs(rank_correlation(A, B, lit[None]).mean().item()) < 0.03


@pytest.mark.parametrize(
    "A, B, where, says",
    [
        (rand(2, 4), rand(2, 5), None, "must have one shape"),
        (rand(2, 4), rand(2, 4) * torch.nan, None, "must be finite, but 8 of 8"),
        (rand(2, 4), rand(2, 4), torch.arange(4) < 1, "needs two pixels or more"),
    ],
)
def test_maps_that_cannot_be_compared_are_refused(A, B, where, says):
    with pytest.raises(ValueError, match=says):
        rank_correlation(A, B, where)


# --- the randomisation tests ----------------------------------------------------------------------


def quantus_explain(model, inputs, targets, **_):
    x = torch.as_tensor(inputs, dtype=torch.float32)
    grad = value_and_grad(score(model.eval(), torch.as_tensor(targets).long()), x)[1]
    return (x * grad).double().numpy()


@pytest.fixture(scope="module")
def case():
    return cnn(), torch.rand(3, 1, 32, 32, generator=seeded(5)), torch.tensor([1, 2, 3])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("order", ["top_down", "bottom_up", "independent"])
def test_mprt_is_quantus(case, order):
    quantus = pytest.importorskip("quantus")
    from quantus.helpers.model.pytorch_model import PyTorchModel

    model, x, y = case
    test = quantus.MPRT(layer_order=order, seed=3, disable_warnings=True)
    theirs = test(model=model, x_batch=x.numpy(), y_batch=y.numpy(), explain_func=quantus_explain)
    networks = PyTorchModel(model).get_random_layer_generator(order=order, seed=3)
    ours = mprt(
        lambda network, x: torch.tensor(quantus_explain(network, x.numpy(), y)), model, x, networks
    )
    assert list(ours) == list(theirs)[1:]
    for name in ours:
        torch.testing.assert_close(
            ours[name], torch.tensor(theirs[name], dtype=torch.float64), rtol=0, atol=1e-6
        )


@pytest.mark.filterwarnings("ignore")
def test_efficient_mprt_is_quantus(case):
    quantus = pytest.importorskip("quantus")
    from quantus.helpers.model.pytorch_model import PyTorchModel

    model, x, y = case
    theirs = quantus.EfficientMPRT(seed=3, disable_warnings=True)(
        model=model, x_batch=x.numpy(), y_batch=y.numpy(), explain_func=quantus_explain
    )
    *_, (_, last) = PyTorchModel(model).get_random_layer_generator(order="bottom_up", seed=3)
    ours = efficient_mprt(
        *(torch.tensor(quantus_explain(network, x.numpy(), y)) for network in (model, last))
    )
    torch.testing.assert_close(ours, torch.tensor(theirs, dtype=torch.float64), rtol=0, atol=1e-6)


def test_mprt_sees_a_map_that_ignores_the_network_and_one_that_does_not(case):
    model, x, y = case
    stages = list(randomised(model, seeded()))
    stays = mprt(lambda network, x: edges(x), model, x, stages)
    assert all(v.min() == pytest.approx(1) for v in stays.values()) and len(stays) == 7
    moves = mprt(lambda network, x: value_and_grad(score(network, y), x)[1], model, x, stages)
    assert all(v.max() < 0.8 for v in moves.values())


def test_signs_count_unless_absolute(case):
    model, x, _ = case
    turn = {id(model): 1.0}

    def explain(network, x):
        return turn.get(id(network), -1.0) * x

    stages = list(randomised(model, seeded()))[:1]
    assert mprt(explain, model, x, stages)["13"].min() == pytest.approx(1)
    assert mprt(explain, model, x, stages, absolute=False)["13"].max() == pytest.approx(-1)


@pytest.mark.parametrize(
    "explain, says",
    [
        (lambda m, x: x[:, :, :3], "must return a map like x"),
        (lambda m, x: x / 0 * 0, "must be finite"),
    ],
)
def test_an_explanation_that_is_no_map_is_refused(case, explain, says):
    model, x, _ = case
    with pytest.raises(ValueError, match=says):
        mprt(explain, model, x, [])


# --- complexity -----------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 9999), n=st.integers(2, 300), bins=st.integers(1, 120), grid=st.booleans()
)
def test_complexity_is_the_entropy_of_numpys_histogram(seed, n, bins, grid):
    import numpy as np

    A = rand(3, n, seed=seed) - 0.3
    A = (A * 10).round() / 10 if grid else A  # values on the edges
    A[:, :2] = torch.tensor([-0.5, 0.9], dtype=A.dtype)
    theirs = [scipy.stats.entropy(np.histogram(a.numpy(), bins=bins)[0]) for a in A]
    torch.testing.assert_close(
        complexity(A, bins), torch.tensor(theirs, dtype=torch.float64), rtol=0, atol=1e-10
    )


def test_complexity_on_paper():
    assert complexity(torch.tensor([[0.0, 1.0] * 50])).item() == pytest.approx(math.log(2))
    assert complexity(torch.linspace(0, 1, 10000)[None]).item() == pytest.approx(
        math.log(100), abs=1e-6
    )
    assert complexity(torch.full((1, 9), 0.3)).item() == 0
    on_edges = torch.tensor([[0.0, 1, 1, 2, 4]])  # in four bins: 1, 2, 1 and 1 values
    assert complexity(on_edges, 4).item() == pytest.approx(scipy.stats.entropy([1, 2, 1, 1]))
    A = rand(2, 1, 8, 8)
    torch.testing.assert_close(complexity(1e-30 * A + 0), complexity(A))  # no scale


def test_bad_maps_have_no_complexity():
    A = rand(2, 9)
    with pytest.raises(ValueError, match="1 of the 2 maps have one value only"):
        efficient_mprt(torch.cat([A[:1], 0 * A[:1]]), A)
    with pytest.raises(ValueError, match="bins must be at least 1, got 0"):
        complexity(A, 0)
    with pytest.raises(ValueError, match="must be finite"):
        complexity(A / 0)
    with pytest.raises(ValueError, match="must have one shape"):
        efficient_mprt(A, A[:1])


def test_edges_are_slopes():
    x = 2 * torch.arange(7.0).view(1, 1, 7, 1).expand(2, 3, 7, 5)
    assert torch.equal(edges(x)[:, :, 1:-1], torch.full((2, 3, 5, 5), 2.0))
    assert edges(torch.ones(1, 1, 4, 4)).abs().max() == 0


# --- a planted mark -------------------------------------------------------------------------------


def corner(size=6):
    mark = torch.zeros(size, size, dtype=torch.bool)
    mark[:2, :3] = True
    return mark


def test_a_mark_is_painted_on_the_rows_asked_for_and_on_a_copy():
    x, rows = rand(4, 3, 6, 6), torch.tensor([True, False, False, True])
    before, marked = x.clone(), planted(x, corner(), rows, value=0.5)
    assert torch.equal(x, before) and torch.equal(marked[~rows], x[~rows])
    assert (marked[rows][..., corner()] == 0.5).all()
    assert torch.equal(marked[..., ~corner()], x[..., ~corner()])
    assert torch.equal(planted(x, corner()), planted(x, corner(), torch.ones(4, dtype=torch.bool)))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 3]))
def test_shares_add_up_ignore_sign_and_scale_and_keep_rows_apart(seed, channels):
    A = randn(5, channels, 6, 6, seed=seed)
    share = share_on(A, corner())
    assert torch.allclose(
        share + share_on(A, ~corner()), torch.ones(5, dtype=torch.float64), atol=1e-12
    )
    assert torch.allclose(share_on(-1e-30 * A, corner()), share, atol=1e-12)
    assert torch.equal(share_on(A[2:3], corner()), share[2:3])
    by_hand = (
        sum(abs(A[0, c, i, j].item()) for c in range(channels) for i in range(2) for j in range(3))
        / A[0].abs().sum().item()
    )
    assert share[0].item() == pytest.approx(by_hand, abs=1e-12)


def test_a_map_of_zeros_has_no_share_and_each_image_may_have_its_own_pixels():
    where = torch.zeros(2, 1, 6, 6, dtype=torch.bool)
    where[1] = True
    assert share_on(torch.zeros(2, 1, 6, 6), where).tolist() == [0, 0]
    assert share_on(torch.ones(2, 1, 6, 6), where).tolist() == [0, 1]


@pytest.mark.parametrize(
    "mark",
    [
        torch.ones(6, 6),
        torch.ones(5, 6, dtype=torch.bool),
        torch.ones(1, 2, 3, 6, 6, dtype=torch.bool),
    ],
    ids=["no bool", "size", "too many"],
)
def test_pixels_that_do_not_fit_are_refused(mark):
    for use in (planted, share_on):
        with pytest.raises(ValueError, match=r"must be bool and fit images \(2, 3, 6, 6\)"):
            use(rand(2, 3, 6, 6), mark)


def test_rows_that_do_not_fit_and_maps_with_nan_are_refused():
    for rows in (torch.ones(3, dtype=torch.bool), torch.ones(2)):
        with pytest.raises(ValueError, match="a bool for each of the 2 images"):
            planted(rand(2, 3, 6, 6), corner(), rows)
    with pytest.raises(ValueError, match="NaN"):
        share_on(torch.full((1, 1, 6, 6), torch.nan), corner())


# --- Theorem 1 ------------------------------------------------------------------------------------


def lengths(corners):
    edge = corners.roll(-1, 0) - corners
    length = edge.norm(dim=1)
    along_first = edge[:, 0].abs() / length
    return [
        length[kind].sum().item() for kind in (along_first > 1 - 1e-12, along_first < 1e-12)
    ], length.sum().item()


@pytest.mark.parametrize("d", range(2, 33))
def test_half_of_the_curve_runs_along_the_first_coordinate(d):
    (first, across), total = lengths(hypercube_corners(d))
    assert first == pytest.approx(across, abs=1e-12)
    assert first + across == pytest.approx(total, abs=1e-12)
    assert torch.linalg.matrix_rank(hypercube_corners(d)) == d  # it needs every dimension


def test_the_printed_curve_does_not_in_odd_dimensions():
    (first, across), total = lengths(hypercube_corners(3, repaired=False))
    assert (first, across, total - first - across) == pytest.approx((2.0, 3.109, 1.576), abs=1e-3)


@pytest.mark.parametrize("d", [2, 3, 6, 7])
def test_the_curve_does_not_meet_itself(d):
    s = torch.linspace(0, 1, 1201, dtype=torch.float64)[:-1]
    x, _ = rounded_walk(hypercube_corners(d), s, 0.02)
    i = torch.arange(len(x))
    apart = (i[:, None] - i).abs()
    far = torch.minimum(apart, len(x) - apart) > 60
    assert torch.cdist(x, x)[far].min() > 0.1


@pytest.mark.parametrize("d, cut", [(2, 0.5), (3, 0.1), (8, 0.02)])
def test_walking_has_unit_tangents_and_even_steps(d, cut):
    n = 4000
    s = torch.linspace(0, 1, n + 1, dtype=torch.float64)
    x, tangent = rounded_walk(hypercube_corners(d), s, cut)
    torch.testing.assert_close(tangent.norm(dim=1), torch.ones(n + 1, dtype=torch.float64))
    step = x.diff(dim=0)
    assert step.norm(dim=1).max() / step.norm(dim=1).median() < 1 + 1e-9
    assert step.norm(dim=1).min() / step.norm(dim=1).median() > 0.99
    middle = (tangent[1:] + tangent[:-1]) / 2
    assert (F.normalize(step, dim=1) - F.normalize(middle, dim=1)).norm(dim=1).max() < 0.1
    torch.testing.assert_close(x[0], x[-1])


@pytest.mark.parametrize("d, eps", [(2, 0.01), (3, 0.1), (9, 0.3)])
def test_the_best_network_has_the_margin_that_no_network_exceeds(d, eps):
    network, margin = max_margin_network(d, eps)
    neurons = torch.cat([network.w[:, None], network.a, network.b[:, None]], 1)
    torch.testing.assert_close(neurons.norm(dim=1), torch.ones(2, dtype=torch.float64))
    s = torch.linspace(0, 1, 20001, dtype=torch.float64)
    x, _ = rounded_walk(hypercube_corners(d), s, 0.01)
    x = x[x[:, 0].abs() >= eps]
    margins = x[:, 0].sign() * network(x)
    assert margins.min() >= margin * (1 - 1e-9) and margins.min() < margin * 1.05
    theta = F.normalize(randn(200_000, d + 2), dim=1)
    best = torch.cat([theta, F.normalize(neurons[:1] + 0.01 * theta, dim=1), neurons])
    opponent = torch.zeros(2, d, dtype=torch.float64)
    opponent[:, 0] = torch.tensor([eps, -eps], dtype=torch.float64)
    earned = best[:, 0] * (
        (best[:, 1:-1] @ opponent.T + best[:, -1:]).relu()
        @ torch.tensor([0.5, -0.5], dtype=torch.float64)
    )
    assert earned.max().item() == pytest.approx(margin, rel=1e-12)


@pytest.mark.parametrize("d", [2, 5, 20])
def test_its_gradient_is_tangent_on_one_half_and_orthogonal_on_the_other(d):
    network, _ = max_margin_network(d, 0.004)
    x, tangent = rounded_walk(
        hypercube_corners(d), torch.linspace(0, 1, 20001, dtype=torch.float64)[:-1], 0.004
    )
    off = x[:, 0].abs() >= 0.004
    grad = value_and_grad(network, x[off])[1]
    assert grad[:, 0].min() == pytest.approx(1 / (4 * math.sqrt(1 + 0.004**2)))
    assert grad[:, 1:].abs().max() == 0
    part = (grad * tangent[off]).sum(1).abs() / grad.norm(dim=1)
    assert (part > 1 - 1e-9).double().mean() > 0.49 and (part < 1e-9).double().mean() > 0.49


def test_a_two_layer_network_is_the_mean_over_its_neurons():
    network = TwoLayer(
        torch.tensor([1.0, -2.0]), torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.tensor([0.5, -1.0])
    )
    assert network(torch.tensor([[1.0, 1.0], [-1.0, 0.0]])).tolist() == pytest.approx(
        [(1.5 - 2 * 2) / 2, 0]
    )
    assert all(p.requires_grad for p in network.parameters())


def test_curves_and_strips_that_cannot_be_are_refused():
    s = torch.linspace(0, 1, 5)
    with pytest.raises(ValueError, match="d must be at least 2"):
        hypercube_corners(1)
    with pytest.raises(
        ValueError, match="cut must be between 0 and half of the shortest edge, 0.5, got 0.6"
    ):
        rounded_walk(hypercube_corners(2), s, 0.6)
    with pytest.raises(ValueError, match=r"s must be shares of the way, in \[0, 1\], got 0 to 2"):
        rounded_walk(hypercube_corners(2), 2 * s)
    for eps in (0, 0.5):
        with pytest.raises(ValueError, match=r"eps must be in \(0, 1/2\)"):
            max_margin_network(3, eps)


def test_nothing_warns():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(randomised(cnn(), seeded()))
