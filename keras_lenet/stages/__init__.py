"""The stages of a run. Each module has one `run(context)`: files in, files out, a summary back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_lenet.cluster import Cluster
    from keras_lenet.recipe import Recipe


@dataclass(frozen=True)
class Context:
    """What a stage is given.

    Attributes:
        recipe: the resolved recipe.
        dataset: the dataset really used: the recipe's, or its fallback.
        data_dir: where to look for datasets before the user's cache.
        inputs: the finished folder of each earlier stage, by its name.
        out: the folder to write into; what an interrupted attempt left is still in it.
        cluster: the hosts that train together, if there are several.
        settings: the resolved settings that decide the stage's result, and the only ones that it
            may record: any other may change without the stage running again.
    """

    recipe: Recipe
    dataset: str
    data_dir: Path | None
    inputs: dict[str, Path]
    out: Path
    cluster: Cluster | None = None
    settings: dict[str, Any] = field(default_factory=dict)
