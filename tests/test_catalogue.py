import gzip
import hashlib
import http.server
import threading
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pooch
import pytest
from conftest import draw_digits, write_dataset

from keras_lenet import artifacts
from keras_lenet.artifacts import sha256
from keras_lenet.data import catalogue, download, idx, reading
from keras_lenet.errors import Error


def test_synthetic_files_are_found_in_a_folder(synthetic):
    data = reading.load(str(synthetic), "train")
    images, labels = draw_digits(400, 1)
    np.testing.assert_array_equal(data.images, images)
    np.testing.assert_array_equal(data.labels, labels)
    assert len(reading.load(str(synthetic), "test").images) == 100


def labels_file(labels: list[int]) -> bytes:
    return bytes([0, 0, 8, 1]) + len(labels).to_bytes(4, "big") + bytes(labels)


def images_file(count: int, side: int) -> bytes:
    shape = b"".join(number.to_bytes(4, "big") for number in (count, side, side))
    return bytes([0, 0, 8, 3]) + shape + bytes(count * side * side)


@pytest.mark.parametrize("split", ["train", "test"])
def test_uncompressed_files_are_mapped(synthetic, mapped, split):
    packed, found = reading.load(str(synthetic), split), reading.load(str(mapped), split)
    assert isinstance(found.images, np.memmap)
    assert not isinstance(packed.images, np.memmap)
    np.testing.assert_array_equal(found.images, packed.images)
    np.testing.assert_array_equal(found.labels, packed.labels)
    assert catalogue.is_here(str(mapped), split, None)


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.mark.mnist
def test_the_real_mnist_is_verified(mnist_dir):
    for split, count in (("train", 60_000), ("test", 10_000)):
        data = reading.load("mnist", split, mnist_dir)
        assert data.images.shape == (count, 28, 28)
        assert data.labels.shape == (count,)
    assert data.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]


@pytest.mark.parametrize("split", ["train", "test"])
def test_digits_have_the_bytes_they_are_known_by(split):
    data = reading.load("digits", split)
    content = data.images.tobytes() + data.labels.tobytes()
    assert hashlib.sha256(content).hexdigest() == catalogue.identity("digits", split, None)
    assert not data.images[:, :4].any()
    assert data.images.max() == 255


def test_digits_are_enlarged_bilinearly():
    weights = reading._enlarging_weights()
    assert (weights.sum(1) == 10).all()
    # Between half-pixel centres a ramp stays a ramp: sample k lies at (k + 0.5) / 2.5 - 0.5.
    ramp = weights @ np.arange(8) / 10
    np.testing.assert_allclose(ramp[1:-1], (np.arange(1, 19) + 0.5) / 2.5 - 0.5)


def emnist(folder: Path, monkeypatch, count: int = 20) -> np.ndarray:
    """Write `count` images as EMNIST is published, and expect so many; returns them upright."""
    dataset = catalogue.DATASETS["emnist_digits"]
    images, labels = draw_digits(count, 0)
    known = {}
    for kind, array in (("images", images.transpose(0, 2, 1)), ("labels", labels)):
        files = getattr(dataset, kind)
        for file in files.values():
            idx.write(folder / f"{file.name}.gz", array)
        known[kind] = {split: replace(file, count=count) for split, file in files.items()}
    monkeypatch.setitem(catalogue.DATASETS, "emnist_digits", replace(dataset, **known))
    return images


@pytest.mark.parametrize("split", ["train", "test"])
def test_emnist_is_turned_upright(tmp_path, monkeypatch, split):
    upright = emnist(tmp_path / "emnist_digits", monkeypatch)
    loaded = reading.load("emnist_digits", split, tmp_path)
    np.testing.assert_array_equal(loaded.images, upright)


@pytest.mark.parametrize("kind", ["images", "labels"])
def test_emnist_has_the_published_number_of_images_and_of_labels(tmp_path, monkeypatch, kind):
    emnist(tmp_path / "emnist_digits", monkeypatch)
    dataset = catalogue.DATASETS["emnist_digits"]
    files = {split: replace(file, count=1234) for split, file in getattr(dataset, kind).items()}
    monkeypatch.setitem(catalogue.DATASETS, "emnist_digits", replace(dataset, **{kind: files}))
    complaint = f"{files['test'].name}.gz: expected the 1,234 {kind} that are published, found 20;"
    with pytest.raises(Error, match=complaint):
        reading.load("emnist_digits", "test", tmp_path)


def test_every_dataset_names_its_ten_classes():
    names = {name: catalogue.classes(name) for name in (*catalogue.DATASETS, "digits")}
    assert names["mnist"] == names["emnist_digits"] == names["digits"] == tuple("0123456789")
    assert names["fashion_mnist"][0] == "T-shirt/top"
    assert names["fashion_mnist"][9] == "Ankle boot"
    assert names["kmnist"] == ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
    for classes in names.values():
        assert len(set(classes)) == 10
        assert all(name.isascii() and name.isprintable() for name in classes)


def test_a_folder_has_numbers_for_classes(synthetic):
    assert catalogue.classes(str(synthetic)) == tuple("0123456789")
    with pytest.raises(Error, match="unknown dataset 'mnits'"):
        catalogue.classes("mnits")


def test_every_dataset_says_what_it_shows(synthetic):
    shown = {
        name: catalogue.shows(name) for name in (*catalogue.DATASETS, "digits", str(synthetic))
    }
    assert shown.pop("fashion_mnist") == "clothing"
    assert shown.pop("kmnist") == "cursive hiragana"
    assert set(shown.values()) == {"handwritten digits"}


MNIST_DIGEST, FASHION_DIGEST = "ba891046e6505d7a", "c59f468a2f672dc8"


@pytest.mark.parametrize(
    ("name", "ending", "complaint"),
    [
        ("mnist", "", f"checksum mismatch: expected sha256 {MNIST_DIGEST}…, found"),
        ("mnist", ".gz", f"checksum mismatch: expected sha256 {MNIST_DIGEST}…, found"),
        ("fashion_mnist", "", f"checksum mismatch: expected sha256 {FASHION_DIGEST}…, found"),
        ("fashion_mnist", ".gz", f"checksum mismatch: expected sha256 {FASHION_DIGEST}…, found"),
        (
            "kmnist",
            "",
            r"images-idx3-ubyte\.gz is not in .* uncompressed copy does not count",
        ),
        ("kmnist", ".gz", "checksum mismatch: expected sha256 51467d22d8cc7292…, found"),
        ("emnist_digits", "", "expected the 240,000 images that are published, found 50"),
        ("emnist_digits", ".gz", "expected the 240,000 images that are published, found 50"),
    ],
)
def test_other_images_under_a_published_name_are_refused(tmp_path, name, ending, complaint):
    images = np.random.default_rng(0).integers(0, 256, (50, 28, 28), np.uint8)
    labels = (np.arange(50) % 10).astype(np.uint8)
    files = catalogue.DATASETS[name].files("train")
    for file, array in zip(files, (images, labels), strict=True):
        idx.write(tmp_path / name / f"{file.name}{ending}", array)
    with pytest.raises(Error, match=complaint):
        reading.load(name, "train", tmp_path)


def test_labels_are_verified_as_images_are(published, tmp_path):
    download.download("tiny")
    reading.load("tiny", "train")
    path = catalogue.locate("tiny", catalogue.DATASETS["tiny"].labels["train"], None)
    idx.write(path, np.zeros(20, np.uint8))
    with pytest.raises(Error, match=f"{path}: checksum mismatch"):
        reading.load("tiny", "train")


def test_compression_does_not_matter_where_the_content_has_a_digest(published):
    folder, _ = published
    for path in folder.glob("*.gz"):
        content = gzip.decompress(path.read_bytes())
        idx_path = catalogue.cache_dir() / "tiny" / path.stem
        idx_path.parent.mkdir(parents=True, exist_ok=True)
        idx_path.write_bytes(content)
    assert len(reading.load("tiny", "train").images) == 20


def test_a_dataset_known_by_its_gz_alone_is_read_from_that_alone(published, monkeypatch):
    """From no other compression of the same content, and from no uncompressed copy."""
    folder, _ = published
    tiny = catalogue.DATASETS["tiny"]

    def known(files):
        return {
            split: catalogue.File(file.name, gz_sha256=sha256(folder / f"{file.name}.gz"))
            for split, file in files.items()
        }

    known_by_gz = replace(tiny, images=known(tiny.images), labels=known(tiny.labels))
    monkeypatch.setitem(catalogue.DATASETS, "tiny", known_by_gz)
    download.download("tiny")
    images = reading.load("tiny", "test").images
    path = catalogue.locate("tiny", known_by_gz.images["test"], None)
    content = gzip.decompress(path.read_bytes())
    path.with_suffix("").write_bytes(b"not looked at")
    np.testing.assert_array_equal(reading.load("tiny", "test").images, images)
    path.write_bytes(gzip.compress(content, 1, mtime=0))
    with pytest.raises(Error, match=f"{path}: checksum mismatch"):
        reading.load("tiny", "test")
    path.unlink()
    path.with_suffix("").write_bytes(content)
    assert not catalogue.is_here("tiny", "test", None)


def test_a_split_is_identified_by_its_published_digests_whether_it_is_here_or_not(tmp_path):
    train = (
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db "
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"
    )
    test = (
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7 "
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"
    )
    assert catalogue.identity("mnist", "train", tmp_path) == train
    assert catalogue.identity("mnist", "test", tmp_path) == test
    assert catalogue.identity("kmnist", "test", tmp_path) == (
        "gz:edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5 "
        "gz:20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c"
    )
    assert catalogue.identity("emnist_digits", "test", tmp_path) == "missing missing"


def test_a_folder_is_identified_by_its_bytes(tmp_path):
    write_dataset(tmp_path, 20, 20)
    images, labels = tmp_path / f"{IMAGES}.gz", tmp_path / LABELS
    assert catalogue.identity(str(tmp_path), "train", None) == f"{sha256(images)} {sha256(labels)}"
    labels.write_bytes(labels_file([9] * 21))
    assert catalogue.identity(str(tmp_path), "train", None) == f"{sha256(images)} {sha256(labels)}"


def test_the_given_folder_comes_before_the_cache_and_uncompressed_before_gz(tmp_path):
    file = catalogue.DATASETS["mnist"].images["train"]
    ours, cached = tmp_path / "mnist" / IMAGES, catalogue.cache_dir() / "mnist" / IMAGES
    order = [ours, ours.with_suffix(".gz"), cached, cached.with_suffix(".gz")]
    for path in order:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for path in order:
        assert catalogue.locate("mnist", file, tmp_path) == path
        path.unlink()
    assert catalogue.locate("mnist", file, tmp_path) is None


def test_downloads_are_cached_where_the_user_says_or_below_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert catalogue.cache_dir() == tmp_path / "keras_lenet"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert catalogue.cache_dir() == tmp_path / ".cache" / "keras_lenet"


def test_only_what_is_known_and_missing_is_downloaded(tmp_path, monkeypatch):
    downloaded = []
    monkeypatch.setattr(download, "download", downloaded.append)
    write_dataset(tmp_path / "mnist", 20, 20)
    download.obtain("mnist", "train", tmp_path)
    download.obtain("digits", "train", tmp_path)
    download.obtain(str(tmp_path / "elsewhere"), "train", tmp_path)
    assert downloaded == []
    (tmp_path / "mnist" / "t10k-labels-idx1-ubyte").unlink()
    download.obtain("mnist", "train", tmp_path)
    assert downloaded == []
    download.obtain("mnist", "test", tmp_path)
    assert downloaded == ["mnist"]


def damaged(folder: Path, name: str, content: bytes) -> str:
    write_dataset(folder, 20, 20)
    for path in folder.glob(f"{name}*"):
        path.unlink()
    (folder / name).write_bytes(content)
    return str(folder)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("train-labels-idx1-ubyte", labels_file([1, 2, 3]), "20 images but .* 3 labels"),
        ("train-labels-idx1-ubyte", labels_file([10] * 20), "labels 0 to 9, found 10"),
        ("train-images-idx3-ubyte", images_file(20, 32), "28×28 images, found 20×32×32"),
        ("train-images-idx3-ubyte", images_file(20, 28)[:-5], "truncated"),
        ("train-images-idx3-ubyte", gzip.compress(images_file(20, 28))[:-5], "damaged gzip"),
        ("train-images-idx3-ubyte", b"<html>404</html>", "not an IDX file"),
    ],
    ids=["three labels", "a label of 10", "too large", "cut short", "gzip cut short", "no IDX"],
)
def test_damaged_files_are_refused(tmp_path, name, content, complaint):
    with pytest.raises(Error, match=complaint):
        reading.load(damaged(tmp_path, name, content), "train")


def test_unknown_and_missing_datasets_are_named(tmp_path):
    with pytest.raises(Error, match="unknown dataset 'mnits': expected one of mnist, fashion"):
        reading.load("mnits", "train")
    cache = catalogue.cache_dir()

    def complaint(name, data_dir):
        with pytest.raises(Error) as raised:
            reading.load(name, "train", data_dir)
        return str(raised.value)

    missing = "train-images-idx3-ubyte[.gz] is not in"
    assert complaint("mnist", tmp_path) == f"mnist: {missing} {tmp_path}/mnist and {cache}/mnist"
    assert complaint("mnist", None) == f"mnist: {missing} {cache}/mnist"
    assert complaint(str(tmp_path), None) == f"{tmp_path}: {missing} {tmp_path}"
    assert complaint("kmnist", None) == (
        f"kmnist: train-images-idx3-ubyte.gz is not in {cache}/kmnist; an uncompressed copy does "
        "not count, since no digest of it is published"
    )
    write_dataset(tmp_path / "mnist", 20, 20)
    (tmp_path / "mnist" / LABELS).unlink()
    assert complaint("mnist", tmp_path).startswith(f"mnist: {LABELS}[.gz] is not in")


class Server:
    """Serves a folder on the loopback interface."""

    def __init__(self, folder: Path):
        handler = partial(QuietHandler, directory=str(folder))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A dataset `tiny`, and a mirror that serves it: (folder, url)."""
    monkeypatch.setattr(pooch.core.time, "sleep", lambda seconds: None)
    folder = tmp_path / "published"
    write_dataset(folder, 20, 20)
    for path in folder.glob("*-ubyte"):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
        path.unlink()
    mnist = catalogue.DATASETS["mnist"]

    def known(files):
        return {
            split: catalogue.File(
                file.name,
                hashlib.sha256(
                    gzip.decompress((folder / f"{file.name}.gz").read_bytes())
                ).hexdigest(),
            )
            for split, file in files.items()
        }

    server = Server(folder)
    tiny = replace(
        mnist, images=known(mnist.images), labels=known(mnist.labels), mirrors=(server.url,)
    )
    monkeypatch.setitem(catalogue.DATASETS, "tiny", tiny)
    yield folder, server.url
    server.server.shutdown()
    server.server.server_close()


def test_a_download_lands_in_the_cache_and_is_used(published):
    assert not catalogue.is_here("tiny", "train", None)
    download.download("tiny")
    assert catalogue.is_here("tiny", "train", None)
    assert catalogue.is_here("tiny", "test", None)
    assert len(reading.load("tiny", "train").images) == 20


def test_what_a_killed_download_left_is_cleared_away(published):
    left = catalogue.cache_dir() / "tiny" / f"{artifacts.TEMPORARY}x"
    left.mkdir(parents=True)
    (left / "part").touch()
    download.download("tiny")
    assert not left.exists()


def test_the_next_mirror_is_tried(published, monkeypatch):
    tiny = catalogue.DATASETS["tiny"]
    mirrors = (f"{published[1]}nothing-here/", *tiny.mirrors)
    monkeypatch.setitem(catalogue.DATASETS, "tiny", replace(tiny, mirrors=mirrors))
    download.download("tiny")
    assert catalogue.is_here("tiny", "train", None)


def test_a_bad_download_replaces_nothing(published):
    folder, _ = published
    download.download("tiny")
    good = catalogue.locate("tiny", catalogue.DATASETS["tiny"].images["train"], None)
    content = good.read_bytes()
    catalogue.locate("tiny", catalogue.DATASETS["tiny"].labels["train"], None).unlink()
    idx.write(folder / "train-labels-idx1-ubyte.gz", np.zeros(20, np.uint8))
    with pytest.raises(Error, match=r"train-labels-idx1-ubyte.gz could not be .*checksum mismatch"):
        download.download("tiny")
    assert good.read_bytes() == content
    left = {path.name for path in good.parent.iterdir()}
    assert left == {
        ".lock",
        "train-images-idx3-ubyte.gz",
        "t10k-images-idx3-ubyte.gz",
        "t10k-labels-idx1-ubyte.gz",
    }


def test_an_archive_is_unpacked(published, monkeypatch):
    folder, url = published
    upright = emnist(folder, monkeypatch)
    with zipfile.ZipFile(folder / "gzip.zip", "w") as archive:
        for path in folder.glob("emnist*"):
            archive.write(path, f"gzip/{path.name}")
    digest = hashlib.sha256((folder / "gzip.zip").read_bytes()).hexdigest()
    known = catalogue.Archive((f"{url}gzip.zip",), digest, "gzip/")
    monkeypatch.setitem(
        catalogue.DATASETS,
        "emnist_digits",
        replace(catalogue.DATASETS["emnist_digits"], archive=known),
    )
    download.download("emnist_digits")
    for split in ("train", "test"):
        np.testing.assert_array_equal(reading.load("emnist_digits", split).images, upright)
    cached = catalogue.cache_dir() / "emnist_digits"
    names = {
        f"emnist-digits-{part}-ubyte.gz"
        for part in ("train-images-idx3", "train-labels-idx1", "test-images-idx3",
                     "test-labels-idx1")
    }  # fmt: skip
    assert {path.name for path in cached.iterdir()} == {*names, ".lock"}
    # Only what is missing is taken from it.
    kept, lost = (cached / name for name in sorted(names)[:2])
    content = lost.read_bytes()
    kept.write_bytes(b"kept")
    lost.unlink()
    download.download("emnist_digits")
    assert (kept.read_bytes(), lost.read_bytes()) == (b"kept", content)
    assert {path.name for path in cached.iterdir()} == {*names, ".lock"}


def test_an_archive_of_other_bytes_is_refused(published, monkeypatch):
    folder, url = published
    (folder / "gzip.zip").write_bytes(b"<html>moved</html>")
    emnist_digits = catalogue.DATASETS["emnist_digits"]
    other = replace(emnist_digits.archive, urls=(f"{url}gzip.zip",))
    monkeypatch.setitem(catalogue.DATASETS, "emnist_digits", replace(emnist_digits, archive=other))
    with pytest.raises(Error, match="its checksum is not the published one"):
        download.download("emnist_digits")
    assert not catalogue.is_here("emnist_digits", "train", None)


def test_the_listing_says_what_is_here_and_where_the_rest_would_come_from(tmp_path):
    write_dataset(tmp_path / "mnist", 20, 20)
    write_dataset(tmp_path / "fashion_mnist", 20, 20)
    (tmp_path / "fashion_mnist" / "t10k-labels-idx1-ubyte").unlink()
    mirror = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"
    assert catalogue.listing(tmp_path) == [
        ("mnist", catalogue.DATASETS["mnist"].title, True, str(tmp_path / "mnist")),
        ("fashion_mnist", catalogue.DATASETS["fashion_mnist"].title, False, mirror),
        ("kmnist", catalogue.DATASETS["kmnist"].title, False,
         "https://codh.rois.ac.jp/kmnist/dataset/kmnist/"),
        ("emnist_digits", catalogue.DATASETS["emnist_digits"].title, False,
         "https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip"),
        ("digits", catalogue.DIGITS_TITLE, True, "inside scikit-learn"),
    ]  # fmt: skip
