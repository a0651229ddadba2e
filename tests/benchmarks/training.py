"""A step of training beside PyTorch's: images/s over prepared batches, AdamW in both."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import measure
import numpy as np
from measure import Peer

BATCHES = (64, 256)
IMAGES, QUICK = 24_576, 2_048
"""In one repetition; divisible by every batch."""


def rows(quick: bool) -> list[measure.Row]:
    """Return the rows of each batch size."""
    count = QUICK if quick else IMAGES
    found = []
    for batch in BATCHES:
        options = {"count": count, "batch": batch}
        peers = [
            Peer("keras_lenet, as `train` fits", "training:ours", options),
            Peer("PyTorch, eager", "pytorch:training", options, 1.0),
            Peer(
                "PyTorch, eager, channels_last, fused AdamW",
                "pytorch:training",
                {**options, "channels_last": True},
                1.0,
            ),
            Peer(
                "PyTorch, torch.compile, channels_last, fused AdamW",
                "pytorch:training",
                {**options, "channels_last": True, "compiled": True},
                1.0,
            ),
        ]
        case = f"batch of {batch}"
        repetitions = 2 if quick else 7
        found += measure.compare(case, "images/s", peers, work=count, repetitions=repetitions)
    return [*found, measure.Row("on a GPU", "all", "images/s", note="not measured")]


def random_batches(count: int) -> tuple[Any, Any]:
    """Return images (N, 32, 32, 1) and labels (N,)."""
    generator = np.random.default_rng(0)
    images = generator.random((count, 32, 32, 1), np.float32)
    return images, generator.integers(0, 10, count, np.int32)


def ours(count: int, batch: int) -> measure.Repetition:
    """Prepare the training stage's own fit."""
    return over(*random_batches(count), batch)


def over(images: Any, labels: Any, batch: int) -> measure.Repetition:
    """Return the training stage's fit over these images, prepared by the first repetition."""
    import tensorflow as tf

    from keras_lenet.data import loading

    prepared = tf.data.Dataset.from_tensor_slices((images, labels)).batch(batch).cache()

    def batches(epochs: range, context: tf.distribute.InputContext) -> tf.data.Dataset:
        repeated = prepared.repeat(len(epochs)).prefetch(tf.data.AUTOTUNE)
        return repeated.with_options(loading.UNTUNED)

    return fitted(batches, batch, len(images) // batch)


def fitted(batches: Callable[..., Any], batch: int, steps: int) -> measure.Repetition:
    """Return an epoch of the training stage: model, optimizer, loss, metric, checkpoint and all.

    Args:
        batches: as the training stage has them.
        batch: images in a batch.
        steps: batches in an epoch.
    """
    import keras

    from keras_lenet import models
    from keras_lenet.data import loading
    from keras_lenet.recipe import Recipe, Train
    from keras_lenet.training import losses, optimizer, setup
    from keras_lenet.training.fit import Plan, fit

    recipe = Recipe(name="bench", train=Train(batch_size=batch))
    model = models.build_trained(keras, recipe.model)
    setup.compile_model(model, recipe.train, steps, losses.chosen(recipe))
    few = np.zeros((10, 28, 28), np.uint8)
    labels = np.arange(10, dtype=np.uint8)
    validation = loading.plain_batches(
        loading.Examples(few, labels, np.arange(10), "validation"), models.input_size(recipe.model)
    )

    def epoch() -> None:
        with tempfile.TemporaryDirectory() as folder, silence():
            schedule = optimizer.Schedule(recipe.train, steps)
            fit(keras, model, batches, validation, Plan("bench", Path(folder), 1, steps, schedule))

    return lambda: measure.wall(epoch)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Print nothing on each epoch."""
    from keras_lenet import console

    console.console.quiet = True
    try:
        yield
    finally:
        console.console.quiet = False
