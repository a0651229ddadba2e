"""`metrics.json` written, read back and damaged; gates missed; statistics of paired answers."""

import functools
import json

import figures
import numpy as np
import pytest
from figures import changed

from keras_lenet.errors import Error, GateError
from keras_lenet.evaluation.metrics import METRICS, Gate, McNemar, Metrics, wilson_interval


def test_metrics_are_read_as_they_were_written(tmp_path):
    for metrics in (figures.everything(), figures.metrics(figures.score("a"))):
        metrics.write(tmp_path)
        assert Metrics.read(tmp_path) == metrics
    assert "arena" not in json.loads((tmp_path / METRICS).read_text())  # not measured, left out


@pytest.mark.parametrize("content", ["", "{", "[" * 100_000, "[]", "3", '{"schema": 2}', None])
def test_a_file_without_metrics_is_refused_in_one_line(tmp_path, content):
    if content is not None:
        (tmp_path / METRICS).write_text(content)
    with pytest.raises(Error, match=r"^\S*metrics\.json: [^\n]*$"):
        Metrics.read(tmp_path)


WRONG = {
    "schema_version": (4, "3", None),
    "dataset": (3, "\x1b[31m", None),
    "images": (0, -1, True, "1", 10**400, 1.5),
    "deployed": ("c.tflite",),
    "models a.tflite accuracy": (1.5, -0.5, True, "1", float("nan"), None),
    "models a.tflite bytes": (1e16, 10**16),
    "timings models": ({},),
    "gates 0 limit": (float("inf"), "0.5"),
    "paired 0 second": ("c.tflite",),
    "quantization_noise": ({"c.tflite": []},),
    "rejection test total": (0,),
    "robustness summary": ({"c.tflite": {"mean_accuracy": 0.5, "mean_accuracy_prepared": 0.5}},),
    "robustness corruptions fog": ({"c.tflite": {"raw": [], "prepared": []}},),
}


@pytest.mark.parametrize(("way", "values"), WRONG.items(), ids=str)
def test_a_wrong_value_is_refused_in_one_line(tmp_path, way, values):
    *parents, last = [int(key) if key.isdigit() else key for key in way.split(" ")]
    for value in values:
        content = json.loads(figures.everything().model_dump_json())
        functools.reduce(lambda holder, key: holder[key], parents, content)[last] = value
        (tmp_path / METRICS).write_text(json.dumps(content))
        complaint = "c\\.tflite is none of its models" if "c.tflite" in str(value) else ""
        with pytest.raises(Error, match=rf"^\S*: not metrics of schema 3 \(.*{complaint}.*; run"):
            Metrics.read(tmp_path)


def test_missed_gates_are_named_with_figure_and_limit():
    gates = (
        Gate(gate="min_accuracy", figure=0.75, limit=0.8, met=False),
        Gate(gate="max_accuracy_drop", figure=0.1, limit=0.2, met=True),
        Gate(gate="max_model_bytes", figure=1000, limit=999, met=False),
    )
    metrics = figures.everything()
    with pytest.raises(GateError) as caught:
        changed(metrics, "gates", gates).check_gates()
    assert str(caught.value) == (
        "gate missed: evaluate.min_accuracy: 0.75, limit 0.8; evaluate.max_model_bytes: 1000, "
        "limit 999"
    )
    assert caught.value.exit_status == 3
    for met in (gates[1:2], ()):
        changed(metrics, "gates", met).check_gates()


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
    low, high = wilson_interval(correct, total)
    assert (low, high) == pytest.approx(expected, abs=1e-7)
    assert 0 <= low < high <= 1


def compared(only_first, only_second, both=2):
    """Compare answers to images of class 0; the models also share `both` mistakes."""
    first = np.array([0] * only_first + [1] * only_second + [1] * both)
    second = np.array([1] * only_first + [0] * only_second + [1] * both)
    return McNemar.of(first, second, np.zeros(len(first), np.uint8))


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    # By hand: twice the tail of a fair coin, (1 + 10 + 45) / 1024 * 2 for 2 against 8.
    [(0, 0, 1.0), (5, 5, 1.0), (2, 8, 112 / 1024), (0, 6, 2 / 64), (1, 6, 0.125), (6, 1, 0.125)],
)
def test_mcnemar_is_exact(only_first, only_second, p):
    found = compared(only_first, only_second)
    assert (found.only_first, found.only_second) == (only_first, only_second)
    assert found.differ == only_first + only_second
    assert found.p == pytest.approx(p)


def test_different_mistakes_differ_but_are_no_discordant_pair():
    labels = np.array([0, 0, 1, 1, 9], np.uint8)
    found = McNemar.of(np.array([0, 1, 1, 7, 9]), np.array([0, 0, 2, 3, 9]), labels)
    assert (found.only_first, found.only_second, found.differ) == (1, 1, 3)


@pytest.mark.parametrize(
    ("only_first", "only_second", "expected"),
    [
        (0, 0, "A and B give the same class on every one of 1,000 images."),
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
def test_verdict_claims_a_difference_only_below_five_percent(only_first, only_second, expected):
    pair = compared(only_first, only_second)
    assert pair.in_words("A", "B", 1000) == expected
    at_the_border = pair.model_copy(update={"p": 0.05})
    assert "is better" not in at_the_border.in_words("A", "B", 1000)
