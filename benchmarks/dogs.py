"""MIG's table in MIG's regime: a classifier that has learned breeds of dogs from
reconstructions is attacked and explained on reconstructions, and its maps' max-sensitivity and
infidelity are measured.

    python benchmarks/dogs.py --data-root FOLDER
        (ten breeds, 32 photographs that the network gets right: hours of one core)
    python benchmarks/dogs.py --data-root FOLDER --quick

FOLDER holds `dog-breeds` to learn from, `imagenet-val` to test on, and `taef2`. The features
are EfficientNet-Lite0's and stay frozen; the head, trained once, is kept in _out/breeds.
Photographs that are in the result file already are not done again. Numbers only: no photograph is
written. The evidence on attacks and on faithfulness read the file.
"""

import warnings
from pathlib import Path

import torch
from attacks import EPS, ITERATIONS, ig_explain, likeness, methods, plain
from guided_repeatability import ROOT, arguments, collect, fastest

from manifold_xai.evaluation.attacks import targeted_attack, unit_mass
from manifold_xai.evaluation.completeness import AddedUp
from manifold_xai.evaluation.faithfulness import max_sensitivity, probes
from manifold_xai.evaluation.infidelity import infidelity
from manifold_xai.score import score
from manifold_xai.subjects.autoencoders import taef2
from manifold_xai.subjects.breeds import breed_classifier, breeds
from manifold_xai.subjects.classifiers import reconstructed
from manifold_xai.subjects.data import Images

RESULTS = ROOT / "nbs" / "results" / "43_dogs.json"
RADII, SIGMA = (0.02, 0.1), 0.1
ASKED = ("IG", "Smooth IG", "BlurIG", "MIG")  # MIG's table
ATTACKED = ("EIG", "IG on the reconstruction")  # between IG and MIG: attacked, and no more


def measure(network, autoencoder, x, other, y, args):
    """One list per method and quantity over reconstructions x, each attacked towards the map of its
    row of `other`."""
    model, preprocess = network
    f, theirs = (score(model, preprocess=preprocess).at(v) for v in (x, other))
    explain = methods(f, autoencoder, args.steps)
    aim = unit_mass(methods(theirs, autoencoder, args.steps)["IG"](other).A)
    attacked = targeted_attack(ig_explain(f), f, x, aim, EPS, iterations=ITERATIONS).x
    g = torch.Generator().manual_seed(6)
    noisy = (x + EPS * (2 * torch.rand(x.shape, generator=g) - 1)).clamp(0, 1)
    shaken = probes(f, x, torch.zeros_like(x), SIGMA, args.shaken, generator=g)
    found = {}
    for name in (*ASKED, *ATTACKED):
        at_rest = explain[name](x)
        clean, ask = plain(at_rest), lambda v, name=name: plain(explain[name](v))
        found[name] = likeness(clean, ask(attacked), ask(noisy))
        if isinstance(at_rest, AddedUp):
            found[name]["fine"] = at_rest.fine.double()
        if name in ATTACKED:
            continue
        for r in RADII:
            again = torch.Generator().manual_seed(10)
            moved = max_sensitivity(ask, x, r, args.draws, generator=again, A=clean)
            found[name][f"moved {r:g}, raw"] = moved.raw
            found[name][f"moved {r:g}, relative"] = moved.relative
        for product in ("scaled", "raw"):
            found[name][f"infidelity, {product}"] = infidelity(clean, shaken, product)
    classes = [model(preprocess(v)).argmax(1) for v in (x, attacked)]
    found["image"] = {"right": torch.stack([c == y for c in classes]).all(0).double()}
    return {
        name: {k: [round(v, 6) for v in q.tolist()] for k, q in row.items()}
        for name, row in found.items()
    }


def partners(y):
    """For each photograph the next one of another class."""
    n = len(y)
    return torch.tensor(
        [next(j for k in range(1, n) if y[j := (i + k) % n] != y[i]) for i in range(n)]
    )


def rightly(network, x, y, n):
    """n of the images x that the network gets right, in a random but fixed order."""
    model, preprocess = network
    with torch.no_grad():
        seen = torch.cat([model(preprocess(v)).argmax(1) for v in x.split(20)])
    right = (seen == y).nonzero().squeeze(1)
    return right[torch.randperm(len(right), generator=torch.Generator().manual_seed(0))[:n]]


def main():
    how = dict(photographs=32, size=96, steps=20, wide=0, batch=4)
    args = arguments(__doc__, RESULTS, **how)
    args.draws, args.shaken, classes, learn = (1, 6, 2, 16) if args.quick else (3, 50, 10, None)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="this decoder is not smooth")
    autoencoder = taef2(Path(args.data_root) / "taef2" if args.data_root else None)
    autoencoder.to(memory_format=torch.channels_last)  # faster on a CPU
    found = breeds(args.data_root, args.size, classes, learn)
    network = breed_classifier(found, autoencoder, args.data_root, ROOT / "_out" / "breeds")
    network = fastest(network, args.size)
    images, y = reconstructed(autoencoder, found.judge, 20), found.judge.y
    chosen = rightly(network, images.x, y, args.photographs)
    images, y = Images(images.x[chosen], y[chosen], images.rows[chosen]), y[chosen]
    other = images.x[partners(y)]
    collect(
        "dogs",
        args,
        images,
        lambda at: measure(network, autoencoder, images.x[at], other[at], y[at], args),
        ("photographs", "steps", "size"),
        eps=round(EPS, 4),
        draws=args.draws,
        shaken=args.shaken,
        breeds=found.names,
    )


if __name__ == "__main__":
    main()
