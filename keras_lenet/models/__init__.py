"""The registry of architectures: functional Keras models, built for Keras 3 or for tf_keras.

An architecture has a deployed form, of layers that quantize well, and may have another trained
form. `deploy` makes the first from the second; both compute the same. Batch normalization and
standardization are folded into weights.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from keras_lenet.errors import Error
from keras_lenet.models import lenet5_1998, networks

if TYPE_CHECKING:
    from keras_lenet.recipe import Model

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
        title: a description in words.
        network: the deployed form.
        input_size: side of the square input, in pixels.
        trained: the trained form, where it differs from the deployed one.
        fold: turns weights of the trained form into those of the deployed one, where more than
            normalization and standardization is folded.
        loss: of labels, (N,) or (N, 1), and the trained form's logits, (N, 10); None for
            cross-entropy.
        project: returns the nearest allowed weights of a deployed layer, by its name, where not
            every weight of a layer is free.
    """

    title: str
    network: Network
    input_size: int = 32
    trained: Network | None = None
    fold: Callable[[Weights], Weights] | None = None
    loss: Callable[[Any, Any], Any] | None = None
    project: Callable[[str, list[Any]], list[Any]] | None = None


MODELS = {
    "lenet5": Architecture(
        "LeNet-5 (LeCun et al. 1998) with ReLU and max pooling",
        networks.lenet5,
        trained=networks.lenet5_trained,
    ),
    "lenet5_batchnorm": Architecture(
        "LeNet-5, batch-normalized",
        networks.batchnorm,
        trained=functools.partial(networks.batchnorm, normalized=True),
    ),
    "lenet5_avgpool": Architecture(
        "LeNet-5, ReLU and average pooling",
        functools.partial(networks.lenet5, pooling="average"),
    ),
    "lenet5_tanh": Architecture(
        "LeNet-5, tanh and average pooling, padded inside", networks.padded_tanh, input_size=28
    ),
    "lenet5_1998": Architecture(
        "LeNet-5 as published in 1998",
        lenet5_1998.network,
        trained=lenet5_1998.trained,
        fold=lenet5_1998.fold,
        loss=lenet5_1998.loss,
        project=lenet5_1998.project,
    ),
    "mlp": Architecture("perceptron, 784-784-10", networks.mlp, input_size=28),
    "simple_cnn": Architecture(
        "one convolution, 32@5×5, and a dense layer of 128", networks.simple_cnn, input_size=28
    ),
    "teacher": Architecture(
        "five convolutions, to distil from",
        networks.teacher,
        trained=functools.partial(networks.teacher, normalized=True),
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
    """Build the untrained model in the deployed form.

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
    """Build the untrained model in the trained form; its inputs and outputs are those of `build`.

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
    keras: Any, settings: Model, network: Network, statistics: tuple[float, float] | None = None
) -> Any:
    size = input_size(settings)
    image = keras.Input((size, size, 1), name="image")
    x = keras.layers.ZeroPadding2D(PAD, name="pad")(image) if settings.pad else image
    if statistics:
        mean, deviation = statistics
        x = keras.layers.Rescaling(1 / deviation, -mean / deviation, name=STANDARDIZE)(x)
    return keras.Model(image, network(keras, x), name=settings.name)


def _pads_first(model: Any) -> bool:
    """Return whether anything pads between the standardization and the first weights."""
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


def deploy(trained: Any, settings: Model) -> Any:
    """Build the deployed form of a trained model of Keras 3, in Keras 3."""
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
    """Return the weights of a trained model, with its affine layers in the weights beside them."""
    by_name = {layer.name: layer for layer in trained.layers}
    weights: Weights = {}
    for name, layer in by_name.items():
        if not layer.weights or name.endswith("_norm"):
            continue
        kernel, *rest = layer.get_weights()
        bias = rest[0] if rest else np.zeros(kernel.shape[-1], np.float32)
        if norm := by_name.get(f"{name}_norm"):  # of the output: gamma (x - mean) / … + beta
            gamma, beta, mean, variance = norm.get_weights()
            factor = gamma / np.sqrt(variance + norm.epsilon)
            kernel, bias = kernel * factor, (bias - mean) * factor + beta
        if STANDARDIZE in by_name and not weights:  # of the input: scale x + offset
            affine = by_name[STANDARDIZE]
            sums = kernel.sum(axis=tuple(range(kernel.ndim - 1)))
            kernel, bias = kernel * np.float32(affine.scale), bias + affine.offset * sums
        weights[name] = [kernel, bias]
    return weights
