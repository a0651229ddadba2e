"""The train stage: batches, devices and results."""

import json
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny
from conftest import SMOKE, keras_lenet, write_dataset
from PIL import Image

from keras_lenet import models
from keras_lenet.data import loading
from keras_lenet.errors import Error
from keras_lenet.evaluation import confidence
from keras_lenet.recipe import Augment, Degrade, Distill, Model, Train
from keras_lenet.reporting import plots
from keras_lenet.stages import train
from keras_lenet.training import setup

pytestmark = pytest.mark.slow

UNMOVED = {"learning_rate": 1e-30, "weight_decay": 0.0, "warmup_epochs": 0, "batch_size": 15}
"""Settings that leave the weights as they begin."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """40 training images; 30 are left to train on and 10 to validate."""
    return write_dataset(tmp_path_factory.mktemp("few"), train=40, test=10)


@pytest.fixture(autouse=True)
def shown(monkeypatch):
    """Register the tiny network; return the images of each contact sheet, which isn't drawn."""
    tiny.register(monkeypatch)
    found = []
    monkeypatch.setattr(plots, "contact_sheet", found.append)
    monkeypatch.setattr(plots, "save", lambda figure, path: path.touch())
    return found


def trained(wanted, out, **inputs):
    """The model that the stage keeps, the rows of its history, and its summary."""
    summary = train.run(tiny.context(wanted, out, **inputs))
    return keras.models.load_model(out / train.MODEL), tiny.history(out), summary


@pytest.mark.parametrize(("initializer", "seed"), [("glorot", 5), ("fan_in", 6)])
def test_the_recipes_seed_and_initializer_decide_where_weights_begin(
    dataset, tmp_path, initializer, seed
):
    model = Model(name="tiny", initializer=initializer)
    wanted = tiny.recipe(dataset, seed=seed, model=model, train=Train(epochs=1, **UNMOVED))
    keras.utils.set_random_seed(99)
    kept, *_ = trained(wanted, tmp_path)
    keras.utils.set_random_seed(seed)
    expected = models.build(keras, model)
    if initializer == "fan_in":
        models.initialize_by_fan_in(expected, seed)
    for found, value in zip(kept.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(found, value, rtol=1e-6, atol=1e-12)


def test_standardization_by_the_digits_alone_is_folded_into_the_first_layer(dataset, tmp_path):
    data = {"standardize": True, "outliers": 0.5}
    wanted = tiny.recipe(dataset, data=data, train=Train(epochs=1, **UNMOVED))
    kept, *_ = trained(wanted, tmp_path)
    keras.utils.set_random_seed(0)
    kernel, bias, *_ = models.build(keras, wanted.model).get_weights()
    pixels = tiny.splits(wanted)[0].images / 255
    found = kept.get_layer("dense1").get_weights()
    np.testing.assert_allclose(found[0], kernel / pixels.std(), rtol=1e-4)
    folded = bias - pixels.mean() / pixels.std() * kernel.sum(axis=0)
    np.testing.assert_allclose(found[1], folded, rtol=1e-3, atol=1e-4)


def test_the_stage_keeps_its_best_epoch_and_finds_its_temperature(dataset, tmp_path, capsys):
    chosen = Train(epochs=6, warmup_epochs=0, learning_rate=0.1, batch_size=15, schedule="constant")
    wanted = tiny.recipe(dataset, train=chosen, data={"outliers": 0.1})
    _, validation = tiny.splits(wanted)
    kept, rows, summary = trained(wanted, tmp_path)
    said = " ".join(capsys.readouterr().err.split())
    assert "device: CPU" in said
    assert "train epoch 1/6: loss" in said
    names = {"augmentation.png", "checkpoint.npz", "example.png", "history.csv", "model.keras"}
    assert {path.name for path in tmp_path.iterdir()} == names
    best = max(rows, key=lambda row: (row["val_accuracy"], -row["val_loss"]))
    assert best is not rows[-1]
    logits = kept.predict(validation.images[..., np.newaxis] / 255, verbose=0)
    temperature = summary.pop("temperature")
    assert temperature == pytest.approx(confidence.temperature(logits, validation.labels), rel=1e-3)
    assert summary == {
        "epochs": 6,
        "best_epoch": int(best["epoch"]),
        "validation_accuracy": best["val_accuracy"],
        "validation_images": 10,
        "training_images": 30,
        "outliers": 3,
    }
    example = np.asarray(Image.open(tmp_path / "example.png"))
    np.testing.assert_array_equal(example, validation.images[0])
    tiny.write_record(tmp_path, temperature=2.5)
    divided = train.load(tmp_path).predict(validation.images[..., np.newaxis] / 255, verbose=0)
    np.testing.assert_allclose(divided, logits / 2.5, rtol=1e-4, atol=1e-5)


def first_batch(wanted, outlier_seed):
    """The images that a model is to see first: 30 of 30 digits and 15 outliers."""
    mixed = loading.with_outliers(tiny.splits(wanted)[0], 0.5, outlier_seed)
    batches = loading.training_batches(
        mixed, wanted.augment, wanted.degrade,
        size=28, batch_size=30, seed=wanted.seed, epochs=range(1),
    )  # fmt: skip
    return next(iter(batches))[0].numpy()[..., 0]


def test_the_recipe_decides_outliers_order_augmentation_and_degradation(dataset, tmp_path, shown):
    chosen = Train(epochs=1, **(UNMOVED | {"batch_size": 30}))
    wanted = tiny.recipe(
        dataset, seed=3, data={"outliers": 0.5}, train=chosen,
        augment=Augment(rotate=30.0), degrade=Degrade(noise=0.5),
    )  # fmt: skip
    trained(wanted, tmp_path)
    np.testing.assert_array_equal(shown[0], first_batch(wanted, outlier_seed=3))


def test_a_student_keeps_the_epoch_nearest_to_its_teachers(dataset, tmp_path, shown):
    """Its teachers are always wrong by one class: a nearer epoch is less accurate."""
    distill = Distill(model="tiny", seed=7, rounds=1, temperature=2.0)
    chosen = Train(epochs=30, warmup_epochs=0, learning_rate=0.02, batch_size=5)
    wanted = tiny.recipe(dataset, distill=distill, data={"outliers": 0.5}, train=chosen)
    training, validation = tiny.splits(wanted)
    wrong, teachers = (
        20 * np.eye(10, dtype=np.float32)[(part.labels + 1) % 10] for part in (training, validation)
    )
    of_training = np.concatenate([wrong, np.zeros((15, 10))])
    tiny.write_logits(tmp_path / "distill", of_training[np.newaxis], teachers)
    kept, rows, summary = trained(wanted, tmp_path / "train", distill=tmp_path / "distill")
    np.testing.assert_array_equal(shown[0], first_batch(wanted, outlier_seed=7)[:5])
    best = rows[summary["best_epoch"] - 1]
    assert best["val_loss"] == min(row["val_loss"] for row in rows)
    assert best["val_accuracy"] < max(row["val_accuracy"] for row in rows)
    logits = kept.predict(validation.images[..., np.newaxis] / 255, verbose=0)
    expected = tiny.divergence(teachers, logits, 2.0).mean()
    assert best["val_loss"] == pytest.approx(expected, rel=1e-3)


def test_splits_hold_out_the_same_images_for_every_seed_and_fill_a_batch(dataset, tmp_path):
    expected = loading.load_training(str(dataset), None, 0.5, seed=0)
    for seed in (0, 8):
        wanted = tiny.recipe(dataset, data={"validation_split": 0.5}, seed=seed)
        context = tiny.context(wanted, tmp_path)
        for part, other in zip(context.splits(20), expected, strict=True):
            np.testing.assert_array_equal(part.indices, other.indices)
    complaint = rf"^batch_size = 21: {dataset} has only 20 training images; choose a smaller batch$"
    with pytest.raises(Error, match=complaint):
        context.splits(21)


def on(monkeypatch, *names):
    """Let this machine have such GPUs; returns those whose memory is to grow."""
    growing, known = [], dict(enumerate(names))
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: list(known))
    experimental = types.SimpleNamespace(
        get_device_details=lambda gpu: {"device_name": known[gpu]} if known[gpu] else {},
        set_memory_growth=lambda gpu, on: growing.append((gpu, on)),
    )
    monkeypatch.setattr(tf.config, "experimental", experimental)
    return growing


def test_devices_are_named_mirrored_and_take_memory_as_needed(monkeypatch):
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", lambda: "mirrored")
    cluster = types.SimpleNamespace(strategy="of the cluster")
    plain = tf.distribute.get_strategy()
    on(monkeypatch)
    assert setup.device() == "CPU"
    on(monkeypatch, "A100")
    assert setup.strategy("all", None) is plain
    growing = on(monkeypatch, "A100", "", "T4")
    assert setup.device() == "GPU: A100, , T4"
    setup.prepare_devices()
    assert growing == [(0, True), (1, True), (2, True)]
    assert setup.strategy("all", None) == "mirrored"
    assert setup.strategy("all", cluster) == "of the cluster"
    assert setup.strategy("one", None) is setup.strategy("one", cluster) is plain


def test_a_batch_has_to_divide_among_the_recipes_devices(dataset):
    seven = types.SimpleNamespace(strategy=types.SimpleNamespace(num_replicas_in_sync=7))
    wanted = tiny.recipe(dataset, devices="all", train=Train(epochs=1, **UNMOVED))
    training, _ = tiny.splits(wanted)
    with pytest.raises(Error, match="batch_size = 15 does not divide evenly among 7 devices"):
        setup.build(wanted, training, seven)
    setup.build(wanted.model_copy(update={"devices": "one"}), training, seven)


@pytest.mark.needs("jax")
def test_tensorflow_quantizes_what_jax_trains(tmp_path, synthetic, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    settings = ("--set", f"data.dataset={synthetic}", "--set", "train.optimizer=muon")
    result = keras_lenet("train", SMOKE, "--runs", tmp_path, *settings)
    assert result.returncode == 0, result.stderr
    assert "device: jax" in result.stderr
    monkeypatch.delenv("KERAS_BACKEND")
    result = keras_lenet("quantize", SMOKE, "--runs", tmp_path, *settings)
    assert result.returncode == 0, result.stderr
    for stage in ("train", "quantize"):
        record = json.loads((tmp_path / "smoke" / stage / "stage.json").read_text())
        assert record["summary"]["validation_accuracy"] > 0.8
