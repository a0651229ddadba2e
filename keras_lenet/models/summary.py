"""A model layer by layer: sizes, and parameters and multiply-accumulates with their arithmetic."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from keras_lenet.errors import Error

INPUT = "InputLayer"
HEADER = ("layer", "kind", "feature maps", "filter", "stride", "activation", "parameters",
          "multiply-accumulates")  # fmt: skip
RIGHT_ALIGNED = HEADER[-2:]


@dataclass(frozen=True)
class Layer:
    """One layer of a model.

    Attributes:
        name: the model's name for it.
        kind: its Keras class, such as "Conv2D".
        output: shape of the output without the batch: (height, width, channels) or (n,).
        filter: height and width of its window; None where it has none.
        strides: steps of the window, in pixels down and across; None where it has none.
        padding: "same" or "valid"; None where it has no window.
        activation: "relu", "tanh" and so on; None where there is none.
        parameters: number of weights and biases.
        arithmetic: product that counts them, such as "((5×5×6)+1)×16"; empty where there is none.
        macs: multiply-accumulates for one image: every weight, as often as it is used. Padded
            pixels count; pooling and biases do not. None for an unknown kind.
    """

    name: str
    kind: str
    output: tuple[int, ...]
    filter: tuple[int, ...] | None = None
    strides: tuple[int, ...] | None = None
    padding: str | None = None
    activation: str | None = None
    parameters: int = 0
    arithmetic: str = ""
    macs: int | None = 0


@dataclass(frozen=True)
class Summary:
    """A model: its name, its layers from the input on, and totals."""

    name: str
    layers: tuple[Layer, ...]

    @property
    def parameters(self) -> int:
        """Count weights and biases."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def macs(self) -> int | None:
        """Count multiply-accumulates for one image; None where one layer's are not known."""
        known = [layer.macs for layer in self.layers if layer.macs is not None]
        return sum(known) if len(known) == len(self.layers) else None

    def as_dict(self) -> dict[str, Any]:
        """Return layers and totals for JSON."""
        return asdict(self) | {"parameters": self.parameters, "macs": self.macs}


def summarize(model: Any) -> Summary:
    """Describe a Keras or tf_keras model.

    Raises:
        Error: a layer's output is no single tensor of a fixed size.
    """
    layers = [_layer(layer) for layer in model.layers]
    if layers[0].kind != INPUT:  # a Sequential keeps its input to itself
        layers.insert(0, Layer("input", INPUT, tuple(int(n) for n in model.input_shape[1:])))
    return Summary(model.name, tuple(layers))


def _layer(layer: Any) -> Layer:
    output = _output(layer)
    window = getattr(layer, "kernel_size", None) or getattr(layer, "pool_size", None)
    activation = getattr(getattr(layer, "activation", None), "__name__", None)
    arithmetic, macs = _count(layer, output)
    return Layer(
        name=layer.name,
        kind=type(layer).__name__,
        output=output,
        filter=tuple(window) if window else None,
        strides=tuple(layer.strides) if window else None,
        padding=layer.padding if window else None,
        activation=None if activation == "linear" else activation,
        parameters=int(layer.count_params()),
        arithmetic=arithmetic,
        macs=macs,
    )


def _count(layer: Any, output: tuple[int, ...]) -> tuple[str, int | None]:
    """Return the arithmetic of a layer's parameters, and its multiply-accumulates."""
    kind = type(layer).__name__
    if not layer.weights:
        return "", 0
    *inputs, units = layer.weights[0].shape
    if kind == "BatchNormalization":
        return f"{len(layer.weights)}×{units}", math.prod(output)
    if kind not in ("Conv2D", "DepthwiseConv2D", "Dense"):
        return "", None
    if kind == "DepthwiseConv2D":
        units *= inputs.pop()  # outputs of each channel
    unit = times(inputs)
    if len(layer.weights) > 1:  # and a bias
        unit = f"(({unit})+1)" if len(inputs) > 1 else f"({unit}+1)"
    return f"{unit}×{units}", math.prod(output) * math.prod(inputs)


def _output(layer: Any) -> tuple[int, ...]:
    shape = getattr(layer.output, "shape", None)  # a list where a layer gives several
    sides = tuple(shape or ())[1:]
    if not sides or None in sides:
        raise Error(
            f"layer {layer.name} ({type(layer).__name__}): expected one output of a fixed size, "
            f"found {shape}; only models of such layers can be summarized"
        )
    return tuple(int(side) for side in sides)


def times(sides: Iterable[int]) -> str:
    """Write sizes as a product: "5×5"."""
    return "×".join(map(str, sides))


def maps(output: tuple[int, ...]) -> str:
    """Write an output as LeCun et al. 1998 do: "6@28×28" feature maps, or "84" units."""
    return f"{output[-1]}@{times(output[:-1])}" if len(output) > 1 else str(output[0])


def rows(summary: Summary) -> list[list[str]]:
    """Return one row of `HEADER` a layer; the totals last."""
    total = ["total", "", "", "", "", "", f"{summary.parameters:,}", _macs(summary.macs)]
    return [*map(_row, summary.layers), total]


def _row(layer: Layer) -> list[str]:
    padded = ", padded" if layer.padding == "same" else ""
    parameters = f"{layer.parameters:,}" if layer.parameters else ""
    return [
        layer.name,
        layer.kind,
        maps(layer.output),
        times(layer.filter) + padded if layer.filter else "",
        times(sorted(set(layer.strides))) if layer.strides else "",
        layer.activation or "",
        f"{layer.arithmetic} = {parameters}" if layer.arithmetic else parameters,
        _macs(layer.macs),
    ]


def _macs(count: int | None) -> str:
    return "not known" if count is None else f"{count:,}" if count else ""
