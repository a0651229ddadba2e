"""The figures of a finished run, computed anew from its files."""

import json

import numpy as np
import pytest
from conftest import SMOKE, keras_lenet
from scipy.special import softmax

from keras_lenet import recipe
from keras_lenet.data import augment, loading, reading
from keras_lenet.edge.classifier import Classifier
from keras_lenet.stages import quantize, train

FILES = ("float32", "int8_ptq", "int8", "uint8")


def read(folder):
    metrics = json.loads((folder / "evaluate" / "metrics.json").read_text())
    with np.load(folder / "evaluate" / "predictions.npz") as stored:
        return metrics, dict(stored)


def test_each_models_answers_are_those_of_its_own_file(finished, synthetic):
    test = reading.load(str(synthetic), "test")
    metrics, predictions = read(finished.folder)
    assert list(metrics["models"]) == ["keras", "saved_model", "qat", *FILES]
    np.testing.assert_array_equal(predictions["labels"], test.labels)
    for variant in FILES:
        path = finished.folder / "export" / f"lenet5_{variant}.tflite"
        np.testing.assert_array_equal(predictions[variant], Classifier(path).predict(test.images))
        assert metrics["models"][variant]["bytes"] == path.stat().st_size
    inputs = augment.resize(augment.to_unit(test.images[..., np.newaxis]), 32)
    trained = train.load(finished.folder / "train")
    fake_quantized = quantize.load(finished.folder / "quantize", recipe.Model())
    for key, model in (("keras", trained), ("saved_model", trained), ("qat", fake_quantized)):
        expected = softmax(np.asarray(model(inputs, training=False)), axis=1)
        # A value between two steps of a fake-quantized layer may go either way.
        np.testing.assert_allclose(predictions[key], expected, atol=0.05 if key == "qat" else 1e-5)
    for key, model in metrics["models"].items():
        answers = predictions[key].argmax(axis=1)
        assert model["correct"] == (answers == test.labels).sum()
        assert model["agreement"] == (answers == predictions["keras"].argmax(axis=1)).mean()
        matrix = np.zeros((10, 10), int)
        np.add.at(matrix, (test.labels, answers), 1)
        assert model["confusion"] == matrix.tolist()


def test_the_rejection_threshold_is_that_of_the_validation_images(finished, synthetic):
    """At most 0.5 % of them, here none of 80, may fall below: the threshold is the least's step."""
    settings = recipe.load(SMOKE).data
    splits = loading.load_training(
        str(synthetic), None, settings.validation_split, settings.split_seed
    )
    manifest = json.loads((finished.folder / "export" / "manifest.json").read_text())
    for variant in FILES:
        name = f"lenet5_{variant}.tflite"
        classifier = Classifier(finished.folder / "export" / name)
        train, validation = (
            int(classifier.predict(part.images).max(axis=1).min() * 256) for part in splits
        )
        assert train != validation  # or this test could not tell
        assert 256 * manifest["files"][name]["threshold"] == validation
        assert 256 * classifier.threshold == pytest.approx(validation)
    assert read(finished.folder)[0]["rejection"]["threshold"] == classifier.threshold


def test_a_missed_gate_ends_with_status_3_and_the_same_figures(finished, tmp_path):
    """Two evaluations of the same files differ in their timings alone."""
    _, _, *arguments = finished.copy(tmp_path)
    result = keras_lenet("evaluate", SMOKE, *arguments, "--set", "evaluate.max_model_bytes=1")
    assert result.returncode == 3
    assert "Traceback" not in result.stderr
    first, second = (read(runs)[0] for runs in (finished.folder, tmp_path / "smoke"))
    size = second["models"]["int8"]["bytes"]
    assert f"gate missed: evaluate.max_model_bytes: {size}, limit 1" in result.stderr
    assert first.pop("timings") != second.pop("timings")
    assert first.pop("gates") == []
    (gate,) = second.pop("gates")
    assert gate == {"gate": "max_model_bytes", "figure": size, "limit": 1, "met": False}
    assert json.dumps(first) == json.dumps(second)


def test_files_are_scored_as_a_recipes_are(finished, synthetic, tmp_path):
    files = [
        finished.folder / "train" / "model.keras",
        finished.folder / "export" / "saved_model",
        finished.folder / "export" / "lenet5_int8_ptq.tflite",
    ]
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
