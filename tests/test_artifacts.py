import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from keras_lenet import artifacts
from keras_lenet.errors import Error


def test_a_failed_write_keeps_what_was_there(tmp_path):
    path = tmp_path / "file.txt"
    artifacts.write_bytes(path, b"old")

    def fail_half_way():
        with artifacts.replacing(path) as temporary:
            temporary.write_bytes(b"half of the n")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_json_refuses_what_json_cannot_say(tmp_path):
    with pytest.raises(ValueError, match="Out of range float"):
        artifacts.write_json(tmp_path / "x.json", {"loss": float("nan")})


def record(**changes):
    fields = {
        "stage": "train", "settings": {}, "inputs": {}, "outputs": {}, "dataset": "mnist",
        "seed": 0, "versions": {}, "started": "", "seconds": 0.0, "summary": {},
    }  # fmt: skip
    return artifacts.Record(**(fields | changes))


def test_records_are_read_back(tmp_path):
    record(seed=7).write(tmp_path)
    assert artifacts.Record.read(tmp_path) == record(seed=7)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"stage": 1}'])
def test_a_damaged_record_counts_as_none(tmp_path, content):
    (tmp_path / artifacts.RECORD).write_text(content)
    assert artifacts.Record.read(tmp_path) is None


def test_a_record_of_another_schema_counts_as_none(tmp_path):
    record(schema=artifacts.SCHEMA + 1).write(tmp_path)
    assert artifacts.Record.read(tmp_path) is None


def test_damage_is_found_by_hash(tmp_path):
    (tmp_path / "a").write_text("1")
    (tmp_path / "b").write_text("2")
    expected = artifacts.hash_files(tmp_path)
    assert artifacts.damaged(tmp_path, expected) is None
    (tmp_path / "b").write_text("3")
    assert artifacts.damaged(tmp_path, expected) == "b"
    (tmp_path / "a").unlink()
    assert artifacts.damaged(tmp_path, expected) == "a"


@pytest.mark.parametrize(
    "changes",
    [
        {"outputs": ["model.keras"]},
        {"outputs": {"model.keras": 1}},
        {"inputs": None},
        {"settings": 3},
        {"summary": "fine"},
        {"dataset": {}},
    ],
)
def test_a_record_edited_to_something_else_counts_as_none(tmp_path, changes):
    record(**changes).write(tmp_path)
    assert artifacts.Record.read(tmp_path) is None


def test_a_record_nested_beyond_reason_counts_as_none(tmp_path):
    (tmp_path / artifacts.RECORD).write_text('{"stage": ' + "[" * 100_000)
    assert artifacts.Record.read(tmp_path) is None


def test_a_kill_at_any_change_on_the_disk_loses_at_most_one_epoch(tmp_path):
    """Of a stage that writes checkpoints, made anew or in an older one's place."""
    script = Path(__file__).with_name("killed.py")
    result = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True)
    assert result.stderr == ""
    found = json.loads(result.stdout)
    assert found["places"] > 80
    assert found["wrong"] == []


def finish(folder, content):
    out = artifacts.begin(folder, {"content": content})
    (out / "result").write_text(content)
    artifacts.commit(folder)


def test_a_new_result_replaces_the_old_one_whole(tmp_path):
    folder = tmp_path / "train"
    finish(folder, "old")
    (folder / "only in the old one").touch()
    finish(folder, "new")
    assert (folder / "result").read_text() == "new"
    assert not (folder / "only in the old one").exists()
    assert os.listdir(tmp_path) == ["train"]


def test_a_process_killed_between_the_two_renames_loses_nothing(tmp_path):
    folder = tmp_path / "train"
    finish(folder, "old")
    folder.rename(tmp_path / ".train.previous")  # as far as `commit` had come
    artifacts.recover(folder)
    assert (folder / "result").read_text() == "old"


def test_a_process_killed_after_them_leaves_no_remains(tmp_path):
    folder = tmp_path / "train"
    finish(folder, "new")
    (tmp_path / ".train.previous").mkdir()
    artifacts.recover(folder)
    assert (folder / "result").read_text() == "new"
    assert os.listdir(tmp_path) == ["train"]


def test_remains_of_an_earlier_commit_do_not_stop_the_next(tmp_path):
    folder = tmp_path / "train"
    finish(folder, "old")
    (tmp_path / ".train.previous").mkdir()
    (tmp_path / ".train.previous" / "file").touch()
    finish(folder, "new")
    assert (folder / "result").read_text() == "new"
    assert os.listdir(tmp_path) == ["train"]


def test_half_written_files_of_a_killed_attempt_are_swept(tmp_path):
    folder = tmp_path / "train"
    out = artifacts.begin(folder, {})
    (out / "sub").mkdir()
    (out / "sub" / ".writing-abc.npz").touch()
    (out / "checkpoint").touch()
    artifacts.begin(folder, {})
    assert not (out / "sub" / ".writing-abc.npz").exists()
    assert (out / "checkpoint").exists()


def test_a_forced_attempt_begins_afresh(tmp_path):
    folder = tmp_path / "train"
    (artifacts.begin(folder, {}) / "checkpoint").touch()
    assert not (artifacts.begin(folder, {}, resume=False) / "checkpoint").exists()


def test_an_interrupted_attempt_is_kept_only_for_the_same_work(tmp_path):
    folder = tmp_path / "train"
    (artifacts.begin(folder, {"epochs": 3}) / "checkpoint").touch()
    assert (artifacts.begin(folder, {"epochs": 3}) / "checkpoint").exists()
    assert not (artifacts.begin(folder, {"epochs": 4}) / "checkpoint").exists()


def hold(folder, held, release):
    with artifacts.lock(folder):
        held.set()
        release.wait(30)


def test_a_second_process_is_told_who_holds_the_folder(tmp_path):
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path, held, release))
    process.start()
    assert held.wait(30)
    with (
        pytest.raises(Error, match=f"in use by process {process.pid} since"),
        artifacts.lock(tmp_path),
    ):
        pass
    process.kill()  # the system takes a dead process's lock away
    process.join()
    with artifacts.lock(tmp_path):
        assert str(os.getpid()) in (tmp_path / ".lock").read_text()


def test_a_replacement_is_whole_or_not_at_all_and_leaves_nothing_else(tmp_path):
    folder = tmp_path / "exported"
    for text in ("old", "new"):
        with artifacts.replacement(folder) as out:
            (out / "model").write_text(text)
            with (
                pytest.raises(Error, match=f"in use by process {os.getpid()} since"),
                artifacts.replacement(folder),
            ):
                pass

    def fail_half_way():
        with artifacts.replacement(folder) as out:
            (out / "model").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert (folder / "model").read_text() == "new"
    assert os.listdir(folder) == ["model"]
    assert sorted(os.listdir(tmp_path)) == [".exported.partial", "exported"]


def test_what_a_killed_holder_left_is_taken_over(tmp_path):
    (tmp_path / ".exported.lock").mkdir()
    (tmp_path / ".exported.lock" / ".lock").write_text("process 1 since long ago")
    with artifacts.replacement(tmp_path / "exported"):
        pass
    assert os.listdir(tmp_path) == ["exported"]


def waiting(folder, queue):
    with artifacts.lock(folder, wait=True):
        queue.put("in")


def test_a_process_may_wait_for_the_folder(tmp_path):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    with artifacts.lock(tmp_path):
        process = context.Process(target=waiting, args=(tmp_path, queue))
        process.start()
        process.join(1)
        assert process.is_alive()
        assert queue.empty()
    assert queue.get(timeout=60) == "in"
    process.join()


def test_versions_name_what_decides_results():
    assert {"python", "keras-lenet", "numpy"} <= set(artifacts.versions())
    json.dumps(artifacts.versions())


def test_a_working_folder_that_was_deleted_is_not_taken_for_whole(tmp_path):
    folder = tmp_path / "train"
    out = artifacts.begin(folder, {})
    (out / "first").write_text("half of the result")
    shutil.rmtree(out)
    artifacts.write_bytes(out / "second", b"the other half")
    with pytest.raises(Error, match="was deleted while it was written to"):
        artifacts.commit(folder)
    assert not folder.exists()


def test_a_deleted_run_is_not_written_to(tmp_path):
    out = artifacts.begin(tmp_path / "run" / "train", {})
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(FileNotFoundError):
        artifacts.write_bytes(out / "checkpoint.npz", b"")
    assert not (tmp_path / "run").exists()
