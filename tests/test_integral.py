"""Laws of the integrator, on a path that is straight and on one that is not."""

import gc
import math

import pytest
import torch
from helpers import rand, seeded
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from manifold_xai.attribution.integral import RULES, Attribution, path_attribution
from manifold_xai.attribution.methods import GuidedIG, IntegratedGradients, SettledIG
from manifold_xai.chunks import value_and_grad
from manifold_xai.paths.blur import blur_path
from manifold_xai.paths.path import Path, Step
from manifold_xai.paths.straight import straight_path
from manifold_xai.score import Score, score

POINTWISE = ("left", "trapezoid", "midpoint")


def cubic(x):
    """A score that no rule below integrates exactly on the paths below:
    its gradient is of second degree and mixes features."""
    return (x**3).sum(1) + x[:, 0] * x[:, 1] * x[:, 2]


def bent_path(x0, x, steps):
    """From x0 to x on an arc: features that are equal at both ends move in between."""
    t = torch.linspace(0, 1, steps + 1, dtype=x.dtype)[:, None, None]
    return (
        x0
        + (3 * t**2 - 2 * t**3) * (x - x0)
        + torch.sin(math.pi * t) * torch.tensor([0.5, -0.7, 0.9], dtype=x.dtype)
    )


PATHS = dict(straight=straight_path, bent=bent_path)


@pytest.fixture
def ends():
    x = rand(2, 4, 3, seed=3)
    return x[0], x[1]


def conv_net(seed=0, classes=3):
    torch.manual_seed(seed)
    layers = (
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.SiLU(),
        nn.Conv2d(4, 3, 3),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(48, classes),
    )
    net = nn.Sequential(*layers).double()
    net[1].running_mean.uniform_(-1, 1)
    net[1].running_var.uniform_(0.5, 2)
    return net.eval().requires_grad_(False)


def images(b=3, seed=5):
    x = rand(2, b, 1, 6, 6, seed=seed)
    return x[0], x[1]


# the integral


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize(("rule", "order"), [("left", 1), ("trapezoid", 2), ("midpoint", 2)])
def test_error_falls_at_the_rules_order(name, rule, order, ends):
    def gap(T):
        return path_attribution(cubic, PATHS[name](*ends, steps=T), rule=rule).gap.abs().max()

    # midpoints of chords lie beside the curve, so on the bent path the order of the midpoint rule
    # is reached from further away
    assert order - 0.2 < torch.log2(gap(64) / gap(128)) < order + 0.2


@pytest.mark.parametrize(("rule", "order"), [("left", 1), ("trapezoid", 2), ("midpoint", 2)])
def test_error_falls_at_the_rules_order_while_an_image_comes_into_focus(rule, order):
    f, x = score(conv_net(), torch.tensor([0, 1, 2]), "logit"), images()[1]

    def gap(T):
        return path_attribution(f, blur_path(x, T), rule=rule).gap.abs().mean()

    assert order - 0.2 < torch.log2(gap(128) / gap(256)) < order + 0.2


@pytest.mark.parametrize("name", PATHS)
def test_the_gap_is_the_sum_minus_the_gain(name, ends):
    gamma = PATHS[name](*ends, steps=7)
    A, gap, _ = path_attribution(cubic, gamma)
    torch.testing.assert_close(gap, A.sum(1) - (cubic(gamma[-1]) - cubic(gamma[0])))
    assert gap.abs().min() > 1e-4  # a gap there is


def test_each_features_share_on_a_quarter_circle():
    # F = x y along (sin u, 1 - cos u): A_x = ∫ y dx = ∫ (1 - cos u) cos u du = 1 - π/4, A_y = ∫ x
    # dy = ∫ sin² u du = π/4
    u = torch.linspace(0, math.pi / 2, 2001, dtype=torch.float64)
    A = path_attribution(
        lambda x: x[:, 0] * x[:, 1], torch.stack([u.sin(), 1 - u.cos()], 1)[:, None]
    ).A
    # h²/12 = 5e-8
    torch.testing.assert_close(
        A, torch.tensor([[1 - math.pi / 4, math.pi / 4]], dtype=torch.float64), rtol=0, atol=1e-6
    )


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    steps=st.integers(1, 9),
    b=st.integers(1, 4),
    rule=st.sampled_from(["trapezoid", "midpoint"]),
)
def test_a_quadratic_score_is_integrated_exactly_on_any_polygon(seed, steps, b, rule):
    g = seeded(seed)
    Q = torch.randn(4, 4, dtype=torch.float64, generator=g)
    gamma = torch.randn(steps + 1, b, 4, dtype=torch.float64, generator=g)
    gap = path_attribution(lambda x: ((x @ Q) * x).sum(1), gamma, rule=rule).gap
    assert gap.abs().max() < 1e-11  # its gradient is linear between neighbouring points


@pytest.mark.parametrize("steps", [1, 3, 6])
def test_gauss_legendre_is_exact_to_degree_two_steps(steps, ends):
    def power(x):
        return (x ** (2 * steps)).sum(1)  # its derivative along the line has degree 2T - 1

    A, gap, left_out = path_attribution(power, straight_path(*ends, steps), rule="gauss-legendre")
    torch.testing.assert_close(
        A, ends[1] ** (2 * steps) - ends[0] ** (2 * steps), rtol=0, atol=1e-13
    )
    assert gap.abs().max() < 1e-13 and left_out.eq(0).all()


@pytest.mark.parametrize("rule", RULES)
def test_nothing_moves_nothing_is_attributed(rule, ends):
    A, gap, left_out = path_attribution(cubic, straight_path(ends[0], ends[0], 5), rule=rule)
    assert A.eq(0).all() and gap.eq(0).all() and left_out.eq(0).all()


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("rule", POINTWISE)
def test_an_ignored_feature_gets_exactly_nothing(name, rule, ends):
    A = path_attribution(lambda x: x[:, 0] ** 3 * x[:, 2], PATHS[name](*ends, steps=6), rule=rule).A
    assert A[:, 1].eq(0).all() and A[:, [0, 2]].ne(0).all()


@pytest.mark.parametrize("name", PATHS)
def test_attributions_are_linear_in_the_score(name, ends):
    def f(x):
        return x.sin().prod(1)

    A = [
        path_attribution(h, PATHS[name](*ends, steps=6)).A
        for h in (cubic, f, lambda x: 2 * cubic(x) - 3 * f(x))
    ]
    torch.testing.assert_close(A[2], 2 * A[0] - 3 * A[1])


def test_symmetric_features_share_alike_on_the_line_and_not_on_a_bend():
    x0, x, f = (
        torch.zeros(1, 3).double(),
        torch.ones(1, 3).double(),
        lambda x: x.prod(1) + x.sum(1) ** 2,
    )
    A = path_attribution(f, straight_path(x0, x, 9)).A
    torch.testing.assert_close(A[:, 0], A[:, 1])
    A = path_attribution(f, bent_path(x0, x, 9)).A
    assert (A[:, 0] - A[:, 1]).abs() > 0.1


def test_networks_that_compute_the_same_get_the_same_map():
    net, (x0, x) = conv_net(), images()
    order = torch.tensor([2, 0, 3, 1])
    conv, norm, last = nn.Conv2d(1, 4, 3, padding=1).double(), net[1], nn.Conv2d(4, 3, 3).double()
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    with torch.no_grad():  # batch norm folded into the convolution, channels permuted
        conv.weight.copy_((net[0].weight * scale[:, None, None, None])[order])
        conv.bias.copy_(((net[0].bias - norm.running_mean) * scale + norm.bias)[order])
        last.weight.copy_(net[3].weight[:, order])
        last.bias.copy_(net[3].bias)
    twin = nn.Sequential(conv, nn.SiLU(), last, *net[4:]).requires_grad_(False)
    wiggle = torch.sin(torch.linspace(0, math.pi, 11, dtype=x.dtype))[
        :, None, None, None, None
    ] * torch.rand(1, 6, 6, dtype=x.dtype)
    for gamma in (straight_path(x0, x, 10), straight_path(x0, x, 10).stack() + wiggle):
        A, B = (path_attribution(score(m, 1), gamma).A for m in (net, twin))
        assert (A - B).abs().max() < 1e-12 and A.abs().max() > 1e-3


@pytest.mark.parametrize("rule", RULES)
def test_rows_do_not_see_each_other(rule):
    (x0, x), y = images(), torch.tensor([2, 0, 1])
    A, gap, _ = path_attribution(score(conv_net(), y), straight_path(x0, x, 6), rule=rule)
    for i in range(3):
        alone = path_attribution(
            score(conv_net(), int(y[i])), straight_path(x0[[i]], x[[i]], 6), rule=rule
        )
        torch.testing.assert_close((A[[i]], gap[[i]]), alone[:2])


def test_rows_do_not_see_each_other_when_segments_are_halved():
    (x0, x), y = images(), torch.tensor([2, 0, 1])
    # every segment, five times
    fine = path_attribution(score(conv_net(), y), straight_path(x0, x, 3), refine=0.0)
    torch.testing.assert_close(
        fine, path_attribution(score(conv_net(), y), straight_path(x0, x, 3 * 2**5))
    )


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 40),
    rule=st.sampled_from(RULES),
    steps=st.integers(1, 9),
    refine=st.sampled_from([None, 1e-4]),
)
def test_the_chunk_size_changes_nothing(batch, rule, steps, refine):
    x0, x = images()
    f, refine = score(conv_net(), torch.tensor([2, 0, 1])), refine if rule == "trapezoid" else None
    whole = path_attribution(f, straight_path(x0, x, steps), rule=rule, refine=refine, batch=1000)
    parts = path_attribution(f, straight_path(x0, x, steps), rule=rule, refine=refine, batch=batch)
    assert all((a - b).abs().max() < 1e-12 for a, b in zip(whole, parts))


# paths


def counting(f, calls):
    def g(x, rows):
        calls.append((len(x), torch.is_grad_enabled()))
        return f(x)

    return g


def test_tensor_iterator_steps_and_path_are_one_path(ends):
    points = bent_path(*ends, steps=9)
    value, grad = zip(*(value_and_grad(cubic, p) for p in points))
    forms = [
        points,
        list(points),
        iter(points),
        (Step(p, g, v) for p, g, v in zip(points, grad, value)),
        (Step(p, g) if i % 3 else p for i, (p, g) in enumerate(zip(points, grad))),
        Path(lambda: iter(points), *ends, 9),
    ]
    for rule in POINTWISE:
        results = [
            path_attribution(cubic, gamma, rule=rule)
            for gamma in (points, list(points), Path(lambda: iter(points), *ends, 9))
        ]
        results += (
            [path_attribution(cubic, gamma, batch=7) for gamma in forms]
            if rule == "trapezoid"
            else []
        )
        for result in results:
            torch.testing.assert_close(result, results[0])


def test_gradients_that_a_path_brings_are_not_computed_again(ends):
    points, calls = bent_path(*ends, steps=9), []
    steps = [Step(p, *reversed(value_and_grad(cubic, p))) for p in points]
    path_attribution(counting(cubic, calls), steps, check=False)
    assert calls == []
    path_attribution(counting(cubic, calls), [*steps[:-1], points[-1]], check=False)
    assert calls == [(4, True)]  # the one gradient at the end, its score with it


@pytest.mark.parametrize("rule", ["left", "trapezoid"])
def test_each_point_is_passed_through_the_score_once(rule, ends):
    calls = []
    path_attribution(
        counting(cubic, calls), straight_path(*ends, 20), rule=rule, batch=12, check=False
    )
    assert sum(n for n, _ in calls) == 21 * 4 and all(grad for _, grad in calls)


def test_memory_does_not_grow_with_the_number_of_steps(ends):
    def alive_at_the_end(T):
        x, rows, alive = torch.zeros(4, 3, 7).double(), [], []  # a shape that nothing else here has

        def draw():
            for i in range(T + 1):
                yield x + i / T
            alive.append(
                sum(type(o) is torch.Tensor and o.shape == x.shape for o in gc.get_objects())
            )

        path_attribution(counting(lambda x: x.flatten(1).sum(1), rows), draw(), batch=16)
        return alive[0], max(n for n, _ in rows)

    held, most_rows = alive_at_the_end(200)
    assert (held, most_rows) == alive_at_the_end(20) and most_rows == 16
    # one run's points and gradients, A, x, the path's first point and its gradient
    assert held <= 4 * (16 // 4) + 6


def test_a_users_path_must_meet_its_ends(ends):
    x0, x = ends
    gamma = bent_path(x0, x, 5)
    with pytest.raises(
        ValueError,
        match=(
            r"(?s)must end at `x`, but its last point differs from it by 0.3.*gamma\[-1\]: "
            r"\(4, 3\).*anchor the path"
        ),
    ):
        path_attribution(cubic, gamma, x0, x + 0.3)
    with pytest.raises(ValueError, match="must start at `x0`, but its first point differs"):
        path_attribution(cubic, iter(gamma), x0 - 0.1, x)
    with pytest.raises(ValueError, match=r"x: \(4, 2\)"):
        path_attribution(cubic, gamma, x0, x[:, :2])
    # its own rounding is forgiven
    assert path_attribution(cubic, gamma, x0, x + 1e-12).ends.abs().max() < 1e-10


def test_a_library_path_reports_what_its_ends_leave_out(ends):
    x0, x = ends
    A, gap, left_out = path_attribution(
        cubic, Path(lambda: iter(bent_path(x0 + 0.1, x - 0.2, 50)), x0, x, 50)
    )
    torch.testing.assert_close(
        left_out, torch.stack([cubic(x0) - cubic(x0 + 0.1), cubic(x) - cubic(x - 0.2)], 1)
    )
    torch.testing.assert_close(
        A.sum(1) - gap + left_out[:, 1] - left_out[:, 0], cubic(x) - cubic(x0)
    )


def test_ten_lines_make_a_path(ends):
    def corner_path(x0, x):
        "One feature after the other."
        point = x0
        yield point
        for j in range(x.shape[1]):
            for t in (0.25, 0.5, 0.75, 1):
                point = point.clone()
                point[:, j] = torch.lerp(x0[:, j], x[:, j], t)
                yield point

    A, gap, left_out = path_attribution(
        lambda x: x[:, 0] * x[:, 1] + x[:, 2], corner_path(*ends), *ends
    )
    (x0, x) = ends
    by_hand = torch.stack([(x - x0)[:, 0] * x0[:, 1], (x - x0)[:, 1] * x[:, 0], (x - x0)[:, 2]], 1)
    torch.testing.assert_close(A, by_hand)
    assert gap.abs().max() < 1e-12 and left_out.eq(0).all()


def test_the_class_is_the_one_predicted_at_x():
    (x0, x), net = images(), conv_net()
    f = score(net)
    expected = path_attribution(score(net, net(x).argmax(1)), straight_path(x0, x, 5))
    for gamma, kw in [
        (straight_path(x0, x, 5), {}),
        (straight_path(x0, x, 5).stack(), {}),
        (iter(straight_path(x0, x, 5)), dict(x=x)),
    ]:
        torch.testing.assert_close(path_attribution(f, gamma, **kw), expected)
    with pytest.raises(ValueError, match="no class yet: pass x"):
        path_attribution(f, iter(straight_path(x0, x, 5)))
    assert isinstance(f, Score) and f.target is None


@pytest.mark.parametrize("n", [2, 4])
def test_a_target_of_another_length_is_refused_before_the_walk(n):
    x0, x = images()
    # indexing rows would not notice 4 targets for 3 rows
    for gamma in (straight_path(x0, x, 5), iter(straight_path(x0, x, 5))):
        with pytest.raises(ValueError, match=f"one class per row, got {n} for 3 rows"):
            path_attribution(score(conv_net(), torch.arange(n) % 3), gamma)


# refinement


def kink(x):
    """Piecewise linear: its gradient jumps inside a segment,
    where a rule of any order errs by the jump."""
    return (x.sum(1, keepdim=True) - torch.tensor([0.31, 0.77, 1.9], dtype=x.dtype)).relu().sum(1)


@pytest.mark.parametrize("name", PATHS)
def test_refinement_closes_the_gap_where_it_is_and_spends_little(name, ends):
    calls = []
    plain = path_attribution(kink, PATHS[name](*ends, steps=40))
    fine = path_attribution(counting(kink, calls), PATHS[name](*ends, steps=40), refine=1e-4)
    assert fine.gap.abs().max() < plain.gap.abs().max() / 8
    # at most three kinks a row, five halvings each
    assert sum(n for n, grad in calls if grad) < 2 * 41 * 4
    whole = path_attribution(kink, PATHS[name](*ends, steps=40 * 32))
    assert (fine.A - whole.A).abs().max() < (plain.A - whole.A).abs().max() / 3


def test_refinement_leaves_smooth_segments_alone(ends):
    calls = []
    plain = path_attribution(cubic, straight_path(*ends, 50))
    torch.testing.assert_close(
        path_attribution(
            counting(cubic, calls), straight_path(*ends, 50), refine=1e-3, check=False
        ),
        plain,
    )
    assert sum(n for n, _ in calls) == 51 * 4


# bad input


def test_paths_that_are_none(ends):
    x0, x = ends
    with pytest.raises(ValueError, match="at least two points, its start and its end, got 1"):
        path_attribution(cubic, x[None])
    with pytest.raises(ValueError, match="got 0"):
        path_attribution(cubic, [])
    with pytest.raises(ValueError, match=r"point 2 is \(4, 2\)"):
        path_attribution(cubic, [x0, x, x[:, :2]])
    with pytest.raises(ValueError, match=r"\(b, \.\.\.\), but point 0 is \(3,\)"):
        path_attribution(cubic, [x0[0], x[0]])
    with pytest.raises(ValueError, match="point 1 is tuple"):
        path_attribution(cubic, [x0, (x, None)])


def test_a_path_that_overwrites_its_points_is_noticed(ends):
    def careless():
        point = ends[0].clone()
        for _ in range(4):
            yield point
            point += 0.1

    with pytest.raises(ValueError, match="changed point 0 in place"):
        path_attribution(cubic, careless())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (dict(x=torch.full((1, 1, 2, 2), float("nan"))), "`x` must be finite"),
        (dict(x0=torch.full((1, 1, 2, 2), 255.0)), "`x0` must hold images.*255"),
        (dict(x=torch.full((1, 1, 2, 2), -2.0)), "`x` must hold images.*Normalised"),
        (dict(x0=torch.zeros(1, 1, 2, 3)), r"`x0` must have the shape of `x`"),
        (dict(steps=0), "steps must be at least 1, got 0"),
        (dict(rule="simpson"), "rule must be one of left, trapezoid, midpoint, gauss-legendre"),
        (dict(rule="left", refine=0.1), "refine halves segments of the trapezoid rule"),
    ],
)
def test_bad_input_is_refused(change, says):
    given = {
        **dict(
            x0=torch.zeros(1, 1, 2, 2),
            x=torch.rand(1, 1, 2, 2),
            steps=3,
            rule="trapezoid",
            refine=None,
        ),
        **change,
    }
    with pytest.raises(ValueError, match=says):
        gamma = straight_path(given["x0"], given["x"], given["steps"])
        path_attribution(
            lambda x: x.flatten(1).sum(1), gamma, rule=given["rule"], refine=given["refine"]
        )


def test_gauss_legendre_needs_the_line(ends):
    with pytest.raises(ValueError, match="needs straight_path"):
        path_attribution(cubic, bent_path(*ends, 4), rule="gauss-legendre")


def broken_at(*bad):
    """A score that is NaN wherever these rows are asked about."""

    def f(x, rows):
        nan = torch.isin(rows, torch.tensor(bad))
        return torch.where(nan, torch.nan, cubic(x))

    return f


RULE = {"trapezoid": {}, "midpoint": {}, "gauss-legendre": {}, "refined": {"refine": 1e-6}}


@pytest.mark.parametrize("rule", RULE)
def test_a_score_that_breaks_on_the_way_is_reported_by_row_or_leaves_the_others(ends, rule):
    how = RULE[rule] or dict(rule=rule)
    gamma = straight_path(*ends, 8)
    with pytest.raises(ValueError, match="NaN or infinite somewhere on the path of rows 0, 2"):
        path_attribution(broken_at(0, 2), gamma, **how)
    found = path_attribution(broken_at(0, 2), gamma, finite=False, **how)
    whole = path_attribution(cubic, gamma, **how)
    good = [i for i in range(len(whole.A)) if i not in (0, 2)]
    assert found.A[[0, 2]].isnan().all() and found.gap[[0, 2]].isnan().all()
    for ours, theirs in zip(found, whole):
        assert torch.equal(ours[good], theirs[good])


@pytest.mark.parametrize("method", [GuidedIG, IntegratedGradients, SettledIG])
def test_methods_return_the_rows_that_are_whole_where_asked(ends, method):
    def model(x):
        return torch.where(x[:, :1] > 0.5, torch.nan, 1.0) * x.square().cumsum(1)

    x = ends[1]
    bad = x[:, 0] > 0.5
    assert 0 < int(bad.sum()) < len(x)
    with pytest.raises(ValueError, match="on the path of row"):
        method(model, span=False).attribute(x, target=1, n_steps=8)
    A = method(model, span=False, finite=False).attribute(x, target=1, n_steps=8)
    alone = method(model, span=False).attribute(x[~bad], target=1, n_steps=8)
    assert A[bad].isnan().all() and torch.equal(A[~bad], alone)


# machinery


def test_out_of_memory_halves_once_and_goes_on(ends):
    seen = []

    def scarce(x):
        seen.append(len(x))
        if len(x) > 8:
            raise torch.OutOfMemoryError("no room")
        return cubic(x)

    with pytest.warns(UserWarning, match="going on with 8 at once") as caught:
        result = path_attribution(scarce, straight_path(*ends, 20), batch=16, check=False)
    assert len(caught) == 1 and seen.count(16) == 1 and max(seen[1:]) == 8
    torch.testing.assert_close(result, path_attribution(cubic, straight_path(*ends, 20)))


def test_half_precision_is_summed_in_float32():
    x0, x = images()
    f = score(conv_net().float(), 1)
    exact = path_attribution(score(conv_net(), 1), straight_path(x0, x, 200))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        A, gap, _ = path_attribution(f, straight_path(x0.float(), x.float(), 200))
    assert A.dtype == gap.dtype == torch.float32
    # bfloat16 keeps 8 bits of each gradient
    assert (A - exact.A).abs().max() < 0.01 * exact.A.abs().max()
    # In bfloat16 throughout, 2000 equal pieces of a linear score: a sum kept in it would stall at
    # 256 pieces.
    x = torch.ones(1, 2, dtype=torch.bfloat16)
    points = (x * t for t in torch.linspace(0, 1, 2001, dtype=torch.float64))
    A = path_attribution(lambda x: x.sum(1), points).A
    assert A.dtype == torch.float32 and (A - 1).abs().max() < 1e-6


def test_inputs_that_require_gradients_leave_no_graph():
    x0, x = images()
    for rule in RULES:
        result = path_attribution(
            score(conv_net(), 1), straight_path(x0, x.clone().requires_grad_(), 4), rule=rule
        )
        assert isinstance(result, Attribution) and not any(t.requires_grad for t in result)


def test_a_bar_on_request_only(ends, capfd):
    path_attribution(cubic, straight_path(*ends, 4))
    assert capfd.readouterr().err == ""
    path_attribution(cubic, straight_path(*ends, 4), progress=True)
    assert "path" in capfd.readouterr().err
