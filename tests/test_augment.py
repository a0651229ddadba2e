"""Warps on tiny exact arrays, eagerly and inside tf.data."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage

from keras_lenet.data import augment
from keras_lenet.recipe import Augment, Degrade

NOTHING = Augment(rotate=0.0, shift=0.0, zoom=0.0)
TURN, ZOOM, SHEAR, RIGHT, DOWN = range(5)


def prepare(image, draw, size, strengths):
    """One image as a batch, and a function that warps it with one number drawn at its extreme."""
    draws = np.zeros((1, augment.PARAMETERS), np.float32)
    if draw is not None:
        draws[0, draw] = 1
    warps = NOTHING.model_copy(update=strengths)
    change = augment.augmenter(warps, None, len(image), size or len(image))
    return image[np.newaxis, ..., np.newaxis], lambda images: change(images, tf.constant(draws))


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


DISC = (np.hypot(*(np.indices((28, 28)) - 13.5)) < 6).astype(np.uint8) * 255
EVERYTHING = {
    "elastic": 1.0, "thickness": 0.5, "light": 0.5, "clouds": 1.0, "noise": 0.2, "occlusion": 9.0,
}  # fmt: skip


def drawn(count, seed=0, **fixed):
    """Random draws for `count` images; those named are fixed."""
    draws = np.random.default_rng(seed).uniform(-1, 1, (count, augment.PARAMETERS))
    for name, value in fixed.items():
        draws[:, augment.DRAWS.index(name)] = value
    return draws.astype(np.float32)


def changed(draws, strengths, image=DISC, size=28):
    """Each row of draws applied to one image: 0 to 1, (N, size, size)."""
    images = np.repeat(image[np.newaxis, ..., np.newaxis], len(draws), axis=0)
    warps, harms = NOTHING.model_copy(update=strengths), Degrade().model_copy(update=strengths)
    change = augment.augmenter(warps, harms, 28, size)
    return change(tf.constant(images), tf.constant(draws)).numpy()[..., 0]


def test_a_displacement_has_unit_variance_everywhere_and_is_smooth():
    seeds = tf.random.stateless_uniform([4000], [0, 0], -1, 1)
    fields = np.stack([field.numpy() for field in augment.displacement(seeds, 32, 28)])
    assert np.abs(fields.std(axis=1) - 1).max() < 0.08
    assert np.abs(fields.mean(axis=1)).max() < 0.08
    # Two values a pixel apart in a Gaussian process smoothed by this bell: exp(-d²/4σ²).
    beside = np.mean(fields[..., 1:] * fields[..., :-1])
    assert beside == pytest.approx(np.exp(-((28 / 32) ** 2) / 4 / augment.SMOOTHNESS**2), abs=0.01)
    assert np.abs(np.mean(fields[0] * fields[1])) < 0.02


def test_elastic_distortion_bends_but_keeps_the_ink():
    images = changed(drawn(64), {"elastic": 1.0})
    assert np.abs(images - DISC / 255).mean(axis=(1, 2)).min() > 0.005
    assert images.sum(axis=(1, 2)).mean() == pytest.approx(DISC.sum() / 255, rel=0.05)


def test_strokes_grow_or_shrink_by_their_share_of_a_pixel():
    whole = changed(drawn(2, thickness=1.0), {"thickness": 1.0})[0]
    np.testing.assert_allclose(whole * 255, ndimage.maximum_filter(DISC, 3), atol=1e-3)
    whole = changed(drawn(2, thickness=-1.0), {"thickness": 1.0})[0]
    np.testing.assert_allclose(whole * 255, ndimage.minimum_filter(DISC, 3), atol=1e-3)
    half = changed(drawn(2, thickness=0.5), {"thickness": 1.0})[0]
    expected = (DISC / 255 + ndimage.maximum_filter(DISC, 3) / 255) / 2
    np.testing.assert_allclose(half, expected, atol=1e-5)


def test_only_a_share_of_the_images_is_spoilt():
    images = changed(drawn(2000), {"share": 0.3, "clouds": 1.0, "occlusion": 9.0, "noise": 0.2})
    clean = np.abs(images - DISC / 255).max(axis=(1, 2)) < 1e-6
    assert np.mean(~clean) == pytest.approx(0.3, abs=0.04)


def test_light_changes_its_share_of_the_images_and_keeps_a_contrast():
    images = changed(drawn(2000), {"light": 0.3})
    ink, paper = images[:, 14, 14], images[:, 0, 0]
    same = (ink == 1) & (paper == 0)
    assert np.mean(~same) == pytest.approx(0.3, abs=0.04)
    assert np.abs(ink - paper).min() > 0.0999
    assert images.min() >= 0
    assert images.max() <= 1
    assert 0.1 < np.mean(ink < paper) < 0.2


def test_what_is_covered_is_a_rectangle_of_one_grey():
    fixed = {"covered_x": 0.0, "covered_y": 0.0, "covered_width": 1.0, "covered_height": 0.5}
    image = changed(drawn(1, covered_level=0.0, **fixed), {"occlusion": 8.0})[0]
    rows, columns = np.nonzero(image == 0.5)
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (4, 8)
    untouched = image != 0.5
    np.testing.assert_array_equal(image[untouched], DISC[untouched] / 255)


def test_noise_has_the_drawn_deviation():
    grey = np.full((28, 28), 128, np.uint8)
    images = changed(drawn(500, noise=1.0), {"noise": 0.1}, grey)
    assert images.std(axis=0).mean() == pytest.approx(0.1, rel=0.03)
    assert np.abs(np.corrcoef(images.reshape(500, -1).T[:100]) - np.eye(100)).max() < 0.25
    mild = changed(drawn(500, noise=0.5), {"noise": 0.1}, grey)
    assert mild.std(axis=0).mean() == pytest.approx(0.025, rel=0.05)


def test_little_contrast_dims_the_noise_too():
    grey = np.full((28, 28), 128, np.uint8)
    draws = drawn(500, noise=1.0, ink=0.2, paper=0.0)  # greys 0.6 and 0.5
    images = changed(draws, {"noise": 0.1, "light": 1.0}, grey)
    assert images.std(axis=0).mean() == pytest.approx(0.01, rel=0.03)


def test_clouds_are_smooth_and_leave_full_ink_full():
    images = changed(drawn(200, clouds=1.0), {"clouds": 1.0}, np.full((28, 28), 255, np.uint8))
    assert images.max() <= 1
    assert images.min() >= 0.5
    rough = np.abs(np.diff(images, axis=2)).mean()
    assert 0 < rough < images.std() / 2


@pytest.mark.parametrize("size", [28, 32])
def test_an_image_is_changed_alike_in_any_batch(size):
    draws = drawn(6)
    together = changed(draws, EVERYTHING, size=size)
    alone = np.concatenate([changed(row[np.newaxis], EVERYTHING, size=size) for row in draws])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert together.shape == (6, size, size)
