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
"""Which kernels compute: LiteRT's XNNPACK delegate, its own optimized kernels, or the reference."""

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
        """Real values in this tensor's own dtype: rounded to nearest and clipped."""
        if not self.scale:
            return values.astype(self.dtype)
        limits = np.iinfo(self.dtype)
        steps = np.rint(values / self.scale) + self.zero_point
        return np.clip(steps, limits.min, limits.max).astype(self.dtype)

    def dequantize(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """The real values that this tensor's values stand for: float32."""
        if not self.scale:
            return values.astype(np.float32)
        return ((values.astype(np.int32) - self.zero_point) * self.scale).astype(np.float32)


@dataclass(frozen=True)
class Answer:
    """What a classifier says of one picture.

    Attributes:
        digit: 0 to 9, the likeliest; None where nothing on the picture stands out as ink.
        confidence: its probability; 0 where there is none.
        second: the digit that it would be otherwise; None where there is none.
        second_confidence: its probability.
        probabilities: of each class, float32, (10,); all 0 where nothing stands out as ink.
        accepted: whether `confidence` reaches the file's threshold; if not, the picture shows no
            digit, or none that the model can tell.
        prepared: what the model saw, and how it was come by.
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
        threshold: the confidence that an answer must have to be accepted, as the file's metadata
            say; 0 where they don't.
        kernels: which kernels compute.
        threads: how many of them at once.
    """

    def __init__(
        self, path: Path | str | None = None, threads: int = 1, kernels: Kernels = "xnnpack"
    ) -> None:
        """Open a .tflite file.

        Args:
            path: the file; int8, uint8 or float input and output. By default the reference int8
                model, which comes with the package.
            threads: CPU threads to compute with.
            kernels: which kernels compute.

        Raises:
            Error: the file isn't a .tflite, is damaged, or doesn't map one 28×28 image to ten
                class scores.
        """
        self.threads, self.kernels = threads, kernels
        path = Path(path) if path is not None else reference_model()
        self._interpreter = open_interpreter(path, threads, kernels)
        inputs, outputs = (
            self._interpreter.get_input_details(),
            self._interpreter.get_output_details(),
        )
        _check_contract(path, inputs, outputs)
        self.input, self.output = Tensor.of(inputs[0]), Tensor.of(outputs[0])
        self.threshold = metadata.score_threshold(path.read_bytes())
        self._input_index, self._output_index = inputs[0]["index"], outputs[0]["index"]
        # There are only 256 pixel values: quantizing is a look-up.
        self._table = self.input.quantize(np.arange(256) / 255)
        self._batch = 1

    def predict(self, images: NDArray[np.uint8], batch_size: int = 500) -> NDArray[np.float32]:
        """Classify images.

        Args:
            images: uint8, (N, 28, 28), 0 = background, 255 = ink.
            batch_size: how many to read and compute at a time; the results don't depend on it.

        Returns:
            float32, (N, 10): the probability of each class, as the model gives it.

        Raises:
            Error: `images` has another shape or dtype.
        """
        return self.output.dequantize(self.raw(images, batch_size))

    def classify(self, image: Image.Image | NDArray[Any]) -> Answer:
        """Find the digit in any picture, and say which it is.

        Args:
            image: whatever `keras_lenet.edge.prepare.prepare` takes.

        Raises:
            Error: `image` is an array of a shape or dtype that it doesn't take.
        """
        return self.answer(prepare(image))

    def answer(self, prepared: Prepared) -> Answer:
        """Say which digit a prepared picture shows."""
        if not prepared.found:
            return Answer(None, 0.0, None, 0.0, np.zeros(10, np.float32), False, prepared)
        probabilities = self.predict(prepared.image[np.newaxis])[0]
        # Of digits that tie the lowest, as argmax has it wherever files are scored.
        first, second = np.argsort(-probabilities, kind="stable")[:2].tolist()
        confidence, other = float(probabilities[first]), float(probabilities[second])
        accepted = confidence >= self.threshold
        return Answer(first, confidence, second, other, probabilities, accepted, prepared)

    def raw(self, images: NDArray[np.uint8], batch_size: int = 500) -> NDArray[Any]:
        """The model's output before it is dequantized: (N, 10), in the output's dtype."""
        results = np.empty((len(images), 10), self.output.dtype)
        for start in range(0, len(images), batch_size):
            batch = self.quantize(images[start : start + batch_size])
            self._resize(len(batch))
            self._interpreter.set_tensor(self._input_index, batch)
            self._interpreter.invoke()
            results[start : start + len(batch)] = self._interpreter.get_tensor(self._output_index)
        return results

    def quantize(self, images: NDArray[np.uint8]) -> NDArray[Any]:
        """What the model's input tensor takes for these images: (N, 28, 28, 1), in its dtype."""
        if images.ndim != 3 or images.shape[1:] != (28, 28) or images.dtype != np.uint8:
            raise Error(
                f"expected uint8 images of shape (N, 28, 28), got {images.dtype} {images.shape}; "
                "keras_lenet.edge.prepare makes them from pictures"
            )
        return self._table[images][..., np.newaxis]

    def _resize(self, batch: int) -> None:
        if batch != self._batch:
            self._interpreter.resize_tensor_input(self._input_index, [batch, 28, 28, 1])
            self._interpreter.allocate_tensors()
            self._batch = batch


def reference_model(name: str = REFERENCE) -> Path:
    """The reference model, int8 if not told: inside the installed package, or in the checkout.

    Raises:
        Error: it is in neither.
    """
    here = Path(__file__)
    folders = (here.parent, here.parents[2] / "exported")
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise Error(f"{name} is missing from this installation; name a .tflite file instead")


def open_interpreter(path: Path, threads: int = 1, kernels: Kernels = "xnnpack") -> Any:
    """A LiteRT interpreter for any .tflite file, its tensors allocated.

    Raises:
        Error: the file can't be read, isn't a .tflite, or is damaged.
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


def _check_contract(
    path: Path, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]
) -> None:
    for name, details, shape in (
        ("input", inputs, (1, 28, 28, 1)),
        ("output", outputs, (1, 10)),
    ):
        if len(details) != 1:
            raise Error(f"{path}: expected one {name}, found {len(details)}")
        tensor = Tensor.of(details[0])
        if tensor.shape != shape or tensor.dtype not in _DTYPES:
            raise Error(
                f"{path}: expected an {name} of shape {shape} in int8, uint8 or float32, found "
                f"{tensor.shape} in {tensor.dtype}; not a digit classifier of this kind"
            )
