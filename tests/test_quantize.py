"""Fine-tuning of a tiny network, and conversion of every registered model to int8."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
import tiny
from conftest import write_dataset
from sklearn.linear_model import Ridge

from keras_lenet import models
from keras_lenet.data import augment, catalogue, loading, reading
from keras_lenet.edge.classifier import Classifier
from keras_lenet.evaluation import confidence
from keras_lenet.recipe import Distill, Model, Quantize, Train
from keras_lenet.stages import export, quantize, train
from keras_lenet.tflite import convert
from keras_lenet.tflite.inspection import inspect
from keras_lenet.training import setup

pytestmark = pytest.mark.slow

NOT_DEPLOYED = {"MUL", "ADD", "SUB", "DIV", "RSQRT", "QUANTIZE", "DEQUANTIZE"}
"""Ops of normalization, and of changes of range."""
LEARNT, TOLD = slice(0, 300), slice(300, 500)


@functools.cache
def digits():
    return reading.load(catalogue.DIGITS, "train")


def resized(name, which):
    images = tf.constant(digits().images[which, ..., np.newaxis], tf.float32) / 255
    return augment.resize(images, models.find(name).input_size)


@functools.cache
def quantized(name):
    """A float model whose last layer has been fitted, fake-quantized, and as an int8 .tflite."""
    settings = Model(name=name)
    keras.utils.set_random_seed(0)
    trained = models.build_trained(keras, settings)
    plain = quantize.to_tf_keras(models.deploy(trained, settings), settings)
    images, last = resized(name, LEARNT), plain.layers[-1]
    values = np.array(tf_keras.Model(plain.input, last.input)(images))
    targets = 10 * (np.eye(10)[digits().labels[LEARNT]] - 0.1)
    # The penalty doesn't magnify the rounding of untrained features.
    ridge = Ridge(0.1 * len(values) * values.var(axis=0).mean()).fit(values, targets)
    last.set_weights([ridge.coef_.T, ridge.intercept_])
    model = quantize.fake_quantized(plain)
    quantize.set_ranges(model, plain, tf.data.Dataset.from_tensors((images, 0)))
    model(images[:1], training=True)  # sets the ranges of weights
    return plain, model, convert.convert(model, models.input_size(settings), tf.int8)


@pytest.mark.parametrize("name", models.MODELS)
def test_every_model_keeps_its_classes_in_int8(name, tmp_path):
    plain, model, content = quantized(name)
    path = tmp_path / f"{name}_int8.tflite"
    path.write_bytes(content)
    convert.check(path, "int8")
    assert {op.name for op in inspect(path).ops}.isdisjoint(NOT_DEPLOYED)
    images, labels = resized(name, TOLD), digits().labels[TOLD]
    in_float, fake = np.array(plain(images)), np.array(model(images, training=False))
    found = Classifier(path).predict(digits().images[TOLD]).argmax(axis=1)
    assert (in_float.argmax(axis=1) == labels).mean() > 0.6
    assert (found == fake.argmax(axis=1)).mean() >= 0.9
    assert (found == in_float.argmax(axis=1)).mean() >= 0.85


def test_a_pooled_mean_is_rounded_to_the_steps_of_its_input():
    _, model, _ = quantized("lenet5_avgpool")
    image = resized("lenet5_avgpool", TOLD)
    outputs = [model.get_layer(f"quant_{name}").output for name in ("conv1", "pool1")]
    before, after = tf_keras.Model(model.input, outputs)(image, training=False)
    ends = {weight.name: weight.numpy() for weight in model.get_layer("quant_conv1").weights}
    low, high = (ends[f"quant_conv1/post_activation_{end}:0"] for end in ("min", "max"))
    for values in (before, after):
        steps = np.array(values) / ((high - low) / 255)
        np.testing.assert_allclose(steps, np.round(steps), atol=1e-3)


def test_ranges_end_where_tanh_saturates():
    plain, _, _ = quantized("lenet5_tanh")
    loud = tf_keras.models.clone_model(plain)
    loud.set_weights([10 * weight for weight in plain.get_weights()])
    model, images = quantize.fake_quantized(loud), resized("lenet5_tanh", LEARNT)
    quantize.set_ranges(model, loud, tf.data.Dataset.from_tensors((images, 0)))
    for _ in range(2):
        model(images, training=True)
        ends = [w.numpy() for w in model.weights if "pre_activation_m" in w.name]
        assert len(ends) == 8
        assert min(ends) >= quantize.TANH_ENDS[0] - 1e-3
        assert 2 < max(ends) <= quantize.TANH_ENDS[1] + 1e-3


def test_a_bundle_without_an_op_of_the_model_is_left_out_and_said(tmp_path, capsys):
    path = tmp_path / "teacher_int8.tflite"
    path.write_bytes(quantized("teacher")[2])
    export.write_bundles(path, tmp_path)
    assert (tmp_path / "microcontroller" / "teacher_ops.h").exists()
    assert not (tmp_path / "c").exists()
    assert "no C is generated for MEAN" in " ".join(capsys.readouterr().err.split())


STILL = Quantize(epochs=1, batch_size=15, learning_rate=1e-12)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A dataset of 40 images, 10 of them for validation, and a train stage's folder."""
    folder = tmp_path_factory.mktemp("trained")
    dataset = write_dataset(folder / "images", train=40, test=10)
    with pytest.MonkeyPatch.context() as patch:
        tiny.register(patch)
        # So long that it is too sure of itself.
        fit = Train(epochs=20, warmup_epochs=0, learning_rate=0.01, batch_size=5)
        wanted = tiny.recipe(dataset, train=fit)
        summary = train.run(tiny.context(wanted, folder / "train"))
    assert summary["temperature"] != pytest.approx(1, rel=0.05)
    return dataset, folder / "train"


@pytest.fixture
def fine_tuned(trained, tmp_path, monkeypatch):
    """Fine-tune; returns the recipe, the summary, and the fake-quantized model that is loaded."""
    dataset, folder = trained

    def run(architecture=None, out=tmp_path, **sections):
        tiny.register(monkeypatch, **(architecture or {}))
        wanted = tiny.recipe(dataset, **({"seed": 2, "data": {"outliers": 0.1}} | sections))
        summary = quantize.run(tiny.context(wanted, out, train=folder, distill=out / "distill"))
        tiny.write_record(out, **summary)
        return wanted, summary, quantize.load(out, wanted.model)

    return run


@pytest.fixture
def before(trained):
    return keras.models.load_model(trained[1] / train.MODEL)


def unit(examples):
    return examples.images[..., np.newaxis] / np.float32(255)


def test_fine_tuning_begins_with_the_trained_weights(before, fine_tuned):
    """At no learning rate; loaded, the logits are divided by the temperature."""
    wanted, summary, model = fine_tuned(quantize=STILL)
    found = quantize.unquantized(model, wanted.model).get_weights()
    expected = before.get_weights()
    for part in (2, 3):
        expected[part] = expected[part] / summary["temperature"]
    for values, others in zip(found, expected, strict=True):
        np.testing.assert_allclose(values, others, rtol=1e-4, atol=1e-6)
    # The fake-quantized model rounds by less than three steps of the logits.
    images = unit(tiny.splits(wanted)[1])
    exact = quantize.unquantized(model, wanted.model).predict(images, verbose=0)
    low, high = ranges(model)[-1]
    rounding = np.abs(model.predict(images, verbose=0) - exact).max()
    assert 0 < rounding < 3 * (high - low) / 255


def test_the_best_epoch_is_kept_and_its_temperature_found(fine_tuned, tmp_path, capsys):
    restless = Quantize(epochs=4, batch_size=15, learning_rate=0.03)
    wanted, summary, model = fine_tuned(quantize=restless)
    rows = tiny.history(tmp_path)
    best = max(rows, key=lambda row: (row["val_accuracy"], -row["val_loss"]))
    temperature = summary.pop("temperature")
    assert summary == {
        "epochs": 4,
        "best_epoch": int(best["epoch"]),
        "validation_accuracy": best["val_accuracy"],
        "validation_images": 10,
    }
    validation = tiny.splits(wanted)[1]
    logits = model.predict(unit(validation), verbose=0) * temperature
    assert confidence.temperature(logits, validation.labels) == pytest.approx(temperature, rel=0.01)
    # Cosine to zero: at steps 1, 3, 5 and 7 of 8.
    rates = [0.03 * (1 + np.cos(np.pi * step / 8)) / 2 for step in (1, 3, 5, 7)]
    assert [row["learning_rate"] for row in rows] == pytest.approx(rates, rel=1e-4)
    said = " ".join(capsys.readouterr().err.split())
    assert "device: CPU quantize epoch 1/4: loss" in said


def ranges(model):
    """Minimum and maximum of input and activations, in the order of layers."""
    ends = [w.numpy() for w in model.weights if "kernel" not in w.name and "_m" in w.name]
    return np.reshape(ends, (-1, 2))


def test_ranges_begin_at_the_mean_of_the_first_batches_and_the_last_epoch_holds_them(
    before, fine_tuned, tmp_path
):
    """With one epoch they stay there; with two, the first moves them."""
    still = {"batch_size": 1, "learning_rate": 1e-12}
    wanted, summary, model = fine_tuned(quantize=Quantize(epochs=1, **still))
    mixed = loading.with_outliers(tiny.splits(wanted)[0], 0.1, 2)
    batches = setup.augmented(wanted, mixed, 1, 3)(epochs=range(1))
    images = [images for images, _ in batches.take(20)]
    outputs = [before.get_layer(name).output for name in ("dense1", "logits")]
    values = [keras.Model(before.input, outputs)(one) for one in images]
    hidden, logits = (
        np.mean([(one[k].numpy().min(), one[k].numpy().max()) for one in values], axis=0)
        for k in (0, 1)
    )
    expected = [(0, 1), hidden, logits / summary["temperature"]]
    np.testing.assert_allclose(ranges(model), expected, rtol=1e-4, atol=1e-6)
    _, _, moved = fine_tuned(out=tmp_path / "two", quantize=Quantize(epochs=2, **still))
    assert ranges(moved)[1, 1] != pytest.approx(hidden[1], rel=1e-4)


def test_weights_are_projected_after_every_step(before, fine_tuned):
    mask = (np.arange(80).reshape(8, 10) % 3 > 0).astype(np.float32)

    def project(name, weights):
        kernel, bias = weights
        return [kernel * mask, np.zeros_like(bias)] if name == "logits" else weights

    restless = Quantize(epochs=1, batch_size=15, learning_rate=0.1)
    wanted, _, model = fine_tuned({"project": project}, quantize=restless)
    found = quantize.unquantized(model, wanted.model).get_weights()
    assert not np.allclose(found[0], before.get_weights()[0], atol=0.01)
    assert np.array_equal(found[2] != 0, mask > 0)
    assert not found[3].any()


def test_fine_tuning_learns_from_teacher_logits(fine_tuned, tmp_path):
    generator = np.random.default_rng(0)
    teachers = generator.normal(0, 3, (10, 10)).astype(np.float16)
    tiny.write_logits(tmp_path / "distill", generator.normal(size=(1, 33, 10)), teachers)
    wanted, summary, model = fine_tuned(
        quantize=Quantize(epochs=1, batch_size=30, learning_rate=1e-12),
        distill=Distill(model="tiny", rounds=1, seed=5, temperature=2.0),
    )  # fmt: skip
    logits = model.predict(unit(tiny.splits(wanted)[1]), verbose=0) * summary["temperature"]
    expected = tiny.divergence(teachers.astype(np.float32), logits, 2.0).mean()
    assert tiny.history(tmp_path)[0]["val_loss"] == pytest.approx(expected, rel=1e-3)
