"""Published folders, checked by the hashes that come with them."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import keras_lenet

from keras_lenet import checksums
from keras_lenet.errors import Error

EXPORTED = Path(__file__).parents[1] / "exported"


@pytest.fixture
def folder(tmp_path):
    """Files, one of them in a folder, and their list."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "model.tflite").write_bytes(b"model")
    (tmp_path / "two words.txt").write_bytes(b"text")
    checksums.write(tmp_path)
    return tmp_path


def test_a_whole_folder_is_right(folder):
    found = checksums.verify(folder)
    assert found == checksums.Verified(("a/model.tflite", "two words.txt"), ())


def test_every_change_is_named(folder):
    (folder / "a" / "model.tflite").write_bytes(b"modem")
    (folder / "two words.txt").unlink()
    with pytest.raises(Error, match=r"two words.txt is missing; a/model.tflite was changed"):
        checksums.verify(folder)


def test_what_no_list_names_is_said(folder):
    (folder / "new").touch()
    assert checksums.verify(folder).uncovered == ("new",)


def test_the_manifest_is_held_against_the_list(folder):
    """Who changed a model and its line in one of them is found out by the other."""
    manifest = {"files": {"a/model.tflite": {"sha256": "0" * 64}}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    checksums.write(folder)
    with pytest.raises(Error, match=r"a/model.tflite was changed"):
        checksums.verify(folder)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("SHA256SUMS", "", "name no file"),
        ("SHA256SUMS", "abc  model", "expected lines of a SHA-256 and a name"),
        ("SHA256SUMS", f"{'0' * 64}  ../secret", "lies outside"),
        ("SHA256SUMS", f"{'0' * 64}  /etc/passwd", "lies outside"),
        ("manifest.json", "{", "damaged"),
        ("manifest.json", '{"files": [1]}', "damaged"),
        ("manifest.json", '{"files": {"a": 1}}', "damaged"),
        ("manifest.json", "[" * 100_000, "damaged"),
        ("other", "", "neither SHA256SUMS nor manifest.json"),
    ],
)
def test_a_list_that_is_none_is_refused(tmp_path, name, content, complaint):
    (tmp_path / name).write_text(content)
    with pytest.raises(Error, match=complaint):
        checksums.verify(tmp_path)


def test_the_command_verifies_the_reference_model(tmp_path):
    shutil.copytree(EXPORTED, tmp_path / "exported")
    folder = tmp_path / "exported"
    names = [path for path in folder.rglob("*") if path.is_file() and path.name != checksums.SUMS]
    result = keras_lenet("inspect", "--verify", folder)
    assert result.returncode == 0, result.stderr
    covered = 4 if not (folder / checksums.SUMS).exists() else len(names)
    assert f"{covered} files as listed, {len(names) - covered} unknown" in result.stdout
    assert result.stdout.count("not covered by any hash") == len(names) - covered
    with (folder / "lenet5_int8.tflite").open("ab") as file:
        file.write(b"x")
    result = keras_lenet("inspect", "--verify", folder)
    assert result.returncode == 1
    assert result.stderr.startswith("keras-lenet: ")
    assert "lenet5_int8.tflite was changed" in result.stderr
