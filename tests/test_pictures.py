import json

import numpy as np
import pytest
from conftest import draw_digits, keras_lenet
from PIL import Image

from keras_lenet.edge import classifier, pictures
from keras_lenet.edge.classifier import Classifier
from keras_lenet.errors import Error


@pytest.fixture(scope="module")
def model(finished):
    return finished.folder / "export" / "lenet5_int8.tflite"


@pytest.fixture
def folder(tmp_path):
    """Two pictures of digits, one of nothing, one that is none, and a file of another kind."""
    images, _ = draw_digits(10, 11)
    for digit in (3, 7):
        page = Image.new("L", (120, 90), 235)
        page.paste(0, (40, 30), Image.fromarray(images[digit]))
        page.save(tmp_path / f"{digit}.png")
    Image.new("L", (40, 40), 200).save(tmp_path / "blank.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    (tmp_path / "notes.txt").write_text("not looked at")
    return tmp_path


def test_one_bad_file_does_not_stop_the_rest(model, folder):
    answers = dict(pictures.classify(Classifier(model), [folder, folder / "nowhere.png"]))
    by_name = {path.name: answer for path, answer in answers.items()}
    assert [by_name["3.png"].digit, by_name["7.png"].digit] == [3, 7]
    assert by_name["blank.png"].digit is None
    assert not by_name["blank.png"].accepted
    assert isinstance(by_name["broken.png"], Error)
    assert isinstance(by_name["nowhere.png"], Error)
    assert len(by_name) == 5


def test_first_and_second_choice_are_the_two_most_probable(model, folder):
    engine = Classifier(model)
    answer = engine.classify(Image.open(folder / "7.png"))
    probabilities = engine.predict(answer.prepared.image[np.newaxis])[0]
    assert answer.confidence == probabilities.max() == probabilities[answer.digit]
    assert answer.second != answer.digit
    assert answer.second_confidence == np.sort(probabilities)[-2]


def test_a_folder_without_pictures_is_named(tmp_path):
    with pytest.raises(Error, match="a folder without pictures; expected files ending in"):
        pictures.find(tmp_path)


def test_the_command_answers_in_words(model, folder, tmp_path):
    seen = tmp_path / "seen"
    result = keras_lenet("classify", folder, "--model", model, "--show", seen)
    assert result.returncode == 1  # one picture was broken
    lines = result.stdout.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(f"{folder / '3.png'}: 3 (")
    assert ": no digit: " in lines[2]
    assert "broken.png: not an image" in result.stderr
    assert "Traceback" not in result.stderr
    (path,) = seen.glob("*_7.png-seen.png")
    with Image.open(path) as image:
        assert image.size == (28, 28)
        assert np.asarray(image).max() > 200


def test_the_command_answers_in_json(model, folder):
    result = keras_lenet("classify", folder / "3.png", folder / "blank.png", "--json",
                         "--model", model)  # fmt: skip
    assert result.returncode == 0, result.stderr
    three, blank = map(json.loads, result.stdout.splitlines())
    assert (three["digit"], three["accepted"], three["polarity"]) == (3, True, "dark on light")
    assert (blank["digit"], blank["accepted"], blank["confidence"]) == (None, False, 0)


def test_an_answer_that_is_not_accepted_is_none(model, folder):
    engine = Classifier(model)
    engine.threshold = 1.0
    answer = engine.classify(Image.open(folder / "7.png"))
    assert pictures.in_words(folder / "7.png", answer).startswith(
        f"{folder / '7.png'}: no digit, or none that is clear: at best 7 ("
    )
    assert pictures.as_dict(folder / "7.png", answer)["accepted"] is False


def test_without_a_name_the_reference_model_answers(folder):
    assert classifier.reference_model().name == "lenet5_int8.tflite"
    assert Classifier().classify(Image.open(folder / "7.png")).digit == 7


def test_a_missing_reference_model_is_named():
    with pytest.raises(Error, match=r"gone\.tflite is missing from this installation"):
        classifier.reference_model("gone.tflite")
