"""Train the float model, and keep its most accurate epoch, or the epoch nearest to its teachers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
from PIL import Image

from keras_lenet import artifacts, console, models
from keras_lenet.data import loading
from keras_lenet.evaluation import confidence
from keras_lenet.recipe import TrainSettings
from keras_lenet.reporting import plots
from keras_lenet.stages import Context
from keras_lenet.training import setup
from keras_lenet.training.fit import Batches, Plan, fit

MODEL = "model.keras"
CONTACT_SHEET = "augmentation.png"
EXAMPLE = "example.png"
"""Validation image whose feature maps the report shows."""


def run(context: Context[TrainSettings]) -> dict[str, Any]:
    """Write `model.keras`, `history.csv`, the contact sheet of augmented images, and an example.

    Raises:
        Error: the data can't be had, a batch is larger than the training split or doesn't divide
            among the devices, or the loss is no longer finite.
    """
    recipe, settings = context.settings, context.settings.train
    setup.prepare_devices()
    console.say(f"device: {setup.device()}")
    training, validation = context.splits(settings.batch_size)
    mixed = loading.with_outliers(training, recipe.data.outliers, setup.outlier_seed(recipe))
    teachers = context.teacher_logits()
    batches = setup.augmented(recipe, mixed, settings.batch_size, recipe.seed, teachers)
    _write_pictures(context.out, batches, validation)
    plain = loading.plain_batches(validation, models.input_size(recipe.model), teachers=teachers)
    steps = loading.steps_per_epoch(mixed, settings.batch_size)
    model = setup.build(recipe, mixed, context.cluster)
    schedule = setup.Schedule(settings, steps)
    plan = Plan("train", context.out, settings.epochs, steps, schedule, by_loss=bool(teachers))
    state = fit(keras, model, batches, plain, plan)
    deployed = models.deploy(model, recipe.model)
    with artifacts.replacing(context.out / MODEL) as temporary:
        deployed.save(temporary)
    return state.summary() | {
        "validation_images": len(validation),
        "temperature": confidence.temperature(
            deployed.predict(plain, verbose=0), validation.labels
        ),
        "training_images": len(training),
        "outliers": len(mixed) - len(training),
    }


def load(folder: Path) -> keras.Model:
    """Load the model of a finished train stage; its logits are divided by its temperature."""
    model = keras.models.load_model(folder / MODEL, compile=False)
    confidence.divide(model, confidence.temperature_of(folder))
    return model


def _write_pictures(out: Path, batches: Batches, validation: loading.Examples) -> None:
    images, _ = next(iter(batches(epochs=range(1))))
    plots.save(plots.contact_sheet(images[:64, ..., 0].numpy()), out / CONTACT_SHEET)
    with artifacts.replacing(out / EXAMPLE) as temporary:
        Image.fromarray(validation.images[0]).save(temporary)
