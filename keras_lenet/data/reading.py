"""A split's images and labels, read from files that are verified first."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from keras_lenet.artifacts import sha256
from keras_lenet.data import catalogue, idx
from keras_lenet.data.catalogue import File, Split
from keras_lenet.errors import Error


@dataclass(frozen=True)
class Images:
    """Images with their labels.

    Attributes:
        images: uint8, (N, 28, 28), 0 = background, 255 = ink; of an uncompressed file that
            has no published digest, mapped.
        labels: uint8, (N,), 0 to 9.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]


def load(name: str, split: Split, data_dir: Path | None = None) -> Images:
    """Read one split of a dataset that is on this machine.

    Args:
        name: a key of `catalogue.DATASETS`, "digits", or a folder with files named as MNIST's, of
            any size where they are not compressed.
        split: "train" or "test".
        data_dir: folder that holds `<dataset>/<file>[.gz]`; looked in before the user's cache.

    Raises:
        Error: the dataset is unknown or not here, or a file is damaged, is not the published one,
            or doesn't hold 28×28 images with one label of 0 to 9 each.
    """
    if name == catalogue.DIGITS:
        return _digits(split)
    dataset = catalogue.find(name)
    images_file, labels_file = dataset.files(split)
    paths = {file: catalogue.locate(name, file, data_dir) for file in (images_file, labels_file)}
    images_path, labels_path = paths[images_file], paths[labels_file]
    if images_path is None or labels_path is None:
        missing = next(file for file, path in paths.items() if path is None)
        raise Error(_not_here(name, missing, data_dir))
    images = _read(images_path, images_file, 3)
    labels = _read(labels_path, labels_file, 1)
    _check(images.shape, labels, images_path, labels_path)
    return Images(images.transpose(0, 2, 1) if dataset.transposed else images, labels)


def _not_here(name: str, missing: File, data_dir: Path | None) -> str:
    roots = [str(root / name) for root in (data_dir, catalogue.cache_dir()) if root is not None]
    where = " and ".join(roots) if name in catalogue.DATASETS else name
    if missing.gz_sha256:
        return (
            f"{name}: {missing.name}.gz is not in {where}; an uncompressed copy does not count, "
            "since no digest of it is published"
        )
    return f"{name}: {missing.name}[.gz] is not in {where}"


def _read(path: Path, file: File, dims: int) -> NDArray[np.uint8]:
    """Read a file's array, once it is known to be the published one, if there is one."""
    if file.is_published:
        array = idx.parse(verified(path, file), dims, path)
    else:
        array = idx.read(path, dims)
    if file.count is not None and len(array) != file.count:
        what = "images" if dims == 3 else "labels"
        raise Error(
            f"{path}: expected the {file.count:,} {what} that are published, found "
            f"{len(array):,}; delete it and fetch it again"
        )
    return array


def verified(path: Path, file: File) -> bytes:
    """Return the file's decompressed bytes, whose digest is the published one where there is one.

    Raises:
        Error: the file can't be read, or has another digest.
    """
    content = idx.read_bytes(path)
    if file.sha256 is not None:
        expected, found = file.sha256, hashlib.sha256(content).hexdigest()
    elif file.gz_sha256 is not None:
        expected, found = file.gz_sha256, sha256(path)
    else:
        return content
    if found != expected:
        raise Error(
            f"{path}: checksum mismatch: expected sha256 {expected[:16]}…, found {found[:16]}…; "
            "delete it and fetch it again"
        )
    return content


def _check(
    shape: tuple[int, ...], labels: NDArray[np.uint8], images_path: Path, labels_path: Path
) -> None:
    if shape[0] != len(labels):
        raise Error(
            f"{images_path} holds {shape[0]} images but {labels_path} {len(labels)} labels; "
            "they must be of one length"
        )
    if shape[1:] != (28, 28) or not shape[0]:
        found = "×".join(map(str, shape))
        raise Error(f"{images_path}: expected one or more 28×28 images, found {found}")
    if labels.max() > 9:
        raise Error(f"{labels_path}: expected labels 0 to 9, found {labels.max()}")


def _digits(split: Split) -> Images:
    """The UCI digits, enlarged as MNIST is made: a 20×20 digit in the middle of 28×28.

    Every fifth image is a test image. Integer arithmetic, so the bytes are the same everywhere.
    """
    from sklearn.datasets import load_digits  # slow to import, and seldom needed

    small, labels = load_digits(return_X_y=True)
    weights = _enlarging_weights()  # (20, 8), tenths
    large = weights @ small.reshape(-1, 8, 8).astype(np.int64) @ weights.T  # (N, 20, 20), 0…1600
    images = np.zeros((len(large), 28, 28), np.uint8)
    images[:, 4:24, 4:24] = (large * 255 + 800) // 1600
    chosen = (np.arange(len(images)) % 5 == 4) == (split == "test")
    return Images(images[chosen], labels[chosen].astype(np.uint8))


def _enlarging_weights() -> NDArray[np.int64]:
    """Bilinear interpolation from 8 to 20 samples with half-pixel centres, in tenths: (20, 8)."""
    weights = np.zeros((20, 8), np.int64)
    for row in range(20):
        low, tenths = divmod(4 * row - 3, 10)  # (row + 0.5) / 2.5 - 0.5, in tenths
        weights[row, max(low, 0)] += 10 - tenths
        weights[row, min(low + 1, 7)] += tenths
    return weights
