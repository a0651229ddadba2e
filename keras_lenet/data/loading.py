"""The tf.data pipeline from uint8 images to batches: split, shuffle, gather, augment, prefetch.

(seed, epoch, index) alone decides an image's augmentation and its place in the epoch, whatever the
batch size, the number of threads, or the epoch at which a run resumes.

The pixels of an uncompressed file stay on disk. Labels, indices, an epoch's order and its draws are
in memory: about 110 bytes an image, against 784 for the pixels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_lenet.data import augment, outliers, reading
from keras_lenet.errors import Error

if TYPE_CHECKING:
    from keras_lenet.recipe import Augment, Degrade

SIZE = 28
"""Side of a dataset's images, in pixels."""
CLASSES = 10
NO_CLASS = CLASSES
"""Label of an OOD example, which shows none of the classes."""
ROUND, VALIDATION = "round-{:03}.npy", "validation.npy"
"""Files of teacher logits: of the training images as augmented in a round, and of the held-out
validation split."""
UNTUNED = tf.data.Options()
"""Disable autotune: its thread can delay an iterator's end by up to a minute. AUTOTUNE still
means one batch for each core, and as many ahead as are asked for."""
UNTUNED.autotune.enabled = False


@dataclass(frozen=True)
class Rows:
    """Images of a mapped file, uint8 (N, 28, 28), at positions, int64 (M,); read when indexed."""

    images: NDArray[np.uint8]
    positions: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, key: int | slice | NDArray[np.int64]) -> NDArray[np.uint8]:
        return self.images[self.positions[key]]


Pixels: TypeAlias = NDArray[np.uint8] | Rows


@dataclass(frozen=True)
class Examples:
    """Images and labels of one split.

    Attributes:
        images: uint8, (N, 28, 28), in memory or in a mapped file.
        labels: uint8, (N,): 0 to 9, or `NO_CLASS`.
        indices: int64, (N,): positions in the dataset's file; -1 for OOD examples.
        split: only "test" may be scored, only the others may decide a choice.
    """

    images: Pixels
    labels: NDArray[np.uint8]
    indices: NDArray[np.int64]
    split: Literal["train", "validation", "test"]

    def __len__(self) -> int:
        return len(self.images)

    def take(self, positions: NDArray[np.int64]) -> Examples:
        """Return the examples at `positions`, in that order, in memory."""
        return Examples(
            self.images[positions], self.labels[positions], self.indices[positions], self.split
        )


@dataclass(frozen=True)
class TeacherLogits:
    """Teacher logits of augmented training images and of plain validation images.

    Attributes:
        seed: decides the training images' augmentation.
        training: float16, (rounds, N, 10).
        validation: float16, (M, 10).
    """

    seed: int
    training: NDArray[np.float16]
    validation: NDArray[np.float16]

    @classmethod
    def read(cls, folder: Path, seed: int, rounds: int) -> TeacherLogits:
        """Read the files of a finished distill stage in `folder`."""
        training = [np.load(folder / ROUND.format(number)) for number in range(rounds)]
        return cls(seed, np.stack(training), np.load(folder / VALIDATION))


def load_training(
    dataset: str, data_dir: Path | None, validation_split: float, seed: int
) -> tuple[Examples, Examples]:
    """Load training and validation examples; the files of the test set are not opened.

    The seed decides which share `validation_split` of every class is held out.

    Raises:
        Error: as `reading.load`, or there are too few images to hold any out.
    """
    data = reading.load(dataset, "train", data_dir)
    held_out = stratified_mask(data.labels, validation_split, seed)
    if not held_out.any():
        raise Error(
            f"{dataset}: no class has two images, so none can be held out for validation; "
            f"expected more than its {len(data.labels)} training images"
        )

    def part(mask: NDArray[np.bool_], split: Literal["train", "validation"]) -> Examples:
        indices = np.flatnonzero(mask)
        mapped = isinstance(data.images, np.memmap)
        images = Rows(data.images, indices) if mapped else data.images[indices]
        return Examples(images, data.labels[mask], indices, split)

    return part(~held_out, "train"), part(held_out, "validation")


def load_test(dataset: str, data_dir: Path | None) -> Examples:
    """Load the test examples, for the final score alone; raises Error as `reading.load` does."""
    data = reading.load(dataset, "test", data_dir)
    return Examples(data.images, data.labels, np.arange(len(data.labels)), "test")


def with_outliers(examples: Examples, share: float, seed: int) -> Examples:
    """Append drawn OOD examples, `share` times as many as the training examples."""
    count = round(share * len(examples))
    if not count:
        return examples
    return Examples(
        np.concatenate([examples.images[:], outliers.draw(count, seed)]),
        np.concatenate([examples.labels, np.full(count, NO_CLASS, np.uint8)]),
        np.concatenate([examples.indices, np.full(count, -1)]),
        examples.split,
    )


def stratified_mask(labels: NDArray[np.uint8], share: float, seed: int) -> NDArray[np.bool_]:
    """Choose `share` of each class at random, at least one and not all: bool, (N,)."""
    generator = np.random.default_rng(seed)
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        chosen[members[:count]] = True
    return chosen


def steps_per_epoch(examples: Examples, batch_size: int) -> int:
    """Count the full batches in an epoch."""
    return len(examples) // batch_size


def training_batches(
    examples: Examples,
    augmentation: Augment,
    degradation: Degrade | None = None,
    *,
    size: int,
    batch_size: int,
    seed: int,
    epochs: range,
    teachers: TeacherLogits | None = None,
    context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """Make shuffled, augmented batches, one epoch after the other.

    Every epoch has `steps_per_epoch` full batches; the few images left over differ each epoch.
    Batches are images, float32 (batch, size, size, 1) in [0, 1], and labels, int32 (batch,); with
    teachers, labels and teacher logits, float32 (batch, 1 + 10).

    Args:
        examples: training examples; test examples are refused.
        augmentation: its limits.
        degradation: its limits.
        size: side of the model's input, in pixels.
        batch_size: images in a batch.
        seed: decides, with the epoch, the order and each image's augmentation.
        epochs: numbers of the epochs; a resumed run continues with the same batches.
        teachers: teacher logits; their seed and round then decide the augmentation.
        context: this host. Each batch is cut into one share for each device of all hosts; the
            shares of this host's devices are yielded, one after the other.
    """
    _refuse_test(examples)
    count, steps = len(examples), steps_per_epoch(examples, batch_size)
    devices = context.num_replicas_in_sync if context else 1
    local = devices // context.num_input_pipelines if context else 1
    first = context.input_pipeline_id * local if context else 0
    share = batch_size // devices
    images_at = _reader(examples.images)
    with tf.device("CPU"):  # tf.data runs there, whatever the model runs on
        labels = tf.constant(examples.labels)
        logits = tf.constant(teachers.training) if teachers else None
    change = augment.augmenter(augmentation, degradation, SIZE, size)

    def epoch_batches(epoch: tf.Tensor) -> tf.data.Dataset:
        order_seed, _ = _seeds(seed, epoch)
        order = tf.random.experimental.stateless_shuffle(tf.range(count), order_seed, alg="philox")
        shares = tf.reshape(order[: steps * batch_size], [steps, devices, share])
        batches = tf.reshape(shares[:, first : first + local], [steps * local, share])
        turn = epoch % len(teachers.training) if teachers else epoch
        draws_at = _drawer(count, teachers.seed if teachers else seed, turn)
        chosen = tf.data.Dataset.from_tensor_slices(batches)
        return chosen.map(lambda batch: (batch, draws_at(batch), turn))

    def load(batch: tf.Tensor, draws: tf.Tensor, turn: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        targets = tf.cast(tf.gather(labels, batch), tf.int32)
        if logits is not None:
            targets = _targets(targets, tf.gather(logits[turn], batch))
        return change(images_at(batch), draws), targets

    batches = tf.data.Dataset.range(epochs.start, epochs.stop).flat_map(epoch_batches)
    batches = batches.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return batches.prefetch(tf.data.AUTOTUNE).with_options(UNTUNED)


def augmented_in_order(
    examples: Examples, augmentation: Augment, *, size: int, seed: int, epoch: int
) -> tf.data.Dataset:
    """Augment every training example once, in order, as `training_batches` does in this epoch.

    Batches are float32 (256, size, size, 1) in [0, 1]; the last may be smaller.
    """
    _refuse_test(examples)
    change = augment.augmenter(augmentation, None, SIZE, size)
    draws_at = _drawer(len(examples), seed, tf.constant(epoch, tf.int64))
    images_at = _reader(examples.images)
    batches = tf.data.Dataset.range(len(examples)).batch(256)
    changed = batches.map(lambda batch: change(images_at(batch), draws_at(batch)))
    return changed.prefetch(tf.data.AUTOTUNE).with_options(UNTUNED)


def plain_batches(
    examples: Examples, size: int, batch_size: int = 240, teachers: TeacherLogits | None = None
) -> tf.data.Dataset:
    """Yield every example once, in order, resized and nothing else.

    With `teachers` the examples are the validation examples. Images and targets are as in
    `training_batches`.
    """
    images_at = _reader(examples.images)
    with tf.device("CPU"):
        targets = tf.constant(examples.labels.astype(np.int32))
        if teachers:
            targets = _targets(targets, tf.constant(teachers.validation))

    def load(batch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        unit = augment.to_unit(images_at(batch))
        return augment.resize(unit, size), tf.gather(targets, batch)

    batches = tf.data.Dataset.range(len(examples)).batch(batch_size).map(load)
    if not isinstance(examples.images, Rows):
        batches = batches.cache()  # the same small set is scored every epoch
    return batches.prefetch(tf.data.AUTOTUNE).with_options(UNTUNED)


def calibration_examples(examples: Examples, count: int, seed: int) -> Examples:
    """Choose equally many training examples of each class, at most `count`, for calibration."""
    _refuse_test(examples)
    generator = np.random.default_rng(seed)
    classes = np.unique(examples.labels)
    chosen = [
        generator.permutation(np.flatnonzero(examples.labels == label))[: count // len(classes)]
        for label in classes
    ]
    return examples.take(np.sort(np.concatenate(chosen)))


def _seeds(seed: int, epoch: tf.Tensor) -> list[tf.Tensor]:
    """Return a seed for the order and a seed for the draws."""
    stream = tf.stack([tf.constant(seed, tf.int64), epoch])
    return tf.unstack(tf.random.split(stream, 2, alg="philox"))


def _reader(images: Pixels) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return a function from positions (n,) to images: uint8, (n, 28, 28, 1)."""
    if not isinstance(images, Rows):
        with tf.device("CPU"):  # tf.data runs there, whatever the model runs on
            held = tf.constant(images[..., np.newaxis])
        return functools.partial(tf.gather, held)

    def read(positions: tf.Tensor) -> tf.Tensor:
        found = tf.numpy_function(images.__getitem__, [positions], tf.uint8, stateful=False)
        return tf.ensure_shape(found, [*positions.shape, SIZE, SIZE])[..., tf.newaxis]

    return read


def _drawer(count: int, seed: int, epoch: tf.Tensor) -> Callable[[tf.Tensor], tf.Tensor]:
    """Draw numbers for every image; return a function from positions (n,) to (n, 18) of them.

    The streams are joined for a batch alone: joined for all images, they would be in memory twice.
    """
    _, first = _seeds(seed, epoch)
    streams = [
        tf.random.stateless_uniform([count, numbers], first + stream, -1, 1, alg="philox")
        for stream, numbers in enumerate(augment.STREAMS)
    ]
    return lambda batch: tf.concat([tf.gather(stream, batch) for stream in streams], axis=1)


def _targets(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Join labels (N,) and teacher logits (N, 10): float32 (N, 11)."""
    labels, logits = tf.cast(labels, tf.float32), tf.cast(logits, tf.float32)
    return tf.concat([labels[:, tf.newaxis], logits], axis=1)


def _refuse_test(examples: Examples) -> None:
    if examples.split == "test":
        raise ValueError("the test set is for the final score: not for training or calibration")
