"""The registry of architectures: functional Keras models, built for Keras 3 or for tf_keras.

Each has a form that is deployed, made of layers that quantize well, and may have another that is
trained. `deploy` makes the first from the second; both compute the same. What training normalizes,
a layer's output or the pixels, is folded into weights.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from keras_lenet.errors import Error
from keras_lenet.models import baselines, lenet5, lenet5_1998, teacher

Network = Callable[[Any, Any], Any]
"""Takes a Keras namespace (`keras` or `tf_keras`) and a tensor of images; returns the logits."""
Weights = dict[str, list[NDArray[np.float32]]]
"""Kernel and bias of each layer that has any, by layer name."""

STANDARDIZE = "standardize"
PAD = 2
"""Pixels that padding adds to each side of an image, as in LeCun et al. 1998: from 28 to 32."""


@dataclass(frozen=True)
class Architecture:
    """One registered model.

    Attributes:
        title: what it is, in words.
        network: the form that is deployed.
        input_size: side of its square input, in pixels.
        parameters: parameters of each of its layers that has any, by layer name.
        trained: the form that is trained, where it is another.
        fold: makes the weights of the deployed form of those of the trained one, where they differ
            by more than what all models fold.
        loss: of labels, (N,) or (N, 1), and the trained form's logits, (N, 10); cross-entropy where
            it has none of its own.
        project: the nearest weights of a deployed layer, by its name, that the architecture has;
            where not every weight of a layer is free.
    """

    title: str
    network: Network
    input_size: int
    parameters: dict[str, int]
    trained: Network | None = None
    fold: Callable[[Weights], Weights] | None = None
    loss: Callable[[Any, Any], Any] | None = None
    project: Callable[[str, list[Any]], list[Any]] | None = None


_LENET5 = {"conv1": 156, "conv2": 2_416, "conv3": 48_120, "dense1": 10_164, "logits": 850}

MODELS = {
    "lenet5": Architecture(
        "LeNet-5 (LeCun et al. 1998) with ReLU and max pooling",
        lenet5.network,
        input_size=32,
        parameters=_LENET5,
        trained=lenet5.trained,
    ),
    "lenet5_batchnorm": Architecture(
        "LeNet-5, batch-normalized",
        lenet5.batchnorm,
        input_size=32,
        parameters={
            "conv1": 156, "conv2": 2_416, "dense1": 48_120, "dense2": 10_164, "logits": 850,
        },
        trained=functools.partial(lenet5.batchnorm, training=True),
    ),
    "lenet5_avgpool": Architecture(
        "LeNet-5, ReLU and average pooling",
        functools.partial(lenet5.network, pooling="average"),
        input_size=32,
        parameters=_LENET5,
    ),
    "lenet5_tanh": Architecture(
        "LeNet-5, tanh and average pooling, padded inside",
        lenet5.padded_tanh,
        input_size=28,
        parameters=_LENET5,
    ),
    "lenet5_1998": Architecture(
        "LeNet-5 as published in 1998",
        lenet5_1998.network,
        input_size=32,
        parameters={
            "c1": 156, "s2": 30, "c3": 2_416, "s4": 80, "c5": 48_120, "f6": 10_164, "logits": 850,
        },
        trained=lenet5_1998.trained,
        fold=lenet5_1998.fold,
        loss=lenet5_1998.loss,
        project=lenet5_1998.project,
    ),
    "mlp": Architecture(
        "perceptron, 784-784-10",
        baselines.mlp,
        input_size=28,
        parameters={"dense1": 615_440, "logits": 7_850},
    ),
    "simple_cnn": Architecture(
        "one convolution, 32@5×5, and a dense layer of 128",
        baselines.simple_cnn,
        input_size=28,
        parameters={"conv1": 832, "dense1": 589_952, "logits": 1_290},
    ),
    "teacher": Architecture(
        "five convolutions, to distil from",
        teacher.network,
        input_size=32,
        parameters={
            "conv1": 832, "conv2": 13_872, "conv3": 27_712, "conv4": 55_392, "conv5": 83_040,
            "logits": 970,
        },
        trained=functools.partial(teacher.network, training=True),
    ),
}  # fmt: skip


class Settings(Protocol):
    """Which architecture, and how images come to its size; the `model` section of a recipe."""

    @property
    def name(self) -> str:
        """Of the architecture."""

    @property
    def pad(self) -> bool:
        """Pad 28×28 images with zeros, instead of resizing them."""


def find(name: str) -> Architecture:
    """The architecture called `name`.

    Raises:
        Error: there is none.
    """
    if name not in MODELS:
        raise Error(f"unknown model {name!r}: expected one of {', '.join(MODELS)}")
    return MODELS[name]


def input_size(settings: Settings) -> int:
    """Side of the images that the model takes, in pixels: 28 where it pads them itself.

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


def build(keras: Any, settings: Settings) -> Any:
    """The untrained model in the form that is deployed.

    Args:
        keras: the namespace to build in: the module `keras` or `tf_keras`.
        settings: the recipe's `model` section.

    Returns:
        Functional model from float32 (N, side, side, 1) in [0, 1] to float32 (N, 10) logits.
    """
    return _model(keras, settings, find(settings.name).network)


def build_trained(
    keras: Any, settings: Settings, statistics: tuple[float, float] | None = None
) -> Any:
    """The untrained model in the form that is trained; its inputs and outputs are those of `build`.

    Args:
        keras: the namespace to build in.
        settings: the recipe's `model` section.
        statistics: mean and standard deviation of the pixels, to standardize by.

    Raises:
        Error: `statistics` can't be folded into the weights, since zeros are padded after them.
    """
    architecture = find(settings.name)
    model = _model(keras, settings, architecture.trained or architecture.network, statistics)
    if statistics and _pads_first(model):
        raise Error(
            f"data.standardize = true: {settings.name} pads its input with zeros, which mean "
            "another grey once standardized; train it without"
        )
    return model


def _model(
    keras: Any,
    settings: Settings,
    network: Network,
    statistics: tuple[float, float] | None = None,
) -> Any:
    size = input_size(settings)
    image = keras.Input((size, size, 1), name="image")
    x = keras.layers.ZeroPadding2D(PAD, name="pad")(image) if settings.pad else image
    if statistics:
        mean, deviation = statistics
        standardize = keras.layers.Rescaling(1 / deviation, -mean / deviation, name=STANDARDIZE)
        x = standardize(x)
    return keras.Model(image, network(keras, x), name=settings.name)


def _pads_first(model: Any) -> bool:
    """Whether anything pads between the standardization and the first weights."""
    names = [layer.name for layer in model.layers]
    for layer in model.layers[names.index(STANDARDIZE) + 1 :]:
        if type(layer).__name__ == "ZeroPadding2D":
            return True
        if layer.weights:
            return getattr(layer, "padding", "valid") == "same"
    return False


def initialize_by_fan_in(model: Any, seed: int) -> None:
    """Draw every kernel uniformly between ±2.4 divided by the number of a unit's inputs.

    LeCun et al. 1998, appendix A. Biases start at 0. A layer whose kernel's shape doesn't tell has
    that number as its attribute `fan_in`.
    """
    generator = np.random.default_rng(seed)
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            kernel, *rest = layer.get_weights()
            limit = 2.4 / getattr(layer, "fan_in", np.prod(kernel.shape[:-1]))
            drawn = generator.uniform(-limit, limit, kernel.shape).astype(np.float32)
            layer.set_weights([drawn, *rest])


def deploy(trained: Any, settings: Settings) -> Any:
    """The deployed form of a model, from the form that was trained: both of Keras 3.

    Batch normalization and standardization are affine, and go into the weights before or after.
    """
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
    by_name = {layer.name: layer for layer in trained.layers}
    weights: Weights = {}
    for name, layer in by_name.items():
        if not layer.weights or name.endswith("_norm"):
            continue
        kernel, *rest = layer.get_weights()
        bias = rest[0] if rest else np.zeros(kernel.shape[-1], np.float32)
        if f"{name}_norm" in by_name:
            kernel, bias = _normalized(kernel, bias, by_name[f"{name}_norm"])
        if STANDARDIZE in by_name and not weights:
            kernel, bias = _standardized(kernel, bias, by_name[STANDARDIZE])
        weights[name] = [kernel, bias]
    return weights


def _normalized(kernel: Any, bias: Any, layer: Any) -> tuple[Any, Any]:
    """What comes out is normalized: gamma (x - mean) / sqrt(variance + epsilon) + beta."""
    gamma, beta, mean, variance = layer.get_weights()
    factor = gamma / np.sqrt(variance + layer.epsilon)
    return kernel * factor, (bias - mean) * factor + beta


def _standardized(kernel: Any, bias: Any, layer: Any) -> tuple[Any, Any]:
    """What goes in is scale x + offset."""
    inputs = tuple(range(kernel.ndim - 1))
    return kernel * np.float32(layer.scale), bias + layer.offset * kernel.sum(axis=inputs)
