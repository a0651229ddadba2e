"""Decode files and arrays to upright, opaque pixels, grey or RGB.

Pillow decodes. OpenCV has no check of the size before it decodes, no limit in time, and prints
about damaged files.
"""

from __future__ import annotations

import io
import math
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from keras_lenet.errors import Error

MAX_PIXELS = 50_000_000  # that an image declares, before it is decoded
MAX_BYTES = 256 << 20  # of a file
MAX_SECONDS = 5.0  # of computing, to decode a file: a few bytes can ask for a lot of work
# A TIFF may hold endless directories, an EPS starts an interpreter.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
_TOO_MANY = f"where at most {MAX_PIXELS // 10**6} million are read; scale the image down"
_ORIENTATION = 0x0112  # EXIF tag
_BLOCK = 1 << 10  # bytes that a decoder is given at a time; between two of them it can be stopped


def load(path: Path | str) -> Image.Image:
    """Read an image file and decode it; of an animation, the first frame.

    Raises:
        Error: the file can't be read, is larger than `MAX_BYTES`, or as in `decode`.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise Error(f"{path}: cannot be read ({error.strerror or error})") from error
    if not content:
        raise Error(f"{path}: the file is empty; expected an image")
    if len(content) > MAX_BYTES:
        raise Error(f"{path}: larger than {MAX_BYTES >> 20} MiB; save a smaller image")
    return decode(content, f"{path}: ")


def decode(content: bytes, source: str = "") -> Image.Image:
    """Decode an image file's content; of an animation, the first frame.

    Args:
        content: of the file.
        source: the start of error messages.

    Raises:
        Error: the content is no image in one of `FORMATS`, is damaged or truncated, declares more
            than `MAX_PIXELS`, or takes longer than `MAX_SECONDS`.
    """
    file = _Timed(content)
    try:
        image = _decoded(file)
    except _SlowError as error:
        problem = f"not decoded within {MAX_SECONDS:g} seconds; save the image again"
        raise Error(f"{source}{problem}") from error
    except Error as error:
        raise Error(f"{source}{error}") from error
    file.end = math.inf
    return image


class _SlowError(BaseException):
    """A file that is not decoded in time; no `except Exception` of a decoder keeps it."""


class _Timed(io.BytesIO):
    """A file's content, which can be read for `MAX_SECONDS` of this thread's computing.

    A decoder that repeats work, for each chunk or scan of a file, reads in between.

    Attributes:
        end: the thread's time after which reading raises `_SlowError`.
    """

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.end = time.thread_time() + MAX_SECONDS

    def read(self, size: int | None = -1, /) -> bytes:
        if time.thread_time() > self.end:
            raise _SlowError
        return super().read(size)


def _decoded(file: io.BytesIO) -> Image.Image:
    with warnings.catch_warnings():
        # Pillow warns of odd metadata, which do no harm, and of large images, checked below.
        warnings.simplefilter("ignore")
        try:
            image = Image.open(file, formats=FORMATS)
        except Image.DecompressionBombError as error:
            raise Error(f"too many pixels, {_TOO_MANY}") from error
        except Exception as error:  # a damaged header makes Pillow raise nearly anything
            known = ", ".join(FORMATS)
            raise Error(f"not an image, or damaged; expected one of {known}") from error
        _check_size(image.width, image.height)
        image.decodermaxblock = _BLOCK
        try:
            getattr(image, "is_animated", False)  # the image remembers it
            image.load()
        except Exception as error:  # and so does damaged data
            raise Error(f"damaged or truncated image ({error}); save it again") from error
    return image


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise Error(f"{width}×{height} pixels, {_TOO_MANY}")


def to_pixels(image: Image.Image | NDArray[Any], notes: list[str]) -> tuple[NDArray[Any], float]:
    """Return the pixels of a Pillow image or an array, upright and opaque, and their white.

    Args:
        image: any input of `prepare`.
        notes: takes a line for each change.

    Returns:
        (H, W) or (H, W, 3) of uint8, uint16 or float32, and the value of white.

    Raises:
        Error: the array has another shape, type or range, or is larger than `MAX_PIXELS`.
    """
    if isinstance(image, Image.Image):
        pixels = _decoded_pixels(image, notes)
    else:
        pixels = _from_array(np.asarray(image), notes)
    white = _full_scale(pixels)
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8)
    elif pixels.dtype.kind == "f":
        pixels = pixels.astype(np.float32)
    return pixels, white


def _decoded_pixels(image: Image.Image, notes: list[str]) -> NDArray[Any]:
    """Return the pixels of a Pillow image of any mode."""
    _check_size(image.width, image.height)
    upright = _upright(image, notes)
    if upright.mode.startswith(("I", "F")):  # 16-bit or float grey, which convert() would clip
        array = np.asarray(upright)
        if array.dtype.kind != "f":  # Pillow may hold the 16 bits of a file in 32
            if array.min() < 0 or array.max() > 65535:
                found = f"{array.min()} to {array.max()}"
                raise Error(f"expected grey levels of at most 16 bits, got {found}")
            array = array.astype(np.uint16)
        return _from_array(array, notes)
    if upright.has_transparency_data:
        return _flatten(upright.convert("RGBA"), notes)
    return np.asarray(upright.convert("L" if upright.mode in ("1", "L") else "RGB"))


def _full_scale(pixels: NDArray[Any]) -> float:
    """Return the value of white. Sensors put 10, 12 or 14 bits into 16; the data tells how many."""
    if pixels.dtype == np.uint8:
        return 255.0
    peak = float(pixels.max())
    if pixels.dtype.kind != "f":
        return float(2 ** max(8, int(peak).bit_length()) - 1) if peak > 1 else 1.0
    return 1.0 if peak <= 1 else 255.0


def _from_array(array: NDArray[Any], notes: list[str]) -> NDArray[Any]:
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
    if array.ndim == 2 or array.shape[2] == 3:
        return array
    if array.dtype != np.uint8:
        scaled = array.astype(np.float32) * np.float32(255 / _full_scale(array))
        array = np.rint(scaled).astype(np.uint8)
    return _flatten(Image.fromarray(array), notes)


def _upright(image: Image.Image, notes: list[str]) -> Image.Image:
    """Return the image turned as its EXIF data say."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            animated = getattr(image, "is_animated", False)  # counting frames takes long
            turned = image.getexif().get(_ORIENTATION, 1) != 1
            upright = ImageOps.exif_transpose(image)
        except Exception:  # damaged metadata makes Pillow raise nearly anything
            return image
    if animated:
        notes.append(f"holds several frames: frame {image.tell() + 1} used")
    if turned:
        notes.append("turned upright as its EXIF orientation says")
    return upright


def _flatten(image: Image.Image, notes: list[str]) -> NDArray[np.uint8]:
    """Lay RGBA over white or black, whichever is farther from the colours that show.

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
