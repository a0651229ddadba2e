import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from keras_lenet import models
from keras_lenet.data.loading import NO_CLASS
from keras_lenet.errors import Error
from keras_lenet.models import lenet5_1998
from keras_lenet.recipe import Model
from keras_lenet.stages.quantize import to_tf_keras

TOTALS = {
    "lenet5": 61_706,
    "lenet5_batchnorm": 61_706,
    "lenet5_avgpool": 61_706,
    "lenet5_tanh": 61_706,
    "lenet5_1998": 61_816,
    "mlp": 623_290,
    "simple_cnn": 592_074,
    "teacher": 181_818,
}
TRAINABLE = {"lenet5_batchnorm": 61_728, "teacher": 182_154, "lenet5_1998": 60_000}
"""Of the trained forms that differ: a scale and an offset for every channel, in a bias's place."""
PUBLISHED = {"c1": 156, "s2": 12, "c3": 1_516, "s4": 32, "c5": 48_120, "f6": 10_164}
"""LeCun et al. 1998, section II.B."""


def random_images(size, count=4):
    return np.random.default_rng(0).random((count, size, size, 1), np.float32)


def unsettled(model):
    """Give every weight, normalizations' statistics included, a value of its own."""
    generator = np.random.default_rng(1)
    model.set_weights(
        [value + generator.uniform(0, 0.2, value.shape) for value in model.get_weights()]
    )
    return model


def test_every_model_has_its_total_in_the_table():
    assert set(TOTALS) == set(models.MODELS)


@pytest.mark.parametrize("namespace", [keras, tf_keras], ids=["keras", "tf_keras"])
@pytest.mark.parametrize("name", models.MODELS)
def test_parameters_layer_by_layer(name, namespace):
    architecture = models.find(name)
    model = models.build(namespace, Model(name=name))
    counted = {layer.name: layer.count_params() for layer in model.layers if layer.count_params()}
    assert counted == architecture.parameters
    assert model.count_params() == TOTALS[name]
    size = architecture.input_size
    assert tuple(model.input.shape) == (None, size, size, 1)
    assert tuple(model.output.shape) == (None, 10)


@pytest.mark.parametrize("name", models.MODELS)
def test_trainable_parameters(name):
    model = models.build_trained(keras, Model(name=name))
    trainable = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    assert trainable == TRAINABLE.get(name, TOTALS[name])


@pytest.mark.parametrize("name", models.MODELS)
def test_both_namespaces_compute_the_same(name):
    """The bridge to tf_keras: the same weights give the same logits."""
    keras.utils.set_random_seed(0)
    model = models.build(keras, Model(name=name))
    images = random_images(models.find(name).input_size)
    copy = to_tf_keras(model, Model(name=name))
    np.testing.assert_allclose(copy(images), model(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", models.MODELS)
def test_the_deployed_form_computes_what_the_trained_one_does(name):
    keras.utils.set_random_seed(0)
    trained = unsettled(models.build_trained(keras, Model(name=name)))
    deployed = models.deploy(trained, Model(name=name))
    images = random_images(models.find(name).input_size)
    assert {type(layer).__name__ for layer in deployed.layers}.isdisjoint(
        {"BatchNormalization", "Rescaling"}
    )
    expected = trained(images, training=False)
    np.testing.assert_allclose(
        centred(deployed(images)), centred(expected), rtol=1e-4, atol=1e-4 * np.abs(expected).max()
    )


def test_lenet5_starts_and_learns_as_its_deployed_form_would():
    keras.utils.set_random_seed(0)
    plain = models.build(keras, Model())
    keras.utils.set_random_seed(0)
    trained = models.build_trained(keras, Model())
    images, labels = random_images(32, 10), np.arange(10)

    def gradients(model):
        with tf.GradientTape() as tape:
            losses = keras.losses.sparse_categorical_crossentropy(labels, model(images), True)
        return tape.gradient(losses, model.trainable_weights)

    for weights, expected in zip(trained.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(weights, expected)
    for gradient, expected in zip(gradients(trained), gradients(plain), strict=True):
        np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-4)


def centred(logits):
    """Without what all classes have in common, which no softmax sees."""
    return np.array(logits) - np.mean(logits, axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("name", "pad"),
    [
        ("lenet5", False),
        ("lenet5", True),
        ("lenet5_batchnorm", False),
        ("lenet5_1998", True),
        ("mlp", False),
    ],
)
def test_standardization_is_folded_into_the_first_layer(name, pad):
    settings = Model(name=name, pad=pad)
    trained = unsettled(models.build_trained(keras, settings, (0.13, 0.31)))
    deployed = models.deploy(trained, settings)
    images = random_images(models.input_size(settings))
    assert "standardize" not in {layer.name for layer in deployed.layers}
    expected = trained(images, training=False)
    np.testing.assert_allclose(
        centred(deployed(images)), centred(expected), rtol=1e-4, atol=1e-4 * np.abs(expected).max()
    )


@pytest.mark.parametrize("name", ["lenet5_tanh", "teacher"])
def test_standardization_before_padding_is_refused(name):
    with pytest.raises(Error, match=f"standardize = true: {name} pads its input with zeros"):
        models.build_trained(keras, Model(name=name), (0.13, 0.31))


def test_padding_puts_zeros_around():
    settings = Model(pad=True)
    assert models.input_size(settings) == 28
    padded, plain = models.build(keras, settings), models.build(keras, Model())
    plain.set_weights(padded.get_weights())
    images = random_images(28)
    around = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
    np.testing.assert_allclose(padded(images), plain(around), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["lenet5_tanh", "mlp", "simple_cnn"])
def test_padding_what_takes_28_pixels_is_refused(name):
    expected = f"pad = true: {name} takes 28×28 pixels, and padding makes 32×32 of 28×28"
    with pytest.raises(Error, match=expected):
        models.input_size(Model(name=name, pad=True))


def test_fan_in_initialization_keeps_its_limits():
    model = models.build(keras, Model())
    models.initialize_by_fan_in(model, seed=0)
    for name, inputs in {"conv1": 25, "conv2": 150, "conv3": 400, "dense1": 120}.items():
        kernel, bias = model.get_layer(name).get_weights()
        limit = 2.4 / inputs
        assert 0.95 * limit < np.abs(kernel).max() <= limit
        assert abs(kernel.std() / (limit / np.sqrt(3)) - 1) < 0.1
        assert not bias.any()


def test_fan_in_initialization_is_decided_by_its_seed():
    def drawn(seed):
        model = models.build(keras, Model(name="mlp"))
        models.initialize_by_fan_in(model, seed)
        return model.get_layer("logits").get_weights()[0]

    np.testing.assert_array_equal(drawn(1), drawn(1))
    assert not np.array_equal(drawn(1), drawn(2))


def test_the_network_of_1998_has_the_published_parameters():
    trained = models.build_trained(keras, Model(name="lenet5_1998"))
    counted = {layer.name: layer.count_params() for layer in trained.layers if layer.weights}
    assert counted == PUBLISHED


def test_the_third_layer_of_1998_is_connected_by_table_1():
    assert lenet5_1998.CONNECTED.sum(axis=0).tolist() == [3] * 6 + [4] * 9 + [6]
    assert lenet5_1998.CONNECTED.sum(axis=1).tolist() == [10] * 6
    trained = models.build_trained(keras, Model(name="lenet5_1998"))
    deployed = models.deploy(unsettled(trained), Model(name="lenet5_1998"))
    kernel, _ = deployed.get_layer("c3").get_weights()
    np.testing.assert_array_equal(kernel.any(axis=(0, 1)), lenet5_1998.CONNECTED)


def test_the_codes_of_1998_are_ten_pictures_that_differ():
    codes = lenet5_1998.CODES
    assert codes.shape == (10, 84)
    assert set(codes.ravel().tolist()) == {-1, 1}
    differing = (codes[:, np.newaxis] != codes).sum(axis=2)
    assert (differing + 84 * np.eye(10)).min() >= 10
    one = codes[1].reshape(12, 7)
    assert (one[:, 3] == 1).all()  # upright
    assert (one[:-1, 5:] == -1).all()


def test_the_logits_of_1998_are_distances_from_the_codes():
    trained = unsettled(models.build_trained(keras, Model(name="lenet5_1998")))
    images = random_images(32)
    features = keras.Model(trained.input, trained.get_layer("f6").output)(images)
    distances = ((np.array(features)[:, np.newaxis] - lenet5_1998.CODES) ** 2).sum(axis=2)
    np.testing.assert_allclose(trained(images), -distances, rtol=1e-5)


def test_the_loss_of_1998_is_equation_9():
    generator = np.random.default_rng(0)
    penalties, labels = (
        generator.uniform(0, 60, (6, 10)),
        np.array([[3], [0], [9], [10], [5], [10]]),
    )
    j = lenet5_1998.RUBBISH
    expected = [
        (j if label == NO_CLASS else y[label]) + np.log(np.exp(-j) + np.exp(-y).sum())
        for y, label in zip(penalties, labels.ravel(), strict=True)
    ]
    found = lenet5_1998.loss(labels, -penalties.astype(np.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_fan_in_initialization_of_1998_counts_each_units_own_inputs():
    trained = models.build_trained(keras, Model(name="lenet5_1998"))
    models.initialize_by_fan_in(trained, seed=0)
    kernel, bias = trained.get_layer("c3").get_weights()
    assert not bias.any()
    seen = lenet5_1998.CONNECTED.sum(axis=0)[np.argwhere(lenet5_1998.CONNECTED)[:, 1]]
    for maps, inputs in {3: 75, 4: 100, 6: 150}.items():
        limit = 2.4 / inputs
        assert 0.95 * limit < np.abs(kernel[..., seen == maps]).max() <= limit
    coefficients, _ = trained.get_layer("s4").get_weights()
    assert 0.3 < np.abs(coefficients).max() <= 2.4 / 4


def test_what_is_not_free_in_1998_is_taken_back():
    """Unconnected kernels, unequal weights under one coefficient, centres that moved."""
    trained = unsettled(models.build_trained(keras, Model(name="lenet5_1998")))
    deployed = models.deploy(trained, Model(name="lenet5_1998"))
    generator = np.random.default_rng(2)
    for layer in deployed.layers:
        if layer.weights:
            allowed = layer.get_weights()
            moved = [w + generator.normal(0, 0.1, w.shape).astype(np.float32) for w in allowed]
            kernel, bias = lenet5_1998.project(layer.name, moved)
            free = layer.name in ("c1", "c5", "f6")
            assert np.array_equal(kernel, moved[0]) == free
            for first, second in zip(
                lenet5_1998.project(layer.name, allowed), allowed, strict=True
            ):
                np.testing.assert_allclose(first, second, rtol=1e-5)
            if layer.name == "logits":
                scale = np.abs(kernel)
                np.testing.assert_allclose(kernel, scale * lenet5_1998.CODES.T)
                assert np.ptp(scale) < 1e-5
                assert not bias.any()


def test_an_unknown_model_is_named_with_the_known_ones():
    with pytest.raises(Error, match="unknown model 'alexnet': expected one of lenet5"):
        models.find("alexnet")
