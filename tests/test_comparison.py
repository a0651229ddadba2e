"""Statistics on the same images, against hand-computed cases and other libraries' figures."""

import numpy as np
import pytest

from keras_lenet.stages import comparison


@pytest.mark.parametrize(
    ("correct", "total", "expected"),
    [
        # Computed with statsmodels.stats.proportion.proportion_confint(method="wilson").
        (9_950, 10_000, (0.99341437, 0.99620526)),
        (0, 10, (0.0, 0.27753280)),
        (10, 10, (0.72246720, 1.0)),
    ],
)
def test_wilson_interval(correct, total, expected):
    assert comparison.wilson_interval(correct, total) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    # By hand: twice the tail of a fair coin, (1 + 10 + 45) / 1024 * 2 for 2 against 8.
    [(0, 0, 1.0), (5, 5, 1.0), (2, 8, 112 / 1024), (0, 6, 2 / 64)],
)
def test_mcnemar_is_exact(only_first, only_second, p):
    first = np.array([True] * only_first + [False] * only_second + [True, False])
    second = np.array([False] * only_first + [True] * only_second + [True, False])
    found = comparison.mcnemar(first, second)
    assert (found["only_first"], found["only_second"]) == (only_first, only_second)
    assert found["p"] == pytest.approx(p)


def test_comparing_counts_what_differs_by_true_class():
    labels = np.array([0, 0, 1, 1, 9], np.uint8)
    first = np.array([0, 1, 1, 7, 9])
    second = np.array([0, 0, 2, 3, 9])
    found = comparison.compare(first, second, labels)
    assert (found["only_first"], found["only_second"], found["differ"]) == (1, 1, 3)
    assert found["differ_by_class"] == [1, 2, 0, 0, 0, 0, 0, 0, 0, 0]
    assert found["agreement"] == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("only_first", "only_second", "expected"),
    [
        (0, 0, "A and B give the same class on every one of 100 images."),
        (2, 8, "A and B are indistinguishable on this test set: 2 of 100 images"),
        (0, 6, "B is better than A on this test set, by 6.00% of the images: 0 of 100"),
        (9, 1, "A is better than B on this test set, by 8.00% of the images: 9 of 100"),
    ],
)
def test_the_verdict_says_no_more_than_the_numbers(only_first, only_second, expected):
    labels = np.zeros(100, np.uint8)
    first, second = np.zeros(100, int), np.zeros(100, int)
    second[:only_first] = 1
    first[only_first : only_first + only_second] = 1
    pair = comparison.compare(first, second, labels)
    assert comparison.verdict(pair, "A", "B", 100).startswith(expected)
