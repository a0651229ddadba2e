"""A model layer by layer: sizes, parameters and multiply-accumulates, as a table and a drawing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from keras_lenet.errors import Error

INPUT = "InputLayer"
HEADER = ("layer", "kind", "feature maps", "filter", "stride", "activation", "parameters",
          "multiply-accumulates")  # fmt: skip
RIGHT_ALIGNED = HEADER[-2:]

KINDS = {
    INPUT: ("", ""),
    "ZeroPadding2D": ("", "zeros\naround"),
    "Conv2D": ("C", "convolution"),
    "DepthwiseConv2D": ("S", "subsampling"),
    "MaxPooling2D": ("S", "max pooling"),
    "AveragePooling2D": ("S", "average pooling"),
    "GlobalAveragePooling2D": ("S", "average of\neach map"),
    "Dense": ("F", "full\nconnection"),
}
"""Letter and words of each kind that is drawn; other kinds change no size."""
FILLS = {"": "#f4f4f4", "C": "#d5e7f3", "S": "#fbe0cf", "F": "#d3ede4"}
LARGEST, SMALLEST, BAR = 2.6, 0.28, 0.2
"""Side of a network's largest map, side of any, and width of a bar; all lengths are in inches."""
DEPTH, STEP, MOST = 1.1, 0.15, 12
"""Of a stack: largest reach backwards, step from map to map, and most maps drawn."""
GAP, APART = 0.55, 1.4
"""Least distances: between two shapes, and between their middles."""
LETTER = 0.087
"""Width of a caption's letter."""


@dataclass(frozen=True)
class Layer:
    """One layer of a model.

    Attributes:
        name: the model's name for it.
        kind: its Keras class, such as "Conv2D".
        output: shape of the output without the batch: (height, width, channels) or (n,).
        filter: height and width of its window, if any.
        strides: steps of the window, in pixels down and across.
        padding: "same" or "valid", if it has a window.
        activation: "relu", "tanh" and so on.
        parameters: number of weights and biases.
        arithmetic: product that counts them, such as "((5×5×6)+1)×16".
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


@dataclass
class _Shape:
    """A layer as drawn: a stack of maps, or a bar.

    Attributes:
        words: operation that makes the layer.
        caption: above the shape.
        fill: colour.
        count: maps that are drawn; 1 for a bar.
        width: of a map or the bar.
        height: of a map or the bar.
        middle: its place across the figure.
    """

    words: str
    caption: str
    fill: str
    count: int
    width: float
    height: float
    middle: float = 0.0

    @property
    def reach(self) -> float:
        """Distance from the hindmost map to the foremost, across and down."""
        return (self.count - 1) * min(STEP, DEPTH / self.count)

    @property
    def outer(self) -> float:
        """Width of the drawing, or of the caption."""
        return max(self.width + self.reach, LETTER * max(map(len, self.caption.split("\n"))))

    @property
    def top(self) -> float:
        """Height of the upper edge above the middle."""
        return (self.height + self.reach) / 2

    @property
    def front(self) -> tuple[float, float]:
        """Lower left corner of the foremost map."""
        return self.middle + (self.reach - self.width) / 2, -self.top


def draw(summary: Summary) -> Figure:
    """Draw a network as figure 2 of LeCun et al. 1998: stacked maps, bars, lines between them.

    Raises:
        Error: it has no layer that can be drawn after the image.
    """
    shapes = _shapes(summary)
    shapes[0].middle = shapes[0].outer / 2
    for before, after in itertools.pairwise(shapes):
        after.middle = before.middle + max((before.outer + after.outer) / 2 + GAP, APART)
    right = shapes[-1].middle + shapes[-1].outer / 2
    half, margin = max(shape.top for shape in shapes), 0.2
    top, bottom = half + 0.65, -half - 0.6
    figure = Figure(figsize=(right + 2 * margin, top - bottom + 2 * margin))
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set(xlim=(-margin, right + margin), ylim=(bottom - margin, top + margin))
    axis.set_axis_off()
    for shape in shapes:
        x, y = shape.front
        for number in range(shape.count):
            back = shape.reach * (1 - number / max(shape.count - 1, 1))
            corner = (x - back, y + back)
            axis.add_patch(
                Rectangle(corner, shape.width, shape.height, fc=shape.fill, ec="#333333", zorder=2)
            )
        caption = shape.middle, shape.top + 0.12, shape.caption
        axis.text(*caption, ha="center", va="bottom", size=11, linespacing=1.25)
    for before, after in itertools.pairwise(shapes):
        (x, y), (left, low) = before.front, after.front
        for start, end in ((y, low), (y + before.height, low + after.height)):
            axis.plot((x + before.width, left), (start, end), color="#808080", linewidth=0.8)
        # Under the space between the two.
        place = (before.middle + before.outer / 2 + after.middle - after.outer / 2) / 2
        axis.text(place, bottom, after.words, ha="center", va="bottom", size=10)
    return figure


def _shapes(summary: Summary) -> list[_Shape]:
    layers = [layer for layer in summary.layers if layer.kind in KINDS]
    if len(layers) < 2 or layers[0].kind != INPUT:
        raise Error(f"{summary.name}: no layers that can be drawn; expected {', '.join(KINDS)}")
    scale = LARGEST / max(max(layer.output[:-1], default=1) for layer in layers)
    shapes: list[_Shape] = []
    number = 0
    for layer in layers:
        # A depthwise convolution that skips no pixel subsamples nothing.
        moves_by_one = layer.kind == "DepthwiseConv2D" and layer.strides == (1, 1)
        letter, words = KINDS["Conv2D" if moves_by_one else layer.kind]
        number += bool(letter)
        name = f"{letter}{number}" if letter else "PADDED"
        if layer.kind == INPUT:
            name = "INPUT"
        elif layer is layers[-1]:
            name = "OUTPUT"
        if layer.filter and "\n" not in words:
            words += f"\n{times(layer.filter)}"
        *sides, channels = layer.output
        if math.prod(sides) == 1:  # units, or maps of one pixel
            size = maps(layer.output) if letter == "C" else f"{channels} units"
            count, height, width = 1, 0.45 + 0.8 * math.log10(channels), BAR
        else:
            name += ": feature maps" if letter else ""
            size = times(sides) if not letter and channels == 1 else maps(layer.output)
            count = min(channels, MOST)
            height, width = (max(side * scale, SMALLEST) for side in (*sides, sides[0])[:2])
        shapes.append(_Shape(words, f"{name}\n{size}", FILLS[letter], count, width, height))
    return shapes
