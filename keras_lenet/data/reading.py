"""A split's images and labels, read from verified IDX files.

Format: http://yann.lecun.com/exdb/mnist/, section "The IDX file format". A header of two zero
bytes, a type code, the number of dimensions and one big-endian uint32 a dimension; then the data
in C order. Only uint8 (type code 0x08) is read, the type of all these datasets.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from keras_lenet.artifacts import sha256
from keras_lenet.data import catalogue
from keras_lenet.data.catalogue import File, Split
from keras_lenet.errors import Error

MAX_BYTES = 1 << 30
"""Largest content that is read into memory: four times the largest of the datasets."""

_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True)
class Images:
    """Images, (N, 28, 28), 0 = background, 255 = ink, and labels, (N,), 0 to 9.

    Images are memory-mapped if their file is neither compressed nor published.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]


def load(name: str, split: Split, data_dir: Path | None = None) -> Images:
    """Read one split of a dataset that is on this machine.

    Args:
        name: a key of `catalogue.DATASETS`, "digits", or a folder with files named as MNIST's.
        split: "train" or "test".
        data_dir: folder that holds `<dataset>/<file>[.gz]`; it comes before the user's cache.

    Raises:
        Error: the dataset is unknown or not here, or a file is damaged, is not the published file,
            or doesn't hold 28×28 images with one label of 0 to 9 each.
    """
    if name == catalogue.DIGITS:
        return _digits(split)
    dataset = catalogue.find(name)
    paths, arrays = [], []
    for file, dims in zip(dataset.files[split], (3, 1), strict=True):
        path = catalogue.locate(name, file, data_dir)
        if path is None:
            where = " and ".join(map(str, catalogue.folders(name, data_dir)))
            raise Error(f"{name}: {' or '.join(file.names)} is not in {where}")
        paths.append(path)
        arrays.append(_read_verified(path, file, dims))
    images, labels = arrays
    if len(images) != len(labels):
        raise Error(
            f"{paths[0]} holds {len(images)} images but {paths[1]} {len(labels)} labels; "
            "expected one label an image"
        )
    if images.shape[1:] != (28, 28):
        found = "×".join(map(str, images.shape))
        raise Error(f"{paths[0]}: expected 28×28 images, found {found}")
    if labels.max() > 9:
        raise Error(f"{paths[1]}: expected labels 0 to 9, found {labels.max()}")
    return Images(images.transpose(0, 2, 1) if dataset.transposed else images, labels)


def _read_verified(path: Path, file: File, dims: int) -> NDArray[np.uint8]:
    if file == File(file.name):  # not published
        return read(path, dims)
    array = parse(verified(path, file), dims, path)
    if file.count not in (None, len(array)):
        raise Error(f"{path}: expected {file.count:,} items, found {len(array):,}; fetch it again")
    return array


def verified(path: Path, file: File) -> bytes:
    """Return the file's decompressed bytes, once their published digest, if any, is verified.

    Raises:
        Error: the file can't be read, or has another digest.
    """
    content = read_bytes(path)
    expected = file.sha256 or file.gz_sha256
    found = hashlib.sha256(content).hexdigest() if file.sha256 else sha256(path)
    if expected not in (None, found):
        raise Error(
            f"{path}: checksum mismatch: expected sha256 {expected[:16]}…, found {found[:16]}…; "
            "delete it and fetch it again"
        )
    return content


def read(path: Path, dims: int) -> NDArray[np.uint8]:
    """Read an IDX file of 3 (images) or 1 (labels) dimensions; map it if it is not compressed.

    A mapped file may be larger than memory: its pages are read as they are indexed.

    Raises:
        Error: as `read_bytes` and `parse`.
    """
    try:
        with path.open("rb") as file:
            header = file.read(4 + 4 * dims)
        if header[:2] == _GZIP_MAGIC:
            return parse(read_bytes(path), dims, path)
        shape = _declared_shape(header, path.stat().st_size, dims, path)
        return np.memmap(path, np.uint8, "r", len(header), shape)
    except OSError as error:
        raise Error(f"{path}: cannot be read ({error.strerror or error})") from error


def read_bytes(path: Path) -> bytes:
    """Return the file's content, decompressed if it is gzip.

    Raises:
        Error: the file can't be read, is damaged gzip, or holds more than `MAX_BYTES`.
    """
    try:
        with path.open("rb") as raw:
            compressed = raw.read(2) == _GZIP_MAGIC
            raw.seek(0)
            file = gzip.GzipFile(fileobj=raw) if compressed else raw
            content = file.read(MAX_BYTES + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise Error(f"{path}: damaged gzip file ({error}); fetch it again") from error
    except OSError as error:
        raise Error(f"{path}: cannot be read ({error.strerror or error})") from error
    if len(content) > MAX_BYTES:
        raise Error(f"{path}: larger than {MAX_BYTES} bytes; no dataset here is that large")
    return content


def parse(content: bytes, dims: int, source: object = "IDX data") -> NDArray[np.uint8]:
    """Decode the bytes of an uncompressed IDX file to a read-only array over `content`.

    Raises:
        Error: `content`, named `source`, isn't IDX of uint8 with `dims` dimensions, has no data,
            or has another length than its header declares.
    """
    start = 4 + 4 * dims
    shape = _declared_shape(content[:start], len(content), dims, source)
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _declared_shape(header: bytes, size: int, dims: int, source: object) -> tuple[int, ...]:
    """Return the shape in an IDX header; raise Error unless a file of `size` bytes holds it."""
    magic, start = bytes([0, 0, 0x08, dims]), 4 + 4 * dims
    if header[:4] != magic or len(header) < start:
        raise Error(
            f"{source}: not an IDX file of uint8 with {dims} dimension{'s' * (dims > 1)}: expected "
            f"a header of {start} bytes that begins with {magic.hex()}, found "
            f"{header.hex() or 'nothing'}"
        )
    shape = struct.unpack(f">{dims}I", header[4:])
    expected, found = math.prod(shape), size - start
    if found != expected or not expected:
        declared = "×".join(map(str, shape))
        raise Error(
            f"{source}: truncated, empty or too long: its header declares {declared} = {expected} "
            f"bytes of data, it holds {found}"
        )
    return shape


def _digits(split: Split) -> Images:
    """Return the UCI digits, enlarged to 20×20 in the middle of 28×28, as in MNIST.

    Every fifth image is a test image. Integer arithmetic gives the same bytes everywhere.
    """
    from sklearn.datasets import load_digits  # slow to import, and seldom needed

    small, labels = load_digits(return_X_y=True)
    # Bilinear interpolation from 8 to 20 samples with half-pixel centres. Sample k lies at
    # (k + 0.5) / 2.5 - 0.5; places and weights are in tenths.
    places = np.clip(4 * np.arange(20) - 3, 0, 70)
    weights = np.maximum(10 - np.abs(places[:, np.newaxis] - 10 * np.arange(8)), 0)  # (20, 8)
    large = weights @ small.reshape(-1, 8, 8).astype(np.int64) @ weights.T  # (N, 20, 20), 0…1600
    images = np.zeros((len(large), 28, 28), np.uint8)
    images[:, 4:24, 4:24] = (large * 255 + 800) // 1600
    chosen = (np.arange(len(images)) % 5 == 4) == (split == "test")
    return Images(images[chosen], labels[chosen].astype(np.uint8))
