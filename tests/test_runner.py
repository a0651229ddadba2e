"""What the runner promises: what runs again and what does not, and who may run at a time.

The stages are stand-ins that take no time and write the same, whatever the settings.
"""

import contextlib
import datetime
import json
import os
import shutil
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from keras_lenet import artifacts, pipeline, recipe
from keras_lenet.artifacts import Record
from keras_lenet.data import catalogue, download
from keras_lenet.errors import Error, GateError
from keras_lenet.evaluation import results
from keras_lenet.training.cluster import Cluster

ALL = list(pipeline.STAGES)
WITH_TEACHERS = ("data.dataset=digits", "distill.rounds=2")


@pytest.fixture
def ran(monkeypatch):
    """The stages that ran, in order. `ran.during[name]` is called inside that stage."""
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


class Log(list):
    def __init__(self):
        self.during = {}

    def of(self, work):
        """Those that ran while `work` was done."""
        self.clear()
        work()
        return list(self)


def opened(runs, *overrides, name="mine"):
    return pipeline.open_run(recipe.from_overrides(name, overrides), runs, None)


def execute(run, first=None, last=None, force=False):
    return pipeline.execute(run, pipeline.select(first, last), force)


def stale(run):
    """Why each stage of the recipe has to run; those that are up to date left out."""
    reasons = {one.name: run.why_stale(one) for one in run.having(pipeline.STAGES.values())}
    return {name: reason for name, reason in reasons.items() if reason}


@pytest.fixture
def run(tmp_path, ran):
    """A finished run with teachers."""
    done = opened(tmp_path, *WITH_TEACHERS)
    execute(done)
    ran.clear()
    return done


def changed(run, *overrides):
    """The same run, in the same folder, after settings were changed."""
    settings = recipe.from_overrides("mine", (*WITH_TEACHERS, *overrides))
    return replace(run, recipe=settings)


RERUN_FROM = {
    "name=other": "report",
    "seed=1": "train",
    "devices=one": "distill",
    "origin.title=X": "report",
    "data.outliers=0.5": "distill",
    "data.split_seed=1": "distill",
    "augment.rotate=5": "distill",
    "augment.thickness=0.5": "distill",
    "degrade.noise=0.5": "train",
    "model.initializer=fan_in": "train",
    "distill.rounds=3": "distill",
    "distill.seed=1": "distill",
    "distill.train.epochs=3": "distill",
    "distill.augment.rotate=5": "distill",
    "train.learning_rate=1.0": "train",
    "quantize.epochs=3": "quantize",
    "export.refuse=0.5": "export",
    "evaluate.probes=5": "evaluate",
    "evaluate.min_accuracy=0.5": "evaluate",
    "report.mistakes=5": "report",
}
"""The first stage that each setting makes stale; those after it go with it."""


def test_every_section_of_a_recipe_decides_some_stage():
    assert {setting.split("=")[0].split(".")[0] for setting in RERUN_FROM} == set(
        recipe.Recipe.model_fields
    )


@pytest.mark.parametrize(("setting", "first"), RERUN_FROM.items())
def test_a_changed_setting_makes_stale_what_depends_on_it_and_no_more(run, setting, first):
    found = stale(changed(run, setting))
    assert list(found) == ALL[ALL.index(first) :]
    # Teachers of other settings are in another folder, where they may be there already.
    expected = dict.fromkeys(found, "the recipe changed")
    assert found == expected | ({"distill": pipeline.NOT_RUN} if first == "distill" else {})


@pytest.mark.parametrize("setting", ["devices=one", "data.outliers=0.5", "augment.rotate=5"])
def test_without_teachers_what_decides_them_decides_the_training(tmp_path, ran, setting):
    run = opened(tmp_path, "data.dataset=digits")
    assert ran.of(lambda: execute(run)) == ALL[1:]
    assert list(stale(opened(tmp_path, "data.dataset=digits", setting))) == ALL[1:]
    assert list(stale(opened(tmp_path, *WITH_TEACHERS))) == ALL  # another [distill]


@pytest.mark.parametrize("setting", ["seed=1", "quantize.epochs=3", "report.mistakes=5"])
def test_what_is_stale_runs_again_and_nothing_else(run, ran, setting):
    """Though what it reads is the same bytes as before."""
    again = changed(run, setting)
    assert ran.of(lambda: execute(again)) == ALL[ALL.index(RERUN_FROM[setting]) :]
    assert stale(again) == {}
    assert ran.of(lambda: execute(again)) == []


def test_no_record_keeps_a_setting_that_was_changed(run):
    """Neither those of the runner nor what a stage may write down."""
    again = changed(run, "devices=one", "origin.title=X", "name=other", "seed=1")
    execute(again)
    now = again.recipe.model_dump(mode="json")
    for stage in pipeline.STAGES.values():
        folder = again.stage_folder(stage.name)
        record = Record.of_finished(folder)
        assert record.settings == json.loads((folder / "settings.json").read_text())
        assert record.settings.items() <= now.items()
        assert record.seed == (None if stage.shared else 1)
    assert Record.of_finished(again.stage_folder("report")).settings == now
    exported = set(Record.of_finished(again.stage_folder("export")).settings)
    assert exported == set(now) - {"name", "origin", "evaluate", "report"}


def test_a_record_says_what_a_stage_was_made_from_and_what_it_made(run):
    record = Record.of_finished(run.stage_folder("evaluate"))
    folders = {name: run.stage_folder(name) for name in ("train", "quantize", "export")}
    assert (record.stage, record.dataset, record.seed) == ("evaluate", "digits", 0)
    assert record.summary == {"accuracy": 0.5}
    assert record.versions == {"python": "3"}
    age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(record.started)
    assert datetime.timedelta(0) <= age < datetime.timedelta(minutes=5)
    assert record.started.endswith("+00:00")
    assert 0 <= record.seconds < 300
    assert record.outputs == artifacts.hash_files(run.stage_folder("evaluate"))
    assert set(record.outputs) == {"result", "settings.json"}
    assert record.inputs == {
        "digits/test": catalogue.identity("digits", "test", None),
        **{
            f"{name}/{file}": artifacts.sha256(folder / file)
            for name, folder in folders.items()
            for file in ("result", "settings.json")
        },
    }


@pytest.mark.parametrize(
    ("stage", "read"),
    [
        ("distill", {"digits/train"}),
        ("train", {"digits/train", "distill"}),
        ("quantize", {"digits/train", "distill", "train"}),
        ("export", {"digits/train", "train", "quantize"}),
        ("evaluate", {"digits/test", "train", "quantize", "export"}),
        ("report", {"train", "quantize", "export", "evaluate"}),
    ],
)
def test_the_test_split_is_read_by_the_evaluation_alone(run, stage, read):
    inputs = run.input_digests(pipeline.STAGES[stage])
    assert {key if key.startswith("digits/") else key.split("/")[0] for key in inputs} == read


@pytest.mark.parametrize(
    ("split", "first"),
    [("train", ["distill", "train", "quantize", "export"]), ("test", ["evaluate"])],
)
def test_other_images_make_stale_what_reads_them(run, monkeypatch, split, first):
    known = catalogue.identity

    def identity(name, asked, data_dir):
        return "other images" if asked == split else known(name, asked, data_dir)

    monkeypatch.setattr(catalogue, "identity", identity)
    assert stale(run) == dict.fromkeys(first, "its inputs changed")


def test_another_result_of_an_earlier_stage_makes_stale_what_reads_it(run, ran):
    ran.during["quantize"] = lambda context: (context.out / "result").write_text("other weights")
    execute(run, "quantize", "quantize", force=True)
    assert stale(run) == dict.fromkeys(("export", "evaluate", "report"), "its inputs changed")


def test_what_is_missing_or_changed_is_named_and_made_again(run, ran):
    result = run.stage_folder("export") / "result"
    result.write_text("edited")
    assert stale(run) == {"export": "result is missing or was changed"}
    result.unlink()
    assert stale(run) == {"export": "result is missing or was changed"}
    assert ran.of(lambda: execute(run)) == ["export"]  # to the same bytes
    assert result.read_text() == "export"


@pytest.mark.parametrize("content", [None, "{", "{}"])
def test_a_stage_without_a_readable_record_runs_again(run, ran, content):
    path = run.stage_folder("report") / artifacts.RECORD
    path.unlink() if content is None else path.write_text(content)
    assert stale(run) == {"report": "its record cannot be read"}
    assert ran.of(lambda: execute(run)) == ["report"]


def test_what_has_not_run_is_told_from_what_has(tmp_path, ran, capsys):
    run = opened(tmp_path, *WITH_TEACHERS)
    first, *others = stale(run).values()
    assert {first, *others} == {pipeline.NOT_RUN}
    execute(run, last="train")
    err = capsys.readouterr().err
    assert "distill: running (not run yet)\n" in err
    assert f"train: done in 0 s, in {tmp_path / 'mine' / 'train'}\n" in err
    execute(run, last="quantize")
    err = capsys.readouterr().err
    assert "distill: up to date\ntrain: up to date\nquantize: running (not run yet)\n" in err


def test_a_finished_run_is_left_as_it_is(run, ran, capsys):
    def snapshot():
        return {path: path.stat().st_mtime_ns for path in run.folder.parent.rglob("*")}

    before = snapshot()
    assert ran.of(lambda: execute(run)) == []
    assert capsys.readouterr().err == f"mine: everything is up to date in {run.folder}\n"
    assert snapshot() == before


def test_nothing_is_forced_unless_asked(run, ran):
    pipeline.execute(run, pipeline.select(None, None))
    assert ran == []


def test_force_runs_what_is_asked_for(run, ran, capsys):
    assert ran.of(lambda: execute(run, "export", "evaluate", force=True)) == ["export", "evaluate"]
    assert "export: running (forced)" in capsys.readouterr().err


def test_a_stage_is_given_the_folders_of_those_before_it(tmp_path, ran):
    run = opened(tmp_path, *WITH_TEACHERS)
    given = {}
    ran.during = {name: lambda context: given.update({context.out.name: context}) for name in ALL}
    execute(run)
    found = given[".quantize.partial"]
    assert found.inputs == {name: run.stage_folder(name) for name in ("distill", "train")}
    assert (found.dataset, found.data_dir) == ("digits", None)
    assert found.settings == run.recipe.only(recipe.QuantizeSettings)
    assert not hasattr(found.settings, "export")
    assert run.stage_folder("train") == tmp_path / "mine" / "train"
    assert run.stage_folder("distill").parent.parent == tmp_path / "shared"


@pytest.mark.parametrize(
    ("first", "last", "names"),
    [
        (None, None, ALL),
        ("quantize", "evaluate", ["quantize", "export", "evaluate"]),
        ("export", None, ["export", "evaluate", "report"]),
        (None, "train", ["distill", "train"]),
        ("distill", "distill", ["distill"]),
    ],
)
def test_stages_are_selected_from_the_first_to_the_last(first, last, names):
    assert [stage.name for stage in pipeline.select(first, last)] == names


@pytest.mark.parametrize(
    ("first", "last", "complaint"),
    [
        ("deploy", None, f"unknown stage 'deploy': expected one of {', '.join(ALL)}"),
        (None, "deploy", f"unknown stage 'deploy': expected one of {', '.join(ALL)}"),
        ("export", "train", f"export comes after train: the stages are {', '.join(ALL)}"),
    ],
)
def test_stages_that_cannot_be_selected_are_named(first, last, complaint):
    with pytest.raises(Error) as caught:
        pipeline.select(first, last)
    assert str(caught.value) == complaint


def test_a_stage_is_not_built_on_one_that_has_not_run(tmp_path, ran):
    run = opened(tmp_path, *WITH_TEACHERS)
    execute(run, last="train")
    with pytest.raises(Error) as caught:
        execute(run, "export")
    assert str(caught.value) == (
        f"export needs the quantize stage of 'mine', which has not been run in {run.folder}: run "
        "it first, or `keras-lenet run` for all"
    )
    assert ran == ["distill", "train"]


def test_a_stage_is_not_built_on_a_stale_one(run, ran):
    with pytest.raises(Error) as caught:
        execute(changed(run, "quantize.epochs=9"), "evaluate", force=True)
    assert str(caught.value) == (
        "evaluate would build on a stale quantize stage (the recipe changed): run "
        "`keras-lenet run … --from quantize`"
    )
    assert ran == []


def test_teachers_need_their_section(tmp_path, ran):
    with pytest.raises(Error) as caught:
        execute(opened(tmp_path, "data.dataset=digits"), "distill", "distill")
    assert str(caught.value) == (
        "recipe mine has no [distill] section, without which there is nothing to distill"
    )


def test_an_unknown_model_or_dataset_is_named_before_anything_runs(tmp_path, ran):
    with pytest.raises(Error, match="lenet6"):
        execute(opened(tmp_path, "data.dataset=digits", "model.name=lenet6"))
    for key in ("dataset", "fallback"):
        with pytest.raises(Error, match="nothing_like_it"):
            opened(tmp_path, f"data.{key}=nothing_like_it")
    assert ran == []
    assert not (tmp_path / "mine").exists()


def fail(context):
    raise ZeroDivisionError


def test_a_stage_that_fails_leaves_its_old_result_and_goes_on_from_what_it_had(run, ran):
    def count(context):
        log = context.out / "attempts"
        log.write_text(log.read_text() + "+" if log.exists() else "+")
        if log.read_text() == "+":
            fail(context)

    again = changed(run, "export.refuse=0.5")
    ran.during["export"] = count
    with pytest.raises(ZeroDivisionError):
        execute(again)
    assert Record.of_finished(run.stage_folder("export")).settings == run.settings(
        pipeline.STAGES["export"]
    )
    execute(again)
    assert (again.stage_folder("export") / "attempts").read_text() == "++"
    assert stale(again) == {}


def test_an_interrupted_attempt_is_not_gone_on_from_with_other_settings_or_by_force(run, ran):
    ran.during["export"] = lambda context: (
        (context.out / "left").exists() or ((context.out / "left").touch(), fail(context))
    )
    for settings, force in (("export.refuse=0.5", False), ("export.refuse=0.6", False)):
        with pytest.raises(ZeroDivisionError):
            execute(changed(run, settings), "export", "export", force)
    with pytest.raises(ZeroDivisionError):
        execute(changed(run, settings), "export", "export", force=True)


def test_a_result_that_was_finished_but_not_placed_is_placed(run, ran, capsys):
    folder = run.stage_folder("export")
    folder.rename(folder.with_name(".export.partial"))
    (folder.with_name(".export.partial") / artifacts.IDENTITY).write_text("{}")
    assert ran.of(lambda: execute(run)) == []
    assert f"export: was done, now in {folder}\n" in capsys.readouterr().err
    assert stale(run) == {}


def test_a_finished_but_unplaced_result_of_other_settings_or_by_force_is_not(run, ran):
    folder, partial = run.stage_folder("export"), run.folder / ".export.partial"
    for again, force in ((changed(run, "export.refuse=0.5"), False), (run, True)):
        shutil.copytree(folder, partial)
        (partial / artifacts.IDENTITY).write_text("{}")
        assert ran.of(lambda again=again, force=force: execute(again, "export", "export", force))


def test_a_commit_that_was_cut_off_is_finished_first(run, ran):
    folder = run.stage_folder("distill")
    folder.rename(folder.with_name(".distill.previous"))
    assert ran.of(lambda: execute(run)) == []
    assert stale(run) == {}


def test_inputs_that_change_while_a_stage_runs_are_an_error(run, ran):
    """Or the record would name files that the result was not made from."""
    quantized = run.stage_folder("quantize")

    def another_process(context):
        (quantized / "result").write_text("other weights")
        record = Record.of_finished(quantized)
        replace(record, outputs=artifacts.hash_files(quantized)).write(quantized)

    ran.during["export"] = another_process
    with pytest.raises(Error, match=r"^export: the files that it reads were changed while"):
        execute(changed(run, "export.refuse=0.5"))
    del ran.during["export"]
    assert ran.of(lambda: execute(changed(run, "export.refuse=0.5"))) == [
        "export",
        "evaluate",
        "report",
    ]


def test_where_an_interrupted_run_stands_is_told(tmp_path, ran):
    said = []

    def tell(context):
        said.append(pipeline.progress())
        for lines in ("epoch\n1\n", "epoch\n1\n2\n"):
            (context.out / artifacts.HISTORY).write_text(lines)
            said.append(pipeline.progress())

    ran.during["train"] = tell
    execute(opened(tmp_path, "data.dataset=digits"), last="train")
    said.append(pipeline.progress())
    assert said == [
        "in train",
        "in train, 1 epoch finished",
        "in train, 2 epochs finished",
        "between stages",
    ]


def test_one_run_is_not_run_by_two_at_once(run, ran):
    with artifacts.lock(run.folder):
        with pytest.raises(Error, match=f"mine is in use by process {os.getpid()} since"):
            execute(changed(run, "report.mistakes=5"))
        execute(run)  # what is up to date needs no lock
    assert ran == []
    ran.during["report"] = lambda context: execute(changed(run, "report.mistakes=6"))
    with pytest.raises(Error, match=f"mine is in use by process {os.getpid()} since"):
        execute(changed(run, "report.mistakes=5"))


def other_seed(run):
    return opened(run.folder.parent, *WITH_TEACHERS, "seed=1", name="other")


class Elsewhere(threading.Thread):
    """Work in another thread; leaving the context waits for its end, and raises its error."""

    def __init__(self, work):
        super().__init__()
        self.work, self.error = work, None
        self.start()

    def run(self):
        try:
            self.work()
        except BaseException as error:
            self.error = error

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.join(30)
        if self.error:
            raise self.error


def test_runs_of_other_seeds_share_the_teachers(run, ran):
    assert ran.of(lambda: execute(other_seed(run))) == ALL[1:]


def test_a_run_waits_for_teachers_that_another_trains_and_takes_them(tmp_path, ran, capsys):
    at_work, waiting = threading.Event(), threading.Event()

    def teach(context):
        at_work.set()
        assert waiting.wait(30)

    ran.during["distill"] = teach
    run = opened(tmp_path, *WITH_TEACHERS)
    home = run.home(pipeline.STAGES["distill"])
    with Elsewhere(lambda: execute(run, last="train")):
        assert at_work.wait(30)
        with Elsewhere(lambda: execute(other_seed(run), last="train")) as second:
            second.join(0.3)
            assert second.is_alive()
            said = capsys.readouterr().err
            waiting.set()
    assert sorted(ran) == ["distill", "train", "train"]
    assert f"waiting for process {os.getpid()} since" in said
    assert f", which uses {home}\n" in said


def test_teachers_are_not_touched_while_another_run_places_them(run, ran, monkeypatch):
    """In the middle of this, neither the old ones nor the new ones have their name."""
    in_the_middle, rename = threading.Event(), Path.rename

    def slowly(path, target):
        if path.name == ".distill.partial":
            in_the_middle.set()
            time.sleep(0.3)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", slowly)
    ran.during["distill"] = lambda context: (context.out / "result").write_text("new teachers")
    with Elsewhere(lambda: execute(run, "distill", "distill", force=True)):
        assert in_the_middle.wait(30)
        execute(other_seed(run), last="train")
    assert (run.stage_folder("distill") / "result").read_text() == "new teachers"
    assert ran == ["distill", "train"]


@pytest.fixture
def no_mnist(monkeypatch):
    def refuse(name):
        raise Error("no mirror could be reached")

    monkeypatch.setattr(download, "download", refuse)


FELL_BACK = (
    "WARNING: mnist could not be had. Using digits instead: every figure of this run is for digits,"
    " not for mnist. To try again: --force\n"
)


def test_without_a_fallback_the_ways_out_are_listed(tmp_path, ran, no_mnist, monkeypatch):
    run = pipeline.open_run(recipe.from_overrides("mine", ()), tmp_path, Path("data"))
    with pytest.raises(Error) as caught:
        execute(run)
    assert str(caught.value) == (
        f"mnist cannot be had. Looked in data/mnist, {catalogue.cache_dir()}/mnist; then no mirror "
        "could be reached. Ways out: connect to the network; put the IDX files in FOLDER/mnist and "
        "give --data-dir FOLDER; or use another dataset, --set data.dataset=digits --set name=NEW"
    )
    assert ran == []


def test_a_fallback_is_loud_recorded_and_stayed_with(tmp_path, ran, no_mnist, capsys):
    done = execute(opened(tmp_path, "data.fallback=digits"))
    assert done.dataset == "digits"
    assert FELL_BACK in capsys.readouterr().err
    assert Record.of_finished(tmp_path / "mine" / "train").dataset == "digits"
    again = opened(tmp_path, "data.fallback=digits")
    assert again.dataset == "digits"
    assert ran.of(lambda: execute(again)) == []
    err = capsys.readouterr().err
    assert "everything is up to date" in err
    assert FELL_BACK in err


def test_a_forced_run_tries_again_and_falls_back_again(tmp_path, ran, no_mnist, capsys):
    for force in (False, True):
        run = pipeline.execute(
            opened(tmp_path, "data.fallback=digits"), pipeline.select(None, "train"), force
        )
        assert run.dataset == "digits"
        assert "mnist: no mirror could be reached\n" in capsys.readouterr().err
    assert ran == ["train", "train"]


def test_data_is_looked_for_in_the_folder_that_is_given(tmp_path, ran, monkeypatch):
    asked = []
    monkeypatch.setattr(catalogue, "is_here", lambda *asks: asked.append(asks) or True)
    monkeypatch.setattr(catalogue, "identity", lambda *asks: asked.append(asks) or "images")
    loaded = recipe.from_overrides("mine", ["data.fallback=digits"])
    for _ in range(2):
        execute(pipeline.open_run(loaded, tmp_path, Path("data")))
    assert {(name, folder) for name, _, folder in asked} == {("mnist", Path("data"))}
    train = tmp_path / "mine" / "train"
    replace(Record.of_finished(train), dataset="digits").write(train)
    assert pipeline.open_run(loaded, tmp_path, Path("data")).dataset == "mnist"
    assert asked[-1] == ("mnist", "train", Path("data"))


def test_later_stages_never_change_the_dataset(tmp_path, ran, no_mnist, monkeypatch):
    """Trained on the fallback, a later stage stays with it when the other is had; training not."""
    execute(opened(tmp_path, "data.fallback=digits"))
    given = []
    ran.during = dict.fromkeys(ALL, lambda context: given.append(context.dataset))
    run = opened(tmp_path, "data.fallback=digits")
    monkeypatch.setattr(catalogue, "is_here", lambda name, split, data_dir: True)
    assert execute(run, "quantize", "quantize", force=True).dataset == "digits"
    assert execute(run, "train", "train", force=True).dataset == "mnist"
    assert given == ["digits", "mnist"]
    assert opened(tmp_path, "data.fallback=digits").dataset == "mnist"


@pytest.mark.parametrize("damage", [False, True])
def test_a_fallback_does_not_replace_a_model_of_the_real_data(
    tmp_path, ran, no_mnist, monkeypatch, damage
):
    """Nor one of which the record can't be read, which may be."""
    with monkeypatch.context() as patch:
        patch.setattr(catalogue, "is_here", lambda name, split, data_dir: True)
        execute(opened(tmp_path, "data.fallback=digits"))
    if damage:
        (tmp_path / "mine" / "train" / artifacts.RECORD).write_text("{")
    with pytest.raises(Error, match=r"^mnist cannot be had"):
        execute(opened(tmp_path, "data.fallback=digits", "train.epochs=3"))
    if not damage:
        with pytest.raises(Error, match=r"^mnist cannot be had"):
            execute(opened(tmp_path, "data.fallback=digits"), "evaluate", force=True)
    assert (tmp_path / "mine" / "train" / "result").exists()


def test_data_is_downloaded_before_anything_runs(tmp_path, ran, monkeypatch, capsys):
    fetched = []
    monkeypatch.setattr(download, "download", lambda name: fetched.append((name, list(ran))))
    execute(opened(tmp_path), last="train")
    assert fetched == [("mnist", [])]
    assert (
        f"mnist is not on this machine: downloading it to {catalogue.cache_dir()}\n"
        in capsys.readouterr().err
    )


def test_what_is_up_to_date_needs_no_data(run, ran, monkeypatch):
    """Only the report is stale, and it reads no images; then evaluate, which reads test images."""
    asked = []

    def is_here(name, split, data_dir):
        asked.append(split)
        return True

    monkeypatch.setattr(catalogue, "is_here", is_here)
    execute(changed(run, "report.mistakes=5"))
    assert asked == []
    execute(changed(run, "evaluate.probes=5"))
    assert asked == ["test"]


@pytest.mark.parametrize("met", [True, False])
def test_gates_are_checked_by_a_run_that_evaluates(run, monkeypatch, met):
    gate = {"gate": "min_accuracy", "figure": 0.5, "limit": 0.6, "met": met}
    read = []
    monkeypatch.setattr(results, "read", lambda folder: read.append(folder) or {"gates": [gate]})
    pipeline.check_gates(run, pipeline.select(None, "export"))
    assert read == []
    missed = pytest.raises(GateError, match=r"min_accuracy: 0\.5, limit 0\.6")
    with contextlib.nullcontext() if met else missed:
        pipeline.check_gates(run, pipeline.select("evaluate", None))
    assert read == [run.stage_folder("evaluate")]


def test_other_backends_of_keras_only_train_and_on_one_host(tmp_path, monkeypatch):
    run = opened(tmp_path, "data.dataset=digits")
    stages = pipeline.select(None, None)
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    with pytest.raises(
        Error, match="KERAS_BACKEND=jax is for training alone: run with --until train"
    ):
        pipeline.execute(run, stages)
    hosts = Cluster(("a:1", "b:1"), index=1)
    with pytest.raises(Error, match="KERAS_BACKEND=jax trains on one host alone: unset it, or"):
        pipeline.execute(replace(run, hosts=hosts), stages)
    monkeypatch.setenv("KERAS_BACKEND", "theano")
    with pytest.raises(Error, match=r"theano is not installed here; expected one of .* jax, and"):
        pipeline.execute(run, stages)
