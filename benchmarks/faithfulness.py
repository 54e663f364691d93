"""What DiffID costs beyond its forward passes.

    python benchmarks/faithfulness.py            (500 digits, 21 shares: two minutes)
    python benchmarks/faithfulness.py --quick    (50 digits, 11 shares)

It times `diffid` against the same number of bare forward passes, in turn, on one thread: a ratio of
medians.
"""

import argparse
import platform
import statistics
import time

import torch

from manifold_xai.subjects.classifiers import digit_classifier
from manifold_xai.subjects.data import digits
from manifold_xai.evaluation.removal import channel_mean, diffid
from manifold_xai.chunks import values
from manifold_xai.score import score


def race(competitors: dict, rounds: int) -> dict:
    """Median processor seconds of each, run in turn."""
    times = {name: [] for name in competitors}
    for _ in range(rounds):
        for name, fn in competitors.items():
            start = time.process_time()
            fn()
            times[name].append(time.process_time() - start)
    return {name: statistics.median(t) for name, t in times.items()}


def bare(f, x, times):
    """`times` forward passes of all images, in the chunks that `diffid` takes, and nothing else."""
    for _ in range(times):
        values(f, x)


def timing(n, levels, rounds):
    """Print the ratio of DiffID to its passes, for digits and for one thread."""
    images = digits("test")
    x = images.x[:n]
    f = score(digit_classifier("smooth")).at(x)
    A, fill = (
        torch.randn(x.shape, generator=torch.Generator().manual_seed(0)),
        channel_mean(images.x),
    )
    seen = []
    hook = f.model.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    diffid(f, A, x, fill, levels=levels)
    hook.remove()
    found = race(
        {
            "diffid": lambda: diffid(f, A, x, fill, levels=levels),
            "passes": lambda: bare(f, x, 2 * levels),
        },
        rounds,
    )
    own = found["passes"] * sum(seen) / (2 * levels * n)
    print(
        f"{platform.machine()}, torch {torch.__version__}, 1 thread, processor time; "
        f"{n} digits, {levels} shares, {rounds} rounds"
    )
    print(
        f"images through the network: {sum(seen)}, {sum(seen) / n:.0f} for each digit; "
        f"two for each share would be {2 * levels}"
    )
    print(
        f"diffid {found['diffid']:.2f} s; {2 * levels * n} bare forward passes "
        f"{found['passes']:.2f} s: ratio {found['diffid'] / found['passes']:.2f}"
    )
    print(f"against the {sum(seen)} passes it makes: ratio {found['diffid'] / own:.2f}")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    timing(*(50, 11, 3) if args.quick else (500, 21, 3))


if __name__ == "__main__":
    main()
