"""Drawn OOD examples."""

import matplotlib
import numpy as np
import pytest
from PIL import ImageFont

from keras_lenet.data import outliers


def test_outliers_and_probes_share_no_font_and_outliers_look_like_no_digit():
    assert not set(outliers.LEARNT_FONTS) & set(outliers.OTHER_FONTS)
    assert not set(outliers.LETTERS + outliers.SIGNS) & set(outliers.AMBIGUOUS + "0123456789")


LEARNT = [
    37.5, 52.7, 56.6, 57.9, 54.3, 28.6, 51.9, 16.4, 60.3, 59.6, 29.5, 25.2, 49.7, 42.6, 31.2, 45.0,
    45.9, 45.8, 35.8, 46.8, 32.3, 56.8, 41.7, 27.7,
]  # fmt: skip
PROBES = {
    "blank": [0.1, 0.0, 1.7, 1.3, 1.2, 1.2],
    "full ink": [254.3, 254.0, 253.5, 255.0, 253.8, 253.5],
    "noise": [76.0, 19.0, 69.2, 160.0, 217.1, 27.8],
    "letters": [25.7, 23.9, 27.8, 22.0, 62.0, 25.3],
    "scribbles": [67.2, 56.2, 42.4, 28.2, 72.2, 57.0],
    outliers.LIKE_DIGITS: [46.5, 77.4, 56.8, 50.4, 37.3, 22.4],
}


def test_a_seed_draws_the_examples_of_published_runs():
    """Compare means in grey levels, weighted by a wave that runs across each image.

    Half a grey level of tolerance allows for another release of the font library.
    """
    rows, columns = np.indices((28, 28))
    weights = 1 + np.cos(2 * np.pi * (2 * rows + 3 * columns) / 28)
    learnt, probes = outliers.draw(24, 3), outliers.probes(6, 3)
    assert (learnt.dtype, learnt.shape) == (np.uint8, (24, 28, 28))
    np.testing.assert_allclose((learnt * weights).mean((1, 2)), LEARNT, atol=0.5)
    assert list(probes) == list(PROBES)
    for kind, drawings in probes.items():
        found = [(outliers.fitted(drawing) * weights).mean() for drawing in drawings]
        np.testing.assert_allclose(found, PROBES[kind], atol=0.5)
    assert all(map(np.any, outliers.draw(5, 4) != learnt[:5]))
    other = outliers.probes(6, 4)
    assert not any(np.array_equal(drawings, other[kind]) for kind, drawings in probes.items())


def test_a_28x28_drawing_is_not_prepared():
    drawing = np.full((28, 28), 7, np.uint8)
    assert outliers.fitted(drawing) is drawing


@pytest.mark.parametrize(
    ("fonts", "characters"),
    [
        (outliers.LEARNT_FONTS, outliers.LETTERS + outliers.SIGNS),
        (outliers.OTHER_FONTS, outliers.LETTERS + outliers.AMBIGUOUS),
    ],
)
def test_every_font_has_every_character(fonts, characters):
    for name in fonts:
        font = ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/{name}.ttf", 40)
        missing = bytes(font.getmask("\U000f1234"))  # of no font
        assert all(bytes(font.getmask(character)) != missing for character in characters)
