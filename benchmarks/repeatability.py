"""Does any method's map come back? Each method of the catalogue and its controls,
with noise of 1e-6 on the input, in float64, and with another internal batch.

    python benchmarks/repeatability.py --data-root FOLDER
        (64 photographs, 16 of them in float64, too; 71 minutes on one core: the stored results)
    python benchmarks/repeatability.py --data-root FOLDER --quick

Cosine of the signed maps and rank correlation of the blurred |A|, as in
`guided_repeatability.py`, whose options and result file these are. FOLDER holds `taef2` and
`imagenet-sample`. Methods that draw at random get the same seed each time. To save time the
geodesic gets three segments and two iterations, and AGI three classes.
"""

from pathlib import Path

import torch
from guided_repeatability import arguments, collect, likeness
from torch.func import jvp

from manifold_xai.attribution.catalogue import catalogue
from manifold_xai.attribution.methods import GuidedIG
from manifold_xai.attribution.methods import EnhancedIG, ManifoldIG
from manifold_xai.attribution.methods import IntegratedGradients
from manifold_xai.attribution.methods import AGI
from manifold_xai.subjects.autoencoders import taef2
from manifold_xai.subjects.classifiers import imagenet_classifier
from manifold_xai.subjects.data import Images
from manifold_xai.subjects.sources import photographs
from manifold_xai.score import score

RESULTS = Path(__file__).parent / "results" / "repeatability.json"
REFERENCES = 8  # further photographs, for the methods that need other images


def methods(f, autoencoder, references, steps, batch):
    """Every method by name, x and target to map, made anew so that those that draw draw alike."""
    found = catalogue(
        f,
        autoencoder,
        steps=steps,
        batch=batch,
        generator=torch.Generator().manual_seed(2),
        references=references,
    )
    how = dict(internal_batch_size=batch)
    found["MIG"] = lambda x, y: ManifoldIG(
        f, autoencoder, geodesic=dict(segments=3, iterations=2)
    ).attribute(x, target=y, n_steps=steps, **how)
    found["AGI"] = lambda x, y: AGI(f, k=3).attribute(x, target=y, n_steps=8, **how)
    return found | controls(f, autoencoder, dict(n_steps=steps, **how))


def controls(f, autoencoder, how):
    """The autoencoder without the path, the groups without the guidance,
    and three maps that do not depend on the network; each a function (x, target)."""

    def redrawn(x):
        return autoencoder.decode(autoencoder.encode(x)).detach()

    tangent = torch.Generator().manual_seed(3)  # one direction of the latents for all images
    shuffled = GuidedIG(f, order="random", generator=torch.Generator().manual_seed(4))

    def random_tangent(x, y):
        z = autoencoder.encode(x)
        u = torch.randn(z[:1].shape, generator=tangent).to(z).expand_as(z)
        return jvp(autoencoder.decode, (z,), (u,))[1].detach()

    return {
        "IG of the reconstruction": lambda x, y: IntegratedGradients(f).attribute(
            redrawn(x), baselines=redrawn(torch.zeros_like(x)), target=y, **how
        ),
        "EIG, raw ends": lambda x, y: EnhancedIG(f, autoencoder, anchor=True).attribute(
            x, target=y, **how
        ),
        "GIG, random order": lambda x, y: shuffled.attribute(x, target=y, **how),
        "random": lambda x, y: torch.randn(x.shape, generator=torch.Generator().manual_seed(5)).to(
            x
        ),
        "random tangent": random_tangent,
        "intensity": lambda x, y: x,
    }


def measure(network, autoencoder, x, references, steps, wide):
    """For each method, cosine and rank correlation of its maps under the changes,
    one number per photograph of x; float64 only where `wide`."""
    model, preprocess = network
    y, found = model(preprocess(x)).argmax(1), {}
    noise = 1e-6 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))

    def maps(x, batch=8):
        how = score(model, preprocess=preprocess), autoencoder, references.to(x), steps, batch
        return {name: method(x, y).float() for name, method in methods(*how).items()}

    first = maps(x)
    again = {"noise": maps(x + noise), "batch": maps(x, batch=3)}
    if wide:
        model.double()
        autoencoder.double()
        again["float64"] = maps(x.double())
        model.float()
        autoencoder.float()
    for name, A in first.items():
        each = {change: likeness(A, others[name]) for change, others in again.items()}
        found[name] = {
            change + end: q for change, pair in each.items() for end, q in zip(("", "_rank"), pair)
        }
    return {
        name: {k: [round(v, 4) for v in q.tolist()] for k, q in row.items()}
        for name, row in found.items()
    }


def main():
    args = arguments(__doc__, RESULTS, photographs=64, steps=10, batch=4)
    torch.set_num_threads(1)
    network = imagenet_classifier("efficientnet_lite0")
    autoencoder = taef2(Path(args.data_root) / "taef2" if args.data_root else None)
    images = photographs(args.size, args.photographs + REFERENCES, root=args.data_root)
    references, images = images.x[-REFERENCES:], Images(*(part[:-REFERENCES] for part in images))

    def measured(at):
        return measure(
            network, autoencoder, images.x[at], references, args.steps, at.start < args.wide
        )

    collect(
        "repeatability", args, images, measured, options=("photographs", "wide", "steps", "size")
    )


if __name__ == "__main__":
    main()
