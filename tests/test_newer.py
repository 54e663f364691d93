"""IDGI and IDG against closed forms, the published formula, and a package of another author."""

import pytest
import torch
from helpers import rand, small_net
from torch import nn

from manifold_xai import BlurIG, GuidedIG, IntegratedGradients, path_attribution, score
from manifold_xai import least_resistance_path, straight_path, value_and_grad
from manifold_xai.attribution.adaptive import adaptive_attribution

NEW = ("important", "decision")


def F(x):
    """u + v², whose three maps are known on the diagonal."""
    return x[:, 0] + x[:, 1] ** 2


CLOSED = {  # on u = v = t, from 0 to 1
    "path": (1.0, 1.0),
    "decision": (12 / 13, 14 / 13),
    "important": (torch.tensor(2.0).double().atan() / 2 + torch.tensor(5.0).double().log() / 4,),
}


def line(T):
    return straight_path(torch.zeros(1, 2).double(), torch.ones(1, 2).double(), T)


@pytest.mark.parametrize("integrand", CLOSED)
@pytest.mark.parametrize("rule", ("left", "trapezoid", "midpoint"))
def test_the_closed_form_is_reached_at_the_order_of_the_rule(integrand, rule):
    exact = CLOSED[integrand][0]
    few, many = (
        abs(path_attribution(F, line(T), rule=rule, integrand=integrand).A[0, 0] - exact)
        for T in (64, 128)
    )
    assert few < 0.02
    if few > 1e-12:  # the trapezoid may be exact
        assert few / many == pytest.approx(2 if rule == "left" else 4, rel=0.1)


@pytest.mark.parametrize("rule", ("left", "trapezoid", "midpoint"))
@pytest.mark.parametrize("integrand", NEW)
def test_both_are_complete_whatever_the_steps(integrand, rule):
    model, x = small_net((nn.SiLU(), nn.SiLU())), rand(3, 1, 12, 12)
    for T in (2, 7):
        found = path_attribution(
            score(model), straight_path(0 * x, x, T), rule=rule, integrand=integrand
        )
        assert found.gap.abs().max() < 1e-12


def published_idgi(grads, values):
    """The published loop: gradients and scores at the points of a path, one row."""
    total = torch.zeros_like(grads[0])
    for grad, here, there in zip(grads, values, values[1:]):
        total += grad**2 * (there - here) / (grad**2).sum()
    return total


@pytest.mark.parametrize("make", (IntegratedGradients, GuidedIG, BlurIG))
def test_idgi_is_the_published_formula_on_every_path(make):
    f, x = score(small_net((nn.SiLU(), nn.SiLU()))), rand(2, 1, 12, 12, seed=3)
    own = make(f, integrand="important").attribute(x, target=1, n_steps=9, rule="left")
    gamma = make(f).path(f.with_target(1), 0 * x, x, 9, None)
    for row in range(2):
        value, grad = zip(*(value_and_grad(f.with_target(1), point[[row]]) for point in gamma))
        expected = published_idgi([g[0] for g in grad], [v[0] for v in value])
        torch.testing.assert_close(own[row], expected, rtol=1e-10, atol=1e-12)


def test_idg_is_that_of_its_package():
    idg = pytest.importorskip("integrated_decision_gradients")
    model, x = small_net((nn.SiLU(), nn.SiLU())), rand(3, 1, 12, 12, seed=4)
    how = dict(baseline=0 * x, target=2, n_steps=20, adaptive=False)
    theirs = idg.idg.get_integrated_decision_gradients(model, x, **how)
    ours = IntegratedGradients(model, integrand="decision").attribute(
        x, target=2, n_steps=20, rule="midpoint"
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_a_flat_score_gives_nothing():
    x = rand(2, 4)
    for integrand in NEW:
        flat = path_attribution(
            lambda x: 0 * x.sum(1), straight_path(0 * x, x, 5), integrand=integrand
        )
        assert flat.A.eq(0).all()


def test_what_cannot_be_is_refused():
    x = rand(1, 4)
    for integrand in NEW:
        with pytest.raises(ValueError, match="choose another rule"):
            path_attribution(F, straight_path(0 * x, x), rule="gauss-legendre", integrand=integrand)
        with pytest.raises(ValueError, match="choose n_steps"):
            adaptive_attribution(F, straight_path(0 * x, x), integrand=integrand)
        with pytest.raises(ValueError, match="refine is for the first"):
            path_attribution(F, straight_path(0 * x, x), refine=0.1, integrand=integrand)


def test_the_path_of_least_resistance_is_the_geodesic_of_its_metric():
    """A probability of u alone: v moves evenly, u so that its own length does."""
    steep, stretch, steps = 6.0, 0.5, 40

    def outputs(x):
        p = (steep * x[:, :1]).sigmoid()
        return torch.cat([p, 1 - p], 1)

    x0, x = torch.tensor([[-1.0, 0.0]]).double(), torch.tensor([[1.0, 1.0]]).double()
    how = dict(stretch=stretch, solver="gauss-newton", iterations=200)
    found = least_resistance_path(outputs, x0, x, steps, **how).stack()[:, 0]
    u = torch.linspace(-1, 1, 20001).double()
    p = (steep * u).sigmoid()
    speed = (2 * (steep * p * (1 - p)) ** 2 + stretch**2).sqrt()
    length = torch.cumulative_trapezoid(speed, u)
    even = torch.linspace(0, 1, steps + 1).double()
    places = torch.searchsorted(length, even[1:-1] * length[-1])
    assert (found[1:-1, 0] - u[1:][places]).abs().max() < 2e-3
    assert (found[:, 1] - even).abs().max() < 1e-4
    assert (found[:, 0] - (2 * even - 1)).abs().max() > 0.1  # and not the straight line
