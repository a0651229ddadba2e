"""Train the float model, and keep its best epoch: most accurate, or nearest to its teachers."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from PIL import Image

from keras_lenet import artifacts, console, models
from keras_lenet.data import loading
from keras_lenet.evaluation import confidence
from keras_lenet.recipe import TrainSettings
from keras_lenet.reporting import plots
from keras_lenet.stages import Context
from keras_lenet.training import devices, inputs, setup

MODEL = "model.keras"
CONTACT_SHEET = "augmentation.png"
EXAMPLE = "example.png"
"""A validation image, for the report to follow through the network."""


def run(context: Context[TrainSettings]) -> dict[str, Any]:
    """Write `model.keras`, `history.csv`, the contact sheet of augmented images, and an example.

    Raises:
        Error: the data can't be had, a batch is larger than the training split or doesn't divide
            among the devices, tensorboard is asked for but not installed, or the loss is no longer
            finite.
    """
    recipe = context.settings
    devices.prepare_devices()
    console.say(f"device: {devices.device()}")
    training, validation = context.splits(recipe.train.batch_size)
    mixed = loading.with_outliers(training, recipe.data.outliers, inputs.outlier_seed(recipe))
    lessons = context.lessons()
    batches = inputs.augmented(recipe, mixed, recipe.train.batch_size, recipe.seed, lessons)
    sheet = plots.contact_sheet(_first_images(batches(range(1))))
    plots.save(sheet, context.out / CONTACT_SHEET)
    with artifacts.replacing(context.out / EXAMPLE) as temporary:
        Image.fromarray(validation.images[0]).save(temporary)
    kept, state = setup.train_model(
        recipe, batches, mixed, validation, lessons, context.out, cluster=context.cluster
    )
    plain = loading.plain_batches(validation, models.input_size(recipe.model))
    temperature = confidence.calibrate(kept, plain, validation.labels)
    setup.save(kept, context.out / MODEL)
    return state.summary() | {
        "validation_images": len(validation),
        "temperature": temperature,
        "training_images": len(training),
        "outliers": len(mixed) - len(training),
    }


def _first_images(batches: tf.data.Dataset) -> Any:
    images, _ = next(iter(batches))
    return images[:64, ..., 0].numpy()
