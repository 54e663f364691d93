"""How much of each method's time the networks take: every pass that a method asks for is noted,
repeated alone, and timed beside the method.

    python benchmarks/passes.py            (32 digits, 200 steps, MNIST32 CNN and VAE: some minutes)
    python benchmarks/passes.py --quick    (4 digits, 20 steps)
    python benchmarks/passes.py --threads 1 --methods IG GIG

A pass is the score and its gradient, or a forward pass through encoder or decoder and the
backward passes that came back through it, as many rows at once as the method sent; Jacobians
that a geodesic asks for are repeated as Jacobians. Method and bare passes run in turn, round
after round; the share is of median processor seconds. Aim: 90 % or more.
"""

import argparse
import os
import platform
import time
from collections import Counter

import torch
from guided import race
from torch import nn

from manifold_xai.attribution.catalogue import catalogue
from manifold_xai.subjects.autoencoders import digit_vae
from manifold_xai.subjects.classifiers import digit_classifier
from manifold_xai.subjects.data import digits
from manifold_xai.geometry import solvers
from manifold_xai.geometry.decoder import jacobian
from manifold_xai.chunks import value_and_grad
from manifold_xai.score import score


class Heard(nn.Module):
    """A network that notes what it is asked: [itself, one of its inputs, rows,
    backward passes]."""

    def __init__(self, inner, asked, scored=None):
        super().__init__()
        self.inner, self.asked, self.scored = inner, asked, scored

    def forward(self, x):
        out = self.inner(x)
        if self.asked.open:
            self.asked.append(entry := [self, x.detach(), len(x), 0])
            if out.requires_grad:
                out.register_hook(lambda grad: entry.__setitem__(3, entry[3] + 1))
        return out


class Asked(list):
    """Passes in their order; closed while a Jacobian, which is one entry of its own,
    goes through the decoder."""

    open = True

    def jacobian(self, decode, z, batch=None):
        self.append([lambda z: jacobian(decode, z, batch), z.detach(), len(z), 0])
        self.open = False
        try:
            return jacobian(decode, z, batch)
        finally:
            self.open = True


def bare(passes):
    """The passes again, and nothing between them."""
    for net, x, _, backs in passes:
        if not isinstance(net, Heard):
            net(x)  # a Jacobian
        elif net.scored and backs == 1:
            value_and_grad(net.scored, x)
        else:
            x = x.requires_grad_(backs > 0)
            with torch.set_grad_enabled(backs > 0):
                out = net.inner(x)
            for i in range(backs):
                torch.autograd.grad(out.sum(), x, retain_graph=i + 1 < backs)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--methods", nargs="+", help="names of the catalogue; all, if not said")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    n, steps, rounds = (4, 20, 1) if args.quick else (32, 200, args.rounds)
    x, vae, asked = digits("test").x[:n], digit_vae("silu"), Asked()
    network = digit_classifier("smooth")
    model = Heard(network, asked, score(network, 0)).eval()
    vae.encoder, vae.decoder, solvers.jacobian = (
        Heard(vae.encoder, asked),
        Heard(vae.decoder, asked),
        asked.jacobian,
    )
    methods = catalogue(
        score(model),
        vae.eval(),
        steps=steps,
        generator=torch.Generator().manual_seed(0),
        references=digits("train").x[:200],
    )
    if unknown := set(args.methods or []) - set(methods):
        parser.error(f"--methods: {sorted(unknown)} not among {', '.join(methods)}")
    print(
        f"{platform.machine()}, torch {torch.__version__}, {args.threads} thread(s); "
        f"{n} digits at once, {steps} steps, median of {rounds}; rows for each digit"
    )
    print(
        f"{'method':20s}{'s a digit':>10s}{'scored':>8s}{'back':>7s}{'drawn':>8s}{'back':>7s}"
        f"{'Jacobians':>10s}{'passes':>8s}"
    )
    for name in args.methods or methods:
        method = methods[name]
        method(x)  # the first call may load something
        asked.clear()
        method(x)
        passes, rows = [*asked], Counter()
        for net, _, k, backs in passes:
            rows.update(
                {(net, "out"): k, (net, "back"): k * backs} if isinstance(net, Heard) else {"J": k}
            )
        counts = [
            rows[key] / n
            for key in (
                (model, "out"),
                (model, "back"),
                (vae.decoder, "out"),
                (vae.decoder, "back"),
                "J",
            )
        ]
        times = race(
            {"method": lambda: method(x), "passes": lambda: bare(passes)}, rounds, time.process_time
        )
        print(
            f"{name:20s}{times['method'] / n:10.4f}{counts[0]:8.0f}{counts[1]:7.0f}"
            f"{counts[2]:8.0f}{counts[3]:7.0f}{counts[4]:10.0f}"
            f"{times['passes'] / times['method']:8.0%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
