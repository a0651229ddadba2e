"""Which pixels of a page are the ink of its one digit, and how strong it is.

    reduce ─► even the lighting, once for either polarity ─► threshold ─► connected components
    ─► polarity

Every step is plain array arithmetic with no random part, so that `page/prepare.js` does the same in
a browser.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_lenet.edge.components import Grey, Mask, select_digit

FIT = 20
"""Longer side of the digit in MNIST style, in pixels: a mark is judged at this resolution."""

Box = tuple[int, int, int, int]

# Where the ink is looked for. Chosen, as all that follow, on training images of MNIST.
_WORK = 400  # longer side in pixels; larger images are reduced
_ENOUGH = 48  # a digit with a longer side than this needs no second, closer look
_WINDOW = 0.5  # of the longer side; wider than any stroke
_NOISY = 0.012  # noise from which the image is smoothed first
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
_BLACK = 0.2  # darker pages are not brightened any further
_STRONGEST = 12  # pixels; as many at least are as strong as ink gets
_PLAIN = 0.4  # luma contrast from which colour is not needed
_COLOURED = 0.2  # contrast that ink must have in a colour channel if it has little in luma

# What counts as a digit, and not as noise, dust or a shadow.
_MIN_CONTRAST = 0.08  # of the full range; a faint pencil has more
_MIN_SNR = 5.0  # contrast over noise
_MIN_LEAD = 0.35  # contrast over the unevenness of the page, which evening leaves traces of
_MIN_SHARE = 0.5  # of all the ink on the page
_MIN_STEP = 0.4  # share of its contrast that a mark gains at its edge; a soft shadow gains less
_PAGE_FROM = 0.3  # of the way from ink to page; less than half, for page in the shadow
_MIN_PAGE = 0.25  # share of its surroundings that is page
_MIN_SIDE = 5  # pixels; a mark smaller both ways is dust
_FAINT = 0.1201  # ink fainter than this does not widen the box; no grey level lies right at it


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


def find_ink(pixels: NDArray[Any], white: float, notes: list[str]) -> tuple[Ink | None, Box]:
    """Find the digit: first on the reduced page, then, if it is small there, from close by.

    Args:
        pixels: (H, W) or (H, W, 3).
        white: their value of white.
        notes: what was found, or why nothing was, is added here.

    Returns:
        The digit, None where there is none, and its box in `pixels`.
    """
    factor = max(1, -(-max(pixels.shape[:2]) // _WORK))
    ink = _find_reduced(pixels, factor, white, notes)
    if ink is None:
        return None, (0, 0, 0, 0)
    box = _scaled(ink.box, factor)
    if factor > 1 and _side(ink.box) < _ENOUGH:
        left, top, right, bottom = _with_margin(box, pixels.shape)
        crop = pixels[top:bottom, left:right]
        closer = max(1, -(-max(crop.shape[:2]) // _WORK))
        again: list[str] = []
        near = _find_reduced(crop, closer, white, again)
        if near is not None and near.light == ink.light:
            notes[:] = [*notes[:-1], *again, "small on its page: looked at again from close by"]
            x, y, u, v = _scaled(near.box, closer)
            return near, (x + left, y + top, u + left, v + top)
    return ink, box


def _scaled(box: Box, factor: int) -> Box:
    left, top, right, bottom = box
    return left * factor, top * factor, right * factor, bottom * factor


def _side(box: Box) -> int:
    return max(box[2] - box[0], box[3] - box[1])


def _with_margin(box: Box, shape: tuple[int, ...]) -> Box:
    margin = _side(box)
    left, top, right, bottom = box
    bottom, right = min(shape[0], bottom + margin), min(shape[1], right + margin)
    return max(0, left - margin), max(0, top - margin), right, bottom


def _smooth(grey: Grey) -> Grey:
    """Mean over 3×3, edges repeated."""
    grey = np.pad(grey, 1, mode="edge")
    for _ in range(2):
        grey = ((grey[:-2] + grey[1:-1] + grey[2:]) / 3).T
    return grey


def _reduce(pixels: NDArray[Any], factor: int) -> Grey:
    """Mean over blocks of factor × factor pixels; what is left over at the right is cut off."""
    if factor == 1:
        return pixels.astype(np.float32)
    height, width = pixels.shape[:2]
    down, across = min(factor, height), min(factor, width)  # of a strip thinner than a block
    pixels = pixels[: height - height % down, : width - width % across]
    rows = np.zeros((height // down, *pixels.shape[1:]), np.float32)
    for i in range(down):
        rows += pixels[i::down]
    blocks = rows[:, ::across].copy()
    for i in range(1, across):
        blocks += rows[:, i::across]
    return blocks / np.float32(down * across)


def _find_reduced(pixels: NDArray[Any], factor: int, white: float, notes: list[str]) -> Ink | None:
    """The mark that is the digit; a note says what it is like, or why there is none."""
    small = _reduce(pixels, factor) / np.float32(white)
    height, width = small.shape[:2]
    if min(height, width) < _MIN_SIDE:
        notes.append(f"no digit: {width}×{height} pixels are too few")
        return None
    marks = _marks(small if small.ndim == 2 else small @ _LUMA)
    if small.ndim == 3 and max((mark.contrast for mark in marks), default=0) < _PLAIN:
        coloured = [mark for i in range(3) for mark in _marks(small[..., i])]
        marks += [mark for mark in coloured if mark.contrast > _COLOURED]
    if not marks:
        notes.append("no digit: nothing stands out from the page as ink with sharp edges")
        return None
    ink = max(marks, key=lambda mark: mark.merit)
    name = "light ink on a dark page" if ink.light else "dark ink on a light page"
    specks = f", {ink.dropped} other marks left out" if ink.dropped else ""
    notes.append(f"{name}: contrast {ink.contrast:.2f}, noise {ink.noise:.3f}{specks}")
    return ink


def _marks(grey: Grey) -> list[Ink]:
    """What may be the digit, at most one mark in each polarity."""
    smooth = _smooth(grey) if _grain(grey) > _NOISY else grey
    found = (_find_polarity(grey, smooth, light) for light in (False, True))
    return [mark for mark in found if mark is not None]


def _find_polarity(grey: Grey, smooth: Grey, light: bool) -> Ink | None:
    """Dark ink on a lighter page, or light ink on a darker one.

    Args:
        grey: (H, W), 0 = black, 1 = white.
        smooth: the same with less noise, to find the digit by; its strokes come from `grey`.
        light: look for light ink.
    """
    page = _page(smooth, light)
    rise = _rise(smooth, page, light)
    base, noise = _page_level(rise)
    threshold, contrast = _split(rise, base, noise)
    floor = max(_MIN_CONTRAST, _MIN_SNR * noise, _MIN_LEAD * _unevenness(page, light))
    if contrast < floor:
        return None
    mask, share, dropped = select_digit(rise - base, rise > threshold)
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


def _rise(grey: Grey, page: Grey, light: bool) -> Grey:
    """How far each pixel stands out from the page.

    Dark ink takes a share of whatever light falls on the page, hence the division.
    """
    return grey - page if light else (page - grey) / np.maximum(page, np.float32(_BLACK))


def _unevenness(page: Grey, light: bool) -> float:
    """What the page's own dark parts would stand out by if they were ink."""
    dark, bright = _percentiles(page, 5, 95)
    return bright - dark if light else (bright - dark) / max(bright, _BLACK)


def _strength(rise: Grey, mask: Mask, around: Mask) -> Grey:
    """Grey levels of the strokes, 0 to 1, with the page and its noise below 0."""
    page = rise[~around]
    # Where little page is left to judge by, it is taken for clean.
    middle, upper = _percentiles(page, 50, 84) if page.size > rise.size / 4 else (0.0, 0.0)
    low, full = middle + 2 * (upper - middle), _percentiles(rise[mask], 75)[0]
    strength = np.clip((rise - low) / max(full - low, 1e-6), 0, 1) * around
    return strength.astype(np.float32)


def _stroke_width(strength: Grey) -> float:
    """Mean width of the strokes in pixels: a line of length L has area L·w and outline 2·L.

    The outline is the total variation, which needs no threshold.
    """
    padded = np.pad(strength, 1)
    variation = np.hypot(np.diff(padded, axis=0)[:, :-1], np.diff(padded, axis=1)[:-1])
    return 2 * float(strength.sum()) / max(float(variation.sum()), 1e-6)


def _page(grey: Grey, light: bool) -> Grey:
    """What the page would look like without its strokes.

    This is the morphological closing (for light ink, opening) by a square wider than any stroke:
    it fills the strokes, and leaves gradients and straight shadow edges as they are
    (Serra, Image Analysis and Mathematical Morphology, 1982: top-hat transform).
    """
    width = 2 * int(max(grey.shape) * _WINDOW / 2) + 1
    return -_closing(-grey, width) if light else _closing(grey, width)


def _closing(grey: Grey, width: int) -> Grey:
    """Largest, then smallest value in a window of width × width, edges repeated."""
    grey = np.pad(grey, width - 1, mode="edge")
    for pick in (np.maximum, np.minimum):
        for _ in range(2):
            grey = _slide(grey, width, pick).T
    return grey


def _slide(values: NDArray[Any], width: int, pick: np.ufunc) -> NDArray[Any]:
    """`pick` over each `width` successive rows, in log2(width) passes over doubling windows."""
    done = 1
    while 2 * done <= width:
        values = pick(values[:-done], values[done:])
        done *= 2
    rest = width - done
    return pick(values[:-rest], values[rest:]) if rest else values


def _grow(mask: Mask, reach: int) -> Mask:
    mask = np.pad(mask, reach)
    return _slide(_slide(mask, 2 * reach + 1, np.maximum).T, 2 * reach + 1, np.maximum).T


def _page_level(rise: Grey) -> tuple[float, float]:
    """Level of the page and its noise, in standard deviations of a normal distribution.

    From the low quantiles, which ink does not reach, or from the differences between neighbours,
    whichever is more: noise around black is cut off below.
    """
    low, high = _percentiles(rise, 5, 20)
    spread = (high - low) / 0.80
    return high + 0.84 * spread, max(spread, _grain(rise), 1 / 512)


def _grain(grey: Grey) -> float:
    """Noise from the differences between neighbours, which ink and lighting hardly change."""
    return 1.56 * _percentiles(np.abs(np.diff(grey, axis=1)), 35)[0]


def _percentiles(values: Grey, *ranks: float) -> list[float]:
    """Of all `values`; between two of them, linearly.

    np.percentile imports numpy.ma, which takes longer than to prepare a small picture.
    """
    ordered = np.sort(values, axis=None)
    places = np.array(ranks) / 100 * (len(ordered) - 1)
    return np.interp(places, np.arange(len(ordered)), ordered).tolist()


def _split(rise: Grey, base: float, noise: float) -> tuple[float, float]:
    """Threshold between page and ink, and their contrast.

    Halfway between the page and the mean of what is above the threshold, repeated (Ridler and
    Calvard, "Picture thresholding using an iterative selection method", 1978). It starts at half
    the strongest ink, and so finds ink that covers too little of the page for a peak in the
    histogram, and leaves out the fainter traces of shadows.
    """
    count = min(_STRONGEST, rise.size)
    ink = float(np.partition(rise, -count, axis=None)[-count])
    for _ in range(5):
        threshold = max((base + ink) / 2, base + 4 * noise)
        above = rise[rise > threshold]
        if not above.size:
            return threshold, 0.0
        ink = float(above.mean())
    return threshold, ink - base


def _box(mask: Mask) -> Box:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _extent(strength: Grey, mask: Mask) -> Box:
    """The box of the strokes with their faint edges, but without single faint pixels."""
    least = max(1, _side(_box(mask)) / (2 * FIT))  # half a pixel of the 20×20
    rows, columns = ((strength > _FAINT).sum(axis=axis) >= least for axis in (1, 0))
    return _box(mask | np.outer(rows, columns))


def _step(rise: Grey, mask: Mask, around: Mask, reach: int) -> float:
    """How much the ink rises within `reach` pixels of its edge."""
    rim = mask & _grow(~mask, reach)
    outside = around & ~mask
    return float(rise[rim].mean() - rise[outside].mean()) if outside.any() else 0.0


def _merit(grey: Grey, page: Grey, mask: Mask, reach: int) -> float:
    """Contrast times the share of the mark's surroundings that are page and not ink.

    The gaps in a digit look like ink of the other polarity; but what surrounds them is like them.
    """
    ink, paper = float(grey[mask].mean()), float(page[mask].mean())
    ring = _box_mask(mask, 3 * reach) & ~_box_mask(mask, reach)
    if not ring.any():  # the digit fills the image
        ring[[0, -1]] = True
        ring[:, [0, -1]] = True
    share = float(((grey[ring] - ink) / (paper - ink) > _PAGE_FROM).mean())
    return abs(ink - paper) / max(ink, paper, _BLACK) * share if share > _MIN_PAGE else 0.0


def _box_mask(mask: Mask, margin: int) -> Mask:
    left, top, right, bottom = _box(mask)
    inside = np.zeros_like(mask)
    inside[max(0, top - margin) : bottom + margin, max(0, left - margin) : right + margin] = True
    return inside
