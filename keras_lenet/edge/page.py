"""Estimate the page behind the ink, and remove ruled lines, tables and boxes of forms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

BLACK = 0.2  # darker pages are not brightened any further
SAMPLES = 8_000  # pixels that percentiles are taken from
WINDOW = 0.5  # of the picture's longer side, wider than any stroke
BLUR = 0.03  # of the longer side: width of the edge of a stroke
BAR = 0.25  # of the shorter side: depth of a bar along the border

# Lines.
MAX_SLOPE = 0.09  # 5 degrees
MAX_THICKNESS = 0.06  # of the picture's side across the line
MAX_LINES = 60  # in one direction
MIN_RUN = 0.08  # of the picture's side along the line; shorter pieces do not vote
MIN_LENGTH = 0.42  # of the picture's side along the line
MIN_DENSITY = 0.4  # share of its columns where the line shows, and no stroke crosses it
NEAR_BORDER = 0.025  # of the side: a line that ends closer than this reaches the border
MIN_ASPECT = 12  # length over thickness


Grey = NDArray[Any]


@dataclass(frozen=True)
class _Line:
    """A line along the rows."""

    curve: NDArray[np.float64]  # slope and intercept: the row at each column
    start: float  # first column
    end: float  # last column
    thickness: float


def estimate_page(grey: Grey, light: bool) -> Grey:
    """Return the page without its strokes, (H, W), by a morphological closing (light ink: opening).

    The square is wider than any stroke, and leaves gradients and straight shadow edges as they are.
    The page is extended by its own colour first, so that ink at the border is ink.
    """
    relief = np.rint(255 * (1 - grey if light else grey)).astype(np.uint8)
    thin = round(MAX_THICKNESS * min(grey.shape)) | 1
    relief = cv2.morphologyEx(relief, cv2.MORPH_OPEN, np.ones((thin, thin), np.uint8))
    window = 2 * int(max(grey.shape) * WINDOW / 2) + 1
    for _ in range(2):
        first, last = (_edge(part, window) for part in (relief, relief[::-1]))
        margins = [np.repeat(edge, window - 1, axis=0) for edge in (first, last)]
        relief = np.ascontiguousarray(np.concatenate([margins[0], relief, margins[1]]).T)
    page = _slide(_slide(relief, window, np.maximum), window, np.minimum)
    page = page.astype(np.float32) / np.float32(255)
    return 1 - page if light else page


def _slide(values: Grey, width: int, pick: np.ufunc) -> Grey:
    """Dilate (np.maximum) or erode (np.minimum) by a square, with windows that double in width.

    OpenCV's time grows with the width of the square; this one's with its logarithm.
    """
    for _ in range(2):
        done = 1
        while done < width:
            step = min(done, width - done)
            values = pick(values[:-step], values[step:])
            done += step
        values = np.ascontiguousarray(values.T)
    return values


def _edge(relief: Grey, window: int) -> Grey:
    """Return the page's colour along the first row, (1, W), without strokes that reach the row.

    A bar that lies along the border hides the page there: take the page behind the bar.
    """
    across = np.ones((1, window), np.uint8)
    thin = np.ones((2 * round(MAX_THICKNESS * min(relief.shape)) + 1, 1), np.uint8)
    depth = max(3, round(BAR * min(relief.shape))) + len(thin) // 2
    bands = cv2.morphologyEx(relief[:depth], cv2.MORPH_OPEN, thin)
    at_border, behind = (
        cv2.morphologyEx(row, cv2.MORPH_CLOSE, across, borderType=cv2.BORDER_REPLICATE)
        for row in (relief[:1], bands.max(axis=0, keepdims=True))
    )
    near = max(1, round(BLUR * len(relief)))
    depth = min(depth, len(relief) - near)
    jump = cv2.subtract(relief[near : depth + near], relief[:depth]).max(axis=0)
    hidden = cv2.subtract(behind, at_border) > 0.3 * np.ptp(relief)
    hidden &= jump > 0.5 * cv2.subtract(behind, at_border)
    return np.where(hidden, behind, at_border)


def contrasts_with_page(grey: Grey, page: Grey, light: bool) -> Grey:
    """Return each pixel's contrast with the page, (H, W).

    Dark ink takes a share of whatever light falls on the page, hence the division.
    """
    return grey - page if light else (page - grey) / np.maximum(page, np.float32(BLACK))


def unevenness(page: Grey, light: bool) -> float:
    """Return the contrast that the page's own dark parts would have as ink."""
    dark, bright = percentiles(page, 5, 95)
    return bright - dark if light else (bright - dark) / max(bright, BLACK)


def page_level(contrasts: Grey) -> tuple[float, float]:
    """Return the page's level and its noise, in standard deviations of a normal distribution.

    The noise comes from the low quantiles, which ink does not reach, or from the differences
    between neighbours, whichever is more: noise around black is cut off below.
    """
    low, high = percentiles(contrasts, 5, 20)
    spread = (high - low) / 0.80
    return high + 0.84 * spread, max(spread, grain(contrasts), 1 / 512)


def grain(grey: Grey) -> float:
    """Return the noise in differences of neighbours, which ink and lighting hardly change."""
    rows = grey[:: max(1, grey.size // SAMPLES)]
    return 1.56 * percentiles(np.abs(np.diff(rows, axis=1)), 35)[0]


def percentiles(values: Grey, *ranks: float) -> list[float]:
    """Return percentiles of evenly spaced values, about `SAMPLES` of them."""
    step = max(1, values.size // SAMPLES)
    return np.percentile(values.ravel()[::step].astype(np.float64), ranks).tolist()


def remove_lines(images: list[Grey], mask: NDArray[np.bool_]) -> tuple[list[Grey], int]:
    """Remove lines from images of contrast by grey openings across them.

    Args:
        images: (H, W) each; the same lines are removed from all.
        mask: (H, W), True for ink and lines.

    Returns:
        The images, and the number of lines.
    """
    ink = mask.astype(np.uint8)
    height, width = ink.shape
    rows, columns = _find_lines(ink), _find_lines(np.ascontiguousarray(ink.T))
    ruled = [line for line in rows if _is_ruled(line, width, columns)]
    ruled_columns = [line for line in columns if _is_ruled(line, height, rows)]
    if not ruled and not ruled_columns:
        return images, 0
    band, thick = _band(ruled, (height, width))
    band_of_columns, thick_columns = _band(ruled_columns, (width, height))
    gone = band | band_of_columns.T
    erased = []
    for image in images:
        opened = cv2.morphologyEx(image, cv2.MORPH_OPEN, np.ones((thick, 1), np.uint8))
        clean = np.where(band, opened, image)
        opened = cv2.morphologyEx(clean, cv2.MORPH_OPEN, np.ones((1, thick_columns), np.uint8))
        clean = np.where(band_of_columns.T, opened, clean)
        # A closing bridges the strokes that a line crosses.
        gap = max(thick, thick_columns) + 2
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (gap, gap))
        bridged = np.minimum(cv2.morphologyEx(clean, cv2.MORPH_CLOSE, disc), image)
        erased.append(np.where(gone, np.maximum(clean, bridged), clean))
    return erased, len(ruled) + len(ruled_columns)


def _find_lines(ink: NDArray[np.uint8]) -> list[_Line]:
    """Return candidates along the rows, by a Hough transform of slopes and intercepts.

    Each column votes with the middles of its short runs of ink. The line with the most votes is
    fitted by least squares, and its runs leave the vote, until no line is long enough.
    """
    width = ink.shape[1]
    long = _thin_and_long(ink)
    least = MIN_LENGTH * width
    if np.count_nonzero(long.any(axis=0)) < least:
        return []
    edges = np.diff(np.pad(long.T, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    x, start = np.nonzero(edges == 1)
    end = np.nonzero(edges == -1)[1]
    y, thickness = (start + end - 1) / 2, end - start
    bin_side = max(1.0, width / 200)
    slopes = np.arange(-MAX_SLOPE, MAX_SLOPE + 1e-9, 2 * bin_side / width)
    lowest = -MAX_SLOPE * width
    bins = ((y - slopes[:, np.newaxis] * x - lowest) / bin_side).astype(int)
    size = int(bins.max()) + 2
    votes = np.stack([np.bincount(row, minlength=size) for row in bins])
    left = np.ones(len(x), bool)
    lines: list[_Line] = []
    for _ in range(MAX_LINES):
        pairs = votes[:, :-1] + votes[:, 1:]
        slope, place = np.unravel_index(np.argmax(pairs), pairs.shape)
        if pairs[slope, place] < 0.7 * least:
            break
        near = left & (bins[slope] >= place) & (bins[slope] <= place + 1)
        curve = np.polyfit(x[near], y[near], 1)
        tolerance = 1 + 0.5 * np.median(thickness[near])
        near |= left & (np.abs(y - np.polyval(curve, x)) <= tolerance)
        curve = np.polyfit(x[near], y[near], 1)
        for row, own in zip(votes, bins, strict=True):
            row -= np.bincount(own[near], minlength=size)
        left &= ~near
        columns = np.unique(x[near])
        line = _Line(curve, columns[0], columns[-1], float(np.median(thickness[near])))
        length = line.end - line.start + 1
        enough = max(least, MIN_DENSITY * length)
        if len(columns) >= enough and length >= MIN_ASPECT * line.thickness:
            lines.append(line)
    return lines


def _thin_and_long(ink: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the ink that is thin down the columns, a top-hat, and long along the rows."""
    height, width = ink.shape
    tall = np.ones(((max(2, round(MAX_THICKNESS * height)) + 1) | 1, 1), np.uint8)
    # The ink ends at the border, so that a line along the border is thin.
    thin: Grey = ink - cv2.morphologyEx(
        ink, cv2.MORPH_OPEN, tall, borderType=cv2.BORDER_CONSTANT, borderValue=0
    )
    along = np.ones((1, max(7, round(MIN_RUN * width)) | 1), np.uint8)
    thick = cv2.dilate(thin, np.ones((3, 1), np.uint8))  # a slanted line has longer runs then
    return np.bitwise_and(thin, cv2.morphologyEx(thick, cv2.MORPH_OPEN, along))


def _is_ruled(line: _Line, side: int, others: list[_Line]) -> bool:
    """Return whether a line reaches the border, or is the side of a frame."""
    border = max(1.0, NEAR_BORDER * side)
    if line.start <= border or line.end >= side - 1 - border:
        return True
    reach = 3 * border + 2 * line.thickness
    met = [
        any(
            abs(np.polyval(other.curve, y) - x) <= reach
            and other.start - reach <= y <= other.end + reach
            for other in others
        )
        for x in (line.start, line.end)
        for y in [np.polyval(line.curve, x)]
    ]
    length = line.end - line.start
    return all(met) or (any(met) and length >= max(0.6 * side, 2 * MIN_ASPECT * line.thickness))


def _band(lines: list[_Line], shape: tuple[int, int]) -> tuple[NDArray[np.bool_], int]:
    """Return the mask of lines along the rows, (H, W), and the height of an opening across."""
    band = np.zeros(shape, bool)
    row, column = np.ogrid[: shape[0], : shape[1]]
    thickest = 0.0
    margin = 2 * NEAR_BORDER * shape[1]
    for line in lines:
        reach = 1.5 + 0.75 * line.thickness
        inside = (column >= line.start - margin) & (column <= line.end + margin)
        band |= (np.abs(row - np.polyval(line.curve, column)) <= reach) & inside
        thickest = max(thickest, line.thickness)
    return band, (round(thickest) + 2) | 1
