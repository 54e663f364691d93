"""Manifold-guided paths: equal to the published code with its options; one pass for two gradients;
right in any batch."""

import math
import warnings

import pytest
import torch
from helpers import rand, relative, seeded, works_inside_captum
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from manifold_xai.attribution.integral import path_attribution
from manifold_xai.attribution.methods import ManifoldAlignedGuidedIG, ManifoldSettledIG
from manifold_xai.autoencoder import adapt
from manifold_xai.chunks import Chunks, value_and_grad
from manifold_xai.paths.manifold import anchored, enhanced_path
from manifold_xai.paths.manifold_guided import (
    latent_score,
    manifold_guided_path,
    manifold_settled_path,
    decode_and_grad,
)
from manifold_xai.paths.path import Path, Step
from manifold_xai.score import score
from manifold_xai.subjects.autoencoders import ResidualVAE, digit_vae
from manifold_xai.subjects.classifiers import digit_classifier

PATHS = dict(greedy=manifold_guided_path, settled=manifold_settled_path)


# --- the published code ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def setting(answers, published):
    """Score and autoencoder that the published code was run on."""
    return score(published[0], answers["target"]), adapt(*published[1:])


@pytest.mark.parametrize("slerp, key", [(False, "ma_gig"), ("published", "ma_gig_slerp")])
def test_ma_gig_is_the_published_one(answers, setting, slerp, key):
    (f, autoencoder), x = setting, answers["x"]
    gamma = manifold_guided_path(
        f,
        autoencoder,
        torch.zeros_like(x),
        x,
        49,
        slerp=slerp,
        anchor="published",
        schedule="published",
    )
    assert (
        relative(path_attribution(f, gamma, rule="left").A, answers[f"{key}.attribution"]) < 1e-10
    )
    assert relative(gamma.stack()[::7].transpose(0, 1), answers[f"{key}.path"]) < 1e-10


def test_precise_slerp_is_near_the_published_one_and_not_it(answers, setting):
    (f, autoencoder), x = setting, answers["x"]
    how = dict(slerp=True, anchor="published", schedule="published")
    gamma = manifold_guided_path(f, autoencoder, torch.zeros_like(x), x, 49, **how)
    A = path_attribution(f, gamma, rule="left").A
    assert 1e-10 < relative(A, answers["ma_gig_slerp.attribution"]) < 0.02
    if "ma_gig_slerp.precise" in answers:  # their code with angles in float64
        assert relative(A, answers["ma_gig_slerp.precise"]) < 1e-10


def test_the_plain_loop_of_the_benchmark_is_the_published_one(answers, setting, bench):
    (f, autoencoder), x = setting, answers["x"]
    A = bench.manifold_loop(f, autoencoder, torch.zeros_like(x), x, 49)
    assert relative(A, answers["ma_gig.attribution"]) < 1e-10


# --- two gradients, one pass ----------------------------------------------------------------------


def cylinder(z):
    return torch.stack([z[:, 0].cos(), z[:, 0].sin(), z[:, 1]], 1)


def chart(x):
    return torch.stack([torch.atan2(x[:, 1], x[:, 0]), x[:, 2]], 1)


def sheet(x, rows=None):
    return x[:, 1] * x[:, 2] + x[:, 1]


WORLD = adapt(chart, cylinder)
P = cylinder(torch.zeros(1, 2, dtype=torch.float64))
Q = cylinder(torch.tensor([[math.pi / 2, 1.0]], dtype=torch.float64))


@pytest.fixture(scope="module")
def vae():
    return digit_vae("silu")


@pytest.fixture(scope="module")
def precise():
    """Classifier and autoencoder in float64."""
    return digit_classifier("smooth").double(), digit_vae("silu").double()


@pytest.mark.parametrize("batch", [None, 2, 3])
def test_both_gradients_are_those_of_two_autograd_calls(precise, held_out, batch):
    model, vae = precise
    x = held_out.x[:5].double()
    f, z = score(model).at(x), vae.encode(x)
    seen = decode_and_grad(f, vae.decode, z, batch=batch)
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        (grad_z,) = torch.autograd.grad(f(vae.decode(z)).sum(), z)
    value, grad = value_and_grad(f, vae.decode(z).detach())
    for ours, theirs in zip(seen, (vae.decode(z).detach(), grad, value, grad_z)):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_two_gradients_leave_no_graph_and_work_in_inference_mode():
    with torch.inference_mode():
        seen = decode_and_grad(sheet, cylinder, rand(3, 2))
    torch.testing.assert_close(seen.grad_z, decode_and_grad(sheet, cylinder, rand(3, 2)).grad_z)
    assert not any(part.requires_grad for part in seen)


def test_rows_reach_the_score(precise, held_out):
    model, vae = precise
    x = held_out.x[:4].double()
    f = score(model, torch.tensor([1, 2, 3, 4]))
    whole = decode_and_grad(f, vae.decode, vae.encode(x))
    part = decode_and_grad(f, vae.decode, vae.encode(x[2:]), rows=torch.tensor([2, 3]))
    torch.testing.assert_close(part.grad_z, whole.grad_z[2:])
    latent = latent_score(f, vae.decode)
    torch.testing.assert_close(
        latent(vae.encode(x[2:]), rows=torch.tensor([2, 3])), whole.value[2:]
    )


def test_a_score_that_changes_its_input_in_place_is_right():
    """It is handed a copy, as everywhere."""

    def rude(x):
        return x.mul_(2).sum(1)

    def polite(x):
        return (2 * x).sum(1)

    z = rand(2, 2)
    for found, expected in zip(*(decode_and_grad(f, cylinder, z) for f in (rude, polite))):
        assert torch.equal(found, expected)


# --- the path on paper ----------------------------------------------------------------------------


def test_guided_way_on_the_cylinder():
    """∂F/∂v = sin u = 0 at u = 0, so v goes first and F = 0; then u at v = 1: all of the gain, 2,
    goes to b."""
    gamma = manifold_guided_path(sheet, WORLD, P, Q, 500, anchor=False)
    r = path_attribution(sheet, gamma)
    # chords of length 1/200
    torch.testing.assert_close(
        r.A, torch.tensor([[0.0, 2.0, 0.0]], dtype=torch.float64), rtol=0, atol=5e-3
    )
    points = gamma.stack()[:, 0]
    assert (points[:, :2].norm(dim=1) - 1).abs().max() < 1e-12  # on the surface all the way
    z = chart(points)
    # u has not moved while v had not arrived
    assert (z[z[:, 1] < 1 - 1e-9][:, 0].abs() < 1e-12).all()


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 9999),
    steps=st.integers(1, 10),
    fraction=st.floats(0.05, 1),
    schedule=st.sampled_from(["equal", "published"]),
)
def test_latents_keep_the_schedule_and_only_go_forward(seed, steps, fraction, schedule):
    W = rand(6, 9, seed=seed) - 0.5
    encode, decode = (lambda x: x @ torch.linalg.pinv(W)), (lambda z: z @ W)
    x0, x = rand(2, 3, 9, seed=seed + 1)
    z0, z = encode(x0), encode(x)

    def f(x):
        return (3 * x).sin().sum(1)

    gamma = manifold_guided_path(
        f, adapt(encode, decode), x0, x, steps, fraction, anchor=False, schedule=schedule
    ).stack()
    gamma_z = torch.stack([encode(point) for point in gamma])  # exact: W has full rank
    share = (gamma_z - z0) / (z - z0)
    left = (z - gamma_z).abs().sum(2) / (z - z0).abs().sum(1)
    parts = steps + (schedule == "published")
    due = torch.tensor([1 - i / parts for i in range(steps)] + [0.0], dtype=torch.float64)
    torch.testing.assert_close(left, due[:, None].expand_as(left), rtol=0, atol=1e-7)
    assert share.diff(dim=0).min() > -1e-6


def test_a_fraction_or_window_of_one_is_the_latent_line(precise, held_out):
    model, vae = precise
    x = held_out.x[:3].double()
    f, x0 = score(model).at(x), torch.zeros_like(x)
    line = enhanced_path(vae, x0, x, 6).stack()
    for gamma in (
        manifold_guided_path(f, vae, x0, x, 6, 1.0, anchor=False),
        manifold_settled_path(f, vae, x0, x, 6, 1.0, anchor=False),
    ):
        torch.testing.assert_close(gamma.stack(), line, rtol=0, atol=1e-10)


def test_order_decides(precise, held_out):
    """A given order is followed: latents arrive one after the other in it;
    random orders come from their generator."""
    model, vae = precise
    x = held_out.x[:2].double()
    f, x0 = score(model).at(x), torch.zeros_like(x)
    z0, z = vae.encode(x0), vae.encode(x)
    order = rand(2, 10, seed=4)
    first = order.argmin(1, keepdim=True)
    way = (z - z0).abs()
    T = 400
    # while only the first latent moves
    early = int((way.gather(1, first)[:, 0] / way.sum(1)).min() * T) - 1
    position = z0.clone().scatter_add_(
        1, first, (early / T * way.sum(1, keepdim=True)) * (z - z0).sign().gather(1, first)
    )
    gamma = manifold_guided_path(f, vae, x0, x, T, order=order, anchor=False)
    torch.testing.assert_close(gamma[early], vae.decode(position), rtol=0, atol=1e-9)
    draws = [
        manifold_guided_path(
            f, vae, x0, x, 5, order="random", generator=seeded(s), anchor=False
        ).stack()
        for s in (1, 1, 2)
    ]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


# --- laws on digits -------------------------------------------------------------------------------


def test_maps_of_held_out_digits_add_up(smooth, vae, held_out):
    x = held_out.x[:8]
    f, x0 = score(smooth).at(x), torch.zeros_like(x)
    bare = manifold_guided_path(f, vae, x0, x, 200, anchor=False)
    steps = list(bare.walk())
    drawn = Path(lambda: iter(steps), x0, x, 200)  # one walk, read twice
    spliced = Path(lambda: anchored(iter(steps), x0, x, True, 10), x0, x, 220)
    r, s = path_attribution(f, drawn), path_attribution(f, spliced)
    for found in (r, s):
        assert found.gap.abs().mean() <= 0.01  # in probability; the chapter does a hundred
    assert (s.ends == 0).all()
    ends = [f(0 * x) - f(vae.decode(vae.encode(0 * x))), f(x) - f(vae.decode(vae.encode(x)))]
    torch.testing.assert_close(r.ends, torch.stack(ends, 1).detach(), rtol=0, atol=1e-5)


def test_anchoring_adds_exactly_the_jumps(precise, held_out):
    model, vae = precise
    x = held_out.x[:3].double()
    f, x0 = score(model).at(x), torch.zeros_like(x)
    steps = list(manifold_guided_path(f, vae, x0, x, 10, jump=3).walk())
    assert len(steps) == len(manifold_guided_path(f, vae, x0, x, 10, jump=3)) == 17
    bare = manifold_guided_path(f, vae, x0, x, 10, anchor=False).stack()
    torch.testing.assert_close(torch.stack([s.x for s in steps[3:-3]]), bare)
    torch.testing.assert_close(steps[1].x, x0 + (bare[0] - x0) / 3)
    assert torch.equal(steps[0].x, x0) and torch.equal(steps[-1].x, x)


@pytest.mark.parametrize("name", PATHS)
def test_rows_and_chunks_do_not_matter(precise, held_out, name):
    model, vae = precise
    x = held_out.x[:5].double()
    f = score(model).at(x)

    def maps(rows, batch):
        own = score(model, f.target[rows])
        return path_attribution(
            own,
            PATHS[name](own, vae, torch.zeros_like(x[rows]), x[rows], 10, jump=2, batch=batch),
            batch=batch,
        ).A

    whole = maps(slice(0, 5), None)
    for batch in (1, 2, 7):
        assert (maps(slice(0, 5), batch) - whole).abs().max() < 1e-10
    for i in range(5):
        assert (maps(slice(i, i + 1), None) - whole[i]).abs().max() < 1e-10


@pytest.mark.parametrize("name", PATHS)
def test_networks_that_compute_the_same_get_the_same_map(precise, held_out, name):
    """Channels of the first block in another order: the same function up to rounding,
    and the guidance stays the same."""
    model, vae = precise
    x = held_out.x[:3].double()
    twin = digit_classifier("smooth").double()
    layers = list(twin)
    shuffle = torch.randperm(layers[0].out_channels, generator=seeded(0))
    layers[0].weight.data = layers[0].weight.data[shuffle]
    for quantity in ("weight", "bias", "running_mean", "running_var"):
        getattr(layers[1], quantity).data = getattr(layers[1], quantity).data[shuffle]
    layers[4].weight.data = layers[4].weight.data[:, shuffle]
    assert 0 < (twin(x) - model(x)).abs().max() < 1e-10
    A, B = (
        path_attribution(f, PATHS[name](f, vae, torch.zeros_like(x), x, 20)).A
        for f in (score(m).at(x) for m in (model, twin))
    )
    assert (A - B).abs().max() < 1e-10


@pytest.mark.parametrize("name", PATHS)
def test_an_ignored_pixel_gets_exactly_nothing(smooth, vae, held_out, name):
    x = held_out.x[:3]
    seen = torch.ones_like(x[:1])
    seen[..., 14:18, 14:18] = 0
    own = score(smooth, held_out.y[:3])

    def f(x, rows=None):
        return own(x * seen, rows)

    A = path_attribution(f, PATHS[name](f, vae, torch.zeros_like(x), x, 8)).A
    assert (A[seen.expand_as(A) == 0] == 0).all() and (A != 0).any()


@pytest.mark.parametrize("anchor", [True, False, "published"])
@pytest.mark.parametrize("name", PATHS)
def test_no_way_no_attribution(smooth, vae, held_out, name, anchor):
    x0, x = torch.zeros_like(held_out.x[:2]), held_out.x[:2].clone()
    x0[1] = x[1]
    f = score(smooth, held_out.y[:2])
    A, gap, _ = path_attribution(f, PATHS[name](f, vae, x0, x, 8, anchor=anchor))
    # there and back: rounding of the two jumps
    assert A[1].abs().max() < 1e-6 * A[0].abs().max()
    assert gap[1].abs() < 1e-6
    if anchor is False:
        assert (A[1] == 0).all()


@pytest.mark.parametrize("rule, order", [("left", 1), ("trapezoid", 2)])
def test_the_gap_falls_at_the_order_of_the_rule(rule, order):
    W = rand(3, 8) - 0.5

    def f(x):
        return (3 * x @ W).sin().sum(1)

    x0, x = (cylinder(2 * rand(30, 2, seed=s) - 1) for s in (1, 2))

    def gap(T):
        return (
            path_attribution(f, manifold_guided_path(f, WORLD, x0, x, T, anchor=False), rule=rule)
            .gap.abs()
            .mean()
        )

    assert abs(math.log2(gap(64) / gap(256)) / 2 - order) < 0.25


def test_settled_path_repeats_where_greedy_does_not():
    """A score whose latent gradients tie almost everywhere: 1e-9 of noise turns the greedy order
    over, and not the settled one."""
    encode = decode = lambda x: x
    weight = 1 + 1e-12 * rand(1, 200, seed=7)

    def f(x):
        return ((x * weight).sum(1) / 20) ** 2 + 0.05 * (40 * x * x.roll(1, 1)).sin().sum(1)

    x0, x = torch.zeros(1, 200, dtype=torch.float64), 0.5 + rand(1, 200)
    noisy = x + 1e-9 * rand(1, 200, seed=9)
    likeness = {}
    for name, draw in PATHS.items():
        A, B = (
            path_attribution(f, draw(f, adapt(encode, decode), x0, v, 60, anchor=False)).A
            for v in (x, noisy)
        )
        likeness[name] = nn.functional.cosine_similarity(A, B).item()
    assert likeness["settled"] > 0.999
    assert likeness["settled"] >= likeness["greedy"]


# --- cost -----------------------------------------------------------------------------------------


class Counting:
    """An autoencoder and a score that count their rows, with and without gradients,
    and may run out of memory."""

    def __init__(self, limit=None, decode_limit=None):
        self.drawn = self.drawn_plain = self.scored = self.scored_plain = self.most = 0
        self.limit, self.decode_limit = limit, decode_limit

    def encode(self, x):
        return chart(x)

    def decode(self, z):
        if self.decode_limit and len(z) > self.decode_limit:
            raise torch.OutOfMemoryError("as a device would")
        self.most = max(self.most, len(z))
        if z.requires_grad:
            self.drawn += len(z)
        else:
            self.drawn_plain += len(z)
        return cylinder(z)

    def __call__(self, x):
        if self.limit and len(x) > self.limit:
            raise torch.OutOfMemoryError("as a device would")
        self.most = max(self.most, len(x))
        if x.requires_grad:
            self.scored += len(x)
        else:
            self.scored_plain += len(x)
        return sheet(x)


def surface(n, seed=1):
    return [cylinder(2 * rand(n, 2, seed=s) - 1) for s in (seed, seed + 1)]


def test_each_point_is_drawn_once_and_classified_once():
    (x0, x), f = surface(3), Counting()
    gamma = manifold_guided_path(f, f, x0, x, 10, jump=4, check=False)
    assert f.drawn == f.scored == 0  # nothing but the codes before the walk
    path_attribution(f, gamma, check=False)
    # all points but the last, which guides nothing; one row more to look for kinks
    assert f.drawn in (3 * 10, 3 * 10 + 1)
    assert f.drawn_plain == 3
    assert f.scored == 3 * (11 + 2 * 4) and f.scored_plain == 0


def test_the_published_form_draws_what_it_guides_by_and_no_more():
    (x0, x), f = surface(3), Counting()
    gamma = manifold_guided_path(f, f, x0, x, 10, anchor="published", check=False)
    path_attribution(f, gamma, rule="left", check=False)
    assert f.drawn in (3 * 10, 3 * 10 + 1) and f.drawn_plain == 0
    assert f.scored == 3 * 10 + 3 * 2  # and the raw ends


def test_settling_costs_one_more_line():
    (x0, x), f = surface(3), Counting()
    gamma = manifold_settled_path(f, f, x0, x, 10, jump=4, check=False)
    path_attribution(f, gamma, check=False)
    assert f.drawn in (3 * 11, 3 * 11 + 1) and f.drawn_plain <= 3 * 11 + 1
    assert f.scored == 3 * (11 + 11 + 2 * 4)


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("limits", [dict(limit=3), dict(decode_limit=3)])
def test_out_of_memory_halves_the_batch(name, limits):
    x0, x = surface(8)
    whole = path_attribution(sheet, PATHS[name](sheet, WORLD, x0, x, 6)).A
    f = Counting(**limits)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        gamma = PATHS[name](f, f, x0, x, 6)
        A = path_attribution(f, gamma).A
    said = [w for w in said if "Out of memory" in str(w.message)]
    # each of the few users of memory halves for itself, and not again at each step
    assert 0 < len(said) <= 24
    torch.testing.assert_close(A, whole)


def test_out_of_memory_in_the_score_halves_drawing_and_scoring_together():
    f, z = Counting(limit=3), rand(8, 2)
    chunks = Chunks(8)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        seen = decode_and_grad(f, f.decode, z, batch=chunks)
    # 8 → 4 → 2
    assert chunks.batch == 2
    assert [str(w.message)[:29] for w in said] == [
        "Out of memory: going on with " for _ in range(2)
    ]
    torch.testing.assert_close(seen.grad_z, decode_and_grad(sheet, cylinder, z).grad_z)


@pytest.mark.parametrize("name", PATHS)
def test_batch_bounds_the_rows_at_once(name):
    (x0, x), f = surface(8), Counting()
    path_attribution(f, PATHS[name](f, f, x0, x, 6, batch=3), batch=3)
    assert f.most == 3


def test_inputs_that_carry_gradients_leave_no_graph():
    x0, x = surface(2)
    x.requires_grad_()
    for draw in PATHS.values():
        assert not any(point.requires_grad for point in draw(sheet, WORLD, x0, x, 4))


# --- captum's face --------------------------------------------------------------------------------


FACES = [
    (ManifoldAlignedGuidedIG, manifold_guided_path),
    (ManifoldSettledIG, manifold_settled_path),
]


@pytest.mark.parametrize("Method, draw", FACES)
def test_face_is_the_functional_core(smooth, vae, held_out, Method, draw):
    x, y = held_out.x[:3], held_out.y[:3]
    f = score(smooth, y)
    A, delta = Method(f, vae).attribute(x, n_steps=12, return_convergence_delta=True)
    core = path_attribution(f, draw(f, vae, torch.zeros_like(x), x, 12))
    torch.testing.assert_close((A, delta), (core.A, core.gap))


def test_options_reach_the_path(smooth, vae, held_out):
    x, f = held_out.x[:2], score(smooth, held_out.y[:2])
    line = path_attribution(f, enhanced_path(vae, torch.zeros_like(x), x, 6)).A
    for method in (
        ManifoldAlignedGuidedIG(f, vae, fraction=1.0, anchor=False),
        ManifoldSettledIG(f, vae, window=1.0, anchor=False),
    ):
        torch.testing.assert_close(method.attribute(x, n_steps=6), line, rtol=0, atol=1e-5)
    assert (
        ManifoldAlignedGuidedIG(f, vae, anchor=False).attribute(x, n_steps=6) - line
    ).abs().max() > 1e-3


@pytest.mark.parametrize("Method", [ManifoldAlignedGuidedIG, ManifoldSettledIG])
def test_works_inside_captum(smooth, vae, held_out, Method):
    works_inside_captum(Method(smooth, vae), smooth, held_out.x[:2], held_out.y[:2])


def test_autocast_sums_in_float32(smooth, vae, held_out):
    x, f = held_out.x[:2], score(smooth, held_out.y[:2])
    with torch.autocast("cpu", torch.bfloat16):
        steps = list(manifold_guided_path(f, vae, torch.zeros_like(x), x, 10).walk())
        A = path_attribution(f, steps).A
    assert all(s.x.dtype == torch.float32 for s in steps)
    assert A.dtype == torch.float32
    assert A.isfinite().all()


def test_codes_may_be_small_images(held_out):
    encode = nn.Conv2d(1, 2, 4, 4).double().requires_grad_(False)
    decode = (
        nn.Sequential(nn.ConvTranspose2d(2, 1, 4, 4), nn.Sigmoid()).double().requires_grad_(False)
    )
    x = held_out.x[:2].double()

    def f(x):
        return (x**2).flatten(1).mean(1)

    for draw in PATHS.values():
        r = path_attribution(f, draw(f, adapt(encode, decode), torch.zeros_like(x), x, 30))
        # the trapezoid rule is exact for a square
        torch.testing.assert_close(r.A.flatten(1).sum(1), f(x), rtol=0, atol=1e-6)


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(fraction=0), "fraction must be in"),
        (dict(fraction=1.5), "fraction must be in"),
        (dict(slerp="linear"), "slerp must be"),
        (dict(anchor="both"), "anchor must be one of"),
        (dict(jump=0), "jump must be at least 1"),
        (dict(steps=0), "steps must be at least 1"),
        (dict(order="gready"), "order must be one of"),
        (dict(order=torch.zeros(2, 3)), "order must hold"),
        (dict(order="random"), "needs a generator"),
        (dict(schedule="even"), "schedule must be one of"),
        (dict(batch=0), "batch must be at least 1"),
    ],
)
def test_manifold_guided_path_says_what_it_cannot_do(options, message):
    with pytest.raises(ValueError, match=message):
        manifold_guided_path(sheet, WORLD, P, Q, **options)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(window=0), "window must be in"),
        (dict(anchor=None), "anchor must be"),
        (dict(jump=-1), "jump must be"),
        (dict(order="mean"), "order must hold"),
    ],
)
def test_manifold_settled_path_says_what_it_cannot_do(options, message):
    with pytest.raises(ValueError, match=message):
        manifold_settled_path(sheet, WORLD, P, Q, **options)


@pytest.mark.parametrize("name", PATHS)
def test_bad_ends_are_refused(name):
    with pytest.raises(ValueError, match="must have the shape"):
        PATHS[name](sheet, WORLD, P, Q.repeat(2, 1))
    with pytest.raises(ValueError, match="must be finite"):
        PATHS[name](sheet, WORLD, P, Q / 0)


@pytest.mark.parametrize("name", PATHS)
def test_bad_autoencoders_are_named(smooth, vae, held_out, name):
    f, x = score(smooth, 0), held_out.x[:2]
    x0 = torch.zeros_like(x)

    def ask(autoencoder, f=f):
        return path_attribution(f, PATHS[name](f, autoencoder, x0, x, 4))

    with pytest.raises(ValueError, match="train mode"):
        ask(ResidualVAE(4, colours=1).train())
    with pytest.raises(ValueError, match="must return images like x"):
        ask(adapt(vae.encode, lambda z: vae.decode(z)[..., :28, :28]))
    with pytest.raises(ValueError, match="off by at most 0.5"):
        ask(adapt(vae.encode, lambda z: 255 * vae.decode(z)))
    with pytest.raises(ValueError, match="one code per image"):
        ask(adapt(lambda x: vae.encode(x)[:1], vae.decode))
    with pytest.raises(ValueError, match="does not depend on x"):
        ask(vae, lambda x: x.detach().flatten(1).sum(1))


def test_a_decoder_without_gradients_is_named(smooth, vae, held_out):
    f, x = score(smooth, 0), held_out.x[:1]
    gamma = manifold_guided_path(
        f, adapt(vae.encode, lambda z: vae.decode(z).detach()), torch.zeros_like(x), x, 4
    )
    with pytest.raises(ValueError, match="must be differentiable"):
        next(gamma.walk())


def test_steps_carry_what_was_computed():
    steps = list(manifold_guided_path(sheet, WORLD, P, Q, 5, anchor=False).walk())
    assert all(isinstance(s, Step) and s.grad is not None for s in steps[:-1])
    assert steps[-1].grad is None
