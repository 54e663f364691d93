"""Networks of other people, of the kinds they bring, and what a map must be: sums row by row."""

import numpy as np
import torch
import torch.nn.functional as F
from every import EVERY, seeded, steps_of
from torch import nn

from manifold_xai import adapt


class Net(nn.Module):
    """(b, ...) of any shape to five scores; smooth."""

    def __init__(self, features=48, classes=5, seed=1):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first, self.last = (
                nn.Linear(features, 12).double(),
                nn.Linear(12, classes).double(),
            )

    def inside(self, h):
        return h

    def forward(self, x):
        return self.last(self.inside(2 * torch.tanh(self.first(x.flatten(1)))))


class InPlace(Net):
    """Normalises its input in place, as many a `forward` does."""

    def forward(self, x):
        x.sub_(0.4).mul_(2)
        return super().forward(x)


class FunctionalDropout(Net):
    def inside(self, h):
        return F.dropout(h, 0.2, self.training)


class StochasticDepth(Net):
    """A residual branch that is left out for the whole batch, rarely."""

    def inside(self, h):
        skip = self.training and torch.rand(()) < 0.02
        return h if skip else h + h.sin()


class AlwaysNoisy(Net):
    def inside(self, h):
        return h + 0.01 * torch.randn_like(h)


class NumpyNoise(Net):
    def inside(self, h):
        return h + 0.01 * torch.from_numpy(np.random.standard_normal(h.shape)).to(h)


class OwnGenerator(Net):
    def inside(self, h):
        self.__dict__.setdefault("generator", seeded(3))
        return h + 0.01 * torch.randn(h.shape, generator=self.generator).to(h)


class Lstm(Net):
    """A sequence of pieces; between its layers there is dropout in train mode."""

    def __init__(self, features=48, **_):
        super().__init__(12)
        self.rnn = nn.LSTM(features // 4, 12, 2, batch_first=True, dropout=0.3).double()

    def forward(self, x):
        return super().forward(self.rnn(x.flatten(1).unflatten(1, (4, -1)))[0][:, -1])


class Attention(Net):
    def __init__(self, features=48, **_):
        super().__init__(features)
        self.attend = nn.MultiheadAttention(12, 2, dropout=0.3, batch_first=True).double()

    def inside(self, h):
        h = torch.stack([h, h.sin(), h.cos()], 1)
        return self.attend(h, h, h, need_weights=False)[0].mean(1)


class FunctionalAttention(Net):
    def inside(self, h):
        h = torch.stack([h, h.sin(), h.cos()], 1)
        return F.scaled_dot_product_attention(
            h, h, h, dropout_p=0.3 if self.training else 0.0
        ).mean(1)


class BatchNorm(Net):
    def __init__(self, features=48, **options):
        super().__init__(features)
        self.norm = nn.BatchNorm1d(12, **options).double()

    def inside(self, h):
        return self.norm(h)


class BatchStatistics(BatchNorm):
    """Batch norm that never learned: the batch's own statistics, in eval mode too."""

    def __init__(self, features=48):
        super().__init__(features, track_running_stats=False)


class Centred(Net):
    """Subtracts the mean over its batch."""

    def inside(self, h):
        return h - h.mean(0)


class Spectral(Net):
    """Spectral norm, which in train mode goes on estimating its largest singular value."""

    def __init__(self, features=48):
        super().__init__(features)
        nn.utils.parametrizations.spectral_norm(self.first)


class Counting(Net):
    """Keeps a running mean of its inputs in its own code."""

    def __init__(self, features=48):
        super().__init__(features)
        self.register_buffer("seen", torch.zeros(12, dtype=torch.float64))

    def inside(self, h):
        if self.training:
            self.seen.mul_(0.9).add_(0.1 * h.detach().mean(0))
        return h - self.seen


class Patches(Net):
    """Has a parameter `rows` of its own: how many of the features are looked at."""

    def forward(self, x, rows=40):
        x = x.flatten(1)
        return super().forward(x * (torch.arange(x.shape[1]) < rows))


class Clip(Net):
    """Images against as many prompts as it is given: (b, prompts)."""

    def forward(self, x, prompts):
        return F.cosine_similarity(super().forward(x)[:, None], prompts[None], dim=2)


class Conditioned(Net):
    """One further vector a row."""

    def forward(self, x, c):
        return super().forward(x) * (1 + c)


class Pair(Net):
    """Two inputs, multiplied."""

    def forward(self, x, more):
        return super().forward(x) * (1 + more.sin().sum(1, keepdim=True))


class Named(Net):
    """A dictionary, as many published models return."""

    def forward(self, x):
        return {"logits": super().forward(x), "hidden": x}


def made(kind, features=48, train=False):
    return kind(features).train(train)


GOOD = dict(plain=Net, in_place=InPlace, patches=Patches)  # right in either mode
EVAL = dict(
    functional_dropout=FunctionalDropout,
    stochastic_depth=StochasticDepth,
    lstm=Lstm,
    attention=Attention,
)  # right in eval mode
EVAL |= dict(
    functional_attention=FunctionalAttention,
    batch_norm=BatchNorm,
    spectral=Spectral,
    counting=Counting,
)
NOISY = dict(
    always_noisy=AlwaysNoisy, numpy_noise=NumpyNoise, own_generator=OwnGenerator
)  # right in no mode
MIXING = dict(batch_statistics=BatchStatistics, centred=Centred)

SHAPES = {
    "image": (3, 4, 4),
    "volume": (1, 2, 4, 6),
    "series": (2, 24),
    "table": (48,),
    "tokens": (6, 8),
}


def autoencoder(shape, features=48, codes=5, dtype=torch.float64):
    """A smooth autoencoder whose weights ask for gradients, as any module's do."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        encode = nn.Sequential(nn.Flatten(), nn.Linear(features, codes)).to(dtype)
        decode = nn.Sequential(nn.Linear(codes, features), nn.Sigmoid(), nn.Unflatten(1, shape)).to(
            dtype
        )
    return adapt(encode, decode)


def inputs(shape, b=4, dtype=torch.float64, seed=2):
    return torch.rand(b, *shape, generator=seeded(seed), dtype=torch.float64).to(dtype)


def gradient(f, x):
    """Of one row's score, by autograd and nothing else."""
    with torch.inference_mode(False), torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        return torch.autograd.grad(f(x.clone()).sum(), x)[0]


def riemann(f, points):
    """The trapezoid sum of one row, point after point."""
    grads = [gradient(f, point) for point in points]
    return sum((g + h) / 2 * (q - p) for g, h, p, q in zip(grads, grads[1:], points, points[1:]))


def oracle(f, x, steps, x0=None):
    """Integrated Gradients of one row, (1, ...)."""
    x0 = torch.zeros_like(x) if x0 is None else x0
    return riemann(f, [x0 + i / steps * (x - x0) for i in range(steps + 1)])


def state_of(*modules):
    """Everything that a method must leave unchanged, to be compared with `same`."""
    found = [
        torch.get_rng_state().clone(),
        np.random.get_state()[1].copy(),
        np.random.get_state()[2],
    ]
    for module in modules:
        for name, m in module.named_modules():
            hooks = [
                m._forward_hooks,
                m._forward_pre_hooks,
                m._backward_hooks,
                m._backward_pre_hooks,
            ]
            found += [name, m.training, *map(len, hooks), sorted(k for k in m.__dict__)]
        for name, v in [*module.named_parameters(), *module.named_buffers()]:
            found += [
                name,
                v.detach().clone(),
                v.requires_grad,
                None if v.grad is None else v.grad.clone(),
                v._version,
            ]
    return found


def weightless(state):
    """Without version counters: a buffer that was put back has been written to."""
    return [v for v in state if not isinstance(v, int) or isinstance(v, bool)]


def same(before, after):
    def equal(a, b):
        if isinstance(a, torch.Tensor):
            return torch.equal(a, b)
        return bool((a == b).all()) if isinstance(a, np.ndarray) else a == b

    return len(before) == len(after) and all(map(equal, before, after))


def method(name, f, shape=(3, 4, 4), dtype=torch.float64):
    """A method of `EVERY` for inputs of any shape."""
    return EVERY[name](f, autoencoder(shape, dtype=dtype), inputs(shape, 12, dtype, seed=9))


def ask(name, f, x, steps=6, **how):
    """Its map of x; IG2 gets its references, one for each row."""
    how = (dict(baselines=1 - x) if name == "IG2" else {}) | steps_of(name, steps) | how
    return method(name, f, tuple(x.shape[1:])).attribute(x, **how)
