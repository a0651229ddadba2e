import contextlib
import json
import multiprocessing
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from importlib import metadata
from pathlib import Path

import pytest

from keras_lenet import artifacts
from keras_lenet.errors import Error

SHA256_OF_ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
"""FIPS 180-2, appendix B.1."""


def test_a_written_file_is_complete_and_readable_by_all(tmp_path):
    path = tmp_path / "new" / "file.bin"
    artifacts.write_bytes(path, b"old")
    assert path.read_bytes() == b"old"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    with contextlib.suppress(ZeroDivisionError), artifacts.replacing(path) as temporary:
        assert (temporary.parent, temporary.suffix) == (path.parent, ".bin")
        assert temporary.name.startswith(artifacts.TEMPORARY)
        temporary.write_bytes(b"half of the n")
        raise ZeroDivisionError
    assert path.read_bytes() == b"old"
    assert os.listdir(path.parent) == ["file.bin"]


def test_a_file_is_synced_before_its_rename_and_its_name_after(tmp_path, monkeypatch):
    """Otherwise a power failure leaves an empty file, or none."""
    path, synced = tmp_path / "file", []
    path.write_bytes(b"old")

    def sync(descriptor):
        kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        synced.append((kind, path.read_bytes()))

    monkeypatch.setattr(os, "fsync", sync)
    artifacts.write_bytes(path, b"new")
    assert synced == [("file", b"old"), ("folder", b"new")]


def test_json_is_indented_in_utf8_and_without_nan(tmp_path):
    artifacts.write_json(tmp_path / "x.json", {"größe": [1]})
    assert (tmp_path / "x.json").read_bytes() == '{\n  "größe": [\n    1\n  ]\n}\n'.encode()
    with pytest.raises(ValueError, match="Out of range float"):
        artifacts.write_json(tmp_path / "x.json", {"loss": float("nan")})


def record(**changes):
    fields = {
        "stage": "train", "settings": {}, "inputs": {}, "outputs": {}, "dataset": "mnist",
        "seed": 0, "versions": {}, "started": "", "seconds": 0.0, "summary": {},
    }  # fmt: skip
    return artifacts.Record(**(fields | changes))


@pytest.mark.parametrize(
    "changes", [{}, {"seed": None, "seconds": 3, "outputs": {"a": "0"}, "settings": {"x": 1}}]
)
def test_records_are_read_back(tmp_path, changes):
    record(**changes).write(tmp_path)
    assert artifacts.Record.read(tmp_path) == record(**changes)
    assert artifacts.Record.of_finished(tmp_path) == record(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"outputs": ["model.keras"]},
        {"inputs": {"mnist/train": None}},
        {"settings": 3},
        {"seed": "0"},
        {"seconds": True},
        {"schema": artifacts.SCHEMA + 1},
        {"hosts": 2},
        "",
        '{"stage": ' + "[" * 100_000,
        "\udcff",
    ],
)
def test_a_damaged_record_or_one_of_another_form_is_no_record(tmp_path, changes):
    content = changes if isinstance(changes, str) else json.dumps(vars(record()) | changes)
    (tmp_path / artifacts.RECORD).write_bytes(content.encode(errors="surrogateescape"))
    assert artifacts.Record.read(tmp_path) is None
    with pytest.raises(Error, match=f"^{tmp_path}: its record cannot be read; run the stage again"):
        artifacts.Record.of_finished(tmp_path)


def test_hashes_leave_out_records_identities_and_checkpoints(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("b", "sub/a", "stage.json", "identity.json", "sub/checkpoint.npz"):
        (tmp_path / name).write_bytes(b"abc")
    (tmp_path / "sub" / "stage.json").write_bytes(b"abc")  # a file of the stage
    assert artifacts.digest(b"abc") == SHA256_OF_ABC
    hashes = artifacts.hash_files(tmp_path)
    assert hashes == dict.fromkeys(("b", "sub/a", "sub/stage.json"), SHA256_OF_ABC)
    for _ in range(2):  # without the sums themselves
        artifacts.write_sums(tmp_path)
        sums = (tmp_path / artifacts.SUMS).read_text().splitlines()
        assert sums == [f"{SHA256_OF_ABC}  {name}" for name in hashes]
    assert artifacts.damaged(tmp_path, hashes) is None
    (tmp_path / "sub" / "a").write_bytes(b"abd")
    assert artifacts.damaged(tmp_path, hashes) == "sub/a"
    (tmp_path / "b").unlink()
    assert artifacts.damaged(tmp_path, hashes) == "b"
    (tmp_path / "b").mkdir()
    assert artifacts.damaged(tmp_path, hashes) == "b"


@pytest.mark.slow
def test_a_kill_at_any_change_on_the_disk_loses_at_most_one_epoch(tmp_path):
    script = Path(__file__).with_name("killed.py")
    result = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True)
    assert result.stderr == ""
    found = json.loads(result.stdout)
    assert found["places"] > 80
    assert found["wrong"] == []


@pytest.fixture
def folder(tmp_path):
    """The folder of a stage's future result."""
    return tmp_path / "train"


def finish(folder, content):
    out = artifacts.begin(folder, {"content": content})
    (out / "teacher-0").mkdir()
    for name in (artifacts.CHECKPOINT, "teacher-0/checkpoint.npz"):
        (out / name).touch()
    (out / "teacher-0" / "result").write_text(content)
    artifacts.commit(folder)


def files(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_a_new_result_replaces_the_old_one_and_its_checkpoints(folder):
    finish(folder, "old")
    (folder / "only in the old one").touch()
    previous = folder.parent / ".train.previous"  # remains of an earlier commit
    previous.mkdir()
    (previous / "file").touch()
    finish(folder, "new")
    assert (folder / "teacher-0" / "result").read_text() == "new"
    assert files(folder.parent) == ["train/teacher-0/result"]
    assert os.listdir(folder.parent) == ["train"]


@pytest.mark.parametrize("renames", [1, 2])
def test_recovery_completes_a_commit_after_either_rename(folder, renames):
    finish(folder, "old")
    previous = folder.with_name(".train.previous")
    if renames == 1:
        folder.rename(previous)
    else:
        previous.mkdir()
    artifacts.recover(folder)
    assert (folder / "teacher-0" / "result").read_text() == "old"
    assert os.listdir(folder.parent) == ["train"]


def test_half_written_files_of_a_killed_attempt_are_deleted(folder):
    out = artifacts.begin(folder, {})
    (out / "sub" / ".writing-folder").mkdir(parents=True)
    for name in ("sub/.writing-abc.npz", "sub/.writing-folder/.writing-x", "checkpoint"):
        (out / name).touch()
    artifacts.begin(folder, {})
    left = {path.relative_to(out).as_posix() for path in out.rglob("*")}
    assert left == {"checkpoint", "identity.json", "sub"}


@pytest.mark.parametrize(
    ("identity", "resume", "kept"),
    [
        ('{"epochs": [3]}', True, True),
        ('{"epochs": [4]}', True, False),
        ("{", True, False),
        ('{"epochs": [3]}', False, False),
    ],
)
def test_an_interrupted_attempt_is_kept_only_for_the_same_work(folder, identity, resume, kept):
    out = artifacts.begin(folder, {})
    (out / "checkpoint").touch()
    (out / artifacts.IDENTITY).write_text(identity)
    assert (artifacts.begin(folder, {"epochs": (3,)}, resume) / "checkpoint").exists() is kept
    assert json.loads((out / artifacts.IDENTITY).read_text()) == {"epochs": [3]}


def test_every_file_and_folder_is_synced_before_the_commit(folder, monkeypatch):
    out = artifacts.begin(folder, {})
    (out / "sub").mkdir()
    (out / "sub" / "result").touch()
    names = {path.stat().st_ino: path.name for path in (out, *out.rglob("*"), folder.parent)}
    before, after = [], []

    def sync(descriptor):
        (after if folder.exists() else before).append(names[os.fstat(descriptor).st_ino])

    monkeypatch.setattr(os, "fsync", sync)
    artifacts.commit(folder)
    assert sorted(before) == [".train.partial", "identity.json", "result", "sub"]
    assert after == [folder.parent.name]


def test_only_a_folder_of_ours_or_an_empty_one_may_be_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "exported"
    assert artifacts.replaceable(Path("exported"), "manifest.json") == folder
    folder.mkdir()
    assert artifacts.replaceable(folder, "manifest.json") == folder
    (folder / "thesis.tex").touch()
    with pytest.raises(Error, match=r"exported holds something else: it has no manifest\.json; na"):
        artifacts.replaceable(folder, "manifest.json")
    (folder / "manifest.json").touch()
    assert artifacts.replaceable(folder, "manifest.json") == folder


def hold(folder, held):
    with artifacts.lock(folder):
        held.set()
        time.sleep(30)


def test_a_folder_is_locked_until_its_process_ends(tmp_path):
    context = multiprocessing.get_context("spawn")
    folder, held = tmp_path / "runs" / "mnist", context.Event()
    process = context.Process(target=hold, args=(folder, held))
    process.start()
    assert held.wait(30)
    message = f"{folder} is in use by another process; wait for it, or use another folder"
    with pytest.raises(Error, match=f"^{message}$"), artifacts.lock(folder):
        pass
    process.kill()
    process.join()
    for _ in range(2):
        with contextlib.suppress(ZeroDivisionError), artifacts.lock(folder):
            raise ZeroDivisionError


def test_a_process_may_wait_for_the_folder(tmp_path, capsys):
    entered = threading.Event()

    def wait():
        with artifacts.lock(tmp_path, wait=True):
            entered.set()

    with artifacts.lock(tmp_path):
        waiting = threading.Thread(target=wait)
        waiting.start()
        assert not entered.wait(0.3)
        assert capsys.readouterr().err == f"waiting for another process, which uses {tmp_path}\n"
    assert entered.wait(30)
    waiting.join()


def test_a_replacement_is_complete_or_changes_nothing(tmp_path):
    folder = tmp_path / "exported"
    (tmp_path / ".exported.locked").touch()  # of a killed process
    for text in ("old", "new"):
        with artifacts.replacement(folder) as out:
            (out / "model").write_text(text)
            with pytest.raises(Error, match="in use by"), artifacts.replacement(folder):
                pass
        assert os.listdir(tmp_path) == ["exported"]
    with contextlib.suppress(ZeroDivisionError), artifacts.replacement(folder) as out:
        (out / "model").write_text("half")
        raise ZeroDivisionError
    assert files(folder) == ["model"]
    assert (folder / "model").read_text() == "new"
    with artifacts.replacement(folder) as out:
        assert os.listdir(out) == [artifacts.IDENTITY]
    assert os.listdir(tmp_path) == ["exported"]


def test_windows_syncs_files_that_are_open_for_writing_and_no_folders(folder, monkeypatch):
    opened, open_file = {}, os.open

    def open_and_note(path, flags, *arguments, **options):
        descriptor = open_file(path, flags, *arguments, **options)
        opened[descriptor] = Path(path), flags
        return descriptor

    def sync(descriptor):
        path, flags = opened[descriptor]
        synced.append(path.name)
        assert path.is_file()
        assert flags & os.O_RDWR

    synced = []
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(os, "open", open_and_note)
    monkeypatch.setattr(os, "fsync", sync)
    finish(folder, "new")
    assert "result" in synced


WINDOWS = """
import importlib, pkgutil, sys
POSIX = ("fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty")
TRAINING = ("tensorflow", "keras", "tf_keras")  # they take long, and have Windows of their own
sys.modules.update(dict.fromkeys(POSIX + TRAINING))  # imports of these fail
import keras_lenet
imported = 0
for module in pkgutil.walk_packages(keras_lenet.__path__, "keras_lenet."):
    try:
        if module.name != "keras_lenet.__main__":
            importlib.import_module(module.name)
            imported += 1
    except ModuleNotFoundError as error:
        if error.name.split(".")[0] not in TRAINING:
            raise
print(imported)
sys.argv = ["keras-lenet", "datasets"]
keras_lenet.cli.main()
"""


@pytest.mark.slow
def test_no_module_needs_what_windows_lacks():
    command = [sys.executable, "-W", "ignore", "-c", WINDOWS]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.stderr == ""
    imported, *listing = result.stdout.splitlines()
    assert int(imported) > 30
    assert any("MNIST" in line for line in listing)


def test_versions_name_the_installed_packages_that_decide_results(monkeypatch):
    def version(name):
        if name == "tflite-micro":
            raise metadata.PackageNotFoundError(name)
        return f"the version of {name}"

    monkeypatch.setattr(metadata, "version", version)
    found = artifacts.versions()
    assert found.pop("python") == ".".join(map(str, sys.version_info[:3]))
    assert set(found) == set(artifacts.DECISIVE.split()) - {"tflite-micro"}
    assert found["keras"] == "the version of keras"


def test_a_working_folder_that_was_deleted_is_not_committed(folder):
    out = artifacts.begin(folder, {})
    (out / "first").write_text("half of the result")
    shutil.rmtree(out)
    artifacts.write_bytes(out / "second", b"the other half")
    with pytest.raises(Error, match="partial was deleted while it was written to"):
        artifacts.commit(folder)
    assert not folder.exists()


def test_a_deleted_run_is_not_written_to(tmp_path):
    out = artifacts.begin(tmp_path / "run" / "train", {})
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(FileNotFoundError):
        artifacts.write_bytes(out / "checkpoint.npz", b"")
    assert not (tmp_path / "run").exists()
