"""From a cold start to a finished `quickstart`, stage by stage."""

from __future__ import annotations

import functools
import json
import sys
import tempfile
from pathlib import Path

import measure
import startup

RECIPES = measure.ROOT / "pipelines"
IMPORTS = {
    "TensorFlow and Keras, imported alone": "import tensorflow, keras",
    "with tf_keras and tensorflow-model-optimization": (
        "import tensorflow, keras, tf_keras, tensorflow_model_optimization"
    ),
}


def rows(quick: bool) -> list[measure.Row]:
    """Return the rows of one case without peers: nobody else's recipe has these stages."""
    recipe = RECIPES / ("smoke.toml" if quick else "quickstart.toml")
    taken = split(recipe)
    for name, code in IMPORTS.items():
        taken[name] = measure.wall(functools.partial(startup.output, [sys.executable, "-c", code]))
    return [measure.Row(recipe.stem, name, "s", seconds) for name, seconds in taken.items()]


def split(recipe: Path) -> dict[str, float]:
    """Return the seconds of a run into an empty folder, of each stage, and of what is left."""
    with tempfile.TemporaryDirectory() as runs:
        command = [startup.COMMAND, "run", str(recipe), "--runs", runs]
        whole = measure.wall(lambda: startup.output(command))
        records = [json.loads(path.read_text()) for path in Path(runs).glob("*/*/stage.json")]
    stages = {record["stage"]: record["seconds"] for record in sorted(records, key=_started)}
    return {"the whole": whole, **stages, "the rest": whole - sum(stages.values())}


def _started(record: dict[str, str]) -> str:
    return record["started"]
