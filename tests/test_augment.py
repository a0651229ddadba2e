"""Warps on tiny exact arrays, eagerly and inside tf.data."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from keras_lenet.data import augment

NOTHING = {"rotate": 0.0, "shift": 0.0, "zoom": 0.0, "shear": 0.0}
TURN, ZOOM, SHEAR, RIGHT, DOWN = range(augment.PARAMETERS)


def prepare(image, draw, size, strengths):
    """One image as a batch, and a function that warps it with one number drawn at its extreme."""
    draws = np.zeros((1, augment.PARAMETERS), np.float32)
    if draw is not None:
        draws[0, draw] = 1
    side = size or len(image)

    def apply(images):
        settings = SimpleNamespace(**(NOTHING | strengths))
        transforms = augment.affine(tf.constant(draws), settings, len(image), side)
        return augment.warp(images, transforms, side)

    return image[np.newaxis, ..., np.newaxis], apply


def eagerly(image, draw=None, size=None, **strengths):
    """Warp one uint8 (S, S) image; 0 to 255 again."""
    images, apply = prepare(image, draw, size, strengths)
    return apply(tf.constant(images)).numpy()[0, ..., 0] * 255


def in_tf_data(image, draw=None, size=None, **strengths):
    """The same, traced into a graph by tf.data."""
    images, apply = prepare(image, draw, size, strengths)
    data = tf.data.Dataset.from_tensors(images).map(apply)
    return next(iter(data)).numpy()[0, ..., 0] * 255


GRID = np.arange(25, dtype=np.uint8).reshape(5, 5)
DOT = np.zeros((5, 5), np.uint8)
DOT[2, 2] = 100


@pytest.fixture(params=[eagerly, in_tf_data], ids=["eager", "tf.data"])
def apply(request):
    return request.param


def test_nothing_drawn_changes_nothing(apply):
    np.testing.assert_allclose(apply(GRID), GRID, atol=1e-4)


@pytest.mark.parametrize(("degrees", "turns"), [(90, 1), (180, 2)])
def test_rotation_is_counter_clockwise_about_the_centre(apply, degrees, turns):
    np.testing.assert_allclose(apply(GRID, TURN, rotate=degrees), np.rot90(GRID, turns), atol=1e-3)


def test_shift_moves_right_and_down_and_repeats_the_edge(apply):
    expected = np.concatenate([GRID[:, :1], GRID[:, :1], GRID[:, :-2]], axis=1)
    np.testing.assert_allclose(apply(GRID, RIGHT, shift=2.0), expected, atol=1e-3)
    expected = np.concatenate([GRID[:1], GRID[:-1]], axis=0)
    np.testing.assert_allclose(apply(GRID, DOWN, shift=1.0), expected, atol=1e-3)


def test_half_a_pixel_is_interpolated(apply):
    shifted = apply(DOT, RIGHT, shift=0.5)
    np.testing.assert_allclose(shifted[2], [0, 0, 50, 50, 0], atol=1e-3)


def test_zoom_enlarges_about_the_centre(apply):
    row = apply(np.tile(np.array([0, 0, 100, 0, 0], np.uint8), (5, 1)), ZOOM, zoom=0.999)[2]
    np.testing.assert_allclose(row, [0, 50, 100, 50, 0], atol=0.1)


def test_shear_moves_rows_against_each_other(apply):
    sheared = apply(np.tile(np.array([0, 0, 100, 0, 0], np.uint8), (5, 1)), SHEAR, shear=1.0)
    np.testing.assert_allclose(sheared, np.eye(5) * 100, atol=1e-3)


@pytest.mark.parametrize("size", [28, 32, 40])
def test_zero_strength_equals_the_plain_resize(apply, size):
    image = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)
    plain = augment.resize(augment.to_unit(image[np.newaxis, ..., np.newaxis]), size)
    np.testing.assert_allclose(apply(image, size=size), plain[0, ..., 0] * 255, atol=2e-3)
