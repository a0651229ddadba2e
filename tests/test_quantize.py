"""Every registered model on its way to int8: fake-quantized, converted, run."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from keras_lenet import models
from keras_lenet.data import augment, datasets
from keras_lenet.edge.classifier import Classifier
from keras_lenet.edge.inspection import inspect
from keras_lenet.models import lenet5_1998
from keras_lenet.recipe import Model
from keras_lenet.stages import export, quantize

NOT_DEPLOYED = {"MUL", "ADD", "SUB", "DIV", "RSQRT", "QUANTIZE", "DEQUANTIZE"}
"""Normalization is folded into weights, and no range has to be changed on the way."""
LEARNT, TOLD = slice(0, 300), slice(300, 500)


@functools.cache
def digits():
    return datasets.load(datasets.DIGITS, "train")


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
    values -= (mean := values.mean(axis=0))
    targets = 10 * (np.eye(10)[digits().labels[LEARNT]] - 0.1)
    # Least squares: enough for answers that differ from image to image. The ridge keeps it from
    # magnifying what rounding does to features that were never trained.
    gram = values.T @ values
    ridge = 0.1 * np.trace(gram) / len(gram) * np.eye(len(gram))
    kernel = np.linalg.solve(gram + ridge, values.T @ targets)
    last.set_weights([kernel, -mean @ kernel])
    model = quantize.fake_quantized(plain)
    quantize.set_ranges(model, plain, tf.data.Dataset.from_tensors((images, 0)))
    model(images[:1], training=True)  # the ranges of weights are those of the last step
    return plain, model, export.convert(model, models.input_size(settings), tf.int8)


@pytest.mark.parametrize("name", models.MODELS)
def test_every_model_survives_the_way_to_int8(name, tmp_path):
    plain, model, content = quantized(name)
    path = tmp_path / f"{name}_int8.tflite"
    path.write_bytes(content)
    export.check(path, "int8")
    assert {op.name for op in inspect(path).ops}.isdisjoint(NOT_DEPLOYED)
    images, labels = resized(name, TOLD), digits().labels[TOLD]
    in_float, fake = np.array(plain(images)), np.array(model(images, training=False))
    found = Classifier(path).predict(digits().images[TOLD]).argmax(axis=1)
    assert (in_float.argmax(axis=1) == labels).mean() > 0.6  # a model that tells digits apart
    assert (found == fake.argmax(axis=1)).mean() >= 0.9
    assert (found == in_float.argmax(axis=1)).mean() >= 0.85


def test_a_pooled_mean_is_rounded_as_its_kernel_rounds_it():
    """To the steps of what it is the mean of: the file has one scale for both."""
    _, model, _ = quantized("lenet5_avgpool")
    image = resized("lenet5_avgpool", TOLD)
    outputs = [model.get_layer(f"quant_{name}").output for name in ("conv1", "pool1")]
    before, after = tf_keras.Model(model.input, outputs)(image, training=False)
    ends = {weight.name: weight.numpy() for weight in model.get_layer("quant_conv1").weights}
    low, high = (ends[f"quant_conv1/post_activation_{end}:0"] for end in ("min", "max"))
    for values in (before, after):
        steps = np.array(values) / ((high - low) / 255)
        np.testing.assert_allclose(steps, np.round(steps), atol=1e-3)


def test_no_step_is_spent_on_what_tanh_saturates():
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


def test_fine_tuning_leaves_the_network_of_1998_what_it_is():
    settings = Model(name="lenet5_1998")
    trained = models.build_trained(keras, settings)
    plain = quantize.to_tf_keras(models.deploy(trained, settings), settings)
    model = quantize.fake_quantized(plain)
    model.compile(tf_keras.optimizers.Adam(0.01), tf_keras.losses.MeanSquaredError())
    images, targets = resized("lenet5_1998", slice(0, 32)), np.zeros((32, 10))
    callbacks = list(quantize._projection(model, plain, lenet5_1998.project))
    model.fit(images, targets, callbacks=callbacks, verbose=0)
    found = {
        layer.name: layer.get_weights() for layer in quantize.unquantized(model, settings).layers
    }
    assert not np.array_equal(found["c3"][0], plain.get_layer("c3").get_weights()[0])
    np.testing.assert_array_equal(found["c3"][0].any(axis=(0, 1)), lenet5_1998.CONNECTED)
    assert np.ptp(found["s2"][0], axis=(0, 1)).max() < 1e-6
    assert np.ptp(found["logits"][0] * lenet5_1998.CODES.T) < 1e-5
    assert not found["logits"][1].any()


def test_what_a_device_has_no_op_for_is_left_out_and_said(tmp_path, capfd):
    path = tmp_path / "teacher_int8.tflite"
    path.write_bytes(quantized("teacher")[2])
    export.write_bundles(path, tmp_path)
    assert (tmp_path / "microcontroller" / "teacher_ops.h").exists()
    assert not (tmp_path / "c").exists()
    said = " ".join(capfd.readouterr().err.split())
    assert "no C of this model" in said
    assert "no C is generated for MEAN" in said
