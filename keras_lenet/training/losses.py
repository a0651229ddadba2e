"""What training minimizes, and the metric that it watches."""

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


def chosen(recipe: TrainSettings, deployed: bool = False) -> Callable[[Any, Any], Any]:
    """What is minimized, of targets and logits: the architecture's own loss, or the recipe's.

    Args:
        recipe: its model, distill and train sections count.
        deployed: of the form that is deployed, whose logits may lack what they have in common, and
            with it what an architecture's own loss needs.

    Raises:
        Error: the recipe asks for other targets than the architecture's own loss has.
    """
    own = models.find(recipe.model.name).loss
    if own and (recipe.distill or recipe.train.label_smoothing):
        raise Error(
            f"{recipe.model.name} is trained by a loss of its own, which takes labels as they are; "
            "leave out train.label_smoothing and [distill]"
        )
    if own and not deployed:
        return own
    if recipe.distill:
        return functools.partial(distillation, temperature=recipe.distill.temperature)
    return functools.partial(cross_entropy, label_smoothing=recipe.train.label_smoothing)


def cross_entropy(labels: Any, logits: Any, label_smoothing: float = 0.0) -> Any:
    """Cross-entropy of logits (N, 10) against integer labels; of no class, against an even target.

    Args:
        labels: integers, (N,) or (N, 1): 0 to 9, or `NO_CLASS`.
        logits: (N, 10).
        label_smoothing: share of every target that is spread evenly over the classes.
    """
    rows = np.vstack([np.eye(CLASSES), np.full(CLASSES, 1 / CLASSES)])  # the last is `NO_CLASS`'s
    smoothed = ((1 - label_smoothing) * rows + label_smoothing / CLASSES).astype(np.float32)
    flat = keras.ops.reshape(keras.ops.cast(labels, "int32"), (-1,))
    return keras.losses.categorical_crossentropy(
        keras.ops.take(smoothed, flat, axis=0), keras.ops.cast(logits, "float32"), from_logits=True
    )


def distillation(targets: Any, logits: Any, temperature: float) -> Any:
    """How far logits (N, 10) are from teachers': the divergence of the softened distributions.

    Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2: times
    the squared temperature, which keeps the gradients' size.

    Args:
        targets: (N, 11): labels, which have no say, and the teachers' logits.
        logits: (N, 10).
        temperature: by which both sides' logits are divided.

    Returns:
        Kullback-Leibler divergence in nats, (N,).
    """
    teachers = keras.ops.log_softmax(keras.ops.cast(targets[:, 1:], "float32") / temperature)
    student = keras.ops.log_softmax(keras.ops.cast(logits, "float32") / temperature)
    divergence = keras.ops.sum(keras.ops.exp(teachers) * (teachers - student), axis=1)
    return temperature**2 * divergence


def accuracy(namespace: Any) -> Any:
    """The metric "accuracy" of `keras` or `tf_keras`, over the images that have a class.

    Its targets are labels, or labels and the teachers' logits.
    """

    class Accuracy(namespace.metrics.SparseCategoricalAccuracy):
        def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
            # tf_keras makes a column of labels.
            labels = y_true if len(y_true.shape) == 1 else y_true[:, 0]
            known = keras.ops.cast(labels != NO_CLASS, "float32")
            return super().update_state(labels, y_pred, known)

    return Accuracy(name="accuracy")
