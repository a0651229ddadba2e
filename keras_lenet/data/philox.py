"""Single rows of TensorFlow's stateless random numbers, without those of all other rows.

Philox numbers its draws, so that any can be computed alone: Salmon, Moraes, Dror and Shaw,
"Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

_ROUNDS = 10
_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = np.uint32(0x9E3779B9), np.uint32(0xBB67AE85)


def uniform(rows: tf.Tensor, columns: int, seed: tf.Tensor) -> tf.Tensor:
    """Rows of `tf.random.stateless_uniform([N, columns], seed, -1, 1, alg="philox")`, bit for bit.

    Args:
        rows: integers, (n,): which rows, each below an N that is of no account.
        columns: numbers in a row.
        seed: int64, (2,).

    Returns:
        float32, (n, columns), in [-1, 1).
    """
    key, counter = tf.raw_ops.StatelessRandomGetKeyCounter(seed=seed)
    first = tf.cast(rows, tf.uint64) * columns  # in the whole, row after row
    # Four numbers make a block: so many cover a row that begins anywhere in one.
    blocks = first[:, tf.newaxis] // 4 + tf.cast(tf.range((columns + 6) // 4), tf.uint64)
    words = tf.reshape(_philox(blocks, counter[1], key[0]), [-1, 4 * blocks.shape[1]])
    places = tf.cast(first % 4, tf.int32)[:, tf.newaxis] + tf.range(columns)
    mantissas = tf.gather(words, places, batch_dims=1) & np.uint32(0x7FFFFF)
    return (tf.bitcast(mantissas | np.uint32(0x3F800000), tf.float32) - 1) * 2 - 1  # from [1, 2)


def _philox(low: tf.Tensor, high: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
    """Philox4x32-10 of the counters (high, low), uint64 both: uint32, (*low.shape, 4)."""
    a, b = _halves(low)
    c, d = _halves(tf.fill(tf.shape(low), high))
    first_key, second_key = _halves(key)
    for _ in range(_ROUNDS):
        low_a, high_a = _halves(tf.cast(a, tf.uint64) * _MULTIPLIERS[0])
        low_c, high_c = _halves(tf.cast(c, tf.uint64) * _MULTIPLIERS[1])
        a, b, c, d = high_c ^ b ^ first_key, low_c, high_a ^ d ^ second_key, low_a
        first_key, second_key = first_key + _WEYL[0], second_key + _WEYL[1]
    return tf.stack([a, b, c, d], axis=-1)


def _halves(whole: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The low and the high 32 bits of uint64."""
    high = tf.bitwise.right_shift(whole, np.uint64(32))
    return tf.cast(whole, tf.uint32), tf.cast(high, tf.uint32)
