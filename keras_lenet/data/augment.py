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
        float32, (N, 8): the projective transforms, from output to input pixel coordinates, that
        `warp` takes.
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
    zero = tf.zeros_like(a)
    return tf.stack([a, b, x0, c, d, y0, zero, zero], axis=1)


def warp(images: tf.Tensor, transforms: tf.Tensor, output_size: int) -> tf.Tensor:
    """Apply one transform to each image, bilinearly; beyond the edge the edge pixel goes on.

    Runs on the CPU inside tf.data: the op has no XLA kernel.

    Args:
        images: uint8, (N, size, size, 1).
        transforms: float32, (N, 8), from `affine`.
        output_size: side of the result, in pixels.

    Returns:
        float32, (N, output_size, output_size, 1), in [0, 1].
    """
    warped = tf.raw_ops.ImageProjectiveTransformV3(
        images=to_unit(images),
        transforms=transforms,
        output_shape=[output_size, output_size],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="NEAREST",
    )
    return tf.ensure_shape(warped, [None, output_size, output_size, 1])


def resize(images: tf.Tensor, output_size: int) -> tf.Tensor:
    """Plain bilinear resize with half-pixel centres, as the deployed models do it inside.

    Args:
        images: float32, (N, size, size, 1), in [0, 1].
        output_size: side of the result, in pixels.

    Returns:
        float32, (N, output_size, output_size, 1), in [0, 1].
    """
    return tf.image.resize(images, [output_size, output_size])


def to_unit(images: tf.Tensor) -> tf.Tensor:
    """Pixels of 0 to 255 as float32 in [0, 1]."""
    return tf.cast(images, tf.float32) / 255
