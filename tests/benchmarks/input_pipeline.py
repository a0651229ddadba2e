"""Input pipeline against chained Keras preprocessing layers, same strengths, same process.

    python tests/benchmarks/input_pipeline.py

Prints images/s of both, and the ratio, over interleaved rounds; fails below 3×.
"""

import statistics
import time

import keras
import numpy as np
import tensorflow as tf

from keras_lenet.data import loading
from keras_lenet.recipe import Augment

IMAGES, BATCH, ROUNDS = 60_000, 256, 5
STRENGTHS = Augment(rotate=10.0, shift=2.0, zoom=0.1, shear=0.0)


def ours(examples):
    """Batches of one epoch of this project's pipeline."""
    return loading.training_batches(
        examples, STRENGTHS, size=32, batch_size=BATCH, seed=0, epochs=range(1)
    )


def chained(examples):
    """The same augmentation as a chain of Keras layers inside tf.data."""
    layers = keras.Sequential(
        [
            keras.layers.Rescaling(1 / 255),
            keras.layers.RandomRotation(STRENGTHS.rotate / 360, fill_mode="nearest"),
            keras.layers.RandomTranslation(
                STRENGTHS.shift / 28, STRENGTHS.shift / 28, fill_mode="nearest"
            ),
            keras.layers.RandomZoom(STRENGTHS.zoom, fill_mode="nearest"),
            keras.layers.Resizing(32, 32),
        ]
    )
    images = examples.images[..., np.newaxis]
    data = tf.data.Dataset.from_tensor_slices((images, examples.labels))
    return (
        data.shuffle(10_000, seed=0)
        .batch(BATCH, drop_remainder=True)
        .map(lambda x, y: (layers(x, training=True), y), num_parallel_calls=tf.data.AUTOTUNE)
        .prefetch(tf.data.AUTOTUNE)
    )


def images_per_second(dataset):
    """Speed of a dataset's batches after the first, which traces and fills buffers."""
    batches = iter(dataset)
    next(batches)
    start = time.perf_counter()
    count = sum(len(labels) for _, labels in batches)
    return count / (time.perf_counter() - start)


def main():
    """Print one line a pipeline, and the ratio; exit with 1 below 3×."""
    generator = np.random.default_rng(0)
    examples = loading.Examples(
        generator.integers(0, 256, (IMAGES, 28, 28), np.uint8),
        generator.integers(0, 10, IMAGES, np.uint8),
        np.arange(IMAGES),
        "train",
    )
    one_warp, chain = ours(examples), chained(examples)
    speeds = [(images_per_second(one_warp), images_per_second(chain)) for _ in range(ROUNDS)]
    ratios = sorted(fast / slow for fast, slow in speeds)
    for name, values in zip(("one warp", "chained layers"), zip(*speeds, strict=True), strict=True):
        print(f"{name:15} {statistics.median(values):10,.0f} images/s (median of {ROUNDS})")
    ratio = statistics.median(ratios)
    print(f"ratio           {ratio:10.1f}   ({ratios[0]:.1f} to {ratios[-1]:.1f})")
    if ratio < 3:
        raise SystemExit("the one warp should be at least 3 times as fast")


if __name__ == "__main__":
    main()
