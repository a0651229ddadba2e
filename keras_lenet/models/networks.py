"""LeNet-5 as it is built today, its near relatives, its baselines and its teacher.

Every network is a function of a Keras namespace (`keras` or `tf_keras`) and of images, float32
(N, side, side, 1); it returns float32 (N, 10) logits.
"""

from __future__ import annotations

from typing import Any


def lenet5(keras: Any, x: Any, *, pooling: str = "max", activation: str = "relu") -> Any:
    """Build LeNet-5: 61,706 parameters.

    After LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document
    recognition", Proceedings of the IEEE 86(11), 1998, section II.B and figure 2. Where the paper
    has scaled tanh, trainable subsampling, the partial connections of C3 and Euclidean RBF
    outputs, this has ReLU, max pooling, full connections and a dense layer: quantization to int8
    costs these least.

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
    """Build what follows the convolutions: from (N, 1, 1, 120) to (N, 10) logits."""
    x = keras.layers.Flatten(name="flatten")(x)  # (N, 120)
    x = keras.layers.Dense(84, activation=activation, name="dense1")(x)  # (N, 84)
    return _logits(keras, x)


def _logits(keras: Any, x: Any) -> Any:
    return keras.layers.Dense(10, name="logits")(x)


def lenet5_trained(keras: Any, x: Any) -> Any:
    """Build LeNet-5 with ReLU and max pooling for training, where it takes a quarter less time.

    Args:
        keras: the module `keras`.
        x: (N, 32, 32, 1).
    """

    class Pooled(keras.layers.Conv2D):
        """A convolution with ReLU and 2×2 max pooling.

        The bias and ReLU keep the order of values, so that they may come after the maximum, where
        there are a quarter as many.
        """

        def call(self, inputs: Any) -> Any:
            x = keras.ops.max_pool(self.convolution_op(inputs, self.kernel), 2, 2)
            return keras.ops.relu(x + self.bias)

        def compute_output_shape(self, input_shape: Any) -> Any:
            batch, height, width, channels = super().compute_output_shape(input_shape)
            return batch, height // 2, width // 2, channels

    class Whole(keras.layers.Conv2D):
        """A convolution with ReLU of images as large as its kernel: one matrix product."""

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
    """Build LeNet-5 with normalized convolutions and a dense layer of 120, from (N, 32, 32, 1).

    That dense layer sees 5×5×16 values: it is the convolution of 120 written otherwise.
    """
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

    It takes 14 million multiply-accumulates. The first convolution halves the image at once: the
    normalization of large feature maps takes most of the training time.
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
    """Build a convolution with ReLU; in the trained form, `normalized`, with batch normalization.

    Ioffe and Szegedy, ICML 2015, section 3. Trained, the convolution has no bias, since the offset
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
