"""The datasets: what each is, where its files lie or come from, and what they are verified by."""

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
    """One published file, and what it is verified by.

    Attributes:
        name: of the uncompressed file.
        sha256: digest of the decompressed bytes.
        gz_sha256: digest of the .gz, where no other is known. An uncompressed copy can't be
            verified, so it does not count as the file.
        count: number of images or labels, where no digest is known.
    """

    name: str
    sha256: str | None = None
    gz_sha256: str | None = None
    count: int | None = None

    @property
    def is_published(self) -> bool:
        """Whether its bytes, or their number, are known."""
        return bool(self.sha256 or self.gz_sha256 or self.count)

    @property
    def endings(self) -> tuple[str, ...]:
        """What a verifiable copy's name may have after `name`."""
        return (".gz",) if self.gz_sha256 else ("", ".gz")


@dataclass(frozen=True)
class Archive:
    """A zip file that holds the dataset's files, and their folder inside it."""

    urls: tuple[str, ...]
    sha256: str
    folder: str


NUMERALS = tuple("0123456789")
"""The classes of a dataset of digits."""
HANDWRITTEN = "handwritten digits"


@dataclass(frozen=True)
class Dataset:
    """A dataset of 28×28 images in ten classes, published as IDX files."""

    title: str
    images: dict[Split, File]
    labels: dict[Split, File]
    classes: tuple[str, ...] = NUMERALS
    """What they are called, in the order of the labels; ASCII, since C and labels.txt have them."""
    shows: str = HANDWRITTEN
    mirrors: tuple[str, ...] = ()
    archive: Archive | None = None
    transposed: bool = False

    def files(self, split: Split) -> tuple[File, File]:
        """The images file and the labels file of one split."""
        return self.images[split], self.labels[split]


# Digests of the .gz files and of the EMNIST archive: tensorflow/datasets, url_checksums/.
# Fashion-MNIST's are of what its .gz files decompress to, once they have the digests given there.
DATASETS: dict[str, Dataset] = {
    "mnist": Dataset(
        "MNIST, handwritten digits: 60,000 + 10,000",
        images={
            "train": File(
                "train-images-idx3-ubyte",
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            ),
            "test": File(
                "t10k-images-idx3-ubyte",
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            ),
        },
        labels={
            "train": File(
                "train-labels-idx1-ubyte",
                "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            ),
            "test": File(
                "t10k-labels-idx1-ubyte",
                "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            ),
        },
        mirrors=(
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
        ),
    ),
    "fashion_mnist": Dataset(
        "Fashion-MNIST, clothing: 60,000 + 10,000",
        images={
            "train": File(
                "train-images-idx3-ubyte",
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            ),
            "test": File(
                "t10k-images-idx3-ubyte",
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            ),
        },
        labels={
            "train": File(
                "train-labels-idx1-ubyte",
                "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            ),
            "test": File(
                "t10k-labels-idx1-ubyte",
                "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            ),
        },
        classes=(
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
        shows="clothing",
        mirrors=(
            "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        ),
    ),
    "kmnist": Dataset(
        "Kuzushiji-MNIST, cursive hiragana: 60,000 + 10,000",
        images={
            "train": File(
                "train-images-idx3-ubyte",
                gz_sha256="51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
            ),
            "test": File(
                "t10k-images-idx3-ubyte",
                gz_sha256="edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
            ),
        },
        labels={
            "train": File(
                "train-labels-idx1-ubyte",
                gz_sha256="e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
            ),
            "test": File(
                "t10k-labels-idx1-ubyte",
                gz_sha256="20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
            ),
        },
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
        images={
            "train": File("emnist-digits-train-images-idx3-ubyte", count=240_000),
            "test": File("emnist-digits-test-images-idx3-ubyte", count=40_000),
        },
        labels={
            "train": File("emnist-digits-train-labels-idx1-ubyte", count=240_000),
            "test": File("emnist-digits-test-labels-idx1-ubyte", count=40_000),
        },
        archive=Archive(
            urls=(
                "https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip",
                "https://www.itl.nist.gov/iaui/vip/cs_links/EMNIST/gzip.zip",
            ),
            sha256="fb9bb67e33772a9cc0b895e4ecf36d2cf35be8b709693c3564cea2a019fcda8e",
            folder="gzip/",
        ),
        # NIST stores the images column by column (Cohen et al. 2017 follow the MATLAB order).
        transposed=True,
    ),
}

DIGITS = "digits"
DIGITS_TITLE = "UCI digits from scikit-learn, 8×8 enlarged to 28×28: 1,438 + 359"
_DIGITS_SHA256: dict[Split, str] = {
    "train": "302e0d29999ad152a39d80bc8dc6d70a85fd66beefd85bf2f161141e9690f707",
    "test": "ba8a51fc6c695ad63b03fee54787256f2ebd36886cd761c706d75b42dca97e0e",
}
"""Of the bytes of the images, then of the labels."""


def find(name: str) -> Dataset:
    """The dataset called `name`, or that in the folder `name`.

    Raises:
        Error: there is neither.
    """
    if name in DATASETS:
        return DATASETS[name]
    if Path(name).is_dir():
        mnist = DATASETS["mnist"]
        return Dataset(
            f"IDX files in {name}",
            images={split: File(file.name) for split, file in mnist.images.items()},
            labels={split: File(file.name) for split, file in mnist.labels.items()},
        )
    known = ", ".join([*DATASETS, DIGITS])
    raise Error(f"unknown dataset {name!r}: expected one of {known}, or a folder of IDX files")


def classes(name: str) -> tuple[str, ...]:
    """What the ten classes of a dataset are called; of a folder, which doesn't say, their numbers.

    Raises:
        Error: there is no such dataset.
    """
    return NUMERALS if name == DIGITS else find(name).classes


def shows(name: str) -> str:
    """What a dataset's images show, in words; of a folder that is taken for digits.

    Raises:
        Error: there is no such dataset.
    """
    return HANDWRITTEN if name == DIGITS else find(name).shows


def locate(name: str, file: File, data_dir: Path | None) -> Path | None:
    """Where a file of a dataset lies on this machine, or None."""
    if name in DATASETS:
        folders = [root / name for root in (data_dir, cache_dir()) if root is not None]
    else:
        folders = [Path(name)]
    candidates = (folder / f"{file.name}{end}" for folder in folders for end in file.endings)
    return next((path for path in candidates if path.is_file()), None)


def is_here(name: str, split: Split, data_dir: Path | None) -> bool:
    """Whether both files of a split are on this machine (not yet verified)."""
    if name == DIGITS:
        return True
    return all(locate(name, file, data_dir) for file in find(name).files(split))


def identity(name: str, split: Split, data_dir: Path | None) -> str:
    """A string that stands for a split's content in stage records.

    The published digests where they are what is verified, so that nothing need be read; else the
    digest of the files' bytes.
    """
    if name == DIGITS:
        return _DIGITS_SHA256[split]
    files = find(name).files(split)
    return " ".join(_file_identity(file, locate(name, file, data_dir)) for file in files)


def _sha256_once(path: Path) -> str:
    """The digest of a file, which is read again only if it has changed: it may be gigabytes."""
    state = path.stat()
    return _sha256_of(path, state.st_size, state.st_mtime_ns)


@functools.cache
def _sha256_of(path: Path, size: int, changed: int) -> str:
    return sha256(path)


def _file_identity(file: File, path: Path | None) -> str:
    if file.sha256:
        return file.sha256
    if file.gz_sha256:
        return f"gz:{file.gz_sha256}"
    return _sha256_once(path) if path else "missing"


def listing(data_dir: Path | None) -> list[tuple[str, str, bool, str]]:
    """Name, title, whether it is here, and where it is or would come from, of every dataset."""
    rows = []
    for name, dataset in DATASETS.items():
        files = [
            file for split in (dataset.files("train"), dataset.files("test")) for file in split
        ]
        found = [path for file in files if (path := locate(name, file, data_dir))]
        sources = dataset.archive.urls if dataset.archive else dataset.mirrors
        here = len(found) == len(files)
        rows.append((name, dataset.title, here, str(found[0].parent) if here else sources[0]))
    installed = importlib.util.find_spec("sklearn") is not None
    return [*rows, (DIGITS, DIGITS_TITLE, installed, "inside scikit-learn")]


def cache_dir() -> Path:
    """The folder downloads are kept in: `keras_lenet` in the user's cache."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "keras_lenet"
