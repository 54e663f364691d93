"""Controls of MA-GIG's Table 1 on photographs: the same maps of networks drawn anew, for efficient
MPRT, and how far the greedy methods' maps repeat.

    python benchmarks/table1_controls.py --data-root FOLDER
        (64 photographs, 128 pixels: hours of one core)
    python benchmarks/table1_controls.py --data-root FOLDER --quick

As table1.py, with the grid table1_controls.toml, into _out/table1_controls.
"""

from guided_repeatability import ROOT
from table1 import tabulate

RESULTS = ROOT / "nbs" / "results" / "44_table1.json"

if __name__ == "__main__":
    tabulate(__file__, __doc__, RESULTS, 64)
