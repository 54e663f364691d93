"""What lessons write in plain lines, against what the library does in chunks and batches."""

import math

import pytest
import torch
from helpers import rand, randn, relative
from torch import nn

from manifold_xai.attribution.decoded import decoded_integral
from manifold_xai.attribution.integral import path_attribution
from manifold_xai.attribution.methods import EnhancedIG, ManifoldIG
from manifold_xai.attribution.plain import gradient, path_integral
from manifold_xai.autoencoder import adapt
from manifold_xai.geometry import worlds
from manifold_xai.geometry.dense import gauss_newton_matrix, two_loops
from manifold_xai.geometry.metric import latent_line
from manifold_xai.geometry.solvers import GaussNewton, QuasiNewton, Surface, Taken
from manifold_xai.paths.manifold import manifold_path
from manifold_xai.paths.manifold_guided_loop import manifold_guided_loop
from manifold_xai.paths.straight import straight_path
from manifold_xai.score import score


def mixed(x):
    return (x**3).sum(1) + x[:, 0] * x[:, 1] * x[:, 2]


def line(x0, x, steps):
    return x0 + torch.linspace(0, 1, steps + 1, dtype=x.dtype).view(-1, *[1] * x.ndim) * (x - x0)


def bent(x0, x, steps):
    t = torch.linspace(0, math.pi, steps + 1, dtype=x.dtype).view(-1, *[1] * x.ndim)
    way = torch.linspace(-1, 1, x[0].numel(), dtype=x.dtype).view(x.shape[1:])
    return line(x0, x, steps) + t.sin() * way


PATHS = {"line": line, "bent": bent}


@pytest.fixture
def ends():
    return torch.rand(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("batch", [1, 7, None])
def test_the_integrator_gives_what_the_lesson_writes(name, batch, ends):
    gamma = PATHS[name](*ends, steps=11)
    A = path_attribution(mixed, gamma, batch=batch).A
    torch.testing.assert_close(A, path_integral(mixed, gamma), rtol=0, atol=1e-13)  # rounding


@pytest.mark.parametrize("name", PATHS)
def test_it_does_so_on_a_network_with_a_class_for_each_row(name):
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.SiLU(), nn.Flatten(), nn.Linear(64, 3)
    f = score(nn.Sequential(*layers).double().eval(), torch.tensor([2, 0, 1]))
    gamma = PATHS[name](*torch.rand(2, 3, 1, 6, 6, dtype=torch.float64), steps=9)
    A = path_attribution(f, gamma, batch=5).A  # fewer rows than two points have
    torch.testing.assert_close(A, path_integral(f, gamma), rtol=0, atol=1e-13)


def test_a_straight_path_is_the_line_of_the_lesson(ends):
    gamma = straight_path(*ends, steps=7).stack()
    torch.testing.assert_close(gamma, line(*ends, steps=7), rtol=0, atol=1e-15)


def test_a_rows_gradient_is_its_own(ends):
    alone = torch.cat([gradient(mixed, row[None]) for row in ends[1]])
    assert torch.equal(gradient(mixed, ends[1]), alone)
    x = ends[1]
    expected = 3 * x**2 + torch.stack([x[:, 1] * x[:, 2], x[:, 0] * x[:, 2], x[:, 0] * x[:, 1]], 1)
    torch.testing.assert_close(alone, expected)


@pytest.mark.parametrize(("power", "share"), [(1, 2 / 3), (2, 1 / 2), (18, 1 / 10)])
def test_shares_on_paper(power, share):
    """F = u²v along v = u^k: u gets 2 / (k + 2); the trapezoid errs by h²/12 · (2k + 2)."""
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    A = path_integral(lambda x: x[:, 0] ** 2 * x[:, 1], torch.stack([t, t**power], 1)[:, None])
    torch.testing.assert_close(A, torch.tensor([[share, 1 - share]]).double(), rtol=0, atol=1e-5)


# --- decoded paths, and the solvers that find them ------------------------------------------------

GLOBE, T = worlds.sphere, 20


@pytest.fixture(scope="module")
def latent():
    """A latent path on the globe, (T+1, 1, 2)."""
    ends = torch.tensor([[0.8, -1.2]]).double(), torch.tensor([[0.6, 1.2]]).double()
    return latent_line(*ends, T)


@pytest.fixture(scope="module")
def surface():
    """The globe, without a ridge."""
    return Surface(GLOBE, torch.zeros(1).double())


def test_the_lessons_loop_is_the_published_one(answers, published):
    model, *coders = published
    autoencoder = adapt(*coders)
    for i, x in enumerate(answers["x"].split(1)):
        f = score(model, answers["target"][i : i + 1])
        gamma = manifold_guided_loop(f, autoencoder, torch.zeros_like(x), x, 49)
        A = path_attribution(f, gamma, rule="left").A
        assert relative(A, answers["ma_gig.attribution"][i : i + 1]) < 1e-10
        assert relative(gamma[::7, 0], answers["ma_gig.path"][i]) < 1e-10


def test_the_decoded_integral_is_that_of_eig_and_mig(answers, published):
    model, *coders = published
    autoencoder, x = adapt(*coders), answers["x"]
    f, x0 = score(model, answers["target"]), torch.zeros_like(x)
    codes = latent_line(autoencoder.encode(x0), autoencoder.encode(x), T)
    A = decoded_integral(f, autoencoder.decode, codes)
    assert relative(A, EnhancedIG(f, autoencoder).attribute(x, x0, n_steps=T)) < 1e-10
    solved = dict(segments=T, polish=0)
    geodesic = manifold_path(autoencoder, x0, x, T, **solved).notes["geodesic"].gamma_z
    A = decoded_integral(f, autoencoder.decode, geodesic)
    method = ManifoldIG(f, autoencoder, geodesic=solved)
    assert relative(A, method.attribute(x, x0, n_steps=T)) < 1e-10


def test_gauss_newtons_step_solves_with_the_whole_matrix(latent, surface):
    at = surface.energy(latent)
    step = GaussNewton(surface, latent, at).direction(
        at.grad, torch.tensor([1e15]).double(), torch.tensor([0])
    )
    whole = -torch.linalg.solve(gauss_newton_matrix(GLOBE, latent), at.grad.flatten())
    assert relative(step.flatten(), whole) < 1e-10


def test_quasi_newtons_step_is_that_of_two_loops(latent, surface):
    class Undamped(QuasiNewton):
        damping = 0.0

    at, rows, one = surface.energy(latent), torch.tensor([0]), torch.ones(1).double()
    solver = Undamped(surface, latent, at)
    H, pairs = gauss_newton_matrix(GLOBE, latent), []
    for seed in range(8):  # two more than are kept
        step = 0.01 * randn(T - 1, 1, 2, seed=seed)
        change = (H @ step.flatten()).view_as(step) * (1 + 0.2 * rand(T - 1, 1, 2, seed=seed))
        solver.accepted(Taken(rows, latent, step, change, one))
        pairs.append((step.flatten(), change.flatten()))
    direction = solver.direction(at.grad, one, rows).flatten()
    whole = two_loops(at.grad.flatten(), pairs[-6:], torch.linalg.inv(H))
    assert relative(direction, -whole) < 1e-10
