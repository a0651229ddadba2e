"""Turn any photo or drawing of one digit into an image in MNIST style.

MNIST fits each digit into 20×20 pixels with its aspect ratio kept, and puts its centre of mass at
the centre of a 28×28 field (LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied
to document recognition", Proc. IEEE 86(11), 1998, section III-A). `prepare` does the same to any
picture, once it has found the ink:

    decode ─► grey ─► reduce ─► even the lighting, once for either polarity ─► threshold
    ─► connected components ─► polarity ─► fit to 20×20 ─► thicken hair strokes ─► centre

`decoding` has the first step, `ink` those up to polarity. `page/prepare.js` does the same in a
browser; a test holds the two together, so change both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from keras_lenet.edge.decoding import MAX_PIXELS, full_scale, load, to_pixels
from keras_lenet.edge.ink import FIT, Box, Grey, Ink, find_ink

__all__ = ["FIT", "MAX_PIXELS", "SIZE", "Prepared", "load", "prepare"]

SIZE = 28
"""Side of the prepared image."""

Polarity = Literal["dark on light", "light on dark"]

# Limits for the drawn digit. Chosen on training images of MNIST.
_HAIR = 1.2  # pixels; strokes thinner than this after scaling are thickened, as 0.1 % of MNIST is
_STROKE = 2.0  # pixels, the width to thicken to; MNIST's median is 2.3 by the same measure
_TIE = 1e-3  # pixels; symmetric digits lie between two places, and no rounding error should choose


@dataclass(frozen=True)
class Prepared:
    """An image in MNIST style, and how it was made."""

    image: NDArray[np.uint8]
    """(28, 28), 0 = background, 255 = ink; all 0 if no digit was found."""
    found: bool
    """False: nothing on the page stands out as ink."""
    polarity: Polarity
    """Of the source; "dark on light" also if no digit was found."""
    box: Box
    """The digit's left, top, right and bottom edge in pixels of the upright source, right and
    bottom exclusive; all 0 if no digit was found."""
    notes: tuple[str, ...]
    """Findings and changes, in words."""


def prepare(image: Image.Image | NDArray[Any]) -> Prepared:
    """Find the one digit in an image and bring it to MNIST style.

    Args:
        image: of a digit drawn, printed or photographed, in any colours that differ, lit evenly
            or not. A Pillow image of any mode, or an array (H, W), (H, W, 3) or (H, W, 4) of
            uint8, uint16, bool, or float in [0, 1] or [0, 255]. EXIF orientation is obeyed.

    Returns:
        The digit; with `found` False for a blank page.

    Raises:
        Error: the array has another shape, type or range, or is larger than `MAX_PIXELS`.
    """
    notes: list[str] = []
    pixels = to_pixels(image, notes)
    found = find_ink(pixels, full_scale(pixels), notes)
    if found is None:
        blank = np.zeros((SIZE, SIZE), np.uint8)
        return Prepared(blank, False, "dark on light", (0, 0, 0, 0), tuple(notes))
    ink, box = found
    digit = _to_mnist(ink, notes)
    polarity: Polarity = "light on dark" if ink.light else "dark on light"
    return Prepared(digit, True, polarity, box, tuple(notes))


def _to_mnist(ink: Ink, notes: list[str]) -> NDArray[np.uint8]:
    """Fit the digit to 20×20 and put its centre of mass at the centre: uint8 (28, 28)."""
    left, top, right, bottom = ink.box
    strength = ink.strength[top:bottom, left:right]
    scale = FIT / max(strength.shape)
    stroke = ink.stroke * scale
    notes.append(f"scaled by {scale:.2f}; strokes then {stroke:.1f} pixels wide")
    if stroke < _HAIR:
        digit = _thicken(strength, stroke)
        notes.append(f"thickened to {_STROKE:.1f} pixels")
    else:
        digit = _resize(strength, FIT)
    field = np.zeros((SIZE, SIZE), np.float32)
    y, x = (_place(digit.sum(axis=axis)) for axis in (1, 0))
    field[y : y + digit.shape[0], x : x + digit.shape[1]] = digit
    return np.rint(255 * field).astype(np.uint8)


def _place(profile: NDArray[np.floating[Any]]) -> int:
    """Return the start of a digit of this profile that puts its centre of mass at pixel 14.

    MNIST has it between 13.5 and 14.5 in every image.
    """
    mass = float(profile @ np.arange(len(profile))) / max(float(profile.sum()), 1e-6)
    return min(max(round(SIZE / 2 - mass + _TIE), 0), SIZE - len(profile))


def _thicken(strength: Grey, stroke: float) -> Grey:
    """Fit with strokes spread by [1 2 1] / 4 both ways and brought to `_STROKE` in width."""
    digit = np.pad(_resize(strength, FIT - 2), 2)
    for _ in range(2):
        digit = ((digit[:-2] + 2 * digit[1:-1] + digit[2:]) / 4).T
    return np.minimum(digit * np.float32(_STROKE / max(stroke, 0.05)), 1)


def _resize(grey: Grey, side: int) -> Grey:
    """Scale the longer side to `side`; at scale 1 nothing changes."""
    scale = side / max(grey.shape)
    height, width = (max(1, round(length * scale)) for length in grey.shape)
    resized = _weights(grey.shape[0], height) @ grey @ _weights(grey.shape[1], width).T
    return np.clip(resized, 0, 1)


def _weights(before: int, after: int) -> Grey:
    """Return (after, before) weights: area mean when shrinking, Catmull-Rom when enlarging."""
    step = before / after
    x = np.abs((np.arange(after)[:, None] + 0.5) * step - np.arange(before) - 0.5)
    if step > 1:
        weights = np.clip(step / 2 + 0.5 - x, 0, 1)
    else:
        near, far = (1.5 * x - 2.5) * x * x + 1, ((2.5 - 0.5 * x) * x - 4) * x + 2
        weights = np.where(x < 1, near, np.where(x < 2, far, 0))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
