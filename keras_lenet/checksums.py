"""The SHA-256 of every file of a folder that is handed out, and whether they are still right.

`SHA256SUMS` is in the format of `sha256sum`, which checks it as well: `sha256sum -c SHA256SUMS`.
Folders from before there was one have the hashes of their .tflite files, in `manifest.json`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from keras_lenet import artifacts
from keras_lenet.errors import Error

SUMS, MANIFEST = "SHA256SUMS", "manifest.json"
MAX_BYTES = 16 << 20
"""Larger lists are not read."""

_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")


@dataclass(frozen=True)
class Verified:
    """What `verify` found to be right.

    Attributes:
        covered: the files whose hashes are as listed, by name.
        uncovered: those that no list names: nothing is known of them.
    """

    covered: tuple[str, ...]
    uncovered: tuple[str, ...]


def write(folder: Path) -> None:
    """Write `SHA256SUMS` of every other file below `folder`."""
    digests = artifacts.hash_files(folder)
    digests.pop(SUMS, None)
    lines = (f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    artifacts.write_bytes(folder / SUMS, "".join(lines).encode())


def verify(folder: Path) -> Verified:
    """Hold every file of a folder against the hashes that come with it.

    Raises:
        Error: there are none, or they can't be read; a file is missing or has another hash, of
            which every one is named.
    """
    if not folder.is_dir():
        raise Error(f"{folder}: not a folder; expected one with {SUMS} or {MANIFEST}")
    listed = _listed(folder)
    found = _digests(folder)
    missing = [name for name, _ in listed if name not in found]
    changed = [name for name, digest in listed if name in found and found[name] != digest]
    problems = [
        *(f"{name} is missing" for name in dict.fromkeys(missing)),
        *(f"{name} was changed" for name in dict.fromkeys(changed)),
    ]
    if problems:
        raise Error(f"{folder}: {'; '.join(problems)}; fetch the folder again")
    covered = {name for name, _ in listed}
    # The list itself is what the others are held against.
    return Verified(tuple(sorted(covered)), tuple(sorted(set(found) - covered - {SUMS})))


def _digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): artifacts.sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _listed(folder: Path) -> list[tuple[str, str]]:
    """Name and digest of each file, as the folder's own lists have it."""
    if not ((folder / SUMS).is_file() or (folder / MANIFEST).is_file()):
        raise Error(f"{folder}: neither {SUMS} nor {MANIFEST} in it; nothing to verify it by")
    listed = []
    if (folder / SUMS).is_file():
        for line in _text(folder / SUMS).splitlines():
            match = _LINE.fullmatch(line)
            if match is None:
                raise Error(
                    f"{folder / SUMS}: expected lines of a SHA-256 and a name, got {line!r:.80}"
                )
            listed.append((match[2], match[1]))
    if (folder / MANIFEST).is_file():
        try:
            files = json.loads(_text(folder / MANIFEST))["files"]
            listed += [(name, file["sha256"]) for name, file in files.items()]
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise Error(f"{folder / MANIFEST}: damaged: no `files` with `sha256` in it") from error
    for name, _ in listed:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise Error(f"{folder}: its list names {name!r:.80}, which lies outside of it")
    if not listed:
        raise Error(f"{folder}: its lists name no file; nothing to verify it by")
    return listed


def _text(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise Error(f"{path}: larger than {MAX_BYTES:,} bytes, which no list is")
    return content.decode(errors="replace")
