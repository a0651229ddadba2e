"""Finished evaluations side by side."""

import json

import pytest
from conftest import SMOKE, keras_lenet

from keras_lenet import artifacts, compare
from keras_lenet.errors import Error


@pytest.fixture
def runs(finished, tmp_path):
    """The finished run, and a copy of it with another learning rate in its recipe."""
    finished.copy(tmp_path)
    (tmp_path / "smoke").rename(tmp_path / "other")
    recipe = tmp_path / "other" / "evaluate" / artifacts.RECIPE
    changed = json.loads(recipe.read_text())
    changed["train"]["learning_rate"] = 0.5
    recipe.write_text(json.dumps(changed))
    return finished.folder, tmp_path / "other"


def edit(run, change):
    """Change the metrics, and drop the record that would tell."""
    (run / "evaluate" / artifacts.RECORD).unlink(missing_ok=True)
    path = run / "evaluate" / "metrics.json"
    metrics = json.loads(path.read_text())
    change(metrics)
    path.write_text(json.dumps(metrics))


def test_what_differs_is_shown(runs):
    result = keras_lenet("compare", *runs)
    assert result.returncode == 0, result.stderr
    (row,) = (line for line in result.stdout.splitlines() if "train.learning_rate" in line)
    assert row.split()[1:] == ["0.01", "0.5"]
    assert "train.epochs" not in result.stdout
    assert "other and smoke give the same class on every one of 100 images." in result.stdout


def test_other_test_sets_are_not_compared_image_by_image(runs):
    edit(runs[1], lambda metrics: metrics.update(dataset="kmnist"))
    (sentence,) = compare.verdicts([compare.read(run) for run in runs])
    assert sentence == "other and smoke were scored on different test sets: no paired test."


def test_a_run_without_a_recipe_differs_in_no_setting(runs):
    (runs[1] / "evaluate" / artifacts.RECIPE).unlink()
    assert compare.settings([compare.read(run) for run in runs]) == []


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda metrics: metrics.update(labels=list("abcdefghij")), "other has the labels a, b"),
        (lambda metrics: metrics.update(schema=1), "schema 1, expected 2; run evaluate again"),
        (lambda metrics: metrics.update(deployed="gone"), "damaged"),
    ],
)
def test_what_cannot_be_compared_is_named(runs, change, complaint):
    edit(runs[1], change)
    result = keras_lenet("compare", *runs)
    assert result.returncode == 1
    assert complaint in result.stderr
    assert "Traceback" not in result.stderr


def test_a_folder_without_an_evaluation(tmp_path):
    with pytest.raises(Error, match="no evaluation in it; expected a folder such as"):
        compare.read(tmp_path)


def test_one_run_is_not_enough(finished):
    assert "two runs or more, got 1" in keras_lenet("compare", finished.folder).stderr


def test_the_recipe_is_kept_beside_the_figures(finished):
    assert compare.read(finished.folder).settings["data.outliers"] == 0.1
    assert SMOKE.stem == compare.read(finished.folder).name


def test_metrics_changed_by_hand_are_not_compared(runs):
    path = runs[1] / "evaluate" / "metrics.json"
    path.write_text(path.read_text().replace('"accuracy": 0', '"accuracy": 1', 1))
    with pytest.raises(Error, match=r"metrics\.json is missing or was changed; run evaluate again"):
        compare.read(runs[1])


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda metrics: metrics.update(models=[]), "models. is no object"),
        (lambda metrics: metrics.update(reference="x"), "reference is none of its models"),
        (lambda metrics: metrics.update(dataset="\x1b[31m"), "dataset. is no plain text"),
        (lambda metrics: metrics.update(images=float("nan")), "images. is no number"),
        (lambda metrics: metrics["models"]["int8"].update(bytes=10**400), "bytes. is no number"),
        (lambda metrics: metrics["models"]["int8"].pop("interval"), "interval is missing"),
        (lambda metrics: metrics["gates"].append(3), "gates. is no object"),
        (lambda metrics: metrics.update(rejection=3), "rejection. is no object"),
    ],
)
def test_metrics_of_another_form_are_named(runs, change, complaint):
    edit(runs[1], change)
    with pytest.raises(Error, match=f"damaged or edited: .*{complaint}"):
        compare.read(runs[1])
