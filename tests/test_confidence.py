"""Temperature, threshold, calibration and rejection, on answers of known confidence."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest

from keras_lenet.edge.prepare import prepare
from keras_lenet.evaluation import confidence


def sure(*tops):
    """Probabilities, (N, 10): class 0 with these confidences, class 1 with the rest."""
    probabilities = np.zeros((len(tops), 10))
    probabilities[:, 0], probabilities[:, 1] = tops, 1 - np.array(tops)
    return probabilities


@pytest.mark.parametrize("factor", [0.25, 1.0, 3.0, 9.0])
def test_temperature_makes_confidence_the_accuracy(factor):
    """Three of four images of two classes are right: the best difference of logits is log 3."""
    logits = np.zeros((4, 10), np.float32)
    logits[:, 2:] = -1e6  # of no account
    logits[:, 0] = factor * np.log(3)
    labels = np.array([0, 0, 0, 1], np.uint8)
    assert confidence.temperature(logits, labels) == pytest.approx(factor, rel=1e-3)
    # Adding a constant to all logits of an image changes nothing.
    shifted = logits + np.array([[0.0], [3.0], [-5.0], [8.0]], np.float32)
    assert confidence.temperature(shifted, labels) == pytest.approx(factor, rel=1e-3)


@pytest.mark.parametrize(("label", "temperature"), [(0, 0.1), (1, 10)])
def test_temperature_stays_between_a_tenth_and_ten(label, temperature):
    logits = np.zeros((2, 10), np.float32)
    logits[:, 0] = 1
    labels = np.full(2, label, np.uint8)
    assert confidence.temperature(logits, labels) == pytest.approx(temperature, rel=1e-3)


def test_dividing_a_model_divides_its_logits_and_leaves_integers_alone():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2), keras.layers.Dense(10)])
    inputs = np.random.default_rng(0).random((40, 2), np.float32)
    before = model(inputs).numpy()
    confidence.divide(model, 2.5)
    np.testing.assert_allclose(model(inputs), before / 2.5, rtol=1e-5, atol=1e-7)

    class Quantized:
        weights = (np.float32([3, 6]), np.int32(6))

        def get_weights(self):
            return self.weights

        def set_weights(self, weights):
            self.weights = weights

    net = SimpleNamespace(layers=[None, Quantized()])
    confidence.divide(net, 3)
    ranges, step = net.layers[-1].weights
    assert (ranges.tolist(), ranges.dtype, step) == ([1, 2], np.float32, 6)


@pytest.mark.parametrize(
    ("share", "threshold"),
    # Of 8 answers a share below 1/8 refuses none: the threshold is the least answer's step.
    [(0.0, 64), (0.124, 64), (0.125, 80), (0.25, 96), (0.374, 96), (0.375, 128), (0.99, 250)],
)
def test_threshold_is_the_highest_step_that_refuses_at_most_a_share(share, threshold):
    probabilities = np.zeros((8, 10))
    probabilities[range(8), range(8)] = (
        np.array([128, 64.5, 96, 80.5, 160, 192.5, 250.5, 224]) / 256
    )
    assert confidence.threshold(probabilities, share) == threshold / 256
    assert (probabilities.max(axis=1) < threshold / 256).mean() <= share


def test_calibration_error_weighs_bins_by_their_size():
    # Three answers of 0.95, all right: 0.05 apart; one of 0.55, wrong: 0.55 apart.
    found = confidence.calibration(sure(0.95, 0.55, 0.95, 0.95), np.array([0, 1, 0, 0], np.uint8))
    assert found.error == pytest.approx((3 * 0.05 + 1 * 0.55) / 4)
    assert [tuple(dict(one).values()) for one in found.bins] == [
        (1, pytest.approx(0.55), 0.0), (3, pytest.approx(0.95), 1.0),
    ]  # fmt: skip


def test_calibration_bins_are_fifteen_closed_above():
    # 0.6 is the upper end of the ninth bin; 0.625 lies in the tenth, 1 in the last, 0 in the first.
    tops = sure(0.5625, 0.6, 0.625, 0.6640625, 1.0)
    found = confidence.calibration(np.concatenate([tops, np.zeros((1, 10))]), np.zeros(6, np.uint8))
    assert [one.count for one in found.bins] == [1, 2, 2, 1]
    assert [one.confidence for one in found.bins] == pytest.approx([0, 0.58125, 0.64453125, 1])
    low, high = np.full((1, 10), 0.05), sure(0.75)
    low[0, 0] = 0.5
    found = confidence.calibration(np.concatenate([low, high]), np.zeros(2, np.uint8), bins=2)
    assert [one.confidence for one in found.bins] == [0.5, 0.75]


class Inked:
    """A stand-in for a classifier: the more ink, the more confident that it is a 3."""

    def __init__(self, threshold=0.5):
        self.threshold = threshold

    def predict(self, images):
        top = np.maximum(images.mean((1, 2)) / 255, 0.1)
        probabilities = np.repeat((1 - top)[:, np.newaxis] / 9, 10, 1)
        probabilities[:, 3] = top
        return probabilities.astype(np.float32)


FULL, BLANK = np.full((28, 28), 255, np.uint8), np.zeros((28, 28), np.uint8)
MARK = np.zeros((72, 72), np.uint8)
MARK[20:50, 30:40] = 255


def counts(found, kind):
    """Pictures of a kind that are rejected by classify, and by the threshold alone."""
    return found.ood[kind].rejected, found.ood[kind].rejected_by_threshold


def test_rejection_counts_test_images_and_other_pictures():
    digits = np.stack([FULL, FULL, BLANK, BLANK, FULL])
    found = confidence.rejection(
        Inked(),
        Inked().predict(digits),
        np.array([3, 5, 3, 3, 3], np.uint8),
        {"full": [FULL] * 2, "blank": [BLANK] * 3, "mark": [MARK]},
    )
    assert found.threshold == 0.5
    accuracy = pytest.approx(2 / 3)
    assert dict(found.test) == {"total": 5, "rejected": 2, "accuracy_of_accepted": accuracy}
    # prepare() finds no ink on a full page, though the model alone would be sure.
    assert counts(found, "full") == (2, 0)
    assert counts(found, "blank") == (3, 3)
    assert prepare(MARK).found
    assert counts(found, "mark") == (1, 1)
    assert [one.total for one in found.ood.values()] == [2, 3, 1]
    # `Classifier.classify` does not ask the model about a picture without ink.
    found = confidence.rejection(Inked(0.0), sure(0.5), np.zeros(1), {"blank": [BLANK] * 2})
    assert counts(found, "blank") == (2, 0)


def test_the_curve_gives_shares_below_every_fourth_step():
    digits = sure(0.75, 0.5, 1.0, 0.890625)
    curve = confidence.rejection(
        Inked(), digits, np.zeros(4, np.uint8), {"mark": [MARK], "blank": [BLANK]}
    ).curve
    assert list(curve["threshold"]) == [step / 64 for step in range(65)]
    for threshold, share in ((0.5, 0), (0.515625, 0.25), (0.75, 0.25), (0.765625, 0.5), (1, 0.75)):
        assert curve["test"][curve["threshold"].index(threshold)] == share
    prepared = prepare(MARK).image.mean() / 255
    assert list(curve["mark"]) == [float(threshold > prepared) for threshold in curve["threshold"]]
    assert list(curve["blank"]) == [0.0] + [1.0] * 64


def test_an_answer_at_the_threshold_is_accepted():
    pages = {"mark": [MARK]}
    level = float(Inked().predict(prepare(MARK).image[np.newaxis]).max())
    for threshold, rejected in ((level, 0), (np.nextafter(np.float32(level), np.float32(1)), 1)):
        found = confidence.rejection(Inked(threshold), sure(0.5), np.zeros(1), pages)
        assert counts(found, "mark") == (rejected, rejected)
    found = confidence.rejection(Inked(0.5), sure(0.5, 0.4375), np.zeros(2), {})
    assert found.test.rejected == 0  # 0.4375 is class 1, with 0.5625
    none = confidence.rejection(Inked(1.0), sure(0.5), np.zeros(1), {})
    assert dict(none.test) == {"total": 1, "rejected": 1, "accuracy_of_accepted": None}
