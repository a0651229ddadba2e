import keras
import numpy as np
import pytest
import tf_keras

from keras_lenet import models
from keras_lenet.data.loading import NO_CLASS
from keras_lenet.errors import Error
from keras_lenet.models import lenet5_1998
from keras_lenet.recipe import Model
from keras_lenet.stages.quantize import to_tf_keras

LENET5 = {"conv1": 156, "conv2": 2_416, "conv3": 48_120, "dense1": 10_164, "logits": 850}
PARAMETERS = {
    "lenet5": LENET5,
    "lenet5_batchnorm": {
        "conv1": 156, "conv2": 2_416, "dense1": 48_120, "dense2": 10_164, "logits": 850,
    },
    "lenet5_avgpool": LENET5,
    "lenet5_tanh": LENET5,
    "lenet5_1998": {
        "c1": 156, "s2": 30, "c3": 2_416, "s4": 80, "c5": 48_120, "f6": 10_164, "logits": 850,
    },
    "mlp": {"dense1": 615_440, "logits": 7_850},
    "simple_cnn": {"conv1": 832, "dense1": 589_952, "logits": 1_290},
    "teacher": {
        "conv1": 832, "conv2": 13_872, "conv3": 27_712, "conv4": 55_392, "conv5": 83_040,
        "logits": 970,
    },
}  # fmt: skip
"""Parameters of each deployed graph, by layer."""
TRAINABLE = {"lenet5_batchnorm": 61_728, "teacher": 182_154, "lenet5_1998": 60_000}
"""Parameters of trained graphs that have others: a scale and an offset replace a bias."""
PUBLISHED = {"c1": 156, "s2": 12, "c3": 1_516, "s4": 32, "c5": 48_120, "f6": 10_164}
"""LeCun et al. 1998, section II.B."""
EVERY = pytest.mark.parametrize("name", models.MODELS)
OF_1998 = Model(name="lenet5_1998")


def random_images(size, count=4):
    return np.random.default_rng(0).random((count, size, size, 1), np.float32)


def unsettled(settings, *statistics):
    """A trained graph whose weights and statistics all differ."""
    keras.utils.set_random_seed(0)
    model = models.build_trained(keras, settings, *statistics)
    generator = np.random.default_rng(1)
    model.set_weights(
        [value + generator.uniform(0, 0.2, value.shape) for value in model.get_weights()]
    )
    return model


def counted(model):
    return {layer.name: layer.count_params() for layer in model.layers if layer.count_params()}


@pytest.mark.parametrize("namespace", [keras, tf_keras], ids=["keras", "tf_keras"])
@EVERY
def test_parameters_layer_by_layer(name, namespace):
    model = models.build(namespace, Model(name=name))
    assert counted(model) == PARAMETERS[name]
    size = models.find(name).input_size
    assert size == (28 if name in ("lenet5_tanh", "mlp", "simple_cnn") else 32)
    assert tuple(model.input.shape) == (None, size, size, 1)
    assert tuple(model.output.shape) == (None, 10)


@EVERY
def test_trainable_parameters(name):
    model = models.build_trained(keras, Model(name=name))
    trainable = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    assert trainable == TRAINABLE.get(name, sum(PARAMETERS[name].values()))
    assert name != "lenet5_1998" or counted(model) == PUBLISHED


@EVERY
def test_both_namespaces_compute_the_same(name):
    keras.utils.set_random_seed(0)
    model = models.build(keras, Model(name=name))
    images = random_images(models.find(name).input_size)
    copy = to_tf_keras(model, Model(name=name))
    np.testing.assert_allclose(copy(images), model(images), rtol=1e-4, atol=1e-5)


def centred(logits):
    """Without what all classes have in common, which no softmax sees."""
    return np.array(logits) - np.mean(logits, axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("settings", "statistics"),
    [(Model(name=name), None) for name in models.MODELS]
    + [(Model(name=name), (0.13, 0.31)) for name in ("lenet5", "lenet5_batchnorm", "mlp")]
    + [(Model(name=name, pad=True), (0.13, 0.31)) for name in ("lenet5", "lenet5_1998")],
)
def test_the_deployed_graph_computes_what_the_trained_graph_does(settings, statistics):
    trained = unsettled(settings, statistics)
    deployed = models.deploy(trained, settings)
    images = random_images(models.input_size(settings))
    kinds = {type(layer).__name__ for layer in deployed.layers}
    assert kinds.isdisjoint({"BatchNormalization", "Rescaling"})
    expected = trained(images, training=False)
    np.testing.assert_allclose(
        centred(deployed(images)), centred(expected), rtol=1e-4, atol=1e-4 * np.abs(expected).max()
    )


def test_lenet5_starts_as_its_deployed_graph_would():
    keras.utils.set_random_seed(0)
    plain = models.build(keras, Model())
    keras.utils.set_random_seed(0)
    trained = models.build_trained(keras, Model())
    for weights, expected in zip(trained.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(weights, expected)


@pytest.mark.parametrize(
    ("refused", "complaint"),
    [
        (lambda: models.find("alexnet"), "unknown model 'alexnet': expected one of lenet5"),
        (lambda: models.input_size(Model(name="mlp", pad=True)), "pad = true: mlp takes 28×28 pix"),
        (lambda: models.build_trained(keras, Model(name="lenet5_tanh"), (0.1, 0.3)),
         "standardize = true: lenet5_tanh pads its input with zeros"),
        (lambda: models.build_trained(keras, Model(name="teacher"), (0.1, 0.3)),
         "standardize = true: teacher pads its input with zeros"),
    ],
)  # fmt: skip
def test_impossible_models_are_refused(refused, complaint):
    with pytest.raises(Error, match=complaint):
        refused()


def test_padding_puts_zeros_around():
    settings = Model(pad=True)
    assert models.input_size(settings) == 28
    padded, plain = models.build(keras, settings), models.build(keras, Model())
    plain.set_weights(padded.get_weights())
    images = random_images(28)
    around = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
    np.testing.assert_allclose(padded(images), plain(around), rtol=1e-5, atol=1e-6)


def test_fan_in_initialization_keeps_each_units_limit_and_follows_its_seed():
    def drawn(seed):
        model = models.build_trained(keras, OF_1998)
        models.initialize_by_fan_in(model, seed)
        return {layer.name: layer.get_weights() for layer in model.layers if layer.weights}

    first = drawn(1)
    assert not any(bias.any() for _, bias in first.values())
    kernels = {inputs: first[name][0] for name, inputs in (("c1", 25), ("c5", 400), ("f6", 120))}
    seen = lenet5_1998.CONNECTED.sum(axis=0)[np.argwhere(lenet5_1998.CONNECTED)[:, 1]]
    kernels |= {25 * maps: first["c3"][0][..., seen == maps] for maps in (3, 4, 6)}
    for inputs, kernel in kernels.items():
        limit = 2.4 / inputs
        assert 0.95 * limit < np.abs(kernel).max() <= limit
        assert kernel.std() == pytest.approx(limit / np.sqrt(3), rel=0.15)
    assert 0.3 < np.abs(first["s4"][0]).max() <= 2.4 / 4
    np.testing.assert_array_equal(first["f6"][0], drawn(1)["f6"][0])
    assert not np.array_equal(first["f6"][0], drawn(2)["f6"][0])


# The network of 1998.


def test_the_third_layer_of_1998_is_connected_by_table_1():
    assert lenet5_1998.CONNECTED.sum(axis=0).tolist() == [3] * 6 + [4] * 9 + [6]
    assert lenet5_1998.CONNECTED.sum(axis=1).tolist() == [10] * 6
    kernel, _ = models.deploy(unsettled(OF_1998), OF_1998).get_layer("c3").get_weights()
    np.testing.assert_array_equal(kernel.any(axis=(0, 1)), lenet5_1998.CONNECTED)


def test_the_logits_of_1998_are_distances_from_the_codes():
    trained = unsettled(OF_1998)
    images = random_images(32)
    features = keras.Model(trained.input, trained.get_layer("f6").output)(images)
    distances = ((np.array(features)[:, np.newaxis] - lenet5_1998.CODES) ** 2).sum(axis=2)
    np.testing.assert_allclose(trained(images), -distances, rtol=1e-5)
    one = lenet5_1998.CODES[1].reshape(12, 7)
    assert (one[:, 3] == 1).all()  # upright
    assert (one[:-1, 5:] == -1).all()


def test_the_loss_of_1998_is_equation_9():
    penalties = np.random.default_rng(0).uniform(0, 60, (6, 10))
    labels, j = np.array([[3], [0], [9], [NO_CLASS], [5], [NO_CLASS]]), lenet5_1998.RUBBISH
    expected = [
        (j if label == NO_CLASS else y[label]) + np.log(np.exp(-j) + np.exp(-y).sum())
        for y, label in zip(penalties, labels.ravel(), strict=True)
    ]
    found = lenet5_1998.loss(labels, -penalties.astype(np.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", PARAMETERS["lenet5_1998"])
def test_weights_of_1998_are_projected_to_what_is_allowed(name):
    allowed = models.deploy(unsettled(OF_1998), OF_1998).get_layer(name).get_weights()
    generator = np.random.default_rng(2)
    moved = [w + generator.normal(0, 0.1, w.shape).astype(np.float32) for w in allowed]
    kernel, bias = lenet5_1998.project(name, moved)
    assert np.array_equal(kernel, moved[0]) == (name in ("c1", "c5", "f6"))
    for weights in (allowed, (kernel, bias)):
        for first, second in zip(lenet5_1998.project(name, weights), weights, strict=True):
            np.testing.assert_allclose(first, second, rtol=1e-5)
    if name == "logits":
        scale = np.abs(kernel)
        np.testing.assert_allclose(kernel, scale * lenet5_1998.CODES.T)
        assert np.ptp(scale) < 1e-5
        assert not bias.any()
