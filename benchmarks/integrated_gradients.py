"""Integrated Gradients, ours against captum's: time at batch 1 and 64, agreement,
and memory against the number of steps.

    python benchmarks/integrated_gradients.py [--quick]

Both explain the same probability of the digit CNN with Gauss–Legendre and equal n_steps, one
after the other in the same run; what is printed are medians and their ratios. Below 1 we are
faster. captum runs as it comes, and with the internal batch we choose for ourselves.
"""

import argparse
import copy
import platform
import resource
import statistics
import subprocess
import sys
import time

import captum.attr
import torch

from manifold_xai.attribution.integral import path_attribution
from manifold_xai.attribution.methods import IntegratedGradients
from manifold_xai.subjects.classifiers import digit_classifier
from manifold_xai.subjects.data import digits
from manifold_xai.paths.straight import straight_path
from manifold_xai.chunks import Chunks
from manifold_xai.score import score


def alternating(contestants, rounds):
    """Median seconds of each of `contestants`, name to function, called in turn;
    the first round is not counted."""
    seconds = {name: [] for name in contestants}
    for _ in range(rounds + 1):
        for name, call in contestants.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(s[1:]) for name, s in seconds.items()}


def speed(model, rounds, steps):
    images, exact = digits("test"), copy.deepcopy(model).double()
    print(
        f"\n{'batch':>5} {'n_steps':>7}  {'ours':>8} {'captum':>8}  {'ratio':>6}   "
        f"{'captum, our chunk':>17}  {'ratio':>6}   largest difference"
    )
    for b in (1, 64):
        x = images.x[:b]
        y, f, chunk = model(x).argmax(1), score(model), Chunks.of(x).batch
        ours, theirs = IntegratedGradients(f), captum.attr.IntegratedGradients(f)
        kw = dict(target=y, n_steps=steps)
        contestants = {
            "ours": lambda: ours.attribute(x, rule="gauss-legendre", **kw),
            "captum": lambda: theirs.attribute(x, **kw),
            "captum, our chunk": lambda: theirs.attribute(
                x, internal_batch_size=max(chunk, b), **kw
            ),
        }
        t = alternating(contestants, rounds if b == 64 else 4 * rounds)
        off = agreement(score(exact), x[:4].double(), y[:4], steps)
        print(
            f"{b:5} {steps:7}  {t['ours']:7.3f}s {t['captum']:7.3f}s  "
            f"{t['ours'] / t['captum']:6.2f}   "
            f"{t['captum, our chunk']:16.3f}s  {t['ours'] / t['captum, our chunk']:6.2f}   "
            f"{off:.1e} of the largest |A|, float64"
        )


def agreement(f, x, y, steps):
    """Largest difference from captum's map over the largest |A|."""
    A = IntegratedGradients(f).attribute(x, target=y, n_steps=steps, rule="gauss-legendre")
    B = captum.attr.IntegratedGradients(f).attribute(x, target=y, n_steps=steps)
    return ((A - B).abs().max() / B.abs().max()).item()


def memory(steps):
    """Peak resident MB of a process that explains 16 digits in `steps` steps, 64 rows at once."""
    out = subprocess.run(
        [sys.executable, __file__, "--peak", str(steps)], capture_output=True, text=True, check=True
    ).stdout
    return float(out.split()[-1])


def peak(steps):
    """Explain 16 digits in this process and print its peak."""
    x = digits("test").x[:16]
    path_attribution(
        score(digit_classifier("smooth")), straight_path(torch.zeros_like(x), x, steps), batch=64
    )
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds and steps")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.peak:
        return peak(args.peak)
    print(
        f"{platform.processor() or platform.machine()}, {args.threads} thread(s), "
        f"torch {torch.__version__}, captum {captum.__version__}"
    )
    speed(digit_classifier("smooth"), rounds=3 if args.quick else 9, steps=50)
    print("\npeak memory, 16 digits, internal batch 64:")
    few, many = (20, 80) if args.quick else (50, 800)
    for steps in (few, many):
        print(f"{steps:5} steps  {memory(steps):7.0f} MB")


if __name__ == "__main__":
    main()
