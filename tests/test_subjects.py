"""Model files of any kind, scored without a recipe."""

import json
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import draw_digits, keras_lenet

from keras_lenet.data import datasets
from keras_lenet.edge import metadata, metadata_writer
from keras_lenet.errors import Error
from keras_lenet.stages import subjects

DIGITS = datasets.NUMERALS


@pytest.fixture(scope="module")
def files(finished):
    export = finished.folder / "export"
    return [
        finished.folder / "train" / "model.keras",
        export / "saved_model",
        export / "lenet5_int8_ptq.tflite",
    ]


def test_files_of_every_kind_give_one_models_answers(files):
    images = draw_digits(20, 9)[0]
    keras_file, saved_model, tflite = (subjects.open_file(path, DIGITS) for path in files)
    expected = keras_file.predict(images)
    np.testing.assert_allclose(saved_model.predict(images), expected, atol=1e-5)
    np.testing.assert_allclose(tflite.predict(images), expected, atol=0.1)


def test_files_are_scored_as_a_recipes_are(files, finished, synthetic, tmp_path):
    arguments = [word for path in files for word in ("--model", path)]
    result = keras_lenet(
        "evaluate", *arguments, "--dataset", synthetic, "--to", tmp_path / "found",
        "--set", "evaluate.probes=5", "--set", "evaluate.robustness_images=20",
        "--set", "evaluate.prepared_images=10", "--set", "evaluate.max_model_bytes=1000",
    )  # fmt: skip
    assert result.returncode == 3
    assert "gate missed: evaluate.max_model_bytes" in result.stderr
    metrics = json.loads((tmp_path / "found" / "metrics.json").read_text())
    page = (tmp_path / "found" / "report.html").read_text()
    assert all(f"{path.name}" in page for path in files)
    assert metrics["paired"][1]["verdict"].partition(":")[0] in page
    assert f"Report: {tmp_path / 'found' / 'report.html'}" in result.stdout
    of_run = json.loads((finished.folder / "evaluate" / "metrics.json").read_text())
    assert metrics["models"]["model.keras"]["confusion"] == of_run["models"]["keras"]["confusion"]
    assert [pair["second"] for pair in metrics["paired"]] == ["model.keras"] * 2
    assert metrics["layers"] == {}  # only .tflite files show their tensors
    # What was there before is replaced, and nothing else is.
    again = keras_lenet("evaluate", "--model", files[0], "--dataset", synthetic, "--to", tmp_path)
    assert again.returncode == 1
    assert "holds something else: it has no metrics.json" in again.stderr


def not_a_digit_classifier(folder):
    image = keras.Input((28, 28, 3))
    keras.Model(image, keras.layers.Dense(10)(keras.layers.Flatten()(image))).save(
        folder / "wrong.keras"
    )
    return folder / "wrong.keras"


def another_saved_model(folder):
    module = tf.Module()
    tf.saved_model.save(module, str(folder / "other"))
    return folder / "other"


def broken(folder):
    (folder / "broken.keras").write_bytes(b"no zip")
    return folder / "broken.keras"


def with_code(folder):
    """A model that would run Python code from its file."""
    image = keras.Input((32, 32, 1))
    logits = keras.layers.Dense(10)(keras.layers.Flatten()(image))
    keras.Model(image, keras.layers.Lambda(lambda x: x + 1)(logits)).save(folder / "code.keras")
    return folder / "code.keras"


def unpacks_to_much(folder):
    with zipfile.ZipFile(folder / "bomb.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(5):
            archive.writestr(f"{number}", bytes(1 << 24))
    return folder / "bomb.keras"


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (with_code, "cannot be read as a Keras model .*(Lambda|lambda)"),
        (unpacks_to_much, "it unpacks to 83,886,080 bytes"),
        (not_a_digit_classifier, r"expected a model from \(N, side, side, 1\).*28, 28, 3"),
        (another_saved_model, "expected a SavedModel with the signature serving_default"),
        (broken, "cannot be read as a Keras model"),
        (lambda folder: folder / "nothing.tflite", "not found; expected a .keras file"),
    ],
)
def test_files_that_break_the_contract_are_refused(tmp_path, make, complaint, monkeypatch):
    monkeypatch.setattr(subjects, "MAX_KERAS_BYTES", 1 << 26)
    with pytest.raises(Error, match=complaint) as caught:
        subjects.open_file(make(tmp_path), DIGITS)
    assert "\n" not in str(caught.value)


def test_labels_have_to_be_those_of_the_dataset(files, tmp_path):
    clothing = datasets.classes("fashion_mnist")
    labels = "".join(f"{name}\n" for name in clothing).encode()
    described = metadata.describe("clothing", "", "1", "", 0.0)
    content = files[2].read_bytes()
    bare = content[: content.rindex(b"PK\x03\x04")]
    path = tmp_path / "clothing.tflite"
    path.write_bytes(metadata_writer.attach(bare, described, {metadata.LABELS_FILE: labels}))
    assert subjects.open_file(path, clothing).title == "clothing.tflite"
    for others in (DIGITS, datasets.classes("kmnist"), clothing[::-1]):
        with pytest.raises(Error, match=r"its labels are T-shirt/top, .*; expected .*: (0|o|Ank)"):
            subjects.open_file(path, others)
    path.write_bytes(metadata_writer.attach(bare, described, {}))  # and who says nothing, may
    assert subjects.open_file(path, clothing).title == "clothing.tflite"


def test_neither_recipe_nor_files():
    assert "takes a recipe, or one --model FILE" in keras_lenet("evaluate").stderr
