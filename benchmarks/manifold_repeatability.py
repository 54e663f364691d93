"""Does a manifold-guided map come back? As `guided_repeatability.py`, for paths that TAEF2 decodes.

    python benchmarks/manifold_repeatability.py --data-root FOLDER
        (64 photographs, half an hour on one core)
    python benchmarks/manifold_repeatability.py --data-root FOLDER --quick

FOLDER holds `taef2` and, for more than eight photographs, `imagenet-sample`. Photographs that
are in the result file already are not done again.
"""

from pathlib import Path

import torch
from guided_repeatability import arguments, collect, diffid, likeness

from manifold_xai.attribution.integral import path_attribution
from manifold_xai.subjects.autoencoders import taef2
from manifold_xai.subjects.classifiers import imagenet_classifier
from manifold_xai.subjects.sources import photographs
from manifold_xai.geometry.metric import latent_line
from manifold_xai.paths.manifold import anchored
from manifold_xai.paths.manifold_guided import (
    decode_and_grad,
    manifold_guided_path,
    manifold_settled_path,
)
from manifold_xai.paths.path import Step
from manifold_xai.paths.straight import straight_path
from manifold_xai.chunks import Chunks
from manifold_xai.score import score

RESULTS = Path(__file__).parent / "results" / "manifold_repeatability.json"
JUMP = 5
PUBLISHED = "greedy, ends replaced, left rule (published)"


def walked_line(f, autoencoder, x, steps):
    """The latent line from black to x as Steps, and the mean |∂F/∂z| on it: one pass for both."""
    chunks, line, total = Chunks.of(x), [], 0
    with torch.no_grad():
        z0, z = autoencoder.encode(torch.zeros_like(x)), autoencoder.encode(x)
    for position in latent_line(z0, z, steps):
        seen = decode_and_grad(f, autoencoder.decode, position, batch=chunks)
        line.append(Step(seen.x, seen.grad, seen.value))
        total = total + seen.grad_z.abs()
    return line, total / (steps + 1)


def drawn(f, autoencoder, x, steps, random, which):
    """Each variant's name and map on the rows of x; one walk of the greedy path is read twice.
    which: "main", "again" or "all"."""
    x0 = torch.zeros_like(x)
    line, order = walked_line(f, autoencoder, x, steps)
    if which != "again":
        yield "straight", path_attribution(f, straight_path(x0, x, steps))
        yield "latent line", path_attribution(f, anchored(line, x0, x, True, JUMP))
    del line
    greedy = list(manifold_guided_path(f, autoencoder, x0, x, steps, anchor=False).walk())
    yield PUBLISHED, path_attribution(f, anchored(greedy, x0, x, "published"), rule="left")
    yield "greedy", path_attribution(f, anchored(greedy, x0, x, True, JUMP))
    del greedy

    def settled(window, order):
        return path_attribution(
            f, manifold_settled_path(f, autoencoder, x0, x, steps, window, jump=JUMP, order=order)
        )

    yield "settled, window 0.5", settled(0.5, order)
    if which != "again":
        yield "random order, window 0.5", settled(0.5, random)
    if which == "all":
        yield (
            "mean order, groups of 0.05",
            path_attribution(
                f, manifold_guided_path(f, autoencoder, x0, x, steps, order=order, jump=JUMP)
            ),
        )
        for window in (0.1, 0.9):
            yield f"settled, window {window:g}", settled(window, order)


def measure(network, autoencoder, x, steps, fill, wide):
    """One list per variant and quantity over the photographs of x; noise,
    float64 and the lesser variants only where `wide`."""
    model, preprocess = network
    n, generator, copies = len(x), torch.Generator().manual_seed(1), 2 if wide else 1
    noise = 1e-6 * torch.randn(x.shape, generator=generator)
    random = torch.rand(autoencoder.encode(x).shape, generator=generator)
    y, found, maps = model(preprocess(x)).argmax(1), {}, {}
    f, both = (
        score(model, y.repeat(copies), preprocess=preprocess),
        torch.cat([x, x + noise][:copies]),
    )
    own = score(model, y, preprocess=preprocess)
    for name, (A, gap, ends) in drawn(
        f, autoencoder, both, steps, random.repeat(copies, 1, 1, 1), "all" if wide else "main"
    ):
        maps[name] = A[:n]
        found[name] = dict(
            diffid=diffid(own, A[:n], x, fill), gap=(gap + ends[:, 0] - ends[:, 1])[:n].abs()
        )
        if wide:
            found[name]["noise"], found[name]["noise_rank"] = likeness(A[:n], A[n:])
    if wide:
        f, x = score(model.double(), y, preprocess=preprocess), x.double()
        for name, (A, _, _) in drawn(f, autoencoder.double(), x, steps, random.double(), "again"):
            found[name]["float64"], found[name]["float64_rank"] = likeness(maps[name], A)
        model.float()
        autoencoder.float()
    return {
        name: {k: [round(v, 4) for v in q.tolist()] for k, q in row.items()}
        for name, row in found.items()
    }


def main():
    args = arguments(__doc__, RESULTS, steps=20, wide=8, batch=4)
    torch.set_num_threads(1)
    network = imagenet_classifier("efficientnet_lite0")
    autoencoder = taef2(Path(args.data_root) / "taef2" if args.data_root else None)
    images = photographs(args.size, args.photographs, root=args.data_root)
    fill = images.x.mean((0, 2, 3)).view(1, 3, 1, 1)
    collect(
        "manifold_repeatability",
        args,
        images,
        lambda at: measure(
            network, autoencoder, images.x[at], args.steps, fill, at.start < args.wide
        ),
    )


if __name__ == "__main__":
    main()
