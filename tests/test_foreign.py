"""The library on other people's models: right, or refused by name.

Never silently wrong, and nothing of theirs is changed.
"""

import gc
import subprocess
import sys
import threading
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from every import EVERY, LATENT, NEIGHBOURS, seeded
from foreign import (
    EVAL,
    GOOD,
    MIXING,
    NOISY,
    SHAPES,
    Clip,
    Conditioned,
    InPlace,
    Net,
    Patches,
    ask,
    inputs,
    made,
    method,
    oracle,
    same,
    state_of,
    weightless,
)
from torch import nn

from manifold_xai import (
    GuidedBackprop,
    IntegratedGradients,
    ManifoldIG,
    Saliency,
    SmoothGrad,
    adapt,
    baseline,
    completeness_residual,
    diffid,
    digit_vae,
    digits,
    guided_path,
    heat_map,
    manifold_path,
    path_attribution,
    probes,
    score,
    settled_path,
    straight_path,
    value_and_grad,
)

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*torch.jit.script.*"
)  # torch's own, on first use of torch.func
SHAPE = SHAPES["image"]
X = inputs(SHAPE)
Y = torch.tensor([3, 0, 4, 1])


def maps(f, x=X, y=Y, steps=20):
    """Integrated Gradients of (x, row) -> outputs, row by row."""
    return torch.cat([oracle(lambda x: f(x, i)[:, y[i]], x[[i]], steps) for i in range(len(x))])


def close(A, B, tolerance=1e-9):
    return (A - B).abs().max() <= tolerance * B.abs().max()


def given_to(name, x, steps=6):
    """What `attribute` needs beside inputs and target."""
    return (dict(baselines=1 - x) if name == "IG2" else {}) | (
        {} if name in NEIGHBOURS else dict(n_steps=steps)
    )


# further arguments


PROMPTS = torch.randn(4, 5, generator=seeded(5), dtype=torch.float64)  # as many as there are images
ONE_EACH = torch.randn(4, 5, generator=seeded(6), dtype=torch.float64)


@pytest.mark.parametrize("b", [1, 2, 4])
@pytest.mark.parametrize("cut", [None, 1, 3])
def test_prompts_are_not_cut_up_by_rows(b, cut):
    model, y = made(Clip), torch.tensor([3, 0, 2, 1])[:b] % b
    A = IntegratedGradients(model).attribute(
        X[:b], target=y, additional_forward_args=PROMPTS[:b], n_steps=20, internal_batch_size=cut
    )
    assert close(A, maps(lambda x, i: model(x, PROMPTS[:b]), X[:b], y))


@pytest.mark.parametrize("b", [1, 2, 4])
@pytest.mark.parametrize("cut", [None, 1, 3])
def test_what_belongs_to_a_row_follows_it(b, cut):
    model = made(Conditioned)
    A = IntegratedGradients(model).attribute(
        X[:b],
        target=Y[:b],
        additional_forward_args=ONE_EACH[:b],
        n_steps=20,
        internal_batch_size=cut,
    )
    assert close(A, maps(lambda x, i: model(x, ONE_EACH[[i]]), X[:b], Y[:b]))


class Both(nn.Module):
    """Prompts for all, a vector for each row, a number, a list of names, a dictionary."""

    def __init__(self):
        super().__init__()
        self.clip, self.net = Clip(), Conditioned(seed=4)

    def forward(self, x, prompts, c, scale, names, more):
        assert len(names) == len(x)
        return scale * self.clip(x, prompts) + self.net(x, c)[:, :4] + more["shift"]


def test_arguments_of_both_kinds_at_once():
    model, shift = Both().eval(), torch.randn(4, 1, generator=seeded(8), dtype=torch.float64)
    args = (PROMPTS, ONE_EACH, 2.0, list("abcd"), {"shift": shift})
    y = Y % 4
    A = IntegratedGradients(model).attribute(
        X, target=y, additional_forward_args=args, n_steps=20, internal_batch_size=3
    )

    def alone(x, i):
        return model(x, PROMPTS, ONE_EACH[[i]], 2.0, ["a"] * len(x), {"shift": shift[[i]]})

    assert close(A, maps(alone, y=y))


@pytest.mark.parametrize("name", EVERY)
def test_every_method_finds_out_what_belongs_to_a_row(name):
    """One prompt for each row, or prompts for all: each method gives each row's own map."""
    clip, conditioned, y = made(Clip), made(Conditioned), Y % 4
    for model, args, alone in (
        (clip, PROMPTS, lambda i: lambda x: clip(x, PROMPTS)),
        (conditioned, ONE_EACH, lambda i: lambda x: conditioned(x, ONE_EACH[[i]])),
    ):
        how = dict(represent=lambda x: x.flatten(1)) if name == "IG2" else {}
        m = method(name, model)
        if how:
            m.settings["represent"] = how["represent"]
        given = (dict(baselines=1 - X) if name == "IG2" else {}) | (
            {} if name in NEIGHBOURS else dict(n_steps=6)
        )
        A = m.attribute(X, target=y, additional_forward_args=args, **given)
        i = 0  # what is drawn is drawn alike for the first row
        one = method(name, score(alone(i), output="logit"))
        if how:
            one.settings["represent"] = how["represent"]
        given = (dict(baselines=1 - X[:1]) if name == "IG2" else {}) | (
            {} if name in NEIGHBOURS else dict(n_steps=6)
        )
        assert close(A[:1], one.attribute(X[:1], target=y[:1], **given)), type(model).__name__


@pytest.mark.parametrize("cut", [None, 1, 3])
def test_a_score_hands_arguments_on_to_its_model(cut):
    """They were once taken for row numbers; a model with a default then answered without them."""

    class Optional(Conditioned):
        def forward(self, x, c=0.0):
            return super().forward(x, c)

    for kind in (Conditioned, Optional):
        model = made(kind)
        f = score(model, preprocess=lambda x: 2 * x)
        A = IntegratedGradients(f).attribute(
            X, target=Y, additional_forward_args=ONE_EACH, n_steps=20, internal_batch_size=cut
        )
        assert close(A, maps(lambda x, i: model(2 * x, ONE_EACH[[i]]).softmax(1)))
        told = IntegratedGradients(score(model, Y, "logit"))
        A = told.attribute(X, additional_forward_args=(ONE_EACH,), n_steps=20, per_row=True)
        assert close(A, maps(lambda x, i: model(x, ONE_EACH[[i]])))
    clip = made(Clip)
    A = IntegratedGradients(score(clip)).attribute(
        X, target=Y % 4, additional_forward_args=PROMPTS, n_steps=20
    )
    assert close(A, maps(lambda x, i: clip(x, PROMPTS).softmax(1), y=Y % 4))


def test_a_person_who_knows_says_it():
    model, y = made(Clip), Y % 4
    ask_it = partial(
        IntegratedGradients(model).attribute,
        X,
        target=y,
        additional_forward_args=PROMPTS,
        n_steps=20,
    )
    assert close(ask_it(per_row=(False,)), maps(lambda x, i: model(x, PROMPTS), y=y))
    conditioned = made(Conditioned)
    A = IntegratedGradients(conditioned).attribute(
        X, target=Y, additional_forward_args=ONE_EACH, n_steps=20, per_row=(True,)
    )
    assert close(A, maps(lambda x, i: conditioned(x, ONE_EACH[[i]])))
    with pytest.raises(ValueError, match="per_row"):
        ask_it(per_row=(True, False))
    with pytest.raises(ValueError, match="per_row"):
        IntegratedGradients(model).attribute(
            X, target=y, additional_forward_args=PROMPTS[:3], per_row=(True,)
        )


def test_an_argument_that_fits_neither_way_is_refused_by_name():
    class Odd(Net):
        def forward(self, x, c):
            return super().forward(x) + len(x) * c.mean()

    with pytest.raises(ValueError, match=r"argument 1.*per_row"):
        IntegratedGradients(made(Odd)).attribute(X, target=Y, additional_forward_args=ONE_EACH)


# a parameter of the model's own that is called rows


@pytest.mark.parametrize("name", EVERY)
def test_a_models_own_rows_are_its_own(name):
    model = made(Patches)
    twin = score(lambda x: model(x), output="logit")

    def fix(m):
        return (
            m.settings.update(represent=lambda x: x.flatten(1)) if name == "IG2" else None,
            m,
        )[1]

    given = (dict(baselines=1 - X) if name == "IG2" else {}) | (
        {} if name in NEIGHBOURS else dict(n_steps=6)
    )
    assert torch.equal(
        fix(method(name, model)).attribute(X, target=Y, **given),
        fix(method(name, twin)).attribute(X, target=Y, **given),
    )


class OwnRows(Net):
    def forward(self, x, rows=None):
        x = x.flatten(1)
        return super().forward(
            x
            if rows is None
            else x[:, : int(torch.as_tensor(rows).max()) + 1].repeat(1, 48)[:, :48]
        )


@pytest.mark.parametrize("model", [Patches(), OwnRows()])
def test_in_the_core_too(model):
    def f(x, rows=None):
        return (model(x) if rows is None else model(x, rows=rows))[:, 2]

    own = path_attribution(f, straight_path(0 * X, X, 20))
    assert close(own.A, maps(lambda x, i: model(x), y=torch.full((4,), 2)))
    for path in (guided_path, settled_path):
        gamma = path(f, 0 * X, X, 6)
        assert close(
            path_attribution(f, gamma).A,
            path_attribution(
                lambda x: model(x)[:, 2], path(lambda x: model(x)[:, 2], 0 * X, X, 6)
            ).A,
        )


def test_rows_can_be_said_outright():
    model = made(Conditioned)

    def aware(x, rows=None):
        return model(x, ONE_EACH if rows is None else ONE_EACH[rows])[:, 1]

    expected = maps(lambda x, i: model(x, ONE_EACH[[i]]), y=torch.ones(4).long())
    for rows in (None, True):
        assert close(path_attribution(aware, straight_path(0 * X, X, 20), rows=rows).A, expected)

    def needs(x, rows):
        return aware(x, rows)

    assert close(path_attribution(needs, straight_path(0 * X, X, 20)).A, expected)
    assert close(
        path_attribution(
            lambda x, rows=40: Patches()(x, rows)[:, 1], straight_path(0 * X, X, 20), rows=False
        ).A,
        maps(lambda x, i: Patches()(x), y=torch.ones(4).long()),
    )


# models that draw, mix their rows or change themselves


CALLS = {
    "path_attribution": lambda f: path_attribution(f, straight_path(0 * X, X, 4)),
    "guided_path": lambda f: path_attribution(f, guided_path(f, 0 * X, X, 4)),
    "settled_path": lambda f: path_attribution(f, settled_path(f, 0 * X, X, 4)),
    "diffid": lambda f: diffid(f, X, X, 0.5),
    "probes": lambda f: probes(f, X, 0 * X, generator=seeded()),
    "completeness_residual": lambda f: completeness_residual(f, X, X, 0 * X),
}


class First(nn.Module):
    """One number per row of any of the networks, as the functional core wants it."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x)[:, 1].exp()


def reached(model, way):
    """The same function, by the ways people hand it over."""
    if way == "module":
        return model
    if way == "bound method":
        return model.forward
    if way == "partial":
        return partial(nn.Module.__call__, model)
    if way == "object":
        return Held(model)
    return lambda x: model(x)


class Held:
    def __init__(self, model):
        self.parts = {"net": [model]}

    def __call__(self, x):
        return self.parts["net"][0](x)


WAYS = ["module", "closure", "bound method", "partial", "object"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", EVAL)
def test_train_mode_is_refused_and_eval_mode_right(kind, way):
    """However the model is handed over and whatever train mode does; its state is unchanged."""
    model = made(EVAL[kind], train=True)
    before = state_of(model)
    with pytest.raises(ValueError, match="train|random|batch|chang"):
        IntegratedGradients(reached(model, way)).attribute(X, target=Y, n_steps=4)
    after = state_of(model)
    assert same(
        weightless(before), weightless(after)
    )  # a buffer that was put back has been written to
    model.eval()
    A = IntegratedGradients(reached(model, way)).attribute(X, target=Y, n_steps=20)
    assert close(A, maps(lambda x, i: model(x)))


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", EVAL | NOISY | MIXING)
def test_the_functional_core_looks_too(kind, call):
    model = First(made((EVAL | NOISY | MIXING)[kind], train=kind in EVAL))
    before = state_of(model)
    with pytest.raises(ValueError, match="train|random|batch|chang|differ"):
        CALLS[call](model)
    if kind != "own_generator":
        assert same(weightless(before), weightless(state_of(model)))


@pytest.mark.parametrize("b", [1, 4])
@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("kind", NOISY | MIXING)
def test_what_draws_or_mixes_rows_is_refused_by_every_method(kind, name, b):
    says = "random" if kind in NOISY else "depends on the batch"
    with pytest.raises(ValueError, match=says):
        ask(name, made((NOISY | MIXING)[kind]), X[:b], target=Y[:b])


def test_the_refusal_says_by_how_much():
    model = made(MIXING["centred"])
    whole, alone = model(X)[0], model(X[:1])[0]
    with pytest.raises(
        ValueError, match=r"depends on the batch.*differ.* by 0?\.\d+|depends on the batch"
    ) as refused:
        IntegratedGradients(model).attribute(X, target=Y)
    assert f"{(whole - alone).abs().max():.2g}"[:3] in str(refused.value) or "%" in str(
        refused.value
    )


def test_whoever_wants_it_switches_the_check_off():
    noisy, calls = made(NOISY["always_noisy"]), []
    A = IntegratedGradients(noisy, check=False).attribute(X, target=Y, n_steps=4)
    assert A.isfinite().all()

    def counted(x):
        return calls.append(len(x)) or Net()(x)

    IntegratedGradients(counted, check=False).attribute(X, target=Y, n_steps=4)
    assert sum(calls) == 4 * 5
    calls.clear()
    IntegratedGradients(counted).attribute(X, target=Y, n_steps=4)
    assert sum(calls) <= 4 * 5 + 3 * 4  # twice and alone


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rounding_is_no_mixing(dtype):
    """In low precision or under autocast, deep networks round a single row differently."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Flatten(),
        *[m for _ in range(12) for m in (nn.Linear(48, 48), nn.LayerNorm(48), nn.GELU())],
        nn.Linear(48, 5),
    ).to(dtype)
    x = torch.rand(33, *SHAPE).to(dtype)
    assert IntegratedGradients(net).attribute(x, target=1, n_steps=3).isfinite().all()
    with torch.autocast("cpu", torch.bfloat16):
        assert (
            IntegratedGradients(net.float())
            .attribute(x.float(), target=1, n_steps=3)
            .isfinite()
            .all()
        )


def test_dropout_of_nothing_and_layers_without_modes_pass_in_train_mode():
    model = (
        nn.Sequential(nn.Flatten(), nn.Linear(48, 12), nn.Dropout(0.0), nn.Tanh(), nn.Linear(12, 5))
        .double()
        .train()
    )
    assert close(
        IntegratedGradients(model).attribute(X, target=Y, n_steps=20), maps(lambda x, i: model(x))
    )


# autoencoders


class OwnVae(nn.Module):
    def __init__(self, noise=0.0, mode=True):
        super().__init__()
        self.down = nn.Sequential(
            nn.Flatten(), nn.Linear(48, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 5)
        ).double()
        self.up = nn.Sequential(
            nn.Linear(5, 48), nn.BatchNorm1d(48), nn.Sigmoid(), nn.Unflatten(1, SHAPE)
        ).double()
        self.noise = noise
        self.train(mode)

    def encode(self, x):
        z = self.down(x)
        return z + self.noise * torch.randn_like(z) if self.noise else z

    def decode(self, z):
        return self.up(z)


@pytest.mark.parametrize("name", LATENT)
@pytest.mark.parametrize("how", ["adapt", "as it is", "lambda"])
def test_an_autoencoder_in_train_mode_is_refused_however_it_comes(name, how):
    vae, model = OwnVae(), made(Net)
    given = {
        "adapt": adapt(vae.encode, vae.decode),
        "as it is": vae,
        "lambda": adapt(lambda x: vae.encode(x), lambda z: vae.decode(z)),
    }[how]
    before = state_of(vae)
    with pytest.raises(ValueError, match=r"autoencoder must be in eval mode.*(1|2|3)"):
        EVERY[name](model, given, None).attribute(X, target=Y, n_steps=4)
    assert same(before, state_of(vae))


class NoisyDecoder(OwnVae):
    def decode(self, z):
        return self.up(z) + 0.05 * torch.rand(len(z), *SHAPE)


class MixingDecoder(OwnVae):
    def decode(self, z):
        return self.up(z - z.mean(0))


@pytest.mark.parametrize("name", LATENT)
@pytest.mark.parametrize(
    "vae, says",
    [
        (OwnVae(0.1, False), "`encode`.*random"),
        (NoisyDecoder(0, False), "`decode`.*random"),
        (MixingDecoder(0, False), "`decode`.*depends on the batch"),
    ],
    ids=["samples", "noisy decoder", "mixing decoder"],
)
def test_an_autoencoder_that_samples_or_mixes_rows_is_refused(name, vae, says):
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match=says):
        EVERY[name](made(Net), vae, None).attribute(X, target=Y, n_steps=4)
    assert torch.equal(state, torch.get_rng_state())


class InPlaceVae(OwnVae):
    def encode(self, x):
        return super().encode(x.sub_(0.5).add_(0.5).clamp_(0, 1).mul_(1.0).pow_(2))

    def decode(self, z):
        return super().decode(z.mul_(0.5))


class OutOfPlaceVae(OwnVae):
    def encode(self, x):
        return super().encode(((x - 0.5) + 0.5).clamp(0, 1).mul(1.0).pow(2))

    def decode(self, z):
        return super().decode(0.5 * z)


@pytest.mark.parametrize("name", LATENT)
def test_an_autoencoder_that_works_in_place_is_as_good_as_another(name):
    work, plain = InPlaceVae(0, False), OutOfPlaceVae(0, False)
    plain.load_state_dict(work.state_dict())
    x, model = X.clone(), made(Net)
    A = EVERY[name](model, work, None).attribute(x, target=Y, n_steps=6)
    assert torch.equal(x, X) and torch.equal(
        A, EVERY[name](model, plain, None).attribute(X, target=Y, n_steps=6)
    )


@pytest.fixture(scope="module")
def of_frozen_weights():
    """Three digits, a network, and their maps while the autoencoder's weights are frozen."""
    x, model = digits("test").x[:3], made(partial(Net, 1024)).float()
    how = dict(target=torch.arange(3), n_steps=12)
    return x, model, how, ManifoldIG(model, digit_vae()).attribute(x, **how)


@pytest.mark.parametrize("around", ["nothing", "no_grad", "inference_mode"])
def test_manifold_ig_with_weights_that_ask_for_gradients(around, of_frozen_weights):
    """Rejected steps once wrote into graph tensors; maps equal those of frozen weights."""
    x, model, how, expected = of_frozen_weights
    vae = digit_vae().requires_grad_(True)
    before, mode = (
        state_of(vae, model),
        dict(nothing=torch.enable_grad, no_grad=torch.no_grad, inference_mode=torch.inference_mode)[
            around
        ],
    )
    with mode():
        A = ManifoldIG(model, vae).attribute(x, **how)
    assert torch.equal(A, expected) and same(before, state_of(vae, model))
    assert not A.requires_grad and not A.is_inference()
    gamma = manifold_path(vae, 0 * x, x, 12, solver="gauss-newton", iterations=4)
    assert not gamma.notes["geodesic"].gamma_z.requires_grad


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", EVERY)
def test_every_method_within_inference_mode(name, around):
    first, second, third = (method(name, made(Net)) for _ in range(3))
    given = given_to(name, X)
    expected = first.attribute(X, target=Y, **given)
    with around():
        x = X.clone()  # an inference tensor, if so
        A = second.attribute(x, target=Y, **given)
    assert torch.equal(A, expected) and not A.requires_grad
    assert torch.equal(third.attribute(x, target=Y, **given), expected)  # made there, used here


# in place


@pytest.mark.parametrize("name", EVERY)
def test_a_model_that_works_in_place_is_as_good_as_another(name):
    model, x = made(InPlace), X.clone()
    A = ask(name, model, x, target=Y)
    assert torch.equal(x, X)
    assert torch.equal(
        A,
        ask(name, score(lambda x: model(x.clone()), output="logit"), X, target=Y)
        if name != "IG2"
        else A,
    )
    out_of_place = made(Net)
    twin = score(lambda x: out_of_place((x - 0.4) * 2), output="logit")
    if name != "IG2":
        assert close(A, ask(name, twin, X, target=Y))


@pytest.mark.parametrize("measure", ["confidence", "ratio", "accuracy"])
def test_removal_by_a_model_that_works_in_place(measure):
    model, x, A = made(InPlace), X.clone(), X.flip(0).contiguous()
    found = diffid(score(model, Y), A, x, 0.5, measure=measure)
    plain = made(Net)
    assert torch.equal(x, X) and torch.equal(A, X.flip(0))
    assert (
        close(found, diffid(score(lambda x: plain((x - 0.4) * 2), Y), A, X, 0.5, measure=measure))
        and found.abs().max() > 0
    )

    def inside(x):
        return model(x).softmax(1)[:, 2]

    def outside(x):
        return plain((x - 0.4) * 2).softmax(1)[:, 2]

    for ask_it in (
        lambda f, x: diffid(f, A, x, 0.5),
        lambda f, x: probes(f, x, 0 * x, generator=seeded()).drop,
        lambda f, x: completeness_residual(f, A, x, 0 * x),
    ):
        assert close(ask_it(inside, x), ask_it(outside, X)) and torch.equal(x, X)


def test_a_preprocessing_that_works_in_place():
    model, x = made(Net), X.clone()
    f, g = (
        score(model, Y, "logit", preprocess=p)
        for p in (lambda x: x.sub_(0.4).div_(0.5), lambda x: (x - 0.4) / 0.5)
    )
    assert torch.equal(
        path_attribution(f, straight_path(0 * x, x, 6)).A,
        path_attribution(g, straight_path(0 * X, X, 6)).A,
    )
    assert torch.equal(value_and_grad(f, x)[1], value_and_grad(g, X)[1]) and torch.equal(x, X)


# maps and baselines of any shape


@pytest.mark.parametrize("shape", [(3, 4, 5), (3, 2, 4, 5), (3, 2, 4, 5, 6), (3, 7)])
def test_heat_maps_add_up_channels_and_nothing_else(shape):
    A = torch.randn(*shape, generator=seeded())
    summed = A.sum(1) if len(shape) > 2 else A
    torch.testing.assert_close(heat_map(A), summed / summed.abs().max())
    each = heat_map(A, scale="each")
    torch.testing.assert_close(each, torch.stack([m / m.abs().max() for m in summed]))
    assert torch.equal(heat_map(A[:1], scale="each")[0], each[0])  # no row sees another


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("scale", ["each", "shared"])
def test_a_map_of_zeros_stays_so(dtype, scale):
    A = torch.zeros(2, 3, 4, 4, dtype=dtype)
    assert heat_map(A, scale=scale).eq(0).all()
    A[0, 0, 0, 0] = torch.finfo(dtype).tiny
    assert heat_map(A, scale=scale)[0].max() == 1 and heat_map(A, scale=scale)[1].eq(0).all()


@pytest.mark.parametrize("shape", SHAPES.values())
def test_baselines_see_one_row_at_a_time(shape):
    x = inputs(shape)
    mean = baseline(x, "mean")
    assert mean.shape == x.shape
    assert torch.equal(mean[1:2], baseline(x[1:2], "mean")) and not torch.equal(mean[0], mean[1])
    dims = tuple(range(2, x.ndim)) or (1,)
    torch.testing.assert_close(mean, x.mean(dims, keepdim=True).expand_as(x))
    if len(shape) != 3:
        with pytest.raises(ValueError, match="images"):
            baseline(x, "blur")


# threads


def in_threads(n, fn):
    """fn(i) in n threads at once; their results, or the first error."""
    found, start = [None] * n, threading.Barrier(n)

    def work(i):
        start.wait()
        try:
            found[i] = fn(i)
        except Exception as error:  # handed to the caller's thread
            found[i] = error

    threads = [threading.Thread(target=work, args=(i,)) for i in range(n)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for v in found:
        if isinstance(v, Exception):
            raise v
    return found


# each allocation collects garbage, and each collection lets another thread run
WAITING = """
import gc, threading, time, torch
from manifold_xai.door import Draws, here

def ask():
    for _ in range(20):
        draws = Draws(torch.device("cpu"))
        draws.moved()
        draws.back()
        here(None)

gc.callbacks.append(lambda *_: time.sleep(1e-4))
threads = [threading.Thread(target=ask) for _ in range(4)]
gc.set_threshold(1)
for t in threads:
    t.start()
for t in threads:
    t.join()
print("done")
"""


def test_threads_do_not_wait_for_each_other_for_ever():
    done = subprocess.run(
        [sys.executable, "-c", WAITING], capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "done\n", done.stderr


@pytest.mark.parametrize("name", EVERY)
def test_six_threads_do_not_disturb_each_other(name):
    model = made(Net)
    state = torch.get_rng_state()

    def ask_it(ways, i):
        return ways[i].attribute(X[i % 4 :], target=Y[i % 4 :], **given_to(name, X[i % 4 :]))

    alone, *rounds = ([method(name, model) for _ in range(6)] for _ in range(3))
    alone = [ask_it(alone, i) for i in range(6)]
    for ways in rounds:
        assert all(map(torch.equal, alone, in_threads(6, partial(ask_it, ways))))
    assert torch.equal(state, torch.get_rng_state())


def test_guided_backprop_in_one_thread_is_not_felt_in_others():
    torch.manual_seed(3)
    model = (
        nn.Sequential(nn.Flatten(), nn.Linear(48, 30), nn.ReLU(), nn.Linear(30, 5)).double().eval()
    )
    ways = [GuidedBackprop(model), Saliency(model), SmoothGrad(model, 8, generator=None)] * 2
    torch.manual_seed(1)
    alone = [m.attribute(X, target=Y) for m in ways]
    for _ in range(8):
        assert all(map(torch.equal, alone, in_threads(6, lambda i: ways[i].attribute(X, target=Y))))
    filters = list(warnings.filters)
    in_threads(6, lambda i: ways[0].attribute(X, target=Y))
    assert warnings.filters == filters


# nothing of theirs is changed


@pytest.mark.parametrize("kind", GOOD | EVAL)
@pytest.mark.parametrize("name", EVERY)
def test_no_method_changes_anything(name, kind):
    if kind == "patches" and name == "IG2":
        pytest.skip("its representation is the model's, which is listened to")
    model = made((GOOD | EVAL)[kind])
    for i, p in enumerate(model.parameters()):
        p.grad = torch.full_like(p, float(i))
    x, y = X.clone(), Y.clone()
    before, filters, threads = state_of(model), list(warnings.filters), torch.get_num_threads()
    ask(name, model, x, steps=3, target=y)
    assert (
        same(before, state_of(model))
        and torch.equal(x, X)
        and torch.equal(y, Y)
        and x.grad is None
        and not x.requires_grad
    )
    assert (
        warnings.filters == filters
        and torch.get_num_threads() == threads
        and torch.is_grad_enabled()
    )
    x.requires_grad_()
    ask(name, model, x, steps=3, target=y)
    assert x.grad is None and x.requires_grad and same(before, state_of(model))


def test_nor_does_a_method_that_draws_without_a_generator():
    torch.manual_seed(0)
    state, numpy = torch.get_rng_state(), np.random.get_state()[1].copy()
    A = SmoothGrad(made(Net), 4).attribute(X, target=Y)
    assert torch.equal(state, torch.get_rng_state()) and (numpy == np.random.get_state()[1]).all()
    torch.manual_seed(0)
    assert torch.equal(A, SmoothGrad(made(Net), 4).attribute(X, target=Y))
    torch.manual_seed(1)
    assert not torch.equal(A, SmoothGrad(made(Net), 4).attribute(X, target=Y))


# memory


def tensors_alive():
    gc.collect()
    return sum(type(o) is torch.Tensor for o in gc.get_objects())


@pytest.mark.parametrize("name", EVERY)
def test_memory_is_flat_over_fifty_calls(name):
    model, x = made(Net), X[:1]
    m = method(name, model)
    given = given_to(name, x, 2)

    def ask_it():
        return m.attribute(x, target=Y[:1], **given)

    for _ in range(3):
        ask_it()
    before = tensors_alive()
    for _ in range(50):
        ask_it()
    assert tensors_alive() <= before


class Heavy(nn.Module):
    """Notes the most bytes of tensors alive at once while it runs."""

    def __init__(self):
        super().__init__()
        self.conv, self.most = nn.Conv2d(1, 1, 3, 4).requires_grad_(False), 0

    def forward(self, x):
        held = {
            t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
            for t in gc.get_objects()
            if type(t) is torch.Tensor
        }
        self.most = max(self.most, sum(held.values()))
        return torch.stack([self.conv(x).mean((1, 2, 3)), x[:, 0, 0, 0]], 1)


@pytest.mark.parametrize(
    "name", ["IG", "BlurIG", "GIG", "Settled IG", "Saliency", "Input × Gradient"]
)
def test_an_image_of_2000_pixels_squared_keeps_within_the_chunk_budget(name):
    gc.freeze()  # what was there before is not looked at
    try:
        x, model = torch.rand(1, 1, 2000, 2000, generator=seeded()), Heavy().eval()
        m = EVERY[name](model, None, None)
        m.attribute(x, target=0, **({} if name in NEIGHBOURS else dict(n_steps=3)))
    finally:
        gc.unfreeze()
    sizes = model.most / x.nbytes - 1  # beside the image itself
    assert sizes <= (40 if name == "GIG" else 16), sizes
