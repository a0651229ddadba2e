"""Drawn pictures of no digit."""

import matplotlib
import numpy as np
import pytest
from PIL import ImageFont

from keras_lenet.data import outliers


def test_the_seed_decides_what_is_drawn():
    images = outliers.draw(12, 3)
    assert images.shape == (12, 28, 28)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, outliers.draw(12, 3))
    assert not np.array_equal(images, outliers.draw(12, 4))
    assert outliers.draw(0, 3).shape == (0, 28, 28)


def test_what_is_drawn_has_the_size_and_place_of_a_digit():
    images = outliers.draw(200, 0)
    inked = images[images[:, 2].max(1) == 0]  # all but noise, which fills the field
    assert len(inked) > 150
    for image in inked[inked.max((1, 2)) > 0]:
        rows, columns = np.nonzero(image)
        assert max(np.ptp(rows), np.ptp(columns)) < 20


def test_probes_are_made_otherwise_than_what_is_learnt_from():
    assert not set(outliers.LEARNT_FONTS) & set(outliers.OTHER_FONTS)
    assert not set(outliers.LETTERS + outliers.SIGNS) & set(outliers.AMBIGUOUS)
    probes = outliers.probes(3, 0)
    assert {len(pages) for pages in probes.values()} == {3}
    for first, second in zip(*(outliers.probes(3, 0)["scribbles"] for _ in range(2)), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("fonts", "characters"),
    [
        (outliers.LEARNT_FONTS, outliers.LETTERS + outliers.SIGNS),
        (outliers.OTHER_FONTS, outliers.LETTERS + outliers.AMBIGUOUS),
    ],
)
def test_every_font_has_every_character(fonts, characters):
    folder = matplotlib.get_data_path() + "/fonts/ttf/"
    for name in fonts:
        font = ImageFont.truetype(f"{folder}{name}.ttf", 40)
        shown = {character: bytes(font.getmask(character)) for character in characters}
        missing = bytes(font.getmask("\U000f1234"))  # of no font
        assert [character for character, mask in shown.items() if mask == missing] == []
