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

_ORIENTATION = 0x0112  # EXIF tag

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
"""What `load` decodes. Others are left out: EPS, for one, would start a PostScript interpreter."""

Polarity = Literal["dark on light", "light on dark"]
Box = tuple[int, int, int, int]
Grey = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]

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
_PART = 0.04  # a part of the digit has at least this share of the largest part's ink
_NEAR = 0.3  # and lies within this share of its longer side

# How it is drawn.
_FAINT = 0.12  # ink fainter than this does not widen the box
_HAIR = 1.2  # pixels; strokes thinner than this after scaling are thickened, as 0.1 % of MNIST is
_STROKE = 2.0  # pixels, to which they are; MNIST's median is 2.3 by the same measure


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
    stroke: float  # mean width in pixels
    merit: float  # how likely it is ink, and not a gap between strokes
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
    if isinstance(image, Image.Image):
        pixels = _decode(image, notes)
    else:
        pixels = _from_array(np.asarray(image), notes)
    ink, box = _look(pixels, _full_scale(pixels), notes)
    if ink is None:
        blank = np.zeros((SIZE, SIZE), np.uint8)
        return Prepared(blank, False, "dark on light", (0, 0, 0, 0), tuple(notes))
    polarity: Polarity = "light on dark" if ink.light else "dark on light"
    digit = _to_mnist(ink, notes)
    return Prepared(digit, True, polarity, box, tuple(notes))


def _from_array(array: NDArray[Any], notes: list[str]) -> NDArray[Any]:
    """An array as it came, but opaque: (H, W) or (H, W, 3)."""
    _check_array(array)
    if array.ndim == 3 and array.shape[2] == 4:
        return _flatten(Image.fromarray(_to_uint8(array)), notes)
    return array


def _check_array(array: NDArray[Any]) -> None:
    shape_ok = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if not shape_ok or 0 in array.shape:
        raise Error(f"expected an image (H, W), (H, W, 3) or (H, W, 4), got shape {array.shape}")
    if array.dtype.kind not in "fb" and array.dtype not in (np.uint8, np.uint16):
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
    scaled = array.astype(np.float32) * np.float32(255 / _full_scale(array))
    return np.rint(scaled).astype(np.uint8)


def _decode(image: Image.Image, notes: list[str]) -> NDArray[Any]:
    """The pixels of a Pillow image, upright and opaque: (H, W) or (H, W, 3)."""
    _check_size(image.width, image.height)
    upright = _upright(image, notes)
    if upright.mode.startswith(("I", "F")):  # 16-bit or float grey, which convert() would clip
        array = _sixteen_bit(np.asarray(upright))
        _check_array(array)
        return array
    if upright.has_transparency_data:
        return _flatten(upright.convert("RGBA"), notes)
    return np.asarray(upright.convert("L" if upright.mode in ("1", "L") else "RGB"))


def _upright(image: Image.Image, notes: list[str]) -> Image.Image:
    """The image turned as its EXIF data say, its frames counted in a note."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            frames = getattr(image, "n_frames", 1)
            turned = image.getexif().get(_ORIENTATION, 1) != 1
            upright = ImageOps.exif_transpose(image)
        except Exception:  # damaged metadata makes Pillow raise nearly anything
            return image
    if frames > 1:
        notes.append(f"holds {frames} frames: frame {image.tell() + 1} used")
    if turned:
        notes.append("turned upright as its EXIF orientation says")
    return upright


def _sixteen_bit(array: NDArray[Any]) -> NDArray[Any]:
    """Pillow's 32-bit integers as the 16 bits that files hold; floats as they are."""
    if array.dtype.kind == "f":
        return array
    if array.min() < 0 or array.max() > 65535:
        raise Error(f"expected grey levels of at most 16 bits, got {array.min()} to {array.max()}")
    return array.astype(np.uint16)


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
    ink = _find(pixels, factor, white, notes)
    if ink is None:
        return None, (0, 0, 0, 0)
    box = _scaled(ink.box, factor)
    if factor > 1 and _side(ink.box) < _ENOUGH:
        left, top, right, bottom = _with_margin(box, pixels.shape)
        crop = pixels[top:bottom, left:right]
        closer = max(1, -(-max(crop.shape[:2]) // _WORK))
        again: list[str] = []
        near = _find(crop, closer, white, again)
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


def _find(pixels: NDArray[Any], factor: int, white: float, notes: list[str]) -> _Ink | None:
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


def _marks(grey: Grey) -> list[_Ink]:
    """What may be the digit, at most one mark in each polarity."""
    smooth = _smooth(grey) if _grain(grey) > _NOISY else grey
    found = (_find_polarity(grey, smooth, light) for light in (False, True))
    return [mark for mark in found if mark is not None]


def _find_polarity(grey: Grey, smooth: Grey, light: bool) -> _Ink | None:
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
    mask, share, dropped = _digit(rise - base, rise > threshold)
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
    return _Ink(strength, box, light, stroke, merit, contrast, noise, dropped)


def _rise(grey: Grey, page: Grey, light: bool) -> Grey:
    """How far each pixel stands out from the page.

    Dark ink takes a share of whatever light falls on the page, hence the division.
    """
    return grey - page if light else (page - grey) / np.maximum(page, np.float32(_BLACK))


def _unevenness(page: Grey, light: bool) -> float:
    """What the page's own dark parts would stand out by if they were ink."""
    dark, bright = (float(level) for level in np.percentile(page, [5, 95]))
    return bright - dark if light else (bright - dark) / max(bright, _BLACK)


def _strength(rise: Grey, mask: Mask, around: Mask) -> Grey:
    """Grey levels of the strokes, 0 to 1, with the page and its noise below 0."""
    page = rise[~around]
    # Where little page is left to judge by, it is taken for clean.
    middle, upper = np.percentile(page, [50, 84]) if page.size > rise.size / 4 else (0.0, 0.0)
    low, full = middle + 2 * (upper - middle), float(np.percentile(rise[mask], 75))
    strength = np.clip((rise - low) / max(full - low, 1e-6), 0, 1) * around
    return strength.astype(np.float32)


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
    low, high = np.percentile(rise, [5, 20])
    spread = float(high - low) / 0.80
    return float(high) + 0.84 * spread, max(spread, _grain(rise), 1 / 512)


def _grain(grey: Grey) -> float:
    """Noise from the differences between neighbours, which ink and lighting hardly change."""
    return 1.56 * float(np.percentile(np.abs(np.diff(grey, axis=1)), 35))


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


def _digit(rise: Grey, mask: Mask) -> tuple[Mask, float, int]:
    """The connected components that form the digit.

    Returns:
        Their mask (H, W), their share of all the ink, and how many components are left out.
    """
    runs, component = _components(mask)
    row, start, end = runs.T
    totals = np.concatenate([[0.0], np.cumsum(rise, dtype=np.float64)])
    width = mask.shape[1]
    ink = np.bincount(component, totals[row * width + end] - totals[row * width + start]).astype(
        float
    )
    kept = _belong_together(ink, _boxes(runs, component), mask.shape)
    edges = np.zeros((mask.shape[0], width + 1), np.int8)
    chosen = kept[component]
    edges[row[chosen], start[chosen]] = 1
    edges[row[chosen], end[chosen]] = -1
    digit = np.cumsum(edges, axis=1)[:, :-1] > 0
    return digit, float(ink[kept].sum() / ink.sum()), int(len(kept) - kept.sum())


def _boxes(runs: NDArray[np.int64], component: NDArray[np.int64]) -> NDArray[np.int64]:
    """Left, top, right and bottom edge of each component, (C, 4)."""
    row, start, end = runs.T
    count = int(component.max()) + 1
    boxes = np.zeros((count, 4), np.int64)
    boxes[:, :2] = np.iinfo(np.int64).max
    for side, values in enumerate((start, row)):
        np.minimum.at(boxes[:, side], component, values)
    for side, values in enumerate((end, row + 1), start=2):
        np.maximum.at(boxes[:, side], component, values)
    return boxes


def _belong_together(
    ink: NDArray[np.float64], boxes: NDArray[np.int64], shape: tuple[int, ...]
) -> Mask:
    """Which components, (C,), are the digit: the main one and what is near it and not small."""
    left, top, right, bottom = boxes.T
    free = (left > 0) & (top > 0) & (right < shape[1]) & (bottom < shape[0])
    # What runs into the border is rather a shadow, a finger or a line, unless it is far larger.
    main = int(np.argmax(ink * np.where(free, 4, 1)))
    reach = _NEAR * max(right[main] - left[main], bottom[main] - top[main])
    gaps = [left[main] - right, left - right[main], top[main] - bottom, top - bottom[main]]
    near = np.maximum.reduce(gaps) <= reach
    return np.asarray(near & (ink >= _PART * ink[main]) & (free | ~free[main]))


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


def _to_mnist(ink: _Ink, notes: list[str]) -> NDArray[np.uint8]:
    """Fit the digit to 20×20 and put its centre of mass at the centre: uint8 (28, 28)."""
    left, top, right, bottom = ink.box
    strength = ink.strength[top:bottom, left:right]
    scale = FIT / _side(ink.box)
    stroke = ink.stroke * scale
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
    resized = _weights(grey.shape[0], height) @ grey @ _weights(grey.shape[1], width).T
    return np.clip(resized, 0, 1)


def _weights(before: int, after: int) -> Grey:
    """(after, before) weights: mean over the area when shrinking, Catmull-Rom when enlarging."""
    step = before / after
    centre = (np.arange(after)[:, None] + 0.5) * step - np.arange(before) - 0.5
    x = np.abs(centre)
    if step > 1:
        weights = np.clip(step / 2 + 0.5 - x, 0, 1)
    else:
        near, far = (1.5 * x - 2.5) * x * x + 1, ((2.5 - 0.5 * x) * x - 4) * x + 2
        weights = np.where(x < 1, near, np.where(x < 2, far, 0))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
