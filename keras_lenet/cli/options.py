"""The application that commands register with, and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from keras_lenet import __version__

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
Force = Annotated[bool, typer.Option("--force", help="Run stages that are up to date too.")]
Runs = Annotated[Path, typer.Option("--runs", help="Folder for results.")]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        envvar="KERAS_LENET_DATA",
        help="Folder with <dataset>/<IDX files>; searched before the cache.",
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
