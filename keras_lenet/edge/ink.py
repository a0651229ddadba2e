"""Find the ink of a page's one digit, and its strength.

    reduce ─► even the lighting, once for either polarity ─► threshold ─► connected components
    ─► polarity

Every step is plain array arithmetic with no random part, so that `page/prepare.js` does the same in
a browser.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FIT = 20
"""Longer side of the digit in MNIST style, in pixels: a mark is judged at this resolution."""

Grey = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]
Runs = NDArray[np.int64]
Box = tuple[int, int, int, int]

# Search for ink. These limits and all that follow were chosen on training images of MNIST.
_WORK = 400  # longer side in pixels; larger images are reduced
_ENOUGH = 48  # a digit with a longer side than this needs no second, closer look
_WINDOW = 0.5  # of the longer side; wider than any stroke
_NOISY = 0.012  # noise from which the image is smoothed first
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
_BLACK = 0.2  # darker pages are not brightened any further
_STRONGEST = 12  # pixels; as many at least are as strong as ink gets
_PLAIN = 0.4  # luma contrast from which colour is not needed
_COLOURED = 0.2  # contrast that ink must have in a colour channel if it has little in luma

# Limits between a digit and noise, dust or a shadow.
_MIN_CONTRAST = 0.08  # of the full range; a faint pencil has more
_MIN_SNR = 5.0  # contrast over noise
_MIN_LEAD = 0.35  # contrast over the unevenness of the page, which evening leaves traces of
_MIN_SHARE = 0.5  # of all the ink on the page
_MIN_STEP = 0.4  # share of its contrast that a mark gains at its edge; a soft shadow gains less
_PAGE_FROM = 0.3  # of the way from ink to page; less than half, for page in the shadow
_MIN_PAGE = 0.25  # share of its surroundings that is page
_MIN_SIDE = 5  # pixels; a mark smaller both ways is dust
_FAINT = 0.1201  # ink fainter than this does not widen the box; no grey level lies right at it
_PART = 0.04  # share of the largest part's ink that a part of the digit has at least
_NEAR = 0.3  # distance of a part from the largest, as a share of the largest part's longer side


@dataclass(frozen=True)
class Ink:
    """A mark on the page that may be the digit."""

    strength: Grey  # (H, W), 0 = background, 1 = a full stroke; 0 away from the mark
    box: Box
    light: bool
    stroke: float  # mean width in pixels
    merit: float  # how likely it is ink, and not a gap between strokes
    contrast: float
    noise: float
    dropped: int  # components left out


def find_ink(pixels: NDArray[Any], white: float, notes: list[str]) -> tuple[Ink, Box] | None:
    """Find the digit: first on the reduced page, then, if it is small there, from close by.

    Args:
        pixels: (H, W) or (H, W, 3).
        white: their value of white.
        notes: takes a description of the digit, or the reason why there is none.

    Returns:
        The digit and its box in `pixels`; None if there is none.
    """
    ink, factor, note = _find_reduced(pixels, white)
    if ink is None:
        notes.append(note)
        return None
    left, top, right, bottom = box = _scaled(ink.box, factor)
    if factor > 1 and _side(ink.box) < _ENOUGH:
        margin = _side(box)
        x, y = max(0, left - margin), max(0, top - margin)
        crop = pixels[y : bottom + margin, x : right + margin]
        near, closer, closer_note = _find_reduced(crop, white)
        if near is not None and near.light == ink.light:
            notes += [closer_note, "small on its page: looked at again from close by"]
            return near, _scaled(near.box, closer, x, y)
    notes.append(note)
    return ink, box


def _scaled(box: Box, factor: int, x: int = 0, y: int = 0) -> Box:
    left, top, right, bottom = box
    return left * factor + x, top * factor + y, right * factor + x, bottom * factor + y


def _side(box: Box) -> int:
    return max(box[2] - box[0], box[3] - box[1])


def _find_reduced(pixels: NDArray[Any], white: float) -> tuple[Ink | None, int, str]:
    """Return the digit on the reduced page, the factor of reduction, and a note."""
    factor = math.ceil(max(pixels.shape[:2]) / _WORK)
    small = _reduce(pixels, factor) / np.float32(white)
    height, width = small.shape[:2]
    if min(height, width) < _MIN_SIDE:
        return None, factor, f"no digit: {width}×{height} pixels are too few"
    marks = _marks(small if small.ndim == 2 else small @ _LUMA)
    if small.ndim == 3 and max((mark.contrast for mark in marks), default=0) < _PLAIN:
        coloured = [mark for i in range(3) for mark in _marks(small[..., i])]
        marks += [mark for mark in coloured if mark.contrast > _COLOURED]
    if not marks:
        note = "no digit: nothing stands out from the page as ink with sharp edges"
        return None, factor, note
    ink = max(marks, key=lambda mark: mark.merit)
    name = "light ink on a dark page" if ink.light else "dark ink on a light page"
    specks = f", {ink.dropped} other marks left out" if ink.dropped else ""
    note = f"{name}: contrast {ink.contrast:.2f}, noise {ink.noise:.3f}{specks}"
    return ink, factor, note


def _reduce(pixels: NDArray[Any], factor: int) -> Grey:
    """Return the mean of each factor × factor block; cut off the rest at the right and bottom."""
    height, width = pixels.shape[:2]
    down, across = min(factor, height), min(factor, width)  # a strip may be thinner than a block
    pixels = pixels[: height - height % down, : width - width % across]
    rows = functools.reduce(np.add, (pixels[i::down].astype(np.float32) for i in range(down)))
    blocks = functools.reduce(np.add, (rows[:, i::across] for i in range(across)))
    return np.asarray(blocks / np.float32(down * across))


def _smooth(grey: Grey) -> Grey:
    """Return the mean over 3×3, edges repeated."""
    grey = np.pad(grey, 1, mode="edge")
    for _ in range(2):
        grey = ((grey[:-2] + grey[1:-1] + grey[2:]) / 3).T
    return grey


def _marks(grey: Grey) -> list[Ink]:
    """Return the candidates for the digit, at most one in each polarity."""
    smooth = _smooth(grey) if _grain(grey) > _NOISY else grey
    found = (_find_polarity(grey, smooth, light) for light in (False, True))
    return [mark for mark in found if mark is not None]


def _find_polarity(grey: Grey, smooth: Grey, light: bool) -> Ink | None:
    """Find dark ink on a lighter page, or light ink on a darker one.

    Args:
        grey: (H, W), 0 = black, 1 = white.
        smooth: the same with less noise, to find the digit by; its strokes come from `grey`.
        light: look for light ink.
    """
    page = _page(smooth, light)
    rise = _rise(smooth, page, light)
    base, noise = _page_level(rise)
    threshold, contrast = _split(rise, base, noise)
    if contrast < max(_MIN_CONTRAST, _MIN_SNR * noise, _MIN_LEAD * _unevenness(page, light)):
        return None
    mask, share, dropped = _select_digit(rise - base, rise > threshold)
    side = _side(_box(mask))
    reach = max(2, side // FIT)
    around = _grow(mask, reach)
    if side < _MIN_SIDE or share < _MIN_SHARE:
        return None
    merit = _merit(smooth, page, mask, reach)
    if not merit or _step(rise, mask, around, reach) < _MIN_STEP * contrast:
        return None
    strength = _strength(_rise(grey, page, light), mask, around)
    stroke = _stroke_width(_strength(rise, mask, around))  # which noise would make look thin
    box = _extent(strength, mask)
    return Ink(strength, box, light, stroke, merit, contrast, noise, dropped)


def _page(grey: Grey, light: bool) -> Grey:
    """Return the page without its strokes, (H, W).

    This is the morphological closing (for light ink, opening) by a square wider than any stroke:
    it fills the strokes, and leaves gradients and straight shadow edges as they are
    (Serra, Image Analysis and Mathematical Morphology, 1982: top-hat transform).
    """
    width = 2 * int(max(grey.shape) * _WINDOW / 2) + 1
    page = np.pad(grey, width - 1, mode="edge")
    for pick in (np.minimum, np.maximum) if light else (np.maximum, np.minimum):
        page = _slide(page, width, pick)
    return page


def _slide(values: NDArray[Any], width: int, pick: np.ufunc) -> NDArray[Any]:
    """Return the extreme value of each width × width window, by windows that double."""
    for _ in range(2):
        done = 1
        while done < width:
            step = min(done, width - done)
            values = pick(values[:-step], values[step:])
            done += step
        values = values.T
    return values


def _grow(mask: Mask, reach: int) -> Mask:
    return _slide(np.pad(mask, reach), 2 * reach + 1, np.maximum)


def _rise(grey: Grey, page: Grey, light: bool) -> Grey:
    """Return each pixel's contrast with the page, (H, W).

    Dark ink takes a share of whatever light falls on the page, hence the division.
    """
    return grey - page if light else (page - grey) / np.maximum(page, np.float32(_BLACK))


def _unevenness(page: Grey, light: bool) -> float:
    """Return the contrast that the page's own dark parts would have as ink."""
    dark, bright = _percentiles(page, 5, 95)
    return bright - dark if light else (bright - dark) / max(bright, _BLACK)


def _page_level(rise: Grey) -> tuple[float, float]:
    """Return the page's level and its noise, in standard deviations of a normal distribution.

    The noise comes from the low quantiles, which ink does not reach, or from the differences
    between neighbours, whichever is more: noise around black is cut off below.
    """
    low, high = _percentiles(rise, 5, 20)
    spread = (high - low) / 0.80
    return high + 0.84 * spread, max(spread, _grain(rise), 1 / 512)


def _grain(grey: Grey) -> float:
    """Return the noise in differences of neighbours, which ink and lighting hardly change."""
    return 1.56 * _percentiles(np.abs(np.diff(grey, axis=1)), 35)[0]


def _percentiles(values: Grey, *ranks: float) -> list[float]:
    return np.percentile(values.astype(np.float64), ranks).tolist()


def _split(rise: Grey, base: float, noise: float) -> tuple[float, float]:
    """Return the threshold between page and ink, and their contrast.

    The threshold is halfway between the page and the mean of what is above it, repeated (Ridler and
    Calvard, "Picture thresholding using an iterative selection method", 1978). It starts at half
    the strongest ink, and so finds ink that covers too little of the page for a peak in the
    histogram, and leaves out the fainter traces of shadows.
    """
    ink = float(np.partition(rise, -_STRONGEST, axis=None)[-_STRONGEST])
    for _ in range(5):
        threshold = max((base + ink) / 2, base + 4 * noise)
        above = rise[rise > threshold]
        if not above.size:
            return threshold, 0.0
        ink = float(above.mean())
    return threshold, ink - base


def _select_digit(rise: Grey, mask: Mask) -> tuple[Mask, float, int]:
    """Select the connected components that form the digit.

    Args:
        rise: (H, W), each pixel's contrast with the page.
        mask: (H, W), True for ink.

    Returns:
        Their mask (H, W), their share of all the ink, and the number of components left out.
    """
    runs, component = _components(mask)
    row, start, end = runs
    totals = np.concatenate([[0.0], np.cumsum(rise, dtype=np.float64)])
    first = row * mask.shape[1]
    ink = np.bincount(component, totals[first + end] - totals[first + start])
    kept = _belong_together(ink, runs, component, mask.shape)
    digit = np.zeros_like(mask)
    digit[mask] = np.repeat(kept[component], end - start)
    return digit, float(ink[kept].sum() / ink.sum()), int(len(kept) - kept.sum())


def _components(mask: Mask) -> tuple[Runs, Runs]:
    """Return the runs of set pixels, and the 8-connected component of each.

    Each run joins those of the row above that it touches, by union-find.

    Returns:
        Rows, starts and ends of the runs, (3, R), and the numbers of their components, (R,).
    """
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    row, start = np.nonzero(edges == 1)
    end = np.nonzero(edges == -1)[1]
    parent = list(range(len(row)))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = parent[parent[run]]
            run = parent[run]
        return run

    rows, starts, ends = row.tolist(), start.tolist(), end.tolist()
    above = 0
    for run, line in enumerate(rows):
        while rows[above] < line - 1 or (rows[above] < line and ends[above] < starts[run]):
            above += 1
        other = above
        while rows[other] == line - 1 and starts[other] <= ends[run]:
            parent[root(run)] = root(other)
            other += 1
    _, component = np.unique([root(run) for run in range(len(rows))], return_inverse=True)
    return np.stack([row, start, end]), component


def _belong_together(
    ink: NDArray[Any], runs: Runs, component: Runs, shape: tuple[int, ...]
) -> Mask:
    """Return which components, (C,), are the digit: the main one, and large ones near it."""
    row, start, end = runs
    left, top = np.full((2, len(ink)), max(shape))
    right, bottom = np.zeros((2, len(ink)), np.int64)
    np.minimum.at(left, component, start)
    np.minimum.at(top, component, row)
    np.maximum.at(right, component, end)
    np.maximum.at(bottom, component, row + 1)
    free = (left > 0) & (top > 0) & (right < shape[1]) & (bottom < shape[0])
    # A mark at the border is rather a shadow, a finger or a line, unless it is far larger.
    main = int(np.argmax(ink * np.where(free, 4, 1)))
    reach = _NEAR * max(right[main] - left[main], bottom[main] - top[main])
    gaps = [left[main] - right, left - right[main], top[main] - bottom, top - bottom[main]]
    near = np.maximum.reduce(gaps) <= reach
    return np.asarray(near & (ink >= _PART * ink[main]) & (free | ~free[main]))


def _box(mask: Mask) -> Box:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _merit(grey: Grey, page: Grey, mask: Mask, reach: int) -> float:
    """Return the contrast times the share of the mark's surroundings that are page and not ink.

    The gaps in a digit look like ink of the other polarity, but so do their surroundings.
    """
    ink, paper = float(grey[mask].mean()), float(page[mask].mean())
    left, top, right, bottom = _box(mask)
    ring = np.zeros_like(mask)
    for margin, inside in ((3 * reach, True), (reach, False)):
        rows = slice(max(0, top - margin), bottom + margin)
        ring[rows, max(0, left - margin) : right + margin] = inside
    if not ring.any():  # the digit fills the image
        ring[[0, -1]] = True
        ring[:, [0, -1]] = True
    share = float(((grey[ring] - ink) / (paper - ink) > _PAGE_FROM).mean())
    return abs(ink - paper) / max(ink, paper, _BLACK) * share if share > _MIN_PAGE else 0.0


def _step(rise: Grey, mask: Mask, around: Mask, reach: int) -> float:
    """Return the contrast that the ink gains within `reach` pixels of its edge."""
    rim = mask & _grow(~mask, reach)
    return float(rise[rim].mean() - rise[around & ~mask].mean())


def _strength(rise: Grey, mask: Mask, around: Mask) -> Grey:
    """Return the grey levels of the strokes, 0 to 1, with the page and its noise below 0."""
    page = rise[~around]
    # If little page is left to judge by, it is taken for clean.
    middle, upper = _percentiles(page, 50, 84) if page.size > rise.size / 4 else (0.0, 0.0)
    low, full = middle + 2 * (upper - middle), _percentiles(rise[mask], 75)[0]
    strength = np.clip((rise - low) / max(full - low, 1e-6), 0, 1) * around
    return strength.astype(np.float32)


def _stroke_width(strength: Grey) -> float:
    """Return the mean width of the strokes: a line of length L has area L·w and outline 2·L.

    The outline is the total variation, which needs no threshold.
    """
    padded = np.pad(strength, 1)
    variation = np.hypot(np.diff(padded, axis=0)[:, :-1], np.diff(padded, axis=1)[:-1])
    return 2 * float(strength.sum()) / max(float(variation.sum()), 1e-6)


def _extent(strength: Grey, mask: Mask) -> Box:
    """Return the box of the strokes with their faint edges, but without single faint pixels."""
    least = max(1, _side(_box(mask)) / (2 * FIT))  # half a pixel of the 20×20
    rows, columns = ((strength > _FAINT).sum(axis=axis) >= least for axis in (1, 0))
    return _box(mask | np.outer(rows, columns))
