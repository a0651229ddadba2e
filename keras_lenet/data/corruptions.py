"""Fifteen corruptions of digit images in five severities, to measure a classifier's robustness.

Names are those of MNIST-C (Mu and Gilmer, "MNIST-C: A Robustness Benchmark for Computer Vision",
arXiv:1906.02337, and its `corruptions.py`), and so are strengths where severity 1 is mild and a
person can still read severity 5. Thickening and thinning follow Castro, Tan, Kainz, Konukoglu and
Glocker, "Morpho-MNIST", JMLR 20(178), 2019; occlusion is added. All strengths were chosen by eye
on training images, without a classifier.

The seed and the corruption's name decide everything random, the severity the strength alone: a
higher severity moves each image farther in the same direction. An image's random numbers depend on
its position, not on the images after it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

SIZE = 28
SEVERITIES = (1, 2, 3, 4, 5)

Images = NDArray[np.uint8]  # (N, 28, 28), 0 = background, 255 = ink
Floats = NDArray[np.floating[Any]]
Random = np.random.Generator

_CENTRE = (SIZE - 1) / 2
_CHUNK = 200  # images; their intermediate results fit in the processor's cache
_OCTAVES = (3, 5, 9, 17)  # nodes a side of fog's random grids, each twice as fine


class Corruption(NamedTuple):
    """A way to corrupt images.

    Attributes:
        apply: makes new images of images, strength and generator; draws at most once, image by
            image.
        strengths: the strength at each severity.
    """

    apply: Callable[[Images, float, Random], Images]
    strengths: tuple[float, float, float, float, float]


def corrupt(images: Images, name: str, severity: int, seed: int) -> Images:
    """Corrupt images, uint8 (N, 28, 28), by one of `CORRUPTIONS`; severity is 1 to 5."""
    corruption = CORRUPTIONS[name]
    strength = corruption.strengths[SEVERITIES.index(severity)]
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    corrupted = np.empty_like(images)
    for start in range(0, len(images), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        corrupted[chunk] = corruption.apply(images[chunk], strength, generator)
    return corrupted


def translate(images: Images, strength: float, generator: Random) -> Images:
    """Shift by `strength` pixels both ways, left or right and up or down."""
    return _warp_either_way(images, (1, 0, 0, 1, -strength, -strength), generator)


def rotate(images: Images, strength: float, generator: Random) -> Images:
    """Rotate about the centre by `strength` radians, either way."""
    cos, sin = np.cos(strength), np.sin(strength)
    return _warp_either_way(images, (cos, -sin, sin, cos, 0, 0), generator)


def scale(images: Images, strength: float, generator: Random) -> Images:
    """Reduce to `strength` times the size, about the centre."""
    return _warp(images, (1 / strength, 0, 0, 1 / strength, 0, 0))


def shear(images: Images, strength: float, generator: Random) -> Images:
    """Slant to the left or right by an angle whose tangent is `strength`, about the centre."""
    return _warp_either_way(images, (1, 0, strength, 1, 0, 0), generator)


def thicken(images: Images, strength: float, generator: Random) -> Images:
    """Widen strokes by `strength` times their mean width: 1 doubles it."""
    return _grow(images, strength * _stroke_width(images) / 2)


def thin(images: Images, strength: float, generator: Random) -> Images:
    """Narrow strokes by `strength` times their mean width."""
    return ~_grow(~images, strength * _stroke_width(images) / 2)


def gaussian_noise(images: Images, strength: float, generator: Random) -> Images:
    """Add normal noise with a standard deviation of `strength`, as a share of full ink."""
    noise = generator.standard_normal(images.shape, np.float32)
    return _to_pixels(images + 255 * np.float32(strength) * noise)


def impulse_noise(images: Images, strength: float, generator: Random) -> Images:
    """Turn the share `strength` of all pixels black or white, half of them each."""
    chance = generator.random(images.shape, np.float32)
    salted = np.where(chance < strength / 2, np.uint8(255), images)
    return np.where(chance > 1 - strength / 2, np.uint8(0), salted)


def gaussian_blur(images: Images, strength: float, generator: Random) -> Images:
    """Blur with a standard deviation of `strength` pixels."""
    distance = np.subtract.outer(np.arange(SIZE), np.arange(SIZE))
    bell = np.exp(-0.5 * (distance / strength) ** 2)
    bell[np.abs(distance) > 4 * strength] = 0  # subnormal numbers are slow
    # The blur along one axis is a matrix. Its middle row holds the whole bell.
    blur = (bell / bell[SIZE // 2].sum()).astype(np.float32)
    return _to_pixels(blur @ images.astype(np.float32) @ blur)


def contrast(images: Images, strength: float, generator: Random) -> Images:
    """Multiply each pixel's difference from the image's mean by `strength`."""
    mean = images.mean((1, 2), np.float32, keepdims=True)
    return _to_pixels(mean + (images - mean) * np.float32(strength))


def brightness(images: Images, strength: float, generator: Random) -> Images:
    """Brighten every pixel by the share `strength` of full ink, up to white."""
    return _to_pixels(images + np.float32(255 * strength))


def fog(images: Images, strength: float, generator: Random) -> Images:
    """Add clouds `strength` times as bright as full ink, and scale the sum to 0…255.

    The clouds are random grids of doubling fineness and halving amplitude, interpolated linearly,
    added, and stretched to the whole range in each image.
    """
    sizes = np.square(_OCTAVES)
    draws = generator.standard_normal((len(images), sizes.sum()), np.float32)
    clouds = np.zeros(images.shape, np.float32)
    for octave, values in enumerate(np.split(draws, np.cumsum(sizes)[:-1], axis=1)):
        nodes = _OCTAVES[octave]
        to_pixels = _interpolation(nodes, np.linspace(0, nodes - 1, SIZE))
        grid = values.reshape(-1, nodes, nodes)
        clouds += np.float32(0.5**octave) * (to_pixels @ grid @ to_pixels.T)
    clouds -= clouds.min((1, 2), keepdims=True)
    clouds /= clouds.max((1, 2), keepdims=True)
    return _to_pixels((images + np.float32(255 * strength) * clouds) / np.float32(1 + strength))


def stripe(images: Images, strength: float, generator: Random) -> Images:
    """Invert the `strength` leftmost and as many rightmost columns."""
    columns = np.arange(SIZE)
    outer = np.minimum(columns, columns[::-1]) < strength
    return np.where(outer, ~images, images)


def occlusion(images: Images, strength: float, generator: Random) -> Images:
    """Cover a square of `strength` pixels a side in grey, centred anywhere in the middle.

    Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014.
    """
    centres = generator.integers(8, 20, (len(images), 2, 1))
    near = np.abs(np.arange(SIZE) - centres) <= strength // 2  # (N, 2, 28)
    covered = near[:, 0, :, np.newaxis] & near[:, 1, np.newaxis]
    return np.where(covered, np.uint8(128), images)


def inverse(images: Images, strength: float, generator: Random) -> Images:
    """Invert images, to a background of `strength` × 255."""
    return _to_pixels(np.float32(strength) * ~images)


CORRUPTIONS = {
    # Geometry.
    "translate": Corruption(translate, (1, 2, 3, 4, 5)),  # MNIST-C
    "rotate": Corruption(rotate, (0.15, 0.3, 0.45, 0.6, 0.75)),  # 9° to 43°; MNIST-C up to 57°
    "scale": Corruption(scale, (0.9, 0.8, 0.7, 0.6, 0.5)),  # MNIST-C
    "shear": Corruption(shear, (0.15, 0.3, 0.45, 0.6, 0.75)),  # MNIST-C up to 57°
    # Strokes: severity 5 is Morpho-MNIST's change, the others are fifths of it.
    "thicken": Corruption(thicken, (0.2, 0.4, 0.6, 0.8, 1.0)),
    "thin": Corruption(thin, (0.14, 0.28, 0.42, 0.56, 0.7)),
    # Noise and blur.
    "gaussian_noise": Corruption(gaussian_noise, (0.08, 0.12, 0.18, 0.26, 0.38)),  # MNIST-C
    "impulse_noise": Corruption(impulse_noise, (0.03, 0.06, 0.09, 0.17, 0.27)),  # MNIST-C
    "gaussian_blur": Corruption(gaussian_blur, (0.4, 0.8, 1.2, 1.6, 2.0)),  # MNIST-C 1 to 6
    # Light.
    "contrast": Corruption(contrast, (0.7, 0.5, 0.3, 0.2, 0.1)),  # MNIST-C 0.4 to 0.05
    "brightness": Corruption(brightness, (0.1, 0.2, 0.3, 0.4, 0.5)),  # MNIST-C
    "fog": Corruption(fog, (0.5, 1.0, 1.5, 2.0, 3.0)),  # MNIST-C 1.5 to 3, of other clouds
    # Background and occlusion.
    "stripe": Corruption(stripe, (3, 4, 5, 6, 7)),  # 7 is MNIST-C's, which has one severity
    "occlusion": Corruption(occlusion, (3, 5, 7, 9, 11)),
    "inverse": Corruption(inverse, (0.2, 0.4, 0.6, 0.8, 1.0)),
}


def _to_pixels(values: Floats) -> Images:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _warp_either_way(images: Images, transform: tuple[float, ...], generator: Random) -> Images:
    """Warp each image in a direction of its own: mirror it or not, warp, and mirror it back."""
    across, down = (generator.random((len(images), 2)) < 0.5).T

    def mirror(these: Images) -> Images:
        mirrored = these.copy()
        mirrored[across] = mirrored[across, :, ::-1]
        mirrored[down] = mirrored[down, ::-1]
        return mirrored

    return mirror(_warp(mirror(images), transform))


def _warp(images: Images, transform: tuple[float, ...]) -> Images:
    """Apply one affine map to all images, bilinearly; fill with background."""
    flat = images.reshape(len(images), -1).T.astype(np.float32)
    return _to_pixels((_bilinear(*transform) @ flat).T).reshape(images.shape)


@cache
def _bilinear(a: float, b: float, c: float, d: float, down: float, right: float) -> Any:
    """Return the weight of each input pixel in each output pixel: a sparse matrix, (784, 784).

    An output pixel (y, x), counted from the centre, comes from (a y + b x + down,
    c y + d x + right).
    """
    places = np.indices((SIZE, SIZE)).reshape(2, -1) - _CENTRE
    sources = np.array([[a, b], [c, d]]) @ places + np.array([[down], [right]])
    # Bilinear interpolation weighs a pixel by how near it is, in y times in x.
    near = np.maximum(1 - np.abs(sources[:, :, np.newaxis] - places[:, np.newaxis]), 0)
    return sparse.csr_array((near[0] * near[1]).astype(np.float32))


def _interpolation(nodes: int, points: Floats) -> Floats:
    """Return the matrix that interpolates `nodes` values linearly at `points` in 0…nodes - 1."""
    distance = np.abs(np.clip(points, 0, nodes - 1)[:, np.newaxis] - np.arange(nodes))
    return np.maximum(1 - distance, 0).astype(np.float32)


def _stroke_width(images: Images) -> Floats:
    """Measure the mean width of strokes in pixels, (N,).

    A line of length L and width w has the area L·w and the outline 2·L. The outline is the total
    variation, which needs no threshold.
    """
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1))).astype(np.float32)
    variation = np.hypot(np.diff(padded, axis=1)[:, :, :-1], np.diff(padded, axis=2)[:, :-1])
    area = images.sum((1, 2), dtype=np.float32)
    return 2 * area / np.maximum(variation.sum((1, 2)), 1)


def _grow(images: Images, radius: Floats) -> Images:
    """Dilate each image by a `radius` of its own, (N,), in pixels.

    Steps are half a pixel, with linear interpolation between them. Cross and square by turns make
    an octagon, which is nearly round.
    """
    to_fine = _interpolation(SIZE, np.arange(2 * SIZE) / 2 - 0.25)
    fine = _to_pixels(to_fine @ images.astype(np.float32) @ to_fine.T)
    change = np.zeros(fine.shape, np.float32)
    grown, steps = fine, 2 * radius[:, np.newaxis, np.newaxis]
    for step in range(1, int(np.ceil(steps.max(initial=0))) + 1):
        larger = _dilate(grown, square=step % 2 == 0)
        change += np.clip(steps - (step - 1), 0, 1) * (larger - grown)
        grown = larger
    # Only the change is brought back to 28×28: enlarging and reducing the image would blur it.
    to_coarse = np.repeat(np.eye(SIZE, dtype=np.float32), 2, axis=1) / 2
    return _to_pixels(images + to_coarse @ change @ to_coarse.T)


def _dilate(images: Images, square: bool) -> Images:
    """Take the maximum of each pixel's 3×3 square, or of the cross of its four neighbours."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)), mode="edge")
    down = np.maximum(np.maximum(padded[:, :-2], padded[:, 2:]), padded[:, 1:-1])
    beside = down if square else padded[:, 1:-1]
    return np.maximum(np.maximum(beside[:, :, :-2], beside[:, :, 2:]), down[:, :, 1:-1])
