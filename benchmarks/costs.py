"""What a photograph costs: passes and seconds of the eight methods of MA-GIG's Table 1, unit by
unit, with EfficientNet-Lite0 and TAEF2.

    python benchmarks/costs.py --data-root FOLDER
        (64 photographs, an hour and a half of one core)
    python benchmarks/costs.py --data-root FOLDER --quick

FOLDER holds `taef2` and `imagenet-val`. The grid is costs.toml, run as `manifold-xai benchmark`
runs it, into _out/costs; what is done there already is not done again. Lesson 50 reads the file.
"""

import tempfile
from pathlib import Path

import torch
from guided_repeatability import ROOT, arguments

from manifold_xai.benchmark.grid import read_grid
from manifold_xai.benchmark.results import costs
from manifold_xai.benchmark.run import run_grid
from manifold_xai.course.provenance import write_result

RESULTS = ROOT / "nbs" / "results" / "50_costs.json"
GRID = Path(__file__).with_suffix(".toml")


def main():
    args = arguments(__doc__, RESULTS, batch=4, steps=50)
    torch.set_num_threads(1)
    grid = read_grid(GRID, steps=args.steps, size=args.size)
    how = dict(limit=args.photographs, block=args.batch, resume=True)
    with tempfile.TemporaryDirectory() as aside:
        out = Path(aside) if args.quick else ROOT / "_out" / "costs"
        run_grid(grid, out, args.data_root, **how)
        found = costs(out)
    for c in found:
        spent = c["cpu"] / c["images"]
        print(f"{c['label']}: {c['images']} photographs, {spent:.1f} s of one core for each")
    if not args.quick:
        asked = f"--photographs {args.photographs} --steps {args.steps} --size {args.size}"
        command = f"python benchmarks/costs.py {asked}"
        write_result(args.results, dict(costs=found), command, ROOT)


if __name__ == "__main__":
    main()
