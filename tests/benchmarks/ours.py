"""Training by this project and by Keras, as peers of `training.py`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import measure
import numpy as np
import tensorflow as tf
from training import random_batches, repeated

from keras_lenet import console, models
from keras_lenet.data import loading
from keras_lenet.recipe import Augment, Recipe, Train
from keras_lenet.recipe import load as load_recipe
from keras_lenet.training import setup
from keras_lenet.training.fit import Plan, fit

console.console.quiet = True


def training(count: int, batch: int) -> measure.Repetition:
    """Prepare an epoch of the training stage's own fit, over prepared batches."""
    return over(*random_batches(count), batch)


def over(images: Any, labels: Any, batch: int) -> measure.Repetition:
    """Return an epoch over these images, whose batches the first repetition prepares."""
    prepared = tf.data.Dataset.from_tensor_slices((images, labels)).batch(batch).cache()

    def batches(epochs: range, context: object = None) -> tf.data.Dataset:
        repeated = prepared.repeat(len(epochs)).prefetch(tf.data.AUTOTUNE)
        return repeated.with_options(loading.UNTUNED)

    return epoch_of(batches, batch, len(images) // batch)


def epoch_of(batches: Callable[..., Any], batch: int, steps: int) -> measure.Repetition:
    """Return an epoch of the training stage, with loss, metric and checkpoint."""
    recipe = Recipe(name="bench", train=Train(batch_size=batch))
    model = models.build_trained(keras, recipe.model)
    setup.compile_model(model, recipe.train, steps, setup.choose_loss(recipe))
    validation = loading.plain_batches(examples(10, "validation"), models.input_size(recipe.model))
    schedule = setup.Schedule(recipe.train, steps)

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            fit(keras, model, batches, validation, Plan("bench", Path(folder), 1, steps, schedule))

    return lambda: measure.wall(run)


def examples(count: int, split: Any = "train") -> loading.Examples:
    """Return images of random pixels."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (count, 28, 28), np.uint8)
    labels = generator.integers(0, 10, count, np.uint8)
    return loading.Examples(images, labels, np.arange(count), split)


def augmented(count: int, strengths: dict[str, float], batch: int) -> tf.data.Dataset:
    """Return an epoch of this project's pipeline."""
    return loading.training_batches(
        examples(count), Augment(**strengths), size=32, batch_size=batch, seed=0, epochs=range(1)
    )


def warped(count: int, strengths: dict[str, float], batch: int) -> measure.Repetition:
    """Prepare a pass over this project's pipeline."""
    return consumed(augmented(count, strengths, batch), count, batch)


def chained(count: int, strengths: dict[str, float], batch: int) -> measure.Repetition:
    """Prepare the same augmentation as a chain of Keras layers inside tf.data, after batching."""
    share = strengths["shift"] / 28
    layers = [
        keras.layers.Rescaling(1 / 255),
        keras.layers.RandomRotation(strengths["rotate"] / 360, fill_mode="nearest"),
        keras.layers.RandomTranslation(share, share, fill_mode="nearest"),
        keras.layers.RandomZoom(strengths["zoom"], fill_mode="nearest"),
        keras.layers.Resizing(32, 32),
    ]
    if strengths["shear"]:
        layers.insert(-1, keras.layers.RandomShear(strengths["shear"], fill_mode="nearest"))
    chain = keras.Sequential(layers)
    some = examples(count)
    data = (
        tf.data.Dataset.from_tensor_slices((some.images[..., np.newaxis], some.labels))
        .shuffle(10_000, seed=0)
        .batch(batch, drop_remainder=True)
        .map(lambda x, y: (chain(x, training=True), y), num_parallel_calls=tf.data.AUTOTUNE)
        .prefetch(tf.data.AUTOTUNE)
    )
    return consumed(data, count, batch)


def consumed(dataset: tf.data.Dataset, count: int, batch: int) -> measure.Repetition:
    """Return a pass over a dataset of `count` images, after the first batch, which starts it up."""

    def run() -> float:
        batches = iter(dataset)
        next(batches)
        return measure.wall(lambda: sum(1 for _ in batches)) * count / (count - batch)

    return run


def fitted(
    count: int, strengths: dict[str, float], batch: int, prepared: bool
) -> measure.Repetition:
    """Prepare an epoch of training, with augmentation or over its images, prepared."""
    batches = augmented(count, strengths, batch)  # once, as for all epochs of a fit
    if prepared:
        images, labels = (part.numpy() for part in next(iter(batches.unbatch().batch(count))))
        return over(images, labels, batch)
    return epoch_of(lambda epochs, context: batches, batch, count // batch)


def splits(settings: list[str]) -> tuple[Recipe, loading.Examples, loading.Examples]:
    """Return the fastest recipe to 99 %, with overrides, and its training and validation splits."""
    recipe = load_recipe(measure.ROOT / "pipelines" / "fast.toml", settings)
    folder, data = os.environ.get("KERAS_LENET_DATA"), recipe.data
    folder = Path(folder) if folder else None
    return recipe, *loading.load_training(data.dataset, folder, data.validation_split, 0)


def to_goal(goal: float, settings: list[str]) -> measure.Repetition:
    """Prepare the training stage with the recipe, from tracing to its last epoch."""
    recipe, training, validation = splits(settings)

    def attempt(seed: int, deadline: float) -> bool:
        seeded = recipe.model_copy(update={"seed": seed})
        settings = seeded.train
        batches = setup.augmented(seeded, training, settings.batch_size, seed)
        plain = loading.plain_batches(validation, models.input_size(seeded.model))
        steps = loading.steps_per_epoch(training, settings.batch_size)
        model = setup.build(seeded, training)
        with tempfile.TemporaryDirectory() as out:
            schedule = setup.Schedule(settings, steps)
            plan = Plan("train", Path(out), settings.epochs, steps, schedule)
            state = fit(keras, model, batches, plain, plan)
        return state.summary()["validation_accuracy"] >= goal

    return repeated(attempt)
