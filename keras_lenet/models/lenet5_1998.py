"""LeNet-5 as it was published in 1998: 60,000 trainable parameters.

LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition",
Proceedings of the IEEE 86(11), 1998, sections II.B and II.C. The trained graph is the paper's. The
deployed graph has plain layers that compute the same: the weights before and after a tanh hold its
scales; subsampling is a depthwise convolution; missing connections are zeros; the distance from a
code is |x − w|² = |x|² − 2 w·x + |w|², in which only the product depends on the class.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

AMPLITUDE, SLOPE = 1.7159, 2 / 3
"""A and S of the squashing function A tanh(S a), which maps ±1 to ±1 (appendix A)."""
RUBBISH = 20.0
"""Penalty of the class "none of these": j in equation 9, for which the paper gives no number.

Codes that differ in one pixel are 4 apart, and an F6 of zeros is 84 from every code. A class whose
penalty is well above 20 is pushed away no further.
"""

_SEEN = "012 123 234 345 045 015 0123 1234 2345 0345 0145 0125 0134 1245 0235 012345"
"""Table I: the maps of S2 that each map of C3 sees."""
CONNECTED: NDArray[np.bool_] = np.array(
    [[str(source) in sources for sources in _SEEN.split()] for source in range(6)]
)
"""(6, 16): which maps of S2 each map of C3 sees."""

_DRAWN = """
..###..   ...##..   .#####.   #######   ....##.   #######   ..####.   #######   .#####.   .#####.
.##.##.   ..###..   ##...##   .....##   ...###.   ##.....   .##....   .....##   ##...##   ##...##
##...##   .####..   .....##   ....##.   ...###.   ##.....   ##.....   .....##   ##...##   ##...##
##...##   ...##..   .....##   ...##..   ..####.   ##.....   ##.....   ....##.   ##...##   ##...##
##...##   ...##..   .....##   ..####.   .##.##.   #####..   #####..   ....##.   .#####.   ##...##
##...##   ...##..   ....##.   .....##   .##.##.   ....##.   ##..##.   ...##..   ..###..   .######
##...##   ...##..   ...##..   .....##   ##..##.   .....##   ##...##   ...##..   .##.##.   .....##
##...##   ...##..   ..##...   .....##   #######   .....##   ##...##   ..##...   ##...##   .....##
##...##   ...##..   .##....   .....##   ....##.   .....##   ##...##   ..##...   ##...##   .....##
##...##   ...##..   ##.....   ##...##   ....##.   ##...##   ##...##   .##....   ##...##   ....##.
.##.##.   ...##..   ##.....   ##...##   ....##.   ##...##   ##...##   .##....   ##...##   ...##..
..###..   .######   #######   .#####.   ....##.   .#####.   .#####.   .##....   .#####.   .###...
"""
_ROWS = np.array([list(line.replace(" ", "")) for line in _DRAWN.split("\n")[1:-1]])
CODES: NDArray[np.float32] = np.where(
    _ROWS.reshape(12, 10, 7).swapaxes(0, 1).reshape(10, 84) == "#", 1, -1
).astype(np.float32)
"""(10, 84): the target codes of F6, 12 rows of 7 pixels each, after figure 3; ink is 1."""

_PLACES = np.eye(CONNECTED.size, dtype=np.float32)[CONNECTED.ravel()]
"""(60, 96): position of each kernel of C3 among the 6 × 16 of a full convolution."""


def network(keras: Any, x: Any) -> Any:
    """Build the deployed graph: 61,816 parameters, 60,000 of which are free.

    Args:
        keras: the namespace to build in.
        x: float32, (N, 32, 32, 1).

    Returns:
        float32, (N, 10): 2 w·x, which is −|x − w|² plus a number that all classes share.
    """
    layers = keras.layers
    x = layers.Conv2D(6, 5, activation="tanh", name="c1")(x)  # (N, 28, 28, 6)
    x = layers.DepthwiseConv2D(2, strides=2, activation="tanh", name="s2")(x)  # (N, 14, 14, 6)
    x = layers.Conv2D(16, 5, activation="tanh", name="c3")(x)  # (N, 10, 10, 16)
    x = layers.DepthwiseConv2D(2, strides=2, activation="tanh", name="s4")(x)  # (N, 5, 5, 16)
    x = layers.Conv2D(120, 5, activation="tanh", name="c5")(x)  # (N, 1, 1, 120)
    x = layers.Flatten(name="flatten")(x)  # (N, 120)
    x = layers.Dense(84, activation="tanh", name="f6")(x)  # (N, 84)
    return layers.Dense(10, name="logits")(x)  # (N, 10)


def trained(keras: Any, x: Any) -> Any:
    """Build the trained graph, 60,000 parameters, from the module `keras` and (N, 32, 32, 1).

    Returns:
        float32, (N, 10): minus the squared distance of F6 from the code of each digit.
    """
    layers = keras.layers

    def squash(x: Any) -> Any:
        return AMPLITUDE * keras.ops.tanh(SLOPE * x)

    class Subsampling(keras.layers.Layer):
        """The sum of 2 × 2 pixels times a coefficient, plus a bias, squashed; both by map."""

        fan_in = 4

        def build(self, shape: Any) -> None:
            # Starts as the mean, unless weights are drawn by fan-in.
            self.kernel = self.add_weight((shape[-1],), keras.initializers.Constant(0.25))
            self.bias = self.add_weight((shape[-1],), "zeros")

        def call(self, x: Any) -> Any:
            return squash(4 * keras.ops.average_pool(x, 2) * self.kernel + self.bias)

    class PartialConvolution(keras.layers.Layer):
        """C3: 5 × 5 kernels for the connected pairs of maps."""

        fan_in = 25 * np.array([CONNECTED[:, target].sum() for _, target in np.argwhere(CONNECTED)])

        def build(self, shape: Any) -> None:
            self.kernel = self.add_weight((5, 5, int(CONNECTED.sum())), "glorot_uniform")
            self.bias = self.add_weight((CONNECTED.shape[1],), "zeros")

        def call(self, x: Any) -> Any:
            full = keras.ops.reshape(keras.ops.matmul(self.kernel, _PLACES), (5, 5, 6, 16))
            return squash(keras.ops.conv(x, full) + self.bias)

    class Codes(keras.layers.Layer):
        """The Euclidean radial basis functions, negated; their centres are not trained."""

        def call(self, x: Any) -> Any:
            return -keras.ops.sum(keras.ops.square(x[:, None] - CODES), axis=-1)

    x = layers.Conv2D(6, 5, activation=squash, name="c1")(x)  # (N, 28, 28, 6)
    x = Subsampling(name="s2")(x)  # (N, 14, 14, 6)
    x = PartialConvolution(name="c3")(x)  # (N, 10, 10, 16)
    x = Subsampling(name="s4")(x)  # (N, 5, 5, 16)
    x = layers.Conv2D(120, 5, activation=squash, name="c5")(x)  # (N, 1, 1, 120)
    x = layers.Flatten(name="flatten")(x)  # (N, 120)
    x = layers.Dense(84, activation=squash, name="f6")(x)  # (N, 84)
    return Codes(name="logits")(x)  # (N, 10)


def loss(labels: Any, logits: Any) -> Any:
    """Compute equation 9, y_D + log(e^−j + Σ e^−y_i), of penalties y = −`logits`.

    It is the cross-entropy of eleven classes. The last has the penalty j for every image, and is
    the class of OOD examples.

    Args:
        labels: integers, (N,) or (N, 1): 0 to 9, or 10 for OOD examples.
        logits: float32, (N, 10).

    Returns:
        float32, (N,).
    """
    from keras import ops

    rubbish = ops.full_like(logits[:, :1], -RUBBISH)
    positions = ops.cast(ops.reshape(labels, (-1,)), "int32")
    eleven = ops.log_softmax(ops.concatenate([logits, rubbish], axis=1), axis=1)
    return -ops.sum(eleven * ops.one_hot(positions, 11, dtype="float32"), axis=1)


def fold(weights: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Return the weights of `network` from kernels and biases of `trained`, by layer name."""
    folded: dict[str, list[Any]] = {"logits": [2 * AMPLITUDE * CODES.T, np.zeros(10, np.float32)]}
    for name, (kernel, bias) in weights.items():
        if name in ("s2", "s4"):
            kernel = np.broadcast_to(kernel[:, np.newaxis], (2, 2, len(kernel), 1))
        elif name == "c3":
            kernel = (kernel @ _PLACES).reshape(5, 5, *CONNECTED.shape)
        before = 1 if name == "c1" else AMPLITUDE
        folded[name] = [SLOPE * before * kernel, SLOPE * bias]
    return folded


def project(name: str, weights: list[Any]) -> list[Any]:
    """Return the nearest allowed kernel and bias of a layer of `network`.

    Fine-tuning changes every weight, but the architecture leaves only some free.
    """
    kernel, bias = weights
    if name in ("s2", "s4"):
        return [np.broadcast_to(kernel.mean(axis=(0, 1)), kernel.shape), bias]
    if name == "c3":
        return [kernel * CONNECTED, bias]
    if name == "logits":
        return [CODES.T * (CODES.T * kernel).mean(), np.zeros_like(bias)]
    return weights
