"""Plots draw every point of their data, on the axis that names it."""

import io

import figures
import keras
import numpy as np
import pytest
from conftest import draw_digits
from figures import changed
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from PIL import Image

from keras_lenet import models
from keras_lenet.data import augment
from keras_lenet.evaluation.metrics import Bin, Corrupted, OodRejection, TensorNoise
from keras_lenet.recipe import Model
from keras_lenet.reporting import plots

DIGITS = list("0123456789")


def labels(axis):
    return axis.get_xlabel(), axis.get_ylabel()


def points(axis):
    """The points of each line, by its label."""
    return {line.get_label(): np.round(line.get_xydata(), 6).tolist() for line in axis.lines}


def rows(axis):
    """The names at the y axis, by height."""
    ticks = zip(axis.get_yticks(), axis.get_yticklabels(), strict=True)
    return {height: text.get_text() for height, text in ticks}


def test_a_confusion_matrix_writes_true_classes_in_rows():
    axis = Figure().subplots()
    matrix = np.diag([5, 0, 7])
    matrix[0, 2], matrix[2, 1] = 4, 2
    plots.confusion(axis, matrix, ["a", "b", "c"])
    assert labels(axis) == ("predicted class", "true class")
    written = {text.get_text(): text.get_position() for text in axis.texts}
    assert written == {"5": (0, 0), "7": (2, 2), "4": (2, 0), "2": (1, 2)}
    (image,) = axis.images
    assert image.get_array().tolist() == [[None, None, 4], [None] * 3, [None, 2, None]]
    assert rows(axis) == {0: "a", 1: "b", 2: "c"}
    assert axis.get_ylim() == (2.5, -0.5)  # the first class is on top


def test_confusion_matrices_share_a_scale_and_count_their_mistakes():
    metrics = changed(figures.everything(), "models b.tflite confusion 0 1", 7)
    figure = plots.confusion_matrices(metrics)
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == ["b.tflite: 1 of 20 wrong", "a.tflite: 2 of 20 wrong"]
    assert {axis.images[0].get_clim() for axis in figure.axes} == {(0, 14)}
    assert figure.get_suptitle() == "mnist, 20 test images"


def test_noise_is_drawn_by_op_from_top_to_bottom():
    def row(ratio, op="CONV_2D"):
        return TensorNoise(op=op, shape=(), sqnr_db=ratio, max_error=0, saturated=0)

    traced = {
        "b.tflite": (row(40.0), row(None), row(30.0, "SOFTMAX")),
        "a.tflite": (row(41.0), row(35.0), row(20.0, "SOFTMAX")),
    }
    (axis,) = plots.noise(changed(figures.everything(), "quantization_noise", traced)).axes
    found = points(axis)
    assert found["a.tflite"] == [[41, 0], [35, 1], [20, 2]]
    assert found["b.tflite"][::2] == [[40, 0], [30, 2]]
    assert np.isnan(found["b.tflite"][1][0])
    assert rows(axis) == {0: "CONV_2D 1", 1: "CONV_2D 2", 2: "SOFTMAX"}
    assert axis.get_ylim() == (2.5, -0.5)
    assert labels(axis)[0] == "signal to quantization noise ratio, dB"


def test_reliability_draws_accuracy_by_confidence_in_percent():
    bins = Bin(count=10, confidence=0.5, accuracy=0.9), Bin(count=1, confidence=0.75, accuracy=1)
    metrics = changed(figures.everything(), "models a.tflite calibration bins", bins)
    axis = plots.reliability(metrics).axes[1]
    diagonal, line = points(axis).values()
    assert diagonal == [[0, 0], [100, 100]]
    assert line == [[50, 90], [75, 100]]
    (bars,) = axis.collections
    np.testing.assert_allclose(  # Wilson's intervals, as in test_metrics.py
        [bar.T for bar in bars.get_segments()],
        [[[50, 50], [59.585, 98.2124]], [[75, 75], [20.6549, 100]]],
        atol=1e-3,
    )
    assert labels(axis) == ("confidence, %", "accuracy, %")
    assert axis.get_title() == "a.tflite"


def test_rejection_draws_other_pictures_by_test_images():
    found = figures.everything().rejection
    for way, value in {
        "test rejected": 5,
        "test total": 200,
        "ood": dict.fromkeys(
            ("letters", "noise"), OodRejection(total=1, rejected=0, rejected_by_threshold=0)
        ),
        "curve": {"test": (0, 0.25), "letters": (0.5, 0.75), "noise": (1.0, 1.0)},
    }.items():
        found = changed(found, way, value)
    (axis,) = plots.rejection(found).axes
    *curves, chosen = axis.lines
    assert {line.get_label(): line.get_xydata().tolist() for line in curves} == {
        "letters": [[0, 50], [25, 75]], "noise": [[0, 100], [25, 100]],
    }  # fmt: skip
    assert list(chosen.get_xdata()) == [2.5, 2.5]
    assert axis.texts[0].get_text() == " threshold 0.250"
    assert axis.get_xlim() == (0, 3.75)
    assert labels(axis) == ("test images rejected, %", "other pictures rejected, %")
    assert len({to_rgba(line.get_color()) for line in curves}) == 2


def test_robustness_draws_the_hardest_corruption_last():
    fog = Corrupted(raw=(0.6, 0.4), prepared=(0.7, 0.5))
    better = Corrupted(raw=(1.0, 0.8), prepared=(0.9, 0.7))
    found = {
        "fog": {"a.tflite": fog, "b.tflite": better},
        "gaussian_noise": {"a.tflite": better, "b.tflite": fog},
    }
    (axis,) = plots.robustness(changed(figures.everything(), "robustness corruptions", found)).axes
    assert points(axis) == {
        "b.tflite, as it comes": [[50, 1], [90, 0]], "b.tflite, prepared": [[60, 1], [80, 0]],
        "a.tflite, as it comes": [[90, 1], [50, 0]], "a.tflite, prepared": [[80, 1], [60, 0]],
    }  # fmt: skip
    assert rows(axis) == {1: "gaussian noise", 0: "fog"}
    assert [line.get_fillstyle() for line in axis.lines] == ["full", "none"] * 2
    assert labels(axis)[0] == "accuracy, %"


def test_curves_draw_training_and_validation_by_epoch_and_mark_the_kept_epoch():
    history = {
        "epoch": [1.0, 2.0, 3.0],
        "loss": [1.0, 0.5, 0.4],
        "accuracy": [0.3, 0.98, 0.9961],
        "val_loss": [1.0, 0.6, 0.7],
        "val_accuracy": [0.5, 1.0, 0.9],
        "learning_rate": [0.1, 0.05, 0.0],
    }
    loss, accuracy, rate = plots.training_curves({"train": history}, {"train": 3}).axes
    drawn, validation, kept = loss.lines
    assert drawn.get_xydata().tolist() == [[1, 1], [2, 0.5], [3, 0.4]]
    assert validation.get_xydata().tolist() == [[1, 1], [2, 0.6], [3, 0.7]]
    assert [drawn.get_label(), validation.get_label()] == ["training, augmented", "validation"]
    assert kept.get_xdata() == accuracy.lines[-1].get_xdata() == [3, 3]
    assert accuracy.get_legend().get_texts()[-1].get_text() == "kept: epoch 3, 90.00%"
    assert accuracy.get_ylim() == (0, 1)
    heights = accuracy.transData.transform([(0, tick) for tick in (0.98, 0.99, 0.995)])[:, 1]
    assert np.all(np.diff(heights) > 10)  # accuracies near 1 have room
    assert rate.lines[0].get_xydata().tolist() == [[1, 0.1], [2, 0.05], [3, 0]]


def pictures(figure):
    """The arrays of the pictures in a figure, and the scale that they share."""
    drawn = [axis.images[0] for axis in figure.axes if axis.images]
    (scale,) = {image.get_clim() for image in drawn}
    return [image.get_array().tolist() for image in drawn], scale


def test_weights_share_one_scale_about_zero():
    kernels = np.array([[[1.0, -4.0]], [[2.0, 0.0]], [[0.0, 0.5]]])
    assert pictures(plots.draw_filters(kernels, columns=2)) == (kernels.tolist(), (-4, 4))


def test_the_contact_sheet_shows_every_image():
    images = np.linspace(0, 1, 20)[:, None, None] * np.ones((1, 2, 2))
    assert pictures(plots.contact_sheet(images)) == (images.tolist(), (0, 1))


IMAGE = draw_digits(4, 0)[0][3]
SHAPES = {"mlp": (32, 28, 28), "simple_cnn": (32, 5, 5), "teacher": (32, 5, 5)}
"""Shapes of the weights as pictures; other models have (6, 5, 5)."""


@pytest.mark.slow
@pytest.mark.parametrize("name", models.MODELS)
def test_every_model_shows_its_filters_and_maps(name):
    model = models.build(keras, Model(name=name))
    _, kernels = plots.first_filters(model)
    assert kernels.shape == SHAPES.get(name, (6, 5, 5))
    outputs = plots.feature_maps(model, IMAGE)
    size = models.find(name).input_size
    entering = augment.resize(augment.to_unit(IMAGE[None, ..., None]), size)
    np.testing.assert_array_equal(outputs["image"], entering[0])
    np.testing.assert_allclose(outputs["logits"], model(entering)[0], atol=1e-5)
    assert {layer.name for layer in model.layers if layer.weights} < {*outputs}
    drawn = plots.draw_feature_maps(outputs, DIGITS)
    first, *_, last = drawn.axes
    np.testing.assert_array_equal(first.images[0].get_array(), outputs["image"][..., 0])
    np.testing.assert_array_equal(last.images[0].get_array(), outputs["logits"][None])
    assert [text.get_text() for text in last.get_xticklabels()] == DIGITS
    with Image.open(io.BytesIO(plots.png(drawn))) as picture:
        assert len(set(picture.convert("L").get_flattened_data())) > 16


@pytest.mark.slow
def test_the_strongest_filters_are_shown_as_the_layer_has_them_in_order():
    model = models.build(keras, Model())
    caption, kernels = plots.first_filters(model)
    assert caption == "conv1: 6 filters of 5×5"
    np.testing.assert_array_equal(kernels[4], model.get_layer("conv1").kernel[:, :, 0, 4])
    model = models.build(keras, Model(name="mlp"))
    kernel, bias = model.get_layer("dense1").get_weights()
    strong = np.arange(700, 764, 2)
    kernel[:, strong] += 1
    model.get_layer("dense1").set_weights([kernel, bias])
    caption, kernels = plots.first_filters(model)
    assert caption == "dense1: 784 units of 28×28, the 32 with the largest weights"
    np.testing.assert_array_equal(kernels, kernel[:, strong].T.reshape(-1, 28, 28))
