"""Which of the marks on a page are the digit: connected components and what belongs together."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Grey = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]

_PART = 0.04  # a part of the digit has at least this share of the largest part's ink
_NEAR = 0.3  # and lies within this share of its longer side


def select_digit(rise: Grey, mask: Mask) -> tuple[Mask, float, int]:
    """The connected components that form the digit.

    Args:
        rise: (H, W), how far each pixel stands out from the page.
        mask: (H, W), which pixels are ink.

    Returns:
        Their mask (H, W), their share of all the ink, and how many components are left out.
    """
    runs, component = _components(mask)
    row, start, end = runs.T
    totals = np.concatenate([[0.0], np.cumsum(rise, dtype=np.float64)])
    width = mask.shape[1]
    ink = np.bincount(component, totals[row * width + end] - totals[row * width + start]).astype(
        float
    )
    kept = _belong_together(ink, _boxes(runs, component), mask.shape)
    edges = np.zeros((mask.shape[0], width + 1), np.int8)
    chosen = kept[component]
    edges[row[chosen], start[chosen]] = 1
    edges[row[chosen], end[chosen]] = -1
    digit = np.cumsum(edges, axis=1)[:, :-1] > 0
    return digit, float(ink[kept].sum() / ink.sum()), int(len(kept) - kept.sum())


def _boxes(runs: NDArray[np.int64], component: NDArray[np.int64]) -> NDArray[np.int64]:
    """Left, top, right and bottom edge of each component, (C, 4)."""
    row, start, end = runs.T
    count = int(component.max()) + 1
    boxes = np.zeros((count, 4), np.int64)
    boxes[:, :2] = np.iinfo(np.int64).max
    for side, values in enumerate((start, row)):
        np.minimum.at(boxes[:, side], component, values)
    for side, values in enumerate((end, row + 1), start=2):
        np.maximum.at(boxes[:, side], component, values)
    return boxes


def _belong_together(
    ink: NDArray[np.float64], boxes: NDArray[np.int64], shape: tuple[int, ...]
) -> Mask:
    """Which components, (C,), are the digit: the main one and what is near it and not small."""
    left, top, right, bottom = boxes.T
    free = (left > 0) & (top > 0) & (right < shape[1]) & (bottom < shape[0])
    # What runs into the border is rather a shadow, a finger or a line, unless it is far larger.
    main = int(np.argmax(ink * np.where(free, 4, 1)))
    reach = _NEAR * max(right[main] - left[main], bottom[main] - top[main])
    gaps = [left[main] - right, left - right[main], top[main] - bottom, top - bottom[main]]
    near = np.maximum.reduce(gaps) <= reach
    return np.asarray(near & (ink >= _PART * ink[main]) & (free | ~free[main]))


def _components(mask: Mask) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Runs of set pixels (row, start, end), (R, 3), and the 8-connected component of each, (R,).

    A run joins those of the row above that it touches, by union-find.
    """
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    row, start = np.nonzero(edges == 1)
    end = np.nonzero(edges == -1)[1]
    parent = list(range(len(row)))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = parent[parent[run]]
            run = parent[run]
        return run

    rows, starts, ends = row.tolist(), start.tolist(), end.tolist()
    above = 0
    for run, line in enumerate(rows):
        while rows[above] < line - 1 or (rows[above] < line and ends[above] < starts[run]):
            above += 1
        other = above
        while rows[other] == line - 1 and starts[other] <= ends[run]:
            parent[root(run)] = root(other)
            other += 1
    roots = np.array([root(run) for run in range(len(rows))])
    _, component = np.unique(roots, return_inverse=True)
    return np.stack([row, start, end], axis=1), component
