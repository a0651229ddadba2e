"""The table of published systems, from records written here."""

import figures
import pytest
from conftest import PIPELINES, SMOKE, keras_lenet

from keras_lenet import pipeline, recipe
from keras_lenet.artifacts import Record
from keras_lenet.pipeline import Finished
from keras_lenet.reporting import reproduction

ORIGIN = ("origin.title=Theirs", "origin.accuracy=0.98", "origin.note=Unsound")


def finished(runs, scores, *overrides):
    """Runs of seeds 0, 1, … with these scores, float and int8, and training times 10, 20, … s."""
    found = []
    for seed, (exact, quantized) in enumerate(scores):
        loaded = recipe.load_recipe(SMOKE, [f"name=seed{seed}", *overrides])
        run = pipeline.open_run(loaded, runs, None)
        run.stage_folder("train").mkdir(parents=True)
        Record("train", {}, {}, {}, "digits", seed, {}, "2026-01-01", 10.0 * (seed + 1), {}).write(
            run.stage_folder("train")
        )
        metrics = figures.metrics(
            figures.score("keras", accuracy=exact),
            figures.score("int8_ptq", accuracy=0.98),
            figures.score("int8", accuracy=quantized),
        )
        found.append(Finished(run, metrics, 0.99))
    return found


def test_a_row_has_what_was_published_and_ours_over_the_seeds(tmp_path):
    runs = finished(tmp_path, [(0.99, 0.989), (0.992, 0.991), (0.991, 0.991)], *ORIGIN)
    cells = [cell.strip() for cell in reproduction.row(runs).strip("|").split("|")]
    assert cells == [
        "Theirs", "98.00 %", "99.100 ± 0.100 %", "98.000 ± 0.000 %", "99.033 ± 0.115 %", "3", "8",
        "20 s",
        "Unsound",
    ]  # fmt: skip
    assert len(cells) == reproduction.HEADER.splitlines()[0].count("|") - 1


def test_what_published_no_figure_has_a_dash(tmp_path):
    runs = finished(tmp_path, [(0.99, 0.99)], "origin.title=Theirs")
    assert reproduction.row(runs).startswith("| Theirs | – | 99.000 % | 98.000 % | 99.000 % | 1 |")


def test_a_recipe_that_reproduces_nothing_is_refused_before_any_work(tmp_path):
    result = keras_lenet("reproduce", SMOKE, "--runs", tmp_path / "runs")
    assert result.returncode == 1
    assert "recipe smoke has no [origin] section" in result.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "path", sorted((PIPELINES / "reproductions").iterdir()), ids=lambda one: one.stem
)
def test_every_recipe_among_the_seeds_reproduces_something(path):
    reproduction.check([recipe.load_recipe(path)])
