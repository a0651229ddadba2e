"""A model as a table and as a drawing."""

import json
from pathlib import Path

import keras
import pytest
from conftest import keras_lenet

from keras_lenet import models
from keras_lenet.errors import Error
from keras_lenet.models import summary
from keras_lenet.recipe import Model

ROOT = Path(__file__).parents[1]
EVERY = pytest.mark.parametrize("name", models.MODELS)
MEMORY = [keras.Input((4, 3)), keras.layers.LSTM(2, name="memory")]


def of(name):
    return summary.summarize(models.build(keras, Model(name=name)))


def of_layers(*layers):
    return summary.summarize(keras.Sequential(layers))


def rows(found):
    return {row[0]: row[1:] for row in summary.rows(found)}


def test_lenet5_as_the_paper_counts_it():
    found = rows(of("lenet5"))
    assert found["conv2"] == [
        "Conv2D", "16@10×10", "5×5", "1", "relu", "((5×5×6)+1)×16 = 2,416", "240,000",
    ]  # fmt: skip
    assert found["pool1"] == ["MaxPooling2D", "6@14×14", "2×2", "2", "", "", ""]
    assert found["dense1"][-2:] == ["(120+1)×84 = 10,164", "10,080"]
    assert found["total"] == ["", "", "", "", "", "61,706", "416,520"]


@EVERY
def test_the_arithmetic_gives_the_count(name):
    model = models.build(keras, Model(name=name))
    found = summary.summarize(model)
    assert found.parameters == model.count_params()
    for layer in found.layers:
        if layer.parameters:
            assert eval(layer.arithmetic.replace("×", "*")) == layer.parameters
    assert found.macs > 0


def test_every_window_stride_padding_and_bias():
    found = rows(
        of_layers(
            keras.Input((9, 9, 2)),
            keras.layers.DepthwiseConv2D(2, strides=2, name="subsampled"),
            keras.layers.Conv2D(4, (3, 1), padding="same", use_bias=False, name="same"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.GlobalAveragePooling2D(name="mean"),
            keras.layers.Dense(3, use_bias=False, name="out"),
        )
    )
    assert found["input"] == ["InputLayer", "2@9×9", "", "", "", "", ""]
    assert found["subsampled"][1:] == ["2@4×4", "2×2", "2", "", "((2×2)+1)×2 = 10", "128"]
    assert found["same"][1:] == ["4@4×4", "3×1, padded", "1", "", "3×1×2×4 = 24", "384"]
    assert found["norm"][-2:] == ["4×4 = 16", "64"]
    assert found["mean"][1:] == ["4", "", "", "", "", ""]
    assert found["out"][1:] == ["3", "", "", "", "4×3 = 12", "12"]


def test_layers_of_unknown_kind_are_counted_and_not_drawn():
    found = of_layers(*MEMORY)
    assert rows(found)["total"][-2:] == ["48", "not known"]
    with pytest.raises(Error, match="no layers that can be drawn; expected InputLayer, Zero"):
        summary.draw(found)


def test_layers_without_a_size_are_refused():
    with pytest.raises(Error, match=r"layer conv .*one output of a fixed size, found \(None, None"):
        of_layers(keras.Input((None, None, 1)), keras.layers.Conv2D(1, 1, name="conv"))


def test_the_command_takes_a_name_or_a_file(tmp_path):
    printed = keras_lenet("summary", "lenet5", "--plot", tmp_path / "lenet5.png")
    assert printed.returncode == 0, printed.stderr
    assert "((5×5×6)+1)×16 = 2,416" in printed.stdout
    assert (tmp_path / "lenet5.png").read_bytes().startswith(b"\x89PNG")
    result = keras_lenet("summary", ROOT / "exported" / "model.keras", "--json")
    found = json.loads(result.stdout)
    assert (found["parameters"], found["macs"]) == (61_706, 416_520)
    assert found["layers"][1]["arithmetic"] == "((5×5×1)+1)×6"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("lenet6",), "unknown model 'lenet6': expected one of lenet5"),
        (("lenet5", "--plot", "a.jpeg"), "--plot a.jpeg: expected a file name ending in .png"),
    ],
)
def test_the_command_refuses_bad_input_in_one_line(arguments, complaint):
    result = keras_lenet("summary", *arguments)
    assert result.returncode == 1
    assert complaint in result.stderr
    assert "Traceback" not in result.stderr


def drawn(found):
    """The drawing, and its words from left to right."""
    figure = summary.draw(found)
    texts = sorted(figure.axes[0].texts, key=lambda text: text.get_position()[0])
    return figure, texts


@EVERY
def test_no_words_overlap_in_the_drawing_of_any_model(name):
    figure, texts = drawn(of(name))
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in texts]
    for place, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[place + 1 :]), texts[place]
        assert 0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert 0 <= box.y0 < box.y1 <= figure.bbox.y1


def test_lenet5_reads_as_in_the_paper():
    words = [text.get_text().replace("\n", " ") for text in drawn(of("lenet5"))[1]]
    assert [word for word in words if word[0].isupper()] == [
        "INPUT 32×32", "C1: feature maps 6@28×28", "S2: feature maps 6@14×14",
        "C3: feature maps 16@10×10", "S4: feature maps 16@5×5", "C5 120@1×1", "F6 84 units",
        "OUTPUT 10 units",
    ]  # fmt: skip
    assert [word for word in words if word[0].islower()] == [
        "convolution 5×5", "max pooling 2×2", "convolution 5×5", "max pooling 2×2",
        "convolution 5×5", "full connection", "full connection",
    ]  # fmt: skip
