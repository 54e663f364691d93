"""The stored results on photographs: complete, made with the script's own settings,
and what the outcomes really rest on."""

import json
from argparse import Namespace

import pytest
import torch
from helpers import BENCHMARKS, benchmark, seeded

from manifold_xai.course.chapter import bootstrap
from manifold_xai.course.outcomes import answer

OURS = ("diffid", "insertion", "deletion")


@pytest.fixture
def script(monkeypatch):
    """benchmarks/photographs.py as a module; it imports its neighbours."""
    return benchmark("photographs", monkeypatch)


@pytest.fixture
def stored():
    return json.loads((BENCHMARKS / "results" / "photographs.json").read_text(encoding="utf8"))


def test_the_stored_photographs_are_whole(stored, script):
    n = len(stored["rows"])
    assert n >= 100
    assert len(set(stored["rows"])) == n == len(stored["labels"]) == len(stored["predicted"])
    assert {
        "IG",
        "GIG",
        "Settled IG",
        "EIG",
        "MIG",
        "MA-GIG",
        "Settled MA-GIG",
        "IG2",
        "AGI",
        "Grad-CAM",
        "mask",
        "random",
        "intensity",
    } <= set(stored["variants"])
    assert {
        "random tangent",
        "BlurIG",
        "IG on the reconstruction",
        "IG, 20 steps",
        "GIG, random order",
        "EIG, anchored",
        "MA-GIG, random order",
    } <= set(stored["variants"])
    for name, row in stored["variants"].items():
        found = {key: torch.tensor(values, dtype=torch.float64) for key, values in row.items()}
        assert all(len(v) == n and v.isfinite().all() for v in found.values()), name
        # each is rounded to 4 digits
        assert (found["diffid"] - found["insertion"] + found["deletion"]).abs().max() < 2e-4, name
        assert all(
            0 <= found[key].min() and found[key].max() <= 1
            for key in ("insertion", "deletion", "hard_insertion")
        ), name
        # counts over nine shares
        assert (
            9 * found["hard_insertion"] - (9 * found["hard_insertion"]).round()
        ).abs().max() < 1e-3, name


def test_the_settings_are_the_scripts(stored, script):
    words = stored["command"].split()
    said = {option[2:]: int(value) for option, value in zip(words[2::2], words[3::2])}
    assert said["photographs"] == len(stored["rows"])
    assert stored["settings"] == script.settings(
        Namespace(steps=said["steps"], batch=stored["settings"]["batch"])
    )


def test_a_changed_photograph_changes_the_outcome(stored):
    def says(row):
        gap = torch.tensor(row, dtype=torch.float64) - torch.tensor(
            stored["variants"]["MA-GIG"]["insertion"], dtype=torch.float64
        )
        return answer("MAGIG-35", {"Grad-CAM": bootstrap(gap, seeded(43))})

    row = stored["variants"]["Grad-CAM"]["insertion"]
    before, raised, lowered = says(row), says([1.0] * len(row)), says([0.0] * len(row))
    assert before.outcome != "not tested"
    assert (raised.outcome, lowered.outcome) == ("supported", "contradicted")
    # a single photograph moves the number by its share
    one = says([1 - row[0], *row[1:]]).conditions["Grad-CAM"].measured
    assert one.value - before.conditions["Grad-CAM"].measured.value == pytest.approx(
        (1 - 2 * row[0]) / len(row)
    )


def test_the_mask_keeps_what_the_score_looks_at(script):
    def quarter(x):  # the score is the brightness of the upper left quarter
        return x[:, :, :8, :8].mean((1, 2, 3))

    m = script.optimised_mask(quarter, torch.ones(2, 3, 16, 16), torch.zeros(1, 3, 1, 1), cells=4)
    assert m.shape == (2, 3, 16, 16) and torch.equal(m[:, :1].expand_as(m), m)
    # an edge is blurred by the grid of cells
    assert m[:, :, :8, :8].min() > max(m[:, :, 10:].max(), m[:, :, :, 10:].max())


def test_grad_cam_is_the_weighted_sum_of_the_last_maps(script):
    """One map per class: the class's own weight times its map,
    so the largest value lies where that map is bright."""

    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self._avg_pooling, self.look = torch.nn.AdaptiveAvgPool2d(1), torch.nn.AvgPool2d(4)

        def forward(self, x):
            return self._avg_pooling(self.look(x)).flatten(1)[:, :2]

    x = torch.zeros(2, 3, 16, 16)
    x[:, 0, :4, :4], x[:, 1, 12:, 12:] = 1, 1
    A = script.grad_cam((Two().eval(), None), x, torch.tensor([0, 1]))
    assert A.shape == x.shape and A.min() == 0
    assert A[0, 0, 0, 0] == A[0].max() > A[0, 0, 15, 15]
    assert A[1, 0, 15, 15] == A[1].max() > A[1, 0, 0, 0]
