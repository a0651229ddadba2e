import keras
import numpy as np
import pytest
from conftest import draw_digits
from PIL import Image

from keras_lenet import models
from keras_lenet.data import augment
from keras_lenet.recipe import Model
from keras_lenet.reporting import feature_maps, plots

pytestmark = pytest.mark.slow

IMAGE = draw_digits(4, 0)[0][3]
SHAPES = {"mlp": (32, 28, 28), "simple_cnn": (32, 5, 5), "teacher": (32, 5, 5)}
"""Of the others' pictures of weights: (6, 5, 5)."""


@pytest.mark.parametrize("name", models.MODELS)
def test_every_model_shows_its_filters_and_maps(name, tmp_path):
    model = models.build(keras, Model(name=name))
    _, kernels = feature_maps.first_filters(model)
    assert kernels.shape == SHAPES.get(name, (6, 5, 5))
    outputs = feature_maps.feature_maps(model, IMAGE)
    size = models.find(name).input_size
    entering = augment.resize(augment.to_unit(IMAGE[None, ..., None]), size)
    np.testing.assert_array_equal(outputs["image"], entering[0])
    np.testing.assert_allclose(outputs["logits"], model(entering)[0], atol=1e-5)
    assert {layer.name for layer in model.layers if layer.weights} < {*outputs}
    for number, figure in enumerate(
        (feature_maps.draw_filters(kernels), feature_maps.draw_feature_maps(outputs, "abcdefghij"))
    ):
        path = tmp_path / f"{number}.png"
        plots.save(figure, path)
        with Image.open(path) as picture:
            assert len(set(picture.convert("L").get_flattened_data())) > 16


def test_a_filter_is_as_the_layer_has_it():
    model = models.build(keras, Model())
    title, kernels = feature_maps.first_filters(model)
    assert title == "conv1: 6 filters of 5×5"
    np.testing.assert_array_equal(kernels[4], model.get_layer("conv1").kernel[:, :, 0, 4])


def test_of_many_units_the_strongest_are_shown_in_order():
    model = models.build(keras, Model(name="mlp"))
    kernel, bias = model.get_layer("dense1").get_weights()
    strong = np.arange(700, 764, 2)
    kernel[:, strong] += 1
    model.get_layer("dense1").set_weights([kernel, bias])
    title, kernels = feature_maps.first_filters(model)
    assert title == "dense1: 784 units of 28×28, the 32 with the largest weights"
    np.testing.assert_array_equal(kernels, kernel[:, strong].T.reshape(-1, 28, 28))


def test_the_epoch_that_is_kept_is_marked_and_every_accuracy_is_on_the_axis():
    history = {
        "epoch": [1.0, 2.0, 3.0],
        "loss": [1.0, 0.5, 0.4],
        "accuracy": [0.3, 0.98, 0.9961],
        "val_loss": [1.0, 0.6, 0.7],
        "val_accuracy": [0.5, 1.0, 0.9],
        "learning_rate": [0.1, 0.05, 0.0],
    }
    axes = plots.training_curves({"train": history}, {"train": 3}).axes
    assert axes[1].get_legend().get_texts()[-1].get_text() == "kept: epoch 3, 90.00%"
    assert axes[0].lines[-1].get_xdata() == axes[1].lines[-1].get_xdata() == [3, 3]
    assert axes[1].get_ylim() == (0, 1)
    heights = axes[1].transData.transform([(0, tick) for tick in (0.98, 0.99, 0.995)])[:, 1]
    assert np.all(np.diff(heights) > 10)  # where it counts there is room
