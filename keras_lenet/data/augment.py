"""Augmentation and degradation of training images, a batch at a time.

Rotation, shift, zoom, shear, elastic distortion and the resize to the model's input are one
sampling of the original pixels; a chain of layers would interpolate several times, and blur.

The numbers drawn for an image decide its augmentation and degradation, whatever its batch.
Displacements, clouds and noise take many numbers, which are hashed from one of the draws.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

if TYPE_CHECKING:
    from keras_lenet.recipe import Augment, Degrade

DRAWS = (
    "turn", "zoom", "shear", "right", "down",
    "seed", "thickness", "lit", "ink", "paper", "clouds", "noise",
    "covered_x", "covered_y", "covered_width", "covered_height", "covered_level",
    "degraded",
)  # fmt: skip
"""Names of the numbers drawn for one image; the first `AFFINE` decide the affine map."""
AFFINE = 5
STREAMS = (AFFINE, 12, 1)
"""Sizes of the random streams. Append only, so that existing draws do not change."""

SMOOTHNESS = 4.0
"""Standard deviation of the Gaussian that smooths a displacement, in pixels: Simard et al.'s."""
_NODES = 7  # a side of the grid of Gaussians: a little more than one standard deviation apart
_LEAST_CONTRAST = 0.1


@functools.lru_cache(maxsize=2)  # compiled once, for the contact sheet and for training
def augmenter(
    augmentation: Augment, degradation: Degrade | None, size: int, output_size: int
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Make the function that augments, and then degrades, a batch of images.

    XLA compiles the sampling to one loop: a third of the time of ImageProjectiveTransformV3.

    Args:
        augmentation: its limits.
        degradation: its limits, or None.
        size: side of the input images, in pixels.
        output_size: side of the result, in pixels.

    Returns:
        A function of images, uint8 (N, size, size, 1), and draws, float32 (N, 18) in [-1, 1], by
        `DRAWS`, to float32 (N, output_size, output_size, 1) in [0, 1]. All draws at 0 give the
        plain resize, apart from the fields hashed from the draw "seed".
    """

    @tf.function(jit_compile=True)
    def warp(images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        maps = affine(draws[:, :AFFINE], augmentation, size, output_size)
        a, b, x0, c, d, y0 = tf.split(maps[..., tf.newaxis], 6, axis=1)  # (N, 1, 1) each
        column = tf.range(output_size, dtype=tf.float32)
        row = column[:, tf.newaxis]
        x, y = a * column + b * row + x0, c * column + d * row + y0
        if augmentation.elastic:
            across, down = displacement(draws[:, DRAWS.index("seed")], output_size, size)
            x, y = x + augmentation.elastic * across, y + augmentation.elastic * down
        return sample(images, x, y)

    @tf.function(jit_compile=True)
    def finish(pixels: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        named = dict(zip(DRAWS, tf.unstack(draws, axis=1), strict=True))
        if augmentation.thickness:
            pixels = thicken(pixels, augmentation.thickness * named["thickness"])
        if degradation is None:
            return pixels
        clean, degraded = pixels, chosen(named["degraded"], degradation.share)
        # Squared draws are mostly mild: clouds and noise come on top of one another.
        if degradation.clouds:
            pixels = cloud(pixels, degradation.clouds * named["clouds"] ** 2, named["seed"])
        if degradation.occlusion:
            pixels = cover(pixels, degradation.occlusion * output_size / size, named)
        if degradation.noise:
            pixels = add_noise(pixels, degradation.noise * named["noise"] ** 2, named["seed"])
        # Last: low contrast then dims clouds, cover and noise too, and the digit stays readable.
        if degradation.light:
            pixels = relight(pixels, degradation.light, named)
        return tf.where(degraded[:, tf.newaxis, tf.newaxis], pixels, clean)

    def augment(images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        # In one compiled function XLA would sample each neighbour again for `thicken`.
        return finish(warp(images, draws), draws)[..., tf.newaxis]

    return augment


def affine(draws: tf.Tensor, augmentation: Augment, size: int, output_size: int) -> tf.Tensor:
    """Compose each image's affine map and the resize from `size` to `output_size` pixels a side.

    Rotation, counter-clockwise, zoom and shear are about the image's centre; shifts are in input
    pixels, right and down. All draws at 0 give the plain resize with half-pixel centres.

    Args:
        draws: float32, (N, 5), in [-1, 1]: the first of `DRAWS`.
        augmentation: the amounts at a draw of 1.
        size: side of the input images, in pixels.
        output_size: side of the augmented images, in pixels.

    Returns:
        float32, (N, 6): a, b, x0, c, d, y0 of the map from output to input pixel coordinates,
        x = a x' + b y' + x0 and y = c x' + d y' + y0.
    """
    turn, zoom, shear, right, down = tf.unstack(draws, axis=1)
    angle = turn * (augmentation.rotate * np.pi / 180)
    zoomed = 1 + zoom * augmentation.zoom
    sheared = shear * augmentation.shear
    # Output to input is the inverse map: undo the zoom, then the rotation, then the shear.
    scale = (size / output_size) / zoomed
    cos, sin = tf.cos(angle) * scale, tf.sin(angle) * scale
    a, b = cos - sheared * sin, -sin - sheared * cos
    c, d = sin, cos
    # x = (a b) (x' - output centre) + input centre - shift, in pixel-index coordinates.
    centre, output_centre = (size - 1) / 2, (output_size - 1) / 2
    x0 = centre - right * augmentation.shift - (a + b) * output_centre
    y0 = centre - down * augmentation.shift - (c + d) * output_centre
    return tf.stack([a, b, x0, c, d, y0], axis=1)


def displacement(seeds: tf.Tensor, output_size: int, size: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Make random smooth fields of unit variance for elastic distortion, in x and in y.

    Seeds are (N,), each field is (N, output_size, output_size). White noise is smoothed by a
    Gaussian: Simard, Steinkraus and Platt, "Best Practices for Convolutional Neural Networks
    Applied to Visual Document Analysis", ICDAR 2003, section 2. Their best strength, alpha = 34 at
    sigma = 4, is a standard deviation of 1.4 pixels.
    """
    bells = tf.constant(_gaussians(output_size, size))
    white = tf.reshape(_white(seeds, 0, 2 * _NODES**2), [-1, 2, _NODES**2])
    fields = tf.reshape(white @ bells, [-1, 2, output_size, output_size])
    return fields[:, 0], fields[:, 1]


def sample(images: tf.Tensor, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Sample images bilinearly at columns x and rows y; edge pixels continue beyond the edge.

    Images are uint8, (N, size, size, 1). x, y and the result, in [0, 1], are float32,
    (N, output_size, output_size).
    """
    count, size = tf.shape(images)[0], images.shape[1]
    x, y = tf.clip_by_value(x, 0, size - 1), tf.clip_by_value(y, 0, size - 1)
    left, top = tf.cast(x, tf.int32), tf.cast(y, tf.int32)
    right_share, bottom_share = x - tf.cast(left, tf.float32), y - tf.cast(top, tf.float32)
    start = (tf.range(count) * size * size)[:, tf.newaxis, tf.newaxis] + top * size + left
    # At the last row and column the next pixel has a share of 0: take the same pixel.
    to_right = tf.cast(left < size - 1, tf.int32)
    to_below = tf.cast(top < size - 1, tf.int32) * size
    pixels = tf.reshape(images, [-1])

    def between(left_pixels: tf.Tensor) -> tf.Tensor:
        before = tf.cast(tf.gather(pixels, left_pixels), tf.float32)
        after = tf.cast(tf.gather(pixels, left_pixels + to_right), tf.float32)
        return before + (after - before) * right_share

    above, below = between(start), between(start + to_below)
    return (above + (below - above) * bottom_share) / 255


def thicken(pixels: tf.Tensor, amount: tf.Tensor) -> tf.Tensor:
    """Widen strokes by up to a pixel to either side, or narrow them.

    Pixels, (N, side, side), go the share `amount`, (N,), of the way to the brightest of their 3×3
    neighbours, or, below 0, to the darkest.
    """
    side = pixels.shape[1]

    def extreme(choose: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]) -> tf.Tensor:
        rows = tf.concat([pixels[:, :1], pixels, pixels[:, -1:]], axis=1)
        rows = choose(choose(rows[:, :side], rows[:, 2:]), pixels)
        columns = tf.concat([rows[:, :, :1], rows, rows[:, :, -1:]], axis=2)
        return choose(choose(columns[:, :, :side], columns[:, :, 2:]), rows)

    amount = amount[:, tf.newaxis, tf.newaxis]
    wider, narrower = extreme(tf.maximum) - pixels, extreme(tf.minimum) - pixels
    return pixels + tf.nn.relu(amount) * wider + tf.nn.relu(-amount) * narrower


def relight(pixels: tf.Tensor, share: float, draws: dict[str, tf.Tensor]) -> tf.Tensor:
    """Give a share of the images (N, side, side) other greys for ink (1) and paper (0).

    The draws "lit", "ink" and "paper", (N,) each, decide; greys may be inverted.
    """
    ink, paper = (draws["ink"] + 1) / 2, (draws["paper"] + 1) / 2
    contrast = ink - paper
    contrast = tf.where(contrast < 0, -1.0, 1.0) * tf.maximum(tf.abs(contrast), _LEAST_CONTRAST)
    paper = tf.clip_by_value(paper, tf.nn.relu(-contrast), 1 - tf.nn.relu(contrast))
    lit = tf.cast(chosen(draws["lit"], share), tf.float32)
    paper, contrast = lit * paper, 1 + lit * (contrast - 1)
    greys = paper[:, tf.newaxis, tf.newaxis] + contrast[:, tf.newaxis, tf.newaxis] * pixels
    return tf.clip_by_value(greys, 0, 1)  # rounding may exceed them


def chosen(draws: tf.Tensor, share: float) -> tf.Tensor:
    """Choose about `share` of the images by draws, (N,), in [-1, 1]: bool, (N,)."""
    return (draws + 1) / 2 >= 1 - share


def cloud(pixels: tf.Tensor, amount: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
    """Add clouds `amount`, (N,), times as bright as full ink, and scale the sum to [0, 1].

    Pixels are (N, side, side) in [0, 1]; seeds, (N,), decide the clouds.
    """
    side = pixels.shape[1]
    coarse = _white(seeds, 1 << 10, _NODES**2) @ tf.constant(_gaussians(side, 28))
    fine = _white(seeds, 1 << 11, side**2 // 4)
    fine = tf.repeat(tf.repeat(tf.reshape(fine, [-1, side // 2, side // 2]), 2, axis=1), 2, axis=2)
    clouds = tf.sigmoid(1.5 * tf.reshape(coarse, tf.shape(pixels)) + 0.3 * fine)
    amount = amount[:, tf.newaxis, tf.newaxis]
    return (pixels + amount * clouds) / (1 + amount)


def cover(pixels: tf.Tensor, side: float, draws: dict[str, tf.Tensor]) -> tf.Tensor:
    """Cover a rectangle of up to `side` pixels a side of each image, (N, size, size), in any grey.

    Source: random erasing, by Zhong, Zheng, Kang, Li and Yang, AAAI 2020.
    """
    places = tf.range(pixels.shape[1], dtype=tf.float32)

    def near(centre: str, extent: str) -> tf.Tensor:
        middle = (draws[centre][:, tf.newaxis] + 1) / 2 * (pixels.shape[1] - 1)
        return tf.abs(places - middle) < side / 2 * tf.abs(draws[extent][:, tf.newaxis])

    across = near("covered_x", "covered_width")[:, tf.newaxis]
    down = near("covered_y", "covered_height")[:, :, tf.newaxis]
    level = (draws["covered_level"][:, tf.newaxis, tf.newaxis] + 1) / 2
    return tf.where(tf.logical_and(across, down), level, pixels)


def add_noise(pixels: tf.Tensor, deviation: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
    """Add nearly normal noise of standard deviation `deviation`, (N,), and clip to [0, 1].

    Pixels are (N, side, side) in [0, 1]; seeds, (N,), decide the noise.
    """
    white = tf.reshape(_white(seeds, 1 << 12, pixels.shape[1] ** 2), tf.shape(pixels))
    return tf.clip_by_value(pixels + deviation[:, tf.newaxis, tf.newaxis] * white, 0, 1)


def resize(images: tf.Tensor, output_size: int) -> tf.Tensor:
    """Resize float32 (N, size, size, 1) bilinearly, half-pixel centres, as deployed models do."""
    if images.shape[1] == output_size:
        return images  # no op in the deployed graph
    return tf.image.resize(images, [output_size, output_size])


def to_unit(images: tf.Tensor) -> tf.Tensor:
    """Scale pixels of 0 to 255 to float32 in [0, 1]."""
    return tf.cast(images, tf.float32) / 255


def _gaussians(output_size: int, size: int) -> NDArray[np.float32]:
    """Make Gaussians about the nodes of a grid over the image: (nodes², output_size²).

    White noise at the nodes, times these, is a field of unit variance at every pixel.
    """
    nodes = np.linspace(0, size - 1, _NODES)
    pixels = (np.arange(output_size) + 0.5) * size / output_size - 0.5
    bell = np.exp(-0.5 * ((pixels - nodes[:, np.newaxis]) / SMOOTHNESS) ** 2)
    bell /= np.linalg.norm(bell, axis=0)
    return np.kron(bell, bell).astype(np.float32)


def _white(seeds: tf.Tensor, offset: int, count: int) -> tf.Tensor:
    """Hash nearly normal noise of unit variance from seeds and positions: (N, count).

    A value is the sum of the four bytes of a 32-bit hash, the finalizer of MurmurHash3.
    """
    # Seeds + 3 lie in [2, 4]: one exponent, and a mantissa of random bits.
    state = tf.bitcast(seeds + 3, tf.uint32)[:, tf.newaxis] * np.uint32(0x9E3779B1)
    state += tf.bitcast(tf.range(offset, offset + count), tf.uint32) * np.uint32(0x85EBCA77)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        state = tf.bitwise.bitwise_xor(state, tf.bitwise.right_shift(state, np.uint32(shift)))
        state *= np.uint32(factor)
    state = tf.bitwise.bitwise_xor(state, tf.bitwise.right_shift(state, np.uint32(16)))
    bytes_of_hash = [
        tf.bitwise.bitwise_and(tf.bitwise.right_shift(state, np.uint32(shift)), np.uint32(255))
        for shift in (0, 8, 16, 24)
    ]
    total = sum(tf.cast(one, tf.float32) for one in bytes_of_hash)
    return (total - 4 * 127.5) / np.float32(np.sqrt(4 * (256**2 - 1) / 12))
