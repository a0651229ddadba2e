"""The registry of architectures: functional Keras models, built for Keras 3 or for tf_keras."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keras_lenet.errors import Error
from keras_lenet.models import lenet5


@dataclass(frozen=True)
class Architecture:
    """One registered model.

    Attributes:
        build: takes a Keras namespace (`keras` or `tf_keras`), returns the functional model.
        input_size: side of the square input, in pixels.
        parameters: parameters of each layer that has any, by layer name.
    """

    build: Callable[[Any], Any]
    input_size: int
    parameters: dict[str, int]


MODELS = {
    "lenet5": Architecture(
        lenet5.build,
        input_size=32,
        parameters={"conv1": 156, "conv2": 2_416, "conv3": 48_120, "dense1": 10_164, "logits": 850},
    ),
}


def find(name: str) -> Architecture:
    """The architecture called `name`.

    Raises:
        Error: there is none.
    """
    if name not in MODELS:
        raise Error(f"unknown model {name!r}: expected one of {', '.join(MODELS)}")
    return MODELS[name]
