"""Synthetic digits as IDX files, and one run of every stage that many tests look at."""

import contextlib
import gzip
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings
from PIL import Image, ImageDraw, ImageFont
from waitress import wasyncore

from keras_lenet.data import catalogue, reading
from keras_lenet.draw.server import listen
from keras_lenet.edge.classifier import Classifier

# No deadline: a busy machine is no failure.
settings.register_profile(
    "quick", max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("thorough", settings.get_profile("quick"), max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

PIPELINES = Path(__file__).parents[1] / "pipelines"
SMOKE = PIPELINES / "smoke.toml"


def is_installed(tool: str) -> bool:
    """Return whether a program is on PATH or beside this Python, or a package can be imported."""
    beside = shutil.which(tool, path=str(Path(sys.executable).parent))
    return bool(shutil.which(tool) or beside or importlib.util.find_spec(tool.replace("-", "_")))


def pytest_collection_modifyitems(items):
    """Mark tests that need tools for other processors, or the finished run."""
    for item in items:
        tools = {tool for mark in item.iter_markers("needs") for tool in mark.args}
        if any(tool.startswith(("arm-", "aarch64-", "qemu-")) for tool in tools):
            item.add_marker("device")
        if "finished" in item.fixturenames:
            item.add_marker("slow")


def pytest_runtest_setup(item):
    """Skip a test whose tools are missing; fail under CI."""
    for mark in item.iter_markers("needs"):
        for tool in mark.args:
            if not is_installed(tool):
                end = pytest.fail if os.environ.get("CI") else pytest.skip
                end(f"{tool} is not installed: .ci/run installs every tool")


@pytest.fixture(autouse=True)
def _isolated(monkeypatch, tmp_path_factory, request):
    """Hide this machine's cache from every test, and its data from tests without `mnist`."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    if not request.node.get_closest_marker("mnist"):
        monkeypatch.delenv("KERAS_LENET_DATA", raising=False)


@pytest.fixture
def mnist_dir():
    """Return the folder of the real MNIST."""
    folder = Path(os.environ.get("KERAS_LENET_DATA", ""))
    if not catalogue.is_here("mnist", "train", folder) or not os.environ.get("KERAS_LENET_DATA"):
        pytest.skip("the real MNIST is not here: set KERAS_LENET_DATA to a folder with mnist/")
    return folder


def draw_digits(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Typeset digits of random size and place: uint8 (count, 28, 28) and (count,)."""
    generator = np.random.default_rng(seed)
    labels = (np.arange(count) % 10).astype(np.uint8)
    images = np.zeros((count, 28, 28), np.uint8)
    for image, label in zip(images, labels, strict=True):
        canvas = Image.new("L", (28, 28))
        font = ImageFont.load_default(size=int(generator.integers(17, 23)))
        place = tuple(14 + generator.integers(-2, 3, 2))
        ImageDraw.Draw(canvas).text(place, str(label), fill=255, font=font, anchor="mm")
        image[:] = np.asarray(canvas)
    return images, labels


def write_idx(path: Path, array: np.ndarray, level: int = 9) -> None:
    """Write a uint8 array as IDX; compress it if the name ends in `.gz`."""
    content = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    content += array.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content, level, mtime=0) if path.suffix == ".gz" else content)


def write_emnist(folder: Path, monkeypatch, count: int = 20) -> np.ndarray:
    """Write `count` images as EMNIST is published, and expect so many; return them upright."""
    dataset = catalogue.DATASETS["emnist_digits"]
    images, labels = draw_digits(count, 0)
    known = {}
    for split, pair in dataset.files.items():
        known[split] = tuple(replace(file, count=count) for file in pair)
        for file, array in zip(pair, (images.transpose(0, 2, 1), labels), strict=True):
            write_idx(folder / f"{file.name}.gz", array)
    monkeypatch.setitem(catalogue.DATASETS, "emnist_digits", replace(dataset, files=known))
    return images


def write_dataset(folder: Path, train: int = 400, test: int = 100) -> Path:
    """Write synthetic digits as four files with MNIST's names."""
    for prefix, count, seed in (("train", train, 1), ("t10k", test, 2)):
        images, labels = draw_digits(count, seed)
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte", labels)
    return folder


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory) -> Path:
    """Return a folder that all processes of this test run share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory) -> Path:
    """Return a folder of synthetic IDX files, which tests may not change."""
    return write_dataset(tmp_path_factory.mktemp("synthetic"))


@pytest.fixture(scope="session")
def mapped(tmp_path_factory, synthetic) -> Path:
    """Return the images of `synthetic` in uncompressed files, which are memory-mapped."""
    folder = tmp_path_factory.mktemp("mapped")
    for path in synthetic.iterdir():
        (folder / path.name.removesuffix(".gz")).write_bytes(reading.read_bytes(path))
    return folder


def keras_lenet(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    command = [sys.executable, "-m", "keras_lenet", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


@dataclass
class Finished:
    """Finished run: its folder, its arguments, and the output of its process."""

    folder: Path
    arguments: tuple[object, ...]
    result: subprocess.CompletedProcess[str]

    def copy(self, runs: Path) -> tuple[object, ...]:
        """Copy the run below `runs`; return the arguments that continue it there."""
        shutil.copytree(self.folder, runs / self.folder.name)
        return tuple(runs if item == self.folder.parent else item for item in self.arguments)


@pytest.fixture(scope="session")
def finished(shared_folder):
    """Return a run of the smoke recipe on synthetic digits, made by the first process."""
    runs, printed = shared_folder / "runs", shared_folder / "printed.json"
    dataset = shared_folder / "dataset"
    arguments = ("run", SMOKE, "--runs", runs, "--set", f"data.dataset={dataset}")
    with FileLock(shared_folder / "finished.lock"):
        if not printed.exists():
            write_dataset(dataset)
            result = keras_lenet(*arguments)
            assert result.returncode == 0, result.stderr
            printed.write_text(json.dumps([result.stdout, result.stderr]))
    result = subprocess.CompletedProcess(arguments, 0, *json.loads(printed.read_text()))
    return Finished(runs / "smoke", arguments, result)


@contextlib.contextmanager
def serving(path: Path, classifier: Classifier):
    """Run the server of the drawing page on a port of its own."""
    server = listen("127.0.0.1", 0, path, classifier)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.trigger.pull_trigger(lambda: wasyncore.close_all(server._map))
        thread.join(30)
        server.task_dispatcher.shutdown()


WARNINGS = ("-std=c++17", "-Wall", "-Wextra", "-Werror")
CORTEX_M = (*WARNINGS, "-Os", "-mcpu=cortex-m0plus", "-mthumb", "--specs=nosys.specs")
