"""How sure a score is, and whether two models differ: statistics on the same images."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

SIGNIFICANT = 0.05


def wilson_interval(correct: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """The score interval of a proportion, 95 % by default (Wilson 1927).

    It stays inside [0, 1] near 100 %, where the textbook interval does not.
    """
    share = correct / total
    centre = share + z * z / (2 * total)
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max((centre - spread) / scale, 0.0), min((centre + spread) / scale, 1.0)


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> dict[str, Any]:
    """Compare two models on the same images by McNemar's test (1947), exact.

    Args:
        first: where the first model is right, (N,).
        second: where the second is.

    Returns:
        On how many images only the one or only the other is right, and the two-sided probability
        of so uneven a division if neither is better.
    """
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    discordant = only_first + only_second
    p = float(binomtest(only_first, discordant).pvalue) if discordant else 1.0
    return {"only_first": only_first, "only_second": only_second, "p": p}


def compare(
    first: NDArray[np.int64], second: NDArray[np.int64], labels: NDArray[np.uint8]
) -> dict[str, Any]:
    """Compare two models' answers to the same images.

    Args:
        first: one model's classes, (N,).
        second: the other's.
        labels: the true ones.

    Returns:
        McNemar's counts and p, on how many images the classes differ, and on how many of each
        true class.
    """
    differ = first != second
    return mcnemar(first == labels, second == labels) | {
        "differ": int(differ.sum()),
        "differ_by_class": np.bincount(labels[differ], minlength=10).tolist(),
        "agreement": float(1 - differ.mean()),
    }


def verdict(pair: dict[str, Any], first: str, second: str, images: int) -> str:
    """What a comparison carries, and no more, in one sentence.

    Args:
        pair: what `compare` returned.
        first: the first model's name.
        second: the second's.
        images: how many there were.
    """
    counts = (
        f"{pair['only_first']} of {images:,} images are right in {first} alone, "
        f"{pair['only_second']} in {second} alone, p = {pair['p']:.2g}"
    )
    if not pair["differ"]:
        return f"{first} and {second} give the same class on every one of {images:,} images."
    if pair["p"] >= SIGNIFICANT:
        return f"{first} and {second} are indistinguishable on this test set: {counts}."
    ahead = pair["only_first"] - pair["only_second"]
    better, worse = (first, second) if ahead > 0 else (second, first)
    return (
        f"{better} is better than {worse} on this test set, by {abs(ahead) / images:.2%} of the "
        f"images: {counts}."
    )
