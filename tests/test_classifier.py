"""The classifier on the published files, and on files that it refuses."""

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from conftest import draw_digits

from keras_lenet.edge import classifier, metadata
from keras_lenet.edge.classifier import BROWSER, Classifier, Tensor, reference_model
from keras_lenet.edge.prepare import Prepared
from keras_lenet.errors import Error
from keras_lenet.tflite import metadata_writer

VARIANTS = ("lenet5_float32.tflite", "lenet5_int8_ptq.tflite", "lenet5_int8.tflite", BROWSER)
IMAGES, LABELS = draw_digits(40, 3)


def test_without_a_name_the_reference_model_answers():
    model = Classifier()
    np.testing.assert_array_equal(model.predict(IMAGES).argmax(axis=1), LABELS)
    assert model.input == Tensor((1, 28, 28, 1), np.dtype(np.int8), np.float32(1 / 255), -128)
    assert model.output == Tensor((1, 10), np.dtype(np.int8), 1 / 256, -128)
    content = reference_model().read_bytes()
    assert model.threshold == metadata.score_threshold(content) > 0
    assert (model.threads, model.kernels) == (1, "xnnpack")


@pytest.mark.parametrize("name", VARIANTS)
def test_batches_answer_as_single_images_do(name):
    model = Classifier(reference_model(name))
    batched = model.raw(IMAGES[:23], batch_size=10)
    single = np.concatenate([model.raw(image[np.newaxis]) for image in IMAGES[:23]])
    assert batched.shape == (23, 10)
    assert batched.dtype == model.output.dtype
    np.testing.assert_allclose(batched, single, atol=1e-6 if "float" in name else 0)
    probabilities = model.predict(IMAGES)
    assert (probabilities.shape, probabilities.dtype) == ((40, 10), np.float32)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=0.05)


def test_int8_and_uint8_files_are_one_model():
    int8, uint8 = (Classifier(reference_model(name)).raw(IMAGES) for name in VARIANTS[2:])
    np.testing.assert_array_equal(int8.astype(int) + 128, uint8)


def test_pixels_are_quantized_as_each_file_asks_for():
    images = np.arange(1568).reshape(2, 28, 28).astype(np.uint8)
    expected = {"lenet5_float32.tflite": images / np.float32(255), BROWSER: images}
    for name in VARIANTS:
        found = Classifier(reference_model(name)).quantize(images)
        assert found.shape == (2, 28, 28, 1)
        wanted = expected.get(name, images.astype(int) - 128)
        np.testing.assert_allclose(found[..., 0], wanted, rtol=1e-6)


@pytest.mark.parametrize(
    ("tensor", "values", "expected"),
    [
        (
            Tensor((1,), np.dtype(np.int8), 0.5, 10),
            [0.0, 0.26, 0.24, -0.26, 1000.0, -1000.0],
            [10, 11, 10, 9, 127, -128],  # rounded and clipped
        ),
        (Tensor((1,), np.dtype(np.float32), 0.0, 0), [0.26, 1000], [np.float32(0.26), 1000]),
    ],
)
def test_a_tensor_quantizes_real_values_if_it_has_a_scale(tensor, values, expected):
    found = tensor.quantize(np.array(values))
    assert (found.tolist(), found.dtype) == (expected, tensor.dtype)


@pytest.mark.parametrize(
    ("tensor", "values", "expected"),
    [
        (Tensor((1,), np.dtype(np.int8), 0.5, 10), np.int8([10, 127, -128]), [0.0, 58.5, -69.0]),
        (Tensor((1,), np.dtype(np.float32), 0.0, 0), np.float64([0.3]), [np.float32(0.3)]),
    ],
)
def test_a_tensor_gives_the_real_values_back(tensor, values, expected):
    real = tensor.dequantize(values)
    assert (real.tolist(), real.dtype) == (expected, np.float32)


@pytest.mark.parametrize(
    ("kernels", "resolver"),
    [
        ("xnnpack", "AUTO"),
        ("builtin", "BUILTIN_WITHOUT_DEFAULT_DELEGATES"),
        ("reference", "BUILTIN_REF"),
    ],
)
def test_the_interpreter_computes_with_the_kernels_and_threads_asked_for(
    kernels, resolver, monkeypatch
):
    opened = []

    def interpreter(**options):
        opened.append(options)
        return Interpreter(**options)

    monkeypatch.setattr(classifier, "Interpreter", interpreter)
    model = Classifier(threads=2, kernels=kernels)
    assert (model.threads, model.kernels) == (2, kernels)
    (options,) = opened
    assert options["num_threads"] == 2
    assert options["experimental_op_resolver_type"].name == resolver
    np.testing.assert_array_equal(model.predict(IMAGES).argmax(axis=1), LABELS)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((28, 28), np.uint8),
        ((1, 28, 28), np.float32),
        ((1, 32, 32), np.uint8),
        ((1, 28, 28, 1), np.uint8),
    ],
)
def test_wrong_images_are_refused(shape, dtype):
    images = np.zeros(shape, dtype)
    with pytest.raises(Error) as caught:
        Classifier().predict(images)
    assert str(caught.value) == (
        f"expected uint8 images of shape (N, 28, 28), got {images.dtype} {shape}; "
        "keras_lenet.edge.prepare makes them from pictures"
    )


# Answers


BLANK = Prepared(np.zeros((28, 28), np.uint8), True, "dark on light", (0, 0, 0, 0), ())


def answer_of(probabilities, threshold=0.0):
    """The answer of a classifier that gives every image the same probabilities."""
    model = Classifier()
    model.predict = lambda images: np.array([probabilities], np.float32)[: len(images)]
    model.threshold = threshold
    return model.answer(BLANK)


@pytest.mark.parametrize(
    ("probabilities", "likeliest", "next_likeliest"),
    [
        ([0, 0.25, 0, 0, 0.125, 0, 0, 0.5, 0, 0.125], (7, 0.5), (1, 0.25)),
        ([0, 0, 0.5, 0, 0, 0.5, 0, 0, 0, 0], (2, 0.5), (5, 0.5)),  # tied
    ],
)
def test_an_answer_has_the_two_likeliest_digits(probabilities, likeliest, next_likeliest):
    answer = answer_of(probabilities)
    assert (answer.digit, answer.confidence) == likeliest
    assert (answer.second, answer.second_confidence) == next_likeliest
    assert answer.probabilities.tolist() == probabilities
    assert answer.prepared is BLANK


@pytest.mark.parametrize(("threshold", "accepted"), [(0.0, True), (0.5, True), (0.51, False)])
def test_an_answer_below_the_threshold_is_not_accepted(threshold, accepted):
    answer = answer_of([0.5, 0.25, 0.25, 0, 0, 0, 0, 0, 0, 0], threshold)
    assert answer.digit == 0
    assert answer.accepted is accepted


def test_a_page_without_ink_has_no_answer():
    answer = Classifier().classify(np.full((40, 40), 255, np.uint8))
    assert (answer.digit, answer.second, answer.accepted) == (None, None, False)
    assert (answer.confidence, answer.second_confidence) == (0.0, 0.0)
    assert answer.probabilities.tolist() == [0] * 10
    assert answer.probabilities.dtype == np.float32
    assert answer.prepared.notes[-1].startswith("no digit")


def test_a_picture_is_prepared_and_classified():
    model = Classifier()
    answer = model.classify(255 - np.pad(IMAGES[7], 20))
    expected = model.predict(answer.prepared.image[np.newaxis])[0]
    assert answer.digit == LABELS[7]
    np.testing.assert_array_equal(answer.probabilities, expected)
    assert answer.accepted is True


# Files


@pytest.mark.parametrize("threshold", [0.0, 1.0, None])
def test_the_threshold_is_the_files(threshold, tmp_path):
    content = reference_model().read_bytes().replace(metadata.ENTRY.encode(), b"SOME_OTHER_NAME")
    if threshold is not None:
        described = metadata_writer.describe("lenet5", "", "1", "", threshold)
        content = metadata_writer.attach(content, described, {})
    (tmp_path / "model.tflite").write_bytes(content)
    assert Classifier(str(tmp_path / "model.tflite")).threshold == (threshold or 0)


def test_the_reference_model_is_in_the_package_or_in_the_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(classifier, "__file__", str(tmp_path / "a" / "edge" / "classifier.py"))
    with pytest.raises(Error, match=r"gone\.tflite is missing from this installation; name a \.t"):
        reference_model("gone.tflite")
    checkout, package = tmp_path / "exported" / "m", tmp_path / "a" / "edge" / "m"
    for path in (checkout, package):
        path.parent.mkdir(parents=True)
        path.touch()
        assert reference_model("m") == path
    assert classifier.REFERENCE == "lenet5_int8.tflite"


def tflite(shape, outputs=10, count=1, dtype=tf.float32):
    def function(image):
        flat = tf.cast(tf.reshape(image, [1, -1])[:, :outputs], dtype)
        return [flat + tf.cast(number, dtype) for number in range(count)]

    traced = tf.function(function, input_signature=[tf.TensorSpec(shape, dtype)])
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [traced.get_concrete_function()], tf.Module()
    )
    return converter.convert()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (lambda: b"", "not a .tflite file: it lacks the identifier TFL3"),
        (lambda: b"TFL3" + bytes(60), "not a .tflite file"),
        (lambda: b"\x1c\x00\x00\x00TFL3" + bytes(60), "damaged, or made of ops this runtime lacks"),
        (lambda: reference_model().read_bytes()[:40_000], "damaged, or made of ops this runtime"),
        (
            lambda: tflite((1, 28, 28, 3)),
            r"expected an input of shape \(1, 28, 28, 1\) in int8, uint8 or float32, found "
            r"\(1, 28, 28, 3\) in float32; not a digit classifier of this kind",
        ),
        (lambda: tflite((1, 28, 28, 1), 7), r".*an output of shape \(1, 10\).*found \(1, 7\)"),
        (lambda: tflite((1, 28, 28, 1), count=2), "expected one output, found 2"),
        (lambda: tflite((1, 28, 28, 1), dtype=tf.int32), "expected an input .* in int32"),
        (None, r"cannot be read \(No such file or directory\)$"),
    ],
)
def test_files_that_break_the_contract_are_refused(tmp_path, content, complaint):
    path = tmp_path / "model.tflite"
    if content:
        path.write_bytes(content())
    with pytest.raises(Error, match=rf"^{path}: {complaint}") as caught:
        Classifier(path)
    assert "\n" not in str(caught.value)
