"""captum's methods behind our interface, IG2 and AGI on paper and against plain loops,
and the catalogue."""

import warnings

import captum.attr
import captum.metrics
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from every import EVERY, NEIGHBOURS
from helpers import rand, randn, seeded, small_net
from torch import nn

from manifold_xai.attribution.captum import (
    ExpectedGradients,
    GuidedBackprop,
    InputXGradient,
    Neighbour,
    Saliency,
    Sampled,
    SmoothGrad,
    SmoothIG,
    unguided,
)
from manifold_xai.attribution.catalogue import catalogue
from manifold_xai.attribution.integral import path_attribution
from manifold_xai.attribution.methods import AGI, IG2
from manifold_xai.attribution.trace import trace
from manifold_xai.autoencoder import adapt
from manifold_xai.paths.agi import adversarial_path, copies, other_classes
from manifold_xai.paths.ig2 import another_class, iterative_path, model_of, scored_and_represented
from manifold_xai.score import score


def net(bend=nn.SiLU):
    return small_net(bends=(bend(), bend()))


@pytest.fixture
def x():
    return rand(4, 1, 12, 12, seed=2)


y = torch.tensor([3, 0, 4, 3])


def sharp(model):
    return nn.Sequential(model, Times(30))  # its classes change within a few steps


class Times(nn.Module):
    def __init__(self, s):
        super().__init__()
        self.s = s

    def forward(self, h):
        return self.s * h


# captum's, wrapped


def test_wrapped_maps_are_captums(x):
    model = net(nn.ReLU)
    own = {"Saliency": Saliency, "InputXGradient": InputXGradient, "GuidedBackprop": GuidedBackprop}
    for name, method in own.items():
        how = dict(abs=False) if name == "Saliency" else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = getattr(captum.attr, name)(model).attribute(x.clone(), target=y, **how)
        torch.testing.assert_close(
            method(model).attribute(x, target=y, internal_batch_size=3), theirs.detach()
        )
    assert not torch.equal(
        GuidedBackprop(model).attribute(x, target=y), Saliency(model).attribute(x, target=y)
    )


def test_smoothgrad_is_captums_noise_tunnel(x):
    model = net()
    A = SmoothGrad(model, samples=6, noise=0.2, generator=seeded(4)).attribute(x[:1], target=3)
    seed = torch.randint(2**32, (1,), generator=seeded(4)).item()
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = captum.attr.NoiseTunnel(captum.attr.Saliency(model)).attribute(
            x[:1], nt_samples=6, stdevs=0.2, target=3, abs=False
        )
    torch.testing.assert_close(A, theirs)


@pytest.mark.parametrize("sigma", [0.01, 0.04, 0.2])
def test_smoothgrad_is_the_gradient_of_the_blurred_score(sigma):
    a, omega, n = 0.1, 40.0, 3000

    def ripple(x):
        return x[:, 0] + a * (omega * x[:, 0]).sin()

    A = (
        SmoothGrad(ripple, samples=n, noise=sigma, generator=seeded())
        .attribute(torch.full((1, 1), 0.31).double())
        .item()
    )
    expected = 1 + np.exp(-((sigma * omega) ** 2) / 2) * a * omega * np.cos(omega * 0.31)
    assert abs(A - expected) < 4 * a * omega / n**0.5  # one draw's standard deviation is at most aω


def test_expected_gradients_are_the_mean_over_baselines():
    baselines = torch.tensor([[0.0, 0.0], [1.0, 0.0]]).double()
    A = ExpectedGradients(lambda x: x[:, 0] ** 2 * x[:, 1], baselines, 4000, seeded()).attribute(
        torch.ones(1, 2).double()
    )
    assert (A - torch.tensor([[1 / 3, 2 / 3]])).abs().max() < 4 / 4000**0.5


def test_smooth_ig_adds_up_to_the_noisy_copies():
    def square(x):
        return x.square().sum(1)

    A = SmoothIG(square, samples=2000, noise=0.3, steps=2, generator=seeded()).attribute(
        torch.full((1, 2), 0.5).double()
    )
    assert abs(A.sum().item() - 2 * (0.25 + 0.09)) < 4 * 0.5 / 2000**0.5  # E (x + σξ)² = x² + σ²


@pytest.mark.parametrize("name", ["SmoothGrad", "Smooth IG", "Expected Gradients"])
def test_draws_come_from_the_generator_and_leave_the_others_alone(x, name):
    model = net()

    def make(generator):
        return {
            "SmoothGrad": SmoothGrad(model, 5, generator=generator),
            "Smooth IG": SmoothIG(model, 3, steps=3, generator=generator),
            "Expected Gradients": ExpectedGradients(model, x, 5, generator),
        }[name]

    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    whole = make(seeded(7)).attribute(x, target=y)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()
    again = make(seeded(7))
    parts = torch.cat(
        [again.attribute(x[i : i + 3], target=y[i : i + 3], internal_batch_size=2) for i in (0, 3)]
    )
    torch.testing.assert_close(parts, whole)  # however the rows are handed over
    assert not torch.allclose(make(seeded(8)).attribute(x, target=y), whole)
    state = torch.get_rng_state()
    a, b = make(None).attribute(x, target=y), make(None).attribute(x, target=y)
    assert torch.equal(a, b)  # without one, torch's own as it is
    assert torch.equal(state, torch.get_rng_state())  # and left there
    torch.manual_seed(1)
    assert not torch.equal(make(None).attribute(x, target=y), a)


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_neighbours_go_on_with_fewer_rows_when_memory_runs_out(x, name):
    model, seen = net(), []

    def small(x):
        if x.requires_grad and len(x) > 2:
            raise torch.OutOfMemoryError("as a device would")
        seen.append(len(x))
        return model(x)

    whole = NEIGHBOURS[name](model, None, x).attribute(x, target=y)
    with pytest.warns(UserWarning, match="Out of memory"):
        A = NEIGHBOURS[name](small, None, x).attribute(x, target=y)
    torch.testing.assert_close(A, whole)
    assert max(seen) > 0


# guided backprop where it cannot be right


class Block(nn.Module):
    def __init__(self, act, inner=None):
        super().__init__()
        self.conv, self.act, self.inner = nn.Conv2d(1, 3, 3).double(), act, inner or nn.Identity()

    def forward(self, x):
        return self.inner(self.act(self.conv(x))).flatten(2).mean(2)


class Function(nn.Module):
    def forward(self, h):
        return F.relu(h - 0.1)


@pytest.mark.parametrize(
    "model, message",
    [
        (Block(F.relu), r"relu in the model itself \(Block\)"),
        (Block(lambda h: h.relu_()), "relu in the model itself"),
        (Block(lambda h: h.clamp(min=0)), "clamp in the model itself"),
        (Block(nn.ReLU(), Function()), r"relu in inner \(Function\)"),
        (Block(nn.ReLU6()), r"in act \(ReLU6\)"),
        (Block(nn.ReLU(), nn.LeakyReLU()), r"leaky_relu in inner \(LeakyReLU\)"),
        (Block(nn.SiLU()), "in Block it has none"),
        (lambda x: x.flatten(1), "hand over the model"),
    ],
)
def test_guided_backprop_refuses_where_it_would_be_silent(x, model, message):
    with pytest.raises(ValueError, match=message):
        GuidedBackprop(model).attribute(x, target=1)
    if isinstance(model, nn.Module):
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize(
    "act", [nn.ReLU(), nn.ReLU(inplace=True), nn.Sequential(nn.ReLU(), nn.ReLU())]
)
def test_guided_backprop_takes_relu_modules_in_place_and_reused(x, act):
    model = Block(act, act).requires_grad_(False)
    assert unguided(model, model, x[:1])[0] == []
    assert GuidedBackprop(score(model)).attribute(x, target=1).shape == x.shape


# and where it is


class Blind(nn.Module):
    """A network that does not look at every second row of pixels."""

    def __init__(self):
        super().__init__()
        self.inner = net(nn.ReLU)
        self.register_buffer("seen", torch.arange(12)[:, None] % 2)

    def forward(self, x):
        return self.inner(x * self.seen)


@pytest.mark.parametrize("make", [lambda model: model, score])
def test_guided_backprop_sees_one_row_at_a_time_in_any_chunk(x, make):
    method = GuidedBackprop(make(net(nn.ReLU)))
    A = method.attribute(x, target=y)
    for batch in (1, 2, 3, 9):
        torch.testing.assert_close(
            method.attribute(x, target=y, internal_batch_size=batch), A, rtol=0, atol=1e-12
        )
    torch.testing.assert_close(method.attribute(x[:1], target=y[:1]), A[:1], rtol=0, atol=1e-12)
    torch.testing.assert_close(
        method.attribute(torch.cat([x[:2], 1 - x[2:]]), target=y)[:2], A[:2], rtol=0, atol=1e-12
    )
    assert not torch.allclose(A[0], A[3])  # two rows of one class


def test_guided_backprop_gives_what_is_not_looked_at_nothing_but_what_cancels_something(x):
    A = GuidedBackprop(Blind()).attribute(x, target=y)
    assert A[:, :, ::2].eq(0).all() and A[:, :, 1::2].ne(0).any()
    # relu(u) − relu(u) + relu(v): no u in it
    twice = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)).double()
    for p, v in zip(twice.parameters(), ([[1, 0], [1, 0], [0, 1]], [0, 0, 0], [[1, -1, 1]], [0])):
        p.data = torch.tensor(v).double()
    u = torch.ones(1, 2).double()
    assert torch.equal(Saliency(twice).attribute(u, target=0), torch.tensor([[0.0, 1.0]]).double())
    # the −1 is not let back
    assert torch.equal(
        GuidedBackprop(twice).attribute(u, target=0), torch.tensor([[1.0, 1.0]]).double()
    )


def test_guided_backprop_goes_on_with_fewer_rows_and_leaves_no_hook(x):
    class Small(Blind):
        def forward(self, x):
            if len(x) > 2 and x.requires_grad:
                raise torch.OutOfMemoryError("as a device would")
            return super().forward(x)

    model = Small()
    with pytest.warns(UserWarning, match="Out of memory"):
        A = GuidedBackprop(model).attribute(x, target=y)
    torch.testing.assert_close(A, GuidedBackprop(Blind()).attribute(x, target=y))
    assert not any(
        m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks
        for m in model.modules()
    )


def test_guided_backprop_among_captums_tools(x):
    model = net(nn.ReLU)
    method = GuidedBackprop(model)
    A = method.attribute(x, target=y)
    torch.manual_seed(0)
    smooth = captum.attr.NoiseTunnel(method).attribute(x, nt_samples=3, stdevs=1e-4, target=y)
    assert smooth.ne(A).any() and (smooth - A).abs().max() < 0.3 * A.abs().max()
    infidelity = captum.metrics.infidelity(
        model, lambda x: (0.1 * torch.ones_like(x), x - 0.1), x, A, target=y
    )
    gain = (model(x) - model(x - 0.1)).gather(1, y[:, None])[:, 0]
    torch.testing.assert_close(infidelity, (0.1 * A.flatten(1).sum(1) - gain) ** 2)
    assert (
        captum.metrics.sensitivity_max(method.attribute, x, n_perturb_samples=2, target=y)
        .isfinite()
        .all()
    )


@pytest.mark.filterwarnings("ignore")  # Quantus' own
def test_guided_backprop_as_quantus_explain_func(x):
    quantus = pytest.importorskip("quantus")
    model = net(nn.ReLU).float()
    A = GuidedBackprop(model).attribute(x.float(), target=y).flatten(1).abs().numpy()

    def explain(model, inputs, targets, **_):
        return (
            GuidedBackprop(model)
            .attribute(torch.as_tensor(inputs), target=torch.as_tensor(targets))
            .numpy()
        )

    metric = quantus.Sparseness(disable_warnings=True, display_progressbar=False)
    scores = metric(
        model=model,
        x_batch=x.float().numpy(),
        y_batch=y.numpy(),
        explain_func=explain,
        device="cpu",
    )
    gini = [float(np.abs(np.subtract.outer(a, a)).mean() / (2 * a.mean())) for a in A]
    np.testing.assert_allclose(scores, gini, rtol=2e-2)  # the sample form, as in test_ecosystem.py


# IG2


def stretched(x):
    return x * torch.tensor([1, 2**0.5], dtype=x.dtype)


def test_ig2_walks_the_parabola():
    F_, x = lambda x: x[:, 0] ** 2 * x[:, 1], torch.ones(1, 2).double()
    gamma = iterative_path(F_, x, 0 * x, steps=1400, step=1e-3, represent=stretched)
    points = gamma.stack()[:, 0]
    assert (points[:, 1] - points[:, 0] ** 2).abs().max() < 1e-3  # Euler steps of 1e-3
    assert (-path_attribution(F_, gamma).A - 0.5).abs().max() < 1e-3
    lengths = points.diff(dim=0).norm(dim=1)
    assert (lengths - 1e-3).abs().max() < 1e-12


def ig2_loop(model, x, reference, target, steps, step):
    """One image, as the published code goes: the path first,
    then gradients at the points nearer x times the steps."""
    path, A = [x], torch.zeros_like(x)
    for _ in range(steps):
        here = path[-1].clone().requires_grad_()
        loss = -(model(here) - model(reference)).square().mean()
        (up,) = torch.autograd.grad(loss, here)
        path.append((path[-1] + step * up / up.norm()).clamp(0, 1))
    for here, there in zip(path, path[1:]):
        here = here.clone().requires_grad_()
        (grad,) = torch.autograd.grad(model(here).softmax(1)[0, target], here)
        A += grad * (here.detach() - there)
    return A


def test_ig2_is_the_published_loop_for_every_row(x):
    model, reference = net(), rand(4, 1, 12, 12, seed=9)
    method = IG2(score(model), step=0.3)
    A = method.attribute(x, reference, target=y, n_steps=9, rule="left", internal_batch_size=3)
    for i in range(4):
        expected = ig2_loop(model, x[[i]], reference[[i]], int(y[i]), 9, 0.3)
        torch.testing.assert_close(A[[i]], expected, rtol=1e-9, atol=1e-12)


def test_ig2_listens_to_a_layer_or_calls_what_it_is_given(x):
    model, reference = net(), rand(4, 1, 12, 12, seed=9)
    calls = []
    model[2].register_forward_hook(lambda *_: calls.append(1))
    heard = IG2(model, represent=model[2], check=False).attribute(x, reference, target=y, n_steps=5)
    assert len(calls) == 1 + 5 + 1  # the reference, one pass a point, the last point
    called = IG2(model, represent=lambda x: model[:3](x)).attribute(
        x, reference, target=y, n_steps=5
    )
    torch.testing.assert_close(heard, called)
    assert not torch.allclose(heard, IG2(model).attribute(x, reference, target=y, n_steps=5))


def test_a_layer_changed_in_place_afterwards_is_heard_before():
    layer = nn.Linear(3, 3).double().requires_grad_(False)
    model = nn.Sequential(layer, nn.ReLU(inplace=True), nn.Linear(3, 1).double())
    u = rand(5, 3, seed=2) - 0.5
    value, r = scored_and_represented(lambda x: model(x)[:, 0], layer)(u, None)
    torch.testing.assert_close(r, layer(u))
    assert value.shape == (5,) and (r < 0).any()


def test_references_are_of_another_class_and_drawn_row_by_row(x):
    W = randn(144, 5, seed=6)

    def classes(x):
        return (x.flatten(1) - 0.5) @ W  # every class occurs

    f, references = score(classes).at(x), rand(40, 1, 12, 12, seed=3)
    assert all((classes(references).argmax(1) == c).any() for c in range(5))
    assert len(f.target.unique()) > 1
    chosen = another_class(f, x, references, seeded(1))
    assert (classes(chosen).argmax(1) != f.target).all()
    assert all((references == row).flatten(1).all(1).any() for row in chosen)
    g = seeded(1)
    parts = [another_class(score(classes).at(part), part, references, g) for part in x.split(3)]
    assert torch.equal(torch.cat(parts), chosen)
    drawn = [
        another_class(score(classes).at(x[:1]), x[:1], references, seeded(i)).sum().item()
        for i in range(200)
    ]
    # each is drawn at times: missed with odds below 40·(1 − 1/40)²⁰⁰
    assert len(set(drawn)) == (classes(references).argmax(1) != f.target[0]).sum()


def test_points_stay_in_range_unless_x_is_outside():
    model, x = net(), 1.4 * rand(2, 1, 12, 12, seed=2) - 0.2
    for gamma in (
        iterative_path(score(model, 1), x, rand(2, 1, 12, 12, seed=5), 6, 2.0),
        adversarial_path(score(model, 1), x, torch.tensor([0, 2]), 6, 0.3),
    ):
        points = gamma.stack()
        assert (points >= x.clamp(max=0)).all()
        assert (points <= x.clamp(min=1)).all()
        assert torch.equal(points[0], x)
        assert points.min() < 0 and (points[-1] - x).abs().max() > 0.2
    free = iterative_path(score(model, 1), x, rand(2, 1, 12, 12, seed=5), 6, 2.0, clip=None).stack()
    assert free.max() > x.max() + 0.1


def test_trace_explains_the_class_of_the_input_that_a_path_leads_away_from():
    W = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).double()
    f, x = score(lambda x: x @ W), torch.tensor([[0.9, 0.2], [0.1, 0.6]]).double()
    at_x = f.at(x)
    for gamma in (
        iterative_path(at_x, x, x.flip(1), 6, 0.5, represent=lambda x: x),
        adversarial_path(at_x, x, 1 - at_x.target, 40, 0.05),
    ):
        found = trace(f, gamma)
        assert not torch.equal(f.at(found.frames[-1]).target, at_x.target)  # it ends elsewhere
        torch.testing.assert_close(found.scores[0], at_x(x))
        torch.testing.assert_close(found.maps[-1], path_attribution(at_x, gamma).A)


# AGI


def test_agi_of_a_linear_score_is_the_size_of_its_weights():
    W = torch.tensor([[2.0, -1.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]]).double()
    f = score(lambda x: x @ W.T, 0)
    A, gap, _ = path_attribution(
        f, adversarial_path(f, 3 * rand(5, 4, seed=2), torch.ones(5).long(), steps=400, step=0.02)
    )
    share = -A / -A.sum(1, keepdim=True)
    torch.testing.assert_close(share, (W[0].abs() / 4).expand(5, 4))
    assert gap.abs().max() < 1e-4


def agi_loop(model, x, own, other, steps, step, step_from):
    """One image and one class, as the paper ("current") and the published code ("input") go;
    left rule."""
    A, here = torch.zeros_like(x), x
    for _ in range(steps):
        here = here.clone().requires_grad_()
        outputs = model(here).softmax(1)
        if outputs.argmax() == other:
            break
        down, up = (
            torch.autograd.grad(outputs[0, c], here, retain_graph=True)[0] for c in (own, other)
        )
        start = here.detach() if step_from == "current" else x
        there = (start + step * up.sign()).clamp(0, 1)
        A, here = A - down * (there - start), there
    return A


@pytest.mark.parametrize("step_from", ["current", "input"])
def test_agi_is_the_loop_for_every_row_and_class(x, step_from):
    model = sharp(net())
    own = model(x).argmax(1)
    method = AGI(score(model), step=0.03, step_from=step_from)
    A = method.attribute(x, n_steps=6, rule="left", internal_batch_size=3)
    for i in range(4):
        maps = [
            agi_loop(model, x[[i]], own[i], c, 6, 0.03, step_from) for c in range(5) if c != own[i]
        ]
        torch.testing.assert_close(A[[i]], torch.stack(maps).mean(0), rtol=1e-9, atol=1e-12)
    arrived = adversarial_path(
        copies(score(model, own), 4),
        x.repeat_interleave(4, 0),
        other_classes(own, 5).flatten(),
        6,
        0.03,
    )[-1]
    reached = model(arrived).argmax(1) == other_classes(own, 5).flatten()
    # so rows that stopped and rows that did not were both compared
    assert reached.any()
    assert not reached.all()


def test_agi_closes_its_gap_where_segments_are_halved(x):
    model = sharp(net())
    gaps = [
        AGI(score(model), refine=refine).attribute(x, return_convergence_delta=True)[1].abs().mean()
        for refine in (None, 1e-5)
    ]
    assert gaps[1] < 0.1 * gaps[0] and gaps[0] > 5e-4


def test_other_classes():
    own = torch.tensor([0, 3, 9])
    every = other_classes(own, 10)
    assert every.shape == (3, 9)
    assert all(sorted([*row, o]) == list(range(10)) for row, o in zip(every.tolist(), own.tolist()))
    for generator in (None, seeded()):
        some = other_classes(own, 1000, generator=generator)
        assert some.shape == (3, 10)
        assert all(len({*row, o}) == 11 for row, o in zip(some.tolist(), own.tolist()))
    g = seeded(3)
    assert torch.equal(
        torch.cat([other_classes(own[i : i + 1], 10, 4, g) for i in range(3)]),
        other_classes(own, 10, 4, seeded(3)),
    )


# what the two cost


@pytest.mark.parametrize("name, gradients", [("IG2", 11), ("AGI", 4 * 11)])
def test_one_pass_a_point(x, name, gradients):
    model, passes = net(), {True: 0, False: 0}

    def counted(x):
        passes[x.requires_grad] += len(x)
        return model(x)

    f = score(counted, output="logit")
    method = IG2(f, represent=lambda x: x, check=False) if name == "IG2" else AGI(f, check=False)
    method.attribute(x, x.flip(0) if name == "IG2" else None, target=y, n_steps=10)
    # the reference; the ends; how many classes
    assert passes[True] == 4 * gradients
    assert passes[False] <= 4 + 4 * gradients // 10


@pytest.mark.parametrize("name", ["IG2", "AGI"])
def test_out_of_memory_halves_both(x, name):
    model = net()

    def small(x):
        if len(x) > 3:
            raise torch.OutOfMemoryError("as a device would")
        return model(x)

    def make(f):
        return IG2(f, represent=lambda x: x) if name == "IG2" else AGI(f)

    how = dict(target=y, n_steps=4) | (dict(baselines=x.flip(0)) if name == "IG2" else {})
    with pytest.warns(UserWarning, match="Out of memory"):
        A = make(small).attribute(x, **how)
    torch.testing.assert_close(A, make(model).attribute(x, **how))


def test_nothing_happens_before_the_walk_and_no_graph_is_left(x):
    calls = []
    f = score(lambda x: calls.append(len(x)) or net()(x), y, "logit")
    x.requires_grad_()
    paths = (
        iterative_path(f, x, x.flip(0), 3, represent=lambda x: x),
        adversarial_path(f, x, (y + 1) % 5, 3),
    )
    assert calls == []
    assert not any(point.requires_grad for gamma in paths for point in gamma)
    assert all(len(list(g)) == 4 for g in paths)


# the catalogue


def test_catalogue_has_every_method_that_can_be_had(x):
    relu, smooth = net(nn.ReLU), net()
    vae = adapt(lambda x: x.flatten(1)[:, :4], lambda z: z.repeat(1, 36).view(-1, 1, 12, 12))
    assert set(catalogue(score(relu), vae, references=x)) == {*EVERY, "Guided Backprop"}
    assert set(catalogue(score(smooth), vae, references=x)) == set(EVERY)
    without = catalogue(score(smooth))
    assert not {
        "Guided Backprop",
        "EIG",
        "MIG",
        "MA-GIG",
        "Settled MA-GIG",
        "Expected Gradients",
        "IG2",
    } & set(without)
    assert "AGI" in without
    torch.testing.assert_close(
        without["IG"](x, y), EVERY["IG"](score(smooth), None, None).attribute(x, target=y)
    )
    maps = {
        name: method(x, y)
        for name, method in catalogue(
            score(relu), steps=6, batch=3, generator=seeded(), references=x
        ).items()
    }
    assert all(
        A.shape == x.shape and A.isfinite().all() and not A.requires_grad for A in maps.values()
    )
    again = {
        name: method(x, y)
        for name, method in catalogue(
            score(relu), steps=6, generator=seeded(), references=x
        ).items()
    }
    for name, A in maps.items():
        torch.testing.assert_close(again[name], A, msg=name)


# bad input


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda x: IG2(net()).attribute(x, target=1), "IG2 needs an image of another class"),
        (
            lambda x: IG2(net(), x[..., :3]).attribute(x, target=1),
            r"references must be images like x, \(n, 1, 12, 12\), got \(4, 1, 12, 3\)",
        ),
        (lambda x: IG2(sharp(net()), x[:1]).attribute(x[:1]), "all in the class of some row"),
        (lambda x: IG2(net()).attribute(x, x, target=1, n_steps=0), "steps must be at least 1"),
        (lambda x: IG2(net(), step=0).attribute(x, x, target=1), "step must be above 0"),
        (lambda x: IG2(net(), clip=(1, 0)).attribute(x, x, target=1), "clip must be"),
        (
            lambda x: IG2(net()).attribute(x, x[..., :3], target=1),
            "`baselines` must have the shape",
        ),
        (lambda x: IG2(lambda x: net()(x)).attribute(x, x, target=1), "no nn.Module inside"),
        (
            lambda x: IG2(net(), represent=lambda x: x.sum()).attribute(x, x, target=1),
            "one representation per row",
        ),
        (
            lambda x: IG2(net(), represent=lambda x: x.detach()).attribute(x, x.flip(0), target=1),
            "the guide must be one number per row that depends on x",
        ),
        (lambda x: AGI(net()).attribute(x, x, target=1), "AGI finds its own baselines"),
        (lambda x: AGI(net(), k=5).attribute(x, target=1), r"k must be in 1…4"),
        (
            lambda x: AGI(net(), step_from="end").attribute(x, target=1),
            "step_from must be one of current, input",
        ),
        (lambda x: AGI(net(), step=-1).attribute(x, target=1), "step must be above 0"),
        (lambda x: AGI(lambda x: x.flatten(1).sum(1)).attribute(x), "needs a class for each row"),
        (lambda x: AGI(score(net(), 1)).attribute(x), "needs a class for each row"),
        (
            lambda x: adversarial_path(score(net(), 1), x, torch.tensor([1, 0, 2, 3])),
            "other must name another class",
        ),
        (lambda x: adversarial_path(score(net(), 1), x / 0, y), "must be finite"),
        (lambda x: SmoothGrad(net(), noise=0), "noise must be above 0"),
        (lambda x: SmoothIG(net(), noise=-1), "noise must be above 0"),
        (lambda x: SmoothGrad(net(), samples=0), "samples must be at least 1"),
        (
            lambda x: ExpectedGradients(net(), x[:0]).attribute(x, target=1),
            r"references must be images like x, \(n, 1, 12, 12\), got \(0",
        ),
        (
            lambda x: ExpectedGradients(net(), 0.0).attribute(x, target=1),
            "references must be images like x.*got float",
        ),
        (
            lambda x: SmoothGrad(net()).attribute(x, 0 * x, target=1),
            "SmoothGrad takes no baselines",
        ),
        (lambda x: Saliency(net()).attribute(x / 0, target=1), "`inputs` must be finite"),
        (lambda x: Saliency(net()).attribute(x, target=9), "target must be in 0…4, got 9"),
        (lambda x: Saliency(net()).attribute(x, target=[1, 2]), "one class per row"),
        (
            lambda x: Saliency(nn.Sequential(nn.Flatten(), nn.Dropout())).attribute(x, target=1),
            "in train mode",
        ),
        (
            lambda x: Saliency(lambda x: x.detach().flatten(1)).attribute(x, target=1),
            "does not depend on x",
        ),
    ],
)
def test_bad_input_is_refused(x, call, message):
    with pytest.raises(ValueError, match=message):
        call(x)


def test_unfinished_subclasses_say_what_is_missing(x):
    for kind in (Neighbour, lambda f: Sampled(f, 2)):
        with pytest.raises(NotImplementedError, match="must say how captum is asked"):
            kind(net()).attribute(x, target=1)
    assert model_of(score(score(net()))) is not None and model_of(lambda x: x) is None
