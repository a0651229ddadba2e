"""Keras' `fit` on TensorFlow: many steps at a time, on one device or on several.

Keras' own takes as many steps at a time only where an epoch is a multiple of them, and doesn't run
under MultiWorkerMirroredStrategy.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

AT_A_TIME = 32
"""Steps between two looks at them: each look costs about a sixth of a step of 64 images."""


def fit(
    model: keras.Model,
    batches: Callable[[range, tf.distribute.InputContext], tf.data.Dataset],
    validation: tf.data.Dataset,
    *,
    epochs: range,
    steps: int,
    callbacks: Sequence[keras.callbacks.Callback],
) -> None:
    """Fit as `keras.Model.fit` does, and call the same callbacks with the same logs.

    Losses and metrics are those of whole batches, and the same on every host. Every device
    validates on all of `validation`: no share of it comes out uneven.

    Args:
        model: compiled, in the scope of the strategy whose devices are to hold it.
        batches: gives this host's shares of the batches of a range of epochs, one for each of its
            devices in turn.
        validation: batches of the validation split.
        epochs: which to train, counted from 0.
        steps: batches in an epoch.
        callbacks: called as Keras calls them.
    """
    train, validate = _compiled(model)
    hooks = keras.callbacks.CallbackList(callbacks, model=model, epochs=epochs.stop, steps=steps)
    shares = iter(
        model.distribute_strategy.distribute_datasets_from_function(
            lambda context: batches(epochs, context)
        )
    )
    hooks.on_train_begin()
    for epoch in epochs:
        hooks.on_epoch_begin(epoch)
        model.reset_metrics()
        for first in range(0, steps, AT_A_TIME):
            count = min(AT_A_TIME, steps - first)
            hooks.on_train_batch_begin(first)
            logs = _numbers(train(shares, tf.constant(count)))
            hooks.on_train_batch_end(first + count - 1, logs)
        model.reset_metrics()
        hooks.on_test_begin()
        seen = _numbers(validate(validation))
        hooks.on_test_end(seen)
        hooks.on_epoch_end(epoch, logs | {f"val_{name}": value for name, value in seen.items()})
    hooks.on_train_end()


@functools.lru_cache(maxsize=4)  # models that are fitted in turns are not compiled again
def _compiled(model: keras.Model) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """What takes some steps, and what goes through a dataset; both return the metrics."""
    strategy = model.distribute_strategy
    train_step, test_step = model.train_step, model.test_step
    if model.jit_compile:
        train_step = tf.function(train_step, jit_compile=True)
        test_step = tf.function(test_step, jit_compile=True, reduce_retracing=True)

    @tf.function
    def train(batches: Any, count: tf.Tensor) -> dict[str, tf.Tensor]:
        for _ in tf.range(count):
            strategy.run(train_step, args=(next(batches),))
        return model.get_metrics_result()

    @tf.function
    def validate(batches: tf.data.Dataset) -> dict[str, tf.Tensor]:
        for batch in batches:
            strategy.run(test_step, args=(batch,))
        return model.get_metrics_result()

    return train, validate


def _numbers(logs: dict[str, tf.Tensor]) -> dict[str, float]:
    return {name: float(value) for name, value in logs.items()}
