"""Rounded and compiled networks against float32: how far maps move, and how long they take.

    python benchmarks/precision.py                    (the CPU, and a GPU where one is; minutes)
    python benchmarks/precision.py --device cuda --size 224 --photographs 8

A variant is *used* if every map differs from float32's by at most 1e-3 of its largest value, and
the variant is faster; a refused variant stays out of every profile (`precision` in settings.ini).
GIG chooses by ranks, which rounding reorders: its map is reported and decides nothing.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from manifold_xai.attribution.methods import GuidedIG, IntegratedGradients
from manifold_xai.score import score
from manifold_xai.subjects.classifiers import digit_classifier, imagenet_classifier
from manifold_xai.subjects.data import digits
from manifold_xai.subjects.sources import photographs

BAR = 1e-3
RESULTS = Path(__file__).parent / "results" / "precision.json"


class Rounded(nn.Module):
    """A network whose products are in bfloat16 where autocast says so; its outputs in float32."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x):
        with torch.autocast(x.device.type, torch.bfloat16):
            return self.network(x).float()


VARIANTS = {  # how the network is changed, and how exactly float32 is multiplied
    "float32": (lambda network: network, "highest"),
    "TF32": (lambda network: network, "high"),
    "bfloat16": (Rounded, "highest"),
    "compiled": (torch.compile, "highest"),
    "compiled, bfloat16": (lambda network: torch.compile(Rounded(network)), "highest"),
}


def multiply(precision):
    """Let float32 be multiplied that exactly from here on."""
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.allow_tf32 = precision != "highest"


def subjects(device, size, n, count):
    """Network, preprocessing and images: digits, photographs."""
    lite, preprocess = imagenet_classifier("efficientnet_lite0")
    return {
        f"{n} digits": (
            digit_classifier("smooth").to(device),
            None,
            digits("test").x[:n].to(device),
        ),
        f"{count} photographs of {size} px": (
            lite.to(device),
            preprocess,
            photographs(size, count).x.to(device),
        ),
    }


def clocked(work, device):
    """Result and seconds of `work`, waited for."""
    start = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return result, time.perf_counter() - start


def measured(network, preprocess, x, device, steps, rounds):
    """Maps of every variant against float32's, and median seconds, the variants taking turns."""
    target = score(network, preprocess=preprocess).at(x).target
    names = [name for name in VARIANTS if name != "TF32" or device.type == "cuda"]
    asked = {name: score(VARIANTS[name][0](network), preprocess=preprocess) for name in names}
    maps, seconds = {}, {name: [] for name in names}
    for _ in tqdm(range(rounds + 1), desc=str(device)):  # the first compiles and warms up
        for name in names:
            multiply(VARIANTS[name][1])
            method = IntegratedGradients(asked[name])
            how = dict(target=target, n_steps=steps)
            maps[name], took = clocked(lambda: method.attribute(x, **how), device)
            seconds[name].append(took)
    guided = {}
    for name in names:
        multiply(VARIANTS[name][1])
        guided[name] = GuidedIG(asked[name]).attribute(x, target=target, n_steps=steps)
    multiply("highest")
    return {name: verdict(name, maps, guided, seconds) for name in names}


def verdict(name, maps, guided, seconds):
    """What is stored about a variant, and whether it is used."""
    A, B = (m.double().flatten(1) for m in (maps[name], maps["float32"]))
    off = ((A - B).abs().amax(1) / B.abs().amax(1)).max().item()
    took = {n: sorted(s[1:])[len(s[1:]) // 2] for n, s in seconds.items()}
    ratio = took[name] / took["float32"]
    alike = torch.cosine_similarity(guided[name].flatten(1), guided["float32"].flatten(1))
    return {
        "IG, largest difference over the map's largest value": off,
        "GIG, smallest cosine": alike.min().item(),
        "seconds over float32's": round(ratio, 3),
        "used": name != "float32" and off <= BAR and ratio < 1,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", help="default: the CPU, then a GPU where one is")
    parser.add_argument("--size", type=int, default=112, help="pixels of a photograph's side")
    parser.add_argument("--photographs", type=int, default=2)
    parser.add_argument("--digits", type=int, default=32)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    there = ["cpu"] + ["cuda"] * torch.cuda.is_available()
    names = [args.device] if args.device else there
    found = {}
    for device in map(torch.device, names):
        kind = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
        for what, (network, preprocess, x) in subjects(
            device, args.size, args.digits, args.photographs
        ).items():
            rows = measured(network, preprocess, x, device, args.steps, args.rounds)
            found[f"{kind}: {what}"] = rows
            for name, row in rows.items():
                print(f"{kind}, {what}, {name}: " + ", ".join(f"{k} {v}" for k, v in row.items()))
    keep(args, found)


def keep(args, found):
    """Write what was measured, with the command that does it again."""
    from manifold_xai.course.provenance import write_result

    words = ["python benchmarks/precision.py"] + [f"--device {args.device}"] * bool(args.device)
    words += [f"--size {args.size}", f"--photographs {args.photographs}", f"--digits {args.digits}"]
    words += [f"--steps {args.steps}", f"--rounds {args.rounds}"]
    values = {"torch": torch.__version__, "threads": torch.get_num_threads(), "rows": found}
    write_result(args.out, values, " ".join(words))


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    sys.exit(main())
