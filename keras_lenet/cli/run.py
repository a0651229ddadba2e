"""Commands that run recipes, and the data they need."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from keras_lenet.cli.options import DataDir, Force, Overrides, RecipeFile, Runs, app
from keras_lenet.cli.tables import print_table


@app.command("run")
def run_recipe(
    recipe: RecipeFile,
    first: Annotated[str | None, typer.Option("--from", help="First stage to run.")] = None,
    last: Annotated[str | None, typer.Option("--until", help="Last stage to run.")] = None,
    force: Force = False,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    data_dir: DataDir = None,
) -> None:
    """Run a recipe's stages in order, skipping what is up to date.

    Example: keras-lenet run pipelines/mnist.toml --set train.epochs=10
    """
    run_stages(recipe, first, last, force, overrides, runs, data_dir)


def _stage_command(stage: str, summary: str, example: str) -> Callable[..., None]:
    def command(
        recipe: RecipeFile,
        force: Force = False,
        overrides: Overrides = None,
        runs: Runs = Path("runs"),
        data_dir: DataDir = None,
    ) -> None:
        run_stages(recipe, stage, stage, force, overrides, runs, data_dir)

    command.__doc__ = f"{summary}\n\nExample: keras-lenet {stage} {example}"
    app.command(stage)(command)
    return command


_stage_command(
    "distill",
    "Train teachers, and have them answer the training images.\n\nFor recipes with [distill].",
    "pipelines/mnist.toml",
)
_stage_command(
    "train",
    "Train the model in float, resuming if interrupted.",
    "pipelines/mnist.toml --set train.epochs=10",
)
_stage_command(
    "quantize",
    "Fine-tune it with quantization in the loop.",
    "pipelines/mnist.toml --set quantize.epochs=3",
)
_stage_command(
    "export",
    "Write the SavedModel and the TFLite files.",
    "pipelines/mnist.toml",
)
_stage_command(
    "report",
    "Make one HTML page of it all.\n\nVerdict, plots, tables, mistakes; no network needed.",
    "pipelines/mnist.toml",
)


def run_stages(
    path: Path,
    first: str | None,
    last: str | None,
    force: bool,
    overrides: list[str] | None,
    runs: Path,
    data_dir: Path | None,
) -> None:
    """Run the stages from `first` to `last`, and print what they found."""
    from keras_lenet import pipeline
    from keras_lenet.recipe import load

    stages = pipeline.select(first, last)
    opened = pipeline.open_run(load(path, overrides or ()), runs, data_dir)
    done = pipeline.execute(opened, stages, force)
    names = {stage.name for stage in stages}
    if "evaluate" in names:
        print_results(done.stage_folder("evaluate"), done.recipe.name)
    if "report" in names:
        typer.echo(f"Report: {done.stage_folder('report') / 'report.html'}")
    pipeline.check_gates(done, stages)


def print_results(folder: Path, name: str) -> None:
    """Print the figures that `folder` has of its models."""
    from keras_lenet.evaluation.metrics import Metrics
    from keras_lenet.reporting import results

    metrics = Metrics.read(folder)
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
    """Run published systems, and print their figures beside ours.

    A table in Markdown, from several seeds of each. Exit status 3 if any misses a gate.

    Example: keras-lenet reproduce pipelines/reproductions/*.toml
    """
    from keras_lenet.recipe import load
    from keras_lenet.reporting import reproduction
    from keras_lenet.seeds import run_seeds

    loaded = [load(path, overrides or ()) for path in paths]
    reproduction.check(loaded)  # before the work, not after it
    finished = [run_seeds(one, seeds, runs, data_dir) for one in loaded]
    typer.echo(reproduction.HEADER)
    for one in finished:
        typer.echo(reproduction.row(one))
    for one in finished:
        reproduction.check_gates(one)


@app.command("datasets")
def list_datasets(data_dir: DataDir = None) -> None:
    """List the datasets, and whether each is here.

    Where each is, or would come from.

    Example: keras-lenet datasets --data-dir ~/data
    """
    from keras_lenet.data import catalogue

    rows = (
        [name, title, "yes" if here else "no", where]
        for name, title, here, where in catalogue.listing(data_dir)
    )
    print_table(["name", "what it is", "here", "where it is, or would come from"], rows)
