"""Gates at their limits, and `metrics.json` written, read back and damaged."""

import json

import figures
import pytest

from keras_lenet.data import outliers
from keras_lenet.errors import Error, GateError
from keras_lenet.evaluation import gates
from keras_lenet.evaluation.metrics import METRICS, Metrics, OodRejection
from keras_lenet.recipe import Evaluate


def ood(rejected):
    return OodRejection(total=16, rejected=rejected, rejected_by_threshold=0)


@pytest.fixture
def metrics():
    """The deployed model's figures are exact in binary, and unlike any other's."""
    made = figures.everything()
    for way, value in {
        "models a.tflite accuracy": 0.75,
        "models a.tflite difference": -0.125,
        "models a.tflite agreement": 0.625,
        "models b.tflite bytes": 9999,
        "fake_quantized_agreement": 0.9375,
        "robustness summary b.tflite mean_accuracy": 1.0,
        "rejection test total": 200,
        "rejection test rejected": 25,
        "rejection ood": {"noise": ood(15), "letters": ood(12), outliers.LIKE_DIGITS: ood(1)},
    }.items():
        made = figures.changed(made, way, value)
    return made


GATES = [
    ("min_accuracy", 0.75, 1e-9),
    ("max_accuracy_drop", 0.125, 1e-9),
    ("min_agreement", 0.9375, 1e-9),
    ("max_model_bytes", 1000, 1),
    ("min_robustness", 0.5, 1e-9),
    ("max_digits_refused", 0.125, 1e-9),
    ("min_outliers_refused", 0.75, 1e-9),
]


@pytest.mark.parametrize(("gate", "figure", "step"), GATES)
def test_gate_is_met_up_to_its_limit_and_not_beyond(metrics, gate, figure, step):
    easier = -step if gate.startswith("min_") else step
    for limit, met in ((figure + easier, True), (figure, True), (figure - easier, False)):
        (found,) = gates.evaluate(Evaluate(**{gate: limit}), metrics)
        assert dict(found) == {"gate": gate, "figure": figure, "limit": limit, "met": met}


def test_every_gate_of_a_recipe_has_its_limit_tested():
    limits = {name for name in Evaluate.model_fields if name.startswith(("min_", "max_"))}
    assert {gate for gate, _, _ in GATES} == limits


def test_accuracy_drop_of_a_better_model_is_negative(metrics):
    better = figures.changed(metrics, "models a.tflite difference", 0.25)
    (gate,) = gates.evaluate(Evaluate(max_accuracy_drop=0.0), better)
    assert (gate.figure, gate.met) == (-0.25, True)


def test_agreement_is_with_the_reference_where_there_is_no_fake_quantized_model(metrics):
    without = figures.changed(metrics, "fake_quantized_agreement", None)
    assert gates.evaluate(Evaluate(min_agreement=0.5), without)[0].figure == 0.625


@pytest.mark.parametrize(
    ("gate", "part"),
    [
        ("min_robustness", "robustness"),
        ("max_digits_refused", "rejection"),
        ("min_outliers_refused", "rejection"),
    ],
)
def test_gate_on_a_figure_that_was_not_measured_is_refused(metrics, gate, part):
    without = figures.changed(metrics, part, None)
    with pytest.raises(Error, match=rf"evaluate\.{gate} is set, but was not measured"):
        gates.evaluate(Evaluate(**{gate: 1}), without)
    assert gates.evaluate(Evaluate(min_accuracy=0.75), without)[0].met


def test_check_names_every_missed_gate_with_figure_and_limit(metrics):
    settings = Evaluate(min_accuracy=0.8, max_accuracy_drop=0.2, max_model_bytes=999)
    with pytest.raises(GateError) as caught:
        gates.check(figures.changed(metrics, "gates", gates.evaluate(settings, metrics)))
    assert str(caught.value) == (
        "gate missed: evaluate.min_accuracy: 0.75, limit 0.8; evaluate.max_model_bytes: 1000, "
        "limit 999"
    )
    assert caught.value.exit_status == 3


def test_check_passes_met_gates_and_none(metrics):
    gates.check(metrics)
    assert metrics.gates[0].met
    assert gates.evaluate(Evaluate(), metrics) == ()
    gates.check(figures.changed(metrics, "gates", ()))


# The file


def test_metrics_are_read_as_they_were_written(tmp_path):
    for metrics in (figures.everything(), figures.metrics(figures.score("a"))):
        metrics.write(tmp_path)
        assert Metrics.read(tmp_path) == metrics
    assert "arena" not in json.loads((tmp_path / METRICS).read_text())  # not measured, left out


@pytest.mark.parametrize("content", ["", "{", "[" * 100_000, "[]", "3", '{"schema": 2}', None])
def test_a_file_that_is_no_metrics_is_refused_in_one_line(tmp_path, content):
    if content is not None:
        (tmp_path / METRICS).write_text(content)
    with pytest.raises(Error, match=r"^\S*metrics\.json: [^\n]*$"):
        Metrics.read(tmp_path)


WRONG = {
    "schema_version": (2, "3", None),
    "dataset": (3, "\x1b[31m", None),
    "images": (0, -1, True, "1", 10**400, 1.5),
    "reference": ("c.tflite",),
    "deployed": ("c.tflite",),
    "models": ({}, []),
    "models a.tflite accuracy": (1.5, -0.5, True, "1", float("nan"), None),
    "models a.tflite interval": ([0.5], [0.5, 0.75, 1.0]),
    "models a.tflite bytes": (1e16, 10**16),
    "timings models": ({},),
    "timings cpu": ("\n",),
    "gates 0 met": (1, "yes"),
    "gates 0 limit": (float("inf"), "0.5"),
    "paired 0 first": ("c.tflite",),
    "paired 0 second": ("c.tflite",),
    "quantization_noise a.tflite 0 max_error": ("0",),
    "rejection threshold": (2,),
    "rejection test total": (0,),
    "robustness summary b.tflite mean_accuracy": (None,),
}


def with_value(content, way, value):
    """A copy of JSON content with another value at `way`."""
    first, _, rest = way.partition(" ")
    copied = dict(content) if isinstance(content, dict) else list(content)
    key = int(first) if isinstance(content, list) else first
    copied[key] = with_value(content[key], rest, value) if rest else value
    return copied


@pytest.mark.parametrize(("way", "values"), WRONG.items(), ids=str)
def test_a_wrong_value_is_refused_in_one_line(tmp_path, way, values):
    content = json.loads(figures.everything().model_dump_json())
    for value in values:
        (tmp_path / METRICS).write_text(json.dumps(with_value(content, way, value)))
        with pytest.raises(Error, match=r"^\S*: not metrics of schema 3 \([^\n]*; run evaluate ag"):
            Metrics.read(tmp_path)


def test_models_that_are_named_elsewhere_have_to_be_among_the_models(tmp_path):
    content = json.loads(figures.everything().model_dump_json())
    for part in ("quantization_noise", "robustness summary", "robustness corruptions fog"):
        *parents, last = part.split(" ")
        changed = json.loads(json.dumps(content))
        holder = changed
        for key in parents:
            holder = holder[key]
        holder[last]["c.tflite"] = holder[last]["a.tflite"]
        (tmp_path / METRICS).write_text(json.dumps(changed))
        with pytest.raises(Error, match=r"c\.tflite is none of its models"):
            Metrics.read(tmp_path)
