"""An evaluation of a few images, counted by hand."""

import time

import numpy as np
import pytest
from conftest import SMOKE
from figures import changed, everything, probabilities
from PIL import Image
from typer.testing import CliRunner

from keras_lenet import cli, pipeline
from keras_lenet.data import loading, outliers
from keras_lenet.errors import Error, GateError
from keras_lenet.evaluation import quantization_noise, robustness, scorers
from keras_lenet.evaluation.metrics import (
    Gate,
    Metrics,
    OodRejection,
    Robustness,
    RobustnessSummary,
    TensorNoise,
)
from keras_lenet.evaluation.scorers import Scorer
from keras_lenet.recipe import Evaluate, Recipe
from keras_lenet.reporting import plots
from keras_lenet.stages import Context, evaluate, quantize, train
from keras_lenet.tflite import convert, parity

NUMBERED = np.zeros((5, 28, 28), np.uint8)
NUMBERED[:, 0, 0] = range(5)
"""Five images; the first pixel tells which."""
TEST = loading.Examples(NUMBERED, np.arange(5, dtype=np.uint8), np.arange(5), "test")
"""Image 0 shows a 0, image 1 a 1, and so on to 4."""


def scorer(path, answers, title=None, kernels="none"):
    """A model that answers numbered images with these probabilities."""
    return Scorer(title or path.name, path, lambda images: answers[images[:, 0, 0]], kernels)


@pytest.fixture
def two(tmp_path):
    """A reference that is right on four of five images, and another that is right on two."""
    found = {}
    for key, answers, size in (("float", "01239", 100), ("int8", "01789", 40)):
        (tmp_path / key).write_bytes(bytes(size))
        found[key] = scorer(tmp_path / key, probabilities(answers), key.upper(), f"{key} kernels")
    return found


def measured(two, pairs=(("int8", "float"),)):
    found = evaluate.predict(two, TEST, "digits")
    return evaluate.measure(found, "float", "int8", pairs, Evaluate())


def test_every_figure_stands_under_its_own_models_name(two):
    found = measured(two)
    names = ("title", "correct", "total", "accuracy", "difference", "agreement", "bytes")
    assert {key: [getattr(one, name) for name in names] for key, one in found.models.items()} == {
        "float": ["FLOAT", 4, 5, 0.8, 0.0, 1.0, 100],
        # Image 4 is a 9 to both: they agree where neither is right.
        "int8": ["INT8", 2, 5, 0.4, -0.4, 0.6, 40],
    }
    float_, int8 = found.models.values()
    assert int8.interval == pytest.approx((0.11762, 0.76928), abs=1e-5)
    assert float_.calibration.error == pytest.approx(0.1)
    assert int8.calibration.error == pytest.approx(0.5)
    matrix = np.array(int8.confusion)  # true class by answer
    assert matrix.shape == (10, 10)
    assert list(zip(*np.nonzero(matrix), strict=True)) == [(0, 0), (1, 1), (2, 7), (3, 8), (4, 9)]
    assert matrix.max() == 1
    assert (found.schema_version, found.dataset, found.images) == (3, "digits", 5)
    assert (found.labels, found.reference) == (tuple("0123456789"), "float")
    timings = found.timings
    assert (timings.cpu, timings.device) == (evaluate.cpu_name(), "CPU")
    assert [one.kernels for one in timings.models.values()] == ["float kernels", "int8 kernels"]


def test_pairs_are_compared_in_the_order_that_is_asked_for(two):
    pair, swapped = measured(two, (("int8", "float"), ("float", "int8"))).paired
    assert pair.model_dump() == {
        "first": "int8",
        "second": "float",
        "only_first": 0,
        "only_second": 2,
        "p": pytest.approx(0.5),
        "differ": 2,
        "verdict": "INT8 and FLOAT are indistinguishable on this test set: 0 of 5 images are right "
        "in INT8 alone, 2 in FLOAT alone, p = 0.5.",
    }
    assert (swapped.first, swapped.only_first, swapped.only_second) == ("float", 2, 0)


def test_times_are_percentiles_of_single_images_without_the_warm_up(tmp_path, monkeypatch):
    """One image takes 1 to 200 µs after 20 slow calls; five take 1 ms after one slow call."""
    clock = [0.0]
    singles, batches = iter([1.0] * 20 + [k * 1e-6 for k in range(1, 201)]), []

    def predict(images):
        if len(images) == 1:
            clock[0] += next(singles)
        else:
            batches.append(len(images))
            clock[0] += 1e-3 if len(batches) > 1 else 1.0
        return probabilities("0" * len(images))

    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    timing = Scorer("A", tmp_path, predict, "some kernels").time(NUMBERED)
    assert next(singles, None) is None
    assert batches == [5, 5]
    assert timing.model_dump() == {
        "kernels": "some kernels",
        "p50_us": pytest.approx(100.5),
        "p95_us": pytest.approx(190.05, abs=0.06),
        "batched_images_per_second": 5000,
    }


def test_a_model_that_answers_no_number_is_refused(tmp_path):
    answers = probabilities("01234")
    answers[3, 2] = np.nan
    with pytest.raises(Error, match=r"broken\.keras: .*NaN.* 1 of 5 images"):
        evaluate.predict({"a": scorer(tmp_path / "broken.keras", answers)}, TEST, "digits")


# Gates


@pytest.fixture
def metrics():
    """Metrics in which the deployed model's figures are exact in binary and unlike all others."""
    made = everything()
    for way, value in {
        "models a.tflite accuracy": 0.75,
        "models a.tflite difference": -0.125,
        "models a.tflite agreement": 0.625,
        "models b.tflite bytes": 9999,
        "fake_quantized_agreement": 0.9375,
        "robustness summary b.tflite mean_accuracy": 1.0,
        "rejection test total": 200,
        "rejection test rejected": 25,
        "rejection ood": {
            kind: OodRejection(total=16, rejected=rejected, rejected_by_threshold=0)
            for kind, rejected in (("noise", 15), ("letters", 12), (outliers.LIKE_DIGITS, 1))
        },
    }.items():
        made = changed(made, way, value)
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
        (found,) = evaluate.check_gates(Evaluate(**{gate: limit}), metrics)
        assert dict(found) == {"gate": gate, "figure": figure, "limit": limit, "met": met}


def test_every_gate_of_a_recipe_has_its_limit_tested(metrics):
    limits = {name for name in Evaluate.model_fields if name.startswith(("min_", "max_"))}
    assert {gate for gate, _, _ in GATES} == limits
    assert evaluate.check_gates(Evaluate(), metrics) == ()


@pytest.mark.parametrize(
    ("gate", "way", "value", "figure"),
    [
        ("max_accuracy_drop", "models a.tflite difference", 0.25, -0.25),  # it is better
        ("min_agreement", "fake_quantized_agreement", None, 0.625),  # with the reference, then
        ("min_robustness", "robustness", None, None),
        ("max_digits_refused", "rejection", None, None),
        ("min_outliers_refused", "rejection", None, None),
    ],
)
def test_a_gate_takes_a_figure_that_was_measured(metrics, gate, way, value, figure):
    settings, other = Evaluate(**{gate: 0.5}), changed(metrics, way, value)
    if figure is None:
        with pytest.raises(Error, match=rf"evaluate\.{gate} is set, but was not measured"):
            evaluate.check_gates(settings, other)
    else:
        (found,) = evaluate.check_gates(settings, other)
        assert (found.figure, found.met) == (figure, True)


# Files given by hand


def arrays(path):
    with np.load(path) as stored:
        return dict(stored)


@pytest.fixture
def opened(two, monkeypatch):
    """Paths of the two models of `two` and of a third, as if each were a Keras file."""
    third = two["int8"].path.with_name("third")
    third.touch()
    known = {model.path: model for model in two.values()} | {
        third: scorer(third, probabilities("01264"))
    }
    monkeypatch.setattr(scorers, "open_file", lambda path, classes: known[path])
    return list(known)


def test_files_are_compared_with_the_first_and_the_last_is_deployed(opened, tmp_path):
    settings = Evaluate(robustness_images=0, min_accuracy=0.8, max_model_bytes=1)
    out = tmp_path / "out"
    found = evaluate.evaluate_files(opened, TEST, "digits", settings, out)
    assert Metrics.read(out) == found
    assert (found.reference, found.deployed) == ("float", "third")
    assert [(pair.first, pair.second) for pair in found.paired] == [
        ("third", "float"), ("int8", "float"),
    ]  # fmt: skip
    assert found.gates == (
        Gate(gate="min_accuracy", figure=0.8, limit=0.8, met=True),
        Gate(gate="max_model_bytes", figure=0, limit=1, met=True),
    )
    assert found.quantization_noise == {}
    parts = {found.rejection, found.robustness, found.arena, found.fake_quantized_agreement}
    assert parts == {None}
    kept = arrays(out / "predictions.npz")
    assert set(kept) == {"labels", "shown", "shown_images", "float", "int8", "third"}
    assert kept["labels"].tolist() == [0, 1, 2, 3, 4]
    # Image 3 is wrong in the deployed model alone, image 4 in the reference alone.
    assert kept["shown"].tolist() == [3, 4]
    np.testing.assert_array_equal(kept["shown_images"], NUMBERED[3:])
    for key, answers in (("float", "01239"), ("int8", "01789"), ("third", "01264")):
        np.testing.assert_array_equal(kept[key], probabilities(answers))
    with Image.open(out / "confusion.png") as drawn:
        assert drawn.size == (1440, 828)  # two matrices, side by side
    assert not (out / "rejection.png").exists()
    with pytest.raises(Error, match="a second file called int8; rename one of them"):
        evaluate.evaluate_files([opened[1], opened[1]], TEST, "digits", settings, out)


# A run


RUN = {
    "keras": probabilities("01234"),
    "saved_model": probabilities("01233"),
    "qat": probabilities("01564"),
    "float32": probabilities("01222"),
    "int8_ptq": probabilities("01734"),
    "int8": probabilities("01555", 0.75),
    "uint8": probabilities("99999"),
}
"""What each model of a run answers to `TEST`; int8 agrees with none of the others by chance."""
FILES = {
    "train/model.keras": "keras",
    "export/saved_model": "saved_model",
    "quantize/qat.h5": "qat",
    "export/lenet5_float32.tflite": "float32",
    "export/lenet5_int8_ptq.tflite": "int8_ptq",
    "export/lenet5_int8.tflite": "int8",
    "export/lenet5_uint8.tflite": "uint8",
}


class Confident:
    """A classifier that is sure of everything, and whose outputs rise with the file's length."""

    threshold = 0.8

    def __init__(self, path, kernels="xnnpack"):
        self.level, self.kernels = len(path.read_bytes()), kernels

    def predict(self, images):
        return probabilities("3" * len(images), 0.96875)

    def raw(self, images):
        assert self.kernels == "reference"
        outputs = np.zeros((len(images), 10), np.int8)
        outputs[:, 2] = -128 if self.level > 1 else 127
        outputs[0] = 0
        return outputs


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A context whose folders hold stand-ins, each of which answers as `RUN` says of its file."""
    folders = {name: tmp_path / name for name in ("train", "quantize", "export")}
    for name in (*FILES, "export/microcontroller/lenet5_int8_plain.tflite"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")

    def opens(source, *details):
        path = next(one for one in (*details, source) if hasattr(one, "is_file"))
        if hasattr(source, "relative_to"):
            key = FILES[source.relative_to(tmp_path).as_posix()]
        else:
            key = source  # a model that was loaded
        return scorer(path, RUN[key], f"title of {key}")

    def load(path, *_):
        file = path if path.suffix else path / quantize.WEIGHTS
        return FILES[file.relative_to(tmp_path).as_posix()]

    monkeypatch.setattr(loading, "load_test", lambda dataset, data_dir: TEST)
    monkeypatch.setattr(train, "load", lambda folder: load(folder / train.MODEL))
    monkeypatch.setattr(quantize, "load", load)
    monkeypatch.setattr(quantize, "unquantized", lambda model, settings: f"unquantized {model}")
    monkeypatch.setattr(convert, "convert", lambda model, size: model.encode())
    for kind in ("of_keras", "of_saved_model", "of_tflite"):
        monkeypatch.setattr(scorers, kind, opens)

    def losses(reference, quantized, images):
        source = reference.read_bytes().decode() if reference.stem == "float32" else reference.name
        op = f"{source} > {quantized.parent.name}/{quantized.name}"
        return (TensorNoise(op=op, shape=(len(images),), max_error=0, saturated=0),)

    monkeypatch.setattr(quantization_noise, "losses", losses)
    monkeypatch.setattr(evaluate, "Classifier", Confident)
    monkeypatch.setattr(plots, "save", lambda figure, path: path.touch())
    monkeypatch.setattr(parity, "arena", lambda path: (77, path.parent.name))
    made = Recipe(name="run", seed=7, evaluate=Evaluate(probes=3, robustness_images=0))
    return Context(made, "digits", None, folders, tmp_path / "evaluate")


def with_settings(context, **settings):
    evaluation = context.settings.evaluate.model_copy(update=settings)
    updated = context.settings.model_copy(update={"evaluate": evaluation})
    return Context(updated, context.dataset, None, context.inputs, context.out)


def test_each_model_of_a_run_is_scored_by_its_own_answers(run):
    accuracy = {"keras": 1.0, "saved_model": 0.8, "qat": 0.6, "float32": 0.6, "int8_ptq": 0.8,
                "int8": 0.4, "uint8": 0.0}  # fmt: skip
    assert evaluate.run(with_settings(run, min_accuracy=0.41, min_agreement=0.6)) == accuracy
    found = Metrics.read(run.out)
    assert list(found.models) == list(accuracy)
    assert [model.accuracy for model in found.models.values()] == list(accuracy.values())
    assert [model.agreement for model in found.models.values()] == list(accuracy.values())
    assert (found.reference, found.deployed, found.dataset) == ("keras", "int8", "digits")
    assert [(gate.gate, gate.met) for gate in found.gates] == [
        ("min_accuracy", False), ("min_agreement", True),
    ]  # fmt: skip
    kept = arrays(run.out / "predictions.npz")
    for key, expected in RUN.items():
        np.testing.assert_array_equal(kept[key], expected)
    assert [
        (pair.first, pair.second, pair.only_first, pair.only_second, pair.differ)
        for pair in found.paired
    ] == [("int8", "keras", 0, 3, 3), ("int8_ptq", "keras", 0, 1, 1), ("int8", "int8_ptq", 0, 2, 3)]
    assert found.fake_quantized_agreement == 0.6  # with "qat", not with the labels or the float
    # Each int8 file is traced beside a float file of its own weights.
    assert {key: [(row.op, row.shape) for row in rows]
            for key, rows in found.quantization_noise.items()} == {
        "int8_ptq": [("lenet5_float32.tflite > export/lenet5_int8_ptq.tflite", (5,))],
        "int8": [("unquantized qat > microcontroller/lenet5_int8_plain.tflite", (5,))],
    }  # fmt: skip
    assert dict(found.arena) == {"bytes": 77, "how": "microcontroller"}
    assert found.layout is None  # the files are the same
    (run.inputs["export"] / "lenet5_int8.tflite").write_bytes(b"xx")
    evaluate.run(run)
    assert dict(Metrics.read(run.out).layout) == {"unequal": 4, "largest": 255}


def test_a_run_tries_its_deployed_file_with_probes_of_its_own_seed(run, monkeypatch):
    drawn = []

    def probes(count, seed):
        drawn.append((count, seed))
        return {"letters": [np.zeros((28, 28), np.uint8)] * count}

    monkeypatch.setattr(outliers, "probes", probes)
    evaluate.run(run)
    found = Metrics.read(run.out).rejection
    assert drawn == [(3, 7)]
    # int8 answers with 0.75 whatever it sees, below the file's threshold.
    assert dict(found.test) == {"total": 5, "rejected": 5, "accuracy_of_accepted": None}
    assert {kind: dict(one) for kind, one in found.ood.items()} == {
        "letters": {"total": 3, "rejected": 3, "rejected_by_threshold": 0}
    }
    assert (run.out / "rejection.png").exists()


def test_a_run_corrupts_for_the_float_file_and_the_int8_file(run, monkeypatch):
    asked = []

    def robust(models, images, labels, seed, prepared):
        answers = {key: predict(images).tolist() for key, predict in models.items()}
        asked.append((answers, labels.tolist(), seed, prepared))
        means = RobustnessSummary(mean_accuracy=0.5, mean_accuracy_prepared=0.5)
        return Robustness(images=1, prepared_images=1, severities=(), corruptions={},
                          summary=dict.fromkeys(models, means))  # fmt: skip

    monkeypatch.setattr(robustness, "measure", robust)
    for asked_for, count in ((3, 3), (99, 5)):
        evaluate.run(with_settings(run, robustness_images=asked_for, prepared_images=10))
        answers = {key: RUN[key][:count].tolist() for key in ("float32", "int8")}
        assert asked[-1] == (answers, list(range(count)), 7, 10)


# The exit status


@pytest.mark.parametrize(
    ("arguments", "binding"),
    [("run", True), ("evaluate", True), ("report", False), ("run --until export", False)],
)
def test_a_missed_gate_fails_a_command_that_evaluates(
    two, tmp_path, monkeypatch, arguments, binding
):
    """The stages are up to date."""
    folder = tmp_path / "smoke" / "evaluate"
    folder.mkdir(parents=True)
    monkeypatch.setattr(pipeline, "execute", lambda run, stages, force: run)
    for met in (False, True):
        gate = Gate(gate="min_accuracy", figure=0.4, limit=0.75, met=met)
        changed(measured(two), "gates", (gate,)).write(folder)
        command, *options = [*arguments.split(), "--runs", str(tmp_path)]
        result = CliRunner().invoke(cli.app, [command, str(SMOKE), *options])
        assert isinstance(result.exception, GateError) == (binding and not met)
        assert ("INT8" in result.stdout and "40.00%" in result.stdout) == binding


@pytest.mark.parametrize("arguments", [[], [str(SMOKE), "--model", "a.keras"]])
def test_evaluate_takes_either_a_recipe_or_files(arguments):
    result = CliRunner().invoke(cli.app, ["evaluate", *arguments])
    assert isinstance(result.exception, Error)
    assert "takes a recipe, or one --model FILE or more" in str(result.exception)
