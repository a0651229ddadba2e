"""The command line: parses, calls, prints. Results go to stdout, everything else to stderr."""

import atexit
import errno
import gc
import json
import os
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from keras_lenet import __version__
from keras_lenet.errors import Error

# Silence TensorFlow's start-up chatter; set before anything imports it. Errors still show.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

app = typer.Typer(
    name="keras-lenet",
    help="LeNet-5 in Keras, taken from MNIST to a measured int8 TFLite.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RecipeFile = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="A recipe file, such as pipelines/mnist.toml.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a setting of the recipe; repeatable."
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Run even what is up to date.")]
Runs = Annotated[Path, typer.Option("--runs", help="Folder that results go to.")]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        envvar="KERAS_LENET_DATA",
        help="Folder with <dataset>/<IDX files>, looked in before the cache.",
    ),
]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    pass


@app.command()
def run(
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
    _run_stages(recipe, first, last, force, overrides, runs, data_dir)


def _stage_command(stage: str, summary: str, example: str) -> Callable[..., None]:
    def command(
        recipe: RecipeFile,
        force: Force = False,
        overrides: Overrides = None,
        runs: Runs = Path("runs"),
        data_dir: DataDir = None,
    ) -> None:
        _run_stages(recipe, stage, stage, force, overrides, runs, data_dir)

    command.__doc__ = f"{summary}\n\nExample: keras-lenet {stage} {example}"
    app.command(stage)(command)
    return command


_stage_command(
    "teach",
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


@app.command()
def evaluate(
    recipe: Annotated[
        Path | None, typer.Argument(metavar="[RECIPE]", help="A recipe file, or:")
    ] = None,
    files: Annotated[
        list[Path] | None,
        typer.Option(
            "--model",
            metavar="FILE",
            help="A .keras file, a SavedModel folder or a .tflite; repeatable. The others are "
            "held against the first, and gates against the last.",
        ),
    ] = None,
    dataset: Annotated[
        str, typer.Option("--dataset", help="Whose test images to score the files on.")
    ] = "mnist",
    folder: Annotated[
        Path, typer.Option("--to", help="Folder for what is found out about the files.")
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
    if recipe is not None:
        _run_stages(recipe, "evaluate", "evaluate", force, overrides, runs, data_dir)
        return
    from keras_lenet import artifacts, results, streams
    from keras_lenet import recipe as recipes
    from keras_lenet.data import datasets as known

    settings = recipes.from_overrides("evaluate", overrides or ()).evaluate
    folder = artifacts.replaceable(folder, results.METRICS)
    known.obtain(dataset, "test", data_dir)
    with streams.without_information():
        from keras_lenet.data import loading
        from keras_lenet.stages import evaluate as evaluating
        from keras_lenet.stages import report as reporting
    test = loading.load_test(dataset, data_dir)
    with artifacts.replacement(folder) as out:
        metrics = evaluating.evaluate_files(files or [], test, dataset, settings, out)
        reporting.of_files(out)
    _print_results(folder, folder.name)
    typer.echo(f"Report: {folder / reporting.PAGE}")
    results.check_gates(metrics)


@app.command()
def compare(
    folders: Annotated[
        list[Path], typer.Argument(metavar="RUN RUN...", help="Folders of finished runs.")
    ],
) -> None:
    """Show runs side by side.

    What their recipes differ in, their figures, and a paired test where the test set is the same.

    Example: keras-lenet compare runs/mnist runs/quickstart
    """
    from rich import box
    from rich.table import Table

    from keras_lenet import compare as comparing

    if len(folders) < 2:
        raise Error(f"compare takes two runs or more, got {len(folders)}")
    read = [comparing.read(folder) for folder in folders]
    comparing.check(read)
    for title, rows in (
        ("Settings that differ", comparing.settings(read)),
        ("Figures of the deployed models", comparing.figures(read)),
    ):
        table = Table("", *(run.name for run in read), title=title, box=box.SIMPLE)
        for row in rows:
            table.add_row(*row)
        _print_table(table)
    for sentence in comparing.verdicts(read):
        typer.echo(sentence)


def _run_stages(
    path: Path,
    first: str | None,
    last: str | None,
    force: bool,
    overrides: list[str] | None,
    runs: Path,
    data_dir: Path | None,
) -> None:
    from keras_lenet import cluster, pipeline, recipe

    stages = pipeline.select(first, last)
    opened = pipeline.open_run(recipe.load(path, overrides or ()), runs, data_dir)
    hosts = cluster.of_environment() if opened.recipe.devices == "all" else None
    if hosts or pipeline.keras_backend() != pipeline.TENSORFLOW:
        rest = pipeline.execute_training(replace(opened, cluster=hosts), stages, force)
        if rest:
            _restart(path, rest, force, overrides, runs, data_dir)
        return
    done = pipeline.execute(opened, stages, force)
    names = {stage.name for stage in stages}
    if "evaluate" in names:
        _print_results(done.stage_folder("evaluate"), done.recipe.name)
    if "report" in names:
        typer.echo(f"Report: {done.stage_folder('report') / 'report.html'}")
    pipeline.check_gates(done, stages)


def _restart(
    path: Path,
    stages: list[str],
    force: bool,
    overrides: list[str] | None,
    runs: Path,
    data_dir: Path | None,
) -> NoReturn:
    """Become a process that runs `stages` on this host alone, and on TensorFlow."""
    options = [f"--set={setting}" for setting in overrides or ()]
    options += ["--force"] * force
    options += ["--data-dir", str(data_dir)] if data_dir else []
    command = [sys.executable, "-P", "-m", "keras_lenet", "run", str(path), "--runs", str(runs)]
    environment = {key: value for key, value in os.environ.items() if key != "TF_CONFIG"}
    sys.stdout.flush()
    os.execve(
        sys.executable,
        [*command, "--from", stages[0], "--until", stages[-1], *options],
        environment | {"KERAS_BACKEND": "tensorflow"},
    )


def _print_results(folder: Path, name: str) -> None:
    from rich import box
    from rich.table import Table

    from keras_lenet import results

    metrics = results.read(folder)
    table = Table(
        title=f"{name}: {metrics['dataset']}", caption=results.caption(metrics), box=box.SIMPLE
    )
    for column in results.HEADER:
        table.add_column(column, justify="right" if column in results.RIGHT_ALIGNED else "left")
    for row in results.rows(metrics):
        table.add_row(*row)
    _print_table(table)


@app.command()
def classify(
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE...", help="Pictures, or folders of them.")
    ],
    model: Annotated[
        Path | None, typer.Option("--model", help="A .tflite file, instead of the reference int8.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
    show: Annotated[
        Path | None, typer.Option("--show", help="Folder to write what the model saw to.")
    ] = None,
) -> None:
    """Say which digit each picture shows.

    Any photo or drawing of one digit will do.

    Example: keras-lenet classify photo.jpg scans/ --show seen/
    """
    # NumPy's OpenBLAS would start a thread for every core; the matrices here are too small for it.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

    gc.disable()  # what imports make stays: among it there is no garbage to look for
    from keras_lenet import streams
    from keras_lenet.edge import pictures
    from keras_lenet.edge.classifier import Classifier

    gc.enable()
    with streams.without_information():
        classifier = Classifier(model)
    failed = 0
    for path, answer in pictures.classify(classifier, images):
        if isinstance(answer, Error):
            typer.echo(_plain(f"keras-lenet: {answer}"), err=True)
            failed += 1
            continue
        typer.echo(
            json.dumps(pictures.as_dict(path, answer))
            if as_json
            else _plain(pictures.in_words(path, answer))
        )
        if show is not None:
            pictures.write_seen(path, answer, show)
    if failed:
        raise typer.Exit(1)


@app.command()
def draw(
    model: Annotated[
        Path | None, typer.Option("--model", help="A .tflite file, instead of the reference model.")
    ] = None,
    host: Annotated[
        str, typer.Option("--host", help="Where to listen; 0.0.0.0 for other machines too.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="The port; 0 for any that is free.")
    ] = 8000,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Only print the address.")
    ] = False,
    static: Annotated[
        Path | None,
        typer.Option("--static", help="Instead, write the page to this folder, for any web host."),
    ] = None,
    packages: Annotated[
        Path, typer.Option("--node-modules", help="Where npm installed LiteRT.js, for --static.")
    ] = Path("node_modules"),
) -> None:
    """Draw a digit in the browser, and see the model answer.

    With --static the browser runs the model itself, offline too, after: npm install @litertjs/core

    Example: keras-lenet draw --host 0.0.0.0
    """
    from keras_lenet import streams
    from keras_lenet.edge import server as serving
    from keras_lenet.edge import static as writing
    from keras_lenet.edge.classifier import BROWSER, REFERENCE, Classifier, reference_model

    path = model or reference_model(REFERENCE if static is None else BROWSER)
    with streams.without_information():
        classifier = Classifier(path)
    if static is not None:
        writing.write(static, path, classifier, packages)
        typer.echo(f"Written to {static}: put it on any web host with https.")
        return
    server = serving.Server(host, port, path, classifier)
    here, outside = serving.addresses(server)
    typer.echo(f"Draw at {here} (Ctrl+C ends it)")
    if outside is not None and outside != here:
        typer.echo(f"On a phone in the same network: {outside}")
    if outside is not None:
        import segno

        segno.make(outside, error="l").terminal(compact=True)
        sys.stdout.flush()
    if not no_browser:
        import webbrowser

        webbrowser.open(here)
    server.serve_forever()


@app.command()
def inspect(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Any .tflite file; with --verify, a folder.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Check a published folder's files by the hashes in it."),
    ] = False,
) -> None:
    """Show what is in a .tflite file.

    Its tensors, ops, parameters, arithmetic and memory, and whether it keeps the contract.

    Example: keras-lenet inspect exported/lenet5_int8.tflite
    """
    if verify:
        from keras_lenet import checksums

        found = checksums.verify(file)
        for name in found.uncovered:
            typer.echo(_plain(f"{name}: not covered by any hash"))
        typer.echo(
            _plain(f"{file}: {len(found.covered)} files as listed, {len(found.uncovered)} unknown")
        )
        return
    from keras_lenet import streams
    from keras_lenet.edge import inspection

    with streams.without_information():
        report = inspection.inspect(file)
    if as_json:
        typer.echo(json.dumps(report.as_dict(), indent=2, ensure_ascii=False))
        return
    for end, tensors in (("input", report.inputs), ("output", report.outputs)):
        for tensor in tensors:
            typer.echo(_plain(f"{end:9} {tensor}"))
    _print_ops(report)
    typer.echo(
        f"{report.bytes:,} bytes; {report.parameters:,} parameters; "
        f"{report.weight_bytes:,} bytes of weights; {report.macs:,} multiply-accumulates; "
        f"{report.peak_activation_bytes:,} bytes of activations at the peak"
    )
    if report.metadata:
        description = report.metadata.get("description")
        typer.echo(_plain(f"described as {report.metadata.get('name')!r}: {description}"))
    contract = report.contract_problem or "met: a digit classifier as exported here"
    typer.echo(_plain(f"contract  {contract}"))


def _print_ops(report: Any) -> None:
    from rich import box
    from rich.table import Table

    table = Table("op", "input", "output", box=box.SIMPLE)
    table.add_column("parameters", justify="right")
    table.add_column("multiply-accumulates", justify="right")
    for op in report.ops:
        inputs, outputs = (
            ", ".join(f"{tensor.dtype} {tensor.dimensions}" for tensor in tensors)
            for tensors in (op.inputs, op.outputs)
        )
        table.add_row(op.name, inputs, outputs, f"{op.parameters:,}", f"{op.macs:,}")
    _print_table(table)


@app.command()
def summary(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A model's name, such as lenet5, or a .keras file."),
    ],
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE.png", help="Also draw it, as PNG.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show a model layer by layer.

    Sizes, and parameters and multiply-accumulates with their arithmetic.

    Example: keras-lenet summary lenet5 --plot lenet5.png
    """
    from rich import box
    from rich.table import Table

    from keras_lenet import models, streams

    if plot is not None and plot.suffix != ".png":
        raise Error(f"--plot {plot}: expected a file name ending in .png")
    with streams.without_information():
        import keras

        from keras_lenet.models import summary as summarizing
        from keras_lenet.recipe import Model
        from keras_lenet.stages import subjects

    path = Path(model)
    if model in models.MODELS or not (path.exists() or path.suffix == ".keras"):
        built = models.build(keras, Model(name=model))
    else:
        built = subjects.load_keras(path)
    found = summarizing.summarize(built)
    if plot is not None:
        from keras_lenet import diagram, plots

        plots.save(diagram.lenet_style(found), plot)
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=2, ensure_ascii=False))
        return
    table = Table(title=found.name, box=box.SIMPLE)
    for column in summarizing.HEADER:
        table.add_column(column, justify="right" if column in summarizing.RIGHT_ALIGNED else "left")
    for row in summarizing.rows(found):
        table.add_row(*row)
    _print_table(table)


@app.command()
def parity(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An int8 or uint8 .tflite file.")],
    dataset: Annotated[str, typer.Option("--dataset", help="Whose test images to run.")] = "mnist",
    data_dir: DataDir = None,
) -> None:
    """Compare a file's outputs on every kernel set.

    XNNPACK, TFLite's own kernels, and TensorFlow Lite Micro where tflite-micro is installed.

    Example: keras-lenet parity exported/lenet5_int8.tflite
    """
    from keras_lenet import streams
    from keras_lenet.data import datasets as known
    from keras_lenet.edge import parity as comparing

    known.obtain(dataset, "test", data_dir)
    images = known.load(dataset, "test", data_dir).images[:]  # in memory, be they in shards
    with streams.without_information():
        found = comparing.compare(file, images)
        bound = comparing.softmax_bound(file)
    typer.echo(f"{file.name}, {len(images):,} test images of {dataset}, against XNNPACK\n")
    typer.echo(comparing.markdown(found))
    if bound is not None:
        typer.echo(f"\nOne unit in the logits can make {bound} after the softmax.")


@app.command("export-c")
def export_c(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An int8 .tflite file.")],
    folder: Annotated[Path, typer.Option("-o", "--to", help="Folder to write to.")],
) -> None:
    """Generate C from a file: integers only, no interpreter.

    With a test, a Makefile, an Arduino sketch, and what it takes of a microcontroller.

    Example: keras-lenet export-c exported/microcontroller/lenet5_int8.tflite -o c/
    """
    from keras_lenet import streams
    from keras_lenet.edge import microcontroller
    from keras_lenet.edge.c import folder as generated

    with streams.without_information():
        images, names = microcontroller.golden_images(*_digits())
        generated.write(file, images, names, folder)
    typer.echo(f"C: {folder}")


def _digits() -> tuple[Any, Any]:
    """The digits that scikit-learn carries, and their labels; none where it isn't installed."""
    import importlib.util

    import numpy as np

    from keras_lenet.data import datasets as known

    if not importlib.util.find_spec("sklearn"):
        return np.empty((0, 28, 28), np.uint8), np.empty(0, np.uint8)
    digits = known.load(known.DIGITS, "train")
    return digits.images, digits.labels


@app.command()
def publish(
    recipe: RecipeFile,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many seeds to run.")] = 1,
    folder: Annotated[Path, typer.Option("--to", help="Folder to replace.")] = Path("exported"),
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    data_dir: DataDir = None,
) -> None:
    """Run several seeds and publish the best.

    The best on the validation split, with a model card.

    Example: keras-lenet publish pipelines/mnist.toml --seeds 3
    """
    from keras_lenet import artifacts
    from keras_lenet import publish as publishing
    from keras_lenet import recipe as recipes

    loaded = recipes.load(recipe, overrides or ())
    folder = artifacts.replaceable(folder, publishing.MANIFEST)  # before the work, not after it
    finished = publishing.run_seeds(loaded, seeds, runs, data_dir)
    typer.echo(publishing.spread(finished))
    settings = "".join(f" --set {setting}" for setting in overrides or ())
    publishing.write(finished, folder, f"{recipe}{settings}")


@app.command()
def reproduce(
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

    Example: keras-lenet reproduce pipelines/seeds/*.toml
    """
    from keras_lenet import publish as publishing
    from keras_lenet import recipe as recipes
    from keras_lenet import reproduction

    loaded = [recipes.load(path, overrides or ()) for path in paths]
    reproduction.check(loaded)  # before the work, not after it
    finished = [publishing.run_seeds(one, seeds, runs, data_dir) for one in loaded]
    typer.echo(reproduction.HEADER)
    for one in finished:
        typer.echo(reproduction.row(one))
    for one in finished:
        reproduction.check_gates(one)


@app.command()
def datasets(data_dir: DataDir = None) -> None:
    """List the datasets, and whether each is here.

    Where each is, or would come from.

    Example: keras-lenet datasets --data-dir ~/data
    """
    from rich import box
    from rich.table import Table

    from keras_lenet.data import datasets as known

    table = Table("name", "what it is", "here", "where it is, or would come from", box=box.SIMPLE)
    for name, title, here, where in known.listing(data_dir):
        table.add_row(name, title, "yes" if here else "no", where)
    _print_table(table)


def _print_table(table: Any) -> None:
    """Print to stdout with every row whole: what is wider than the window spills over."""
    from rich.console import Console

    console = Console(markup=False, emoji=False)  # names are no markup
    natural = console.measure(table, options=console.options.update(max_width=200)).maximum
    Console(markup=False, emoji=False, width=max(natural, console.width)).print(table)


def _plain(text: str) -> str:
    """Text without what terminals obey: names and descriptions may come from strangers."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def main() -> None:
    """Entry point: errors that the user can put right become one line and an exit status."""
    # What is imported stays to the end; then Python would look through it for garbage once more,
    # which takes as long as classify's own work.
    atexit.register(gc.freeze)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    try:
        app()
    except BaseException as error:
        if isinstance(error, SystemExit):
            raise
        if _stopped:  # what was interrupted fell over it
            sys.exit(_stopped[0])
        _explain(error)
        raise


_stopped: list[int] = []
"""The exit status, once a signal has come."""


def _explain(error: BaseException) -> None:
    """End with one line if the error is one that the user can put right."""
    if isinstance(error, Error):
        _fail(str(error), error.exit_status)
    if isinstance(error, ModuleNotFoundError):
        if (error.name or "").partition(".")[0] in _TRAINING_PACKAGES:
            _fail(
                f"this command needs {error.name}, which the base install leaves out: "
                "pip install 'keras-lenet[train]'"
            )
    elif isinstance(error, OSError) and error.errno in _FILE_SYSTEM_ERRORS:
        _fail(f"{error.filename or 'the disk'}: {error.strerror}")
    elif said := re.search(r"^keras_lenet\.errors\.Error: (.+)$", str(error), re.MULTILINE):
        _fail(said[1])  # raised while tf.data read images, whose own error quotes it


_TRAINING_PACKAGES = {
    "jinja2",
    "keras",
    "matplotlib",
    "pydantic",
    "scipy",
    "sklearn",
    "tensorflow",
    "tensorflow_model_optimization",
    "tf_keras",
}
_FILE_SYSTEM_ERRORS = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.ENOTDIR,
    errno.ENOENT,
    errno.EEXIST,
}


def _interrupt(number: int, frame: Any) -> None:
    """Say how to go on, and leave with the status that shells expect of this signal."""
    message = f"stopped by {signal.Signals(number).name}"
    pipeline = sys.modules.get("keras_lenet.pipeline")
    if pipeline is not None and hasattr(pipeline, "progress"):  # imported, and to its end
        message += f" {pipeline.progress()}; the same command goes on from there"
    _stopped.append(128 + number)
    _fail(message, 128 + number)


def _fail(message: str, status: int = 1) -> None:
    print(f"keras-lenet: {_plain(' '.join(message.split()))}", file=sys.stderr)
    sys.exit(status)
