"""Train teachers, and write their logits for the very images that a model will be trained on.

All models and epochs that learn from an image share its logits: computing them every time would
take most of the time of distillation.
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
from keras_lenet.training import setup
from keras_lenet.training.fit import Plan, fit


def run(context: Context[DistillSettings]) -> dict[str, Any]:
    """Write each teacher's `model.keras` and `history.csv`, and their mean logits.

    Logits are float16: `round-<number>.npy`, (N, 10), of the training images and OOD examples as
    each round augments them, and `validation.npy`, (M, 10).

    Raises:
        Error: as `train.run`.
    """
    recipe, settings = context.settings, context.settings.distill
    if settings is None:
        raise Error("no [distill] section: nothing to distill")
    setup.prepare_devices()
    console.say(f"device: {setup.device()}")
    training, validation = context.splits(settings.train.batch_size)
    mixed = loading.with_outliers(training, recipe.data.outliers, settings.seed)
    size = models.find(settings.model).input_size
    plain = loading.plain_batches(validation, size)
    teachers, accuracies = [], []
    for number in range(settings.teachers):
        own = _settings_of(recipe, settings, number)
        batches = setup.augmented(own, mixed, own.train.batch_size, own.seed)
        steps = loading.steps_per_epoch(mixed, own.train.batch_size)
        title = f"teacher {number + 1} of {settings.teachers}"
        out = context.out / f"teacher-{number}"
        plan = Plan(title, out, own.train.epochs, steps, setup.Schedule(own.train, steps))
        model = setup.build(own, mixed, context.cluster)
        # A teacher that is already trained resumes after its last epoch.
        state = fit(keras, model, batches, plain, plan)
        teachers.append(models.deploy(model, own.model))
        with artifacts.replacing(out / train.MODEL) as temporary:
            teachers[-1].save(temporary)
        accuracies.append(state.summary()["validation_accuracy"])
    logits = _mean_logits(teachers, plain.map(lambda images, _: images))
    _write(context.out / loading.VALIDATION, logits)
    with console.progress() as bar:
        task = bar.add_task("distill", total=settings.rounds)
        for number in range(settings.rounds):
            path = context.out / loading.ROUND.format(number)
            if not path.exists():
                seen = loading.augmented_in_order(
                    mixed, recipe.augment, size=size, seed=settings.seed, epoch=number
                )
                _write(path, _mean_logits(teachers, seen))
            bar.advance(task)
    return {
        "validation_accuracies": accuracies,
        "validation_accuracy": float((logits.argmax(axis=1) == validation.labels).mean()),
        "validation_images": len(validation),
    }


def _settings_of(recipe: DistillSettings, settings: Distill, number: int) -> TrainSettings:
    """Return the settings of a teacher's training."""
    return TrainSettings(
        devices=recipe.devices,
        data=recipe.data,
        augment=settings.augment or recipe.augment,
        seed=settings.seed + number,
        model=Model(name=settings.model),
        train=settings.train,
    )


def _mean_logits(teachers: list[keras.Model], batches: tf.data.Dataset) -> NDArray[np.float16]:
    """Return the teachers' mean logits of every image of the batches: (N, 10)."""
    logits = [teacher.predict(batches, verbose=0) for teacher in teachers]
    return (sum(logits) / len(logits)).astype(np.float16)


def _write(path: Path, logits: NDArray[np.float16]) -> None:
    with artifacts.replacing(path) as temporary:
        np.save(temporary, logits)
