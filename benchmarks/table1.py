"""MA-GIG's Table 1 on photographs: its methods but MIG, three classifiers, TAEF2; every score by
image. MIG is in table1_mig.py, controls are in table1_controls.py.

    python benchmarks/table1.py --data-root FOLDER
        (112 photographs that each classifier gets right, 128 pixels: hours of one core)
    python benchmarks/table1.py --data-root FOLDER --quick

FOLDER holds `taef2` and `imagenet-val`, on which no network here was trained. The grid is
table1.toml, run as `manifold-xai benchmark` runs it, into _out/table1; what is done there already
is not done again. To share the work between cores, run its shards and merge them there first:

    manifold-xai benchmark benchmarks/table1.toml --limit 112 --shard 1/2 --resume --out _out/one
    manifold-xai benchmark merge _out/one _out/two --out _out/table1

Numbers only: no photograph and no map is written.
"""

import hashlib
import tempfile
from pathlib import Path

import torch
from guided_repeatability import ROOT, arguments

from manifold_xai.benchmark.grid import read_grid
from manifold_xai.benchmark.report import write_report
from manifold_xai.benchmark.results import costs
from manifold_xai.benchmark.run import run_grid
from manifold_xai.course.provenance import write_result

RESULTS = ROOT / "nbs" / "results" / "50_table1.json"


def tabulate(script, doc, results, photographs):
    """Run the grid beside a script and keep its table, with what it cost."""
    args = arguments(doc, results, photographs=photographs, batch=8, steps=50, size=128)
    torch.set_num_threads(1)
    grid = read_grid(Path(script).with_suffix(".toml"), steps=args.steps, size=args.size)
    name = Path(script).stem
    with tempfile.TemporaryDirectory() as aside:
        out = Path(aside) if args.quick else ROOT / "_out" / name
        how = dict(limit=args.photographs, block=args.batch, resume=True)
        table = run_grid(grid, out, args.data_root, **how).read_bytes()
        found = costs(out)
        print(write_report(out).read_text(encoding="utf8"))
    if not args.quick:
        args.results.with_suffix(".parquet").write_bytes(table)
        asked = f"--photographs {args.photographs} --steps {args.steps} --size {args.size}"
        digest = hashlib.sha256(table).hexdigest()
        kept = dict(seconds=round(sum(c["cpu"] for c in found)), sha256=digest, costs=found)
        write_result(args.results, kept, f"python benchmarks/{name}.py {asked}", ROOT)


if __name__ == "__main__":
    tabulate(__file__, __doc__, RESULTS, 112)
