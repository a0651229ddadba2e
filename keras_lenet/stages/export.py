"""Export to SavedModel and TFLite. Every artifact takes the raw 28×28 image.

The resize, and the softmax that turns logits into probabilities, are inside the models.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from numpy.typing import NDArray
from tensorflow.core.protobuf import fingerprint_pb2, saved_model_pb2
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
from tensorflow.python.saved_model.pywrap_saved_model import fingerprinting

from keras_lenet import __version__, artifacts, models, streams, terminal
from keras_lenet.data import augment, datasets, loading
from keras_lenet.edge import budget, layout, metadata, metadata_writer, microcontroller
from keras_lenet.edge.c import folder as generated
from keras_lenet.edge.classifier import Classifier, Tensor, open_interpreter
from keras_lenet.errors import Error
from keras_lenet.recipe import Recipe
from keras_lenet.stages import Context, confidence, quantize, train

SAVED_MODEL, BUDGET, MICROCONTROLLER = "saved_model", "budget.md", "microcontroller"
CALIBRATION, MANIFEST = "calibration.json", "manifest.json"
VARIANTS = ("float32", "int8_ptq", "int8", "uint8")
DEPLOYED = ("int8", "uint8")
"""The variants whose layout may be optimized; the others are there to compare with."""

LAYOUT_IMAGES = 300
"""Validation images on which the optimized layout must answer as the plain one does."""

_NOT_DECISIVE = {"name", "origin", "evaluate", "report"}
"""The parts of a recipe that have no say in the files' content."""
_IMAGE = tf.TensorSpec((1, loading.SIZE, loading.SIZE, 1), tf.float32, name="image")

CONTRACT: dict[str, dict[str, dict[str, Any]]] = {
    "float32": {
        "input": {"dtype": "float32", "meaning": "pixel / 255"},
        "output": {"dtype": "float32", "meaning": "probability"},
    },
    "int8": {
        "input": {"dtype": "int8", "scale": 1 / 255, "zero_point": -128, "meaning": "pixel - 128"},
        "output": {
            "dtype": "int8",
            "scale": 1 / 256,
            "zero_point": -128,
            "meaning": "probability = (value + 128) / 256",
        },
    },
    "uint8": {
        "input": {"dtype": "uint8", "scale": 1 / 255, "zero_point": 0, "meaning": "pixel"},
        "output": {
            "dtype": "uint8",
            "scale": 1 / 256,
            "zero_point": 0,
            "meaning": "probability = value / 256",
        },
    },
}
"""What each kind of file promises; shapes are (1, 28, 28, 1) and (1, 10), pixels 0 to 255."""
CONTRACT["int8_ptq"] = CONTRACT["int8"]

SIGNATURE: dict[str, Any] = {
    "signature": "serving_default",
    "inputs": {"images": {"shape": [None, 28, 28, 1], "dtype": "uint8", "meaning": "pixel"}},
    "outputs": {
        "probabilities": {"shape": [None, 10], "dtype": "float32", "meaning": "probability"},
        "class": {"shape": [None], "dtype": "int64", "meaning": "position of the highest"},
    },
}
"""What the SavedModel promises; None is any number of images."""

TEMPERATURE = (
    "Calibration has divided the logits by the temperature, in the weights of the last layer. "
    "Every file has these weights: use its probabilities as they are. The float32 and int8_ptq "
    "files and saved_model have the temperature of train; the int8 and uint8 files, "
    "microcontroller and c have the temperature of quantize."
)


def run(context: Context) -> dict[str, Any]:
    """Write the SavedModel, the four .tflite files, what describes them, the C++ bundle, and C.

    Raises:
        Error: a converted file doesn't keep its contract, or its optimized layout answers
            otherwise than the plain one.
    """
    train.prepare_devices()
    recipe = context.recipe
    name, size = recipe.model.name, models.input_size(recipe.model)
    trained = keras.models.load_model(context.inputs["train"] / train.MODEL, compile=False)
    fake_quantized = quantize.load(context.inputs["quantize"], recipe.model)
    training, validation = train.load_splits(context, batch_size=1)
    calibration = loading.calibration_examples(
        training, recipe.export.calibration_images, recipe.seed
    )
    save_model(trained, size, context.out / SAVED_MODEL)
    converters: dict[str, Callable[[], bytes]] = {
        "float32": lambda: convert(trained, size),
        "int8_ptq": lambda: convert(trained, size, tf.int8, calibration.images),
        "int8": lambda: convert(fake_quantized, size, tf.int8),
        "uint8": lambda: convert(fake_quantized, size, tf.uint8),
    }
    thresholds = {}
    plain = plain_int8(context.out, name)
    for variant, converter in converters.items():
        path = context.out / file_name(name, variant)
        terminal.say(f"export: {path.name}")
        content = converter()
        if variant == "int8":
            artifacts.write_bytes(plain, content)
        if variant in DEPLOYED and recipe.export.optimize_layout:
            content = optimize_layout(content, validation.images[:LAYOUT_IMAGES])
        artifacts.write_bytes(path, content)
        check(path, variant)
        with streams.without_information():
            probabilities = Classifier(path).predict(validation.images)
        thresholds[variant] = confidence.threshold(probabilities, recipe.export.refuse)
        describe(path, name, context.dataset, thresholds[variant])
    describe(plain, name, context.dataset, thresholds["int8"])
    terminal.say("export: budget card")
    budget.write(plain, context.out / BUDGET)
    write_bundles(plain, context.out)
    artifacts.write_bytes(context.out / metadata.LABELS_FILE, labels(context.dataset))
    artifacts.write_json(context.out / CALIBRATION, _identify(calibration))
    temperatures = {
        stage: confidence.divided_by(context.inputs[stage]) for stage in ("train", "quantize")
    }
    described = manifest(context.out, recipe, context.dataset, thresholds, temperatures)
    artifacts.write_json(context.out / MANIFEST, described)
    return {
        variant: (context.out / file_name(name, variant)).stat().st_size for variant in VARIANTS
    }


def write_bundles(int8: Path, out: Path) -> None:
    """Write the C++ bundle and the C of an int8 .tflite into folders of `out`.

    Where the model has an op that one of them lacks, it is left out, with a line that says so.
    """
    # Not of the run's own dataset, whose licence may not let its images be handed on.
    digits = datasets.load(datasets.DIGITS, "train")
    images, names = microcontroller.golden_images(digits.images[:], digits.labels)
    for title, write, folder in (
        ("microcontroller bundle", microcontroller.write, MICROCONTROLLER),
        ("C", generated.write, "c"),
    ):
        terminal.say(f"export: {title}")
        try:
            write(int8, images, names, out / folder)
        except Error as error:
            terminal.say(f"export: no {title} of this model: {error}")


def file_name(model: str, variant: str) -> str:
    """The name of one exported .tflite."""
    return f"{model}_{variant}.tflite"


def plain_int8(folder: Path, model: str) -> Path:
    """The int8 .tflite as it was converted, which microcontrollers take, in an export's folder."""
    return folder / MICROCONTROLLER / file_name(model, "int8")


def deployed(model: Any, size: int) -> Callable[[tf.Tensor], tf.Tensor]:
    """From raw images in [0, 1], float32 (N, 28, 28, 1), to probabilities, float32 (N, 10)."""

    def probabilities(image: tf.Tensor) -> tf.Tensor:
        return tf.nn.softmax(model(augment.resize(image, size), training=False))

    return probabilities


def convert(
    model: Any,
    size: int,
    io_type: tf.DType = tf.float32,
    calibration: Any = None,
) -> bytes:
    """Convert a model, with its resize and softmax, to the bytes of a .tflite for one image.

    Args:
        model: float (Keras 3) or fake-quantized (tf_keras); takes float32 (N, size, size, 1).
        size: side of its input, in pixels.
        io_type: float32 leaves everything float; int8 or uint8 quantizes everything.
        calibration: uint8, (N, 28, 28): the representative dataset, where the model doesn't carry
            its ranges itself.
    """
    function = tf.function(deployed(model, size), input_signature=[_IMAGE])
    # The converter leaves READ_VARIABLE ops in Keras 3 models unless their weights are frozen.
    frozen = convert_variables_to_constants_v2(function.get_concrete_function())
    converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen], tf.Module())
    if io_type != tf.float32:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.inference_input_type = converter.inference_output_type = io_type
    if calibration is not None:
        images = (calibration[:, np.newaxis, :, :, np.newaxis] / 255).astype(np.float32)
        converter.representative_dataset = lambda: ([image] for image in images)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    with streams.without_information(), warnings.catch_warnings():
        # The input's statistics are inside the graph, or come from the representative dataset.
        warnings.filterwarnings("ignore", "Statistics for quantized inputs were expected")
        return layout.any_batch(bytes(converter.convert()))


def check(path: Path, variant: str) -> None:
    """Open a converted file and hold it to the contract of its variant.

    Raises:
        Error: shapes, dtypes, scales or zero points differ, or a quantized file has a tensor that
            isn't an integer.
    """
    interpreter = open_interpreter(path, kernels="builtin")
    for end, details, shape in (
        ("input", interpreter.get_input_details(), (1, 28, 28, 1)),
        ("output", interpreter.get_output_details(), (1, 10)),
    ):
        found, expected = Tensor.of(details[0]), CONTRACT[variant][end]
        scale, zero_point = expected.get("scale", 0.0), expected.get("zero_point", 0)
        if (
            found.shape != shape
            or found.dtype != np.dtype(expected["dtype"])
            or not np.isclose(found.scale, scale, atol=0)
            or found.zero_point != zero_point
        ):
            raise Error(
                f"{path.name}: its {end} is {found}, expected shape {shape}, {expected['dtype']}, "
                f"scale {scale:.6g}, zero point {zero_point}"
            )
    floats = [
        f"{tensor['name']} is {np.dtype(tensor['dtype'])}"
        for tensor in interpreter.get_tensor_details()
        if np.issubdtype(tensor["dtype"], np.floating)
    ]
    if floats and variant != "float32":
        raise Error(f"{path.name}: not integer throughout: {floats[0]}")


def optimize_layout(content: bytes, images: NDArray[np.uint8]) -> bytes:
    """Optimize the layout of an int8 or uint8 .tflite, and prove that its outputs stay the same.

    Args:
        content: the .tflite in the plain layout.
        images: uint8, (N, 28, 28): what both layouts have to answer alike, by the reference
            kernels.

    Raises:
        Error: an output differs.
    """
    optimized = layout.optimize(content)
    answers = []
    with tempfile.TemporaryDirectory() as folder, streams.without_information():
        for each in (content, optimized):
            path = Path(folder) / "layout.tflite"
            path.write_bytes(each)
            answers.append(Classifier(path, kernels="reference").raw(images))
    unequal = int((answers[0] != answers[1]).any(axis=1).sum())
    if unequal:
        raise Error(
            f"the optimized layout answers {unequal} of {len(images)} validation images otherwise "
            "than the plain one (reference kernels); use the plain one: "
            "--set export.optimize_layout=false"
        )
    return optimized


def save_model(model: keras.Model, size: int, folder: Path) -> None:
    """Write the SavedModel: uint8 images in, probabilities and class out, any batch."""
    probabilities = deployed(model, size)
    module = tf.Module()
    # The plain variables, which the graph reads. Saved through the model, they get second handles,
    # and a session restores those alone.
    module.weights = [variable.value for variable in model.variables]
    spec = tf.TensorSpec((None, loading.SIZE, loading.SIZE, 1), tf.uint8, name="images")

    @tf.function(input_signature=[spec])
    def serve(images: tf.Tensor) -> dict[str, tf.Tensor]:
        scores = probabilities(augment.to_unit(images))
        return {"probabilities": scores, "class": tf.argmax(scores, axis=1)}

    shutil.rmtree(folder, ignore_errors=True)
    tf.saved_model.save(module, str(folder), signatures={SIGNATURE["signature"]: serve})
    _renumber(folder)


def _renumber(folder: Path) -> None:
    """Make a SavedModel's bytes depend on the model alone.

    TensorFlow numbers functions and variables by what the process has traced before, which an
    interrupted run has not, and gives every fingerprint a random number.
    """
    path = folder / "saved_model.pb"
    text = text_format.MessageToString(saved_model_pb2.SavedModel.FromString(path.read_bytes()))
    name = re.compile(r"(__inference_\w*?_)(\d+)\b")
    numbers = sorted({int(number) for _, number in name.findall(text)})
    text = name.sub(lambda match: f"{match[1]}{numbers.index(int(match[2]))}", text)
    saved = text_format.Parse(text, saved_model_pb2.SavedModel())
    for graph in saved.meta_graphs:
        functions = graph.graph_def.library.function
        functions.sort(key=lambda function: function.signature.name)
        for node in (node for function in functions for node in function.node_def):
            node.attr.pop("_user_specified_name", None)  # of captured variables, their number
        for function in functions:
            for argument in function.arg_attr.values():
                argument.attr.pop("_user_specified_name", None)
    artifacts.write_bytes(path, saved.SerializeToString(deterministic=True))
    fingerprint = fingerprint_pb2.FingerprintDef.FromString(
        fingerprinting.CreateFingerprintDef(str(folder))
    )
    fingerprint.uuid = str(fingerprint.saved_model_checksum)
    artifacts.write_bytes(
        folder / "fingerprint.pb", fingerprint.SerializeToString(deterministic=True)
    )


def describe(path: Path, model: str, dataset: str, threshold: float) -> None:
    """Give a .tflite its metadata, among them its confidence threshold, and its labels.

    Nothing that an export of the same weights could have otherwise goes into the file, such as the
    name of the recipe or the folder of the dataset.
    """
    description = metadata.describe(
        model,
        f"Ten-class classifier of {datasets.shows(dataset)}",
        __version__,
        "keras_lenet",
        threshold,
    )
    files = {metadata.LABELS_FILE: labels(dataset)}
    artifacts.write_bytes(path, metadata_writer.attach(path.read_bytes(), description, files))


def labels(dataset: str) -> bytes:
    """Return the content of a label file: the names of a dataset's classes, a line each."""
    return "".join(f"{label}\n" for label in datasets.classes(dataset)).encode()


def _identify(calibration: loading.Examples) -> dict[str, Any]:
    """Which training images calibrated the post-training file: positions and pixels' SHA-256."""
    return {
        "indices": calibration.indices.tolist(),
        "sha256": [artifacts.digest(image.tobytes()) for image in calibration.images[:]],
    }


def manifest(
    folder: Path,
    recipe: Recipe,
    dataset: str,
    thresholds: dict[str, float],
    temperatures: dict[str, float],
) -> dict[str, Any]:
    """Describe an export's folder for programs.

    Args:
        folder: holds the exported files.
        recipe: what they were made by.
        dataset: the dataset really used.
        thresholds: the confidence threshold of each variant.
        temperatures: by which the train and the quantize stage divided their logits.
    """
    name = recipe.model.name
    plain = plain_int8(folder, name)
    bundle = {file: _identity(plain.parent / file) for file in artifacts.hash_files(plain.parent)}
    bundle[plain.name] |= _promise("int8", thresholds)
    return {
        "schema": artifacts.SCHEMA,
        "model": name,
        "dataset": dataset,
        "image": "28×28 grey pixels, 0 = background, 255 = ink",
        "labels": list(datasets.classes(dataset)),
        "temperature": {"meaning": TEMPERATURE, **temperatures},
        "files": {
            file_name(name, variant): _identity(folder / file_name(name, variant))
            | _promise(variant, thresholds)
            for variant in VARIANTS
        },
        SAVED_MODEL: SIGNATURE | {"threshold": thresholds["float32"]},
        MICROCONTROLLER: bundle,
        "settings": recipe.model_dump(mode="json", exclude=_NOT_DECISIVE),
        "versions": artifacts.versions(),
    }


def _identity(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": artifacts.sha256(path)}


def _promise(variant: str, thresholds: dict[str, float]) -> dict[str, Any]:
    return {
        "input": {"shape": [1, 28, 28, 1], **CONTRACT[variant]["input"]},
        "output": {"shape": [1, 10], **CONTRACT[variant]["output"]},
        "threshold": thresholds[variant],
    }
