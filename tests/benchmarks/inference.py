"""Inference of one image and of a batch on one thread, beside ONNX Runtime and PyTorch.

Inputs are raw 28×28 pixels or their shares of 255; outputs are probabilities.
"""

from __future__ import annotations

import io
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import numpy as np
from measure import EXPORTED, Peer
from numpy.typing import NDArray

from keras_lenet.edge.classifier import Classifier

SECONDS = 0.005  # least length of a repetition
CALIBRATION = 500  # images
TOLERANCE = 1e-4  # of a float peer's probabilities, from the float file
AGREEMENT = 0.98  # of a quantized peer's classes, with the float file

ONNX = """
<ir_version: 9, opset_import: ["" : 17]>
lenet5 (float[N, 1, 28, 28] image) => (float[N, 10] probabilities) {
    resized = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel">
        (image, "", scales)
    conv0 = Conv (resized, kernel0, bias0)
    relu0 = Relu (conv0)
    pool0 = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (relu0)
    conv1 = Conv (pool0, kernel1, bias1)
    relu1 = Relu (conv1)
    pool1 = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (relu1)
    conv2 = Conv (pool1, kernel2, bias2)
    relu2 = Relu (conv2)
    flat = Flatten (relu2)
    dense3 = Gemm (flat, kernel3, bias3)
    relu3 = Relu (dense3)
    logits = Gemm (relu3, kernel4, bias4)
    probabilities = Softmax <axis = 1> (logits)
}
"""

Invoke = Callable[[], object]
"""One inference of an input that is set already: no more than the runtime's own work."""


def rows(quick: bool) -> list[measure.Row]:
    """Return the rows of two batch sizes."""
    plain, native = "microcontroller/lenet5_int8_plain.tflite", "-O3 -march=native"
    found = []
    for batch, goal in ((1, 2.0), (256, 3.0)):
        peers = [
            Peer(name, f"inference:{function}", {"batch": batch, **options}, goal)
            for name, function, options, goal in (
                ("int8 .tflite", "litert", {"file": "lenet5_int8.tflite"}, None),
                ("uint8 .tflite", "litert", {"file": "lenet5_uint8.tflite"}, None),
                ("int8 .tflite in its plain layout", "litert", {"file": plain}, None),
                ("float32 .tflite", "litert", {"file": "lenet5_float32.tflite"}, None),
                ("generated C, gcc -O3", "generated_c", {"options": "-O3"}, None),
                (f"generated C, gcc {native}", "generated_c", {"options": native}, None),
                ("ONNX Runtime, float32", "onnx", {"quantized": False}, goal),
                ("ONNX Runtime, int8", "onnx", {"quantized": True}, goal),
                ("PyTorch, eager", "pytorch", {"compiled": False}, None),
                ("PyTorch, torch.compile", "pytorch", {"compiled": True}, None),
            )
        ]
        case, repetitions = f"batch of {batch}", 2 if quick else 100
        found += measure.compare(case, "µs", peers, work=batch, repetitions=repetitions)
    return found


def given(batch: int) -> NDArray[np.uint8]:
    """Return the images of a batch."""
    return np.random.default_rng(0).integers(0, 256, (batch, 28, 28), np.uint8)


def timed(invoke: Invoke) -> measure.Repetition:
    """Return the mean seconds of an inference, in processor time of this thread."""

    def seconds(times: int) -> float:
        start = time.thread_time()
        for _ in range(times):
            invoke()
        return time.thread_time() - start

    times = max(1, round(SECONDS / min(seconds(1) for _ in range(8))))
    return lambda: seconds(times) / times


def litert(batch: int, file: str) -> measure.Repetition:
    """Prepare a .tflite file with XNNPACK."""
    classifier = Classifier(EXPORTED / file)
    classifier.raw(given(batch), batch)  # sets the input, of this size
    return timed(classifier._interpreter.invoke)


def generated_c(batch: int, options: str) -> measure.Repetition:
    """Prepare the C of `export-c`, compiled for this host."""
    if not shutil.which("gcc"):
        raise ModuleNotFoundError(name="gcc")
    import c_source

    images = given(batch)
    with tempfile.TemporaryDirectory() as folder:
        c_source.write(Path(folder), images[:1])
        answers = c_source.compiled(Path(folder), options)
    return timed(lambda: answers(images))


def pytorch(batch: int, compiled: bool) -> measure.Repetition:
    """Prepare PyTorch with the same network and weights."""
    import pytorch

    invoke = pytorch.inference(weights(), floats(given(batch)), compiled)
    agree(invoke().numpy(), given(batch), quantized=False)
    return timed(invoke)


def onnx(batch: int, quantized: bool) -> measure.Repetition:
    """Prepare ONNX Runtime with the same network and weights, in float or after PTQ."""
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    calibration = measure.mnist("train").images[:CALIBRATION]

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.rest = iter(floats(calibration))

        def get_next(self) -> dict[str, Any] | None:
            image = next(self.rest, None)
            return None if image is None else {"image": image[np.newaxis]}

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        model = plain = Path(folder) / "float.onnx"
        plain.write_bytes(onnx_model(weights()))
        if quantized:
            model = Path(folder) / "int8.onnx"
            quantize_static(plain, model, Reader(), quant_format=QuantFormat.QDQ, per_channel=True)
        session = onnxruntime.InferenceSession(str(model), options, ["CPUExecutionProvider"])
    known = calibration if quantized else given(batch)
    agree(session.run(None, {"image": floats(known)})[0], known, quantized)
    binding = session.io_binding()
    binding.bind_cpu_input("image", floats(given(batch)))
    binding.bind_output("probabilities", "cpu")
    return timed(lambda: session.run_with_iobinding(binding))


def agree(found: Any, images: NDArray[np.uint8], quantized: bool) -> None:
    """Check that a peer gives the answers of the exported float model."""
    wanted = Classifier(EXPORTED / "lenet5_float32.tflite").predict(images)
    if quantized:
        if np.mean(found.argmax(axis=1) == wanted.argmax(axis=1)) < AGREEMENT:
            raise ValueError("the quantized peer answers otherwise than the float model")
    elif np.abs(found - wanted).max() > TOLERANCE:
        raise ValueError("the peer answers otherwise than the exported float model")


def floats(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the input of float peers: (N, 1, 28, 28), shares of 255."""
    return images[:, np.newaxis].astype(np.float32) / 255


def weights() -> list[NDArray[np.float32]]:
    """Return kernels and biases of the exported Keras model, layer by layer.

    Keras would import TensorFlow, which crashes beside torch.compile.
    """
    import h5py

    layers = ("conv2d", "conv2d_1", "conv2d_2", "dense", "dense_1")
    with zipfile.ZipFile(EXPORTED / "model.keras") as archive:
        file = h5py.File(io.BytesIO(archive.read("model.weights.h5")))
    return [file[f"layers/{layer}/vars/{number}"][:] for layer in layers for number in (0, 1)]


def onnx_model(arrays: list[NDArray[np.float32]]) -> bytes:
    """Return the deployed LeNet-5, with resize and softmax, in ONNX."""
    from onnx import numpy_helper, parser

    constants = {"scales": np.array([1, 1, 32 / 28, 32 / 28], np.float32)}
    for number, (kernel, bias) in enumerate(zip(arrays[::2], arrays[1::2], strict=True)):
        kernel = kernel.transpose((3, 2, 0, 1)) if kernel.ndim == 4 else kernel
        constants |= {f"kernel{number}": np.ascontiguousarray(kernel), f"bias{number}": bias}
    model = parser.parse_model(ONNX)
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    model.graph.initializer.extend(tensors)
    return model.SerializeToString()
