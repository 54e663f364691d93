"""The widgets without a browser: a changed state changes the picture, and the text stays true."""

import json
import math
import re
from base64 import b64decode
from io import BytesIO

import numpy as np
import pytest
import torch
from helpers import ROOT
from PIL import Image

from manifold_xai import digit_vae, path_attribution, score, straight_path
from manifold_xai.course.widgets.ab import ABStudy, Pair, read_answers
from manifold_xai.course.widgets.attack import AttackSlider
from manifold_xai.course.widgets.ellipses import MetricEllipses
from manifold_xai.course.widgets.explorer import PathExplorer
from manifold_xai.course.widgets.keys import Keys
from manifold_xai.course.widgets.plane import latent_plane
from manifold_xai.course.widgets.playground import GeodesicPlayground
from manifold_xai.geometry.metric import path_length, pullback_metric


def seen(png: bytes) -> np.ndarray:
    """The pixels of a picture."""
    return np.asarray(Image.open(BytesIO(png)).convert("RGB")).astype(int)


@pytest.fixture(scope="module")
def vae():
    return digit_vae("silu")


@pytest.fixture(scope="module")
def digit(held_out):
    return {str(k): held_out.x[held_out.y == k][:1] for k in (3, 8)}


@pytest.fixture
def explorer(smooth, vae, digit):
    return PathExplorer(smooth, vae, digit, steps=6)


def test_the_explorer_shows_the_chosen_step(explorer, smooth, digit):
    x = digit["3"]
    f = score(smooth).at(x)
    A = path_attribution(f, straight_path(torch.zeros_like(x), x, 6))
    before = seen(explorer.picture.value)
    explorer.step.value = 6
    assert (seen(explorer.picture.value) != before).any()
    np.testing.assert_allclose(explorer.images["map"].get_array(), A.A[0, 0], atol=1e-6)
    np.testing.assert_allclose(explorer.images["frame"].get_array(), x[0, 0], atol=1e-6)
    assert f"the score is {f(x).item():.3f}" in explorer.words.value
    assert f"gap {A.gap.item():+.3f}" in explorer.words.value
    explorer.step.value = 0
    assert not explorer.images["map"].get_array().any()


def test_a_move_draws_what_a_new_figure_would(explorer):
    """Blitting is a short cut: the same pixels."""
    explorer.step.value = 5
    short = seen(explorer.picture.value)
    explorer.picture.render()
    assert (seen(explorer.picture.value) == short).all()


def test_another_method_baseline_digit_or_fraction_is_another_path(explorer):
    pictures = [explorer.picture.value]
    for control, value in (
        ("method", "GIG"),
        ("fraction", 0.5),
        ("baseline", "white"),
        ("digit", "8"),
        ("method", "MA-GIG"),
        ("method", "MIG"),
    ):
        getattr(explorer, control).value = value
        pictures.append(explorer.picture.value)
        assert "did not work" not in explorer.words.value, explorer.words.value
    assert len(set(pictures)) == 7
    assert explorer.fraction.disabled and not explorer.baseline.disabled
    asked = len(explorer.kept)
    explorer.method.value = "MA-GIG"
    assert len(explorer.kept) == asked  # kept, not walked again
    explorer.method.value = "BlurIG"
    assert explorer.baseline.disabled


def test_a_picture_has_no_tooltip(explorer):
    """The page reads the length of a tooltip's description, and a picture has none."""
    assert explorer.picture.tooltip is None and not explorer.picture.has_trait("description")


def test_what_goes_wrong_is_said_and_the_picture_stays(explorer):
    before = explorer.picture.value

    def broken(x):
        raise RuntimeError("the <decoder> is out of ink\nand more")

    explorer.baselines["black"] = explorer.baselines["white"] = broken
    explorer.baseline.value = "white"  # no exception reaches the user who moved it
    assert explorer.picture.value == before
    assert explorer.words.value.startswith("<b>This did not work.</b> the &lt;decoder&gt;")
    assert explorer.bar.layout.visibility == "hidden"


def test_where_no_kernel_runs_a_picture_stands_in(explorer):
    data = explorer._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in data
    assert b64decode(data["image/png"]) == explorer.picture.value
    assert data["text/plain"] == explorer.alt and "score is" in explorer.alt


def test_the_attack_slider_shows_attacks_within_their_radius(digit):
    from manifold_xai import digit_classifier

    model = digit_classifier("relu")
    attack = AttackSlider(model, digit, radii=(0.05, 0.2), iterations=3, points=3)
    before = attack.picture.value
    for i, eps in enumerate(attack.radii, 1):
        attack.radius.value = i
        moved = (attack.found[i].x - digit["3"]).abs().max().item()
        assert 0 < moved <= eps + 1e-6
        assert model(attack.found[i].x).argmax() == model(digit["3"]).argmax()
    assert attack.picture.value != before
    assert attack.found[0].to_own == pytest.approx(1, abs=1e-5)
    assert f"{attack.found[2].to_aim:.2f} with that of the 8" in attack.words.value
    attack.aim.value = "3"
    assert "the input&#x27;s own" in attack.words.value


@pytest.fixture(scope="module")
def plane(vae, digit):
    codes = vae.encode(torch.cat([0 * digit["3"], digit["3"], digit["8"]]))
    return latent_plane(vae.decode, codes), codes, ["black", "a 3", "an 8"]


def test_a_plane_leads_through_its_three_codes(plane, vae):
    where, codes, _ = plane
    torch.testing.assert_close(where.decode(where.corners), vae.decode(codes), rtol=0, atol=1e-4)
    assert where.corners.norm(dim=1).max() < where.reach
    with pytest.raises(ValueError, match="three codes"):
        latent_plane(vae.decode, codes[:2])


def test_the_ellipses_carry_the_metric_and_change_the_image_equally(plane):
    where, _, names = plane
    made = MetricEllipses(where, names, side=5, change=0.01)
    G = np.frombuffer(made.metric, np.float32).reshape(5, 5, 3)
    u = torch.tensor([[0.0, where.reach / 2]])  # row 2, column 3
    g = pullback_metric(where.decode, u)[0]
    np.testing.assert_allclose(G[2, 3], [g[0, 0], g[0, 1], g[1, 1]], rtol=1e-4)
    shown = np.frombuffer(made.images, np.uint8).reshape(5, 5, 32, 32)[2, 3]
    wanted = 255 * where.decode(u)[0, 0].detach().clamp(0, 1)
    assert np.abs(shown - wanted.numpy()).max() <= 1
    rim = made.ellipse(2, 3).T.float()
    change = (where.decode(rim) - where.decode(u)).flatten(1).norm(dim=1).detach()
    assert change.min() > 0.0085 and change.max() < 0.0115  # to first order
    before = seen(made.still())
    made.at = [2, 3]
    assert (seen(made.still()) != before).any()


def test_the_playground_solves_between_its_ends(plane):
    where, _, names = plane
    made = GeodesicPlayground(where, names, side=3, anchors=2, steps=6, after=(0, 1, 4))
    assert made.solved == json.dumps(made.ends, separators=(",", ":"))
    before = made.live
    made.ends = [[0.5, 0.5], [-0.5, 1]]
    path = torch.tensor(np.frombuffer(made.live, np.float32).reshape(3, 7, 2).copy())
    assert made.live != before and not made.trouble
    torch.testing.assert_close(path[:, [0, -1]], torch.tensor(made.ends).expand(3, 2, 2))
    L = [path_length(where.decode, gamma_z[:, None]).item() for gamma_z in path]
    assert L[2] < L[0]
    np.testing.assert_allclose(np.frombuffer(made.live_lengths, np.float32), L, rtol=1e-4)
    stored = np.frombuffer(made.paths, np.float32).reshape(6, 3, 7, 2)
    anchors = np.frombuffer(made.anchors, np.float32).reshape(4, 2)
    np.testing.assert_allclose(stored[1, 2, [0, -1]], anchors[[0, 2]], atol=1e-6)  # 01 02 …
    made.ends = [[math.nan, 0], [1, 1]]
    assert made.trouble and made.live  # said in words, not raised


def test_what_runs_in_the_page_is_in_the_package():
    """Each script whole: what its widget needs to draw, and to keep the keys."""
    for widget in (MetricEllipses, GeodesicPlayground, Keys):
        text = widget._esm
        assert text.rstrip().endswith("export default { render };")
        assert "function own(" in text and re.search(r"^  .*\bown\((el|panel)\);", text, re.M)
        assert widget is Keys or "function plane(" in text


def test_a_panel_keeps_the_keys_that_its_controls_want(explorer):
    """Notebook 7 would take them first: one hidden part of the panel sees to that."""
    assert sum(isinstance(child, Keys) for child in explorer.children[-1].children) == 1
    assert list((ROOT / "manifold_xai" / "assets").glob("widget_*.js"))


@pytest.fixture
def pairs(held_out):
    A = torch.linspace(-1, 1, 32).expand(32, 32)
    return {f"digit {i}": Pair(held_out.x[i], A, A.T * 2) for i in range(6)}


def test_the_study_keeps_every_answer_and_goes_on_where_it_stopped(pairs, tmp_path):
    file = tmp_path / "deep" / "answers.jsonl"
    study = ABStudy(pairs, file)
    assert study.buttons["left"].disabled
    study.subject.value = "Ada"
    first = [name for name, _ in study.left]
    for side in ("left", "right", "same"):
        before = study.picture.value
        study.buttons[side].click()
        assert study.picture.value != before
    kept = read_answers(file)
    swapped = dict(study.order("Ada"))
    assert [a["image"] for a in kept] == first[:3]
    assert kept[0]["chosen"] == ("B" if swapped[first[0]] else "A")
    assert kept[1]["chosen"] == ("A" if swapped[first[1]] else "B")
    assert kept[2]["chosen"] == ""
    with file.open("a") as cut:
        cut.write('{"subject": "Ada", "ima')  # the kernel died
    again = ABStudy(pairs, file)
    again.subject.value = "Ada"
    assert [name for name, _ in again.left] == first[3:]
    again.subject.value = "Bo"
    assert len(again.left) == 6
    assert again.result().answers == 3 and again.result().low == 0


def test_sides_and_order_differ_from_reader_to_reader(pairs, tmp_path):
    study = ABStudy(pairs, tmp_path / "a")
    orders = [study.order(f"reader {i}") for i in range(40)]
    assert len({tuple(order) for order in orders}) > 30
    left = np.mean([swapped for order in orders for _, swapped in order])
    assert 0.4 < left < 0.6  # 240 throws of a coin
