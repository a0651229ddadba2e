"""Stages of a run: run those that are stale in order, skip those that are up to date."""

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
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from keras_lenet import artifacts, console, models
from keras_lenet.artifacts import Record
from keras_lenet.data import catalogue
from keras_lenet.errors import Error
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


@dataclass(frozen=True)
class Stage:
    """One stage, and what decides its result.

    Attributes:
        name: of its module in `keras_lenet.stages` and of its folder.
        settings: the settings that decide its result, and the only ones that it is given.
        inputs: the earlier stages whose files it reads.
        splits: the dataset's splits that it reads.
        optional: only recipes with a section of its name have it, and runs of any seed share its
            result: the run's seed is not among its settings.
        trains: on several hosts and on any backend of Keras; others on one host and TensorFlow.
    """

    name: str
    settings: type[DistillSettings]
    inputs: tuple[str, ...] = ()
    splits: tuple[catalogue.Split, ...] = ()
    optional: bool = False
    trains: bool = False


STAGES = {
    stage.name: stage
    for stage in (
        Stage("distill", DistillSettings, (), ("train",), optional=True, trains=True),
        Stage("train", TrainSettings, ("distill",), ("train",), trains=True),
        Stage("quantize", QuantizeSettings, ("distill", "train"), ("train",)),
        Stage("export", ExportSettings, ("train", "quantize"), ("train",)),
        Stage("evaluate", EvaluateSettings, ("train", "quantize", "export"), ("test",)),
        Stage("report", Recipe, ("train", "quantize", "export", "evaluate")),
    )
}


@dataclass(frozen=True)
class Run:
    """A recipe, the folder of its results, the dataset really used, and the hosts if several."""

    recipe: Recipe
    folder: Path
    dataset: str
    data_dir: Path | None
    hosts: cluster.Cluster | None = None

    def having(self, stages: Iterable[Stage]) -> list[Stage]:
        """Return those of `stages` that the recipe has."""
        return [one for one in stages if not one.optional or getattr(self.recipe, one.name)]

    def stage_folder(self, name: str) -> Path:
        """Return the folder of a stage's finished files, which runs of any seed may share."""
        if not STAGES[name].optional:
            return self.folder / name
        settings = json.dumps(self.settings(STAGES[name]), sort_keys=True)
        return self.folder.parent / "shared" / artifacts.digest(settings.encode())[:12] / name

    def alone(self, stage: Stage) -> contextlib.AbstractContextManager[None]:
        """Lock the folder of a shared stage, waiting for other runs; `execute` locks the run's."""
        if not stage.optional:
            return contextlib.nullcontext()
        return artifacts.lock(self.stage_folder(stage.name).parent, wait=True)

    def settings(self, stage: Stage) -> dict[str, Any]:
        """Return the settings that decide a stage's result, those of earlier stages included."""
        return self.recipe.only(stage.settings).model_dump(mode="json")

    def inputs(self, stage: Stage) -> dict[str, Path]:
        """Return the folders of the earlier stages whose files a stage reads, by name."""
        earlier = self.having(STAGES[name] for name in stage.inputs)
        return {one.name: self.stage_folder(one.name) for one in earlier}

    def input_digests(self, stage: Stage) -> dict[str, str]:
        """Return digests of everything a stage reads; none while an earlier record is missing."""
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
        """Return why a stage has to run, in words; None when its result is up to date."""
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
    """Return the stages from `first` to `last`, both included; None for either end.

    Raises:
        Error: a name is unknown, or they are in the wrong order.
    """
    names = list(STAGES)
    for name in (first, last):
        if name is not None and name not in STAGES:
            raise Error(f"unknown stage {name!r}: expected one of {', '.join(names)}")
    start = names.index(first) if first else 0
    stop = names.index(last) + 1 if last else len(names)
    if start >= stop:
        raise Error(f"{first} comes after {last}: the stages are {', '.join(names)}")
    return list(STAGES.values())[start:stop]


def open_run(recipe: Recipe, runs: Path, data_dir: Path | None) -> Run:
    """Choose the dataset, without downloading: a run that fell back stays with its fallback.

    Raises:
        Error: the recipe names an unknown dataset, or TF_CONFIG is malformed.
    """
    wanted, fallback = recipe.data.dataset, recipe.data.fallback
    for name in (wanted, fallback):
        if name not in (None, catalogue.DIGITS):
            catalogue.find(name)
    folder = runs / recipe.name
    record = Record.read(folder / "train")
    if record and record.dataset == fallback and not catalogue.is_here(wanted, "train", data_dir):
        wanted = record.dataset
    hosts = cluster.of_environment() if recipe.devices == "all" else None
    return Run(recipe, folder, wanted, data_dir, hosts)


def execute(run: Run, stages: list[Stage], force: bool = False) -> Run:
    """Run those of `stages` that are stale, or all by force; return the run as it was done.

    Raises:
        Error: the recipe names an unknown model, an earlier stage is missing or stale, the data
            cannot be had, the folder is in use, a stage does not run on this backend of Keras or
            on several hosts, a host is gone, or a stage fails.
    """
    earlier = run.having(itertools.takewhile(lambda one: one != stages[0], STAGES.values()))
    stages = _runnable(run, stages)
    if run.hosts and not run.hosts.is_chief:
        return _follow(run, run.hosts)
    # In order: the inputs of a stage that follows a stale one may not exist.
    if not force and all(run.why_stale(stage) is None for stage in earlier + stages):
        console.say(f"{run.recipe.name}: everything is up to date in {run.folder}")
        _obtain_data(run, [], force)
    else:
        models.input_size(run.recipe.model)
        watched = run.hosts.watched() if run.hosts else contextlib.nullcontext()
        with artifacts.lock(run.folder), watched:
            _recover(run, earlier, stages[0])
            # The stages before the first stale one need no data; those after it may.
            stale = itertools.dropwhile(lambda one: not force and not run.why_stale(one), stages)
            run = _obtain_data(run, list(stale), force)
            for stage in stages:
                # Another run that held the folder may have made what this one needs.
                with run.alone(stage), _attempt(run, stage, force) as (context, summary):
                    if context:
                        summary |= _module(stage).run(context)
    if run.hosts:
        run.hosts.part()
    return run


def _runnable(run: Run, stages: list[Stage]) -> list[Stage]:
    """Return the stages that the recipe has; refuse any that these hosts or Keras cannot run."""
    found = run.having(stages)
    if not found:
        raise Error(
            f"recipe {run.recipe.name} has no [{stages[0].name}] section, without which there is "
            f"nothing to {stages[0].name}"
        )
    backend = os.environ.get("KERAS_BACKEND") or "tensorflow"
    variable = f"KERAS_BACKEND={backend}"
    other = backend != "tensorflow"
    if other and not (backend == "jax" and importlib.util.find_spec(backend)):
        raise Error(
            f"{variable} is not installed here; expected one of tensorflow, jax, and for jax: pip "
            "install 'keras-lenet[jax]'"
        )
    if run.hosts and other:
        raise Error(f"{variable} trains on one host alone: unset it, or unset TF_CONFIG")
    if (run.hosts or other) and not all(stage.trains for stage in found):
        raise Error(
            f"{'TF_CONFIG' if run.hosts else variable} is for training alone: run with --until "
            "train, then unset it for the rest"
        )
    return found


def _follow(run: Run, hosts: cluster.Cluster) -> Run:
    """Train along with the chief of the run's hosts, until it has no more to train.

    This host reads what the chief has of each stage from the runs folder, which all hosts see, and
    writes nothing there. It refuses to train from another recipe or other data than the chief's.
    """
    training = run.having(stage for stage in STAGES.values() if stage.trains)
    run = _obtain_data(run, training, force=False)
    with hosts.watched():
        while number := hosts.agree():
            stage = next((one for one in training if _number(run, one) == number), None)
            if stage is None:
                raise Error(
                    "this host has another recipe or other data than the chief, or sees another "
                    "runs folder; give every host the same recipe, --set, --runs and data"
                )
            with tempfile.TemporaryDirectory(prefix="keras-lenet-") as scratch:
                out = artifacts.copy_partial(run.stage_folder(stage.name), Path(scratch))
                _module(stage).run(_context(run, stage, out))
    hosts.part()
    console.say("this host has done its part")
    return run


def _number(run: Run, stage: Stage) -> int:
    """Return a number, never 0, of what is to be trained from what: 24 bits, as a float32 holds."""
    what = json.dumps([stage.name, run.settings(stage), run.input_digests(stage)])
    return int(artifacts.digest(what.encode())[:6], 16) or 1


@contextlib.contextmanager
def _attempt(
    run: Run, stage: Stage, force: bool
) -> Iterator[tuple[Context[Any] | None, dict[str, Any]]]:
    """Yield the context of a stale stage, else None, and a summary to fill; commit the result."""
    settings, inputs = run.settings(stage), run.input_digests(stage)
    folder = run.stage_folder(stage.name)
    summary: dict[str, Any] = {}
    reason = "forced" if force else run.why_stale(stage)
    if reason is None:
        console.say(f"{stage.name}: up to date")
    else:
        console.say(f"{stage.name}: running ({reason})", style="bold")
    if reason and not force and artifacts.is_complete(folder, settings, inputs):
        artifacts.commit(folder)
        console.say(f"{stage.name}: was done, now in {folder}")
        reason = None
    if reason is None:
        yield None, summary
        return
    out = artifacts.begin(folder, {"settings": settings, "inputs": inputs}, resume=not force)
    started, clock = datetime.datetime.now(datetime.UTC), time.monotonic()
    if run.hosts:
        run.hosts.agree(_number(run, stage))
    yield _context(run, stage, out), summary
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


def _module(stage: Stage) -> Any:
    """Import a stage's module, which imports TensorFlow."""
    with console.without_information():
        return importlib.import_module(f"keras_lenet.stages.{stage.name}")


def _context(run: Run, stage: Stage, out: Path) -> Context[Any]:
    """Return what a stage is given that writes into `out`; `progress` tells of it from now on."""
    _at_work.append((stage.name, out))
    settings = run.recipe.only(stage.settings)
    return Context(settings, run.dataset, run.data_dir, run.inputs(stage), out, run.hosts)


_at_work: list[tuple[str, Path]] = []
"""The stages that run and their working folders, the innermost last."""


def progress() -> str:
    """Return where this process stands, in words: the stage, and its finished epochs."""
    if not _at_work:
        return "between stages"
    name, out = _at_work[-1]
    history = out / artifacts.HISTORY
    if not history.exists():
        return f"in {name}"
    epochs = len(history.read_text(encoding="utf-8").splitlines()) - 1
    return f"in {name}, {epochs} epoch{'s' * (epochs != 1)} finished"


def _recover(run: Run, earlier: list[Stage], first: Stage) -> None:
    """Complete the commits of killed processes; refuse to start after a missing or stale stage."""
    for stage in run.having(STAGES.values()):
        with run.alone(stage):
            artifacts.recover(run.stage_folder(stage.name))
            reason = run.why_stale(stage) if stage in earlier else None
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


def _obtain_data(run: Run, stages: list[Stage], force: bool) -> Run:
    """Download what `stages` read where it is missing; return the run, on its fallback if need be.

    Only training may change the dataset: the later stages use what the model was trained on.

    Raises:
        Error: the data cannot be had, and there is no fallback; lists the places and the ways out.
    """
    wanted = run.recipe.data.dataset
    if force and any(stage.name == "train" for stage in stages):
        run = replace(run, dataset=wanted)
    splits = {split for stage in stages for split in stage.splits}
    here = all(catalogue.is_here(run.dataset, split, run.data_dir) for split in splits)
    if not here and run.dataset in catalogue.DATASETS:
        from keras_lenet.data import download  # imports requests, which few runs need

        console.say(
            f"{run.dataset} is not on this machine: downloading it to {catalogue.cache_dir()}"
        )
        try:
            download.download(run.dataset)
        except Error as error:
            run = _fall_back(run, error)
    if run.dataset != wanted:
        console.say(
            f"WARNING: {wanted} could not be had. Using {run.dataset} instead: every figure of "
            f"this run is for {run.dataset}, not for {wanted}. To try again: --force",
            style="bold red",
        )
    return run


def _fall_back(run: Run, error: Error) -> Run:
    """Return the run on its recipe's fallback, unless a model of the real data would be lost."""
    dataset, trained = run.dataset, run.stage_folder("train")
    record = Record.read(trained)
    # A damaged record names no dataset, and the model beside it may have taken hours.
    has_model = trained.exists() and (record is None or record.dataset == dataset)
    if run.recipe.data.fallback is None or has_model:
        roots = [root for root in (run.data_dir, catalogue.cache_dir()) if root is not None]
        raise Error(
            f"{dataset} cannot be had. Looked in {', '.join(str(root / dataset) for root in roots)}"
            f"; then {error}. Ways out: connect to the network; put the IDX files in "
            f"FOLDER/{dataset} and give --data-dir FOLDER; or use another dataset, "
            f"--set data.dataset={catalogue.DIGITS} --set name=NEW"
        ) from error
    console.say(f"{dataset}: {error}")
    return replace(run, dataset=run.recipe.data.fallback)
