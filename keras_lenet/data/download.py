"""Download of datasets that are not on this machine."""

from __future__ import annotations

import functools
import logging
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import pooch
import requests

from keras_lenet import artifacts, console
from keras_lenet.data import catalogue, reading
from keras_lenet.errors import Error

if TYPE_CHECKING:
    from rich.progress import Progress

TIMEOUT = 5.0, 20.0
"""Seconds until a mirror answers, and between two pieces of its answer."""
RETRIES = 2
"""Further attempts at each mirror."""

pooch.get_logger().setLevel(logging.WARNING)


def obtain(name: str, split: catalogue.Split, data_dir: Path | None = None) -> None:
    """Download a known dataset unless it is here.

    Raises:
        Error: as `download`.
    """
    if name in catalogue.DATASETS and not catalogue.is_here(name, split, data_dir):
        download(name)


def download(name: str) -> None:
    """Fetch the files of a dataset that the cache lacks; verify each before it counts.

    Raises:
        Error: no mirror serves the published bytes. The cache's files are then untouched.
    """
    dataset, folder = catalogue.find(name), catalogue.cache_dir() / name
    with artifacts.lock(folder, wait=True):  # another process may be fetching the same
        for leftover in folder.glob(f"{artifacts.TEMPORARY}*"):  # of a process that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        missing = [one for one in dataset.all_files if not catalogue.locate(name, one, None)]
        if missing and dataset.zip_sha256:
            _download_zip(dataset, missing, folder)
            return
        for file in missing:
            urls = [f"{mirror}{file.name}.gz" for mirror in dataset.mirrors]
            fetch(urls, folder / f"{file.name}.gz", functools.partial(reading.verified, file=file))


def _download_zip(dataset: catalogue.Dataset, missing: list[catalogue.File], folder: Path) -> None:
    def verify(path: Path) -> None:
        if artifacts.sha256(path) != dataset.zip_sha256:
            raise Error("its checksum is not the published one")

    with tempfile.TemporaryDirectory(dir=folder, prefix=artifacts.TEMPORARY) as scratch:
        whole = Path(scratch) / "archive.zip"
        fetch(dataset.mirrors, whole, verify)
        with zipfile.ZipFile(whole) as members:
            for file in missing:
                packed = f"{file.name}.gz"
                artifacts.write_bytes(folder / packed, members.read(f"gzip/{packed}"))


def fetch(urls: Iterable[str], path: Path, verify: Callable[[Path], object]) -> None:
    """Download `path` from the first of `urls` whose bytes pass `verify`.

    Raises:
        Error: there is none; `path` is then untouched.
        OSError: the disk is full or read-only.
    """
    problems = []
    for url in urls:
        with (
            tempfile.TemporaryDirectory(dir=path.parent, prefix=artifacts.TEMPORARY) as scratch,
            console.progress(of_bytes=True) as progress,
        ):
            bar = _Bar(progress, path.name)
            try:
                found = pooch.create(
                    scratch,
                    url,
                    registry={path.name: None},
                    urls={path.name: url},
                    retry_if_failed=RETRIES,
                ).fetch(path.name, downloader=pooch.HTTPDownloader(bar, 1 << 16, timeout=TIMEOUT))
                verify(Path(found))
            except (requests.RequestException, ValueError, Error) as error:
                problems.append(f"{url} ({error})")
                continue
            artifacts.sync(Path(found))
            Path(found).replace(path)
            artifacts.sync(path.parent)
            return
    raise Error(f"{path.name} could not be downloaded: " + "; ".join(problems))


class _Bar:
    """A Rich progress bar with the interface of tqdm, which pooch expects."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress, self._task = progress, progress.add_task(f"Downloading {name}", total=None)
        self.total = 0

    def update(self, count: int) -> None:
        self._progress.update(self._task, total=self.total or None, advance=count)

    def reset(self) -> None:
        self._progress.reset(self._task)

    def close(self) -> None:
        self._progress.stop_task(self._task)
