"""One inference, of one image and of a batch, beside ONNX Runtime and PyTorch: one thread each.

Everything takes raw 28×28 pixels or their shares of 255, and answers with probabilities.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import numpy as np
from numpy.typing import NDArray

from keras_lenet import streams
from keras_lenet.edge import layout
from keras_lenet.edge.classifier import Classifier

EXPORTED = Path(__file__).parents[2] / "exported"
BATCHES = (1, 256)
REPETITIONS, QUICK, SECONDS = 100, 2, 0.005
"""Repetitions of at least so many seconds each."""
CALIBRATION = 500
TOLERANCE, AGREEMENT = 1e-4, 0.98
"""Of a peer's probabilities from those of the float file; of a quantized peer's answers with it."""

Invoke = Callable[[], object]
"""One inference, of what was handed over before: no more than the runtime's own work."""


def rows(room: str, quick: bool) -> list[measure.Row]:
    """A case for each batch size."""
    images = np.random.default_rng(0).integers(0, 256, (max(BATCHES), 28, 28), np.uint8)
    found = []
    with tempfile.TemporaryDirectory() as folder, streams.without_information():
        for batch, asked in zip(BATCHES, (2.0, 3.0), strict=True):
            entries = contestants(EXPORTED, Path(folder), images[:batch])
            least = {name: asked for name in entries if name.startswith("ONNX")}
            repetitions = QUICK if quick else REPETITIONS
            case = measure.Case(f"batch of {batch}", entries, "µs", batch, repetitions, least)
            found += measure.rows(room, case)
    return found


def contestants(
    exported: Path, folder: Path, images: NDArray[np.uint8]
) -> dict[str, measure.Contestant]:
    """What is timed, by name, in the order of the table.

    Args:
        exported: the folder of a run's files.
        folder: for files that are made here.
        images: (N, 28, 28), what each is given.
    """
    name = json.loads((exported / "manifest.json").read_text())["model"]
    plain = exported / "microcontroller" / f"{name}_int8.tflite"
    for variant, source in (("int8", plain), ("uint8", exported / f"{name}_uint8.tflite")):
        (folder / variant).write_bytes(layout.optimize(source.read_bytes()))
    made: dict[str, Callable[[], Invoke]] = {
        "int8 .tflite": lambda: litert(folder / "int8", images),
        "uint8 .tflite": lambda: litert(folder / "uint8", images),
        "int8 .tflite in its plain layout": lambda: litert(plain, images),
        "float32 .tflite": lambda: litert(exported / f"{name}_float32.tflite", images),
        "generated C, gcc -O3": lambda: generated_c(plain, folder, "-O3", images),
        "generated C, gcc -O3 -march=native": lambda: generated_c(
            plain, folder, "-O3 -march=native", images
        ),
        "ONNX Runtime, float32": lambda: onnx(exported, folder, images, quantized=False),
        "ONNX Runtime, int8": lambda: onnx(exported, folder, images, quantized=True),
        "PyTorch, eager": lambda: pytorch(exported, images, compiled=False),
        "PyTorch, torch.compile": lambda: pytorch(exported, images, compiled=True),
    }
    return {name: functools.partial(timed, prepare) for name, prepare in made.items()}


def timed(prepare: Callable[[], Invoke]) -> measure.Run:
    """Seconds of an inference, over as many as `SECONDS` take."""
    invoke = prepare()
    for _ in range(3):
        invoke()  # warms up
    times = max(1, round(SECONDS / min(seconds(invoke, 1) for _ in range(5))))
    return lambda: seconds(invoke, times) / times


def seconds(function: Invoke, times: int) -> float:
    """Processor time of this thread: what others run on this machine isn't in it."""
    start = time.thread_time()
    for _ in range(times):
        function()
    return time.thread_time() - start


def litert(path: Path, images: NDArray[np.uint8]) -> Invoke:
    """A .tflite by XNNPACK."""
    classifier = Classifier(path)
    classifier.raw(images, len(images))  # sets the input, of this size
    return classifier._interpreter.invoke


def generated_c(model: Path, folder: Path, options: str, images: NDArray[np.uint8]) -> Invoke:
    """What `export-c` makes, compiled for this host."""
    if not shutil.which("gcc"):
        raise ImportError("gcc")
    import c_source

    from keras_lenet.edge.c import folder as source

    generated = folder / "c"
    generated.mkdir(exist_ok=True)
    name = source.identifier(model)
    source.write(model, np.zeros((10, 28, 28), np.uint8), [str(i) for i in range(10)], generated)
    answers = c_source.compiled(generated, name, options)
    return lambda: answers(np.ascontiguousarray(images))


def onnx(exported: Path, folder: Path, images: NDArray[np.uint8], quantized: bool) -> Invoke:
    """ONNX Runtime on the same network and weights, in float or quantized after training."""
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    path = folder / "lenet5.onnx"
    path.write_bytes(onnx_model(weights(exported)))
    if quantized:

        class Reader(CalibrationDataReader):
            def __init__(self) -> None:
                self.rest = iter(calibration_images())

            def get_next(self) -> dict[str, Any] | None:
                image = next(self.rest, None)
                return None if image is None else {"image": floats(image[np.newaxis])}

        path = folder / "lenet5_int8.onnx"
        quantize_static(
            folder / "lenet5.onnx", path, Reader(), quant_format=QuantFormat.QDQ, per_channel=True
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    known = calibration_images() if quantized else images
    agree(session.run(None, {"image": floats(known)})[0], exported, known, quantized)
    binding = session.io_binding()
    binding.bind_cpu_input("image", floats(images))
    binding.bind_output("probabilities", "cpu")
    return lambda: session.run_with_iobinding(binding)


def pytorch(exported: Path, images: NDArray[np.uint8], compiled: bool) -> Invoke:
    """PyTorch on the same network and weights."""
    import pytorch

    run = pytorch.inference(weights(exported), floats(images), compiled)
    agree(run().numpy(), exported, images, quantized=False)
    return run


def agree(found: Any, exported: Path, images: NDArray[np.uint8], quantized: bool) -> None:
    """A peer that computes something else would be no peer."""
    name = json.loads((exported / "manifest.json").read_text())["model"]
    wanted = Classifier(exported / f"{name}_float32.tflite").predict(images)
    if quantized:
        found, wanted = found.argmax(axis=1), wanted.argmax(axis=1)
        if np.mean(found == wanted) < AGREEMENT:
            raise ValueError("the quantized peer answers otherwise than the float model")
    elif np.abs(found - wanted).max() > TOLERANCE:
        raise ValueError("the peer answers otherwise than the exported float model")


def floats(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Images as the float peers take them: (N, 1, 28, 28), shares of 255."""
    return images[:, np.newaxis].astype(np.float32) / 255


@functools.cache
def calibration_images() -> NDArray[np.uint8]:
    """Training images, for ranges."""
    from keras_lenet.data import loading

    folder = os.environ.get("KERAS_LENET_DATA")
    training, _ = loading.load_training("mnist", Path(folder) if folder else None, 0.1, 0)
    return loading.calibration_examples(training, CALIBRATION, 0).images


@functools.cache
def weights(exported: Path) -> list[NDArray[np.float32]]:
    """Kernels and biases of the exported Keras model, layer by layer."""
    import keras

    return keras.saving.load_model(exported / "model.keras").get_weights()


def onnx_model(arrays: list[NDArray[np.float32]]) -> bytes:
    """LeNet-5 as it is deployed, resize and softmax included, in ONNX."""
    from onnx import TensorProto, helper, numpy_helper

    constants = {"scales": np.array([1, 1, 32 / 28, 32 / 28], np.float32)}
    nodes = [
        helper.make_node(
            "Resize",
            ["image", "", "scales"],
            ["resized"],
            mode="linear",
            coordinate_transformation_mode="half_pixel",
        )
    ]
    last = "resized"

    def add(kind: str, *inputs: str, **attributes: Any) -> None:
        nonlocal last
        output = f"{kind}_{len(nodes)}"
        nodes.append(helper.make_node(kind, [last, *inputs], [output], **attributes))
        last = output

    layers = list(zip(arrays[::2], arrays[1::2], strict=True))
    for number, (kernel, bias) in enumerate(layers):
        convolution = kernel.ndim == 4
        axes = (3, 2, 0, 1) if convolution else (0, 1)
        constants |= {f"kernel{number}": kernel.transpose(axes), f"bias{number}": bias}
        if not convolution and layers[number - 1][0].ndim == 4:
            add("Flatten")
        add("Conv" if convolution else "Gemm", f"kernel{number}", f"bias{number}")
        if number < len(layers) - 1:
            add("Relu")
        if number < 2:
            add("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
    nodes.append(helper.make_node("Softmax", [last], ["probabilities"], axis=1))
    graph = helper.make_graph(
        nodes,
        "lenet5",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 28, 28])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(np.ascontiguousarray(v), k) for k, v in constants.items()],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    ).SerializeToString()
