"""An architecture as figure 2 of LeCun et al. 1998 shows LeNet-5: stacked maps, bars, lines.

LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition",
Proceedings of the IEEE 86(11), 1998. All lengths are in inches.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Polygon, Rectangle
from matplotlib.textpath import TextPath
from matplotlib.transforms import Affine2D

from keras_lenet.errors import Error
from keras_lenet.models.summary import INPUT, Layer, Summary, maps, times

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
"""The letter and the words of each kind that is drawn; other kinds change no size."""
INK, LINE = "#333333", "#808080"
FILLS = {"": "#f4f4f4", "C": "#d5e7f3", "S": "#fbe0cf", "F": "#d3ede4"}

LARGEST, SMALLEST = 2.6, 0.28
"""Sides of the largest map of a network, and of any."""
DEPTH, STEP, MOST = 1.1, 0.15, 12
"""Of a stack: its largest reach backwards, the step from map to map, and the most maps drawn."""
BAR, SLANT = 0.14, 0.24
GAP, APART = 0.55, 1.4
"""Least distances: between two shapes, and between their middles."""
LETTER = 0.087
"""Width of a caption's letter."""


@dataclass
class _Shape:
    """A layer as drawn: a stack of maps or a bar, in the middle of the height.

    Attributes:
        layer: the layer.
        letter: "C", "S" or "F", as the paper names layers; empty for the image.
        caption: above it.
        count: maps that are drawn; 0 for a bar.
        width: of a map, or the bar's.
        height: of a map, or the bar's.
        middle: its place across the figure.
    """

    layer: Layer
    letter: str
    caption: str
    count: int
    width: float
    height: float
    middle: float = 0.0

    @property
    def reach(self) -> float:
        """Distance from the hindmost map to the foremost, across and down."""
        return max(self.count - 1, 0) * min(STEP, DEPTH / max(self.count, 1))

    @property
    def outer(self) -> float:
        """Width of the drawing, or of the caption."""
        words = LETTER * max(map(len, self.caption.split("\n")))
        return max(self.width + self.reach, words)

    @property
    def top(self) -> float:
        """Height of the upper edge above the middle."""
        return (self.height + self.reach) / 2

    @property
    def front(self) -> tuple[float, float]:
        """Lower left corner of the foremost map."""
        return self.middle + (self.reach - self.width) / 2, -self.top

    @property
    def bar(self) -> list[tuple[float, float]]:
        """Corners of a bar, leaning to the left as in the paper: from the upper left on."""
        x, y = self.middle - self.width / 2, self.height / 2
        return [(x, y), (x + BAR, y), (x + BAR + SLANT, -y), (x + SLANT, -y)]


def lenet_style(summary: Summary) -> Figure:
    """Draw a network from its image to its outputs, each layer fed by the one before.

    Raises:
        Error: it has no layer that can be drawn after the image.
    """
    shapes = _shapes(summary)
    shapes[0].middle = shapes[0].outer / 2
    for before, after in itertools.pairwise(shapes):
        after.middle = before.middle + max((before.outer + after.outer) / 2 + GAP, APART)
    right = shapes[-1].middle + shapes[-1].outer / 2
    top = max(shape.top for shape in shapes) + 0.65
    bottom = -max(shape.top for shape in shapes) - 0.6
    margin = 0.2
    figure = Figure(figsize=(right + 2 * margin, top - bottom + 2 * margin))
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set(xlim=(-margin, right + margin), ylim=(bottom - margin, top + margin))
    axis.set_axis_off()
    for shape in shapes:
        _draw(axis, shape)
    axis.add_patch(_glyph(shapes[0]))
    for before, after in itertools.pairwise(shapes):
        _connect(axis, before, after)
        _, words = _kind(after.layer)
        if after.layer.filter and "\n" not in words:
            stride = max(after.layer.strides or (1,))
            every = f", every {stride}" if after.layer.kind == "Conv2D" and stride > 1 else ""
            words += f"\n{times(after.layer.filter)}{every}"
        # Under the space between the two, where the lines run.
        place = (before.middle + before.outer / 2 + after.middle - after.outer / 2) / 2
        axis.text(place, bottom, words, ha="center", va="bottom", size=10, color=INK)
    return figure


def _shapes(summary: Summary) -> list[_Shape]:
    layers = [layer for layer in summary.layers if layer.kind in KINDS]
    if len(layers) < 2 or layers[0].kind != INPUT:
        raise Error(f"{summary.name}: no layers that can be drawn; expected {', '.join(KINDS)}")
    scale = LARGEST / max(max(layer.output[:-1], default=1) for layer in layers)
    shapes: list[_Shape] = []
    number = 0
    for layer in layers:
        letter, _ = _kind(layer)
        number += bool(letter)
        name = f"{letter}{number}" if letter else "PADDED"
        if layer.kind == INPUT:
            name = "INPUT"
        elif layer is layers[-1]:
            name = "OUTPUT"
        shapes.append(_shape(layer, letter, name, scale))
    return shapes


def _shape(layer: Layer, letter: str, name: str, scale: float) -> _Shape:
    *sides, channels = layer.output
    if math.prod(sides) == 1:  # units, or maps of one pixel
        words = maps(layer.output) if letter == "C" else f"{channels} units"
        height = 0.45 + 0.8 * math.log10(channels)
        return _Shape(layer, letter, f"{name}\n{words}", 0, BAR + SLANT, height)
    height, width = (max(side * scale, SMALLEST) for side in (*sides, sides[0])[:2])
    title = f"{name}: feature maps" if letter else name
    size = times(sides) if not letter and channels == 1 else maps(layer.output)
    return _Shape(layer, letter, f"{title}\n{size}", min(channels, MOST), width, height)


def _kind(layer: Layer) -> tuple[str, str]:
    """Return letter and words; a depthwise convolution that skips no pixel subsamples nothing."""
    moves_by_one = layer.kind == "DepthwiseConv2D" and layer.strides == (1, 1)
    return KINDS["Conv2D" if moves_by_one else layer.kind]


def _draw(axis: Axes, shape: _Shape) -> None:
    look: dict[str, Any] = {"facecolor": FILLS[shape.letter], "edgecolor": INK, "linewidth": 0.9}
    x, y = shape.front
    for place in range(shape.count):
        back = shape.reach * (1 - place / max(shape.count - 1, 1))
        corner = (x - back, y + back)
        axis.add_patch(Rectangle(corner, shape.width, shape.height, **look, zorder=2))
    if not shape.count:
        axis.add_patch(Polygon(shape.bar, closed=True, **look, zorder=2))
    words: dict[str, Any] = {"size": 11, "color": INK, "linespacing": 1.25}
    axis.text(shape.middle, shape.top + 0.12, shape.caption, ha="center", va="bottom", **words)


def _glyph(shape: _Shape) -> PathPatch:
    """Draw a digit on the image."""
    path = TextPath((0, 0), "3", size=1)
    box = path.get_extents()
    x, y = shape.front
    move = (
        Affine2D()
        .translate(-(box.x0 + box.x1) / 2, -(box.y0 + box.y1) / 2)
        .scale(0.62 * shape.height / box.height)
        .translate(x + shape.width / 2, y + shape.height / 2)
    )
    return PathPatch(move.transform_path(path), facecolor="#b8b8b8", edgecolor="none", zorder=3)


def _connect(axis: Axes, before: _Shape, after: _Shape) -> None:
    """Draw lines from what one unit sees to the unit; between bars, from end to end."""
    x, y = before.front
    left, bottom = after.front
    if not before.count:
        ends = list(itertools.product(before.bar[1:3], (after.bar[0], after.bar[3])))
    elif after.layer.filter is None or not after.count:  # every pixel of every map
        upper, lower = after.bar[0], after.bar[3]
        if after.count:
            upper, lower = (left, bottom + after.height), (left, bottom)
        right = x + before.width
        ends = [((right, y + before.height), upper), ((right, y), lower)]
    else:
        window = zip(after.layer.filter, before.layer.output, strict=False)
        shares = [min(side / size, 1.0) for side, size in window]
        height, width = shares[0] * before.height, shares[1] * before.width
        corner = x + 0.9 * (before.width - width), y + 0.2 * (before.height - height)
        look: dict[str, Any] = {"facecolor": "white", "edgecolor": INK, "linewidth": 0.8}
        axis.add_patch(Rectangle(corner, width, height, **look, zorder=4))
        point = left + 0.3 * after.width, bottom + 0.35 * after.height
        axis.plot(*point, marker="s", markersize=2.5, color=INK, zorder=4)
        edge = corner[0] + width
        ends = [((edge, corner[1] + height), point), ((edge, corner[1]), point)]
    for start, end in ends:
        axis.plot(*zip(start, end, strict=True), color=LINE, linewidth=0.8, zorder=5)
