"""Several classes at once: as one class after the other, and cheaper where the path allows."""

import captum.attr
import pytest
import torch
from every import EVERY, NEIGHBOURS, OUTWARD, seeded
from foreign import Conditioned, InPlace, Net, ask, gradient, inputs, made, method, oracle
from torch import nn

from manifold_xai import ExpectedGradients, IntegratedGradients, Saliency, path_attribution, score
from manifold_xai import straight_path
from manifold_xai.attribution.base import PathMethod
from manifold_xai.attribution.classes import Classes
from manifold_xai.chunks import value_and_jacobian

X = inputs((3, 4, 4))
ONE_WALK = ("IG", "BlurIG", "EIG", "MIG")
ONE_PASS = ("Saliency", "Input × Gradient")


def close(A, B, tolerance=1e-9):
    return A.shape == B.shape and (A - B).abs().max() <= tolerance * B.abs().max()


def how(name, x=X):
    """What `attribute` needs beside inputs and classes."""
    given = {} if name in NEIGHBOURS else dict(n_steps=5)
    return given | (dict(baselines=1 - x) if name == "IG2" else {})


@pytest.mark.parametrize("cut", [None, 1, 3])
@pytest.mark.parametrize("name", EVERY)
def test_several_classes_are_one_class_after_the_other(name, cut):
    model, classes = made(Net), [3, 0, 4]
    own = how(name) | dict(internal_batch_size=cut)
    A = method(name, model).attribute(X, targets=classes, **own)
    alone = [method(name, model).attribute(X, target=y, **own) for y in classes]
    assert close(A, torch.stack(alone, 1))


@pytest.mark.parametrize("name", EVERY)
def test_all_classes(name):
    A = method(name, made(Net)).attribute(X[:2], targets="all", **how(name, X[:2]))
    assert A.shape == (2, 5, 3, 4, 4)
    own = method(name, made(Net)).attribute(X[:2], target=2, **how(name, X[:2]))
    assert close(A[:, 2], own)


@pytest.mark.parametrize("name", ["IG", "GIG", "Saliency", "SmoothGrad", "AGI"])
def test_other_classes_for_each_row(name):
    """The three best of each row, say."""
    model = made(Net)
    best = model(X).topk(3).indices
    A = method(name, model).attribute(X, targets=best, **how(name))
    for j in range(3):
        own = method(name, model).attribute(X, target=best[:, j], **how(name))
        assert close(A[:, j], own)


def test_against_a_double_loop():
    model = made(Net)
    A, delta = IntegratedGradients(model).attribute(
        X, targets="all", n_steps=20, return_convergence_delta=True
    )
    for i in range(4):
        for y in range(5):
            expected = oracle(lambda x: model(x)[:, y], X[[i]], 20)[0]
            assert close(A[i, y], expected)
            gain = (model(X[[i]]) - model(0 * X[[i]]))[0, y]
            assert abs(delta[i, y] - (expected.sum() - gain)) < 1e-12


class Counted(Net):
    """Counts rows on their way forward, and rows on their way back."""

    def __init__(self):
        super().__init__()
        self.forth, self.back = 0, 0

    def forward(self, x):
        self.forth += len(x)
        if x.requires_grad:
            x = x.clone()
            x.register_hook(self.count)
        return super().forward(x)

    def count(self, grad):
        self.back += len(grad)


@pytest.mark.parametrize("cut", [None, 1])
@pytest.mark.parametrize("name", ONE_WALK + ONE_PASS)
def test_they_share_the_way_forward(name, cut):
    own = how(name) | dict(internal_batch_size=cut)
    found = {}
    for classes in ([1], [0, 1, 2, 3, 4]):
        model = Counted()
        m = method(name, model)
        m.check = False
        m.attribute(X, targets=classes, **own)
        found[len(classes)] = model.forth, model.back
    assert found[5][0] == found[1][0]
    assert found[5][1] == 5 * found[1][1]


@pytest.mark.parametrize("rule", ["left", "midpoint", "trapezoid", "gauss-legendre"])
def test_with_every_rule(rule):
    model = made(Net)
    m = IntegratedGradients(model)
    asked = dict(n_steps=7, rule=rule, return_convergence_delta=True)
    A, delta = m.attribute(X, targets=[1, 3], **asked)
    for j, y in enumerate((1, 3)):
        own, gap = m.attribute(X, target=y, **asked)
        assert close(A[:, j], own)
        assert (delta[:, j] - gap).abs().max() < 1e-12


def test_with_refined_segments():
    model = made(Net)
    m = IntegratedGradients(model, refine=1e-4)
    A = m.attribute(X, targets="all", n_steps=3)
    alone = [m.attribute(X, target=y, n_steps=3) for y in range(5)]
    assert close(A, torch.stack(alone, 1))
    assert not close(A, IntegratedGradients(model).attribute(X, targets="all", n_steps=3), 1e-6)


@pytest.mark.parametrize("name", ["IG", "BlurIG", "EIG", "MIG", "GIG", "Settled IG"])
def test_within_an_error_instead_of_steps(name):
    """Each pair of input and class stops when its own map stands still."""
    model, x = made(Net), X[:2]
    m, one = method(name, model), method(name, model)
    A, delta = m.attribute(x, targets=[3, 0], tol=0.02, return_convergence_delta=True)
    assert m.reached.error.shape == m.reached.steps.shape == delta.shape == (2, 2)
    for j, y in enumerate((3, 0)):
        own, gap = one.attribute(x, target=y, tol=0.02, return_convergence_delta=True)
        assert close(A[:, j], own) and torch.equal(m.reached.steps[:, j], one.reached.steps)
        assert (delta[:, j] - gap).abs().max() < 1e-9


@pytest.mark.filterwarnings("ignore:tol=1e-06 was not reached")
def test_within_an_error_they_share_the_way_forward_too():
    found = {}
    for classes in ([1], [0, 1, 2, 3, 4]):
        model = Counted()
        m = IntegratedGradients(model, check=False)
        m.attribute(X, targets=classes, tol=1e-6, max_steps=48)
        found[len(classes)] = model.forth, m.reached.steps.max().item()
    assert found[5][1] == found[1][1] and found[5][0] <= 1.1 * found[1][0] + 8


class Bent(PathMethod):
    """A user's own method: a corner on the way, the same for every class."""

    one_path, as_iterator = True, False

    def path(self, f, x0, x, steps, batch):
        points = torch.stack([x0, x0 + (x - x0) * torch.linspace(0, 1, x.shape[-1]), x])
        return iter(points) if self.as_iterator else points


@pytest.mark.parametrize("as_iterator", [False, True])
def test_a_method_whose_path_is_only_points(as_iterator):
    m = Bent(made(Net))
    m.as_iterator = as_iterator
    A = m.attribute(X, targets=[3, 0])
    assert close(A, torch.stack([m.attribute(X, target=y) for y in (3, 0)], 1))
    with pytest.raises(ValueError, match="Bent walks anew .* pass target instead"):
        m.attribute(X, targets=[3, 0], tol=0.01)


def test_arguments_and_preprocessing_come_along():
    model, c = made(Conditioned), torch.randn(4, 5, generator=seeded(6), dtype=torch.float64)
    A = IntegratedGradients(model).attribute(
        X, targets=[4, 2], additional_forward_args=c, n_steps=20, internal_batch_size=3
    )
    for i in range(4):
        for j, y in enumerate((4, 2)):
            own = oracle(lambda x: model(x, c[[i]])[:, y], X[[i]], 20)[0]
            assert close(A[i, j], own)
    f = score(made(InPlace), preprocess=lambda x: 2 * x - 1)
    A = IntegratedGradients(f).attribute(X, targets=[4, 2], n_steps=20)
    assert close(A[:, 1], IntegratedGradients(f).attribute(X, target=2, n_steps=20))


class Pixels(nn.Module):
    """(b, classes, H, W), as segmentation networks answer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.conv = nn.Conv2d(3, 2, 3, padding=1).double()

    def forward(self, x):
        return self.conv(x.sin()).tanh()


def test_places_in_larger_outputs():
    model = Pixels().eval()
    m = IntegratedGradients(model)
    A = m.attribute(X, targets=[(1, 2, 3), (0, 0, 0)], n_steps=9)
    places = [(1, 2, 3), (0, 0, 0), (1, 1, 1), (0, 3, 2)]
    each = m.attribute(X, target=places, n_steps=9)
    for i in range(4):
        for j, (c, h, w) in enumerate([(1, 2, 3), (0, 0, 0)]):
            assert close(A[i, j], oracle(lambda x: model(x)[:, c, h, w], X[[i]], 9)[0])
        c, h, w = places[i]
        assert close(each[i], oracle(lambda x: model(x)[:, c, h, w], X[[i]], 9)[0])

    def region(out):
        return out[:, 1, :2].mean((1, 2))

    two = m.attribute(X, targets=[region, (0, 0, 0)], n_steps=9)
    assert close(two[:, 0], m.attribute(X, target=region, n_steps=9))
    captums = captum.attr.Saliency(model).attribute(
        X.clone().requires_grad_(), target=places, abs=False
    )
    assert close(Saliency(model).attribute(X, target=places), captums)


@pytest.mark.parametrize(
    "classes, says",
    [
        ([], "targets must be"),
        ("some", "targets must be"),
        ([7], "in 0…4"),
        (torch.rand(4, 2), "targets must be"),
        (torch.zeros(3, 2).long(), "targets must be"),
    ],
)
def test_what_cannot_be_classes_is_refused(classes, says):
    with pytest.raises(ValueError, match=says):
        IntegratedGradients(made(Net)).attribute(X, targets=classes, n_steps=3)


def test_one_of_the_two_is_asked():
    m = IntegratedGradients(made(Net))
    with pytest.raises(ValueError, match="one of the two"):
        m.attribute(X, target=1, targets=[2])
    with pytest.raises(ValueError, match='"all" needs outputs'):
        IntegratedGradients(lambda x: x.flatten(1).sum(1)).attribute(X, targets="all")


def test_places_that_are_none_are_refused():
    with pytest.raises(ValueError, match="one number for each of the 3 dimensions"):
        IntegratedGradients(Pixels()).attribute(X, target=(1, 2), n_steps=3)
    with pytest.raises(ValueError, match="one class per row"):
        IntegratedGradients(Pixels()).attribute(X, target=[(1, 2, 3)] * 3, n_steps=3)


def test_in_the_core():
    """`Classes` is a score like another: its rows are pairs of input and class."""
    model = made(Net)
    f = Classes(score(model, output="logit"), [2, 0])
    gamma = straight_path(0 * X, X, 8).stack().repeat_interleave(2, 1)
    A = path_attribution(f, gamma).A.unflatten(0, (4, 2))
    for j, y in enumerate((2, 0)):
        expected = path_attribution(score(model, y, "logit"), straight_path(0 * X, X, 8)).A
        assert close(A[:, j], expected)


def test_jacobian_rows():
    model = made(Net)
    value, J = value_and_jacobian(model, X, batch=3)
    assert close(value, model(X))
    for y in range(5):
        assert close(J[:, y], gradient(lambda x: model(x)[:, y], X))

    def constant(x):
        return torch.stack([x.flatten(1).sum(1), torch.ones(len(x)).double()], 1)

    assert value_and_jacobian(constant, X)[1][:, 1].eq(0).all()


# captum's words


METHODS = dict(
    riemann_left="left",
    riemann_middle="midpoint",
    riemann_trapezoid="trapezoid",
    gausslegendre="gauss-legendre",
)


@pytest.mark.parametrize("method_", METHODS)
def test_rules_by_captums_names(method_):
    m, captums = IntegratedGradients(made(Net)), captum.attr.IntegratedGradients(made(Net))
    A = m.attribute(X, target=1, n_steps=9, method=method_)
    assert torch.equal(A, m.attribute(X, target=1, n_steps=9, rule=METHODS[method_]))
    if method_ in ("gausslegendre", "riemann_middle"):  # captum's trapezoid weighs 1 − 1/n
        theirs = captums.attribute(X, target=1, n_steps=9, method=method_)
        assert close(A, theirs, 1e-5)  # its places and weights are float32


def test_a_rule_that_we_have_not_is_refused():
    with pytest.raises(ValueError, match="riemann_trapezoid"):
        IntegratedGradients(made(Net)).attribute(X, target=1, method="riemann_right")


@pytest.mark.parametrize("method_", ["gausslegendre", "riemann_middle"])
def test_gradients_that_are_not_multiplied_by_inputs(method_):
    m = IntegratedGradients(made(Net), multiply_by_inputs=False)
    captums = captum.attr.IntegratedGradients(made(Net), multiply_by_inputs=False)
    x, x0 = X.clone(), 0.3 * X.flip(0)
    x0[:, 0, 0, 0] = x[:, 0, 0, 0]  # a feature that does not move has a gradient all the same
    asked = dict(target=1, n_steps=9, method=method_, return_convergence_delta=True)
    A, delta = m.attribute(x, x0, **asked)
    theirs, _ = captums.attribute(x, x0, **asked)
    assert close(A, theirs, 1e-5)
    assert not m.multiplies_by_inputs and IntegratedGradients(made(Net)).multiplies_by_inputs
    own, gap = IntegratedGradients(made(Net)).attribute(x, x0, **asked)
    assert close(A * (x - x0), own)
    assert (delta - gap).abs().max() < 1e-12


def test_nor_are_expected_gradients():
    r = inputs((3, 4, 4), 6, seed=9)
    torch.manual_seed(0)
    plain, shares = (
        ExpectedGradients(made(Net), r, 30, multiply_by_inputs=multiply).attribute(X, target=1)
        for multiply in (False, True)
    )
    assert not close(plain, shares, 0.1)
    white = torch.zeros(1, 3, 4, 4).double()
    one = ExpectedGradients(made(Net), white, 30, multiply_by_inputs=False)
    many = ExpectedGradients(made(Net), white, 30)
    assert close(one.attribute(X, target=1) * X, many.attribute(X, target=1))


@pytest.mark.parametrize("name", OUTWARD)
def test_outward_deltas_of_several_classes(name):
    model = made(Net)
    A, delta = method(name, model).attribute(
        X, targets=[1, 2], return_convergence_delta=True, **how(name)
    )
    assert A.shape == (4, 2, 3, 4, 4) and delta.shape == (4, 2)
    assert ask(name, model, X, 5, target=2).sub(A[:, 1]).abs().max() < 1e-9
