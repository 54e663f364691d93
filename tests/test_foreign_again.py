"""What models, decoders and files that nobody foresaw must give: the right value, or a refusal."""

import pytest
import torch
from torch import nn

from manifold_xai import (
    IntegratedGradients,
    adapt,
    explain,
    heat_map,
    least_resistance_path,
    load_map,
    path_attribution,
    save_map,
    score,
    straight_path,
    trace,
)

X = torch.rand(4, 4, generator=torch.Generator().manual_seed(1))
net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).eval()
with torch.no_grad():
    for p in net.parameters():
        p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
how = dict(target=0, n_steps=20, progress=False)


def random(x):
    return nn.functional.dropout(net(x), 0.5)[:, 0]


# Files and pictures


class Times(nn.Module):
    """A model with a number that is no weight."""

    def __init__(self, number):
        super().__init__()
        self.net, self.number = net, number

    def forward(self, x):
        return self.number * self.net(x)


@pytest.mark.parametrize("name", ["maps", "maps.zarr"])
@pytest.mark.parametrize(
    "make",
    [
        lambda k: score(net, preprocess=lambda x: k * x),
        lambda k: lambda x: k * net(x),
        Times,
    ],
)
def test_explain_goes_on_only_with_the_model_it_began_with(tmp_path, name, make):
    pytest.importorskip("zarr") if name.endswith("zarr") else None
    out = tmp_path / name
    first = explain(make(1.0), X.split(3), IntegratedGradients, out=out, **how).whole().A
    again = explain(make(1.0), X.split(3), IntegratedGradients, out=out, **how).whole().A
    assert torch.equal(first, again)
    with pytest.raises(ValueError, match="another model: its scores .* differ by"):
        explain(make(2.0), X.split(3), IntegratedGradients, out=out, **how)
    anew = explain(make(2.0), X.split(3), IntegratedGradients, out=out, resume=False, **how)
    assert (anew.whole().A - first).abs().max() > 0.01


def test_explain_refuses_a_tensor_as_loader_and_maps_of_several_shapes_as_one():
    with pytest.raises(ValueError, match=r"x\.split"):
        explain(net, X, IntegratedGradients, **how)
    batches = [X, X[:, :3]]
    maps = explain(lambda x: x.square(), batches, IntegratedGradients, **how)
    assert len(maps) == 2
    with pytest.raises(ValueError, match=r"different shapes, \(3,\), \(4,\) a row"):
        maps.whole()


def test_heat_map_adds_up_halves_and_refuses_what_has_no_scale():
    A = torch.tensor([[[[60000.0]], [[60000.0]]], [[[30000.0]], [[0.0]]]])
    assert torch.equal(heat_map(A.half()).flatten(), torch.tensor([1.0, 0.25]).half())
    for bad in (torch.nan, torch.inf):
        with pytest.raises(ValueError, match="finite.* row 1:"):
            heat_map(torch.tensor([[[[1.0]]], [[[bad]]]]))
    with pytest.raises(ValueError, match="real numbers.*complex64"):
        heat_map(A.to(torch.complex64))
    with pytest.raises(ValueError, match="at least one map"):
        heat_map(A[:0])


def test_maps_are_saved_whole_or_refused(tmp_path):
    path = tmp_path / "maps.safetensors"
    save_map(path, (X, X[:2], X.T))
    for found, saved in zip(load_map(path)[0].A, (X, X[:2], X.T), strict=True):
        assert torch.equal(found, saved)
    with pytest.raises(ValueError, match="dense"):
        save_map(path, X.to_sparse())
    with pytest.raises(ValueError, match="at least one map"):
        save_map(path, ())
    with pytest.raises(ValueError, match=r"folder.*Maps\.at"):
        load_map(tmp_path)


# Paths


def test_the_path_of_least_resistance_takes_one_output_and_refuses_others():
    x0 = torch.zeros_like(X)
    one = least_resistance_path(lambda x: net(x)[:, 0], x0, X, steps=10)
    same = least_resistance_path(lambda x: net(x)[:, :1], x0, X, steps=10)
    assert torch.equal(one.stack(), same.stack())
    for f, words in (
        (random, "at random"),
        (lambda x: (net(x), x), "one row per row.*tuple"),
        (lambda x: net(x) - net(x).mean(0), "depends on the batch"),
        (nn.Sequential(net, nn.Dropout()).train(), "train mode"),
    ):
        with pytest.raises(ValueError, match=words):
            least_resistance_path(f, x0, X, steps=3)


def test_least_resistance_is_not_disturbed_by_outputs_that_write_into_their_input():
    def writes(x):
        return net(x.mul_(2))

    x0, kept = torch.zeros_like(X), X.clone()
    found = least_resistance_path(writes, x0, X, steps=5).stack()
    right = least_resistance_path(lambda x: net(2 * x), x0, X, steps=5).stack()
    assert torch.equal(X, kept) and torch.equal(found, right)


def test_trace_refuses_a_random_score():
    with pytest.raises(ValueError, match="at random"):
        trace(random, straight_path(0 * X, X, 3))
    assert trace(random, straight_path(0 * X, X, 3), check=False).scores.shape == (4, 4)


def test_a_distribution_in_place_of_codes_is_told_from_diffusers():
    posterior = adapt(lambda x: torch.distributions.Normal(x, 1.0), lambda z: z)
    with pytest.raises(
        ValueError, match=r"distribution: take its mean, lambda v: encode\(v\)\.mean"
    ):
        posterior.encode(X)


def test_a_message_gives_a_share_that_can_be_read():
    now_and_then = iter([0.0, 1.0] * 50)
    with pytest.raises(ValueError, match="more than ten times the size"):
        path_attribution(lambda x: x.sum(1) * next(now_and_then), straight_path(0 * X, X, 2))
