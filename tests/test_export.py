"""The export stage on untrained models: SavedModel, conversion, contract, layout, manifest."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from conftest import SMOKE, draw_digits, write_dataset

from keras_lenet import __version__, artifacts, models, recipe
from keras_lenet.data import catalogue, reading
from keras_lenet.deploy import footprint, tflm
from keras_lenet.deploy.c import folder as generated
from keras_lenet.edge import metadata
from keras_lenet.edge.classifier import Classifier
from keras_lenet.errors import Error
from keras_lenet.evaluation import confidence
from keras_lenet.recipe import ExportSettings
from keras_lenet.stages import Context, export, quantize, train
from keras_lenet.tflite import convert, inspection, layout, metadata_writer

IMAGES = draw_digits(5, 1)[0]


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


def assert_answers_as(float_file, probabilities, classes):
    expected = Classifier(float_file).predict(IMAGES)
    assert len(set(expected.argmax(axis=1))) > 2  # equal answers would prove nothing
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)
    np.testing.assert_array_equal(classes, expected.argmax(axis=1))


@pytest.mark.slow
def test_saved_model_answers_saved_model_cli(saved_model, float_file, tmp_path):
    """Through a session, as in TensorFlow Serving and in the C, Go and Java bindings."""
    np.save(tmp_path / "images.npy", IMAGES[..., np.newaxis])
    command = [
        Path(sys.executable).with_name("saved_model_cli"), "run", "--dir", saved_model,
        "--tag_set", "serve", "--signature_def", "serving_default",
        "--inputs", f"images={tmp_path / 'images.npy'}", "--outdir", tmp_path,
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    answers = (np.load(tmp_path / f"{name}.npy") for name in ("probabilities", "class"))
    assert_answers_as(float_file, *answers)


def test_saved_model_answers_a_session_of_tensorflow_1(saved_model, float_file):
    v1 = tf.compat.v1
    with v1.Session(graph=tf.Graph()) as session:
        graph = v1.saved_model.load(session, ["serve"], str(saved_model))
        signature = graph.signature_def["serving_default"]
        fetches = [signature.outputs[name].name for name in ("probabilities", "class")]
        feed = {signature.inputs["images"].name: IMAGES[..., np.newaxis]}
        assert_answers_as(float_file, *session.run(fetches, feed))


def test_saved_model_answers_tensorflow_2(saved_model, float_file):
    serve = tf.saved_model.load(str(saved_model)).signatures["serving_default"]
    answers = serve(images=tf.constant(IMAGES[..., np.newaxis]))
    assert_answers_as(float_file, answers["probabilities"], answers["class"])


def test_saved_model_keeps_nothing_of_an_earlier_one(saved_model):
    assert {path.name for path in (saved_model / "variables").iterdir()} == {
        "variables.index", "variables.data-00000-of-00001",
    }  # fmt: skip


def test_saved_model_has_the_same_bytes_whatever_was_traced_before(network, saved_model, tmp_path):
    convert.save_model(network, 32, tmp_path / "again")
    assert artifacts.hash_files(tmp_path / "again") == artifacts.hash_files(saved_model)


def test_signature_is_the_one_that_the_manifest_has(saved_model):
    serve = tf.saved_model.load(str(saved_model)).signatures[convert.SIGNATURE["signature"]]
    _, inputs = serve.structured_input_signature
    for end, found in (("inputs", inputs), ("outputs", serve.structured_outputs)):
        assert {
            name: (promised["shape"], promised["dtype"])
            for name, promised in convert.SIGNATURE[end].items()
        } == {name: (spec.shape.as_list(), spec.dtype.name) for name, spec in found.items()}


# Conversion


def test_float_file_gives_the_softmax_of_the_networks_logits(network, float_file):
    expected = tf.nn.softmax(logits(network, IMAGES))
    np.testing.assert_allclose(Classifier(float_file).predict(IMAGES), expected, atol=1e-5)


def test_no_variable_is_left_in_a_file(float_file):
    assert {op.name for op in inspection.inspect(float_file).ops} == {
        "RESIZE_BILINEAR", "CONV_2D", "MAX_POOL_2D", "FULLY_CONNECTED", "SOFTMAX",
    }  # fmt: skip


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
    tensors = {op.outputs[0].dtype for op in inspection.inspect(path).ops}
    assert "float32" not in tensors
    images[1, 0, :9] = 0  # logits 0 and 2: probabilities 1 to e²
    assert classifier.predict(images)[1, 9] == pytest.approx(np.exp(2) / (9 + np.exp(2)), abs=0.01)


def test_a_file_takes_several_images(tmp_path):
    path = tmp_path / "float.tflite"
    path.write_bytes(convert.convert(corner, 28))
    classifier = Classifier(path)
    together, apart = classifier.raw(IMAGES), classifier.raw(IMAGES, batch_size=1)
    np.testing.assert_array_equal(together, apart)


# Contract


ENDS = {
    "float32": (("float32", 0.0, 0), ("float32", 0.0, 0)),
    "int8": (("int8", 1 / 255, -128), ("int8", 1 / 256, -128)),
    "uint8": (("uint8", 1 / 255, 0), ("uint8", 1 / 256, 0)),
}
ENDS["int8_ptq"] = ENDS["int8"]


def handmade(folder, variant, change=None, more=()):
    """A .tflite of no op that keeps a variant's contract, but for the one thing that is changed.

    Args:
        folder: for the file.
        variant: of the contract.
        change: end, what to change there ("shape", "dtype", "scale", "zero_point"), the new value.
        more: dtypes of further tensors.
    """
    model, graph, constant = schema.ModelT(), schema.SubGraphT(), schema.BufferT()
    constant.data = np.zeros(40, np.uint8)  # the output, which no op computes
    tensors = {}
    for end, shape, values in zip(
        ("input", "output"), ((1, 28, 28, 1), (1, 10)), ENDS[variant], strict=True
    ):
        tensors[end] = dict(
            zip(("shape", "dtype", "scale", "zero_point"), (shape, *values), strict=True)
        )
    if change is not None:
        end, what, value = change
        assert tensors[end][what] != value
        tensors[end][what] = value
    graph.tensors = [tensor(name, **values) for name, values in tensors.items()]
    graph.tensors += [tensor(f"more {dtype}", (1,), dtype) for dtype in more]
    graph.tensors[1].buffer = 1
    graph.inputs, graph.outputs = np.array([0], np.int32), np.array([1], np.int32)
    graph.operators, model.subgraphs, model.operatorCodes = [], [graph], []
    model.version, model.buffers = 3, [schema.BufferT(), constant]
    path = folder / f"{variant}.tflite"
    path.write_bytes(metadata_writer.pack(model))
    return path


def tensor(name, shape, dtype, scale=0.0, zero_point=0):
    made = schema.TensorT()
    made.name, made.shape, made.buffer = name, np.array(shape, np.int32), 0
    made.type = getattr(schema.TensorType, dtype.upper())
    if scale:
        made.quantization = schema.QuantizationParametersT()
        made.quantization.scale = np.array([scale], np.float32)
        made.quantization.zeroPoint = np.array([zero_point], np.int64)
    return made


@pytest.mark.parametrize("variant", export.VARIANTS)
def test_a_file_that_keeps_the_contract_passes(variant, tmp_path):
    convert.check(handmade(tmp_path, variant), variant)


@pytest.mark.parametrize(
    ("variant", "end", "what", "value"),
    [
        ("int8", "input", "shape", (1, 28, 28, 3)),
        ("int8", "input", "dtype", "uint8"),
        ("int8", "input", "dtype", "float32"),
        ("int8", "input", "scale", 1 / 254),
        ("int8", "input", "scale", 1.000011 / 255),
        ("int8", "input", "zero_point", -127),
        ("int8", "output", "shape", (1, 9)),
        ("int8", "output", "dtype", "uint8"),
        ("int8", "output", "dtype", "float32"),
        ("int8", "output", "scale", 1 / 255),
        ("int8", "output", "zero_point", 0),
        ("uint8", "input", "zero_point", 1),
        ("uint8", "output", "zero_point", -128),
        ("float32", "input", "shape", (1, 32, 32, 1)),
        ("float32", "input", "scale", 1 / 255),
        ("float32", "output", "dtype", "int8"),
        ("float32", "output", "scale", 1 / 256),
    ],
)
def test_an_end_that_breaks_the_contract_is_named_with_both_values(
    variant, end, what, value, tmp_path
):
    path = handmade(tmp_path, variant, (end, what, value))
    with pytest.raises(Error) as raised:
        convert.check(path, variant)
    found, expected = str(raised.value).split(", expected ")
    assert found.startswith(f"{variant}.tflite: its {end} is Tensor(")
    dtype, scale, zero_point = ENDS[variant][("input", "output").index(end)]
    shape = "(1, 28, 28, 1)" if end == "input" else "(1, 10)"
    assert expected == f"shape {shape}, {dtype}, scale {scale:.6g}, zero point {zero_point}"
    if what == "scale":
        assert float(found.split("scale=")[1].split(",")[0]) == pytest.approx(value, rel=1e-6)
    else:
        assert f"{what}={f'dtype({value!r})' if what == 'dtype' else value}" in found


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("variant", ["int8", "int8_ptq", "uint8"])
def test_a_tensor_left_in_float_fails_the_stage(variant, dtype, tmp_path):
    path = handmade(tmp_path, variant, more=("int32", dtype))
    with pytest.raises(Error, match=f"^{variant}.tflite: not integer .*: more {dtype} is {dtype}$"):
        convert.check(path, variant)


def test_integers_of_any_width_are_no_floats(tmp_path):
    convert.check(handmade(tmp_path, "int8", more=("int32", "int64", "int16", "bool")), "int8")
    convert.check(handmade(tmp_path, "float32", more=("float32",)), "float32")


# Layout


EXPORTED = SMOKE.parents[1] / "exported"
PLAIN = EXPORTED / "microcontroller" / "lenet5_int8_plain.tflite"


def test_an_optimized_layout_that_answers_alike_is_taken():
    content = PLAIN.read_bytes()
    assert convert.optimize_layout(content, IMAGES) == layout.optimize(content)


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
    with pytest.raises(Error, match=r"answers \d of 5 .* than the plain .*optimize_layout=false"):
        convert.optimize_layout(PLAIN.read_bytes(), IMAGES)


# Bundles


@pytest.fixture
def written(monkeypatch):
    """What the writers of both bundles are called with, by folder."""
    calls = {}
    for writer in (tflm, generated):
        monkeypatch.setattr(
            writer, "write", lambda *arguments: calls.update({arguments[3].name: arguments})
        )
    return calls


def test_bundles_show_digits_that_may_be_handed_on(written, tmp_path, capsys):
    export.write_bundles(PLAIN, tmp_path)
    digits = reading.load(catalogue.DIGITS, "train")
    expected, expected_names = tflm.golden_images(digits.images[:], digits.labels)
    assert list(written) == ["microcontroller", "c"]
    for name, (model, images, names, folder) in written.items():
        assert (model, folder) == (PLAIN, tmp_path / name)
        np.testing.assert_array_equal(images, expected)
        assert names == expected_names
    said = capsys.readouterr().err.splitlines()
    assert said == ["export: microcontroller bundle", "export: C"]


@pytest.mark.parametrize(
    ("writer", "title", "left"),
    [(tflm, "microcontroller bundle", ["c"]), (generated, "C", ["microcontroller"])],
)
def test_a_bundle_that_cannot_be_written_is_named_and_the_other_is_written(
    writer, title, left, written, monkeypatch, tmp_path, capsys
):
    def refuse(*_):
        raise Error("it has MEAN")

    monkeypatch.setattr(writer, "write", refuse)
    export.write_bundles(PLAIN, tmp_path)
    assert list(written) == left
    said = [line for line in capsys.readouterr().err.splitlines() if " no " in line]
    assert said == [f"export: no {title} of this model: it has MEAN"]


# The stage


TEMPERATURES = {"train": 2.0, "quantize": 3.0}


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
    loaded = recipe.load(SMOKE, [f"data.dataset={folder / 'data'}", "export.refuse=0.2"])
    inputs = {stage: folder / stage for stage in TEMPERATURES}
    settings = loaded.only(ExportSettings)
    return Context(settings, str(folder / "data"), None, inputs, folder / "export")


@pytest.fixture(scope="module", autouse=True)
def _brief():
    """Without compilers and Vela, whose measurements other tests look at."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", "")
        patch.setattr(footprint, "write", lambda model, path: path.write_text(f"of {model.name}"))
        yield


@pytest.fixture(scope="module")
def exported(context):
    """The folder of a finished export, and the stage's summary."""
    return context.out, export.run(context)


@pytest.fixture(scope="module")
def again(context, exported, tmp_path_factory):
    """The folder of another export: the same, of data in another folder."""
    folder = tmp_path_factory.mktemp("again")
    shutil.copytree(context.dataset, folder / "data")
    export_settings = context.settings.export.model_copy(update={"optimize_layout": False})
    changed = context.settings.model_copy(update={"export": export_settings})
    (folder / "export").mkdir()
    export.run(
        replace(context, settings=changed, dataset=str(folder / "data"), out=folder / "export")
    )
    return folder / "export"


@pytest.mark.slow
def test_folders_change_no_byte(exported, again):
    first, second = artifacts.hash_files(exported[0]), artifacts.hash_files(again)
    differ = {name for name in first if first[name] != second[name]}
    # The manifest says where the images came from, and `again` has the plain layout throughout.
    assert differ == {"manifest.json", "lenet5_int8.tflite", "lenet5_uint8.tflite"}
    assert first.keys() == second.keys()
    assert "c/lenet5.c" in first
    plain = "microcontroller/lenet5_int8_plain.tflite"
    assert second["lenet5_int8.tflite"] == second[plain] == first[plain]


@pytest.mark.slow
def test_layout_of_the_deployed_files_alone_is_optimized(exported):
    optimized = {
        path.relative_to(exported[0]).as_posix()
        for path in exported[0].rglob("*.tflite")
        if "TRANSPOSE" in {op.name for op in inspection.inspect(path).ops}
    }
    assert optimized == {"lenet5_int8.tflite", "lenet5_uint8.tflite"}


def test_summary_has_the_sizes(exported):
    folder, summary = exported
    sizes = {name: (folder / f"lenet5_{name}.tflite").stat().st_size for name in export.VARIANTS}
    assert summary == sizes


@pytest.mark.parametrize(
    ("variant", "stage"),
    [("float32", "train"), ("int8_ptq", "train"), ("int8", "quantize"), ("uint8", "quantize")],
)
def test_each_file_has_the_weights_of_its_stage(variant, stage, exported, network, context):
    if stage == "train":
        expected = logits(network, IMAGES) / TEMPERATURES["train"]
    else:
        model = quantize.load(context.inputs["quantize"], context.settings.model)
        expected = logits(model, IMAGES)
    found = Classifier(exported[0] / f"lenet5_{variant}.tflite").predict(IMAGES)
    np.testing.assert_allclose(found, tf.nn.softmax(expected), atol=0.06)


def test_thresholds_refuse_a_share_of_the_validation_images(exported, context):
    splits = context.splits(1)
    manifest = json.loads((exported[0] / "manifest.json").read_text())
    files = [f"lenet5_{variant}.tflite" for variant in export.VARIANTS]
    for name in files:
        classifier = Classifier(exported[0] / name)
        of_training, of_validation = (
            confidence.threshold(classifier.predict(part.images), 0.2) for part in splits
        )
        assert classifier.threshold == of_validation == manifest["files"][name]["threshold"]
        assert of_training != of_validation
    plain = Classifier(exported[0] / "microcontroller" / "lenet5_int8_plain.tflite")
    assert plain.threshold == manifest["files"]["lenet5_int8.tflite"]["threshold"]


def test_calibration_images_are_named_by_position_and_hash(exported, context):
    described = json.loads((exported[0] / "calibration.json").read_text())
    training, _ = context.splits(1)
    images = reading.load(context.dataset, "train").images
    assert len(set(described["indices"])) == 50
    assert set(described["indices"]) <= set(training.indices.tolist())
    assert described["sha256"] == [
        artifacts.digest(images[index].tobytes()) for index in described["indices"]
    ]


def test_budget_is_of_the_plain_int8_file(exported):
    assert (exported[0] / "budget.md").read_text() == "of lenet5_int8_plain.tflite"


def test_files_describe_themselves(exported):
    for path in exported[0].rglob("*.tflite"):
        found = metadata.read(path.read_bytes())
        assert (found["name"], found["version"]) == ("lenet5", __version__)
        assert metadata_writer.labels(path.read_bytes()) == list("0123456789")
    assert (exported[0] / "labels.txt").read_text() == "0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n"


def test_manifest_is_written_with_what_the_files_and_stages_say(exported, context):
    folder, _ = exported
    thresholds = {
        variant: Classifier(folder / f"lenet5_{variant}.tflite").threshold
        for variant in export.VARIANTS
    }
    expected = export.manifest(
        folder,
        "lenet5",
        context.dataset,
        context.settings.model_dump(mode="json"),
        thresholds,
        TEMPERATURES,
    )
    assert json.loads((folder / "manifest.json").read_text()) == json.loads(json.dumps(expected))


# Description and manifest, of the published files


def test_a_description_names_model_classes_and_threshold(tmp_path):
    path = handmade(tmp_path, "int8")
    export.describe(path, "lenet5", "fashion_mnist", 0.25)
    found = metadata.read(path.read_bytes())
    assert found["name"] == "lenet5"
    assert found["description"] == "Ten-class classifier of clothing"
    assert (found["version"], found["author"]) == (__version__, "keras_lenet")
    assert metadata.score_threshold(path.read_bytes()) == 0.25
    labels = metadata_writer.files(path.read_bytes())["labels.txt"].decode()
    assert labels.startswith("T-shirt/top\nTrouser\n")
    assert labels.endswith("\nAnkle boot\n")


THRESHOLDS = dict(zip(export.VARIANTS, (0.1, 0.2, 0.3, 0.4), strict=True))


@pytest.fixture(scope="module")
def manifest():
    return export.manifest(
        EXPORTED, "lenet5", "fashion_mnist", {"seed": 7}, THRESHOLDS, TEMPERATURES
    )


def test_manifest_tells_the_truth_of_every_tflite(manifest):
    plain = {
        "microcontroller/lenet5_int8_plain.tflite": manifest["microcontroller"][
            "lenet5_int8_plain.tflite"
        ]
    }
    assert list(manifest["files"]) == [f"lenet5_{variant}.tflite" for variant in export.VARIANTS]
    for name, described in (manifest["files"] | plain).items():
        assert described["sha256"] == artifacts.sha256(EXPORTED / name)
        assert described["bytes"] == (EXPORTED / name).stat().st_size
        classifier = Classifier(EXPORTED / name)
        for end, tensor in (("input", classifier.input), ("output", classifier.output)):
            assert described[end]["shape"] == list(tensor.shape)
            assert described[end]["dtype"] == tensor.dtype.name
            assert described[end].get("scale", 0) == pytest.approx(tensor.scale)
            assert described[end].get("zero_point", 0) == tensor.zero_point
    found = [described["threshold"] for described in manifest["files"].values()]
    assert found == [0.1, 0.2, 0.3, 0.4]
    assert plain.popitem()[1]["threshold"] == THRESHOLDS["int8"]


@pytest.mark.parametrize(
    ("variant", "pixels", "probability"),
    [
        ("float32", "pixel / 255", "probability"),
        ("int8", "pixel - 128", "probability = (value + 128) / 256"),
        ("int8_ptq", "pixel - 128", "probability = (value + 128) / 256"),
        ("uint8", "pixel", "probability = value / 256"),
    ],
)
def test_manifest_says_what_the_numbers_mean(variant, pixels, probability, manifest):
    described = manifest["files"][f"lenet5_{variant}.tflite"]
    assert described["input"]["meaning"] == pixels
    assert described["output"]["meaning"] == probability


def test_manifest_names_every_file_of_the_microcontroller_bundle(manifest):
    folder, described = EXPORTED / "microcontroller", manifest["microcontroller"]
    assert {name: one["sha256"] for name, one in described.items()} == artifacts.hash_files(folder)
    assert all(one["bytes"] == (folder / name).stat().st_size for name, one in described.items())


def test_manifest_describes_the_saved_model(manifest):
    assert manifest["saved_model"] == {
        "signature": "serving_default",
        "inputs": {"images": {"shape": [None, 28, 28, 1], "dtype": "uint8", "meaning": "pixel"}},
        "outputs": {
            "probabilities": {"shape": [None, 10], "dtype": "float32", "meaning": "probability"},
            "class": {"shape": [None], "dtype": "int64", "meaning": "position of the highest"},
        },
        "threshold": THRESHOLDS["float32"],
    }


def test_manifest_explains_the_temperature(manifest):
    temperature = manifest["temperature"]
    assert {stage: temperature[stage] for stage in TEMPERATURES} == TEMPERATURES
    assert "use its probabilities as they are" in temperature["meaning"]


def test_manifest_names_settings_model_dataset_classes_and_versions(manifest):
    assert manifest["settings"] == {"seed": 7}
    assert (manifest["schema"], manifest["model"]) == (1, "lenet5")
    assert manifest["dataset"] == "fashion_mnist"
    assert manifest["image"] == "28×28 grey pixels, 0 = background, 255 = ink"
    assert manifest["labels"] == list(catalogue.classes("fashion_mnist"))
    assert manifest["versions"] == artifacts.versions()
