"""Which map of a photograph is faithful? Insertion, Deletion and DiffID of MA-GIG and its rivals
through TAEF2, by photograph.

    python benchmarks/photographs.py --data-root FOLDER
        (112 photographs, some 110 s of one core each)
    python benchmarks/photographs.py --data-root FOLDER --quick

FOLDER holds `taef2` and `imagenet-val`, on which no network here was trained; EfficientNet-Lite0 is
explained on those that it gets right. Photographs that are in the result file already are not done
again. Numbers only: no photograph is written. Chapter 41 reads the file and does a few photographs
anew.
"""

import warnings
from functools import partial
from pathlib import Path

import torch
from captum.attr import LayerAttribution, LayerGradCam
from guided_repeatability import arguments, collect, fastest, right_photographs
from manifold_repeatability import JUMP, PUBLISHED, walked_line
from torch.func import jvp

from manifold_xai.attribution.integral import path_attribution
from manifold_xai.chunks import values
from manifold_xai.evaluation.completeness import added_up
from manifold_xai.attribution.captum import InputXGradient
from manifold_xai.attribution.methods import AGI, IG2
from manifold_xai.subjects.autoencoders import taef2
from manifold_xai.subjects.classifiers import imagenet_classifier
from manifold_xai.evaluation.removal import channel_mean, kept_mean, removal
from manifold_xai.geometry.geodesic import geodesic
from manifold_xai.geometry.latent import resample
from manifold_xai.geometry.metric import latent_line, path_energy
from manifold_xai.paths.blur import blur, blur_path
from manifold_xai.paths.guided import guided_path, settled_path
from manifold_xai.paths.manifold import anchored, decoded_path, enhanced_path
from manifold_xai.paths.manifold_guided import manifold_guided_path, manifold_settled_path
from manifold_xai.paths.straight import straight_path
from manifold_xai.score import score

RESULTS = Path(__file__).parent / "results" / "photographs.json"
# of MIG's geodesic, and how often it is improved; it has not converged then
SEGMENTS, SWEEPS = 4, 3
CELLS, ROUNDS = 14, 60  # of the optimised mask: cells a side, gradient steps
# of the mask's mean and of its mean step between neighbours
WEIGHTS = dict(area=0.5, variation=0.5)
FIRST = 100  # whose mean colour fills what is removed; later photographs leave it as it is
BLUR = 20.0  # width, in pixels, of the image that the mask shows in the place of what it hides


def settings(args):
    """What the numbers depend on, beside the photographs."""
    return dict(
        pixel_steps=args.steps,
        latent_steps=latent_steps(args.steps),
        jump=JUMP,
        mig_segments=SEGMENTS,
        mig_iterations=SWEEPS,
        batch=args.batch,
        mask_cells=CELLS,
        mask_rounds=ROUNDS,
        mask_weights=WEIGHTS,
        mask_blur=BLUR,
        classifier="efficientnet_lite0",
        autoencoder="taef2",
    )


def latent_steps(steps):
    return max(2, 2 * steps // 5)


def load(root, size, n):
    """The classifier with its preprocessing, TAEF2, and the photographs;
    both networks in the form in which a CPU is fastest."""
    network = fastest(imagenet_classifier("efficientnet_lite0"), size)
    autoencoder = taef2(Path(root) / "taef2" if root else None).to(
        memory_format=torch.channels_last
    )
    return network, autoencoder, right_photographs(network, size, n, root)


def grad_cam(network, x, y):
    """captum's Grad-CAM of the logits at the last feature maps, enlarged to x's size;
    shifted to begin at 0, since we rank by size, not cut off."""
    model, preprocess = network
    method = LayerGradCam(score(model, output="logit", preprocess=preprocess), model._avg_pooling)
    A = LayerAttribution.interpolate(
        method.attribute(x.clone().requires_grad_(), y, attribute_to_layer_input=True).detach(),
        x.shape[2:],
        "bilinear",
    )
    return (A - A.amin((1, 2, 3), keepdim=True)).expand_as(x) / x.shape[1]


def optimised_mask(
    f, x, other, cells=CELLS, rounds=ROUNDS, area=WEIGHTS["area"], variation=WEIGHTS["variation"]
):
    """What to keep of x, in (0, 1), like x: a coarse mask whose removal loses the score and which
    alone keeps it, after I-GOS (Qi et al. 2020).

    Parameters: f, a score of one class per row; other, images like x or one per channel, shown
    where x is hidden; the rest in this file's head.
    """
    whole, w = f(x).detach(), torch.zeros(len(x), 1, cells, cells, requires_grad=True)
    descent = torch.optim.Adam([w], 0.1)
    for _ in range(rounds):
        small = w.sigmoid()
        m = torch.nn.functional.interpolate(small, x.shape[2:], mode="bilinear")
        steps = small.diff(dim=2).abs().mean((1, 2, 3)) + small.diff(dim=3).abs().mean((1, 2, 3))
        gain = (f(x * m + other * (1 - m)) - f(x * (1 - m) + other * m)) / whole
        descent.zero_grad()
        (area * small.mean((1, 2, 3)) + variation * steps - gain).sum().backward()
        descent.step()
    return m.detach().expand_as(x)


def short_geodesic(autoencoder, x0, x, steps):
    """MIG's path with few segments, little improved, on which `steps` are laid;
    and its energy over that of the latent line, (b,)."""
    z0, z = autoencoder.encode(x0), autoencoder.encode(x)
    found = geodesic(autoencoder.decode, z0, z, SEGMENTS, iterations=SWEEPS)
    gamma_z = resample(found.gamma_z, torch.ones(SEGMENTS, len(x)), steps)
    with torch.no_grad():
        line = path_energy(autoencoder.decode, latent_line(z0, z, SEGMENTS))
    return decoded_path(autoencoder.decode, gamma_z, x0, x), found.E / line


def whole(f, x, draw, rule="trapezoid"):
    """The map along a path that `draw` makes, and what is stored of its sum: refined where it
    would not add up, except by the left rule."""
    gain = values(f, x) - values(f, torch.zeros_like(x))

    def walk(refine):
        return path_attribution(f, draw(), rule=rule, refine=None if rule == "left" else refine)

    found = added_up(walk, gain)
    return found.A, dict(gap=found.gap, gain=gain, fine=found.fine.double())


def drawn(network, autoencoder, x, rows, before, colour, steps, which="all"):
    """Each method's name and map on photographs x, and what else there is to store. before, like x:
    IG2's references; which: "all" or "again".

    "again" means only those that repeat on another computer: no greedy path, nothing slow.
    """
    model, preprocess = network
    every, x0, latents = (
        score(model, preprocess=preprocess),
        torch.zeros_like(x),
        latent_steps(steps),
    )
    f = every.at(x)
    yield (
        "random",
        torch.stack(
            [
                torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(int(row)))
                for row in rows
            ]
        ),
        {},
    )
    yield "intensity", x, {}
    yield "Input × Gradient", InputXGradient(every).attribute(x, target=f.target), {}
    yield "Grad-CAM", grad_cam(network, x, f.target), {}
    yield "IG", *whole(f, x, lambda: straight_path(x0, x, steps))
    yield "Settled IG", *whole(f, x, lambda: settled_path(f, x0, x, steps))
    line, order = walked_line(f, autoencoder, x, latents)
    yield "EIG", *whole(f, x, partial(anchored, line, x0, x, False))
    ends, how = (f, autoencoder, x0, x, latents), dict(jump=JUMP, order=order)
    yield "Settled MA-GIG", *whole(f, x, partial(manifold_settled_path, *ends, **how))
    if which == "again":
        return
    del line
    yield "GIG", *whole(f, x, lambda: guided_path(f, x0, x, steps))
    greedy = list(manifold_guided_path(f, autoencoder, x0, x, latents, anchor=False).walk())
    yield "MA-GIG", *whole(f, x, partial(anchored, greedy, x0, x, True, JUMP))
    published = whole(f, x, partial(anchored, greedy, x0, x, "published"), "left")
    yield f"MA-GIG: {PUBLISHED}", *published
    del greedy
    gamma, energy = short_geodesic(autoencoder, x0, x, latents)
    A, sums = whole(f, x, lambda: gamma)
    yield "MIG", A, sums | dict(energy=energy)
    yield "IG2", IG2(every).attribute(x, before, f.target, n_steps=steps), {}
    yield "AGI", AGI(every).attribute(x, target=f.target), {}
    yield "mask", optimised_mask(f, x, blur(x, BLUR)), {}
    yield "mask, mean colour", optimised_mask(f, x, colour), {}
    yield from controls(f, autoencoder, x, rows, steps)


def controls(f, autoencoder, x, rows, steps):
    """What a method becomes when one thing is taken from it, by name: its order, its ends,
    its jumps, its steps; and noise in the tangent space."""
    x0, latents = torch.zeros_like(x), latent_steps(steps)

    def each(like):
        return torch.stack(
            [
                torch.randn(like.shape[1:], generator=torch.Generator().manual_seed(int(row)))
                for row in rows
            ]
        )

    with torch.no_grad():
        z0, z = autoencoder.encode(x0), autoencoder.encode(x)
        ends = autoencoder.decode(z0), autoencoder.decode(z)
    yield "random tangent", jvp(autoencoder.decode, (z,), (each(z),))[1].detach(), {}
    every = x0, x, steps
    few, through = (x0, x, latents), (autoencoder, x0, x, latents)
    by_lot = dict(order=each(z).abs(), jump=JUMP)
    ways = {
        "BlurIG": lambda: blur_path(x, steps),
        "IG on the reconstruction": lambda: straight_path(*ends, steps),
        f"IG, {latents} steps": lambda: straight_path(*few),
        f"GIG, {latents} steps": lambda: guided_path(f, *few),
        "GIG, random order": lambda: guided_path(f, *every, order=each(x).abs()),
        "EIG, anchored": lambda: enhanced_path(*through, anchor=True, jump=JUMP),
        "MA-GIG, not anchored": lambda: manifold_guided_path(f, *through, anchor=False),
        "MA-GIG, random order": lambda: manifold_guided_path(f, *through, **by_lot),
    }
    for name, draw in ways.items():
        yield name, *whole(f, x, draw)


def judged(network, A, x, fill):
    """Our protocol's three numbers of each map, and the published one's, counted hard and soft:
    channel values, the mean of what is left, nine shares."""
    model, preprocess = network
    f, n = score(model, preprocess=preprocess).at(x), x[0].numel()
    ours = removal(f, A, x, fill)
    nine = [int(i / 10 * n) / n for i in range(1, 10)]
    hard, soft = (
        removal(f, A, x, kept_mean, nine, "channel", kind) for kind in ("accuracy", "ratio")
    )
    return dict(
        diffid=ours.diffid,
        insertion=ours.insertion,
        deletion=ours.deletion,
        hard_diffid=hard.diffid,
        hard_insertion=hard.insertion,
        soft_diffid=soft.diffid,
    )


def measure(network, autoencoder, images, at, colour, steps, which="all"):
    """{method: {measure: one number per photograph}} for the photographs in the slice `at`; colour,
    the mean of the FIRST, (1, 3, 1, 1). IG2's reference is the photograph before, for the first of
    all the last of the FIRST."""
    x, found = images.x[at], {}
    before = torch.cat([images.x[:FIRST][-1:], images.x])[at]
    for name, A, more in drawn(
        network, autoencoder, x, images.rows[at], before, colour, steps, which
    ):
        seen = judged(network, A.detach(), x, network[1](colour)) | more
        found[name] = {key: [round(v, 4) for v in values.tolist()] for key, values in seen.items()}
    return found


def main():
    args = arguments(__doc__, RESULTS, photographs=112, steps=50, batch=4)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="this decoder is not smooth")
    network, autoencoder, images = load(args.data_root, args.size, args.photographs)
    colour = channel_mean(images.x[:FIRST]).view(1, 3, 1, 1)
    with torch.no_grad():
        sure, predicted = torch.cat(
            [network[0](network[1](x)).softmax(1) for x in images.x.split(20)]
        ).max(1)
    notes = dict(
        settings=settings(args),
        colour=colour.flatten().tolist(),
        labels=images.y.tolist(),
        predicted=predicted.tolist(),
        probability=sure.tolist(),
    )
    collect(
        "photographs",
        args,
        images,
        lambda at: measure(network, autoencoder, images, at, colour, args.steps),
        ("photographs", "steps", "size"),
        **notes,
    )


if __name__ == "__main__":
    main()
