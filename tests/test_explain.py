"""`explain`: a data set block by block, interrupted and continued, equals the maps in memory."""

import subprocess
import sys
from functools import partial

import pytest
import torch
from every import seeded
from foreign import Net, inputs, made
from helpers import ROOT

from manifold_xai import (
    AGI,
    GuidedIG,
    IntegratedGradients,
    ManifoldIG,
    Saliency,
    SmoothGrad,
    adapt,
    digit_vae,
    explain,
    score,
)
from manifold_xai.attribution.explain import Maps

X, Y = inputs((3, 4, 4), 11), torch.arange(11) % 5
LOADER = list(zip(X.split(4), Y.split(4)))
quiet = partial(explain, progress=False)


class Stopped(Exception):
    """Somebody pulled the plug."""


def cut_off(batches, n):
    yield from batches[:n]
    raise Stopped


WAYS = {
    "IG": IntegratedGradients,
    "Saliency": Saliency,
    "GIG in random order": lambda f: GuidedIG(f, order="random", generator=seeded(4)),
    "AGI": lambda f: AGI(f, 2, generator=seeded(4)),
    "SmoothGrad": lambda f: SmoothGrad(f, 4, generator=seeded(4)),
    "SmoothGrad from the global generator": lambda f: SmoothGrad(f, 4),
}


SHELVES = ["maps", "maps.zarr"]


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("n, place", [(0, "maps"), (1, "maps"), (3, "maps"), (2, "maps.zarr")])
def test_interrupted_after_any_block(tmp_path, name, n, place):
    model = made(Net)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    memory = quiet(model, LOADER, WAYS[name]).whole()
    with pytest.raises(Stopped):
        quiet(model, cut_off(LOADER, n), WAYS[name], tmp_path / place)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(6)  # another day
    resumed = quiet(model, LOADER, WAYS[name], tmp_path / place).whole()
    assert torch.equal(memory.A, resumed.A)
    assert (memory.delta is None) == (name in ("Saliency",) or "Smooth" in name)
    assert memory.delta is None or torch.equal(memory.delta, resumed.delta)
    assert len(resumed.A) == 11 and not list((tmp_path / place).glob("*.tmp*"))


def test_what_is_there_is_not_computed_again(tmp_path):
    calls = []

    class Counted(Net):
        def forward(self, x):
            calls.append(len(x))
            return super().forward(x)

    quiet(made(Counted), LOADER, IntegratedGradients, tmp_path, n_steps=3)
    calls.clear()
    maps = quiet(made(Counted), LOADER, IntegratedGradients, tmp_path, n_steps=3)
    assert sum(calls) <= 2 * len(LOADER[0][0]) and len(maps) == 3  # a look at the first batch
    (tmp_path / "block-00001.safetensors").unlink()
    looked = sum(calls)
    quiet(made(Counted), LOADER, IntegratedGradients, tmp_path, n_steps=3)
    assert sum(calls) > 2 * looked


@pytest.mark.parametrize("place", SHELVES)
def test_equal_to_attribute_on_each_batch(tmp_path, place):
    model, out = made(Net), tmp_path / place
    maps = quiet(score(model), LOADER, IntegratedGradients, out, n_steps=5)
    for (x, y), block in zip(LOADER, maps):
        method = IntegratedGradients(score(model))
        A, delta = method.attribute(x, target=y, n_steps=5, return_convergence_delta=True)
        assert torch.equal(A, block.A) and torch.equal(delta, block.delta)
    assert torch.equal(Maps.at(out)[2].A, maps[2].A)


@pytest.mark.parametrize(
    "other, says",
    [
        (dict(how=dict(n_steps=6)), r"attribute\.n_steps: 5 there, 6 here"),
        (dict(how=dict(n_steps=5, baselines=0.5)), r"attribute\.baselines"),
        (dict(method=GuidedIG), "method: .*IntegratedGradients"),
        (dict(method=partial(IntegratedGradients, refine=0.1)), r"options\.refine"),
        (dict(f=score(Net(seed=3))), r"score\.model: 'Net, weights"),
        (dict(f=score(Net(), output="logit")), r"score\.output"),
    ],
    ids=["steps", "baselines", "method", "option", "weights", "score"],
)
@pytest.mark.parametrize("place", SHELVES)
def test_what_was_made_otherwise_is_refused_by_name(tmp_path, other, says, place):
    tmp_path = tmp_path / place
    first = dict(f=score(Net()), method=IntegratedGradients, how=dict(n_steps=5))

    def ask(f, method, how, **more):
        return quiet(f, LOADER, method, tmp_path, **more, **how)

    before = ask(**first).whole().A
    with pytest.raises(ValueError, match=says):
        ask(**first | other)
    assert torch.equal(Maps.at(tmp_path).whole().A, before)
    ask(**first | other, resume=False)
    assert len(Maps.at(tmp_path)) == 3


def test_another_seed_is_another_setting(tmp_path):
    def way(seed):
        return lambda f: SmoothGrad(f, 3, generator=seeded(seed))

    quiet(made(Net), LOADER, way(1), tmp_path)
    with pytest.raises(ValueError, match=r"options\.generator"):
        quiet(made(Net), LOADER, way(2), tmp_path)


def test_a_loader_that_shuffles_is_noticed(tmp_path):
    quiet(made(Net), LOADER, Saliency, tmp_path)
    with pytest.raises(ValueError, match="block-00000.*another batch.*shuffle"):
        quiet(made(Net), LOADER[::-1], Saliency, tmp_path)
    with pytest.raises(ValueError, match="1 more blocks"):
        quiet(made(Net), LOADER[:2], Saliency, tmp_path)


def test_a_damaged_block_is_named(tmp_path):
    quiet(made(Net), LOADER, Saliency, tmp_path)
    path = tmp_path / "block-00001.safetensors"
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="block-00001"):
        quiet(made(Net), LOADER, Saliency, tmp_path)
    path.unlink()
    assert len(quiet(made(Net), LOADER, Saliency, tmp_path)) == 3
    (tmp_path / "settings.json").unlink()
    with pytest.raises(ValueError, match="not the settings"):
        quiet(made(Net), LOADER, Saliency, tmp_path)


def test_any_iterable_of_any_batches(tmp_path):
    model = made(Net)
    data = torch.utils.data.TensorDataset(X, Y)
    loader = torch.utils.data.DataLoader(data, batch_size=4)
    expected = quiet(model, LOADER, Saliency).whole().A
    for batches in (
        loader,
        iter(LOADER),
        (dict(inputs=x, target=y) for x, y in LOADER),
        [list(pair) for pair in LOADER],
    ):
        assert torch.equal(quiet(model, batches, Saliency).whole().A, expected)
    alone = quiet(model, X.split(4), Saliency, target=2).whole().A
    torch.testing.assert_close(alone, Saliency(model).attribute(X, target=2))
    with pytest.raises(ValueError, match="pair"):
        quiet(model, [(X, Y, Y)], Saliency)
    with pytest.raises(ValueError, match="no batch"):
        quiet(model, [], Saliency).whole()


def test_several_inputs_and_several_classes(tmp_path):
    def two(a, b):
        return Net()(a) * b.sum(1, keepdim=True)

    b = inputs((7,), 11, seed=3)
    batches = [dict(inputs=pair) for pair in zip(X.split(4), b.split(4))]
    how = dict(targets=[0, 3], n_steps=4)
    memory = quiet(two, batches, IntegratedGradients, **how).whole()
    folder = quiet(two, batches, IntegratedGradients, tmp_path, **how).whole()
    assert [v.shape for v in memory.A] == [(11, 2, 3, 4, 4), (11, 2, 7)]
    assert all(map(torch.equal, memory.A, folder.A)) and torch.equal(memory.delta, folder.delta)


def test_an_autoencoders_weights_count(tmp_path):
    vae, x = digit_vae(), torch.rand(2, 1, 32, 32, generator=seeded())

    def model(x):
        return x.flatten(1)[:, :5]

    way = partial(ManifoldIG, autoencoder=vae, geodesic=dict(iterations=1))
    quiet(model, [x], way, tmp_path, n_steps=3)
    other = adapt(lambda x: vae.encode(x), lambda z: vae.decode(0.9 * z))
    with pytest.raises(ValueError, match=r"options\.autoencoder"):
        quiet(model, [x], partial(way, autoencoder=other), tmp_path, n_steps=3)


def test_progress_is_shown_on_request_alone(capfd):
    quiet(made(Net), LOADER, Saliency)
    assert "explain" not in capfd.readouterr().err
    explain(made(Net), LOADER, Saliency)
    assert "3/3" in capfd.readouterr().err


KILLED = """
import os, sys, torch
from functools import partial
sys.path.insert(0, {tests!r})
from foreign import Net, inputs, made
from manifold_xai import GuidedIG, explain
from manifold_xai.subjects import store
real = store.save_file
def half(tensors, path, *more):
    real(tensors, path, *more)
    if {n} == len([v for v in os.listdir({out!r}) if v.startswith("block")]):
        os._exit(9)
store.save_file = half
explain(made(Net), inputs((3, 4, 4), 11).split(4), GuidedIG, {out!r}, progress=False, target=1)
"""


def test_a_process_killed_while_it_writes(tmp_path):
    """The block that it was writing is either absent or complete."""
    out, tests = str(tmp_path / "maps"), str(ROOT / "tests")
    code = KILLED.format(tests=tests, n=2, out=out)
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=120)
    assert found.returncode == 9
    assert len(Maps.at(out)) in (1, 2)
    maps = quiet(made(Net), X.split(4), GuidedIG, out, target=1).whole()
    assert torch.equal(maps.A, quiet(made(Net), X.split(4), GuidedIG, target=1).whole().A)


# --- Zarr


def test_a_zarr_store_is_one_array_that_others_open(tmp_path):
    zarr = pytest.importorskip("zarr")
    maps = quiet(made(Net), LOADER, IntegratedGradients, tmp_path / "maps.zarr", n_steps=3)
    group = zarr.open_group(str(tmp_path / "maps.zarr"), mode="r")
    whole = maps.whole()
    assert group["A"].shape == tuple(whole.A.shape) and group["delta"].shape == (11,)
    assert torch.equal(torch.tensor(group["A"][:]), whole.A)
    assert sorted(group.array_keys()) == ["A", "delta"]


def test_what_a_killed_writer_left_behind_is_written_over(tmp_path):
    zarr, out = pytest.importorskip("zarr"), tmp_path / "maps.zarr"
    whole = quiet(made(Net), LOADER, IntegratedGradients, out, n_steps=3).whole()
    group = zarr.open_group(str(out), mode="a")
    group.attrs["blocks"] = group.attrs["blocks"][:2]  # the third's rows are there, not its name
    group["A"][8:] = 7.0
    assert len(Maps.at(out)) == 2
    again = quiet(made(Net), LOADER, IntegratedGradients, out, n_steps=3).whole()
    assert torch.equal(whole.A, again.A) and torch.equal(whole.delta, again.delta)


def test_another_batch_or_shape_is_refused_by_name(tmp_path):
    pytest.importorskip("zarr")
    out, how = tmp_path / "maps.zarr", dict(n_steps=3)
    quiet(made(Net), LOADER, IntegratedGradients, out, **how)
    with pytest.raises(ValueError, match="block 0 of .*maps.zarr was made of another batch"):
        quiet(made(Net), LOADER[::-1], IntegratedGradients, out, **how)
    sizes = [torch.rand(2, 3), torch.rand(2, 4)]
    with pytest.raises(ValueError, match=r"maps of \(3,\) per row, and this block's are \(4,\)"):
        quiet(lambda x: x.sum(1), sizes, IntegratedGradients, tmp_path / "b.zarr", **how)
    apart = quiet(lambda x: x.sum(1), sizes, IntegratedGradients, tmp_path / "b", **how)
    assert [block.A.shape for block in apart] == [(2, 3), (2, 4)]


def test_several_inputs_are_several_arrays(tmp_path):
    zarr, x = pytest.importorskip("zarr"), torch.rand(4, 3)
    loader = [dict(inputs=(part, part[:, :2])) for part in x.split(2)]

    def f(a, b):
        return a.prod(1) + b.sum(1)

    maps = quiet(f, loader, IntegratedGradients, tmp_path / "maps.zarr", n_steps=4)
    memory = quiet(f, loader, IntegratedGradients, n_steps=4).whole()
    assert all(map(torch.equal, maps.whole().A, memory.A))
    group = zarr.open_group(str(tmp_path / "maps.zarr"), mode="r")
    assert group["A.0"].shape == (4, 3) and group["A.1"].shape == (4, 2)


def test_without_zarr_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(ImportError, match=r"manifold_xai\[zarr\].*safetensors"):
        quiet(made(Net), LOADER, IntegratedGradients, tmp_path / "maps.zarr")
