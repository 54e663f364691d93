"""Guided paths: equal to published implementations with their options, right and repeatable."""

import math

import pytest
import torch
from helpers import rand, relative, seeded, works_inside_captum
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from manifold_xai.attribution.integral import path_attribution
from manifold_xai.attribution.methods import GuidedIG, SettledIG
from manifold_xai.paths.guided import (
    guided_path,
    guided_point,
    guided_step,
    line_gradient,
    mean_gradient,
    settled_path,
)
from manifold_xai.paths.order import guided_step_loop, places, queue
from manifold_xai.paths.straight import straight_path
from manifold_xai.score import score
from manifold_xai.subjects.classifiers import digit_classifier

# --- the published implementations ----------------------------------------------------------------


@pytest.mark.parametrize("output, key", [("probability", "gig.prob"), ("logit", "gig.logit")])
def test_guided_ig_is_the_published_one(answers, published, bench, output, key):
    x = answers["x"]
    f = score(published[0], answers["target"], output)
    gamma = guided_path(f, torch.zeros_like(x), x, steps=49, schedule="published")
    assert (
        relative(path_attribution(f, gamma, rule="left").A, answers[f"{key}.attribution"]) < 1e-10
    )
    assert relative(gamma.stack()[::7].transpose(0, 1), answers[f"{key}.path"]) < 1e-10
    assert (
        relative(bench.loop(f, torch.zeros_like(x), x, 49), answers[f"{key}.attribution"]) < 1e-10
    )


@pytest.mark.parametrize("max_dist", [0.02, 1.0])
def test_the_corridor_is_the_published_one(answers, published, max_dist):
    f = score(published[0], answers["target"])
    gamma = guided_path(
        f, torch.zeros_like(answers["x"]), answers["x"], steps=50, fraction=0.05, max_dist=max_dist
    )
    A = path_attribution(f, gamma, rule="left").A
    assert relative(A, answers[f"pair_gig.max_dist_{max_dist}.attribution"]) < 1e-10


@pytest.mark.parametrize("slerp, key", [(False, "ma_gig"), ("published", "ma_gig_slerp")])
def test_the_same_step_is_the_published_one_in_latents(answers, published, slerp, key):
    classifier, encode, decode = published
    x, f = answers["x"], score(classifier, answers["target"])
    z0, z = encode(torch.zeros_like(x)), encode(x)
    path = [z0]
    for t in places(49, "published"):
        here = path[-1].clone().requires_grad_()
        (grad,) = torch.autograd.grad(f(decode(here)).sum(), here)
        path.append(guided_point(path[-1], z0, z, grad, t, 0.05, slerp=slerp))
    points = torch.stack([decode(z) for z in path])
    points[0], points[-1] = 0, x
    assert relative(points[::7].transpose(0, 1), answers[f"{key}.path"]) < 1e-10
    assert (
        relative(path_attribution(f, points, rule="left").A, answers[f"{key}.attribution"]) < 1e-10
    )


# --- the step -------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 9999),
    n=st.integers(1, 40),
    b=st.integers(1, 4),
    fraction=st.floats(0.01, 1),
    spent=st.floats(0, 1.2),
)
def test_a_step_is_the_loop_for_every_row(seed, n, b, fraction, spent):
    position, target, grad = rand(3, b, n, seed=seed)
    target = torch.where(rand(b, n, seed=seed + 1) < 0.3, position, target)  # some have arrived
    budget = spent * (target - position).abs().sum(1)
    moved = guided_step(position, target, grad, budget, fraction)
    for i in range(b):
        torch.testing.assert_close(
            moved[i],
            guided_step_loop(position[i], target[i], grad[i], budget[i], fraction),
            rtol=0,
            atol=1e-12,
        )


def test_a_step_on_a_great_circle_keeps_the_radius():
    a = torch.tensor([[1.0, 0.0, 5.0]], dtype=torch.float64)
    b = torch.tensor([[0.0, 1.0, 7.0]], dtype=torch.float64)
    grad = torch.tensor([[0.1, 0.2, 9.0]], dtype=torch.float64)
    # one group of two, half way
    moved = guided_step(a, b, grad, torch.ones(1), fraction=0.5, slerp=True)
    torch.testing.assert_close(
        moved, torch.tensor([[math.sqrt(0.5), math.sqrt(0.5), 5.0]], dtype=torch.float64)
    )
    # the line cuts the corner
    assert guided_step(a, b, grad, torch.ones(1), fraction=0.5)[0, :2].norm() < 0.8


# --- the path -------------------------------------------------------------------------------------


def wavy(x):
    """A score with gradients of all sizes, whatever the shape of x."""
    x = x.flatten(1)
    return (x * torch.arange(1, x.shape[1] + 1)).sin().sum(1) + (x.diff(dim=1) ** 2).sum(1)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 9999),
    steps=st.integers(1, 12),
    fraction=st.floats(0.01, 1),
    max_dist=st.none() | st.floats(0, 1),
    schedule=st.sampled_from(["equal", "published"]),
    order=st.sampled_from(["greedy", "random"]),
)
def test_schedule_is_kept_and_what_arrived_stays(seed, steps, fraction, max_dist, schedule, order):
    x0, x = rand(2, 3, 1, 4, 5, seed=seed)
    gamma = guided_path(
        wavy, x0, x, steps, fraction, max_dist, order, schedule=schedule, generator=seeded(seed)
    ).stack()
    left = (x - gamma).abs().flatten(2).sum(2) / (x - x0).abs().flatten(1).sum(1)
    due = 1 - torch.tensor([0, *places(steps, schedule)], dtype=torch.float64)
    torch.testing.assert_close(left, due[:, None].expand_as(left), rtol=0, atol=1e-12)
    assert torch.equal(gamma[0], x0) and torch.equal(gamma[-1], x)
    share = (gamma - x0) / (x - x0)
    assert share.diff(dim=0).min() > -1e-9  # forward only
    assert not ((gamma == x)[:-1] & (gamma != x)[1:]).any()
    if max_dist is not None:
        t = 1 - due.view(-1, 1, 1, 1, 1)
        assert ((share - t)[:-1].abs() <= max_dist + 1e-9).all()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 9999), steps=st.integers(1, 12), window=st.floats(0.01, 1))
def test_a_settled_path_goes_forward_inside_its_corridor(seed, steps, window):
    x0, x, order = rand(3, 3, 1, 4, 5, seed=seed)
    gamma = settled_path(wavy, x0, x, steps, window, order).stack()
    assert torch.equal(gamma[0], x0) and torch.equal(gamma[-1], x)
    share = (gamma - x0) / (x - x0)
    t = torch.linspace(0, 1, steps + 1, dtype=torch.float64).view(-1, 1, 1, 1, 1)
    assert share.diff(dim=0).min() > -1e-9 and ((share - t).abs() <= 1 - window + 1e-6).all()
    # only the ranking counts
    torch.testing.assert_close(settled_path(wavy, x0, x, steps, window, order**3).stack(), gamma)


@pytest.mark.parametrize("rule, order", [("left", 1), ("trapezoid", 2)])
def test_the_gap_of_a_settled_path_falls_at_the_order_of_the_rule(rule, order):
    """Features start and arrive within segments, but each segment is straight all the same."""
    x0, x = rand(2, 30, 6, seed=1)

    def gap(T):
        return path_attribution(wavy, settled_path(wavy, x0, x, T), rule=rule).gap.abs().mean()

    assert abs(math.log2(gap(64) / gap(256)) / 2 - order) < 0.25


def test_queue_on_paper():
    x = torch.tensor([[1.0, 2.0, 0.0, 1.0]])
    torch.testing.assert_close(
        queue(torch.zeros(1, 4), x, torch.tensor([[2.0, 1.0, 1.5, 3.0]]))[:, [0, 1, 3]],
        torch.tensor([[5 / 8, 1 / 4, 7 / 8]]),
    )


def test_greedy_finds_the_way_around_the_ripple():
    def ripple(x):
        u, v = x.T
        return u * v + u + 0.5 * (2 * math.pi * u).sin() * (1 - v)

    ends = torch.zeros(1, 2, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64)
    A = path_attribution(ripple, guided_path(ripple, *ends, steps=8)).A
    # ∂F/∂u = 2 at v = 1, ∂F/∂v = 0 at u = 0
    torch.testing.assert_close(
        A, torch.tensor([[2.0, 0.0]], dtype=torch.float64), rtol=0, atol=1e-12
    )


def test_mean_gradient_is_the_mean_in_any_chunk():
    x0, x = rand(2, 3, 4, seed=5)
    by_hand = sum((torch.lerp(x0, x, i / 10) * 2).abs() for i in range(11)) / 11
    for batch in (1, 4, 100):
        torch.testing.assert_close(
            mean_gradient(lambda x: (x**2).sum(1), x0, x, 10, batch), by_hand
        )


def test_line_gradient_is_exact_between_the_points_of_a_cubic():
    """Also where a gradient changes its sign: further places between the points cost no pass."""
    x0, x = rand(2, 3, 4, seed=5)

    def f(x):
        return ((x - 0.45) ** 4).sum(1)

    def size(t):
        return (4 * (torch.lerp(x0, x, t) - 0.45) ** 3).abs()

    by_hand = sum((size(i / 48) + size((i + 1) / 48)) / 2 for i in range(48)) / 48
    for batch in (1, 4, 100):
        found = line_gradient(f, x0, x, 12, batch)
        torch.testing.assert_close(found, by_hand, rtol=1e-6, atol=1e-8)  # float32 places


def test_line_gradient_comes_to_the_mean_over_the_line_sooner_than_points_do():
    x0, x = rand(2, 3, 4, seed=5)

    def f(x):
        return (9 * x).sin().sum(1)

    exact = mean_gradient(f, x0, x, 20_000)
    far = (mean_gradient(f, x0, x, 24) - exact).abs().max()
    assert (line_gradient(f, x0, x, 24) - exact).abs().max() < far / 20
    with pytest.raises(ValueError, match="steps of at least 3, got 2"):
        line_gradient(f, x0, x, 2)


# --- on digits ------------------------------------------------------------------------------------


PATHS = dict(greedy=guided_path, settled=settled_path)


def test_settled_maps_of_held_out_digits_add_up(smooth, held_out):
    x = held_out.x[:6]
    f = score(smooth).at(x)
    gap = path_attribution(f, settled_path(f, torch.zeros_like(x), x, 200)).gap
    assert gap.abs().mean() <= 0.01  # in probability


@pytest.mark.parametrize("name", PATHS)
def test_rows_and_chunks_do_not_matter(smooth, held_out, name):
    model, x = digit_classifier("smooth").double(), held_out.x[:5].double()
    f = score(model).at(x)

    def maps(rows, batch):
        own = score(model, f.target[rows])
        return path_attribution(
            own, PATHS[name](own, torch.zeros_like(x[rows]), x[rows], 10, batch=batch), batch=batch
        ).A

    whole = maps(slice(0, 5), None)
    for batch in (1, 2, 7):
        assert (maps(slice(0, 5), batch) - whole).abs().max() < 1e-10
    for i in range(5):
        assert (maps(slice(i, i + 1), None) - whole[i]).abs().max() < 1e-10


@pytest.mark.parametrize("name", PATHS)
def test_networks_that_compute_the_same_get_the_same_map(held_out, name):
    """Batch norm folded into the convolutions, and the first block's channels permuted."""
    model, x = digit_classifier("smooth").double(), held_out.x[:3].double()
    twin = digit_classifier("smooth").double()
    layers = list(twin)
    for i in range(0, 12, 4):
        layers[i : i + 2] = [
            torch.nn.utils.fusion.fuse_conv_bn_eval(layers[i], layers[i + 1]),
            nn.Identity(),
        ]
    shuffle = torch.randperm(layers[0].out_channels, generator=seeded())
    layers[0].weight.data, layers[0].bias.data = (
        layers[0].weight.data[shuffle],
        layers[0].bias.data[shuffle],
    )
    layers[4].weight.data = layers[4].weight.data[:, shuffle]
    twin = nn.Sequential(*layers).eval()
    assert (twin(x) - model(x)).abs().max() < 1e-10
    assert not any(isinstance(m, nn.BatchNorm2d) for m in twin.modules())
    A, B = (
        path_attribution(f, PATHS[name](f, torch.zeros_like(x), x, 20)).A
        for f in (score(m).at(x) for m in (model, twin))
    )
    assert (A - B).abs().max() < 1e-10


@pytest.mark.parametrize("name", PATHS)
def test_an_ignored_feature_gets_exactly_nothing(name):
    x0, x = rand(2, 4, 12, seed=1)

    def f(x):
        return wavy(x[:, :-1])

    A = path_attribution(f, PATHS[name](f, x0, x, 15)).A
    assert (A[:, -1] == 0).all() and (A[:, :-1] != 0).all()


@pytest.mark.parametrize("name", PATHS)
def test_no_way_no_attribution(name):
    x0, x = rand(2, 3, 12, seed=2)
    x[1] = x0[1]
    A, gap, _ = path_attribution(wavy, PATHS[name](wavy, x0, x, 15))
    assert (A[1] == 0).all() and gap[1] == 0 and A[0].abs().max() > 0


def test_noise_on_black_does_not_reorder_a_settled_path():
    """A thousand pixels at 1e-9 take up no more than 1e-6 of the queue;
    in groups they would fill ten."""
    x, order = torch.zeros(1, 1100, dtype=torch.float64), rand(1, 1100)
    x[:, :100] = 1.0
    noisy = x + 1e-9 * rand(1, 1100, seed=3)
    x0 = torch.zeros_like(x)
    settled, grouped = (
        [draw(v)[5] for v in (x, noisy)]
        for draw in (
            lambda v: settled_path(wavy, x0, v, 10, 0.1, order),
            lambda v: guided_path(wavy, x0, v, 10, 0.1, order=order),
        )
    )
    assert (settled[0] - settled[1]).abs().max() < 1e-5
    assert (grouped[0] - grouped[1]).abs().max() > 0.5  # what is being avoided


# --- cost -----------------------------------------------------------------------------------------


class Counting:
    def __init__(self, limit=None):
        self.with_grad = self.without = self.most = 0
        self.limit = limit

    def __call__(self, x):
        if self.limit and len(x) > self.limit:
            raise torch.OutOfMemoryError("as a device would")
        self.most = max(self.most, len(x))
        if x.requires_grad:
            self.with_grad += len(x)
        else:
            self.without += len(x)
        return wavy(x)


@pytest.mark.parametrize("name, passes", [("greedy", 11), ("settled", 22)])
def test_no_gradient_is_computed_twice(name, passes):
    x0, x = rand(2, 3, 12)
    f = Counting()
    path_attribution(f, PATHS[name](f, x0, x, 10), check=False)
    assert f.with_grad == 3 * passes and f.without <= 3 * 2  # the ends' scores at most
    f = Counting()
    gamma = PATHS[name](f, x0, x, 10)
    assert f.with_grad == 0  # nothing happens before the walk
    next(iter(gamma))
    assert f.with_grad <= 3 * 11


@pytest.mark.parametrize("name", PATHS)
def test_out_of_memory_halves_the_batch(name):
    x0, x = rand(2, 8, 12)
    whole = path_attribution(wavy, PATHS[name](wavy, x0, x, 6)).A
    f = Counting(limit=3)
    gamma = PATHS[name](f, x0, x, 6)
    with pytest.warns(UserWarning, match="Out of memory") as said:
        points = gamma.stack()
    assert len(said) <= 5  # 48 or 8 rows to 3 or fewer, once, and not again at each step
    with pytest.warns(UserWarning, match="Out of memory"):
        torch.testing.assert_close(path_attribution(f, points).A, whole)


@pytest.mark.parametrize("name", PATHS)
def test_batch_bounds_the_rows_at_once(name):
    x0, x, f = *rand(2, 8, 12), Counting()
    path_attribution(f, PATHS[name](f, x0, x, 6, batch=3), batch=3)
    assert f.most == 3


def test_random_order_comes_from_its_generator():
    x0, x = rand(2, 6, 1, 5, 5)
    one, again, other = (
        guided_path(wavy, x0, x, 6, order="random", generator=seeded(s)) for s in (1, 1, 2)
    )
    assert torch.equal(one.stack(), again.stack()) and torch.equal(one.stack(), one.stack())
    assert not torch.equal(one.stack(), other.stack())
    g = seeded(1)  # row by row, in any batch
    parts = [
        guided_path(wavy, x0[i : i + 2], x[i : i + 2], 6, order="random", generator=g).stack()
        for i in (0, 2, 4)
    ]
    assert torch.equal(torch.cat(parts, 1), one.stack())


def test_inputs_that_carry_gradients_leave_no_graph():
    x0, x = rand(2, 2, 6)
    x.requires_grad_()
    for draw in PATHS.values():
        assert not any(point.requires_grad for point in draw(wavy, x0, x, 4))


# --- captum's face --------------------------------------------------------------------------------


@pytest.mark.parametrize("Method, draw", [(GuidedIG, guided_path), (SettledIG, settled_path)])
def test_face_is_the_functional_core(smooth, held_out, Method, draw):
    x, y = held_out.x[:3], held_out.y[:3]
    f = score(smooth, y)
    A, delta = Method(f).attribute(x, n_steps=12, return_convergence_delta=True)
    core = path_attribution(f, draw(f, torch.zeros_like(x), x, 12))
    torch.testing.assert_close((A, delta), (core.A, core.gap))


@pytest.mark.parametrize("Method", [GuidedIG, SettledIG])
def test_works_inside_captum(smooth, held_out, Method):
    works_inside_captum(Method(smooth), smooth, held_out.x[:2], held_out.y[:2])


def test_options_reach_the_path(smooth, held_out):
    x, f = held_out.x[:2], score(smooth, held_out.y[:2])
    line = path_attribution(f, straight_path(torch.zeros_like(x), x, 6)).A
    for method in (GuidedIG(f, max_dist=0.0), GuidedIG(f, fraction=1.0), SettledIG(f, window=1.0)):
        torch.testing.assert_close(method.attribute(x, n_steps=6), line, rtol=0, atol=1e-5)
    assert (GuidedIG(f).attribute(x, n_steps=6) - line).abs().max() > 1e-3


def test_autocast_sums_in_float32(smooth, held_out):
    x, f = held_out.x[:2], score(smooth, held_out.y[:2])
    with torch.autocast("cpu", torch.bfloat16):
        A = path_attribution(f, guided_path(f, torch.zeros_like(x), x, 10)).A
    assert A.dtype == torch.float32 and A.isfinite().all()


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(fraction=0), "fraction must be in"),
        (dict(fraction=1.5), "fraction must be in"),
        (dict(max_dist=-0.1), "max_dist must be in"),
        (dict(steps=0), "steps must be at least 1"),
        (dict(order="gready"), "order must be one of"),
        (dict(order=torch.zeros(2, 3)), "order must hold"),
        (dict(order="random"), "needs a generator"),
        (dict(schedule="even"), "schedule must be one of"),
    ],
)
def test_guided_path_says_what_it_cannot_do(options, message):
    with pytest.raises(ValueError, match=message):
        guided_path(wavy, *rand(2, 2, 6), **options)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(window=0), "window must be in"),
        (dict(order="mean"), "order must hold"),
        (dict(steps=0), "steps must be"),
    ],
)
def test_settled_path_says_what_it_cannot_do(options, message):
    with pytest.raises(ValueError, match=message):
        settled_path(wavy, *rand(2, 2, 6), **options)


@pytest.mark.parametrize("name", PATHS)
def test_bad_ends_are_refused(name):
    x0, x = rand(2, 2, 6)
    with pytest.raises(ValueError, match="must have the shape"):
        PATHS[name](wavy, x0[:1], x)
    with pytest.raises(ValueError, match="must be finite"):
        PATHS[name](wavy, x0, x / 0)
    with pytest.raises(ValueError, match="does not depend on x"):
        path_attribution(
            lambda x: x.detach().sum(1), PATHS[name](lambda x: x.detach().sum(1), x0, x)
        )


def test_a_settled_path_needs_a_score_or_an_order():
    x = torch.rand(2, 3)
    assert settled_path(None, 0 * x, x, 4, order=x).stack().shape == (5, 2, 3)
    with pytest.raises(ValueError, match="f must be a score where no order is given"):
        settled_path(None, 0 * x, x, 4)
