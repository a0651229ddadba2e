"""From uint8 images in memory to batches: split, shuffle, gather, augment, prefetch.

Nothing random is hidden: (seed, epoch, index) decides how an image is warped and when it comes,
whatever the batch size, the number of threads, or the epoch a run resumes at.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_lenet.data import augment, datasets, outliers
from keras_lenet.errors import Error

SIZE = 28
"""Side of a dataset's images, in pixels."""
CLASSES = 10
NO_CLASS = CLASSES
"""The label of an image that shows none of the classes."""


@dataclass(frozen=True)
class Examples:
    """Images and labels that know which split they belong to.

    Attributes:
        images: uint8, (N, 28, 28).
        labels: uint8, (N,): 0 to 9, or `NO_CLASS`.
        indices: int64, (N,): the position of each in the dataset's file; -1 for outliers.
        split: where they come from; only "test" may be scored, only the others chosen by.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    indices: NDArray[np.int64]
    split: Literal["train", "validation", "test"]

    def __len__(self) -> int:
        return len(self.images)

    def take(self, positions: NDArray[np.int64]) -> Examples:
        """The examples at `positions`, in that order."""
        return Examples(
            self.images[positions], self.labels[positions], self.indices[positions], self.split
        )


def load_training(
    dataset: str, data_dir: Path | None, validation_split: float, seed: int
) -> tuple[Examples, Examples]:
    """Training and validation examples; the files of the test set are not opened.

    Args:
        dataset: as `datasets.load` takes it.
        data_dir: as `datasets.load` takes it.
        validation_split: share of every class that is held out of the training set.
        seed: decides which ones.

    Raises:
        Error: as `datasets.load`, or there are too few images to hold any out.
    """
    data = datasets.load(dataset, "train", data_dir)
    held_out = stratified_mask(data.labels, validation_split, seed)
    if not held_out.any():
        raise Error(
            f"{dataset}: no class has two images, so none can be held out for validation; "
            f"expected more than its {len(data.labels)} training images"
        )

    def part(mask: NDArray[np.bool_], split: Literal["train", "validation"]) -> Examples:
        return Examples(data.images[mask], data.labels[mask], np.flatnonzero(mask), split)

    return part(~held_out, "train"), part(held_out, "validation")


def with_outliers(examples: Examples, share: float, seed: int) -> Examples:
    """Training examples and, after them, drawn pictures that show none of the classes.

    Args:
        examples: training examples.
        share: how many outliers, as a fraction of the examples.
        seed: decides what is drawn.
    """
    count = round(share * len(examples))
    return Examples(
        np.concatenate([examples.images, outliers.draw(count, seed)]),
        np.concatenate([examples.labels, np.full(count, NO_CLASS, np.uint8)]),
        np.concatenate([examples.indices, np.full(count, -1)]),
        examples.split,
    )


def load_test(dataset: str, data_dir: Path | None) -> Examples:
    """The test examples, for the final score alone.

    Raises:
        Error: as `datasets.load`, or there are none.
    """
    data = datasets.load(dataset, "test", data_dir)
    if not len(data.labels):
        raise Error(f"{dataset}: its test set is empty; expected at least one image to score")
    return Examples(data.images, data.labels, np.arange(len(data.labels)), "test")


def stratified_mask(labels: NDArray[np.uint8], share: float, seed: int) -> NDArray[np.bool_]:
    """Choose `share` of each class at random: bool, (N,).

    Rounded per class, but at least one example is chosen and one is left where a class has two.
    """
    generator = np.random.default_rng(seed)
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        chosen[members[:count]] = True
    return chosen


def training_batches(
    examples: Examples,
    strengths: augment.Strengths,
    *,
    size: int,
    batch_size: int,
    seed: int,
    epochs: range,
) -> tf.data.Dataset:
    """Shuffled, augmented batches, one epoch after the other.

    Every epoch has `steps_per_epoch` full batches; the few images left over differ each epoch.

    Args:
        examples: training examples; test examples are refused.
        strengths: the recipe's `augment` section.
        size: side of the model's input, in pixels.
        batch_size: images in a batch.
        seed: with the epoch, decides the order and each image's warp.
        epochs: which epochs to yield, so that a resumed run sees what it would have seen.

    Returns:
        Dataset of (float32 (batch, size, size, 1) in [0, 1], int32 (batch,)).
    """
    _refuse_test(examples)
    count, steps = len(examples), steps_per_epoch(examples, batch_size)
    with tf.device("CPU"):  # tf.data runs there, whatever the model runs on
        images = tf.constant(examples.images[..., np.newaxis])
        labels = tf.constant(examples.labels, tf.int32)

    def epoch_batches(epoch: tf.Tensor) -> tf.data.Dataset:
        stream = tf.stack([tf.constant(seed, tf.int64), epoch])
        order_seed, draws_seed = tf.unstack(tf.random.split(stream, 2, alg="philox"))
        order = tf.random.experimental.stateless_shuffle(tf.range(count), order_seed, alg="philox")
        draws = tf.random.stateless_uniform(
            [count, augment.PARAMETERS], draws_seed, -1, 1, alg="philox"
        )
        batches = tf.reshape(order[: steps * batch_size], [steps, batch_size])
        chosen = tf.data.Dataset.from_tensor_slices(batches)
        return chosen.map(lambda batch: (batch, tf.gather(draws, batch)))

    def load(batch: tf.Tensor, draws: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        transforms = augment.affine(draws, strengths, SIZE, size)
        return augment.warp(tf.gather(images, batch), transforms, size), tf.gather(labels, batch)

    numbers = tf.data.Dataset.range(epochs.start, epochs.stop)
    return (
        numbers.flat_map(epoch_batches)
        .map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .prefetch(tf.data.AUTOTUNE)
    )


def steps_per_epoch(examples: Examples, batch_size: int) -> int:
    """Full batches in an epoch; at least one, since `batch_size` may not exceed the examples."""
    return len(examples) // batch_size


def plain_batches(examples: Examples, size: int, batch_size: int = 240) -> tf.data.Dataset:
    """Every example once, in order, resized and nothing else.

    Keras needs the first batch to divide evenly among mirrored GPUs: 240 does, for 2 to 6 and 8.

    Returns:
        Dataset of (float32 (batch, size, size, 1) in [0, 1], int32 (batch,)).
    """
    images = examples.images[..., np.newaxis]
    pairs = tf.data.Dataset.from_tensor_slices((images, examples.labels.astype(np.int32)))
    return (
        pairs.batch(batch_size)
        .map(lambda batch, labels: (augment.resize(augment.to_unit(batch), size), labels))
        .cache()  # the same small set is scored every epoch
        .prefetch(tf.data.AUTOTUNE)
    )


def calibration_examples(examples: Examples, count: int, seed: int) -> Examples:
    """A class-balanced choice of training examples, for a representative dataset.

    Args:
        examples: training examples; test examples are refused.
        count: how many; rounded down to a multiple of the number of classes.
        seed: decides which ones.
    """
    _refuse_test(examples)
    generator = np.random.default_rng(seed)
    classes = np.unique(examples.labels)
    chosen = [
        generator.permutation(np.flatnonzero(examples.labels == label))[: count // len(classes)]
        for label in classes
    ]
    return examples.take(np.sort(np.concatenate(chosen)))


def _refuse_test(examples: Examples) -> None:
    if examples.split == "test":
        raise ValueError("the test set is for the final score: not for training or calibration")
