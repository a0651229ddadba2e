"""From the start of fitting to 99.0 % on the validation split, on the same cores.

A method whose length is fixed, and which ends below that, starts again with another seed, and its
clock goes on, until patience with it ends: then its seconds are a lower bound. The test set is not
opened.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import measure
import training

from keras_lenet.data import loading
from keras_lenet.recipe import Recipe, load
from keras_lenet.stages import train

FAST = Path(__file__).parents[2] / "pipelines" / "fast.toml"
GOAL, QUICK = 0.99, 0.5
SEEDS = 5
TUTORIAL = "PyTorch, LeNet-5, Adam at 1e-3, batches of 64"
ONE_EPOCH = "PyTorch, epochs of one cycle up to 1e-2, tuned Adam, 24 and 32 channels"


def rows(room: str, quick: bool) -> list[measure.Row]:
    """One case; a repetition of each contestant is a seed."""
    folder = os.environ.get("KERAS_LENET_DATA")
    recipe = load(FAST)
    data = recipe.data
    splits = loading.load_training(
        data.dataset, Path(folder) if folder else None, data.validation_split, data.split_seed
    )
    goal = QUICK if quick else GOAL
    contestants = {
        "pipelines/fast.toml": repeated(ours(recipe, splits, goal), patience=100),
        TUTORIAL: peer("tutorial", splits, goal, patience=120),
        ONE_EPOCH: peer("one_epoch", splits, goal, patience=40),
    }
    seeds = 1 if quick else SEEDS
    case = measure.Case(
        f"{goal:.1%} of the validation images",
        contestants,
        "s",
        repetitions=seeds,
        at_least={TUTORIAL: 5.0, ONE_EPOCH: 1.0},
        warm_up=False,
    )
    return measure.rows(room, case)


def repeated(attempt: measure.Attempt, patience: float) -> measure.Contestant:
    """Attempts, numbered through all repetitions, until one succeeds.

    Args:
        attempt: whether the goal is reached, of a seed and the time by which to give up.
        patience: seconds after which no other attempt begins.
    """

    def prepare() -> measure.Run:
        number = 0

        def run() -> float:
            nonlocal number
            start = time.perf_counter()
            while time.perf_counter() - start < patience:
                number += 1
                if attempt(number, start + patience):
                    return time.perf_counter() - start
            raise measure.GaveUpError(time.perf_counter() - start)

        return run

    return prepare


def ours(
    recipe: Recipe, splits: tuple[loading.Examples, loading.Examples], goal: float
) -> measure.Attempt:
    """The training stage with a recipe, once through, tracing and all."""

    def attempt(seed: int, deadline: float) -> bool:
        seeded = recipe.model_copy(update={"seed": seed})
        batches = train.augmented(seeded, splits[0], recipe.train.batch_size, seed)
        with tempfile.TemporaryDirectory() as folder, training.silence():
            _, state = train.fit(seeded, batches, *splits, None, Path(folder))
        return state.summary()["validation_accuracy"] >= goal

    return attempt


def peer(
    method: str, splits: tuple[loading.Examples, loading.Examples], goal: float, patience: float
) -> measure.Contestant:
    """PyTorch's, which is imported only where it takes part."""

    def prepare() -> measure.Run:
        import pytorch

        return repeated(getattr(pytorch, method)(splits, goal), patience)()

    return prepare
