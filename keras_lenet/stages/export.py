"""Export stage: SavedModel, TFLite, their descriptions, the C++ bundle, and C."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf

from keras_lenet import __version__, artifacts, console, models
from keras_lenet.data import catalogue, loading
from keras_lenet.deploy import c, footprint, tflm
from keras_lenet.edge.classifier import Classifier
from keras_lenet.edge.metadata import LABELS_FILE
from keras_lenet.errors import Error
from keras_lenet.evaluation import confidence
from keras_lenet.recipe import ExportSettings
from keras_lenet.stages import Context, quantize, train
from keras_lenet.tflite import convert, metadata_writer
from keras_lenet.training import setup

SAVED_MODEL, MICROCONTROLLER, MANIFEST = "saved_model", "microcontroller", "manifest.json"
VARIANTS = ("float32", "int8_ptq", "int8", "uint8")
DEPLOYED = ("int8", "uint8")
"""The variants whose layout may be optimized; the others are for comparison."""

LAYOUT_IMAGES = 300
"""Validation images on which both layouts must have the same outputs."""
TEMPERATURE = (
    "Export has divided the logits by the temperature, in the weights of the last layer. "
    "Every file has these weights: use its probabilities as they are. The float32 and int8_ptq "
    "files and saved_model have the temperature of train; the int8 and uint8 files, "
    "microcontroller and c have the temperature of quantize. model.keras has the logits as trained."
)


def run(context: Context[ExportSettings]) -> dict[str, Any]:
    """Write the SavedModel, the four .tflite files, their descriptions, the C++ bundle, and C.

    Raises:
        Error: a converted file breaks its contract, or its optimized layout has other outputs than
            the plain one.
    """
    setup.prepare_devices()
    recipe = context.settings
    name, size = recipe.model.name, models.input_size(recipe.model)
    trained = train.load(context.inputs["train"])
    fake_quantized = quantize.load(context.inputs["quantize"], recipe.model)
    training, validation = context.splits(1)
    calibration = loading.calibration_examples(
        training, recipe.export.calibration_images, recipe.seed
    )
    convert.save_model(trained, size, context.out / SAVED_MODEL)
    converters: dict[str, Callable[[], bytes]] = {
        "float32": lambda: convert.convert(trained, size),
        "int8_ptq": lambda: convert.convert(trained, size, tf.int8, calibration.images[:]),
        "int8": lambda: convert.convert(fake_quantized, size, tf.int8),
        "uint8": lambda: convert.convert(fake_quantized, size, tf.uint8),
    }
    thresholds = {}
    plain = plain_int8(context.out, name)
    for variant, converter in converters.items():
        path = context.out / file_name(name, variant)
        console.say(f"export: {path.name}")
        content = converter()
        if variant == "int8":
            artifacts.write_bytes(plain, content)
        if variant in DEPLOYED and recipe.export.optimize_layout:
            content = convert.optimize_layout(content, validation.images[:LAYOUT_IMAGES])
        artifacts.write_bytes(path, content)
        convert.check(path, variant)
        with console.quiet_native_logs():
            probabilities = Classifier(path).predict(validation.images[:])
        thresholds[variant] = confidence.threshold(probabilities, confidence.REFUSED)
        describe(path, name, context.dataset, thresholds[variant])
    describe(plain, name, context.dataset, thresholds["int8"])
    console.say("export: budget card")
    artifacts.write_bytes(context.out / "budget.md", footprint.page(plain).encode())
    write_bundles(plain, context.out)
    artifacts.write_bytes(context.out / LABELS_FILE, labels(context.dataset))
    hashes = [artifacts.digest(image.tobytes()) for image in calibration.images[:]]
    used = {"indices": calibration.indices.tolist(), "sha256": hashes}
    artifacts.write_json(context.out / "calibration.json", used)
    temperatures = {
        stage: confidence.temperature_of(context.inputs[stage]) for stage in ("train", "quantize")
    }
    described = manifest(context.out, context.dataset, recipe, thresholds, temperatures)
    artifacts.write_json(context.out / MANIFEST, described)
    return {variant: described["files"][file_name(name, variant)]["bytes"] for variant in VARIANTS}


def write_bundles(int8: Path, out: Path) -> None:
    """Write the C++ bundle and the C of an int8 .tflite into folders of `out`.

    A bundle that lacks an op of the model is left out, with a line that says so.
    """
    for title, write, name in (
        ("microcontroller bundle", tflm.write, MICROCONTROLLER),
        ("C", c.write, "c"),
    ):
        console.say(f"export: {title}")
        try:
            write(int8, out / name)
        except Error as error:
            console.say(f"export: no {title} of this model: {error}")


def file_name(model: str, variant: str) -> str:
    """Return the name of one exported .tflite."""
    return f"{model}_{variant}.tflite"


def plain_int8(out: Path, model: str) -> Path:
    """Return the path of the int8 .tflite in the plain layout, which microcontrollers take."""
    return out / MICROCONTROLLER / file_name(model, "int8_plain")


def describe(path: Path, model: str, dataset: str, threshold: float) -> None:
    """Give a .tflite its metadata, with its confidence threshold and its labels.

    The recipe's name and the dataset's folder stay out: the same weights give the same bytes.
    """
    description = metadata_writer.describe(
        model,
        f"Ten-class classifier of {catalogue.shows(dataset)}",
        __version__,
        "keras_lenet",
        threshold,
    )
    files = {LABELS_FILE: labels(dataset)}
    artifacts.write_bytes(path, metadata_writer.attach(path.read_bytes(), description, files))


def labels(dataset: str) -> bytes:
    """Return the content of a label file: the names of a dataset's classes, a line each."""
    return "".join(f"{label}\n" for label in catalogue.classes(dataset)).encode()


def manifest(
    out: Path,
    dataset: str,
    settings: ExportSettings,
    thresholds: dict[str, float],
    temperatures: dict[str, float],
) -> dict[str, Any]:
    """Return the manifest, which describes the exported files in `out` for programs.

    Args:
        out: folder of the files.
        dataset: the dataset in use: the recipe's, or its fallback.
        settings: settings of the recipe that decide the files.
        thresholds: the confidence threshold of each variant.
        temperatures: the temperatures of the train and the quantize stage.
    """

    def described(path: Path) -> dict[str, Any]:
        return {"bytes": path.stat().st_size, "sha256": artifacts.sha256(path)}

    def tflite(path: Path, variant: str) -> dict[str, Any]:
        return {**described(path), **convert.CONTRACT[variant], "threshold": thresholds[variant]}

    model = settings.model.name
    plain = plain_int8(out, model)
    return {
        "schema": artifacts.SCHEMA,
        "model": model,
        "dataset": dataset,
        "image": "28×28 grey pixels, 0 = background, 255 = ink",
        "labels": list(catalogue.classes(dataset)),
        "temperature": {"meaning": TEMPERATURE, **temperatures},
        "files": {
            file_name(model, variant): tflite(out / file_name(model, variant), variant)
            for variant in VARIANTS
        },
        "saved_model": {**convert.SIGNATURE, "threshold": thresholds["float32"]},
        "microcontroller": {
            name: described(plain.parent / name) for name in artifacts.hash_files(plain.parent)
        }
        | {plain.name: tflite(plain, "int8")},
        "settings": settings.model_dump(mode="json"),
        "versions": artifacts.versions(),
    }
