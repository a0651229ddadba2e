"""Training beside PyTorch: a step, the input pipeline, the time to an accuracy.

The peers are in `ours.py` and `pytorch.py`: TensorFlow crashes beside torch.compile.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable

import measure
import numpy as np
from measure import Peer, Row

STEP_BATCHES = (64, 256)
STEP_IMAGES, STEP_QUICK = 24_576, 2_048  # divisible by every batch
WARP_BATCH = 256
WARP_IMAGES, WARP_QUICK = 51_200, 2_560
STRENGTHS = {"rotate": 10.0, "shift": 2.0, "zoom": 0.1}
SHEAR = 0.15
GOAL, QUICK_GOAL = 0.99, 0.5
PATIENCE = 120.0  # seconds after which no other epoch or attempt begins


def training_step(quick: bool) -> list[Row]:
    """Return rows of AdamW over prepared batches, by batch size."""
    count = STEP_QUICK if quick else STEP_IMAGES
    fast = {"channels_last": True}
    found = []
    for batch in STEP_BATCHES:
        options = {"count": count, "batch": batch}
        torch = "pytorch:training", options
        peers = [
            Peer("keras_lenet, as `train` fits", "ours:training", options),
            Peer("PyTorch, eager", *torch, 1.0),
            Peer("PyTorch, eager, channels_last, fused AdamW", torch[0], options | fast, 1.0),
            Peer(
                "PyTorch, torch.compile, channels_last, fused AdamW",
                torch[0],
                options | fast | {"compiled": True},
                1.0,
            ),
        ]
        found += measure.compare(
            f"batch of {batch}", "images/s", peers, work=count, repetitions=2 if quick else 7
        )
    return [*found, Row("on a GPU", "all", "images/s", note="not measured")]


def random_batches(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images (N, 32, 32, 1) and labels (N,)."""
    generator = np.random.default_rng(0)
    images = generator.random((count, 32, 32, 1), np.float32)
    return images, generator.integers(0, 10, count, np.int32)


def input_pipeline(quick: bool) -> list[Row]:
    """Return rows of two sets of warps, and of training with the first."""
    count = WARP_QUICK if quick else WARP_IMAGES
    turns = {"work": count, "repetitions": 2 if quick else 9}
    found = []
    for name, shear in (("rotate, shift, zoom", 0.0), ("rotate, shift, zoom, shear", SHEAR)):
        options = {"count": count, "strengths": STRENGTHS | {"shear": shear}, "batch": WARP_BATCH}
        peers = [
            Peer("one warp", "ours:warped", options),
            Peer("Keras layers, chained", "ours:chained", options, 4.0),
            Peer("PyTorch, affine_grid and grid_sample", "pytorch:warped", options),
        ]
        found += measure.compare(name, "images/s", peers, **turns)
    options = {"count": count, "strengths": STRENGTHS, "batch": WARP_BATCH}
    without = "the same without augmentation, over prepared batches"
    peers = [
        Peer("with augmentation", "ours:fitted", {**options, "prepared": False}),
        Peer(without, "ours:fitted", {**options, "prepared": True}, 0.85),
    ]
    return found + measure.compare(f"training, batch of {WARP_BATCH}", "images/s", peers, **turns)


def time_to_accuracy(quick: bool) -> list[Row]:
    """Return rows from the start of fitting to 99.0 % on the validation split; a turn is a seed.

    A method of fixed length that ends below starts again with another seed, and its clock goes on.
    It is given up after `PATIENCE`: then its seconds are a lower bound.
    """
    import ours

    goal, settings = (QUICK_GOAL, ["train.epochs=1"]) if quick else (GOAL, [])
    with tempfile.TemporaryDirectory() as folder:
        data = f"{folder}/splits.npz"
        named = {}
        for part in ours.splits(settings)[1:]:
            named |= {f"{part.split}_images": part.images, f"{part.split}_labels": part.labels}
        np.savez(data, **named)
        options = {"goal": goal, "data": data}
        one_epoch = "PyTorch, epochs of one cycle up to 1e-2, tuned Adam, 24 and 32 channels"
        peers = [
            Peer("pipelines/fast.toml", "ours:to_goal", {"goal": goal, "settings": settings}),
            Peer("PyTorch, LeNet-5, Adam at 1e-3, batches of 64", "pytorch:tutorial", options, 1.0),
            Peer(one_epoch, "pytorch:one_epoch", options, 1.0),
        ]
        case = f"{goal:.1%} of the validation images, given up after {PATIENCE:.0f} s"
        return measure.compare(case, "s", peers, repetitions=1 if quick else 3, warm_up=False)


def repeated(attempt: Callable[[int, float], bool]) -> measure.Repetition:
    """Return attempts, with other seeds in every repetition, until one succeeds.

    An attempt takes a seed and the time by which to give up, and returns whether the goal is
    reached.
    """
    number = 0

    def run() -> float:
        nonlocal number
        start = time.perf_counter()
        while time.perf_counter() - start < PATIENCE:
            number += 1
            if attempt(number, start + PATIENCE):
                return time.perf_counter() - start
        raise TimeoutError(time.perf_counter() - start)

    return run
