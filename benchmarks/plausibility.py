"""MA-GIG's path against GIG's, and every control's, on photographs of ImageNet on which no network
here was trained: the measures of chapter 42, by image.

    python benchmarks/plausibility.py --data-root FOLDER
        [--n 100] [--steps 16] [--size 96] [--quick]

FOLDER holds imagenet-val and taef2. EfficientNet-Lite0 is explained on photographs that it gets
right, and also stands in for LPIPS' network; those that are not explained are the real images. Goes
on from what an interrupted run has left in the file named by --state, block by block. Without
--quick the result becomes nbs/results/42_photographs.json, which the chapter shows as stored
figures; paths that it holds already, of the same photographs, are not walked again. Numbers only:
no photograph is written.
"""

import argparse
import json
import platform
import time
import warnings
from pathlib import Path

import torch
from guided_repeatability import right_photographs

from manifold_xai.autoencoder import reconstruct
from manifold_xai.subjects.autoencoders import taef2
from manifold_xai.subjects.classifiers import imagenet_classifier
from manifold_xai.subjects.sources import image_folder
from manifold_xai.evaluation.plausibility import (
    along,
    feature_distance,
    free_energy,
    gaussian,
    jump_path,
    largest_step,
    prdc,
    remaining,
    support,
    taps,
)
from manifold_xai.evaluation.area import area
from manifold_xai.course.provenance import is_of, write_result
from manifold_xai.files import write_aside
from manifold_xai.paths.blur import blur_path
from manifold_xai.paths.guided import guided_path
from manifold_xai.paths.manifold import decoded_path, encoded, enhanced_path
from manifold_xai.paths.manifold_guided import manifold_guided_path
from manifold_xai.paths.straight import straight_path
from manifold_xai.chunks import values
from manifold_xai.score import score

ROOT = Path(__file__).parents[1]
STAGES = ["_blocks.2", "_blocks.4", "_blocks.10", "_blocks.15"]


def noisy(x0, x, steps, size, generator):
    """The straight line with noise on it, most in the middle, (T+1, b, ...)."""
    t = torch.linspace(0, 1, steps + 1).view(-1, *[1] * x.ndim)
    return (
        x0
        + t * (x - x0)
        + size * (4 * t * (1 - t)) * torch.randn((steps + 1, *x.shape), generator=generator)
    )


def random_walk(z0, z, steps, generator):
    """A random walk of codes that ends at z: the latent line with a Brownian bridge on it, (T+1, b,
    ...)."""
    t = torch.linspace(0, 1, steps + 1).view(-1, *[1] * z.ndim)
    w = torch.randn((steps + 1, *z.shape), generator=generator).cumsum(0) / steps**0.5
    return z0 + w - w[0] + t * (z - z0 - (w[-1] - w[0]))


def paths(f, autoencoder, x0, x, steps):
    """How each path is made: {name: () -> its points}."""
    drawn, ends = (
        lambda: torch.Generator().manual_seed(1),
        lambda: (encoded(autoencoder, end) for end in (x0, x)),
    )
    return {
        "IG": lambda: straight_path(x0, x, steps),
        "IG of the reconstruction": lambda: straight_path(
            reconstruct(autoencoder, x0), reconstruct(autoencoder, x), steps
        ),
        "BlurIG": lambda: blur_path(x, steps),
        "GIG": lambda: guided_path(f, x0, x, steps),
        "random order": lambda: guided_path(f, x0, x, steps, order="random", generator=drawn()),
        "intensity": lambda: guided_path(f, x0, x, steps, order=x),
        "EIG": lambda: enhanced_path(autoencoder, x0, x, steps, anchor="published"),
        "EIG of the reconstruction": lambda: enhanced_path(autoencoder, x0, x, steps),
        "MA-GIG": lambda: manifold_guided_path(f, autoencoder, x0, x, steps, anchor="published"),
        "MA-GIG, random order": lambda: manifold_guided_path(
            f, autoencoder, x0, x, steps, anchor="published", order="random", generator=drawn()
        ),
        "random tangent": lambda: decoded_path(
            autoencoder.decode, random_walk(*ends(), steps, drawn()), x0, x, anchor="published"
        ),
        "noise": lambda: noisy(x0, x, steps, 0.5, drawn()),
        "jump": lambda: jump_path(x0, x, steps),
    }


def block(x, autoencoder, network, preprocess, steps, have):
    """The measures along each path of a few photographs that the stored file does not have: {path:
    {measure: (T+1, b, ...)}}."""
    x0, f, eye = (
        torch.zeros_like(x),
        score(network, preprocess=preprocess).at(x),
        taps(network, [*STAGES, "_avg_pooling", "_fc"], preprocess),
    )
    with torch.no_grad():
        there = eye(x)[:4]

    def reading(points, rows):
        *stages, pooled, logits = eye(points)
        apart = feature_distance(stages, [m[rows] for m in there])
        logits = logits.float()
        confidence = logits.softmax(1)[torch.arange(len(rows)), f.target[rows]]
        return torch.cat(
            [apart[:, None], confidence[:, None], free_energy(logits)[:, None], pooled.flatten(1)],
            1,
        )

    seen = {}
    for name, draw in paths(f, autoencoder, x0, x, steps).items():
        if name in have:
            continue
        gamma = torch.stack([*draw()])
        m = along(gamma, {"left": remaining(x0, x), "reading": reading})
        perceptual, confidence, energy = m["reading"][..., :3].unbind(-1)
        seen[name] = dict(
            left=m["left"],
            perceptual=perceptual,
            confidence=confidence,
            energy=energy,
            features=m["reading"][..., 3:],
            step=largest_step(gamma)[None],
        )
    return seen


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--data-root", required=True)
    p.add_argument("--n", type=int, default=100)
    p.add_argument("--steps", type=int, default=16)
    p.add_argument("--size", type=int, default=96)
    p.add_argument("--state", default="_out/42_photographs.pt")
    p.add_argument("--quick", action="store_true", help="4 photographs, 4 steps, nothing stored")
    a = p.parse_args()
    if a.quick:
        a.n, a.steps = 4, 4
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="this decoder is not smooth")
    (network, preprocess), autoencoder = (
        imagenet_classifier("efficientnet_lite0"),
        taef2(Path(a.data_root) / "taef2"),
    )
    explained = right_photographs((network, preprocess), a.size, a.n, a.data_root)
    every = image_folder(Path(a.data_root) / "imagenet-val", a.size).load()
    about = dict(steps=a.steps, size=a.size, seed=0)
    about |= dict(n=len(explained.x), rows=explained.rows.tolist())
    file = ROOT / "nbs" / "results" / "42_photographs.json"
    command = (
        f"python benchmarks/plausibility.py --data-root FOLDER --n {a.n} "
        f"--steps {a.steps} --size {a.size}"
    )
    have = json.loads(file.read_text(encoding="utf8")) if file.exists() and not a.quick else {}
    have = have["paths"] if about.items() <= have.items() and is_of(have, command, ROOT) else {}
    settings = about | dict(have=sorted(have))
    state_file, done, start = Path(a.state), [], time.time()
    if state_file.exists() and not a.quick:
        kept = torch.load(state_file, weights_only=True)
        done = kept["done"] if kept["settings"] == settings else []
    for i in range(4 * len(done), len(explained.x), 4):
        x = explained.x[i : i + 4]
        done.append(block(x, autoencoder, network, preprocess, a.steps, have))
        if not a.quick:
            state_file.parent.mkdir(parents=True, exist_ok=True)
            with write_aside(state_file) as aside:
                torch.save(dict(settings=settings, done=done), aside)
        print(f"{4 * len(done)} photographs, {time.time() - start:.0f} s", flush=True)
    done = done[: -(-len(explained.x) // 4)]
    seen = {
        name: {key: torch.cat([d[name][key] for d in done], 1) for key in done[0][name]}
        for name in done[0]
    }
    pooled = taps(network, ["_avg_pooling"], preprocess)
    others = every.x[~torch.isin(every.rows, explained.rows)]
    others = others[:100] if a.quick else others
    real = values(lambda x: pooled(x)[0].flatten(1), others, batch=25)
    region, fit = support(real), gaussian(real)
    by_path = {}
    for name, m in seen.items():
        overlap = prdc(real, m["features"].flatten(0, 1))
        by_image = {
            "perceptual, index": area(m["perceptual"]),
            "perceptual, left": area(m["perceptual"], m["left"]),
            "confidence, index": area(m["confidence"]),
            "confidence, left": area(m["confidence"], m["left"]),
            "support": region.inside(m["features"]).mean(0),
            "Mahalanobis": area(fit.distance(m["features"])),
            "neighbour": area(region.distance(m["features"])),
            "free energy": area(m["energy"]),
            "largest step": m["step"][0],
            "coverage": overlap.coverage,
            "recall": overlap.recall,
        }
        if name == "noise":  # it moves away from x at first
            by_image = {key: value for key, value in by_image.items() if not key.endswith(", left")}
        by_path[name] = {
            key: [round(v, 5) for v in value.tolist()] for key, value in by_image.items()
        }
        print(
            f"{name}: " + ", ".join(f"{key} {value.mean():.3f}" for key, value in by_image.items())
        )
    if not a.quick:
        by_path |= have
        names = [*paths(*[None] * 5)]  # in their order
        result = dict(
            about,
            real=len(real),
            machine=platform.processor() or platform.machine(),
            paths={name: by_path[name] for name in names},
        )
        write_result(file, result, command, ROOT)
        print(file)


if __name__ == "__main__":
    main()
