"""Model files of any kind, scored without a recipe."""

import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import draw_digits
from scipy.special import softmax

from keras_lenet.data import catalogue
from keras_lenet.edge import metadata
from keras_lenet.edge.classifier import Classifier
from keras_lenet.errors import Error
from keras_lenet.evaluation import scorers
from keras_lenet.tflite import metadata_writer

DIGITS = catalogue.NUMERALS
PUBLISHED = Path(__file__).parents[1] / "exported"
TFLITE = PUBLISHED / "lenet5_int8_ptq.tflite"


def brightness(units=10, side=28):
    """A Keras model whose logit of class k is k times the mean of the image."""
    image = keras.Input((side, side, 1))
    mean = keras.layers.GlobalAveragePooling2D()(image)
    model = keras.Model(image, keras.layers.Dense(units)(mean))
    model.set_weights([np.arange(units, dtype=np.float32)[np.newaxis], np.zeros(units)])
    return model


LEVELS = np.arange(1101) % 256
PLAIN = np.repeat(LEVELS, 28 * 28).astype(np.uint8).reshape(-1, 28, 28)
"""1,101 images of one level each, more than two batches."""


@pytest.mark.parametrize("side", [28, 32])
def test_a_keras_file_gives_the_softmax_of_its_logits(tmp_path, side):
    path = tmp_path / "mean.keras"
    brightness(side=side).save(path)
    scorer = scorers.open_file(path, DIGITS)
    expected = softmax(np.arange(10) * (LEVELS / 255)[:, np.newaxis], axis=1)
    found = scorer.predict(PLAIN)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found.dtype == np.float32
    assert (scorer.title, scorer.path, scorer.kernels) == ("mean.keras", path, "TensorFlow")
    assert scorer.bytes == path.stat().st_size


def save_model(folder, dtype=tf.uint8, side=28, classes=10, takes="images", gives="probabilities"):
    """A SavedModel that answers image level k with k/256 for class 0."""
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec((None, side, side, 1), dtype, name=takes)])
    def serve(images):
        level = tf.cast(images[:, 0, 0, 0], tf.float32) / 256
        return {gives: tf.concat([level[:, None], tf.zeros((tf.size(level), classes - 1))], 1)}

    tf.saved_model.save(module, str(folder), {"serving_default": serve})
    return folder


def test_a_saved_model_answers_by_its_signature(tmp_path):
    folder = save_model(tmp_path / "saved")
    scorer = scorers.open_file(folder, DIGITS)
    found = scorer.predict(PLAIN)
    np.testing.assert_array_equal(found[:, 0], LEVELS / np.float32(256))
    assert not found[:, 1:].any()
    assert (scorer.title, scorer.path, scorer.kernels) == ("saved", folder, "TensorFlow")
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    assert scorer.bytes == sum(sizes) > max(sizes)


@pytest.mark.parametrize("path", [PUBLISHED / "saved_model", PUBLISHED / "model.keras", TFLITE])
def test_published_files_of_every_kind_know_digits(path):
    images, labels = draw_digits(20, 9)
    scorer = scorers.open_file(path, DIGITS)
    probabilities = scorer.predict(images)
    if path == TFLITE:
        np.testing.assert_array_equal(probabilities, Classifier(TFLITE).predict(images))
        assert (scorer.title, scorer.kernels) == (TFLITE.name, "XNNPACK")
    assert (probabilities.argmax(axis=1) == labels).mean() >= 0.9
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=0.03)


def keras_file(folder, shape, *layers):
    keras.Sequential([keras.Input(shape), *layers]).save(folder / "model.keras")
    return folder / "model.keras"


def flat(*shape, units=10):
    layers = keras.layers.Flatten(), keras.layers.Dense(units)
    return lambda folder: keras_file(folder, shape, *layers)


def with_code(folder):
    code = keras.layers.Lambda(lambda x: x + 1)
    return keras_file(folder, (32, 32, 1), keras.layers.Flatten(), keras.layers.Dense(10), code)


def of_any_size(folder):
    average = keras.layers.GlobalAveragePooling2D()
    return keras_file(folder, (None, None, 1), average, keras.layers.Dense(10))


def unpacks_to_much(folder):
    with zipfile.ZipFile(folder / "bomb.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(5):
            archive.writestr(f"{number}", bytes(1 << 20))
    return folder / "bomb.keras"


def saved(**details):
    return lambda folder: save_model(folder / "other", **details)


SHAPES = r"expected a model from \(N, side, side, 1\) to logits \(N, 10\), found \(None, "
SIGNATURE = "other: expected a SavedModel with the signature serving_default, from images to prob"


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (with_code, "cannot be read as a Keras model .*(Lambda|lambda)"),
        (unpacks_to_much, "it unpacks to 5,242,880 bytes, more than 5,242,879"),
        (flat(28, 28, 3), SHAPES + r"28, 28, 3\) to \(None, 10\)"),
        (flat(28, 20, 1), SHAPES + r"28, 20, 1\)"),
        (flat(28, 28, 1, units=11), SHAPES + r"28, 28, 1\) to \(None, 11\)"),
        (of_any_size, SHAPES + r"None, None, 1\)"),
        (saved(gives="scores"), SIGNATURE),
        (saved(dtype=tf.float32), r"expected uint8 \(N, 28, 28, 1\) to .*, found float32 \[None"),
        (saved(side=32), r"found uint8 \[None, 32, 32, 1\] to \[None, 10\]"),
        (saved(classes=9), r"found uint8 \[None, 28, 28, 1\] to \[None, 9\]"),
        (lambda folder: folder / "nothing.tflite", "nothing.tflite: not found; expected a .keras"),
    ],
)
def test_files_that_break_the_contract_are_refused(tmp_path, make, complaint, monkeypatch):
    monkeypatch.setattr(scorers, "MAX_KERAS_BYTES", (5 << 20) - 1)
    path = make(tmp_path)
    with pytest.raises(Error, match=complaint) as caught:
        scorers.open_file(path, DIGITS)
    assert "\n" not in str(caught.value)


def test_labels_have_to_be_those_of_the_dataset(tmp_path):
    clothing = catalogue.classes("fashion_mnist")
    labels = "".join(f"{name}\n" for name in clothing).encode()
    described = metadata_writer.describe("clothing", "", "1", "", 0.0)
    content = TFLITE.read_bytes()
    bare = content[: content.rindex(b"PK\x03\x04")]
    path = tmp_path / "clothing.tflite"
    path.write_bytes(metadata_writer.attach(bare, described, {metadata.LABELS_FILE: labels}))
    assert scorers.open_file(path, clothing).title == "clothing.tflite"
    for others in (DIGITS, catalogue.classes("kmnist"), clothing[::-1]):
        with pytest.raises(Error, match=r"its labels are T-shirt/top, .*; expected .*: (0|o|Ank)"):
            scorers.open_file(path, others)
    path.write_bytes(metadata_writer.attach(bare, described, {}))  # and who says nothing, may
    assert scorers.open_file(path, clothing).title == "clothing.tflite"
