"""Commands that run recipes, and list the data that they need."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keras_lenet.cli.options import DataDir, Force, Overrides, RecipeFile, Runs, app
from keras_lenet.console import print_table
from keras_lenet.errors import Error

if TYPE_CHECKING:
    from keras_lenet.evaluation.metrics import Metrics
    from keras_lenet.pipeline import Run
    from keras_lenet.stages import Stage


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
    from keras_lenet.evaluation.metrics import Metrics

    names = {stage.name for stage in stages}
    metrics = Metrics.read(run.stage_folder("evaluate")) if "evaluate" in names else None
    if metrics:
        print_results(metrics, run.recipe.name)
    if "report" in names:
        typer.echo(f"Report: {run.stage_folder('report') / 'report.html'}")
    if metrics:
        metrics.check_gates()


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
    from keras_lenet.reporting import compare

    loaded = [load_recipe(path, overrides) for path in paths]
    for one in loaded:
        if one.origin is None:
            raise Error(
                f"recipe {one.name} has no [origin] section: expected a recipe that reproduces a "
                "published system, such as those in pipelines/reproductions"
            )
    systems = [run_seeds(one, seeds, runs, data_dir) for one in loaded]
    typer.echo(compare.reproductions(systems))
    for finished in systems:
        for run in finished:
            run.metrics.check_gates()


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
