"""Statistics on the same images, against hand-computed cases and other libraries' figures."""

import numpy as np
import pytest

from keras_lenet.evaluation import significance


@pytest.mark.parametrize(
    ("correct", "total", "expected"),
    [
        # Computed with scipy.stats.binomtest(…).proportion_ci(method="wilson").
        (9_950, 10_000, (0.99341474, 0.99620510)),
        (9, 10, (0.59584998, 0.98212384)),
        (0, 10, (0.0, 0.27753280)),
        (10, 10, (0.72246720, 1.0)),
        (1, 1, (0.20654931, 1.0)),
    ],
)
def test_wilson_interval(correct, total, expected):
    low, high = significance.wilson_interval(correct, total)
    assert (low, high) == pytest.approx(expected, abs=1e-7)
    assert 0 <= low < high <= 1
    if 0 < correct < total:
        # The ends solve Wilson's equation, whatever z is.
        share, z = correct / total, 1.959964
        for end in (low, high):
            assert (share - end) ** 2 == pytest.approx(z * z * end * (1 - end) / total)


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    # By hand: twice the tail of a fair coin, (1 + 10 + 45) / 1024 * 2 for 2 against 8.
    [(0, 0, 1.0), (5, 5, 1.0), (2, 8, 112 / 1024), (0, 6, 2 / 64), (1, 6, 0.125), (6, 1, 0.125)],
)
def test_mcnemar_is_exact(only_first, only_second, p):
    labels = np.zeros(only_first + only_second + 2, np.uint8)
    first = np.array([0] * only_first + [1] * only_second + [0, 1])
    second = np.array([1] * only_first + [0] * only_second + [0, 1])
    found = significance.mcnemar(first, second, labels)
    assert (found.only_first, found.only_second) == (only_first, only_second)
    assert found.p == pytest.approx(p)


def test_differing_classes_are_counted_by_true_class():
    labels = np.array([0, 0, 1, 1, 9], np.uint8)
    found = significance.mcnemar(np.array([0, 1, 1, 7, 9]), np.array([0, 0, 2, 3, 9]), labels)
    assert (found.only_first, found.only_second, found.differ) == (1, 1, 3)
    assert found.differ_by_class == (1, 2, 0, 0, 0, 0, 0, 0, 0, 0)
    assert found.agreement == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("only_first", "only_second", "expected"),
    [
        (0, 0, "A and B give the same class on every one of 1,000 images."),
        (
            2, 8, "A and B are indistinguishable on this test set: 2 of 1,000 images are right in "
            "A alone, 8 in B alone, p = 0.11.",
        ),
        (
            0, 5, "A and B are indistinguishable on this test set: 0 of 1,000 images are right in "
            "A alone, 5 in B alone, p = 0.062.",
        ),
        (
            0, 6, "B is better than A on this test set, by 0.60% of the images: 0 of 1,000 images "
            "are right in A alone, 6 in B alone, p = 0.031.",
        ),
        (
            9, 1, "A is better than B on this test set, by 0.80% of the images: 9 of 1,000 images "
            "are right in A alone, 1 in B alone, p = 0.021.",
        ),
    ],
)  # fmt: skip
def test_verdict_claims_a_difference_below_five_percent_alone(only_first, only_second, expected):
    labels = np.zeros(1000, np.uint8)
    first, second = np.zeros(1000, int), np.zeros(1000, int)
    second[:only_first] = 1
    first[only_first : only_first + only_second] = 1
    pair = significance.mcnemar(first, second, labels)
    assert significance.verdict(pair, "A", "B", 1000) == expected


def test_mistakes_of_both_models_are_no_difference_in_score():
    pair = significance.mcnemar(np.full(4, 1), np.full(4, 2), np.zeros(4, np.uint8))
    assert (pair.differ, pair.p) == (4, 1.0)
    assert significance.verdict(pair, "A", "B", 4).startswith("A and B are indistinguishable")
    at_the_border = pair.model_copy(update={"only_first": 6, "p": 0.05})
    assert "indistinguishable" in significance.verdict(at_the_border, "A", "B", 10)


def test_intervals_of_all_and_of_none_end_at_the_border():
    for total in range(1, 200):
        assert significance.wilson_interval(total, total)[1] <= 1
        assert significance.wilson_interval(0, total)[0] >= 0
