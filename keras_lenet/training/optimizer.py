"""Optimizers and learning-rate schedules of the recipe's `train` section."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lenet.recipe import Train


def optimizer(settings: Train, steps: int) -> keras.optimizers.Optimizer:
    """Return the optimizer of a `train` section, for epochs of so many steps."""
    averaging = settings.weight_averaging
    shared: dict[str, Any] = {
        "learning_rate": Schedule(settings, steps),
        "weight_decay": settings.weight_decay,
        "use_ema": averaging > 0,
        "ema_momentum": averaging or 0.99,
    }
    if settings.optimizer == "sgd":
        momentum = settings.momentum
        return keras.optimizers.SGD(momentum=momentum, nesterov=momentum > 0, **shared)
    if settings.optimizer == "muon":
        return Muon(adam_weight_decay=settings.weight_decay, **shared)
    return keras.optimizers.AdamW(**shared)


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate by step: linear warm-up, then the schedule of a `train` section."""

    def __init__(self, settings: Train, steps: int) -> None:
        self.settings, self.steps = settings, steps

    def __call__(self, step: Any) -> Any:
        """Return the learning rate at `step`, counted from 0."""
        settings = self.settings
        epoch = ops.cast(step, "float32") / self.steps
        warming = (epoch + 1 / self.steps) / max(settings.warmup_epochs, 1)
        after = ops.maximum(epoch - settings.warmup_epochs, 0.0)
        if settings.schedule == "cosine":
            whole = settings.epochs - settings.warmup_epochs
            factor = (1 + ops.cos(np.pi * after / whole)) / 2
        elif settings.schedule == "step":
            factor = settings.step_factor ** ops.floor(after / settings.step_epochs)
        else:
            factor = 1.0
        return settings.learning_rate * ops.where(epoch < settings.warmup_epochs, warming, factor)


class Muon(keras.optimizers.Muon):
    """Keras' Muon, for the kernels of convolutions too, which Keras leaves to Adam.

    A kernel, (..., outputs), is taken as a matrix, (inputs, outputs), and its momentum is replaced
    by the nearest orthogonal matrix before each step: Jordan, "Muon: An optimizer for hidden layers
    in neural networks", 2024. Steps are scaled as in Liu et al., "Muon is scalable for LLM
    training", 2025, section 2.2, so that one learning rate serves these and Adam, which takes the
    biases.
    """

    def _should_use_adamw(self, variable: Any) -> bool:
        return len(variable.shape) < 2

    def _muon_update_step(self, gradient: Any, variable: Any, lr: Any, m: Any) -> None:
        self.assign(m, gradient + self.momentum * m)
        update = ops.reshape(gradient + self.momentum * m, (-1, variable.shape[-1]))  # Nesterov's
        update = self.lr_adjust(self.zeropower_via_newtonschulz5(update, self.ns_steps))
        self.assign_sub(variable, ops.reshape(lr * update, variable.shape))
