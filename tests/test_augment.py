"""Warps and degradations on tiny exact arrays, eagerly, inside tf.data, and compiled."""

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


def draws_of(**drawn):
    """One image's draws: 0 but for those named."""
    row = np.zeros((1, augment.PARAMETERS), np.float32)
    for name, value in drawn.items():
        row[0, augment.DRAWS.index(name)] = value
    return row


def prepare(image, drawn, size, strengths):
    """One image as a batch, and a function that warps it with the numbers drawn."""
    warps = NOTHING.model_copy(update=strengths)
    change = augment.augmenter(warps, None, len(image), size or len(image))
    draws = tf.constant(draws_of(**drawn))
    return image[np.newaxis, ..., np.newaxis], lambda images: change(images, draws)


def eagerly(image, drawn, size=None, **strengths):
    """Warp one uint8 (S, S) image; 0 to 255 again."""
    images, apply = prepare(image, drawn, size, strengths)
    return apply(tf.constant(images)).numpy()[0, ..., 0] * 255


def in_tf_data(image, drawn, size=None, **strengths):
    """The same, traced into a graph by tf.data."""
    images, apply = prepare(image, drawn, size, strengths)
    data = tf.data.Dataset.from_tensors(images).map(apply)
    return next(iter(data)).numpy()[0, ..., 0] * 255


GRID = np.arange(25, dtype=np.uint8).reshape(5, 5)
DOT = np.zeros((5, 5), np.uint8)
DOT[2, 2] = 100


@pytest.fixture(params=[eagerly, in_tf_data], ids=["eager", "tf.data"])
def apply(request):
    return request.param


@pytest.mark.parametrize(
    ("drawn", "degrees", "turns"),
    [(1, 90, 1), (1, 180, 2), (-1, 90, -1), (0.5, 180, 1), (0, 180, 0)],
)
def test_rotation_is_counter_clockwise_about_the_centre(apply, drawn, degrees, turns):
    rotated = apply(GRID, {"turn": drawn}, rotate=degrees)
    np.testing.assert_allclose(rotated, np.rot90(GRID, turns), atol=1e-3)


@pytest.mark.parametrize(("drawn", "pixels"), [(1, 1), (-1, -1), (0.5, 2), (-0.5, -2)])
def test_shift_moves_right_and_down_and_repeats_the_edge(apply, drawn, pixels):
    source = np.clip(np.arange(5) - pixels, 0, 4)
    extreme = abs(pixels / drawn)
    shifted = apply(GRID, {"right": drawn}, shift=extreme)
    np.testing.assert_allclose(shifted, GRID[:, source], atol=1e-3)
    shifted = apply(GRID, {"down": drawn}, shift=extreme)
    np.testing.assert_allclose(shifted, GRID[source], atol=1e-3)


def test_half_a_pixel_is_interpolated(apply):
    shifted = apply(DOT, {"right": 1}, shift=0.5)
    np.testing.assert_allclose(shifted[2], [0, 0, 50, 50, 0], atol=1e-3)
    shifted = apply(DOT, {"down": 1}, shift=0.5)
    np.testing.assert_allclose(shifted[:, 2], [0, 0, 50, 50, 0], atol=1e-3)


@pytest.mark.parametrize(("drawn", "row"), [(1, [0, 50, 100, 50, 0]), (-0.5, [0, 0, 100, 0, 0])])
def test_zoom_enlarges_about_the_centre_and_below_zero_reduces(apply, drawn, row):
    line = np.tile(np.array([0, 0, 100, 0, 0], np.uint8), (5, 1))
    np.testing.assert_allclose(apply(line, {"zoom": drawn}, zoom=1.0)[2], row, atol=1e-3)
    np.testing.assert_allclose(apply(line.T, {"zoom": drawn}, zoom=1.0)[:, 2], row, atol=1e-3)


def test_shear_moves_rows_against_each_other(apply):
    line = np.tile(np.array([0, 0, 100, 0, 0], np.uint8), (5, 1))
    np.testing.assert_allclose(apply(line, {"shear": 1}, shear=1.0), np.eye(5) * 100, atol=1e-3)
    leaning = apply(line, {"shear": -1}, shear=1.0)
    np.testing.assert_allclose(leaning, np.eye(5)[::-1] * 100, atol=1e-3)


def test_shear_comes_before_rotation(apply):
    sheared = apply(GRID, {"shear": 1}, shear=1.0)
    both = apply(GRID, {"shear": 1, "turn": 1}, shear=1.0, rotate=90.0)
    np.testing.assert_allclose(both, np.rot90(sheared), atol=1e-3)


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
def test_zero_strength_equals_the_plain_resize(apply, size):
    image = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)
    plain = augment.resize(augment.to_unit(image[np.newaxis, ..., np.newaxis]), size)
    every = {"turn": 1, "zoom": 1, "shear": 1, "right": 1, "down": 1, "thickness": 1, "seed": 1}
    for drawn in ({}, every):
        found = apply(image, drawn, size=size)
        np.testing.assert_allclose(found, plain[0, ..., 0] * 255, atol=2e-3)


def test_the_plain_resize_has_half_pixel_centres_and_repeats_the_edge():
    image = tf.constant([[0.0, 1.0], [0.0, 1.0]])[tf.newaxis, ..., tf.newaxis]
    found = augment.resize(image, 4)
    np.testing.assert_allclose(found[0, ..., 0], [[0, 0.25, 0.75, 1]] * 4)
    assert augment.resize(image, 2) is image


def test_pixels_become_shares_of_255():
    np.testing.assert_array_equal(
        augment.to_unit(tf.constant([0, 51, 255], tf.uint8)), np.float32([0, 0.2, 1])
    )


def test_each_image_is_sampled_at_its_own_places_and_the_edge_goes_on():
    images = tf.constant([[[0, 100], [200, 40]], [[255, 255], [0, 0]]], tf.uint8)[..., tf.newaxis]
    x = tf.constant([[[0.25, 1], [-3, 9]], [[0, 0.5], [1, 1]]], tf.float32)
    y = tf.constant([[[0, 0.5], [-3, 9]], [[0, 0.2], [0.6, 4]]], tf.float32)
    expected = [[[25, 70], [0, 40]], [[255, 204], [102, 0]]]
    np.testing.assert_allclose(augment.sample(images, x, y) * 255, expected, atol=1e-3)


def test_strokes_grow_or_shrink_by_their_share_of_a_pixel():
    dot = np.pad(np.float32([[[1]]]), ((0, 0), (2, 2), (2, 2)))
    wide = np.pad(np.ones((1, 3, 3), np.float32), ((0, 0), (1, 1), (1, 1)))
    images = tf.constant(np.concatenate([dot, dot, wide, wide, 1 - dot]))
    changed = augment.thicken(images, tf.constant([1.0, 0.5, -1.0, -0.25, 1.0]))
    np.testing.assert_allclose(changed[0], wide[0])
    np.testing.assert_allclose(changed[1], (dot[0] + wide[0]) / 2)
    np.testing.assert_allclose(changed[2], dot[0])
    np.testing.assert_allclose(changed[3], 0.75 * wide[0] + 0.25 * dot[0])
    np.testing.assert_allclose(changed[4], np.ones((5, 5)))


def test_strokes_change_as_by_filters_of_three_by_three_up_to_the_edge():
    images = np.random.default_rng(0).random((2, 6, 6)).astype(np.float32)
    wide, thin = augment.thicken(tf.constant(images), tf.constant([1.0, -1.0]))
    np.testing.assert_allclose(wide, ndimage.maximum_filter(images[0], 3), atol=1e-6)
    np.testing.assert_allclose(thin, ndimage.minimum_filter(images[1], 3), atol=1e-6)


def test_thickness_is_the_draw_times_the_strength(apply):
    changed = apply(DOT, {"thickness": 0.5}, thickness=0.5)
    np.testing.assert_allclose(changed[1:4, 1:4], np.where(DOT[1:4, 1:4], 100, 25), atol=1e-3)


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
    seeds = tf.constant([0.3, -0.7])
    for coarse, fine in zip(
        augment.displacement(seeds, 28, 28), augment.displacement(seeds, 84, 28), strict=True
    ):
        np.testing.assert_allclose(coarse, fine[:, 1::3, 1::3], atol=1e-5)


def test_elastic_distortion_moves_pixels_by_the_field_times_its_strength():
    """On a ramp of 20 a pixel, what is read is 20 times where it is read, but for the edges."""
    ramp = np.tile(np.clip(20 * np.arange(28) - 200, 0, 240), (28, 1)).astype(np.uint8)
    across, down = augment.displacement(tf.constant([0.4]), 28, 28)
    for image, field in ((ramp, across[0]), (ramp.T, down[0])):
        moved = eagerly(image, {"seed": 0.4}, elastic=0.5) - image
        inner = (image > 40) & (image < 200)
        np.testing.assert_allclose(moved[inner], (20 * 0.5 * field)[inner], atol=1e-2)


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


def named(draws):
    """What `augmenter` hands on to what is drawn by name."""
    return {name: tf.constant(draws[:, place]) for place, name in enumerate(augment.DRAWS)}


def changed(draws, strengths, image=DISC, size=28):
    """Each row of draws applied to one image: 0 to 1, (N, size, size)."""
    images = np.repeat(image[np.newaxis, ..., np.newaxis], len(draws), axis=0)
    warps, harms = NOTHING.model_copy(update=strengths), Degrade().model_copy(update=strengths)
    change = augment.augmenter(warps, harms, 28, size)
    return change(tf.constant(images), tf.constant(draws)).numpy()[..., 0]


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


def test_what_is_drawn_with_no_strength_degrades_nothing():
    np.testing.assert_allclose(changed(drawn(8), {}), np.tile(DISC / 255, (8, 1, 1)), atol=1e-6)


@pytest.mark.parametrize(
    ("share", "chosen"),
    [
        (0.0, [False, False, False, False]),
        (0.25, [False, False, True, True]),
        (0.5, [False, True, True, True]),
        (1.0, [True, True, True, True]),
    ],
)
def test_a_share_of_the_images_is_chosen_by_their_draw(share, chosen):
    draws = tf.constant([-1.0, 0.0, 0.5, 0.99])
    assert augment.drawn(draws, share).numpy().tolist() == chosen


def test_only_the_chosen_share_is_degraded():
    draws = drawn(40, covered_level=1.0, covered_x=-1.0, covered_y=-1.0, covered_width=1.0)
    images = changed(draws, {"share": 0.3, "noise": 0.2})
    clean = np.abs(images - DISC / 255).max(axis=(1, 2)) < 1e-6
    spoilt = draws[:, augment.DRAWS.index("spoilt")]
    np.testing.assert_array_equal(clean, (spoilt + 1) / 2 < 0.7)
    assert 5 < clean.sum() < 35


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
    assert noise.mean() == pytest.approx(0, abs=1e-3)
    assert np.abs(np.corrcoef(noise.reshape(500, -1)[:100]) - np.eye(100)).max() < 0.2
    assert np.abs(np.corrcoef(noise.reshape(500, -1).T[:100]) - np.eye(100)).max() < 0.25
    strong = augment.add_noise(tf.fill((1, 28, 28), 0.5), tf.constant([3.0]), seeds[:1]).numpy()
    assert (strong.min(), strong.max()) == (0, 1)


def test_a_seed_gives_the_noise_and_clouds_that_it_always_gave():
    """Otherwise a published recipe no longer gives its published weights."""
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
    seeds = tf.constant([0.1, 0.2, 0.3])
    amount = tf.constant([0.0, 1.0, 3.0])
    dark = augment.cloud(tf.zeros((3, 28, 28)), amount, seeds).numpy()
    bright = augment.cloud(tf.ones((3, 28, 28)), amount, seeds).numpy()
    for index, share in enumerate((1, 1 / 2, 1 / 4)):
        np.testing.assert_allclose(bright[index] - dark[index], share, atol=1e-6)
        clouds = dark[index] / (1 - share) if share < 1 else np.array(0.5)
        assert 0 <= clouds.min() < clouds.max() + 1e-9 <= 1 + 1e-6
    assert dark[0].max() == 0


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
    draws = drawn(3)
    alone = np.concatenate([changed(row[np.newaxis], EVERYTHING, size=32) for row in draws])
    assert alone.shape == (3, 32, 32)
    tf.config.run_functions_eagerly(False)
    np.testing.assert_allclose(changed(draws, EVERYTHING, size=32), alone, atol=1e-5)
