"""Every harness, one after the other, with its default count.

    python tests/torture [HARNESS ...] [--quick]

A harness that fails is a row, and the others go on. A whole run takes up to 20 minutes on two idle
cores and writes `results.json` here, after each harness; a run of some harnesses, or one with
`--quick`, which takes a twentieth of each count, writes `runs/torture.json`. Each harness runs
alone, too, with another count and a seed: `python tests/torture/kills.py 50 1`.
"""

import argparse
import json
import platform
import random
import subprocess
import sys
import time
from pathlib import Path

from common import ROOT

COUNTS = {
    "kills": 16,
    "disk": 5,
    "determinism": 2,
    "downloads": 300,
    "endurance": 4_000,
    "files": 1_000_000,
}
"""Kills, full disks, numbers of threads, downloads, pictures, IDX inputs."""
RECORD = Path(__file__).with_name("results.json")
SCRATCH = ROOT / "runs" / "torture.json"


def main() -> None:
    """Run and record; exit with 1 where a harness failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="HARNESS", help=f"of {', '.join(COUNTS)}")
    parser.add_argument("--quick", action="store_true", help="a twentieth of each count")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(COUNTS):
        parser.error(f"no such harness: {', '.join(sorted(unknown))}")
    path = SCRATCH if arguments.names or arguments.quick else RECORD
    path.parent.mkdir(exist_ok=True)
    seed = random.randrange(10**6)
    machine = {"system": platform.platform(), "python": platform.python_version()}
    report = {"machine": machine, "seed": seed, "seconds": {}, "rows": []}
    for name in arguments.names or COUNTS:
        count = max(1, COUNTS[name] // (20 if arguments.quick else 1))
        start = time.monotonic()
        report["rows"] += run(name, count, seed)
        report["seconds"][name] = round(time.monotonic() - start)
        path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    failed = sum(row["outcome"].startswith("FAILED") for row in report["rows"])
    seconds = sum(report["seconds"].values())
    print(f"{path}: {len(report['rows'])} rows in {seconds} s, {failed} failed")
    sys.exit(1 if failed else 0)


def run(name: str, count: int, seed: int) -> list[dict]:
    """Run a harness; the rows that it prints, and one more where it ends badly."""
    print(f"{name}: {count} …", flush=True)
    command = [sys.executable, str(Path(__file__).with_name(f"{name}.py")), str(count), str(seed)]
    found, last = [], time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            if line.startswith("{"):
                now = time.monotonic()
                found.append({"harness": name, **json.loads(line), "seconds": round(now - last, 1)})
                last = now
    if process.returncode and not any(row["outcome"].startswith("FAILED") for row in found):
        outcome = f"FAILED: status {process.returncode}, seed {seed}"
        found.append({"harness": name, "what": name, "count": count, "outcome": outcome})
        found[-1]["seconds"] = round(time.monotonic() - last, 1)
    return found


if __name__ == "__main__":
    main()
