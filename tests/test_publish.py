"""Publishing of finished runs, which here have the files of `exported/`."""

import json
import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from conftest import PIPELINES, SMOKE, write_dataset
from figures import changed
from typer.testing import CliRunner

from keras_lenet import artifacts, cli, pipeline, recipe
from keras_lenet.artifacts import Record
from keras_lenet.data import catalogue
from keras_lenet.errors import Error, GateError
from keras_lenet.evaluation.metrics import Gate, Metrics
from keras_lenet.pipeline import run_seeds
from keras_lenet.reporting import results
from keras_lenet.reporting.card import choose, publish, spread
from keras_lenet.reporting.results import Finished
from keras_lenet.stages import STAGES
from keras_lenet.tflite import metadata_writer

EXPORTED = PIPELINES.parent / "exported"
OF_STAGES = {
    "train": ("model.keras",),
    "quantize": (),
    "export": (
        "lenet5_int8.tflite",
        "manifest.json",
        "c/lenet5.c",
        "saved_model/variables/variables.index",
    ),
    "evaluate": ("metrics.json", "confusion.png", "rejection.png"),
    "report": ("training.png",),
}


def finish(run, validation_accuracy=0.99):
    """Write the folders of a finished run, with the published files."""
    for stage, names in OF_STAGES.items():
        folder = run.stage_folder(stage)
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(EXPORTED / name, folder / name)
        folder.mkdir(parents=True, exist_ok=True)
        Record(
            stage, {}, {}, artifacts.hash_files(folder), "mnist", run.recipe.seed, {},
            "2026-01-01", 1.0, {"validation_accuracy": validation_accuracy, "temperature": 1.0},
        ).write(folder)  # fmt: skip
        (folder / "left behind").touch()  # no record names it
    return run


def finished(runs, seed, validation_accuracy, gates=(), **accuracies):
    """Return a finished run with the published metrics, except for gates and accuracies."""
    loaded = recipe.load_recipe(SMOKE, [f"name=seed{seed}", f"seed={seed}"])
    run = finish(pipeline.open_run(loaded, runs, None), validation_accuracy)
    metrics = changed(Metrics.read(run.stage_folder("evaluate")), "gates", gates)
    for model, accuracy in accuracies.items():
        metrics = changed(metrics, f"models {model} accuracy", accuracy)
    folders = {stage: run.stage_folder(stage) for stage in STAGES}
    return Finished(loaded, folders, metrics, validation_accuracy)


def gate(met):
    return Gate(gate="min_accuracy", figure=0.97, limit=0.98, met=met)


@pytest.fixture
def ours(tmp_path):
    """A folder that an older version published."""
    folder = tmp_path / "exported"
    folder.mkdir()
    (folder / "manifest.json").write_text("old")
    (folder / "from an older version").touch()
    (artifacts.begin(folder, {}) / "from an interrupted attempt").touch()
    return folder


@pytest.fixture
def published(tmp_path, ours):
    seeds = [finished(tmp_path / "runs", 0, 0.98), finished(tmp_path / "runs", 7, 0.99)]
    publish(seeds, ours, "smoke.toml --set train.epochs=3")
    return ours


def test_the_best_seed_on_validation_is_chosen_or_the_first_that_ties(tmp_path):
    seeds = [
        finished(tmp_path, 0, 0.994, int8=0.999),  # the best on the test set
        finished(tmp_path, 1, 0.996, int8=0.993),
        finished(tmp_path, 2, 0.996, int8=0.996),
    ]
    assert choose(seeds) is seeds[1]
    assert choose(seeds[::-1]) is seeds[2]


def two_seeds(runs, first, second):
    """Return seed 0, and seed 1, which is chosen; `first` and `second` say who meets the gate."""
    chosen = finished(runs, 1, 0.99, (gate(True), gate(second)))
    return [finished(runs, 0, 0.98, (gate(first),)), chosen]


def test_examples_in_the_folder_stay(tmp_path, ours):
    (ours / "examples").mkdir()
    (ours / "examples" / "browser.js").write_text("mine")
    publish([finished(tmp_path / "runs", 0, 0.99)], ours, "smoke.toml")
    assert (ours / "examples" / "browser.js").read_text() == "mine"


def test_only_the_gates_of_the_chosen_seed_refuse_a_release(tmp_path, ours, capsys):
    before = artifacts.hash_files(ours)
    with pytest.raises(GateError, match=r"min_accuracy: 0\.97, limit 0\.98"):
        publish(two_seeds(tmp_path / "runs", True, False), ours, "smoke.toml")
    assert artifacts.hash_files(ours) == before
    publish(two_seeds(tmp_path / "again", False, True), ours, "smoke.toml")
    said = " ".join(capsys.readouterr().err.split())
    assert f"publish: seed 1, the best on validation, to {ours}" in said


@pytest.mark.needs("sha256sum")
def test_the_folder_holds_the_files_of_the_chosen_run_and_their_hashes(published):
    names = [name for names in OF_STAGES.values() for name in names]
    found = artifacts.hash_files(published)
    assert found.keys() == {*names, "README.md", artifacts.SUMS}
    assert all(artifacts.sha256(EXPORTED / name) == found[name] for name in names)
    lines = (published / artifacts.SUMS).read_text().splitlines()
    listed = {name: digest for digest, name in (line.split("  ") for line in lines)}
    assert listed == {name: found[name] for name in found if name != artifacts.SUMS}
    command = ["sha256sum", "--check", "--strict", "--quiet", artifacts.SUMS]
    subprocess.run(command, cwd=published, check=True)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").touch()
    command = ["publish", str(SMOKE), "--to", str(tmp_path), "--runs", str(tmp_path / "runs")]
    result = CliRunner().invoke(cli.app, command)
    assert isinstance(result.exception, Error)
    assert "holds something else: it has no manifest.json" in str(result.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_the_card_has_the_hashes_their_command_the_metrics_and_the_pictures(published):
    card, metrics = (published / "README.md").read_text(), Metrics.read(published)
    command = "keras-lenet run smoke.toml --set train.epochs=3 --set seed=7"
    for name in ("lenet5_int8.tflite", "c/lenet5.c"):
        assert f"| `{name}` | `{artifacts.sha256(published / name)}` | `{command}` |" in card
    assert artifacts.sha256(published / "confusion.png") not in card
    for text in (
        "Made by `keras-lenet publish smoke.toml --set train.epochs=3 --seeds 2`.",
        results.markdown(metrics),
        results.rejection(metrics),
        "its outputs differ nowhere (reference kernels)",
        *(f"]({name}.png)" for name in ("confusion", "rejection", "training")),
        "It rejects\n0.5% of the validation images.",
        "Accuracy over the seeds 0, 7:",
        "The published files have seed 7, which has the best accuracy on the validation",
    ):
        assert text in card


def test_the_card_says_where_layouts_differ(tmp_path):
    one = finished(tmp_path, 0, 0.99)
    differing = changed(changed(one.metrics, "layout unequal", 2), "layout largest", 5)
    one = replace(one, metrics=differing)
    assert "its outputs differ on 2 images, by at most 5" in results.markdown(one.metrics)


def test_the_spread_is_over_all_seeds(tmp_path):
    scores = (0.999, 0.993, 0.996)
    seeds = [finished(tmp_path, number, 0.99, int8=one) for number, one in enumerate(scores)]
    assert "| lenet5_int8.tflite | 99.600 % | 0.300 | 99.30 % | 99.90 % |" in spread(seeds)
    assert "| lenet5_int8.tflite | 99.900 % | – | 99.90 % | 99.90 % |" in spread(seeds[:1])


def test_seeds_run_upwards_each_in_its_own_folder(monkeypatch, tmp_path):
    executed = []

    def execute(run, stages, force):
        assert not force
        executed.append((run.folder.name, run.recipe.name, run.recipe.seed, run.data_dir, stages))
        return finish(run, run.recipe.seed / 10)

    monkeypatch.setattr(pipeline, "execute", execute)
    found = run_seeds(recipe.load_recipe(SMOKE, ["seed=5"]), 2, tmp_path / "runs", tmp_path)
    stages = pipeline.select(None, None)
    names = {seed: f"smoke-seed{seed}" for seed in (5, 6)}
    assert executed == [(name, name, seed, tmp_path, stages) for seed, name in names.items()]
    assert [(one.recipe.seed, one.validation_accuracy) for one in found] == [(5, 0.5), (6, 0.6)]
    assert all(one.metrics == Metrics.read(EXPORTED) for one in found)


@pytest.fixture
def clothing(tmp_path, monkeypatch):
    """Return a folder with digits in files of Fashion-MNIST's names, accepted as this dataset."""
    known = catalogue.DATASETS["fashion_mnist"]
    files = catalogue.find(str(tmp_path)).files  # of the same names, unverified
    monkeypatch.setitem(catalogue.DATASETS, "fashion_mnist", replace(known, files=files))
    write_dataset(tmp_path / "fashion_mnist", 200, 60)
    return tmp_path


@pytest.mark.slow
def test_the_classes_of_another_dataset_are_named_throughout(clothing, tmp_path):
    def run(*arguments):
        result = CliRunner().invoke(cli.app, [*map(str, arguments), "--data-dir", str(clothing)])
        assert result.exit_code == 0, result.output

    folder, classes = tmp_path / "exported", catalogue.classes("fashion_mnist")
    run("publish", SMOKE, "--runs", tmp_path / "runs", "--to", folder,
        "--set", "data.dataset=fashion_mnist", "--set", "train.epochs=2")  # fmt: skip
    assert tuple((folder / "labels.txt").read_text().splitlines()) == classes
    assert tuple(json.loads((folder / "manifest.json").read_text())["labels"]) == classes
    assert Metrics.read(folder).labels == classes
    for path in folder.glob("*.tflite"):
        assert tuple(metadata_writer.labels(path.read_bytes())) == classes
    contract = (folder / "microcontroller" / "lenet5_contract.h").read_text()
    assert '{\n    "T-shirt/top", "Trouser",' in contract
    card = (folder / "README.md").read_text()
    assert "\n# lenet5: clothing, int8" in card
    assert "datasets: [fashion_mnist]" in card
    assert "classes in this order: T-shirt/top, Trouser" in card
    page = (tmp_path / "runs" / "smoke-seed0" / "report" / "report.html").read_text()
    assert not re.search(r"digits 0|no digit|digits (it|refused)|a digit|cheques", card + page)
    assert "made for digits" in card
    assert "made for digits" in page
    assert "Ankle boot" in page
    run("evaluate", "--model", folder / "lenet5_int8.tflite", "--dataset", "fashion_mnist",
        "--to", tmp_path / "scored", "--set", "evaluate.probes=5",
        "--set", "evaluate.robustness_images=0")  # fmt: skip
    assert Metrics.read(tmp_path / "scored").labels == classes
