"""Attacks on IG of photographs, and what the maps of other methods make of the same images:
the measures of chapter 43, by photograph.

    python benchmarks/attacks.py --data-root FOLDER
        (64 photographs, of which 50 must pass MIG-17's gates; hours of one core)
    python benchmarks/attacks.py --data-root FOLDER --quick

FOLDER holds `taef2` and, for more than eight photographs, `imagenet-val`, on which no network here
was trained. EfficientNet-Lite0 is explained, from black, on those that it gets right. Each
photograph is attacked towards the IG map of the next photograph of another class; its ReLU6s are
softplus for the attacker, who draws the points of the path anew at each step, and the class stays
the same for the network itself. The last two methods explain nothing: their maps do not depend on
the network. Photographs that are in the result file already are not done again. Numbers only: no
photograph is written.
"""

from pathlib import Path

import torch
from captum.attr import NoiseTunnel
from guided_repeatability import arguments, collect, fastest, right_photographs

from torch.func import jvp

from manifold_xai.attribution.methods import GuidedIG
from manifold_xai.attribution.integral import path_attribution
from manifold_xai.chunks import values
from manifold_xai.evaluation.completeness import AddedUp, added_up, method_added_up
from manifold_xai.attribution.methods import EnhancedIG, ManifoldIG
from manifold_xai.attribution.methods import ManifoldAlignedGuidedIG
from manifold_xai.attribution.methods import BlurIG, IntegratedGradients
from manifold_xai.subjects.autoencoders import taef2
from manifold_xai.subjects.classifiers import imagenet_classifier
from manifold_xai.evaluation.attacks import (
    map_correlation,
    map_ssim,
    softened,
    targeted_attack,
    unit_mass,
)
from manifold_xai.evaluation.traced import traced_attribution
from manifold_xai.paths.blur import blur
from manifold_xai.paths.straight import straight_path
from manifold_xai.score import score

RESULTS = Path(__file__).parent / "results" / "attacks.json"
EPS, POINTS, ITERATIONS, SEGMENTS, SWEEPS, DRAWS = 8 / 255, 6, 24, 4, 2, 10


def methods(f, autoencoder, steps):
    """Maps of v by name, all from black, of the class that f names; those of paths, refined where
    they would not add up, as `AddedUp`."""
    plain, every = (
        IntegratedGradients(score(f.model, preprocess=f.preprocess)),
        score(f.model, preprocess=f.preprocess),
    )

    def redrawn(v):
        return autoencoder.decode(autoencoder.encode(v)).detach()

    def asked(method, v):
        return method_added_up(method, f, v, steps)

    def drawn():
        return torch.Generator().manual_seed(9)  # the same for a photograph and its attacked copy

    def line(x0, v):
        gain = values(f, v) - values(f, torch.zeros_like(v))
        way = straight_path(x0, v, steps)
        return added_up(lambda refine: path_attribution(f, way, refine=refine), gain)

    def smooth(v):  # the same noise for every photograph and its attacked copy
        with torch.random.fork_rng():
            torch.manual_seed(7)
            return NoiseTunnel(plain).attribute(
                v,
                nt_samples=DRAWS,
                nt_samples_batch_size=1,
                stdevs=0.15,
                target=f.target,
                n_steps=max(1, steps // 4),
            )

    def tangent(v):  # one latent direction, seen at the code of v
        z = autoencoder.encode(v)
        return jvp(autoencoder.decode, (z,), (torch.randn(z.shape, generator=drawn()),))[1].detach()

    return {
        "IG": lambda v: asked(plain, v),
        "Smooth IG": smooth,
        "BlurIG": lambda v: asked(BlurIG(every), v),
        "IG, image blurred": lambda v: line(torch.zeros_like(v), blur(v, 2.0)),
        "GIG, random order": lambda v: GuidedIG(every, order="random", generator=drawn()).attribute(
            v, target=f.target, n_steps=steps
        ),
        "IG on the reconstruction": lambda v: line(redrawn(torch.zeros_like(v)), redrawn(v)),
        "EIG": lambda v: asked(EnhancedIG(every, autoencoder), v),
        "EIG, anchored": lambda v: asked(EnhancedIG(every, autoencoder, anchor=True), v),
        "MIG": lambda v: asked(
            ManifoldIG(every, autoencoder, geodesic=dict(segments=SEGMENTS, iterations=SWEEPS)), v
        ),
        "MA-GIG": lambda v: asked(ManifoldAlignedGuidedIG(every, autoencoder), v),
        "MA-GIG, not anchored": lambda v: asked(
            ManifoldAlignedGuidedIG(every, autoencoder, anchor=False), v
        ),
        "random tangent": tangent,
        "intensity": torch.abs,
    }


def ig_explain(f):
    """IG from black on few points, each moved by up to half a segment at every call, with a graph,
    of the network that the attacker sees."""
    soft, draws = (
        score(softened(f.model), f.target, preprocess=f.preprocess),
        torch.Generator().manual_seed(8),
    )

    def explain(v, rows):
        t = torch.linspace(0, 1, POINTS + 1)
        t[1:-1] += (torch.rand(POINTS - 1, generator=draws) - 0.5) / POINTS
        return unit_mass(traced_attribution(soft, t.view(-1, 1, 1, 1, 1) * v, rows))

    return explain


ALIKE = dict(ssim=map_ssim, correlation=map_correlation)


def likeness(clean, attacked, noisy):
    """How much of a clean map is left after the attack and after noise of the same size,
    by SSIM and by correlation."""
    return {
        f"{what}_{how}": alike(clean, A)
        for what, A in (("attack", attacked), ("noise", noisy))
        for how, alike in ALIKE.items()
    }


def plain(found):
    """The map alone."""
    return (found.A if isinstance(found, AddedUp) else found).detach()


def measure(network, autoencoder, x, other, steps):
    """One list per quantity over the photographs of x, each attacked towards the map of its row of
    `other`."""
    model, preprocess = network
    f, theirs = (score(model, preprocess=preprocess).at(v) for v in (x, other))
    explain = methods(f, autoencoder, steps)
    aim = methods(theirs, autoencoder, steps)["IG"](other).A
    attacked = targeted_attack(ig_explain(f), f, x, unit_mass(aim), EPS, iterations=ITERATIONS)
    noise = (
        x + EPS * (2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(6)) - 1)
    ).clamp(0, 1)
    found = {}
    for name, ask in explain.items():
        seen = [ask(v) for v in (x, attacked.x, noise)]
        maps = [plain(v) for v in seen]
        found[name] = likeness(*maps)
        if isinstance(seen[0], AddedUp):
            found[name]["fine"] = torch.stack([v.fine for v in seen[:2]]).all(0).double()
        if name == "IG":
            found["IG, map blurred"] = likeness(*(blur(A.abs(), 2.0) for A in maps))
            found["IG, map blurred"]["fine"] = found["IG"]["fine"]
            found["target"] = {
                f"{when}_{how}": alike(A, aim)
                for when, A in zip(("before", "after"), maps)
                for how, alike in ALIKE.items()
            }
    outputs = model(preprocess(attacked.x)).argmax(1)
    change = (attacked.x - x).flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)
    found["image"] = dict(
        change=change, same_class=(outputs == f.target).double(), kept=attacked.kept
    )
    return {
        name: {k: [round(v, 4) for v in q.tolist()] for k, q in row.items()}
        for name, row in found.items()
    }


def main():
    args = arguments(__doc__, RESULTS, photographs=64, size=96, steps=12, wide=0, batch=2)
    torch.set_num_threads(1)
    network = fastest(imagenet_classifier("efficientnet_lite0"), args.size)
    autoencoder = taef2(Path(args.data_root) / "taef2" if args.data_root else None)
    images = right_photographs(network, args.size, args.photographs, args.data_root)
    with torch.no_grad():
        seen = torch.cat(
            [network.model(network.preprocess(part)).argmax(1) for part in images.x.split(16)]
        )
    n = len(seen)
    partner = torch.tensor(
        [next(j for k in range(1, n) if seen[j := (i + k) % n] != seen[i]) for i in range(n)]
    )
    notes = dict(
        eps=round(EPS, 4),
        points=POINTS,
        iterations=ITERATIONS,
        segments=SEGMENTS,
        sweeps=SWEEPS,
        draws=DRAWS,
    )
    collect(
        "attacks",
        args,
        images,
        lambda at: measure(network, autoencoder, images.x[at], images.x[partner[at]], args.steps),
        ("photographs", "steps", "size"),
        **notes,
    )


if __name__ == "__main__":
    main()
