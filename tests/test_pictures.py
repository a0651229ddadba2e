"""Pictures in files and folders, classified by the reference model and told of."""

import json

import numpy as np
import pytest
from conftest import draw_digits, keras_lenet
from PIL import Image

from keras_lenet.cli import pictures
from keras_lenet.edge.classifier import Answer, Classifier
from keras_lenet.edge.prepare import Prepared, load
from keras_lenet.errors import Error

DIGITS = draw_digits(10, 11)[0]


def save_page(path, digit):
    page = Image.new("L", (120, 90), 235)
    page.paste(0, (40, 30), Image.fromarray(DIGITS[digit]))
    page.save(path)


@pytest.fixture
def folder(tmp_path):
    """Two pictures of digits, one of nothing, one that is none, and a file of another kind."""
    for digit in (3, 7):
        save_page(tmp_path / f"{digit}.png", digit)
    Image.new("L", (40, 40), 200).save(tmp_path / "blank.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    (tmp_path / "notes.txt").write_text("not looked at")
    return tmp_path


def an_answer(digit=3, confidence=0.9, accepted=True):
    image = np.arange(784, dtype=np.uint8).reshape(28, 28)
    prepared = Prepared(image, digit is not None, "light on dark", (1, 2, 30, 40), ("big", "dark"))
    second = None if digit is None else 5
    return Answer(digit, confidence, second, 0.0625, np.zeros(10), accepted, prepared)


def test_one_bad_file_does_not_stop_the_rest(folder):
    (folder / "empty").mkdir()
    long = folder / ("x" * 300)
    paths = [folder / "empty", folder, folder / "nowhere.png", long]
    answers = {path.name: answer for path, answer in pictures.classify(Classifier(), paths)}
    assert {name: getattr(answer, "digit", type(answer)) for name, answer in answers.items()} == (
        {"3.png": 3, "7.png": 7, "blank.png": None}
        | dict.fromkeys(["empty", "broken.png", "nowhere.png", long.name], Error)
    )
    assert list(answers)[1:5] == ["3.png", "7.png", "blank.png", "broken.png"]


def test_a_folder_gives_its_pictures_by_name(tmp_path):
    kept = ["A.JPG", "b.jpeg", "c.png", "d.webp", "e.bmp", "f.gif"]
    for name in [*reversed(kept), "g.tif", "h.pgm", "i.txt", "png"]:
        (tmp_path / name).touch()
    assert [path.name for path in pictures.find(tmp_path)] == kept
    assert pictures.find(tmp_path / "i.txt") == [tmp_path / "i.txt"]


def test_a_folder_without_pictures_is_named(tmp_path):
    with pytest.raises(Error, match=f"{tmp_path}: a folder without pictures; expected files end"):
        pictures.find(tmp_path)


def test_answers_in_words(tmp_path):
    assert pictures.in_words(tmp_path, an_answer()) == f"{tmp_path}: 3 (90.0%), then 5 (6.2%)"
    assert pictures.in_words(tmp_path, an_answer(accepted=False)) == (
        f"{tmp_path}: no digit, or none that is clear: at best 3 (90.0%), then 5 (6.2%)"
    )
    assert pictures.in_words(tmp_path, an_answer(None)) == f"{tmp_path}: big; dark"


def test_answers_as_a_dictionary(tmp_path):
    assert pictures.as_dict(tmp_path, an_answer(confidence=0.123456, accepted=False)) == {
        "file": str(tmp_path),
        "digit": 3,
        "confidence": 0.1235,
        "second": 5,
        "second_confidence": 0.0625,
        "accepted": False,
        "polarity": "light on dark",
        "box": (1, 2, 30, 40),
        "notes": ("big", "dark"),
    }


def test_each_picture_is_written_to_a_file_of_its_own(tmp_path):
    seen, answer, long = tmp_path / "seen", an_answer(), "ä" * 120
    sources = ["a/b_c.png", "a_b/c.png", "a/c.png", f"{long}1.png", f"{long}2.png", "x/" * 400]
    for _ in range(2):
        written = {pictures.write_seen(tmp_path / name, answer, seen) for name in sources}
        assert written == set(seen.iterdir())
        assert len(written) == len(sources)
    path = pictures.write_seen(tmp_path / "7.png", answer, seen)
    assert (path.name[:6], path.name[-9:]) == ("7.png-", "-seen.png")
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(image), answer.prepared.image)


def test_the_command_answers_in_words_and_shows_what_the_model_saw(folder):
    seen, deep = folder / "seen", folder.joinpath(*["d" * 100] * 4)
    deep.mkdir(parents=True)
    save_page(deep / "5.png", 5)
    result = keras_lenet("classify", folder, deep, "--show", seen)
    assert result.returncode == 1  # one picture was broken
    three, _, blank, five = result.stdout.splitlines()
    assert three.startswith(f"{folder / '3.png'}: 3 (")
    assert ": no digit: " in blank
    assert five.startswith(f"{deep / '5.png'}: 5 (")
    (problem,) = result.stderr.splitlines()
    assert "broken.png: not an image" in problem
    assert len(list(seen.iterdir())) == 4
    with Image.open(next(seen.glob("7.png-*"))) as image:
        expected = Classifier().classify(load(folder / "7.png")).prepared.image
        np.testing.assert_array_equal(np.asarray(image), expected)


def test_the_command_answers_in_json(folder):
    result = keras_lenet("classify", folder / "3.png", folder / "blank.png", "--json")
    assert result.returncode == 0, result.stderr
    three, blank = map(json.loads, result.stdout.splitlines())
    assert (three["digit"], three["accepted"], three["polarity"]) == (3, True, "dark on light")
    assert (blank["digit"], blank["accepted"], blank["confidence"]) == (None, False, 0)
