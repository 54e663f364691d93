"""Manifold IG on the MNIST32 CNN and VAE: a converged geodesic for a batch of digits against two
sweeps of the published loop, point by point, image by image.

    python benchmarks/manifold.py            (32 digits, 200 points: some minutes)
    python benchmarks/manifold.py --quick    (4 digits, 40 points)

The published code takes two steps of 5e-5 at each point, one point and one image at a time;
`published_sweeps` is that loop, equal to its golden values. Bar: a map of MIG with a converged
geodesic costs less than those two sweeps alone. Competitors run in turn, round after round, on
as many threads as there are cores (--threads says otherwise); ratios are of medians. On a
machine that does other things too, --cpu counts the processor's seconds instead of the clock's;
take one thread then. A pass decodes and differentiates one frame (or asks for one Jacobian
column there), or scores and differentiates one image; what passes explain is (passes × seconds
of one pass) / seconds.
"""

import argparse
import os
import platform
import statistics
import time

import torch
from guided import race

from manifold_xai.attribution.integral import path_attribution
from manifold_xai.subjects.autoencoders import digit_vae
from manifold_xai.subjects.classifiers import digit_classifier
from manifold_xai.subjects.data import digits
from manifold_xai.geometry.decoder import jacobian
from manifold_xai.geometry.geodesic import geodesic, published_sweeps
from manifold_xai.geometry.metric import latent_line, path_energy
from manifold_xai.geometry.solvers import energy_gradient
from manifold_xai.paths.manifold import decoded_path, enhanced_path, lay, manifold_path
from manifold_xai.chunks import value_and_grad
from manifold_xai.score import score


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--cpu", action="store_true", help="processor time instead of wall-clock time"
    )
    parser.add_argument("--digits", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    n, points, rounds, singles = (4, 40, 1, 1) if args.quick else (args.digits, 200, args.rounds, 4)
    T, clock = points - 1, time.process_time if args.cpu else time.perf_counter
    model, vae, x = digit_classifier("smooth"), digit_vae(), digits("test").x[:n]
    x0, f = torch.zeros_like(x), score(model).at(x)
    z0, z = vae.encode(x0), vae.encode(x)
    print(
        f"{platform.machine()}, torch {torch.__version__}, {args.threads} thread(s), "
        f"{'processor' if args.cpu else 'wall-clock'} time; "
        f"{n} digits, {points} points; {rounds} round(s); "
        f"the published loop on {singles} of the digits"
    )
    geodesic(vae.decode, z0[:1], z[:1], 8)  # the first call loads torch's forward mode
    found, solving, counted, maps = {}, {}, {}, {}

    def mig(name, **how):
        start, marks = clock(), []
        found[name] = gamma = manifold_path(
            vae, x0, x, T, watch=lambda p: marks.append((p.frames, p.columns)), **how
        )
        solving.setdefault(name, []).append(clock() - start)
        # each counts from 0
        solves = [mark for mark, after in zip(marks, [*marks[1:], (0, 0)]) if after[0] < mark[0]]
        counted[name] = [sum(part) for part in zip(*solves)]
        maps[name] = path_attribution(f, gamma).A

    def sweeps():
        return [
            published_sweeps(vae.decode, z0[i : i + 1], z[i : i + 1], points, 2, 5e-5)
            for i in range(singles)
        ]

    def published():
        maps_ = []
        for i, gamma_z in enumerate(sweeps()):
            one = score(model, int(f.target[i]))
            maps_.append(
                path_attribution(
                    one, decoded_path(vae.decode, gamma_z, x0[i : i + 1], x[i : i + 1]), rule="left"
                ).A
            )
        return maps_

    line = latent_line(z0, z, T)
    some, frames = line[:: max(1, T // 10)].flatten(0, 1), n * points
    shown = vae.decode(line[T // 2])
    times = race(
        {
            "MIG": lambda: mig("default"),
            "MIG, 50 segments, laid": lambda: mig("laid", segments=min(50, T // 4)),
            "MIG, solved at every point": lambda: mig("every", segments=T),
            "EIG": lambda: path_attribution(f, enhanced_path(vae, x0, x, T)).A,
            "published loop, two sweeps": sweeps,
            "published loop, with its map": published,
            "(decode and differentiate once)": lambda: energy_gradient(vae.decode, line),
            "(Jacobians of some frames)": lambda: jacobian(vae.decode, some),
            "(decode once)": lambda: [vae.decode(part) for part in line],
            "(score and differentiate once)": lambda: [value_and_grad(f, shown) for _ in line],
        },
        rounds,
        clock,
    )
    each = {name: t / (singles if name.startswith("published") else n) for name, t in times.items()}
    for name, t in each.items():
        if not name.startswith("("):
            print(f"{name:34s}{t:9.3f} s an image")
    for name in ("MIG", "MIG, 50 segments, laid", "MIG, solved at every point", "EIG"):
        print(
            f"two sweeps / {name}: {each['published loop, two sweeps'] / each[name]:.1f}; "
            f"published map / {name}: {each['published loop, with its map'] / each[name]:.1f}"
        )
    print(
        "bar, MIG in less time than two sweeps:",
        "met" if each["MIG"] < each["published loop, two sweeps"] else "missed",
    )

    decoded, columns = counted["default"]
    frame, column = (
        times["(decode and differentiate once)"] / frames,
        times["(Jacobians of some frames)"] / (len(some) * z.shape[1]),
    )
    drawn, scored = (
        times["(decode once)"] / frames,
        times["(score and differentiate once)"] / frames,
    )
    explained, alone, own = (
        decoded * frame + columns * column + frames * drawn,
        statistics.median(solving["default"]),
        frames * (drawn + scored),
    )
    print(
        "MIG's geodesics: 12 segments solved, laid and settled: "
        f"{decoded / frames:.1f} passes and {columns / frames:.1f} Jacobian columns for each of "
        f"{points} points, and one drawing to lay them;"
        f" {alone / n:.3f} s an image, of which passes explain {explained / alone:.0%}"
    )
    print(
        f"with the map's own passes they explain {(explained + own) / times['MIG']:.0%} of MIG's "
        f"time; of EIG's {own / times['EIG']:.0%}"
    )
    with torch.no_grad():
        start, swept = (
            path_energy(vae.decode, line).mean(),
            torch.stack([path_energy(vae.decode, g)[0] for g in sweeps()]).mean(),
        )
        energies = {
            name: T / 2 * gamma.stack().diff(dim=0).flatten(2).square().sum((0, 2))
            for name, gamma in found.items()
        }
        first = path_energy(vae.decode, line[:, :singles]).mean()
    print(f"energy at {points} points: latent line {start:.2f}")
    for name, E in energies.items():
        solved = found[name].notes["geodesic"].gamma_z
        solved = solved if len(solved) == points else lay(vae.decode, solved, T)
        more = geodesic(
            vae.decode, z0, z, T, start=solved, continuation=False, iterations=10, tol=0.0
        ).E
        left = (1 - more / E).clamp(min=0)
        alike = torch.cosine_similarity(maps["every"].flatten(1), maps[name].flatten(1)).min()
        print(
            f"MIG, {name}: {E.mean():.2f}; ten further iterations save {left.mean():.3%}, "
            f"below 0.1 % for {(left < 1e-3).float().mean():.0%} of {n}; "
            f"cosine with the map solved at every point {alike:.4f} or more"
        )
    print(f"two sweeps lower the energy from {first:.2f} to {swept:.2f}")


if __name__ == "__main__":
    main()
