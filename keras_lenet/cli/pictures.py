"""Classify picture files one after the other, for `keras-lenet classify`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from keras_lenet.artifacts import digest, replacing
from keras_lenet.edge.classifier import Answer, Classifier
from keras_lenet.edge.prepare import load
from keras_lenet.errors import Error

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"}

_NAME_BYTES = 200  # of a source's name; file systems allow 255 for the name made of it


def classify(
    classifier: Classifier, paths: Iterable[Path]
) -> Iterator[tuple[Path, Answer | Error]]:
    """Yield each picture file, also those in folders, with its answer or its error."""
    for path in paths:
        try:
            files = find(path)
        except Error as error:
            yield path, error
            continue
        for file in files:
            try:
                yield file, classifier.classify(load(file))
            except Error as error:
                yield file, error


def find(path: Path) -> list[Path]:
    """Return the path itself, or a folder's pictures by name.

    Raises:
        Error: it is a folder without pictures, or one that can't be read.
    """
    if not os.path.isdir(path):  # Path.is_dir raises for a name that is too long
        return [path]
    try:
        found = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
    except OSError as error:
        raise Error(f"{path}: cannot be read ({error.strerror})") from error
    if not found:
        known = ", ".join(sorted(SUFFIXES))
        raise Error(f"{path}: a folder without pictures; expected files ending in {known}")
    return found


def in_words(path: Path, answer: Answer) -> str:
    """Return the answer as one line."""
    if answer.digit is None:
        return f"{path}: {'; '.join(answer.prepared.notes)}"
    unclear = "" if answer.accepted else "no digit, or none that is clear: at best "
    first = f"{answer.digit} ({answer.confidence:.1%})"
    return f"{path}: {unclear}{first}, then {answer.second} ({answer.second_confidence:.1%})"


def as_dict(path: Path, answer: Answer) -> dict[str, Any]:
    """Return the answer, and how the picture was prepared, for JSON."""
    return {
        "file": str(path),
        "digit": answer.digit,
        "confidence": round(answer.confidence, 4),
        "second": answer.second,
        "second_confidence": round(answer.second_confidence, 4),
        "accepted": answer.accepted,
        "polarity": answer.prepared.polarity,
        "box": answer.prepared.box,
        "notes": answer.prepared.notes,
    }


def write_seen(path: Path, answer: Answer, folder: Path) -> Path:
    """Write the 28×28 picture that the model saw as PNG.

    Returns:
        The PNG's path. Its name has the source's name, and a hash of the source's whole path, so
        that no two sources share it.

    Raises:
        OSError: the folder can't be written to.
    """
    name = os.fsencode(path.name)[:_NAME_BYTES].decode(errors="ignore")
    target = folder / f"{name}-{digest(os.fsencode(path))[:8]}-seen.png"
    with replacing(target) as temporary:
        Image.fromarray(answer.prepared.image).save(temporary)
    return target
