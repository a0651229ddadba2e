import numpy as np
import pytest
import tensorflow as tf
from conftest import draw_digits

from keras_lenet.data import datasets, shards
from keras_lenet.edge import metadata, metadata_writer
from keras_lenet.edge.classifier import Classifier, Tensor, open_interpreter
from keras_lenet.errors import Error

VARIANTS = ("float32", "int8_ptq", "int8", "uint8")


@pytest.fixture(scope="module")
def images():
    return draw_digits(60, 3)[0]


@pytest.fixture
def path(finished, request):
    return finished.folder / "export" / f"lenet5_{getattr(request, 'param', 'int8')}.tflite"


@pytest.mark.parametrize("path", VARIANTS, indirect=True)
def test_batches_answer_as_single_images_do(path, images):
    classifier = Classifier(path)
    batched = classifier.raw(images, batch_size=25)
    single = np.concatenate([classifier.raw(image[np.newaxis]) for image in images])
    if path.name.endswith("float32.tflite"):
        np.testing.assert_allclose(batched, single, atol=1e-6)
    else:
        np.testing.assert_array_equal(batched, single)
    np.testing.assert_allclose(classifier.predict(images).sum(1), 1, atol=0.05)


def test_shards_are_read_a_batch_at_a_time(synthetic, sharded, monkeypatch):
    whole, parts = (datasets.load(str(one), "test").images for one in (synthetic, sharded))
    expected, read = Classifier().raw(whole), shards.Shards.__getitem__
    batches = []
    monkeypatch.setattr(
        shards.Shards, "__getitem__", lambda *call: batches.append(read(*call)) or batches[-1]
    )
    np.testing.assert_array_equal(Classifier().raw(parts, batch_size=30), expected)
    assert [len(batch) for batch in batches] == [30, 30, 30, 10]


def test_int8_and_uint8_files_are_one_model(finished, images):
    int8 = Classifier(finished.folder / "export" / "lenet5_int8.tflite").raw(images)
    uint8 = Classifier(finished.folder / "export" / "lenet5_uint8.tflite").raw(images)
    np.testing.assert_array_equal(int8.astype(int) + 128, uint8)


def test_int8_input_is_the_pixel_less_128(path):
    classifier = Classifier(path)
    np.testing.assert_array_equal(classifier._table, np.arange(256) - 128)


def test_quantizing_rounds_and_clips():
    tensor = Tensor((1,), np.dtype(np.int8), 0.5, 10)
    values = tensor.quantize(np.array([0.0, 0.26, -0.26, 1000.0, -1000.0]))
    assert values.tolist() == [10, 11, 9, 127, -128]
    assert tensor.dequantize(np.array([10, 127], np.int8)).tolist() == [0.0, 58.5]


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((28, 28), np.uint8),
        np.zeros((1, 28, 28), np.float32),
        np.zeros((1, 32, 32), np.uint8),
    ],
)
def test_wrong_images_are_refused(path, images):
    with pytest.raises(Error, match=r"expected uint8 images of shape \(N, 28, 28\), got"):
        Classifier(path).predict(images)


def tflite(shape, outputs=10):
    function = tf.function(
        lambda image: tf.reshape(image, [1, -1])[:, :outputs],
        input_signature=[tf.TensorSpec(shape, tf.float32)],
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [function.get_concrete_function()], tf.Module()
    )
    return converter.convert()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (lambda: b"", "not a .tflite file"),
        (lambda: b"PK\x03\x04 some zip file", "not a .tflite file"),
        (lambda: b"\x1c\x00\x00\x00TFL3" + bytes(60), "damaged"),
        (lambda: tflite((1, 28, 28, 3)), r"an input of shape \(1, 28, 28, 1\).*\(1, 28, 28, 3\)"),
        (lambda: tflite((1, 28, 28, 1), 7), r"an output of shape \(1, 10\).*found \(1, 7\)"),
    ],
)
def test_files_that_break_the_contract_are_refused(tmp_path, content, complaint):
    (tmp_path / "model.tflite").write_bytes(content())
    with pytest.raises(Error, match=complaint) as caught:
        Classifier(tmp_path / "model.tflite")
    assert "\n" not in str(caught.value)


def test_a_truncated_file_is_refused(path, tmp_path):
    content = path.read_bytes()
    for share in (0.1, 0.5, 0.99):
        (tmp_path / "short.tflite").write_bytes(content[: int(share * len(content))])
        with pytest.raises(Error, match=r"short\.tflite"):
            open_interpreter(tmp_path / "short.tflite")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(Error, match=r"nothing\.tflite: cannot be read"):
        Classifier(tmp_path / "nothing.tflite")


def test_an_answer_below_the_files_threshold_is_not_accepted(path, tmp_path):
    content, picture = path.read_bytes(), 255 - draw_digits(8, 3)[0][7]
    for threshold, accepted in ((0.0, True), (1.0, False)):
        described = metadata_writer.attach(
            content, metadata.describe("lenet5", "", "1", "", threshold), {}
        )
        (tmp_path / "model.tflite").write_bytes(described)
        classifier = Classifier(tmp_path / "model.tflite")
        assert classifier.threshold == threshold
        answer = classifier.classify(picture)
        assert answer.digit == 7
        assert answer.accepted is accepted


def test_a_file_without_metadata_accepts_every_answer(path, tmp_path):
    bare = path.read_bytes().replace(metadata.ENTRY.encode(), b"SOME_OTHER_NAME")
    (tmp_path / "model.tflite").write_bytes(bare)
    assert Classifier(tmp_path / "model.tflite").threshold == 0
