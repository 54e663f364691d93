"""Decoded paths, EIG and MIG: right between their own ends,
right between the raw ones when anchored, and reporting what they leave out."""

import math
import warnings
import weakref
from types import SimpleNamespace

import pytest
import torch
from helpers import rand, randn, seeded, works_inside_captum
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from manifold_xai.attribution.catalogue import catalogue
from manifold_xai.attribution.integral import path_attribution
from manifold_xai.attribution.methods import (
    EnhancedIG,
    ManifoldAlignedGuidedIG,
    ManifoldIG,
    ManifoldSettledIG,
)
from manifold_xai.autoencoder import adapt
from manifold_xai.chunks import value_and_grad, values
from manifold_xai.geometry import worlds
from manifold_xai.geometry.geodesic import geodesic, unevenness
from manifold_xai.geometry.metric import latent_line, path_chords
from manifold_xai.paths.manifold import (
    anchored,
    decoded_path,
    encoded,
    enhanced_path,
    lay,
    manifold_path,
)
from manifold_xai.paths.manifold_guided import manifold_guided_path, manifold_settled_path
from manifold_xai.paths.path import Path, Step
from manifold_xai.score import score
from manifold_xai.subjects.autoencoders import ResidualVAE, digit_vae, from_diffusers
from manifold_xai.subjects.classifiers import digit_classifier

# torch's own, on first use of torch.func
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")


def curved(d=3, shape=(1, 4, 5), seed=0):
    """A small smooth autoencoder whose decoder does not undo its encoder."""
    n = math.prod(shape)
    W, V = (randn(*s, seed=seed) for s in ((n, d), (d, n)))
    return adapt(
        lambda x: (x.flatten(1) @ W / n**0.5).tanh(),
        lambda z: ((2 * z) @ V / d**0.5).sigmoid().unflatten(1, shape),
    )


def grid(seed=0, channels=4):
    """The same with codes (b, c, h, w)."""
    g = seeded(seed)
    down, up = nn.Conv2d(1, channels, 4, 4), nn.ConvTranspose2d(channels, 1, 4, 4)
    for layer in (down, up):
        nn.init.normal_(layer.weight, 0, 0.5, generator=g)
        nn.init.zeros_(layer.bias)
    down, up = (layer.double().requires_grad_(False) for layer in (down, up))
    return adapt(lambda x: down(x).tanh(), lambda z: up(z).sigmoid())


def wavy(x):
    x = x.flatten(1)
    return (x * torch.arange(1, x.shape[1] + 1) / 3).sin().sum(1) / 4 + (x.diff(dim=1) ** 2).sum(1)


PATHS = dict(enhanced=enhanced_path, manifold=manifold_path)
WORLDS = {"(b, d)": (curved, (1, 4, 5)), "(b, c, h, w)": (grid, (1, 8, 8))}
both = pytest.mark.parametrize("name", PATHS)
shapes = pytest.mark.parametrize("kind", WORLDS)


# --- on paper -------------------------------------------------------------------------------------


def chart(x):
    return torch.stack(
        [torch.atan2(x[:, 2], x[:, :2].norm(dim=1)), torch.atan2(x[:, 1], x[:, 0])], 1
    )


GLOBE = adapt(chart, worlds.sphere)
C = math.sqrt(0.5)
# a quarter turn apart at 45° north: 60° on the great circle
ENDS = torch.tensor([[[C, 0, C]], [[0, C, C]]], dtype=torch.float64)
S = math.sqrt(3) * math.pi / 18


def product(x):
    return x[:, 0] * x[:, 1] + x[:, 1] * x[:, 2]


ON_PAPER = dict(
    enhanced=(-math.pi / 8, math.pi / 8 + 0.5, 0.0), manifold=(-S, 2 * S + 0.25, 0.25 - S)
)


@both
def test_shares_on_the_globe_are_those_on_paper(name):
    options = dict(ridge=0.0, tol=1e-12) if name == "manifold" else {}
    gamma = PATHS[name](GLOBE, *ENDS, 100, **options)
    A = path_attribution(product, gamma).A
    expected = torch.tensor([ON_PAPER[name]], dtype=torch.float64)
    assert (A - expected).abs().max() < 2e-4  # trapezoid, h²/12 · f'': 100 segments of at most 90°
    wrong = torch.tensor(
        [ON_PAPER["manifold" if name == "enhanced" else "enhanced"]], dtype=torch.float64
    )
    assert (A - wrong).abs().max() > 0.03


@pytest.mark.parametrize("rule, order", [("left", 1), ("trapezoid", 2), ("midpoint", 2)])
def test_order_on_a_decoded_path(rule, order):
    expected = torch.tensor([ON_PAPER["enhanced"]], dtype=torch.float64)
    error = [
        (path_attribution(product, enhanced_path(GLOBE, *ENDS, T), rule=rule).A - expected)
        .abs()
        .max()
        for T in (32, 64)
    ]
    assert abs(math.log2(error[0] / error[1]) - order) < 0.1


def test_the_gap_falls_at_order_two_along_a_geodesic():
    """Also where its points are laid on a curve of twelve segments and settled, as by default."""
    for options in ({}, dict(ridge=0.0, tol=1e-12)):
        gap = [
            path_attribution(wavy, manifold_path(GLOBE, *ENDS, T, **options)).gap.abs().item()
            for T in (32, 64, 128)
        ]
        assert all(abs(math.log2(a / b) - 2) < 0.1 for a, b in zip(gap, gap[1:]))


def test_displacement_form_on_paper_and_not_complete():
    gamma_z = worlds.sphere.geodesic(*(chart(end) for end in ENDS), 400)
    A, gap, _ = path_attribution(
        product, decoded_path(worlds.sphere, gamma_z, *ENDS), integrand="displacement"
    )
    r = math.sqrt(3) / math.pi  # mean of b = sin θ / sin 60° over the 60°
    torch.testing.assert_close(
        A, torch.tensor([[-r / 2, 1.5 * r, 0]], dtype=torch.float64), rtol=0, atol=1e-5
    )
    assert abs(gap.item() - (r - 0.5)) < 1e-5  # no number of steps mends it


def test_laid_points_are_even_and_on_the_curve():
    gamma_z = worlds.sphere.geodesic(*(chart(end) for end in ENDS), 12)
    fine = lay(worlds.sphere, gamma_z**1.0, 48)
    assert fine.shape == (49, 1, 2) and torch.equal(fine[[0, -1]], gamma_z[[0, -1]])
    assert (fine - worlds.sphere.geodesic(*(chart(end) for end in ENDS), 48)).abs().max() < 1e-3
    # uneven on the globe
    line = latent_line(
        torch.tensor([[-1.2, -1.0]]).double(), torch.tensor([[1.2, 1.0]]).double(), 12
    )
    assert (
        unevenness(path_chords(worlds.sphere, lay(worlds.sphere, line, 48))).max()
        < 0.01
        < unevenness(path_chords(worlds.sphere, line)).max()
    )


# --- laws -----------------------------------------------------------------------------------------


@shapes
@both
def test_complete_between_the_ends_it_has(name, kind):
    make, shape = WORLDS[kind]
    x0, x = rand(2, 3, *shape)
    free, tied = (
        path_attribution(wavy, PATHS[name](make(), x0, x, 200, anchor=anchor, jump=50))
        for anchor in (False, True)
    )
    scale = free.ends.abs().max()
    assert scale > 0.05 and (tied.ends == 0).all()
    assert free.gap.abs().max() < 1e-3 * scale and tied.gap.abs().max() < 1e-3 * scale
    redrawn = [make().decode(make().encode(end)) for end in (x0, x)]
    torch.testing.assert_close(
        free.ends, torch.stack([wavy(end) - wavy(drawn) for end, drawn in zip((x0, x), redrawn)], 1)
    )
    torch.testing.assert_close(
        tied.A.flatten(1).sum(1), wavy(x) - wavy(x0), rtol=0, atol=1e-3 * scale
    )


@shapes
@both
def test_jumps_carry_exactly_what_unanchored_ends_leave_out(name, kind):
    make, shape = WORLDS[kind]
    x0, x = rand(2, 2, *shape, seed=1)

    def linear(x):  # every rule is exact for it
        return x.flatten(1) @ torch.arange(1.0, math.prod(shape) + 1).double()

    free, tied = (
        path_attribution(linear, PATHS[name](make(), x0, x, 20, anchor=anchor, jump=3))
        for anchor in (False, True)
    )
    carried = (tied.A - free.A).flatten(1).sum(1)
    # in at the start, out at the end
    torch.testing.assert_close(carried, free.ends[:, 1] - free.ends[:, 0])


@settings(max_examples=30, deadline=None)
@given(
    T=st.integers(1, 6),
    jump=st.integers(1, 4),
    anchor=st.sampled_from([False, True, "published"]),
    b=st.integers(1, 3),
)
def test_anchored_points(T, jump, anchor, b):
    x0, x, points = rand(b, 4, seed=2), rand(b, 4, seed=3), rand(T + 1, b, 4, seed=4)
    got = torch.stack([step.x for step in anchored(points, x0, x, anchor, jump)])
    if anchor is False:
        assert torch.equal(got, points)
    elif anchor == "published":
        assert torch.equal(got, torch.cat([x0[None], points[1:-1], x[None]]))
    else:
        assert torch.equal(got[jump : jump + T + 1], points)
        assert torch.equal(got[0], x0)
        assert torch.equal(got[-1], x)
        for part in (got[: jump + 1], got[-jump - 1 :]):  # straight and even
            torch.testing.assert_close(
                part.diff(dim=0), (part[-1] - part[0]).expand(jump, b, 4) / jump
            )


@shapes
@both
@pytest.mark.parametrize("anchor", [False, True, "published"])
def test_a_path_knows_its_length(name, kind, anchor):
    make, shape = WORLDS[kind]
    gamma = PATHS[name](make(), *rand(2, 2, *shape), 5, anchor=anchor, jump=3)
    assert isinstance(gamma, Path)
    assert len(list(gamma)) == len(gamma) == gamma.steps + 1 == 6 + 6 * (anchor is True)
    assert torch.equal(gamma.stack(), gamma.stack())  # it can be walked again


@shapes
@both
@pytest.mark.parametrize("anchor", [False, True])
def test_rows_and_chunks_do_not_matter(name, kind, anchor):
    make, shape = WORLDS[kind]
    x0, x = rand(2, 4, *shape, seed=5)

    def maps(rows, batch):
        gamma = PATHS[name](make(), x0[rows], x[rows], 12, anchor=anchor, batch=batch)
        return path_attribution(wavy, gamma, batch=batch).A

    whole = maps(slice(0, 4), None)
    # these decoders are stiffer than a digit's, so a solver amplifies rounding
    tolerance = 1e-10 if name == "enhanced" else 1e-8
    for batch in (1, 3, 50):
        assert (maps(slice(0, 4), batch) - whole).abs().max() < tolerance * whole.abs().max()
    for i in range(4):
        assert (maps(slice(i, i + 1), None) - whole[i]).abs().max() < tolerance * whole.abs().max()


@shapes
@both
def test_no_way_no_attribution(name, kind):
    make, shape = WORLDS[kind]
    x0, x = rand(2, 3, *shape, seed=6)
    x[1] = x0[1]
    for anchor, here in ((False, 0.0), (True, 1e-10)):  # anchored, out and back again
        A, gap, _ = path_attribution(wavy, PATHS[name](make(), x0, x, 10, anchor=anchor))
        assert A[1].abs().max() <= here + 1e-12
        assert gap[1].abs() < 1e-12
        assert A[[0, 2]].abs().max() > 1e-3
        assert A.isfinite().all()


@both
def test_an_ignored_pixel_gets_exactly_nothing(name):
    x0, x = rand(2, 2, 1, 4, 5, seed=7)
    A = path_attribution(
        lambda x: wavy(x[..., :-1]), PATHS[name](curved(), x0, x, 10, anchor=True)
    ).A
    assert (A[..., -1] == 0).all() and (A[..., :-1] != 0).all()


def test_fewer_segments_lie_on_the_same_curve():
    coarse, fine = (
        manifold_path(GLOBE, *ENDS, 64, segments=segments, ridge=0.0, tol=1e-10)
        for segments in (16, 64)
    )
    assert len(coarse) == len(fine) and len(coarse.notes["geodesic"].gamma_z) == 17
    assert (coarse.stack() - fine.stack()).abs().max() < 2e-3  # a cubic through 17 points, h⁴
    # and not on the latent line
    assert (fine.stack() - enhanced_path(GLOBE, *ENDS, 64).stack()).abs().max() > 0.05


def test_twelve_segments_laid_and_settled_are_the_geodesic_at_every_point(held_out):
    vae, x = digit_vae(), held_out.x[:3]
    ends, T = (torch.zeros_like(x), x), 60
    settled, laid, every = (
        manifold_path(vae, *ends, T, **how) for how in ({}, dict(segments=12), dict(segments=T))
    )

    def energy(path):
        return T / 2 * path.stack().diff(dim=0).flatten(2).square().sum((0, 2))

    found = settled.notes["geodesic"]
    assert found.gamma_z.shape == (T + 1, 3, 10) and len(laid.notes["geodesic"].gamma_z) == 13
    torch.testing.assert_close(found.E, energy(settled), rtol=1e-4, atol=0)
    more = geodesic(
        vae.decode,
        *map(vae.encode, ends),
        T,
        start=found.gamma_z,
        continuation=False,
        iterations=10,
        tol=0.0,
    ).E
    assert (1 - more / found.E).mean() < 1e-3  # at its own limit …
    # … which is the others'
    assert (
        (energy(settled) / energy(every) - 1).mean()
        < 1e-3
        < 1e-2
        < (energy(laid) / energy(every) - 1).mean()
    )
    assert (found.iterations == laid.notes["geodesic"].iterations + 3).all()
    assert manifold_path(vae, *ends, T, polish=12).notes["geodesic"].converged.float().mean() > 0.5
    # fewer than twelve: solved once, where they are
    assert len(manifold_path(GLOBE, *ENDS, 10).notes["geodesic"].gamma_z) == 11


def test_solver_options_reach_the_solver():
    x0, x = rand(2, 2, 1, 4, 5, seed=9)
    line = manifold_path(curved(), x0, x, 10, solver="gradient", iterations=0)
    torch.testing.assert_close(line.stack(), enhanced_path(curved(), x0, x, 10).stack())
    with pytest.raises(ValueError, match="`solver` must be one of"):
        manifold_path(curved(), x0, x, 10, solver="newton")


# --- digits ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def test_digits(held_out):
    return held_out


@pytest.mark.parametrize("name, segments", [("enhanced", None), ("manifold", 12)])
def test_maps_of_held_out_digits_add_up_and_say_what_the_ends_leave_out(
    test_digits, name, segments
):
    """Anchored and not; one walk serves both, since the jumps come first and last."""
    model, vae = digit_classifier("smooth"), digit_vae()
    x = test_digits.x[:6]
    x0, f = torch.zeros_like(x), score(model).at(x)
    options = {} if segments is None else dict(segments=segments)
    rows = torch.arange(6)
    steps = [
        Step(point, *value_and_grad(f, point, rows)[::-1])
        for point in PATHS[name](vae, x0, x, 200, anchor=True, **options)
    ]
    tied = path_attribution(f, decoded(steps, x0, x))
    assert tied.gap.abs().mean() <= 0.01 and (tied.ends == 0).all()
    free = path_attribution(f, decoded(steps[10:-10], x0, x))
    assert free.gap.abs().mean() <= 0.01
    redrawn = vae.decode(vae.encode(x))
    torch.testing.assert_close(
        free.ends[:, 1], values(f, x) - values(f, redrawn), rtol=0, atol=1e-4
    )


def decoded(steps, x0, x):
    return Path(lambda: iter(steps), x0, x, len(steps) - 1)


def test_rows_and_chunks_do_not_matter_for_digits(test_digits):
    model = digit_classifier("smooth").double()
    vae = digit_vae().double()
    x = test_digits.x[:3].double()
    f = score(model).at(x)

    def maps(rows, batch):
        gamma = manifold_path(vae, torch.zeros_like(x[rows]), x[rows], 6, anchor=True, batch=batch)
        return path_attribution(score(model, f.target[rows]), gamma, batch=batch).A

    whole = maps(slice(0, 3), None)
    for batch in (2, 50):
        assert (maps(slice(0, 3), batch) - whole).abs().max() < 1e-10
    assert (maps(slice(1, 2), 1) - whole[1]).abs().max() < 1e-10


def test_networks_that_compute_the_same_get_the_same_map(test_digits):
    model = digit_classifier("smooth").double()
    vae = digit_vae().double()
    x = test_digits.x[:3].double()
    layers = list(model)
    folded = nn.Sequential(
        *(
            nn.utils.fuse_conv_bn_eval(a, b) if isinstance(a, nn.Conv2d) else a
            for a, b in zip(layers, [*layers[1:], None])
            if not isinstance(a, nn.BatchNorm2d)
        )
    )
    for draw in (enhanced_path, lambda *a: manifold_path(*a, segments=8)):
        A, B = (
            path_attribution(score(m).at(x), draw(vae, torch.zeros_like(x), x, 20)).A
            for m in (model, folded)
        )
        assert (A - B).abs().max() < 1e-10 * A.abs().max()


# --- cost -----------------------------------------------------------------------------------------


class Counted:
    """An autoencoder that counts decoded points without gradients,
    the most of them at once and alive at once, and may run out of memory."""

    def __init__(self, limit=None):
        self.inner, self.limit = curved(), limit
        self.points = self.most = 0
        self.alive, self.peak = weakref.WeakSet(), 0

    def encode(self, x):
        self.check(x)
        return self.inner.encode(x)

    def decode(self, z):
        self.check(z)
        x = self.inner.decode(z)
        if not z.requires_grad:
            self.points += len(z)
            self.most = max(self.most, len(z))
            self.alive.add(x)
            self.peak = max(self.peak, sum(len(t) for t in self.alive))
        return x

    def check(self, v):
        if self.limit and len(v) > self.limit:
            raise torch.OutOfMemoryError("as a device would")


def test_every_point_is_decoded_once_and_few_live_at_a_time():
    x0, x = rand(2, 4, 1, 4, 5)
    peaks = {}
    for T in (50, 400):
        counted = Counted()
        gamma = enhanced_path(counted, x0, x, T, batch=16, check=False)
        assert counted.points == 0  # nothing is decoded before the walk
        path_attribution(wavy, gamma, batch=16)
        # and one row more, to look for kinks
        assert counted.points == 4 * (T + 1) + 1
        assert counted.most == 16
        peaks[T] = counted.peak
    assert peaks[50] == peaks[400] <= 64  # memory does not grow with the number of steps


def test_a_geodesic_is_solved_once():
    x0, x = rand(2, 2, 1, 4, 5)
    counted = Counted()
    gamma = manifold_path(counted, x0, x, 20)
    solved = counted.points
    assert len(gamma.notes["geodesic"].gamma_z) == 21
    for walks in (1, 2):
        path_attribution(wavy, gamma)
        assert counted.points == solved + 1 + walks * 2 * 21  # one row, once, to look for kinks


@pytest.mark.parametrize(
    "name, options",
    [
        ("enhanced", {}),
        ("manifold", dict(segments=6, solver="gradient", iterations=3)),
        ("manifold", {}),
    ],
)
def test_out_of_memory_halves_the_batch(name, options):
    """Of rows decoded; what the default solver's Jacobians hold is in test_cost.py."""
    x0, x = rand(2, 8, 1, 4, 5)
    whole = path_attribution(wavy, PATHS[name](curved(), x0, x, 6, **options)).A
    with pytest.warns(UserWarning, match="Out of memory"):
        gamma = PATHS[name](Counted(limit=30), x0, x, 6, batch=None, **options)
        points = gamma.stack()
    torch.testing.assert_close(path_attribution(wavy, points).A, whole)
    with pytest.warns(UserWarning, match="Out of memory"):
        torch.testing.assert_close(encoded(Counted(limit=3), x), curved().encode(x))


def test_inputs_that_carry_gradients_leave_no_graph():
    x0, x = rand(2, 2, 1, 4, 5)
    x.requires_grad_()
    for draw in PATHS.values():
        assert not any(point.requires_grad for point in draw(curved(), x0, x, 4, anchor=True))


# --- faces ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("Method, draw", [(EnhancedIG, enhanced_path), (ManifoldIG, manifold_path)])
@pytest.mark.parametrize("anchor", [False, True, "published"])
def test_face_is_the_functional_core(test_digits, Method, draw, anchor):
    model, vae, x, y = digit_classifier("smooth"), digit_vae(), test_digits.x[:2], test_digits.y[:2]
    f = score(model, y)
    A, delta = Method(f, vae, anchor).attribute(x, n_steps=12, return_convergence_delta=True)
    core = path_attribution(f, draw(vae, torch.zeros_like(x), x, 12, anchor))
    torch.testing.assert_close(A, core.A)
    torch.testing.assert_close(
        delta,
        A.flatten(1).sum(1) - (values(f, x) - values(f, torch.zeros_like(x))),
        rtol=0,
        atol=1e-5,
    )


def test_options_reach_the_path(test_digits):
    f, vae, x = score(digit_classifier("smooth"), test_digits.y[:2]), digit_vae(), test_digits.x[:2]
    line = EnhancedIG(f, vae).attribute(x, n_steps=10)
    torch.testing.assert_close(
        ManifoldIG(f, vae, geodesic=dict(solver="gradient", iterations=0)).attribute(x, n_steps=10),
        line,
    )
    bent, short = (
        ManifoldIG(f, vae, geodesic=dict(segments=8), integrand=i).attribute(x, n_steps=20)
        for i in ("path", "displacement")
    )
    assert (bent - short).abs().max() > 1e-3
    gamma = manifold_path(vae, torch.zeros_like(x), x, 20, segments=8).stack()
    torch.testing.assert_close(short, path_attribution(f, gamma, integrand="displacement").A)
    assert (
        EnhancedIG(f, vae, anchor=True, jump=3).path(f, torch.zeros_like(x), x, 10, None)
    ).steps == 16
    with pytest.raises(ValueError, match="integrand must be one of"):
        ManifoldIG(f, vae, integrand="velocity").attribute(x, n_steps=4)


@pytest.mark.parametrize("Method", [EnhancedIG, ManifoldIG])
def test_works_inside_captum(test_digits, Method):
    quick = dict(geodesic=dict(solver="gradient", iterations=1)) if Method is ManifoldIG else {}
    model = digit_classifier("smooth")
    method = Method(model, digit_vae(), **quick)
    works_inside_captum(method, model, test_digits.x[:2], test_digits.y[:2])


class Posteriors(nn.Module):
    """Shaped like diffusers' autoencoders: images in [-1, 1], a distribution out of `encode`,
    `.sample` out of `decode`."""

    def __init__(self):
        super().__init__()
        self.inner = ResidualVAE(4, latents=3, colours=1).requires_grad_(False)
        self.config = dict(scaling_factor=0.5)

    def encode(self, x):
        class Out:
            class latent_dist:
                mode = staticmethod(lambda: self.inner.encode((x + 1) / 2))

        return Out

    def decode(self, z):
        class Out:
            sample = 2 * self.inner.decode(z) - 1

        return Out


@both
def test_somebody_elses_autoencoder(name):
    theirs = Posteriors().eval()
    by_hand = adapt(
        lambda x: theirs.encode(x).latent_dist.mode(),
        lambda z: theirs.decode(z).sample,
        low=-1,
        high=1,
    )
    x0, x = torch.zeros(2, 1, 16, 16), rand(2, 1, 16, 16).float()
    options = dict(solver="gradient", iterations=2) if name == "manifold" else {}
    W = torch.randn(256, generator=seeded())

    def f(x):
        return (x.flatten(1) @ W / 16).tanh()

    A, gap, ends = path_attribution(f, PATHS[name](by_hand, x0, x, 20, **options))
    assert A.shape == x.shape and gap.abs().max() < 1e-3
    again = path_attribution(f, PATHS[name](from_diffusers(theirs), x0, x, 20, **options))
    # codes at another scale: other steps down
    torch.testing.assert_close(again.A, A, rtol=0, atol=2e-4 if name == "manifold" else 1e-5)
    with pytest.raises(ValueError, match="`encode` must return a tensor, got type"):
        PATHS[name](theirs, x0, x, 20)  # not adapted: a distribution is no code
    with pytest.raises(ValueError, match="must return a tensor"):
        PATHS[name](adapt(theirs.encode, theirs.decode), x0, x, 20)


def test_a_decoder_with_kinks_is_named_once():
    up = (
        nn.Sequential(nn.Linear(3, 20), nn.ReLU(), nn.Linear(20, 20), nn.Sigmoid())
        .double()
        .requires_grad_(False)
    )
    kinked = adapt(curved().encode, lambda z: up(z).unflatten(1, (1, 4, 5)))
    x0, x = rand(2, 2, 1, 4, 5)
    with pytest.warns(UserWarning, match="not smooth: Sequential.1 .relu."):
        enhanced_path(kinked, x0, x, 4).stack()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        enhanced_path(kinked, x0, x, 4).stack()


def test_autocast_sums_in_float32(test_digits):
    f, vae, x = score(digit_classifier("smooth"), test_digits.y[:2]), digit_vae(), test_digits.x[:2]
    with torch.autocast("cpu", torch.bfloat16):
        A = path_attribution(f, enhanced_path(vae, torch.zeros_like(x), x, 10, anchor=True)).A
    assert A.dtype == torch.float32 and A.isfinite().all()


# --- bad input ------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    "options, message",
    [
        (dict(steps=0), "steps must be at least 1"),
        (dict(anchor="both"), "anchor must be one of False, True, 'published', got 'both'"),
        (dict(anchor=True, jump=0), "jump must be at least 1"),
        (dict(batch=0), "batch must be at least 1"),
    ],
)
def test_options_out_of_range_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        PATHS[name](curved(), *rand(2, 2, 1, 4, 5), **options).stack()


@both
def test_bad_ends_are_refused(name):
    x0, x = rand(2, 2, 1, 4, 5)
    with pytest.raises(ValueError, match="must have the shape"):
        PATHS[name](curved(), x0[:1], x)
    with pytest.raises(ValueError, match="`x` must be finite"):
        PATHS[name](curved(), x0, x / 0)
    with pytest.raises(ValueError, match="Divide by 255"):
        path_attribution(wavy, PATHS[name](curved(), x0, 255 * x, 4))


@both
def test_bad_autoencoders_are_refused(name):
    x0, x, good = *rand(2, 2, 1, 4, 5), curved()

    def walk(*pair):
        return PATHS[name](adapt(*pair), x0, x, 4).stack()

    with pytest.raises(ValueError, match="one code per image"):
        walk(lambda x: good.encode(x)[:1], good.decode)
    with pytest.raises(ValueError, match="must be finite"):
        walk(lambda x: good.encode(x) / 0, good.decode)
    with pytest.raises(ValueError, match="must return images like x"):
        walk(good.encode, lambda z: good.decode(z)[..., :3])
    with pytest.raises(ValueError, match="off by at most 0.5"):
        walk(good.encode, lambda z: 255 * good.decode(z))
    with pytest.raises(ValueError, match="train mode: encoder.2.body.1"):
        PATHS[name](
            ResidualVAE(4, colours=1).train(), torch.zeros(2, 1, 16, 16), torch.ones(2, 1, 16, 16)
        )
    if name == "manifold":
        with pytest.raises(ValueError, match="carry no gradient"):
            walk(good.encode, lambda z: good.decode(z).detach())


FOREIGN = {  # what came in place of an autoencoder, and what is said of it
    "None": (None, "NoneType has no encode and no decode"),
    "a module": (nn.Sequential(nn.Flatten()), "Sequential has no encode and no decode"),
    "a pair": ((curved().encode, curved().decode), "tuple has no encode and no decode"),
    "half of one": (
        SimpleNamespace(encode=curved().encode, decode="later"),
        "SimpleNamespace has no decode",
    ),
}
TAKERS = {
    draw.__name__: lambda a, draw=draw: draw(a, *rand(2, 2, 1, 4, 5), 4) for draw in PATHS.values()
}
TAKERS |= {
    draw.__name__: lambda a, draw=draw: draw(wavy, a, *rand(2, 2, 1, 4, 5), 4)
    for draw in (manifold_guided_path, manifold_settled_path)
}
TAKERS |= {
    make.__name__: lambda a, make=make: make(wavy, a)
    for make in (EnhancedIG, ManifoldIG, ManifoldAlignedGuidedIG, ManifoldSettledIG)
}
# None: without the methods that need one
TAKERS["catalogue"] = lambda a: catalogue(score(nn.Identity()), False if a is None else a)


@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.parametrize("received", FOREIGN)
def test_what_is_no_autoencoder_is_refused_at_once(taker, received):
    TAKERS[taker](curved())
    thing, says = FOREIGN[received]
    says = says.replace("NoneType", "bool") if taker == "catalogue" else says
    with pytest.raises(
        ValueError,
        match=rf"`autoencoder` must have two methods.* but {says}\..*adapt\(encode, decode\)",
    ):
        TAKERS[taker](thing)


def test_a_latent_path_for_other_rows_is_refused():
    x0, x = rand(2, 3, 1, 4, 5)
    with pytest.raises(ValueError, match="a path for each of the 3 rows"):
        decoded_path(curved().decode, rand(5, 2, 3), x0, x)


@pytest.mark.parametrize("Method", [EnhancedIG, ManifoldIG])
def test_faces_refuse_too(Method):
    with pytest.raises(ValueError, match="anchor must be one of"):
        Method(wavy, curved(), anchor="ends")
    with pytest.raises(ValueError, match="does not depend on x"):
        Method(lambda x: x.detach().flatten(1).sum(1), curved()).attribute(
            rand(2, 1, 4, 5), n_steps=4
        )
    with pytest.raises(ValueError, match="target must be in 0…9"):
        Method(digit_classifier("smooth"), digit_vae()).attribute(
            torch.rand(1, 1, 32, 32, generator=seeded()), target=10, n_steps=4
        )
