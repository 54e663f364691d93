"""Faithfulness: equal to the published code and to captum,
right where the answer is known on paper, blind to how batches are cut."""

import warnings

import pytest
import torch
from helpers import rand, randn, seeded
from hypothesis import given, settings
from hypothesis import strategies as st

from manifold_xai.attribution.integral import path_attribution
from manifold_xai.evaluation.faithfulness import completeness_residual, max_sensitivity, probes
from manifold_xai.evaluation.infidelity import infidelity
from manifold_xai.evaluation.removal import (
    channel_mean,
    diffid,
    kept_mean,
    published_diffid,
    ranks,
    removal,
    shuffled,
)
from manifold_xai.paths.straight import straight_path
from manifold_xai.score import score
from manifold_xai.subjects.classifiers import digit_classifier
from manifold_xai.subjects.data import digits


def ramp(n):
    """Weights that rise evenly and add up to 1, and the linear score they make."""
    w = 2 * torch.arange(1.0, n + 1, dtype=torch.float64) / (n * (n + 1))
    return w, lambda x: x.flatten(1) @ w


@pytest.fixture(scope="module")
def world():
    """Eight digits, the score of the class predicted at each, and a random map."""
    x = digits("test").x[:8]
    return score(digit_classifier("smooth")).at(x), torch.randn(x.shape, generator=seeded()), x


# --- the published code ---------------------------------------------------------------------------


PUBLISHED = [("accuracy", "hard"), ("confidence", "soft")]


def published_distance(answers, networks, measure, key):
    """Largest difference between our DiffID in their protocol and theirs, curves included."""
    f = score(networks[0], answers["diffid.labels"])
    batch = answers["diffid.attribution"], answers["diffid.images"]
    found = published_diffid(f, *batch, measure, batch=37)
    insertion, deletion = (answers[f"diffid.{key}.{side}"] for side in ("insertion", "deletion"))
    mean = (insertion - deletion).mean()
    off = found.insertion - insertion, found.deletion - deletion, found.diffid - mean
    return max(part.abs().max().item() for part in off)


@pytest.mark.parametrize("measure, key", PUBLISHED)
def test_diffid_is_the_published_one(answers, published, measure, key):
    n = answers["diffid.images"][0].numel()
    kept = n - int(0.9 * n)  # they fill with sum/(kept + 1e-8), we with sum/kept
    assert published_distance(answers, published, measure, key) < 1e-8 / kept


@pytest.mark.parametrize("measure, key", PUBLISHED)
def test_diffid_with_their_small_number_in_the_fill_is_theirs(
    answers, published, measure, key, monkeypatch
):
    def fill(z, shown):
        shown = shown.expand_as(z).flatten(1).double()
        return ((z.flatten(1) * shown).sum(1) / (shown.sum(1) + 1e-8)).view(-1, 1, 1, 1)

    monkeypatch.setitem(published_diffid.__globals__, "kept_mean", fill)
    assert published_distance(answers, published, measure, key) < 1e-10


def test_the_soft_published_form_clips_the_mean_and_ours_each_image():
    def f(x):
        return x.flatten(1).sum(1)  # the second image gains where the first loses

    x = torch.tensor([[1.0, 0.0], [0.5, 0.5]], dtype=torch.float64)
    A = torch.tensor([[2.0, 1.0], [2.0, 1.0]], dtype=torch.float64)
    whole = removal(
        f, A, x, torch.tensor([2.0, 2.0], dtype=torch.float64), [0.5], measure="ratio"
    ).inserted
    assert (whole > 1).any()
    assert (
        removal(f, A, x, torch.tensor([2.0, 2.0], dtype=torch.float64), [0.5]).inserted.max() == 1
    )


# --- on paper -------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [4, 12, 33])
def test_a_ramp_of_weights_has_the_diffid_known_on_paper(n):
    w, f = ramp(n)
    x = torch.ones(1, n, dtype=torch.float64)
    found = removal(f, w[None], x, 0.0, levels=n + 1)
    k = torch.arange(n + 1.0, dtype=torch.float64)
    assert torch.allclose(found.inserted[:, 0], 1 - k * (k + 1) / (n * (n + 1)), atol=1e-12)
    assert torch.allclose(found.deleted[:, 0], (n - k) * (n - k + 1) / (n * (n + 1)), atol=1e-12)
    assert abs(found.diffid.item() - (n - 1) / (3 * n)) < 1e-12
    # ends count half
    assert torch.allclose(
        found.insertion, torch.trapezoid(1 - k * (k + 1) / (n * (n + 1)), dx=1 / n), atol=1e-12
    )
    assert found.insertion.item() == pytest.approx(
        removal(f, w[None], x, 0.0, levels=(k / n).tolist()).insertion.item() * (n + 1) / n
        - 0.5 / n
    )
    # the sign of A does not rank
    assert abs(diffid(f, -1 / w[None], x, 0.0, levels=n + 1).item() + (n - 1) / (3 * n)) < 1e-12


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.integers(2, 9))
def test_no_ranking_beats_the_weights_of_a_linear_score(seed, n):
    w = rand(n, seed=seed) + 0.01
    x, f = torch.ones(1, n, dtype=torch.float64), lambda x: x @ w
    best = diffid(f, w[None], x, 0.0, levels=n + 1)
    assert best >= diffid(f, rand(1, n, seed=seed + 1), x, 0.0, levels=n + 1) - 1e-12
    assert best >= 0


def by_hand(f, A, x, fill, share):
    """What is left of one image's score on each side: the slow form of `removal`."""
    order = A.abs().sum(0).flatten().argsort(descending=True, stable=True)
    n = len(order)
    k, left = round(share * n), []
    for hidden in (order[n - k :], order[:k]):  # least important, most important
        image = x.clone().flatten(1)
        image[:, hidden] = fill
        left.append((f(image.view(1, *x.shape)) / f(x[None])).clamp(0, 1).item())
    return left


@pytest.mark.parametrize("colours", [1, 3])
def test_removal_is_hiding_pixels_one_image_at_a_time(colours):
    x, A = torch.rand(3, colours, 4, 5, generator=seeded()), randn(3, colours, 4, 5, seed=1).float()
    w = torch.rand(colours, 4, 5, generator=seeded(2))

    def f(x):
        return ((x * w).flatten(1).sum(1) - 2).sigmoid()

    found = removal(f, A, x, 0.3, 6)
    for i in range(3):
        slow = torch.tensor([by_hand(f, A[i], x[i], 0.3, share) for share in found.levels.tolist()])
        assert torch.allclose(
            torch.stack([found.inserted[:, i], found.deleted[:, i]], 1), slow, atol=1e-6
        )
        area = torch.trapezoid(slow[:, 0] - slow[:, 1], dx=1 / 5)
        assert found.diffid[i].item() == pytest.approx(area.item(), abs=1e-6)


def test_a_fill_equal_to_the_image_changes_nothing(world):
    f, A, x = world
    found = removal(f, A, x, x, levels=5)
    assert torch.allclose(found.inserted, torch.ones_like(found.inserted), atol=1e-5)
    assert found.diffid.abs().max() < 1e-6


def test_infidelity_of_a_linear_score_is_the_one_on_paper():
    n, sigma = 30, 0.3
    w, x = randn(n) / n**0.5, rand(1, n, seed=1)
    x[:, ::3] = 0
    drawn, A = probes(lambda v: v @ w, x, 0 * x, sigma, 40_000, generator=seeded(2)), w * x
    still = (x == 0)[0]
    on_paper = {
        "scaled": sigma**2 * w[still].square().sum(),
        "raw": (w * x[0] * (x[0] - 1)).sum() ** 2 + sigma**2 * (w * (x[0] - 1)).square().sum(),
    }
    for product, value in on_paper.items():
        assert abs(infidelity(A, drawn, product).item() / value.item() - 1) < 0.05
    nothing = (w @ x[0]) ** 2 + sigma**2 * w.square().sum()
    assert abs(infidelity(0 * A, drawn).item() / nothing.item() - 1) < 0.05
    assert infidelity(7 * A, drawn, rescale=True).item() == pytest.approx(
        infidelity(A, drawn, rescale=True).item()
    )
    assert infidelity(A, drawn, rescale=True) <= infidelity(A, drawn) + 1e-12


def test_scaled_infidelity_leaves_out_what_a_map_puts_where_nothing_moved():
    x = rand(2, 20, seed=1)
    x[:, ::4] = 0
    drawn, A = probes(lambda v: v.sum(1), x, 0 * x, 0.2, 10, generator=seeded()), randn(2, 20)
    assert torch.equal(infidelity(A, drawn), infidelity(A * (x != 0), drawn))
    assert not torch.allclose(infidelity(A, drawn, "raw"), infidelity(A * (x != 0), drawn, "raw"))


def test_noise_around_the_input_has_infidelity_zero_for_a_linear_score():
    w, x = randn(20), rand(3, 20, seed=1)
    drawn = probes(lambda v: v @ w, x, torch.zeros_like(x), 0.2, 30, "noise", generator=seeded())
    assert infidelity(w * x, drawn).max() < 1e-20 < infidelity(w * x.roll(1, 0), drawn).min()


def test_sensitivity_of_a_linear_score_stays_below_the_corner_of_the_cube():
    w, x = randn(50), rand(4, 50, seed=1)
    found = max_sensitivity(lambda v: w * v, x, 0.1, 40, generator=seeded())
    assert (found.raw < 0.1 * w.norm()).all() and (found.raw > 0.1 * w.norm() / 3**0.5 * 0.9).all()
    assert torch.allclose(found.relative, found.raw / (w * x).norm(dim=1))
    assert max_sensitivity(lambda v: w.expand_as(v), x, 0.1, 3, generator=seeded()).raw.max() == 0
    more = max_sensitivity(lambda v: w * v, x, 0.1, 80, generator=seeded())
    assert (more.raw >= found.raw).all()  # a maximum over the same draws and further ones


# --- captum ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("product", ["scaled", "raw"])
@pytest.mark.parametrize("rescale", [False, True])
def test_infidelity_is_captums(world, product, rescale):
    captum_metrics = pytest.importorskip("captum.metrics")
    f, A, x = world
    A, x, samples = (A * (x > 0)).double(), x.double(), 7
    f = score(f.model.double(), f.target)
    try:
        drawn = probes(f, x, torch.zeros_like(x), 0.2, samples, generator=seeded())

        def perturb(inputs):
            xi = drawn.xi.transpose(0, 1).flatten(0, 1)
            slope = torch.where(inputs != 0, xi / inputs, 0) if product == "scaled" else xi
            return slope, inputs - xi

        rows = torch.arange(len(x)).repeat_interleave(samples)

        def forward(v):
            return f(v, rows=rows if len(v) > len(x) else None)

        theirs = captum_metrics.infidelity(
            forward, perturb, x, A, n_perturb_samples=samples, normalize=rescale
        )
        assert (infidelity(A, drawn, product, rescale) / theirs - 1).abs().max() < 1e-6
    finally:
        f.model.float()


def test_infidelity_scaled_is_captums_own_convention(world):
    metrics = pytest.importorskip("captum.metrics")
    w, x = randn(40), rand(3, 40, seed=1) + 0.1
    f, A = (lambda v: (v @ w).tanh()), randn(3, 40, seed=2)
    drawn = probes(f, x, torch.full_like(x, 0.05), 0.2, 6, generator=seeded())
    perturb = metrics.infidelity_perturb_func_decorator(True)(
        lambda inputs, baselines: inputs - drawn.xi.transpose(0, 1).flatten(0, 1)
    )
    theirs = metrics.infidelity(
        f, perturb, x, A, baselines=torch.full_like(x, 0.05), n_perturb_samples=6
    )
    assert torch.allclose(infidelity(A, drawn), theirs, rtol=1e-6)


def test_max_sensitivity_is_captums():
    metrics = pytest.importorskip("captum.metrics")
    x, attribute = rand(4, 1, 6, 6), lambda v: v.sin() * v
    draw, radius = seeded(3), 0.1
    deltas = [
        radius * (2 * torch.rand(x.shape, generator=draw, dtype=x.dtype) - 1) for _ in range(5)
    ]

    def first(v):
        # as captum's own methods answer
        return (attribute(v[0]),) if isinstance(v, tuple) else attribute(v)

    theirs = metrics.sensitivity_max(
        first, x, lambda v: v + torch.stack(deltas, 1).flatten(0, 1), n_perturb_samples=5
    )
    ours = max_sensitivity(attribute, x, radius, 5, generator=seeded(3))
    assert torch.allclose(ours.relative, theirs, rtol=1e-9)
    assert torch.allclose(ours.raw, theirs * attribute(x).flatten(1).norm(dim=1), rtol=1e-9)


# --- rows, chunks, ranks, fills -------------------------------------------------------------------


@pytest.mark.parametrize("how", ["fixed", "kept", "shuffled", "hard"])
def test_removal_does_not_depend_on_the_chunks(world, how):
    f, A, x = world
    fill = {"kept": kept_mean, "shuffled": shuffled(x, seeded())}.get(how, 0.1)
    measure = "accuracy" if how == "hard" else "confidence"
    whole = removal(f, A, x, fill, 7, measure=measure, generator=seeded(5))
    parts = removal(f, A, x, fill, 7, measure=measure, generator=seeded(5), batch=3)
    for a, b in zip(whole, parts):
        assert torch.allclose(a.double(), b.double(), atol=1e-5)


def test_rows_do_not_see_each_other(world):
    f, A, x = world
    whole = diffid(f, A, x, 0.1, levels=5)
    alone = torch.cat(
        [
            diffid(score(f.model, f.target[i : i + 1]), A[i : i + 1], x[i : i + 1], 0.1, levels=5)
            for i in range(len(x))
        ]
    )
    assert torch.allclose(whole, alone, atol=1e-5)


def test_probes_do_not_depend_on_the_chunks(world):
    f, _, x = world
    a, b = (
        probes(f, x, torch.zeros_like(x), samples=3, generator=seeded(), batch=batch)
        for batch in (None, 5)
    )
    assert torch.equal(a.xi, b.xi) and torch.allclose(a.drop, b.drop, atol=1e-5)


def test_passes_are_not_wasted(world):
    f, A, x = world
    seen = []
    hook = f.model.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    removal(f, A, x, 0.1, levels=21, check=False)
    hook.remove()
    assert sum(seen) == 40 * len(x)  # two sides of 19 shares, and both ends once


def test_masks_and_fill_live_in_the_preprocessed_space():
    """Red is removed as a pixel or as a channel value; the fill is what the network sees there,
    not what preprocessing makes of it."""
    w = torch.tensor([5.0, 1.0, 1.0])
    model, preprocess = (
        (lambda z: torch.stack([(z * w[:, None, None]).flatten(1).sum(1), 0 * z[:, 0, 0, 0]], 1)),
        lambda x: (x - 0.5) / 0.25,
    )
    f = score(model, lambda out: out[:, 0], preprocess=preprocess)
    x = torch.full((1, 3, 1, 2), 0.75)
    A = torch.tensor([[[[4.0, 0.0]], [[0.0, 3.0]], [[0.0, 3.0]]]])
    per_pixel = removal(f, A, x, 0.0, [0.5])
    per_channel = removal(f, A, x, 0.0, [1 / 6], per="channel")
    assert per_pixel.deleted.item() == pytest.approx(7 / 14)
    assert per_channel.deleted.item() == pytest.approx(9 / 14)
    assert removal(f, A, x, torch.tensor([1.0, 1.0, 1.0]), [0.5]).deleted.item() == pytest.approx(
        1.0
    )


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6))
def test_ranks_are_permutations_and_ties_are_drawn_fairly(seed):
    A = torch.randint(-2, 3, (3, 2, 2, 3), generator=seeded(seed)).double()
    for per in ("pixel", "channel"):
        for generator in (None, seeded(seed)):
            places = ranks(A, per, generator).flatten(1)
            key = (A.abs().sum(1) if per == "pixel" else A.abs()).flatten(1)
            assert torch.equal(
                places.sort(dim=1).values, torch.arange(places.shape[1]).expand_as(places)
            )
            assert (key.gather(1, places.argsort(dim=1)).diff(dim=1) <= 0).all()
    first = (
        torch.stack(
            [ranks(torch.zeros(400, 4), generator=seeded(seed))[:, i] == 0 for i in range(4)]
        )
        .double()
        .mean(1)
    )
    assert (first - 0.25).abs().max() < 0.12


def test_fills():
    x = torch.rand(5, 3, 4, 4, generator=seeded())
    assert torch.allclose(channel_mean(x, lambda v: 2 * v), 2 * x.mean((0, 2, 3)))
    shown = torch.zeros(5, 1, 4, 4, dtype=torch.bool)
    assert kept_mean(x, shown).abs().max() == 0
    assert torch.allclose(kept_mean(x, ~shown).flatten(), x.mean((1, 2, 3)))
    mixed = shuffled(x, seeded())
    assert not torch.equal(mixed, x)
    assert torch.allclose(mixed.flatten(2).sort(dim=2).values, x.flatten(2).sort(dim=2).values)
    # pixels stay whole
    assert torch.allclose(
        mixed.sum(1).flatten(1).sort(dim=1).values, x.sum(1).flatten(1).sort(dim=1).values
    )


def test_completeness_residual_is_against_the_raw_ends(world):
    f, _, x = world
    x, f = x[:2], score(f.model, f.target[:2])
    x0 = torch.zeros_like(x)
    A, gap, _ = path_attribution(f, straight_path(x0, x, 20))
    assert torch.allclose(completeness_residual(f, A, x, x0), gap.abs(), atol=1e-5)
    assert torch.allclose(
        completeness_residual(f, 0 * A, x, x0, batch=1), (f(x) - f(x0)).abs(), atol=1e-5
    )


# --- bad input ------------------------------------------------------------------------------------


def test_bad_input_is_named(world):
    f, A, x = world
    x0 = torch.zeros_like(x)
    bad = {
        "must be a map like x": lambda: diffid(f, A[:4], x, 0.0),
        "`A` must be finite": lambda: diffid(f, A * torch.nan, x, 0.0),
        "`x` must be finite": lambda: diffid(f, A, x * torch.nan, 0.0),
        "must hold images in": lambda: diffid(f, A, 255 * x, 0.0),
        "one class per row": lambda: diffid(score(f.model, [1, 2, 3]), A, x, 0.0),
        "target must be in 0…9": lambda: diffid(score(f.model, 10), A, x, 0.0),
        "`fill` must be finite": lambda: diffid(f, A, x, torch.nan),
        "`fill` must be a number": lambda: diffid(f, A, x, torch.zeros(3)),
        "levels must be at least 2": lambda: diffid(f, A, x, 0.0, levels=1),
        "shares in": lambda: diffid(f, A, x, 0.0, levels=[0.5, 1.5]),
        "per must be one of": lambda: diffid(f, A, x, 0.0, per="row"),
        "measure must be one of": lambda: diffid(f, A, x, 0.0, measure="log"),
        "needs to see every class": lambda: diffid(
            lambda v: v.flatten(1).sum(1), A, x, 0.0, measure="accuracy"
        ),
        "needs a class": lambda: diffid(
            score(f.model, lambda out: out[:, 0]), A, x, 0.0, measure="accuracy"
        ),
        "must be positive at x": lambda: diffid(lambda v: -v.flatten(1).sum(1), A, x, 0.0),
        "keep the pixels in place": lambda: diffid(
            score(f.model, 1, preprocess=lambda v: v[..., :16]), A, x, 0.0
        ),
        "`x0` must have the shape": lambda: probes(f, x, x0[:1], generator=seeded()),
        "law must be one of": lambda: probes(f, x, x0, law="uniform", generator=seeded()),
        "sigma must be above 0": lambda: probes(f, x, x0, 0.0, generator=seeded()),
        "samples must be at least 1": lambda: max_sensitivity(
            lambda v: v, x, samples=0, generator=seeded()
        ),
        "radius must be above 0": lambda: max_sensitivity(lambda v: v, x, -0.1, generator=seeded()),
        "product must be one of": lambda: infidelity(
            A, probes(f, x, x0, samples=1, generator=seeded()), "cosine"
        ),
    }
    for message, call in bad.items():
        with pytest.raises(ValueError, match=message):
            call()


def test_a_model_in_train_mode_is_named(world):
    f, A, x = world
    f.model.train()
    try:
        with pytest.raises(ValueError, match="eval mode"):
            diffid(f, A, x, 0.0)
    finally:
        f.model.eval()


def test_a_map_of_zeros_and_an_input_at_its_baseline_are_judged_without_nan(world):
    f, _, x = world
    zero = torch.zeros_like(x)
    assert removal(f, zero, x, 0.1, 5).diffid.isfinite().all()
    drawn = probes(f, x, x, samples=2, generator=seeded())  # x = x0
    for product in ("scaled", "raw"):
        for rescale in (False, True):
            assert infidelity(zero, drawn, product, rescale).isfinite().all()
    assert max_sensitivity(lambda v: 0 * v, x, samples=2, generator=seeded()).relative.max() == 0
    assert completeness_residual(f, zero, x, x).max() == 0


def test_out_of_memory_halves_the_chunks(world):
    f, A, x = world
    want = diffid(f, A, x, 0.1, levels=5)

    def small(v, rows):
        if len(v) > 4:
            raise torch.OutOfMemoryError("no more than four")
        return f(v, rows=rows)

    with pytest.warns(UserWarning, match="Out of memory"):
        found = diffid(small, A, x, 0.1, levels=5)
    assert torch.allclose(found, want, atol=1e-5)


def test_nothing_warns_on_the_ordinary_way(world):
    f, A, x = world
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        removal(f, A, x, kept_mean, 3)
        infidelity(A, probes(f, x, torch.zeros_like(x), samples=2, generator=seeded()))
