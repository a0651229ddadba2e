"""What a LeNet is measured against: one hidden layer, or one convolution."""

from __future__ import annotations

from typing import Any


def mlp(keras: Any, x: Any) -> Any:
    """Build a perceptron of 784, 784 and 10 units: 623,290 parameters.

    Args:
        keras: the namespace to build in.
        x: float32, (N, 28, 28, 1).

    Returns:
        float32, (N, 10) logits.
    """
    layers = keras.layers
    x = layers.Flatten(name="flatten")(x)  # (N, 784)
    x = layers.Dense(784, activation="relu", name="dense1")(x)
    return layers.Dense(10, dtype="float32", name="logits")(x)


def simple_cnn(keras: Any, x: Any) -> Any:
    """Build one convolution, one pooling and two dense layers: 592,074 parameters.

    Args:
        keras: the namespace to build in.
        x: float32, (N, 28, 28, 1).

    Returns:
        float32, (N, 10) logits.
    """
    layers = keras.layers
    x = layers.Conv2D(32, 5, activation="relu", name="conv1")(x)  # (N, 24, 24, 32)
    x = layers.MaxPooling2D(2, name="pool1")(x)  # (N, 12, 12, 32)
    x = layers.Flatten(name="flatten")(x)  # (N, 4608)
    x = layers.Dense(128, activation="relu", name="dense1")(x)
    return layers.Dense(10, dtype="float32", name="logits")(x)
