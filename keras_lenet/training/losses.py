"""The losses that training minimizes, and the metric that it watches."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_lenet import models
from keras_lenet.data.loading import CLASSES, NO_CLASS
from keras_lenet.errors import Error
from keras_lenet.recipe import TrainSettings

_TARGETS = np.vstack([np.eye(CLASSES), np.full(CLASSES, 1 / CLASSES)]).astype(np.float32)
"""The target distribution of each label; the last is that of `NO_CLASS`."""


def chosen(recipe: TrainSettings, deployed: bool = False) -> Callable[[Any, Any], Any]:
    """Return the loss of targets and logits: the architecture's own, or the recipe's.

    Args:
        recipe: its model and distill sections count.
        deployed: of the deployed form, whose logits may lack what they have in common, and with it
            what an architecture's own loss needs.

    Raises:
        Error: the recipe asks for other targets than the architecture's own loss has.
    """
    own = models.find(recipe.model.name).loss
    if own and recipe.distill:
        raise Error(
            f"{recipe.model.name} is trained by a loss of its own, which takes labels as they are; "
            "leave out [distill]"
        )
    if own and not deployed:
        return own
    if recipe.distill:
        return functools.partial(distillation, temperature=recipe.distill.temperature)
    return cross_entropy


def cross_entropy(labels: Any, logits: Any) -> Any:
    """Compute the cross-entropy of logits; for an image of no class, against an even target.

    Args:
        labels: integers, (N,) or (N, 1): 0 to 9, or `NO_CLASS`.
        logits: float32, (N, 10).

    Returns:
        float32, (N,).
    """
    flat = keras.ops.reshape(keras.ops.cast(labels, "int32"), (-1,))
    targets = keras.ops.take(_TARGETS, flat, axis=0)
    return keras.losses.categorical_crossentropy(targets, logits, from_logits=True)


def distillation(targets: Any, logits: Any, temperature: float) -> Any:
    """Compute the divergence of softened distributions: the teachers' from the model's.

    Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2: times
    the squared temperature, which keeps the gradients' size.

    Args:
        targets: float32, (N, 11): labels, which have no say, and the teachers' logits.
        logits: float32, (N, 10).
        temperature: divides both sides' logits.

    Returns:
        Kullback-Leibler divergence in nats, float32, (N,).
    """
    teachers = keras.ops.log_softmax(targets[:, 1:] / temperature)
    student = keras.ops.log_softmax(logits / temperature)
    divergence = keras.ops.sum(keras.ops.exp(teachers) * (teachers - student), axis=1)
    return temperature**2 * divergence


def accuracy(namespace: Any) -> Any:
    """Return the metric "accuracy" of `keras` or `tf_keras`, over the images that have a class.

    Its targets are labels, or labels and the teachers' logits.
    """

    class Accuracy(namespace.metrics.SparseCategoricalAccuracy):
        def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
            # tf_keras makes a column of labels.
            labels = y_true if len(y_true.shape) == 1 else y_true[:, 0]
            known = keras.ops.cast(labels != NO_CLASS, "float32")
            return super().update_state(labels, y_pred, known)

    return Accuracy(name="accuracy")
