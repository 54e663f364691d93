"""Claims are set before testing, and outcomes follow the numbers."""

import csv
import json
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from helpers import ROOT, SHARED, seeded
from hypothesis import given
from hypothesis import strategies as st

from manifold_xai.course import chapter as course
from manifold_xai.course.chapter import (
    Estimate,
    begin,
    bootstrap,
    claims,
    exact,
    record,
)
from manifold_xai.course.forest import plot_claim
from manifold_xai.course.notebooks import chapters, read
from manifold_xai.course.outcomes import answer
from manifold_xai.files import profiles, repository, requirements


def estimate(low, high, n=1000):
    return Estimate((low + high) / 2, low, high, n)


@pytest.fixture
def run(tmp_path):
    yield begin("smoke", out=tmp_path)
    course._run = None


# The table of claims


def test_every_claim_says_what_is_measured_and_when_it_holds():
    assert len(claims()) == 91
    for claim in claims().values():
        assert claim["direction"] in ("above", "below", "equal")
        assert re.fullmatch(r"all|each|share 0\.\d+", claim["aggregate"])
        assert claim["quantity"] and claim["paper_value"] and int(claim["n_min"]) >= 1
        float(claim["threshold"])
        assert (
            (float(claim["tolerance"]) >= 0)
            if claim["direction"] == "equal"
            else not claim["tolerance"]
        )


def test_the_claims_are_the_papers():
    source = SHARED / "papers" / "claims.csv"
    if not source.exists():
        pytest.skip("the list of claims extracted from the papers is not on this machine")
    with source.open(encoding="utf8", newline="") as table:
        theirs = {
            row["id"]: (row["paper"], row["where"], row["claim"]) for row in csv.DictReader(table)
        }
    assert {name: (c["paper"], c["where"], c["claim"]) for name, c in claims().items()} == theirs


def test_no_claim_is_recorded_twice_in_the_course():
    cells = [cell for path in chapters(ROOT) for cell in read(path)["cells"]]
    code = [cell["source"] for cell in cells if cell["cell_type"] == "code"]
    recorded = [name for source in code for name in re.findall(r'\brecord\(\s*"([^"]+)"', source)]
    assert len(recorded) == len(set(recorded)) >= 87
    assert set(recorded) <= set(claims())


# Outcomes

RULES = [  # claim, its rule, intervals, outcome
    ("MIG-21", "above 0, each", [(0.1, 0.2)], "supported"),
    ("MIG-21", "above 0, each", [(0.0, 0.2)], "undecided"),  # touching the bar decides nothing
    ("MIG-21", "above 0, each", [(-0.2, -0.1)], "contradicted"),
    ("MIG-21", "above 0, each", [(0.0, 0.0)], "contradicted"),  # exactly on the bar: not above it
    ("MIG-21", "above 0, each", [(0.1, 0.2), (-0.2, -0.1)], "split"),
    ("MIG-21", "above 0, each", [(0.1, 0.2), (-0.1, 0.2)], "undecided"),
    ("MAGIG-08", "above 0, all", [(0.1, 0.2), (0.3, 0.4)], "supported"),
    ("MAGIG-08", "above 0, all", [(0.1, 0.2), (-0.1, 0.2)], "undecided"),
    ("MAGIG-08", "above 0, all", [(0.1, 0.2), (-0.2, -0.1)], "contradicted"),
    ("BORDT-07", "above 0, share 0.9", [(0.1, 0.2)] * 9 + [(-0.2, -0.1)], "supported"),
    ("BORDT-07", "above 0, share 0.9", [(0.1, 0.2)] * 8 + [(-0.2, -0.1)] * 2, "contradicted"),
    ("BORDT-07", "above 0, share 0.9", [(-0.1, 0.2)] * 10, "undecided"),
    ("MIG-15", "above 0, exists", [(-0.2, -0.1), (0.1, 0.2)], "supported"),
    ("MIG-15", "above 0, exists", [(-0.2, -0.1), (0.01, 0.2)], "undecided"),  # one of two: luck
    ("MIG-15", "above 0, exists", [(-0.2, -0.1)] * 2, "undecided"),  # not found is not refuted
    ("MIG-17", "above 0, all", [(0.01, 0.1), (0.01, 0.2)], "undecided"),  # wider than the paper's
    ("MIG-06", "below 0.001, all", [(1e-9, 1e-9)], "supported"),
    ("MIG-06", "below 0.001, all", [(2.0, 2.0)], "contradicted"),
    ("MAGIG-09", "equal 0 ± 0, all", [(0.0, 0.0)], "supported"),
    ("MAGIG-09", "equal 0 ± 0, all", [(1e-12, 1e-12)], "contradicted"),
    ("MAGIG-05", "equal 1 ± 0.1, each", [(0.95, 1.05)], "supported"),
    ("MAGIG-05", "equal 1 ± 0.1, each", [(0.95, 1.15)], "undecided"),
    ("MAGIG-05", "equal 1 ± 0.1, each", [(0.95, 1.05), (1.2, 1.3)], "split"),
    ("BORDT-06", "equal 0.31 ± 0.05, each", [(0.5, 0.6)], "undecided"),  # a number of the paper's
    ("MAGIG-30", "equal 0 ± 0.02, each", [(0.001, 0.002)], "undecided"),  # its bar tells nothing
]


@pytest.mark.parametrize("claim, rule, intervals, expected", RULES)
def test_outcome_follows_the_rule_set_beforehand(claim, rule, intervals, expected):
    c = claims()[claim]
    band = f" ± {c['tolerance']}" if c["tolerance"] else ""
    side = f"{c['direction']} {c['threshold']}{band}"
    # else this table tests another rule than it says
    assert f"{side}, {c['rule'] or c['aggregate']}" == rule
    measured = {str(i): estimate(*ends) for i, ends in enumerate(intervals)}
    assert answer(claim, measured).outcome == expected


def test_an_interval_too_wide_for_the_papers_effect_says_why_it_decides_nothing():
    narrow, wide, open_one = estimate(0.1, 0.2), estimate(0.01, 0.2), estimate(-0.1, 0.2)
    why = answer("MIG-17", {"a": narrow, "b": wide, "c": open_one, "d": estimate(-0.2, -0.01)}).why
    assert "2 of 4 intervals leave out the bar (1 above 0, 1 the other way)" in why
    assert "the effect that the paper reports, 0.17" in why
    assert "leave out" not in answer("MIG-17", {"a": narrow, "c": open_one}).why
    assert "leave out" not in answer("MIG-21", {"b": wide, "c": open_one}).why  # states no effect


def test_too_few_images_are_shown_and_do_not_count():
    few, many = estimate(-0.2, -0.1, n=8), estimate(0.1, 0.2, n=100)
    assert answer("MIG-21", {"few": few}).outcome == "undecided"
    assert "n = 8 is below the 100" in answer("MIG-21", {"few": few}).why
    both = answer("MIG-21", {"few": few, "many": many})
    assert both.outcome == "supported" and "few" in repr(both)


@given(
    st.lists(st.tuples(st.floats(-1, 1), st.floats(0, 1)), min_size=1, max_size=5),
    st.floats(2.01, 3),
)
def test_better_results_never_make_a_worse_outcome(ends, gain):
    lifted = {str(i): estimate(a + gain, a + b + gain) for i, (a, b) in enumerate(ends)}
    assert answer("MIG-21", lifted).outcome == "supported"


def test_another_result_another_outcome_in_the_ledger(run, monkeypatch):
    monkeypatch.setenv("MANIFOLD_XAI_CHAPTER", "12_autoencoders")
    differences = torch.rand(100, generator=run.generator())
    entries = []
    for sign in (1, -1):
        v = record(
            "MIG-21",
            {"digits": bootstrap(sign * differences, run.generator(1))},
            paper_value="none",
        )
        entries.append(json.loads((run.out / "claims" / "MIG-21.json").read_text(encoding="utf8")))
        assert entries[-1]["outcome"] == v.outcome
        measured = {k: Estimate(**e) for k, e in entries[-1]["conditions"].items()}
        assert answer("MIG-21", measured).outcome == v.outcome
    assert [e["outcome"] for e in entries] == ["supported", "contradicted"]
    assert {
        k: entries[0][k]
        for k in ("claim", "chapter", "profile", "device", "seed", "n", "paper_value")
    } == {
        "claim": "MIG-21",
        "chapter": "12_autoencoders",
        "profile": "smoke",
        "device": "cpu",
        "seed": 0,
        "n": 100,
        "paper_value": "none",
    }


@pytest.mark.parametrize(
    "claim, conditions, message",
    [
        ("MIG-99", {"a": exact(0)}, "'MIG-99'"),
        ("MIG-21", {}, "none given"),
        ("MIG-21", {"digits": Estimate(float("nan"), 0, 1, 100)}, "wrong: digits"),
        ("MIG-21", {"digits": estimate(1, 0)}, "wrong: digits"),
        ("MIG-21", {"digits": Estimate(2.0, 0.0, 1.0, 100)}, "wrong: digits"),
        ("MIG-21", {"digits": Estimate(0.5, 0.0, 1.0, -5)}, "wrong: digits"),
    ],
)
def test_what_is_no_result_is_refused_and_leaves_nothing(run, claim, conditions, message):
    with pytest.raises(ValueError, match=message):
        record(claim, conditions)
    assert not (run.out / "claims").exists()


def test_record_needs_a_run():
    with pytest.raises(RuntimeError, match="begin"):
        record("MIG-21", {"digits": exact(1.0, 100)})


# Estimates


def test_bootstrap_agrees_with_scipy():
    from scipy import stats

    x = torch.randn(60, generator=seeded(0)).double().exp()
    ours = bootstrap(x, seeded(1), draws=4000)
    theirs = stats.bootstrap(
        (x.numpy(),), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.value == pytest.approx(x.mean().item(), abs=1e-12) and ours.n == 60
    # an end of a percentile interval of 4000 draws has a standard error of about 2 % of the width;
    # two of them, three times
    assert ours.low == pytest.approx(theirs.low, abs=0.09 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.09 * width)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    generator = seeded(0)
    samples = torch.randn(200, 40, generator=generator)
    found = [bootstrap(x, generator, draws=200) for x in samples]
    share = sum(e.low <= 0 <= e.high for e in found) / 200
    assert 0.87 < share < 0.99  # 0.93 expected at n = 40, three standard errors of 0.018 each way


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=20), st.floats(-5, 5))
def test_bootstrap_moves_with_the_data(values, shift):
    x = torch.tensor(values, dtype=torch.float64)
    a, b = (bootstrap(v, seeded(0), draws=20) for v in (x, x + shift))
    assert b[:3] == pytest.approx([v + shift for v in a[:3]], abs=1e-9)
    assert min(values) - 1e-9 <= a.low <= a.high <= max(values) + 1e-9


def test_bootstrap_of_another_statistic():
    x = torch.randn(100, 2, generator=seeded(0))
    x[:, 1] += 3 * x[:, 0]
    e = bootstrap(x, seeded(1), draws=200, statistic=lambda v: torch.corrcoef(v.T)[0, 1])
    assert 0.9 < e.low < e.value < e.high < 1


@pytest.mark.parametrize("values", [[], [1.0], [1.0, float("nan")], [1.0, float("inf")]])
def test_bootstrap_refuses_what_has_no_interval(values):
    with pytest.raises(ValueError, match="two finite rows"):
        bootstrap(torch.tensor(values), torch.Generator())


# Runs


def test_profiles_and_requirements_come_from_settings():
    assert set(profiles(ROOT)) == {"smoke", "cpu", "gpu", "evidence"}
    assert any(need.startswith("torch>=") for need in requirements(ROOT)["core"])
    assert "course" in requirements(ROOT)


def test_begin_seeds_and_finds_its_places(tmp_path):
    a = begin("smoke", seed=3, out=tmp_path / "out", data_root=tmp_path, retrain=True)
    first = torch.rand(2)
    begin("smoke", seed=3, out=tmp_path / "out")
    assert torch.equal(first, torch.rand(2)) and a.generator(2).initial_seed() == 5
    assert a.out.is_dir() and a.data_root == tmp_path and a.retrain == tmp_path / "out" / "weights"
    assert [a._replace(profile=p).pick(1, 2) for p in ("smoke", "cpu", "gpu", "evidence")] == [
        1,
        2,
        2,
        2,
    ]
    assert [a._replace(profile=p).pick(1, 2, 3) for p in ("smoke", "cpu", "gpu", "evidence")] == [
        1,
        2,
        3,
        2,
    ]
    assert [
        a._replace(profile=p).pick(1, 2, 3, 4) for p in ("smoke", "cpu", "gpu", "evidence")
    ] == [1, 2, 3, 4]
    course._run = None


def test_only_the_gpu_profile_asks_for_whole_data_sets_and_the_papers_network(tmp_path):
    spend = dict(device="cpu", out=tmp_path, data_root=tmp_path)
    small, large = (begin(profile, **spend) for profile in ("cpu", "gpu"))
    assert (small.full, large.full) == (False, True)
    assert small.network == large.network == "efficientnet_lite0"
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "resnet18-f37072fd.pth").touch()
    assert (small.network, large.network) == ("efficientnet_lite0", "resnet18")
    course._run = None


def test_no_profile_rounds_products_unless_settings_say_so(tmp_path, monkeypatch):
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    for profile, said in (("gpu", "high"), ("gpu", "highest")):
        spend = profiles(ROOT) | {"gpu": profiles(ROOT)["gpu"] | {"precision": said}}
        monkeypatch.setattr(course, "profiles", lambda: spend)
        begin(profile, device="cpu", out=tmp_path)
        assert torch.get_float32_matmul_precision() == said
        assert torch.backends.cudnn.allow_tf32 == (said == "high")
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]
    course._run = None


def test_without_a_folder_results_go_where_the_runner_puts_them(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("manifold_xai.files.writable", lambda folder: False)
    assert begin("smoke").out == tmp_path / "manifold_xai" / "_out" / "smoke"


def test_images_of_a_chapter_are_told_under_either_name(run):
    for tell in (run.record_images, run.rest_on):
        tell(torch.tensor([3, 1]))
        record("MIG-06", {"a": exact(0.0)})
        assert json.loads((run.out / "claims" / "MIG-06.json").read_text())["rows"] == [3, 1]


def test_an_interval_holds_its_own_value():
    """A maximum of resamples leans to the low side: that of all may lie above every one of them."""
    values = torch.arange(1000.0)
    e = bootstrap(values, torch.Generator().manual_seed(0), 5, lambda x: x.max())
    assert e.low <= e.value == e.high == 999


def test_unknown_profile_and_no_clone(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="smoke, cpu, gpu, evidence, got 'huge'"):
        begin("huge")
    monkeypatch.delenv("MANIFOLD_XAI_ROOT", raising=False)
    with pytest.raises(FileNotFoundError, match="--root"):
        repository(tmp_path)


def test_what_was_added_after_a_first_look_is_named_and_kept(run, monkeypatch):
    monkeypatch.setenv("MANIFOLD_XAI_CHAPTER", "12_autoencoders")
    run.rest_on(torch.tensor([7, 3]))
    conditions = {"set first": estimate(0.1, 0.2), "added": estimate(-0.2, -0.1)}
    v = record("MIG-21", conditions, later=["added"])
    entry = json.loads((run.out / "claims" / "MIG-21.json").read_text(encoding="utf8"))
    assert v.outcome == "supported"
    assert v.why.endswith("added later: the other way for added")
    assert (entry["later"], entry["rows"]) == (["added"], [7, 3])
    for later in (["unknown"], list(conditions)):
        with pytest.raises(ValueError, match="some of the conditions and not all"):
            answer("MIG-21", conditions, later=later)


def test_a_page_draws_what_it_has_recorded(run):
    conditions = {"a": estimate(0.1, 0.2), "b": estimate(-0.4, 0.3), "late": estimate(0.5, 0.6)}
    few = {"few": estimate(0.1, 0.2, n=2)}
    record("MIG-21", conditions | few, later=["late"])
    ax = plot_claim("MIG-21")
    assert [t.get_text() for t in ax.get_yticklabels()] == [*conditions, *few]
    named = {t.get_text() for t in ax.figure.legends[0].get_texts()}
    assert named == {"set beforehand", "added later", "fails a gate, or too few images"}
    drawn = [line.get_xdata() for line in ax.lines if line.get_marker() == "o"]
    assert np.allclose(np.concatenate(drawn), [0.15, -0.05, 0.55])
    assert ax.get_xscale() == "linear" and "logarithmic" not in ax.get_xlabel()
    plt.close(ax.figure)
    record("MIG-21", conditions | {"far": estimate(29.0, 31.0)}, later=["late"])
    ax = plot_claim("MIG-21")
    assert ax.get_xscale() == "symlog" and ax.get_xlabel().endswith("(logarithmic beyond ±0.1)")
    plt.close(ax.figure)
    with pytest.raises(ValueError, match=r"MIG-22 has no answer yet: call record\('MIG-22', …\)"):
        plot_claim("MIG-22")


def test_a_key_is_of_the_running_chapter_wherever_it_lies_and_of_its_settings(run, monkeypatch):
    monkeypatch.setenv("MANIFOLD_XAI_ROOT", str(ROOT))
    monkeypatch.setenv("MANIFOLD_XAI_CHAPTER", "20_metric")
    here = course.run_key(run)
    assert set(here) == {"code", "data", "settings"}
    more = course.run_key(run._replace(steps=run.steps + 1))
    assert {part for part in here if here[part] != more[part]} == {"settings"}
    monkeypatch.setenv("MANIFOLD_XAI_CHAPTER", "library/course/chapter")
    assert course.run_key(run)["code"] != here["code"]
    monkeypatch.setenv("MANIFOLD_XAI_CHAPTER", "no_such_chapter")
    assert set(course.run_key(run)) == {"settings"}


@pytest.mark.parametrize(
    "session, name",
    [
        ("/home/me/course/nbs/evidence/40_x.ipynb", "evidence/40_x"),
        ("nbs/20_metric.ipynb", "20_metric"),
        ("20_metric.ipynb", "20_metric"),
        ("", ""),
    ],
)
def test_a_chapter_is_called_by_its_path_below_nbs(monkeypatch, session, name):
    monkeypatch.delenv("MANIFOLD_XAI_CHAPTER", raising=False)
    monkeypatch.setenv("JPY_SESSION_NAME", session)
    assert course.chapter() == name
    monkeypatch.setenv("MANIFOLD_XAI_CHAPTER", "evidence/41_y")
    assert course.chapter() == "evidence/41_y"
