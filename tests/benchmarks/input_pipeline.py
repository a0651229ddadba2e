"""Augmentation beside Keras' layers and PyTorch's way, and what training waits for it."""

from __future__ import annotations

import functools
from collections.abc import Callable

import keras
import measure
import numpy as np
import tensorflow as tf
import training

from keras_lenet.data import loading
from keras_lenet.recipe import Augment

BATCH, IMAGES, QUICK = 256, 51_200, 2_560
STRENGTHS = {
    "rotate, shift, zoom": Augment(rotate=10.0, shift=2.0, zoom=0.1),
    "rotate, shift, zoom, shear": Augment(rotate=10.0, shift=2.0, zoom=0.1, shear=0.15),
}
PREPARED = "the same without augmentation, over prepared batches"


def rows(room: str, quick: bool) -> list[measure.Row]:
    """A case for each set of warps, and one for training with them."""
    count = QUICK if quick else IMAGES
    generator = np.random.default_rng(0)
    examples = loading.Examples(
        generator.integers(0, 256, (count, 28, 28), np.uint8),
        generator.integers(0, 10, count, np.uint8),
        np.arange(count),
        "train",
    )
    repetitions = 2 if quick else 9
    found = []
    for name, strengths in STRENGTHS.items():
        contestants = {
            "one warp": consumed(functools.partial(ours, examples, strengths), count),
            "Keras layers, chained": consumed(
                functools.partial(chained, examples, strengths), count
            ),
            "PyTorch, affine_grid and grid_sample": pytorch_way(examples, strengths),
        }
        least = {"Keras layers, chained": 4.0}
        case = measure.Case(name, contestants, "images/s", count, repetitions, least)
        found += measure.rows(room, case)
    strengths = STRENGTHS["rotate, shift, zoom"]
    images, labels = (
        part.numpy() for part in next(iter(ours(examples, strengths).unbatch().batch(count)))
    )
    warped = ours(examples, strengths)  # once, as for all epochs of a fit
    contestants = {
        "with augmentation": training.fitted(lambda *_: warped, BATCH, count // BATCH),
        PREPARED: training.ours(images, labels, BATCH),
    }
    case = measure.Case(
        f"training, batch of {BATCH}", contestants, "images/s", count, repetitions, {PREPARED: 0.85}
    )
    return found + measure.rows(room, case)


def ours(examples: loading.Examples, strengths: Augment) -> tf.data.Dataset:
    """An epoch of this project's pipeline."""
    return loading.training_batches(
        examples, strengths, size=32, batch_size=BATCH, seed=0, epochs=range(1)
    )


def chained(examples: loading.Examples, strengths: Augment) -> tf.data.Dataset:
    """The same augmentation as a chain of Keras layers inside tf.data, after batching."""
    share = strengths.shift / 28
    layers = [
        keras.layers.Rescaling(1 / 255),
        keras.layers.RandomRotation(strengths.rotate / 360, fill_mode="nearest"),
        keras.layers.RandomTranslation(share, share, fill_mode="nearest"),
        keras.layers.RandomZoom(strengths.zoom, fill_mode="nearest"),
        keras.layers.Resizing(32, 32),
    ]
    if strengths.shear:
        layers.insert(-1, keras.layers.RandomShear(strengths.shear, fill_mode="nearest"))
    chain = keras.Sequential(layers)
    images = examples.images[..., np.newaxis]
    data = tf.data.Dataset.from_tensor_slices((images, examples.labels))
    return (
        data.shuffle(10_000, seed=0)
        .batch(BATCH, drop_remainder=True)
        .map(lambda x, y: (chain(x, training=True), y), num_parallel_calls=tf.data.AUTOTUNE)
        .prefetch(tf.data.AUTOTUNE)
    )


def consumed(make: Callable[[], tf.data.Dataset], count: int) -> measure.Contestant:
    """A pass over a dataset of `count` images, after the first batch, which starts it all up."""

    def prepare() -> measure.Run:
        dataset = make()

        def run() -> float:
            batches = iter(dataset)
            next(batches)
            return measure.wall(lambda: sum(1 for _ in batches)) * count / (count - BATCH)

        return run

    return prepare


def pytorch_way(examples: loading.Examples, strengths: Augment) -> measure.Contestant:
    """PyTorch's, which is imported only where it takes part."""

    def prepare() -> measure.Run:
        import pytorch

        return pytorch.warped(examples.images, strengths, BATCH)()

    return prepare
