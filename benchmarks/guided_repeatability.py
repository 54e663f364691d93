"""Does a guided map come back? Signed maps again in float64 and after 1e-6 noise on the input,
and what each order of features costs in DiffID.

    python benchmarks/guided_repeatability.py --data-root FOLDER
        (64 photographs, 15 minutes on one core)
    python benchmarks/guided_repeatability.py --quick

FOLDER holds `imagenet-sample`; without it the eight photographs that ship with scikit-image and
scikit-learn are used. Photographs that are in the result file already are not done again.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from manifold_xai.attribution.integral import path_attribution
from manifold_xai.course.provenance import is_of, write_result
from manifold_xai.subjects import store
from manifold_xai.subjects.classifiers import folded, imagenet_classifier
from manifold_xai.subjects.data import Images
from manifold_xai.subjects.sources import image_folder, photographs
from manifold_xai.evaluation.removal import channel_mean, diffid
from manifold_xai.paths.blur import blur
from manifold_xai.paths.guided import guided_path, mean_gradient, settled_path
from manifold_xai.paths.straight import straight_path
from manifold_xai.score import score

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "guided_repeatability.json"


PUBLISHED = "greedy, left rule (published)"


def drawn(f, x, steps, order, random, which):
    """Each variant's name and map on the rows of x; one walk of the greedy path is read by both
    rules. which: "main", "again" or "all"."""
    x0 = torch.zeros_like(x)
    yield "straight", path_attribution(f, straight_path(x0, x, steps))
    greedy = list(guided_path(f, x0, x, steps).walk())
    yield PUBLISHED, path_attribution(f, greedy, rule="left")
    yield "greedy", path_attribution(f, greedy)
    del greedy
    yield "settled, window 0.5", path_attribution(f, settled_path(f, x0, x, steps, 0.5, order))
    if which != "main":
        yield (
            "mean order, groups of 0.1",
            path_attribution(f, guided_path(f, x0, x, steps, order=order)),
        )
    if which != "again":
        yield (
            "random order, window 0.5",
            path_attribution(f, settled_path(f, x0, x, steps, 0.5, random)),
        )
    if which == "all":
        authors = guided_path(f, x0, x, steps, fraction=0.25, max_dist=0.02)
        yield (
            "greedy, left rule, fraction 0.25, corridor 0.02 (authors' defaults)",
            path_attribution(f, authors, rule="left"),
        )
        for window in (0.1, 0.9):
            yield (
                f"settled, window {window:g}",
                path_attribution(f, settled_path(f, x0, x, steps, window, order)),
            )


def likeness(A, B):
    """Cosine of signed maps, and rank correlation of the blurred |A|, (b,) each."""
    ranks = [
        blur(M.abs().sum(1, keepdim=True), 4.0).flatten(1).argsort(dim=1).argsort(dim=1).float()
        for M in (A, B)
    ]
    ranks = [r - r.mean(1, keepdim=True) for r in ranks]
    return F.cosine_similarity(A.double().flatten(1), B.double().flatten(1)), F.cosine_similarity(
        *ranks
    )


def measure(network, x, steps, fill, wide):
    """One list per variant and quantity over the photographs of x; noise,
    float64 and the lesser variants only where `wide`."""
    model, preprocess = network
    n, generator = len(x), torch.Generator().manual_seed(1)
    noise, random = (
        1e-6 * torch.randn(x.shape, generator=generator),
        torch.rand(x.shape, generator=generator),
    )
    y, found, maps = model(preprocess(x)).argmax(1), {}, {}
    copies = 2 if wide else 1
    f, both = (
        score(model, y.repeat(copies), preprocess=preprocess),
        torch.cat([x, x + noise][:copies]),
    )
    own, order = (
        score(model, y, preprocess=preprocess),
        mean_gradient(f, torch.zeros_like(both), both, steps),
    )
    for name, (A, gap, _) in drawn(
        f, both, steps, order, random.repeat(copies, 1, 1, 1), "all" if wide else "main"
    ):
        maps[name] = A[:n]
        found[name] = dict(diffid=diffid(own, A[:n], x, fill), gap=gap[:n].abs())
        if wide:
            found[name]["noise"], found[name]["noise_rank"] = likeness(A[:n], A[n:])
    if wide:
        f, x = score(model.double(), y, preprocess=preprocess), x.double()
        for name, (A, _, _) in drawn(
            f, x, steps, mean_gradient(f, torch.zeros_like(x), x, steps), random, "again"
        ):
            found[name]["float64"], found[name]["float64_rank"] = likeness(maps[name], A)
        model.float()
    return {
        name: {k: [round(v, 4) for v in q.tolist()] for k, q in row.items()}
        for name, row in found.items()
    }


def arguments(doc, results, **defaults):
    """The options of a repeatability benchmark, `defaults` in place of ours;
    --quick makes them tiny."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photographs", type=int, default=64)
    parser.add_argument(
        "--wide",
        type=int,
        default=16,
        help="photographs that are also done with noise, in float64, by all variants",
    )
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--data-root")
    parser.add_argument("--results", type=Path, default=results)
    parser.add_argument(
        "--quick", action="store_true", help="two photographs, ten steps, nothing kept"
    )
    parser.set_defaults(**defaults)
    args = parser.parse_args()
    if args.quick:
        args.photographs, args.wide, args.steps, args.batch = 2, 1, 10, 1
    return args


def fastest(network, size):
    """The same network, (model, preprocess), in the form that a CPU runs fastest."""
    model = folded(network.model, torch.zeros(1, 3, size, size))
    return network._replace(model=model.to(memory_format=torch.channels_last))


def right_photographs(network, size, n, root):
    """n photographs on which no network was trained and that the network gets right, in a random
    but fixed order; without `imagenet-val` below the root, those that ship."""
    folder = store.data_root(root) / "imagenet-val"
    if not folder.is_dir():
        return photographs(size, n, root=root)
    (model, preprocess), images = network, image_folder(folder, size).load()
    with torch.no_grad():
        seen = torch.cat([model(preprocess(x)).argmax(1) for x in images.x.split(20)])
    right = (seen == images.y).nonzero().squeeze(1)
    chosen = right[torch.randperm(len(right), generator=torch.Generator().manual_seed(0))[:n]]
    return Images(images.x[chosen], images.y[chosen], images.rows[chosen])


def collect(
    script, args, images, measured, options=("photographs", "wide", "steps", "size"), **notes
):
    """measured(slice) of one batch of photographs after the other, added to the result file, which
    is continued if it exists.

    options, those that name the command; notes, kept in the file. Returns what the file holds.
    """
    command = " ".join(
        [f"python benchmarks/{script}.py"] + [f"--{k} {getattr(args, k)}" for k in options]
    )
    machine = f"1 thread, {platform.machine()}, torch {torch.__version__}"
    result = dict(notes, machine=machine, seconds=0.0, rows=[], variants={})
    if args.results.exists() and not args.quick:
        result = json.loads(args.results.read_text())
        if not is_of(result, command, ROOT) or any(result.get(k) != v for k, v in notes.items()):
            raise SystemExit(
                f"{args.results} was made by\n  {result['command']}\n"
                "with other settings or other code: name another file with --results, or delete it."
            )
    for i in range(len(result["rows"]), len(images.x), args.batch):
        start, at = time.process_time(), slice(i, i + args.batch)
        for name, row in measured(at).items():
            for key, q in row.items():
                result["variants"].setdefault(name, {}).setdefault(key, []).extend(q)
        result["rows"] += images.rows[at].tolist()
        result["seconds"] = round(result["seconds"] + time.process_time() - start)
        print(f"{len(result['rows'])} images, {result['seconds']} s of one core", flush=True)
        if not args.quick:
            write_result(args.results, result, command, ROOT)
    for name, row in result["variants"].items():
        print(f"{name:68s}", "  ".join(f"{k} {sum(q) / len(q):.3f}" for k, q in row.items()))
    return result


def main():
    args = arguments(__doc__, RESULTS)
    torch.set_num_threads(1)
    network = imagenet_classifier("efficientnet_lite0")
    images = photographs(args.size, args.photographs, root=args.data_root)
    fill = channel_mean(images.x, network.preprocess)
    collect(
        "guided_repeatability",
        args,
        images,
        lambda at: measure(network, images.x[at], args.steps, fill, at.start < args.wide),
    )


if __name__ == "__main__":
    main()
