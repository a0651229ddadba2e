"""Finished evaluations side by side, and published systems beside ours; all written by hand."""

import figures
import numpy as np
import pytest
from conftest import PIPELINES, SMOKE, keras_lenet
from figures import changed

from keras_lenet import artifacts, recipe
from keras_lenet.errors import Error
from keras_lenet.evaluation.metrics import METRICS
from keras_lenet.reporting import compare
from keras_lenet.reporting.results import Finished

TRUTH = np.array([0, 1, 0, 1], np.uint8)
SETTINGS = {"seed": 0, "train": {"epochs": 3, "learning_rate": 0.01}}
FOUND = figures.metrics(
    figures.score("keras"),
    figures.score("int8", accuracy=0.75, interval=(0.301, 0.954), difference=-0.25, bytes=70_000),
    images=4,
)


def write(folder, settings=None, answers=(0, 1, 0, 0), truth=TRUTH, **changes):
    """Write the files of an evaluation; with settings, also the record that a stage leaves."""
    folder.mkdir(parents=True, exist_ok=True)
    FOUND.model_copy(update=changes).write(folder)
    probabilities = np.eye(2, dtype=np.float32)[list(answers)]
    wrong = np.roll(probabilities, 1, axis=1)  # of another model than the deployed one
    np.savez(folder / "predictions.npz", keras=wrong, int8=probabilities, labels=truth)
    if settings is not None:
        record("evaluate", settings, artifacts.hash_files(folder)).write(folder)
    return folder


def record(stage, settings=None, outputs=None, seconds=0.0):
    return artifacts.Record(stage, settings, {}, outputs, "mnist", 0, {}, "", seconds, {})


@pytest.fixture
def run(tmp_path):
    """A finished run, of which the evaluation alone is there."""
    write(tmp_path / "first" / "evaluate", SETTINGS)
    return tmp_path / "first"


def read(folder, **changes):
    """An evaluation of files, read back."""
    return compare.read(write(folder, **changes))


def test_a_run_is_read_as_it_was_written(tmp_path, run):
    for folder in (run, run / "evaluate"):
        found = compare.read(folder)
        assert found.name == folder.name
        assert found.settings == {"seed": 0, "train.epochs": 3, "train.learning_rate": 0.01}
        assert found.metrics == FOUND
        np.testing.assert_array_equal(found.answers, [0, 1, 0, 0])
        np.testing.assert_array_equal(found.labels, TRUTH)
    assert read(tmp_path / "files").settings == {}  # an evaluation of files has no record


def test_settings_that_differ_are_shown_and_others_are_not(tmp_path, run):
    other = {"seed": 0, "train": {"epochs": 3, "learning_rate": 0.5}, "distill": {"rounds": 2}}
    write(tmp_path / "second" / "evaluate", other)
    runs = [compare.read(run), compare.read(tmp_path / "second"), read(tmp_path / "files")]
    assert compare.settings(runs) == [["train.learning_rate", "0.01", "0.5", "–"]]
    assert compare.settings(runs[1:]) == []


def test_figures_are_those_of_the_deployed_models(tmp_path):
    whole = figures.everything()
    rejection = changed(changed(whole.rejection, "test total", 200), "test rejected", 3)
    summary = changed(whole.robustness, "summary a.tflite mean_accuracy", 0.85)
    whole = changed(changed(whole, "rejection", rejection), "robustness", summary)
    whole = changed(changed(whole, "dataset", "kmnist"), "images", 1000)
    runs = [read(tmp_path / "a"), compare.Evaluated("b", {}, whole, TRUTH, TRUTH)]
    assert compare.figures(runs) == [
        ["dataset", "mnist, 4 images", "kmnist, 1,000 images"],
        ["model", "int8", "a.tflite"],
        ["accuracy", "75.00%", "90.00%"],
        ["95 % interval", "30.10 to 95.40", "70.00 to 100.00"],
        ["difference from float", "-25.00 pt", "+0.00 pt"],
        ["calibration error", "0.0500", "0.0000"],
        ["bytes", "70,000", "1,000"],
        ["mean accuracy, corrupted", "–", "85.00%"],
        ["test images rejected", "–", "1.50%"],
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


@pytest.mark.slow
def test_the_command_prints_the_tables_and_the_verdict(tmp_path, run):
    result = keras_lenet("compare", run)
    assert (result.returncode, result.stdout) == (1, "")
    assert "two runs or more, got 1" in result.stderr
    other = write(tmp_path / "second" / "evaluate", SETTINGS | {"seed": 1}).parent
    result = keras_lenet("compare", run, other)
    assert result.returncode == 0, result.stderr
    (row,) = (line for line in result.stdout.splitlines() if line.split()[:1] == ["seed"])
    assert row.split() == ["seed", "0", "1"]
    assert "75.00%" in result.stdout
    assert result.stdout.endswith(
        "second and first give the same class on every one of 4 images.\n"
    )


def test_damage_to_a_run_is_refused(run):
    evaluation = run / "evaluate"
    kept = {path: path.read_bytes() for path in evaluation.iterdir()}
    for name, content, complaint in (
        (artifacts.RECORD, None, f"{evaluation}: its record cannot be read; run the stage"),
        (artifacts.RECORD, b"{", f"{evaluation}: its record cannot be read; run the stage"),
        (METRICS, kept[evaluation / METRICS].replace(b"0.75", b"0.9999"),
         f"{evaluation}: metrics.json is missing or was changed; run evaluate again"),
        (METRICS, None, f"{run}: no evaluation in it; expected a folder such as"),
    ):  # fmt: skip
        path = evaluation / name
        path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises(Error, match=f"^{complaint}"):
            compare.read(run)
        path.write_bytes(kept[path])
    assert compare.read(run).metrics == FOUND


@pytest.mark.parametrize(
    "arrays",
    [
        {"labels": TRUTH},  # no answers
        {"int8": np.eye(2)[TRUTH]},  # no labels
        {"int8": np.eye(2)[TRUTH], "labels": TRUTH[:3]},
        {"int8": np.float32(1), "labels": TRUTH},
        {"int8": np.eye(2)[TRUTH], "labels": np.array([None] * 4)},  # a pickle
        b"",
        b"PK\x03\x04",
    ],
)
def test_damaged_predictions_are_refused(tmp_path, arrays):
    path = write(tmp_path / "files") / "predictions.npz"
    path.write_bytes(arrays) if isinstance(arrays, bytes) else np.savez(path, **arrays)
    with pytest.raises(Error, match=f"^{path.parent}: damaged .*; run evaluate again$"):
        compare.read(path.parent)


# Reproductions


def finished(runs, scores, *overrides):
    """Runs of seeds 0, 1, … with these scores, float and int8, and training times 10, 20, … s."""
    found = []
    for seed, (exact, quantized) in enumerate(scores):
        loaded = recipe.load_recipe(SMOKE, [f"name=seed{seed}", *overrides])
        folder = runs / str(seed) / "train"
        folder.mkdir(parents=True)
        record("train", {}, {}, 10.0 * (seed + 1)).write(folder)
        metrics = figures.metrics(
            figures.score("keras", accuracy=exact),
            figures.score("int8_ptq", accuracy=0.98),
            figures.score("int8", accuracy=quantized),
        )
        found.append(Finished(loaded, {"train": folder}, metrics, 0.99))
    return found


def test_a_reproduction_stands_beside_the_published_figure(tmp_path):
    origin = ("origin.title=Theirs", "origin.accuracy=0.98", "origin.note=Unsound")
    runs = finished(tmp_path / "a", [(0.99, 0.989), (0.992, 0.991), (0.991, 0.991)], *origin)
    single = finished(tmp_path / "b", [(0.99, 0.99)], "origin.title=Other")
    header, _, first, second = compare.reproductions([runs, single]).splitlines()
    assert first == (
        "| Theirs | 98.00 % | 99.100 ± 0.100 % | 98.000 ± 0.000 % | 99.033 ± 0.115 % | 3 | 8 | "
        "20 s | Unsound |"
    )
    assert second.startswith("| Other | – | 99.000 % | 98.000 % | 99.000 % | 1 |")
    assert header.count("|") == first.count("|")


def test_a_recipe_without_origin_is_refused_before_any_work(tmp_path):
    result = keras_lenet("reproduce", SMOKE, "--runs", tmp_path / "runs")
    assert result.returncode == 1
    assert "recipe smoke has no [origin] section" in result.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "path", sorted((PIPELINES / "reproductions").iterdir()), ids=lambda one: one.stem
)
def test_every_reproduction_has_an_origin(path):
    assert recipe.load_recipe(path).origin is not None
