import json
import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from conftest import SMOKE, draw_digits
from typer.testing import CliRunner

from keras_lenet import artifacts, checksums, cli, publish, results
from keras_lenet.data import datasets, idx
from keras_lenet.edge import metadata_writer
from keras_lenet.pipeline import Run


@pytest.fixture
def published(finished, tmp_path):
    """The finished run, published as seed 0."""
    _, _, *arguments = finished.copy(tmp_path)
    (tmp_path / "smoke").rename(tmp_path / "smoke-seed0")
    folder = tmp_path / "exported"
    folder.mkdir()
    (folder / "manifest.json").touch()
    (folder / "from an older version").touch()
    (artifacts.begin(folder, {}) / "from an interrupted attempt").touch()
    result = CliRunner().invoke(
        cli.app, ["publish", str(SMOKE), "--to", str(folder), *map(str, arguments)]
    )
    assert result.exit_code == 0, result.output
    return folder, result.stdout


def test_the_folder_holds_what_the_manifest_and_the_card_name(published):
    folder, _ = published
    assert not (folder / "from an older version").exists()
    assert not (folder / "from an interrupted attempt").exists()
    manifest = json.loads((folder / "manifest.json").read_text())
    card = (folder / "README.md").read_text()
    for name, described in manifest["files"].items():
        assert artifacts.sha256(folder / name) == described["sha256"]
        assert f"`{name}`" in card
    for picture in ("confusion.png", "training.png"):
        assert f"]({picture})" in card
        assert (folder / picture).exists()
    assert (folder / "saved_model" / "saved_model.pb").exists()
    assert results.markdown(results.read(folder)) in card
    assert (folder / "budget.md").exists()
    assert "`budget.md`" in card
    assert not (folder / "stage.json").exists()


def test_every_file_of_the_folder_is_covered_by_a_hash(published):
    folder, _ = published
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    found = checksums.verify(folder)
    assert set(found.covered) == names - {checksums.SUMS}
    assert found.uncovered == ()
    assert not any(name.startswith(".") or name == artifacts.IDENTITY for name in names)
    if shutil.which("sha256sum"):
        command = ["sha256sum", "--check", "--strict", "--quiet", checksums.SUMS]
        subprocess.run(command, cwd=folder, check=True)


def test_a_folder_of_something_else_is_left_alone(finished, tmp_path):
    _, _, *arguments = finished.copy(tmp_path)
    (tmp_path / "smoke").rename(tmp_path / "smoke-seed0")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    command = ["publish", str(SMOKE), "--to", str(tmp_path / "mine"), *map(str, arguments)]
    result = CliRunner().invoke(cli.app, command)
    assert "mine holds something else: it has no manifest.json" in str(result.exception)
    assert (tmp_path / "mine" / "thesis.tex").exists()


def test_the_spread_is_printed(published):
    assert "| lenet5_int8.tflite | " in published[1]


@pytest.fixture
def clothing(tmp_path, monkeypatch):
    """Files named as Fashion-MNIST's, which show digits, taken for it: the folder of them."""
    known = datasets.DATASETS["fashion_mnist"]
    unverified = {
        kind: {split: datasets.File(file.name) for split, file in getattr(known, kind).items()}
        for kind in ("images", "labels")
    }
    monkeypatch.setitem(datasets.DATASETS, "fashion_mnist", replace(known, **unverified))
    for part, count in (("train", 200), ("t10k", 60)):
        images, labels = draw_digits(count, count)
        idx.write(tmp_path / "fashion_mnist" / f"{part}-images-idx3-ubyte", images)
        idx.write(tmp_path / "fashion_mnist" / f"{part}-labels-idx1-ubyte", labels)
    return tmp_path


def test_the_classes_of_another_dataset_are_named_throughout(clothing, tmp_path):
    arguments = (
        "--runs", tmp_path / "runs", "--to", tmp_path / "exported", "--data-dir", clothing,
        "--set", "data.dataset=fashion_mnist", "--set", "train.epochs=2",
    )  # fmt: skip
    result = CliRunner().invoke(cli.app, ["publish", str(SMOKE), *map(str, arguments)])
    assert result.exit_code == 0, result.output
    folder, classes = tmp_path / "exported", datasets.classes("fashion_mnist")
    assert tuple((folder / "labels.txt").read_text().splitlines()) == classes
    assert tuple(json.loads((folder / "manifest.json").read_text())["labels"]) == classes
    assert tuple(results.read(folder)["labels"]) == classes
    for path in folder.glob("*.tflite"):
        assert tuple(metadata_writer.labels(path.read_bytes())) == classes
    contract = (folder / "microcontroller" / "lenet5_contract.h").read_text()
    assert '{\n    "T-shirt/top", "Trouser",' in contract
    card = (folder / "README.md").read_text()
    assert card.startswith("# lenet5: clothing, int8")
    assert "classes in this order: T-shirt/top, Trouser" in card
    page = (tmp_path / "runs" / "smoke-seed0" / "report" / "report.html").read_text()
    # What digits alone are meant by stays unsaid; what is made for digits is said to be.
    assert not re.search(r"digits 0|no digit|digits (it|refused)|a digit|cheques", card + page)
    assert "made for digits" in card
    assert "made for digits" in page
    assert "Ankle boot" in page
    arguments = (
        "evaluate", "--model", folder / "lenet5_int8.tflite", "--dataset", "fashion_mnist",
        "--data-dir", clothing, "--to", tmp_path / "scored", "--set", "evaluate.probes=5",
        "--set", "evaluate.robustness_images=0",
    )  # fmt: skip
    again = CliRunner().invoke(cli.app, [*map(str, arguments)])
    assert again.exit_code == 0, again.output
    assert tuple(results.read(tmp_path / "scored")["labels"]) == classes


def seed(number, validation, accuracies, finished):
    metrics = {
        "models": {
            key: {"title": key, "accuracy": accuracy} for key, accuracy in accuracies.items()
        }
    }
    run = Run(None, finished.folder, "digits", None)
    return publish.Finished(replace(run, dataset=str(number)), metrics, validation)


def test_the_seed_is_chosen_on_validation_and_the_spread_is_over_all(finished):
    seeds = [
        seed(0, 0.994, {"int8": 0.999}, finished),  # the best on the test set, which has no say
        seed(1, 0.996, {"int8": 0.993}, finished),
        seed(2, 0.995, {"int8": 0.996}, finished),
    ]
    assert publish.choose(seeds).run.dataset == "1"
    assert "| int8 | 99.600 % | 0.300 | 99.30 % | 99.90 % |" in publish.spread(seeds)
    assert "| int8 | 99.900 % | – | 99.90 % | 99.90 % |" in publish.spread(seeds[:1])
