"""Loop of training and of quantization-aware fine-tuning: epochs, best epoch, checkpoints.

It fits models of Keras 3 and of tf_keras; the namespace is an argument.
"""

from __future__ import annotations

import functools
import json
import math
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_lenet import artifacts, console
from keras_lenet.errors import Error

Row = dict[str, float]
Batches = Callable[..., tf.data.Dataset]
"""Function of `epochs`, a range, and `context`, a host: the training batches, one epoch after the
other, or the host's shares of them, one device after the other."""
AT_A_TIME = 32
"""Steps between two reads of the loss: each read costs about a sixth of a step of 64 images."""


@dataclass(frozen=True)
class Plan:
    """A fit: its name on screen, its folder and its length.

    Attributes:
        title: name on screen.
        out: folder for the checkpoint and the history.
        epochs: how many in all.
        steps: batches in an epoch.
        schedule: the learning rate by step, for the history.
        by_loss: keep the epoch of lowest validation loss, instead of highest accuracy. The
            divergence from teachers tells more of two models than the few images that only one of
            them gets right.
    """

    title: str
    out: Path
    epochs: int
    steps: int
    schedule: Callable[[int], Any]
    by_loss: bool = False


@dataclass
class State:
    """The state of a fit after a whole number of epochs.

    Attributes:
        history: one row an epoch.
        best: index of the best row: highest validation accuracy, then lowest validation loss, or
            the latter alone.
        best_weights: the weights of that epoch, as `get_weights` gives them.
    """

    history: list[Row] = field(default_factory=list)
    best: int = -1
    best_weights: list[NDArray[Any]] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Describe the fit and its best epoch for the stage's record."""
        return {
            "epochs": len(self.history),
            "best_epoch": self.best + 1,
            "validation_accuracy": self.history[self.best]["val_accuracy"],
        }

    def add(self, row: Row, weights: list[NDArray[Any]], by_loss: bool) -> None:
        """Add an epoch's row, and keep its weights if it is the best so far."""

        def rank(row: Row) -> tuple[float, float]:
            return 0.0 if by_loss else row["val_accuracy"], -row["val_loss"]

        self.history.append(row)
        if self.best < 0 or rank(row) > rank(self.history[self.best]):
            self.best, self.best_weights = len(self.history) - 1, weights

    def save(self, path: Path, running: list[NDArray[Any]]) -> None:
        """Write what a resumed fit needs; `running` are the weights that it starts from."""
        arrays = {f"best_{i}": value for i, value in enumerate(self.best_weights)}
        arrays |= {f"running_{i}": value for i, value in enumerate(running)}
        progress = json.dumps({"history": self.history, "best": self.best})
        with artifacts.replacing(path) as temporary:
            np.savez(temporary, progress=np.array(progress), **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> tuple[State, list[NDArray[Any]]]:
        """Read what `save` wrote."""
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            progress = json.loads(str(arrays["progress"]))

            def numbered(kind: str) -> list[NDArray[Any]]:
                count = sum(name.startswith(kind) for name in arrays.files)
                return [arrays[f"{kind}{i}"] for i in range(count)]

            return cls(**progress, best_weights=numbered("best_")), numbered("running_")


def fit(
    namespace: Any,
    model: Any,
    batches: Batches,
    validation: tf.data.Dataset,
    plan: Plan,
    callbacks: Sequence[Any] = (),
) -> State:
    """Fit a compiled model, resuming where an interrupted fit left a checkpoint.

    It leaves the best epoch's weights in the model, and the history as CSV and a checkpoint in the
    plan's folder. If the optimizer averages the weights, it validates and keeps the averages.

    Args:
        namespace: the model's, `keras` or `tf_keras`.
        model: compiled, with the metric "accuracy"; its optimizer built.
        batches: makes the training batches of a range of epochs.
        validation: batches of the validation split.
        plan: length, name and folder.
        callbacks: called last.

    Raises:
        Error: the loss or the validation loss is no longer a finite number.
    """
    state, steps = _resume(model, plan), plan.steps
    left = range(len(state.history), plan.epochs)
    if left:
        with console.progress() as bar:
            completed = left.start * steps
            task = bar.add_task(plan.title, total=plan.epochs * steps, completed=completed)
            watch = _Watch(model, state, plan, functools.partial(bar.update, task))
            hooks = namespace.callbacks
            own = hooks.LambdaCallback(
                on_train_batch_end=watch.batch_end, on_epoch_end=watch.save_running
            )
            called = [own, hooks.LambdaCallback(on_epoch_end=watch.epoch_end), *callbacks]
            if model.optimizer.use_ema:
                called.insert(1, hooks.SwapEMAWeights(swap_on_epoch=True))
            if namespace is keras and keras.backend.backend() == "tensorflow":
                take_steps(model, batches, validation, epochs=left, steps=steps, callbacks=called)
            else:
                model.fit(
                    batches(epochs=left),
                    initial_epoch=left.start,
                    epochs=plan.epochs,
                    steps_per_epoch=steps,
                    validation_data=validation,
                    callbacks=called,
                    shuffle=False,  # the batches come shuffled
                    verbose=0,
                )
    model.set_weights(state.best_weights)
    return state


def take_steps(
    model: keras.Model,
    batches: Batches,
    validation: tf.data.Dataset,
    *,
    epochs: range,
    steps: int,
    callbacks: Sequence[keras.callbacks.Callback],
) -> None:
    """Fit as `keras.Model.fit` does, and call the same callbacks with the same logs.

    Losses and metrics are those of whole batches, and the same on every host. Every device
    validates on all of `validation`, since its shares would be uneven. The model is compiled in the
    scope of the strategy whose devices hold it. Epochs are counted from 0.
    """
    train, validate = _compiled(model)
    hooks = keras.callbacks.CallbackList(callbacks, model=model, epochs=epochs.stop, steps=steps)
    distribute = model.distribute_strategy.distribute_datasets_from_function
    shares = iter(distribute(lambda context: batches(epochs=epochs, context=context)))
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


@functools.lru_cache(maxsize=4)  # compiles once for models that are fitted in turns
def _compiled(model: keras.Model) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return functions that take some steps, and that validate; both return the metrics."""
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


def _resume(model: Any, plan: Plan) -> State:
    """Return the state of the checkpoint, and set the model to it; or a new state."""
    path = plan.out / artifacts.CHECKPOINT
    if not path.exists():
        return State()
    try:
        state, running = State.load(path)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error):
        console.say(f"{plan.title}: {path} is damaged; starting again from the first epoch")
        return State()
    count = len(model.weights)
    model.set_weights(running[:count])
    for variable, value in zip(model.optimizer.variables, running[count:], strict=True):
        variable.assign(value)
    console.say(f"{plan.title}: resuming after epoch {len(state.history)}")
    return state


@dataclass
class _Watch:
    """Callbacks of one fit, and what they share."""

    model: Any
    state: State
    plan: Plan
    show: Callable[..., None]
    running: list[NDArray[Any]] = field(default_factory=list)

    def batch_end(self, batch: int, logs: dict[str, float]) -> None:
        self.require_finite("loss", logs["loss"], f", batch {batch + 1}")
        self.show(completed=len(self.state.history) * self.plan.steps + batch + 1)

    def require_finite(self, name: str, value: float, where: str = "") -> None:
        """Raise Error unless a loss is finite."""
        if not math.isfinite(value):
            raise Error(
                f"{self.plan.title}: the {name} became {value} in epoch "
                f"{len(self.state.history) + 1}{where}; lower the learning rate or lengthen the "
                "warm-up"
            )

    def save_running(self, epoch: int, logs: dict[str, float]) -> None:
        """Save the weights that a resumed fit starts from, before their averages replace them."""
        optimizer = [variable.numpy() for variable in self.model.optimizer.variables]
        self.running = self.model.get_weights() + optimizer

    def epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        plan = self.plan
        row = {key: float(logs[key]) for key in ("loss", "accuracy", "val_loss", "val_accuracy")}
        self.require_finite("validation loss", row["val_loss"])
        row["learning_rate"] = float(plan.schedule((epoch + 1) * plan.steps - 1))
        self.state.add(row, self.model.get_weights(), plan.by_loss)
        self.state.save(plan.out / artifacts.CHECKPOINT, self.running)
        lines = [",".join(["epoch", *row])]
        for number, figures in enumerate(self.state.history, 1):
            lines.append(",".join(map(str, [number, *figures.values()])))
        artifacts.write_bytes(plan.out / artifacts.HISTORY, "\n".join([*lines, ""]).encode())
        best = " (best so far)" if self.state.best == epoch else ""
        console.say(
            f"{plan.title} epoch {epoch + 1}/{plan.epochs}: loss {row['loss']:.4f}, validation "
            f"loss {row['val_loss']:.4f}, validation accuracy {row['val_accuracy']:.2%}{best}"
        )
