"""What a grid costs, predicted and measured, and how much two Ray workers speed it up: the digits
grid, once in this process, once by two actors, one thread each.

    python benchmarks/scale_out.py             (40 digits, 50 steps: some minutes)
    python benchmarks/scale_out.py --quick     (6 digits, 10 steps)

The cost is counted passes times measured seconds a pass, plus the remainder measured on one block.
The gain of two workers is the process seconds of the one process over those of the busier worker,
so that a busy machine does not distort it; the gain by the clock is printed beside it.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import torch

from manifold_xai.benchmark import results
from manifold_xai.benchmark.cost import forecast
from manifold_xai.benchmark.grid import read_grid
from manifold_xai.benchmark.run import run_grid
from manifold_xai.benchmark.unit import Worker


def by_worker(out: Path) -> dict[str, float]:
    """Process seconds of each process that computed units."""
    spent: dict[str, float] = {}
    for path in results.unit_files(out):
        said = results.about(path)
        spent[said["by"]] = spent.get(said["by"], 0.0) + said["cpu"]
    return spent


def main():
    os.environ.setdefault("RAY_worker_niceness", "0")  # as in this process; Ray's own is 15
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--quick", action="store_true")
    quick = p.parse_args().quick
    torch.set_num_threads(1)
    grid = read_grid("digits", steps=10 if quick else 50)
    how = dict(limit=6 if quick else 40, block=2 if quick else 4, progress=False)
    with tempfile.TemporaryDirectory() as folder:
        one, two = Path(folder) / "one", Path(folder) / "two"
        told = [*forecast(Worker(), grid, how["limit"], how["block"])]
        begun = time.perf_counter()
        run_grid(grid, one, **how)
        alone = time.perf_counter() - begun
        took = {c["label"]: c["cpu"] / c["images"] for c in results.costs(one)}
        for c in told:
            name, passes, rest = c["method"], c["passes"], c["rest"] / c["seconds"]
            beside = f"{c['seconds']:.3f} s an image computed, {took[name]:.3f} s measured"
            print(f"{name}: {passes:.0f} passes, {rest:.0%} rest, {beside}")
        gap = sum(c["seconds"] for c in told) / sum(took.values()) - 1
        print(f"all methods: computed is {gap:+.0%} off")
        begun = time.perf_counter()
        run_grid(grid, two, engine="ray", workers=2, **how)
        together = time.perf_counter() - begun
        a, b = (results.scores(out) for out in (one, two))
        # as words: what a method leaves open is NaN, which equals nothing
        same = str(a.drop_columns(["row"]).to_pylist()) == str(b.drop_columns(["row"]).to_pylist())
        (whole,), parts = by_worker(one).values(), by_worker(two).values()
    print(f"same scores, bit for bit: {same}")
    print(f"process seconds: {whole:.1f}; of two workers {', '.join(f'{v:.1f}' for v in parts)}")
    print(f"gain {whole / max(parts):.2f} in process seconds, {alone / together:.2f} by the clock")


if __name__ == "__main__":
    main()
