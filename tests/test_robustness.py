"""Accuracy on corrupted images."""

import json

import numpy as np
import pytest
from conftest import draw_digits

from keras_lenet.data import corruptions
from keras_lenet.stages import robustness


def answers(digit_of):
    """A stand-in for a model, which answers by the images' mean level."""

    def predict(images):
        probabilities = np.zeros((len(images), 10), np.float32)
        probabilities[np.arange(len(images)), digit_of(images.mean((1, 2)))] = 1
        return probabilities

    return predict


@pytest.fixture
def two_ways(monkeypatch):
    """Two corruptions: one that leaves images alone, one that makes all of them white."""
    monkeypatch.setattr(robustness, "CORRUPTIONS", ["none", "white"])

    def corrupt(images, name, severity, seed):
        return images if name == "none" else np.full_like(images, 255)

    monkeypatch.setattr(robustness, "corrupt", corrupt)


def test_the_figures_by_hand(two_ways):
    images, _ = draw_digits(20, 0)
    labels = np.zeros(20, np.uint8)
    labels[10:] = 1
    models = {
        "always 0": answers(lambda mean: np.zeros(len(mean), int)),
        "1 if white": answers(lambda mean: (mean == 255).astype(int)),
        "never": answers(lambda mean: np.full(len(mean), 9)),
    }
    found = robustness.measure(models, images, labels, seed=0, prepared_images=10)
    assert found["corruptions"]["white"]["1 if white"]["raw"] == [0.5] * 5
    assert found["corruptions"]["none"]["never"]["raw"] == [0.0] * 5
    summary = found["summary"]
    assert summary["always 0"]["mean_accuracy"] == 0.5
    assert summary["always 0"]["mean_corruption_error"] == 1
    assert summary["never"]["mean_corruption_error"] == 2
    assert found["prepared_images"] == 10
    assert summary["always 0"]["mean_accuracy_prepared"] == 0.5  # as many of every class


def test_without_an_error_there_is_no_ratio(two_ways):
    images, labels = draw_digits(10, 0)[0], np.zeros(10, np.uint8)
    right = answers(lambda mean: np.zeros(len(mean), int))
    found = robustness.measure({"right": right}, images, labels, seed=0, prepared_images=10)
    assert found["summary"]["right"]["mean_corruption_error"] is None


def test_every_corruption_is_measured(finished):
    metrics = json.loads((finished.folder / "evaluate" / "metrics.json").read_text())
    found = metrics["robustness"]
    assert set(found["corruptions"]) == set(corruptions.CORRUPTIONS)
    assert found["images"] == 30
    for by_model in found["corruptions"].values():
        assert set(by_model) == {"float32", "int8"}
