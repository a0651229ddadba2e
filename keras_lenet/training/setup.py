"""The batches and the compiled model that a recipe trains with."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_lenet import models
from keras_lenet.data import loading
from keras_lenet.errors import Error
from keras_lenet.recipe import Train, TrainSettings
from keras_lenet.training import devices, losses, optimizer
from keras_lenet.training.cluster import Cluster
from keras_lenet.training.fit import AT_A_TIME, Batches


def augmented(
    recipe: TrainSettings,
    training: loading.Examples,
    batch_size: int,
    seed: int,
    lessons: loading.Lessons | None = None,
) -> Batches:
    """Return a function that makes the shuffled, augmented batches of a range of epochs."""
    return functools.partial(
        loading.training_batches,
        training,
        recipe.augment,
        recipe.degrade,
        size=models.input_size(recipe.model),
        batch_size=batch_size,
        seed=seed,
        lessons=lessons,
    )


def outlier_seed(recipe: TrainSettings) -> int:
    """Return the seed of the outliers: the teachers', where they answer them."""
    return recipe.distill.seed if recipe.distill else recipe.seed


def build(
    recipe: TrainSettings, training: loading.Examples, cluster: Cluster | None = None
) -> keras.Model:
    """Build and compile a recipe's model in the trained form, on the recipe's devices.

    Raises:
        Error: a batch doesn't divide among the devices, or the pixels can't be standardized.
    """
    settings = recipe.train
    keras.utils.set_random_seed(recipe.seed)
    spread = devices.strategy(recipe.devices, cluster)
    count = spread.num_replicas_in_sync
    if settings.batch_size % count:
        raise Error(
            f"batch_size = {settings.batch_size} does not divide evenly among {count} devices; "
            "choose a multiple"
        )
    with spread.scope():
        model = models.build_trained(keras, recipe.model, _statistics(recipe, training))
        if recipe.model.initializer == "fan_in":
            models.initialize_by_fan_in(model, recipe.seed)
        for layer in model.layers:
            if count > 1 and isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = True  # statistics of the batch, not of a device's share
        steps = loading.steps_per_epoch(training, settings.batch_size)
        compile_model(model, settings, steps, losses.chosen(recipe))
    return model


def compile_model(
    model: keras.Model, settings: Train, steps: int, loss: Callable[[Any, Any], Any]
) -> None:
    """Compile for `fit` with the recipe's optimizer and schedule, and the loss to be minimized.

    On TensorFlow, whose steps `fit` takes together, use XLA on a single GPU alone: on the CPU it
    is slower for a net this small, and MirroredStrategy does its own placing. Other backends
    decide for themselves.
    """
    single_gpu = len(tf.config.list_physical_devices("GPU")) == 1
    on_tensorflow = keras.backend.backend() == "tensorflow"
    # Keras takes no fewer steps together at the end of an epoch.
    together = max(count for count in range(1, AT_A_TIME + 1) if steps % count == 0)
    model.compile(
        optimizer=optimizer.optimizer(settings, steps),
        loss=loss,
        metrics=[losses.accuracy(keras)],
        jit_compile=single_gpu if on_tensorflow else "auto",
        steps_per_execution=1 if on_tensorflow else together,
    )
    model.optimizer.build(model.trainable_variables)


def _statistics(recipe: TrainSettings, training: loading.Examples) -> tuple[float, float] | None:
    """Return mean and standard deviation of the digits' pixels in [0, 1], if the recipe asks."""
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
