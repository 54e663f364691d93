"""The integral as the lesson writes it, against the integrator and the paths of the library."""
import math

import pytest
import torch
from torch import nn

from manifold_xai.attribution.integral import path_attribution
from manifold_xai.attribution.plain import gradient, path_integral
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
    A = path_attribution(f, gamma, batch=5).A  # less than two points: the integrator goes in portions
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
