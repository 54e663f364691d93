"""What cannot be explained is refused: with what was received, the rule, and what helps.

Also, which range an input may have.
"""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from every import EVERY, LATENT, NEIGHBOURS, seeded
from foreign import SHAPES, Net, ask, autoencoder, gradient, inputs, made, method, oracle
from torch import nn

from manifold_xai import (
    AGI,
    IG2,
    EnhancedIG,
    GuidedBackprop,
    IntegratedGradients,
    SmoothGrad,
    SmoothIG,
    adapt,
    adversarial_path,
    completeness_residual,
    diffid,
    explain,
    guided_path,
    heat_map,
    infidelity,
    iterative_path,
    load_map,
    max_sensitivity,
    path_attribution,
    probes,
    save_map,
    score,
    settled_path,
    straight_path,
    value_and_grad,
)

SHAPE = SHAPES["image"]
X = inputs(SHAPE)
Y = torch.tensor([3, 0, 4, 1])
f = score(made(Net), Y, "logit")
GIVEN = {
    name: (dict(baselines=1 - X) if name == "IG2" else {})
    | ({} if name in NEIGHBOURS else dict(n_steps=3))
    for name in EVERY
}


def cut(name, b):
    return GIVEN[name] | ({"baselines": GIVEN[name]["baselines"][:b]} if name == "IG2" else {})


# words


@pytest.mark.parametrize("name", EVERY)
def test_an_empty_batch(name):
    with pytest.raises(
        ValueError, match=r"`inputs` must hold at least one row, got \(0, 3, 4, 4\)"
    ):
        method(name, made(Net)).attribute(X[:0], target=1, **cut(name, 0))


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("target", [None, 1])
def test_a_score_that_is_one_number_for_the_batch(name, target):
    with pytest.raises(
        ValueError, match=r"one (number|output|row).*per row.*\(\)|needs a class for each row"
    ):
        method(name, lambda x: made(Net)(x).sum()).attribute(X, target=target, **GIVEN[name])


class Segments(nn.Module):
    """Five classes at each pixel."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, padding=1).double()

    def forward(self, x):
        return self.conv(x).tanh()


@pytest.mark.parametrize("name", EVERY)
def test_segmentation_without_a_target(name):
    with pytest.raises(ValueError, match=r"output is \(4, 5, 4, 4\)") as refused:
        method(name, Segments()).attribute(X, **GIVEN[name])
    assert (
        "target=" in str(refused.value) and "got" not in str(refused.value).split("target")[1][:20]
    )


def test_segmentation_with_one_is_right():
    model = Segments()
    A = IntegratedGradients(model).attribute(X, target=(2, 1, 3), n_steps=9)
    region = IntegratedGradients(model).attribute(
        X, target=lambda out: out[:, 2, :2].sum((1, 2)), n_steps=9
    )
    for i in range(4):
        torch.testing.assert_close(A[[i]], oracle(lambda x: model(x)[:, 2, 1, 3], X[[i]], 9))
        torch.testing.assert_close(
            region[[i]], oracle(lambda x: model(x)[:, 2, :2].sum((1, 2)), X[[i]], 9)
        )


MIXED = [
    (torch.float64, torch.float32),
    (torch.float32, torch.float64),
    (torch.float32, torch.bfloat16),
]
WALKS = {
    "straight": lambda x0, x: straight_path(x0, x, 3),
    "guided": lambda x0, x: guided_path(f, x0, x, 3),
    "settled": lambda x0, x: settled_path(f, x0, x, 3),
    "iterative": lambda x0, x: iterative_path(f, x, x0, 3),
}


@pytest.mark.parametrize("kinds", MIXED)
@pytest.mark.parametrize("walk", WALKS)
def test_ends_of_two_types(walk, kinds):
    with pytest.raises(
        ValueError, match=r"(`x0`|`reference`|`x`).*torch\.(float|bfloat)\d+.*\.to\("
    ):
        WALKS[walk](*(X.to(kind) for kind in kinds))


@pytest.mark.parametrize(
    "end",
    [0, 0.0, np.zeros((4, *SHAPE)), [0.0], None],
    ids=["int", "float", "array", "list", "None"],
)
@pytest.mark.parametrize("walk", WALKS)
def test_ends_that_are_no_tensors(walk, end):
    with pytest.raises(ValueError, match=r"must be a floating-point tensor, got"):
        WALKS[walk](end, X)
    with pytest.raises(ValueError, match=r"must be a floating-point tensor, got"):
        WALKS[walk](X, end)


@pytest.mark.parametrize(
    "b",
    [
        0.3,
        np.float32(0.3),
        np.float64(0.3),
        np.full((4, *SHAPE), 0.3),
        np.full((1, *SHAPE), 0.3, np.float32),
        torch.full((1, *SHAPE), 0.3),
        torch.tensor(0.3),
    ],
)
def test_baselines_may_be_numbers_arrays_and_tensors(b):
    A, delta = IntegratedGradients(made(Net)).attribute(
        X, b, target=Y, n_steps=9, return_convergence_delta=True
    )
    expected = torch.cat(
        [
            oracle(lambda x: made(Net)(x)[:, Y[i]], X[[i]], 9, torch.full_like(X[:1], 0.3))
            for i in range(4)
        ]
    )
    torch.testing.assert_close(A, expected, rtol=1e-5, atol=1e-7)
    assert delta.shape == (4,)


@pytest.mark.parametrize(
    "b", ["black", [0.0, 1.0], {"a": 1}, True, float("nan"), np.full((2, 2), "a"), 1j]
)
def test_other_baselines_are_refused(b):
    with pytest.raises(ValueError, match="baselines"):
        IntegratedGradients(made(Net)).attribute(X, b, target=Y, n_steps=3)


@pytest.mark.parametrize("given", [0, np.zeros((4, *SHAPE)), "x", None, [X, X]])
def test_inputs_that_are_no_tensor(given):
    for m in (IntegratedGradients(made(Net)), SmoothGrad(made(Net), 2)):
        with pytest.raises(ValueError, match="`inputs` must be a floating-point tensor"):
            m.attribute(given, target=1)


def test_inputs_on_no_device():
    with pytest.raises(ValueError, match="`inputs`.*meta"):
        IntegratedGradients(made(Net)).attribute(X.to("meta"), target=1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", EVERY)
def test_half_precision_in_every_method(name, dtype):
    """Right to the type's rounding where no gradient chooses the path; else finite, right in shape.

    The draws are those of float32.
    """
    model = made(Net)
    short = score(
        lambda x: model.to(dtype)(x) if x.dtype == dtype else model.double()(x), output="logit"
    )
    x = X.to(dtype)
    how = GIVEN[name] | (dict(baselines=1 - x) if name == "IG2" else {})

    def m():
        found = EVERY[name](short, half_autoencoder(dtype), inputs(SHAPE, 12, seed=9).to(dtype))
        if name == "IG2":
            found.settings["represent"] = lambda x: 2 * x
        return found

    A = m().attribute(x, target=Y, **how)
    assert A.shape == X.shape and A.isfinite().all()
    if name not in ("GIG", "Settled IG", "MA-GIG", "Settled MA-GIG", "AGI", "IG2", "MIG"):
        expected = ask(name, score(lambda x: model.double()(x), output="logit"), X, 3, target=Y)
        assert (A - expected).abs().max() < 0.15 * expected.abs().max()


def half_autoencoder(dtype):
    precise = autoencoder(SHAPE)
    return adapt(
        lambda x: precise.encode(x.double()).to(dtype),
        lambda z: precise.decode(z.double()).to(dtype),
    )


@pytest.mark.parametrize(
    "value",
    [
        np.float32(0.5),
        np.int64(3),
        np.arange(3),
        torch.tensor(2.0),
        (1, np.float64(2)),
        {"a": np.bool_(True)},
        np.str_("a"),
    ],
)
def test_numpy_numbers_in_the_settings_of_a_map(tmp_path, value):
    save_map(tmp_path / "a.safetensors", X, value=value, steps=np.int32(200))
    settings = load_map(tmp_path / "a.safetensors")[1]
    plain = {np.ndarray: list(range(3)), torch.Tensor: 2.0, tuple: [1, 2.0], dict: {"a": True}}
    assert (
        settings == {"value": plain.get(type(value), value), "steps": 200}
        and type(settings["steps"]) is int
    )


def test_settings_that_no_file_can_hold_are_named(tmp_path):
    with pytest.raises(ValueError, match="settings.*model.*Net"):
        save_map(tmp_path / "a.safetensors", X, model=Net())
    assert not list(tmp_path.iterdir())


class Blind:
    """An autoencoder whose decoder was written for pictures, not for gradients."""

    def __init__(self):
        self.inner = autoencoder(SHAPE)
        self.encode = self.inner.encode

    @torch.no_grad()
    def decode(self, z):
        return self.inner.decode(z)


@pytest.mark.parametrize("name", ["MIG", "MA-GIG", "Settled MA-GIG"])
def test_a_decoder_without_gradients_is_named_not_the_model(name):
    with pytest.raises(ValueError, match="`decode` must be differentiable.*no_grad"):
        EVERY[name](made(Net), Blind(), None).attribute(X, target=Y, n_steps=3)


def test_it_is_good_enough_where_no_gradient_is_asked():
    A = EnhancedIG(made(Net), Blind()).attribute(X, target=Y, n_steps=3)
    torch.testing.assert_close(
        A, EnhancedIG(made(Net), autoencoder(SHAPE)).attribute(X, target=Y, n_steps=3)
    )


def test_a_preprocessing_without_gradients_is_named_not_the_model():
    blind = torch.no_grad()(lambda x: x * 2)
    with pytest.raises(ValueError, match="`preprocess` must be differentiable"):
        IntegratedGradients(score(made(Net), preprocess=blind)).attribute(X, target=Y, n_steps=3)


class Rectified(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Flatten(), nn.Linear(48, 9), nn.ReLU(), nn.Linear(9, 5)
        ).double()

    def forward(self, x):
        return self.net(x)


@pytest.mark.parametrize("how", ["wrapped", "in place", "a part"])
def test_guided_backprop_on_a_compiled_model(how):
    """Hooks do nothing in a compiled model: the plain model is used, or the refusal says why."""
    plain = Rectified().eval()
    expected = GuidedBackprop(plain).attribute(X, target=Y)
    import copy

    model = copy.deepcopy(plain)
    if how == "wrapped":
        model = torch.compile(model, backend="eager")
    elif how == "in place":
        model.compile(backend="eager")
    else:
        model.net = torch.compile(model.net, backend="eager")
    try:
        A = GuidedBackprop(model).attribute(X, target=Y)
    except ValueError as refused:
        assert "compile" in str(refused)
    else:
        assert torch.equal(A, expected)


def klish(**what):
    """What diffusers' AutoencoderKL returns, in its shape."""
    return lambda x: SimpleNamespace(**{k: v(x) for k, v in what.items()})


@pytest.mark.parametrize("name", LATENT)
@pytest.mark.parametrize("attribute", ["latent_dist", "latents", "sample"])
def test_adapt_names_from_diffusers_for_its_autoencoders(name, attribute):
    encode = klish(**{attribute: lambda x: x.flatten(1)[:, :5]})
    with pytest.raises(ValueError, match="from_diffusers"):
        EVERY[name](made(Net), adapt(encode, autoencoder(SHAPE).decode), None).attribute(
            X, target=Y, n_steps=3
        )


def test_adapts_advice_leads_out():
    """Following the advice of each refusal leads to a right answer.

    A posterior's mode or mean, an element of a tuple.
    """
    dist = SimpleNamespace(mode=lambda: X.flatten(1)[:, :5], mean=X.flatten(1)[:, :5])
    for out, says in (
        (dist, "mode|mean"),
        ((X.flatten(1), 0), r"\[0\]"),
        ({"z": X}, r"\['z'\]"),
        (SimpleNamespace(a=1), "SimpleNamespace"),
    ):
        with pytest.raises(ValueError, match=says):
            adapt(lambda x: out, lambda z: z).encode(X)


def test_from_diffusers_is_exported():
    import manifold_xai

    assert "from_diffusers" in manifold_xai.__all__
    with pytest.raises(ValueError, match="diffusers"):
        manifold_xai.from_diffusers(nn.Linear(2, 2))


@pytest.mark.parametrize("target", [np.array([3, 0, 4, 1]), [3, 0, 4, 1], (3, 0, 4, 1)[0]])
def test_targets_as_arrays_and_lists(target):
    m = IntegratedGradients(made(Net))
    expected = torch.tensor(np.broadcast_to(target, 4).copy())
    assert torch.equal(
        m.attribute(X, target=target, n_steps=3), m.attribute(X, target=expected, n_steps=3)
    )


def test_a_model_made_in_inference_mode_is_named():
    with torch.inference_mode():
        model = made(Net)
    with pytest.raises(ValueError, match="inference_mode"):
        IntegratedGradients(model).attribute(X, target=Y, n_steps=3)


# range


WIDE = {
    "signal": inputs((2, 24)) * 300 - 50,
    "volume": inputs((1, 2, 4, 6)) * 2000 - 1000,
    "tokens": inputs((6, 8)) * 40 - 20,
    "table": inputs((48,)) * 1000,
    "many channels": inputs((12, 2, 2)) * 30 - 15,
}
OF = {
    "signal": (2, 24),
    "volume": (1, 2, 4, 6),
    "tokens": (6, 8),
    "table": (48,),
    "many channels": (12, 2, 2),
}


def wide_autoencoder(x):
    inner = autoencoder(tuple(x.shape[1:]))
    low, high = x.min(), x.max()
    return adapt(
        lambda x: inner.encode((x - low) / (high - low)),
        lambda z: low + (high - low) * inner.decode(z),
    )


@pytest.mark.parametrize("kind", WIDE)
@pytest.mark.parametrize("name", [n for n in EVERY if n != "BlurIG"])
def test_what_is_no_image_may_have_any_range_in_every_method(name, kind):
    x, inner = WIDE[kind], made(Net)
    m = EVERY[name](
        score(lambda x: inner(x / x.new_tensor(100.0)), output="logit"), wide_autoencoder(x), x + 1
    )
    if name == "IG2":
        m.settings["represent"] = lambda x: x / 100
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        A = m.attribute(
            x,
            target=Y,
            **(dict(baselines=x + 50) if name == "IG2" else {})
            | ({} if name in NEIGHBOURS else dict(n_steps=3)),
        )
    assert A.shape == x.shape and A.isfinite().all() and A.abs().max() > 0


@pytest.mark.parametrize("kind", WIDE)
def test_and_in_every_function(kind):
    x, inner = WIDE[kind], made(Net)

    def g(x):
        return inner(x / 100.0).softmax(1)[:, 0]

    straight = straight_path(0 * x, x, 3)
    for A in (path_attribution(g, straight).A, path_attribution(g, guided_path(g, 0 * x, x, 3)).A):
        assert diffid(g, A, x, 0.0).shape == completeness_residual(g, A, x, 0 * x).shape == (4,)
        assert infidelity(A, probes(g, x, 0 * x, generator=seeded())).shape == (4,)
    assert max_sensitivity(lambda x: 2 * x, x, generator=seeded()).raw.shape == (4,)
    walk = adversarial_path(
        score(lambda x: inner(x / 100.0), 0), x, torch.ones(4).long(), 3, 5.0
    ).stack()
    assert (walk[-1] - x).abs().max() > 4  # it was not pulled into [0, 1]
    walk = iterative_path(g, x, x + 50, 3, 30.0, represent=lambda x: x).stack()
    assert (walk[-1] - x).flatten(1).norm(dim=1).min() > 80


BRIGHT = inputs(SHAPE) * 255
CORE = {
    "path_attribution": lambda **how: path_attribution(
        lambda x: (x / 255).flatten(1).sum(1), straight_path(0 * BRIGHT, BRIGHT, 3), **how
    ),
    "diffid": lambda **how: diffid(
        lambda x: (x / 255).flatten(1).sum(1), BRIGHT, BRIGHT, 0.0, **how
    ),
    "probes": lambda **how: probes(
        lambda x: (x / 255).flatten(1).sum(1), BRIGHT, 0 * BRIGHT, generator=seeded(), **how
    ),
    "completeness_residual": lambda **how: completeness_residual(
        lambda x: (x / 255).flatten(1).sum(1), BRIGHT, BRIGHT, 0 * BRIGHT, **how
    ),
    "max_sensitivity": lambda **how: max_sensitivity(
        lambda x: 2 * x, BRIGHT, generator=seeded(), **how
    ),
}


@pytest.mark.parametrize("call", CORE)
def test_what_is_an_image_is_looked_at_and_span_switches_it(call):
    with pytest.raises(ValueError, match=r"must hold images in \[0, 1\].*255"):
        CORE[call]()
    CORE[call](span=False)


@pytest.mark.parametrize("name", EVERY)
def test_so_do_the_methods(name):
    inner = made(Net)

    def make():
        return method(name, score(lambda x: inner(x / 255.0), output="logit"))

    plain = autoencoder(SHAPE)
    low = adapt(lambda x: plain.encode(x / 255), plain.decode)

    def ask_it(span):
        m = make()
        if name in LATENT:
            m.autoencoder = low
        if name == "IG2":
            m.settings["represent"] = lambda x: x / 100
        m.span = span
        return m.attribute(
            BRIGHT,
            target=Y,
            **GIVEN[name] | (dict(baselines=255 - BRIGHT) if name == "IG2" else {}),
        )

    with pytest.warns(UserWarning, match=r"`inputs` must hold images in \[0, 1\].*span=False"):
        ask_it(True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ask_it(False).isfinite().all()


def test_span_is_an_option_of_every_class():
    for kind in (IntegratedGradients, SmoothGrad, SmoothIG, AGI, IG2, GuidedBackprop):
        assert kind(made(Net), span=False).span is False and kind(made(Net)).span is True
    assert EnhancedIG(made(Net), autoencoder(SHAPE), span=False, check=False).check is False


def test_decoders_of_what_is_no_image_may_have_any_range():
    for kind, x in WIDE.items():
        A = EnhancedIG(made(Net), wide_autoencoder(x)).attribute(x, target=Y, n_steps=3)
        assert A.shape == x.shape


def test_gradients_are_finite_in_float16_where_their_sum_is_not():
    def g(x):
        return (200 * x).flatten(1).sum(1)

    x = torch.full((2, 48), 1.0, dtype=torch.float16)
    assert value_and_grad(g, x)[1].eq(200).all() and gradient(g, x).eq(200).all()


# --- what ten researchers typed


IG = IntegratedGradients


def image_of(x):
    return x.flatten(1).tanh()


SAID = {
    "an array": (
        lambda: IG(image_of).attribute(X.numpy(), target=0),
        "got ndarray. An array: torch",
    ),
    "one row without its batch": (
        lambda: IG(image_of).attribute(X.flatten(), target=0),
        r"must hold rows, \(b, ...\), got",
    ),
    "a sparse tensor": (
        lambda: IG(image_of).attribute(X.to_sparse(), target=0),
        "must be dense, got torch.sparse_coo",
    ),
    "arguments by name": (
        lambda: IG(image_of).attribute(X, target=0, additional_forward_args={"mask": X}),
        r"functools.partial\(model, mask=…\)",
    ),
    "a place outside": (
        lambda: IG(lambda x: x).attribute(X, target=(0, 0, 99)),
        "its number 2 is 99",
    ),
    "a place outside in one row": (
        lambda: IG(lambda x: x).attribute(X, target=[(0, 0, 0)] * (len(X) - 1) + [(0, -99, 0)]),
        "its number 1 is -99",
    ),
    "a class of one number a row": (
        lambda: IG(lambda x: x.flatten(1).sum(1)).attribute(X, target=0),
        "or None where there is one number per row",
    ),
    "a complex score": (
        lambda: IG(lambda x: torch.fft.fft(x.flatten(1))).attribute(X, target=0),
        "must be a real number, got torch.complex",
    ),
    "no model": (lambda: score(None), "model must be a module or a function, got NoneType"),
    "a method that was made already": (
        lambda: explain(image_of, [X], IG(image_of), progress=False),
        "method must be a function, got",
    ),
    "a picture of a word": (lambda: heat_map("map"), "A must be a tensor"),
    "a channel that is not there": (lambda: heat_map(X, channel=9), "channel must be a dimension"),
    "Guided Backprop of what was scripted": (
        lambda: GuidedBackprop(torch.jit.script(nn.ReLU())).attribute(X, target=(0, 0, 0)),
        "scripted: hand over the module",
    ),
}


@pytest.mark.parametrize("what", SAID)
def test_what_ten_researchers_typed_is_answered_by_name(what):
    ask, words = SAID[what]
    with pytest.raises(ValueError, match=words):
        ask()
