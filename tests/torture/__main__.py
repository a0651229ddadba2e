"""Run every harness, one after the other, each in a process of its own.

    python tests/torture [HARNESS ...] [--quick] [--count N] [--seed N]

A harness that fails is a row, and the others go on. A whole run takes up to 20 minutes on two idle
cores and writes `results.json` here, after each harness. Every other run writes
`runs/torture.json`.
"""

import argparse
import importlib
import json
import multiprocessing
import platform
import random
import sys
import time
from pathlib import Path

HARNESSES = {
    "kills": ("runs", 16),
    "disk": ("runs", 5),
    "determinism": ("runs", 2),
    "downloads": ("downloads", 300),
    "endurance": ("endurance", 4_000),
    "files": ("files", 1_000_000),
}
"""Module and default count: kills, full disks, numbers of threads, downloads, pictures, IDX inputs.

The function of the same name takes a count and a random generator, and yields rows: a name, a
number, an outcome. An outcome that begins with FAILED, or an exception, is a failure.
"""
RECORD = Path(__file__).with_name("results.json")
SCRATCH = Path(__file__).parents[2] / "runs" / "torture.json"


def main() -> None:
    """Run and record; exit with 1 where a harness failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="HARNESS", help=f"of {', '.join(HARNESSES)}")
    parser.add_argument("--quick", action="store_true", help="a twentieth of each count")
    parser.add_argument("--count", type=int, help="instead of each default count")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    given = parser.parse_args()
    if unknown := set(given.names) - set(HARNESSES):
        parser.error(f"no such harness: {', '.join(sorted(unknown))}")
    path = SCRATCH if given.names or given.quick or given.count else RECORD
    path.parent.mkdir(exist_ok=True)
    machine = {"system": platform.platform(), "python": platform.python_version()}
    report = {"machine": machine, "seed": given.seed, "seconds": {}, "rows": []}
    for name in given.names or HARNESSES:
        start = time.monotonic()
        count = given.count or max(1, HARNESSES[name][1] // (20 if given.quick else 1))
        report["rows"] += run(name, count, given.seed)
        report["seconds"][name] = round(time.monotonic() - start)
        path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    failed = sum(row["outcome"].startswith("FAILED") for row in report["rows"])
    seconds = sum(report["seconds"].values())
    print(f"{path}: {len(report['rows'])} rows in {seconds} s, {failed} failed")
    sys.exit(1 if failed else 0)


def run(name: str, count: int, seed: int) -> list[dict]:
    """Return the rows of a harness, and one more where its process ends badly."""
    print(f"{name}: {count}, seed {seed} …", flush=True)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(name, count, seed, sender))
    process.start()
    sender.close()
    rows, last = [], time.monotonic()

    def add(what: str, number: int, outcome: str) -> None:
        nonlocal last
        row = {"harness": name, "what": what, "count": number, "outcome": outcome}
        rows.append(row | {"seconds": round(time.monotonic() - last, 1)})
        print(json.dumps(rows[-1], ensure_ascii=False), flush=True)
        last = time.monotonic()

    try:
        while True:
            add(*receiver.recv())
    except EOFError:
        process.join()
    if process.exitcode:
        add(name, count, f"FAILED: status {process.exitcode}, seed {seed}")
    return rows


def work(name: str, count: int, seed: int, sender) -> None:
    """Send the rows of a harness."""
    harness = getattr(importlib.import_module(HARNESSES[name][0]), name)
    for row in harness(count, random.Random(seed)):
        sender.send(row)


if __name__ == "__main__":
    main()
