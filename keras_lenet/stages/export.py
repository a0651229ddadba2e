"""Export to SavedModel and TFLite, with what describes the files, the C++ bundle, and C."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf

from keras_lenet import __version__, artifacts, console, models
from keras_lenet.data import catalogue, loading, reading
from keras_lenet.deploy import footprint, tflm
from keras_lenet.deploy.c import folder as generated
from keras_lenet.edge import metadata
from keras_lenet.edge.classifier import Classifier
from keras_lenet.errors import Error
from keras_lenet.evaluation import confidence
from keras_lenet.recipe import ExportSettings
from keras_lenet.stages import Context, quantize, train
from keras_lenet.tflite import convert, metadata_writer
from keras_lenet.training import devices

SAVED_MODEL, BUDGET, MICROCONTROLLER = "saved_model", "budget.md", "microcontroller"
CALIBRATION, MANIFEST = "calibration.json", "manifest.json"
VARIANTS = ("float32", "int8_ptq", "int8", "uint8")
DEPLOYED = ("int8", "uint8")
"""The variants whose layout may be optimized; the others are there to compare with."""

LAYOUT_IMAGES = 300
"""Validation images on which the optimized layout must answer as the plain one does."""
TEMPERATURE = (
    "Export has divided the logits by the temperature, in the weights of the last layer. "
    "Every file has these weights: use its probabilities as they are. The float32 and int8_ptq "
    "files and saved_model have the temperature of train; the int8 and uint8 files, "
    "microcontroller and c have the temperature of quantize. model.keras has the logits as trained."
)


def run(context: Context[ExportSettings]) -> dict[str, Any]:
    """Write the SavedModel, the four .tflite files, what describes them, the C++ bundle, and C.

    Raises:
        Error: a converted file doesn't keep its contract, or its optimized layout answers
            otherwise than the plain one.
    """
    devices.prepare_devices()
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
        "int8_ptq": lambda: convert.convert(trained, size, tf.int8, calibration.images),
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
        with console.without_information():
            probabilities = Classifier(path).predict(validation.images[:])
        thresholds[variant] = confidence.threshold(probabilities, recipe.export.refuse)
        describe(path, name, context.dataset, thresholds[variant])
    describe(plain, name, context.dataset, thresholds["int8"])
    console.say("export: budget card")
    footprint.write(plain, context.out / BUDGET)
    write_bundles(plain, context.out)
    artifacts.write_bytes(context.out / metadata.LABELS_FILE, labels(context.dataset))
    artifacts.write_json(context.out / CALIBRATION, _identify(calibration))
    temperatures = {
        stage: confidence.temperature_of(context.inputs[stage]) for stage in ("train", "quantize")
    }
    described = manifest(
        context.out,
        name,
        context.dataset,
        context.settings.model_dump(mode="json"),
        thresholds,
        temperatures,
    )
    artifacts.write_json(context.out / MANIFEST, described)
    return {
        variant: (context.out / file_name(name, variant)).stat().st_size for variant in VARIANTS
    }


def write_bundles(int8: Path, out: Path) -> None:
    """Write the C++ bundle and the C of an int8 .tflite into folders of `out`.

    Where the model has an op that one of them lacks, it is left out, with a line that says so.
    """
    # Not of the run's own dataset, whose licence may not let its images be handed on.
    digits = reading.load(catalogue.DIGITS, "train")
    images, names = tflm.golden_images(digits.images, digits.labels)
    for title, write, folder in (
        ("microcontroller bundle", tflm.write, MICROCONTROLLER),
        ("C", generated.write, "c"),
    ):
        console.say(f"export: {title}")
        try:
            write(int8, images, names, out / folder)
        except Error as error:
            console.say(f"export: no {title} of this model: {error}")


def file_name(model: str, variant: str) -> str:
    """The name of one exported .tflite."""
    return f"{model}_{variant}.tflite"


def plain_int8(folder: Path, model: str) -> Path:
    """The int8 .tflite as it was converted, which microcontrollers take, in an export's folder."""
    return folder / MICROCONTROLLER / file_name(model, "int8_plain")


def describe(path: Path, model: str, dataset: str, threshold: float) -> None:
    """Give a .tflite its metadata, among them its confidence threshold, and its labels.

    Nothing that an export of the same weights could have otherwise goes into the file, such as the
    name of the recipe or the folder of the dataset.
    """
    description = metadata.describe(
        model,
        f"Ten-class classifier of {catalogue.shows(dataset)}",
        __version__,
        "keras_lenet",
        threshold,
    )
    files = {metadata.LABELS_FILE: labels(dataset)}
    artifacts.write_bytes(path, metadata_writer.attach(path.read_bytes(), description, files))


def labels(dataset: str) -> bytes:
    """Return the content of a label file: the names of a dataset's classes, a line each."""
    return "".join(f"{label}\n" for label in catalogue.classes(dataset)).encode()


def _identify(calibration: loading.Examples) -> dict[str, Any]:
    """Which training images calibrated the post-training file: positions and pixels' SHA-256."""
    return {
        "indices": calibration.indices.tolist(),
        "sha256": [artifacts.digest(image.tobytes()) for image in calibration.images[:]],
    }


def manifest(
    folder: Path,
    name: str,
    dataset: str,
    settings: dict[str, Any],
    thresholds: dict[str, float],
    temperatures: dict[str, float],
) -> dict[str, Any]:
    """Describe an export's folder for programs.

    Args:
        folder: holds the exported files.
        name: of the architecture.
        dataset: the dataset really used.
        settings: the recipe's, that decided the files.
        thresholds: the confidence threshold of each variant.
        temperatures: those that the train and the quantize stage found.
    """
    plain = plain_int8(folder, name)
    bundle = {file: _identity(plain.parent / file) for file in artifacts.hash_files(plain.parent)}
    bundle[plain.name] |= _promise("int8", thresholds)
    return {
        "schema": artifacts.SCHEMA,
        "model": name,
        "dataset": dataset,
        "image": "28×28 grey pixels, 0 = background, 255 = ink",
        "labels": list(catalogue.classes(dataset)),
        "temperature": {"meaning": TEMPERATURE, **temperatures},
        "files": {
            file_name(name, variant): _identity(folder / file_name(name, variant))
            | _promise(variant, thresholds)
            for variant in VARIANTS
        },
        SAVED_MODEL: convert.SIGNATURE | {"threshold": thresholds["float32"]},
        MICROCONTROLLER: bundle,
        "settings": settings,
        "versions": artifacts.versions(),
    }


def _identity(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": artifacts.sha256(path)}


def _promise(variant: str, thresholds: dict[str, float]) -> dict[str, Any]:
    return {
        "input": {"shape": [1, 28, 28, 1], **convert.CONTRACT[variant]["input"]},
        "output": {"shape": [1, 10], **convert.CONTRACT[variant]["output"]},
        "threshold": thresholds[variant],
    }
