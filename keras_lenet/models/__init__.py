"""Registry of architectures: functional Keras models, built for Keras 3 or for tf_keras.

An architecture has a deployed graph, of layers that quantize well, and may have another trained
graph. `deploy` makes the first from the second, and folds batch normalization and standardization
into weights; both compute the same.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from keras_lenet.errors import Error
from keras_lenet.models import lenet5_1998

if TYPE_CHECKING:
    from keras_lenet.recipe import Model

Network = Callable[[Any, Any], Any]
"""Function of a Keras namespace, `keras` or `tf_keras`, and of images, float32 (N, side, side, 1);
returns float32 (N, 10) logits."""
Weights = dict[str, list[NDArray[np.float32]]]
"""Kernel and bias of each layer that has any, by layer name."""

STANDARDIZE = "standardize"
PAD = 2
"""Pixels that padding adds to each side of an image, as in LeCun et al. 1998: from 28 to 32."""


@dataclass(frozen=True)
class Architecture:
    """One registered model.

    Attributes:
        title: a description in words.
        network: the deployed graph.
        input_size: side of the square input, in pixels.
        trained: the trained graph, if it differs from the deployed graph.
        pads: whether the network pads its input with zeros.
        fold: turns weights of the trained graph into weights of the deployed graph, if more than
            normalization and standardization is folded.
        loss: of labels, (N,) or (N, 1), and the trained graph's logits, (N, 10); None for
            cross-entropy.
        project: returns the nearest allowed weights of a deployed layer, by its name, if not every
            weight of a layer is free.
    """

    title: str
    network: Network
    input_size: int = 32
    trained: Network | None = None
    pads: bool = False
    fold: Callable[[Weights], Weights] | None = None
    loss: Callable[[Any, Any], Any] | None = None
    project: Callable[[str, list[Any]], list[Any]] | None = None


def lenet5(keras: Any, x: Any, *, pooling: str = "max", activation: str = "relu") -> Any:
    """Build LeNet-5: 61,706 parameters.

    After LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document
    recognition", Proceedings of the IEEE 86(11), 1998, section II.B and figure 2. ReLU, max
    pooling, full connections and a dense layer replace the paper's scaled tanh, trainable
    subsampling, partial connections of C3 and Euclidean RBF outputs: quantization to int8 costs
    these least.

    Args:
        keras: the namespace to build in.
        x: (N, 32, 32, 1).
        pooling: "max" or "average".
        activation: of every layer but the last: "relu" or "tanh".
    """
    layers = keras.layers
    pool = {"max": layers.MaxPooling2D, "average": layers.AveragePooling2D}[pooling]
    x = layers.Conv2D(6, 5, activation=activation, name="conv1")(x)  # (N, 28, 28, 6)
    x = pool(2, name="pool1")(x)  # (N, 14, 14, 6)
    x = layers.Conv2D(16, 5, activation=activation, name="conv2")(x)  # (N, 10, 10, 16)
    x = pool(2, name="pool2")(x)  # (N, 5, 5, 16)
    x = layers.Conv2D(120, 5, activation=activation, name="conv3")(x)  # (N, 1, 1, 120)
    return _head(keras, x, activation)


def _head(keras: Any, x: Any, activation: str) -> Any:
    """Build the dense layers, from (N, 1, 1, 120)."""
    x = keras.layers.Flatten(name="flatten")(x)  # (N, 120)
    x = keras.layers.Dense(84, activation=activation, name="dense1")(x)  # (N, 84)
    return _logits(keras, x)


def _logits(keras: Any, x: Any) -> Any:
    return keras.layers.Dense(10, name="logits")(x)


def lenet5_trained(keras: Any, x: Any) -> Any:
    """Build the trained graph of LeNet-5, which takes a quarter less time; for Keras 3 alone."""

    class Pooled(keras.layers.Conv2D):
        """A convolution with ReLU and 2×2 max pooling.

        Bias and ReLU are monotonic. They follow the maximum, on a quarter as many values.
        """

        def call(self, inputs: Any) -> Any:
            x = keras.ops.max_pool(self.convolution_op(inputs, self.kernel), 2, 2)
            return keras.ops.relu(x + self.bias)

        def compute_output_shape(self, input_shape: Any) -> Any:
            batch, height, width, channels = super().compute_output_shape(input_shape)
            return batch, height // 2, width // 2, channels

    class Whole(keras.layers.Conv2D):
        """A convolution with ReLU whose kernel is as large as its images: one matrix product."""

        def call(self, inputs: Any) -> Any:
            ops = keras.ops
            columns = ops.reshape(self.kernel, (-1, self.filters))
            x = ops.reshape(inputs, (-1, columns.shape[0])) @ columns
            return ops.reshape(ops.relu(x + self.bias), (-1, 1, 1, self.filters))

    x = Pooled(6, 5, name="conv1")(x)  # (N, 14, 14, 6)
    x = Pooled(16, 5, name="conv2")(x)  # (N, 5, 5, 16)
    x = Whole(120, 5, name="conv3")(x)  # (N, 1, 1, 120)
    return _head(keras, x, "relu")


def padded_tanh(keras: Any, x: Any) -> Any:
    """Build LeNet-5 with tanh and average pooling, from (N, 28, 28, 1) padded by 2 pixels."""
    x = keras.layers.ZeroPadding2D(2, name="pad")(x)  # (N, 32, 32, 1)
    return lenet5(keras, x, pooling="average", activation="tanh")


def batchnorm(keras: Any, x: Any, normalized: bool = False) -> Any:
    """Build LeNet-5 with normalized convolutions and a dense layer of 120, from (N, 32, 32, 1)."""
    layers = keras.layers
    x = _convolution(keras, x, 6, 5, "conv1", normalized)  # (N, 28, 28, 6)
    x = layers.MaxPooling2D(2, name="pool1")(x)  # (N, 14, 14, 6)
    x = _convolution(keras, x, 16, 5, "conv2", normalized)  # (N, 10, 10, 16)
    x = layers.MaxPooling2D(2, name="pool2")(x)  # (N, 5, 5, 16)
    x = layers.Flatten(name="flatten")(x)  # (N, 400)
    x = layers.Dense(120, activation="relu", name="dense1")(x)
    x = layers.Dense(84, activation="relu", name="dense2")(x)
    return _logits(keras, x)


def teacher(keras: Any, x: Any, normalized: bool = False) -> Any:
    """Build a network to distill from: 181,818 parameters as deployed, from (N, 32, 32, 1).

    The first convolution halves the image at once, since the normalization of large feature maps
    takes most of the training time.
    """
    layers = keras.layers
    x = _convolution(keras, x, 32, 5, "conv1", normalized, strides=2, padding="same")
    x = _convolution(keras, x, 48, 3, "conv2", normalized, padding="same")  # (N, 16, 16, 48)
    x = layers.MaxPooling2D(2, name="pool2")(x)  # (N, 8, 8, 48)
    x = _convolution(keras, x, 64, 3, "conv3", normalized, padding="same")
    x = _convolution(keras, x, 96, 3, "conv4", normalized, padding="same")
    x = _convolution(keras, x, 96, 3, "conv5", normalized, padding="same")  # (N, 8, 8, 96)
    return _logits(keras, layers.GlobalAveragePooling2D(name="mean")(x))


def _convolution(
    keras: Any, x: Any, filters: int, size: int, name: str, normalized: bool, **more: Any
) -> Any:
    """Build a convolution with ReLU; in the trained graph, `normalized`, with batch normalization.

    Ioffe and Szegedy, ICML 2015, section 3. The trained convolution has no bias, since the offset
    of `<name>_norm` follows; deployed, both are one convolution with bias.
    """
    layers = keras.layers
    if not normalized:
        return layers.Conv2D(filters, size, activation="relu", name=name, **more)(x)
    x = layers.Conv2D(filters, size, use_bias=False, name=name, **more)(x)
    return layers.ReLU(name=f"{name}_relu")(layers.BatchNormalization(name=f"{name}_norm")(x))


def mlp(keras: Any, x: Any) -> Any:
    """Build a perceptron of 784, 784 and 10 units, 623,290 parameters, from (N, 28, 28, 1)."""
    x = keras.layers.Flatten(name="flatten")(x)  # (N, 784)
    x = keras.layers.Dense(784, activation="relu", name="dense1")(x)
    return _logits(keras, x)


def simple_cnn(keras: Any, x: Any) -> Any:
    """Build one convolution and two dense layers, 592,074 parameters, from (N, 28, 28, 1)."""
    layers = keras.layers
    x = layers.Conv2D(32, 5, activation="relu", name="conv1")(x)  # (N, 24, 24, 32)
    x = layers.MaxPooling2D(2, name="pool1")(x)  # (N, 12, 12, 32)
    x = layers.Flatten(name="flatten")(x)  # (N, 4608)
    x = layers.Dense(128, activation="relu", name="dense1")(x)
    return _logits(keras, x)


MODELS = {
    "lenet5": Architecture(
        "LeNet-5 (LeCun et al. 1998) with ReLU and max pooling", lenet5, trained=lenet5_trained
    ),
    "lenet5_batchnorm": Architecture(
        "LeNet-5, batch-normalized",
        batchnorm,
        trained=functools.partial(batchnorm, normalized=True),
    ),
    "lenet5_avgpool": Architecture(
        "LeNet-5, ReLU and average pooling", functools.partial(lenet5, pooling="average")
    ),
    "lenet5_tanh": Architecture(
        "LeNet-5, tanh and average pooling, padded inside", padded_tanh, input_size=28, pads=True
    ),
    "lenet5_1998": Architecture(
        "LeNet-5 as published in 1998",
        lenet5_1998.network,
        trained=lenet5_1998.trained,
        fold=lenet5_1998.fold,
        loss=lenet5_1998.loss,
        project=lenet5_1998.project,
    ),
    "mlp": Architecture("perceptron, 784-784-10", mlp, input_size=28),
    "simple_cnn": Architecture(
        "one convolution, 32@5×5, and a dense layer of 128", simple_cnn, input_size=28
    ),
    "teacher": Architecture(
        "five convolutions, to distil from",
        teacher,
        trained=functools.partial(teacher, normalized=True),
        pads=True,
    ),
}


def find(name: str) -> Architecture:
    """Return the architecture called `name`.

    Raises:
        Error: there is none.
    """
    if name not in MODELS:
        raise Error(f"unknown model {name!r}: expected one of {', '.join(MODELS)}")
    return MODELS[name]


def input_size(settings: Model) -> int:
    """Return the side of the images that the model takes, in pixels: 28 where it pads them itself.

    Raises:
        Error: there is no such model, or padding doesn't bring 28 pixels to its size.
    """
    size = find(settings.name).input_size
    if not settings.pad:
        return size
    if size != 28 + 2 * PAD:
        raise Error(
            f"model.pad = true: {settings.name} takes {size}×{size} pixels, and padding makes "
            f"{28 + 2 * PAD}×{28 + 2 * PAD} of 28×28; leave pad out"
        )
    return size - 2 * PAD


def build(keras: Any, settings: Model) -> Any:
    """Build the untrained deployed graph.

    Args:
        keras: the namespace to build in: the module `keras` or `tf_keras`.
        settings: the recipe's `model` section.

    Returns:
        Functional model from float32 (N, side, side, 1) in [0, 1] to float32 (N, 10) logits.
    """
    return _model(keras, settings, find(settings.name).network)


def build_trained(
    keras: Any, settings: Model, statistics: tuple[float, float] | None = None
) -> Any:
    """Build the untrained trained graph; its inputs and outputs are those of `build`.

    Args:
        keras: the namespace to build in.
        settings: the recipe's `model` section.
        statistics: mean and standard deviation of the pixels, to standardize by.

    Raises:
        Error: `statistics` can't be folded into the weights, since zeros are padded after them.
    """
    architecture = find(settings.name)
    if statistics and architecture.pads:
        raise Error(
            f"data.standardize = true: {settings.name} pads its input with zeros, which mean "
            "another grey once standardized; train it without"
        )
    return _model(keras, settings, architecture.trained or architecture.network, statistics)


def _model(
    keras: Any, settings: Model, network: Network, statistics: tuple[float, float] | None = None
) -> Any:
    size = input_size(settings)
    image = keras.Input((size, size, 1), name="image")
    x = keras.layers.ZeroPadding2D(PAD, name="pad")(image) if settings.pad else image
    if statistics:
        mean, deviation = statistics
        x = keras.layers.Rescaling(1 / deviation, -mean / deviation, name=STANDARDIZE)(x)
    return keras.Model(image, network(keras, x), name=settings.name)


def initialize_by_fan_in(model: Any, seed: int) -> None:
    """Draw every kernel uniformly between ±2.4 divided by the number of a unit's inputs.

    LeCun et al. 1998, appendix A. Biases stay at 0. If a kernel's shape doesn't tell the number,
    its layer has the attribute `fan_in`.
    """
    generator = np.random.default_rng(seed)
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            kernel, *rest = layer.get_weights()
            limit = 2.4 / getattr(layer, "fan_in", np.prod(kernel.shape[:-1]))
            drawn = generator.uniform(-limit, limit, kernel.shape).astype(np.float32)
            layer.set_weights([drawn, *rest])


def deploy(trained: Any, settings: Model) -> Any:
    """Build the deployed graph of a trained model, both in Keras 3."""
    import keras

    deployed = build(keras, settings)
    weights = _folded(trained)
    if fold := find(settings.name).fold:
        weights = fold(weights)
    for layer in deployed.layers:
        if layer.weights:
            layer.set_weights(weights[layer.name])
    return deployed


def _folded(trained: Any) -> Weights:
    """Return the weights of a trained model, with affine layers folded into the weights beside."""
    by_name = {layer.name: layer for layer in trained.layers}
    weights: Weights = {}
    for name, layer in by_name.items():
        if not layer.weights or name.endswith("_norm"):
            continue
        kernel, *rest = layer.get_weights()
        bias = rest[0] if rest else np.zeros(kernel.shape[-1], np.float32)
        if norm := by_name.get(f"{name}_norm"):  # output: gamma (x - mean) / … + beta
            gamma, beta, mean, variance = norm.get_weights()
            factor = gamma / np.sqrt(variance + norm.epsilon)
            kernel, bias = kernel * factor, (bias - mean) * factor + beta
        if STANDARDIZE in by_name and not weights:  # input of the first layer: scale x + offset
            affine = by_name[STANDARDIZE]
            sums = kernel.sum(axis=tuple(range(kernel.ndim - 1)))
            kernel, bias = kernel * np.float32(affine.scale), bias + affine.offset * sums
        weights[name] = [kernel, bias]
    return weights
