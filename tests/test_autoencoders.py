import math
import warnings
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from helpers import SHARED, seeded
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, kl_divergence
from torch.func import jacfwd, jvp

import manifold_xai.subjects.autoencoders as A
import manifold_xai.subjects.losses as L
from manifold_xai import autoencoder
from manifold_xai.subjects import store
from manifold_xai.subjects.data import digits, plain_images, to_tensor
from manifold_xai.subjects.sources import photographs


def posterior(b=6, d=4, seed=0, dtype=torch.float64):
    return L.Posterior(*torch.randn(2, b, d, generator=seeded(seed), dtype=dtype))


def as_torch(q):
    return Independent(Normal(q.mean, (q.logvar / 2).exp()), 1)


@pytest.fixture(scope="module")
def x():
    return digits("test").x[torch.randperm(1000, generator=seeded())[:120]]


@pytest.fixture(scope="module", params=list(A.DIGIT_VAES))
def shipped(request):
    return request.param, A.digit_vae(request.param)


# the losses


@settings(deadline=None, max_examples=30)
@given(b=st.integers(1, 5), d=st.integers(1, 6), scale=st.floats(0.1, 3), seed=st.integers(0, 99))
def test_kl_is_torchs(b, d, scale, seed):
    q = L.Posterior(*(scale * part for part in posterior(b, d, seed)))
    prior = Independent(Normal(torch.zeros(d).double(), torch.ones(d).double()), 1)
    torch.testing.assert_close(L.kl(q), kl_divergence(as_torch(q), prior), rtol=1e-10, atol=1e-10)


def test_errors_are_likelihoods_summed_over_the_image():
    x, xhat = torch.rand(2, 3, 2, 4, 4, generator=seeded()).double()
    sigma = 0.3
    gauss = Normal(xhat, sigma)
    expected = -(gauss.log_prob(x) - gauss.log_prob(xhat)).flatten(1).sum(1)
    torch.testing.assert_close(L.squared_error(xhat, x, sigma), expected)
    expected = -(x * xhat.log() + (1 - x) * (1 - xhat).log()).flatten(1).sum(1)
    torch.testing.assert_close(L.cross_entropy(xhat, x), expected)


@settings(deadline=None, max_examples=30)
@given(b=st.integers(2, 6), more=st.integers(0, 1000), d=st.integers(1, 4), seed=st.integers(0, 99))
def test_parts_sum_to_the_log_ratio(b, more, d, seed):
    q = posterior(b, d, seed)
    z = as_torch(q).sample()
    ratio = as_torch(q).log_prob(z) - Normal(0.0, 1.0).log_prob(z).sum(1)
    torch.testing.assert_close(sum(L.kl_parts(z, q, b + more)), ratio, rtol=1e-9, atol=1e-9)


def test_parts_of_a_whole_data_set_are_those_of_its_mixture():
    q = posterior()
    z = as_torch(q).sample()

    def mix(base):
        return MixtureSameFamily(Categorical(torch.ones(6).double()), base)

    joint = mix(as_torch(q)).log_prob(z)
    each = sum(
        mix(Normal(q.mean[:, j], (q.logvar[:, j] / 2).exp())).log_prob(z[:, j]) for j in range(4)
    )
    parts = L.kl_parts(z, q, n=6)
    torch.testing.assert_close(parts.mutual, as_torch(q).log_prob(z) - joint)
    torch.testing.assert_close(parts.correlation, joint - each)


def test_density_from_a_batch_is_unbiased():
    # q(z) at image 0's sample from every batch of 3 that holds image 0, out of 6: the mean is the
    # mixture's density
    q, n = posterior(), 6
    z = as_torch(q).sample()
    found = []
    for i in range(1, n):
        for j in range(i + 1, n):
            rows = [0, i, j]
            mutual = L.kl_parts(z[rows], L.Posterior(q.mean[rows], q.logvar[rows]), n).mutual[0]
            found.append((as_torch(q).log_prob(z)[0] - mutual).exp())
    exact = MixtureSameFamily(Categorical(torch.ones(n).double()), as_torch(q)).log_prob(z)[0].exp()
    torch.testing.assert_close(torch.stack(found).mean(), exact)


def test_family_of_losses():
    vae = A.initialise(A.VAE(4, channels=4, hidden=8, size=8), seeded())
    x = torch.rand(5, 1, 8, 8, generator=seeded(1))
    paid = {
        w: L.vae_loss(vae, x, 20, seeded(2), w)
        for w in ((1.0, 1.0, 1.0), (4.0, 4.0, 4.0), (1.0, 6.0, 1.0))
    }
    q = vae.posterior(x)
    z = q.mean + torch.randn(q.mean.shape, generator=seeded(2)) * (q.logvar / 2).exp()
    error, parts = L.cross_entropy(vae.decode(z), x), L.kl_parts(z, q, 20)
    for (a, b, c), expected in {
        (1.0, 1.0, 1.0): error + L.kl(q),
        (4.0, 4.0, 4.0): error + 4 * L.kl(q),
    }.items():
        torch.testing.assert_close(paid[a, b, c].loss, expected)
    torch.testing.assert_close(
        paid[1.0, 6.0, 1.0].loss, error + parts.mutual + 6 * parts.correlation + parts.prior
    )


def test_posterior_with_channels_counts_every_latent():
    q = posterior(3, 12)
    folded = L.Posterior(q.mean.view(3, 3, 2, 2), q.logvar.view(3, 3, 2, 2))
    torch.testing.assert_close(L.kl(folded), L.kl(q))
    z = as_torch(q).sample()
    torch.testing.assert_close(
        L.kl_parts(z.view(3, 3, 2, 2), folded, 9).correlation, L.kl_parts(z, q, 9).correlation
    )


def test_kl_parts_need_company():
    with pytest.raises(ValueError, match="batch at least 2"):
        L.kl_parts(torch.zeros(1, 2), posterior(1, 2), 10)
    with pytest.raises(ValueError, match="n = 3"):
        L.kl_parts(torch.zeros(6, 4).double(), posterior(), 3)


def test_perceptual_sums_over_features_and_leaves_the_target_alone():
    def features(x):
        return [x[:, :1], 2 * x[:, 1:]]

    xhat, x = torch.rand(2, 3, 2, 4, 4, generator=seeded())
    x.requires_grad_()
    xhat.requires_grad_()
    cost = A.perceptual(features, 0.5, L.squared_error)(xhat, x)
    d2 = (xhat - x).square()
    torch.testing.assert_close(
        cost, 0.5 * d2.sum((1, 2, 3)) + 0.25 * (d2[:, 0] + 4 * d2[:, 1]).sum((1, 2))
    )
    alone = torch.autograd.grad(
        A.perceptual(features, 1.0, lambda a, b: torch.zeros(3))(xhat, x).sum(),
        x,
        allow_unused=True,
    )[0]
    assert alone is None
    with pytest.raises(ValueError):  # zip(strict=True): one feature net, one number of layers
        A.perceptual(lambda x: [x] * (1 + x.requires_grad), 1.0)(xhat.detach(), x)


# what is trained on


def test_plain_images_pass_through_the_transform():
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)

    def normalise(image):
        return (to_tensor(image, 8) - mean) / deviation

    x = torch.randn(2, 3, 8, 8)
    out = A.add_plain(x, 3, plain_images(normalise))
    assert len(out) == 8
    torch.testing.assert_close(out[:2], x)
    for image, value in zip(out[2:], (0, 0, 0, 1, 1, 1)):
        torch.testing.assert_close(image, (torch.full((3, 8, 8), float(value)) - mean) / deviation)
    with pytest.raises(ValueError, match="like x"):
        A.add_plain(x, 3, torch.zeros(2, 1, 8, 8))


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 999))
def test_nudge_moves_little_and_keeps_plain_images_plain(seed):
    x = torch.zeros(3, 1, 32, 32)
    x[0], x[1, 0, 12:20, 12:20] = 1, 1
    y = A.nudge(x, seeded(seed))
    torch.testing.assert_close(y[0], x[0])
    torch.testing.assert_close(y[2], x[2])
    centre = (y[1, 0] * torch.arange(32.0)).sum() / y[1].sum()
    assert abs(centre - 15.5) < 0.06 * 16 + 0.6 and 0.8 < y[1].sum() / x[1].sum() < 1.3


@pytest.mark.parametrize(
    "make",
    [
        partial(nn.Linear, 300, 300),
        partial(nn.Conv2d, 16, 16, 3, padding=1),
        partial(nn.ConvTranspose2d, 16, 16, 4, 2, 1),
    ],
)
def test_initialise_keeps_the_size_of_the_signal(make):
    layer = A.initialise(make(), seeded())
    x = torch.randn(
        *((64, 300) if isinstance(layer, nn.Linear) else (8, 16, 24, 24)), generator=seeded(1)
    ).relu()
    # times 2: half is lost in the next ReLU
    assert 0.7 < float(layer(x).detach().square().mean() / (2 * x.square().mean())) < 1.3


# networks and their training


@pytest.mark.parametrize("size, colours", [(8, 3), (32, 1), (64, 3)])
def test_vae_shapes(size, colours):
    vae = A.VAE(5, hidden=16, channels=4, size=size, colours=colours)
    x = torch.rand(2, colours, size, size)
    assert vae.encode(x).shape == (2, 5) and vae.decode(vae.encode(x)).shape == x.shape
    torch.testing.assert_close(vae.encode(x), vae.posterior(x).mean)


@pytest.mark.parametrize("size", [0, 4, 28, 48])
def test_vae_refuses_other_sizes(size):
    with pytest.raises(ValueError, match="4 times a power of 2"):
        A.VAE(size=size)


def short(vae, x, **how):
    return A.train_vae(vae, x, generator=seeded(3), epochs=2, **how)


@pytest.mark.parametrize(
    "how",
    [{}, {"weights": (1.0, 6.0, 1.0), "augment": A.nudge}, {"error": L.squared_error}],
    ids=["elbo", "tc", "gauss"],
)
def test_training_falls_and_repeats(x, how):
    def make():
        return A.initialise(A.VAE(3, hidden=16, channels=4), seeded())

    one, two = make(), make()
    # 120 = 7 · 17 + 1: the last image of an epoch is left out
    figures = short(one, x, batch=17, **how)
    assert figures["loss"][1] < figures["loss"][0] and not one.training
    assert short(two, x, batch=17, **how) == figures
    for a, b in zip(one.parameters(), two.parameters()):
        assert torch.equal(a, b)


def test_every_step_is_clipped(x, monkeypatch):
    norms, step = [], torch.optim.Adam.step

    def watched(self, *args, **kwargs):
        norms.append(float(torch.stack([p.grad.norm() for p in vae.parameters()]).norm()))
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", watched)
    vae = A.initialise(A.VAE(3, hidden=16, channels=4), seeded())
    short(vae, x, batch=60, clip=1.5)
    assert len(norms) == 4 and max(norms) < 1.5 + 1e-3  # unclipped they are in the hundreds


def test_training_resumes(x, tmp_path):
    def make():
        return A.initialise(A.VAE(3, hidden=16, channels=4), seeded())

    straight, interrupted, calls = make(), make(), []

    def power_cut(x, generator):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return x

    short(straight, x, batch=60, augment=lambda x, _: x)
    with pytest.raises(KeyboardInterrupt):
        short(interrupted, x, batch=60, augment=power_cut, checkpoint=tmp_path / "c.pt")
    resumed = make()
    figures = short(resumed, x, batch=60, augment=lambda x, _: x, checkpoint=tmp_path / "c.pt")
    assert len(figures["loss"]) == 2
    for a, b in zip(straight.parameters(), resumed.parameters()):
        assert torch.equal(a, b)
    with pytest.raises(ValueError, match="another training"):
        short(make(), x, batch=30, checkpoint=tmp_path / "c.pt")


def test_training_refuses(x):
    vae = A.VAE(3, hidden=16, channels=4)
    for bad, message in (
        (x * float("nan"), "finite"),
        (x * 255, "0…255"),
        (x.mul(255).byte(), "floating-point"),
    ):
        with pytest.raises(ValueError, match=message):
            short(vae, bad)
    with pytest.raises(ValueError, match="at least 1"):
        A.train_vae(vae, x, epochs=0, generator=seeded())
    with pytest.raises(FloatingPointError, match="lower `lr`"):
        short(vae, x, error=lambda xhat, x: L.squared_error(xhat, x) * math.inf)


def test_shipped_weights(shipped, x):
    name, vae = shipped
    assert not vae.training and not any(p.requires_grad for p in vae.parameters())
    xhat = vae.decode(vae.encode(x))
    plain = A.add_plain(x[:0], 1)
    assert float((xhat - x).square().mean()) < (0.022 if name == "tc" else 0.015)
    assert float((vae.decode(vae.encode(plain)) - plain).abs().amax()) < 0.05  # the baselines
    z = vae.encode(x)
    J = jacfwd(lambda z: vae.decode(z[None]).flatten())(z[0])
    d = z.shape[1]
    assert d == (20 if name == "wide" else 10)
    assert J.shape == (1024, d)
    assert torch.linalg.matrix_rank(J) == d
    card = store.load_tensors(store.SHIPPED / f"vae-{name}.safetensors")[1]
    assert card["settings"]["activation"] == A.DIGIT_VAES[name].get("activation", "SiLU")
    assert card["loss"][-1] < card["loss"][0]


def test_generator_has_less_correlation():
    x = digits("test").x
    cost = {}
    for name in ("silu", "tc"):
        q = A.digit_vae(name).posterior(x)
        z = q.mean + torch.randn(q.mean.shape, generator=seeded()) * (q.logvar / 2).exp()
        cost[name] = float(L.kl_parts(z, q, len(x)).correlation.mean())
    assert cost["tc"] < cost["silu"] / 3


def test_digit_vae_by_name(tmp_path):
    with pytest.raises(ValueError, match="silu, elu, relu, tc, wide"):
        A.digit_vae("swish")
    state = torch.get_rng_state()
    A.digit_vae("silu")
    assert torch.equal(torch.get_rng_state(), state)  # loading draws nothing


def test_make_weights_makes_what_ships(tmp_path, monkeypatch):
    def quick(vae, x, **how):
        assert how["epochs"] in (60, 120) and len(x) == 3628
        return {"loss": [2.0, 1.0]}

    monkeypatch.setattr(A, "train_vae", quick)
    made = A.make_weights(tmp_path)
    assert [p.name for p in made] == [f"vae-{name}.safetensors" for name in A.DIGIT_VAES]
    assert sorted(tmp_path.iterdir()) == sorted(made)  # and nothing else is left there
    for path in made:
        ours = store.load_tensors(path)[1]
        shipped = store.load_tensors(store.SHIPPED / path.name)[1]
        assert ours["settings"] == shipped["settings"] and ours.keys() == shipped.keys()


@pytest.mark.parametrize("blocks", [(1, 0), (2, 2), (0, 1)])
def test_residual_vae_at_any_width(blocks):
    vae = A.ResidualVAE(4, latents=6, colours=1, blocks=blocks).eval()
    x = torch.rand(2, 1, 48, 32)
    z = vae.encode(x)
    assert z.shape == (2, 6, 3, 2) and vae.decode(z).shape == x.shape
    assert autoencoder.reconstruct(vae, x).min() > 0  # a sigmoid, so no warning and no kink
    with pytest.raises(ValueError, match="multiples of 16"):
        vae.encode(x[..., :30])


def test_residual_vae_learns():
    x = A.add_plain(torch.rand(16, 3, 16, 16, generator=seeded()), 8)
    vae = A.initialise(A.ResidualVAE(4, latents=4), seeded())
    figures = A.train_vae(
        vae, x, epochs=4, batch=8, generator=seeded(1), error=partial(L.squared_error, sigma=0.1)
    )
    assert figures["loss"][-1] < figures["loss"][0]


def test_residual_vae_is_table_3():
    import csv

    table = SHARED / "papers" / "tables" / "mig_table3_vae_architecture.csv"
    if not table.exists():
        pytest.skip("the paper's tables are not beside the repository")
    rows = [
        r
        for r in csv.DictReader(table.read_text(encoding="utf8").splitlines())
        if r["layer"] != "Input"
    ]
    seen = []
    with torch.device("meta"):
        vae = A.ResidualVAE()
        layers = [
            m
            for m in (*vae.encoder, vae.mean, vae.logvar, *vae.decoder)
            if any(True for _ in m.parameters())
        ]
        for layer in layers:
            layer.register_forward_hook(lambda _, __, y: seen.append(y.shape[1:3]))
        vae.decode(vae.posterior(torch.empty(1, 3, 192, 192)).mean)
    assert [tuple(map(int, s)) for s in seen] == [
        (int(r["out_channels"]), int(r["out_height"])) for r in rows
    ]
    convs = [sum(isinstance(m, nn.Conv2d) for m in layer.modules()) for layer in layers]
    # the skip branch is not in the table
    skip = [("Res" in r["layer"] and "Block" not in r["layer"]) for r in rows]
    assert [c - s for c, s in zip(convs, skip)] == [
        2 if "2 conv" in r["ops_listed"] else 1 for r in rows
    ]


# anybody's pair


class Foreign(nn.Module):
    "Somebody else's autoencoder: one Sequential, images in [-1, 1]."

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Flatten(),
            nn.Linear(64, 5),
            nn.Tanh(),
            nn.Linear(5, 64),
            nn.Tanh(),
            nn.Unflatten(1, (1, 8, 8)),
        )


def test_adapt_a_foreign_autoencoder():
    net, x = Foreign().net, torch.rand(3, 1, 8, 8, generator=seeded())
    pair = autoencoder.adapt(net[:3], net[3:], low=-1, high=1)
    xhat = autoencoder.reconstruct(pair, x)
    torch.testing.assert_close(xhat, net(x * 2 - 1).detach() / 2 + 0.5)
    assert pair.encode(x).shape == (3, 5)
    z = pair.encode(x)
    _, dx = jvp(pair.decode, (z,), (torch.ones_like(z),))
    _, theirs = jvp(net[3:], (z,), (torch.ones_like(z),))
    torch.testing.assert_close(dx, theirs / 2)  # half the range, half the speed


@settings(deadline=None, max_examples=30)
@given(low=st.floats(-300, 300), span=st.floats(0.1, 300))
def test_adapt_undoes_any_range(low, span):
    x = torch.rand(2, 3, 4, 4, generator=seeded()).double()
    seen = []
    pair = autoencoder.adapt(lambda x: seen.append(x) or x, lambda z: z, low, low + span)
    torch.testing.assert_close(
        pair.decode(pair.encode(x)), x, rtol=1e-9, atol=1e-9 * (1 + abs(low) / span)
    )
    assert low - 1e-9 <= seen[0].min() and seen[0].max() <= low + span + 1e-9


def test_adapt_refuses():
    with pytest.raises(ValueError, match="exceed"):
        autoencoder.adapt(lambda x: x, lambda z: z, 1, 0)
    pair = autoencoder.adapt(lambda x: (x, x), lambda z: [z])
    with pytest.raises(ValueError, match="`encode` must return a tensor, got tuple"):
        pair.encode(torch.zeros(1, 2))
    with pytest.raises(ValueError, match="`decode` must return a tensor, got list"):
        pair.decode(torch.zeros(1, 2))


def test_check_decoder_refuses(x):
    z, ok = torch.zeros(len(x), 2), lambda z: torch.full((len(z), 1, 32, 32), 0.5)
    assert torch.equal(autoencoder.check_decoder(ok, z, x), ok(z))
    for bad, message in (
        (lambda z: ok(z)[..., :28], "like x"),
        (lambda z: ok(z).expand(-1, 3, -1, -1), "like x"),
        (lambda z: ok(z) * 255, "low=-1, high=1"),
        (lambda z: ok(z) - 1.01, "off by at most 0.5"),
        (lambda z: ok(z) * float("inf"), "NaN or Inf in"),
    ):
        with pytest.raises(ValueError, match=message):
            autoencoder.check_decoder(bad, z, x)
    autoencoder.check_decoder(lambda z: ok(z) - 0.99, z, x)  # outside, but by less than a half
    # rows of a table have no range
    autoencoder.check_decoder(lambda z: 40 * torch.ones(3, 5), torch.zeros(3, 2), torch.zeros(3, 5))


def test_reconstruct_refuses(x):
    same = autoencoder.adapt(lambda x: x, lambda z: z)
    for bad, message in (
        (x * 255, "0…255"),
        (x / 0, "finite"),
        (x.mul(255).byte(), "floating-point"),
    ):
        with pytest.raises(ValueError, match=message):
            autoencoder.reconstruct(same, bad)
    with pytest.raises(ValueError, match="one code per image"):
        autoencoder.reconstruct(autoencoder.adapt(lambda x: x[:1], lambda z: z), x)
    with pytest.raises(ValueError, match=r"encoder\.2\.body\.1"):
        autoencoder.reconstruct(A.ResidualVAE(4, colours=1).train(), x)
    train_mode = A.VAE(3, hidden=8, channels=4).train()  # none of its layers depends on the mode
    assert autoencoder.reconstruct(train_mode, x[:3]).shape == x[:3].shape


@settings(deadline=None, max_examples=10)
@given(batch=st.integers(1, 9))
def test_reconstruct_does_not_depend_on_the_batch(batch):
    vae = A.initialise(A.VAE(3, hidden=8, channels=4, size=8), seeded()).double()
    x = torch.rand(7, 1, 8, 8, generator=seeded()).double()
    torch.testing.assert_close(
        autoencoder.reconstruct(vae, x, batch),
        autoencoder.reconstruct(vae, x),
        rtol=1e-10,
        atol=1e-10,
    )


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(2, 4)

    def forward(self, z):
        return F.relu(self.inner(z)).clamp(0, 1)


@pytest.mark.parametrize(
    "layer",
    [
        nn.ReLU,
        nn.LeakyReLU,
        nn.PReLU,
        nn.ReLU6,
        nn.Hardtanh,
        nn.Hardswish,
        nn.Hardsigmoid,
        nn.ReLU6,
        lambda: nn.ReLU(inplace=True),
    ],
)
def test_kinks_are_found(layer):
    decoder = nn.Sequential(nn.Linear(2, 4), layer(), nn.Linear(4, 4))
    (found,) = autoencoder.kinks(decoder, torch.randn(3, 2))
    assert "Sequential.1" in found


@pytest.mark.parametrize(
    "layer",
    [
        nn.SiLU,
        nn.ELU,
        nn.Softplus,
        nn.GELU,
        nn.Tanh,
        nn.Sigmoid,
        nn.Mish,
        lambda: nn.GroupNorm(2, 4),
    ],
)
def test_smooth_layers_are_not_named(layer):
    assert (
        autoencoder.kinks(
            nn.Sequential(nn.Linear(2, 4), layer(), nn.Linear(4, 4)), torch.randn(3, 2)
        )
        == []
    )


def test_kinks_inside_a_forward_are_found_and_named_once():
    decoder, z = Functional(), torch.rand(3, 2)
    found = autoencoder.kinks(decoder, z)
    assert [f.split("(")[-1] for f in found] == ["relu)", "clamp)"]
    x = torch.zeros(3, 4)
    with pytest.warns(UserWarning, match="not smooth: .*relu"):
        autoencoder.check_decoder(decoder, z, x)
    autoencoder.check_decoder(decoder, z, x)  # filterwarnings = error: a second warning would raise
    with pytest.warns(UserWarning, match="not smooth"):
        autoencoder.check_decoder(Functional(), z, x)  # another decoder is named again
    relu = A.VAE(2, nn.ReLU, 8, 4, 8)
    with pytest.warns(UserWarning):
        autoencoder.check_decoder(relu.decode, z, torch.zeros(3, 1, 8, 8))
    # a bound method is made anew each time, its owner is not
    autoencoder.check_decoder(relu.decode, z, torch.zeros(3, 1, 8, 8))


@settings(deadline=None, max_examples=20)
@given(st.lists(st.floats(-2, 3, width=32), min_size=1, max_size=20))
def test_share_out_of_range(values):
    expected = sum(v < 0 or v > 1 for v in values) / len(values)
    assert autoencoder.out_of_range_share(torch.tensor(values)) == pytest.approx(expected)


# published autoencoders


@pytest.fixture(scope="module")
def diffusers():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("diffusers", exc_type=ImportError)


def tiny_kl(diffusers, **more):
    torch.manual_seed(0)

    def two(name):
        return (name,) * 2

    return diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=two("DownEncoderBlock2D"),
        up_block_types=two("UpDecoderBlock2D"),
        **more,
    ).eval()


def group_norm_has_forward_mode():
    """For the strides met here; torch 2.6 and 2.11 have none, 2.15 has."""
    x = torch.rand(2, 4, 3, 3).contiguous(memory_format=torch.channels_last)
    try:
        jvp(lambda x: torch.nn.functional.group_norm(x, 2), (x,), (x,))
    except RuntimeError:
        return False
    return True


def test_diffusers_kl(diffusers, tmp_path):
    model = tiny_kl(diffusers, shift_factor=0.3, scaling_factor=0.5)
    x = torch.rand(2, 3, 16, 16, generator=seeded())
    pair = A.from_diffusers(model)
    mean = model.encode(x * 2 - 1).latent_dist.mean
    torch.testing.assert_close(pair.encode(x), (mean - 0.3) * 0.5)
    torch.testing.assert_close(pair.encode(x), pair.encode(x))  # the mode, no sample
    torch.testing.assert_close(
        pair.decode(pair.encode(x)), model.decode(mean).sample / 2 + 0.5, rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(A.from_diffusers(model, scaled=False).encode(x), mean)
    model.save_pretrained(tmp_path)
    again = A.from_diffusers(diffusers.AutoencoderKL.from_pretrained(tmp_path))
    torch.testing.assert_close(autoencoder.reconstruct(again, x), autoencoder.reconstruct(pair, x))
    z = pair.encode(x).detach().requires_grad_()
    assert torch.autograd.grad(pair.decode(z).sum(), z)[0].abs().min() > 0
    if group_norm_has_forward_mode():
        _, dx = jvp(pair.decode, (z.detach(),), (torch.ones_like(z),))
        assert dx.shape == x.shape


def test_diffusers_tiny(diffusers, tmp_path):
    torch.manual_seed(0)
    small = dict(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    )
    model, x = diffusers.AutoencoderTiny(**small).eval(), torch.rand(2, 3, 8, 8, generator=seeded())
    pair = A.from_diffusers(model)
    torch.testing.assert_close(pair.encode(x), model.encode(x * 2 - 1).latents)
    with pytest.warns(UserWarning, match="relu"):
        xhat = autoencoder.reconstruct(pair, x)
    torch.testing.assert_close(xhat, model.decode(model.encode(x * 2 - 1).latents).sample / 2 + 0.5)
    model.save_pretrained(tmp_path)
    assert torch.equal(
        A.from_diffusers(diffusers.AutoencoderTiny.from_pretrained(tmp_path)).encode(x),
        pair.encode(x),
    )


# spatial: MoVQ, which also modulates its norms by the code
@pytest.mark.parametrize("kind", ["group", "spatial"])
def test_diffusers_vq(diffusers, kind):
    torch.manual_seed(0)
    model = diffusers.VQModel(
        block_out_channels=(32,),
        norm_num_groups=4,
        latent_channels=4,
        num_vq_embeddings=16,
        norm_type=kind,
    ).eval()
    x = torch.rand(2, 3, 8, 8, generator=seeded())
    smooth, rounded = A.from_diffusers(model), A.from_diffusers(model, quantise=True)
    codes = model.encode(x * 2 - 1).latents
    torch.testing.assert_close(
        smooth.decode(smooth.encode(x)),
        model.decode(codes, force_not_quantize=True).sample / 2 + 0.5,
        rtol=1e-4,
        atol=1e-5,
    )
    torch.testing.assert_close(
        rounded.decode(rounded.encode(x)),
        model.decode(codes).sample / 2 + 0.5,
        rtol=1e-4,
        atol=1e-5,
    )
    z = smooth.encode(x).detach()

    def moved(pair):
        return (pair.decode(1.001 * z) - pair.decode(z)).abs().max()

    # piecewise constant, up to rounding, against smooth
    assert moved(rounded) < 1e-5 < moved(smooth) / 10


def test_diffusers_refuses(diffusers):
    with pytest.raises(ValueError, match="adapt"):
        A.from_diffusers(nn.Linear(2, 2))
    model = tiny_kl(diffusers)
    model.decoder.mid_block.resnets[0].dropout.p = 0.1
    with pytest.raises(ValueError, match="dropout"):
        A.from_diffusers(model.train())
    model.decoder.mid_block.resnets[0].dropout.p = 0.0
    A.from_diffusers(model)


def in_ldm_words(key):
    "A diffusers name in latent diffusion's words, written independently of the library's table."
    side, *rest = key.split(".")
    if side not in ("encoder", "decoder"):
        return key
    words = {
        "group_norm": "norm",
        "to_q": "q",
        "to_k": "k",
        "to_v": "v",
        "to_out": "proj_out",
        "conv_shortcut": "nin_shortcut",
        "conv_norm_out": "norm_out",
    }
    tail = [words.get(w, w) for w in rest]
    if tail[0] == "mid_block":
        part = {"resnets": f"block_{int(tail[2]) + 1}", "attentions": "attn_1"}[tail[1]]
        tail = ["mid", part, *tail[3:]]
    elif tail[0] in ("down_blocks", "up_blocks"):
        up = tail[0] == "up_blocks"
        level = str(4 - int(tail[1])) if up else tail[1]
        kind = {
            "resnets": "block",
            "attentions": "attn",
            "downsamplers": "downsample",
            "upsamplers": "upsample",
        }[tail[2]]
        tail = [
            "up" if up else "down",
            level,
            kind,
            *(tail[3:] if kind in ("block", "attn") else tail[4:]),
        ]
    if tail[-2] == "0" and "proj_out" in tail:
        del tail[-2]
    return ".".join([side, *tail])


def test_mar_kl16_from_a_checkpoint_with_its_names(diffusers, tmp_path, monkeypatch):
    real = diffusers.AutoencoderKL

    def thin(**kw):
        return real(**{**kw, "block_out_channels": (4, 4, 8, 8, 8), "norm_num_groups": 4})

    monkeypatch.setattr(diffusers, "AutoencoderKL", thin)
    torch.manual_seed(0)
    model = thin(
        layers_per_block=2,
        latent_channels=16,
        down_block_types=("DownEncoderBlock2D",) * 4 + ("AttnDownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",) * 5,
    ).eval()
    state = {in_ldm_words(k): v for k, v in model.state_dict().items()}
    assert "encoder.down.4.attn.1.q.weight" in state
    assert "decoder.up.0.block.2.conv2.bias" in state
    assert "encoder.mid.attn_1.proj_out.bias" in state
    # its attention is made of 1×1 convolutions
    state = {k: v[:, :, None, None] if v.ndim == 2 else v for k, v in state.items()}
    torch.save({"model": state}, tmp_path / "kl16.ckpt")
    pair = A.from_diffusers(A.mar_kl16(tmp_path / "kl16.ckpt"))
    x = torch.rand(1, 3, 32, 32, generator=seeded())
    assert pair.encode(x).shape == (1, 16, 2, 2)
    torch.testing.assert_close(pair.encode(x), model.encode(x * 2 - 1).latent_dist.mean)
    with pytest.raises(FileNotFoundError, match="LTH14/mar"):
        A.mar_kl16(tmp_path / "none.ckpt")
    (tmp_path / "other.ckpt").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="other.ckpt"):
        A.mar_kl16(tmp_path / "other.ckpt")
    torch.save({"model": {"a": torch.zeros(1)}}, tmp_path / "foreign.ckpt")
    with pytest.raises(ValueError, match="foreign.ckpt"):
        A.mar_kl16(tmp_path / "foreign.ckpt")


def test_taef2_refuses(tmp_path):
    with pytest.raises(FileNotFoundError, match="madebyollin"):
        A.taef2(tmp_path)
    store.save_tensors(tmp_path / "taef2_encoder.safetensors", {"0.weight": torch.zeros(3)})
    with pytest.raises(ValueError, match="taef2_encoder"):
        A.taef2(tmp_path)
    (tmp_path / "taef2_encoder.safetensors").write_bytes(b"broken")
    with pytest.raises(ValueError, match="taef2_encoder"):
        A.taef2(tmp_path)
    with pytest.raises(ValueError, match="multiples of 8"):
        A.TAEF2().encode(torch.zeros(1, 3, 20, 24))


def test_taef2_from_its_files(tmp_path):
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model, x = A.TAEF2().eval(), torch.rand(2, 3, 16, 24)
    assert [
        round(sum(p.numel() for p in half.parameters()) / 1e6, 2)
        for half in (model.encoder, model.decoder)
    ] == [1.34, 1.34]
    for part in ("encoder", "decoder"):
        save_file(
            {k: v.half() for k, v in getattr(model, part).state_dict().items()},
            tmp_path / f"taef2_{part}.safetensors",
        )
    loaded = A.taef2(tmp_path)
    assert loaded.encode(x).shape == (2, 32, 2, 3)
    assert loaded.encode(x).dtype == torch.float32
    assert not loaded.training
    # half precision
    torch.testing.assert_close(
        loaded.decode(loaded.encode(x)), model.decode(model.encode(x)), rtol=0.05, atol=0.01
    )


def test_taef2_pooled_block_adds_its_branch():
    torch.manual_seed(0)
    pooled, plain, x = A._TinyBlock(8, True), A._TinyBlock(8), torch.rand(2, 8, 4, 4)
    plain.conv.load_state_dict(pooled.conv.state_dict())
    torch.testing.assert_close(pooled(x), plain(x + pooled.pool(x)))
    nn.init.zeros_(pooled.pool[3].weight)
    torch.testing.assert_close(pooled(x), plain(x))  # a branch whose output is zero changes nothing


def test_taef2_on_photographs():
    folder = SHARED / "weights" / "taef2"
    if not folder.is_dir() or not (SHARED / "data" / "imagenet-sample").is_dir():
        pytest.skip("TAEF2's weights and the photographs are not beside the repository")
    model, x = A.taef2(folder), photographs(224, 4, SHARED / "data").x
    with pytest.warns(UserWarning, match="relu"):
        black = autoencoder.reconstruct(model, torch.zeros(1, 3, 224, 224))
    assert -0.06 < black.min() and black.max() < 0.01  # its makers' range, [-0.05, 0.001]
    # 0.0012 on 32 photographs
    assert 3e-4 < float((autoencoder.reconstruct(model, x) - x).square().mean()) < 4e-3
