"""From the start of fitting to 99.0 % on the validation split, on the same cores.

A method whose length is fixed, and which ends below that, starts again with another seed, and its
clock goes on, until patience with it ends: then its seconds are a lower bound. The test set is not
opened.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import measure
import numpy as np
from measure import Peer

FAST = measure.ROOT / "pipelines" / "fast.toml"
GOAL, QUICK = 0.99, 0.5
SEEDS = 3
PATIENCE = 120.0
"""Seconds after which no other epoch or attempt begins."""


def rows(quick: bool) -> list[measure.Row]:
    """Return the rows of one case; a repetition of each peer is a seed."""
    from keras_lenet.recipe import load

    goal = QUICK if quick else GOAL
    with tempfile.TemporaryDirectory() as folder:
        data = f"{folder}/splits.npz"
        named = {}
        for split, part in zip(("training", "validation"), splits(load(FAST)), strict=True):
            named |= {f"{split}_images": part.images, f"{split}_labels": part.labels}
        np.savez(data, **named)
        options = {"goal": goal, "patience": PATIENCE}
        tutorial = {**options, "method": "tutorial", "data": data}
        one_epoch = {**options, "method": "one_epoch", "data": data}
        peers = [
            Peer("pipelines/fast.toml", "time_to_accuracy:ours", options),
            Peer("PyTorch, LeNet-5, Adam at 1e-3, batches of 64", "pytorch:to_goal", tutorial, 1.0),
            Peer(
                "PyTorch, epochs of one cycle up to 1e-2, tuned Adam, 24 and 32 channels",
                "pytorch:to_goal",
                one_epoch,
                1.0,
            ),
        ]
        return measure.compare(
            f"{goal:.1%} of the validation images, given up after {PATIENCE:.0f} s",
            "s",
            peers,
            repetitions=1 if quick else SEEDS,
            warm_up=False,
        )


def splits(recipe):
    """Return the training and the validation split of a recipe."""
    from keras_lenet.data import loading

    folder = os.environ.get("KERAS_LENET_DATA")
    data = recipe.data
    return loading.load_training(
        data.dataset, Path(folder) if folder else None, data.validation_split, data.split_seed
    )


def repeated(attempt: Callable[[int, float], bool], patience: float) -> measure.Repetition:
    """Return attempts, numbered through all repetitions, until one succeeds.

    Args:
        attempt: whether the goal is reached, of a seed and the time by which to give up.
        patience: seconds after which no other attempt begins.
    """
    number = 0

    def run() -> float:
        nonlocal number
        start = time.perf_counter()
        while time.perf_counter() - start < patience:
            number += 1
            if attempt(number, start + patience):
                return time.perf_counter() - start
        raise TimeoutError(time.perf_counter() - start)

    return run


def ours(goal: float, patience: float) -> measure.Repetition:
    """Prepare the training stage with the recipe, once through, tracing and all."""
    import keras
    import training

    from keras_lenet import models
    from keras_lenet.data import loading
    from keras_lenet.recipe import load
    from keras_lenet.training import setup
    from keras_lenet.training.fit import Plan, fit
    from keras_lenet.training.optimizer import Schedule

    recipe = load(FAST)
    examples, validation = splits(recipe)
    plain = loading.plain_batches(validation, models.input_size(recipe.model))
    settings, steps = recipe.train, loading.steps_per_epoch(examples, recipe.train.batch_size)

    def attempt(seed: int, deadline: float) -> bool:
        seeded = recipe.model_copy(update={"seed": seed})
        batches = setup.augmented(seeded, examples, settings.batch_size, seed)
        with tempfile.TemporaryDirectory() as folder, training.silence():
            plan = Plan("", Path(folder), settings.epochs, steps, Schedule(settings, steps))
            state = fit(keras, setup.build(seeded, examples), batches, plain, plan)
        return state.summary()["validation_accuracy"] >= goal

    return repeated(attempt, patience)
