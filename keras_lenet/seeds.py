"""Runs of a recipe from several seeds: their spread, and publishing the best."""

from __future__ import annotations

import shutil
import statistics
from dataclasses import dataclass
from pathlib import Path

from keras_lenet import artifacts, console, pipeline
from keras_lenet.artifacts import Record
from keras_lenet.evaluation.metrics import Metrics
from keras_lenet.recipe import Recipe
from keras_lenet.reporting.card import card

CARD = "README.md"
FILES = {
    "train": ("model.keras",),
    "evaluate": ("metrics.json", "confusion.png", "rejection.png"),
    "report": ("training.png",),  # the page itself shows the dataset's images
}


@dataclass(frozen=True)
class Finished:
    """Finished run of one seed. Seeds are chosen by the accuracy of the fake-quantized model."""

    run: pipeline.Run
    metrics: Metrics
    validation_accuracy: float


def run_seeds(recipe: Recipe, count: int, runs: Path, data_dir: Path | None) -> list[Finished]:
    """Run the recipe with `count` seeds, from its own upwards, each in a folder of its own."""
    finished = []
    for seed in range(recipe.seed, recipe.seed + count):
        seeded = recipe.model_copy(update={"seed": seed, "name": f"{recipe.name}-seed{seed}"})
        stages = pipeline.select(None, None)
        run = pipeline.execute(pipeline.open_run(seeded, runs, data_dir), stages)
        record = Record.of_finished(run.stage_folder("quantize"))
        metrics = Metrics.read(run.stage_folder("evaluate"))
        finished.append(Finished(run, metrics, record.summary["validation_accuracy"]))
    return finished


def choose(finished: list[Finished]) -> Finished:
    """Return the seed to publish: the best on the validation split; the test set has no say."""
    return max(finished, key=lambda one: one.validation_accuracy)


def publish(finished: list[Finished], folder: Path, source: str) -> None:
    """Replace `folder` by the chosen seed's files and the model card.

    `source` has the recipe's file and its overrides, as on the command line.

    Raises:
        GateError: the chosen seed misses a limit of the recipe; `folder` stays as it is.
    """
    chosen = choose(finished)
    chosen.metrics.check_gates()
    console.say(f"publish: seed {chosen.run.recipe.seed}, the best on validation, to {folder}")
    exported = Record.of_finished(chosen.run.stage_folder("export"))
    files = FILES | {"export": tuple(exported.outputs)}
    with artifacts.replacement(folder) as out:
        for stage, names in files.items():
            for name in names:
                (out / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(chosen.run.stage_folder(stage) / name, out / name)
        (out / CARD).write_bytes(card(finished, chosen, spread(finished), source).encode())
        artifacts.write_sums(out)


def spread(finished: list[Finished]) -> str:
    """Return each model's test accuracy over the seeds, as a Markdown table."""
    lines = [
        "| model | mean | standard deviation | lowest | highest |",
        "|---|---:|---:|---:|---:|",
    ]
    for key, model in finished[0].metrics.models.items():
        scores = [100 * one.metrics.models[key].accuracy for one in finished]
        deviation = f"{statistics.stdev(scores):.3f}" if len(scores) > 1 else "–"
        lines.append(
            f"| {model.title} | {statistics.mean(scores):.3f} % | {deviation} | "
            f"{min(scores):.2f} % | {max(scores):.2f} % |"
        )
    return "\n".join(lines)
