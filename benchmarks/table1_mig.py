"""MIG in MA-GIG's Table 1 on photographs, beside the seven methods of table1.py.

    python benchmarks/table1_mig.py --data-root FOLDER
        (72 photographs, of which 64 must pass MAGIG-14's gates; hours of one core)
    python benchmarks/table1_mig.py --data-root FOLDER --quick

As table1.py, with the grid table1_mig.toml, into _out/table1_mig.
"""

from guided_repeatability import ROOT
from table1 import tabulate

RESULTS = ROOT / "nbs" / "results" / "50_table1_mig.json"

if __name__ == "__main__":
    tabulate(__file__, __doc__, RESULTS, 72)
