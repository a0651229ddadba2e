"""Augmentation and degradation on tiny exact arrays, and compiled."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage

from keras_lenet.data import augment
from keras_lenet.recipe import Augment, Degrade

# TensorFlow's warning that tf.data traces its functions nevertheless, which is what is wanted.
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
    warps, harms = NOTHING.model_copy(update=strengths), Degrade().model_copy(update=strengths)
    change = augment.augmenter(warps, harms, len(image), size or len(image))
    return change(tf.constant(images), tf.constant(draws)).numpy()[..., 0]


GRID = np.arange(25, dtype=np.uint8).reshape(5, 5)


@pytest.mark.parametrize(
    ("draws", "strengths", "expected"),
    [
        ({"turn": 1}, {"rotate": 90}, np.rot90(GRID)),  # counter-clockwise
        ({"turn": -0.5}, {"rotate": 180}, np.rot90(GRID, -1)),
        ({"right": 0.5, "down": 0}, {"shift": 2}, GRID[:, [0, 0, 1, 2, 3]]),
        ({"right": -1, "down": 0}, {"shift": 2}, GRID[:, [2, 3, 4, 4, 4]]),
        ({"right": 0, "down": 1}, {"shift": 1}, GRID[[0, 0, 1, 2, 3]]),
        ({"right": 0, "down": -0.5}, {"shift": 1}, GRID + np.array([[2.5]] * 4 + [[0]])),
        ({"zoom": 1}, {"zoom": 1}, 12 + (GRID - 12.0) / 2),
    ],
)
def test_warps_move_pixels_and_repeat_the_edge(draws, strengths, expected):
    found = changed(drawn(1, **draws), strengths, GRID)[0] * 255
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_every_warp_is_the_affine_map_sampled_bilinearly():
    image = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)
    strengths = {"rotate": 60, "zoom": 0.5, "shear": 0.5, "shift": 6}
    draws = drawn(20)
    warps = NOTHING.model_copy(update=strengths)
    maps = augment.affine(tf.constant(draws[:, : augment.AFFINE]), warps, 28, 32).numpy()
    for found, (a, b, x0, c, d, y0) in zip(changed(draws, strengths, image, 32), maps, strict=True):
        expected = ndimage.affine_transform(
            image.astype(float), [[d, c], [b, a]], (y0, x0), (32, 32), order=1, mode="nearest"
        )
        np.testing.assert_allclose(found * 255, expected, atol=0.1)


@pytest.mark.parametrize(
    ("drawn", "warps", "sizes", "expected"),
    [
        ((0, 0, 0, 0, 0), {}, (5, 5), (1, 0, 0, 0, 1, 0)),
        ((0, 0, 0, 0, 0), {}, (4, 8), (0.5, 0, -0.25, 0, 0.5, -0.25)),
        # A shift is in pixels of the input, whatever the size of the output and the zoom.
        ((0, 0, 0, 1, -0.5), {"shift": 2}, (4, 8), (0.5, 0, -2.25, 0, 0.5, 0.75)),
        ((0, 1, 0, 1, 0), {"shift": 1, "zoom": 1}, (5, 5), (0.5, 0, 0, 0, 0.5, 1)),
        ((0, -0.5, 0, 0, 0), {"zoom": 1}, (5, 5), (2, 0, -2, 0, 2, -2)),
        ((1, 0, 0, 0, 0), {"rotate": 90}, (5, 5), (0, -1, 4, 1, 0, 0)),
        ((0, 0, 1, 0, 0), {"shear": 1}, (5, 5), (1, -1, 2, 0, 1, 0)),
        ((1, 1, 1, 0, 0), {"rotate": 90, "zoom": 1, "shear": 0.5}, (5, 5),
         (-0.25, -0.5, 3.5, 0.5, 0, 1)),
    ],
)  # fmt: skip
def test_the_warps_are_one_affine_map_from_output_to_input(drawn, warps, sizes, expected):
    draws = tf.constant([drawn], tf.float32)
    found = augment.affine(draws, NOTHING.model_copy(update=warps), *sizes)
    np.testing.assert_allclose(found, [expected], atol=1e-6)


@pytest.mark.parametrize("size", [28, 32, 40])
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


def test_pixels_become_shares_of_255():
    np.testing.assert_array_equal(
        augment.to_unit(tf.constant([0, 51, 255], tf.uint8)), np.float32([0, 0.2, 1])
    )


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


def test_a_displacement_is_the_same_field_at_any_size():
    """Every third of 84 pixels' centres is one of 28 pixels' centres."""
    coarse, fine = (augment.displacement(tf.constant([0.3, -0.7]), side, 28) for side in (28, 84))
    np.testing.assert_allclose(coarse, np.array(fine)[..., 1::3, 1::3], atol=1e-5)


def test_elastic_distortion_moves_pixels_by_the_field_times_its_strength():
    """On a ramp of 20 a pixel, a move by one pixel changes the value by 20, but for the edges."""
    ramp = np.tile(np.clip(20 * np.arange(28) - 200, 0, 240), (28, 1)).astype(np.uint8)
    across, down = augment.displacement(tf.constant([0.4]), 28, 28)
    for image, field in ((ramp, across[0]), (ramp.T, down[0])):
        moved = changed(drawn(1, seed=0.4), {"elastic": 0.5}, image)[0] * 255 - image
        inner = (image > 40) & (image < 200)
        np.testing.assert_allclose(moved[inner], (20 * 0.5 * field)[inner], atol=1e-2)


@pytest.mark.parametrize("size", [28, 56])
def test_a_page_is_clouded_then_covered_then_made_noisy_then_lit(size):
    """Clouds and noise by the square of what is drawn; a cover in pixels of the input."""
    draws = drawn(8)
    by_name = named(draws)
    pixels = augment.resize(augment.to_unit(DISC[np.newaxis, ..., np.newaxis]), size)[..., 0]
    expected = tf.repeat(pixels, len(draws), axis=0)
    expected = augment.thicken(expected, 0.5 * by_name["thickness"])
    expected = augment.cloud(expected, 1.5 * by_name["clouds"] ** 2, by_name["seed"])
    expected = augment.cover(expected, 9.0 * size / 28, by_name)
    expected = augment.add_noise(expected, 0.3 * by_name["noise"] ** 2, by_name["seed"])
    expected = augment.relight(expected, 0.6, by_name)
    strengths = {"thickness": 0.5, "clouds": 1.5, "noise": 0.3, "occlusion": 9.0, "light": 0.6}
    np.testing.assert_allclose(changed(draws, strengths, size=size), expected, atol=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_only_the_chosen_share_is_degraded(share):
    draws = drawn(40)
    draws[0, augment.DRAWS.index("spoilt")] = -1
    images = changed(draws, {"share": share, "noise": 0.2})
    clean = np.abs(images - DISC / 255).max(axis=(1, 2)) < 1e-6
    spoilt = draws[:, augment.DRAWS.index("spoilt")]
    np.testing.assert_array_equal(clean, (spoilt + 1) / 2 < 1 - share)


@pytest.mark.parametrize(
    ("ink", "paper", "greys"),
    [
        (1.0, -1.0, (0.0, 1.0)),
        (-1.0, 1.0, (1.0, 0.0)),
        (0.5, -0.5, (0.25, 0.75)),
        (-0.5, 0.5, (0.75, 0.25)),
        # At least a tenth apart, within 0 to 1.
        (0.0, 0.0, (0.5, 0.6)),
        (-0.1, 0.0, (0.5, 0.4)),
        (1.0, 1.0, (0.9, 1.0)),
        (-1.0, -0.95, (0.1, 0.0)),
    ],
)
def test_light_gives_paper_and_ink_the_greys_that_are_drawn(ink, paper, greys):
    page = tf.constant([[[0.0, 1.0]]])
    lit = {"lit": tf.constant([1.0]), "ink": tf.constant([ink]), "paper": tf.constant([paper])}
    np.testing.assert_allclose(augment.relight(page, 0.5, lit)[0], [greys], atol=1e-6)
    unlit = lit | {"lit": tf.constant([-0.1])}
    np.testing.assert_allclose(augment.relight(page, 0.5, unlit), page)


def test_what_is_covered_is_a_rectangle_of_one_grey():
    fixed = {"covered_x": 0.5, "covered_y": -0.5, "covered_width": -1.0, "covered_height": 0.5}
    by_name = named(drawn(1, covered_level=0.2, **fixed))
    covered = augment.cover(tf.zeros((1, 13, 13)), 8.0, by_name).numpy()[0]
    expected = np.zeros((13, 13))
    expected[2:5, 6:13] = 0.6  # around row 3 and column 9: less than 2 and 4 away
    np.testing.assert_allclose(covered, expected, atol=1e-6)


def test_noise_has_its_deviation_and_is_clipped():
    seeds = tf.random.stateless_uniform([500], [0, 0], -1, 1)
    noise = augment.add_noise(tf.fill((500, 28, 28), 0.5), tf.fill(500, 0.1), seeds).numpy() - 0.5
    assert noise.std(axis=0).mean() == pytest.approx(0.1, rel=0.03)
    strong = augment.add_noise(tf.fill((1, 28, 28), 0.5), tf.constant([3.0]), seeds[:1]).numpy()
    assert (strong.min(), strong.max()) == (0, 1)


def test_a_seed_gives_the_noise_and_clouds_of_published_runs():
    seeds = tf.constant([0.0, 0.25])
    noise = augment.add_noise(tf.fill((2, 2, 2), 0.5), tf.fill(2, 0.1), seeds).numpy()
    clouds = augment.cloud(tf.zeros((2, 2, 2)), tf.ones(2), seeds).numpy() * 2
    fields = [field.numpy()[:, 0, 0] for field in augment.displacement(seeds, 28, 28)]
    np.testing.assert_allclose(
        noise.ravel(),
        [0.370095, 0.367389, 0.552774, 0.335589, 0.50203, 0.548038, 0.311232, 0.38701],
        atol=1e-5,
    )
    np.testing.assert_allclose(
        clouds.ravel(),
        [0.621934, 0.525828, 0.917805, 0.740879, 0.567846, 0.47991, 0.050448, 0.801551],
        atol=1e-4,
    )
    np.testing.assert_allclose(fields, [[-0.784703, -0.228937], [0.733154, 1.376897]], atol=1e-4)


def test_clouds_are_added_and_the_sum_brought_back_to_full_ink():
    seeds, amount = tf.constant([0.1, 0.2, 0.3]), tf.constant([0.0, 1.0, 3.0])
    dark = augment.cloud(tf.zeros((3, 28, 28)), amount, seeds).numpy()
    bright = augment.cloud(tf.ones((3, 28, 28)), amount, seeds).numpy()
    for share, one, other in zip((1, 1 / 2, 1 / 4), dark, bright, strict=True):
        np.testing.assert_allclose(other - one, share, atol=1e-6)
        assert 0 <= one.min() <= one.max() <= 1 - share + 1e-6


def test_clouds_are_smooth_with_a_fine_grain():
    """As logits: 1.5 times a smooth field of unit variance, and 0.3 times one of 2×2 blocks."""
    seeds = tf.random.stateless_uniform([1000], [0, 0], -1, 1)
    clouds = augment.cloud(tf.zeros((1000, 28, 28)), tf.ones(1000), seeds).numpy() * 2
    logits = np.log(clouds / (1 - clouds))
    assert logits.std() == pytest.approx(np.hypot(1.5, 0.3), rel=0.03)
    assert logits.mean() == pytest.approx(0, abs=0.05)
    for beside in (np.diff(logits, axis=1), np.diff(logits, axis=2).transpose(0, 2, 1)):
        within, between = beside[:, ::2].var(), beside[:, 1::2].var()
        smooth = 2 * 1.5**2 * (1 - np.exp(-1 / 4 / augment.SMOOTHNESS**2))
        assert within == pytest.approx(smooth, rel=0.1)
        assert between - within == pytest.approx(2 * 0.3**2, rel=0.1)


@pytest.mark.slow
def test_an_image_is_changed_alike_in_any_batch_and_compiled():
    everything = {"elastic": 1.0, "thickness": 0.5, "light": 0.5}
    everything |= {"clouds": 1.0, "noise": 0.2, "occlusion": 9.0}
    draws = drawn(3)
    alone = np.concatenate([changed(row[np.newaxis], everything, size=32) for row in draws])
    assert alone.shape == (3, 32, 32)
    tf.config.run_functions_eagerly(False)
    np.testing.assert_allclose(changed(draws, everything, size=32), alone, atol=1e-5)
