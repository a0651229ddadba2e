"""Run the stages in order: skip what is up to date, stop at what is missing."""

from __future__ import annotations

import contextlib
import datetime
import importlib
import importlib.util
import itertools
import json
import os
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from keras_lenet import artifacts, console
from keras_lenet.artifacts import Record
from keras_lenet.data import catalogue
from keras_lenet.errors import Error
from keras_lenet.evaluation import gates
from keras_lenet.evaluation.metrics import Metrics
from keras_lenet.recipe import (
    DistillSettings,
    EvaluateSettings,
    ExportSettings,
    QuantizeSettings,
    Recipe,
    TrainSettings,
)
from keras_lenet.stages import Context
from keras_lenet.training import cluster

NOT_RUN = "not run yet"
TENSORFLOW = "tensorflow"
BACKENDS = (TENSORFLOW, "jax")
"""Of Keras, on which the stages that train run."""


def keras_backend() -> str:
    """The backend that the environment names."""
    return os.environ.get("KERAS_BACKEND") or TENSORFLOW


@dataclass(frozen=True)
class Stage:
    """One stage and what decides its result.

    Attributes:
        name: of its module in `keras_lenet.stages` and of its folder.
        settings: the settings that decide its result, and the only ones that it is given.
        inputs: the earlier stages whose files it reads.
        splits: the dataset's splits that it reads.
        optional: the section without which a recipe doesn't have this stage.
        shared: runs of any seed share its result: the run's seed is not among its sections.
        trains: on any number of hosts, and on any of Keras' backends; the others run on one host
            and on TensorFlow alone.
    """

    name: str
    settings: type[DistillSettings]
    inputs: tuple[str, ...] = ()
    splits: tuple[catalogue.Split, ...] = ()
    optional: str | None = None
    shared: bool = False
    trains: bool = False

    def applies(self, recipe: Recipe) -> bool:
        """Whether the recipe has this stage."""
        return self.optional is None or getattr(recipe, self.optional) is not None


STAGES = {
    stage.name: stage
    for stage in (
        Stage(
            "distill",
            DistillSettings,
            splits=("train",),
            optional="distill",
            shared=True,
            trains=True,
        ),
        Stage("train", TrainSettings, ("distill",), splits=("train",), trains=True),
        Stage("quantize", QuantizeSettings, ("distill", "train"), splits=("train",)),
        Stage("export", ExportSettings, ("train", "quantize"), splits=("train",)),
        Stage("evaluate", EvaluateSettings, ("train", "quantize", "export"), splits=("test",)),
        Stage("report", Recipe, ("train", "quantize", "export", "evaluate")),
    )
}


@dataclass(frozen=True)
class Run:
    """A recipe, the folder its results go to, and the dataset it really uses.

    Attributes:
        hosts: those that train together, if there are several.
    """

    recipe: Recipe
    folder: Path
    dataset: str
    data_dir: Path | None
    hosts: cluster.Cluster | None = None

    def stage_folder(self, stage: str) -> Path:
        """Where a stage's finished files are."""
        return self.home(STAGES[stage]) / stage

    def home(self, stage: Stage) -> Path:
        """The folder that a stage's own is in: the run's, or one shared by runs of any seed."""
        if not stage.shared:
            return self.folder
        settings = json.dumps(self.settings(stage), sort_keys=True)
        return self.folder.parent / "shared" / artifacts.digest(settings.encode())[:12]

    def having(self, stages: Iterable[Stage]) -> list[Stage]:
        """Those of `stages` that the recipe has."""
        return [stage for stage in stages if stage.applies(self.recipe)]

    def watched(self) -> contextlib.AbstractContextManager[None]:
        """While in it, a host of the cluster that is gone becomes an `Error`."""
        return self.hosts.watched() if self.hosts else contextlib.nullcontext()

    def inputs(self, stage: Stage) -> dict[str, Path]:
        """The folders of the earlier stages whose files it reads, by name."""
        return {one.name: self.stage_folder(one.name) for one in self._before(stage)}

    def _before(self, stage: Stage) -> list[Stage]:
        return self.having(STAGES[name] for name in stage.inputs)

    def settings(self, stage: Stage) -> dict[str, Any]:
        """Return the settings that decide a stage's result, as a record has them.

        Those of earlier stages are among them: a stage may record them, and the same files of an
        earlier stage may come from other settings.
        """
        return self.recipe.only(stage.settings).model_dump(mode="json")

    def input_digests(self, stage: Stage) -> dict[str, str]:
        """What identifies everything a stage reads; empty while an earlier stage lacks a record."""
        digests = {
            f"{self.dataset}/{split}": catalogue.identity(self.dataset, split, self.data_dir)
            for split in stage.splits
        }
        for name, folder in self.inputs(stage).items():
            record = Record.read(folder)
            if record is None:
                return {}
            digests |= {f"{name}/{path}": digest for path, digest in record.outputs.items()}
        return digests

    def why_stale(self, stage: Stage) -> str | None:
        """Why a stage has to run, in words; None when its result is up to date and whole."""
        folder = self.stage_folder(stage.name)
        record = Record.read(folder)
        if record is None:
            return "its record cannot be read" if folder.exists() else NOT_RUN
        if record.settings != self.settings(stage):
            return "the recipe changed"
        if record.inputs != self.input_digests(stage):
            return "its inputs changed"
        broken = artifacts.damaged(folder, record.outputs)
        return f"{broken} is missing or was changed" if broken else None


def select(first: str | None, last: str | None) -> list[Stage]:
    """The stages from `first` to `last`, both included; the ends where they are None.

    Raises:
        Error: a name is unknown, or they are in the wrong order.
    """
    names = list(STAGES)
    for name in (first, last):
        if name is not None and name not in STAGES:
            raise Error(f"unknown stage {name!r}: expected one of {', '.join(names)}")
    start = names.index(first) if first else 0
    stop = names.index(last) if last else len(names) - 1
    if start > stop:
        raise Error(f"{first} comes after {last}: the stages are {', '.join(names)}")
    return list(STAGES.values())[start : stop + 1]


def open_run(recipe: Recipe, runs: Path, data_dir: Path | None) -> Run:
    """Decide on the dataset, without downloading: an earlier run's fallback is stayed with.

    Raises:
        Error: the recipe names a dataset that there isn't, or TF_CONFIG is not what it should be.
    """
    for name in (recipe.data.dataset, recipe.data.fallback):
        if name not in (None, catalogue.DIGITS):
            catalogue.find(name)
    folder = runs / recipe.name
    wanted, fallback = recipe.data.dataset, recipe.data.fallback
    record = Record.read(folder / "train")
    dataset = wanted
    if (
        fallback
        and record is not None
        and record.dataset == fallback
        and not catalogue.is_here(wanted, "train", data_dir)
    ):
        dataset = fallback
    hosts = cluster.of_environment() if recipe.devices == "all" else None
    return Run(recipe, folder, dataset, data_dir, hosts)


def execute(run: Run, stages: list[Stage], force: bool = False) -> Run:
    """Run those of `stages` that aren't up to date; returns the run with the dataset it used.

    Raises:
        Error: the recipe names a model that there isn't, an earlier stage is missing or stale, the
            data can't be had, the folder is in use, a stage isn't for this backend of Keras or for
            several hosts, one of these is gone, or a stage fails.
    """
    earlier = run.having(list(STAGES.values())[: list(STAGES).index(stages[0].name)])
    if not run.having(stages):
        raise Error(
            f"recipe {run.recipe.name} has no [{stages[0].optional}] section, without which there "
            f"is nothing to {stages[0].name}"
        )
    stages = run.having(stages)
    _check_backend(run, stages)
    if run.hosts and not run.hosts.is_chief:
        return _follow(run, run.hosts)
    if not force and _all_up_to_date(run, earlier + stages):
        console.say(f"{run.recipe.name}: everything is up to date in {run.folder}")
        _say_fallback(run)
        if run.hosts:
            run.hosts.part()
        return run
    from keras_lenet import models  # slow to import, and what is up to date needs none

    models.input_size(run.recipe.model)
    with artifacts.lock(run.folder), run.watched():
        for stage in run.having(STAGES.values()):
            with _alone(run, stage):
                artifacts.recover(run.stage_folder(stage.name))
        _refuse_stale(run, earlier, stages[0])
        # What is up to date needs no data; what follows the first that isn't may.
        stale = itertools.dropwhile(lambda stage: not force and not run.why_stale(stage), stages)
        run = _obtain_data(run, list(stale), force)
        for stage in stages:
            with _alone(run, stage):  # whoever had it may have made what this run needs
                _execute_stage(run, stage, force)
    if run.hosts:
        run.hosts.part()
    return run


def _check_backend(run: Run, stages: list[Stage]) -> None:
    """Refuse what only one host on TensorFlow can do where there are several, or another backend.

    Raises:
        Error: as the summary says.
    """
    backend = keras_backend()
    if backend != TENSORFLOW and not (backend in BACKENDS and importlib.util.find_spec(backend)):
        raise Error(
            f"KERAS_BACKEND={backend} is not installed here; expected one of "
            f"{', '.join(BACKENDS)}, and for jax: pip install 'keras-lenet[jax]'"
        )
    if run.hosts and backend != TENSORFLOW:
        raise Error(
            f"KERAS_BACKEND={backend} trains on one host alone: unset it, or unset TF_CONFIG"
        )
    if (run.hosts or backend != TENSORFLOW) and not all(stage.trains for stage in stages):
        variable = "TF_CONFIG" if run.hosts else f"KERAS_BACKEND={backend}"
        raise Error(
            f"{variable} is for training alone: run with --until train, then unset it for the rest"
        )


def _follow(run: Run, hosts: cluster.Cluster) -> Run:
    """Train along with the chief of the run's hosts, until it has no more to train.

    What the chief has of each stage is read from the runs folder, which all hosts see; this host
    writes nothing there.

    Raises:
        Error: the data can't be had, the recipe or the data isn't the chief's, a host is gone, or a
            stage fails.
    """
    training = run.having(stage for stage in STAGES.values() if stage.trains)
    run = _obtain_data(run, training, force=False)
    with run.watched():
        while number := hosts.agree():
            chosen = [stage for stage in training if _number(run, stage) == number]
            if not chosen:
                raise Error(
                    "this host has another recipe or other data than the chief, or sees another "
                    "runs folder; give every host the same recipe, --set, --runs and data"
                )
            with tempfile.TemporaryDirectory(prefix="keras-lenet-") as scratch:
                out = artifacts.copy_partial(run.stage_folder(chosen[0].name), Path(scratch))
                _run_module(run, chosen[0], out)
    hosts.part()
    console.say("this host has done its part")
    return run


def _number(run: Run, stage: Stage) -> int:
    """Return a number that says what is to be trained, from what: 24 bits, which a float32 holds.

    It is never 0.
    """
    what = json.dumps([stage.name, run.settings(stage), run.input_digests(stage)])
    return int(artifacts.digest(what.encode())[:6], 16) or 1


def _run_module(run: Run, stage: Stage, out: Path) -> dict[str, Any]:
    """Run a stage into its working folder; returns its summary."""
    _at_work.append((stage.name, out))
    with console.without_information():
        module = importlib.import_module(f"keras_lenet.stages.{stage.name}")
    settings = run.recipe.only(stage.settings)
    context = Context(settings, run.dataset, run.data_dir, run.inputs(stage), out, run.hosts)
    summary: dict[str, Any] = module.run(context)
    return summary


_at_work: list[tuple[str, Path]] = []
"""The stage that runs and its working folder, for whoever interrupts it."""


def progress() -> str:
    """Where this process stands, in words: the stage, and the epochs that are safe."""
    if not _at_work:
        return "between stages"
    name, out = _at_work[-1]
    try:
        epochs = len((out / artifacts.HISTORY).read_text(encoding="utf-8").splitlines()) - 1
    except OSError:
        return f"in {name}"
    return f"in {name}, {epochs} epoch{'s' * (epochs != 1)} finished"


def check_gates(run: Run, stages: list[Stage]) -> None:
    """Hold a run that includes an evaluation to its recipe's limits.

    Raises:
        GateError: the evaluation missed one.
    """
    if any(stage.name == "evaluate" for stage in stages):
        gates.check(Metrics.read(run.stage_folder("evaluate")))


def _refuse_stale(run: Run, earlier: list[Stage], first: Stage) -> None:
    """A run that starts in the middle stands on what is there: all of it must fit the recipe."""
    for stage in earlier:
        with _alone(run, stage):
            reason = run.why_stale(stage)
        if reason == NOT_RUN:
            raise Error(
                f"{first.name} needs the {stage.name} stage of {run.recipe.name!r}, which has not "
                f"been run in {run.folder}: run it first, or `keras-lenet run` for all"
            )
        if reason:
            raise Error(
                f"{first.name} would build on a stale {stage.name} stage ({reason}): run "
                f"`keras-lenet run … --from {stage.name}`"
            )


def _all_up_to_date(run: Run, stages: list[Stage]) -> bool:
    # In order: once one is stale, those after it are too, and their inputs may not exist.
    return all(run.why_stale(stage) is None for stage in stages)


def _obtain_data(run: Run, stages: list[Stage], force: bool) -> Run:
    """Have what `stages` read on this machine, downloaded if need be, or the recipe's fallback.

    Only training may change from one dataset to the other: the later stages go on with what the
    model was trained on.

    Raises:
        Error: it can't be had, and there is no fallback; lists what was tried and the ways out.
    """
    trains = any(stage.name == "train" for stage in stages)
    splits = {split for stage in stages for split in stage.splits}
    dataset = run.recipe.data.dataset if force and trains else run.dataset
    run = replace(run, dataset=dataset)
    here = all(catalogue.is_here(dataset, split, run.data_dir) for split in splits)
    if not here and dataset in catalogue.DATASETS:
        from keras_lenet.data import download  # slow to import, and seldom needed

        console.say(f"{dataset} is not on this machine: downloading it to {catalogue.cache_dir()}")
        try:
            download.download(dataset)
        except Error as error:
            run = _fall_back(run, error)
    _say_fallback(run)
    return run


def _fall_back(run: Run, error: Error) -> Run:
    fallback, dataset = run.recipe.data.fallback, run.dataset
    trained = run.stage_folder("train")
    record = Record.read(trained)
    # A damaged record doesn't say, and the model in its folder may have taken hours.
    trained_on_it = trained.exists() and (record is None or record.dataset == dataset)
    if fallback is None or trained_on_it:
        looked = ", ".join(
            str(root / dataset)
            for root in (run.data_dir, catalogue.cache_dir())
            if root is not None
        )
        raise Error(
            f"{dataset} cannot be had. Looked in {looked}; then {error}. Ways out: connect to the "
            f"network; put the IDX files in FOLDER/{dataset} and give --data-dir FOLDER; or use "
            f"another dataset, --set data.dataset={catalogue.DIGITS} --set name=NEW"
        ) from error
    console.say(f"{dataset}: {error}")
    return replace(run, dataset=fallback)


def _say_fallback(run: Run) -> None:
    wanted = run.recipe.data.dataset
    if run.dataset != wanted:
        console.say(
            f"WARNING: {wanted} could not be had. Using {run.dataset} instead: every figure of "
            f"this run is for {run.dataset}, not for {wanted}. To try again: --force",
            style="bold red",
        )


def _alone(run: Run, stage: Stage) -> contextlib.AbstractContextManager[None]:
    """Hold the folder of a shared stage, after whoever else uses it; the run's own is held."""
    if not stage.shared:
        return contextlib.nullcontext()
    return artifacts.lock(run.home(stage), wait=True)


def _execute_stage(run: Run, stage: Stage, force: bool) -> None:
    reason = "forced" if force else run.why_stale(stage)
    if reason is None:
        console.say(f"{stage.name}: up to date")
        return
    console.say(f"{stage.name}: running ({reason})", style="bold")
    settings, inputs = run.settings(stage), run.input_digests(stage)
    folder = run.stage_folder(stage.name)
    if not force and artifacts.is_complete(folder, settings, inputs):
        artifacts.commit(folder)
        console.say(f"{stage.name}: was done, now in {folder}")
        return
    identity = {"settings": settings, "inputs": inputs}
    out = artifacts.begin(folder, identity, resume=not force)
    started, clock = datetime.datetime.now(datetime.UTC), time.monotonic()
    if run.hosts:
        run.hosts.agree(_number(run, stage))
    summary = _run_module(run, stage, out)
    if run.input_digests(stage) != inputs:
        raise Error(
            f"{stage.name}: the files that it reads were changed while it ran; run the same "
            "command again"
        )
    Record(
        stage=stage.name,
        settings=settings,
        inputs=inputs,
        outputs=artifacts.hash_files(out),
        dataset=run.dataset,
        seed=settings.get("seed"),
        versions=artifacts.versions(),
        started=started.isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - clock, 1),
        summary=summary,
    ).write(out)
    artifacts.commit(folder)
    _at_work.clear()
    console.say(f"{stage.name}: done in {time.monotonic() - clock:.0f} s, in {folder}")
