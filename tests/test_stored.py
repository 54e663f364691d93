"""Scores that were measured beforehand: differences, and the images that count."""

import hashlib
import json
import math

import pytest
import torch

from manifold_xai.benchmark.stored import (
    ADDS_UP,
    RIGHT,
    gates,
    stored_photographs,
    stored_table,
)

NET, SHOWN = "efficientnet_lite0", "EfficientNet-Lite0"


def line(method, row, diffid, delta=0.0, **more):
    about = dict(classifier=NET, randomised=False, gain=0.5, complexity=1.0)
    return about | dict(method=method, row=row, diffid=diffid, delta=delta) | more


def table(tmp_path, lines):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "table.parquet"
    pq.write_table(pa.Table.from_pylist(lines), file)
    said = dict(sha256=hashlib.sha256(file.read_bytes()).hexdigest())
    file.with_suffix(".json").write_text(json.dumps(said))
    return stored_table(file.with_suffix(".json"))


def test_a_lead_is_taken_on_the_images_that_both_methods_have(tmp_path):
    lines = [line("MA-GIG", row, 0.5 + row, 0.02) for row in (7, 3, 9)]
    lines += [line("MIG", row, 0.25, delta) for row, delta in ((3, 0.0), (9, 0.1))]
    stored = table(tmp_path, lines)[SHOWN]
    v, ask = stored.lead("MA-GIG", "MIG", "diffid")
    assert v.tolist() == [3.25, 9.25]  # rows 3 and 9, in order
    assert ask[ADDS_UP].tolist() == [True, False] and ask[RIGHT].tolist() == [True, True]


def test_only_integrals_along_a_path_from_black_must_add_up(tmp_path):
    lines = [line("IG", 1, 0.5, 0.0), line("AGI", 1, 0.25, 3.0)]
    lines += [line("GradInput", 1, 0.125, math.nan)]
    stored = table(tmp_path, lines)[SHOWN]
    assert [*stored.fine] == ["IG"]
    assert stored.lead("IG", "AGI", "diffid")[1][ADDS_UP].tolist() == [True]
    v, ask = stored.lead("AGI", "Input × Gradient", "diffid")
    assert v.tolist() == [0.125] and [*ask] == [RIGHT]


def test_each_classifier_has_its_own_scores(tmp_path):
    lines = [line("IG", 1, 0.5), line("IG", 2, 0.75) | dict(classifier="other")]
    stored = table(tmp_path, lines)
    assert {k: of.scores["IG"]["diffid"].tolist() for k, of in stored.items()} == {
        SHOWN: [0.5],
        "other": [0.75],
    }


def test_a_table_that_is_not_the_one_described_is_refused(tmp_path):
    table(tmp_path, [line("IG", 1, 0.5)])
    (tmp_path / "table.json").write_text(json.dumps(dict(sha256="0")))
    with pytest.raises(ValueError, match="table.parquet is not the table that"):
        stored_table(tmp_path / "table.json")


def test_stored_photographs_say_which_of_them_count(tmp_path):
    variants = dict(IG=dict(diffid=[0.5, 0.25], fine=[1, 0]), random=dict(diffid=[0, 0.5]))
    said = dict(variants=variants, predicted=[4, 5], labels=[4, 6])
    (tmp_path / "found.json").write_text(json.dumps(said))
    stored = stored_photographs(tmp_path / "found.json")
    v, ask = stored.lead("IG", "random", "diffid")
    assert v.tolist() == [0.5, -0.25]
    assert ask[ADDS_UP].tolist() == [True, False] and ask[RIGHT].tolist() == [True, False]


def test_gates_ask_for_every_method_named():
    fine = dict(IG=torch.tensor([True, True]), GIG=torch.tensor([True, False]))
    assert gates(fine, ("IG", "GIG", "random"))[ADDS_UP].tolist() == [True, False]
    assert gates(fine, ("random",)) == {}
