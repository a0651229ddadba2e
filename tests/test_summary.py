import json

import keras
import pytest
from conftest import keras_lenet

from keras_lenet import models
from keras_lenet.errors import Error
from keras_lenet.models import summary
from keras_lenet.recipe import Model
from keras_lenet.tflite import inspection

pytestmark = pytest.mark.slow


def of(name):
    return summary.summarize(models.build(keras, Model(name=name)))


def test_lenet5_as_the_paper_counts_it():
    rows = {row[0]: row for row in summary.rows(of("lenet5"))}
    assert rows["conv2"] == [
        "conv2", "Conv2D", "16@10×10", "5×5", "1", "relu", "((5×5×6)+1)×16 = 2,416", "240,000",
    ]  # fmt: skip
    assert rows["pool1"] == ["pool1", "MaxPooling2D", "6@14×14", "2×2", "2", "", "", ""]
    assert rows["dense1"][-2:] == ["(120+1)×84 = 10,164", "10,080"]
    assert rows["total"][-2:] == ["61,706", "416,520"]


@pytest.mark.parametrize("name", models.MODELS)
def test_the_arithmetic_gives_the_count(name):
    found = of(name)
    assert found.parameters == sum(models.find(name).parameters.values())
    for layer in found.layers:
        if layer.parameters:
            assert eval(layer.arithmetic.replace("×", "*")) == layer.parameters
    assert found.macs > 0


def test_multiply_accumulates_are_those_of_the_file(finished):
    """Counted from the layers here, and from the ops of what was exported there."""
    report = inspection.inspect(finished.folder / "export" / "lenet5_float32.tflite")
    assert of("lenet5").macs == report.macs


def test_every_window_stride_padding_and_bias():
    image = keras.Input((9, 9, 2))
    layers = [
        keras.layers.DepthwiseConv2D(2, strides=2, name="subsampled"),
        keras.layers.Conv2D(4, (3, 1), padding="same", use_bias=False, name="same"),
        keras.layers.BatchNormalization(name="norm"),
        keras.layers.Activation("tanh", name="tanh"),
        keras.layers.GlobalAveragePooling2D(name="mean"),
        keras.layers.Dense(3, use_bias=False, name="out"),
    ]
    rows = {
        row[0]: row[2:]
        for row in summary.rows(summary.summarize(keras.Sequential([image, *layers])))
    }
    assert rows["subsampled"] == ["2@4×4", "2×2", "2", "", "((2×2)+1)×2 = 10", "128"]
    assert rows["same"] == ["4@4×4", "3×1, padded", "1", "", "3×1×2×4 = 24", "384"]
    assert rows["norm"][-2:] == ["4×4 = 16", "64"]
    assert rows["tanh"] == ["4@4×4", "", "", "tanh", "", ""]
    assert rows["mean"] == ["4", "", "", "", "", ""]
    assert rows["out"] == ["3", "", "", "", "4×3 = 12", "12"]


def test_what_is_not_known_is_said():
    model = keras.Sequential([keras.Input((4, 3)), keras.layers.LSTM(2, name="memory")])
    found = summary.summarize(model)
    assert summary.rows(found)[-1][-2:] == [f"{model.count_params()}", "not known"]
    assert found.macs is None


def test_layers_without_a_size_are_refused():
    with pytest.raises(Error, match=r"layer conv .*one output of a fixed size, found \(None, None"):
        summary.summarize(
            keras.Sequential([keras.Input((None, None, 1)), keras.layers.Conv2D(1, 1, name="conv")])
        )


def test_the_command_takes_a_name_or_a_file(finished, tmp_path):
    printed = keras_lenet("summary", "lenet5", "--plot", tmp_path / "lenet5.png")
    assert printed.returncode == 0, printed.stderr
    assert "((5×5×6)+1)×16 = 2,416" in printed.stdout
    assert "61,706" in printed.stdout
    assert (tmp_path / "lenet5.png").read_bytes().startswith(b"\x89PNG")
    result = keras_lenet("summary", finished.folder / "train" / "model.keras", "--json")
    found = json.loads(result.stdout)
    assert (found["parameters"], found["macs"]) == (61_706, 416_520)
    assert found["layers"][1]["arithmetic"] == "((5×5×1)+1)×6"


def test_a_picture_of_another_format_is_refused():
    result = keras_lenet("summary", "lenet5", "--plot", "lenet5.jpeg")
    assert "--plot lenet5.jpeg: expected a file name ending in .png" in result.stderr


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        ("lenet6", "unknown model 'lenet6': expected one of lenet5"),
        ("nothing.keras", "nothing.keras: cannot be read as a Keras model"),
    ],
)
def test_what_is_neither_is_one_line(model, complaint):
    result = keras_lenet("summary", model)
    assert result.returncode == 1
    assert complaint in result.stderr
    assert "Traceback" not in result.stderr
