"""Augmentation beside Keras' layers and PyTorch's way, and what training waits for it."""

from __future__ import annotations

import keras
import measure
import numpy as np
import tensorflow as tf
import training
from measure import Peer

from keras_lenet.data import loading
from keras_lenet.recipe import Augment

BATCH, IMAGES, QUICK = 256, 51_200, 2_560
STRENGTHS = {"rotate": 10.0, "shift": 2.0, "zoom": 0.1}
SHEAR = 0.15


def rows(quick: bool) -> list[measure.Row]:
    """Return the rows of two sets of warps, and of training with the first."""
    count = QUICK if quick else IMAGES
    repetitions = 2 if quick else 9
    found = []
    for name, shear in (("rotate, shift, zoom", 0.0), ("rotate, shift, zoom, shear", SHEAR)):
        options = {"count": count, "strengths": STRENGTHS | {"shear": shear}}
        peers = [
            Peer("one warp", "input_pipeline:ours", options),
            Peer("Keras layers, chained", "input_pipeline:chained", options, 4.0),
            Peer("PyTorch, affine_grid and grid_sample", "pytorch:warped", options),
        ]
        found += measure.compare(name, "images/s", peers, work=count, repetitions=repetitions)
    options = {"count": count, "strengths": STRENGTHS}
    peers = [
        Peer("with augmentation", "input_pipeline:fitted", {**options, "prepared": False}),
        Peer(
            "the same without augmentation, over prepared batches",
            "input_pipeline:fitted",
            {**options, "prepared": True},
            0.85,
        ),
    ]
    case = f"training, batch of {BATCH}"
    return found + measure.compare(case, "images/s", peers, work=count, repetitions=repetitions)


def examples(count: int) -> loading.Examples:
    """Return training images of random pixels."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (count, 28, 28), np.uint8)
    labels = generator.integers(0, 10, count, np.uint8)
    return loading.Examples(images, labels, np.arange(count), "train")


def warped(count: int, strengths: dict[str, float]) -> tf.data.Dataset:
    """Return an epoch of this project's pipeline."""
    return loading.training_batches(
        examples(count), Augment(**strengths), size=32, batch_size=BATCH, seed=0, epochs=range(1)
    )


def ours(count: int, strengths: dict[str, float]) -> measure.Repetition:
    """Prepare a pass over this project's pipeline."""
    return consumed(warped(count, strengths), count)


def chained(count: int, strengths: dict[str, float]) -> measure.Repetition:
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
    data = tf.data.Dataset.from_tensor_slices((some.images[..., np.newaxis], some.labels))
    data = (
        data.shuffle(10_000, seed=0)
        .batch(BATCH, drop_remainder=True)
        .map(lambda x, y: (chain(x, training=True), y), num_parallel_calls=tf.data.AUTOTUNE)
        .prefetch(tf.data.AUTOTUNE)
    )
    return consumed(data, count)


def consumed(dataset: tf.data.Dataset, count: int) -> measure.Repetition:
    """Return a pass over a dataset of `count` images, after the first batch, which starts it up."""

    def run() -> float:
        batches = iter(dataset)
        next(batches)
        return measure.wall(lambda: sum(1 for _ in batches)) * count / (count - BATCH)

    return run


def fitted(count: int, strengths: dict[str, float], prepared: bool) -> measure.Repetition:
    """Prepare an epoch of training, with augmentation or over its images, prepared."""
    batches = warped(count, strengths)  # once, as for all epochs of a fit
    if prepared:
        images, labels = (part.numpy() for part in next(iter(batches.unbatch().batch(count))))
        return training.over(images, labels, BATCH)
    return training.fitted(lambda *_: batches, BATCH, count // BATCH)
