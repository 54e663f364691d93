"""How often each method makes the host wait for its device: a number read, a copy to the host.

    python benchmarks/waits.py            (four digits, 50 and 100 steps, a minute or two)

Counted on a device that is the CPU under another name (`tests/device`, which needs a C++
compiler). What the door asks for once is told apart from what a longer path adds: the
difference between the two lengths, for each further segment.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "device"))

import pretend
import torch

from manifold_xai.attribution.catalogue import catalogue
from manifold_xai.score import score
from manifold_xai.subjects.autoencoders import digit_vae
from manifold_xai.subjects.classifiers import digit_classifier
from manifold_xai.subjects.data import digits


def waited(name, steps, digit, refer, networks):
    """How often the host waits while the method explains `digit`."""
    model, vae = networks
    method = catalogue(score(model), vae, steps=steps, references=refer)[name]
    before = pretend.waits()
    method(digit, torch.zeros(len(digit), dtype=torch.long, device=digit.device))
    return pretend.waits() - before


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--digits", type=int, default=4)
    args = parser.parse_args()
    device = torch.device("pretend")
    networks = digit_classifier("smooth").to(device), digit_vae("silu").to(device)
    test, train = digits("test"), digits("train")
    digit, refer = test.x[: args.digits].to(device), train.x[:20].to(device)
    print(f"{'method':20s} {'50 steps':>9s} {'100 steps':>9s} {'a further segment':>18s}")
    for name in catalogue(score(networks[0]), networks[1], references=refer):
        few, many = (waited(name, steps, digit, refer, networks) for steps in (50, 100))
        print(f"{name:20s} {few:9d} {many:9d} {(many - few) / 50:18.2f}")


if __name__ == "__main__":
    main()
