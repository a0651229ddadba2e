"""Drawn pictures of no digit."""

from collections import Counter
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import ImageDraw, ImageFont

from keras_lenet.data import outliers

LEARNT, PROBED = 60, 6


@pytest.fixture
def learnt():
    return outliers.draw(LEARNT, 3)


@pytest.fixture
def probes():
    return outliers.probes(PROBED, 3)


@pytest.fixture
def written(monkeypatch):
    """Counts each (font's name, text) that is written."""
    counts, text, font_of = Counter(), ImageDraw.ImageDraw.text, ImageFont.truetype

    def write(self, place, characters, ink, font, **rest):
        counts[font.name_of_file, characters] += 1
        text(self, place, characters, ink, font, **rest)

    def open_font(path, size):
        font = font_of(path, size)
        font.name_of_file = Path(path).stem
        return font

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", write)
    monkeypatch.setattr(ImageFont, "truetype", open_font)
    return counts


def test_outliers_and_probes_are_written_in_other_fonts_and_never_in_digits(written):
    for draw, fonts, rest in (
        (lambda: outliers.draw(200, 0), outliers.LEARNT_FONTS, outliers.SIGNS),
        (lambda: outliers.probes(50, 0), outliers.OTHER_FONTS, outliers.AMBIGUOUS),
    ):
        written.clear()
        draw()
        used_fonts, characters = map(set, zip(*written, strict=True))
        assert used_fonts == set(fonts)
        assert characters <= set(outliers.LETTERS + rest)
        assert len(characters) > 40
        assert written.total() == pytest.approx(100, abs=20)
        others = sum(count for (_, one), count in written.items() if one in rest)
        assert others / written.total() == pytest.approx(0.5, abs=0.15)
    assert not set(outliers.LEARNT_FONTS) & set(outliers.OTHER_FONTS)
    assert not set(outliers.LETTERS + outliers.SIGNS) & set(outliers.AMBIGUOUS + "0123456789")


def test_the_seed_decides_every_picture(learnt, probes):
    assert learnt.dtype == np.uint8
    np.testing.assert_array_equal(outliers.draw(5, 3), learnt[:5])
    assert all(map(np.any, outliers.draw(5, 4) != learnt[:5]))
    assert outliers.draw(0, 3).shape == (0, 28, 28)
    other = outliers.probes(PROBED, 4)
    assert not any(np.array_equal(pages, other[kind]) for kind, pages in probes.items())


def figures(images):
    """Each image's mean, and its part in a wave that runs across it: (N, 2), in grey levels."""
    rows, columns = np.indices((28, 28))
    wave = np.cos(2 * np.pi * (2 * rows + 3 * columns) / 28)
    return np.array([(image.mean(), (image * wave).mean()) for image in images])


def test_a_seed_draws_the_pictures_of_published_runs(learnt, probes):
    """To within half a grey level, so that another release of the font library passes."""
    expected = np.transpose([LEARNT_MEANS, LEARNT_WAVES])
    np.testing.assert_allclose(figures(learnt), expected, atol=0.5)
    assert list(probes) == list(PROBE_MEANS)
    for kind, pages in probes.items():
        expected = np.transpose([PROBE_MEANS[kind], PROBE_WAVES[kind]])
        np.testing.assert_allclose(figures(map(outliers.fitted, pages)), expected, atol=0.5)


LEARNT_MEANS = [
    38.0, 53.7, 58.4, 60.8, 48.5, 27.8, 57.5, 23.5, 59.3, 59.1, 24.8, 31.8, 49.6, 44.2, 28.7,
    39.5, 37.0, 39.6, 45.5, 49.0, 41.5, 52.4, 39.3, 22.5, 51.0, 56.3, 61.7, 58.6, 31.3, 61.6,
    43.2, 49.6, 33.0, 41.3, 44.0, 44.3, 46.5, 62.0, 19.9, 40.7, 42.5, 40.5, 42.4, 62.3, 20.1,
    34.5, 49.2, 45.9, 56.7, 51.5, 30.9, 98.3, 41.1, 0.0, 44.3, 44.1, 7.3, 31.3, 35.4, 36.4,
]  # fmt: skip
LEARNT_WAVES = [
    -0.5, -1.0, -1.8, -2.9, 5.8, 0.8, -5.6, -7.1, 1.0, 0.5, 4.7, -6.6, 0.1, -1.6, 2.4, 5.4, 8.9,
    6.2, -9.7, -2.2, -9.2, 4.4, 2.3, 5.2, -2.1, -0.4, -0.2, 5.7, -1.2, 3.8, 6.6, 0.7, 6.8, 6.3,
    3.5, -5.9, 1.8, -1.2, -2.0, -0.6, -1.9, -0.9, 0.5, 0.9, -1.0, -5.4, 0.1, 7.9, -2.6, -4.6, 1.5,
    1.3, -1.4, 0.0, -4.8, -0.9, -0.3, 0.7, 3.5, -1.8,
]  # fmt: skip
PROBE_WAVES = {
    "blank": [0.0, 0.0, 0.1, 0.0, -0.1, 0.1],
    "full ink": [0.0, 0.0, -0.1, 0.0, 0.0, -0.1],
    "noise": [-3.7, 0.3, -0.6, 0.9, 0.1, 1.2],
    "letters": [3.1, 0.2, -0.3, -0.7, 2.7, -0.3],
    "scribbles": [-4.8, 4.1, -3.7, -1.3, -2.5, -5.8],
    outliers.LIKE_DIGITS: [4.5, 14.1, 2.7, 4.5, -0.8, -3.4],
}
PROBE_MEANS = {
    "blank": [0.1, 0.0, 1.6, 1.2, 1.3, 1.1],
    "full ink": [254.3, 254.0, 253.5, 255.0, 253.9, 253.6],
    "noise": [79.7, 18.7, 69.8, 159.1, 216.9, 26.6],
    "letters": [22.6, 23.7, 28.1, 22.7, 59.3, 25.6],
    "scribbles": [72.0, 52.1, 46.1, 29.5, 74.7, 62.8],
    outliers.LIKE_DIGITS: [42.0, 63.4, 54.1, 45.9, 38.1, 25.8],
}


def test_drawn_pictures_have_the_size_of_a_digit(learnt):
    inked = learnt[learnt[:, 2].max(1) == 0]  # all but noise, which fills the field
    assert len(inked) > 45
    for image in inked[inked.max((1, 2)) > 0]:
        rows, columns = np.nonzero(image)
        assert max(np.ptp(rows), np.ptp(columns)) < 20


def test_a_page_of_a_digit_s_size_stays_as_it_is():
    page = np.full((28, 28), 7, np.uint8)
    assert outliers.fitted(page) is page


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
