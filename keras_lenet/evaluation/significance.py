"""Statistics on the same images: a score's interval, and the difference of two models."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from keras_lenet.evaluation.metrics import McNemar

SIGNIFICANT = 0.05


def wilson_interval(correct: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """Return the score interval of a proportion, 95 % by default (Wilson 1927).

    It stays inside [0, 1] near 100 %, where the textbook interval does not.
    """
    share = correct / total
    centre = share + z * z / (2 * total)
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max((centre - spread) / scale, 0.0), min((centre + spread) / scale, 1.0)


def mcnemar(
    first: NDArray[np.int64], second: NDArray[np.int64], labels: NDArray[np.uint8]
) -> McNemar:
    """Compare two models' answers to the same images by the exact McNemar test (1947).

    Args:
        first: classes that the first model gives, (N,).
        second: classes that the second model gives, (N,).
        labels: true classes, (N,).
    """
    right, other = first == labels, second == labels
    only_first, only_second = int((right & ~other).sum()), int((other & ~right).sum())
    discordant, differ = only_first + only_second, first != second
    return McNemar(
        only_first=only_first,
        only_second=only_second,
        p=float(binomtest(only_first, discordant).pvalue) if discordant else 1.0,
        differ=int(differ.sum()),
        differ_by_class=np.bincount(labels[differ], minlength=10).tolist(),
        agreement=float(1 - differ.mean()),
    )


def verdict(pair: McNemar, first: str, second: str, images: int) -> str:
    """Return the result of a comparison in one sentence, which claims no more than the test.

    Args:
        pair: counts of the comparison.
        first: name of the first model.
        second: name of the second model.
        images: number of images.
    """
    counts = (
        f"{pair.only_first} of {images:,} images are right in {first} alone, "
        f"{pair.only_second} in {second} alone, p = {pair.p:.2g}"
    )
    if not pair.differ:
        return f"{first} and {second} give the same class on every one of {images:,} images."
    if pair.p >= SIGNIFICANT:
        return f"{first} and {second} are indistinguishable on this test set: {counts}."
    ahead = pair.only_first - pair.only_second
    better, worse = (first, second) if ahead > 0 else (second, first)
    return (
        f"{better} is better than {worse} on this test set, by {abs(ahead) / images:.2%} of the "
        f"images: {counts}."
    )
