"""What a recipe trains on: augmented batches, their outliers and statistics."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from keras_lenet import models
from keras_lenet.data import loading
from keras_lenet.errors import Error
from keras_lenet.recipe import TrainSettings

Batches = Callable[..., tf.data.Dataset]
"""Of a range of epochs and, where several devices share each batch, which host this is."""


def augmented(
    recipe: TrainSettings,
    training: loading.Examples,
    batch_size: int,
    seed: int,
    lessons: loading.Lessons | None = None,
) -> Batches:
    """A function that gives a range of epochs of shuffled, augmented training batches."""

    def batches(
        epochs: range, context: tf.distribute.InputContext | None = None
    ) -> tf.data.Dataset:
        return loading.training_batches(
            training,
            recipe.augment,
            recipe.degrade,
            size=models.input_size(recipe.model),
            batch_size=batch_size,
            seed=seed,
            epochs=epochs,
            lessons=lessons,
            context=context,
        )

    return batches


def outlier_seed(recipe: TrainSettings) -> int:
    """The seed of the outliers: the teachers', where they answer them."""
    return recipe.distill.seed if recipe.distill else recipe.seed


def statistics(recipe: TrainSettings, training: loading.Examples) -> tuple[float, float] | None:
    """Mean and standard deviation of the training pixels in [0, 1], if the recipe asks for them."""
    if not recipe.data.standardize:
        return None
    images = training.images[:]
    images = images[training.labels != loading.NO_CLASS]
    if images.min() == images.max():  # the deviation itself is then 0, or nearly so
        raise Error(
            f"data.standardize = true: every pixel of the {len(images)} training images is "
            f"{images.min()}, so their deviation is 0; expected images that differ"
        )
    pixels = images / np.float32(255)
    return float(pixels.mean()), float(pixels.std())
