"""Every benchmark, in one run, beside what a user would pick instead.

    python tests/benchmarks [BENCHMARK ...] [--quick]

Peers take turns, each in a process of its own, on the same cores; a speed-up is the median of the
turns' own ratios, with their quartiles. A peer that is not installed (`pip install --group bench`),
fails or crashes says so in its row. GPUs are not measured. A whole run takes up to 25 minutes on
two idle cores and writes `results.json` here, after each benchmark; a run of some benchmarks, or
one with `--quick`, whose small counts only show that everything works, writes
`runs/benchmarks.json`. `make tables` renders the tables of the READMEs.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import sys
import time
from pathlib import Path

import measure

BENCHMARKS = {
    "start-up": "startup",
    "whole process": "whole_process",
    "inference": "inference",
    "generated C": "c_source",
    "input pipeline": "input_pipeline",
    "training step": "training",
    "time to 99 %": "time_to_accuracy",
    "scale": "scale",
    "drawing page": "draw",
    "pictures": "placements",
}
"""Each is a module with a function `rows(quick)`."""
RECORD = Path(__file__).with_name("results.json")
SCRATCH = measure.ROOT / "runs" / "benchmarks.json"


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="BENCHMARK", help=f"of {', '.join(BENCHMARKS)}")
    parser.add_argument("--quick", action="store_true", help="small counts: figures mean nothing")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(BENCHMARKS):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # all of them on the same cores
    path = SCRATCH if arguments.names or arguments.quick else RECORD
    path.parent.mkdir(exist_ok=True)
    report = {"machine": measure.machine(), "seconds": {}, "rows": []}
    for name in arguments.names or BENCHMARKS:
        print(f"{name} …", file=sys.stderr, flush=True)
        start = time.perf_counter()
        try:
            rows = importlib.import_module(BENCHMARKS[name]).rows(arguments.quick)
        except Exception as error:  # the others go on
            rows = [measure.Row(name, "all", "", note=f"fails: {error!r}"[:200])]
        for row in rows:
            report["rows"].append({"benchmark": name, **dataclasses.asdict(row)})
            print(json.dumps(report["rows"][-1], ensure_ascii=False), flush=True)
        report["seconds"][name] = round(time.perf_counter() - start)
        path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    missed = [f"{row['case']}: {row['name']}" for row in report["rows"] if is_missed(row)]
    print(f"{path}: {len(report['rows'])} rows in {sum(report['seconds'].values())} s")
    print("Below its goal: " + ("; ".join(missed) or "none"))


def is_missed(row: dict) -> bool:
    """Return whether less came out than is asked."""
    return None not in (row["speedup"], row["goal"]) and row["speedup"] < row["goal"]


if __name__ == "__main__":
    main()
