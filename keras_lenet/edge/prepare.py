"""Any photo or drawing of one digit to an image in MNIST style.

MNIST fits each digit into 20×20 pixels with its aspect ratio kept, and puts its centre of mass at
the centre of a 28×28 field (LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied
to document recognition", Proc. IEEE 86(11), 1998, section III-A). `prepare` does the same to
whatever it is given, after finding out which pixels are ink:

    decode ─► grey ─► reduce ─► even the lighting, once for either polarity ─► threshold
    ─► connected components ─► polarity ─► fit to 20×20 ─► thicken hair strokes ─► centre

Every step is plain array arithmetic with no random part, so that it can be written the same way
in another language; Pillow only decodes files and converts their pixel modes.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from keras_lenet.errors import Error

SIZE = 28
"""Side of the prepared image."""
FIT = 20
"""Longer side of the digit inside it."""
MAX_PIXELS = 50_000_000
"""Images that declare more are refused before they are decoded."""
MAX_BYTES = 256 << 20
"""Files larger than this are not read."""

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
"""What `load` decodes. Others are left out: EPS, for one, would start a PostScript interpreter."""

Polarity = Literal["dark on light", "light on dark"]
Box = tuple[int, int, int, int]
Grey = NDArray[np.float32]
Mask = NDArray[np.bool_]

# Chosen on training images 50,000-60,000 of MNIST, drawn on synthetic pages.
_WORK = 400  # longer side, in pixels, at which the ink is looked for
_ENOUGH = 48  # a digit with a longer side than this needs no second, closer look
_MIN_CONTRAST = 0.06  # of the full range; the faintest pencil that counts as ink
_MIN_SNR = 4.0  # contrast over noise; thresholded noise alone gives about 2
_MIN_STEP = 0.3  # how much of its contrast a mark must gain at its edge; soft shadows gain less
_MIN_SIDE = 5  # pixels; a mark smaller both ways is dust
_PART = 0.04  # a part of a digit has at least this share of the largest part's ink
_NEAR = 0.3  # and lies within this share of its longer side
_FAINT = 0.12  # ink fainter than this does not widen the box
_HAIR = 1.2  # strokes thinner than this after scaling are thickened; 2 % of MNIST is thinner
_STROKE = 2.0  # to this width; MNIST's median is 2.3, by the same measure


@dataclass(frozen=True)
class Prepared:
    """An image in MNIST style and how it was come by."""

    image: NDArray[np.uint8]
    """(28, 28), 0 = background, 255 = ink; all 0 where no digit was found."""
    found: bool
    """False: nothing on the page stands out as ink."""
    polarity: Polarity
    """Of the source: "dark on light" also where no digit was found."""
    box: Box
    """The digit's left, top, right and bottom edge in pixels of the upright source, right and
    bottom exclusive; all 0 where no digit was found."""
    notes: tuple[str, ...]
    """What was found and done, in words."""


@dataclass(frozen=True)
class _Ink:
    """A mark on the page that may be the digit."""

    strength: Grey  # (H, W), 0 = background, 1 = a full stroke; 0 away from the mark
    box: Box
    light: bool
    contrast: float
    noise: float
    dropped: int  # components left out


def load(path: Path | str) -> Image.Image:
    """Read an image file and decode it; of an animation, the first frame.

    Raises:
        Error: the file can't be read, is no image in one of `FORMATS`, is damaged or truncated,
            or declares more than `MAX_PIXELS`; the last is found before anything is decoded.
    """
    content = _read(Path(path))
    with warnings.catch_warnings():
        # Pillow warns of odd metadata, which is no concern of ours, and of large images, which
        # the check below refuses.
        warnings.simplefilter("ignore")
        try:
            image = Image.open(io.BytesIO(content), formats=FORMATS)
        except Image.DecompressionBombError as error:
            raise Error(f"{path}: {_too_large()}") from error
        except Exception as error:  # a damaged header makes Pillow raise nearly anything
            known = ", ".join(FORMATS)
            raise Error(f"{path}: not an image, or damaged; expected one of {known}") from error
        _check_size(image.width, image.height, f"{path}: ")
        try:
            image.load()
        except Exception as error:  # and so does damaged data
            raise Error(f"{path}: damaged or truncated image ({error}); save it again") from error
    return image


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise Error(f"{path}: cannot be read ({error.strerror or error})") from error
    if not content:
        raise Error(f"{path}: the file is empty; expected an image")
    if len(content) > MAX_BYTES:
        raise Error(f"{path}: larger than {MAX_BYTES >> 20} MiB; save a smaller image")
    return content


def _check_size(width: int, height: int, source: str = "") -> None:
    if width * height > MAX_PIXELS:
        raise Error(f"{source}{_too_large(f'{width}×{height} pixels')}")


def _too_large(found: str = "too many pixels") -> str:
    return f"{found}, where at most {MAX_PIXELS // 10**6} million are read; scale the image down"


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
    if not isinstance(image, Image.Image):
        array = np.asarray(image)
        _check_array(array)
        four = array.ndim == 3 and array.shape[2] == 4
        pixels = _flatten(Image.fromarray(_to_uint8(array)), notes) if four else array
    else:
        _check_size(image.width, image.height)
        pixels = _decode(image, notes)
    white = _full_scale(pixels)
    ink, box = _look(pixels, white, notes)
    if ink is None:
        blank = np.zeros((SIZE, SIZE), np.uint8)
        return Prepared(blank, False, "dark on light", (0, 0, 0, 0), tuple(notes))
    polarity: Polarity = "light on dark" if ink.light else "dark on light"
    result = _to_mnist(ink, notes)
    return Prepared(result, True, polarity, box, tuple(notes))


def _check_array(array: NDArray[Any]) -> None:
    shape_ok = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if not shape_ok or 0 in array.shape:
        raise Error(f"expected an image (H, W), (H, W, 3) or (H, W, 4), got shape {array.shape}")
    if array.dtype not in (np.uint8, np.uint16, np.bool_) and array.dtype.kind != "f":
        raise Error(f"expected an image of uint8, uint16, bool or float, got {array.dtype}")
    _check_size(array.shape[1], array.shape[0])
    if array.dtype.kind == "f" and not (array.min() >= 0 and array.max() <= 255):  # also for NaN
        raise Error(
            "expected float pixels in [0, 1] or [0, 255], got "
            f"{array.min():g} to {array.max():g}; scale them first"
        )


def _full_scale(pixels: NDArray[Any]) -> float:
    """The value of white. Sensors put 10, 12 or 14 bits into 16, so the data tells how many."""
    if pixels.dtype == np.uint8:
        return 255.0
    peak = float(pixels.max())
    if pixels.dtype.kind != "f":
        return float(2 ** max(8, int(peak).bit_length()) - 1) if peak > 1 else 1.0
    return 1.0 if peak <= 1 else 255.0


def _to_uint8(array: NDArray[Any]) -> NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return array
    scaled = array.astype(np.float32) * (255.0 / _full_scale(array))
    return np.rint(scaled).astype(np.uint8)


def _decode(image: Image.Image, notes: list[str]) -> NDArray[Any]:
    """The pixels of a Pillow image, upright and opaque: (H, W) or (H, W, 3)."""
    if getattr(image, "n_frames", 1) > 1:
        notes.append(f"holds {getattr(image, 'n_frames', 1)} frames: used the current one")
    upright = ImageOps.exif_transpose(image)
    if image.getexif().get(0x0112, 1) != 1:
        notes.append("turned upright as its EXIF orientation says")
    if upright.mode.startswith(("I", "F")):  # 16-bit or float grey, which convert() would clip
        array = np.asarray(upright)
        array = array.astype(np.uint16) if array.dtype.kind in "iu" else array
        _check_array(array)
        return array
    if upright.has_transparency_data:
        return _flatten(upright.convert("RGBA"), notes)
    return np.asarray(upright.convert("L" if upright.mode in ("1", "L") else "RGB"))


def _flatten(image: Image.Image, notes: list[str]) -> NDArray[np.uint8]:
    """RGBA over white or black, whichever is farther from the colours that show.

    So ink of either colour on a transparent page stands out.
    """
    alpha = image.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return np.asarray(image.convert("RGB"))
    counts = np.asarray(image.convert("L").histogram(alpha), np.float64)  # of what shows
    mean = float(counts @ np.arange(256)) / max(1.0, float(counts.sum()))
    page = "white" if mean < 127.5 else "black"
    notes.append(f"transparent: laid over {page}")
    opaque = Image.new("RGB", image.size, page)
    opaque.paste(image, mask=alpha)
    return np.asarray(opaque)


def _look(pixels: NDArray[Any], white: float, notes: list[str]) -> tuple[_Ink | None, Box]:
    """Find the digit: first on the reduced page, then, if it is small there, from close by."""
    factor = max(1, -(-max(pixels.shape[:2]) // _WORK))
    ink = _find(_grey(pixels, factor, white), notes)
    if ink is None:
        return None, (0, 0, 0, 0)
    box = _scaled(ink.box, factor)
    if factor > 1 and _side(ink.box) < _ENOUGH:
        left, top, right, bottom = _with_margin(box, pixels.shape)
        crop = pixels[top:bottom, left:right]
        closer = max(1, -(-max(crop.shape[:2]) // _WORK))
        again: list[str] = []
        near = _find(_grey(crop, closer, white), again)
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


def _grey(pixels: NDArray[Any], factor: int, white: float) -> Grey:
    """Reduced by `factor` in area; the luma, or the one colour channel that shows far more."""
    small = _reduce(pixels, factor) / np.float32(white)
    if small.ndim == 2:
        return small
    luma = small @ np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
    energy = [_edge_energy(small[..., i]) for i in range(3)]
    best = int(np.argmax(energy))
    # Noise alone has 2.2 times more energy in a channel than in luma: ask for clearly more.
    return small[..., best] if energy[best] > 4 * _edge_energy(luma) else luma


def _edge_energy(grey: Grey) -> float:
    return float(np.square(np.diff(grey, axis=0)).sum() + np.square(np.diff(grey, axis=1)).sum())


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


def _find(grey: Grey, notes: list[str]) -> _Ink | None:
    """The mark that is the digit, in either polarity; a note says which, or why there is none."""
    if min(grey.shape) < _MIN_SIDE:
        notes.append(f"no digit: {grey.shape[1]}×{grey.shape[0]} pixels are too few")
        return None
    marks = [mark for light in (False, True) if (mark := _find_polarity(grey, light))]
    if not marks:
        notes.append("no digit: nothing stands out from the page as ink with sharp edges")
        return None
    ink = max(marks, key=lambda mark: _side(mark.box))
    name = "light ink on a dark page" if ink.light else "dark ink on a light page"
    specks = f", {ink.dropped} other marks left out" if ink.dropped else ""
    notes.append(f"{name}: contrast {ink.contrast:.2f}, noise {ink.noise:.3f}{specks}")
    return ink


def _find_polarity(grey: Grey, light: bool) -> _Ink | None:
    """Dark ink on a lighter page, or light ink on a darker one."""
    page = _page(grey, light)
    rise = grey - page if light else (page - grey) / np.maximum(page, np.float32(0.2))
    base, noise = _page_level(rise)
    threshold, contrast = _split(rise, base, noise)
    if contrast < max(_MIN_CONTRAST, _MIN_SNR * noise):
        return None
    mask, dropped = _digit(rise - base, rise > threshold)
    box = _box(mask)
    if _side(box) < _MIN_SIDE:
        return None
    reach = max(2, _side(box) // FIT)
    around = _grow(mask, reach)
    full = float(np.percentile(rise[mask], 75))
    soft = _step(rise, mask, around, reach) < _MIN_STEP * contrast
    if soft or not _page_around(grey, page, mask, reach):
        return None
    low = base + 2 * noise
    strength = np.clip((rise - low) / max(full - low, 1e-6), 0, 1) * around
    box = _box(strength > _FAINT)
    return _Ink(strength.astype(np.float32), box, light, contrast, noise, dropped)


def _page(grey: Grey, light: bool) -> Grey:
    """What the page would look like without its strokes.

    This is the morphological closing (for light ink, opening) by a square wider than any stroke:
    it fills the strokes, and leaves gradients and straight shadow edges as they are
    (Serra, Image Analysis and Mathematical Morphology, 1982: top-hat transform).
    """
    width = 2 * (min(grey.shape) * 3 // 10) + 1
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
    """Level and noise of the page, from the low quantiles, which ink does not reach."""
    low, high = np.percentile(rise, [5, 30])
    noise = float(high - low) / 1.12  # of a normal distribution, in standard deviations
    return float(high) + 0.52 * noise, max(noise, 1 / 512)


def _split(rise: Grey, base: float, noise: float) -> tuple[float, float]:
    """Threshold between page and ink, and their contrast.

    Halfway between the page and the mean of what is above the threshold, repeated (Ridler and
    Calvard, "Picture thresholding using an iterative selection method", 1978). It starts above
    the noise, and so finds ink that covers too little of the page for a peak in the histogram.
    """
    threshold, ink = base + 4 * noise, base
    for _ in range(10):
        above = rise[rise > threshold]
        if not above.size:
            break
        ink = float(above.mean())
        threshold = (base + ink) / 2
    return threshold, ink - base


def _digit(rise: Grey, mask: Mask) -> tuple[Mask, int]:
    """The connected components that form the digit, and how many others there were."""
    runs, component = _components(mask)
    row, start, end = runs.T
    totals = np.concatenate([[0.0], np.cumsum(rise, dtype=np.float64)])
    width = mask.shape[1]
    weight = np.bincount(component, totals[row * width + end] - totals[row * width + start])
    count = len(weight)
    left, top = np.full(count, width), np.full(count, mask.shape[0])
    right, bottom = np.zeros(count, np.int64), np.zeros(count, np.int64)
    np.minimum.at(left, component, start)
    np.minimum.at(top, component, row)
    np.maximum.at(right, component, end)
    np.maximum.at(bottom, component, row + 1)
    free = (left > 0) & (top > 0) & (right < width) & (bottom < mask.shape[0])
    # What runs into the border is rather a shadow, a finger or a line, unless it is far larger.
    main = int(np.argmax(weight * np.where(free, 4, 1)))
    reach = _NEAR * max(right[main] - left[main], bottom[main] - top[main])
    apart = np.maximum.reduce(
        [left[main] - right, left - right[main], top[main] - bottom, top - bottom[main]]
    )
    kept = (weight >= _PART * weight[main]) & (apart <= reach) & (free | ~free[main])
    ends = np.zeros((mask.shape[0], width + 1), np.int8)
    chosen = kept[component]
    ends[row[chosen], start[chosen]] += 1
    ends[row[chosen], end[chosen]] -= 1
    return np.cumsum(ends, axis=1)[:, :-1] > 0, int(count - kept.sum())


def _components(mask: Mask) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Runs of set pixels (row, start, end), (R, 3), and the 8-connected component of each, (R,).

    A run joins those of the row above that it touches, by union-find.
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
    roots = np.array([root(run) for run in range(len(rows))])
    _, component = np.unique(roots, return_inverse=True)
    return np.stack([row, start, end], axis=1), component


def _box(mask: Mask) -> Box:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _step(rise: Grey, mask: Mask, around: Mask, reach: int) -> float:
    """How much the ink rises within `reach` pixels of its edge."""
    rim = mask & _grow(~mask, reach)
    outside = around & ~mask
    return float(rise[rim].mean() - rise[outside].mean()) if outside.any() else 0.0


def _page_around(grey: Grey, page: Grey, mask: Mask, reach: int) -> bool:
    """Whether the page, and not the ink, goes on around the mark.

    The gaps in a digit look like ink of the other polarity; but what surrounds them is like them.
    """
    inner, outer = _box_mask(mask, reach), _box_mask(mask, 3 * reach)
    ring = outer & ~inner
    if not ring.any():  # the digit fills the image
        ring[[0, -1]] = True
        ring[:, [0, -1]] = True
    around = float(np.median(grey[ring]))
    return abs(around - float(page[mask].mean())) < abs(around - float(grey[mask].mean()))


def _box_mask(mask: Mask, margin: int) -> Mask:
    left, top, right, bottom = _box(mask)
    inside = np.zeros_like(mask)
    inside[max(0, top - margin) : bottom + margin, max(0, left - margin) : right + margin] = True
    return inside


def _to_mnist(ink: _Ink, notes: list[str]) -> NDArray[np.uint8]:
    """Fit the digit to 20×20 and put its centre of mass at the centre: uint8 (28, 28)."""
    left, top, right, bottom = ink.box
    strength = ink.strength[top:bottom, left:right]
    scale = FIT / _side(ink.box)
    stroke = _stroke_width(strength) * scale
    digit = _resize(strength, FIT) if stroke >= _HAIR else _thicken(strength, stroke)
    notes.append(f"scaled by {scale:.2f}; strokes then {stroke:.1f} pixels wide")
    if stroke < _HAIR:
        notes.append(f"thickened to {_STROKE:.1f} pixels")
    field = np.zeros((SIZE, SIZE), np.float32)
    y, x = (_place(digit.sum(axis=axis)) for axis in (1, 0))
    field[y : y + digit.shape[0], x : x + digit.shape[1]] = digit
    return np.rint(255 * field).astype(np.uint8)


def _place(profile: NDArray[np.floating[Any]]) -> int:
    """Where a digit of this profile begins for its centre of mass to lie at pixel 14.

    That is where MNIST has it: between 13.5 and 14.5 in every image.
    """
    mass = float(profile @ np.arange(len(profile))) / max(float(profile.sum()), 1e-6)
    return min(max(round(SIZE / 2 - mass), 0), SIZE - len(profile))


def _stroke_width(strength: Grey) -> float:
    """Mean width of the strokes in pixels: a line of length L has area L·w and outline 2·L.

    The outline is the total variation, which needs no threshold.
    """
    padded = np.pad(strength, 1)
    variation = np.hypot(np.diff(padded, axis=0)[:, :-1], np.diff(padded, axis=1)[:-1])
    return 2 * float(strength.sum()) / max(float(variation.sum()), 1e-6)


def _thicken(strength: Grey, stroke: float) -> Grey:
    """Fit with strokes spread by [1 2 1] / 4 both ways and brought to `_STROKE` in width."""
    digit = np.pad(_resize(strength, FIT - 2), 2)
    for _ in range(2):
        digit = ((digit[:-2] + 2 * digit[1:-1] + digit[2:]) / 4).T
    return np.minimum(digit * np.float32(_STROKE / max(stroke, 0.05)), 1)


def _resize(grey: Grey, side: int) -> Grey:
    """Scaled so that the longer side becomes `side`; at scale 1 nothing changes."""
    scale = side / max(grey.shape)
    height, width = (max(1, round(length * scale)) for length in grey.shape)
    return _weights(grey.shape[0], height) @ grey @ _weights(grey.shape[1], width).T


def _weights(before: int, after: int) -> Grey:
    """(after, before) weights: mean over the area when shrinking, bilinear when enlarging."""
    step = before / after
    centre = (np.arange(after)[:, None] + 0.5) * step - np.arange(before) - 0.5
    reach = np.abs(centre)
    weights = np.clip(step / 2 + 0.5 - reach, 0, 1) if step > 1 else np.clip(1 - reach, 0, 1)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
