"""Kill a run at random moments of every stage, and run it again: it ends as if nothing had been.

    python tests/torture/kills.py [KILLS [SEED]]

Several kills hit one run folder before it may finish. After each, every finished stage has to stand
there whole, none may be lost, nor any epoch; SIGINT and SIGTERM, one of each to a folder, have to
end in one line that says where the run stands, and in the status that shells expect.
"""

import collections
import signal
import tempfile
from pathlib import Path

from common import (
    RECIPE,
    STOPPED,
    Process,
    arguments,
    command,
    contents,
    differences,
    finished_stages,
    reference,
    row,
)

from keras_lenet import artifacts

CHAIN = 7


def epochs(run: Path) -> dict[str, int]:
    """Epochs of each stage that are safe: those of a finished stage, or of its checkpoint."""
    found = {}
    for folder in (*run.glob(".*.partial"), *(run / name for name in finished_stages(run))):
        history = folder / artifacts.HISTORY
        if history.exists():
            name = folder.name.removeprefix(".").removesuffix(".partial")
            lines = len(history.read_text().splitlines()) - 1
            found[name] = max(lines, found.get(name, 0))
    return found


def main() -> None:
    wanted, generator = arguments(16, "kills")
    where, kills, polite, folders = collections.Counter(), 0, 0, 0
    with tempfile.TemporaryDirectory(prefix="torture-") as scratch:
        expected = reference(Path(scratch) / "whole")
        print(f"uninterrupted: {expected.start:.0f} s, then {expected.seconds}", flush=True)
        while kills < wanted:
            folders += 1
            runs = Path(scratch) / f"runs{folders}"
            run = runs / RECIPE.stem
            signals = [signal.SIGKILL] * min(CHAIN, wanted - kills) + [
                signal.SIGINT,
                signal.SIGTERM,
            ]
            generator.shuffle(signals)
            for number in signals:
                before, epochs_before = finished_stages(run), epochs(run)
                process = Process(command(runs))
                if not process.stop_after(generator.uniform(0, expected.remaining(run)), number):
                    assert process.finish() == 0, process.stderr
                    break
                after, epochs_after = finished_stages(run), epochs(run)
                assert before <= after, f"lost: {before - after}"
                lost = [name for name, n in epochs_before.items() if epochs_after.get(name, 0) < n]
                assert not lost, f"epochs lost: {epochs_before}, {epochs_after}"
                where[process.stage] += 1
                if number == signal.SIGKILL:
                    kills += 1
                elif process.stage != "before the first":  # the handlers stand by then
                    polite += 1
                    assert process.process.returncode == 128 + number, process.stderr
                    last = process.stderr.rstrip().splitlines()[-1]
                    assert STOPPED.fullmatch(last), process.stderr
                print(f"{kills}: {number.name} in {process.stage}", flush=True)
            process = Process(command(runs))
            assert process.finish() == 0, process.stderr
            found = differences(contents(run), expected.contents)
            assert not found, f"differ from the uninterrupted run: {found}"
    print(*(f"{count} in {stage}" for stage, count in where.most_common()), sep=", ")
    row("SIGKILL at a random moment", kills, f"{folders} runs end with every byte, lost: none")
    row("SIGINT, SIGTERM", polite, "one line that says where, status 130 or 143, lost: none")


if __name__ == "__main__":
    main()
