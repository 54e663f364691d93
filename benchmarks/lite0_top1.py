"""How often is EfficientNet-Lite0 right?

Top-1 accuracy on photographs of ImageNet's validation set, which it was not trained on.

    python benchmarks/lite0_top1.py --data-root FOLDER
        (500 photographs, two minutes on one core)
    python benchmarks/lite0_top1.py --data-root FOLDER --quick

FOLDER holds `imagenet-val`, with its labels.csv. The result becomes
nbs/results/11_efficientnet_lite0_top1.json, which the chapter on classifiers shows where it has no
photographs of its own.
"""

import argparse
import platform
from pathlib import Path

import torch
from torch import nn

from manifold_xai.course import bootstrap
from manifold_xai.course.provenance import write_result
from manifold_xai.subjects.classifiers import imagenet_classifier
from manifold_xai.subjects.sources import image_folder
from manifold_xai.subjects.training import predictions

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "nbs" / "results" / "11_efficientnet_lite0_top1.json"


def right(root, n=None):
    """1 where the most probable class is the label, (n,), at 224 pixels."""
    model, preprocess = imagenet_classifier("efficientnet_lite0")
    images = image_folder(Path(root) / "imagenet-val", 224).load(n)
    return (predictions(nn.Sequential(preprocess, model), images.x, batch=10) == images.y).double()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--quick", action="store_true", help="20 photographs, nothing kept")
    args = parser.parse_args()
    torch.set_num_threads(1)
    share = bootstrap(
        right(args.data_root, 20 if args.quick else None), torch.Generator().manual_seed(400)
    )
    print(f"top-1 {share}")
    if not args.quick:
        command = "python benchmarks/lite0_top1.py --data-root FOLDER"
        machine = f"1 thread, {platform.machine()}, torch {torch.__version__}"
        write_result(RESULTS, share._asdict() | dict(machine=machine), command, ROOT)


if __name__ == "__main__":
    main()
