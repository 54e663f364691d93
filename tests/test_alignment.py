"""Alignment: fractions that a rotation of the basis cannot change, splits without a basis, rankings, removal and retraining."""

import copy
import math

import pytest
import torch
from helpers import randn, seeded
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from manifold_xai.evaluation.alignment import tangent_fraction, tangent_importance
from manifold_xai.evaluation.controls import digit_mask, structure, tangent_noise
from manifold_xai.evaluation.roar import removed, roar
from manifold_xai.geometry.matrix_free import project_matrix_free
from manifold_xai.geometry.metric import project, random_fraction, tangent_basis
from manifold_xai.subjects.autoencoders import digit_vae
from manifold_xai.subjects.data import Images


def orthonormal(b, D, k, seed=0):
    return torch.linalg.qr(randn(b, D, k, seed=seed)).Q


# --- the fraction --------------------------------------------------------------------------------------------------------------


def test_on_a_sphere_it_is_the_sine_of_the_angle():
    x = nn.functional.normalize(randn(50, 3), dim=1)
    a = randn(50, 3, seed=1)
    basis = torch.linalg.svd(x[:, None])[2][:, 1:].mT  # what is at right angles to x
    cosine = (a * x).sum(1) / a.norm(dim=1)
    torch.testing.assert_close(tangent_fraction(basis, a), (1 - cosine**2).sqrt(), atol=1e-12, rtol=0)


@given(st.integers(1, 6), st.integers(0, 1000), st.floats(-30, 30))
@settings(deadline=None, max_examples=40)
def test_it_depends_on_the_space_and_the_direction_only(k, seed, power):
    basis, A = orthonormal(3, 12, k, seed), randn(3, 1, 3, 4, seed=seed + 1)
    turn = orthonormal(1, k, k, seed + 2)
    want = project(basis, A).tangent.flatten(1).norm(dim=1) / A.flatten(1).norm(dim=1)
    assert ((tangent_fraction(basis, A) - want).abs() < 1e-12).all() and (want <= 1).all()
    torch.testing.assert_close(tangent_fraction(basis @ turn, -(10.0**power) * A), want, atol=1e-12, rtol=0)


def test_tiny_maps_in_single_precision_are_measured_not_lost():
    basis, A = orthonormal(4, 100, 5).float(), randn(4, 1, 10, 10, seed=1).float()
    torch.testing.assert_close(tangent_fraction(basis, 1e-30 * A), tangent_fraction(basis, A), atol=1e-5, rtol=0)


def test_the_ends_of_the_scale():
    basis = orthonormal(4, 64, 6)
    inside = tangent_noise(basis, torch.zeros(4, 1, 8, 8), seeded())
    outside = project(basis, randn(4, 1, 8, 8)).normal
    torch.testing.assert_close(tangent_fraction(basis, inside), torch.ones(4).double(), atol=1e-12, rtol=0)
    assert tangent_fraction(basis, outside).max() < 1e-12
    assert (tangent_fraction(basis, torch.zeros(4, 1, 8, 8)) == 0).all()


def test_noise_has_the_exact_level_and_a_row_does_not_see_its_neighbours():
    n, D, k = 20000, 32, 5
    basis, A = orthonormal(1, D, k).expand(n, D, k), randn(n, D, seed=3)
    found = tangent_fraction(basis, A)
    error = 4 * found.std() / math.sqrt(n)
    assert abs(found.mean() - random_fraction(k, D)) < error < abs(math.sqrt(k / D) - random_fraction(k, D))  # tells the two apart
    assert tangent_fraction(basis[7:8], A[7:8]).item() == pytest.approx(found[7].item(), abs=1e-12)


@pytest.mark.parametrize("A, says", [
    (torch.ones(2, 1, 3, 3), "same images"), (torch.ones(3, 1, 3, 4), "same images"), (torch.full((2, 12), torch.nan), "NaN or infinite"),
    (torch.ones(2, 12, dtype=torch.long), "floating-point"), (None, "NoneType"),
])
def test_a_map_that_cannot_be_meant_is_refused(A, says):
    with pytest.raises(ValueError, match=says):
        tangent_fraction(orthonormal(2, 12, 3), A)


# --- controls ------------------------------------------------------------------------------------------------------------------


def test_tangent_noise_is_even_in_all_directions_of_the_space():
    basis = orthonormal(1, 40, 3).expand(6000, 40, 3)
    v = tangent_noise(basis, torch.zeros(6000, 40), seeded(1))
    c = (basis.mT @ v[..., None])[..., 0]
    assert (v.norm(dim=1) - 1).abs().max() < 1e-12
    assert (c.mT @ c / 6000 - torch.eye(3) / 3).abs().max() < 0.02  # 4 standard errors of a mean of 6,000
    assert torch.equal(v, tangent_noise(basis, torch.zeros(6000, 40), seeded(1)))


def test_the_mask_is_where_any_channel_is_bright_and_widens_by_pixels():
    x = torch.zeros(1, 3, 7, 7)
    x[0, 2, 3, 3] = 0.5
    assert digit_mask(x).sum() == 1 and digit_mask(x)[0, 0, 3, 3] == 1
    assert digit_mask(x, widen=1).sum() == 9 and digit_mask(x, threshold=0.6).sum() == 0


def test_structure_is_a_correlation_of_neighbours():
    wave = (2 * math.pi * torch.arange(400.0) / 8).sin()
    A = wave.expand(1, 1, 400, 400)  # right: cos(2π/8), below: 1
    assert structure(A).item() == pytest.approx((1 + math.cos(math.pi / 4)) / 2, abs=5e-3)
    assert structure(A.mT).item() == pytest.approx(structure(A).item(), abs=1e-5)
    checks = (torch.arange(8)[:, None] + torch.arange(8)).remainder(2).float()
    assert structure(checks[None, None]).item() == pytest.approx(-1, abs=1e-5)
    noise = randn(200, 2, 32, 32)
    assert abs(structure(noise).mean()) < 0.01
    torch.testing.assert_close(structure(-3e-25 * noise.float() + 0), structure(noise).float(), atol=1e-4, rtol=0)
    assert structure(torch.ones(2, 1, 4, 4)).tolist() == [0, 0]
    for bad in (torch.ones(2, 16), torch.ones(2, 1, 1, 16), torch.full((1, 1, 4, 4), torch.inf)):
        with pytest.raises(ValueError):
            structure(bad)


# --- importance, removal, retraining ----------------------------------------------------------------------------------------------


def test_importance_is_the_squared_fraction_of_each_pixel_and_adds_up_to_k():
    basis = orthonormal(3, 12, 4)
    importance = tangent_importance(basis, torch.zeros(3, 1, 3, 4))
    torch.testing.assert_close(importance.flatten(1).sum(1), torch.full((3,), 4.0).double())
    for j in range(12):
        one = torch.eye(12).double()[j].expand(3, 12)
        torch.testing.assert_close(importance.flatten(1)[:, j], tangent_fraction(basis, one) ** 2, atol=1e-12, rtol=0)
    with pytest.raises(ValueError, match="same images"):
        tangent_importance(basis, torch.zeros(3, 1, 4, 4))


def test_a_product_of_surfaces_shares_importance_equally():
    def half(z):
        return torch.stack([z[:, 0], z[:, 1].sin(), z[:, 0] * z[:, 1]], 1)

    def whole(z):
        return torch.cat([half(z[:, :2]), 100 * half(z[:, 2:])], 1)

    z = randn(5, 4)
    importance = tangent_importance(tangent_basis(whole, z), whole(z))
    torch.testing.assert_close(importance[:, :3].sum(1), torch.full((5,), 2.0).double(), atol=1e-9, rtol=0)


def test_removed_takes_the_highest_and_only_those():
    x = torch.rand(5, 3, 4, 4, generator=seeded()) + 1
    ranking = torch.rand(5, 1, 4, 4, generator=seeded(1))
    for share in (0, 0.25, 1):
        out = removed(x, ranking, share, generator=seeded())
        gone = (out == 0).all(1).flatten(1)
        assert (gone.sum(1) == round(16 * share)).all() and ((out == x) | (out == 0)).all()
        if share == 0.25:
            values = ranking.flatten(1)
            assert (values.masked_fill(~gone, 2).amin(1) >= values.masked_fill(gone, -1).amax(1)).all()


def test_fills_are_what_they_say():
    x, source = torch.zeros(50, 2, 8, 8), torch.rand(40, 2, 8, 8, generator=seeded())
    source[:, 1] += 5
    ranking = torch.rand(50, 2, 8, 8, generator=seeded(1))
    mean = removed(x, ranking, 0.5, "mean", source=source, generator=seeded())
    torch.testing.assert_close(mean.amax((0, 2, 3)), source.mean((0, 2, 3)))
    noise = removed(x, ranking, 1, "noise", source=source, generator=seeded())
    # one drawn pixel, all its channels
    assert torch.isin(noise[:, 0], source[:, 0]).all()
    assert (noise[:, 1] - noise[:, 0]).std() < 1
    assert noise[:, 0].std() == pytest.approx(source[:, 0].std().item(), rel=0.05)
    assert torch.equal(noise, removed(x, ranking, 1, "noise", source=source, generator=seeded()))


def test_ties_go_at_random_and_not_from_the_top():
    out = removed(torch.ones(400, 1, 8, 8), torch.zeros(400, 1, 8, 8), 0.5, generator=seeded())
    assert (out.mean((0, 1)) - 0.5).abs().max() < 0.12  # 4.8 standard errors, for 64 pixels


@pytest.mark.parametrize("change, says", [
    (dict(share=1.5), "share"), (dict(fill="grey"), "zero, mean, noise"), (dict(ranking=torch.ones(2, 1, 4, 5)), "each pixel"),
    (dict(ranking=torch.full((2, 1, 4, 4), torch.nan)), "NaN"),
])
def test_removal_refuses_what_cannot_be_meant(change, says):
    given = dict(x=torch.ones(2, 1, 4, 4), ranking=torch.ones(2, 1, 4, 4), share=0.5, fill="zero") | change
    with pytest.raises(ValueError, match=says):
        removed(**given, generator=seeded())


def lesson(n, seed):
    "Two classes told apart by the brightness of one corner alone."
    x = torch.rand(n, 1, 6, 6, generator=seeded(seed)) * 0.5
    y = torch.randint(2, (n,), generator=seeded(seed + 1))
    x[:, 0, 0, 0] = y * 0.8 + 0.1
    return Images(x, y, torch.arange(n))


def linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 2))


def test_retraining_without_the_corner_that_decides_is_guessing():
    train, test = lesson(300, 0), lesson(200, 10)
    corner = torch.zeros(1, 1, 6, 6)
    corner[..., 0, 0] = 1
    elsewhere = 1 - corner
    how = dict(make=linear, shares=(0.1,), epochs=15, lr=0.05)
    blind = roar(train, test, (corner.expand(300, -1, -1, -1), corner.expand(200, -1, -1, -1)), fill="mean", **how)
    sees = roar(train, test, (elsewhere.expand(300, -1, -1, -1), elsewhere.expand(200, -1, -1, -1)), fill="mean", **how)
    robbed = roar(train, test, (elsewhere.expand(300, -1, -1, -1), corner.expand(200, -1, -1, -1)), fill="mean", **how)
    assert blind.shape == (1, 200) and blind.dtype == torch.bool
    assert blind.double().mean() < 0.65
    assert sees.double().mean() > 0.95
    assert robbed.double().mean() < 0.65


def test_roar_repeats_and_leaves_the_global_generator_alone():
    train, test = lesson(60, 0), lesson(40, 10)
    rankings = train.x, test.x
    torch.manual_seed(3)
    before = torch.get_rng_state()
    how = dict(make=linear, shares=(0.2, 0.6), fill="noise", seed=4, epochs=2)
    one = roar(train, test, rankings, **how)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, roar(train, test, rankings, **how))


# --- without a basis ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vae():
    return copy.deepcopy(digit_vae("tc")).double()


def test_conjugate_gradients_agree_with_qr(vae):
    z, v = randn(6, 10), randn(6, 1, 32, 32, seed=1)
    found, want = project_matrix_free(vae.decode, z, v, tol=1e-11, iterations=200), project(tangent_basis(vae.decode, z), v)
    torch.testing.assert_close(found.tangent, want.tangent, atol=1e-9, rtol=0)
    torch.testing.assert_close(found.normal, want.normal, atol=1e-9, rtol=0)
    assert (found.residual <= 1e-11).all() and (found.iterations < 200).all()


def bumpy(z):  # latents as maps, (b, 2, 3, 3) -> (b, 1, 6, 6), curved
    return nn.functional.interpolate((z + 0.3 * z**3).sum(1, keepdim=True) + (z[:, :1] * z[:, 1:]).sin(), (6, 6), mode="bilinear")


def wide(z):
    return torch.cat([bumpy(z), z.sum((2, 3))[:, :1, None, None].cos() * bumpy(z).flip(3), z.repeat(1, 1, 2, 2)[:, :1] ** 3], 1)


def test_latents_may_be_maps_and_the_bound_comes_from_below():
    z, v = randn(3, 2, 3, 3), randn(3, 3, 6, 6, seed=1)
    want = tangent_fraction(tangent_basis(lambda z: wide(z.reshape(-1, 2, 3, 3)), z.flatten(1)), v)
    whole = v.flatten(1).norm(dim=1)
    bound = torch.stack([project_matrix_free(wide, z, v, tol=1e-12, iterations=n).tangent.flatten(1).norm(dim=1) / whole for n in (1, 2, 4, 8, 60)])
    assert (bound.diff(dim=0) > -1e-12).all() and (bound <= want + 1e-10).all()
    assert (bound[0] < 0.95 * want).all()  # it had something to do
    torch.testing.assert_close(bound[-1], want, atol=1e-8, rtol=0)


def test_rows_stop_by_themselves_and_do_not_see_each_other(vae):
    z, v = randn(4, 10), randn(4, 1, 32, 32, seed=2)
    v[0] = project(tangent_basis(vae.decode, z), v).normal[0]  # nothing to find in the first row
    v[1] = 0
    together = project_matrix_free(vae.decode, z, v, tol=1e-6)
    assert together.iterations[1] == 0
    assert together.tangent[1].abs().max() == 0
    assert all(t.isfinite().all() for t in together)
    for i in range(1, 4):
        alone = project_matrix_free(vae.decode, z[i : i + 1], v[i : i + 1], tol=1e-6)
        assert abs(alone.iterations - together.iterations[i]) <= 1  # batched products round differently
        torch.testing.assert_close(alone.tangent[0], together.tangent[i], atol=1e-5, rtol=0)


def test_stopping_early_says_so(vae):
    found = project_matrix_free(vae.decode, randn(2, 10), randn(2, 1, 32, 32), tol=1e-12, iterations=2)
    assert (found.iterations == 2).all() and (found.residual > 1e-12).all()


@pytest.mark.parametrize("change, says", [
    (dict(v=torch.ones(2, 1, 32, 31).double()), "shaped like decode"), (dict(v=torch.full((2, 1, 32, 32), torch.nan).double()), "NaN"),
    (dict(z=torch.full((2, 10), torch.inf).double()), "`z` must be finite"), (dict(iterations=0), "at least 1"),
])
def test_a_split_that_cannot_be_meant_is_refused(vae, change, says):
    given = dict(z=torch.zeros(2, 10).double(), v=torch.ones(2, 1, 32, 32).double()) | change
    with pytest.raises(ValueError, match=says):
        project_matrix_free(vae.decode, **given)
