"""Keras models to SavedModel and TFLite. Every artifact takes the raw 28×28 image.

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

from keras_lenet import artifacts, console
from keras_lenet.data import augment, loading
from keras_lenet.edge.classifier import Classifier, Tensor, open_interpreter
from keras_lenet.errors import Error
from keras_lenet.tflite import layout

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
    with console.without_information(), warnings.catch_warnings():
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
    with tempfile.TemporaryDirectory() as folder, console.without_information():
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
