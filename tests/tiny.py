"""The smallest network that every stage takes, so that a test of a stage lasts a second."""

from pathlib import Path

import numpy as np
from scipy.special import softmax

from keras_lenet import artifacts, models
from keras_lenet.data import loading
from keras_lenet.models import Architecture
from keras_lenet.recipe import Augment, Model, Recipe
from keras_lenet.stages import Context

NO_AUGMENTATION = Augment(rotate=0.0, shift=0.0, zoom=0.0)


def network(keras, x, normalized=False):
    """Two dense layers, 784-8-10; trained, the first may be batch-normalized."""
    x = keras.layers.Flatten(name="flatten")(x)
    if normalized:
        x = keras.layers.Dense(8, use_bias=False, name="dense1")(x)
        x = keras.layers.ReLU(name="relu1")(keras.layers.BatchNormalization(name="dense1_norm")(x))
    else:
        x = keras.layers.Dense(8, activation="relu", name="dense1")(x)
    return keras.layers.Dense(10, name="logits")(x)


def register(monkeypatch, **attributes):
    """Let recipes name it "tiny"."""
    monkeypatch.setitem(models.MODELS, "tiny", Architecture("tiny", network, 28, **attributes))


def recipe(dataset, **sections):
    """A recipe for it on the images in the folder `dataset`, a quarter of them for validation."""
    data = {"dataset": str(dataset), "validation_split": 0.25} | sections.pop("data", {})
    defaults = {"augment": NO_AUGMENTATION, "model": Model(name="tiny"), "devices": "one"}
    return Recipe(name="test", data=data, **(defaults | sections))


def splits(recipe):
    """Its training and validation examples."""
    data = recipe.data
    return loading.load_training(data.dataset, None, data.validation_split, seed=0)


def context(recipe, out, **inputs):
    """The context of a stage that writes into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    return Context(recipe, recipe.data.dataset, None, inputs, out)


def history(folder):
    """The rows of a `history.csv`, as numbers."""
    lines = [line.split(",") for line in (folder / "history.csv").read_text().splitlines()]
    return [dict(zip(lines[0], map(float, line), strict=True)) for line in lines[1:]]


def divergence(teachers, logits, temperature):
    """The loss of distillation: Kullback-Leibler, of softened distributions, image by image."""
    p, q = softmax(teachers / temperature, axis=1), softmax(logits / temperature, axis=1)
    return temperature**2 * (p * np.log(p / q)).sum(axis=1)


def write_record(folder: Path, **summary):
    """Let a folder be that of a finished stage."""
    record = artifacts.Record(
        "train", {}, {}, {}, "test", 0, {}, "2026-01-01T00:00:00+00:00", 0.0, summary
    )
    folder.mkdir(parents=True, exist_ok=True)
    record.write(folder)


def write_logits(folder: Path, training, validation):
    """Write what a distill stage leaves: logits (rounds, N, 10) and (M, 10)."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, logits in enumerate(training):
        np.save(folder / f"round-{number:03}.npy", logits.astype(np.float16))
    np.save(folder / "validation.npy", validation.astype(np.float16))
