"""Commands that run recipes, publish their results, and list the data that they need."""

from __future__ import annotations

import shutil
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keras_lenet import artifacts, console
from keras_lenet.cli.options import DataDir, Force, Overrides, RecipeFile, Runs, app
from keras_lenet.console import print_table

if TYPE_CHECKING:
    from keras_lenet.evaluation.metrics import Metrics
    from keras_lenet.pipeline import Finished, Run, Stage

CARD, EXAMPLES = "README.md", "examples"
PUBLISHED = {
    "train": ("model.keras",),
    "evaluate": ("metrics.json", "confusion.png", "rejection.png"),
    "report": ("training.png",),  # the page itself shows images of the dataset
}
"""Published files of each stage; those of `export` are all published."""


@app.command("run")
def run_stages(
    recipe: RecipeFile,
    first: Annotated[str | None, typer.Option("--from", help="First stage to run.")] = None,
    last: Annotated[str | None, typer.Option("--until", help="Last stage to run.")] = None,
    force: Force = False,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    data_dir: DataDir = None,
) -> None:
    """Run a recipe's stages in order; skip those that are up to date.

    Example: keras-lenet run pipelines/mnist.toml --set train.epochs=10
    """
    from keras_lenet import pipeline
    from keras_lenet.recipe import load_recipe

    settings = load_recipe(recipe, overrides)
    run = pipeline.run_recipe(settings, first, last, force=force, runs=runs, data_dir=data_dir)
    show(run, pipeline.select(first, last))


def _stage_command(stage: str, summary: str) -> None:
    """Register a command that runs one stage."""

    def command(
        recipe: RecipeFile,
        force: Force = False,
        overrides: Overrides = None,
        runs: Runs = Path("runs"),
        data_dir: DataDir = None,
    ) -> None:
        run_stages(recipe, stage, stage, force, overrides, runs, data_dir)

    command.__doc__ = f"{summary}\n\nExample: keras-lenet {stage} pipelines/mnist.toml"
    app.command(stage)(command)


for _stage, _summary in {
    "distill": "Train teachers and write their logits, for recipes with [distill].",
    "train": "Train the float model; resume if interrupted.",
    "quantize": "Fine-tune the trained model with quantization in the loop.",
    "export": "Write the SavedModel and the TFLite files.",
    "report": "Write one HTML page: verdict, plots, tables, mistakes.",
}.items():
    _stage_command(_stage, _summary)


def show(run: Run, stages: list[Stage]) -> None:
    """Print the results of the stages of a run.

    Raises:
        GateError: a figure misses a limit of the recipe.
    """
    from keras_lenet.evaluation import gates
    from keras_lenet.evaluation.metrics import Metrics

    names = {stage.name for stage in stages}
    metrics = Metrics.read(run.stage_folder("evaluate")) if "evaluate" in names else None
    if metrics:
        print_results(metrics, run.recipe.name)
    if "report" in names:
        typer.echo(f"Report: {run.stage_folder('report') / 'report.html'}")
    if metrics:
        gates.check(metrics)


def print_results(metrics: Metrics, name: str) -> None:
    """Print the figures of each evaluated model."""
    from keras_lenet.reporting import results

    print_table(
        results.HEADER,
        results.rows(metrics),
        right_aligned=results.RIGHT_ALIGNED,
        title=f"{name}: {metrics.dataset}",
        caption=results.caption(metrics),
    )


@app.command("reproduce")
def reproduce_origins(
    paths: Annotated[
        list[Path], typer.Argument(metavar="RECIPE...", help="Recipes with an [origin].")
    ],
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many seeds to run.")] = 3,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    data_dir: DataDir = None,
) -> None:
    """Run published systems from several seeds, and print their figures beside ours, as Markdown.

    Exit status 3 if a gate is missed.

    Example: keras-lenet reproduce pipelines/reproductions/*.toml
    """
    from keras_lenet.pipeline import run_seeds
    from keras_lenet.recipe import load_recipe
    from keras_lenet.reporting import reproduction

    loaded = [load_recipe(path, overrides) for path in paths]
    reproduction.check(loaded)  # before the work, not after it
    finished = [run_seeds(one, seeds, runs, data_dir) for one in loaded]
    typer.echo("\n".join([reproduction.HEADER, *map(reproduction.row, finished)]))
    for one in finished:
        reproduction.check_gates(one)


def choose(finished: list[Finished]) -> Finished:
    """Return the seed to publish: the best on the validation split, never by the test set."""
    return max(finished, key=lambda one: one.validation_accuracy)


def publish(finished: list[Finished], folder: Path, source: str) -> None:
    """Replace `folder` by the chosen seed's files and the model card.

    `source` has the recipe's file and its overrides, as on the command line.

    Raises:
        GateError: the chosen seed misses a limit of the recipe; `folder` stays as it is.
    """
    from keras_lenet.artifacts import Record
    from keras_lenet.evaluation import gates
    from keras_lenet.reporting.card import card

    chosen = choose(finished)
    gates.check(chosen.metrics)
    console.say(f"publish: seed {chosen.run.recipe.seed}, the best on validation, to {folder}")
    exported = Record.of_finished(chosen.run.stage_folder("export"))
    with artifacts.replacement(folder) as out:
        for stage, names in (PUBLISHED | {"export": tuple(exported.outputs)}).items():
            for name in names:
                (out / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(chosen.run.stage_folder(stage) / name, out / name)
        if (folder / EXAMPLES).is_dir():  # they fit any weights
            shutil.copytree(folder / EXAMPLES, out / EXAMPLES)
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


@app.command("datasets")
def list_datasets(data_dir: DataDir = None) -> None:
    """List the datasets, and where each is or would come from.

    Example: keras-lenet datasets --data-dir ~/data
    """
    from keras_lenet.data import catalogue

    rows = (
        [name, title, "yes" if here else "no", where]
        for name, title, here, where in catalogue.listing(data_dir)
    )
    print_table(["name", "what it is", "here", "where it is, or would come from"], rows)
