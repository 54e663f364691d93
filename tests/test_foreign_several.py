"""Several inputs at once: tuple in, tuple out, behind captum's interface and in the core."""

import captum.attr
import pytest
import torch
from every import EVERY, NEIGHBOURS, seeded
from foreign import inputs, state_of, same
from torch import nn

from manifold_xai import (
    AGI,
    BlurIG,
    EnhancedIG,
    ExpectedGradients,
    GuidedIG,
    IG2,
    InputXGradient,
    IntegratedGradients,
    ManifoldAlignedGuidedIG,
    Saliency,
    SettledIG,
    SmoothGrad,
    SmoothIG,
    adapt,
    guided_path,
    path_attribution,
    score,
    settled_path,
    straight_path,
)

IMAGE, TABLE = inputs((3, 4, 4)), inputs((7,), seed=8)
BOTH, Y = (IMAGE, TABLE), torch.tensor([3, 0, 4, 1])


class Two(nn.Module):
    """An image and a row of a table, multiplied with each other; one further argument."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.a, self.b = nn.Linear(48, 12).double(), nn.Linear(7, 12).double()
        self.last = nn.Linear(12, 5).double()

    def forward(self, image, table, c=0.0):
        h = self.a(image.flatten(1)).tanh() * self.b(table).sigmoid()
        return self.last(h) * (1 + c)


def close(A, B, tolerance=1e-9):
    return A.shape == B.shape and (A - B).abs().max() <= tolerance * B.abs().max()


def loop(f, ends, starts, steps):
    """The trapezoid sum along the line through both inputs, point after point."""
    points = [
        [(a + i / steps * (b - a)).detach().requires_grad_() for a, b in zip(starts, ends)]
        for i in range(steps + 1)
    ]
    grads = [torch.autograd.grad(f(*point).sum(), point) for point in points]
    sums = [torch.zeros_like(v) for v in ends]
    for t in range(steps):
        for part in range(len(ends)):
            mean = (grads[t][part] + grads[t + 1][part]) / 2
            sums[part] += mean * (points[t + 1][part] - points[t][part]).detach()
    return sums


@pytest.mark.parametrize("cut", [None, 1, 3])
def test_integrated_gradients_of_two_inputs(cut):
    model, starts = Two().eval(), (1 - IMAGE, 0 * TABLE)
    A = IntegratedGradients(model).attribute(
        BOTH, starts, target=Y, n_steps=9, internal_batch_size=cut
    )
    assert isinstance(A, tuple)
    for i in range(4):
        ends, begin = ([v[[i]] for v in parts] for parts in (BOTH, starts))
        expected = loop(lambda a, b: model(a, b)[:, Y[i]], ends, begin, 9)
        assert all(close(own[[i]], e) for own, e in zip(A, expected))


@pytest.mark.parametrize("method_", ["gausslegendre", "riemann_middle"])
def test_as_captum_does(method_):
    model = Two().eval()
    asked = dict(target=Y, n_steps=9, method=method_, additional_forward_args=(0.5,))
    for baselines in (None, (0.2, 0.7), (1 - IMAGE, 0), (IMAGE[:1], TABLE[:1])):
        A = IntegratedGradients(model).attribute(BOTH, baselines, **asked)
        theirs = captum.attr.IntegratedGradients(model).attribute(BOTH, baselines, **asked)
        assert all(close(a, b, 1e-5) for a, b in zip(A, theirs))  # its places are float32


def test_gradients_as_captum_takes_them():
    model = Two().eval()
    ours = Saliency(model).attribute(BOTH, target=Y)
    theirs = captum.attr.Saliency(model).attribute(
        tuple(v.clone().requires_grad_() for v in BOTH), target=Y, abs=False
    )
    assert all(map(close, ours, theirs))
    ours = InputXGradient(model).attribute(BOTH, target=Y)
    assert all(close(a, g * v) for a, g, v in zip(ours, theirs, BOTH))


WAYS = {
    "IG": IntegratedGradients,
    "GIG": GuidedIG,
    "Settled IG": SettledIG,
    "AGI": AGI,
    "Saliency": Saliency,
    "Input × Gradient": InputXGradient,
    "SmoothGrad": lambda f: SmoothGrad(f, 4, generator=seeded()),
    "Smooth IG": lambda f: SmoothIG(f, 3, generator=seeded()),
    "Expected Gradients": lambda f: ExpectedGradients(f, REFERENCES, 4, generator=seeded()),
    "IG2": lambda f: IG2(f, REFERENCES, generator=seeded()),
}
REFERENCES = inputs((3, 4, 4), 12, seed=9), inputs((7,), 12, seed=10)


@pytest.mark.parametrize("name", WAYS)
def test_every_method_that_needs_no_image(name):
    """Equal to the method on one tensor in which the user laid both inputs side by side."""
    model, made = Two().eval(), WAYS[name]
    given = {} if name in NEIGHBOURS else dict(n_steps=6)
    before = state_of(model)
    A = made(model).attribute(BOTH, target=Y, **given)
    flat = torch.cat([IMAGE.flatten(1), TABLE], 1)

    def one(x):
        return model(x[:, :48].unflatten(1, (3, 4, 4)), x[:, 48:])

    m = made(one)
    if name in ("IG2", "Expected Gradients"):
        m.references = torch.cat([REFERENCES[0].flatten(1), REFERENCES[1]], 1)
    if name == "IG2":
        m.settings["represent"] = one
    expected = m.attribute(flat, target=Y, **given)
    assert close(torch.cat([A[0].flatten(1), A[1]], 1), expected)
    assert [v.shape for v in A] == [v.shape for v in BOTH] and same(before, state_of(model))


def test_methods_of_one_image_say_so():
    identity = adapt(lambda x: x.flatten(1), lambda z: z.unflatten(1, (3, 4, 4)))
    model = Two().eval()
    for m in (BlurIG(model), EnhancedIG(model, identity), ManifoldAlignedGuidedIG(model, identity)):
        with pytest.raises(ValueError, match="one input"):
            m.attribute(BOTH, target=Y)


def test_deltas_and_several_classes():
    model = Two().eval()
    A, delta = IntegratedGradients(model).attribute(
        BOTH, targets=[2, 0], n_steps=9, return_convergence_delta=True
    )
    assert [v.shape for v in A] == [(4, 2, 3, 4, 4), (4, 2, 7)] and delta.shape == (4, 2)
    for j, y in enumerate((2, 0)):
        own = IntegratedGradients(model).attribute(BOTH, target=y, n_steps=9)
        assert all(close(a[:, j], b) for a, b in zip(A, own))
    gain = model(*BOTH) - model(*(0 * v for v in BOTH))
    total = sum(v.flatten(2).sum(2) for v in A)
    assert (total - delta - gain[:, [2, 0]]).abs().max() < 1e-12


def test_within_an_error_instead_of_steps():
    m = IntegratedGradients(Two().eval())
    A = m.attribute(BOTH, target=Y, tol=1e-4)
    fine = IntegratedGradients(Two().eval()).attribute(BOTH, target=Y, n_steps=800)
    for own, exact in zip(A, fine):
        assert close(own, exact, 1e-3)
    assert m.reached.steps.shape == (4,)


def test_types_stay_apart():
    model = Two().eval()

    def mixed(image, table):
        return model(image.double(), table)

    A = IntegratedGradients(mixed).attribute((IMAGE.float(), TABLE), target=Y, n_steps=9)
    assert [v.dtype for v in A] == [torch.float32, torch.float64]
    double = (IMAGE.float().double(), TABLE)
    assert close(A[1], IntegratedGradients(model).attribute(double, target=Y, n_steps=9)[1], 1e-6)


def test_arguments_that_follow_the_rows():
    model, c = Two().eval(), torch.randn(4, 1, generator=seeded(3), dtype=torch.float64)
    A = IntegratedGradients(model).attribute(
        BOTH, target=1, additional_forward_args=c, n_steps=9, internal_batch_size=3
    )
    plain = IntegratedGradients(model).attribute(BOTH, target=1, n_steps=9)
    scale = 1 + c
    assert close(A[1], plain[1] * scale) and close(A[0], plain[0] * scale.view(-1, 1, 1, 1))


def test_a_score_of_two_inputs():
    model = Two().eval()

    def bright(image, table):
        return (2 * image, table)

    f = score(model, preprocess=bright)
    A = IntegratedGradients(f).attribute(BOTH, target=Y, n_steps=9)

    def plain(image, table):
        return model(2 * image, table).softmax(1)

    expected = IntegratedGradients(plain).attribute(BOTH, target=Y, n_steps=9)
    assert all(map(close, A, expected))
    assert close(f.with_target(Y)(BOTH), plain(*BOTH).gather(1, Y[:, None])[:, 0])
    assert f.at(BOTH).target.tolist() == plain(*BOTH).argmax(1).tolist()


def test_a_score_of_two_inputs_with_an_argument():
    model, c = Two().eval(), torch.randn(4, 1, generator=seeded(3), dtype=torch.float64)
    how = dict(target=Y, n_steps=9, additional_forward_args=c)
    A = IntegratedGradients(score(model)).attribute(BOTH, **how)

    def plain(a, b, c):
        return model(a, b, c).softmax(1)

    assert all(map(close, A, IntegratedGradients(plain).attribute(BOTH, **how)))
    with pytest.raises(ValueError, match="bind them in the model"):
        f = score(model, preprocess=lambda a, b: (a, b))
        IntegratedGradients(f).attribute(BOTH, **how)


@pytest.mark.parametrize("draw", [straight_path, guided_path, settled_path])
def test_in_the_core(draw):
    model, starts = Two().eval(), tuple(0 * v for v in BOTH)
    flat = [torch.cat([a.flatten(1), b], 1) for a, b in (starts, BOTH)]

    def split(x):
        return (x[:, :48].unflatten(1, (3, 4, 4)), x[:, 48:])

    for f, g in (
        (score(model, Y), lambda x, rows=None: score(model, Y)(split(x), rows)),
        (lambda a, b: model(a, b)[:, 1], lambda x: model(*split(x))[:, 1]),
    ):
        own = () if draw is straight_path else (f,)
        gamma = draw(*own, starts, BOTH, 6)
        found = path_attribution(f, gamma)
        one = path_attribution(g, draw(*((g,) if own else ()), *flat, 6))
        assert close(torch.cat([found.A[0].flatten(1), found.A[1]], 1), one.A)
        assert (found.gap - one.gap).abs().max() < 1e-12
    points = gamma.stack()
    assert [v.shape for v in points] == [(7, 4, 3, 4, 4), (7, 4, 7)]
    assert all(map(torch.equal, gamma[-1], BOTH)) and len(list(gamma)) == 7


def test_a_path_of_tensors_in_the_core():
    model, starts = Two().eval(), tuple(0 * v for v in BOTH)
    gamma = straight_path(starts, BOTH, 6)

    def f(a, b):
        return model(a, b)[:, 2]

    found = path_attribution(f, gamma.stack(), starts, BOTH)
    assert all(map(close, found.A, path_attribution(f, gamma).A))
    points = list(gamma[i][0] for i in range(2))  # a tuple of points is a path, not several inputs

    def one(x):
        return x.flatten(1).sum(1)

    assert path_attribution(one, tuple(points)).A.shape == IMAGE.shape


@pytest.mark.parametrize(
    "given, says",
    [
        ((), "at least one"),
        ((IMAGE, TABLE[:3]), "one row for each"),
        ((IMAGE, torch.ones(4, 7).long()), r"inputs\[1\].*floating"),
        ((IMAGE, TABLE * float("nan")), r"inputs\[1\].*finite"),
    ],
)
def test_what_cannot_be_inputs_is_refused(given, says):
    with pytest.raises(ValueError, match=says):
        IntegratedGradients(Two().eval()).attribute(given, target=1)


def test_baselines_for_each():
    m = IntegratedGradients(Two().eval())
    with pytest.raises(ValueError, match="each of the 2 inputs"):
        m.attribute(BOTH, (0.0,) * 3, target=1)
    A = m.attribute(BOTH, lambda image, table: (1 - image, table), target=1, n_steps=5)
    assert A[1].eq(0).all() and A[0].abs().max() > 0


def test_one_input_in_a_tuple_comes_back_in_one():
    for name in EVERY:
        if name in ("IG", "Saliency"):

            def one(x):
                return Two()(x, TABLE[:1])

            A = EVERY[name](one, None, None).attribute((IMAGE,), target=1)
            assert isinstance(A, tuple) and len(A) == 1
