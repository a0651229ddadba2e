"""Rotation, shift, zoom, shear and the resize to the model's input, as one bilinear warp a batch.

Chaining one layer for each of them interpolates four times and blurs; here they are composed into
one affine map per image, and every output pixel is interpolated once from the original pixels.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import tensorflow as tf

PARAMETERS = 5
"""Random numbers that one image takes: for rotation, zoom, shear, and its shift in x and in y."""


class Strengths(Protocol):
    """How far each warp may go to either side; the `augment` section of a recipe."""

    rotate: float
    shift: float
    zoom: float
    shear: float


def affine(draws: tf.Tensor, strengths: Strengths, size: int, output_size: int) -> tf.Tensor:
    """Compose each image's warp and the resize from `size` to `output_size` pixels a side.

    Rotation, zoom and shear are about the image's centre. Everything drawn at 0 gives the plain
    resize with half-pixel centres.

    Args:
        draws: float32, (N, 5), in [-1, 1]: where between its two extremes each image's rotation,
            zoom, shear, shift in x and shift in y lie.
        strengths: the extremes: rotate in degrees, counter-clockwise; zoom as a fraction, above 0
            to enlarge; shear as the tangent of its angle; shift in input pixels, right and down.
        size: side of the input images, in pixels.
        output_size: side of the warped images, in pixels.

    Returns:
        float32, (N, 6): a, b, x0, c, d, y0 of the map from output to input pixel coordinates,
        x = a x' + b y' + x0 and y = c x' + d y' + y0.
    """
    turn, zoom, shear, right, down = tf.unstack(draws, axis=1)
    angle = turn * (strengths.rotate * np.pi / 180)
    zoomed = 1 + zoom * strengths.zoom
    sheared = shear * strengths.shear
    # Output to input is the inverse warp: undo the zoom, then the rotation, then the shear.
    scale = (size / output_size) / zoomed
    cos, sin = tf.cos(angle) * scale, tf.sin(angle) * scale
    a, b = cos - sheared * sin, -sin - sheared * cos
    c, d = sin, cos
    # x = (a b) (x' - output centre) + input centre - shift, in pixel-index coordinates.
    centre, output_centre = (size - 1) / 2, (output_size - 1) / 2
    x0 = centre - right * strengths.shift - (a + b) * output_centre
    y0 = centre - down * strengths.shift - (c + d) * output_centre
    return tf.stack([a, b, x0, c, d, y0], axis=1)


@tf.function(jit_compile=True)
def warp(images: tf.Tensor, transforms: tf.Tensor, output_size: int) -> tf.Tensor:
    """Apply one transform to each image, bilinearly; beyond the edge the edge pixel goes on.

    Written out and compiled by XLA, which makes one loop of it: a third of the time of
    TensorFlow's own ImageProjectiveTransformV3.

    Args:
        images: uint8, (N, size, size, 1).
        transforms: float32, (N, 6), from `affine`.
        output_size: side of the result, in pixels.

    Returns:
        float32, (N, output_size, output_size, 1), in [0, 1].
    """
    count, size = tf.shape(images)[0], images.shape[1]
    a, b, x0, c, d, y0 = tf.split(transforms[..., tf.newaxis], 6, axis=1)  # (N, 1, 1) each
    column = tf.range(output_size, dtype=tf.float32)
    row = column[:, tf.newaxis]
    x = tf.clip_by_value(a * column + b * row + x0, 0, size - 1)  # (N, output_size, output_size)
    y = tf.clip_by_value(c * column + d * row + y0, 0, size - 1)
    left, top = tf.cast(x, tf.int32), tf.cast(y, tf.int32)
    right_share, bottom_share = x - tf.cast(left, tf.float32), y - tf.cast(top, tf.float32)
    start = (tf.range(count) * size * size)[:, tf.newaxis, tf.newaxis] + top * size + left
    # At the last row and column the share of the next pixel is 0; stay inside for it.
    to_right = tf.cast(left < size - 1, tf.int32)
    to_below = tf.cast(top < size - 1, tf.int32) * size
    pixels = tf.reshape(images, [-1])

    def between(left_pixels: tf.Tensor) -> tf.Tensor:
        before = tf.cast(tf.gather(pixels, left_pixels), tf.float32)
        after = tf.cast(tf.gather(pixels, left_pixels + to_right), tf.float32)
        return before + (after - before) * right_share

    above, below = between(start), between(start + to_below)
    return ((above + (below - above) * bottom_share) / 255)[..., tf.newaxis]


def resize(images: tf.Tensor, output_size: int) -> tf.Tensor:
    """Plain bilinear resize with half-pixel centres, as the deployed models do it inside.

    Args:
        images: float32, (N, size, size, 1), in [0, 1].
        output_size: side of the result, in pixels.

    Returns:
        float32, (N, output_size, output_size, 1), in [0, 1].
    """
    if images.shape[1] == output_size:
        return images  # no op in the deployed graph
    return tf.image.resize(images, [output_size, output_size])


def to_unit(images: tf.Tensor) -> tf.Tensor:
    """Pixels of 0 to 255 as float32 in [0, 1]."""
    return tf.cast(images, tf.float32) / 255
