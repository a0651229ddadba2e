"""Augmentation and degradation on tiny exact arrays, and compiled."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage

from keras_lenet.data import augment
from keras_lenet.recipe import Augment, Degrade

# TensorFlow warns that tf.data traces its functions nevertheless.
pytestmark = pytest.mark.filterwarnings("ignore:Even though the .tf.config")

NOTHING = Augment(rotate=0.0, shift=0.0, zoom=0.0)


@pytest.fixture(autouse=True)
def _uncompiled():
    """XLA compiles for seconds what is computed in milliseconds."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def drawn(count, rng=0, **fixed):
    """Random draws for `count` images; those named are fixed."""
    draws = np.random.default_rng(rng).uniform(-1, 1, (count, len(augment.DRAWS)))
    for name, value in fixed.items():
        draws[:, augment.DRAWS.index(name)] = value
    return draws.astype(np.float32)


def named(draws):
    """The draws by name, as `augmenter` hands them on."""
    return {name: tf.constant(draws[:, place]) for place, name in enumerate(augment.DRAWS)}


DISC = (np.hypot(*(np.indices((28, 28)) - 13.5)) < 6).astype(np.uint8) * 255


def changed(draws, strengths, image=DISC, size=None):
    """Apply each row of draws to one image: 0 to 1, (N, size, size)."""
    images = np.repeat(image[np.newaxis, ..., np.newaxis], len(draws), axis=0)
    limits = NOTHING.model_copy(update=strengths), Degrade().model_copy(update=strengths)
    change = augment.augmenter(*limits, len(image), size or len(image))
    return change(tf.constant(images), tf.constant(draws)).numpy()[..., 0]


GRID = np.arange(25, dtype=np.uint8).reshape(5, 5)


@pytest.mark.parametrize(
    ("draws", "strengths", "expected"),
    [
        ({"turn": 1}, {"rotate": 90}, np.rot90(GRID)),  # counter-clockwise
        ({"right": 0.5, "down": 0}, {"shift": 2}, GRID[:, [0, 0, 1, 2, 3]]),
        ({"right": 0, "down": 1}, {"shift": 1}, GRID[[0, 0, 1, 2, 3]]),
        ({"right": 0, "down": -0.5}, {"shift": 1}, GRID + np.array([[2.5]] * 4 + [[0]])),
        ({"zoom": 1}, {"zoom": 1}, 12 + (GRID - 12.0) / 2),
    ],
)
def test_augmentation_moves_pixels_and_repeats_the_edge(draws, strengths, expected):
    found = changed(drawn(1, **draws), strengths, GRID)[0] * 255
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_images_are_the_affine_map_sampled_bilinearly():
    image = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)
    strengths = {"rotate": 60, "zoom": 0.5, "shear": 0.5, "shift": 6}
    draws = drawn(20)
    limits = NOTHING.model_copy(update=strengths)
    maps = augment.affine(tf.constant(draws[:, : augment.AFFINE]), limits, 28, 32).numpy()
    for found, (a, b, x0, c, d, y0) in zip(changed(draws, strengths, image, 32), maps, strict=True):
        expected = ndimage.affine_transform(
            image.astype(float), [[d, c], [b, a]], (y0, x0), (32, 32), order=1, mode="nearest"
        )
        np.testing.assert_allclose(found * 255, expected, atol=0.1)


@pytest.mark.parametrize(
    ("drawn", "limits", "sizes", "expected"),
    [
        ((0, 0, 0, 0, 0), {}, (4, 8), (0.5, 0, -0.25, 0, 0.5, -0.25)),
        # A shift is in pixels of the input.
        ((0, 0, 0, 1, -0.5), {"shift": 2}, (4, 8), (0.5, 0, -2.25, 0, 0.5, 0.75)),
        ((0, -0.5, 0, 0, 0), {"zoom": 1}, (5, 5), (2, 0, -2, 0, 2, -2)),
        ((1, 1, 1, 0, 0), {"rotate": 90, "zoom": 1, "shear": 0.5}, (5, 5),
         (-0.25, -0.5, 3.5, 0.5, 0, 1)),
    ],
)  # fmt: skip
def test_augmentation_is_one_affine_map_from_output_to_input(drawn, limits, sizes, expected):
    draws = tf.constant([drawn], tf.float32)
    found = augment.affine(draws, NOTHING.model_copy(update=limits), *sizes)
    np.testing.assert_allclose(found, [expected], atol=1e-6)


@pytest.mark.parametrize("size", [28, 32])
def test_zero_strength_equals_the_plain_resize(size):
    image = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)
    plain = augment.resize(augment.to_unit(image[np.newaxis, ..., np.newaxis]), size)
    found = changed(drawn(3), {}, image, size)
    np.testing.assert_allclose(found, np.repeat(plain[..., 0], 3, axis=0), atol=1e-5)


def test_the_plain_resize_has_half_pixel_centres_and_repeats_the_edge():
    image = tf.constant([[0.0, 1.0], [0.0, 1.0]])[tf.newaxis, ..., tf.newaxis]
    found = augment.resize(image, 4)
    np.testing.assert_allclose(found[0, ..., 0], [[0, 0.25, 0.75, 1]] * 4)
    assert augment.resize(image, 2) is image


def test_strokes_go_their_share_of_the_way_to_the_neighbours_extreme():
    images = np.random.default_rng(0).random((5, 6, 6)).astype(np.float32)
    amounts = [1.0, -1.0, 0.5, -0.25, 0.0]
    found = augment.thicken(tf.constant(images), tf.constant(amounts))
    for image, amount, thickened in zip(images, amounts, found, strict=True):
        extreme = ndimage.maximum_filter if amount > 0 else ndimage.minimum_filter
        expected = image + abs(amount) * (extreme(image, 3) - image)
        np.testing.assert_allclose(thickened, expected, atol=1e-6)


def test_a_displacement_has_unit_variance_everywhere_and_is_smooth():
    seeds = tf.random.stateless_uniform([4000], [0, 0], -1, 1)
    fields = np.stack([field.numpy() for field in augment.displacement(seeds, 32, 28)])
    assert np.abs(fields.std(axis=1) - 1).max() < 0.08
    assert np.abs(fields.mean(axis=1)).max() < 0.08
    # Two values a pixel apart in a Gaussian process smoothed by this bell: exp(-d²/4σ²).
    beside = np.mean(fields[..., 1:] * fields[..., :-1])
    assert beside == pytest.approx(np.exp(-((28 / 32) ** 2) / 4 / augment.SMOOTHNESS**2), abs=0.01)
    assert np.abs(np.mean(fields[0] * fields[1])) < 0.02


def test_elastic_distortion_moves_pixels_by_the_field_times_its_strength():
    """On a ramp of 20 a pixel, a move by one pixel changes the value by 20, but for the edges."""
    ramp = np.tile(np.clip(20 * np.arange(28) - 200, 0, 240), (28, 1)).astype(np.uint8)
    across, down = augment.displacement(tf.constant([0.4]), 28, 28)
    for image, field in ((ramp, across[0]), (ramp.T, down[0])):
        moved = changed(drawn(1, seed=0.4), {"elastic": 0.5}, image)[0] * 255 - image
        inner = (image > 40) & (image < 200)
        np.testing.assert_allclose(moved[inner], (20 * 0.5 * field)[inner], atol=1e-2)


def test_light_gives_paper_and_ink_the_drawn_greys():
    """At least a tenth apart, and in [0, 1]; the last image is not lit."""
    ink, paper, lit = [0.5, -0.5, 0.0, 1.0, -1.0, 0.5], [-0.5, 0.5, 0.0, 1.0, -0.95, 1.0], [1] * 5
    draws = {"ink": ink, "paper": paper, "lit": [*lit, -0.1]}
    draws = {name: tf.constant(values, tf.float32) for name, values in draws.items()}
    found = augment.relight(tf.constant([[[0.0, 1.0]]] * 6), 0.5, draws)[:, 0]
    greys = [(0.25, 0.75), (0.75, 0.25), (0.5, 0.6), (0.9, 1.0), (0.1, 0.0), (0, 1)]
    np.testing.assert_allclose(found, greys, atol=1e-6)


def test_a_cover_is_a_rectangle_of_one_grey():
    fixed = {"covered_x": 0.5, "covered_y": -0.5, "covered_width": -1.0, "covered_height": 0.5}
    by_name = named(drawn(1, covered_level=0.2, **fixed))
    covered = augment.cover(tf.zeros((1, 13, 13)), 8.0, by_name).numpy()[0]
    expected = np.zeros((13, 13))
    expected[2:5, 6:13] = 0.6  # around row 3 and column 9: less than 2 and 4 away
    np.testing.assert_allclose(covered, expected, atol=1e-6)


@pytest.mark.slow
def test_draws_give_the_images_of_published_runs_in_any_batch_and_by_xla():
    everything = {
        "rotate": 20, "shift": 2, "zoom": 0.2, "shear": 0.3, "elastic": 1.0, "thickness": 0.5,
        "share": 0.6, "light": 0.6, "clouds": 1.5, "noise": 0.3, "occlusion": 9,
    }  # fmt: skip
    draws = drawn(8)
    alone = np.concatenate([changed(row[np.newaxis], everything, size=32) for row in draws])
    means = (alone * np.random.default_rng(1).random((32, 32))).mean((1, 2))
    published = [0.41883, 0.07381, 0.10948, 0.08915, 0.27506, 0.42321, 0.08331, 0.05977]
    np.testing.assert_allclose(means, published, atol=1e-4)
    assert alone.min() >= 0
    assert alone.max() <= 1
    tf.config.run_functions_eagerly(False)
    np.testing.assert_allclose(changed(draws, everything, size=32), alone, atol=1e-5)
