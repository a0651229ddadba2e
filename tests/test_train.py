"""What depends on the machine or on options: several devices, precision, TensorBoard."""

import importlib.util
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import SMOKE, keras_lenet, write_dataset

from keras_lenet import pipeline, recipe
from keras_lenet.data import idx
from keras_lenet.errors import Error
from keras_lenet.stages import train

MIRRORED = """
import sys
from pathlib import Path
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

from keras_lenet import pipeline, recipe
from keras_lenet.data import idx
from keras_lenet.errors import Error
from keras_lenet.stages import train

CUT = False


def cut_off(epoch, logs):
    if CUT:
        raise Error("cut off")


import keras

train._tensorboard = lambda *_: (keras.callbacks.LambdaCallback(on_epoch_end=cut_off),)
train.strategy = lambda *_: tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
loaded = recipe.load(Path(sys.argv[1]), [f"data.dataset={sys.argv[3]}", *sys.argv[4:]])
try:
    run = pipeline.open_run(loaded, Path(sys.argv[2]), None)
    pipeline.execute(run, pipeline.select("train", "train"))
except Error as error:
    sys.exit(str(error))
"""


def mirrored(tmp_path, synthetic, *overrides, cut=False):
    code = MIRRORED.replace("CUT = False", f"CUT = {cut}")
    command = [sys.executable, "-c", code, SMOKE, tmp_path, synthetic, *overrides]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def summary(tmp_path):
    return json.loads((tmp_path / "smoke" / "train" / "stage.json").read_text())["summary"]


def test_mirrored_devices_train_as_one(tmp_path, synthetic):
    """Two logical CPUs stand for two GPUs; the model is as good."""
    result = mirrored(tmp_path, synthetic)
    assert result.returncode == 0, result.stderr
    assert summary(tmp_path)["validation_accuracy"] > 0.9


def test_mirrored_training_resumes(tmp_path, synthetic):
    """Cut off after its first epoch, it goes on to the end."""
    stop = "train.tensorboard=true"  # any callback that can be made to fail
    result = mirrored(tmp_path, synthetic, "train.epochs=3", stop, cut=True)
    assert "cut off" in result.stderr
    result = mirrored(tmp_path, synthetic, "train.epochs=3", stop)
    assert result.returncode == 0, result.stderr
    assert "train: resuming after epoch 1" in result.stderr
    assert summary(tmp_path)["epochs"] == 3


def test_a_batch_that_does_not_divide_among_devices_is_refused(tmp_path, synthetic):
    result = mirrored(tmp_path, synthetic, "train.batch_size=33")
    assert "batch_size = 33 does not divide evenly among 2 devices" in result.stderr


def training(tmp_path, synthetic, *overrides):
    loaded = recipe.load(SMOKE, [f"data.dataset={synthetic}", "train.epochs=2", *overrides])
    run = pipeline.open_run(loaded, tmp_path, None)
    return pipeline.execute(run, pipeline.select("train", "train")).stage_folder("train")


def test_mixed_precision_trains_and_keeps_a_float32_model(tmp_path, synthetic):
    folder = training(tmp_path, synthetic, "train.precision=mixed_bfloat16")
    model = keras.models.load_model(folder / "model.keras")
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}
    assert keras.config.dtype_policy().name == "float32"


def test_tensorboard_says_how_to_install_it(tmp_path, synthetic, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Error, match=r"pip install 'keras-lenet\[tensorboard\]'"):
        training(tmp_path, synthetic, "train.tensorboard=true")


@pytest.mark.parametrize(
    "section", [{"train": recipe.Train(label_smoothing=0.1)}, {"distill": recipe.Distill()}]
)
def test_a_loss_of_its_own_takes_labels_as_they_are(section):
    wanted = recipe.Recipe(name="test", model=recipe.Model(name="lenet5_1998"), **section)
    with pytest.raises(Error, match=r"lenet5_1998 is trained by a loss of its own"):
        train.loss(wanted)


def test_images_that_are_all_alike_cannot_be_standardized(tmp_path):
    folder = write_dataset(tmp_path / "alike")
    for path in folder.glob("*images*"):
        idx.write(path, np.full_like(idx.read(path, 3), 7))
    with pytest.raises(Error, match=r"every pixel of the 320 training images is 7, so .* is 0"):
        training(tmp_path, folder, "data.standardize=true")


def test_a_standardized_model_is_kept_for_plain_pixels(tmp_path, synthetic):
    folder = training(tmp_path, synthetic, "data.standardize=true", "model.pad=true")
    model = keras.models.load_model(folder / "model.keras")
    assert model.input_shape == (None, 28, 28, 1)
    assert [type(layer).__name__ for layer in model.layers[1:3]] == ["ZeroPadding2D", "Conv2D"]


def test_plain_gradient_descent_has_no_momentum():
    settings = recipe.Train(optimizer="sgd", momentum=0.0)
    optimizer = train._optimizer(settings, steps=1)
    assert (optimizer.momentum, optimizer.nesterov) == (0.0, False)


@pytest.mark.parametrize(("steps", "together"), [(1, 1), (5, 5), (64, 32), (210, 30), (211, 1)])
def test_steps_that_keras_takes_together_make_up_an_epoch(steps, together):
    assert train._in_one_go(steps) == together


@pytest.mark.skipif(not importlib.util.find_spec("jax"), reason="jax is not installed")
def test_what_jax_trains_tensorflow_quantizes(tmp_path, synthetic, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    settings = ("--set", f"data.dataset={synthetic}", "--set", "train.optimizer=muon")
    result = keras_lenet("run", SMOKE, "--runs", tmp_path, "--until", "quantize", *settings)
    assert result.returncode == 0, result.stderr
    assert "device: jax" in result.stderr
    for stage in ("train", "quantize"):
        record = json.loads((tmp_path / "smoke" / stage / "stage.json").read_text())
        assert record["summary"]["validation_accuracy"] > 0.8


def test_shards_train_to_the_weights_of_one_file(tmp_path, synthetic, sharded):
    whole = training(tmp_path / "whole", synthetic, "data.outliers=0")
    parts = training(tmp_path / "parts", sharded, "data.outliers=0")
    for name in ("model.keras", "history.csv", train.CONTACT_SHEET, train.EXAMPLE):
        assert (whole / name).read_bytes() == (parts / name).read_bytes()


@pytest.mark.parametrize("setting", ["data.outliers=0.1", "data.standardize=true"])
def test_what_does_not_go_with_shards_is_named(tmp_path, sharded, setting):
    with pytest.raises(Error, match=f"{setting.split('=')[0]} needs the training images in memory"):
        training(tmp_path, sharded, "data.outliers=0", setting, "model.pad=true")


def test_a_run_from_shards_ends_with_its_report(tmp_path, sharded):
    overrides = ("data.outliers=0", "train.epochs=2", f"data.dataset={sharded}")
    settings = [word for each in overrides for word in ("--set", each)]
    result = keras_lenet("run", SMOKE, "--runs", tmp_path, *settings)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "smoke" / "report" / "report.html").exists()
