"""Corruptions of digit images."""

import numpy as np
import pytest
from conftest import draw_digits

from keras_lenet.data import corruptions
from keras_lenet.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt


@pytest.fixture(scope="module")
def images():
    return draw_digits(40, 8)[0]


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_seed_the_name_and_the_position_decide(name, images):
    before = images.copy()
    whole = corrupt(images, name, 3, 5)
    assert whole.shape == images.shape
    assert whole.dtype == np.uint8
    np.testing.assert_array_equal(whole[:10], corrupt(images[:10], name, 3, 5))
    np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_severity_goes_farther_than_the_one_before(name, images):
    distances = [
        np.abs(corrupt(images, name, severity, 0).astype(float) - images).mean()
        for severity in SEVERITIES
    ]
    assert distances[0] > 0
    # Of inverse the page gets lighter; a digit made smaller covers less of what it was soon.
    if name not in ("inverse", "scale"):
        assert np.diff(distances).min() > 0


def test_a_scaled_digit_gets_smaller(images):
    sides = []
    for severity in SEVERITIES:
        rows = corrupt(images, "scale", severity, 0).max((0, 2)) > 60
        sides.append(np.ptp(np.flatnonzero(rows)))
    assert sides == sorted(sides, reverse=True)
    assert sides[-1] <= 0.6 * sides[0]


def test_known_corruptions(images):
    np.testing.assert_array_equal(corrupt(images, "inverse", 5, 0), 255 - images)
    moved = corrupt(images, "translate", 2, 0)
    for image, there in zip(images, moved, strict=True):
        found = [
            (down, right)
            for down in (-2, 2)
            for right in (-2, 2)
            if np.array_equal(np.roll(image, (down, right), (0, 1)), there)
        ]
        assert len(found) == 1
    assert len({image.tobytes() for image in moved}) > 1
    salted = corrupt(np.full((200, 28, 28), 128, np.uint8), "impulse_noise", 4, 0)
    shares = [(salted == value).mean() for value in (0, 255)]
    assert shares == pytest.approx([0.085, 0.085], abs=0.005)


def test_strokes_get_wider_and_narrower(images):
    def ink(these):
        return these.astype(float).sum()

    assert ink(corrupt(images, "thicken", 5, 0)) > 1.5 * ink(images)
    assert ink(corrupt(images, "thin", 5, 0)) < 0.6 * ink(images)


def test_noise_has_its_standard_deviation():
    grey = np.full((50, 28, 28), 128, np.uint8)
    strengths = corruptions.CORRUPTIONS["gaussian_noise"].strengths
    found = corrupt(grey, "gaussian_noise", 2, 0).astype(float)
    assert found.std() / 255 == pytest.approx(strengths[1], rel=0.05)
