"""The gates of a comparison: maps add up, the network is right, the attack moves its map."""

import csv
import json
import re

import pytest
import torch
from helpers import ROOT

from manifold_xai.attribution.integral import Attribution, path_attribution
from manifold_xai.attribution.methods import GuidedIG
from manifold_xai.course.claims import claims
from manifold_xai.evaluation.completeness import added_up, method_added_up
from manifold_xai.paths.straight import straight_path
from manifold_xai.score import score
from manifold_xai.subjects.breeds import NEEDED, breeds, missing


def steep(x, rows=None):
    """Linear in the first feature where the second is 0; else a steep step of it."""
    return torch.where(x[:, 1] > 0, (20 * (x[:, 0] - 0.4)).sigmoid(), x[:, 0])


X = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
LINE = straight_path(0 * X, X, 4)


def test_only_maps_that_do_not_add_up_are_refined():
    asked = []

    def walk(refine):
        asked.append(refine)
        return path_attribution(steep, LINE, refine=refine)

    plain, found = path_attribution(steep, LINE), added_up(walk, torch.ones(2))
    assert asked == [None, 0.002]
    assert torch.equal(found.A[1], plain.A[1]) and not torch.equal(found.A[0], plain.A[0])
    assert plain.gap[0].abs() > 0.05 and found.gap.abs().max() < 0.05 and found.fine.all()


def test_nothing_is_walked_twice_where_all_add_up():
    fine = Attribution(torch.ones(3, 2), torch.full((3,), 0.04), torch.zeros(3, 2))
    found = added_up(lambda refine: fine if refine is None else 1 / 0, torch.ones(3))
    assert found.fine.all() and torch.equal(found.A, fine.A)


def test_what_halving_does_not_mend_fails_the_gate():
    stuck = Attribution(torch.ones(2, 2), torch.tensor([0.2, 0.01]), torch.zeros(2, 2))
    assert added_up(lambda refine: stuck, torch.tensor([1.0, 1.0])).fine.tolist() == [False, True]
    assert added_up(lambda refine: stuck, torch.tensor([-5.0, 0.0])).fine.tolist() == [True, False]


def test_a_methods_map_is_its_own_where_it_adds_up():
    class Bent(torch.nn.Module):
        def forward(self, x):
            return torch.stack([x.square().sum(1), x[:, 0]], 1)

    f = score(Bent(), output="logit")
    method, x = GuidedIG(f, fraction=0.5), torch.rand(4, 6, generator=torch.manual_seed(0))
    found = method_added_up(method, f.at(x), x, 30)
    whole = method.attribute(x, target=f.at(x).target, n_steps=30)
    assert found.fine.all() and torch.equal(found.A, whole)


def test_dogs_that_are_not_there_are_named(tmp_path):
    assert missing(tmp_path) == list(NEEDED)
    (tmp_path / "taef2").mkdir()
    with pytest.raises(FileNotFoundError, match="dog-breeds, imagenet-val not in"):
        breeds(tmp_path)


def test_every_claim_with_gates_has_a_page_that_asks():
    """Where the table names a gate, the page that records the claim hands gates over."""
    by_itself = {"MAGIG-30"}  # its bar is compared with the paper's pairs by the outcome's rule
    asked, found = {name for name, about in claims().items() if about["gates"]}, set()
    assert by_itself < asked
    for page in (ROOT / "nbs" / "evidence").glob("*.ipynb"):
        cells = json.loads(page.read_text(encoding="utf8"))["cells"]
        code = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
        if re.search(r"gates=|condition\(.*(gates|CAPPED|ask\))", code):
            found |= set(re.findall(r'record\(\s*"([A-Z]+-\d+)"', code))
    assert asked - by_itself <= found


def test_paper_numbers_have_the_names_that_pages_use():
    """What a page puts beside the paper's numbers must be a name of the paper's table."""
    with (ROOT / "manifold_xai" / "assets" / "paper.csv").open(encoding="utf8", newline="") as file:
        names = {(row["claim"], row["what"]) for row in csv.DictReader(file)}
    for claim, what in (
        ("MIG-16", "SSIM of MIG"),
        ("MIG-16", "SSIM of MIG, dogs"),
        ("MIG-17", "SSIM of Smooth IG"),
        ("MIG-18", "max-sensitivity of BlurIG"),
        ("MIG-18", "max-sensitivity of BlurIG, dogs"),
        ("MIG-19", "infidelity of IG"),
        ("MIG-19", "infidelity of IG, dogs"),
        ("MAGIG-08", "residual smaller than GIG's"),
        ("MAGIG-22", "photographs, area smaller than GIG's"),
        ("MAGIG-24", "photographs, area larger than GIG's"),
        ("BORDT-07", "fraction of Input × Gradient"),
    ):
        assert (claim, what) in names
