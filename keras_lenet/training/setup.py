"""A new model, set up and fitted as the recipe says."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from keras_lenet import artifacts, models
from keras_lenet.data import loading
from keras_lenet.errors import Error
from keras_lenet.recipe import Train, TrainSettings
from keras_lenet.training import devices, inputs, losses, optimizer
from keras_lenet.training.cluster import Cluster
from keras_lenet.training.fit import AT_A_TIME, State, fit


def train_model(
    recipe: TrainSettings,
    batches: inputs.Batches,
    training: loading.Examples,
    validation: loading.Examples,
    lessons: loading.Lessons | None,
    out: Path,
    title: str = "train",
    cluster: Cluster | None = None,
) -> tuple[keras.Model, State]:
    """Fit a new model as the recipe says, or go on with what `out` has of it.

    Args:
        recipe: its seed, model and train sections count.
        batches: gives the training batches of a range of epochs.
        training: the examples in them.
        validation: the examples to choose the best epoch by.
        lessons: what teachers say of both, if they are in the batches.
        out: folder for the checkpoint and the history.
        title: what to call this work on screen.
        cluster: the hosts that train together, if there are several.

    Returns:
        The model of the best epoch, in the form that is deployed; and how the fit went.
    """
    settings = recipe.train
    steps = loading.steps_per_epoch(training, settings.batch_size)
    keras.utils.set_random_seed(recipe.seed)
    spread = devices.strategy(recipe.devices, cluster)
    replicated = spread.num_replicas_in_sync > 1
    if settings.batch_size % spread.num_replicas_in_sync:
        raise Error(
            f"batch_size = {settings.batch_size} does not divide evenly among "
            f"{spread.num_replicas_in_sync} devices; choose a multiple"
        )
    with _precision(settings.precision), spread.scope():
        model = models.build_trained(keras, recipe.model, inputs.statistics(recipe, training))
        if recipe.model.initializer == "fan_in":
            models.initialize_by_fan_in(model, recipe.seed)
        for layer in model.layers:
            if replicated and isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = True  # statistics of the batch, not of a device's share
        compile_model(model, settings, steps, losses.chosen(recipe))
    state = fit(
        keras,
        model,
        batches,
        loading.plain_batches(validation, models.input_size(recipe.model), lessons=lessons),
        epochs=settings.epochs,
        steps=steps,
        out=out,
        title=title,
        schedule=optimizer.Schedule(settings, steps),
        averaged=settings.weight_averaging > 0,
        callbacks=_tensorboard(out, settings),
        by_loss=lessons is not None,
    )
    # Uncompiled, and in float32 whatever it was trained in.
    return models.deploy(model, recipe.model), state


def compile_model(
    model: keras.Model, settings: Train, steps: int, minimized: Callable[[Any, Any], Any]
) -> None:
    """Compile for `fit` with the recipe's optimizer and schedule, and the loss to be minimized.

    On TensorFlow, whose steps `fit` takes together, XLA only on a single GPU: on the CPU it
    is slower for a net this small, and MirroredStrategy does its own placing. Other backends know
    best.
    """
    single_gpu = len(tf.config.list_physical_devices("GPU")) == 1
    on_tensorflow = keras.backend.backend() == "tensorflow"
    model.compile(
        optimizer=optimizer.optimizer(settings, steps),
        loss=minimized,
        metrics=[losses.accuracy(keras)],
        jit_compile=single_gpu if on_tensorflow else "auto",
        steps_per_execution=1 if on_tensorflow else _in_one_go(steps),
    )
    model.optimizer.build(model.trainable_variables)


def _in_one_go(steps: int) -> int:
    """How many of an epoch's steps Keras is to take at a time: it takes no fewer at last."""
    return max(count for count in range(1, AT_A_TIME + 1) if steps % count == 0)


@contextlib.contextmanager
def _precision(policy: str) -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _tensorboard(out: Path, settings: Train) -> tuple[Any, ...]:
    if not settings.tensorboard:
        return ()
    if importlib.util.find_spec("tensorboard") is None:
        raise Error(
            "train.tensorboard = true needs a package that is not installed: "
            "pip install 'keras-lenet[tensorboard]'"
        )
    return (keras.callbacks.TensorBoard(out / "tensorboard"),)


def save(model: keras.Model, path: Path) -> None:
    """Write a .keras file; the same model gives the same bytes, on any date.

    Keras itself would write the date into it, and fail in the years that zip can't express.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=artifacts.TEMPORARY) as scratch:
        folder = Path(scratch)
        model.save(folder, zipped=False)
        description = folder / "metadata.json"
        known = json.loads(description.read_text(encoding="utf-8"))
        description.write_text(json.dumps(known | {"date_saved": "1980-01-01@00:00:00"}))
        config = folder / "config.json"
        config.write_text(_renumbered(config.read_text(encoding="utf-8")), encoding="utf-8")
        with artifacts.replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            for file in sorted(file for file in folder.rglob("*") if file.is_file()):
                entry = zipfile.ZipInfo(file.relative_to(folder).as_posix())  # of 1980
                archive.writestr(entry, file.read_bytes())


def _renumbered(config: str) -> str:
    """A model's configuration with its shared objects counted, instead of by memory address."""
    numbers: dict[str, int] = {}
    return re.sub(
        r'("shared_object_id": )(\d+)',
        lambda match: f"{match[1]}{numbers.setdefault(match[2], len(numbers))}",
        config,
    )
