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
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from keras_lenet import artifacts, console, models
from keras_lenet.artifacts import Record
from keras_lenet.data import catalogue
from keras_lenet.errors import Error
from keras_lenet.evaluation.metrics import Metrics
from keras_lenet.recipe import Recipe
from keras_lenet.reporting.results import Finished
from keras_lenet.stages import STAGES, Context, Stage
from keras_lenet.training import cluster

NOT_RUN = "not run yet"


@dataclass(frozen=True)
class Run:
    """Recipe, the folder of its results, the dataset really used, and the hosts if several."""

    recipe: Recipe
    folder: Path
    dataset: str
    data_dir: Path | None
    hosts: cluster.Cluster | None = None

    def having(self, stages: Iterable[Stage]) -> list[Stage]:
        """Return the stages among `stages` that the recipe has."""
        return [one for one in stages if not one.optional or getattr(self.recipe, one.name)]

    def stage_folder(self, name: str) -> Path:
        """Return the folder of a stage's finished files; optional stages share it across runs."""
        if not STAGES[name].optional:
            return self.folder / name
        settings = json.dumps(self.settings(STAGES[name]), sort_keys=True)
        return self.folder.parent / "shared" / artifacts.digest(settings.encode())[:12] / name

    def lock(self, stage: Stage) -> contextlib.AbstractContextManager[None]:
        """Lock the folder of a shared stage; `execute` locks the folder of the run."""
        if not stage.optional:
            return contextlib.nullcontext()
        return artifacts.lock(self.stage_folder(stage.name).parent, wait=True)

    def settings(self, stage: Stage) -> dict[str, Any]:
        """Return the settings that decide a stage's result, including those of earlier stages."""
        return self.recipe.only(stage.settings).model_dump(mode="json")

    def inputs(self, stage: Stage) -> dict[str, Path]:
        """Return the folders of the stages whose files a stage reads, by name."""
        earlier = self.having(STAGES[name] for name in stage.inputs)
        return {one.name: self.stage_folder(one.name) for one in earlier}

    def input_digests(self, stage: Stage) -> dict[str, str]:
        """Return digests of everything that a stage reads; {} if an earlier record is missing."""
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
        """Return why a stage has to run; None if its result is up to date."""
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


def run_recipe(
    recipe: Recipe,
    first: str | None = None,
    last: str | None = None,
    *,
    force: bool = False,
    runs: str | Path = "runs",
    data_dir: str | Path | None = None,
) -> Run:
    """Run the stages of a recipe that are not up to date.

    Args:
        recipe: the settings, from `load_recipe`.
        first: first stage to run, such as "train"; None for the first of all.
        last: last stage to run; None for the last of all.
        force: run stages that are up to date too.
        runs: folder of the results; the stages write to `runs/<recipe name>/<stage>`.
        data_dir: folder with `<dataset>/<IDX files>`, searched before the user's cache.

    Returns:
        The run: its folder, and the dataset that was used.

    Raises:
        Error: as `select`, `open_run` and `execute`.
    """
    opened = open_run(recipe, Path(runs), Path(data_dir) if data_dir else None)
    return execute(opened, select(first, last), force)


def select(first: str | None, last: str | None) -> list[Stage]:
    """Return the stages from `first` to `last`, both included; None means no limit.

    Raises:
        Error: a name is unknown, or `first` comes after `last`.
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
    """Choose the dataset without downloading: a run that fell back keeps its fallback.

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
    """Run the stale stages among `stages`, or all with `force`; return the run with its dataset.

    Raises:
        Error: the recipe names an unknown model, an earlier stage is missing or stale, the data
            cannot be had, the folder is in use, a stage does not run on this backend of Keras or
            on several hosts, a host is gone, or a stage fails.
    """
    earlier = run.having(itertools.takewhile(lambda one: one != stages[0], STAGES.values()))
    stages = _runnable(run, stages)
    if run.hosts and not run.hosts.is_chief:
        return _follow(run, run.hosts)
    # `all` stops at the first stale stage: the inputs of later stages may not exist.
    if not force and all(run.why_stale(stage) is None for stage in earlier + stages):
        console.say(f"{run.recipe.name}: everything is up to date in {run.folder}")
        _obtain_data(run, [], force)
    else:
        models.input_size(run.recipe.model)
        watched = run.hosts.watched() if run.hosts else contextlib.nullcontext()
        with artifacts.lock(run.folder), watched:
            _recover(run, earlier, stages[0])
            # Stages before the first stale one need no data.
            to_run = itertools.dropwhile(lambda one: not force and not run.why_stale(one), stages)
            run = _obtain_data(run, list(to_run), force)
            for stage in stages:
                with run.lock(stage):
                    reason = "forced" if force else run.why_stale(stage)
                    if reason is None:
                        console.say(f"{stage.name}: up to date")
                        continue
                    console.say(f"{stage.name}: running ({reason})", style="bold")
                    out, record = _begin(run, stage, resume=not force)
                    summary = _module(stage).run(_context(run, stage, out))
                    _commit(run, stage, out, replace(record, summary=summary))
    if run.hosts:
        run.hosts.part()
    return run


def _runnable(run: Run, stages: list[Stage]) -> list[Stage]:
    """Return the stages that the recipe has; refuse stages that cannot run here."""
    found = run.having(stages)
    if not found:
        name = stages[0].name
        raise Error(f"recipe {run.recipe.name} has no [{name}] section: add one to {name}")
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


def _recover(run: Run, earlier: list[Stage], first: Stage) -> None:
    """Complete the commits of killed processes; refuse to start after a missing or stale stage."""
    for stage in run.having(STAGES.values()):
        with run.lock(stage):
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


def _begin(run: Run, stage: Stage, resume: bool) -> tuple[Path, Record]:
    """Open the working folder of a stage; return it, and the record as far as it is known."""
    record = Record(
        stage=stage.name,
        settings=run.settings(stage),
        inputs=run.input_digests(stage),
        outputs={},
        dataset=run.dataset,
        seed=run.settings(stage).get("seed"),
        versions=artifacts.versions(),
        started=datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
        seconds=0.0,
        summary={},
    )
    identity = {"settings": record.settings, "inputs": record.inputs}
    out = artifacts.begin(run.stage_folder(stage.name), identity, resume)
    if run.hosts:
        run.hosts.agree(_number(run, stage))
    return out, record


def _context(run: Run, stage: Stage, out: Path) -> Context[Any]:
    settings = run.recipe.only(stage.settings)
    return Context(settings, run.dataset, run.data_dir, run.inputs(stage), out, run.hosts)


def _module(stage: Stage) -> Any:
    """Import the module of a stage, which imports TensorFlow."""
    with console.quiet_native_logs():
        return importlib.import_module(f"keras_lenet.stages.{stage.name}")


def _commit(run: Run, stage: Stage, out: Path, record: Record) -> None:
    """Complete the record of a stage, and put the working folder in its place."""
    if run.input_digests(stage) != record.inputs:
        raise Error(
            f"{stage.name}: the files that it reads were changed while it ran; run the same "
            "command again"
        )
    started = datetime.datetime.fromisoformat(record.started)
    seconds = (datetime.datetime.now(datetime.UTC) - started).total_seconds()
    record = replace(record, outputs=artifacts.hash_files(out), seconds=round(seconds, 1))
    record.write(out)
    folder = run.stage_folder(stage.name)
    artifacts.commit(folder)
    console.say(f"{stage.name}: done in {seconds:.0f} s, in {folder}")


def _follow(run: Run, hosts: cluster.Cluster) -> Run:
    """Train together with the chief of the hosts until the chief has nothing left to train.

    This host reads the chief's working folder from the shared runs folder, and writes nothing
    there. It refuses to train from another recipe or other data than the chief's.
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
    """Return a nonzero hash of a stage's settings and inputs: 24 bits, as a float32 holds."""
    what = json.dumps([stage.name, run.settings(stage), run.input_digests(stage)])
    return int(artifacts.digest(what.encode())[:6], 16) or 1


def _obtain_data(run: Run, stages: list[Stage], force: bool) -> Run:
    """Download the missing data of `stages`; return the run, with its fallback if it fell back.

    Raises:
        Error: the data cannot be had, and the recipe has no fallback, or the run has a model that
            may have been trained on the real data.
    """
    wanted, fallback = run.recipe.data.dataset, run.recipe.data.fallback
    if force and any(stage.name == "train" for stage in stages):
        run = replace(run, dataset=wanted)  # later stages use the data that the model learnt from
    splits = {split for stage in stages for split in stage.splits}
    here = all(catalogue.is_here(run.dataset, split, run.data_dir) for split in splits)
    if not here and run.dataset in catalogue.DATASETS:
        from keras_lenet.data import download  # imports requests, which few runs need

        name, cache = run.dataset, catalogue.cache_dir()
        console.say(f"{name} is not on this machine: downloading it to {cache}")
        try:
            download.download(name)
        except Error as error:
            trained = run.stage_folder("train")
            record = Record.read(trained)
            fell_back = record is not None and record.dataset == fallback
            if fallback is None or (trained.exists() and not fell_back):
                places = ", ".join(str(root / name) for root in (run.data_dir, cache) if root)
                raise Error(
                    f"{name} cannot be had. Looked in {places}; then {error}. Ways out: connect "
                    f"to the network; put the IDX files in FOLDER/{name} and give --data-dir "
                    f"FOLDER; or use another dataset, --set data.dataset={catalogue.DIGITS} "
                    "--set name=NEW"
                ) from error
            console.say(f"{name}: {error}")
            run = replace(run, dataset=fallback)
    if run.dataset != wanted:
        console.say(
            f"WARNING: {wanted} could not be had. Using {run.dataset} instead: every figure of "
            f"this run is for {run.dataset}, not for {wanted}. To try again: --force",
            style="bold red",
        )
    return run


def run_seeds(recipe: Recipe, count: int, runs: Path, data_dir: Path | None) -> list[Finished]:
    """Run the recipe with `count` seeds, from its own seed upwards, each in its own folder."""
    finished = []
    for seed in range(recipe.seed, recipe.seed + count):
        seeded = recipe.model_copy(update={"seed": seed, "name": f"{recipe.name}-seed{seed}"})
        run = run_recipe(seeded, runs=runs, data_dir=data_dir)
        record = Record.of_finished(run.stage_folder("quantize"))
        metrics = Metrics.read(run.stage_folder("evaluate"))
        folders = {name: run.stage_folder(name) for name in STAGES}
        accuracy = record.summary["validation_accuracy"]
        finished.append(Finished(seeded, folders, metrics, accuracy))
    return finished
