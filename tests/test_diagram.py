import keras
import pytest

from keras_lenet import models
from keras_lenet.errors import Error
from keras_lenet.models import diagram, summary
from keras_lenet.recipe import Model


def drawn(model):
    """The diagram, and the words on it, from left to right."""
    figure = diagram.lenet_style(summary.summarize(model))
    texts = sorted(figure.axes[0].texts, key=lambda text: text.get_position()[0])
    return figure, texts


@pytest.mark.parametrize("name", models.MODELS)
def test_every_model_is_drawn_with_no_words_upon_others(name):
    figure, texts = drawn(models.build(keras, Model(name=name)))
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in texts]
    for place, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[place + 1 :]), texts[place]
        assert 0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert 0 <= box.y0 < box.y1 <= figure.bbox.y1


def test_lenet5_reads_as_in_the_paper():
    _, texts = drawn(models.build(keras, Model()))
    words = [text.get_text().replace("\n", " ") for text in texts]
    assert [caption for caption in words if caption[0].isupper()] == [
        "INPUT 32×32",
        "C1: feature maps 6@28×28",
        "S2: feature maps 6@14×14",
        "C3: feature maps 16@10×10",
        "S4: feature maps 16@5×5",
        "C5 120@1×1",
        "F6 84 units",
        "OUTPUT 10 units",
    ]
    assert [word for word in words if word[0].islower()] == [
        "convolution 5×5", "max pooling 2×2", "convolution 5×5", "max pooling 2×2",
        "convolution 5×5", "full connection", "full connection",
    ]  # fmt: skip


def test_a_depthwise_convolution_subsamples_if_it_skips_pixels():
    layers = [
        keras.layers.DepthwiseConv2D(2, strides=2),
        keras.layers.DepthwiseConv2D(3),
        keras.layers.Flatten(),
        keras.layers.Dense(2),
    ]
    _, texts = drawn(keras.Sequential([keras.Input((8, 8, 1)), *layers]))
    words = [text.get_text().partition("\n")[0] for text in texts]
    assert words == [
        "INPUT", "subsampling", "S1: feature maps", "convolution", "C2: feature maps",
        "full", "OUTPUT",
    ]  # fmt: skip


def test_what_cannot_be_drawn_is_said():
    model = keras.Sequential([keras.Input((4, 3)), keras.layers.LSTM(2)])
    with pytest.raises(Error, match="no layers that can be drawn; expected InputLayer, Zero"):
        diagram.lenet_style(summary.summarize(model))
