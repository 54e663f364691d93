"""Geodesics: the energy's gradient, descent that never climbs, worlds with closed forms,
rows and chunks that change nothing, published code."""

import math

import pytest
import torch
from helpers import randn, seeded
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_bvp
from torch import nn

from manifold_xai.geometry import worlds
from manifold_xai.geometry.curvature import christoffel
from manifold_xai.geometry.decoder import path_chords
from manifold_xai.geometry.geodesic import geodesic, published_sweeps
from manifold_xai.geometry.latent import resample, unevenness
from manifold_xai.geometry.metric import latent_line, path_energy, path_length
from manifold_xai.geometry.solvers import SOLVERS, Surface, blocks, blocks_between, energy_gradient

OURS = ["sobolev", "gauss-newton", "quasi-newton"]


def bent(latents=3, pixels=12, seed=0):
    "A smooth decoder that is far from isometric."
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(latents, 16), nn.Tanh(), nn.Linear(16, pixels))
    with torch.no_grad():
        net[0].weight *= 2
    return net.double().requires_grad_(False)


def ends(b=3, latents=3, seed=1):
    return randn(2, b, latents, seed=seed)


def pairs(name, b=6):
    "b pairs of latents; on the paraboloid on a common meridian, where its closed form holds."
    z0, z1 = worlds.draw(worlds.WORLDS[name], 2 * b, seeded(2)).split(b)
    return z0, z0 * torch.linspace(-1.2, 0.5, b, dtype=z0.dtype)[
        :, None
    ] if name == "paraboloid" else z1


@settings(max_examples=15, deadline=None)
@given(steps=st.integers(2, 7), seed=st.integers(0, 1000))
def test_energy_gradient_is_the_slope_of_the_energy(steps, seed):
    decode, gamma_z = bent(seed=seed), randn(steps + 1, 2, 3, seed=seed)
    v, h = randn(steps - 1, 2, 3, seed=seed + 1), 1e-5
    bump = torch.zeros_like(gamma_z)
    bump[1:-1] = v
    slope = (path_energy(decode, gamma_z + h * bump) - path_energy(decode, gamma_z - h * bump)) / (
        2 * h
    )
    torch.testing.assert_close(
        (energy_gradient(decode, gamma_z).grad * v).sum((0, 2)), slope, rtol=1e-6, atol=1e-5
    )


def test_energy_and_chords_are_those_of_the_metric_chapter():
    decode, gamma_z = bent(), latent_line(*ends(), 9)
    at = energy_gradient(decode, gamma_z)
    torch.testing.assert_close(at.E, path_energy(decode, gamma_z))
    torch.testing.assert_close(at.chords, path_chords(decode, gamma_z))


@pytest.mark.parametrize("batch", [1, 2, 5, 12, 1000])
def test_chunks_change_no_gradient(batch):
    decode, gamma_z = bent(), latent_line(*ends(), 10)
    whole, pieces = energy_gradient(decode, gamma_z), energy_gradient(decode, gamma_z, batch)
    torch.testing.assert_close(pieces.grad, whole.grad, rtol=1e-12, atol=1e-10)
    torch.testing.assert_close(pieces.E, whole.E, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("solver", OURS)
def test_chunks_change_no_geodesic(solver):
    small, large = (geodesic(bent(), *ends(), 12, solver, batch=batch) for batch in (3, 1000))
    # rounding, grown over the steps
    torch.testing.assert_close(small.gamma_z, large.gamma_z, rtol=0, atol=1e-7)


def test_paths_take_turns_where_they_are_many():
    """2502 paths of 24 segments in 3 latents have more numbers in a stack of blocks than are held
    at once; each comes out as it does among three."""
    decode, (z0, z1) = bent(), ends()
    few = geodesic(decode, z0, z1, 24)
    many = geodesic(decode, z0.repeat(834, 1), z1.repeat(834, 1), 24)
    torch.testing.assert_close(
        many.gamma_z.unflatten(1, (834, 3)),
        few.gamma_z[:, None].expand(-1, 834, -1, -1),
        rtol=1e-7,
        atol=1e-7,
    )
    assert (many.iterations.view(834, 3) == few.iterations).all()
    assert many.converged.all()
    assert few.converged.all()


def test_nan_images_are_named_by_row_whichever_turn_it_is():
    decode, (z0, z1) = bent(), (end.repeat(834, 1) for end in ends())
    z0[2500, 0] = 9.0
    with pytest.raises(ValueError, match=r"rows \[2500\]"):
        geodesic(
            lambda z: decode(z) * torch.where(z[:, :1] == 9, math.nan, 1.0),
            z0,
            z1,
            24,
            continuation=False,
            ridge=0.0,
        )


@pytest.mark.parametrize("solver", ["gradient", *OURS])
def test_energy_never_rises_within_a_level(solver):
    decode, seen = bent(), []
    geodesic(
        decode,
        *ends(),
        12,
        solver,
        continuation=False,
        ridge=0.0,
        watch=lambda p: seen.append(path_energy(decode, p.gamma_z)),
    )
    E = torch.stack(seen)
    assert (E.diff(dim=0) <= 1e-12 * E[0]).all() and (E[-1] < 0.97 * E[0]).any()


@pytest.mark.parametrize(
    "name", ["cylinder", "sphere", "pseudosphere", "swiss_roll", "swiss_roll_arc", "paraboloid"]
)
def test_length_on_worlds_errs_by_order_two(name):
    world, (z0, z1) = worlds.WORLDS[name], pairs(name)
    want = world.distance(z0, z1)

    def error(steps):
        found = geodesic(world, z0, z1, steps, ridge=0.0, tol=1e-10)
        assert found.converged.all()
        return ((found.L - want) / want).abs().max().item()

    assert error(50) <= 1e-3
    assert 1.8 < math.log2(error(25) / error(50)) < 2.2


@pytest.mark.parametrize("solver", ["sobolev", "gauss-newton"])
@pytest.mark.parametrize("name", ["sphere", "pseudosphere", "swiss_roll"])
def test_solvers_find_the_closed_forms_points(name, solver):
    world, (z0, z1) = worlds.WORLDS[name], pairs(name, 4)
    found = geodesic(world, z0, z1, 40, solver, ridge=0.0, tol=1e-10, iterations=500)
    want = world.geodesic(z0, z1, 40)
    # O(1/T²)
    assert (world(found.gamma_z.flatten(0, 1)) - world(want.flatten(0, 1))).norm(
        dim=1
    ).max() < 4e-3 * world.distance(z0, z1).max()


def test_a_geodesic_solves_the_christoffel_equation():
    world, (z0, z1) = worlds.pseudosphere, pairs("pseudosphere", 1)

    def rhs(t, y):
        z, v = torch.from_numpy(y.T.copy()).split(2, 1)
        return torch.cat(
            [v, -torch.einsum("bkij,bi,bj->bk", christoffel(world, z), v, v)], 1
        ).T.numpy()

    def held(left, right):
        return [*(left[:2] - z0[0].numpy()), *(right[:2] - z1[0].numpy())]

    apart = []
    for steps in (20, 40):
        found = geodesic(world, z0, z1, steps, ridge=0.0, tol=1e-12).gamma_z[:, 0]
        t = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        guess = torch.cat(
            [found, found.diff(dim=0, append=2 * found[-1:] - found[-2:-1]) * steps], 1
        ).T.numpy()
        ode = solve_bvp(rhs, held, t.numpy(), guess, tol=1e-8)
        assert ode.success
        apart.append(
            (world(torch.from_numpy(ode.sol(t.numpy())[:2].T.copy())) - world(found))
            .norm(dim=1)
            .max()
            .item()
        )
    assert apart[1] < 2e-3 and apart[1] < apart[0] / 3


def test_the_long_way_round_stays_where_it_is_put_and_a_nudge_sends_it_home():
    z0, z1 = torch.zeros(1, 2).double(), torch.tensor([[0.0, 2 * math.pi - 1]]).double()
    start = latent_line(z0, z1, 50)
    assert geodesic(worlds.sphere, z0, z1, start=start, ridge=0.0).L.item() == pytest.approx(
        2 * math.pi - 1, rel=1e-3
    )
    start[1:-1, 0, 0] += 1e-3
    found = geodesic(
        worlds.sphere,
        z0,
        z1,
        solver="gauss-newton",
        start=start,
        ridge=0.0,
        tol=1e-8,
        iterations=300,
        continuation=False,
    )
    assert found.L.item() == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize("solver", ["gradient", *OURS])
def test_rows_do_not_see_each_other(solver):
    z0, z1 = ends(4)
    together = geodesic(bent(), z0, z1, 10, solver)
    alone = [geodesic(bent(), z0[i : i + 1], z1[i : i + 1], 10, solver) for i in range(4)]
    torch.testing.assert_close(
        together.gamma_z, torch.cat([r.gamma_z for r in alone], 1), rtol=0, atol=1e-7
    )
    assert together.iterations.tolist() == [r.iterations.item() for r in alone]
    assert len(set(together.iterations.tolist())) > 1  # else a shared stop rule would pass


@pytest.mark.parametrize("solver", [s for s in SOLVERS if s != "encoder"])
def test_a_path_of_no_length_stays_and_does_not_disturb_the_others(solver):
    z0, z1 = ends()
    z1[1] = z0[1]
    found = geodesic(bent(), z0, z1, 10, solver)
    torch.testing.assert_close(found.gamma_z[:, 1], z0[1].expand(11, -1))
    assert all(t.isfinite().all() for t in found[:3]) and found.L[1] == 0 and found.converged[1]
    assert (found.L[[0, 2]] > 0).all()


def test_latents_of_any_shape():
    decode, (z0, z1) = bent(12), ends(2, 12)
    flat = geodesic(decode, z0, z1, 9)
    shaped = geodesic(
        lambda z: decode(z.flatten(1)), z0.reshape(2, 3, 2, 2), z1.reshape(2, 3, 2, 2), 9
    )
    torch.testing.assert_close(shaped.gamma_z.flatten(2), flat.gamma_z)
    assert shaped.gamma_z.shape == (10, 2, 3, 2, 2)


def test_above_64_latents_no_jacobian_is_formed_and_the_answer_is_the_same(monkeypatch):
    decode, (z0, z1) = bent(65), ends(2, 65)
    monkeypatch.setattr("manifold_xai.geometry.solvers.jacobian", None)
    found = [geodesic(decode, z0, z1, 10, solver, tol=1e-7, iterations=300) for solver in OURS]
    for other in found[1:]:
        torch.testing.assert_close(other.E, found[0].E, rtol=5e-3, atol=0)


@pytest.mark.parametrize("solver", OURS)
def test_ten_more_steps_change_little_where_converged(solver):
    z0, z1 = ends(8)
    found = geodesic(bent(), z0, z1, 20, solver)
    more = geodesic(
        bent(), z0, z1, 20, solver, start=found.gamma_z, continuation=False, tol=0.0, iterations=10
    )
    assert found.converged.any()
    assert (1 - more.E / found.E)[found.converged].max() < 1e-3
    assert unevenness(path_chords(bent(), found.gamma_z))[found.converged].max() <= 0.02


def test_the_default_reaches_below_algorithm_1():
    z0, z1 = ends(6)
    armijo = geodesic(bent(), z0, z1, 20, "gradient", iterations=30, tol=0.0)
    ours = geodesic(bent(), z0, z1, 20)
    assert (ours.E < armijo.E).all()
    assert (armijo.iterations <= 30).all()


def test_stop_rules():
    z0, z1 = ends(6)
    assert (geodesic(bent(), z0, z1, 20, "gradient", tol=0.0, iterations=40).iterations == 40).all()
    assert (geodesic(bent(), z0, z1, 20, "gradient", iterations=40).iterations < 40).any()
    assert (geodesic(bent(), z0, z1, 20, iterations=0).iterations == 0).all()


def test_encoder_in_the_decoders_place_descends_only_where_it_can():
    """With e(x) = W⁺x and g(z) = Wz + small bends, ∂e/∂x is nearly G⁻¹Jᵀ: the natural gradient,
    which arrives."""
    W = randn(10, 3, seed=4)
    inverse, (z0, z1) = torch.linalg.pinv(W), ends()
    decode, encode = (lambda z: z @ W.T + 0.3 * (z @ W.T).sin()), (lambda x: x @ inverse.T)
    line = path_energy(decode, latent_line(z0, z1, 12))
    found = geodesic(decode, z0, z1, 12, "encoder", encode=encode)
    assert (found.E < line).all()
    backwards = geodesic(decode, z0, z1, 12, "encoder", encode=lambda x: -encode(x))
    torch.testing.assert_close(backwards.E, line)  # no step lowers the energy, so none is taken


def test_resampling_keeps_ends_and_evens_chords():
    decode, (z0, z1) = bent(), ends()
    uneven = latent_line(z0, z1, 60)[torch.arange(61).square().div(60).long()]
    even = resample(uneven, path_chords(decode, uneven), 40)
    assert torch.equal(even[[0, -1]], uneven[[0, -1]])
    assert (
        unevenness(path_chords(decode, even)) < 0.5 * unevenness(path_chords(decode, uneven))
    ).all()


def test_l_squared_is_at_most_twice_e():
    found = geodesic(bent(), *ends(), 30)
    # unevenness 2 %: 1 − 0.02²
    assert (found.L**2 <= 2 * found.E * (1 + 1e-12)).all()
    assert (found.L**2 >= 2 * found.E * (1 - 4e-4)).all()
    torch.testing.assert_close(found.L, path_length(bent(), found.gamma_z))


def test_published_sweeps_are_the_published_codes(answers, published):
    _, encode, decode = published
    z1, z0 = encode(answers["x"]), encode(torch.zeros_like(answers["x"]))
    path = published_sweeps(decode, z0, z1, points=20, iterations=10, lr=1e-3)
    images = decode(path.flatten(0, 1)).unflatten(0, path.shape[:2]).transpose(0, 1)
    assert (images - answers["mig.path"]).abs().max() < 1e-10


BAD = {
    "steps": (dict(steps=0), "steps"),
    "shapes": (dict(z1=torch.zeros(2, 3).double()), "one shape"),
    "no batch": (dict(z0=torch.zeros(3).double(), z1=torch.zeros(3).double()), "shape"),
    "NaN": (dict(z0=torch.full((3, 3), math.nan).double()), "NaN"),
    "solver": (dict(solver="newton"), "gradient, encoder, sobolev, gauss-newton, quasi-newton"),
    "rows": (dict(decode=lambda z: bent()(z).mean(0, keepdim=True)), "one image per latent row"),
    "detached": (dict(decode=lambda z: bent()(z).detach()), "carry no gradient"),
    "NaN images": (
        dict(decode=lambda z: bent()(z) * torch.where(z[:, :1] > 0, math.nan, 1.0)),
        "NaN or infinite images",
    ),
    "encode without encoder": (dict(encode=lambda x: x), "`encode` belongs"),
    "encoder without encode": (dict(solver="encoder"), "`encode` belongs"),
    "negative tol": (dict(tol=-1.0), "tol"),
    "NaN ridge": (dict(ridge=math.nan), "ridge"),
    "start of another shape": (dict(start=torch.zeros(5, 2, 3).double()), "start"),
    "start elsewhere": (dict(start=torch.zeros(5, 3, 3).double()), "misses them"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case):
    changes, message = BAD[case]
    z0, z1 = ends()
    with pytest.raises(ValueError, match=message):
        geodesic(**(dict(decode=bent(), z0=z0, z1=z1, steps=6) | changes))


@pytest.mark.parametrize("solver", [s for s in SOLVERS if s != "encoder"])
@pytest.mark.parametrize("steps", [1, 2])
def test_one_segment_has_nothing_to_move_and_two_have_one_point(solver, steps):
    z0, z1 = ends()
    found = geodesic(bent(), z0, z1, steps, solver)
    assert found.gamma_z.shape == (steps + 1, 3, 3)
    assert torch.equal(found.gamma_z[0], z0)
    assert torch.equal(found.gamma_z[-1], z1)
    assert (found.E <= path_energy(bent(), latent_line(z0, z1, steps)) * (1 + 1e-12)).all()


def test_blocks_between_frames_are_those_of_a_jacobian_that_goes_straight_from_frame_to_frame():
    flat, line = nn.Linear(3, 12).double().requires_grad_(False), latent_line(*ends(), 24)

    def square(z):
        # its Jacobian is linear in z, so nothing is lost between frames of a line
        return flat(z) ** 2

    surface = Surface(square, torch.zeros(3).double())
    exact, near = blocks(surface, line), blocks_between(surface, line, most=7)
    for theirs, ours in zip(exact, near):
        torch.testing.assert_close(ours, theirs)
