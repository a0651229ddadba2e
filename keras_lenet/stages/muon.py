"""Muon, for convolutions as well."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


class Muon(keras.optimizers.Muon):
    """Keras' Muon, which leaves convolutions to Adam, with their kernels as matrices.

    Every kernel, (..., outputs), is seen as (inputs, outputs), and its momentum is replaced by the
    nearest orthogonal matrix before each step: Jordan, "Muon: An optimizer for hidden layers in
    neural networks", 2024. Steps are scaled as in Liu et al., "Muon is scalable for LLM training",
    2025, section 2.2, so that one learning rate serves both these and Adam, which is left with
    biases and what else has one dimension.
    """

    def _should_use_adamw(self, variable: Any) -> bool:
        return len(variable.shape) < 2

    def _muon_update_step(self, gradient: Any, variable: Any, lr: Any, m: Any) -> None:
        self.assign(m, gradient + self.momentum * m)
        update = ops.reshape(gradient + self.momentum * m, (-1, variable.shape[-1]))  # Nesterov's
        update = self.lr_adjust(self.zeropower_via_newtonschulz5(update, self.ns_steps))
        self.assign_sub(variable, ops.reshape(lr * update, variable.shape))
