"""What a model may hide: rows in a nest, buffers, modes, unseen writes, lost gradients."""

import weakref
from collections import UserDict, deque, namedtuple
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import dropout

from manifold_xai import (
    BlurIG,
    EnhancedIG,
    GuidedIG,
    IntegratedGradients,
    ManifoldAlignedGuidedIG,
    ManifoldIG,
    Saliency,
    SettledIG,
    adapt,
    adaptive_attribution,
    baseline,
    diffid,
    geodesic,
    max_sensitivity,
    path_attribution,
    project_matrix_free,
    pullback_metric,
    score,
    straight_path,
    tangent_basis,
)
from manifold_xai.door import apart

X = torch.rand(4, 4, generator=torch.Generator().manual_seed(1))
EACH = torch.tensor([1.0, 2.0, 3.0, 4.0])
net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).eval()
with torch.no_grad():
    for p in net.parameters():
        p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))


def ig(model, x=X, **how):
    return IntegratedGradients(model).attribute(x, **(dict(target=0, n_steps=50) | how))


RIGHT = ig(net)


def close(a, b):
    return (a - b).abs().max() <= 1e-4 * b.abs().max()


# arguments

Pair = namedtuple("Pair", "weights mode")


@dataclass
class Weights:
    weights: torch.Tensor
    mode: str


class Encoding(UserDict):
    """A mapping that is no dict, such as a tokenizer's answer."""


NESTS = {
    "a dictionary with a name": (dict(weights=EACH, mode="a"), lambda a: a["weights"]),
    "a pair with a number": ((EACH, 0.5), lambda a: a[0]),
    "a named tuple": (Pair(EACH, "a"), lambda a: a.weights),
    "a data class": (Weights(EACH, "a"), lambda a: a.weights),
    "a mapping": (Encoding(weights=EACH.numpy()), lambda a: torch.as_tensor(a["weights"])),
    "deep": (dict(a=[dict(b=(EACH, None))], c=[1, 2]), lambda a: a["a"][0]["b"][0]),
    "four layers for four rows": ([EACH] * 4, lambda a: torch.stack(a).mean(0)),
    "a list of rows": (
        [dict(w=float(w)) for w in EACH],
        lambda a: torch.tensor([r["w"] for r in a]),
    ),
}


@pytest.mark.parametrize("name", NESTS)
def test_rows_inside_an_argument_follow_the_rows(name):
    argument, weights = NESTS[name]
    A = ig(
        lambda x, a: net(x) * weights(a)[:, None],
        additional_forward_args=(argument,),
        internal_batch_size=3,
    )
    assert close(A, RIGHT * EACH[:, None])


def test_what_is_bound_by_rows_out_of_sight_is_refused_in_words():
    hidden = SimpleNamespace(weights=EACH)
    with pytest.raises(ValueError, match="4 rows at once, but not 3.*additional_forward_args"):
        ig(lambda x: net(x) * hidden.weights[:, None], internal_batch_size=3)


# randomness and company


def test_dropout_before_a_sure_softmax_is_seen():
    def sure(x):
        return dropout(net(x), 0.5) + 300 * x.sum(1, keepdim=True) * torch.tensor([1.0, 0.0, 0.0])

    f = score(sure)
    assert torch.equal(f(X), f(X))  # one whatever it draws
    for explain in (
        lambda: ig(f),
        lambda: path_attribution(f.with_target(0), straight_path(0 * X, X, 5)),
        lambda: diffid(f.with_target(0), X, X, 0.0),
    ):
        with pytest.raises(ValueError, match="at random"):
            explain()


def test_a_row_that_is_nan_alone_depends_on_the_batch():
    with pytest.raises(ValueError, match="depends on the batch"):
        ig(lambda x: net((x - x.mean(0)) / x.std(0)))
    nan, inf = torch.tensor([torch.nan]), torch.tensor([torch.inf])
    assert apart(nan, nan)[0] == apart(inf, inf)[0] == 0
    assert apart(nan, 0 * EACH[:1])[0] == apart(nan, inf)[0] == torch.inf


def test_a_score_that_depends_on_its_place_in_the_batch_is_refused():
    with pytest.raises(ValueError, match="row 1 alone and among 3"):
        ig(lambda x: net(x) * (1 + torch.arange(len(x)) % 2)[:, None], X[:3])


# state


class Counting(nn.Module):
    """Counts its calls in a buffer, in place or anew."""

    def __init__(self, anew):
        super().__init__()
        self.net, self.anew = net, anew
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x):
        if self.anew:
            self.calls = self.calls + 1
        else:
            self.calls += 1
        return self.net(x)


@pytest.mark.parametrize("anew", [False, True])
def test_no_call_of_ours_is_left_in_a_buffer(anew):
    model = Counting(anew).eval()
    at = model.calls
    coder = adapt(lambda x: x, lambda z: z + 0 * model(z)[:, :1])
    line = straight_path(0 * X, X, 20)
    for explain in (
        lambda: ig(model),
        lambda: ig(model, tol=0.01, n_steps=None),
        lambda: Saliency(model).attribute(X, target=0),
        lambda: GuidedIG(model).attribute(X, targets="all", n_steps=5),
        lambda: EnhancedIG(net, coder).attribute(X, target=0, n_steps=5),
        lambda: path_attribution(score(model, 0, "logit"), line),
        lambda: adaptive_attribution(score(model, 0, "logit"), line),
    ):
        explain()
        assert model.calls is at and at.item() == 0
    assert close(ig(model), RIGHT)


def hidden_places(model):
    """Functions of one model, each kept where it is hard to find."""

    class Slot:
        __slots__ = ("inner",)

        def __call__(self, x):
            return self.inner(x)

    class Holder:
        inner = model

        @property
        def found(self):
            return model

        def __call__(self, x):
            return self.found(x)

    slot, module, far = Slot(), ModuleType("far"), [{"a": ({"b": [[model]]},)}]
    slot.inner = module.inner = model
    reference, proxy, queue = weakref.ref(model), weakref.proxy(model), deque([model])
    space = dict(module=module)
    exec("def named(x): return module.inner(x)", space)
    return dict(
        slots=slot,
        property=Holder(),
        attribute_of_a_class=lambda x: Holder.inner(x),
        attribute_of_a_module=space["named"],
        weak=lambda x: reference()(x),
        proxy=lambda x: proxy(x),
        queue=lambda x: queue[0](x),
        far=lambda x: far[0]["a"][0]["b"][0][0](x),
        inner=lambda x: (lambda y: model(y))(x),
    )


@pytest.mark.parametrize("place", hidden_places(net))
def test_train_mode_is_found_before_it_does_harm(place):
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).train()
    with pytest.raises(ValueError, match="layers are in train mode: 1"):
        ig(hidden_places(model)[place])
    assert model[1].num_batches_tracked == 0


class Unbound:
    """A proxy that nothing is bound to yet, such as a web framework's request."""

    @property
    def __class__(self):
        raise RuntimeError("working outside of a request")

    def __getattr__(self, name):
        raise RuntimeError("working outside of a request")


def test_what_refuses_to_be_looked_into_is_passed_over():
    gone, unbound = weakref.proxy(nn.Identity()), Unbound()
    keeps = SimpleNamespace(gone=gone, unbound=unbound, net=net)
    with pytest.raises(ReferenceError):
        gone.training
    assert close(ig(lambda x: keeps.net(x) if keeps else gone(unbound)), RIGHT)


def test_an_exported_program_is_explained():
    exported = torch.export.export(net, (X,), dynamic_shapes=({0: torch.export.Dim("rows")},))
    assert close(ig(exported.module()), RIGHT)


def test_layers_without_weights_yet_are_named():
    with pytest.raises(ValueError, match=r"not made yet \(0.weight, 0.bias\)"):
        ig(nn.Sequential(nn.LazyLinear(3)).eval())


# writes


def data(x):
    x.data.mul_(0.5)
    return net(x)


@torch.no_grad()
def half(x):
    x.mul_(0.5)


def without(x):
    half(x)
    return net(x)


@pytest.mark.parametrize("writes", [data, without])
def test_writes_that_autograd_does_not_see_are_refused(writes):
    with pytest.raises(ValueError, match="changes its input where autograd does not see it"):
        ig(writes)
    with pytest.raises(ValueError, match="changes its input"):
        path_attribution(lambda x: writes(x)[:, 0], straight_path(0 * X, X, 5))


def test_functions_of_the_users_get_copies():
    x, kept = X.clone(), X.clone()
    assert close(ig(net, x, baselines=lambda x: x.mul_(0.0)), RIGHT)
    pair = IntegratedGradients(lambda a, b: net(torch.cat([a, b], 1)))
    pair.attribute((x[:, :2], x[:, 2:]), lambda a, b: (a.zero_(), b.zero_()), 0, n_steps=5)
    max_sensitivity(lambda x: x.zero_(), x, generator=torch.Generator())
    assert torch.equal(x, kept)


# types


NESTED = torch.nested.nested_tensor([X, X[:2]], layout=torch.jagged)


def test_types_are_refused_in_words():
    convolution = nn.Sequential(nn.Conv1d(1, 3, 4), nn.Flatten()).eval()
    halves = nn.Sequential(nn.Conv1d(1, 3, 4), nn.Flatten()).eval().half()
    for words, explain in (
        ("torch.float64 and torch.float32", lambda: ig(net, X.double())),
        ("torch.float64 and torch.float32", lambda: ig(net, X.double(), tol=0.1, n_steps=None)),
        ("torch.float64 and torch.float32", lambda: ig(convolution, X.double()[:, None])),
        ("torch.float32 and torch.float16", lambda: ig(halves, X[:, None])),
        ("real numbers, got torch.complex64", lambda: ig(net, baselines=X.to(torch.complex64))),
        ("real numbers, got torch.bool", lambda: ig(net, baselines=X > 0.5)),
        ("target must be a class, an int, got True", lambda: ig(net, target=True)),
        ("at least one number per row", lambda: ig(lambda x: x.sum(1), X[:, :0], target=None)),
        ("a nested tensor", lambda: ig(net, NESTED)),
        ("pass tol=0.1 or n_steps=5", lambda: ig(net, tol=0.1, n_steps=5)),
        ("got torch.int64", lambda: baseline(X.long(), "mean")),
        ("got list", lambda: pullback_metric(lambda z: z, [[0.0, 1.0]])),
    ):
        with pytest.raises(ValueError, match=words):
            explain()


def test_a_default_device_reaches_nothing_of_ours():
    image = X.reshape(1, 1, 4, 4)

    def energy(x):
        return x.square().flatten(1).sum(1)

    noise = baseline(image, "noise", torch.Generator().manual_seed(0))
    for explain in (
        lambda: SettledIG(net).attribute(X, target=0, n_steps=5),
        lambda: BlurIG(energy).attribute(image, n_steps=5),
        lambda: ig(net, rule="gauss-legendre", n_steps=5),
        lambda: diffid(energy, X, X, 0.0, levels=5),
        lambda: baseline(image, "noise", torch.Generator().manual_seed(0)),
    ):
        right = explain()
        with torch.device("meta"):  # a device on which nothing can be computed
            assert torch.equal(explain(), right)
    assert noise.device == image.device


# decoders


class Bent(nn.Module):
    """A curved surface with weights of its own, which may lose its codes' gradient."""

    def __init__(self, lost):
        super().__init__()
        self.lost, self.size = lost, nn.Parameter(torch.ones(()))

    def encode(self, x):
        return x[:, :2] * 3

    def decode(self, z):
        z = z.detach() if self.lost else z
        return torch.cat([z / 3, self.size * torch.sin(2 * z)], 1)


def test_a_decoder_that_detaches_its_codes_is_refused_though_its_weights_are_not_frozen():
    lost, z = Bent(lost=True), X[:, :2] * 3
    v = torch.ones(4, 4)
    for use in (
        lambda g: geodesic(g.decode, 0 * z, z, steps=5).E,
        lambda g: geodesic(g.decode, 0 * z, z, steps=5, solver="gauss-newton").E,
        lambda g: pullback_metric(g.decode, z),
        lambda g: tangent_basis(g.decode, z),
        lambda g: project_matrix_free(g.decode, z, v).tangent,
        lambda g: ManifoldIG(net, g).attribute(X, target=0, n_steps=5),
        lambda g: ManifoldAlignedGuidedIG(net, g).attribute(X, target=0, n_steps=5),
    ):
        assert use(Bent(lost=False)).isfinite().all()
        with pytest.raises(ValueError, match="`decode` must be differentiable"):
            use(lost)
    assert close(
        EnhancedIG(net, lost).attribute(X, target=0, n_steps=20),  # needs no gradient of it
        EnhancedIG(net, Bent(lost=False)).attribute(X, target=0, n_steps=20),
    )
    flat = pullback_metric(lambda z: torch.zeros(len(z), 4) + 0 * z.sum(1, keepdim=True), z)
    assert not flat.any()  # constant, not detached


def test_codes_of_other_kinds_are_refused_by_name():
    for words, encode, decode in (
        ("`encode` must return real numbers, got torch.complex64", torch.fft.rfft, torch.fft.irfft),
        (r"one number each: \(b, 1\)", lambda x: x.sum(1), lambda z: z[:, None].expand(-1, 4)),
    ):
        with pytest.raises(ValueError, match=words):
            EnhancedIG(net, adapt(encode, decode)).attribute(X, target=0, n_steps=3)
    with pytest.raises(ValueError, match="A method of it, model.encode"):
        adapt(Bent(lost=False), lambda z: z)
    assert np.isfinite(adapt(Bent(False).encode, Bent(False).decode).encode(X)).all()
