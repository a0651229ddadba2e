"""Keras' `fit` for a model that several devices hold, be they of one host or of several.

Keras' own does not run under MultiWorkerMirroredStrategy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf


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
    strategy = model.distribute_strategy

    @tf.function
    def train(batch: Any) -> dict[str, tf.Tensor]:
        strategy.run(model.train_step, args=(batch,))
        return model.get_metrics_result()

    @tf.function
    def validate(batch: Any) -> dict[str, tf.Tensor]:
        strategy.run(model.test_step, args=(batch,))
        return model.get_metrics_result()

    hooks = keras.callbacks.CallbackList(callbacks, model=model, epochs=epochs.stop, steps=steps)
    shares = iter(
        strategy.distribute_datasets_from_function(lambda context: batches(epochs, context))
    )
    hooks.on_train_begin()
    for epoch in epochs:
        hooks.on_epoch_begin(epoch)
        model.reset_metrics()
        for step in range(steps):
            hooks.on_train_batch_begin(step)
            logs = _numbers(train(next(shares)))
            hooks.on_train_batch_end(step, logs)
        model.reset_metrics()
        hooks.on_test_begin()
        for batch in validation:
            seen = _numbers(validate(batch))
        hooks.on_test_end(seen)
        hooks.on_epoch_end(epoch, logs | {f"val_{name}": value for name, value in seen.items()})
    hooks.on_train_end()


def _numbers(logs: dict[str, tf.Tensor]) -> dict[str, float]:
    return {name: float(value) for name, value in logs.items()}
