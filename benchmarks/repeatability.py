"""Does any method's map come back? Each method of the catalogue, with noise of 1e-6 on the input, in float64, and with another internal batch.

    python benchmarks/repeatability.py --data-root FOLDER     (16 photographs, an hour on one core: the stored results)
    python benchmarks/repeatability.py --data-root FOLDER --quick

Cosine of the signed maps and rank correlation of the blurred |A|, as in `guided_repeatability.py`, whose options and result file these are.
FOLDER holds `taef2` and `imagenet-sample`. The methods that draw get the same seed each time.
The geodesic gets three iterations and AGI three classes, as time allows.
"""

from pathlib import Path

import torch
from guided_repeatability import arguments, collect, likeness

from manifold_xai.attribution.catalogue import catalogue
from manifold_xai.attribution.manifold import ManifoldIG
from manifold_xai.attribution.neighbours import AGI
from manifold_xai.autoencoders import taef2
from manifold_xai.classifiers import imagenet_classifier
from manifold_xai.data import Images, photographs
from manifold_xai.score import score

RESULTS = Path(__file__).parent / "results" / "repeatability.json"
REFERENCES = 8  # further photographs, for the methods that need other images


def methods(f, autoencoder, references, steps, batch):
    """Every method by name, x and target to map, made anew so that those that draw draw alike."""
    found = catalogue(f, autoencoder, steps=steps, batch=batch, generator=torch.Generator().manual_seed(2), references=references)
    how = dict(internal_batch_size=batch)
    found["MIG"] = lambda x, y: ManifoldIG(f, autoencoder, geodesic=dict(iterations=3)).attribute(x, target=y, n_steps=steps, **how)
    found["AGI"] = lambda x, y: AGI(f, k=3).attribute(x, target=y, n_steps=8, **how)
    return found


def measure(network, autoencoder, x, references, steps):
    """For each method, cosine and rank correlation of its maps under the three changes, one number per photograph of x."""
    model, preprocess = network
    y, found = model(preprocess(x)).argmax(1), {}
    noise = 1e-6 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))

    def maps(x, batch=8):
        how = score(model, preprocess=preprocess), autoencoder, references.to(x), steps, batch
        return {name: method(x, y).float() for name, method in methods(*how).items()}

    first = maps(x)
    again = {"noise": maps(x + noise), "batch": maps(x, batch=3)}
    model.double(), autoencoder.double()
    again["float64"] = maps(x.double())
    model.float(), autoencoder.float()
    for name, A in first.items():
        each = {change: likeness(A, others[name]) for change, others in again.items()}
        found[name] = {change + end: q for change, pair in each.items() for end, q in zip(("", "_rank"), pair)}
    return {name: {k: [round(v, 4) for v in q.tolist()] for k, q in row.items()} for name, row in found.items()}


def main():
    args = arguments(__doc__, RESULTS, photographs=16, steps=10, batch=4)
    torch.set_num_threads(1)
    network = imagenet_classifier("efficientnet_lite0")
    autoencoder = taef2(Path(args.data_root) / "taef2" if args.data_root else None)
    images = photographs(args.size, args.photographs + REFERENCES, root=args.data_root)
    references, images = images.x[-REFERENCES:], Images(*(part[:-REFERENCES] for part in images))
    measured = lambda at: measure(network, autoencoder, images.x[at], references, args.steps)
    collect("repeatability", args, images, measured, options=("photographs", "steps", "size"))


if __name__ == "__main__":
    main()
