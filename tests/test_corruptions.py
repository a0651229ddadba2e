"""Corruptions of drawn digits."""

import numpy as np
import pytest
from conftest import draw_digits

from keras_lenet.data import corruptions
from keras_lenet.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt

DIGITS = draw_digits(60, 5)[0]
RANDOM = [
    "translate",
    "rotate",
    "shear",
    "gaussian_noise",
    "impulse_noise",
    "fog",
    "occlusion",
]


def cross():
    """Two bars, each 3 pixels wide, that cross at the centre: uint8 (1, 28, 28)."""
    image = np.zeros((1, 28, 28), np.uint8)
    image[:, 12:15, 6:22] = image[:, 6:22, 12:15] = 255
    return image


def strokes():
    """Three marks of two strokes, none of them symmetric: uint8 (3, 28, 28)."""
    image = np.zeros((28, 28), np.uint8)
    image[6:9, 6:21], image[9:22, 16:19] = 255, 200
    return np.stack([image, image.T, image[::-1]])


SIZES = {
    "translate": (54.08, 54.39, 54.92, 54.96, 55.26),
    "rotate": (51.29, 51.23, 51.06, 50.23, 50.39),
    "scale": (43.83, 39.93, 32.62, 31.97, 23.1),
    "shear": (51.9, 51.04, 50.71, 50.52, 51.11),
    "thicken": (56.04, 58.86, 62.74, 67.05, 70.81),
    "thin": (49.15, 44.26, 38.93, 32.68, 26.82),
    "gaussian_noise": (54.52, 55.27, 57.07, 60.62, 68.16),
    "impulse_noise": (57.92, 61.82, 65.73, 74.16, 81.82),
    "gaussian_blur": (52.83, 45.36, 40.45, 36.45, 33.24),
    "contrast": (40.09, 31.17, 23.41, 20.66, 18.37),
    "brightness": (59.5, 68.67, 78.95, 91.52, 105.57),
    "fog": (55.34, 62.63, 68.53, 72.94, 78.87),
    "stripe": (102.01, 112.66, 123.4, 131.84, 138.69),
    "occlusion": (55.08, 55.96, 57.34, 56.9, 56.03),
    "inverse": (34.74, 69.49, 104.23, 138.98, 173.72),
}
"""Root mean squares of `strokes()` at each severity, every place with a weight of its own."""


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_severity_has_the_strength_that_published_figures_were_measured_at(name):
    weights = np.random.default_rng(0).random((28, 28))
    corrupted = [corrupt(strokes(), name, severity, 0).astype(float) for severity in SEVERITIES]
    found = [np.sqrt((images**2 * weights).mean()) for images in corrupted]
    np.testing.assert_allclose(found, SIZES[name], atol=0.02)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_corruption_gives_new_images_of_the_same_kind(name):
    before = DIGITS.copy()
    for severity in SEVERITIES:
        corrupted = corrupt(DIGITS, name, severity, 0)
        assert corrupted.shape == DIGITS.shape
        assert corrupted.dtype == np.uint8
        assert (corrupted != DIGITS).any((1, 2)).all()
    np.testing.assert_array_equal(DIGITS, before)
    assert corrupt(DIGITS[:0], name, 3, 0).shape == (0, 28, 28)


@pytest.mark.parametrize("name", [name for name in CORRUPTIONS if name != "scale"])
def test_severity_takes_images_farther_from_the_original(name):
    distances = [
        np.abs(corrupt(DIGITS, name, severity, 0) - DIGITS.astype(float)).mean()
        for severity in SEVERITIES
    ]
    assert np.diff([0, *distances]).min() > 0


def test_severity_leaves_a_scaled_digit_ever_less_ink():
    # Its distance is no measure: the smaller a digit, the less ink lies in a wrong place.
    ink = [corrupt(DIGITS, "scale", severity, 0).mean((1, 2)) for severity in SEVERITIES]
    assert np.diff([DIGITS.mean((1, 2)), *ink], axis=0).max() < 0


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_seed_decides_what_is_random(name):
    first = corrupt(DIGITS, name, 4, 0)
    np.testing.assert_array_equal(first, corrupt(DIGITS, name, 4, 0))
    assert np.array_equal(first, corrupt(DIGITS, name, 4, 1)) == (name not in RANDOM)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_an_image_does_not_depend_on_those_after_it(name, monkeypatch):
    whole = corrupt(DIGITS, name, 2, 0)
    np.testing.assert_array_equal(corrupt(DIGITS[:13], name, 2, 0), whole[:13])
    monkeypatch.setattr(corruptions, "_CHUNK", 7)
    np.testing.assert_array_equal(corrupt(DIGITS, name, 2, 0), whole)


@pytest.mark.parametrize(("name", "severity"), [("blur", 1), ("fog", 0), ("fog", 6)])
def test_what_there_is_not_is_refused(name, severity):
    with pytest.raises((KeyError, ValueError)):
        corrupt(DIGITS, name, severity, 0)


def test_translate_shifts_by_whole_pixels_every_way():
    image = np.pad(DIGITS[0][6:22, 6:22], 6)  # nothing leaves the field
    shifted = corrupt(np.stack([image] * 40), "translate", 4, 0)
    ways = {
        (y, x): sum(np.array_equal(np.roll(image, (y, x), (0, 1)), one) for one in shifted)
        for y in (-4, 4)
        for x in (-4, 4)
    }
    assert sum(ways.values()) == 40
    assert min(ways.values()) > 0


def test_rotate_takes_a_mark_to_its_place_either_way():
    image = np.zeros((28, 28), np.uint8)
    image[13:15, 21:24] = 255  # 8.5 pixels right of the centre
    rotated = corrupt(np.stack([image] * 20), "rotate", 4, 0).astype(float)
    mass = rotated.sum((1, 2))
    y, x = ((rotated.sum(axis) @ np.arange(28)) / mass - 13.5 for axis in (2, 1))
    np.testing.assert_allclose(x, 8.5 * np.cos(0.6), atol=0.05)
    np.testing.assert_allclose(np.abs(y), 8.5 * np.sin(0.6), atol=0.05)
    assert len(np.unique(np.sign(y))) == 2


def test_shear_moves_rows_by_their_height():
    image = np.zeros((28, 28), np.uint8)
    image[4:24, 12:16] = 255
    sheared = corrupt(np.stack([image] * 20), "shear", 2, 0)
    middle = sheared[:, 4:24].astype(float) @ np.arange(28) / (4 * 255)
    slope = (middle[:, -1] - middle[:, 0]) / 19
    np.testing.assert_allclose(np.abs(slope), 0.3, atol=0.01)
    assert len(np.unique(np.sign(slope))) == 2


def test_scale_halves_a_square():
    image = np.zeros((1, 28, 28), np.uint8)
    image[:, 6:22, 6:22] = 255
    expected = np.zeros_like(image)
    expected[:, 10:18, 10:18] = 255
    np.testing.assert_array_equal(corrupt(image, "scale", 5, 0), expected)


def test_strokes_become_wider_and_narrower_by_the_share_that_is_said():
    image = np.zeros((1, 28, 28), np.uint8)
    image[:, 4:24, 12:16] = 255  # 4 pixels wide; mean width by area and outline 80 / 24

    def width(corrupted):
        return corrupted[0, 14].sum() / 255

    change = 80 / 24  # of which a hard edge, such as these, costs up to an eighth on either side
    for name, severity, share in (("thicken", 5, 1), ("thicken", 2, 0.4), ("thin", 5, -0.7)):
        expected = pytest.approx(4 + share * change, abs=0.25)
        assert width(corrupt(image, name, severity, 0)) == expected


def test_noise_has_the_strength_that_is_said():
    grey = np.full((50, 28, 28), 128, np.uint8)
    noise = corrupt(grey, "gaussian_noise", 2, 0).astype(float) - 128
    assert noise.std() == pytest.approx(0.12 * 255, rel=0.02)
    assert noise.mean() == pytest.approx(0, abs=0.5)
    values = corrupt(grey, "impulse_noise", 5, 0)
    for value in (0, 255):
        assert (values == value).mean() == pytest.approx(0.135, abs=0.01)
    assert set(np.unique(values)) == {0, 128, 255}


def test_blur_keeps_the_ink_and_spreads_it():
    image = cross()
    blurred = corrupt(image, "gaussian_blur", 3, 0).astype(float)
    assert blurred.sum() == pytest.approx(image.sum(), rel=0.01)
    dot = np.zeros((1, 28, 28), np.uint8)
    dot[0, 14, 14] = 255
    spread = corrupt(dot, "gaussian_blur", 3, 0)[0]
    peak, beside = 255 / (2 * np.pi * 1.2**2), np.exp(-0.5 / 1.2**2)
    assert spread[14, 14] == pytest.approx(peak, abs=1)
    assert spread[14, 15] == spread[13, 14] == pytest.approx(peak * beside, abs=1)


def test_light_changes_pixels_as_it_is_said():
    image = np.zeros((1, 28, 28), np.uint8)
    image[:, :14] = 200
    assert set(np.unique(corrupt(image, "contrast", 5, 0))) == {90, 110}  # 100 ± 0.1 × 100
    assert set(np.unique(corrupt(image, "brightness", 4, 0))) == {102, 255}
    # Three parts of cloud, from 0 to 255 somewhere, on one part of the image.
    fog = corrupt(image, "fog", 5, 0)
    assert fog[:, :14].min() >= 50
    assert fog[:, 14:].max() <= 192
    assert np.ptp(corrupt(np.zeros_like(image), "fog", 5, 0)) in (191, 192)


def test_stripe_inverts_both_sides():
    corrupted = corrupt(DIGITS, "stripe", 5, 0)
    np.testing.assert_array_equal(corrupted[:, :, 7:21], DIGITS[:, :, 7:21])
    np.testing.assert_array_equal(corrupted[:, :, :7], 255 - DIGITS[:, :, :7])
    np.testing.assert_array_equal(corrupted[:, :, 21:], 255 - DIGITS[:, :, 21:])


def test_occlusion_covers_one_square():
    for severity, side in zip(SEVERITIES, (3, 5, 7, 9, 11), strict=True):
        for image in corrupt(np.zeros_like(DIGITS), "occlusion", severity, 0):
            rows, columns = np.nonzero(image)
            assert np.ptp(rows) + 1 == np.ptp(columns) + 1 == side
            assert (image == 128).sum() == side**2


def test_inverse_at_full_strength_is_255_minus_the_image():
    np.testing.assert_array_equal(corrupt(DIGITS, "inverse", 5, 0), 255 - DIGITS)
    page = corrupt(np.zeros_like(DIGITS[:1]), "inverse", 1, 0)
    assert set(np.unique(page)) == {51}
