"""What DiffID costs beyond its forward passes, and what it says of 64 photographs.

    python benchmarks/faithfulness.py            (500 digits, 21 shares: two minutes)
    python benchmarks/faithfulness.py --quick    (50 digits, 11 shares)
    python benchmarks/faithfulness.py --photographs 64 --data-root FOLDER
        (an hour on one core; resumes)

The first form times `diffid` against the same number of bare forward passes, in turn, on one
thread: a ratio of medians. The last writes Insertion, Deletion and DiffID of every method for
each photograph to results/faithfulness.json. FOLDER holds `imagenet-sample` and `taef2`.
Photographs that are in the file already are not done again.
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import captum.attr
import torch
import torch.nn.functional as F

from manifold_xai.attribution.catalogue import catalogue
from manifold_xai.attribution.integral import path_attribution
from manifold_xai.attribution.methods import EnhancedIG, ManifoldIG
from manifold_xai.subjects.autoencoders import taef2
from manifold_xai.subjects.classifiers import digit_classifier, imagenet_classifier
from manifold_xai.subjects.data import digits
from manifold_xai.subjects.sources import photographs
from manifold_xai.evaluation.removal import channel_mean, diffid, kept_mean, removal
from manifold_xai.paths.guided import guided_path
from manifold_xai.chunks import values
from manifold_xai.score import score
from manifold_xai.course.provenance import is_of, write_result
from manifold_xai.files import data_root

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "faithfulness.json"


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


def grad_cam(f, x):
    """Grad-CAM (Selvaraju et al. 2017) at the last convolution, enlarged to x,
    in each channel alike."""
    layer = [module for module in f.model.modules() if isinstance(module, torch.nn.Conv2d)][-1]
    cam = captum.attr.LayerGradCam(f.model, layer).attribute(
        f.preprocess(x).requires_grad_(), target=f.target, relu_attributions=True
    )
    cam = F.interpolate(cam.detach(), x.shape[2:], mode="bilinear", align_corners=False)
    return cam.expand_as(x)


def maps_of(f, autoencoder, x, target, steps, generator):
    """Each method's map of x, by name, one after the other."""
    any_class = score(f.model, preprocess=f.preprocess)
    # another photograph of the batch; with batches of one class they would be the image's own
    references = x.roll(1, 0)
    ways = catalogue(
        any_class, autoencoder, steps=steps, generator=generator, references=references
    )
    for name in (
        "Saliency",
        "Input × Gradient",
        "SmoothGrad",
        "Smooth IG",
        "IG",
        "BlurIG",
        "GIG",
        "Settled IG",
        "IG2",
        "AGI",
        "EIG",
        "MA-GIG",
        "Settled MA-GIG",
    ):
        yield name, ways[name](x, target)
    yield (
        "MIG",
        ManifoldIG(any_class, autoencoder, geodesic=dict(iterations=5)).attribute(
            x, target=target, n_steps=max(1, steps * 2 // 5)
        ),
    )
    yield (
        "EIG, raw ends",
        EnhancedIG(any_class, autoencoder, anchor=True).attribute(x, target=target, n_steps=steps),
    )
    yield (
        "GIG, random order",
        path_attribution(
            f, guided_path(f, torch.zeros_like(x), x, steps, order="random", generator=generator)
        ).A,
    )
    yield "Grad-CAM", grad_cam(f, x)
    yield "random", torch.randn(x.shape, generator=generator)
    yield "intensity", x


def judged(f, A, x, fill):
    """DiffID in our protocol, Insertion and Deletion, per channel value, and the published counts;
    one list each."""
    ours = removal(f, A, x, fill)
    n = x[0].numel()
    nine = [int(i / 10 * n) / n for i in range(1, 10)]
    found = dict(diffid=ours.diffid, insertion=ours.insertion, deletion=ours.deletion)
    found["per channel"] = diffid(f, A, x, fill, per="channel")
    found["published, hard"] = diffid(
        f, A, x, kept_mean, levels=nine, per="channel", measure="accuracy"
    )
    return {key: [round(v, 4) for v in q.tolist()] for key, q in found.items()}


def evidence(args):
    """Judge the photographs that are not in the file yet, and print the means."""
    model, preprocess = imagenet_classifier("efficientnet_lite0")
    autoencoder, images = (
        taef2(data_root(args.data_root) / "taef2"),
        photographs(args.size, args.photographs, root=args.data_root),
    )
    fill = channel_mean(images.x, preprocess)
    command = (
        f"python benchmarks/faithfulness.py --photographs {args.photographs} "
        f"--steps {args.steps} --size {args.size} --data-root FOLDER"
    )
    machine = f"1 thread, {platform.machine()}, torch {torch.__version__}"
    result = dict(machine=machine, seconds=0.0, rows=[], methods={})
    if args.results.exists():
        result = json.loads(args.results.read_text())
        if not is_of(result, command, ROOT):
            raise SystemExit(
                f"{args.results} was made by\n  {result['command']}\n"
                "or with other code: name another file with --results, or delete it."
            )
    for i in range(len(result["rows"]), len(images.x), args.batch):
        start, x = time.process_time(), images.x[i : i + args.batch]
        target = values(score(model, preprocess=preprocess), x).argmax(1)
        f = score(model, target, preprocess=preprocess)
        for name, A in maps_of(
            f, autoencoder, x, target, args.steps, torch.Generator().manual_seed(i)
        ):
            for key, q in judged(f, A.detach(), x, fill).items():
                result["methods"].setdefault(name, {}).setdefault(key, []).extend(q)
            if args.verbose:
                print(f"  {name} {time.process_time() - start:.0f} s", flush=True)
        result["rows"] += images.rows[i : i + args.batch].tolist()
        result["seconds"] = round(result["seconds"] + time.process_time() - start)
        print(f"{len(result['rows'])} photographs, {result['seconds']} s of one core", flush=True)
        write_result(args.results, result, command, ROOT)
    for name, row in sorted(result["methods"].items(), key=lambda item: -sum(item[1]["diffid"])):
        print(f"{name:18s}", "  ".join(f"{k} {sum(q) / len(q):.3f}" for k, q in row.items()))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--photographs", type=int, default=0)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--data-root")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.photographs:
        evidence(args)
    else:
        timing(*(50, 11, 3) if args.quick else (500, 21, 3))


if __name__ == "__main__":
    main()
