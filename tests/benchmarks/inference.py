"""One inference, of one image and of a batch, beside ONNX Runtime and PyTorch: one thread each.

Everything takes raw 28×28 pixels or their shares of 255, and answers with probabilities.
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

SECONDS = 0.005  # the least of a repetition
CALIBRATION = 500  # images
TOLERANCE = 1e-4  # of a peer's probabilities from those of the float file
AGREEMENT = 0.98  # of a quantized peer's answers with it

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
"""One inference, of what was handed over before: no more than the runtime's own work."""


def rows(quick: bool) -> list[measure.Row]:
    """Return the rows of two batch sizes."""
    found = []
    for batch, goal in ((1, 2.0), (256, 3.0)):
        peers = [
            peer("int8 .tflite", "litert", batch, file="lenet5_int8.tflite"),
            peer("uint8 .tflite", "litert", batch, file="lenet5_uint8.tflite"),
            peer(
                "int8 .tflite in its plain layout",
                "litert",
                batch,
                file="microcontroller/lenet5_int8_plain.tflite",
            ),
            peer("float32 .tflite", "litert", batch, file="lenet5_float32.tflite"),
            *(
                peer(f"generated C, gcc {options}", "generated_c", batch, options=options)
                for options in ("-O3", "-O3 -march=native")
            ),
            peer("ONNX Runtime, float32", "onnx", batch, goal, quantized=False),
            peer("ONNX Runtime, int8", "onnx", batch, goal, quantized=True),
            peer("PyTorch, eager", "pytorch", batch, compiled=False),
            peer("PyTorch, torch.compile", "pytorch", batch, compiled=True),
        ]
        case, repetitions = f"batch of {batch}", 2 if quick else 100
        found += measure.compare(case, "µs", peers, work=batch, repetitions=repetitions)
    return found


def peer(name: str, function: str, batch: int, goal: float | None = None, **options: Any) -> Peer:
    return Peer(name, f"inference:{function}", {"batch": batch, **options}, goal)


def given(batch: int) -> NDArray[np.uint8]:
    """Return the images of a batch."""
    return np.random.default_rng(0).integers(0, 256, (batch, 28, 28), np.uint8)


def timed(invoke: Invoke) -> measure.Repetition:
    """Return the mean seconds of an inference, over as many as `SECONDS` take."""
    for _ in range(3):
        invoke()  # warms up
    times = max(1, round(SECONDS / min(seconds(invoke, 1) for _ in range(5))))
    return lambda: seconds(invoke, times) / times


def seconds(function: Invoke, times: int) -> float:
    """Return processor time of this thread: other programs' time isn't in it."""
    start = time.thread_time()
    for _ in range(times):
        function()
    return time.thread_time() - start


def litert(batch: int, file: str) -> measure.Repetition:
    """Prepare a .tflite by XNNPACK."""
    classifier = Classifier(EXPORTED / file)
    classifier.raw(given(batch), batch)  # sets the input, of this size
    return timed(classifier._interpreter.invoke)


def generated_c(batch: int, options: str) -> measure.Repetition:
    """Prepare what `export-c` makes, compiled for this host."""
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
    """Prepare ONNX Runtime with the same network and weights, in float or quantized after."""
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
    """Check that a peer computes the same as the exported float model."""
    wanted = Classifier(EXPORTED / "lenet5_float32.tflite").predict(images)
    if quantized:
        if np.mean(found.argmax(axis=1) == wanted.argmax(axis=1)) < AGREEMENT:
            raise ValueError("the quantized peer answers otherwise than the float model")
    elif np.abs(found - wanted).max() > TOLERANCE:
        raise ValueError("the peer answers otherwise than the exported float model")


def floats(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return images as the float peers take them: (N, 1, 28, 28), shares of 255."""
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
    """Return LeNet-5 as it is deployed, resize and softmax included, in ONNX."""
    from onnx import numpy_helper, parser

    constants = {"scales": np.array([1, 1, 32 / 28, 32 / 28], np.float32)}
    for number, (kernel, bias) in enumerate(zip(arrays[::2], arrays[1::2], strict=True)):
        kernel = kernel.transpose((3, 2, 0, 1)) if kernel.ndim == 4 else kernel
        constants |= {f"kernel{number}": np.ascontiguousarray(kernel), f"bias{number}": bias}
    model = parser.parse_model(ONNX)
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    model.graph.initializer.extend(tensors)
    return model.SerializeToString()
