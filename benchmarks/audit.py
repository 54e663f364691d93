"""Ten claims measured again by other code, three of them on photographs: does the ledger add up?

    python benchmarks/audit.py [--data-root FOLDER] [--digits 100] [--photographs 16]
        (a quarter of an hour on one core; photographs where FOLDER has imagenet-val and taef2)

Only what is under test comes from the library: networks, autoencoders, data, and the methods'
paths. Scores, integrals, tangent spaces, removals, statistics and intervals are written here again,
in NumPy where that is possible, and the images are not those of the evidence. The result,
benchmarks/results/audit.json, has both intervals; tests/test_audit.py asks that they meet.
"""

import argparse
import json
import math
import warnings
from pathlib import Path

import numpy as np
import torch

from manifold_xai.course.provenance import write_result
from manifold_xai.paths.guided import guided_path, guided_step
from manifold_xai.paths.manifold import manifold_path
from manifold_xai.paths.manifold_guided import manifold_guided_path
from manifold_xai.subjects.autoencoders import digit_vae, taef2
from manifold_xai.subjects.classifiers import digit_classifier, imagenet_classifier
from manifold_xai.subjects.data import digits
from manifold_xai.subjects.sources import image_folder

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "audit.json"
EVIDENCE = ROOT / "nbs" / "results" / "evidence.json"
STORED = ("benchmarks/results/photographs.json", "nbs/results/42_photographs.json")


def interval(values):
    """Mean and its 95 % interval by Student's t, and n; the ledger has the bootstrap's."""
    v = np.asarray(values, dtype=float)
    half = _t(len(v)) * v.std(ddof=1) / math.sqrt(len(v))
    return [v.mean(), v.mean() - half, v.mean() + half, len(v)]


def _t(n):
    from scipy.stats import t

    return t.ppf(0.975, n - 1)


def probability(network, y):
    """The probability of a fixed class for each image, without the library's score."""

    def f(x, rows=None):
        asked = y if rows is None else y[rows]
        return torch.softmax(network(x), 1).gather(1, asked.view(-1, 1)).squeeze(1)

    return f


def slope(f, x):
    """Gradient of f at x."""
    x = x.detach().clone().requires_grad_()
    return torch.autograd.grad(f(x).sum(), x)[0]


def integral(f, points):
    """Trapezoid over a path's points, one at a time."""
    total, before, last = 0, None, None
    for x in points:
        here = slope(f, x)
        if before is not None:
            total = total + (here + last) / 2 * (x - before)
        before, last = x, here
    return total


def points_of(path):
    """A path's points, whatever else its steps carry."""
    return [getattr(step, "x", step).detach() for step in path]


def jacobian(decode, z, h=1e-4):
    """Of one latent vector, by central differences, (D, d)."""
    eye = h * torch.eye(z.numel(), dtype=z.dtype)
    with torch.no_grad():
        ahead, behind = decode(z + eye), decode(z - eye)
    return ((ahead - behind) / (2 * h)).flatten(1).T.numpy()


def tangent_share(decode, z, v):
    """Norm of v's part in the tangent space at decode(z), over v's norm, by an SVD."""
    U = np.linalg.svd(jacobian(decode, z), full_matrices=False)[0]
    v = v.flatten().double().numpy()
    return np.linalg.norm(U.T @ v) / np.linalg.norm(v)


def removed(f, A, x, fill, levels=21):
    """Areas under the score that is left as the least, or the most important pixels are removed."""
    importance = A.abs().sum(1).flatten(1).numpy()
    order = np.argsort(-importance, axis=1, kind="stable")
    with torch.no_grad():
        whole, n = f(x), importance.shape[1]
    curves = np.zeros((2, levels, len(x)))
    for i, share in enumerate(np.linspace(0, 1, levels)):
        k = round(share * n)
        for side, gone in enumerate((order[:, n - k :], order[:, :k])):
            keep = np.ones((len(x), n), bool)
            np.put_along_axis(keep, gone, False, 1)
            keep = torch.from_numpy(keep).view(len(x), 1, *x.shape[2:])
            with torch.no_grad():
                left = f(torch.where(keep, x, fill)) / whole
            curves[side, i] = left.clamp(0, 1).numpy()
    insertion, deletion = np.trapezoid(curves, dx=1 / (levels - 1), axis=1)
    return dict(insertion=insertion, deletion=deletion, diffid=insertion - deletion)


# Digits


def random_fraction():
    """BORDT-01: a Gaussian vector's norm in ten fixed directions of 1024, over all of it."""
    v = np.random.default_rng(7).standard_normal((4000, 1024))
    share = np.linalg.norm(v[:, :10], axis=1) / np.linalg.norm(v, axis=1)
    mean, low, high, n = interval(share)
    ends = sorted(abs(math.sqrt(10 / 1024) / m - 1) for m in (low, high))
    return [abs(math.sqrt(10 / 1024) / mean - 1), *ends, n]


def gradient_fraction(n):
    """BORDT-06: how tangent the logit's gradient is on decoded digits."""
    vae, draw = digit_vae("tc"), torch.Generator().manual_seed(77)
    labeller, model = digit_classifier("labeller"), digit_classifier("generated")
    z = torch.randn(20 * n, 10, generator=draw)
    with torch.no_grad():
        sure = torch.softmax(labeller(vae.decode(z)), 1).max(1).values
        z = z[torch.rand(len(z), generator=draw) < sure**2][:n]
        x = vae.decode(z)
        y = model(x).argmax(1)
    v = slope(lambda x: model(x).gather(1, y.view(-1, 1)), x)
    double = digit_vae("tc").double()
    return interval([tangent_share(double.decode, a.double(), b) for a, b in zip(z, v)])


def pulled_back(vae, x):
    """MIG-21: what is left of noise after encoding and decoding."""
    noise = 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        moved = vae.decode(vae.encode(x + noise)) - vae.decode(vae.encode(x))
    return interval(1 - moved.flatten(1).norm(dim=1) / noise.flatten(1).norm(dim=1))


def off_the_digits(points, x):
    """MIG-11: mean distance to the nearest training digit, pixel line minus geodesic."""
    known = digits("train").x.flatten(1).double().numpy()

    def away(frame):
        a = frame.flatten(1).double().numpy()
        squares = (a**2).sum(1)[:, None] + (known**2).sum(1) - 2 * a @ known.T
        return np.sqrt(np.maximum(squares, 0).min(1))

    line = [x * t for t in np.linspace(0, 1, len(points))]
    gap = np.mean([away(p) for p in line], 0) - np.mean([away(p) for p in points], 0)
    return interval(gap)


def raggedness(A):
    """Steps between neighbouring pixels over the sum of sizes."""
    steps = np.abs(np.diff(A, axis=-1)).sum((1, 2, 3)) + np.abs(np.diff(A, axis=-2)).sum((1, 2, 3))
    return steps / np.abs(A).sum((1, 2, 3))


def normal_step(model, vae, x):
    """MAGIG-02: share of a guided step from a point of the manifold that is normal to it."""
    with torch.no_grad():
        z = vae.encode(x)
        here = vae.decode(z)
        there = here.roll(1, 0)
        y = model(here).argmax(1)
    budget = (there - here).flatten(1).abs().sum(1) / 200
    v = guided_step(here, there, slope(probability(model, y), here), budget) - here
    double = digit_vae("silu").double()
    shares = [tangent_share(double.decode, a.double(), b) for a, b in zip(z, v)]
    return interval([math.sqrt(max(0.0, 1 - s**2)) for s in shares])


def of_digits(n):
    """Seven claims on digits that the evidence did not use."""
    test, fill = digits("test"), digits("train").x.mean()
    used = torch.randperm(len(test.x), generator=torch.Generator().manual_seed(0))[:200]
    free = np.setdiff1d(np.arange(200, len(test.x)), used.numpy())
    rows = np.random.default_rng(11).permutation(free)[:n]
    x, model, vae = test.x[rows], digit_classifier("smooth"), digit_vae("silu")
    with torch.no_grad():
        y = model(x).argmax(1)
    f, x0 = probability(model, y), torch.zeros_like(x)
    yield "BORDT-01", "√(k/D), k = 10, D = 1024", random_fraction()
    yield "BORDT-06", "shipped", gradient_fraction(n)
    yield "MIG-21", "noise, σ = 0.1", pulled_back(vae, x)
    yield "MAGIG-02", "digit VAE", normal_step(model, vae, x)
    curve = points_of(manifold_path(vae, x0, x, 50, segments=25))
    yield "MIG-11", "digits, to the nearest training digit", off_the_digits(curve[::2], x)
    line = [x * t for t in torch.linspace(0, 1, 51)]
    mig, ig = (integral(f, points).numpy() for points in (curve, line))
    yield "MIG-13", "cleaner than IG", interval(raggedness(ig) - raggedness(mig))
    guided = points_of(manifold_guided_path(f, vae, x0, x, 50))
    ours, theirs = (
        removed(f, A, x, fill)["diffid"] for A in (integral(f, guided), torch.from_numpy(ig))
    )
    yield "MAGIG-17", "IG, digits", interval(ours - theirs)


# Photographs


def grad_cam(network, preprocess, x, y):
    """Channels of the last feature maps, weighted by their mean slope, enlarged to x's size."""
    kept = []
    hook = network._avg_pooling.register_forward_pre_hook(lambda _, args: kept.append(args[0]))
    logit = network(preprocess(x.requires_grad_())).gather(1, y.view(-1, 1)).sum()
    hook.remove()
    weights = torch.autograd.grad(logit, kept[0])[0].mean((2, 3), keepdim=True)
    cam = (weights * kept[0]).sum(1, keepdim=True).detach()
    cam = torch.nn.functional.interpolate(cam, x.shape[2:], mode="bilinear")
    return cam - cam.amin((1, 2, 3), keepdim=True)


def others(network, preprocess, root, size, n):
    """n photographs that the network gets right, and that the evidence has not seen; and labels."""
    images = image_folder(Path(root) / "imagenet-val", size).load()
    used = {row for name in STORED for row in json.loads((ROOT / name).read_text())["rows"]}
    right = []
    for i in np.random.default_rng(3).permutation(len(images.x)):
        with torch.no_grad():
            seen = network(preprocess(images.x[i : i + 1])).argmax(1)
        if seen == images.y[i] and int(images.rows[i]) not in used:
            right.append(int(i))
        if len(right) == n:
            break
    return images.x[right], images.y[right]


def of_photographs(root, n):
    """Three claims on photographs of the data root, four at a time."""
    network, preprocess = imagenet_classifier("efficientnet_lite0")
    coder = taef2(Path(root) / "taef2")
    found = dict(cam=[], magig=[], ig=[], sure=[])
    for size in (112, 96):
        shown, labels = others(network, preprocess, root, size, n)
        colour = shown.mean((0, 2, 3), keepdim=True)
        for x, y in zip(shown.split(4), labels.split(4)):
            f, x0 = probability(lambda v: network(preprocess(v)), y), torch.zeros_like(x)
            if size == 112:
                guided = points_of(manifold_guided_path(f, coder, x0, x, 20, jump=5))
                line = [x * t for t in torch.linspace(0, 1, 51)]
                maps = dict(magig=integral(f, guided), ig=integral(f, line))
                maps["cam"] = grad_cam(network, preprocess, x, y)
                for name, A in maps.items():
                    found[name].append(removed(f, A, x.detach(), colour))
            else:
                found["sure"].append(confidence_gain(f, coder, x0, x))
        print(f"{n} photographs of {size} × {size} pixels", flush=True)

    def all_(name, part):
        return np.concatenate([r[part] for r in found[name]])

    yield (
        "MAGIG-35",
        "photographs (stored), Grad-CAM",
        interval(all_("cam", "insertion") - all_("magig", "insertion")),
    )
    yield (
        "MAGIG-14",
        "photographs (stored), DiffID, minus IG",
        interval(all_("magig", "diffid") - all_("ig", "diffid")),
    )
    where = "photographs (stored), over the index"
    yield "MAGIG-24", where, interval(np.concatenate(found["sure"]))


def confidence_gain(f, coder, x0, x):
    """Mean class confidence along the path, MA-GIG minus GIG."""
    options = dict(anchor="published")
    paths = (manifold_guided_path(f, coder, x0, x, 16, **options), guided_path(f, x0, x, 16))
    with torch.no_grad():
        curves = [np.stack([f(p).numpy() for p in points_of(path)]) for path in paths]
    ours, theirs = (np.trapezoid(c, dx=1 / (len(c) - 1), axis=0) for c in curves)
    return ours - theirs


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--data-root", default="")
    p.add_argument("--digits", type=int, default=100)
    p.add_argument("--photographs", type=int, default=16)
    p.add_argument("--quick", action="store_true", help="few images, nothing stored")
    a = p.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="this decoder is not smooth")
    if a.quick:
        a.digits, a.photographs = 12, 4
    kept, found = json.loads(EVIDENCE.read_text(encoding="utf8")), {}
    where = " --data-root FOLDER" if a.data_root else ""
    sizes = f"--digits {a.digits} --photographs {a.photographs}"
    photographs = of_photographs(a.data_root, a.photographs) if a.data_root else ()
    for part in (of_digits(a.digits), photographs):
        for claim, condition, ours in part:
            e = kept[claim]["conditions"][condition]
            theirs = [e["value"], e["low"], e["high"], e["n"]]
            meet = ours[1] <= theirs[2] and theirs[1] <= ours[2]
            found[claim] = dict(condition=condition, audit=[round(float(v), 6) for v in ours])
            found[claim] |= dict(ledger=theirs, meet=bool(meet))
            said = "meets" if meet else "MISSES"
            print(claim, condition, *(f"{v:.4g}" for v in ours), said, *theirs, flush=True)
        if not a.quick:
            command = f"python benchmarks/audit.py{where} {sizes}"
            write_result(RESULT, dict(claims=found), command, ROOT)


if __name__ == "__main__":
    main()
