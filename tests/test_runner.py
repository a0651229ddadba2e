"""Which stages run again, which do not, and what several runs do at a time.

The stages are stand-ins that take no time and write the same files, whatever the settings.
"""

import datetime
import json
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from keras_lenet import artifacts, pipeline, recipe
from keras_lenet.artifacts import Record
from keras_lenet.data import catalogue, download
from keras_lenet.errors import Error
from keras_lenet.stages import STAGES
from keras_lenet.training.cluster import Cluster

ALL = list(STAGES)
DIGITS = "data.dataset=digits"
WITH_TEACHERS = (DIGITS, "distill.rounds=2")


class Log(list):
    """The stages that ran, in order. `during[name]` is called inside that stage."""

    def __init__(self):
        self.during = {}

    def of(self, run, *arguments, **options):
        """Return the stages that an execution runs."""
        self.clear()
        execute(run, *arguments, **options)
        return list(self)


@pytest.fixture
def ran(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # slow, and no power fails here
    monkeypatch.setattr(artifacts, "versions", lambda: {"python": "3"})
    log = Log()
    for name in ALL:

        def run(context, name=name):
            log.append(name)
            (context.out / "result").write_text(name)
            (context.out / "settings.json").write_text(context.settings.model_dump_json())
            log.during.get(name, lambda context: None)(context)
            return {"accuracy": 0.5}

        monkeypatch.setitem(sys.modules, f"keras_lenet.stages.{name}", SimpleNamespace(run=run))
    return log


def opened(runs, *overrides, name="mine", data_dir=None):
    return pipeline.open_run(recipe.from_overrides(name, overrides), runs, data_dir)


def execute(run, first=None, last=None, **options):
    return pipeline.execute(run, pipeline.select(first, last), **options)


def stale(run):
    """Return why each stage of the recipe has to run, without the stages that are up to date."""
    reasons = {one.name: run.why_stale(one) for one in run.having(STAGES.values())}
    return {name: reason for name, reason in reasons.items() if reason}


@pytest.fixture
def run(tmp_path, ran):
    """A finished run with teachers."""
    done = opened(tmp_path, *WITH_TEACHERS)
    execute(done)
    ran.clear()
    return done


def changed(run, *overrides):
    """Return the same run, in the same folder, with other settings."""
    return replace(run, recipe=recipe.from_overrides("mine", (*WITH_TEACHERS, *overrides)))


RERUN_FROM = {
    "name=other": "report",
    "seed=1": "train",
    "devices=one": "distill",
    "origin.title=X": "report",
    "data.outliers=0.5": "distill",
    "augment.rotate=5": "distill",
    "degrade.noise=0.5": "train",
    "model.initializer=fan_in": "train",
    "distill.train.epochs=3": "distill",
    "train.learning_rate=1.0": "train",
    "quantize.epochs=3": "quantize",
    "export.calibration_images=50": "export",
    "evaluate.probes=5": "evaluate",
    "report.mistakes=5": "report",
}
"""The first stage that each setting makes stale; later stages become stale with it."""
assert {key.partition("=")[0].partition(".")[0] for key in RERUN_FROM} == set(
    recipe.Recipe.model_fields
)


@pytest.mark.parametrize(("setting", "first"), RERUN_FROM.items())
def test_a_changed_setting_reruns_the_stages_that_depend_on_it_and_no_others(
    run, ran, setting, first
):
    again, rerun = changed(run, setting), ALL[ALL.index(first) :]
    # Teachers with other settings have another folder.
    teachers = {"distill": pipeline.NOT_RUN} if first == "distill" else {}
    assert stale(again) == dict.fromkeys(rerun, "the recipe changed") | teachers
    assert ran.of(again) == rerun
    assert stale(again) == {}


@pytest.mark.parametrize("setting", ["devices=one", "data.outliers=0.5", "augment.rotate=5"])
def test_settings_of_distill_decide_the_training_without_teachers(tmp_path, ran, setting):
    assert ran.of(opened(tmp_path, DIGITS)) == ALL[1:]
    assert list(stale(opened(tmp_path, DIGITS, setting))) == ALL[1:]
    assert list(stale(opened(tmp_path, *WITH_TEACHERS))) == ALL


def test_a_record_describes_the_settings_and_the_execution_of_its_stage(run):
    again = changed(run, "devices=one", "origin.title=X", "name=other", "seed=1")
    execute(again)
    now = again.recipe.model_dump(mode="json")
    for name in ALL:
        folder = again.stage_folder(name)
        record = Record.of_finished(folder)
        assert record.settings == json.loads((folder / "settings.json").read_text())
        assert record.settings.items() <= now.items()
        assert record.seed == (None if name == "distill" else 1)
        assert (record.stage, record.dataset) == (name, "digits")
        assert (record.summary, record.versions) == ({"accuracy": 0.5}, {"python": "3"})
        age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(record.started)
        assert 0 <= record.seconds <= age.total_seconds() + 0.1 < 300
        assert set(record.outputs) == {"result", "settings.json"}
        assert record.outputs == artifacts.hash_files(folder)
        assert record.inputs == again.input_digests(STAGES[name])
        if name == "export":
            unread = {"name", "origin", "evaluate", "report"}
            assert set(record.settings) == set(now) - unread


@pytest.mark.parametrize(
    ("stage", "split", "earlier"),
    [
        ("distill", "train", ()),
        ("train", "train", ("distill",)),
        ("quantize", "train", ("distill", "train")),
        ("export", "train", ("train", "quantize")),
        ("evaluate", "test", ("train", "quantize", "export")),  # alone reads test images
        ("report", None, ("train", "quantize", "export", "evaluate")),
    ],
)
def test_a_stage_depends_on_the_images_and_the_files_that_it_reads(
    run, ran, monkeypatch, stage, split, earlier
):
    given = []
    ran.during[stage] = given.append
    execute(run, stage, stage, force=True)
    assert given[0].inputs == {name: run.stage_folder(name) for name in earlier}
    assert (given[0].dataset, given[0].data_dir) == ("digits", None)
    monkeypatch.setattr(catalogue, "identity", lambda *asked: str(asked))
    files = {
        f"{name}/{file}": artifacts.sha256(run.stage_folder(name) / file)
        for name in earlier
        for file in ("result", "settings.json")
    }
    images = {f"digits/{split}": str(("digits", split, None))} if split else {}
    assert run.input_digests(STAGES[stage]) == files | images


def test_another_result_of_a_stage_makes_its_readers_stale(run, ran):
    ran.during["quantize"] = lambda context: (context.out / "result").write_text("other weights")
    execute(run, "quantize", "quantize", force=True)
    assert stale(run) == dict.fromkeys(("export", "evaluate", "report"), "its inputs changed")


@pytest.mark.parametrize(
    ("stage", "file", "content", "reason"),
    [
        ("export", "result", "edited", "result is missing or was changed"),
        ("export", "result", None, "result is missing or was changed"),
        ("report", artifacts.RECORD, None, "its record cannot be read"),
        ("report", artifacts.RECORD, "{", "its record cannot be read"),
    ],
)
def test_only_a_damaged_stage_runs_again(run, ran, stage, file, content, reason):
    path = run.stage_folder(stage) / file
    path.unlink() if content is None else path.write_text(content)
    assert stale(run) == {stage: reason}
    assert ran.of(run) == [stage]
    assert (run.stage_folder(stage) / "result").read_text() == stage


def test_messages_say_why_stages_run_and_where_their_files_are(tmp_path, ran, capsys):
    run = opened(tmp_path, *WITH_TEACHERS)
    execute(run, last="train")
    err = capsys.readouterr().err
    assert "distill: running (not run yet)\n" in err
    assert f"train: done in 0 s, in {tmp_path / 'mine' / 'train'}\n" in err
    assert ran.of(run, "train", "quantize", force=True) == ["train", "quantize"]
    assert "train: running (forced)\n" in capsys.readouterr().err
    execute(run)
    assert "train: up to date\nquantize: up to date\nexport: run" in capsys.readouterr().err
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert ran.of(run) == []
    assert capsys.readouterr().err == f"mine: everything is up to date in {run.folder}\n"
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == files


UNKNOWN = f"unknown stage 'deploy': expected one of {', '.join(ALL)}"


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        (None, None, ALL),
        ("quantize", "evaluate", ["quantize", "export", "evaluate"]),
        ("export", None, ["export", "evaluate", "report"]),
        (None, "train", ["distill", "train"]),
        ("deploy", None, UNKNOWN),
        (None, "deploy", UNKNOWN),
        ("export", "train", f"export comes after train: the stages are {', '.join(ALL)}"),
    ],
)
def test_stages_are_selected_from_the_first_to_the_last(first, last, expected):
    try:
        found = [stage.name for stage in pipeline.select(first, last)]
    except Error as error:
        found = str(error)
    assert found == expected


def test_a_stage_is_not_built_on_a_missing_or_stale_one(tmp_path, ran):
    run = opened(tmp_path, *WITH_TEACHERS)
    execute(run, last="train")
    with pytest.raises(Error, match=r"^export needs the quantize stage of 'mine', which has not"):
        execute(run, "export")
    outdated = r"^quantize would build on a stale train stage \(the recipe changed\): run .* --from"
    with pytest.raises(Error, match=outdated):
        execute(changed(run, "train.epochs=9"), "quantize", force=True)
    assert ran == ["distill", "train"]
    execute(run)
    (run.stage_folder("quantize") / "result").write_text("edited")
    with pytest.raises(
        Error, match=r"report would build on a stale quantize stage \(result is mis"
    ):
        execute(run, "report")


def test_impossible_runs_are_refused_before_anything_runs(tmp_path, ran):
    with pytest.raises(Error, match=r"recipe mine has no \[distill\] section"):
        execute(opened(tmp_path, DIGITS), "distill", "distill")
    with pytest.raises(Error, match="lenet6"):
        execute(opened(tmp_path, DIGITS, "model.name=lenet6"))
    for key in ("dataset", "fallback"):
        with pytest.raises(Error, match="nothing_like_it"):
            opened(tmp_path, f"data.{key}=nothing_like_it")
    assert ran == []
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize(
    ("backend", "hosts", "complaint"),
    [
        ("jax", None, "KERAS_BACKEND=jax is for training alone: run with --until train, then"),
        ("jax", Cluster(("a:1", "b:1"), index=1), "KERAS_BACKEND=jax trains on one host alone:"),
        ("theano", None, r"theano is not installed here; expected one of .* jax, and"),
    ],
)
def test_other_backends_of_keras_only_train_and_on_one_host(
    tmp_path, monkeypatch, backend, hosts, complaint
):
    monkeypatch.setenv("KERAS_BACKEND", backend)
    with pytest.raises(Error, match=complaint):
        execute(replace(opened(tmp_path, DIGITS), hosts=hosts))


OTHER_EXPORT = "export.calibration_images=50"


def test_a_failed_stage_keeps_its_old_result_and_resumes_with_the_same_settings(run, ran):
    def fail(context):
        attempts.append((context.out / "left").exists())
        (context.out / "left").touch()
        assert len(attempts) > 4

    attempts = []
    ran.during["export"] = fail
    again, other = changed(run, OTHER_EXPORT), changed(run, "export.calibration_images=60")
    for one, force in ((again, False), (other, False), (other, True), (again, False)):
        with pytest.raises(AssertionError):
            execute(one, "export", "export", force=force)
    assert stale(run) == {}
    execute(again)
    assert attempts == [False, False, False, False, True]
    assert stale(again) == {}


def test_an_interrupted_commit_is_completed_first(run, ran):
    folder = run.stage_folder("distill")
    folder.rename(folder.with_name(".distill.previous"))
    assert ran.of(run) == []
    assert stale(run) == {}


def test_inputs_that_change_while_a_stage_runs_are_an_error(run, ran):
    quantized = run.stage_folder("quantize")

    def another_process(context):
        (quantized / "result").write_text("other weights")
        record = Record.of_finished(quantized)
        replace(record, outputs=artifacts.hash_files(quantized)).write(quantized)

    ran.during["export"] = another_process
    with pytest.raises(Error, match=r"^export: the files that it reads were changed while"):
        execute(changed(run, OTHER_EXPORT))
    del ran.during["export"]
    assert ran.of(changed(run, OTHER_EXPORT)) == ["export", "evaluate", "report"]


def test_a_run_folder_in_use_is_refused_unless_it_is_up_to_date(run, ran):
    in_use = pytest.raises(Error, match="mine is in use by another process; wait for it")
    with artifacts.lock(run.folder):
        with in_use:
            execute(changed(run, "report.mistakes=5"))
        execute(run)
    assert ran == []
    ran.during["report"] = lambda context: execute(changed(run, "report.mistakes=6"))
    with in_use:
        execute(changed(run, "report.mistakes=5"))


def other_seed(run):
    return opened(run.folder.parent, *WITH_TEACHERS, "seed=1", name="other")


def test_a_run_waits_for_teachers_that_another_trains_and_shares_them(tmp_path, ran, capsys):
    at_work, waiting = threading.Event(), threading.Event()

    def teach(context):
        at_work.set()
        assert waiting.wait(30)

    ran.during["distill"] = teach
    run = opened(tmp_path, *WITH_TEACHERS)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(execute, run, last="train")
        assert at_work.wait(30)
        second = pool.submit(execute, other_seed(run), last="train")
        with pytest.raises(TimeoutError):
            second.result(0.3)
        said = capsys.readouterr().err
        waiting.set()
        first.result(30)
        second.result(30)
    assert sorted(ran) == ["distill", "train", "train"]
    teachers = run.stage_folder("distill").parent
    assert teachers.parent == tmp_path / "shared"
    assert f"waiting for another process, which uses {teachers}\n" in said


@pytest.fixture
def no_mnist(monkeypatch):
    def refuse(name):
        raise Error("no mirror could be reached")

    monkeypatch.setattr(download, "download", refuse)


FALLBACK = "data.fallback=digits"
FELL_BACK = (
    "WARNING: mnist could not be had. Using digits instead: every figure of this run is for digits,"
    " not for mnist. To try again: --force\n"
)


def test_missing_data_without_a_fallback_lists_the_ways_out(tmp_path, ran, no_mnist):
    with pytest.raises(Error) as caught:
        execute(opened(tmp_path, data_dir=Path("data")))
    assert str(caught.value) == (
        f"mnist cannot be had. Looked in data/mnist, {catalogue.cache_dir()}/mnist; then no mirror "
        "could be reached. Ways out: connect to the network; put the IDX files in FOLDER/mnist and "
        "give --data-dir FOLDER; or use another dataset, --set data.dataset=digits --set name=NEW"
    )
    assert ran == []


def test_a_fallback_is_loud_recorded_and_kept_until_force(tmp_path, ran, no_mnist, capsys):
    assert execute(opened(tmp_path, FALLBACK)).dataset == "digits"
    assert Record.of_finished(tmp_path / "mine" / "train").dataset == "digits"
    assert FELL_BACK in capsys.readouterr().err
    assert opened(tmp_path, FALLBACK).dataset == "digits"
    assert ran.of(opened(tmp_path, FALLBACK)) == []
    err = capsys.readouterr().err
    assert "everything is up to date" in err
    assert FELL_BACK in err
    assert ran.of(opened(tmp_path, FALLBACK), last="train", force=True) == ["train"]
    assert f"mnist: no mirror could be reached\n{FELL_BACK}" in capsys.readouterr().err


def test_data_is_looked_for_in_the_given_folder(tmp_path, ran, monkeypatch):
    asked = []
    monkeypatch.setattr(catalogue, "is_here", lambda *asks: asked.append(asks) or True)
    monkeypatch.setattr(catalogue, "identity", lambda *asks: asked.append(asks) or "images")
    execute(opened(tmp_path, FALLBACK, data_dir=Path("data")))
    train = tmp_path / "mine" / "train"
    replace(Record.of_finished(train), dataset="digits").write(train)
    assert opened(tmp_path, FALLBACK, data_dir=Path("data")).dataset == "mnist"
    assert {(name, folder) for name, _, folder in asked} == {("mnist", Path("data"))}


@pytest.fixture
def all_here(monkeypatch):
    """Let a test say from when on every dataset is on this machine."""
    is_here = catalogue.is_here

    def switch(here):
        known = (lambda name, split, folder: True) if here else is_here
        monkeypatch.setattr(catalogue, "is_here", known)

    return switch


def test_only_training_leaves_the_fallback_once_the_data_is_here(tmp_path, ran, no_mnist, all_here):
    execute(opened(tmp_path, FALLBACK))
    given = []
    ran.during = dict.fromkeys(ALL, lambda context: given.append(context.dataset))
    run = opened(tmp_path, FALLBACK)
    all_here(True)
    execute(run, "quantize", "quantize", force=True)
    execute(run, "train", "train", force=True)
    assert given == ["digits", "mnist"]
    assert opened(tmp_path, FALLBACK).dataset == "mnist"


@pytest.mark.parametrize(
    ("record", "first"), [("kept", "train"), ("kept", "evaluate"), ("damaged", "train")]
)
def test_a_fallback_does_not_replace_a_model_of_the_real_data(
    tmp_path, ran, no_mnist, all_here, record, first
):
    all_here(True)
    execute(opened(tmp_path, FALLBACK))
    all_here(False)
    if record == "damaged":
        (tmp_path / "mine" / "train" / artifacts.RECORD).write_text("{")
    with pytest.raises(Error, match=r"^mnist cannot be had"):
        execute(opened(tmp_path, FALLBACK), first, force=True)
    assert (tmp_path / "mine" / "train" / "result").exists()


def test_data_is_downloaded_before_anything_runs(tmp_path, ran, monkeypatch, capsys):
    fetched = []
    monkeypatch.setattr(download, "download", lambda name: fetched.append((name, list(ran))))
    execute(opened(tmp_path), last="train")
    assert fetched == [("mnist", [])]
    said = f"mnist is not on this machine: downloading it to {catalogue.cache_dir()}\n"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("setting", "splits"), [("report.mistakes=5", []), ("evaluate.probes=5", ["test"])]
)
def test_stages_before_the_first_stale_one_need_no_data(run, monkeypatch, setting, splits):
    asked = []
    monkeypatch.setattr(catalogue, "is_here", lambda name, split, folder: asked.append(split) or 1)
    execute(changed(run, setting))
    assert asked == splits
