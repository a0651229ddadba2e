import keras
import numpy as np
import pytest
import tf_keras

from keras_lenet import models
from keras_lenet.errors import Error

TOTALS = {"lenet5": 61_706}


def test_every_model_has_its_total_in_the_table():
    assert set(TOTALS) == set(models.MODELS)


@pytest.mark.parametrize("namespace", [keras, tf_keras], ids=["keras", "tf_keras"])
@pytest.mark.parametrize("name", models.MODELS)
def test_parameters_layer_by_layer(name, namespace):
    architecture = models.find(name)
    model = architecture.build(namespace)
    counted = {layer.name: layer.count_params() for layer in model.layers if layer.count_params()}
    assert counted == architecture.parameters
    assert model.count_params() == TOTALS[name]
    size = architecture.input_size
    assert tuple(model.input.shape) == (None, size, size, 1)
    assert tuple(model.output.shape) == (None, 10)


@pytest.mark.parametrize("name", models.MODELS)
def test_both_namespaces_compute_the_same(name):
    """The bridge to tf_keras: the same weights give the same logits."""
    from keras_lenet.stages.quantize import to_tf_keras

    keras.utils.set_random_seed(0)
    model = models.find(name).build(keras)
    size = models.find(name).input_size
    images = np.random.default_rng(0).random((4, size, size, 1), np.float32)
    copy = to_tf_keras(model, name)
    np.testing.assert_allclose(copy(images), model(images), rtol=1e-4, atol=1e-5)


def test_an_unknown_model_is_named_with_the_known_ones():
    with pytest.raises(Error, match="unknown model 'alexnet': expected one of lenet5"):
        models.find("alexnet")
