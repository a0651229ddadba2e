"""Commands that score models, show them and compare runs."""

import json
from pathlib import Path
from typing import Annotated

import typer

from keras_lenet import artifacts, console
from keras_lenet.cli.options import DataDir, Force, Overrides, Runs, app
from keras_lenet.cli.run import print_results, run_stages
from keras_lenet.console import print_table
from keras_lenet.errors import Error


@app.command("evaluate")
def evaluate_models(
    recipe: Annotated[
        Path | None, typer.Argument(metavar="[RECIPE]", help="A recipe file, or:")
    ] = None,
    files: Annotated[
        list[Path] | None,
        typer.Option(
            "--model",
            metavar="FILE",
            help="A .keras file, a SavedModel folder or a .tflite; repeatable. The first is the "
            "reference of the others, and gates apply to the last.",
        ),
    ] = None,
    dataset: Annotated[
        str, typer.Option("--dataset", help="Whose test images to score the files on.")
    ] = "mnist",
    folder: Annotated[
        Path, typer.Option("--to", help="Folder for the metrics and the report.")
    ] = Path("runs/evaluated"),
    force: Force = False,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    data_dir: DataDir = None,
) -> None:
    """Score every model of a recipe, or any model files, on every test image.

    Exit status 3 if a gate is missed.

    Example: keras-lenet evaluate --model model.keras --model exported/lenet5_int8.tflite
    """
    if (recipe is None) == (not files):
        raise Error("evaluate takes a recipe, or one --model FILE or more; see --help")
    from keras_lenet.data import download
    from keras_lenet.evaluation.metrics import METRICS
    from keras_lenet.recipe import from_overrides

    if recipe is not None:
        run_stages(recipe, "evaluate", "evaluate", force, overrides, runs, data_dir)
        return
    settings = from_overrides("evaluate", overrides).evaluate
    folder = artifacts.replaceable(folder, METRICS)
    download.obtain(dataset, "test", data_dir)
    with console.quiet_native_logs():
        from keras_lenet.data import loading
        from keras_lenet.reporting import page
        from keras_lenet.stages import evaluate
    test = loading.load_test(dataset, data_dir)
    with artifacts.replacement(folder) as out:
        metrics = evaluate.evaluate_files(files or [], test, dataset, settings, out)
        page.write(out, out)
    print_results(metrics, folder.name)
    typer.echo(f"Report: {folder / page.PAGE}")
    metrics.check_gates()


@app.command("compare")
def compare_runs(
    folders: Annotated[
        list[Path], typer.Argument(metavar="RUN RUN...", help="Folders of finished runs.")
    ],
) -> None:
    """Show runs side by side: settings that differ, figures, and a paired test.

    Example: keras-lenet compare runs/mnist runs/quickstart
    """
    from keras_lenet.reporting import compare

    if len(folders) < 2:
        raise Error(f"compare takes two runs or more, got {len(folders)}")
    read = [compare.read(folder) for folder in folders]
    header = ["", *(run.name for run in read)]
    print_table(header, compare.settings(read), title="Settings that differ")
    print_table(header, compare.figures(read), title="Figures of the deployed models")
    for sentence in compare.verdicts(read):
        typer.echo(sentence)


@app.command("summary")
def summarize_model(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A model's name, such as lenet5, or a .keras file."),
    ],
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE.png", help="Also draw it, as PNG.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show a model layer by layer: sizes, parameters and multiply-accumulates.

    Example: keras-lenet summary lenet5 --plot lenet5.png
    """
    from keras_lenet import models

    if plot is not None and plot.suffix != ".png":
        raise Error(f"--plot {plot}: expected a file name ending in .png")
    with console.quiet_native_logs():
        import keras

        from keras_lenet.evaluation import scorers
        from keras_lenet.models import summary
        from keras_lenet.recipe import Model

    path = Path(model)
    if model in models.MODELS or not (path.exists() or path.suffix == ".keras"):
        built = models.build(keras, Model(name=model))
    else:
        built = scorers.load_keras(path)
    found = summary.summarize(built)
    if plot is not None:
        from keras_lenet.reporting import plots

        plots.save(summary.draw(found), plot)
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=2, ensure_ascii=False))
        return
    rows = summary.rows(found)
    print_table(summary.HEADER, rows, right_aligned=summary.RIGHT_ALIGNED, title=found.name)
