"""LeNet-5 as it is built today, and its near relatives: pooling, activation, normalization."""

from __future__ import annotations

from typing import Any

from keras_lenet.models.convolution import convolution, pooled, whole


def network(keras: Any, x: Any, *, pooling: str = "max", activation: str = "relu") -> Any:
    """Build LeNet-5: 61,706 parameters, untrained.

    After LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document
    recognition", Proceedings of the IEEE 86(11), 1998, section II.B and figure 2. Where the paper
    has scaled tanh, trainable subsampling, the partial connections of C3 and Euclidean RBF
    outputs, this has ReLU, max pooling, full connections and a dense layer: quantization to int8
    costs these least.

    Args:
        keras: the namespace to build in: the module `keras` or `tf_keras`.
        x: float32, (N, 32, 32, 1).
        pooling: "max" or "average".
        activation: of every layer but the last: "relu" or "tanh".

    Returns:
        float32, (N, 10) logits.
    """
    layers = keras.layers
    pool = {"max": layers.MaxPooling2D, "average": layers.AveragePooling2D}[pooling]
    x = layers.Conv2D(6, 5, activation=activation, name="conv1")(x)  # (N, 28, 28, 6)
    x = pool(2, name="pool1")(x)  # (N, 14, 14, 6)
    x = layers.Conv2D(16, 5, activation=activation, name="conv2")(x)  # (N, 10, 10, 16)
    x = pool(2, name="pool2")(x)  # (N, 5, 5, 16)
    x = layers.Conv2D(120, 5, activation=activation, name="conv3")(x)  # (N, 1, 1, 120)
    return _dense(keras, x, activation)


def _dense(keras: Any, x: Any, activation: str) -> Any:
    """Build what follows the convolutions: from (N, 1, 1, 120) to (N, 10) logits."""
    layers = keras.layers
    x = layers.Flatten(name="flatten")(x)  # (N, 120)
    x = layers.Dense(84, activation=activation, name="dense1")(x)  # (N, 84)
    # float32 under mixed precision too: cross-entropy wants full-precision logits.
    return layers.Dense(10, dtype="float32", name="logits")(x)  # (N, 10)


def trained(keras: Any, x: Any) -> Any:
    """Build the same as `network`, with ReLU and max pooling, for training: a quarter faster.

    Args:
        keras: the module `keras`.
        x: float32, (N, 32, 32, 1).

    Returns:
        float32, (N, 10) logits.
    """
    x = pooled(keras, 6, 5, "conv1")(x)  # (N, 14, 14, 6)
    x = pooled(keras, 16, 5, "conv2")(x)  # (N, 5, 5, 16)
    x = whole(keras, 120, 5, "conv3")(x)  # (N, 1, 1, 120)
    return _dense(keras, x, "relu")


def batchnorm(keras: Any, x: Any, training: bool = False) -> Any:
    """Build LeNet-5 with batch normalization after both convolutions, and a dense layer of 120.

    That dense layer sees 5×5×16 values: it is the convolution of 120 written otherwise.

    Args:
        keras: the namespace to build in.
        x: float32, (N, 32, 32, 1).
        training: build what is trained, with batch normalization.

    Returns:
        float32, (N, 10) logits.
    """
    layers = keras.layers
    x = convolution(keras, x, 6, 5, "conv1", normalized=training)  # (N, 28, 28, 6)
    x = layers.MaxPooling2D(2, name="pool1")(x)  # (N, 14, 14, 6)
    x = convolution(keras, x, 16, 5, "conv2", normalized=training)  # (N, 10, 10, 16)
    x = layers.MaxPooling2D(2, name="pool2")(x)  # (N, 5, 5, 16)
    x = layers.Flatten(name="flatten")(x)  # (N, 400)
    x = layers.Dense(120, activation="relu", name="dense1")(x)
    x = layers.Dense(84, activation="relu", name="dense2")(x)
    return layers.Dense(10, dtype="float32", name="logits")(x)


def padded_tanh(keras: Any, x: Any) -> Any:
    """Build LeNet-5 with tanh and average pooling, its first convolution padded by 2 pixels.

    Args:
        keras: the namespace to build in.
        x: float32, (N, 28, 28, 1).

    Returns:
        float32, (N, 10) logits.
    """
    x = keras.layers.ZeroPadding2D(2, name="pad")(x)  # (N, 32, 32, 1)
    return network(keras, x, pooling="average", activation="tanh")
