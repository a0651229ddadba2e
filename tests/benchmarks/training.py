"""A step of training beside PyTorch's: images/s over prepared batches, AdamW in both."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import measure
import numpy as np
import tensorflow as tf

from keras_lenet import models, terminal
from keras_lenet.data import loading
from keras_lenet.recipe import Recipe, Train
from keras_lenet.stages import fitting, train

BATCHES = (64, 256, 1024)
IMAGES, QUICK = 24_576, 2_048
"""In one repetition; divisible by every batch."""


def rows(room: str, quick: bool) -> list[measure.Row]:
    """A case for each batch size."""
    count = QUICK if quick else IMAGES
    generator = np.random.default_rng(0)
    images = generator.random((count, 32, 32, 1), np.float32)
    labels = generator.integers(0, 10, count, np.int32)
    found = []
    for batch in BATCHES:
        contestants = {
            "keras_lenet, as `train` fits": ours(images, labels, batch),
            "PyTorch, eager": peer(images, labels, batch),
            "PyTorch, eager, channels_last, fused AdamW": peer(
                images, labels, batch, channels_last=True
            ),
            "PyTorch, torch.compile, fused AdamW": peer(images, labels, batch, compiled=True),
            "PyTorch, torch.compile, channels_last, fused AdamW": peer(
                images, labels, batch, channels_last=True, compiled=True
            ),
        }
        case = measure.Case(
            f"batch of {batch}",
            contestants,
            "images/s",
            count,
            2 if quick else 9,
            dict.fromkeys(contestants, 1.0),
        )
        found += measure.rows(room, case)
    return [*found, measure.Row(room, "on a GPU", "all", "images/s", note="not measured")]


def peer(images: Any, labels: Any, batch: int, **options: bool) -> measure.Contestant:
    """PyTorch's, which is imported only where it takes part."""

    def prepare() -> measure.Run:
        import pytorch

        return pytorch.training(images, labels, batch, **options)()

    return prepare


def ours(images: Any, labels: Any, batch: int) -> measure.Contestant:
    """The training stage's own fit, over prepared batches: the first repetition prepares them."""
    prepared = tf.data.Dataset.from_tensor_slices((images, labels)).batch(batch).cache()

    def batches(epochs: range, _: tf.distribute.InputContext) -> tf.data.Dataset:
        repeated = prepared.repeat(len(epochs)).prefetch(tf.data.AUTOTUNE)
        return repeated.with_options(loading.UNTUNED)

    return fitted(batches, batch, len(images) // batch)


def fitted(batches: Callable[..., tf.data.Dataset], batch: int, steps: int) -> measure.Contestant:
    """An epoch of the training stage: model, optimizer, loss, metric, checkpoint and all.

    Args:
        batches: as the training stage has them.
        batch: images in a batch.
        steps: batches in an epoch.
    """

    def prepare() -> measure.Run:
        recipe = Recipe(name="bench", train=Train(batch_size=batch))
        model = models.build_trained(keras, recipe.model)
        train.compile_model(model, recipe.train, steps, train.loss(recipe))
        few = np.zeros((10, 28, 28), np.uint8)
        validation = loading.plain_batches(
            loading.Examples(few, np.arange(10, dtype=np.uint8), np.arange(10), "validation"),
            models.input_size(recipe.model),
        )

        def epoch() -> None:
            with tempfile.TemporaryDirectory() as folder, silence():
                fitting.fit(
                    keras,
                    model,
                    batches,
                    validation,
                    epochs=1,
                    steps=steps,
                    out=Path(folder),
                    title="bench",
                    schedule=train.Schedule(recipe.train, steps),
                )

        return lambda: measure.wall(epoch)

    return prepare


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """No word on each epoch."""
    terminal.console.quiet = True
    try:
        yield
    finally:
        terminal.console.quiet = False
