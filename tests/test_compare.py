"""Finished evaluations side by side; all of them written by hand."""

import copy
import json

import numpy as np
import pytest
from conftest import keras_lenet

from keras_lenet import artifacts
from keras_lenet.errors import Error
from keras_lenet.evaluation import results
from keras_lenet.reporting import compare

TRUTH = np.array([0, 1, 0, 1], np.uint8)
SETTINGS = {"seed": 0, "train": {"epochs": 3, "learning_rate": 0.01}}


def model(title, **changes):
    return {
        "title": title, "correct": 3, "total": 4, "accuracy": 0.75, "interval": [0.301, 0.954],
        "difference": 0.0, "agreement": 1.0, "bytes": 70_000, "calibration": {"error": 0.0123},
    } | changes  # fmt: skip


METRICS = {
    "schema": 2,
    "dataset": "mnist",
    "images": 4,
    "labels": ["zero", "one"],
    "reference": "keras",
    "deployed": "int8",
    "models": {
        "keras": model("Keras", accuracy=1.0, correct=4, bytes=240_000),
        "int8": model("lenet5_int8.tflite", difference=-0.25),
    },
    "paired": [{"verdict": "indistinguishable"}],
    "gates": [{"gate": "min_accuracy", "figure": 0.75, "limit": 0.5, "met": True}],
    "timings": {
        "cpu": "a CPU",
        "device": "CPU",
        "threads": 1,
        "models": {name: {"kernels": "XNNPACK", "p50_us": 5.0} for name in ("keras", "int8")},
    },
}


def write(folder, settings=None, answers=(0, 1, 0, 0), truth=TRUTH, **changes):
    """Write the files of an evaluation; with settings, also the record that a stage leaves."""
    folder.mkdir(parents=True, exist_ok=True)
    metrics = copy.deepcopy(METRICS) | changes
    (folder / "metrics.json").write_text(json.dumps(metrics))
    probabilities = np.eye(2, dtype=np.float32)[list(answers)]
    wrong = np.roll(probabilities, 1, axis=1)  # of another model than the deployed one
    np.savez(folder / "predictions.npz", keras=wrong, int8=probabilities, labels=truth)
    if settings is not None:
        record(folder, settings)
    return folder


def record(folder, settings):
    artifacts.Record(
        stage="evaluate", settings=settings, inputs={}, outputs=artifacts.hash_files(folder),
        dataset="mnist", seed=0, versions={}, started="", seconds=0, summary={},
    ).write(folder)  # fmt: skip


@pytest.fixture
def run(tmp_path):
    """A finished run, of which the evaluation alone is there."""
    write(tmp_path / "first" / "evaluate", SETTINGS)
    return tmp_path / "first"


def read(folder, **changes):
    """An evaluation of files, read back."""
    return compare.read(write(folder, **changes))


def test_a_run_is_read_as_it_was_written(run):
    found = compare.read(run)
    assert found.name == "first"
    assert found.settings == {"seed": 0, "train.epochs": 3, "train.learning_rate": 0.01}
    assert found.metrics == METRICS
    assert found.deployed == METRICS["models"]["int8"]
    np.testing.assert_array_equal(found.answers, [0, 1, 0, 0])
    np.testing.assert_array_equal(found.labels, TRUTH)


def test_the_evaluation_of_files_is_read_without_record_and_settings(tmp_path):
    found = read(tmp_path / "files")
    assert (found.name, found.settings) == ("files", {})


def test_a_stages_own_folder_is_read_with_its_record(run):
    assert compare.read(run / "evaluate").settings["train.epochs"] == 3


def test_settings_that_differ_are_shown_and_others_are_not(tmp_path, run):
    other = {"seed": 0, "train": {"epochs": 3, "learning_rate": 0.5}, "distill": {"rounds": 2}}
    write(tmp_path / "second" / "evaluate", other)
    runs = [compare.read(run), compare.read(tmp_path / "second"), read(tmp_path / "files")]
    assert compare.settings(runs) == [["train.learning_rate", "0.01", "0.5", "–"]]
    assert compare.settings(runs[1:]) == []


def test_figures_are_the_deployed_models(tmp_path):
    measured = {
        "robustness": {
            "summary": {"keras": {"mean_accuracy": 0.1}, "int8": {"mean_accuracy": 0.85}}
        },
        "rejection": {"threshold": 0.5, "digits": {"total": 200, "refused": 3}, "outliers": {}},
    }
    runs = [read(tmp_path / "a"), read(tmp_path / "b", dataset="kmnist", images=1000, **measured)]
    assert compare.figures(runs) == [
        ["dataset", "mnist, 4 images", "kmnist, 1,000 images"],
        ["model", "lenet5_int8.tflite", "lenet5_int8.tflite"],
        ["accuracy", "75.00%", "75.00%"],
        ["95 % interval", "30.10 to 95.40", "30.10 to 95.40"],
        ["from its float model", "-25.00 pt", "-25.00 pt"],
        ["calibration error", "0.0123", "0.0123"],
        ["bytes", "70,000", "70,000"],
        ["mean accuracy, corrupted", "–", "85.00%"],
        ["test images refused", "–", "1.50%"],
    ]


def test_each_run_is_held_against_the_first(tmp_path):
    runs = [
        read(tmp_path / "a", answers=(0, 1, 0, 0)),
        read(tmp_path / "b", answers=(0, 1, 0, 0)),
        read(tmp_path / "c", answers=(0, 1, 0, 1)),
        read(tmp_path / "d", dataset="kmnist"),
        read(tmp_path / "e", truth=TRUTH[::-1].copy()),
    ]
    same, better, *others = compare.verdicts(runs)
    assert same == "b and a give the same class on every one of 4 images."
    assert better.startswith("c and a are indistinguishable on this test set: 1 of 4 images are")
    assert others == [
        f"{name} and a were scored on different test sets: no paired test." for name in "de"
    ]


def test_runs_of_other_classes_have_no_common_measure(tmp_path):
    runs = [read(tmp_path / "a"), read(tmp_path / "b"), read(tmp_path / "c", labels=["x", "y"])]
    compare.check(runs[:2])
    with pytest.raises(Error) as caught:
        compare.check(runs)
    assert str(caught.value) == "c has the labels x, y, a zero, one: nothing to compare"


@pytest.mark.slow
def test_the_command_prints_the_tables_and_the_verdict(tmp_path, run):
    other = write(tmp_path / "second" / "evaluate", SETTINGS | {"seed": 1}).parent
    result = keras_lenet("compare", run, other)
    assert result.returncode == 0, result.stderr
    (row,) = (line for line in result.stdout.splitlines() if line.split()[:1] == ["seed"])
    assert row.split() == ["seed", "0", "1"]
    assert "75.00%" in result.stdout
    assert result.stdout.endswith(
        "second and first give the same class on every one of 4 images.\n"
    )


@pytest.mark.slow
def test_the_command_takes_two_runs_or_more(run):
    result = keras_lenet("compare", run)
    assert (result.returncode, result.stdout) == (1, "")
    assert "two runs or more, got 1" in result.stderr


def test_a_folder_without_an_evaluation_is_named(tmp_path):
    with pytest.raises(Error, match=f"^{tmp_path}: no evaluation in it; expected a folder such as"):
        compare.read(tmp_path)


def edit_accuracy(folder):
    path = folder / "metrics.json"
    path.write_text(path.read_text().replace('"accuracy": 0.75', '"accuracy": 0.9999'))


@pytest.mark.parametrize("content", ["", "{", '{"outputs": {}}'])
@pytest.mark.parametrize("below", ["", "evaluate"])
def test_edited_metrics_beside_a_damaged_record_are_refused(run, content, below):
    edit_accuracy(run / "evaluate")
    (run / "evaluate" / artifacts.RECORD).write_text(content)
    with pytest.raises(Error, match=f"^{run}/evaluate: its record cannot be read; run the stage"):
        compare.read(run / below)


def test_a_run_whose_evaluation_has_lost_its_record_is_refused(run):
    (run / "evaluate" / artifacts.RECORD).unlink()
    with pytest.raises(Error, match=f"^{run}/evaluate: its record cannot be read; run the stage"):
        compare.read(run)


def test_edited_metrics_beside_a_sound_record_are_refused(run):
    edit_accuracy(run / "evaluate")
    with pytest.raises(Error) as caught:
        compare.read(run)
    assert str(caught.value) == (
        f"{run}/evaluate: metrics.json is missing or was changed; run evaluate again"
    )


@pytest.mark.parametrize(
    "arrays",
    [
        {"labels": TRUTH},  # no answers
        {"int8": np.eye(2)[TRUTH]},  # no labels
        {"int8": np.eye(2)[TRUTH], "labels": TRUTH[:3]},
        {"int8": np.eye(2)[TRUTH], "labels": TRUTH.astype(np.int64)},
        {"int8": np.zeros((0, 2)), "labels": TRUTH[:0]},
        {"int8": np.float32(1), "labels": TRUTH},
        {"int8": np.eye(2)[TRUTH], "labels": np.array([None] * 4)},  # a pickle
    ],
)
def test_answers_that_do_not_fit_the_labels_are_damage(tmp_path, arrays):
    folder = write(tmp_path / "files")
    np.savez(folder / "predictions.npz", **arrays)
    with pytest.raises(Error, match=f"^{folder}: damaged .*; run evaluate again$"):
        compare.read(folder)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no archive at all"])
def test_a_damaged_archive_of_answers_is_named(tmp_path, content):
    folder = write(tmp_path / "files")
    (folder / "predictions.npz").write_bytes(content)
    with pytest.raises(Error, match=f"^{folder}: damaged .*; run evaluate again$"):
        compare.read(folder)


WHOLE = METRICS | {
    "rejection": {
        "threshold": 0.5,
        "digits": {"total": 4, "refused": 1},
        "outliers": {"letters": {"total": 10, "refused": 9, "refused_by_threshold": 8}},
    },
    "robustness": {"summary": {"int8": {"mean_accuracy": 0.5}}},
    "fake_quantized_agreement": 1.0,
    "layout": {"kernels": "reference", "images": 4, "unequal": 0, "largest": 0},
}
"""Metrics with every part that others rely on."""
NOT_DEMANDED = {
    *((key,) for key in set(WHOLE) - set(METRICS)),
    ("rejection", "outliers", "letters"),
    ("robustness", "summary", "int8"),
}
NUMBER = (None, True, "1", float("nan"), 1e15, -1e15, 10**400)
OTHERWISE = {
    str: (None, 3, "\x1b[31m"),
    bool: (None, 1, "yes"),
    int: NUMBER,
    float: NUMBER,
    list: (None, {}, 3),
    dict: (None, [], 3),
}
"""Of each type, values that are not of its form."""


def places(value, way=()):
    """The way to every value inside another, and the value."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*way, key), inner
        if isinstance(inner, dict | list):
            yield from places(inner, (*way, key))


PLACES = [(way, value) for way, value in places(WHOLE) if way != ("schema",)]


def named(way):
    return ".".join(key for key in way if isinstance(key, str))


def problem_of(folder, way, change):
    """What is said of whole metrics once what holds the value at the end of `way` is changed."""
    metrics = copy.deepcopy(WHOLE)
    holder = metrics
    for key in way[:-1]:
        holder = holder[key]
    change(holder)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(Error) as caught:
        results.read(folder)
    start, end = f"{folder}/metrics.json: damaged or edited: ", "; run evaluate again"
    assert str(caught.value).startswith(start)
    assert str(caught.value).endswith(end)
    return str(caught.value).removeprefix(start).removesuffix(end)


@pytest.mark.parametrize("metrics", [METRICS, WHOLE], ids=["least", "whole"])
def test_whole_metrics_are_read_back(tmp_path, metrics):
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    assert results.read(tmp_path) == metrics


@pytest.mark.parametrize(("way", "value"), PLACES, ids=lambda item: str(item)[:60])
def test_a_value_of_another_form_is_named(tmp_path, way, value):
    for other in OTHERWISE[type(value)]:
        said = problem_of(
            tmp_path, way, lambda holder, other=other: holder.__setitem__(way[-1], other)
        )
        assert said.startswith(f"{named(way)}. is no ")


REQUIRED = [
    way
    for way, _ in PLACES
    if isinstance(way[-1], str) and way not in NOT_DEMANDED and way[-1] not in ("keras", "int8")
]


@pytest.mark.parametrize("way", REQUIRED, ids=named)
def test_what_is_missing_is_named(tmp_path, way):
    said = problem_of(tmp_path, way, lambda holder: holder.pop(way[-1]))
    assert said == f"{named(way)} is missing"


@pytest.mark.parametrize("way", sorted(NOT_DEMANDED), ids=named)
def test_what_was_not_measured_may_be_missing(tmp_path, way):
    metrics = copy.deepcopy(WHOLE)
    holder = metrics
    for key in way[:-1]:
        holder = holder[key]
    del holder[way[-1]]
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    assert results.read(tmp_path) == metrics


@pytest.mark.parametrize("key", ["reference", "deployed"])
def test_the_models_that_others_are_held_against_are_measured_and_timed(tmp_path, key):
    said = f"{key} is none of its models"
    name = WHOLE[key]
    assert problem_of(tmp_path, (key,), lambda holder: holder.update({key: "x"})) == said
    assert problem_of(tmp_path, ("models", name), lambda holder: holder.pop(name)) == said
    assert (
        problem_of(tmp_path, ("timings", "models", name), lambda holder: holder.pop(name)) == said
    )


def test_an_interval_has_two_ends(tmp_path):
    way = ("models", "int8", "interval", 0)
    said = problem_of(tmp_path, way, lambda holder: holder.append(1.0))
    assert said == "models.int8.interval. is no list of 2"


@pytest.mark.parametrize("content", ["", "{", "[" * 100_000])
def test_metrics_that_cannot_be_read_are_named(tmp_path, content):
    (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(Error, match=r"metrics\.json: cannot be read as metrics \("):
        results.read(tmp_path)


@pytest.mark.parametrize(
    ("content", "schema"), [("[]", "None"), ("{}", "None"), ('{"schema": 1}', "1"), ("3", "None")]
)
def test_metrics_of_another_schema_are_named(tmp_path, content, schema):
    (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(Error) as caught:
        results.read(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/metrics.json: schema {schema}, expected 2; run evaluate again"
    )
