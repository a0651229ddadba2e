"""Corruptions of drawn digits."""

import numpy as np
import pytest
from conftest import draw_digits

from keras_lenet.data import corruptions
from keras_lenet.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt

DIGITS = draw_digits(60, 5)[0]
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
"""Root mean squares of three marks at each severity, every place with a weight of its own."""
RANDOM = {"translate", "rotate", "shear", "gaussian_noise", "impulse_noise", "fog", "occlusion"}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_severity_has_the_strength_of_published_figures(name):
    mark = np.zeros((28, 28), np.uint8)  # two strokes, without symmetry
    mark[6:9, 6:21], mark[9:22, 16:19] = 255, 200
    marks, weights = np.stack([mark, mark.T, mark[::-1]]), np.random.default_rng(0).random((28, 28))
    corrupted = [corrupt(marks, name, severity, 0).astype(float) for severity in SEVERITIES]
    found = [np.sqrt((images**2 * weights).mean()) for images in corrupted]
    np.testing.assert_allclose(found, SIZES[name], atol=0.02)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_severity_takes_new_images_farther_from_the_original(name):
    before, distances = DIGITS.copy(), [0]
    for severity in SEVERITIES:
        corrupted = corrupt(DIGITS, name, severity, 0)
        assert (corrupted.shape, corrupted.dtype) == (DIGITS.shape, np.uint8)
        assert (corrupted != DIGITS).any((1, 2)).all()
        # Not distance, but ink measures a scaled digit: the smaller, the less lies in wrong places.
        change = DIGITS.astype(float) - corrupted
        distances.append(change.mean() if name == "scale" else np.abs(change).mean())
    assert np.diff(distances).min() > 0
    np.testing.assert_array_equal(DIGITS, before)
    assert corrupt(DIGITS[:0], name, 3, 0).shape == (0, 28, 28)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_seed_and_the_position_decide_an_image_s_random_numbers(name, monkeypatch):
    whole = corrupt(DIGITS, name, 4, 0)
    assert np.array_equal(whole, corrupt(DIGITS, name, 4, 1)) == (name not in RANDOM)
    np.testing.assert_array_equal(corrupt(DIGITS[:13], name, 4, 0), whole[:13])
    monkeypatch.setattr(corruptions, "_CHUNK", 7)
    np.testing.assert_array_equal(corrupt(DIGITS, name, 4, 0), whole)


def test_light_and_page_change_pixels_exactly():
    image = np.zeros((1, 28, 28), np.uint8)
    image[:, :14] = 200
    assert set(np.unique(corrupt(image, "contrast", 5, 0))) == {90, 110}  # 100 ± 0.1 × 100
    assert set(np.unique(corrupt(image, "brightness", 4, 0))) == {102, 255}
    # Three parts of cloud, from 0 to 255 somewhere, on one part of the image.
    assert corrupt(image, "fog", 5, 0)[:, :14].min() >= 50
    assert np.ptp(corrupt(np.zeros_like(image), "fog", 5, 0)) in (191, 192)
    striped = DIGITS.copy()
    striped[:, :, :7], striped[:, :, 21:] = ~DIGITS[:, :, :7], ~DIGITS[:, :, 21:]
    np.testing.assert_array_equal(corrupt(DIGITS, "stripe", 5, 0), striped)
    np.testing.assert_array_equal(corrupt(DIGITS, "inverse", 5, 0), 255 - DIGITS)
    assert set(np.unique(corrupt(np.zeros_like(image), "inverse", 1, 0))) == {51}
