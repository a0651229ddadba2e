"""Drawn pictures of no digit."""

from collections import Counter
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import ImageDraw, ImageFont

from keras_lenet.data import outliers


@pytest.fixture
def learnt():
    return outliers.draw(60, 3)


@pytest.fixture
def probes():
    return outliers.probes(6, 3)


@pytest.fixture
def written(monkeypatch):
    """Counts each (font's name, text) that is written."""
    counts, text = Counter(), ImageDraw.ImageDraw.text

    def write(self, place, characters, ink, font, **rest):
        counts[Path(font.path).stem, characters] += 1
        text(self, place, characters, ink, font, **rest)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", write)
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
    other = outliers.probes(6, 4)
    assert not any(np.array_equal(pages, other[kind]) for kind, pages in probes.items())


LEARNT = [
    37.5, 52.7, 56.6, 57.9, 54.3, 28.6, 51.9, 16.4, 60.3, 59.6, 29.5, 25.2, 49.7, 42.6, 31.2, 45.0,
    45.9, 45.8, 35.8, 46.8, 32.3, 56.8, 41.7, 27.7, 48.9, 55.9, 61.5, 64.4, 30.1, 65.4, 49.9, 50.3,
    39.8, 47.6, 47.5, 38.4, 48.4, 60.7, 17.9, 40.2, 40.7, 39.6, 42.9, 63.2, 19.1, 29.2, 49.4, 53.8,
    54.2, 46.9, 32.3, 99.7, 39.7, 0.0, 39.6, 43.2, 7.0, 32.0, 38.8, 34.5,
]  # fmt: skip
PROBES = {
    "blank": [0.1, 0.0, 1.7, 1.3, 1.2, 1.2],
    "full ink": [254.3, 254.0, 253.5, 255.0, 253.8, 253.5],
    "noise": [76.0, 19.0, 69.2, 160.0, 217.1, 27.8],
    "letters": [25.7, 23.9, 27.8, 22.0, 62.0, 25.3],
    "scribbles": [67.2, 56.2, 42.4, 28.2, 72.2, 57.0],
    outliers.LIKE_DIGITS: [46.5, 77.4, 56.8, 50.4, 37.3, 22.4],
}


def test_a_seed_draws_the_pictures_of_published_runs(learnt, probes):
    """Means in grey levels, weighted by a wave that runs across each image.

    To within half a grey level, so that another release of the font library passes.
    """
    rows, columns = np.indices((28, 28))
    weights = 1 + np.cos(2 * np.pi * (2 * rows + 3 * columns) / 28)
    np.testing.assert_allclose((learnt * weights).mean((1, 2)), LEARNT, atol=0.5)
    assert list(probes) == list(PROBES)
    for kind, pages in probes.items():
        found = [(outliers.fitted(page) * weights).mean() for page in pages]
        np.testing.assert_allclose(found, PROBES[kind], atol=0.5)


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
