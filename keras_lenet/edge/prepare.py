"""Turn any photo or drawing of one digit into an image in MNIST style.

MNIST fits each digit into 20×20 pixels with its aspect ratio kept, and puts its centre of mass at
the centre of a 28×28 field (LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied
to document recognition", Proc. IEEE 86(11), 1998, section III-A). `prepare` does the same:

    decode ─► grey ─► area resize ─► black top-hat (contrast with the page), for either polarity
    ─► remove ruled lines ─► threshold ─► connected components ─► polarity ─► fit to 20×20 ─► centre

Limits were set by hand on pictures of MNIST training images, see tests/benchmarks/hard_pictures.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from keras_lenet.edge.decoding import MAX_PIXELS, load, to_pixels
from keras_lenet.edge.page import (
    BLACK,
    contrasts_with_page,
    estimate_page,
    grain,
    page_level,
    percentiles,
    remove_lines,
    unevenness,
)

__all__ = ["FIT", "MAX_PIXELS", "SIZE", "Prepared", "load", "prepare"]

SIZE = 28
"""Side of the prepared image."""
FIT = 20
"""Longer side of the digit in it."""

Polarity = Literal["dark on light", "light on dark"]
POLARITIES: tuple[Polarity, Polarity] = ("dark on light", "light on dark")
Box = tuple[int, int, int, int]
Grey = NDArray[Any]
Mask = NDArray[Any]

# The page. Lengths are shares of the picture's longer side unless they are in pixels.
WORK_SIDE = 400  # pixels; larger pictures are reduced
CLOSE_UP = 48  # pixels; a digit smaller than this is looked at again at full resolution
NOISY = 0.012  # noise from which the picture is smoothed first
STRONGEST = 12  # pixels; the initial ink level is the contrast of the twelfth strongest pixel
GREY_ENOUGH = 0.4  # luma contrast from which colour is not needed
COLOUR_CONTRAST = 0.2  # that ink must have in a colour channel

# Ink or no ink.
MIN_CONTRAST = 0.08  # of the full range; a faint pencil has more
MIN_SNR = 5.0  # contrast over noise
MIN_LEAD = 0.35  # contrast over the unevenness of the page
MIN_SHARE = 0.5  # of all ink that does not reach the border
MIN_STEP = 0.4  # share of the way from ink to page that a mark gains at its edge
PAGE_FROM = 0.3  # of the way from ink to page; less than half, for page in the shadow
MIN_PAGE = 0.25  # share of its surroundings that is page
MIN_SIDE = 5  # pixels; a mark smaller both ways is dust
CUT_OFF = 0.1  # of the picture; a mark that reaches less far in from the border is a neighbour's
MAX_BORDER = 0.5  # share of the picture's border that a mark covers
MIN_PAGE_IN_PICTURE = 0.15  # share of the picture that has the page's colour
FAINT = 0.1201  # ink fainter than this does not widen the box; no grey level lies right at it

# Parts of the digit. Distances are shares of the main part's longer side.
NEAR = 0.3  # farthest part
NEAR_BORDER = 0.08  # farthest part that the picture's border cuts
MIN_PART = 0.02  # share of the main part's ink, for a part that touches it
MIN_PART_PER_DISTANCE = 0.1  # and so much more at the distance `NEAR`

# MNIST style, in pixels.
HAIR = 1.2  # strokes thinner than this after scaling are thickened, as 0.1 % of MNIST is
STROKE = 2.0  # the width to thicken to; MNIST's median is 2.3 by the same measure
TIE = 1e-3  # symmetric digits lie between two places, and no rounding error should choose


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


@dataclass(frozen=True)
class _Mark:
    """Ink that may be the digit."""

    strength: Grey  # (H, W), 0 = background, 1 = a full stroke; 0 away from the mark
    box: Box
    light: bool
    stroke: float  # mean width in pixels
    score: float  # how likely the mark is ink, and not a gap between strokes
    contrast: float
    noise: float
    left_out: int  # connected components
    lines: int  # removed


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
    pixels, white = to_pixels(image, notes)
    mark, box, note = _find(pixels, white)
    if mark is None:
        blank = np.zeros((SIZE, SIZE), np.uint8)
        return Prepared(blank, False, "dark on light", box, (*notes, note))
    if box != mark.box and _side(mark.box) < CLOSE_UP:
        margin = _side(box)
        x, y = (max(0, edge - margin) for edge in box[:2])
        near, (left, top, right, bottom), near_note = _find(
            pixels[y : box[3] + margin, x : box[2] + margin], white
        )
        if near is not None and near.light == mark.light:
            mark, box = near, (left + x, top + y, right + x, bottom + y)
            note = f"{near_note}; small on its page: looked at again from close by"
    notes.append(note)
    digit = _to_mnist(mark, notes)
    return Prepared(digit, True, POLARITIES[mark.light], box, tuple(notes))


def _side(box: Box) -> int:
    return max(box[2] - box[0], box[3] - box[1])


def _find(pixels: NDArray[Any], white: float) -> tuple[_Mark | None, Box, str]:
    """Return the digit on the reduced page, its box in `pixels`, and a note."""
    factor = math.ceil(max(pixels.shape[:2]) / WORK_SIDE)
    height, width = (max(1, side // factor) for side in pixels.shape[:2])
    if min(height, width) < MIN_SIDE:
        return None, (0, 0, 0, 0), f"no digit: {width}×{height} pixels are too few"
    whole = pixels[: height * factor, : width * factor]

    def reduced(plane: NDArray[Any]) -> Grey:
        small = cv2.resize(plane, (width, height), interpolation=cv2.INTER_AREA)
        return small.astype(np.float32) / np.float32(white)

    coloured = whole.ndim == 3
    marks = _find_marks(reduced(cv2.cvtColor(whole, cv2.COLOR_RGB2GRAY) if coloured else whole))
    if coloured and max((mark.contrast for mark in marks), default=0) < GREY_ENOUGH:
        for channel in cv2.split(reduced(whole)):
            marks += [mark for mark in _find_marks(channel) if mark.contrast > COLOUR_CONTRAST]
    if not marks:
        note = "no digit: nothing stands out from the page as ink with sharp edges"
        return None, (0, 0, 0, 0), note
    mark = max(marks, key=lambda mark: mark.score)
    name = "light ink on a dark page" if mark.light else "dark ink on a light page"
    others = f", {mark.left_out} other marks left out" if mark.left_out else ""
    lines = f", {mark.lines} lines removed" if mark.lines else ""
    contrast = f"contrast {mark.contrast:.2f}, noise {mark.noise:.3f}"
    left, top, right, bottom = (factor * edge for edge in mark.box)
    return mark, (left, top, right, bottom), f"{name}: {contrast}{others}{lines}"


def _find_marks(grey: Grey) -> list[_Mark]:
    """Return the candidates for the digit, at most one in each polarity."""
    noisy = grain(grey) > NOISY
    smooth = cv2.blur(grey, (3, 3), borderType=cv2.BORDER_REPLICATE) if noisy else grey
    found = (_find_polarity(grey, smooth, light) for light in (False, True))
    return [mark for mark in found if mark is not None]


def _find_polarity(grey: Grey, smooth: Grey, light: bool) -> _Mark | None:
    """Find dark ink on a lighter page, or light ink on a darker one.

    Args:
        grey: (H, W), 0 = black, 1 = white.
        smooth: the same with less noise, to find the digit in; its strokes come from `grey`.
        light: look for light ink.
    """
    page = estimate_page(smooth, light)
    contrasts = contrasts_with_page(smooth, page, light)
    base, noise = page_level(contrasts)
    threshold, contrast = _split(contrasts, base, noise)
    least = max(MIN_CONTRAST, MIN_SNR * noise, MIN_LEAD * unevenness(page, light))
    if contrast < least:
        return None
    # Noise would make the strokes look thin: their width comes from the smooth page.
    images = [contrasts, contrasts_with_page(grey, page, light)][: 1 if smooth is grey else 2]
    images, lines = remove_lines(images, contrasts > max((base + threshold) / 2, base + 4 * noise))
    contrasts = images[0]
    if lines:
        threshold, contrast = _split(contrasts, base, noise)
        if contrast < least:
            return None
    selected = _select_digit(contrasts - np.float32(base), contrasts > threshold)
    if selected is None:
        return None
    mask, left_out = selected
    reach = max(2, max(cv2.boundingRect(mask)[2:]) // FIT)
    around = cv2.dilate(mask, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
    border = np.ones(mask.shape, bool)
    border[1:-1, 1:-1] = False
    if mask[border].mean() > MAX_BORDER:
        return None
    score = _score(smooth, page, mask, reach) * float((contrasts[border] <= threshold).mean())
    if not score or _step(smooth, page, mask, around, reach) < MIN_STEP:
        return None
    clean, strength = (_strength(image, mask, around) for image in (images[0], images[-1]))
    x, y, width, height = cv2.boundingRect(around)
    stroke = _stroke_width(clean[y : y + height, x : x + width])
    box = _extent(strength, mask)
    return _Mark(strength, box, light, stroke, score, contrast, noise, left_out, lines)


def _split(contrasts: Grey, base: float, noise: float) -> tuple[float, float]:
    """Return the threshold between page and ink, and their contrast.

    The threshold is halfway between the page and the mean of what is above it, repeated (Ridler and
    Calvard, "Picture thresholding using an iterative selection method", 1978). It starts at half
    the strongest ink, and so finds ink that covers too little of the page for a peak in the
    histogram, and leaves out the fainter traces of shadows.
    """
    ink = float(np.partition(contrasts, -STRONGEST, axis=None)[-STRONGEST])
    threshold = 0.0
    for _ in range(5):
        threshold = max((base + ink) / 2, base + 4 * noise)
        above = contrasts[contrasts > threshold]
        if not above.size:
            return threshold, 0.0
        ink = float(above.mean())
    return threshold, ink - base


def _select_digit(contrasts: Grey, ink: NDArray[np.bool_]) -> tuple[Mask, int] | None:
    """Select the connected components that form the digit.

    A component belongs to the digit by its distance from the main one and its share of ink
    together. The border cuts off neighbours: what reaches the border is the digit only if it is
    far larger than the rest.

    Returns:
        The mask (H, W) of 0 and 1, and the number of components left out; None without a digit.
    """
    height, width = ink.shape
    labels: NDArray[np.int32]
    count, labels, stats, _ = cv2.connectedComponentsWithStats(ink.astype(np.uint8))  # type: ignore[assignment]
    if count < 2:
        return None
    left, top, across, down = stats[1:, :4].T
    amounts = np.bincount(labels[ink], contrasts[ink], count)[1:]
    slack = int(0.005 * max(ink.shape))
    free = (left > slack) & (top > slack)
    free &= (left + across < width - slack) & (top + down < height - slack)
    shares_of_picture = np.sort([across / width, down / height], axis=0)
    deep = (shares_of_picture[0] >= 2 * CUT_OFF) | (
        (shares_of_picture[0] >= CUT_OFF) & (shares_of_picture[1] >= 0.5)
    )
    weights = amounts * np.where(free, 4, np.where(deep, 1, 0))
    main = int(np.argmax(weights))
    side = int(max(across[main], down[main]))
    if side < MIN_SIDE or weights[main] <= 0:
        return None
    shares = amounts / amounts[main]
    distances = np.zeros(count)
    if np.sum(shares >= MIN_PART) > 1:
        away = cv2.distanceTransform((labels != main + 1).astype(np.uint8), cv2.DIST_L2, 5)
        distances += np.inf
        np.minimum.at(distances, labels[ink], away[ink])
    distances = np.maximum(distances[1:] - 1, 0) / side
    farthest = np.where(free | ~free[main], NEAR, NEAR_BORDER)
    enough = MIN_PART + MIN_PART_PER_DISTANCE * distances / NEAR
    kept = (distances <= farthest) & (shares >= enough)
    kept[main] = True
    rivals = (free | kept) & (shares >= MIN_PART) if free[main] else shares >= MIN_PART
    if amounts[kept].sum() < MIN_SHARE * amounts[kept | rivals].sum():
        return None
    digit = np.concatenate([[False], kept]).astype(np.uint8)[labels]
    return digit, int(count - 1 - kept.sum())


def _score(grey: Grey, page: Grey, mask: Mask, reach: int) -> float:
    """Return the contrast times the share of the mark's surroundings that are page and not ink.

    The gaps in a digit look like ink of the other polarity, but so do their surroundings. What
    lies outside of the picture counts as page.
    """
    inside = mask > 0
    ink, paper = float(grey[inside].mean()), float(page[inside].mean())
    left, top, width, height = cv2.boundingRect(mask)
    like_page = (grey - ink) / (paper - ink) > PAGE_FROM
    in_picture = float(like_page.mean())
    if in_picture < MIN_PAGE_IN_PICTURE:
        return 0.0
    like_page = np.pad(like_page, 3 * reach, constant_values=True)
    ring = like_page[top : top + height + 6 * reach, left : left + width + 6 * reach].astype(int)
    hole = ring[2 * reach : -2 * reach, 2 * reach : -2 * reach]
    share = (ring.sum() - hole.sum()) / (ring.size - hole.size)
    return (
        abs(ink - paper) / max(ink, paper, BLACK) * share * in_picture if share > MIN_PAGE else 0.0
    )


def _step(grey: Grey, page: Grey, mask: Mask, around: Mask, reach: int) -> float:
    """Return the share of the way from ink to page that the grey level gains at the mark's edge.

    A soft shadow gains less; so does a mark whose edge is only that of the estimated page.
    """
    beyond = (around > 0) & (mask == 0)
    if not beyond.any():
        return 1.0
    inner = cv2.erode(mask, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
    rim, ink = (mask > 0) & (inner == 0), mask > 0
    return float((grey[beyond].mean() - grey[rim].mean()) / (page[ink].mean() - grey[ink].mean()))


def _strength(contrasts: Grey, mask: Mask, around: Mask) -> Grey:
    """Return the grey levels of the strokes, 0 to 1, with the page and its noise below 0."""
    page = contrasts[around == 0]
    # If little page is left to judge by, it is taken for clean.
    middle, upper = percentiles(page, 50, 84) if page.size > contrasts.size / 4 else (0.0, 0.0)
    low, full = middle + 2 * (upper - middle), percentiles(contrasts[mask > 0], 75)[0]
    return np.clip((contrasts - low) / max(full - low, 1e-6), 0, 1).astype(np.float32) * around


def _stroke_width(strength: Grey) -> float:
    """Return the mean width of the strokes: a line of length L has area L·w and outline 2·L.

    The outline is the total variation, which needs no threshold.
    """
    padded = np.pad(strength, 1)
    variation = np.hypot(np.diff(padded, axis=0)[:, :-1], np.diff(padded, axis=1)[:-1])
    return 2 * float(strength.sum()) / max(float(variation.sum()), 1e-6)


def _extent(strength: Grey, mask: Mask) -> Box:
    """Return the box of the strokes with their faint edges, but without single faint pixels."""
    least = max(1, max(cv2.boundingRect(mask)[2:]) / (2 * FIT))  # half a pixel of the 20×20
    rows, columns = ((strength > FAINT).sum(axis=axis) >= least for axis in (1, 0))
    wide = mask | np.outer(rows, columns)
    left, top, width, height = cv2.boundingRect(wide.astype(np.uint8))
    return left, top, left + width, top + height


def _to_mnist(mark: _Mark, notes: list[str]) -> NDArray[np.uint8]:
    """Fit the digit to 20×20 and put its centre of mass at the centre: uint8 (28, 28)."""
    left, top, right, bottom = mark.box
    strength = mark.strength[top:bottom, left:right]
    scale = FIT / max(strength.shape)
    stroke = mark.stroke * scale
    notes.append(f"scaled by {scale:.2f}; strokes then {stroke:.1f} pixels wide")
    if stroke < HAIR:
        wide = np.pad(_resize(strength, FIT - 2), 1)
        blurred = cv2.GaussianBlur(wide, (3, 3), 0, borderType=cv2.BORDER_CONSTANT)
        digit = np.minimum(blurred * np.float32(STROKE / max(stroke, 0.05)), 1)
        notes.append(f"thickened to {STROKE:.1f} pixels")
    else:
        digit = _resize(strength, FIT)
    height, width = digit.shape
    field = np.zeros((SIZE, SIZE), np.float32)
    field[:height, :width] = digit
    moments = cv2.moments(field)
    x, y = (
        min(
            max(round(SIZE / 2 - moments[moment] / max(moments["m00"], 1e-6) + TIE), 0), SIZE - side
        )
        for moment, side in (("m10", width), ("m01", height))
    )
    field = np.roll(field, (y, x), axis=(0, 1))
    return np.rint(255 * field).astype(np.uint8)


def _resize(grey: Grey, side: int) -> Grey:
    """Scale the longer side to `side`: area mean when shrinking, bicubic when enlarging."""
    scale = side / max(grey.shape)
    height, width = (max(1, round(length * scale)) for length in grey.shape)
    if scale < 1:
        return cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)
    # Pillow's: OpenCV's cubic (a = -0.75) overshoots more than Catmull and Rom's (a = -0.5).
    enlarged = Image.fromarray(grey).resize((width, height), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(enlarged), 0, 1)
