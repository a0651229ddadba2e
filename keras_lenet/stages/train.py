"""Train the float model, and keep its best epoch: most accurate, or nearest to its teachers."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf
from keras import ops
from PIL import Image

from keras_lenet import artifacts, models, plots, terminal
from keras_lenet.cluster import Cluster
from keras_lenet.data import loading
from keras_lenet.errors import Error
from keras_lenet.recipe import Recipe, Train
from keras_lenet.stages import Context, confidence, fitting, loop
from keras_lenet.stages.muon import Muon

Batches = Callable[..., tf.data.Dataset]
"""Of a range of epochs and, where several devices share each batch, which host this is."""
MODEL = "model.keras"
CONTACT_SHEET = "augmentation.png"
EXAMPLE = "example.png"
"""A validation image, for the report to follow through the network."""


def run(context: Context) -> dict[str, Any]:
    """Write `model.keras`, `history.csv`, the contact sheet of augmented images, and an example.

    Raises:
        Error: the data can't be had, a batch is larger than the training split or doesn't divide
            among the devices, tensorboard is asked for but not installed, or the loss is no longer
            finite.
    """
    recipe = context.recipe
    prepare_devices()
    terminal.say(f"device: {device()}")
    training, validation = load_splits(context, recipe.train.batch_size)
    mixed = loading.with_outliers(training, recipe.data.outliers, outlier_seed(recipe))
    lessons = read_lessons(context)
    batches = augmented(recipe, mixed, recipe.train.batch_size, recipe.seed, lessons)
    sheet = plots.contact_sheet(_first_images(batches(range(1))))
    plots.save(sheet, context.out / CONTACT_SHEET)
    with artifacts.replacing(context.out / EXAMPLE) as temporary:
        Image.fromarray(validation.images[0]).save(temporary)
    kept, state = fit(
        recipe, batches, mixed, validation, lessons, context.out, cluster=context.cluster
    )
    plain = loading.plain_batches(validation, models.input_size(recipe.model))
    temperature = confidence.calibrate(kept, plain, validation.labels)
    save(kept, context.out / MODEL)
    return state.summary() | {
        "validation_images": len(validation),
        "temperature": temperature,
        "training_images": len(training),
        "outliers": len(mixed) - len(training),
    }


def fit(
    recipe: Recipe,
    batches: Batches,
    training: loading.Examples,
    validation: loading.Examples,
    lessons: loading.Lessons | None,
    out: Path,
    title: str = "train",
    cluster: Cluster | None = None,
) -> tuple[keras.Model, fitting.State]:
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
    devices = strategy(recipe.devices, cluster)
    replicated = devices.num_replicas_in_sync > 1
    if settings.batch_size % devices.num_replicas_in_sync:
        raise Error(
            f"batch_size = {settings.batch_size} does not divide evenly among "
            f"{devices.num_replicas_in_sync} devices; choose a multiple"
        )
    with _precision(settings.precision), devices.scope():
        model = models.build_trained(keras, recipe.model, _statistics(recipe, training))
        if recipe.model.initializer == "fan_in":
            models.initialize_by_fan_in(model, recipe.seed)
        for layer in model.layers:
            if replicated and isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = True  # statistics of the batch, not of a device's share
        compile_model(model, settings, steps, loss(recipe))
    state = fitting.fit(
        keras,
        model,
        batches,
        loading.plain_batches(validation, models.input_size(recipe.model), lessons=lessons),
        epochs=settings.epochs,
        steps=steps,
        out=out,
        title=title,
        schedule=Schedule(settings, steps),
        averaged=settings.weight_averaging > 0,
        callbacks=_tensorboard(out, settings),
        by_loss=lessons is not None,
    )
    # Uncompiled, and in float32 whatever it was trained in.
    return models.deploy(model, recipe.model), state


def read_lessons(context: Context) -> loading.Lessons | None:
    """What the teach stage left, where the recipe has one."""
    distill = context.recipe.distill
    if distill is None:
        return None
    return loading.Lessons.read(context.inputs["teach"], distill.seed, distill.rounds)


def loss(recipe: Recipe, deployed: bool = False) -> Callable[[Any, Any], Any]:
    """What is minimized, of targets and logits: the architecture's own loss, or the recipe's.

    Args:
        recipe: its model, distill and train sections count.
        deployed: of the form that is deployed, whose logits may lack what they have in common, and
            with it what an architecture's own loss needs.

    Raises:
        Error: the recipe asks for other targets than the architecture's own loss has.
    """
    own = models.find(recipe.model.name).loss
    if own and (recipe.distill or recipe.train.label_smoothing):
        raise Error(
            f"{recipe.model.name} is trained by a loss of its own, which takes labels as they are; "
            "leave out train.label_smoothing and [distill]"
        )
    if own and not deployed:
        return own
    if recipe.distill:
        return functools.partial(fitting.distillation, temperature=recipe.train.temperature)
    return functools.partial(fitting.cross_entropy, label_smoothing=recipe.train.label_smoothing)


def outlier_seed(recipe: Recipe) -> int:
    """The seed of the outliers: the teachers', where they answer them."""
    return recipe.distill.seed if recipe.distill else recipe.seed


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


def load_splits(context: Context, batch_size: int) -> tuple[loading.Examples, loading.Examples]:
    """The training and validation examples of a run.

    Raises:
        Error: the data can't be had, or there are too few training images for one batch.
    """
    recipe = context.recipe
    training, validation = loading.load_training(
        context.dataset, context.data_dir, recipe.data.validation_split, recipe.data.split_seed
    )
    if batch_size > len(training):
        raise Error(
            f"batch_size = {batch_size}: {context.dataset} has only {len(training)} training "
            "images; choose a smaller batch"
        )
    return training, validation


def augmented(
    recipe: Recipe,
    training: loading.Examples,
    batch_size: int,
    seed: int,
    lessons: loading.Lessons | None = None,
) -> Batches:
    """A function that gives a range of epochs of shuffled, augmented training batches."""

    def batches(
        epochs: range, context: tf.distribute.InputContext | None = None
    ) -> tf.data.Dataset:
        return loading.training_batches(
            training,
            recipe.augment,
            recipe.degrade,
            size=models.input_size(recipe.model),
            batch_size=batch_size,
            seed=seed,
            epochs=epochs,
            lessons=lessons,
            context=context,
        )

    return batches


def _statistics(recipe: Recipe, training: loading.Examples) -> tuple[float, float] | None:
    """Mean and standard deviation of the training pixels in [0, 1], if the recipe asks for them."""
    if not recipe.data.standardize:
        return None
    images = loading.in_memory(training.images, "data.standardize")
    images = images[training.labels != loading.NO_CLASS]
    if images.min() == images.max():  # the deviation itself is then 0, or nearly so
        raise Error(
            f"data.standardize = true: every pixel of the {len(images)} training images is "
            f"{images.min()}, so their deviation is 0; expected images that differ"
        )
    pixels = images / np.float32(255)
    return float(pixels.mean()), float(pixels.std())


def device() -> str:
    """What Keras' backend computes on, in words."""
    if keras.backend.backend() != "tensorflow":
        return keras.backend.backend()
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return "CPU"
    names = [tf.config.experimental.get_device_details(gpu).get("device_name", "") for gpu in gpus]
    return "GPU: " + ", ".join(names)


def prepare_devices() -> None:
    """Take GPU memory as needed, so that several processes can share a card.

    Has to come before anything is computed: TensorFlow refuses to change it later. Under another
    of Keras' backends the GPUs are that one's, and TensorFlow, which makes the batches, sees none.
    """
    if keras.backend.backend() != "tensorflow":
        tf.config.set_visible_devices([], "GPU")
        return
    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)


def strategy(devices: Literal["all", "one"], cluster: Cluster | None) -> tf.distribute.Strategy:
    """What the recipe's `devices` comes to here: mirrored on several, or TensorFlow's default.

    Args:
        devices: "all" or "one".
        cluster: the hosts that train together, if there are several.
    """
    if keras.backend.backend() == "tensorflow" and devices == "all":
        if cluster:
            return cluster.strategy
        if len(tf.config.list_physical_devices("GPU")) > 1:
            return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


@contextlib.contextmanager
def _precision(policy: str) -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def compile_model(
    model: keras.Model, settings: Train, steps: int, minimized: Callable[[Any, Any], Any]
) -> None:
    """Compile for `fit` with the recipe's optimizer and schedule, and the loss to be minimized.

    On TensorFlow, whose steps `loop.fit` takes together, XLA only on a single GPU: on the CPU it
    is slower for a net this small, and MirroredStrategy does its own placing. Other backends know
    best.
    """
    single_gpu = len(tf.config.list_physical_devices("GPU")) == 1
    on_tensorflow = keras.backend.backend() == "tensorflow"
    model.compile(
        optimizer=_optimizer(settings, steps),
        loss=minimized,
        metrics=[fitting.accuracy(keras)],
        jit_compile=single_gpu if on_tensorflow else "auto",
        steps_per_execution=1 if on_tensorflow else _in_one_go(steps),
    )
    model.optimizer.build(model.trainable_variables)


def _in_one_go(steps: int) -> int:
    """How many of an epoch's steps Keras is to take at a time: it takes no fewer at last."""
    return max(count for count in range(1, loop.AT_A_TIME + 1) if steps % count == 0)


def _optimizer(settings: Train, steps: int) -> keras.optimizers.Optimizer:
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
    """The learning rate as a function of the step: linear warm-up, then the recipe's schedule."""

    def __init__(self, settings: Train, steps: int) -> None:
        """Take the `train` section of a recipe, and the steps in an epoch."""
        self.settings, self.steps = settings, steps

    def __call__(self, step: Any) -> Any:
        """The learning rate at `step`, counted from 0."""
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


def _first_images(batches: tf.data.Dataset) -> Any:
    images, _ = next(iter(batches))
    return images[:64, ..., 0].numpy()


def _tensorboard(out: Path, settings: Train) -> tuple[Any, ...]:
    if not settings.tensorboard:
        return ()
    if importlib.util.find_spec("tensorboard") is None:
        raise Error(
            "train.tensorboard = true needs a package that is not installed: "
            "pip install 'keras-lenet[tensorboard]'"
        )
    return (keras.callbacks.TensorBoard(out / "tensorboard"),)
