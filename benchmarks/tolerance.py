"""As many steps as it takes, against numbers of steps that somebody has to guess.

    python benchmarks/tolerance.py --limit 400           (100 digits, digit CNN and VAE)
    python benchmarks/tolerance.py --what photographs --methods IG --rows 32 --data-root FOLDER
        (EfficientNet-Lite0, 112 pixels; FOLDER holds `imagenet-val`)
    python benchmarks/tolerance.py --quick

For each row and method the map with `tol` and the maps of fixed numbers of steps are compared with
one of `--limit` steps, 1,600 by default; errors are norms of differences over the norm of that map.
Where the score is smooth, 400 steps with their bends are as good: on digits they differ from 1,600
plain ones by less than 1e-4. Kept are error, estimate, steps, passes and seconds of each row.

Maps of fixed numbers of steps are computed from the limit's points, so a settled method gets the
limit's order of features at no cost; "error as published" uses an order of its own. The limit of a
settled method settles its order from as many segments as it has itself. MIG's limit lies on the
geodesic that `tol` refines; the published form solves its own geodesic for 200 segments, and
differs by that much. GIG has no limit to compare with: its estimates are kept, with at most 192
steps.

Rows that are in the result file already are not done again.
"""

import argparse
import time
from itertools import islice
from pathlib import Path

import torch
from guided import count_passes
from guided_repeatability import collect

from manifold_xai.attribution.adaptive import bends
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
from manifold_xai.paths.guided import settled_path
from manifold_xai.paths.manifold_guided import manifold_settled_path
from manifold_xai.paths.path import Step
from manifold_xai.score import score
from manifold_xai.subjects.autoencoders import digit_vae
from manifold_xai.subjects.classifiers import digit_classifier, imagenet_classifier
from manifold_xai.subjects.data import digits
from manifold_xai.subjects.sources import image_folder

NAMES = dict(digits="tolerance_digits.json", photographs="tolerance_photographs.json")
RESULTS = Path(__file__).parent / "results"
PUBLISHED = 200  # n_steps by default


def norm(A):
    return A.flatten(1).norm(dim=1)


def asked(f, points, x, batch):
    """The points with their gradients and scores, a chunk of them at a time."""
    rows, points, chunks = torch.arange(len(x)), iter(points), Chunks.of(x, batch)
    while run := list(islice(points, max(1, chunks.batch // len(x)))):
        value, grad = value_and_grad(f, torch.cat(run), rows.repeat(len(run)), chunks)
        yield from map(Step, run, grad.split(len(x)), value.split(len(x)))


def of_fixed_steps(gamma, f, x, batch, limit):
    """{steps: map} of one curve, for the limit and its divisors, which use the limit's points."""
    points = gamma.curve([i / limit for i in range(limit + 1)], torch.arange(len(x)))
    maps = {n: torch.zeros_like(x) for n in range(10, limit + 1) if limit % n == 0}
    last, kept = {}, []
    for i, here in enumerate(asked(f, points, x, batch)):
        for n, A in maps.items():
            if i % (limit // n) == 0:
                if n in last:
                    A += (last[n].grad + here.grad) / 2 * (here.x - last[n].x)
                last[n] = here
        if not gamma.straight:
            kept.append(here)
    if kept:
        maps[limit] += bends(kept)
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
    row = dict(estimate=error, steps=steps, passes=passes * many / len(x), seconds=seconds * many)
    return found[0], row


def published(network, method, x, y, batch):
    """Map, passes and seconds a row with the default number of steps."""
    start, found = time.process_time(), []
    how = dict(target=y, n_steps=PUBLISHED, internal_batch_size=batch)
    passes = count_passes(network, lambda: found.append(method.attribute(x, **how)))[1]
    seconds = (time.process_time() - start) / len(x)
    many = torch.ones(len(x))
    return found[0], dict(passes=passes * many / len(x), seconds=seconds * many)


def methods_of(every, autoencoder, names):
    """Those that were asked for, and are possible, by name."""
    how = dict(check=False)
    found = {"IG": IntegratedGradients(every, **how), "BlurIG": BlurIG(every, **how)}
    found["Settled IG"] = SettledIG(every, **how)
    if autoencoder is not None:
        found["EIG"] = EnhancedIG(every, autoencoder, **how)
        found["MIG"] = ManifoldIG(every, autoencoder, **how)
        found["Settled MA-GIG"] = ManifoldSettledIG(every, autoencoder, **how)
    found["GIG"] = GuidedIG(every, **how)
    return {name: method for name, method in found.items() if names == "all" or name in names}


def limited(method, f, x, batch, limit):
    """The path whose points the limit and fixed numbers of steps are taken from."""
    ends = torch.zeros_like(x), x
    if isinstance(method, ManifoldIG):
        return method.settled(f, *ends, batch)
    how = dict(batch=batch, order_steps=limit)
    if isinstance(method, SettledIG):
        return settled_path(f, *ends, limit, method.window, **how)
    if isinstance(method, ManifoldSettledIG):
        how |= method.settings | dict(check=False)
        return manifold_settled_path(f, method.autoencoder, *ends, limit, **how)
    return method.path(f, *ends, limit, batch)


def against_limit(network, method, f, x, args):
    """One method's quantities, one number a row each."""
    y, batch = f.target, None
    A, row = with_tol(network, method, x, y, args.tol, batch)
    usual, cost = published(network, method, x, y, batch)
    maps = of_fixed_steps(limited(method, f, x, batch, args.limit), f, x, batch, args.limit)
    limit = maps.pop(args.limit)
    row["error"] = norm(A - limit) / norm(limit)
    row |= {f"error at {n}": norm(B - limit) / norm(limit) for n, B in maps.items()}
    row |= {f"{key} at {PUBLISHED}": v for key, v in cost.items()}
    return row | {"error as published": norm(usual - limit) / norm(limit)}


def measure(network, preprocess, autoencoder, x, args):
    """{method: {quantity: one number a row}} for the rows of x."""
    every, found = score(network, preprocess=preprocess), {}
    f = every.at(x)
    for name, method in methods_of(every, autoencoder, args.methods).items():
        if name == "GIG":
            row = with_tol(network, method, x, f.target, 0.05, None, max_steps=192)[1]
        else:
            row = against_limit(network, method, f, x, args)
        found[name] = {key: [round(v, 5) for v in q.tolist()] for key, q in row.items()}
    return found


def told(variants, tol):
    """The table: worst errors, passes, and what a fixed number of steps needs for the same."""
    print(
        f"\ntol={tol:g}\n{'method':16s}{'passes':>8s}{'worst':>8s}{'safe':>6s}"
        f"{'of 200':>8s}{'fixed, as good':>16s}{'passes':>8s}{'seconds':>9s}{'at 200':>8s}"
    )
    for name, row in variants.items():
        if "error" not in row:
            reached = sum(e <= 0.05 for e in row["estimate"])
            print(
                f"{name:16s} comes within an estimated 5 % in {reached} of {len(row['estimate'])}"
            )
            continue
        n, worst = len(row["error"]), max(row["error"])
        safe = sum(a <= b for a, b in zip(row["error"], row["estimate"])) / n
        mean = {key: sum(row[key]) / n for key in row}
        fixed = sorted(int(key.split()[-1]) for key in row if key.startswith("error at"))
        good = next((k for k in fixed if max(row[f"error at {k}"]) <= max(worst, 1e-5)), None)
        walks = 2 if "Settled" in name else 1  # one for the order
        seconds = f"{mean['seconds']:9.3f}{mean['seconds at 200']:8.3f}"
        print(
            f"{name:16s}{mean['passes']:8.1f}{worst:8.4f}{safe:6.2f}"
            f"{mean['passes'] / mean['passes at 200']:8.2f}{good or 'more':>16}"
            f"{walks * good + walks if good else 0:8d}{seconds}"
        )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--what", choices=("digits", "photographs"), default="digits")
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--tol", type=float, default=0.01)
    parser.add_argument("--limit", type=int, default=1600)
    parser.add_argument("--methods", default="all", help="names, with commas")
    parser.add_argument("--batch", type=int, help="rows done and kept together")
    parser.add_argument("--data-root")
    parser.add_argument("--results", type=Path)
    parser.add_argument("--quick", action="store_true", help="two rows, nothing kept")
    args = parser.parse_args()
    args.results = args.results or RESULTS / NAMES[args.what]
    args.rows, args.batch = (2, 2) if args.quick else (args.rows, args.batch)
    torch.set_num_threads(1)
    images, measured = subject(args)
    kept = collect("tolerance", args, images, measured, ("what", "methods", "rows", "tol", "limit"))
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

    def measured(at):
        return measure(network, preprocess, autoencoder, images.x[at], args)

    return images, measured


if __name__ == "__main__":
    main()
