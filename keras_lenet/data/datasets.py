"""Where each dataset comes from, found or downloaded, and verified before it is used."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from keras_lenet.artifacts import digest, lock, replacing, sha256
from keras_lenet.data import idx, shards
from keras_lenet.errors import Error

if TYPE_CHECKING:  # NumPy is slow to import, and telling datasets apart takes none
    import numpy as np
    from numpy.typing import NDArray

Split = Literal["train", "test"]


@dataclass(frozen=True)
class Images:
    """Images with their labels.

    Attributes:
        images: uint8, (N, 28, 28), 0 = background, 255 = ink; or in shards.
        labels: uint8, (N,), 0 to 9.
    """

    images: shards.Pixels
    labels: NDArray[np.uint8]


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


def load(name: str, split: Split, data_dir: Path | None = None) -> Images:
    """Read one split of a dataset that is on this machine.

    Args:
        name: a key of `DATASETS`, "digits", or a folder with files named as MNIST's, or with
            uncompressed shards of them: `train-images-idx3-ubyte-00000-of-00012` and so on, and
            labels in as many. Of shards all headers are checked and the labels read, no image.
        split: "train" or "test".
        data_dir: folder that holds `<dataset>/<file>[.gz]`; looked in before the user's cache.

    Raises:
        Error: the dataset is unknown or not here, or a file is damaged, is not the published one,
            or doesn't hold 28×28 images with one label of 0 to 9 each; or shards don't pair up.
    """
    if name == DIGITS:
        return _digits(split)
    if pairs := _shards(name, split):
        return _from_shards(pairs)
    dataset = find(name)
    images_file, labels_file = dataset.files(split)
    paths = {file: locate(name, file, data_dir) for file in (images_file, labels_file)}
    images_path, labels_path = paths[images_file], paths[labels_file]
    if images_path is None or labels_path is None:
        missing = next(file for file, path in paths.items() if path is None)
        raise Error(_not_here(name, missing, data_dir))
    images = _read(images_path, images_file, 3)
    labels = _read(labels_path, labels_file, 1)
    _check(images.shape, labels, images_path, labels_path)
    return Images(images.transpose(0, 2, 1) if dataset.transposed else images, labels)


def _shards(name: str, split: Split) -> list[tuple[Path, Path]]:
    """The shards of images and of labels of a split in the folder `name`; none if it's whole.

    Raises:
        Error: they don't pair up, or there is also a whole file.
    """
    if name in DATASETS:
        return []
    files = find(name).files(split)
    images, labels = (shards.find(Path(name), file.name) for file in files)
    if len(images) != len(labels):
        raise Error(
            f"{name}: {len(images)} shards of {files[0].name}, but {len(labels)} of "
            f"{files[1].name}; they pair up by number"
        )
    whole = [path for file in files if (path := locate(name, file, None))]
    if images and whole:
        raise Error(f"{whole[0]}: beside shards of the same split; remove one or the other")
    return list(zip(images, labels, strict=True))


def _from_shards(pairs: list[tuple[Path, Path]]) -> Images:
    import numpy as np

    labels, counts = [], []
    for images_path, labels_path in pairs:
        shape = idx.shape(images_path, 3)
        labels.append(idx.read(labels_path, 1))
        _check(shape, labels[-1], images_path, labels_path)
        counts.append(shape[0])
    paths, starts = tuple(path for path, _ in pairs), np.cumsum([0, *counts[:-1]])
    return Images(shards.Shards(paths, starts, np.arange(sum(counts))), np.concatenate(labels))


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
    """Whether both files of a split, or their shards, are on this machine (not yet verified)."""
    if name == DIGITS or _shards(name, split):
        return True
    return all(locate(name, file, data_dir) for file in find(name).files(split))


def identity(name: str, split: Split, data_dir: Path | None) -> str:
    """A string that stands for a split's content in stage records.

    The published digests where they are what is verified, so that nothing need be read; else the
    digest of the files' bytes.
    """
    if name == DIGITS:
        return _DIGITS_SHA256[split]
    if pairs := _shards(name, split):
        return digest(" ".join(_sha256_once(path) for pair in pairs for path in pair).encode())
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


def obtain(name: str, split: Split, data_dir: Path | None = None) -> None:
    """Download a dataset, unless it is here, or none of the known ones.

    Raises:
        Error: as `download`.
    """
    if name in DATASETS and not is_here(name, split, data_dir):
        download(name)


def download(name: str) -> None:
    """Fetch the files of a dataset that the cache lacks, each verified before it counts.

    Raises:
        Error: no mirror can be reached, or none serves the published bytes. What the cache held
            before is untouched.
    """
    from keras_lenet.data import network  # slow to import, and seldom needed

    dataset, folder = find(name), cache_dir() / name
    files = [*dataset.images.values(), *dataset.labels.values()]
    with lock(folder, wait=True):  # another process may be fetching the same
        missing = [file for file in files if locate(name, file, None) is None]
        if not missing:
            return
        if dataset.archive:
            _download_archive(dataset.archive, missing, folder)
            return
        mirrors = network.reachable([f"{mirror}{missing[0].name}.gz" for mirror in dataset.mirrors])
        for file in missing:
            urls = [url.rpartition("/")[0] + f"/{file.name}.gz" for url in mirrors]
            path = folder / f"{file.name}.gz"
            network.download(urls, path, functools.partial(_verified, file=file))


def _not_here(name: str, missing: File, data_dir: Path | None) -> str:
    roots = [str(root / name) for root in (data_dir, cache_dir()) if root is not None]
    where = " and ".join(roots) if name in DATASETS else name
    if missing.gz_sha256:
        return (
            f"{name}: {missing.name}.gz is not in {where}; an uncompressed copy does not count, "
            "since no digest of it is published"
        )
    return f"{name}: {missing.name}[.gz] is not in {where}"


def _read(path: Path, file: File, dims: int) -> NDArray[np.uint8]:
    """Read a file's array, once it is known to be the published one."""
    array = idx.parse(_verified(path, file), dims, path)
    if file.count is not None and len(array) != file.count:
        what = "images" if dims == 3 else "labels"
        raise Error(
            f"{path}: expected the {file.count:,} {what} that are published, found "
            f"{len(array):,}; delete it and fetch it again"
        )
    return array


def _verified(path: Path, file: File) -> bytes:
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


def _download_archive(archive: Archive, files: list[File], folder: Path) -> None:
    from keras_lenet.data import network

    def verify(path: Path) -> None:
        if sha256(path) != archive.sha256:
            raise Error("its checksum is not the published one")

    whole = folder / ".archive.zip"
    if not whole.exists():  # else a process was killed while it unpacked
        network.download(network.reachable(list(archive.urls)), whole, verify)
    with zipfile.ZipFile(whole) as members:
        for file in files:
            with (
                members.open(f"{archive.folder}{file.name}.gz") as source,
                replacing(folder / f"{file.name}.gz") as temporary,
                temporary.open("wb") as target,
            ):
                shutil.copyfileobj(source, target)
    whole.unlink()


def _digits(split: Split) -> Images:
    """The UCI digits, enlarged as MNIST is made: a 20×20 digit in the middle of 28×28.

    Every fifth image is a test image. Integer arithmetic, so the bytes are the same everywhere.
    """
    import numpy as np
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
    import numpy as np

    weights = np.zeros((20, 8), np.int64)
    for row in range(20):
        low, tenths = divmod(4 * row - 3, 10)  # (row + 0.5) / 2.5 - 0.5, in tenths
        weights[row, max(low, 0)] += 10 - tenths
        weights[row, min(low + 1, 7)] += tenths
    return weights
