"""All stages end to end on synthetic images, and the runner's promises about them."""

import csv
import html
import json
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from conftest import SMOKE, draw_digits, keras_lenet

from keras_lenet import artifacts, models, pipeline, recipe
from keras_lenet.artifacts import Record
from keras_lenet.edge.classifier import Classifier
from keras_lenet.stages import quantize
from keras_lenet.training import losses

STAGES = [name for name in pipeline.STAGES if name != "distill"]  # the recipe has no teachers


def metrics_of(run):
    return json.loads((run.folder / "evaluate" / "metrics.json").read_text())


def test_every_stage_leaves_its_files_and_a_record_of_them(finished):
    for name in STAGES:
        record = Record.read(finished.folder / name)
        assert record.stage == name
        assert record.outputs == artifacts.hash_files(finished.folder / name)
        assert record.versions["tensorflow"] == tf.__version__
    assert (finished.folder / "export" / "labels.txt").read_text().split() == list("0123456789")


def test_the_model_learns(finished):
    metrics = metrics_of(finished)
    assert metrics["models"]["int8"]["accuracy"] > 0.9
    with (finished.folder / "train" / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])


def test_the_table_is_on_stdout_and_the_story_on_stderr(finished):
    out, err = finished.result.stdout, finished.result.stderr
    for title in ("Keras float32", "SavedModel", "Keras QAT", "lenet5_int8.tflite"):
        assert title in out
    assert "report.html" in out
    for stage in STAGES:
        assert f"{stage}: running (not run yet)" in err
        assert f"{stage}: done" in err
    assert "device: CPU" in err
    assert "train epoch 8/8: loss" in err


def test_rejection_is_measured_at_the_threshold_of_the_int8_file(finished):
    deployed = Classifier(finished.folder / "export" / "lenet5_int8.tflite")
    assert metrics_of(finished)["rejection"]["threshold"] == deployed.threshold > 0


def test_the_manifest_and_the_page_show_the_settings_that_they_were_made_from(finished):
    """And no others, which may have changed since."""
    manifest = json.loads((finished.folder / "export" / "manifest.json").read_text())
    assert manifest["settings"] == Record.of_finished(finished.folder / "export").settings
    page = html.unescape((finished.folder / "report" / "report.html").read_text())
    shown = json.loads(page.partition("<pre>")[2].partition("</pre>")[0])
    assert shown == Record.of_finished(finished.folder / "report").settings


def test_ranges_start_at_the_float_models_own(finished):
    """And the input's is [0, 1] exactly, which makes the int8 scale 1/255."""
    model = quantize.load(finished.folder / "quantize", recipe.Model())
    lowest, highest, *_ = model.layers[1].get_weights()
    assert (lowest, highest) == (0, 1)
    named = {weight.name: weight.numpy() for weight in model.weights}
    assert named["quant_conv1/post_activation_min:0"] == pytest.approx(0, abs=0.05)
    trained = keras.models.load_model(finished.folder / "train" / "model.keras")
    probe = keras.Model(trained.input, trained.get_layer("conv1").output)
    images = draw_digits(50, 1)[0][..., np.newaxis] / 255
    highest = probe(tf.image.resize(images, (32, 32))).numpy().max()
    assert named["quant_conv1/post_activation_max:0"] == pytest.approx(highest, rel=0.3)


def snapshot(folder):
    return {
        path: (path.stat().st_mtime_ns, path.stat().st_size)
        for path in [folder, *folder.rglob("*")]
    }


def test_a_repeated_run_changes_nothing_and_loads_no_tensorflow(finished, tmp_path):
    arguments = finished.copy(tmp_path)
    before = snapshot(tmp_path)
    code = (
        "import sys; sys.argv[0] = 'keras-lenet'\n"
        "from keras_lenet.cli import main\n"
        "try: main()\n"
        "finally: print('tensorflow' in sys.modules)"
    )
    import subprocess
    import sys

    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "everything is up to date" in result.stderr
    assert "lenet5_int8.tflite" in result.stdout
    assert result.stdout.rstrip().endswith("False")
    assert snapshot(tmp_path) == before


@pytest.mark.slow
def test_training_to_export_run_without_any_test_file(tmp_path, synthetic):
    """What the test set could leak into can't be made to depend on it: it isn't there."""
    folder = tmp_path / "no test set"
    shutil.copytree(synthetic, folder)
    for path in folder.glob("t10k*"):
        path.unlink()
    arguments = ("--runs", tmp_path, "--set", f"data.dataset={folder}", "--set", "train.epochs=2")
    result = keras_lenet("run", SMOKE, *arguments, "--until", "export")
    assert result.returncode == 0, result.stderr
    result = keras_lenet("evaluate", SMOKE, *arguments)
    assert result.returncode == 1
    assert "t10k-images-idx3-ubyte[.gz] is not in" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.slow
@pytest.mark.mnist
def test_mnist_is_learnt_in_one_epoch_and_survives_quantization(mnist_dir, tmp_path):
    """The whole chain on the real data, briefly; the recipes' own gates judge their full length."""
    result = keras_lenet(
        "run", SMOKE, "--runs", tmp_path, "--data-dir", mnist_dir, "--until", "evaluate",
        "--set", "data.dataset=mnist", "--set", "data.outliers=0", "--set", "train.epochs=2",
        "--set", "train.batch_size=256", "--set", "evaluate.robustness_images=0",
        "--set", "quantize.batch_size=256", "--set", "evaluate.min_accuracy=0.975",
        "--set", "evaluate.max_accuracy_drop=0.003", "--set", "evaluate.max_model_bytes=78000",
        "--set", "evaluate.min_agreement=0.999",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_ranges_stand_still_in_the_last_epoch():
    """And move before it."""
    images, labels = draw_digits(64, 3)
    inputs = np.resize(images, (64, 32, 32))[..., np.newaxis].astype(np.float32) / 255
    float_model = models.build(tf_keras, recipe.Model())
    model = quantize.fake_quantized(float_model)
    model.compile(tf_keras.optimizers.Adam(1e-2), losses.cross_entropy)
    ranges = [variable for layer in model.layers for variable in quantize._activation_range(layer)]
    seen = []
    model.fit(
        inputs,
        labels,
        batch_size=16,
        epochs=3,
        verbose=0,
        callbacks=[
            quantize._still_ranges(model, last=2),
            tf_keras.callbacks.LambdaCallback(
                on_epoch_end=lambda *_: seen.append([variable.numpy() for variable in ranges])
            ),
        ],
    )
    assert len(ranges) > 8
    assert seen[0] != seen[1]
    assert seen[1] == seen[2]
