"""Images that stay on the disk: a split's numbered IDX files, read as they are indexed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, Union

from keras_lenet.errors import Error

if TYPE_CHECKING:  # slow to import, and telling datasets apart takes none
    import numpy as np
    from numpy.typing import NDArray

_HEADER, _IMAGE = 16, 28 * 28


@dataclass(frozen=True)
class Shards:
    """Images in files, indexed by slices and positions as an array is, and read each time.

    Read, not mapped: no page of them counts as this process's memory, and a file cut short
    underneath is an error instead of a crash.

    Attributes:
        paths: uncompressed IDX files of 28×28 images.
        starts: int64, (files,): how many images come before each file's.
        positions: int64, (N,): which of all their images these are.
    """

    paths: tuple[Path, ...]
    starts: NDArray[np.int64]
    positions: NDArray[np.int64]

    def __len__(self) -> int:
        """How many images these are."""
        return len(self.positions)

    def __getitem__(self, key: int | slice | NDArray[np.int64]) -> NDArray[np.uint8]:
        """Read images: uint8, (28, 28) or (n, 28, 28).

        Raises:
            Error: a file can't be read, or has become shorter.
        """
        import numpy as np

        wanted = np.asarray(self.positions[key])
        places, images = wanted.ravel(), np.empty((wanted.size, 28, 28), np.uint8)
        files = np.searchsorted(self.starts, places, side="right") - 1
        for number in np.unique(files):
            self._read(number, np.flatnonzero(files == number), places, images)
        return images.reshape(*wanted.shape, 28, 28)

    def _read(
        self,
        number: int,
        mine: NDArray[np.int64],
        places: NDArray[np.int64],
        images: NDArray[np.uint8],
    ) -> None:
        """Fill `images[mine]` from one file."""
        path = self.paths[number]
        offsets = _HEADER + _IMAGE * (places[mine] - self.starts[number])
        try:
            with path.open("rb", buffering=0) as file:
                for place, offset in zip(mine.tolist(), offsets.tolist(), strict=True):
                    file.seek(offset)
                    if file.readinto(images[place]) != _IMAGE:
                        raise Error(f"{path}: has become shorter while it was in use")
        except OSError as error:
            raise Error(f"{path}: cannot be read ({error.strerror or error})") from error


Pixels: TypeAlias = Union["NDArray[np.uint8]", Shards]
"""Images in memory, uint8 (N, 28, 28), or in files."""


def find(folder: Path, name: str) -> tuple[Path, ...]:
    """The shards of a file in their order, `NAME-00000-of-00012` and so on; () if it has none.

    Raises:
        Error: one is missing, or is none of them.
    """
    found = {path.name for path in folder.iterdir() if path.name.startswith(f"{name}-")}
    if not found:
        return ()
    pattern = re.compile(re.escape(name) + r"-\d{5}-of-(\d{5})")
    totals = [int(match[1]) for path in sorted(found) if (match := pattern.fullmatch(path))]
    expected = [
        f"{name}-{number:05}-of-{total:05}" for total in totals[:1] for number in range(total)
    ]
    for path in sorted(found ^ set(expected)):
        what = "no shard" if path in found else "missing"
        raise Error(
            f"{folder / path}: {what}; expected uncompressed {name}-00000-of-N to the last of N"
        )
    return tuple(folder / path for path in expected)
