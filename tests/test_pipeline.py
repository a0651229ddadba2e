"""All stages end to end on synthetic images, and the runner's promises about them."""

import csv
import json
import shutil
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from conftest import SMOKE, draw_digits, keras_lenet

from keras_lenet import artifacts, models, pipeline, recipe
from keras_lenet.artifacts import Record
from keras_lenet.cluster import Cluster
from keras_lenet.data import datasets
from keras_lenet.edge.classifier import Classifier
from keras_lenet.errors import Error
from keras_lenet.stages import fitting, quantize

STAGES = [name for name in pipeline.STAGES if name != "teach"]  # the recipe has no teachers


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


def opened(arguments, tmp_path, *overrides):
    settings = [arguments[i + 1] for i, item in enumerate(arguments) if item == "--set"]
    return pipeline.open_run(recipe.load(SMOKE, [*settings, *overrides]), tmp_path, None)


def stale(run):
    return {one.name: run.why_stale(one) for one in run.having(pipeline.STAGES.values())}


def test_what_a_changed_recipe_makes_stale(finished, tmp_path):
    arguments = finished.copy(tmp_path)
    assert not any(stale(opened(arguments, tmp_path)).values())
    changed = stale(opened(arguments, tmp_path, "quantize.epochs=2"))
    assert [name for name, reason in changed.items() if reason] == ["quantize"]
    changed = stale(opened(arguments, tmp_path, "seed=1"))
    assert all(reason == "the recipe changed" for reason in changed.values())
    changed = stale(opened(arguments, tmp_path, "evaluate.min_accuracy=0.5"))
    assert [name for name, reason in changed.items() if reason] == ["evaluate"]


def test_changed_data_makes_stale(finished, tmp_path, monkeypatch):
    run = opened(finished.copy(tmp_path), tmp_path)
    monkeypatch.setattr(datasets, "identity", lambda name, split, data_dir: f"another {split}")
    reasons = stale(run)
    assert reasons["train"] == reasons["evaluate"] == "its inputs changed"
    assert reasons["report"] is None


def test_a_stale_stage_further_up_is_not_built_on(finished, tmp_path):
    run = opened(finished.copy(tmp_path), tmp_path, "export.calibration_images=20")
    with pytest.raises(Error, match=r"report would build on a stale export stage \(the recipe"):
        pipeline.execute(run, pipeline.select("report", "report"))


def test_an_artifact_changed_by_hand_is_noticed_and_named(finished, tmp_path):
    run = opened(finished.copy(tmp_path), tmp_path)
    with (tmp_path / "smoke" / "export" / "lenet5_int8.tflite").open("ab") as file:
        file.write(b"x")
    reason = run.why_stale(pipeline.STAGES["export"])
    assert reason == "lenet5_int8.tflite is missing or was changed"
    (tmp_path / "smoke" / "train" / "stage.json").write_text("{")
    assert run.why_stale(pipeline.STAGES["train"]) == "its record cannot be read"


def test_a_missing_earlier_stage_is_named(finished, tmp_path):
    arguments = finished.copy(tmp_path)
    shutil.rmtree(tmp_path / "smoke" / "quantize")
    run = opened(arguments, tmp_path)
    with pytest.raises(Error, match=r"export needs the quantize stage of 'smoke', which has not"):
        pipeline.execute(run, pipeline.select("export", None))


def test_a_stale_earlier_stage_is_not_built_on(finished, tmp_path):
    run = opened(finished.copy(tmp_path), tmp_path, "train.epochs=6")
    with pytest.raises(Error, match=r"quantize would build on a stale train stage \(the recipe"):
        pipeline.execute(run, pipeline.select("quantize", "quantize"))


def test_stages_are_selected_in_order():
    names = [stage.name for stage in pipeline.select("quantize", "evaluate")]
    assert names == ["quantize", "export", "evaluate"]
    with pytest.raises(Error, match="unknown stage 'deploy': expected one of teach, train"):
        pipeline.select("deploy", None)
    with pytest.raises(Error, match="export comes after train"):
        pipeline.select("export", "train")


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


@pytest.fixture
def no_mnist(monkeypatch):
    def refuse(name):
        raise Error("no mirror could be reached: https://example.org (no answer in time)")

    monkeypatch.setattr(datasets, "download", refuse)


def mnist_run(tmp_path, *overrides):
    loaded = recipe.load(SMOKE, ["data.dataset=mnist", *overrides])
    return pipeline.open_run(loaded, tmp_path, None)


def test_without_a_fallback_the_ways_out_are_listed(tmp_path, no_mnist):
    with pytest.raises(Error, match=r"Looked in .*mnist; then no mirror .*Ways out: .*digits"):
        pipeline.execute(mnist_run(tmp_path), pipeline.select(None, None))


def test_a_fallback_is_loud_recorded_and_stayed_with(tmp_path, no_mnist, capfd):
    settings = ("data.fallback=digits", "train.epochs=2", "train.batch_size=256")
    stages = pipeline.select("train", "train")
    done = pipeline.execute(mnist_run(tmp_path, *settings), stages)
    assert done.dataset == "digits"
    assert "WARNING: mnist could not be had. Using digits instead" in capfd.readouterr().err
    assert Record.read(tmp_path / "smoke" / "train").dataset == "digits"
    again = mnist_run(tmp_path, *settings)
    pipeline.execute(again, stages)
    err = capfd.readouterr().err
    assert "everything is up to date" in err
    assert "WARNING: mnist could not be had. Using digits instead" in err


def test_later_stages_never_change_the_dataset(tmp_path, no_mnist, monkeypatch):
    """Trained on the fallback, a forced later stage stays on it when the other turns up."""
    settings = ("data.fallback=digits", "train.epochs=2", "train.batch_size=256")
    pipeline.execute(mnist_run(tmp_path, *settings), pipeline.select("train", "train"))
    run = mnist_run(tmp_path, *settings)
    assert run.dataset == "digits"
    stages = pipeline.select("quantize", "quantize")
    assert pipeline._obtain_data(run, stages, force=True).dataset == "digits"
    assert (
        pipeline._obtain_data(run, pipeline.select("train", None), force=False).dataset == "digits"
    )
    monkeypatch.setattr(datasets, "is_here", lambda name, split, data_dir: True)
    assert pipeline._obtain_data(run, pipeline.select(None, None), True).dataset == "mnist"


def test_what_is_up_to_date_needs_no_data(finished, tmp_path, monkeypatch):
    """Only the report is stale, and it reads no images."""
    asked = []
    monkeypatch.setattr(datasets, "is_here", lambda name, split, data_dir: asked.append(split))
    run = opened(finished.copy(tmp_path), tmp_path, "report.mistakes=5")
    pipeline.execute(run, pipeline.select(None, None))
    assert asked == []
    assert not any(stale(run).values())


def test_a_fallback_does_not_replace_a_model_of_the_real_data(finished, tmp_path, no_mnist):
    """Trained on MNIST once, the run waits for MNIST."""
    shutil.copytree(finished.folder, tmp_path / "smoke")
    record = Record.read(tmp_path / "smoke" / "train")
    replace(record, dataset="mnist").write(tmp_path / "smoke" / "train")
    run = mnist_run(tmp_path, "data.fallback=digits")
    with pytest.raises(Error, match="mnist cannot be had"):
        pipeline.execute(run, pipeline.select(None, None))


@pytest.mark.mnist
def test_mnist_is_learnt_in_one_epoch_and_survives_quantization(mnist_dir, tmp_path):
    """The whole chain on the real data, briefly; the recipes' own gates judge their full length."""
    result = keras_lenet(
        "run", SMOKE, "--runs", tmp_path, "--data-dir", mnist_dir, "--until", "evaluate",
        "--set", "data.dataset=mnist", "--set", "train.epochs=2", "--set", "train.batch_size=256",
        "--set", "quantize.batch_size=256", "--set", "evaluate.min_accuracy=0.975",
        "--set", "evaluate.max_accuracy_drop=0.003", "--set", "evaluate.max_model_bytes=78000",
        "--set", "evaluate.min_agreement=0.999",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr


def test_ranges_stand_still_in_the_last_epoch():
    """And move before it."""
    images, labels = draw_digits(64, 3)
    inputs = np.resize(images, (64, 32, 32))[..., np.newaxis].astype(np.float32) / 255
    float_model = models.build(tf_keras, recipe.Model())
    model = quantize.fake_quantized(float_model)
    model.compile(tf_keras.optimizers.Adam(1e-2), fitting.cross_entropy)
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


def test_other_backends_of_keras_only_train_and_on_one_host(tmp_path, monkeypatch):
    run = pipeline.open_run(recipe.load(SMOKE), tmp_path, None)
    stages = pipeline.select(None, None)
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    with pytest.raises(Error, match="KERAS_BACKEND=jax is for training alone: unset it, or"):
        pipeline.execute(run, stages)
    hosts = Cluster(("a:1", "b:1"), index=1)
    with pytest.raises(Error, match="KERAS_BACKEND=jax trains on one host alone: unset it, or"):
        pipeline.execute_training(replace(run, cluster=hosts), stages)
    monkeypatch.setenv("KERAS_BACKEND", "theano")
    with pytest.raises(Error, match=r"theano is not installed here; expected one of .* jax, and"):
        pipeline.execute_training(run, stages)
