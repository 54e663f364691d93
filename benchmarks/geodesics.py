"""Geodesics on the MNIST VAE, black to held-out digits, all solvers batched over the same paths;
and lengths on worlds with closed forms.

    python benchmarks/geodesics.py
        (64 digits, 50 segments: about ten minutes on one quiet core)
    python benchmarks/geodesics.py --quick    (8 digits)

A pass decodes and differentiates every frame of every path at 50 segments once, or asks for one
Jacobian column there. "armijo" is MIG's Algorithm 1 with the sign corrected and its stop rule off.
Bars: (a) a solver passes armijo's mean energy in ≤ 1/50 of its time; (b) the default's paths lie
within 1 % of their own limit, ten more steps lowering E by < 0.1 %, for ≥ 95 %; unevenness of
the chords ≤ 2 % on paths called converged; length on worlds within 1e-3 at 50 segments, order 2.
On a machine that does other things too, --cpu counts the processor's seconds instead of the
clock's. Short races are repeated --rounds times and their medians taken; armijo runs once.
"""

import argparse
import math
import os
import platform
import statistics
import time

import torch

from manifold_xai.subjects.autoencoders import digit_vae
from manifold_xai.subjects.data import digits
from manifold_xai.geometry import worlds
from manifold_xai.geometry.decoder import path_chords
from manifold_xai.geometry.geodesic import geodesic
from manifold_xai.geometry.latent import resample, slerp, unevenness
from manifold_xai.geometry.metric import latent_line, path_energy

T = 50


def at_fifty(decode, gamma_z):
    with torch.no_grad():
        even = gamma_z.new_ones(len(gamma_z) - 1, gamma_z.shape[1])
        return path_energy(decode, resample(gamma_z, even, T) if len(even) != T else gamma_z)


def race(decode, z0, z1, solver, clock, every, **how):
    """Result, and marks (passes, seconds, mean energy at 50 segments);
    the clock stops while the energy is measured."""
    marks, spent, since = [], 0.0, clock()

    def watch(p):
        nonlocal spent, since
        spent += clock() - since
        passes = (p.frames + p.columns) / (len(z0) * (T + 1))
        if len(marks) < 40 or passes > marks[-1][0] + every:
            marks.append((passes, spent, at_fifty(decode, p.gamma_z).mean().item()))
        last[:] = [passes]
        since = clock()

    last = [0.0]
    result = geodesic(decode, z0, z1, T, solver, watch=watch, **how)
    return result, marks, last[0], spent + clock() - since


def passing(marks, energy):
    return next(((passes, seconds) for passes, seconds, E in marks if E <= energy), None)


def lengths():
    print(f"\n{'world':16}{'error, T = 25':>15}{'T = 50':>12}{'order':>8}{'converged':>11}")
    for name in ("cylinder", "sphere", "pseudosphere", "swiss_roll", "swiss_roll_arc"):
        world = worlds.WORLDS[name]
        z0, z1 = worlds.draw(world, 64, torch.Generator().manual_seed(0)).split(32)
        want, errors = world.distance(z0, z1), []
        for steps in (25, 50):
            found = geodesic(world, z0, z1, steps, ridge=0.0, tol=1e-10)
            errors.append(((found.L - want) / want).abs().max().item())
        print(
            f"{name:16}{errors[0]:>15.1e}{errors[1]:>12.1e}"
            f"{math.log2(errors[0] / errors[1]):>8.2f}{found.converged.sum().item():>8} of "
            f"{len(z0)}"
        )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument(
        "--cpu", action="store_true", help="processor seconds instead of the clock's"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--digits", type=int)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    clock = time.process_time if args.cpu else time.perf_counter
    n = args.digits or (8 if args.quick else 64)
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"{args.threads} thread(s), torch {torch.__version__}, "
        f"{'processor' if args.cpu else 'clock'} seconds; {n} digits, T = {T}, float32"
    )
    lengths()

    vae = digit_vae()
    x = digits("test").x[:n]
    z0, z1 = vae.encode(torch.zeros_like(x)), vae.encode(x)
    geodesic(vae.decode, z0[:2], z1[:2], 8)  # the first call loads torch's forward mode
    found, tables, short = {}, {}, ("sobolev", "gauss-newton", "quasi-newton")
    armijo = race(vae.decode, z0, z1, "gradient", clock, 20, iterations=300, tol=0.0)
    goal = armijo[0].E.mean().item()
    for _ in range(args.rounds):
        for solver in short:
            run = race(vae.decode, z0, z1, solver, clock, 5)
            tables.setdefault(solver, []).append((*passing(run[1], goal), run[2], run[3]))
            found[solver] = run[0]
    found["armijo"] = armijo[0]
    found["slerp start"] = geodesic(vae.decode, z0, z1, T, start=slerp(z0, z1, T))
    via = z1.roll(1, 0)
    found["detour start"] = geodesic(
        vae.decode,
        z0,
        z1,
        T,
        start=torch.cat([latent_line(z0, via, 25), latent_line(via, z1, 25)[1:]]),
    )
    found["no ridge"] = geodesic(vae.decode, z0, z1, T, ridge=0.0)
    found["limit"] = geodesic(vae.decode, z0, z1, T, tol=1e-7, iterations=400)
    best = torch.stack([r.E for r in found.values()]).min(0).values
    line = at_fifty(vae.decode, latent_line(z0, z1, T))

    print(
        f"\nlatent line: mean energy {line.mean():.2f}, "
        f"{100 * (line / best - 1).mean():.1f} % above the best found for each path; "
        f"armijo-300 ends at {goal:.2f} after {armijo[2]:.0f} passes, {armijo[3]:.1f} s"
    )
    print(
        f"{'solver':14}{'to armijo: passes':>18}{'seconds':>9}{'ratio':>9}{'at rest: passes':>17}"
        f"{'seconds':>9}{'excess':>9}{'< 1 %':>8}{'converged':>11}"
    )
    print(
        f"{'armijo':14}{armijo[2]:>18.0f}{armijo[3]:>9.2f}{'1':>9}{'':>26}"
        f"{100 * (armijo[0].E / best - 1).mean():>8.2f}"
        f"%{(armijo[0].E <= 1.01 * best).float().mean():>8.0%}"
        f"{armijo[0].converged.float().mean():>11.0%}"
    )
    for solver in short:
        passes, seconds, rest, total = (statistics.median(v) for v in zip(*tables[solver]))
        excess, r = found[solver].E / best - 1, found[solver]
        print(
            f"{solver:14}{passes:>18.1f}{seconds:>9.2f}{f'1/{armijo[3] / seconds:.0f}':>9}"
            f"{rest:>17.0f}{total:>9.2f}{100 * excess.mean():>8.2f}"
            f"%{(excess <= 0.01).float().mean():>8.0%}{r.converged.float().mean():>11.0%}"
        )

    ours = found["quasi-newton"]
    more = geodesic(
        vae.decode, z0, z1, T, start=ours.gamma_z, continuation=False, tol=0.0, iterations=10
    )
    fell, chords = 1 - more.E / ours.E, path_chords(vae.decode, ours.gamma_z)
    print(
        f"\ndefault: ten more steps lower E by {100 * fell.mean():.3f} % (mean), "
        f"{100 * fell.max():.3f} % (worst); by < 0.1 %: "
        f"{(fell < 1e-3).float().mean():.0%} of paths"
    )
    print(
        "default: within 1 % of its own limit (tol 1e-7): "
        f"{(ours.E <= 1.01 * found['limit'].E).float().mean():.0%}; "
        f"worst {100 * (ours.E / found['limit'].E - 1).max():.2f} %"
    )
    print(
        "default: distance to the best of all solvers and starts: "
        f"mean {100 * (ours.E / best - 1).mean():.2f} %, "
        f"worst {100 * (ours.E / best - 1).max():.2f} %"
    )
    print(
        "default: unevenness of converged paths, worst: "
        f"{unevenness(chords)[ours.converged].max():.2%}"
    )
    for name in ("quasi-newton", "no ridge"):
        between = path_energy(vae.decode, resample(found[name].gamma_z, chords.new_ones(T, n), 400))
        print(
            f"{name}: energy between the frames (400 segments) over that at them: "
            f"mean ×{(between / found[name].E).mean():.3f}, "
            f"worst ×{(between / found[name].E).max():.3f}"
        )


if __name__ == "__main__":
    with torch.no_grad():
        main()
