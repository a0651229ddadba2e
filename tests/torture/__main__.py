"""Run every harness, one after the other.

    python tests/torture [HARNESS ...] [--quick] [--seed N]

A harness that fails is a row, and the others go on. A whole run takes up to 15 minutes on two idle
cores and writes `results.json` here, after each harness. A run of some harnesses, or one with
`--quick`, writes `runs/torture.json`.
"""

import argparse
import importlib
import json
import platform
import random
import sys
import time
from pathlib import Path

HARNESSES = {
    "kills": ("runs", 16),
    "disk": ("runs", 5),
    "downloads": ("downloads", 300),
    "files": ("files", 1_000_000),
}
"""Module and count: kills, full disks, downloads, IDX inputs.

The function of the same name takes a count and a random generator, and yields rows: a name, a
number, an outcome. An outcome that begins with FAILED, or an exception, is a failure.
"""
RECORD = Path(__file__).with_name("results.json")
SCRATCH = Path(__file__).parents[2] / "runs" / "torture.json"


def main() -> None:
    """Run and record; exit with 1 if a harness failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="HARNESS", help=f"of {', '.join(HARNESSES)}")
    parser.add_argument("--quick", action="store_true", help="a twentieth of each count")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    given = parser.parse_args()
    if unknown := set(given.names) - set(HARNESSES):
        parser.error(f"no such harness: {', '.join(sorted(unknown))}")
    path = SCRATCH if given.names or given.quick else RECORD
    path.parent.mkdir(exist_ok=True)
    machine = {"system": platform.platform(), "python": platform.python_version()}
    report = {"machine": machine, "seed": given.seed, "rows": []}
    for name in given.names or HARNESSES:
        module, count = HARNESSES[name]
        count = max(1, count // 20) if given.quick else count
        print(f"{name}: {count}, seed {given.seed} …", flush=True)
        rows = getattr(importlib.import_module(module), name)(count, random.Random(given.seed))
        start = time.monotonic()
        while row := next_row(rows, count):
            seconds = round(time.monotonic() - start, 1)
            keys = ("harness", "what", "count", "outcome", "seconds")
            report["rows"].append(dict(zip(keys, (name, *row, seconds), strict=True)))
            print(json.dumps(report["rows"][-1], ensure_ascii=False), flush=True)
            start = time.monotonic()
        path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    failed = sum(row["outcome"].startswith("FAILED") for row in report["rows"])
    print(f"{path}: {len(report['rows'])} rows, {failed} failed")
    sys.exit(1 if failed else 0)


def next_row(rows, count):
    """Return the next row of a harness; None after the last one."""
    try:
        return next(rows, None)
    except Exception as error:  # ends the generator
        return "the rest", count, f"FAILED: {error!r}"


if __name__ == "__main__":
    main()
