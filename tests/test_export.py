"""The export stage on untrained models: SavedModel, conversion, contract, layout, manifest."""

import json
import shutil
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from conftest import SMOKE, draw_digits, write_dataset

from keras_lenet import __version__, artifacts, models, recipe
from keras_lenet.data import catalogue, reading
from keras_lenet.deploy import c, footprint, tflm
from keras_lenet.edge import metadata
from keras_lenet.edge.classifier import Classifier
from keras_lenet.errors import Error
from keras_lenet.evaluation import confidence
from keras_lenet.recipe import ExportSettings
from keras_lenet.stages import Context, export, quantize, train
from keras_lenet.tflite import convert, inspection, layout, metadata_writer

IMAGES = draw_digits(5, 1)[0]
EXPORTED = SMOKE.parents[1] / "exported"
PLAIN = EXPORTED / "microcontroller" / "lenet5_int8_plain.tflite"


def untrained(seed):
    """A LeNet-5 of random weights whose classes differ from image to image."""
    keras.utils.set_random_seed(seed)
    model = models.build(keras, recipe.Model())
    kernel, _ = model.layers[-1].get_weights()
    model.layers[-1].set_weights([30 * kernel, np.zeros(10)])
    model.layers[-1].set_weights([30 * kernel, -logits(model, IMAGES).mean(axis=0)])
    return model


def logits(model, images):
    return np.array(model(tf.image.resize(images[..., np.newaxis] / 255, (32, 32))))


@pytest.fixture(scope="module")
def network():
    return untrained(0)


# SavedModel


@pytest.fixture(scope="module")
def saved_model(network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "saved_model"
    (folder / "variables").mkdir(parents=True)
    (folder / "variables" / "of an earlier export").touch()
    convert.save_model(network, 32, folder)
    return folder


@pytest.fixture(scope="module")
def float_file(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("float") / "lenet5_float32.tflite"
    path.write_bytes(convert.convert(network, 32))
    return path


def by_session(folder):
    """As TensorFlow Serving, saved_model_cli and the C, Go and Java bindings do."""
    v1 = tf.compat.v1
    with v1.Session(graph=tf.Graph()) as session:
        signature = v1.saved_model.load(session, ["serve"], str(folder)).signature_def
        ends = signature["serving_default"]
        fetches = [ends.outputs[name].name for name in ("probabilities", "class")]
        return session.run(fetches, {ends.inputs["images"].name: IMAGES[..., np.newaxis]})


def by_tensorflow_2(folder):
    serve = tf.saved_model.load(str(folder)).signatures["serving_default"]
    answers = serve(images=tf.constant(IMAGES[..., np.newaxis]))
    return answers["probabilities"], answers["class"]


@pytest.mark.parametrize("load", [by_session, by_tensorflow_2])
def test_saved_model_answers_as_the_float_file(load, saved_model, float_file):
    probabilities, classes = load(saved_model)
    expected = Classifier(float_file).predict(IMAGES)
    assert len(set(expected.argmax(axis=1))) > 2  # equal answers would prove nothing
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)
    np.testing.assert_array_equal(classes, expected.argmax(axis=1))


def test_saved_model_has_the_signature_of_the_manifest_and_nothing_of_an_earlier_one(saved_model):
    serve = tf.saved_model.load(str(saved_model)).signatures[convert.SIGNATURE["signature"]]
    _, inputs = serve.structured_input_signature
    for name, found in (("inputs", inputs), ("outputs", serve.structured_outputs)):
        expected = convert.SIGNATURE[name]
        assert {end: (list(spec.shape), spec.dtype.name) for end, spec in found.items()} == {
            end: (promised["shape"], promised["dtype"]) for end, promised in expected.items()
        }
    names = {path.name for path in (saved_model / "variables").iterdir()}
    assert names == {"variables.index", "variables.data-00000-of-00001"}


# Conversion


def test_float_file_gives_the_softmax_of_the_networks_logits(network, float_file):
    expected = tf.nn.softmax(logits(network, IMAGES))
    np.testing.assert_allclose(Classifier(float_file).predict(IMAGES), expected, atol=1e-5)
    ops = {op.name for op in inspection.inspect(float_file).ops}  # no variable is left
    assert ops == {"RESIZE_BILINEAR", "CONV_2D", "MAX_POOL_2D", "FULLY_CONNECTED", "SOFTMAX"}


def corner(images, training):
    """Logits that need no weights: ten pixels of the first row, ten times as strong."""
    assert not training
    return 10 * tf.reshape(images, (-1, 784))[:, :10]


@pytest.mark.parametrize("io_type", [tf.int8, tf.uint8])
def test_calibration_images_set_the_ranges(io_type, tmp_path):
    """The greatest pixel is 51, a fifth of full ink: so is the input's scale, of 1 / 255."""
    path = tmp_path / "calibrated.tflite"
    images = np.zeros((2, 28, 28), np.uint8)
    images[1, 0, :10] = 51
    path.write_bytes(convert.convert(corner, 28, io_type, images))
    classifier = Classifier(path)
    assert classifier.input.dtype == classifier.output.dtype == io_type.as_numpy_dtype
    assert classifier.input.scale == pytest.approx(1 / 255 / 5)
    assert "float32" not in {op.outputs[0].dtype for op in inspection.inspect(path).ops}
    images[1, 0, :9] = 0  # logits 0 and 2: probabilities 1 to e²
    assert classifier.predict(images)[1, 9] == pytest.approx(np.exp(2) / (9 + np.exp(2)), abs=0.01)


def test_a_file_takes_several_images(tmp_path):
    path = tmp_path / "float.tflite"
    path.write_bytes(convert.convert(corner, 28))
    classifier = Classifier(path)
    np.testing.assert_array_equal(classifier.raw(IMAGES), classifier.raw(IMAGES, batch_size=1))


# Contract


def handmade(folder, variant, change=None, more=()):
    """The published file of a variant without its ops, with one change and more tensors.

    `change` is an end, its attribute (shape, type, scale, zeroPoint) and the new value.
    """
    published = EXPORTED / f"lenet5_{variant}.tflite"
    model = schema.ModelT.InitFromPackedBuf(published.read_bytes(), 0)
    graph, constant = model.subgraphs[0], schema.BufferT()
    constant.data = np.zeros(40, np.uint8)  # the output, which no op computes
    ends = {"input": graph.tensors[graph.inputs[0]], "output": graph.tensors[graph.outputs[0]]}
    if change is not None:
        end, what, value = change
        if what in ("type", "shape"):
            setattr(ends[end], what, value)
        else:
            setattr(ends[end].quantization, what, [value])
    graph.tensors = list(ends.values())
    for dtype in more:
        graph.tensors.append(schema.TensorT())
        graph.tensors[-1].name, graph.tensors[-1].shape = f"more {dtype}", [1]
        graph.tensors[-1].type = getattr(schema.TensorType, dtype.upper())
    for number, one in enumerate(graph.tensors):
        one.buffer = int(number == 1)
    graph.inputs, graph.outputs, graph.operators = [0], [1], []
    model.buffers, model.metadata, model.signatureDefs = [schema.BufferT(), constant], None, None
    path = folder / f"{variant}.tflite"
    path.write_bytes(metadata_writer.pack(model))
    return path


@pytest.mark.parametrize(
    ("variant", "end", "what", "value", "found"),
    [
        ("int8", "input", "shape", [1, 28, 28, 3], "shape=(1, 28, 28, 3)"),
        ("int8", "input", "type", schema.TensorType.UINT8, "dtype=dtype('uint8')"),
        ("int8", "input", "scale", 1.000011 / 255, "scale=0.0039216"),
        ("int8", "input", "zeroPoint", -127, "zero_point=-127"),
        ("int8", "output", "scale", 1 / 255, "scale=0.0039215"),
        ("uint8", "output", "zeroPoint", -128, "zero_point=-128"),
        ("float32", "output", "type", schema.TensorType.INT8, "dtype=dtype('int8')"),
    ],
)
def test_a_broken_contract_is_named_with_both_values(variant, end, what, value, found, tmp_path):
    with pytest.raises(Error) as raised:
        convert.check(handmade(tmp_path, variant, (end, what, value)), variant)
    before, expected = str(raised.value).split(", expected ")
    assert before.startswith(f"{variant}.tflite: its {end} is Tensor(")
    assert found in before
    shape = {"input": "(1, 28, 28, 1)", "output": "(1, 10)"}[end]
    scale, zero_point = {
        "float32": ("0", 0),
        "int8": ("0.00392157" if end == "input" else "0.00390625", -128),
        "uint8": ("0.00392157" if end == "input" else "0.00390625", 0),
    }[variant]
    assert expected == f"shape {shape}, {variant}, scale {scale}, zero point {zero_point}"


@pytest.mark.parametrize(("variant", "dtype"), [("int8", "float32"), ("uint8", "float16")])
def test_a_tensor_left_in_float_fails_the_stage(variant, dtype, tmp_path):
    path = handmade(tmp_path, variant, more=("int32", dtype))
    with pytest.raises(Error, match=f"^{variant}.tflite: not integer .*: more {dtype} is {dtype}$"):
        convert.check(path, variant)


# Layout


def test_an_optimized_layout_that_answers_otherwise_fails_the_stage(monkeypatch):
    """By one unit of one bias: the probabilities of no image stay all the same."""

    def broken(content):
        model = schema.ModelT.InitFromPackedBuf(content, 0)
        last = [op for op in model.subgraphs[0].operators if len(op.inputs) == 3][-1]
        bias = model.buffers[model.subgraphs[0].tensors[last.inputs[2]].buffer]
        values = np.array(bias.data).view("<i4")
        values[0] += 10_000
        bias.data = values.view(np.uint8)
        return metadata_writer.pack(model)

    monkeypatch.setattr(layout, "optimize", broken)
    with pytest.raises(Error, match=r"other outputs .* for \d of 5 .*optimize_layout=false"):
        convert.optimize_layout(PLAIN.read_bytes(), IMAGES)


# Bundles


def test_a_bundle_that_lacks_an_op_is_named_and_the_other_is_written(monkeypatch, tmp_path, capsys):
    def refuse(*_):
        raise Error("it has MEAN")

    written = []
    monkeypatch.setattr(tflm, "write", refuse)
    monkeypatch.setattr(c, "write", lambda model, folder: written.append((model, folder)))
    export.write_bundles(PLAIN, tmp_path)
    assert written == [(PLAIN, tmp_path / "c")]
    said = "export: no microcontroller bundle of this model: it has MEAN"
    assert said in capsys.readouterr().err.splitlines()


# The stage


TEMPERATURES = {"train": 0.5, "quantize": 0.25}
"""Below 1, so that the answers of untrained networks differ in confidence."""


def settings_for(data, *overrides):
    overrides = [f"data.dataset={data}", *overrides]
    return recipe.load_recipe(SMOKE, overrides).only(ExportSettings)


@pytest.fixture(scope="module")
def context(network, tmp_path_factory):
    """The folders of a train and a quantize stage, of unlike untrained networks, and their data."""
    folder = tmp_path_factory.mktemp("stages")
    for name in ("train", "quantize", "export"):
        (folder / name).mkdir()
    write_dataset(folder / "data", 200, 10)
    for path in (folder / "data").glob("t10k*"):
        path.unlink()  # the test set has no say
    network.save(folder / "train" / train.MODEL)
    plain = quantize.to_tf_keras(untrained(1), recipe.Model())
    fake_quantized = quantize.fake_quantized(plain)
    images = tf.image.resize(IMAGES[..., np.newaxis] / 255, (32, 32))
    quantize.set_ranges(fake_quantized, plain, tf.data.Dataset.from_tensors((images, 0)))
    fake_quantized(images, training=True)
    fake_quantized.save_weights(folder / "quantize" / quantize.WEIGHTS)
    for stage, value in TEMPERATURES.items():
        artifacts.Record(
            stage, {}, {}, {}, "data", 0, {}, "2026-01-01", 1.0, {"temperature": value}
        ).write(folder / stage)
    inputs = {stage: folder / stage for stage in TEMPERATURES}
    settings = settings_for(folder / "data")
    return Context(settings, str(folder / "data"), None, inputs, folder / "export")


@pytest.fixture(scope="module", autouse=True)
def _brief():
    """Without compilers and Vela, whose measurements other tests look at."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", "")
        patch.setattr(confidence, "REFUSED", 0.2)
        patch.setattr(footprint, "page", lambda model: f"of {model.name}")
        yield


@pytest.fixture(scope="module")
def exported(context):
    """The folder of a finished export, and the stage's summary."""
    return context.out, export.run(context)


@pytest.mark.slow
def test_folders_and_earlier_work_change_no_byte_but_of_containers(context, exported, tmp_path):
    """The same export again in the plain layout, of data in another folder."""
    shutil.copytree(context.dataset, tmp_path / "data")
    (tmp_path / "export").mkdir()
    settings = settings_for(tmp_path / "data", "export.optimize_layout=false")
    again = replace(context, settings=settings, dataset=settings.data.dataset)
    export.run(replace(again, out=tmp_path / "export"))
    first, second = (artifacts.hash_files(out) for out in (exported[0], tmp_path / "export"))
    differ = {name for name in first if first[name] != second[name]}
    differ -= {"saved_model/saved_model.pb", "saved_model/fingerprint.pb"}
    # The manifest names the images' folder.
    assert differ == {"manifest.json", "lenet5_int8.tflite", "lenet5_uint8.tflite"}
    assert first.keys() == second.keys()
    assert "c/lenet5.c" in first
    assert "saved_model/variables/variables.data-00000-of-00001" in first
    plain = "microcontroller/lenet5_int8_plain.tflite"
    assert second["lenet5_int8.tflite"] == second[plain] == first[plain]


def test_layout_of_the_deployed_files_alone_is_optimized(exported):
    optimized = {
        path.relative_to(exported[0]).as_posix()
        for path in exported[0].rglob("*.tflite")
        if "TRANSPOSE" in {op.name for op in inspection.inspect(path).ops}
    }
    assert optimized == {"lenet5_int8.tflite", "lenet5_uint8.tflite"}


@pytest.mark.parametrize(
    ("variant", "stage"),
    [("float32", "train"), ("int8_ptq", "train"), ("int8", "quantize"), ("uint8", "quantize")],
)
def test_each_file_has_the_weights_of_its_stage(variant, stage, exported, network, context):
    expected = logits(network, IMAGES) / TEMPERATURES["train"]
    if stage == "quantize":
        model = quantize.load(context.inputs["quantize"], context.settings.model)
        expected = logits(model, IMAGES)
    found = Classifier(exported[0] / f"lenet5_{variant}.tflite").predict(IMAGES)
    np.testing.assert_allclose(found, tf.nn.softmax(expected), atol=0.06)


def test_thresholds_refuse_a_share_of_the_validation_images(exported, context):
    splits = context.splits(1)
    files = json.loads((exported[0] / "manifest.json").read_text())["files"]
    for name, described in files.items():
        classifier = Classifier(exported[0] / name)
        of_training, of_validation = (
            confidence.threshold(classifier.predict(part.images), 0.2) for part in splits
        )
        assert classifier.threshold == of_validation == described["threshold"]
        assert of_training != of_validation
    plain = Classifier(exported[0] / "microcontroller" / "lenet5_int8_plain.tflite")
    assert plain.threshold == files["lenet5_int8.tflite"]["threshold"]


def test_calibration_images_are_named_by_position_and_hash(exported, context):
    described = json.loads((exported[0] / "calibration.json").read_text())
    training, _ = context.splits(1)
    images = reading.load(context.dataset, "train").images
    assert len(set(described["indices"])) == 50
    assert set(described["indices"]) <= set(training.indices.tolist())
    assert described["sha256"] == [
        artifacts.digest(images[index].tobytes()) for index in described["indices"]
    ]


def test_files_describe_themselves(exported):
    assert (exported[0] / "budget.md").read_text() == "of lenet5_int8_plain.tflite"
    for path in exported[0].rglob("*.tflite"):
        found = metadata.read(path.read_bytes())
        assert (found["name"], found["version"]) == ("lenet5", __version__)
        assert metadata_writer.labels(path.read_bytes()) == list("0123456789")
    assert (exported[0] / "labels.txt").read_text() == "0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n"


def test_a_description_names_classes_and_threshold(tmp_path):
    path = handmade(tmp_path, "int8")
    export.describe(path, "lenet5", "fashion_mnist", 0.25)
    content = path.read_bytes()
    found = metadata.read(content)
    assert found["description"] == "Ten-class classifier of clothing"
    assert metadata.score_threshold(content) == 0.25
    assert metadata_writer.labels(content) == list(catalogue.classes("fashion_mnist"))


# Manifest


def test_manifest_and_summary_are_of_the_files_and_stages(exported, context):
    folder, summary = exported
    files = {variant: folder / f"lenet5_{variant}.tflite" for variant in export.VARIANTS}
    assert summary == {variant: path.stat().st_size for variant, path in files.items()}
    thresholds = {variant: Classifier(path).threshold for variant, path in files.items()}
    expected = export.manifest(folder, context.dataset, context.settings, thresholds, TEMPERATURES)
    assert json.loads((folder / "manifest.json").read_text()) == expected
    assert expected["settings"] == context.settings.model_dump(mode="json")


THRESHOLDS = dict(zip(export.VARIANTS, (0.1, 0.2, 0.3, 0.4), strict=True))
SETTINGS = recipe.load_recipe(SMOKE, []).only(ExportSettings)
PUBLISHED = json.loads((EXPORTED / "manifest.json").read_text())


@pytest.fixture(scope="module")
def manifest():
    return export.manifest(EXPORTED, "fashion_mnist", SETTINGS, THRESHOLDS, TEMPERATURES)


def test_manifest_describes_every_file(manifest):
    plain = manifest["microcontroller"]["lenet5_int8_plain.tflite"]
    names = [f"lenet5_{variant}.tflite" for variant in export.VARIANTS]
    described = manifest["files"] | {"microcontroller/lenet5_int8_plain.tflite": plain}
    assert [one.pop("threshold") for one in described.values()] == [0.1, 0.2, 0.3, 0.4, 0.3]
    assert list(manifest["files"]) == names
    for name, one in described.items():
        classifier = Classifier(EXPORTED / name)
        for end, tensor in (("input", classifier.input), ("output", classifier.output)):
            assert one[end]["shape"] == list(tensor.shape)
            assert one[end]["dtype"] == tensor.dtype.name
            assert ("scale" in one[end]) == ("zero_point" in one[end]) == bool(tensor.scale)
            assert one[end].get("scale", 0) == pytest.approx(tensor.scale)
            assert one[end].get("zero_point", 0) == tensor.zero_point
    published = PUBLISHED["files"] | PUBLISHED["microcontroller"]
    for one in published.values():
        one.pop("threshold", None)
    assert manifest["files"] | manifest["microcontroller"] == published
    assert set(manifest["microcontroller"]) == set(artifacts.hash_files(PLAIN.parent))


def test_manifest_describes_all_else(manifest):
    assert manifest | {"files": 0, "microcontroller": 0} == {
        "schema": 1,
        "model": "lenet5",
        "dataset": "fashion_mnist",
        "image": PUBLISHED["image"],
        "labels": list(catalogue.classes("fashion_mnist")),
        "temperature": {"meaning": export.TEMPERATURE, **TEMPERATURES},
        "files": 0,
        "saved_model": PUBLISHED["saved_model"] | {"threshold": THRESHOLDS["float32"]},
        "microcontroller": 0,
        "settings": SETTINGS.model_dump(mode="json"),
        "versions": artifacts.versions(),
    }
    assert list(manifest) == list(PUBLISHED)
