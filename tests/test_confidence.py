"""Temperature and threshold."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import softmax

from keras_lenet import models
from keras_lenet.edge.prepare import prepare
from keras_lenet.recipe import Model
from keras_lenet.stages import confidence


def overconfident(factor, count=4000):
    """Logits that are `factor` times those of the distribution that the labels are drawn from."""
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 2, (count, 10)).astype(np.float32)
    labels = (logits + generator.gumbel(size=logits.shape)).argmax(1)
    return factor * logits, labels.astype(np.uint8)


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_overconfidence(factor):
    logits, labels = overconfident(factor)
    assert confidence.temperature(logits, labels) == pytest.approx(factor, rel=0.05)


def test_calibrating_divides_the_logits_and_changes_no_answer():
    keras.utils.set_random_seed(0)
    model = models.build(keras, Model())
    images = np.random.default_rng(0).random((40, 32, 32, 1), np.float32)
    labels = np.arange(40, dtype=np.uint8) % 10
    batches = tf.data.Dataset.from_tensor_slices((images, labels)).batch(16)
    before = model.predict(images, verbose=0)
    temperature = confidence.calibrate(model, batches, labels)
    after = model.predict(images, verbose=0)
    np.testing.assert_allclose(after, before / temperature, rtol=1e-4, atol=1e-6)
    assert confidence.temperature(before, labels) == pytest.approx(temperature)


def test_the_threshold_refuses_at_most_its_share():
    top = np.linspace(0.2, 1, 101).astype(np.float32)
    probabilities = np.column_stack([top, *[(1 - top) / 9] * 9])
    for share in (0.0, 0.05, 0.25):
        found = confidence.threshold(probabilities, share)
        refused = (probabilities.max(1) < found).mean()
        assert refused <= share < refused + 0.02
        assert found * 256 == round(found * 256)


def test_calibration_error_by_hand():
    top = np.array([0.95, 0.95, 0.55, 0.55])
    probabilities = np.zeros((4, 10))
    probabilities[:, 0], probabilities[:, 1] = top, 1 - top
    found = confidence.calibration(probabilities, np.array([0, 0, 0, 1], np.uint8))
    # Two bins: two at 0.95, both right; two at 0.55, one right.
    assert found["error"] == pytest.approx((2 * 0.05 + 2 * 0.05) / 4)
    assert [one["count"] for one in found["bins"]] == [2, 2]
    assert [one["accuracy"] for one in found["bins"]] == [0.5, 1.0]


def test_a_calibrated_model_has_little_calibration_error():
    logits, labels = overconfident(1.0, 20_000)
    probabilities = softmax(logits, axis=1)
    assert confidence.calibration(probabilities, labels)["error"] < 0.02
    assert confidence.calibration(softmax(3 * logits, axis=1), labels)["error"] > 0.1


def test_coverage_takes_the_most_confident_first():
    top = np.linspace(0.6, 0.99, 10)
    probabilities = np.zeros((10, 10))
    probabilities[:, 0], probabilities[:, 1] = top, 1 - top
    labels = np.array([1, 1, 0, 0, 0, 0, 0, 0, 0, 0], np.uint8)  # wrong where least sure
    found = confidence.coverage(probabilities, labels, points=5)
    assert found["coverage"] == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert found["accuracy"] == [1, 1, 1, 1, 0.8]


class Inked:
    """A stand-in for a classifier: the more ink, the more confident that it is a 3."""

    threshold = 0.5

    def predict(self, images):
        top = np.maximum(images.mean((1, 2)) / 255, 0.1)
        probabilities = np.repeat((1 - top)[:, np.newaxis] / 9, 10, 1)
        probabilities[:, 3] = top
        return probabilities.astype(np.float32)


def test_rejection_counts_what_is_refused():
    full, blank = np.full((28, 28), 255, np.uint8), np.zeros((28, 28), np.uint8)
    mark = np.zeros((72, 72), np.uint8)
    mark[20:50, 30:40] = 255
    digits = np.stack([full, full, blank, blank])
    found = confidence.rejection(
        Inked(),
        Inked().predict(digits),
        np.array([3, 5, 3, 3], np.uint8),
        {"full": [full] * 2, "blank": [blank] * 3, "mark": [mark]},
    )
    assert found["digits"] == {"total": 4, "refused": 2, "accuracy_of_accepted": 0.5}
    # prepare() finds nothing on a full page, though the model alone would be sure.
    assert found["outliers"]["full"] == {"total": 2, "refused": 2, "refused_by_threshold": 0}
    assert found["outliers"]["blank"] == {"total": 3, "refused": 3, "refused_by_threshold": 3}
    assert prepare(mark).found
    curve = found["curve"]
    assert curve["digits"][0] == 0
    assert curve["digits"][-1] == 0.5
    assert curve["mark"][curve["threshold"].index(0.5)] == 1
    assert all(np.diff(curve[kind]).min() >= 0 for kind in ("digits", *found["outliers"]))
