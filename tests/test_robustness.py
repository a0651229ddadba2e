"""Accuracy on corrupted images, for two corruptions that can be counted by hand."""

import numpy as np
import pytest

from keras_lenet.data import corruptions
from keras_lenet.edge.prepare import prepare
from keras_lenet.evaluation import robustness


def answers(digit_of):
    """A stand-in for a model, which answers by the images' mean level."""
    return lambda images: np.eye(10, dtype=np.float32)[digit_of(images.mean((1, 2)))]


ALWAYS_0 = answers(lambda mean: np.zeros(len(mean), int))
ONE_IF_WHITE = answers(lambda mean: (mean == 255).astype(int))
NEVER = answers(lambda mean: np.full(len(mean), 9))
IMAGES = np.zeros((20, 28, 28), np.uint8)
for number in range(20):
    IMAGES[number, 4 : 6 + number, 12:15] = 200
LABELS = np.repeat([0, 1], 10).astype(np.uint8)


@pytest.fixture
def corrupted(monkeypatch):
    """Two corruptions: one does nothing, the other makes images white from severity 3 on."""
    done = []
    monkeypatch.setattr(robustness, "CORRUPTIONS", ["none", "white"])

    def corrupt(images, name, severity, seed):
        done.append((len(images), name, severity, seed))
        return np.full_like(images, 255) if name == "white" and severity > 2 else images

    monkeypatch.setattr(robustness, "corrupt", corrupt)
    return done


def test_accuracies_stand_by_corruption_model_and_severity(corrupted):
    models = {"always 0": ALWAYS_0, "1 if white": ONE_IF_WHITE}
    labels = LABELS.copy()
    labels[0] = 1  # nine of class 0, eleven of class 1
    found = robustness.measure(models, IMAGES, labels, seed=5, prepared_images=99)
    for name, by_model in found.corruptions.items():
        first, second = by_model.values()
        assert first.raw == first.prepared == second.prepared == (0.45,) * 5
        # prepare() leaves no page white.
        white = name == "white"
        assert second.raw == ((0.45, 0.45, 0.55, 0.55, 0.55) if white else (0.45,) * 5)
    assert corrupted == [
        (20, name, severity, 5) for name in ("none", "white") for severity in (1, 2, 3, 4, 5)
    ]
    assert (found.images, found.prepared_images, found.severities) == (20, 20, (1, 2, 3, 4, 5))


def test_the_corruption_error_is_the_mean_of_ratios_to_the_first_model(corrupted):
    labels = np.zeros(20, np.uint8)
    labels[:5] = 1
    models = {"first": ONE_IF_WHITE, "second": ALWAYS_0, "third": NEVER}
    first, second, third = robustness.measure(models, IMAGES, labels, 0, 99).summary.values()
    # Errors: first 1/4, and white 1/4 twice and 3/4 thrice, on average 11/20.
    assert first.mean_accuracy == pytest.approx(1 - (1 / 4 + 11 / 20) / 2)
    assert first.mean_corruption_error == pytest.approx(1)
    assert second.mean_accuracy == second.mean_accuracy_prepared == pytest.approx(3 / 4)
    assert second.mean_corruption_error == pytest.approx((1 + (1 / 4) / (11 / 20)) / 2)
    assert third.mean_corruption_error == pytest.approx((4 + 20 / 11) / 2)
    assert third.mean_accuracy_prepared == 0


def test_a_reference_without_errors_has_no_ratio(corrupted):
    models = {"right": ALWAYS_0, "wrong": NEVER}
    summary = robustness.measure(models, IMAGES[:10], LABELS[:10], 0, 10).summary
    assert [one.mean_corruption_error for one in summary.values()] == [None, None]


def test_a_stratified_part_of_the_images_is_prepared_by_seed(corrupted):
    def measured(seed):
        seen = []
        models = {"a": lambda images: seen.append(images) or ALWAYS_0(images)}
        return robustness.measure(models, IMAGES, LABELS, seed, prepared_images=10), seen

    found, (raw, prepared, *_) = measured(0)
    assert found.prepared_images == len(prepared) == 10
    assert found.corruptions["none"]["a"].prepared == (0.5,) * 5  # five of each class
    np.testing.assert_array_equal(raw, IMAGES)
    whole = {prepare(page).image.tobytes() for page in IMAGES}
    assert {page.tobytes() for page in prepared} <= whole
    assert not {page.tobytes() for page in prepared} & {page.tobytes() for page in IMAGES}
    np.testing.assert_array_equal(prepared, measured(0)[1][1])
    assert not np.array_equal(prepared, measured(1)[1][1])


def test_every_corruption_is_measured():
    found = robustness.measure({"a": NEVER}, IMAGES[:2], LABELS[9:11], seed=0, prepared_images=10)
    assert set(found.corruptions) == set(corruptions.CORRUPTIONS)
