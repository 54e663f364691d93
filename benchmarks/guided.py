"""Guided IG on the MNIST32 CNN: all images in lockstep against the published form, one image and one group of features after the other.

    python benchmarks/guided.py            (32 digits, 200 steps: about two minutes)
    python benchmarks/guided.py --quick    (8 digits, 40 steps)

Competitors run in turn, round after round, on as many threads as there are cores (--threads says otherwise); ratios are of medians.
On a machine that does other things too, --cpu counts the processor's seconds instead of the clock's; take one thread then. The loop is `guided_step_loop` in the published
schedule, checked here against ours before it is timed; `saliency` is the authors' package, with and without its corridor.
"""

import argparse
import os
import platform
import statistics
import time

import numpy as np
import torch

from manifold_xai.attribution.integral import path_attribution
from manifold_xai.classifiers import digit_classifier
from manifold_xai.data import digits
from manifold_xai.paths.guided import guided_path, guided_point, guided_step_loop
from manifold_xai.score import Score, score, value_and_grad

counted = {"passes": 0, "rows": 0}


def loop(f: Score, x0, x, steps, fraction=0.1):
    """Attributions of the published form, left rule, one image at a time."""
    maps = []
    for i in range(len(x)):
        own = score(f.model, int(f.target[i]), f.output)
        end, position, A = x[i], x0[i], torch.zeros_like(x[i])
        total = (end - position).abs().sum()
        for step in range(1, steps + 1):
            grad = value_and_grad(own, position[None])[1][0]
            budget = (end - position).abs().sum() - total * (1 - step / (steps + 1))
            moved = end if step == steps else guided_step_loop(position, end, grad, budget, fraction)
            A += (moved - position) * grad
            position = moved
        maps.append(A)
    return torch.stack(maps)


def lockstep(f, x0, x, steps, fraction=0.1, max_dist=None, schedule="published"):
    """Ours, with the published options."""
    return path_attribution(f, guided_path(f, x0, x, steps, fraction, max_dist, schedule=schedule), rule="left").A


def package(f: Score, x, steps, fraction=0.1, max_dist=1.0):
    """The authors' package, image by image."""
    from saliency.core import INPUT_OUTPUT_GRADIENTS, GuidedIG

    quantile, maps = np.quantile, []
    np.quantile = lambda a, q, interpolation: quantile(a, q, method=interpolation)  # NumPy ≥ 2.4 took the old keyword away
    try:
        for i in range(len(x)):
            own = score(f.model, int(f.target[i]), f.output)

            def gradients(points, call_model_args=None, expected_keys=None):
                return {INPUT_OUTPUT_GRADIENTS: value_and_grad(own, torch.from_numpy(points).to(x))[1].numpy()}

            maps.append(GuidedIG().GetMask(x[i].numpy(), gradients, x_steps=steps, fraction=fraction, max_dist=max_dist))
    finally:
        np.quantile = quantile
    return torch.from_numpy(np.stack(maps))


def race(competitors: dict, rounds: int, clock) -> dict:
    """Median seconds of each, run in turn."""
    times = {name: [] for name in competitors}
    for _ in range(rounds):
        for name, fn in competitors.items():
            start = clock()
            fn()
            times[name].append(clock() - start)
    return {name: statistics.median(t) for name, t in times.items()}


def count_passes(f, x0, x, steps):
    """Score evaluations and rows of one lockstep run."""
    counted.update(passes=0, rows=0)
    hook = f.model.register_forward_hook(lambda _, inputs, __: counted.update(passes=counted["passes"] + 1, rows=counted["rows"] + len(inputs[0])))
    lockstep(f, x0, x, steps)
    hook.remove()
    return counted["passes"], counted["rows"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--cpu", action="store_true", help="processor time instead of wall-clock time")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    batch, steps, rounds = (8, 40, 1) if args.quick else (32, 200, 3)
    images, model = digits("test"), digit_classifier("smooth")
    x = images.x[:batch]
    x0, f = torch.zeros_like(x), score(model).at(x)
    print(f"{platform.machine()}, torch {torch.__version__}, {args.threads} thread(s), {'processor' if args.cpu else 'wall-clock'} time; {batch} digits, {steps} steps, fraction 0.1")

    x64, f64 = x[:2].double(), score(model.double(), f.target[:2])
    apart = (loop(f64, 0 * x64, x64, 20) - lockstep(f64, 0 * x64, x64, 20)).abs().max()
    apart_package = (package(f64, x64, 20) - lockstep(f64, 0 * x64, x64, 20, schedule="equal")).abs().max()
    model.float().to(memory_format=torch.channels_last)  # the layout convolutions on a CPU like best; one image at a time gains nothing from it
    print(f"loop and lockstep differ by {apart:.1e}, package and lockstep by {apart_package:.1e} (largest, float64, 20 steps)")

    grad = value_and_grad(f, x)[1]
    passes, rows = count_passes(f, x0, x, steps)
    found = race(
        {
            "ours, lockstep": lambda: lockstep(f, x0, x, steps),
            "ours, its passes alone": lambda: [value_and_grad(f, x) for _ in range(steps)],
            "ours, its steps alone": lambda: [guided_point(0.3 * x, x0, x, grad, 0.8, 0.1) for _ in range(steps)],
            "loop, image by image": lambda: loop(f, x0, x, steps),
            "package `saliency`": lambda: package(f, x, steps),
            "package `saliency`, corridor 0.02": lambda: package(f, x, steps, max_dist=0.02),
            "ours, corridor 0.02": lambda: lockstep(f, x0, x, steps, max_dist=0.02, schedule="equal"),
        },
        rounds,
        time.process_time if args.cpu else time.perf_counter,
    )
    for name, t in found.items():
        print(f"{name:36s} {t:8.2f} s   {1e3 * t / batch:8.2f} ms an image")
    ours = found["ours, lockstep"]
    print(f"{passes} passes of {rows / passes:.0f} rows; share of the time that is passes: {found['ours, its passes alone'] / ours:.0%}")
    print(f"loop / ours {found['loop, image by image'] / ours:.1f}, package / ours {found['package `saliency`'] / ours:.1f}")
    print(f"within the corridor: package / ours {found['package `saliency`, corridor 0.02'] / found['ours, corridor 0.02']:.1f}")


if __name__ == "__main__":
    main()
