"""LeNet-5 as it is built today: ReLU and max pooling, the convolution of 120, logits."""

from __future__ import annotations

from typing import Any


def build(keras: Any) -> Any:
    """Build LeNet-5: 61,706 parameters, untrained.

    After LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document
    recognition", Proceedings of the IEEE 86(11), 1998, section II.B and figure 2. Where the paper
    has scaled tanh, trainable subsampling, the partial connections of C3 and Euclidean RBF
    outputs, this has ReLU, max pooling, full connections and a dense layer: quantization to int8
    costs these least.

    Args:
        keras: the namespace to build in: the module `keras` or `tf_keras`.

    Returns:
        Functional model from float32 (N, 32, 32, 1) in [0, 1] to float32 (N, 10) logits.
    """
    layers = keras.layers
    image = keras.Input((32, 32, 1), name="image")
    x = layers.Conv2D(6, 5, activation="relu", name="conv1")(image)  # (N, 28, 28, 6)
    x = layers.MaxPooling2D(2, name="pool1")(x)  # (N, 14, 14, 6)
    x = layers.Conv2D(16, 5, activation="relu", name="conv2")(x)  # (N, 10, 10, 16)
    x = layers.MaxPooling2D(2, name="pool2")(x)  # (N, 5, 5, 16)
    x = layers.Conv2D(120, 5, activation="relu", name="conv3")(x)  # (N, 1, 1, 120)
    x = layers.Flatten(name="flatten")(x)  # (N, 120)
    x = layers.Dense(84, activation="relu", name="dense1")(x)  # (N, 84)
    # float32 under mixed precision too: cross-entropy wants full-precision logits.
    logits = layers.Dense(10, dtype="float32", name="logits")(x)  # (N, 10)
    return keras.Model(image, logits, name="lenet5")
