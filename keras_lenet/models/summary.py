"""A model layer by layer: sizes, and parameters and multiply-accumulates with their arithmetic."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from keras_lenet.errors import Error

INPUT = "InputLayer"


@dataclass(frozen=True)
class Layer:
    """One layer of a model.

    Attributes:
        name: the model's name for it.
        kind: its Keras class, such as "Conv2D".
        output: the shape of what it gives, without the batch: (height, width, channels) or (n,).
        filter: height and width of its window; None where it has none.
        strides: how far the window moves, in pixels down and across; None where it has none.
        padding: "same" or "valid"; None where it has no window.
        activation: "relu", "tanh" and so on; None where there is none.
        parameters: weights and biases.
        arithmetic: how they are counted, such as "((5×5×6)+1)×16"; empty where there are none.
        macs: multiply-accumulates for one image: every weight, as often as it is used. Padded
            pixels count; pooling and biases do not. None for a kind that isn't known here.
    """

    name: str
    kind: str
    output: tuple[int, ...]
    filter: tuple[int, ...] | None
    strides: tuple[int, ...] | None
    padding: str | None
    activation: str | None
    parameters: int
    arithmetic: str
    macs: int | None


@dataclass(frozen=True)
class Summary:
    """A model: its name, its layers from the input on, and totals."""

    name: str
    layers: tuple[Layer, ...]

    @property
    def parameters(self) -> int:
        """Weights and biases."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def macs(self) -> int | None:
        """Multiply-accumulates for one image; None where one layer's are not known."""
        known = [layer.macs for layer in self.layers if layer.macs is not None]
        return sum(known) if len(known) == len(self.layers) else None

    def as_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return asdict(self) | {"parameters": self.parameters, "macs": self.macs}


def summarize(model: Any) -> Summary:
    """Describe a Keras or tf_keras model.

    Raises:
        Error: a layer's output is no single tensor of a fixed size.
    """
    layers = [_layer(layer) for layer in model.layers]
    if layers[0].kind != INPUT:  # a Sequential keeps its input to itself
        shape = tuple(int(side) for side in model.input_shape[1:])
        layers.insert(0, Layer("input", INPUT, shape, None, None, None, None, 0, "", 0))
    return Summary(model.name, tuple(layers))


def _layer(layer: Any) -> Layer:
    kind = type(layer).__name__
    output = _output(layer)
    window = getattr(layer, "kernel_size", None) or getattr(layer, "pool_size", None)
    activation = getattr(getattr(layer, "activation", None), "__name__", None)
    parameters = int(layer.count_params())
    weights = layer.weights
    kernel = tuple(weights[0].shape) if weights else ()
    biased = len(weights) > 1
    if kind == "Conv2D":
        *inputs, filters = kernel
        arithmetic = f"{_of_a_unit(inputs, biased)}×{filters}"
        macs: int | None = math.prod(output) * math.prod(inputs)
    elif kind == "DepthwiseConv2D":
        *inputs, channels, multiplier = kernel
        arithmetic = f"{_of_a_unit(inputs, biased)}×{channels * multiplier}"
        macs = math.prod(output) * math.prod(inputs)
    elif kind == "Dense":
        *inputs, units = kernel
        arithmetic = f"{_of_a_unit(inputs, biased)}×{units}"
        macs = math.prod(output) * inputs[0]
    elif kind == "BatchNormalization":
        arithmetic = f"{len(weights)}×{kernel[0]}"
        macs = math.prod(output)
    else:
        arithmetic, macs = "", None if parameters else 0
    return Layer(
        name=layer.name,
        kind=kind,
        output=output,
        filter=tuple(window) if window else None,
        strides=tuple(layer.strides) if window else None,
        padding=layer.padding if window else None,
        activation=None if activation == "linear" else activation,
        parameters=parameters,
        arithmetic=arithmetic,
        macs=macs,
    )


def _output(layer: Any) -> tuple[int, ...]:
    shape = getattr(layer.output, "shape", None)  # a list where a layer gives several
    sides = tuple(shape or ())[1:]
    if not sides or None in sides:
        raise Error(
            f"layer {layer.name} ({type(layer).__name__}): expected one output of a fixed size, "
            f"found {shape}; only models of such layers can be summarized"
        )
    return tuple(int(side) for side in sides)


def _of_a_unit(inputs: Any, biased: bool) -> str:
    """The parameters of one unit: its inputs and, where it has one, its bias."""
    product = times(inputs)
    if not biased:
        return product
    return f"(({product})+1)" if len(inputs) > 1 else f"({product}+1)"


def times(sides: Iterable[int]) -> str:
    """Sizes as a product: "5×5"."""
    return "×".join(map(str, sides))


def maps(output: tuple[int, ...]) -> str:
    """A layer's output as LeCun et al. 1998 write it: "6@28×28" feature maps, or "84" units."""
    return f"{output[-1]}@{times(output[:-1])}" if len(output) > 1 else str(output[0])


HEADER = (
    "layer",
    "kind",
    "feature maps",
    "filter",
    "stride",
    "activation",
    "parameters",
    "multiply-accumulates",
)
RIGHT_ALIGNED = HEADER[-2:]


def rows(summary: Summary) -> list[list[str]]:
    """One row of `HEADER` a layer; the totals last."""
    return [
        *(
            [
                layer.name,
                layer.kind,
                maps(layer.output),
                _filter(layer),
                times(sorted(set(layer.strides))) if layer.strides else "",
                layer.activation or "",
                _parameters(layer),
                _count(layer.macs),
            ]
            for layer in summary.layers
        ),
        ["total", "", "", "", "", "", f"{summary.parameters:,}", _count(summary.macs)],
    ]


def _filter(layer: Layer) -> str:
    if layer.filter is None:
        return ""
    return times(layer.filter) + (", padded" if layer.padding == "same" else "")


def _parameters(layer: Layer) -> str:
    if not layer.arithmetic:
        return f"{layer.parameters:,}" if layer.parameters else ""
    return f"{layer.arithmetic} = {layer.parameters:,}"


def _count(macs: int | None) -> str:
    return "not known" if macs is None else f"{macs:,}" if macs else ""
