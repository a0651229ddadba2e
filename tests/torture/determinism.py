"""The same recipe and seed, the same bytes: twice, and with other numbers of threads.

python tests/torture/determinism.py
"""

import tempfile
from pathlib import Path

from common import RECIPE, Process, command, contents, differences, reference, row


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="torture-") as scratch:
        expected = reference(Path(scratch) / "whole").contents
        for threads in (1, 2, 4):
            runs = Path(scratch) / f"threads{threads}"
            process = Process(command(runs), threads)
            assert process.finish() == 0, process.stderr
            found = differences(contents(runs / RECIPE.stem), expected)
            if threads == 1:
                assert not found, found
            came_of_it = f"other bytes in {len(found)}" if found else "the same bytes"
            row(f"a second run, {threads} threads", f"{len(expected)} files", came_of_it)


if __name__ == "__main__":
    main()
