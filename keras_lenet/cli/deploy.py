"""Commands for files that go to devices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from keras_lenet import artifacts, console
from keras_lenet.cli.options import DataDir, Overrides, RecipeFile, Runs, app
from keras_lenet.console import plain, print_table


@app.command("inspect")
def inspect_file(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Any .tflite file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show the tensors, ops, parameters, arithmetic and memory of a .tflite file.

    Also says whether the file keeps the contract of the exported classifiers.

    Example: keras-lenet inspect exported/lenet5_int8.tflite
    """
    from keras_lenet.tflite import inspection

    with console.quiet_native_logs():
        report = inspection.inspect(file)
    if as_json:
        typer.echo(json.dumps(report.as_dict(), indent=2, ensure_ascii=False))
        return
    for end, tensors in (("input", report.inputs), ("output", report.outputs)):
        for tensor in tensors:
            typer.echo(plain(f"{end:9} {tensor}"))
    figures = ("parameters", "multiply-accumulates")
    rows = []
    for op in report.ops:
        inputs, outputs = (
            ", ".join(f"{tensor.dtype} {tensor.dimensions}" for tensor in tensors)
            for tensors in (op.inputs, op.outputs)
        )
        rows.append([op.name, inputs, outputs, f"{op.parameters:,}", f"{op.macs:,}"])
    print_table(("op", "input", "output", *figures), rows, right_aligned=figures)
    typer.echo(
        f"{report.bytes:,} bytes; {report.parameters:,} parameters; "
        f"{report.weight_bytes:,} bytes of weights; {report.macs:,} multiply-accumulates; "
        f"{report.peak_activation_bytes:,} bytes of activations at the peak"
    )
    if report.metadata:
        description = report.metadata.get("description")
        typer.echo(plain(f"described as {report.metadata.get('name')!r}: {description}"))
    contract = report.contract_problem or "met: a digit classifier as exported here"
    typer.echo(plain(f"contract  {contract}"))


@app.command("parity")
def compare_kernels(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An int8 or uint8 .tflite file.")],
    dataset: Annotated[
        str, typer.Option("--dataset", help="Dataset of the test images.")
    ] = "mnist",
    data_dir: DataDir = None,
) -> None:
    """Compare a file's outputs on every kernel set.

    The kernel sets are XNNPACK, LiteRT's own, and TensorFlow Lite Micro's if it is installed.

    Example: keras-lenet parity exported/lenet5_int8.tflite
    """
    from keras_lenet.data import download, reading
    from keras_lenet.tflite import parity

    download.obtain(dataset, "test", data_dir)
    images = reading.load(dataset, "test", data_dir).images
    with console.quiet_native_logs():
        found = parity.compare(file, images)
        bound = parity.softmax_bound(file)
    typer.echo(f"{file.name}, {len(images):,} test images of {dataset}, against XNNPACK")
    figures = ("images in another class", "largest difference", "images with any", "arena, bytes")
    rows = [(len(row.flips), row.largest, f"{row.unequal:,}", row.arena or "") for row in found]
    cells = [[each.kernels, *map(str, row)] for each, row in zip(found, rows, strict=True)]
    print_table(("kernel set", *figures), cells, right_aligned=figures)
    for row in found:
        for flip in row.flips:
            typer.echo(f"{row.kernels}, {flip}")
    if found[-1].kernels != parity.MICRO:
        typer.echo(f"TensorFlow Lite Micro was not run: {parity.INSTALL}")
    if bound is not None:
        typer.echo(f"One unit in the logits can make {bound} after the softmax.")


@app.command("export-c")
def export_c(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An int8 .tflite file.")],
    folder: Annotated[Path, typer.Option("-o", "--to", help="Folder to write to.")],
) -> None:
    """Generate C from a file: integers only, no interpreter.

    The folder also gets a test, a Makefile, an Arduino sketch and the footprint on a Cortex-M.

    Example: keras-lenet export-c exported/microcontroller/lenet5_int8_plain.tflite -o c/
    """
    from keras_lenet.deploy import c

    with console.quiet_native_logs():
        c.write(file, folder)
    typer.echo(f"C: {folder}")


@app.command("publish")
def publish_best(
    recipe: RecipeFile,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many seeds to run.")] = 1,
    folder: Annotated[Path, typer.Option("--to", help="Folder to replace.")] = Path("exported"),
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    data_dir: DataDir = None,
) -> None:
    """Run several seeds and publish the one that is best on the validation split.

    The folder also gets a model card.

    Example: keras-lenet publish pipelines/mnist.toml --seeds 3
    """
    from keras_lenet.pipeline import run_seeds
    from keras_lenet.recipe import load_recipe
    from keras_lenet.reporting.card import publish, spread

    loaded = load_recipe(recipe, overrides)
    folder = artifacts.replaceable(folder, "manifest.json")  # an error comes before the work
    finished = run_seeds(loaded, seeds, runs, data_dir)
    typer.echo(spread(finished))
    settings = "".join(f" --set {setting}" for setting in overrides or ())
    publish(finished, folder, f"{recipe}{settings}")
