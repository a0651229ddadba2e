"""Published folder of a run: its files, and a model card.

The card follows Mitchell et al., "Model Cards for Model Reporting", FAT* 2019.
"""

from __future__ import annotations

import shutil
import statistics
from pathlib import Path

import jinja2

from keras_lenet import artifacts, console, models
from keras_lenet.artifacts import Record
from keras_lenet.data import catalogue
from keras_lenet.evaluation import confidence
from keras_lenet.recipe import Degrade
from keras_lenet.reporting import results
from keras_lenet.reporting.results import Finished

TEMPLATE = "card.md.j2"
HASHED = (".tflite", ".c")
"""Endings of the reproducible files with weights."""
PUBLISHED = {
    "train": ("model.keras",),
    "evaluate": ("metrics.json", "confusion.png", "rejection.png"),
    "report": ("training.png",),  # the page itself shows images of the dataset
}
"""Published files of each stage; those of `export` are all published."""
SPREAD = ("model", "mean", "standard deviation", "lowest", "highest")
EXAMPLES = "examples"
"""Folder of programs that use the files, whatever their weights; it stays."""


def choose(finished: list[Finished]) -> Finished:
    """Return the seed to publish: the best on the validation split, never by the test set."""
    return max(finished, key=lambda one: one.validation_accuracy)


def publish(finished: list[Finished], folder: Path, source: str) -> None:
    """Replace `folder` by the chosen seed's files and the model card.

    Args:
        finished: the runs of all seeds.
        folder: the published folder.
        source: recipe and overrides of the command line.

    Raises:
        GateError: the chosen seed misses a limit of the recipe; `folder` stays as it is.
    """
    chosen = choose(finished)
    chosen.metrics.check_gates()
    console.say(f"publish: seed {chosen.recipe.seed}, the best on validation, to {folder}")
    exported = Record.of_finished(chosen.folders["export"])
    with artifacts.replacement(folder) as out:
        for stage, names in (PUBLISHED | {"export": tuple(exported.outputs)}).items():
            for name in names:
                (out / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(chosen.folders[stage] / name, out / name)
        if (folder / EXAMPLES).is_dir():
            shutil.copytree(folder / EXAMPLES, out / EXAMPLES)
        (out / "README.md").write_bytes(_card(finished, chosen, exported.outputs, source).encode())
        artifacts.write_sums(out)


def spread(finished: list[Finished]) -> str:
    """Return each model's test accuracy over the seeds, as a Markdown table."""
    rows = []
    for key, model in finished[0].metrics.models.items():
        scores = [100 * one.metrics.models[key].accuracy for one in finished]
        deviation = f"{statistics.stdev(scores):.3f}" if len(scores) > 1 else "–"
        mean, ends = statistics.mean(scores), (min(scores), max(scores))
        rows.append([model.title, f"{mean:.3f} %", deviation, *(f"{end:.2f} %" for end in ends)])
    return results.markdown_table(SPREAD, rows, SPREAD[1:])


def _card(finished: list[Finished], chosen: Finished, hashes: dict[str, str], source: str) -> str:
    recipe, metrics = chosen.recipe, chosen.metrics
    low, high = metrics.deployed_model.interval
    teachers_accuracy = None
    if recipe.distill:
        distilled = Record.of_finished(chosen.folders["distill"])
        teachers_accuracy = distilled.summary["validation_accuracy"]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(TEMPLATE).render(
        name=recipe.model.name,
        title=models.find(recipe.model.name).title,
        shows=catalogue.shows(metrics.dataset),
        of_digits=metrics.of_digits,
        source=source,
        seeds=[one.recipe.seed for one in finished],
        recipe=recipe,
        metrics=metrics,
        hashes={name: digest for name, digest in hashes.items() if name.endswith(HASHED)},
        figures=results.markdown(metrics),
        table=spread(finished),
        validation_accuracy=chosen.validation_accuracy,
        rejection_heading=results.REJECTION,
        rejection=results.rejection(metrics),
        degraded=recipe.degrade != Degrade(),
        teachers_accuracy=teachers_accuracy,
        rejected_share=confidence.REFUSED,
        accuracy_known_to=50 * (high - low),
    )
