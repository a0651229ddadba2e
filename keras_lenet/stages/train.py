"""Train the float model, and keep its best epoch: most accurate, or nearest to its teachers."""

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
from keras_lenet.training import devices, setup
from keras_lenet.training.fit import Batches, Plan, fit
from keras_lenet.training.optimizer import Schedule

MODEL = "model.keras"
CONTACT_SHEET = "augmentation.png"
EXAMPLE = "example.png"
"""A validation image, for the report to follow through the network."""


def run(context: Context[TrainSettings]) -> dict[str, Any]:
    """Write `model.keras`, `history.csv`, the contact sheet of augmented images, and an example.

    Raises:
        Error: the data can't be had, a batch is larger than the training split or doesn't divide
            among the devices, or the loss is no longer finite.
    """
    recipe, settings = context.settings, context.settings.train
    devices.prepare_devices()
    console.say(f"device: {devices.device()}")
    training, validation = context.splits(settings.batch_size)
    mixed = loading.with_outliers(training, recipe.data.outliers, setup.outlier_seed(recipe))
    lessons = context.lessons()
    batches = setup.augmented(recipe, mixed, settings.batch_size, recipe.seed, lessons)
    _write_pictures(context.out, batches, validation)
    plain = loading.plain_batches(validation, models.input_size(recipe.model), lessons=lessons)
    steps = loading.steps_per_epoch(mixed, settings.batch_size)
    model = setup.build(recipe, mixed, context.cluster)
    schedule, by_loss = Schedule(settings, steps), lessons is not None
    plan = Plan("train", context.out, settings.epochs, steps, schedule, by_loss)
    state = fit(keras, model, batches, plain, plan)
    kept = models.deploy(model, recipe.model)
    with artifacts.replacing(context.out / MODEL) as temporary:
        kept.save(temporary)
    return state.summary() | {
        "validation_images": len(validation),
        "temperature": confidence.temperature(kept.predict(plain, verbose=0), validation.labels),
        "training_images": len(training),
        "outliers": len(mixed) - len(training),
    }


def load(folder: Path) -> keras.Model:
    """Load the model that a finished train stage left in `folder`, calibrated.

    Its logits are divided by the temperature that the stage found.
    """
    model = keras.models.load_model(folder / MODEL, compile=False)
    confidence.divide(model, confidence.temperature_of(folder))
    return model


def _write_pictures(out: Path, batches: Batches, validation: loading.Examples) -> None:
    images, _ = next(iter(batches(epochs=range(1))))
    plots.save(plots.contact_sheet(images[:64, ..., 0].numpy()), out / CONTACT_SHEET)
    with artifacts.replacing(out / EXAMPLE) as temporary:
        Image.fromarray(validation.images[0]).save(temporary)
