"""Conversion of Keras models to SavedModel and TFLite, and the contract of the files.

Every file takes the raw 28×28 image: the resize is inside, and so is the softmax.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from keras_lenet import console
from keras_lenet.data import augment, loading
from keras_lenet.edge.classifier import Classifier, Tensor, open_interpreter
from keras_lenet.errors import Error
from keras_lenet.tflite import layout


def _contract(dtype: str, zero_point: int | None, pixel: str, probability: str) -> dict[str, Any]:
    """Return the contract of pixels 0 to 255 and ten probabilities; `zero_point` None is float."""
    contract = {}
    for end, shape, scale, meaning in (
        ("input", [1, 28, 28, 1], 1 / 255, pixel),
        ("output", [1, 10], 1 / 256, probability),
    ):
        quantization = {} if zero_point is None else {"scale": scale, "zero_point": zero_point}
        contract[end] = {"shape": shape, "dtype": dtype, **quantization, "meaning": meaning}
    return contract


CONTRACT = {
    "float32": _contract("float32", None, "pixel / 255", "probability"),
    "int8": _contract("int8", -128, "pixel - 128", "probability = (value + 128) / 256"),
    "uint8": _contract("uint8", 0, "pixel", "probability = value / 256"),
}
CONTRACT["int8_ptq"] = CONTRACT["int8"]
"""Input and output of each variant's .tflite, as the manifest has them."""

SIGNATURE = {
    "signature": "serving_default",
    "inputs": {"images": {"shape": [None, 28, 28, 1], "dtype": "uint8", "meaning": "pixel"}},
    "outputs": {
        "probabilities": {"shape": [None, 10], "dtype": "float32", "meaning": "probability"},
        "class": {"shape": [None], "dtype": "int64", "meaning": "position of the highest"},
    },
}
"""The SavedModel's function; a side of None takes any number."""

_IMAGE = tf.TensorSpec((1, loading.SIZE, loading.SIZE, 1), tf.float32, name="image")


def deployed(model: Any, size: int) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return a function from images, float32 (N, 28, 28, 1) in [0, 1], to probabilities (N, 10)."""

    def probabilities(image: tf.Tensor) -> tf.Tensor:
        return tf.nn.softmax(model(augment.resize(image, size), training=False))

    return probabilities


def convert(
    model: Any,
    size: int,
    io_type: tf.DType = tf.float32,
    calibration: NDArray[np.uint8] | None = None,
) -> bytes:
    """Convert a model, with its resize and softmax, to the bytes of a .tflite for any batch.

    Args:
        model: float (Keras 3) or fake-quantized (tf_keras); takes float32 (N, size, size, 1).
        size: side of its input, in pixels.
        io_type: float32 leaves everything float; int8 or uint8 quantizes everything.
        calibration: uint8, (N, 28, 28): the representative dataset, for a model that lacks the
            ranges of its tensors.
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
    with console.quiet_native_logs(), warnings.catch_warnings():
        # The input's statistics are inside the graph, or come from the representative dataset.
        warnings.filterwarnings("ignore", "Statistics for quantized inputs were expected")
        return layout.any_batch(bytes(converter.convert()))


def check(path: Path, variant: str) -> None:
    """Check a converted file against the contract of its variant.

    Raises:
        Error: shapes, dtypes, scales or zero points differ, or a quantized file has a float tensor.
    """
    interpreter = open_interpreter(path, kernels="builtin")
    for end, details in (
        ("input", interpreter.get_input_details()),
        ("output", interpreter.get_output_details()),
    ):
        found, expected = Tensor.of(details[0]), CONTRACT[variant][end]
        scale, zero_point = expected.get("scale", 0.0), expected.get("zero_point", 0)
        wanted = (tuple(expected["shape"]), np.dtype(expected["dtype"]), zero_point)
        same = (found.shape, found.dtype, found.zero_point) == wanted
        if not same or not np.isclose(found.scale, scale, atol=0):
            raise Error(
                f"{path.name}: its {end} is {found}, expected shape {wanted[0]}, {wanted[1]}, "
                f"scale {scale:.6g}, zero point {zero_point}"
            )
    for tensor in interpreter.get_tensor_details():
        dtype = np.dtype(tensor["dtype"])
        if variant != "float32" and np.issubdtype(dtype, np.floating):
            raise Error(f"{path.name}: not integer throughout: {tensor['name']} is {dtype}")


def optimize_layout(content: bytes, images: NDArray[np.uint8]) -> bytes:
    """Optimize the layout of an int8 or uint8 .tflite, and check that its outputs stay the same.

    Args:
        content: the .tflite in the plain layout.
        images: uint8, (N, 28, 28); LiteRT's reference kernels run both layouts on them.

    Raises:
        Error: an output differs.
    """
    optimized = layout.optimize(content)
    outputs = []
    with tempfile.TemporaryDirectory() as folder, console.quiet_native_logs():
        path = Path(folder) / "layout.tflite"
        for each in (content, optimized):
            path.write_bytes(each)
            outputs.append(Classifier(path, kernels="reference").raw(images))
    unequal = int((outputs[0] != outputs[1]).any(axis=1).sum())
    if unequal:
        raise Error(
            f"the optimized layout has other outputs than the plain one for {unequal} of "
            f"{len(images)} validation images (reference kernels); use the plain one: "
            "--set export.optimize_layout=false"
        )
    return optimized


def save_model(model: keras.Model, size: int, folder: Path) -> None:
    """Write the SavedModel: uint8 images in, probabilities and class out, any batch."""
    probabilities = deployed(model, size)
    module = tf.Module()
    # The graph reads the plain variables. Saved through the model, they would get second handles,
    # and a session would restore only those.
    module.weights = [variable.value for variable in model.variables]
    spec = tf.TensorSpec((None, loading.SIZE, loading.SIZE, 1), tf.uint8, name="images")

    @tf.function(input_signature=[spec])
    def serve(images: tf.Tensor) -> dict[str, tf.Tensor]:
        scores = probabilities(augment.to_unit(images))
        return {"probabilities": scores, "class": tf.argmax(scores, axis=1)}

    shutil.rmtree(folder, ignore_errors=True)
    tf.saved_model.save(module, str(folder), signatures={"serving_default": serve})
