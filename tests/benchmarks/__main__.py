"""Run every benchmark beside its peers, the tools that a user would take instead.

    python tests/benchmarks [BENCHMARK ...] [--quick]

Peers take turns, each in a process of its own, on the same cores; a speed-up is the median of the
turns' own ratios, with their quartiles. A peer that is not installed (`pip install --group bench`),
fails or crashes says so in its row. A whole run takes up to 25 minutes on two idle cores and writes
`results.json` here, after each benchmark. A run of some benchmarks, or one with `--quick`, whose
small counts only show that everything works, writes `runs/benchmarks.json`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import time
from pathlib import Path

import measure

BENCHMARKS = {
    "whole process": "commands:whole_process",
    "inference": "inference:rows",
    "generated C": "c_source:rows",
    "input pipeline": "training:input_pipeline",
    "training step": "training:training_step",
    "time to 99 %": "training:time_to_accuracy",
    "scale": "commands:scale",
    "drawing page": "draw:rows",
    "pictures": "placements:rows",
}
"""Functions that take whether the run is a quick one, and return rows."""
RECORD = Path(__file__).with_name("results.json")
SCRATCH = measure.ROOT / "runs" / "benchmarks.json"


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="BENCHMARK", help=f"of {', '.join(BENCHMARKS)}")
    parser.add_argument("--quick", action="store_true", help="small counts: figures mean nothing")
    given = parser.parse_args()
    if unknown := set(given.names) - set(BENCHMARKS):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # all of them on the same cores
    path = SCRATCH if given.names or given.quick else RECORD
    path.parent.mkdir(exist_ok=True)
    report = {"machine": measure.machine(), "seconds": {}, "rows": []}
    for name in given.names or BENCHMARKS:
        start = time.perf_counter()
        try:
            rows = measure.load(BENCHMARKS[name])(given.quick)
        except Exception as error:  # the others go on
            rows = [measure.Row(name, "all", "", note=f"fails: {error!r}"[:200])]
        for row in rows:
            report["rows"].append({"benchmark": name, **dataclasses.asdict(row)})
            print(json.dumps(report["rows"][-1], ensure_ascii=False), flush=True)
        report["seconds"][name] = round(time.perf_counter() - start)
        path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    missed = [
        f"{row['case']}: {row['name']}"
        for row in report["rows"]
        if row["goal"] is not None and row["speedup"] < row["goal"]
    ]
    print(f"{path}: {len(report['rows'])} rows in {sum(report['seconds'].values())} s")
    print("Below its goal: " + ("; ".join(missed) or "none"))


if __name__ == "__main__":
    main()
