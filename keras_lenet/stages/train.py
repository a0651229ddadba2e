"""Train the float model, and keep its best epoch by validation accuracy."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from keras_lenet import artifacts, models, plots, terminal
from keras_lenet.data import loading
from keras_lenet.errors import Error
from keras_lenet.recipe import Recipe, Train
from keras_lenet.stages import Context, confidence, fitting

MODEL = "model.keras"
CONTACT_SHEET = "augmentation.png"
EXAMPLE = "example.png"
"""A validation image, for the report to follow through the network."""


def run(context: Context) -> dict[str, Any]:
    """Write `model.keras`, `history.csv`, the contact sheet of augmented images, and an example.

    Raises:
        Error: the data can't be had, a batch is larger than the training split or doesn't divide
            among the GPUs, tensorboard is asked for but not installed, or the loss is no longer
            finite.
    """
    recipe, settings = context.recipe, context.recipe.train
    size = models.input_size(recipe.model)
    prepare_devices()
    terminal.say(f"device: {device()}")
    training, validation = load_splits(context, settings.batch_size)
    mixed = loading.with_outliers(training, recipe.data.outliers, recipe.seed)
    batches = augmented(context, mixed, settings.batch_size, recipe.seed)
    sheet = plots.contact_sheet(_first_images(batches(range(1))))
    plots.save(sheet, context.out / CONTACT_SHEET)
    with artifacts.replacing(context.out / EXAMPLE) as temporary:
        Image.fromarray(validation.images[0]).save(temporary)
    steps = loading.steps_per_epoch(mixed, settings.batch_size)
    keras.utils.set_random_seed(recipe.seed)
    devices = strategy()
    if settings.batch_size % devices.num_replicas_in_sync:
        raise Error(
            f"batch_size = {settings.batch_size} does not divide evenly among "
            f"{devices.num_replicas_in_sync} GPUs; choose a multiple"
        )
    with _precision(settings.precision), devices.scope():
        model = models.build_trained(keras, recipe.model, _statistics(recipe, training))
        if recipe.model.initializer == "fan_in":
            models.initialize_by_fan_in(model, recipe.seed)
        compile_model(model, settings, steps)
    state = fitting.fit(
        keras,
        model,
        batches,
        loading.plain_batches(validation, size),
        epochs=settings.epochs,
        steps=steps,
        out=context.out,
        title="train",
        schedule=Schedule(settings, steps),
        averaged=settings.weight_averaging > 0,
        callbacks=_tensorboard(context, settings),
    )
    # Uncompiled, and in float32 whatever it was trained in.
    kept = models.deploy(model, recipe.model)
    temperature = confidence.calibrate(
        kept, loading.plain_batches(validation, size), validation.labels
    )
    with artifacts.replacing(context.out / MODEL) as temporary:
        kept.save(temporary)
    fitting.finish(context.out)
    best = state.history[state.best]
    return {
        "epochs": len(state.history),
        "best_epoch": state.best + 1,
        "validation_accuracy": best["val_accuracy"],
        "validation_images": len(validation),
        "temperature": temperature,
        "training_images": len(training),
        "outliers": len(mixed) - len(training),
    }


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
    context: Context, training: loading.Examples, batch_size: int, seed: int
) -> Callable[[range], tf.data.Dataset]:
    """A function that gives a range of epochs of shuffled, augmented training batches."""
    recipe = context.recipe

    def batches(epochs: range) -> tf.data.Dataset:
        return loading.training_batches(
            training,
            recipe.augment,
            size=models.input_size(recipe.model),
            batch_size=batch_size,
            seed=seed,
            epochs=epochs,
        )

    return batches


def _statistics(recipe: Recipe, training: loading.Examples) -> tuple[float, float] | None:
    """Mean and standard deviation of the training pixels in [0, 1], if the recipe asks for them."""
    if not recipe.data.standardize:
        return None
    pixels = training.images / np.float32(255)
    mean, deviation = float(pixels.mean()), float(pixels.std())
    if deviation == 0:
        raise Error(
            f"data.standardize = true: every pixel of the {len(training)} training images is "
            f"{mean * 255:.0f}, so their deviation is 0; expected images that differ"
        )
    return mean, deviation


def device() -> str:
    """What TensorFlow computes on, in words."""
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return "CPU"
    names = [tf.config.experimental.get_device_details(gpu).get("device_name", "") for gpu in gpus]
    return "GPU: " + ", ".join(names)


def prepare_devices() -> None:
    """Take GPU memory as needed, so that several processes can share a card.

    Has to come before anything is computed: TensorFlow refuses to change it later.
    """
    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)


def strategy() -> tf.distribute.Strategy:
    """Every GPU there is, mirrored; the default strategy with one or none."""
    several = len(tf.config.list_physical_devices("GPU")) > 1
    return tf.distribute.MirroredStrategy() if several else tf.distribute.get_strategy()


@contextlib.contextmanager
def _precision(policy: str) -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def compile_model(model: keras.Model, settings: Train, steps: int) -> None:
    """Compile for `fit` with the recipe's optimizer, schedule and loss.

    XLA only on a single GPU: on the CPU it is slower for a net this small, and MirroredStrategy
    does its own placing.
    """
    single_gpu = len(tf.config.list_physical_devices("GPU")) == 1
    model.compile(
        optimizer=_optimizer(settings, steps),
        loss=functools.partial(fitting.cross_entropy, label_smoothing=settings.label_smoothing),
        metrics=[fitting.accuracy(keras)],
        jit_compile=single_gpu,
    )
    model.optimizer.build(model.trainable_variables)


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
    return keras.optimizers.AdamW(**shared)


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate as a function of the step: linear warm-up, then the recipe's schedule."""

    def __init__(self, settings: Train, steps: int) -> None:
        """Take the `train` section of a recipe, and the steps in an epoch."""
        self.settings, self.steps = settings, steps

    def __call__(self, step: Any) -> Any:
        """The learning rate at `step`, counted from 0."""
        settings = self.settings
        epoch = tf.cast(step, tf.float32) / self.steps
        warming = (epoch + 1 / self.steps) / max(settings.warmup_epochs, 1)
        after = tf.maximum(epoch - settings.warmup_epochs, 0.0)
        if settings.schedule == "cosine":
            whole = settings.epochs - settings.warmup_epochs
            factor = (1 + tf.cos(np.pi * after / whole)) / 2
        elif settings.schedule == "step":
            factor = settings.step_factor ** tf.floor(after / settings.step_epochs)
        else:
            factor = 1.0
        return settings.learning_rate * tf.where(epoch < settings.warmup_epochs, warming, factor)


def _first_images(batches: tf.data.Dataset) -> Any:
    images, _ = next(iter(batches))
    return images[:64, ..., 0].numpy()


def _tensorboard(context: Context, settings: Train) -> tuple[Any, ...]:
    if not settings.tensorboard:
        return ()
    if importlib.util.find_spec("tensorboard") is None:
        raise Error(
            "train.tensorboard = true needs a package that is not installed: "
            "pip install 'keras-lenet[tensorboard]'"
        )
    return (keras.callbacks.TensorBoard(context.out / "tensorboard"),)
