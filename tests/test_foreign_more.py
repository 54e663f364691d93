"""More of what a model may hide: whose an argument is, state in threads, rectifiers, targets."""

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock

import pytest
import torch
from torch import nn

from manifold_xai import (
    GuidedBackprop,
    IntegratedGradients,
    ManifoldIG,
    ManifoldSettledIG,
    adapt,
    path_attribution,
    score,
    straight_path,
)
from manifold_xai.subjects.classifiers import folded

X = torch.rand(4, 4, generator=torch.Generator().manual_seed(1))


def seeded(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().eval()


net = seeded(lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)))


def ig(model, x=X, **how):
    return IntegratedGradients(model).attribute(x, **(dict(target=0, n_steps=20) | how))


# arguments


@pytest.mark.parametrize("batch", [1, 3, None])
def test_prompts_that_each_match_a_row_of_their_own_are_still_shared(batch):
    def near(x, prompts):
        return -torch.cdist(x, prompts).square().min(1).values

    x0, how = X.flip(0).flip(1), dict(target=None, internal_batch_size=batch)
    A = ig(near, baselines=x0, additional_forward_args=X.clone(), **how)
    right = ig(lambda x: near(x, X), baselines=x0, **how)
    assert (A - right).abs().max() <= 1e-6 * right.abs().max()


def test_a_dictionary_of_another_class_is_cut_and_stays_one():
    named = defaultdict(list, own=X.exp())

    def weighed(x, d):
        assert d["missing"] == []
        return (x * d["own"]).sum(1) ** 2

    A = ig(weighed, target=None, additional_forward_args=(named,), per_row=True)
    right = ig(lambda x, w: (x * w).sum(1) ** 2, target=None, additional_forward_args=X.exp())
    assert torch.equal(A, right) and list(named) == ["own"]


# buffers


class Counts(nn.Module):
    def __init__(self, **buffers):
        super().__init__()
        self.inner = nn.Linear(4, 2)
        for name, value in (dict(calls=torch.zeros(())) | buffers).items():
            self.register_buffer(name, value)

    def forward(self, x):
        self.calls += 1
        if "last" in self._buffers:
            self.last = x.detach()
        return self.inner(x)


def test_each_of_two_modules_of_one_class_gets_its_buffers_back():
    a, b = Counts().eval(), Counts(last=None).eval()
    ig(lambda x: a(x) + b(x))
    path_attribution(lambda x: a(x)[:, 0] + b(x)[:, 0], straight_path(0 * X, X, 5))
    assert a.calls == 0 and b.calls == 0 and b.last is None


# torch announces its compressed rows as new, once
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")
@pytest.mark.parametrize("kind", ["sparse", "rows", "meta", "nan"])
def test_buffers_that_cannot_be_compared_stay_where_they_are(kind):
    eye = torch.eye(4)
    held = dict(
        sparse=eye.to_sparse(),
        rows=eye.to_sparse_csr() if kind == "rows" else None,
        meta=torch.zeros(4, device="meta"),
        nan=torch.full((4,), torch.nan),
    )[kind]
    model = Counts(held=held).eval()
    assert torch.equal(ig(model), ig(model.inner)) and model.held is held


def test_six_threads_leave_a_buffer_as_one_does():
    model = Counts().eval()
    for _ in range(4):
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(lambda _: ig(model), range(12)))
        assert model.calls == 0


# scripted layers, mocks


# scripts are on their way out of torch, and still in many models
@pytest.mark.filterwarnings("ignore:.torch.jit.trace")
@pytest.mark.filterwarnings("ignore:this decoder is not smooth")
@pytest.mark.filterwarnings("ignore:geodesics of")
def test_a_traced_layer_inside_a_decoder():
    encode, head = seeded(lambda: nn.Linear(4, 2)), seeded(lambda: nn.Linear(2, 8))
    traced = torch.jit.trace(head, torch.rand(1, 2))
    rest = seeded(lambda: nn.Sequential(nn.SiLU(), nn.Linear(8, 4), nn.Sigmoid()))
    decode, plain = nn.Sequential(traced, rest).eval(), nn.Sequential(head, rest).eval()
    A = ManifoldIG(net, adapt(encode, decode)).attribute(X, target=0, n_steps=8)
    right = ManifoldIG(net, adapt(encode, plain)).attribute(X, target=0, n_steps=8)
    assert (A - right).abs().max() <= 1e-4 * right.abs().max()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in rest.modules())
    whole = torch.jit.trace(encode, X[:1])
    assert torch.equal(adapt(whole, plain).encode(X), encode(X))


def test_what_claims_to_be_a_module_is_none():
    logger = Mock(spec=nn.Module)

    def noted(x, net=net):
        return net(x) if logger else None

    assert torch.equal(ig(noted), ig(net))


# rectifiers


class Two(nn.Module):
    def __init__(self, second):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.relu, self.second = nn.ReLU(), second

    def forward(self, x):
        return self.c(self.second(self.b(self.relu(self.a(x)))))


RECTIFIERS = dict(
    threshold=nn.Threshold(0, 0),
    where=lambda v: torch.where(v > 0, v, 0.0),
    mul=lambda v: v * (v > 0),
    rmul=lambda v: (v > 0) * v,
    maximum=lambda v: torch.maximum(v, torch.zeros_like(v)),
    masked_fill=lambda v: v.masked_fill(v < 0, 0.0),
)


@pytest.mark.parametrize("name", RECTIFIERS)
def test_guided_backprop_meets_no_rectifier_unnoticed(name):
    model = seeded(lambda: Two(RECTIFIERS[name]))
    with pytest.raises(ValueError, match=f"through {name.removeprefix('r')}|through {name}"):
        GuidedBackprop(model).attribute(X, target=0)


def test_guided_backprop_passes_a_product_that_is_no_rectifier():
    model = seeded(lambda: Two(lambda v: v * v.sigmoid() + torch.maximum(v, v.flip(1))))
    assert GuidedBackprop(model).attribute(X, target=0).shape == X.shape


# targets and types


@pytest.mark.parametrize(
    "target",
    [
        [(0.9,), (1.9,), (2.2,), (0.1,)],
        (1.0,),
        (torch.tensor(1.5),),
        (True,),
        [(0,), (1, 1), (2,), (0,)],
        ["a", "b", "c", "d"],
        [10**20, 0, 0, 0],
    ],
)
def test_a_target_that_is_no_class_is_refused(target):
    with pytest.raises(ValueError, match="target must (be integer classes|name a place)"):
        ig(net, target=target)


@pytest.mark.parametrize("targets", [torch.tensor([[True, False]] * 4), [None, 1]])
def test_targets_that_are_no_classes_are_refused(targets):
    with pytest.raises(ValueError, match='targets must be "all"'):
        ig(net, target=None, targets=targets)


def test_answers_that_are_no_numbers_of_classes_are_refused():
    for words, model in {
        "a number for each class, got torch.bool": lambda x: net(x) > 0,
        r"a number for each class, got torch.float32 of shape \(4, 0\)": lambda x: x[:, :0],
        r"requires_grad_\(False\)": lambda x: net(x.requires_grad_(False)),
        "torch.float32 and torch.float64": seeded(lambda: nn.PReLU().double()),
    }.items():
        with pytest.raises(ValueError, match=words):
            ig(model, target=0 if "grad" in words or "64" in words else None)
    with pytest.raises(ValueError, match="weights are not made yet .*running_mean"):
        ig(nn.LazyBatchNorm1d(affine=False).eval())


@pytest.mark.filterwarnings("ignore:this decoder is not smooth")
def test_codes_of_another_precision_than_images():
    encode, decode = seeded(lambda: nn.Linear(4, 2)), seeded(lambda: nn.Linear(2, 4))
    wide = adapt(lambda x: encode(x).double(), lambda z: decode(z.float()).double())
    how = dict(target=0, n_steps=8)
    A = ManifoldSettledIG(net, wide).attribute(X, **how)
    right = ManifoldSettledIG(net, adapt(encode, decode)).attribute(X, **how)
    assert A.dtype == X.dtype and (A - right).abs().max() <= 1e-4 * right.abs().max()


# batch norms


def test_folded_batch_norms_are_the_same_function_or_refused():
    def block():
        shared = nn.Conv2d(3, 3, 3, padding=1)
        norms = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        for norm in norms:
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)
        return nn.Sequential(shared, norms[0], nn.ReLU(), nn.Conv2d(3, 2, 1, bias=False)), norms[1]

    model, other = (m.eval() for m in seeded(lambda: nn.ModuleList(block())))
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    fewer = folded(model, images[:1])
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fewer.modules())
    assert isinstance(model[1], nn.BatchNorm2d)
    torch.testing.assert_close(fewer(images), model(images))
    f, g = (score(m, target=(1, 2, 2), output="logit") for m in (model, fewer))
    line = straight_path(0 * images, images, 5)
    torch.testing.assert_close(path_attribution(f, line).A, path_attribution(g, line).A)
    twice = nn.Sequential(model[0], model[1], model[0], other).eval()
    with pytest.raises(ValueError, match="cannot be folded"):
        folded(twice, images[:1])
