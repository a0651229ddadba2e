"""Commands that answer pictures: classify and draw."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from keras_lenet.cli.options import app
from keras_lenet.console import plain
from keras_lenet.errors import Error


@app.command("classify")
def classify_pictures(
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
    from keras_lenet import console
    from keras_lenet.cli import pictures
    from keras_lenet.edge.classifier import Classifier

    with console.quiet_native_logs():
        classifier = Classifier(model)
    failed = False
    for path, answer in pictures.classify(classifier, images):
        if isinstance(answer, Error):
            typer.echo(plain(f"keras-lenet: {answer}"), err=True)
            failed = True
            continue
        words = pictures.in_words(path, answer)
        typer.echo(json.dumps(pictures.as_dict(path, answer)) if as_json else plain(words))
        if show is not None:
            pictures.write_seen(path, answer, show)
    if failed:
        raise typer.Exit(1)


@app.command("draw")
def serve_drawing_page(
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
    folder: Annotated[
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
    from keras_lenet import console
    from keras_lenet.draw import server, static
    from keras_lenet.edge.classifier import BROWSER, REFERENCE, Classifier, reference_model

    path = model or reference_model(REFERENCE if folder is None else BROWSER)
    with console.quiet_native_logs():
        classifier = Classifier(path)
    if folder is not None:
        static.write(folder, path, classifier, packages)
        typer.echo(f"Written to {folder}: put it on any web host with https.")
        return
    serving = server.listen(host, port, path, classifier)
    here, outside = server.addresses(host, serving.effective_port)
    typer.echo(f"Draw at {here} (Ctrl+C ends it)")
    if outside is not None:
        import segno

        if outside != here:
            typer.echo(f"On a phone in the same network: {outside}")
        segno.make(outside, error="l").terminal(compact=True)
        sys.stdout.flush()
    if not no_browser:
        import webbrowser

        webbrowser.open(here)
    serving.run()
