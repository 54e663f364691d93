"""What every method must keep, on held-out digits in float64: no row sees another,
no chunk size matters, ignored pixels get nothing, …"""

import gc
from functools import cache

import pytest
import torch
from every import EVERY, LATENT, LINES, NEIGHBOURS, OUTWARD, PATHS, steps_of
from helpers import randn, seeded
from torch import nn

from manifold_xai.attribution.integral import path_attribution
from manifold_xai.autoencoder import adapt
from manifold_xai.score import score
from manifold_xai.subjects.autoencoders import digit_vae
from manifold_xai.subjects.classifiers import digit_classifier
from manifold_xai.subjects.data import digits

STEPS = 8


@cache
def world():
    model, vae = digit_classifier("smooth").double(), digit_vae("silu").double()
    test, train = digits("test"), digits("train")
    pick = torch.randperm(len(test.x), generator=seeded(5))[:3]
    return model, vae, train.x[::350].double(), test.x[pick].double(), test.y[pick]


def attribute(name, f, x, y, vae=None, references=None, **how):
    _, own, refer, _, _ = world()
    method = EVERY[name](
        f, own if vae is None else vae, refer if references is None else references
    )
    return method.attribute(x, target=y, **steps_of(name, STEPS), **how)


@cache
def map_of(name):
    model, _, _, x, y = world()
    return attribute(name, score(model), x, y)


def the_same(A, B):
    return (A - B).abs().max() <= 1e-10 * max(1.0, A.abs().max().item())


@pytest.mark.parametrize("name", EVERY)
def test_rows_do_not_see_each_other(name):
    """The first two rows are the same whatever the third is; alone, too,
    where nothing is drawn row after row."""
    model, _, _, x, y = world()
    other = torch.cat([x[:2], 1 - x[2:]])
    assert the_same(map_of(name)[:2], attribute(name, score(model), other, y)[:2])
    assert not the_same(*map_of(name)[:2])
    assert the_same(map_of(name)[:1], attribute(name, score(model), x[:1], y[:1]))


@pytest.mark.parametrize("name", EVERY)
def test_the_internal_batch_changes_nothing(name):
    model, _, _, x, y = world()
    assert the_same(map_of(name), attribute(name, score(model), x, y, internal_batch_size=2))


@pytest.mark.parametrize("name", EVERY)
def test_an_ignored_pixel_gets_exactly_nothing(name):
    model, _, _, x, y = world()
    ignored = torch.zeros(32, 32, dtype=torch.bool)
    ignored[::2] = True
    A = (
        attribute(name, score(lambda x: model(x * ~ignored)), x, y)
        if name != "IG2"
        else blind_ig2(model, ignored, x, y)
    )
    assert A[..., ignored].eq(0).all() and A[..., ~ignored].ne(0).any()


def blind_ig2(model, ignored, x, y):
    """IG2 with the whole image as features: ignored pixels move, and still get nothing."""
    from manifold_xai.attribution.methods import IG2

    method = IG2(
        score(lambda x: model(x * ~ignored)), world()[2], represent=lambda x: x, generator=seeded(0)
    )
    return method.attribute(x, target=y, n_steps=STEPS)


@cache
def twin():
    """The same function: batch norm folded into the convolutions,
    the first block's channels permuted."""
    layers = list(digit_classifier("smooth").double())
    for i in range(0, 12, 4):
        layers[i : i + 2] = [
            nn.utils.fusion.fuse_conv_bn_eval(layers[i], layers[i + 1]),
            nn.Identity(),
        ]
    shuffle = torch.randperm(layers[0].out_channels, generator=seeded(1))
    layers[0].weight.data, layers[0].bias.data = (
        layers[0].weight.data[shuffle],
        layers[0].bias.data[shuffle],
    )
    layers[4].weight.data = layers[4].weight.data[:, shuffle]
    return nn.Sequential(*layers).eval()


@pytest.mark.parametrize("name", EVERY)
def test_networks_that_compute_the_same_get_the_same_map(name):
    model, _, _, x, y = world()
    assert (twin()(x) - model(x)).abs().max() < 1e-10
    assert the_same(map_of(name), attribute(name, score(twin()), x, y))


@pytest.mark.parametrize("name", [*LINES, *LATENT, "IG2"])
def test_no_way_no_attribution(name):
    model, vae, _, x, y = world()
    A = EVERY[name](score(model), vae, None).attribute(x, x, target=y, n_steps=STEPS)
    # an anchored path goes out to the reconstruction and back, so to rounding
    assert A.abs().max() < 1e-12


def test_nothing_to_compare_with_no_attribution():
    model, vae, _, x, y = world()
    assert attribute("BlurIG", score(model), torch.full_like(x, 0.3), y).abs().max() < 1e-12
    assert attribute("Expected Gradients", score(model), x[:1], y[:1], references=x[:1]).eq(0).all()
    assert attribute("Input × Gradient", score(model), 0 * x, y).eq(0).all()


def most_held(name, steps):
    """Most bytes of the method's tensors alive at any call of the network, eight rows at a time."""
    model, vae, references, x, y = world()
    found = []

    def look(*_):
        tensors = [o for o in gc.get_objects() if type(o) is torch.Tensor]
        found.append(
            sum(
                {
                    t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors
                }.values()
            )
        )

    hook = model.register_forward_pre_hook(look)
    gc.freeze()  # what was there before is not looked at
    try:
        PATHS[name](score(model), vae, references).attribute(
            x, target=y, n_steps=steps, internal_batch_size=8
        )
    finally:
        gc.unfreeze()
        hook.remove()
    return max(found)


@pytest.mark.parametrize("name", PATHS)
def test_memory_does_not_grow_with_the_number_of_steps(name):
    few, many = (most_held(name, steps) for steps in (10, 30))
    # of each further step and row at most a few codes of 80 bytes; an image would be 8192
    assert many - few <= 20 * 3 * 4 * 80


class Squares(nn.Module):
    """Ten quadratic scores: the trapezoid rule integrates them exactly along any polygon,
    so a gap is a mistake in the path or its gradients."""

    def __init__(self):
        super().__init__()
        self.W = randn(1024, 10, seed=3) / 32

    def forward(self, x):
        return (x.flatten(1) @ self.W).square()


@pytest.mark.parametrize("name", PATHS)
def test_maps_add_up_between_their_ends(name):
    _, vae, references, x, _ = world()
    method, y = PATHS[name](Squares(), vae, references), Squares()(x).argmax(1)
    A, delta = method.attribute(x, target=y, n_steps=STEPS, return_convergence_delta=True)
    ends = 0.0
    # their paths do not start at black; the first two not end at x either
    if name in ("EIG", "MIG", "BlurIG"):
        f = score(Squares(), y, "logit")
        ends = path_attribution(f, method.path(f, method.start(x, None), x, STEPS, None)).ends.diff(
            dim=1
        )[:, 0]
        assert name == "BlurIG" or ends.abs().max() > 1e-3
    assert (delta + ends).abs().max() < 1e-9 < A.abs().max()


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_maps_carry_no_graph_and_keep_their_type(name):
    model, _, references, x, y = world()
    A = attribute(
        name, score(model.float()), x.float().requires_grad_(), y, references=references.float()
    )
    model.double()
    assert not A.requires_grad and A.dtype == torch.float32 and A.shape == x.shape


FAULTS = {  # what is wrong, and what every method says of it
    "NaN": (lambda x, y: dict(x=x / 0), "`inputs` must be finite"),
    "integers": (
        lambda x, y: dict(x=(255 * x).byte()),
        "`inputs` must be a floating-point tensor, got torch.uint8",
    ),
    "a class that is none": (lambda x, y: dict(y=10), "target must be in 0…9, got 10"),
    "classes for other rows": (lambda x, y: dict(y=y[:2]), "one class per row, got 2 for 3 rows"),
    "train mode": (
        lambda x, y: dict(f=score(digit_classifier("smooth").double().train())),
        "must be in eval mode, but these layers are in train mode: 1",
    ),
    "a score cut off from x": (
        lambda x, y: dict(f=score(nn.Sequential(world()[0], Cut()))),
        "depends? on x",
    ),
}


class Cut(nn.Module):
    def forward(self, h):
        return h.detach()


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("fault", FAULTS)
def test_bad_input_is_refused_by_every_method(name, fault):
    model, _, _, x, y = world()
    change, says = FAULTS[fault]
    with pytest.raises(ValueError, match=says):
        attribute(name, **dict(f=score(model), x=x, y=y) | change(x, y))


@pytest.mark.parametrize("name", PATHS)
def test_no_step_is_refused_by_every_path(name):
    model, vae, references, x, y = world()
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        PATHS[name](score(model), vae, references).attribute(x, target=y, n_steps=0)


@pytest.mark.parametrize("name", EVERY)
def test_baselines_are_of_the_inputs_shape_or_refused(name):
    model, vae, references, x, y = world()
    takes_none = name in ("BlurIG", "AGI") or name in NEIGHBOURS
    with pytest.raises(
        ValueError,
        match="baselines.* None"
        if takes_none
        else r"`baselines` must have the shape of `inputs`, \(3, 1, 32, 32\)",
    ):
        EVERY[name](score(model), vae, references).attribute(x, x[..., :3], target=y)


@pytest.mark.parametrize("name", EVERY)
def test_another_range_is_warned_about_by_every_method(name):
    model, _, _, x, y = world()
    # its images may be in [0, 1]
    loose = adapt(lambda x: world()[1].encode(x / 255), lambda z: world()[1].decode(z))
    with pytest.warns(
        UserWarning, match=r"`inputs` must hold images in \[0, 1\], but spans .*Stored as 0…255\?"
    ):
        attribute(name, score(model), 255 * x, y, vae=loose)


def test_every_method_is_here():
    from manifold_xai.attribution.catalogue import catalogue

    model, vae, references, _, _ = world()
    assert set(catalogue(score(model), vae, references=references)) == set(EVERY)
    assert set(OUTWARD) < set(EVERY)
