"""All stages end to end on synthetic images: their files, records and figures."""

import csv
import html
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from conftest import SMOKE, keras_lenet
from scipy.special import softmax

from keras_lenet import artifacts, recipe
from keras_lenet.artifacts import Record
from keras_lenet.data import augment, loading, reading
from keras_lenet.edge.classifier import Classifier
from keras_lenet.stages import STAGES, quantize, train

ALL_STAGES = [name for name in STAGES if name != "distill"]  # the recipe has no teachers
FILES = ("float32", "int8_ptq", "int8", "uint8")


def read(path):
    return json.loads(path.read_text())


def metrics_of(run):
    return read(run / "evaluate" / "metrics.json")


def test_every_stage_leaves_its_files_and_a_record_of_them(finished):
    for name in ALL_STAGES:
        record = Record.read(finished.folder / name)
        assert record.stage == name
        assert record.outputs == artifacts.hash_files(finished.folder / name)
        assert record.versions["tensorflow"] == tf.__version__
    assert (finished.folder / "export" / "labels.txt").read_text().split() == list("0123456789")


def test_the_model_learns(finished):
    assert metrics_of(finished.folder)["models"]["int8"]["accuracy"] > 0.9
    with (finished.folder / "train" / "history.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert losses[-1] < losses[0]


def test_the_table_is_on_stdout_and_the_messages_on_stderr(finished):
    out, err = finished.result.stdout, finished.result.stderr
    titles = ("Keras float32", "SavedModel", "Keras QAT", "lenet5_int8.tflite", "report.html")
    stages = [
        text for one in ALL_STAGES for text in (f"{one}: running (not run yet)", f"{one}: done")
    ]
    assert [title for title in titles if title not in out] == []
    messages = [*stages, "device: CPU", "train epoch 8/8: loss"]
    assert [text for text in messages if text not in err] == []


def test_the_manifest_and_the_page_show_the_settings_of_their_stage(finished):
    manifest = read(finished.folder / "export" / "manifest.json")
    assert manifest["settings"] == Record.of_finished(finished.folder / "export").settings
    page = html.unescape((finished.folder / "report" / "report.html").read_text())
    shown = json.loads(page.partition("<pre>")[2].partition("</pre>")[0])
    assert shown == Record.of_finished(finished.folder / "report").settings


REPEAT = """
import sys
from keras_lenet.cli import main
try:
    main()
finally:
    print("tensorflow" in sys.modules)
"""


def test_a_repeated_run_changes_nothing_and_loads_no_tensorflow(finished, tmp_path):
    def snapshot():
        return {path: path.stat().st_mtime_ns for path in [tmp_path, *tmp_path.rglob("*")]}

    command = [sys.executable, "-c", REPEAT, *map(str, finished.copy(tmp_path))]
    before = snapshot()
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "everything is up to date" in result.stderr
    assert "lenet5_int8.tflite" in result.stdout
    assert result.stdout.rstrip().endswith("False")
    assert snapshot() == before


def test_each_models_figures_are_those_of_its_own_file(finished, synthetic):
    test = reading.load(str(synthetic), "test")
    models = metrics_of(finished.folder)["models"]
    assert list(models) == ["keras", "saved_model", "qat", *FILES]
    with np.load(finished.folder / "evaluate" / "predictions.npz") as stored:
        predictions = dict(stored)
    np.testing.assert_array_equal(predictions["labels"], test.labels)
    for variant in FILES:
        path = finished.folder / "export" / f"lenet5_{variant}.tflite"
        np.testing.assert_array_equal(predictions[variant], Classifier(path).predict(test.images))
        assert models[variant]["bytes"] == path.stat().st_size
    inputs = augment.resize(augment.to_unit(test.images[..., np.newaxis]), 32)
    trained = train.load(finished.folder / "train")
    fake_quantized = quantize.load(finished.folder / "quantize", recipe.Model())
    for key, model in (("keras", trained), ("saved_model", trained), ("qat", fake_quantized)):
        expected = softmax(np.asarray(model(inputs, training=False)), axis=1)
        # A value between two steps of a fake-quantized layer may go either way.
        np.testing.assert_allclose(predictions[key], expected, atol=0.05 if key == "qat" else 1e-5)
    for key, model in models.items():
        answers = predictions[key].argmax(axis=1)
        assert model["correct"] == (answers == test.labels).sum()
        assert model["agreement"] == (answers == predictions["keras"].argmax(axis=1)).mean()
        matrix = np.zeros((10, 10), int)
        np.add.at(matrix, (test.labels, answers), 1)
        assert model["confusion"] == matrix.tolist()


def test_the_rejection_threshold_is_that_of_the_validation_images(finished, synthetic):
    """At most 0.5 % of the images, here none of 80, may fall below the threshold."""
    share = recipe.load_recipe(SMOKE).data.validation_split
    splits = loading.load_training(str(synthetic), None, share, seed=0)
    manifest = read(finished.folder / "export" / "manifest.json")
    for variant in FILES:
        name = f"lenet5_{variant}.tflite"
        classifier = Classifier(finished.folder / "export" / name)
        train, validation = (
            int(classifier.predict(part.images).max(axis=1).min() * 256) for part in splits
        )
        assert train != validation  # or this test could not tell
        assert 256 * manifest["files"][name]["threshold"] == validation
        assert 256 * classifier.threshold == pytest.approx(validation)
    deployed = Classifier(finished.folder / "export" / "lenet5_int8.tflite")
    assert metrics_of(finished.folder)["rejection"]["threshold"] == deployed.threshold > 0


def test_a_missed_gate_ends_with_status_3_and_the_same_figures(finished, tmp_path):
    _, _, *arguments = finished.copy(tmp_path)
    result = keras_lenet("evaluate", SMOKE, *arguments, "--set", "evaluate.max_model_bytes=1")
    assert result.returncode == 3
    assert "Traceback" not in result.stderr
    first, second = (metrics_of(run) for run in (finished.folder, tmp_path / "smoke"))
    size = second["models"]["int8"]["bytes"]
    line = f"keras-lenet: gate missed: evaluate.max_model_bytes: {size}, limit 1"
    assert result.stderr.splitlines()[-1] == line
    assert first.pop("timings") != second.pop("timings")
    assert first.pop("gates") == []
    (gate,) = second.pop("gates")
    assert gate == {"gate": "max_model_bytes", "figure": size, "limit": 1, "met": False}
    assert json.dumps(first) == json.dumps(second)


def test_model_files_are_scored_like_those_of_a_recipe(finished, synthetic, tmp_path):
    found = tmp_path / "found"
    files = [
        finished.folder / "train" / "model.keras",
        finished.folder / "export" / "saved_model",
        finished.folder / "export" / "lenet5_int8_ptq.tflite",
    ]
    result = keras_lenet(
        "evaluate", *(word for path in files for word in ("--model", path)),
        "--dataset", synthetic, "--to", found,
        "--set", "evaluate.probes=5", "--set", "evaluate.robustness_images=20",
        "--set", "evaluate.prepared_images=10", "--set", "evaluate.max_model_bytes=1000",
    )  # fmt: skip
    assert result.returncode == 3
    assert "gate missed: evaluate.max_model_bytes" in result.stderr
    assert f"Report: {found / 'report.html'}" in result.stdout
    metrics, page = read(found / "metrics.json"), (found / "report.html").read_text()
    assert all(path.name in page for path in files)
    assert metrics["paired"][1]["verdict"].partition(":")[0] in page
    of_run = metrics_of(finished.folder)["models"]["keras"]
    assert metrics["models"]["model.keras"]["confusion"] == of_run["confusion"]
    again = keras_lenet("evaluate", "--model", files[0], "--dataset", synthetic, "--to", tmp_path)
    assert again.returncode == 1
    assert "holds something else: it has no metrics.json" in again.stderr


@pytest.mark.slow
def test_training_to_export_run_without_any_test_file(tmp_path, synthetic):
    folder = tmp_path / "no test set"
    shutil.copytree(synthetic, folder, ignore=shutil.ignore_patterns("t10k*"))
    arguments = ("--runs", tmp_path, "--set", f"data.dataset={folder}", "--set", "train.epochs=2")
    result = keras_lenet("run", SMOKE, *arguments, "--until", "export")
    assert result.returncode == 0, result.stderr
    result = keras_lenet("evaluate", SMOKE, *arguments)
    assert result.returncode == 1
    assert "t10k-images-idx3-ubyte.gz is not in" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.slow
@pytest.mark.mnist
def test_mnist_is_learnt_in_one_epoch_and_survives_quantization(mnist_dir, tmp_path):
    result = keras_lenet(
        "run", SMOKE, "--runs", tmp_path, "--data-dir", mnist_dir, "--until", "evaluate",
        "--set", "data.dataset=mnist", "--set", "data.outliers=0", "--set", "train.epochs=2",
        "--set", "train.batch_size=256", "--set", "evaluate.robustness_images=0",
        "--set", "quantize.batch_size=256", "--set", "evaluate.min_accuracy=0.975",
        "--set", "evaluate.max_accuracy_drop=0.003", "--set", "evaluate.max_model_bytes=78000",
        "--set", "evaluate.min_agreement=0.999",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
