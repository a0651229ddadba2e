"""Distillation from end to end, on synthetic digits and the smallest of everything."""

import csv
import json
import shutil

import keras
import numpy as np
import pytest
from conftest import SMOKE, keras_lenet

from keras_lenet import pipeline, recipe
from keras_lenet.artifacts import Record
from keras_lenet.data import loading
from keras_lenet.errors import Error

TEACH = ("distill.model=mlp", "distill.teachers=2", "distill.rounds=2", "distill.seed=3")
QUICK = (
    "distill.train.epochs=10",
    "distill.train.learning_rate=1e-3",
    "distill.train.batch_size=32",
    "train.epochs=8",
)


def load(synthetic, *overrides):
    return recipe.load(SMOKE, [f"data.dataset={synthetic}", *TEACH, *QUICK, *overrides])


@pytest.fixture(scope="module")
def distilled(tmp_path_factory, synthetic):
    """A run as far as the quantize stage; not to be changed."""
    run = pipeline.open_run(load(synthetic), tmp_path_factory.mktemp("runs"), None)
    return pipeline.execute(run, pipeline.select(None, "quantize"))


def test_teachers_leave_models_and_answers(distilled):
    folder = distilled.stage_folder("teach")
    record = Record.read(folder)
    assert set(record.outputs) == {
        "round-000.npy", "round-001.npy", "validation.npy",
        "teacher-0/history.csv", "teacher-0/model.keras",
        "teacher-1/history.csv", "teacher-1/model.keras",
    }  # fmt: skip
    lessons = loading.Lessons.read(folder, seed=3, rounds=2)
    assert lessons.training.shape == (2, 320 + 32, 10)  # a tenth as many outliers
    assert lessons.validation.shape == (80, 10)
    assert "seed" not in record.settings


def test_answers_are_the_teachers_mean_logits_of_the_augmented_images(distilled, synthetic):
    folder, own = distilled.stage_folder("teach"), distilled.recipe
    training, _ = loading.load_training(str(synthetic), None, 0.2, seed=0)
    mixed = loading.with_outliers(training, own.data.outliers, 3)
    teachers = [keras.models.load_model(folder / f"teacher-{k}" / "model.keras") for k in (0, 1)]
    lessons = loading.Lessons.read(folder, seed=3, rounds=2)
    seen = loading.warped_in_order(mixed, own.augment, size=28, seed=3, epoch=1)
    images = np.concatenate(list(seen.as_numpy_iterator()))
    expected = (teachers[0](images) + teachers[1](images)).numpy() / 2
    np.testing.assert_allclose(lessons.training[1], expected, rtol=2e-3, atol=2e-3)
    assert not np.allclose(teachers[0](images), teachers[1](images))


def test_the_model_learns_from_answers_and_runs_of_other_seeds_share_them(distilled, synthetic):
    summary = Record.read(distilled.stage_folder("train")).summary
    assert summary["validation_accuracy"] > 0.5
    other = pipeline.open_run(
        load(synthetic, "seed=5", "name=other"), distilled.folder.parent, None
    )
    assert other.stage_folder("teach") == distilled.stage_folder("teach")
    assert other.why_stale(pipeline.STAGES["teach"]) is None
    assert other.why_stale(pipeline.STAGES["train"]) == pipeline.NOT_RUN
    changed = pipeline.open_run(load(synthetic, "distill.rounds=3"), distilled.folder.parent, None)
    assert changed.why_stale(pipeline.STAGES["teach"]) == pipeline.NOT_RUN
    assert changed.why_stale(pipeline.STAGES["train"]) == "the recipe changed"


def test_the_epoch_nearest_to_the_teachers_is_kept(distilled):
    folder = distilled.stage_folder("train")
    rows = list(csv.DictReader((folder / "history.csv").read_text().splitlines()))
    nearest = min(rows, key=lambda row: float(row["val_loss"]))
    assert Record.read(folder).summary["best_epoch"] == int(nearest["epoch"])


def test_fine_tuning_begins_where_training_ended(distilled, synthetic, tmp_path):
    shutil.copytree(distilled.folder.parent, tmp_path / "runs")
    run = pipeline.open_run(load(synthetic, "quantize.learning_rate=1e-9"), tmp_path / "runs", None)
    pipeline.execute(run, pipeline.select("quantize", "quantize"))

    def validation_loss(stage):
        folder = run.stage_folder(stage)
        rows = list(csv.DictReader((folder / "history.csv").read_text().splitlines()))
        return float(rows[Record.read(folder).summary["best_epoch"] - 1]["val_loss"])

    assert Record.read(run.stage_folder("train")).summary["temperature"] < 0.9
    assert validation_loss("quantize") == pytest.approx(validation_loss("train"), rel=0.03)


def test_an_interrupted_stage_goes_on_to_the_same_answers(distilled, synthetic, tmp_path):
    """Cut off after the first round: what is there is kept, the rest is as it would have been."""
    whole = distilled.stage_folder("teach")
    run = pipeline.open_run(load(synthetic), tmp_path, None)
    stage = pipeline.STAGES["teach"]
    identity = {"settings": run.settings(stage), "inputs": run.input_digests(stage)}
    partial = run.home(stage) / ".teach.partial"
    shutil.copytree(whole, partial)
    (partial / "stage.json").unlink()
    (partial / "identity.json").write_text(json.dumps(identity))
    (partial / "round-001.npy").unlink()
    kept = (partial / "round-000.npy").stat().st_mtime_ns
    pipeline.execute(run, pipeline.select("teach", "teach"))
    again = run.stage_folder("teach")
    assert (again / "round-000.npy").stat().st_mtime_ns == kept
    for name in ("round-001.npy", "validation.npy"):
        np.testing.assert_array_equal(np.load(again / name), np.load(whole / name))


def test_a_recipe_without_teachers_has_nothing_to_teach(synthetic, tmp_path):
    plain = recipe.load(SMOKE, [f"data.dataset={synthetic}"])
    run = pipeline.open_run(plain, tmp_path, None)
    with pytest.raises(Error, match=r"has no \[distill\] section, without which .* to teach"):
        pipeline.execute(run, pipeline.select("teach", "teach"))


def test_an_unknown_key_of_the_teachers_training_is_named(tmp_path):
    result = keras_lenet("teach", SMOKE, "--runs", tmp_path, "--set", "distill.train.epoch=3")
    assert result.returncode == 1
    assert "unknown key distill.train.epoch; did you mean distill.train.epochs?" in result.stderr
