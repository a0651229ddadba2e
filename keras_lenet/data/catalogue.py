"""Datasets: their files, the places of these files, and the digests that verify them."""

from __future__ import annotations

import functools
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from keras_lenet.artifacts import sha256
from keras_lenet.errors import Error

Split = Literal["train", "test"]


@dataclass(frozen=True)
class File:
    """A published file.

    Attributes:
        name: of the uncompressed file.
        sha256: digest of the decompressed bytes, if it is known.
        gz_sha256: digest of the .gz, if no other is known: an uncompressed copy cannot be verified
            and does not count as the file.
        count: number of images or labels, if no digest is known.
    """

    name: str
    sha256: str | None = None
    gz_sha256: str | None = None
    count: int | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of copies that can be verified."""
        packed = f"{self.name}.gz"
        return (packed,) if self.gz_sha256 else (self.name, packed)


NUMERALS = tuple("0123456789")
"""Classes of a dataset of digits."""
Files = dict[Split, tuple[File, File]]
"""Images file and labels file of each split."""


@dataclass(frozen=True)
class Dataset:
    """A dataset of 28×28 images in ten classes, published as IDX files.

    Attributes:
        classes: their names, in the order of the labels; ASCII, since C and labels.txt hold them.
        shows: what the images show, in words.
        mirrors: URLs of folders with the files, or of zip files with the files in `gzip/`.
        zip_sha256: digest of the zip file, where `mirrors` are zip files.
        transposed: the images are stored column by column.
    """

    title: str
    files: Files
    classes: tuple[str, ...] = NUMERALS
    shows: str = "handwritten digits"
    mirrors: tuple[str, ...] = ()
    zip_sha256: str | None = None
    transposed: bool = False

    @property
    def all_files(self) -> list[File]:
        """Return the files of all splits."""
        return [file for pair in self.files.values() for file in pair]


def _by_split(*files: File) -> Files:
    """Sort four files, in the order of `MNIST_NAMES`, by split."""
    train_images, train_labels, test_images, test_labels = files
    return {"train": (train_images, train_labels), "test": (test_images, test_labels)}


MNIST_NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)

# Source of the digests of .gz files and of the EMNIST archive: tensorflow/datasets, url_checksums/.
# Fashion-MNIST's digests were computed from .gz files that match the digests given there.
_MNIST = (
    "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
)
_FASHION_MNIST = (
    "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
)
_KMNIST_GZ = (
    "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
    "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
    "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
    "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
)
_CLOTHES = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"

DATASETS: dict[str, Dataset] = {
    "mnist": Dataset(
        "MNIST, handwritten digits: 60,000 + 10,000",
        _by_split(*map(File, MNIST_NAMES, _MNIST)),
        mirrors=(
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
        ),
    ),
    "fashion_mnist": Dataset(
        "Fashion-MNIST, clothing: 60,000 + 10,000",
        _by_split(*map(File, MNIST_NAMES, _FASHION_MNIST)),
        classes=tuple(_CLOTHES.split(",")),
        shows="clothing",
        mirrors=(
            "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        ),
    ),
    "kmnist": Dataset(
        "Kuzushiji-MNIST, cursive hiragana: 60,000 + 10,000",
        _by_split(*map(File, MNIST_NAMES, (None,) * 4, _KMNIST_GZ)),
        # お, き, す, つ, な, は, ま, や, れ, を
        classes=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
        shows="cursive hiragana",
        mirrors=(
            "https://codh.rois.ac.jp/kmnist/dataset/kmnist/",
            "http://codh.rois.ac.jp/kmnist/dataset/kmnist/",
        ),
    ),
    "emnist_digits": Dataset(
        "EMNIST digits, handwritten digits: 240,000 + 40,000",
        _by_split(
            File("emnist-digits-train-images-idx3-ubyte", count=240_000),
            File("emnist-digits-train-labels-idx1-ubyte", count=240_000),
            File("emnist-digits-test-images-idx3-ubyte", count=40_000),
            File("emnist-digits-test-labels-idx1-ubyte", count=40_000),
        ),
        mirrors=(
            "https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip",
            "https://www.itl.nist.gov/iaui/vip/cs_links/EMNIST/gzip.zip",
        ),
        zip_sha256="fb9bb67e33772a9cc0b895e4ecf36d2cf35be8b709693c3564cea2a019fcda8e",
        # NIST stores the images column by column (Cohen et al. 2017 follow the MATLAB order).
        transposed=True,
    ),
}

DIGITS = "digits"
_DIGITS = Dataset("UCI digits from scikit-learn, 8×8 enlarged to 28×28: 1,438 + 359", {})
_DIGITS_SHA256: dict[Split, str] = {
    "train": "302e0d29999ad152a39d80bc8dc6d70a85fd66beefd85bf2f161141e9690f707",
    "test": "ba8a51fc6c695ad63b03fee54787256f2ebd36886cd761c706d75b42dca97e0e",
}
"""Digests of the images' bytes, followed by the labels'."""


def find(name: str) -> Dataset:
    """Return the dataset called `name`, or the dataset in the folder `name`.

    Raises:
        Error: there is neither.
    """
    if name == DIGITS:
        return _DIGITS
    if name in DATASETS:
        return DATASETS[name]
    if Path(name).is_dir():
        return Dataset(f"IDX files in {name}", _by_split(*map(File, MNIST_NAMES)))
    known = ", ".join([*DATASETS, DIGITS])
    raise Error(f"unknown dataset {name!r}: expected one of {known}, or a folder of IDX files")


def classes(name: str) -> tuple[str, ...]:
    """Return the names of a dataset's ten classes; a folder's are numerals."""
    return find(name).classes


def shows(name: str) -> str:
    """Return in words what a dataset's images show; a folder's show handwritten digits."""
    return find(name).shows


def locate(name: str, file: File, data_dir: Path | None) -> Path | None:
    """Return the first copy of a dataset's file on this machine, or None."""
    paths = (folder / each for folder in folders(name, data_dir) for each in file.names)
    return next((path for path in paths if path.is_file()), None)


def folders(name: str, data_dir: Path | None) -> list[Path]:
    """Return the folders in which a dataset's files are looked for, in this order."""
    if name not in DATASETS:
        return [Path(name)]
    return [root / name for root in (data_dir, cache_dir()) if root is not None]


def is_here(name: str, split: Split, data_dir: Path | None) -> bool:
    """Return whether both files of a split are on this machine (not yet verified)."""
    if name == DIGITS:
        return True
    return all(locate(name, file, data_dir) for file in find(name).files[split])


def identity(name: str, split: Split, data_dir: Path | None) -> str:
    """Return a string that stands for a split's content in stage records.

    A published digest stands for a file, without reading the file. Other files are hashed.
    """
    if name == DIGITS:
        return _DIGITS_SHA256[split]

    def of(file: File) -> str:
        if file.sha256 or file.gz_sha256:
            return file.sha256 or f"gz:{file.gz_sha256}"
        path = locate(name, file, data_dir)
        return _cached_sha256(path, path.stat().st_mtime_ns) if path else "missing"

    return " ".join(map(of, find(name).files[split]))


@functools.cache
def _cached_sha256(path: Path, changed: int) -> str:
    return sha256(path)


def listing(data_dir: Path | None) -> list[tuple[str, str, bool, str]]:
    """Return every dataset's name, title, presence on this machine, and place or first mirror."""
    rows = []
    for name, dataset in DATASETS.items():
        found = [locate(name, file, data_dir) for file in dataset.all_files]
        here = None not in found
        where = str(found[0].parent) if found[0] and here else dataset.mirrors[0]
        rows.append((name, dataset.title, here, where))
    installed = importlib.util.find_spec("sklearn") is not None
    return [*rows, (DIGITS, _DIGITS.title, installed, "inside scikit-learn")]


def cache_dir() -> Path:
    """Return the folder of downloads: `keras_lenet` in the user's cache."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "keras_lenet"
