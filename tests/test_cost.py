"""Costs counted operation by operation: waits for the device, and the most bytes held at once."""

import weakref
from collections import Counter

import pytest
import torch
from test_manifold import curved, rand, wavy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from manifold_xai.attribution.integral import path_attribution
from manifold_xai.paths.guided import guided_path, settled_path
from manifold_xai.paths.manifold import enhanced_path, manifold_path
from manifold_xai.paths.manifold_guided import manifold_guided_path
from manifold_xai.score import score

# torch's own, on first use of torch.func
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")

READS = (
    "_local_scalar_dense",
    "item",
    "nonzero",
    "masked_select",
    "is_nonzero",
    "equal",
    "unique_dim",
    "_unique2",
)


class Reads(TorchDispatchMode):
    """Counts operations for which the host waits for the device, boolean indices among them."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        masks = name.startswith(("index", "_index_put", "_unsafe_index")) and any(
            isinstance(t, torch.Tensor) and t.dtype in (torch.bool, torch.uint8)
            for t in tree_leaves(args[1])
        )
        if name in READS or masks:
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


QUIET = {
    "guided": lambda f, a, x0, x, T, batch: guided_path(f, x0, x, T, batch=batch),
    "guided, corridor": lambda f, a, x0, x, T, batch: guided_path(
        f, x0, x, T, max_dist=0.1, batch=batch
    ),
    "settled": lambda f, a, x0, x, T, batch: settled_path(f, x0, x, T, batch=batch),
    "enhanced": lambda f, a, x0, x, T, batch: enhanced_path(a, x0, x, T, True, batch=batch),
    "manifold-guided": lambda f, a, x0, x, T, batch: manifold_guided_path(
        f, a, x0, x, T, batch=batch
    ),
    "manifold-guided, slerp": lambda f, a, x0, x, T, batch: manifold_guided_path(
        f, a, x0, x, T, slerp=True, batch=batch
    ),
}


def test_reads_are_noticed():
    v = torch.rand(5)
    with Reads() as reads:
        v.sum().item(), bool(v[0] > 2), v[v > 0.5], v.nonzero(), v.masked_select(v > 0.5)
        v[v > 0.5] = v[v > 0.5]
    assert reads.found.total() == 7


@pytest.mark.parametrize("batch", [None, 2])
@pytest.mark.parametrize("name", QUIET)
def test_no_step_waits_for_the_device(name, batch):
    """As many reads of the device at 9 steps as at 31. MIG is exempt: its solver looks,
    after each iteration, which rows are done."""
    autoencoder, (x0, x), counts = curved(), rand(2, 3, 1, 4, 5), []
    for T in (9, 31):
        f = score(lambda x: torch.stack([wavy(x), wavy(1 - x)], 1), torch.tensor([0, 1, 1]))
        with Reads() as reads:
            path_attribution(f, QUIET[name](f, autoencoder, x0, x, T, batch), batch=batch)
        counts.append(reads.found)
    # the checks of the ends, and of the result, are seen
    assert counts[0] == counts[1]
    assert counts[0].total() > 0


class Held(TorchDispatchMode):
    """Bytes of all tensors made meanwhile that are alive, at most; graphs,
    Jacobians and what vmap hides included."""

    def __init__(self):
        super().__init__()
        self.alive, self.now, self.most = set(), 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in tree_leaves(out):
            if (
                isinstance(t, torch.Tensor)
                and (key := (storage := t.untyped_storage())._cdata) not in self.alive
            ):
                self.alive.add(key)
                self.now += storage.nbytes()
                weakref.finalize(storage, self.free, key, storage.nbytes())
        self.most = max(self.most, self.now)
        return out

    def free(self, key, n):
        self.alive.discard(key)
        self.now -= n


def test_held_bytes_are_counted_until_they_are_freed():
    with Held() as held:
        a = torch.zeros(1000, dtype=torch.float64)
        view = a[:10]
        del a
        assert held.now == 8000
        del view
        assert held.now == 0 and held.most == 8000


@pytest.mark.parametrize("side, steps", [(16, (160, 320, 640)), (64, (160, 320))])
def test_memory_of_a_geodesic_grows_with_its_codes_and_with_nothing_else(side, steps):
    """Each further step and row adds at most eight codes at the worst moment: no image,
    and no block of d × d."""
    d, b, most = 28, 4, []
    autoencoder, (x0, x) = curved(d, (1, side, side)), rand(2, b, 1, side, side)
    for T in steps:  # four paths at a time, two, one
        with Held() as held:
            gamma = manifold_path(autoencoder, x0, x, T, iterations=2, polish=1, batch=8)
            path_attribution(wavy, gamma, batch=8)
        most.append(held.most)
    for i in range(1, len(steps)):
        assert (most[i] - most[i - 1]) / (steps[i] - steps[i - 1]) <= 8 * d * 8 * b


class Room(TorchDispatchMode):
    """A device with memory for tensors of `most` numbers."""

    def __init__(self, most):
        super().__init__()
        self.most = most

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if any(t.numel() > self.most for t in tree_leaves(out) if isinstance(t, torch.Tensor)):
            raise torch.OutOfMemoryError("as a device would")
        return out


either_solver = pytest.mark.parametrize("solver", ["gradient", "quasi-newton"])


@either_solver
def test_a_smaller_batch_solves_a_geodesic_in_less_memory(solver):
    autoencoder, (x0, x), most = curved(10, (1, 32, 32)), rand(2, 8, 1, 32, 32), []
    for batch in (2, 64):
        with Held() as held:
            manifold_path(autoencoder, x0, x, 50, solver=solver, iterations=2, batch=batch)
        most.append(held.most)
    assert most[0] < 0.75 * most[1]


@either_solver
def test_a_geodesic_is_solved_where_not_all_images_fit(solver):
    """Jacobians too must go on with fewer frames: with J of 53 points,
    3 latents and 20 pixels there are as many numbers as in these images."""
    x0, x = rand(2, 8, 1, 4, 5)
    whole = manifold_path(curved(), x0, x, 20, solver=solver, iterations=3).stack()
    with pytest.warns(UserWarning, match="Out of memory"), Room(160 * 20):
        gamma = manifold_path(curved(), x0, x, 20, solver=solver, iterations=3)
    torch.testing.assert_close(gamma.stack(), whole)
