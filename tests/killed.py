"""A stage that is killed before each change that it makes to its folder, and then run again.

Prints the number of changes and the faults found, as JSON. The stage is a stand-in that writes a
checkpoint an epoch, as a fit does, and its result at the end.
"""

import importlib
import json
import os
import signal
import sys
import types
from pathlib import Path

import filelock  # noqa: F401 - once, instead of in every child

from keras_lenet import artifacts, console, models, pipeline, recipe  # noqa: F401

EPOCHS = 2
CHANGES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod"}


def work(context):
    """Count epochs in the checkpoint, and in a log that no kill takes back."""
    checkpoint = context.out / artifacts.CHECKPOINT
    done = int(checkpoint.read_text()) if checkpoint.exists() else 0
    for epoch in range(done + 1, EPOCHS + 1):
        with (context.out.parent.parent / "log").open("a") as file:
            file.write(f"{epoch}\n")
        artifacts.write_bytes(checkpoint, str(epoch).encode())
    artifacts.write_json(context.out / "sub" / "result.json", context.settings.train.epochs)
    return {}


def attempt(folder, epochs, kill_at):
    """Run the stage in a child that is killed before its change number `kill_at`; its status."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    changes = 0

    def watch(event, arguments):
        nonlocal changes
        reads = event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)
        if event not in CHANGES or reads or str(folder / "smoke") not in str(arguments[0]):
            return
        changes += 1
        if changes == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    overrides = ["data.dataset=digits", f"train.epochs={epochs}"]
    run = pipeline.open_run(recipe.from_overrides("smoke", overrides), folder, None)
    pipeline.execute(run, pipeline.select("train", "train"))
    os._exit(0)


def fault(folder):
    """What is wrong with the finished folder, in words."""
    stage = folder / "smoke" / "train"
    record = artifacts.Record.read(stage)
    files = {path.name for path in stage.rglob("*") if path.is_file()}
    if record is None or artifacts.damaged(stage, record.outputs):
        return "damaged"
    if json.loads((stage / "sub" / "result.json").read_text()) != 20:
        return "the wrong result"
    # A kill in the very last step leaves these; the next change removes them.
    if files - {artifacts.CHECKPOINT, artifacts.IDENTITY} != {"result.json", "stage.json"}:
        return f"remains: {files}"
    computed = (folder / "log").read_text().split()
    return f"{len(computed)} epochs computed" if len(computed) > EPOCHS + 1 else None


def main():
    root = Path(sys.argv[1])
    console.console.quiet = True
    importlib.import_module = lambda name: types.SimpleNamespace(run=work)
    places, wrong = 0, []
    for replacing in (False, True):
        kill_at, killed = 1, True
        while killed:
            folder = root / f"{replacing}{kill_at}"
            if replacing:
                attempt(folder, 10, 0)
                (folder / "log").unlink()
            killed = attempt(folder, 20, kill_at) == signal.SIGKILL
            results = [folder / "smoke" / name for name in ("train", ".train.previous")]
            if replacing and not any(result.exists() for result in results):
                wrong.append(f"change {kill_at}: neither the old result nor the new one")
            attempt(folder, 20, 0)
            if found := fault(folder):
                wrong.append(f"change {kill_at}, replacing {replacing}: {found}")
            places += killed
            kill_at += 1
    print(json.dumps({"places": places, "wrong": wrong}))


if __name__ == "__main__":
    main()
