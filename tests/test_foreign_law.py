"""One law for any model, any input, any method and any way to call it.

Each row gets the map that it gets alone, or is refused by name.
"""

import copy
import threading

import numpy as np
import pytest
import torch
from every import EVERY, LATENT, NEIGHBOURS, OUTWARD, seeded
from foreign import (
    EVAL,
    GOOD,
    MIXING,
    NOISY,
    SHAPES,
    Clip,
    Conditioned,
    Named,
    Pair,
    gradient,
    inputs,
    made,
    method,
    riemann,
    same,
    state_of,
    weightless,
)
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from manifold_xai import score
from manifold_xai.together import Layout

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")
KINDS = (
    GOOD | EVAL | NOISY | MIXING | dict(clip=Clip, conditioned=Conditioned, named=Named, pair=Pair)
)
PROMPTS = torch.randn(4, 5, generator=seeded(5), dtype=torch.float64)
STEPS = 4


def alone(name, f, x, y, seed):
    """The map of one row, (1, ...), of f, images to outputs.

    The path is drawn by the row alone, then summed point after point.
    """

    def plain(x):
        return f(x)[:, y]

    if name == "Saliency":
        return gradient(plain, x)
    if name == "Input × Gradient":
        return x * gradient(plain, x)
    if name in ("SmoothGrad", "Smooth IG"):
        n = {"SmoothGrad": 4, "Smooth IG": 3}[name]
        noise = torch.normal(0.0, torch.full((n, *x.shape[1:]), 0.15), generator=seeded(seed))
        return torch.stack(
            [
                gradient(plain, x + e)
                if n == 4
                else riemann(plain, [k / 4 * (x + e) for k in range(5)])
                for e in noise
            ]
        ).mean(0)
    if name == "Expected Gradients":
        draw, total = np.random.RandomState(seed), 0
        references = inputs(tuple(x.shape[1:]), 12, seed=9)
        picked = draw.choice(12, 4)
        for t, r in zip(draw.uniform(0.0, 1.0, 4), picked):
            t = torch.tensor(t, dtype=torch.float32).double()
            total = (
                total
                + (x - references[[r]]) * gradient(plain, t * x + (1 - t) * references[[r]]) / 4
            )
        return total
    m = method(name, score(f, y, "logit"), tuple(x.shape[1:]))
    if name == "IG2":
        m.settings["represent"] = lambda x: x.flatten(1).cos()
    points = list(
        m.path(score(f, y, "logit"), 1 - x if name == "IG2" else m.start(x, None), x, STEPS, None)
    )
    return riemann(plain, points).mean(0, keepdim=True) * (-1 if name in OUTWARD else 1)


def asked(m, name, x, y, args, cut, several):
    how = {} if name in NEIGHBOURS else dict(n_steps=STEPS)
    if name == "IG2":
        m.settings["represent"] = lambda x: x.flatten(1).cos()
        how["baselines"] = tuple(1 - v for v in x) if isinstance(x, tuple) else 1 - x
    if isinstance(x, tuple) and getattr(m, "references", None) is not None:
        layout = Layout.of(x)
        flat = inputs((layout.join(x).shape[1],), 12, x[0].dtype, seed=9)
        m.references = layout.split(flat)
    how |= dict(targets=y) if several else dict(target=y)
    return m.attribute(x, additional_forward_args=args, internal_batch_size=cut, **how)


def elsewhere(fn, thread):
    """fn(), in a thread of its own if so."""
    if not thread:
        return fn()
    found = []

    def work():
        try:
            found.append(fn())
        except Exception as error:  # handed to the caller's thread
            found.append(error)

    t = threading.Thread(target=work)
    t.start()
    t.join()
    if isinstance(found[0], Exception):
        raise found[0]
    return found[0]


MODES = dict(plain=torch.enable_grad, no_grad=torch.no_grad, inference=torch.inference_mode)


@settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    name=st.sampled_from(sorted(EVERY)),
    shape=st.sampled_from(sorted(SHAPES)),
    b=st.integers(1, 4),
    cut=st.sampled_from([None, 1, 2, 5]),
    dtype=st.sampled_from([torch.float64, torch.float64, torch.float32]),
    device=st.sampled_from(["cpu", "cpu:0"]),
    thread=st.booleans(),
    mode=st.sampled_from(sorted(MODES)),
    train=st.booleans(),
    several=st.booleans(),
    seed=st.integers(0, 5),
)
def test_right_or_refused(
    kind, name, shape, b, cut, dtype, device, thread, mode, train, several, seed
):
    model, shape = made(KINDS[kind], train=train), SHAPES[shape]
    if dtype == torch.float32:
        model = model.float()
    x, y = (
        inputs(shape, b, dtype, seed).to(device),
        torch.tensor([3, 0, 1, 2])[:b] % (b if kind == "clip" else 5),
    )
    y = torch.stack([y, (y + 1) % (b if kind == "clip" else 5)], 1) if several else y
    x = (x, inputs((3,), b, dtype, seed + 7)) if kind == "pair" else x
    args = {"clip": (PROMPTS[:b].to(dtype),), "conditioned": (PROMPTS[:b].to(dtype),)}.get(kind)
    m = method(name, model, shape, dtype)
    parts = x if isinstance(x, tuple) else (x,)
    before, kept = state_of(model), tuple(v.clone() for v in parts)

    def ask():
        with MODES[mode]():
            return asked(m, name, x, y, args, cut, several)

    try:
        A = elsewhere(ask, thread)
    except ValueError as refused:
        words = [
            "train mode",
            "more than 1 value per channel",
            "random",
            "depends on the batch",
            "images",
            "not a tensor",
            "changes",
            "needs a class",
            "one input",
        ]
        assert any(word in str(refused) for word in words), refused
        good = (
            kind in GOOD or (kind in EVAL and not train) or kind in ("clip", "conditioned", "pair")
        )
        assert (
            not good
            or (name == "BlurIG" and len(shape) != 3)
            or (kind == "pair" and name in ("BlurIG", *LATENT))
            or (kind == "clip" and name == "AGI" and b == 1)
        ), refused
        return
    finally:
        after = state_of(model)
        if kind == "counting":  # its buffer was put back
            before, after = weightless(before), weightless(after)
        assert all(map(torch.equal, parts, kept))
        assert same(before, after) or kind in ("spectral", "own_generator", "numpy_noise")
    assert kind not in NOISY | MIXING or cut == 1 and kind in MIXING
    assert not (kind in EVAL and train)
    precise = copy.deepcopy(model).eval().double()
    seeds = torch.randint(2**32, (b,), generator=seeded()).tolist()
    if kind == "pair":  # as one tensor in which both lie side by side
        layout = Layout.of(x)
        net = precise

        def precise(v):
            return net(*Layout(layout.shapes, (torch.float64,) * 2).split(v))

        lead = 2 if several else 1
        x, A = layout.join(x), layout.join(A, lead)
    pairs = [(i, j) for i in range(b) for j in range(2 if several else 1)]
    for i, j in pairs:
        own = (PROMPTS[:b],) if kind == "clip" else (PROMPTS[[i]],) if kind == "conditioned" else ()
        expected = alone(
            name,
            lambda x: precise(x.clone(), *own),
            x[[i]].double(),
            int(y[i, j] if several else y[i]),
            seeds[i],
        )
        found = A[[i], j] if several else A[[i]]
        difference = (found - expected).abs().max() / expected.abs().max().clamp_min(1e-12)
        loose = dtype == torch.float32 and name in (
            "GIG",
            "Settled IG",
            "MA-GIG",
            "Settled MA-GIG",
            "AGI",
            "IG2",
            "MIG",
            "SmoothGrad",
            "Smooth IG",
            "Expected Gradients",
        )
        assert loose or difference < (1e-8 if dtype == torch.float64 else 1e-3), (i, difference)
