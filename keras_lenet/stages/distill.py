"""Train teachers, and write down what they answer to the very images that a model will be shown.

A teacher answers each image once, whatever the number of models and epochs that learn from it:
which is most of the time that distillation would take.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_lenet import artifacts, console, models
from keras_lenet.data import loading
from keras_lenet.errors import Error
from keras_lenet.recipe import Distill, DistillSettings, Model, TrainSettings
from keras_lenet.stages import Context, train
from keras_lenet.training import devices, inputs, setup


def run(context: Context[DistillSettings]) -> dict[str, Any]:
    """Write each teacher's `model.keras` and `history.csv`, and their mean logits.

    These are float16: `round-<number>.npy`, (N, 10), for the training images and outliers as each
    round warps them, and `validation.npy`, (M, 10).

    Raises:
        Error: as `train.run`.
    """
    recipe, settings = context.settings, _settings(context)
    devices.prepare_devices()
    console.say(f"device: {devices.device()}")
    training, validation = context.splits(settings.train.batch_size)
    mixed = loading.with_outliers(training, recipe.data.outliers, settings.seed)
    teachers, accuracies = [], []
    for number in range(settings.teachers):
        out = context.out / f"teacher-{number}"
        own = _settings_of(recipe, settings, number)
        title = f"teacher {number + 1} of {settings.teachers}"
        batches = inputs.augmented(own, mixed, own.train.batch_size, own.seed)
        # A teacher that is trained already resumes after its last epoch.
        teacher, state = setup.train_model(
            own, batches, mixed, validation, None, out, title, context.cluster
        )
        setup.save(teacher, out / train.MODEL)
        teachers.append(teacher)
        accuracies.append(state.summary()["validation_accuracy"])
    size = models.find(settings.model).input_size
    plain = loading.plain_batches(validation, size).map(lambda images, _: images)
    logits = _answers(teachers, plain)
    _write(context.out / loading.VALIDATION, logits)
    with console.progress() as bar:
        task = bar.add_task("distill", total=settings.rounds)
        for number in range(settings.rounds):
            path = context.out / loading.ROUND.format(number)
            if not path.exists():
                seen = loading.warped_in_order(
                    mixed, recipe.augment, size=size, seed=settings.seed, epoch=number
                )
                _write(path, _answers(teachers, seen))
            bar.advance(task)
    return {
        "validation_accuracies": accuracies,
        "validation_accuracy": float((logits.argmax(axis=1) == validation.labels).mean()),
        "validation_images": len(validation),
    }


def _settings(context: Context[DistillSettings]) -> Distill:
    if context.settings.distill is None:
        raise Error("no [distill] section: nothing to distill")
    return context.settings.distill


def _settings_of(recipe: DistillSettings, settings: Distill, number: int) -> TrainSettings:
    """Return the settings that a teacher is trained by."""
    return TrainSettings(
        devices=recipe.devices,
        data=recipe.data,
        augment=settings.augment or recipe.augment,
        seed=settings.seed + number,
        model=Model(name=settings.model),
        train=settings.train,
    )


def _answers(teachers: list[keras.Model], batches: tf.data.Dataset) -> NDArray[np.float16]:
    """The teachers' mean logits for every image of the batches: (N, 10)."""
    answers = [teacher.predict(batches, verbose=0) for teacher in teachers]
    return (sum(answers) / len(answers)).astype(np.float16)


def _write(path: Path, logits: NDArray[np.float16]) -> None:
    with artifacts.replacing(path) as temporary:
        np.save(temporary, logits)
