"""Guided IG and MA-GIG on the MNIST32 CNN: all images in lockstep against the published form,
one image and one group of features after the other.

    python benchmarks/guided.py            (32 digits, 200 steps: about four minutes)
    python benchmarks/guided.py --quick    (8 digits, 40 steps)
    python benchmarks/guided.py --device cuda --size 256 --network resnet18 --data-root FOLDER
        (photographs, TAEF2: one line per batch, precision and compilation)

Competitors run in turn, round after round, on as many threads as there are cores (--threads says
otherwise); ratios are of medians. On a machine that does other things too, --cpu counts the
processor's seconds instead of the clock's; take one thread then. The loop is `guided_step_loop`
in the published schedule, checked here against ours before it is timed; `saliency` is the
authors' package, with and without its corridor. MA-GIG's loop decodes and differentiates each
point twice, as its code does: for the guidance, and again for the integral.
"""

import argparse
import contextlib
import os
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from manifold_xai.attribution.integral import path_attribution
from manifold_xai.autoencoder import adapt
from manifold_xai.subjects.autoencoders import digit_vae, taef2
from manifold_xai.subjects.classifiers import digit_classifier, imagenet_classifier
from manifold_xai.subjects.data import digits
from manifold_xai.subjects.sources import photographs
from manifold_xai.geometry.geodesic import published_sweeps
from manifold_xai.paths.guided import guided_path, guided_point
from manifold_xai.paths.order import guided_step_loop, places
from manifold_xai.paths.manifold import manifold_path
from manifold_xai.paths.manifold_guided import manifold_guided_path, decode_and_grad
from manifold_xai.chunks import value_and_grad
from manifold_xai.score import Score, score

counted = {"passes": 0, "rows": 0}


def row(f: Score, i):
    """The score of row i alone."""
    return Score(
        f.model, f.target if isinstance(f.target, int) else int(f.target[i]), f.output, f.preprocess
    )


def loop(f: Score, x0, x, steps, fraction=0.1):
    """Attributions of the published form, left rule, one image at a time."""
    maps = []
    for i in range(len(x)):
        own = row(f, i)
        end, position, A = x[i], x0[i], torch.zeros_like(x[i])
        total = (end - position).abs().sum()
        for step in range(1, steps + 1):
            grad = value_and_grad(own, position[None])[1][0]
            budget = (end - position).abs().sum() - total * (1 - step / (steps + 1))
            moved = (
                end if step == steps else guided_step_loop(position, end, grad, budget, fraction)
            )
            A += (moved - position) * grad
            position = moved
        maps.append(A)
    return torch.stack(maps)


def lockstep(f, x0, x, steps, fraction=0.1, max_dist=None, schedule="published"):
    """Ours, with the published options."""
    return path_attribution(
        f, guided_path(f, x0, x, steps, fraction, max_dist, schedule=schedule), rule="left"
    ).A


def manifold_loop(f: Score, autoencoder, x0, x, steps, fraction=0.05):
    """MA-GIG of the published form, left rule, one image at a time:
    decoded and differentiated for the guidance, and once more for the integral."""
    maps = []
    for i in range(len(x)):
        own = row(f, i)
        with torch.no_grad():
            position, end = autoencoder.encode(x0[i : i + 1]), autoencoder.encode(x[i : i + 1])
        total, codes = (end - position).abs().sum(), [position]
        for t in places(steps, "published")[:-1]:
            with torch.enable_grad():
                z = position.detach().requires_grad_()
                (grad,) = torch.autograd.grad(own(autoencoder.decode(z)).sum(), z)
            position = guided_step_loop(
                position, end, grad, (end - position).abs().sum() - (1 - t) * total, fraction
            )
            codes.append(position)
        A, last = torch.zeros_like(x[i : i + 1]), x0[i : i + 1]
        for k in range(1, steps + 1):
            with torch.no_grad():
                point = x[i : i + 1] if k == steps else autoencoder.decode(codes[k])
            A += (point - last) * value_and_grad(own, last)[1]
            last = point
        maps.append(A[0])
    return torch.stack(maps)


def manifold_lockstep(f, autoencoder, x0, x, steps, fraction=0.05, schedule="published"):
    """MA-GIG of ours, with the published options."""
    gamma = manifold_guided_path(
        f, autoencoder, x0, x, steps, fraction, anchor="published", schedule=schedule
    )
    return path_attribution(f, gamma, rule="left").A


def package(f: Score, x, steps, fraction=0.1, max_dist=1.0):
    """The authors' package, image by image."""
    from saliency.core import INPUT_OUTPUT_GRADIENTS, GuidedIG

    quantile, maps = np.quantile, []
    # NumPy ≥ 2.4 took the old keyword away
    np.quantile = lambda a, q, interpolation: quantile(a, q, method=interpolation)
    try:
        for i in range(len(x)):
            own = row(f, i)

            def gradients(points, call_model_args=None, expected_keys=None):
                return {
                    INPUT_OUTPUT_GRADIENTS: value_and_grad(own, torch.from_numpy(points).to(x))[
                        1
                    ].numpy()
                }

            maps.append(
                GuidedIG().GetMask(
                    x[i].numpy(), gradients, x_steps=steps, fraction=fraction, max_dist=max_dist
                )
            )
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


def count_passes(model, run):
    """Forward passes of `model` and their rows while `run()` runs."""
    counted.update(passes=0, rows=0)
    hook = model.register_forward_hook(
        lambda _, inputs, __: counted.update(
            passes=counted["passes"] + 1, rows=counted["rows"] + len(inputs[0])
        )
    )
    run()
    hook.remove()
    return counted["passes"], counted["rows"]


def digits_table(args):
    """The races on digits: Guided IG and MA-GIG, each against its loop and its own passes."""
    batch, steps, rounds = (8, 40, 1) if args.quick else (32, 200, args.rounds)
    images, model, vae = digits("test"), digit_classifier("smooth"), digit_vae("silu")
    x = images.x[:batch]
    x0, f = torch.zeros_like(x), score(model).at(x)
    print(
        f"{platform.machine()}, torch {torch.__version__}, {args.threads} thread(s), "
        f"{'processor' if args.cpu else 'wall-clock'} time; "
        f"{batch} digits, {steps} steps, median of {rounds}"
    )

    x64, f64, vae64 = x[:2].double(), score(model.double(), f.target[:2]), vae.double()
    apart = (loop(f64, 0 * x64, x64, 20) - lockstep(f64, 0 * x64, x64, 20)).abs().max()
    apart_package = (
        (package(f64, x64, 20) - lockstep(f64, 0 * x64, x64, 20, schedule="equal")).abs().max()
    )
    apart_latent = (
        (
            manifold_loop(f64, vae64, 0 * x64, x64, 20)
            - manifold_lockstep(f64, vae64, 0 * x64, x64, 20)
        )
        .abs()
        .max()
    )
    # the layout in which convolutions on a CPU are fastest, for the loop, too
    model.float().to(memory_format=torch.channels_last)
    vae.float()
    print(
        "largest differences, float64, 20 steps: "
        f"loop and lockstep {apart:.1e}, package and lockstep {apart_package:.1e}, "
        f"MA-GIG's two forms {apart_latent:.1e}"
    )

    grad, z, line = value_and_grad(f, x)[1], vae.encode(x), [i / steps * x for i in range(steps)]
    passes, rows = count_passes(model, lambda: lockstep(f, x0, x, steps))
    latent_passes, latent_rows = count_passes(
        model, lambda: manifold_lockstep(f, vae, x0, x, steps)
    )
    drawings, _ = count_passes(vae.decoder, lambda: manifold_lockstep(f, vae, x0, x, steps))
    found = race(
        {
            "GIG, lockstep": lambda: lockstep(f, x0, x, steps),
            "GIG, its passes alone": lambda: [value_and_grad(f, point) for point in line],
            "GIG, its steps alone": lambda: [
                guided_point(0.3 * x, x0, x, grad, 0.8, 0.1) for _ in range(steps)
            ],
            "GIG, loop, image by image": lambda: loop(f, x0, x, steps),
            "package `saliency`": lambda: package(f, x, steps),
            "package `saliency`, corridor 0.02": lambda: package(f, x, steps, max_dist=0.02),
            "GIG, lockstep, corridor 0.02": lambda: lockstep(
                f, x0, x, steps, max_dist=0.02, schedule="equal"
            ),
            "MA-GIG, lockstep": lambda: manifold_lockstep(f, vae, x0, x, steps),
            "MA-GIG, its passes alone": lambda: [
                decode_and_grad(f, vae.decode, z) for _ in range(steps)
            ],
            "MA-GIG, loop, image by image": lambda: manifold_loop(f, vae, x0, x, steps),
        },
        rounds,
        time.process_time if args.cpu else time.perf_counter,
    )
    for name, t in found.items():
        print(f"{name:36s} {t:8.2f} s   {1e3 * t / batch:8.2f} ms an image")
    ours, latent = found["GIG, lockstep"], found["MA-GIG, lockstep"]
    print(
        f"GIG: {passes} passes of {rows / passes:.0f} rows; "
        f"share of the time that is passes: {found['GIG, its passes alone'] / ours:.0%}"
    )
    print(
        f"GIG: loop / ours {found['GIG, loop, image by image'] / ours:.1f}, "
        f"package / ours {found['package `saliency`'] / ours:.1f}"
    )
    theirs = found["package `saliency`, corridor 0.02"]
    ours = found["GIG, lockstep, corridor 0.02"]
    print(f"within the corridor: package / ours {theirs / ours:.1f}")
    print(
        f"MA-GIG: {drawings} drawings, {latent_passes} passes of "
        f"{latent_rows / latent_passes:.0f} rows; "
        f"share of the time that is passes: {found['MA-GIG, its passes alone'] / latent:.0%}"
    )
    print(f"MA-GIG: loop / ours {found['MA-GIG, loop, image by image'] / latent:.1f}")


def network_of(name):
    """An ImageNet classifier and its preprocessing; where there are no weights they are drawn at
    random, since speed does not depend on them."""
    if name == "efficientnet_lite0":
        return imagenet_classifier(name)
    from torchvision.models import get_model

    mean, std = (
        torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    network = get_model(name, weights=None).eval().requires_grad_(False)
    return network, lambda x: (x - mean.to(x)) / std.to(x)


def photographs_table(args):
    """GIG, MA-GIG and, in float32, MIG on photographs: seconds an image for batches, precisions,
    with and without torch.compile, and the loop's for one image.

    MIG's loop is two sweeps of the published form, point by point, which hardly move the path;
    ours solves the geodesic.
    """
    device, steps = torch.device(args.device), args.steps
    network, preprocess = network_of(args.network)
    autoencoder = taef2(Path(args.data_root) / "taef2" if args.data_root else None).to(device)
    network = network.to(device)
    source = photographs(args.size, max(args.batches), root=args.data_root).x.to(device)
    x = source.repeat(-(-max(args.batches) // len(source)), 1, 1, 1)[: max(args.batches)]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    print(
        f"{name}, torch {torch.__version__}; {args.network} and TAEF2 at {args.size} pixels, "
        f"{steps} steps; seconds an image, median of {args.rounds}"
    )

    def timed(run):
        def once():
            run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        once()  # warm up, compile
        return race({"": once}, args.rounds, time.perf_counter)[""]

    x0, own = torch.zeros_like(x), score(network, preprocess=preprocess).at(x[:1])
    codes = [autoencoder.encode(v[:1]) for v in (x0, x)]
    loops = {
        "GIG": timed(lambda: loop(own, x0[:1], x[:1], steps)) if args.loops else float("nan"),
        "MA-GIG": timed(lambda: manifold_loop(own, autoencoder, x0[:1], x[:1], steps))
        if args.loops
        else float("nan"),
        "MIG": timed(lambda: published_sweeps(autoencoder.decode, *codes, steps + 1, 2, 5e-5))
        if args.loops
        else float("nan"),
    }
    for method, seconds in loops.items():
        print(f"{method:8} loop, image by image      {seconds:9.3f}")
    print(
        f"{'method':8} {'batch':>5} {'precision':>9} {'compiled':>8} {'seconds':>9} {'passes':>7} "
        f"{'loop / ours':>11}"
    )
    for compiled in (False, True) if args.compile else (False,):
        net, pair = network, autoencoder
        if compiled:
            net, pair = (
                torch.compile(network),
                adapt(autoencoder.encode, torch.compile(autoencoder.decode)),
            )
        for precision in args.precisions:
            cast = (
                torch.autocast(device.type, torch.bfloat16)
                if precision == "bf16"
                else contextlib.nullcontext()
            )
            for batch in args.batches:
                ends = x0[:batch], x[:batch]
                with cast:
                    f = score(net, preprocess=preprocess).at(ends[1])
                    seconds = {
                        "GIG": timed(lambda: lockstep(f, *ends, steps)),
                        "MA-GIG": timed(lambda: manifold_lockstep(f, pair, *ends, steps)),
                    }
                    z = autoencoder.encode(ends[1])
                    alone = {
                        "GIG": timed(lambda: [value_and_grad(f, ends[1]) for _ in range(steps)]),
                        "MA-GIG": timed(
                            lambda: [decode_and_grad(f, pair.decode, z) for _ in range(steps)]
                        ),
                    }
                    if precision == "fp32" and not compiled:
                        seconds["MIG"] = timed(
                            lambda: path_attribution(f, manifold_path(pair, *ends, steps)).A
                        )
                for method, t in seconds.items():
                    share, ratio = alone.get(method, float("nan")) / t, loops[method] * batch / t
                    print(
                        f"{method:8} {batch:5d} {precision:>9} {compiled!s:>8} {t / batch:9.3f} "
                        f"{share:7.0%} {ratio:11.1f}",
                        flush=True,
                    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--cpu", action="store_true", help="processor time instead of wall-clock time"
    )
    parser.add_argument(
        "--size",
        type=int,
        help="photographs of this size instead of digits; the options below are for these",
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--network",
        default="efficientnet_lite0",
        help="or a name of torchvision's, such as resnet18",
    )
    parser.add_argument(
        "--data-root", help="holds taef2 and, for more than eight photographs, imagenet-sample"
    )
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="each line again with torch.compile")
    parser.add_argument(
        "--no-loops", dest="loops", action="store_false", help="leave the image-by-image loops out"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    photographs_table(args) if args.size else digits_table(args)


if __name__ == "__main__":
    main()
