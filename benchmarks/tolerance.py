"""As many steps as it takes, against numbers of steps that somebody has to guess.

    python benchmarks/tolerance.py                       (100 digits, digit CNN and VAE)
    python benchmarks/tolerance.py --what photographs --data-root FOLDER --rows 32
        (EfficientNet-Lite0, 112 pixels: IG, BlurIG and Settled IG; FOLDER holds `imagenet-val`)
    python benchmarks/tolerance.py --quick

For each row and method the map with `tol` and the maps of fixed numbers of steps are held against
one of 1,600 steps; errors are norms of differences over the norm of that map. Kept are error,
estimate, steps and passes of each row. Fixed numbers of steps are taken from the 1,600 points, and
so have an order of 1,600 steps for nothing where one is settled; "error as published" has its own.
MIG's 1,600 points lie on the geodesic that `tol` refines: what is published there solves its own
for 200 segments, and differs by that. GIG has no limit to be held against: its estimates are kept,
with at most 192 steps.

Rows that are in the result file already are not done again.
"""

import argparse
import time
from itertools import islice
from pathlib import Path

import torch
from guided import count_passes
from guided_repeatability import collect

from manifold_xai.attribution.methods import (
    BlurIG,
    EnhancedIG,
    GuidedIG,
    IntegratedGradients,
    ManifoldIG,
    ManifoldSettledIG,
    SettledIG,
)
from manifold_xai.chunks import Chunks, value_and_grad
from manifold_xai.paths.path import Step
from manifold_xai.score import score
from manifold_xai.subjects.autoencoders import digit_vae
from manifold_xai.subjects.classifiers import digit_classifier, imagenet_classifier
from manifold_xai.subjects.data import digits
from manifold_xai.subjects.sources import image_folder

RESULTS = Path(__file__).parent / "results" / "tolerance_{}.json"
LIMIT = 1600  # steps of the map that all are held against
FIXED = [n for n in range(10, 801) if LIMIT % n == 0]  # its points hold those of these numbers
PUBLISHED = 200  # n_steps where nobody says otherwise


def norm(A):
    return A.flatten(1).norm(dim=1)


def asked(f, points, x, batch):
    """The points with their gradients and scores, a chunk of them at a time."""
    rows, points, chunks = torch.arange(len(x)), iter(points), Chunks.of(x, batch)
    while run := list(islice(points, max(1, chunks.batch // len(x)))):
        value, grad = value_and_grad(f, torch.cat(run), rows.repeat(len(run)), chunks)
        yield from map(Step, run, grad.split(len(x)), value.split(len(x)))


def of_fixed_steps(gamma, f, x, batch):
    """{steps: map} of one curve, for FIXED and LIMIT: the finest points are those of all."""
    points = gamma.curve([i / LIMIT for i in range(LIMIT + 1)], torch.arange(len(x)))
    maps, last = {n: torch.zeros_like(x) for n in [*FIXED, LIMIT]}, {}
    for i, here in enumerate(asked(f, points, x, batch)):
        for n, A in maps.items():
            if i % (LIMIT // n) == 0:
                if n in last:
                    A += (last[n].grad + here.grad) / 2 * (here.x - last[n].x)
                last[n] = here
    return maps


def with_tol(network, method, x, y, tol, batch, **more):
    """Map, estimate, steps, passes and seconds a row."""
    start, found = time.process_time(), []
    passes = count_passes(
        network,
        lambda: found.append(
            method.attribute(x, target=y, tol=tol, internal_batch_size=batch, **more)
        ),
    )[1]
    error, steps, _ = method.reached
    seconds = (time.process_time() - start) / len(x)
    many = torch.ones(len(x))
    return found[0], dict(estimate=error, steps=steps, passes=passes * many / len(x), seconds=seconds * many)


def published(network, method, x, y, batch):
    """Map, passes and seconds a row of the number of steps that is taken where nobody says otherwise."""
    start, found = time.process_time(), []
    how = dict(target=y, n_steps=PUBLISHED, internal_batch_size=batch)
    passes = count_passes(network, lambda: found.append(method.attribute(x, **how)))[1]
    seconds = (time.process_time() - start) / len(x)
    many = torch.ones(len(x))
    return found[0], dict(passes=passes * many / len(x), seconds=seconds * many)


def measure(network, preprocess, autoencoder, x, tol, batch=None):
    """{method: {quantity: one number a row}} for the rows of x."""
    every = score(network, preprocess=preprocess)
    f = every.at(x)
    y, how = f.target, dict(check=False)
    methods = {"IG": IntegratedGradients(every, **how), "BlurIG": BlurIG(every, **how)}
    methods["Settled IG"] = SettledIG(every, **how)
    if autoencoder is not None:
        methods["EIG"] = EnhancedIG(every, autoencoder, **how)
        methods["MIG"] = ManifoldIG(every, autoencoder, **how)
        methods["Settled MA-GIG"] = ManifoldSettledIG(every, autoencoder, **how)
    found = {}
    for name, method in methods.items():
        A, row = with_tol(network, method, x, y, tol, batch)
        usual, cost = published(network, method, x, y, batch)
        draw = method.settled(f, 0 * x, x, batch) if name == "MIG" else None
        gamma = draw or method.path(f, torch.zeros_like(x), x, LIMIT, batch)
        maps = of_fixed_steps(gamma, f, x, batch)
        limit = maps.pop(LIMIT)
        row["error"] = norm(A - limit) / norm(limit)
        row |= {f"error at {n}": norm(B - limit) / norm(limit) for n, B in maps.items()}
        row |= {f"{key} at {PUBLISHED}": v for key, v in cost.items()}
        row["error as published"] = norm(usual - limit) / norm(limit)
        found[name] = row
    if autoencoder is not None:
        _, found["GIG"] = with_tol(network, GuidedIG(every, **how), x, y, 0.05, batch, max_steps=192)
    return {
        name: {key: [round(v, 5) for v in q.tolist()] for key, q in row.items()}
        for name, row in found.items()
    }


def told(variants, tol):
    """The table: worst errors, passes, and what a fixed number of steps needs for the same."""
    print(
        f"\ntol={tol:g}\n{'method':16s}{'passes':>8s}{'worst':>8s}{'safe':>6s}"
        f"{'of 200':>8s}{'fixed, as good':>16s}{'passes':>8s}{'seconds':>9s}{'at 200':>8s}"
    )
    for name, row in variants.items():
        if "error" not in row:
            reached = sum(e <= 0.05 for e in row["estimate"])
            print(f"{name:16s} reaches an estimate of 5 % for {reached} of {len(row['estimate'])} rows")
            continue
        n, worst = len(row["error"]), max(row["error"])
        safe = sum(a <= b for a, b in zip(row["error"], row["estimate"])) / n
        mean = {key: sum(row[key]) / n for key in row}
        fixed = sorted(int(key.split()[-1]) for key in row if key.startswith("error at"))
        good = next((k for k in fixed if max(row[f"error at {k}"]) <= max(worst, 1e-5)), None)
        walks = 2 if "Settled" in name else 1
        print(
            f"{name:16s}{mean['passes']:8.1f}{worst:8.4f}{safe:6.2f}"
            f"{mean['passes'] / mean['passes at 200']:8.2f}{good or '> 400':>16}"
            f"{walks * good + walks if good else 0:8d}{mean['seconds']:9.3f}{mean['seconds at 200']:8.3f}"
        )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--what", choices=("digits", "photographs"), default="digits")
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--tol", type=float, default=0.01)
    parser.add_argument("--batch", type=int, help="rows done and kept together")
    parser.add_argument("--data-root")
    parser.add_argument("--results", type=Path)
    parser.add_argument("--quick", action="store_true", help="two rows, nothing kept")
    args = parser.parse_args()
    args.results = args.results or Path(str(RESULTS).format(args.what))
    args.rows, args.batch = (2, 2) if args.quick else (args.rows, args.batch)
    torch.set_num_threads(1)
    images, measured = subject(args)
    kept = collect("tolerance", args, images, measured, ("what", "rows", "tol"))
    told(kept["variants"], args.tol)


def subject(args):
    """The images, and what measures those of a slice."""
    if args.what == "digits":
        images, network = digits("test"), digit_classifier("smooth")
        network.to(memory_format=torch.channels_last)
        preprocess, autoencoder = None, digit_vae("silu")
        args.batch = args.batch or 10
    else:
        images = image_folder(Path(args.data_root) / "imagenet-val", 112).load(args.rows)
        network, preprocess = imagenet_classifier("efficientnet_lite0")
        autoencoder, args.batch = None, args.batch or 2
    images = images._replace(x=images.x[: args.rows], rows=images.rows[: args.rows])
    return images, lambda at: measure(network, preprocess, autoencoder, images.x[at], args.tol)


if __name__ == "__main__":
    main()
