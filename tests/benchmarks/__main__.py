"""Every speed that counts, beside what a user would pick instead: one run, one JSON.

    python tests/benchmarks [ROOM ...] [--json runs/bench.json] [--quick]
    python tests/benchmarks --show [--json runs/bench.json]

Contestants take turns, in one process, on the same cores; a ratio is the median of the turns' own
ratios, with their quartiles. What isn't installed (`pip install --group bench`) says so in its row.
GPUs are not measured. `--quick` only finds out whether everything runs; `--show` prints the tables
of a JSON. Fails where a ratio is below what is asked.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import sys
from pathlib import Path

import measure

ROOMS = {
    "start-up": "startup",
    "whole process": "whole_process",
    "inference": "inference",
    "input pipeline": "input_pipeline",
    "training step": "training",
    "time to 99 %": "time_to_accuracy",
    "scale": "scale",
}
"""Each is a module with a function `rows(room, quick)`."""


def main() -> None:
    """Measure, keep, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rooms", nargs="*", metavar="ROOM", help=f"of {', '.join(ROOMS)}")
    parser.add_argument("--json", type=Path, default=Path("runs/bench.json"))
    parser.add_argument("--quick", action="store_true", help="small counts: figures mean nothing")
    parser.add_argument("--show", action="store_true", help="print what is in the JSON")
    arguments = parser.parse_args()
    if unknown := set(arguments.rooms) - set(ROOMS):
        parser.error(f"no such room: {', '.join(sorted(unknown))}")
    if arguments.show:
        print(measure.markdown(json.loads(arguments.json.read_text())))
        return
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # all of them on the same cores
    machine = measure.machine()
    found: list[measure.Row] = []
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    for room in arguments.rooms or ROOMS:
        print(f"{room} …", file=sys.stderr, flush=True)
        found += importlib.import_module(ROOMS[room]).rows(room, arguments.quick)
        report = {"machine": machine, "rows": [dataclasses.asdict(row) for row in found]}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    print(measure.markdown(report))
    if missed := [f"{row.case}: {row.name}" for row in found if row.missed]:
        raise SystemExit("less than is asked: " + "; ".join(missed))


if __name__ == "__main__":
    main()
