"""The same recipe and seed, the same bytes: twice, and with other numbers of threads.

python tests/torture/determinism.py [HIGHEST NUMBER OF THREADS]
"""

import tempfile
from pathlib import Path

from common import RECIPE, Process, arguments, command, contents, differences, reference, row


def main() -> None:
    highest, _ = arguments(2, "threads")
    with tempfile.TemporaryDirectory(prefix="torture-") as scratch:
        expected = reference(Path(scratch) / "whole").contents
        for threads in range(1, highest + 1):
            runs = Path(scratch) / f"threads{threads}"
            process = Process(command(runs), threads)
            assert process.finish() == 0, process.stderr
            found = differences(contents(runs / RECIPE.stem), expected)
            if threads == 1:
                assert not found, found
            outcome = f"other bytes in {len(found)}" if found else "the same bytes"
            row(f"a second run, {threads} threads: files", len(expected), outcome)


if __name__ == "__main__":
    main()
