"""Run an exported .tflite: pixels in, probabilities out, whatever its quantization."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from numpy.typing import NDArray
from PIL import Image

from keras_lenet.edge import metadata
from keras_lenet.edge.prepare import Prepared, prepare
from keras_lenet.errors import Error

Kernels = Literal["xnnpack", "builtin", "reference"]
"""LiteRT's XNNPACK delegate, its own optimized kernels, or its reference kernels."""

_RESOLVERS = {
    "xnnpack": OpResolverType.AUTO,
    "builtin": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    "reference": OpResolverType.BUILTIN_REF,
}
REFERENCE = "lenet5_int8.tflite"
BROWSER = "lenet5_uint8.tflite"
"""The same model for runtimes that take no int8 pixels, as the browser's."""

_IDENTIFIER = b"TFL3"
_DTYPES = (np.int8, np.uint8, np.float32)


@dataclass(frozen=True)
class Tensor:
    """An input or output as the file declares it; `scale` is 0 for a float tensor."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    scale: float
    zero_point: int

    @classmethod
    def of(cls, details: dict[str, Any]) -> Tensor:
        """Read the interpreter's description of a tensor."""
        scale, zero_point = details["quantization"]
        shape = tuple(int(side) for side in details["shape"])
        return cls(shape, np.dtype(details["dtype"]), float(scale), int(zero_point))

    def quantize(self, values: NDArray[np.float64]) -> NDArray[Any]:
        """Return real values in this tensor's own dtype, rounded to nearest and clipped."""
        if not self.scale:
            return values.astype(self.dtype)
        limits = np.iinfo(self.dtype)
        steps = np.rint(values / self.scale) + self.zero_point
        return np.clip(steps, limits.min, limits.max).astype(self.dtype)

    def dequantize(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Return the real values, float32, of this tensor's values."""
        if not self.scale:
            return values.astype(np.float32)
        return ((values.astype(np.int32) - self.zero_point) * self.scale).astype(np.float32)


@dataclass(frozen=True)
class Answer:
    """A classifier's answer to one picture.

    Attributes:
        digit: the likeliest, 0 to 9; None where the picture has no ink.
        confidence: the digit's probability; 0 without ink.
        second: the second likeliest digit; None without ink.
        second_confidence: the second digit's probability.
        probabilities: float32, (10,); all 0 without ink.
        accepted: whether `confidence` reaches the file's threshold.
        prepared: the preprocessed image, and how it was made.
    """

    digit: int | None
    confidence: float
    second: int | None
    second_confidence: float
    probabilities: NDArray[np.float32]
    accepted: bool
    prepared: Prepared


class Classifier:
    """An exported digit classifier.

    Attributes:
        input: the input tensor: (1, 28, 28, 1), real values in [0, 1].
        output: the output tensor: (1, 10), probabilities.
        threshold: the confidence that an accepted answer needs; 0 if the file has none.
        kernels: the kernel set.
        threads: number of CPU threads.
    """

    def __init__(
        self, path: Path | str | None = None, threads: int = 1, kernels: Kernels = "xnnpack"
    ) -> None:
        """Open a .tflite file, int8, uint8 or float; by default the package's reference int8 model.

        Raises:
            Error: the file is no .tflite, is damaged, or does not map a 28×28 image to ten scores.
        """
        self.threads, self.kernels = threads, kernels
        path = Path(path) if path is not None else reference_model()
        self._interpreter = open_interpreter(path, threads, kernels)
        inputs = self._interpreter.get_input_details()
        outputs = self._interpreter.get_output_details()
        self.input = _only_tensor(path, "input", inputs, (1, 28, 28, 1))
        self.output = _only_tensor(path, "output", outputs, (1, 10))
        self.threshold = metadata.score_threshold(path.read_bytes())
        self._input_index, self._output_index = inputs[0]["index"], outputs[0]["index"]
        # There are only 256 pixel values: quantizing is a look-up.
        self._table = self.input.quantize(np.arange(256) / 255)
        self._batch = 1

    def predict(self, images: NDArray[np.uint8], batch_size: int = 500) -> NDArray[np.float32]:
        """Return the probability of each class, float32 (N, 10), `batch_size` images at a time.

        Args:
            images: uint8, (N, 28, 28), 0 = background, 255 = ink.
            batch_size: the results do not depend on it.

        Raises:
            Error: `images` has another shape or dtype.
        """
        return self.output.dequantize(self.raw(images, batch_size))

    def classify(self, image: Image.Image | NDArray[Any]) -> Answer:
        """Prepare and classify any picture that `keras_lenet.edge.prepare.prepare` takes.

        Raises:
            Error: `image` is an array of another shape or dtype.
        """
        return self.answer(prepare(image))

    def answer(self, prepared: Prepared) -> Answer:
        """Classify a prepared picture."""
        if not prepared.found:
            return Answer(None, 0.0, None, 0.0, np.zeros(10, np.float32), False, prepared)
        probabilities = self.predict(prepared.image[np.newaxis])[0]
        # A tie goes to the lowest digit, as with argmax wherever files are scored.
        first, second = np.argsort(-probabilities, kind="stable")[:2].tolist()
        confidence, other = probabilities[[first, second]].tolist()
        accepted = confidence >= self.threshold
        return Answer(first, confidence, second, other, probabilities, accepted, prepared)

    def raw(self, images: NDArray[np.uint8], batch_size: int = 500) -> NDArray[Any]:
        """Return the quantized output, (N, 10), in the output's dtype; see `predict`."""
        results = np.empty((len(images), 10), self.output.dtype)
        for start in range(0, len(images), batch_size):
            batch = self.quantize(images[start : start + batch_size])
            if len(batch) != self._batch:
                self._interpreter.resize_tensor_input(self._input_index, batch.shape)
                self._interpreter.allocate_tensors()
                self._batch = len(batch)
            self._interpreter.set_tensor(self._input_index, batch)
            self._interpreter.invoke()
            results[start : start + len(batch)] = self._interpreter.get_tensor(self._output_index)
        return results

    def quantize(self, images: NDArray[np.uint8]) -> NDArray[Any]:
        """Return the images as the input tensor takes them: (N, 28, 28, 1), in its dtype."""
        if images.ndim != 3 or images.shape[1:] != (28, 28) or images.dtype != np.uint8:
            raise Error(
                f"expected uint8 images of shape (N, 28, 28), got {images.dtype} {images.shape}; "
                "keras_lenet.edge.prepare makes them from pictures"
            )
        return self._table[images][..., np.newaxis]


def reference_model(name: str = REFERENCE) -> Path:
    """Return the path of a reference model in the installed package, or in the checkout.

    Raises:
        Error: neither has it.
    """
    here = Path(__file__)
    for folder in (here.parent, here.parents[2] / "exported"):
        if (folder / name).is_file():
            return folder / name
    raise Error(f"{name} is missing from this installation; name a .tflite file instead")


def open_interpreter(path: Path, threads: int = 1, kernels: Kernels = "xnnpack") -> Any:
    """Return a LiteRT interpreter for any .tflite file, with its tensors allocated.

    Raises:
        Error: the file cannot be read, is no .tflite, or is damaged.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Error(f"{path}: cannot be read ({error.strerror})") from error
    if content[4:8] != _IDENTIFIER:
        raise Error(f"{path}: not a .tflite file: it lacks the identifier {_IDENTIFIER.decode()}")
    try:
        interpreter = Interpreter(
            model_content=content,
            num_threads=threads,
            experimental_op_resolver_type=_RESOLVERS[kernels],
        )
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise Error(f"{path}: damaged, or made of ops this runtime lacks: {reason}") from error
    return interpreter


def _only_tensor(
    path: Path, name: str, details: list[dict[str, Any]], shape: tuple[int, ...]
) -> Tensor:
    """Return the only input or output of a file, held to its shape and to the dtypes known here."""
    if len(details) != 1:
        raise Error(f"{path}: expected one {name}, found {len(details)}")
    tensor = Tensor.of(details[0])
    if tensor.shape != shape or tensor.dtype not in _DTYPES:
        raise Error(
            f"{path}: expected an {name} of shape {shape} in int8, uint8 or float32, found "
            f"{tensor.shape} in {tensor.dtype}; not a digit classifier of this kind"
        )
    return tensor
