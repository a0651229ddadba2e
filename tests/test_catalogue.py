"""Names, places and identities of the datasets."""

import os

import pytest
from conftest import write_dataset

from keras_lenet.artifacts import sha256
from keras_lenet.data import catalogue
from keras_lenet.errors import Error

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
CLASSES = dict.fromkeys([*catalogue.DATASETS, "digits"], "0,1,2,3,4,5,6,7,8,9") | {
    "fashion_mnist": "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot",
    "kmnist": "o,ki,su,tsu,na,ha,ma,ya,re,wo",
}


def test_every_dataset_names_its_classes_and_subject(synthetic):
    assert {name: ",".join(catalogue.classes(name)) for name in CLASSES} == CLASSES
    assert catalogue.classes(str(synthetic)) == tuple("0123456789")
    shown = [catalogue.shows(name) for name in ("fashion_mnist", "kmnist", str(synthetic))]
    assert shown == ["clothing", "cursive hiragana", "handwritten digits"]


def test_an_unknown_dataset_is_an_error_that_names_the_known_datasets():
    known = "mnist, fashion_mnist, kmnist, emnist_digits, digits, or a folder of IDX files"
    with pytest.raises(Error, match=f"^unknown dataset 'mnits': expected one of {known}$"):
        catalogue.find("mnits")


@pytest.mark.parametrize(
    ("name", "split", "identity"),
    [
        ("mnist", "train", "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db "
         "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
        ("mnist", "test", "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7 "
         "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
        ("kmnist", "test", "gz:edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5 "
         "gz:20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c"),
        ("emnist_digits", "test", "missing missing"),
    ],
)  # fmt: skip
def test_published_digests_identify_a_split(tmp_path, name, split, identity):
    assert catalogue.identity(name, split, tmp_path) == identity


def test_a_folder_is_identified_by_its_bytes_and_hashed_once(tmp_path, monkeypatch):
    write_dataset(tmp_path, 20, 20)
    images, labels = tmp_path / f"{IMAGES}.gz", tmp_path / LABELS
    hashed = []
    monkeypatch.setattr(catalogue, "sha256", lambda path: hashed.append(path) or sha256(path))

    def identity():
        return catalogue.identity(str(tmp_path), "train", None)

    assert identity() == identity() == f"{sha256(images)} {sha256(labels)}"
    labels.write_bytes(bytes(29) + b"1")
    os.utime(labels, (2**31, 2**31))
    assert identity() == f"{sha256(images)} {sha256(labels)}"
    assert hashed == [images, labels, labels]


def test_the_given_folder_precedes_the_cache_and_uncompressed_files_precede_gz(tmp_path):
    file = catalogue.DATASETS["mnist"].files["train"][0]
    ours, cached = tmp_path / "mnist" / IMAGES, catalogue.cache_dir() / "mnist" / IMAGES
    order = [ours, ours.with_suffix(".gz"), cached, cached.with_suffix(".gz")]
    for path in order:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for path in order:
        assert catalogue.locate("mnist", file, tmp_path) == path
        path.unlink()
    assert catalogue.locate("mnist", file, tmp_path) is None


def test_a_split_is_here_if_both_files_are(tmp_path):
    assert catalogue.is_here("digits", "train", None)
    write_dataset(tmp_path / "mnist", 20, 20)
    for name, data_dir in (("mnist", tmp_path), (str(tmp_path / "mnist"), None)):
        assert catalogue.is_here(name, "train", data_dir)
    (tmp_path / "mnist" / LABELS).unlink()
    assert not catalogue.is_here("mnist", "train", tmp_path)
    assert catalogue.is_here("mnist", "test", tmp_path)


def test_the_cache_is_in_xdg_cache_home_or_below_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert catalogue.cache_dir() == tmp_path / "keras_lenet"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert catalogue.cache_dir() == tmp_path / ".cache" / "keras_lenet"


def test_the_listing_shows_the_place_or_the_first_mirror_of_every_dataset(tmp_path):
    write_dataset(tmp_path / "mnist", 20, 20)
    write_dataset(tmp_path / "fashion_mnist", 20, 20)
    (tmp_path / "fashion_mnist" / "t10k-labels-idx1-ubyte").unlink()
    mirror = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"
    rows = catalogue.listing(tmp_path)
    assert [(name, here, where) for name, _, here, where in rows] == [
        ("mnist", True, str(tmp_path / "mnist")),
        ("fashion_mnist", False, mirror),
        ("kmnist", False, "https://codh.rois.ac.jp/kmnist/dataset/kmnist/"),
        ("emnist_digits", False, "https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip"),
        ("digits", True, "inside scikit-learn"),
    ]
    assert rows[0][1] == "MNIST, handwritten digits: 60,000 + 10,000"
