"""Files of a run: atomic writes, SHA-256, the stage record and the run folder's lock."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from keras_lenet.errors import Error

if TYPE_CHECKING:
    from pydantic import TypeAdapter

RECORD = "stage.json"
IDENTITY = "identity.json"
SUMS = "SHA256SUMS"
CHECKPOINT = "checkpoint.npz"
"""The state from which an unfinished fit resumes; deleted once the result is in its place."""
HISTORY = "history.csv"
"""A fit's figures, a line an epoch."""
TEMPORARY = ".writing-"
"""Prefix of half-written files and folders."""
SCHEMA: Final = 1
DECISIVE = (
    "keras-lenet tensorflow keras tf-keras tensorflow-model-optimization ai-edge-litert numpy "
    "scikit-learn tflite-micro ethos-u-vela"
)
"""The packages whose versions decide results."""


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(data: bytes) -> str:
    """Return the SHA-256 of `data`, as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that decide results."""
    from importlib import metadata  # slow, and only records need it

    found = {"python": platform.python_version()}
    for package in DECISIVE.split():
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` once its bytes are on the disk.

    On an exception the temporary file is deleted and `path` keeps its content. A missing folder is
    made, but its parent must exist: a missing parent means that the run was deleted.
    """
    path.parent.mkdir(exist_ok=True)
    # The suffix stays last, because Keras and matplotlib choose the format by it.
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=TEMPORARY, suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        sync(temporary)
        temporary.chmod(0o644)  # mkstemp makes it private
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Flush a file's bytes, or the names in a folder, to the disk."""
    if sys.platform == "win32" and path.is_dir():
        return  # Windows opens no folders; the journal of its file system has their names
    # Windows flushes only files that are open for writing.
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, all of it or nothing."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` as indented JSON, all of it or nothing."""
    text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False)
    write_bytes(path, f"{text}\n".encode())


@dataclass(frozen=True)
class Record:
    """Record that a finished stage leaves beside its files (`stage.json`).

    `settings` and `inputs` decide whether the stage is up to date.

    Attributes:
        settings: the sections of the resolved recipe that this stage and earlier stages declare.
        inputs: SHA-256 of every file that the stage reads.
        outputs: SHA-256 of every file that the stage wrote, by path relative to its folder.
        seed: the seed of the run; None if runs of all seeds share the result.
    """

    stage: str
    settings: dict[str, Any]
    inputs: dict[str, str]
    outputs: dict[str, str]
    dataset: str
    seed: int | None
    versions: dict[str, str]
    started: str
    seconds: float
    summary: dict[str, Any]
    schema: Literal[1] = SCHEMA

    __pydantic_config__: ClassVar = {"strict": True, "extra": "forbid"}

    def write(self, folder: Path) -> None:
        """Write the record into `folder`."""
        write_json(folder / RECORD, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Record | None:
        """Return the record in `folder`; None if it is missing, damaged or of another schema."""
        try:
            return _form().validate_json((folder / RECORD).read_bytes())
        except (OSError, ValueError):
            return None

    @classmethod
    def of_finished(cls, folder: Path) -> Record:
        """Return the record in the folder of a finished stage.

        Raises:
            Error: the record is missing, damaged, or of another schema.
        """
        record = cls.read(folder)
        if record is None:
            raise Error(f"{folder}: its record cannot be read; run the stage again")
        return record


@functools.cache
def _form() -> TypeAdapter[Record]:
    from pydantic import TypeAdapter  # the base install lacks it, and reads no records

    return TypeAdapter(Record)


def hash_files(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below `folder`, by relative path with `/`.

    Leave out the folder's own record and identity, and checkpoints.
    """
    described = {folder / name for name in (RECORD, IDENTITY)}
    return {
        path.relative_to(folder).as_posix(): sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path not in described and path.name != CHECKPOINT
    }


def write_sums(folder: Path) -> None:
    """Write the SHA-256 of every other file below `folder`, for `sha256sum -c SHA256SUMS`."""
    digests = hash_files(folder)
    digests.pop(SUMS, None)  # of an earlier call
    lines = (f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    write_bytes(folder / SUMS, "".join(lines).encode())


def damaged(folder: Path, expected: dict[str, str]) -> str | None:
    """Return the first file of `expected` that is missing in `folder` or has other bytes."""
    for name, digest in expected.items():
        path = folder / name
        if not path.is_file() or sha256(path) != digest:
            return name
    return None


def replaceable(folder: Path, marker: str) -> Path:
    """Return `folder` resolved, if it is new, empty, or contains our file `marker`.

    Raises:
        Error: the folder has other content, which would be lost.
    """
    folder = folder.resolve()
    if folder.exists() and any(folder.iterdir()) and not (folder / marker).exists():
        raise Error(
            f"{folder} holds something else: it has no {marker}; name an empty or a new folder"
        )
    return folder


def begin(folder: Path, identity: dict[str, Any], resume: bool = True) -> Path:
    """Return the working folder in which the next version of `folder` is made.

    Keep the files of an interrupted attempt with the same `identity`, so that the stage can resume,
    unless `resume` is false.
    """
    partial = _beside(folder, "partial")
    marker = partial / IDENTITY
    wanted = json.loads(json.dumps(identity))
    try:
        same = resume and json.loads(marker.read_text(encoding="utf-8")) == wanted
    except (OSError, ValueError):
        same = False
    for unfinished in list(partial.rglob(f"{TEMPORARY}*")):
        if unfinished.is_dir():
            shutil.rmtree(unfinished)
        else:
            unfinished.unlink(missing_ok=True)  # it may have gone with its folder
    if not same:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write_json(marker, wanted)
    return partial


def copy_partial(folder: Path, scratch: Path) -> Path:
    """Copy the working folder that another process uses for `folder`; return the copy."""
    ignored = shutil.ignore_patterns(f"{TEMPORARY}*")  # the other process is writing them
    return Path(shutil.copytree(_beside(folder, "partial"), scratch / folder.name, ignore=ignored))


def commit(folder: Path) -> None:
    """Replace `folder` by its finished working folder; at any moment one of the two exists.

    Delete the checkpoints last, so that a kill or a power failure at any moment loses no epoch.
    """
    recover(folder)
    partial = _beside(folder, "partial")
    if not (partial / IDENTITY).exists():
        raise Error(
            f"{partial} was deleted while it was written to, and with it a part of the result; run "
            "the same command again"
        )
    for path in [*partial.rglob("*"), partial]:
        sync(path)
    if folder.exists():
        folder.rename(_beside(folder, "previous"))
    partial.rename(folder)
    sync(folder.parent)
    _tidy(folder)


def recover(folder: Path) -> None:
    """Complete a `commit` during which a process was killed."""
    previous = _beside(folder, "previous")
    if previous.exists() and not folder.exists():
        previous.rename(folder)
    _tidy(folder)


def _tidy(folder: Path) -> None:
    """Delete a finished folder's previous version, its identity and its checkpoints."""
    shutil.rmtree(_beside(folder, "previous"), ignore_errors=True)
    for path in [folder / IDENTITY, *folder.rglob(CHECKPOINT)]:
        path.unlink(missing_ok=True)


def _beside(folder: Path, kind: Literal["partial", "previous"]) -> Path:
    return folder.with_name(f".{folder.name}.{kind}")


@contextlib.contextmanager
def replacement(folder: Path) -> Iterator[Path]:
    """Lock `folder` and yield an empty working folder; at the end, replace `folder` by it.

    Raises:
        Error: another process is replacing `folder`.
    """
    lock_file = folder.with_name(f".{folder.name}.locked")
    with _locked(lock_file, folder, wait=False):
        try:
            yield begin(folder, {}, resume=False)
            commit(folder)
        finally:
            # FileLock does not lock an unlinked file, so a process that has opened it tries again.
            # Windows cannot delete an open file; it stays there.
            with contextlib.suppress(PermissionError):
                lock_file.unlink(missing_ok=True)


@contextlib.contextmanager
def lock(folder: Path, wait: bool = False) -> Iterator[None]:
    """Lock `folder` for this process, and make it if needed.

    Raises:
        Error: another process uses the folder, and `wait` is false.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / ".lock", folder, wait):
        yield


@contextlib.contextmanager
def _locked(lock_file: Path, folder: Path, wait: bool) -> Iterator[None]:
    from filelock import FileLock, Timeout  # slow to import, and only writers need it

    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            raise Error(
                f"{folder} is in use by another process; wait for it, or use another folder"
            ) from None
        from keras_lenet import console  # slow to import, and seldom needed

        console.say(f"waiting for another process, which uses {folder}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()  # the system releases the lock of a killed process
