"""The worlds' closed forms agree with each other, with finite differences, and with an independent library."""

import math

import numpy as np
import pytest
import torch
from helpers import seeded
from hypothesis import given, settings
from hypothesis import strategies as st

from manifold_xai.geometry import worlds
from manifold_xai.geometry.worlds import WORLDS, draw, lift, parabola_length, parabola_radius

seeds = st.integers(0, 2**32 - 1)
every_world = pytest.mark.parametrize("name", WORLDS)


def ends(name, n, seed):
    "n pairs of latents; on the paraboloid, pairs on a common meridian, where its closed form holds."
    generator = seeded(seed)
    z0, z1 = draw(WORLDS[name], 2 * n, generator).split(n)
    if name == "paraboloid":
        z1 = z0 * (3 * torch.rand(n, 1, generator=generator, dtype=z0.dtype) - 1.5)
    return z0, z1


def chords(world, gamma_z):
    return (world(gamma_z[1:]) - world(gamma_z[:-1])).norm(dim=-1)


@every_world
@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_metric_is_the_one_finite_differences_see(name, seed):
    world, h = WORLDS[name], 1e-5
    z = draw(world, 8, seeded(seed))
    step = h * torch.eye(2, dtype=z.dtype)[:, None]
    J = ((world(z + step) - world(z - step)) / (2 * h)).permute(1, 2, 0)
    # central differences: error h²·|g'''| of J, and |g'''| |J| stays below 200 in these boxes
    torch.testing.assert_close(J.mT @ J, world.metric(z), rtol=1e-7, atol=200 * h**2)


@every_world
@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_geodesics_have_their_ends_constant_speed_and_the_stated_length(name, seed):
    world = WORLDS[name]
    z0, z1 = ends(name, 4, seed)
    error = []
    for T in (100, 200):
        gamma_z = world.geodesic(z0, z1, T)
        torch.testing.assert_close(gamma_z[[0, -1]], torch.stack([z0, z1]), rtol=0, atol=1e-7)
        c = chords(world, gamma_z)
        # an arc's chord is shorter by a share (κ·arc)²/24; no geodesic in these boxes has κ above sinh 2.2 = 4.5 (pseudosphere)
        assert (1 - c.amin(0) / c.amax(0) <= (4.5 * c.amax(0)) ** 2 / 24 + 1e-9).all()
        error.append((c.sum(0) - world.distance(z0, z1)).abs())
    assert (error[1] <= error[0] / 3.5 + 1e-9).all()  # order 2: a quarter


@every_world
@settings(max_examples=10, deadline=None)
@given(seed=seeds)
def test_geodesics_are_stationary(name, seed):
    "First-order change of the energy under any bump that keeps the ends is zero; under the same bump of a non-geodesic it is not."
    world, T = WORLDS[name], 200
    z0, z1 = ends(name, 4, seed)
    gamma_z = world.geodesic(z0, z1, T)
    t = torch.linspace(0, 1, T + 1, dtype=z0.dtype)[:, None, None]
    bump = (math.pi * t).sin() * torch.randn(4, 2, generator=seeded(seed), dtype=z0.dtype)

    def slope(path, h=1e-4):
        E = [T / 2 * chords(world, path + s * h * bump).square().sum(0) for s in (-1, 1)]
        return (E[1] - E[0]) / (2 * h)

    size = 1 + world.distance(z0, z1) ** 2
    assert (slope(gamma_z).abs() < 2e-2 * size).all()
    assert (slope(gamma_z + 0.3 * bump).abs() > slope(gamma_z).abs()).all()


@every_world
@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_distance_is_symmetric_and_zero_only_at_the_same_point(name, seed):
    world = WORLDS[name]
    z0, z1 = ends(name, 4, seed)
    torch.testing.assert_close(world.distance(z0, z1), world.distance(z1, z0))
    assert (world.distance(z0, z0) == 0).all()
    torch.testing.assert_close(world.geodesic(z0, z0, 3), z0.expand(4, 4, 2), rtol=0, atol=1e-7)
    h = 1e-6 * torch.ones_like(z0) * (1 if name != "paraboloid" else z0)
    near = (h[:, None] @ world.metric(z0) @ h[:, :, None]).flatten().sqrt()
    torch.testing.assert_close(world.distance(z0, z0 + h), near, rtol=1e-4, atol=1e-9)  # close points: the metric, without cancellation


@pytest.fixture(scope="module")
def oracle():
    with pytest.MonkeyPatch.context() as patch:
        if not hasattr(np, "trapz"):  # geomstats 2.8 imports a name that NumPy 2.4 dropped
            patch.setattr(np, "trapz", np.trapezoid, raising=False)
        pytest.importorskip("geomstats.backend", reason="geomstats, an independent oracle, is absent or does not fit this NumPy", exc_type=ImportError)
        from geomstats.geometry.hypersphere import Hypersphere
        from geomstats.geometry.poincare_half_space import PoincareHalfSpace

        return Hypersphere(2), PoincareHalfSpace(2)


def test_sphere_against_geomstats(oracle):
    z0, z1 = ends("sphere", 20, 0)
    want = oracle[0].metric.dist(worlds.sphere(z0).numpy(), worlds.sphere(z1).numpy())
    torch.testing.assert_close(worlds.sphere.distance(z0, z1), torch.as_tensor(want), rtol=1e-7, atol=1e-7)


def test_pseudosphere_against_geomstats(oracle):
    z0, z1 = ends("pseudosphere", 20, 0)
    half_plane = [torch.stack([z[:, 1], z[:, 0].cosh()], 1) for z in (z0, z1)]
    want = oracle[1].metric.dist(*[p.numpy() for p in half_plane])
    torch.testing.assert_close(worlds.pseudosphere.distance(z0, z1), torch.as_tensor(want).reshape(-1), rtol=1e-6, atol=1e-7)


@every_world
@settings(max_examples=10, deadline=None)
@given(seed=seeds, pixels=st.integers(3, 60))
def test_lift_is_an_isometry(name, seed, pixels):
    world = WORLDS[name]
    lifted = lift(world, pixels, seeded(seed))
    z0, z1 = draw(world, 10, seeded(seed)).split(5)
    assert lifted(z0).shape == (5, pixels)
    torch.testing.assert_close((lifted(z1) - lifted(z0)).norm(dim=1), (world(z1) - world(z0)).norm(dim=1))


@every_world
def test_follows_the_dtype_of_its_input(name):
    z0, z1 = [z.float() for z in ends(name, 3, 0)]
    world = WORLDS[name]
    for value in (world(z0), world.metric(z0), world.distance(z0, z1), world.geodesic(z0, z1, 5), lift(world, 9)(z0)):
        assert value.dtype == torch.float32


def test_two_too_few_pixels():
    with pytest.raises(ValueError, match="pixels=2"):
        lift(worlds.sphere, 2)


def test_paraboloid_says_where_its_closed_form_ends():
    z0, z1 = torch.tensor([[1.0, 0.0]]).double(), torch.tensor([[0.0, 1.0]]).double()
    with pytest.raises(ValueError, match="meridians"):
        worlds.paraboloid.distance(z0, z1)
    with pytest.raises(ValueError, match="meridians"):
        worlds.paraboloid.geodesic(z0, z1, 5)


def test_sphere_geodesic_crosses_the_date_line_without_a_jump():
    z0, z1 = torch.tensor([[0.4, 3.0]]).double(), torch.tensor([[0.2, 3.6]]).double()
    gamma_z = worlds.sphere.geodesic(z0, z1, 50)
    assert gamma_z.diff(dim=0).abs().max() < 0.05
    torch.testing.assert_close(gamma_z[-1], z1)


@settings(max_examples=20, deadline=None)
@given(s=st.floats(-1e4, 1e4))
def test_parabola_radius_inverts_length_and_its_derivatives(s):
    s = torch.tensor(s, dtype=torch.float64, requires_grad=True)
    r = parabola_radius(s)
    torch.testing.assert_close(parabola_length(r), s, rtol=1e-12, atol=1e-12)
    (slope,) = torch.autograd.grad(r, s, create_graph=True)
    torch.testing.assert_close(slope, (1 + r**2) ** -0.5, rtol=1e-9, atol=1e-12)
    (bend,) = torch.autograd.grad(slope, s)
    torch.testing.assert_close(bend, -r / (1 + r**2) ** 2, rtol=1e-7, atol=1e-10)
