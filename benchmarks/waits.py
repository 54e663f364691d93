"""How often each method makes the host wait for its device, by reading a number or copying to it.

    python benchmarks/waits.py            (four digits, 50 and 100 steps, a minute or two)

A pass is one call of the classifier, the encoder or the decoder, whatever its rows. Waits are
counted on a device that is the CPU under another name (`tests/device`, which needs a C++
compiler). Waits of the input checks, which happen once, are
told apart from those of a longer path: the difference between the two lengths, for each further
segment.
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


class Passes:
    """Counts calls of networks."""

    def __init__(self, *networks):
        self.calls = 0
        for network in networks:
            network.register_forward_hook(self.note)

    def note(self, *call):
        self.calls += 1


def waited(name, steps, digit, refer, networks, passes):
    """How often the host waits while the method explains `digit`, and in how many passes."""
    model, vae = networks
    method = catalogue(score(model), vae, steps=steps, references=refer)[name]
    before = pretend.waits(), passes.calls
    method(digit, torch.zeros(len(digit), dtype=torch.long, device=digit.device))
    return pretend.waits() - before[0], passes.calls - before[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--digits", type=int, default=4)
    args = parser.parse_args()
    device = torch.device("pretend")
    networks = digit_classifier("smooth").to(device), digit_vae("silu").to(device)
    passes = Passes(networks[0], networks[1].encoder, networks[1].decoder)
    test, train = digits("test"), digits("train")
    digit, refer = test.x[: args.digits].to(device), train.x[:20].to(device)
    heads = ("50 steps", "100 steps", "a further segment", "passes of 100", "waits a pass")
    print(f"{'method':20s} " + " ".join(f"{head:>17s}" for head in heads))
    for name in catalogue(score(networks[0]), networks[1], references=refer):
        how = digit, refer, networks, passes
        (few, _), (many, calls) = (waited(name, steps, *how) for steps in (50, 100))
        figures = f"{few:17d} {many:17d} {(many - few) / 50:17.2f} {calls:17d}"
        print(f"{name:20s} {figures} {many / calls:17.3f}", flush=True)


if __name__ == "__main__":
    main()
