"""The stages of a run. `run(context)` of each module writes files and returns a summary."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic

from keras_lenet.errors import Error
from keras_lenet.recipe import (
    DistillSettings,
    EvaluateSettings,
    ExportSettings,
    QuantizeSettings,
    Recipe,
    S,
    TrainSettings,
)

if TYPE_CHECKING:
    from keras_lenet.data.catalogue import Split
    from keras_lenet.data.loading import Examples, TeacherLogits
    from keras_lenet.training.cluster import Cluster


@dataclass(frozen=True)
class Stage:
    """Stage, and everything that decides its result.

    Attributes:
        name: name of its module in `keras_lenet.stages` and of its folder.
        settings: the only settings that the stage is given.
        inputs: earlier stages whose files it reads.
        splits: splits of the dataset that it reads.
        optional: only recipes with a section of this name have the stage, and runs of all seeds
            share its result, because the run's seed is not among its settings.
        trains: the stage runs on several hosts and on any backend of Keras; other stages need one
            host and TensorFlow.
    """

    name: str
    settings: type[DistillSettings]
    inputs: tuple[str, ...] = ()
    splits: tuple[Split, ...] = ()
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
class Context(Generic[S]):
    """Settings, inputs and folder of a stage.

    Attributes:
        settings: sections of the recipe that decide the stage's result.
        dataset: the dataset really used: the recipe's, or its fallback.
        data_dir: folder of datasets, searched before the user's cache.
        inputs: the finished folder of each earlier stage, by its name.
        out: folder to write into, with the files of an interrupted attempt.
        cluster: the hosts that train together, if there are several.
    """

    settings: S
    dataset: str
    data_dir: Path | None
    inputs: dict[str, Path]
    out: Path
    cluster: Cluster | None = None

    def splits(self, batch_size: int) -> tuple[Examples, Examples]:
        """Read the training and the validation examples.

        Raises:
            Error: the data cannot be had, or has fewer training images than one batch.
        """
        from keras_lenet.data import loading  # slow to import; up-to-date stages need no data

        data = self.settings.data
        training, validation = loading.load_training(
            self.dataset, self.data_dir, data.validation_split, seed=0
        )
        if batch_size > len(training):
            raise Error(
                f"batch_size = {batch_size}: {self.dataset} has only {len(training)} training "
                "images; choose a smaller batch"
            )
        return training, validation

    def teacher_logits(self) -> TeacherLogits | None:
        """Read the teacher logits, if the recipe has a distill stage."""
        from keras_lenet.data import loading

        distill = self.settings.distill
        if distill is None:
            return None
        return loading.TeacherLogits.read(self.inputs["distill"], distill.seed, distill.rounds)
