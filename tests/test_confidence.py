"""Temperature and threshold."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lenet.models import lenet5
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
    model = lenet5.build(keras)
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
