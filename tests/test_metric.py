"""The metric on worlds with closed forms, and the laws that lengths, energies and tangent spaces keep on any decoder."""

import math

import pytest
import torch
from helpers import rand, randn, seeded
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from manifold_xai.geometry import worlds
from manifold_xai.geometry.geodesic import geodesic
from manifold_xai.geometry.metric import (
    christoffel,
    constant_speed,
    jacobian,
    latent_line,
    magnification,
    metric_norm,
    normal_curvature,
    path_chords,
    path_curvature,
    path_energy,
    path_length,
    project,
    pullback_metric,
    random_fraction,
    slerp,
    tangent_basis,
)
from manifold_xai.geometry.worlds import WORLDS, draw

seeds = st.integers(0, 2**32 - 1)
every_world = pytest.mark.parametrize("name", WORLDS)


def close(a, b, rtol=1e-9, atol=1e-10):
    torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


@pytest.fixture(scope="module")
def images():
    "A smooth image decoder (b, 4) -> (b, 2, 8, 8)."
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 12), nn.SiLU(), nn.Unflatten(1, (3, 2, 2)), nn.ConvTranspose2d(3, 4, 4, 2, 1), nn.SiLU(), nn.ConvTranspose2d(4, 2, 4, 2, 1), nn.Sigmoid())
    for p in net.parameters():
        p.data.mul_(2)
    return net.double().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def maps():
    "A smooth image decoder of latent maps (b, 2, 4, 4) -> (b, 1, 8, 8)."
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.SiLU(), nn.ConvTranspose2d(4, 1, 4, 2, 1)).double().requires_grad_(False)


def wiggle(decode_ends, T, seed):
    "A latent path that is not straight and not even: line plus bumps, in uneven time."
    z0, z1 = decode_ends
    t = torch.linspace(0, 1, T + 1, dtype=z0.dtype).reshape(-1, *[1] * z0.ndim)
    a = 0.7 + torch.rand(1, generator=seeded(seed), dtype=z0.dtype)
    return z0 + t**a * (z1 - z0) + 0.3 * (math.pi * t**a).sin() * randn(*z0.shape, seed=seed)


# ---- the metric at a point


@every_world
@settings(max_examples=10, deadline=None)
@given(seed=seeds)
def test_pullback_metric_and_magnification_are_the_closed_forms(name, seed):
    world = WORLDS[name]
    z = draw(world, 6, seeded(seed))
    close(pullback_metric(world, z), world.metric(z))
    close(magnification(world, z), world.metric(z).det().sqrt())
    close(pullback_metric(worlds.lift(world, 20, seeded(seed)), z), world.metric(z))


@settings(max_examples=10, deadline=None)
@given(seed=seeds)
def test_metric_follows_a_change_of_latents(seed):
    "With z = φ(w), G becomes DφᵀG Dφ, the magnification gains |det Dφ|, and tangent spaces and curvatures stay."
    world, A = worlds.sphere, randn(2, 2, seed=seed)

    def phi(w):
        return 0.5 * torch.tanh(w @ A.T) + 0.1 * w

    def decode(w):
        return world(phi(w))

    w = randn(5, 2, seed=seed + 1)
    D = jacobian(phi, w)
    close(pullback_metric(decode, w), D.mT @ world.metric(phi(w)) @ D)
    close(magnification(decode, w), magnification(world, phi(w)) * D.det().abs())
    assume_regular = D.det().abs() > 1e-3
    Q, P = tangent_basis(decode, w)[assume_regular], tangent_basis(world, phi(w))[assume_regular]
    close(Q @ Q.mT, P @ P.mT, atol=1e-8)
    v = randn(5, 2, seed=seed + 2)
    close(normal_curvature(decode, w, v)[assume_regular], torch.ones(5, dtype=w.dtype)[assume_regular], rtol=1e-6)


def jacobian_by_pixel(decode, z):
    z = z.clone().requires_grad_()
    x = decode(z).flatten(1)
    return torch.stack([torch.autograd.grad(x[:, j].sum(), z, retain_graph=True)[0] for j in range(x.shape[1])], 1)


@pytest.mark.parametrize("batch", [None, 1, 2, 100])
def test_jacobian_is_the_one_of_a_backward_per_pixel(images, batch):
    z = randn(5, 4)
    close(jacobian(images, z, batch), jacobian_by_pixel(images, z), atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_metric_norm_is_the_square_root_of_the_quadratic_form(images, seed):
    z, v = randn(5, 4, seed=seed), randn(5, 4, seed=seed + 1)
    want = (v[:, None] @ pullback_metric(images, z) @ v[:, :, None]).flatten().sqrt()
    close(metric_norm(images, z, v), want)
    close(metric_norm(images, z, v, batch=2), want)


def test_one_point_for_many_directions_may_be_expanded(images):
    z, v = randn(1, 4).expand(5, 4), randn(5, 4, seed=1)
    close(metric_norm(images, z, v), metric_norm(images, z.clone(), v))
    close(metric_norm(images, v, z), metric_norm(images, v, z.clone()))
    close(normal_curvature(images, z, v), normal_curvature(images, z.clone(), v))
    close(jacobian(images, z), jacobian(images, z.clone()))


def test_metric_norm_takes_latent_maps(maps):
    z, v, h = randn(3, 2, 4, 4), randn(3, 2, 4, 4, seed=1), 1e-5
    want = ((maps(z + h * v) - maps(z - h * v)) / (2 * h)).flatten(1).norm(dim=1)
    close(metric_norm(maps, z, v), want, rtol=1e-7)


# ---- Christoffel symbols

u, v = 0, 1


def sphere_symbols(z):
    return {(u, v, v): z[:, 0].sin() * z[:, 0].cos(), (v, u, v): -z[:, 0].tan()}


def pseudosphere_symbols(z):
    t = z[:, 0].tanh()
    return {(u, u, u): (1 - t**2) / t, (u, v, v): (1 - t**2) / t, (v, u, v): -t}


def roll_symbols(z):
    return {(u, u, u): z[:, 0] / (1 + z[:, 0] ** 2)}


def paraboloid_symbols(z):
    share = z / (1 + z.square().sum(1, keepdim=True))
    return {(k, i, i): share[:, k] for k in (u, v) for i in (u, v)}


def flat(z):
    return {}


@pytest.mark.parametrize(
    ("name", "symbols"),
    [("sphere", sphere_symbols), ("pseudosphere", pseudosphere_symbols), ("swiss_roll", roll_symbols), ("paraboloid", paraboloid_symbols),
     ("plane", flat), ("cylinder", flat), ("swiss_roll_arc", flat)],
)
def test_christoffel_symbols_are_the_closed_forms(name, symbols):
    z = draw(WORLDS[name], 10, seeded())
    want = torch.zeros(10, 2, 2, 2, dtype=z.dtype)
    for (k, i, j), value in symbols(z).items():
        want[:, k, i, j] = want[:, k, j, i] = value
    close(christoffel(WORLDS[name], z), want, atol=1e-9)


def test_christoffel_where_no_symbol_vanishes(images):
    "Against Γ = G⁻¹ Jᵀ ∂²g, second derivatives by central differences; 4 latents, so that index slips show."
    z, h = randn(3, 4), 1e-4
    eye = h * torch.eye(4, dtype=z.dtype)[:, None]
    H = torch.stack([(jacobian(images, z + e) - jacobian(images, z - e)) / (2 * h) for e in eye], -1)  # (b, D, d, d)
    J = jacobian(images, z)
    want = torch.einsum("bkl,bDl,bDij->bkij", torch.linalg.inv(J.mT @ J), J, H)
    close(christoffel(images, z), want, rtol=1e-4, atol=1e-5 * want.abs().max().item())


@every_world
def test_closed_geodesics_solve_the_geodesic_equation(name):
    world, T = WORLDS[name], 400
    z0, z1 = draw(world, 8, seeded(3)).split(4)
    if name == "paraboloid":
        z1 = -0.7 * z0
    gamma_z = world.geodesic(z0, z1, T)
    velocity, acceleration = (gamma_z[2:] - gamma_z[:-2]) * T / 2, gamma_z.diff(n=2, dim=0) * T**2
    symbols = christoffel(world, gamma_z[1:-1].flatten(0, 1)).unflatten(0, velocity.shape[:2])
    bend = torch.einsum("tbkij,tbi,tbj->tbk", symbols, velocity, velocity)
    assert (acceleration + bend).abs().max() < 1e-3 * (1 + velocity.square().sum(-1).max())  # differences of order T⁻²


def test_geodesic_equation_keeps_clairauts_constant_on_the_paraboloid():
    "An ODE solver with our symbols keeps r²θ', and its radius and angle obey Clairaut's integral."
    integrate = pytest.importorskip("scipy.integrate", reason="scipy is not installed")

    def equation(t, y):
        z, dz = torch.as_tensor(y).reshape(2, 2)
        return torch.cat([dz, -torch.einsum("kij,i,j->k", christoffel(worlds.paraboloid, z[None])[0], dz, dz)]).numpy()

    y = integrate.solve_ivp(equation, (0, 1), [0.8, 0.0, 0.6, 0.9], rtol=1e-8, atol=1e-9).y.T
    z, dz = torch.as_tensor(y).split(2, 1)
    c = z[:, 0] * dz[:, 1] - z[:, 1] * dz[:, 0]
    close(c, c[:1].expand_as(c), rtol=1e-6)
    speed = metric_norm(worlds.paraboloid, z, dz)
    close(speed, speed[:1].expand_as(speed), rtol=1e-6)
    c, r = (c[0] / speed[0]).item(), z.norm(dim=1)
    assert (r.diff() > 0).all()  # outward bound, so that one integral covers it
    angle = integrate.quad(lambda r: c * math.sqrt(1 + r * r) / (r * math.sqrt(r * r - c * c)), r[0].item(), r[-1].item())[0]
    assert angle == pytest.approx(torch.atan2(z[-1, 1], z[-1, 0]).item(), rel=1e-6)


# ---- length and energy


@every_world
def test_length_is_the_closed_form_with_order_two(name):
    world = WORLDS[name]
    z0, z1 = draw(world, 12, seeded(5)).split(6)
    if name == "paraboloid":
        z1 = -1.2 * z0
    want = world.distance(z0, z1)
    error = [(path_length(world, world.geodesic(z0, z1, T)) - want).abs() / want for T in (50, 100)]
    assert error[0].max() < 1e-3
    if name != "plane":  # where chords are exact
        order = torch.log2(error[0] / error[1])[error[1] > 1e-9]
        assert ((order - 2).abs() < 0.1).all()
    close(2 * path_energy(world, world.geodesic(z0, z1, 400)), want**2, rtol=1e-3)


def test_length_at_sixty_degrees_north():
    "At the equator a length in latent units passes; here it is twice too long."
    v = torch.linspace(0, math.pi / 2, 201, dtype=torch.float64)
    parallel = torch.stack([torch.full_like(v, math.pi / 3), v], -1)[:, None]
    close(path_length(worlds.sphere, parallel), torch.tensor([math.pi / 4]).double(), rtol=1e-5)
    close(path_energy(worlds.sphere, parallel), torch.tensor([math.pi**2 / 32]).double(), rtol=1e-5)


@pytest.mark.parametrize("name", [*WORLDS, "images"])
@settings(max_examples=10, deadline=None)
@given(seed=seeds, T=st.integers(1, 30))
def test_squared_length_is_at_most_twice_the_energy(images, name, seed, T):
    decode = WORLDS.get(name, images)
    gamma_z = randn(T + 1, 3, 4 if name == "images" else 2, seed=seed)  # as ragged as can be: the law needs no smoothness
    L, E = path_length(decode, gamma_z), path_energy(decode, gamma_z)
    assert (L**2 <= 2 * E * (1 + 1e-12)).all()
    if T > 1:
        assert (L**2 < 2 * E * (1 - 1e-6)).any()
    c = path_chords(decode, gamma_z)
    close(2 * E - L**2, T**2 * c.var(0, correction=0), atol=1e-8 * E.max().item())  # what is missing is the variance of the speed


@settings(max_examples=8, deadline=None)
@given(seed=seeds, a=st.floats(0.4, 2.5))
def test_timing_changes_energy_and_not_length(images, seed, a):
    z0, z1 = randn(2, 4, seed=seed), randn(2, 4, seed=seed + 1)

    def path(a, T=500):
        t = torch.linspace(0, 1, T + 1, dtype=z0.dtype)[:, None, None] ** a
        return z0 + t * (z1 - z0) + 0.5 * (math.pi * t).sin() * z0.flip(1)

    L = [path_length(images, path(b)) for b in (1.0, a)]
    close(L[1], L[0], rtol=1e-3)  # order T⁻², for the least smooth timing t^0.4 a little less
    even = constant_speed(images, path(a))
    assert (path_energy(images, even) <= path_energy(images, path(a)) * (1 + 1e-9)).all()
    close(path_length(images, even) ** 2, 2 * path_energy(images, even), rtol=1e-3)


@pytest.mark.parametrize("name", WORLDS)
def test_constant_speed_evens_chords_and_keeps_ends(name):
    world = WORLDS[name]
    path = wiggle(draw(world, 6, seeded(7)).split(3), 300, seed=8)
    even = constant_speed(world, path)
    c = path_chords(world, even)
    assert path_chords(world, path).std(0).min() > 0.03 * path_chords(world, path).mean(0).min()  # there was something to even out
    assert (c.std(0) / c.mean(0)).max() < 0.01
    assert torch.equal(even[[0, -1]], path[[0, -1]])
    close(c.sum(0), path_length(world, path), rtol=1e-3)


def test_constant_speed_keeps_ends_to_the_last_bit():
    path = randn(9, 500, 2).float()  # a + (b − a) is not b in many of these
    assert torch.equal(constant_speed(worlds.plane, path)[[0, -1]], path[[0, -1]])


def test_constant_speed_of_a_path_that_rests(maps):
    z = randn(2, 2, 4, 4)
    still = z.expand(6, 2, 2, 4, 4)
    assert torch.equal(constant_speed(maps, still), still)
    pause = torch.cat([z.expand(3, *z.shape), z + torch.linspace(0, 1, 9, dtype=z.dtype)[:, None, None, None, None]])
    assert constant_speed(maps, pause).isfinite().all()
    c = path_chords(maps, constant_speed(maps, pause))
    assert (c.std(0) / c.mean(0)).max() < 0.15  # nine points only


@settings(max_examples=10, deadline=None)
@given(seed=seeds, batch=st.integers(1, 40))
def test_chunks_change_nothing(images, seed, batch):
    gamma_z = randn(9, 3, 4, seed=seed)
    for measure in (path_chords, path_length, path_energy, path_curvature):
        close(measure(images, gamma_z, batch), measure(images, gamma_z, 1000), rtol=0, atol=1e-10)


def test_rows_do_not_see_each_other(images):
    gamma_z = randn(7, 5, 4)
    for measure in (path_length, path_energy, path_curvature):
        close(measure(images, gamma_z)[..., 3:4], measure(images, gamma_z[:, 3:4]))


@pytest.mark.parametrize("measure", [path_length, path_energy, path_curvature])
def test_memory_is_flat_in_steps_and_each_point_is_decoded_once(images, measure):
    calls = []

    def spy(z):
        calls.append(len(z))
        return images(z)

    for T in (20, 400):
        calls.clear()
        measure(spy, randn(T + 1, 3, 4), batch=24)
        assert max(calls) <= 24
        assert sum(calls) == 3 * (T + 1)


def test_default_chunk_is_bounded_by_pixels_not_steps():
    calls = []

    def spy(z):
        calls.append(len(z))
        return z[:, :1, None].expand(-1, 1, 2**18)

    path_length(spy, torch.zeros(40, 5, 2))
    assert max(calls) * 2**18 <= 2**20


def test_latent_maps_have_lengths(maps):
    z0, z1 = randn(3, 2, 4, 4), randn(3, 2, 4, 4, seed=1)
    gamma_z = latent_line(z0, z1, 7)
    x = torch.stack([maps(z) for z in gamma_z]).flatten(2)
    close(path_length(maps, gamma_z, batch=4), x.diff(dim=0).norm(dim=-1).sum(0))
    close(path_energy(maps, gamma_z), 3.5 * x.diff(dim=0).square().sum((0, -1)))


def test_gradient_of_the_energy_has_the_sign_mig_means_and_not_the_one_it_prints(images):
    "∂E/∂z_i = −T Jᵀ(g(z_{i+1}) − 2g(z_i) + g(z_{i−1}))"
    gamma_z = randn(6, 2, 4).requires_grad_()
    (grad,) = torch.autograd.grad(path_energy(images, gamma_z, batch=4).sum(), gamma_z)
    x = images(gamma_z.detach().flatten(0, 1)).reshape(6, 2, -1)
    J = jacobian(images, gamma_z.detach().flatten(0, 1)).reshape(6, 2, -1, 4)
    close(grad[1:-1], -5 * torch.einsum("tbDd,tbD->tbd", J[1:-1], x[2:] - 2 * x[1:-1] + x[:-2]))


def test_gradient_of_a_length_is_finite_where_the_path_rests(images):
    gamma_z = randn(1, 2, 4).repeat(4, 1, 1).requires_grad_()
    (grad,) = torch.autograd.grad(path_length(images, gamma_z).sum(), gamma_z)
    assert grad.isfinite().all()


# ---- latent paths


@settings(max_examples=20, deadline=None)
@given(seed=seeds, steps=st.integers(1, 20))
def test_slerp_turns_evenly_at_even_norm(seed, steps):
    z0, z1 = [nn.functional.normalize(randn(4, 6, seed=s), dim=1) * 3 for s in (seed, seed + 1)]
    gamma_z = slerp(z0, z1, steps)
    close(gamma_z[[0, -1]], torch.stack([z0, z1]))
    close(gamma_z.norm(dim=-1), torch.full((steps + 1, 4), 3.0, dtype=z0.dtype))
    turns = (gamma_z[1:] * gamma_z[:-1]).sum(-1)
    close(turns, turns[:1].expand_as(turns))


def test_slerp_of_axes_and_of_nothing():
    z0, z1 = torch.tensor([[2.0, 0, 0], [0, 0, 0], [1, 1, 0]]).double(), torch.tensor([[0, 2.0, 0], [1, 2, 3], [2, 2, 0]]).double()
    middle = slerp(z0, z1, 2)[1]
    close(middle, torch.tensor([[2**0.5, 2**0.5, 0], [0.5, 1, 1.5], [1.5, 1.5, 0]], dtype=torch.float64))  # a turn; a line from 0; a line along a ray


@pytest.mark.parametrize("path", [latent_line, slerp])
def test_latent_paths_take_maps_and_follow_dtype(path):
    z0, z1 = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    gamma_z = path(z0, z1, 5)
    assert gamma_z.shape == (6, 2, 3, 4, 4) and gamma_z.dtype == torch.float32
    close(gamma_z[[0, -1]], torch.stack([z0, z1]), atol=1e-6, rtol=1e-6)


# ---- tangent spaces


def test_tangent_basis_is_the_space_singular_vectors_span(images):
    z = randn(6, 4)
    Q, U = tangent_basis(images, z), torch.linalg.svd(jacobian_by_pixel(images, z), full_matrices=False).U
    close(Q @ Q.mT, U @ U.mT, atol=1e-6)
    close(Q.mT @ Q, torch.eye(4, dtype=z.dtype).expand(6, 4, 4))


def test_tangent_basis_keeps_its_dimension_where_a_tolerance_drops_it():
    "Columns a millionth of the others: rank 1 by the usual rule in single precision, 2 by construction."
    A = torch.linalg.qr(randn(3000, 2)).Q.float() * torch.tensor([1.0, 1e-4])
    z = torch.zeros(1, 2)
    J = jacobian(lambda z: z @ A.T, z)
    assert torch.linalg.matrix_rank(J).item() == 1
    Q = tangent_basis(lambda z: z @ A.T, z)
    assert Q.shape == (1, 3000, 2) and Q.dtype == torch.float32
    close(Q[0] @ Q[0].T @ A, A, atol=1e-8, rtol=1e-3)


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_project_splits_uniquely(images, seed):
    z, v = randn(3, 4, seed=seed), randn(3, 2, 8, 8, seed=seed + 1)
    basis = tangent_basis(images, z)
    tangent, normal = project(basis, v)
    assert tangent.shape == normal.shape == v.shape
    close(tangent + normal, v)
    close(tangent.square().sum((1, 2, 3)) + normal.square().sum((1, 2, 3)), v.square().sum((1, 2, 3)))
    close(project(basis, tangent).tangent, tangent)
    close(project(basis, normal).tangent, torch.zeros_like(v))
    J = jacobian(images, z)
    least_squares = (J @ torch.linalg.lstsq(J, v.flatten(1)[..., None]).solution).reshape(v.shape)
    close(tangent, least_squares, atol=1e-8)


@pytest.mark.parametrize(("k", "D"), [(1, 1), (1, 2), (3, 3), (2, 7), (10, 64)])
def test_random_fraction_is_the_mean_of_a_monte_carlo(k, D):
    v = randn(40_000, D)
    share = v[:, :k].norm(dim=1) / v.norm(dim=1)
    assert abs(share.mean().item() - random_fraction(k, D)) < 4 * share.std().item() / 200 + 1e-12  # four standard errors
    assert random_fraction(k, D) <= math.sqrt(k / D) * (1 + 1e-12)


def test_random_fraction_of_the_papers_sizes():
    assert random_fraction(10, 1024) == pytest.approx(0.0964, abs=5e-5)
    assert random_fraction(1, 2) == pytest.approx(2 / math.pi)  # mean |cos| over a circle
    assert random_fraction(9216, 110592) == pytest.approx(math.sqrt(1 / 12), rel=1e-4)


# ---- curvature


@settings(max_examples=20, deadline=None)
@given(seed=seeds, radius=st.floats(0.1, 50))
def test_curvature_of_a_circle_is_exact_however_it_is_walked(seed, radius):
    angle = rand(12, seed=seed).cumsum(0)  # uneven steps, up to a turn and more
    circle = radius * torch.stack([angle.cos(), angle.sin(), 0 * angle], -1)[:, None]
    close(path_curvature(lambda x: x, circle), torch.full((10, 1), 1 / radius, dtype=angle.dtype), rtol=1e-6)


def test_curvature_of_lines_and_rests_is_zero(images):
    line = latent_line(randn(2, 5), randn(2, 5, seed=1), 6)
    close(path_curvature(lambda x: x, line), torch.zeros(5, 2).double(), atol=1e-6)
    still = line[:1].expand(4, 2, 5)
    assert torch.equal(path_curvature(lambda x: x, still), torch.zeros(2, 2).double())


@settings(max_examples=20, deadline=None)
@given(seed=seeds, turn=st.floats(0, 6.28))
def test_normal_curvature_on_worlds(seed, turn):
    way = torch.tensor([math.cos(turn), math.sin(turn)]).double()

    def at(world):
        z = draw(world, 5, seeded(seed))
        return normal_curvature(world, z, (way * torch.tensor([0.01, 3.0, 1, 1, 1]).double()[:, None]).expand(5, 2)), z

    close(at(worlds.sphere)[0], torch.ones(5).double(), rtol=1e-7)
    close(at(worlds.plane)[0], torch.zeros(5).double())
    around = 4 * way[0] ** 2 / (4 * way[0] ** 2 + way[1] ** 2)  # squared cosine of the angle with the circles, in space
    close(at(worlds.cylinder)[0], (around / 2).expand(5), rtol=1e-7)


def test_curvature_splits_into_the_paths_and_the_surfaces():
    for lat in (0.2, math.pi / 3):
        v = torch.linspace(0, 1, 200, dtype=torch.float64)
        circle = torch.stack([torch.full_like(v, lat), v], -1)[:, None]
        kappa, forced = path_curvature(worlds.sphere, circle).mean(), normal_curvature(worlds.sphere, circle[0], torch.tensor([[0.0, 1.0]]).double())
        assert (kappa**2 - forced**2).sqrt().item() == pytest.approx(math.tan(lat), rel=1e-6)


# ---- bad input: each is refused, naming the argument

z, line = torch.zeros(3, 2), torch.zeros(5, 3, 2)
nan = float("nan")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d: jacobian(d, z[0]), r"`z` must hold one latent vector per row, \(b, d\), got \(2,\)"),
        (lambda d: pullback_metric(d, z[None]), "metric_norm"),
        (lambda d: christoffel(d, z[0]), "`z` must hold"),
        (lambda d: tangent_basis(d, z[0]), "`z` must hold"),
        (lambda d: magnification(d, z[0]), "`z` must hold"),
        (lambda d: normal_curvature(d, z[0], z[0]), "`z` must hold"),
        (lambda d: pullback_metric(d, z + nan), "`z` must be finite, but 6 of its 6"),
        (lambda d: tangent_basis(lambda z: z[:, :1], z), "2 latents but `decode` only 1 pixels"),
        (lambda d: jacobian(d, z, batch=0), "`batch` must be at least 1, got 0"),
        (lambda d: path_length(d, z), r"latent path \(T\+1, b, ...\).*got \(3, 2\)"),
        (lambda d: path_energy(d, line[:1]), "T ≥ 1 segments"),
        (lambda d: path_energy(d, line * nan), "`gamma_z` must be finite"),
        (lambda d: path_curvature(d, line[:2]), "two segments"),
        (lambda d: constant_speed(d, z), "`gamma_z` must be"),
        (lambda d: path_length(lambda z: d(z).mean(0, keepdim=True), line), "one image per latent row, but gave 1"),
        (lambda d: path_length(d, line, batch=0), "`batch` must be at least 1"),
        (lambda d: latent_line(z, z, 0), "`steps` must be at least 1, got 0"),
        (lambda d: slerp(z, z, 0), "`steps` must be at least 1"),
        (lambda d: latent_line(z, z[:1], 5), "one shape"),
        (lambda d: latent_line(z, z + nan, 5), "`z1` must be finite"),
        (lambda d: slerp(z + 1, -z - 1, 5), "opposite directions"),
        (lambda d: metric_norm(d, z, z[:1]), "`v` must be one latent direction for each point"),
        (lambda d: metric_norm(d, z, z + nan), "`v` must be finite"),
        (lambda d: metric_norm(d, z + nan, z), "`z` must be finite"),
        (lambda d: project(tangent_basis(d, z), torch.zeros(2, 3)), "`v` must have a row of 3 values for each of the 3 bases"),
        (lambda d: random_fraction(0, 5), "k=0, D=5"),
        (lambda d: random_fraction(6, 5), "k=6, D=5"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(worlds.sphere)


class Cramped:
    """A decoder that has room for `limit` rows."""

    def __init__(self, decode, limit):
        self.decode, self.limit, self.refused = decode, limit, 0

    def __call__(self, z):
        if len(z) > self.limit:
            self.refused += 1
            raise torch.OutOfMemoryError("as a device would")
        return self.decode(z)


@pytest.mark.parametrize("measure", [path_length, path_curvature, lambda decode, z: geodesic(decode, z[0], z[-1], 12).L])
def test_out_of_memory_halves_the_batch_and_says_so(measure):
    def decode(z):
        return torch.cat([z.sin(), z.cos(), z * z.flip(1)], 1)
    gamma_z = latent_line(torch.zeros(3, 2).double(), torch.rand(3, 2, generator=seeded(0)).double() + 1, 40)
    cramped = Cramped(decode, limit=9)
    with pytest.warns(UserWarning, match="Out of memory: going on with"):
        L = measure(cramped, gamma_z)
    assert cramped.refused
    torch.testing.assert_close(L, measure(decode, gamma_z), atol=1e-12, rtol=1e-9)
    with pytest.raises(torch.OutOfMemoryError):
        measure(Cramped(decode, limit=0), gamma_z)


def test_jacobians_in_less_memory():
    z, rooms = torch.randn(6, 3, generator=seeded(0)), []

    def decode(z):  # vmap hides the batch: count calls instead
        rooms.append(1)
        if len(rooms) == 1:
            raise torch.OutOfMemoryError("as a device would")
        return z.sin()

    with pytest.warns(UserWarning, match="Out of memory"):
        J = jacobian(decode, z)
    torch.testing.assert_close(J, z.cos().diag_embed())
