"""Several hosts that train as one: processes of this machine, on its loopback interface."""

import contextlib
import csv
import importlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import types
from dataclasses import replace

import numpy as np
import pytest
from conftest import SMOKE

from keras_lenet import artifacts, cluster, pipeline, recipe
from keras_lenet.errors import Error

pytestmark = pytest.mark.slow

PATIENCE = 900
"""Seconds, on a machine however busy, after which a process hangs."""


def addresses(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    found = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    return found


class Hosts:
    """The same command on several hosts, each with its own folder for runs."""

    def __init__(self, folders, *arguments):
        self.folders = folders
        hosts = addresses(len(folders))
        self.processes = [
            self._start(folder, index, hosts, arguments) for index, folder in enumerate(folders)
        ]

    def _start(self, folder, index, hosts, arguments):
        folder.mkdir(parents=True, exist_ok=True)
        task = {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": index}}
        with self.log(index).open("w") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "keras_lenet", *map(str, arguments), "--runs", str(folder)],
                env=os.environ | {"TF_CONFIG": json.dumps(task)},
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    def log(self, index):
        return self.folders[index].parent / f"host-{index}.log"

    def said(self, index):
        return self.log(index).read_text()

    def wait(self):
        """The exit status of each."""
        try:
            return [process.wait(PATIENCE) for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()

    def wait_for(self, text):
        """Until the chief has said it."""
        end = time.monotonic() + PATIENCE
        while text not in self.said(0):
            assert self.processes[0].poll() is None, self.said(0)
            assert time.monotonic() < end, self.said(0)
            time.sleep(0.01)


def history(folder):
    with (folder / "smoke" / "train" / "history.csv").open() as file:
        return [[float(value) for value in row.values()] for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def arguments(synthetic):
    return ("train", SMOKE, "--set", f"data.dataset={synthetic}")


@pytest.fixture(scope="module")
def together(tmp_path_factory, arguments):
    """Two hosts that share one folder for runs."""
    folder = tmp_path_factory.mktemp("together") / "runs"
    hosts = Hosts([folder, folder], *arguments)
    assert hosts.wait() == [0, 0], hosts.said(0) + hosts.said(1)
    return hosts


def test_two_hosts_train_as_one(together, tmp_path, arguments):
    """The same losses, but for the order of sums; and the chief alone leaves anything."""
    alone = subprocess.run(
        [sys.executable, "-m", "keras_lenet", *map(str, arguments), "--runs", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert alone.returncode == 0, alone.stderr
    found, expected = history(together.folders[0]), history(tmp_path)
    assert len(found) == len(expected) == 8
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert "done" in together.said(0)
    assert "this host has done its part" in together.said(1)
    assert "done in" not in together.said(1)
    names = [
        sorted(p.name for p in (f / "smoke").iterdir()) for f in (together.folders[0], tmp_path)
    ]
    assert names[0] == names[1]


def test_a_host_that_dies_ends_the_rest_and_nothing_is_lost(together, tmp_path, arguments):
    folders = [tmp_path / "chief", tmp_path / "other"]
    hosts = Hosts(folders, *arguments)
    hosts.wait_for("train epoch 1/8")
    hosts.processes[1].send_signal(signal.SIGKILL)
    assert hosts.wait() == [1, -signal.SIGKILL], hosts.said(0)
    assert "keras-lenet: one of the 2 hosts of TF_CONFIG is gone: start" in hosts.said(0)
    again = Hosts(folders, *arguments)
    assert again.wait() == [0, 0], again.said(0) + again.said(1)
    assert "train: resuming after epoch" in again.said(0)
    assert "train: resuming after epoch" in again.said(1)
    assert history(folders[0]) == history(together.folders[0])
    weights = [
        artifacts.sha256(folder / "smoke" / "train" / "model.keras")
        for folder in (folders[0], together.folders[0])
    ]
    assert weights[0] == weights[1]
    assert not (folders[1] / "smoke").exists()


def test_the_chief_goes_on_alone_on_what_is_trained(together, arguments):
    settings = ("--until", "quantize", "--set", "quantize.epochs=1")
    hosts = Hosts(together.folders, "run", *arguments[1:], *settings)
    assert hosts.wait() == [0, 0], hosts.said(0) + hosts.said(1)
    assert "smoke: everything is up to date" in hosts.said(0)
    assert "quantize: done" in hosts.said(0)
    assert "quantize" not in hosts.said(1)


class Chief:
    """Stands for the cluster, as one of its other hosts sees it: sends `messages`."""

    is_chief = False

    def __init__(self, messages):
        self.messages = messages

    def broadcast(self):
        return self.messages.pop(0)

    def watched(self):
        return contextlib.nullcontext()

    def part(self):
        assert not self.messages


def opened(folder, synthetic, *overrides):
    loaded = recipe.load(SMOKE, [f"data.dataset={synthetic}", *overrides])
    return pipeline.open_run(loaded, folder, None)


def message_of(run, out):
    """What the chief sends of a stage that it has finished an epoch of."""
    out.mkdir()
    (out / "history.csv").write_text("epoch\n1\n")
    return pipeline._message(run, pipeline.STAGES["train"], out)


def test_the_others_have_what_the_chief_has(tmp_path, synthetic, monkeypatch):
    message = message_of(opened(tmp_path / "chief", synthetic), tmp_path / "out")
    seen = []
    stage = types.SimpleNamespace(run=lambda c: seen.append((c.out / "history.csv").read_text()))
    monkeypatch.setattr(importlib, "import_module", lambda name: stage)
    run = opened(tmp_path / "other", synthetic)
    pipeline.follow(replace(run, cluster=Chief([message, message, b""])))
    assert seen == ["epoch\n1\n"] * 2
    assert not (tmp_path / "other").exists()


def test_a_host_with_another_recipe_is_refused(tmp_path, synthetic):
    message = message_of(opened(tmp_path / "chief", synthetic), tmp_path / "out")
    run = opened(tmp_path / "other", synthetic, "seed=1")
    with pytest.raises(Error, match="train: this host does not have the chief's recipe; give"):
        pipeline.follow(replace(run, cluster=Chief([message])))


def test_a_host_with_other_data_is_refused(tmp_path, synthetic):
    data = tmp_path / "data"
    shutil.copytree(synthetic, data)
    run = opened(tmp_path / "runs", data)
    message = message_of(run, tmp_path / "out")
    labels = data / "train-labels-idx1-ubyte"
    content = bytearray(labels.read_bytes())
    content[-1] ^= 1
    labels.write_bytes(content)
    with pytest.raises(Error, match="train: this host does not have the chief's data; give"):
        pipeline.follow(replace(run, cluster=Chief([message])))


CONFIG = {"cluster": {"chief": ["a:1"], "worker": ["b:1", "c:1"]}}


def named(monkeypatch, config):
    monkeypatch.setenv("TF_CONFIG", config if isinstance(config, str) else json.dumps(config))
    return cluster.of_environment()


def test_the_chief_comes_first(monkeypatch):
    task = {"type": "worker", "index": 1}
    found = named(monkeypatch, CONFIG | {"task": task})
    assert found == cluster.Cluster(("a:1", "b:1", "c:1"), 2)
    assert not found.is_chief
    assert named(monkeypatch, CONFIG | {"task": {"type": "chief", "index": 0}}).is_chief


def test_one_host_is_no_cluster(monkeypatch):
    config = {"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}
    assert named(monkeypatch, config) is None
    assert named(monkeypatch, "") is None


@pytest.mark.parametrize(
    "config",
    [
        "two hosts",
        "[]",
        {"cluster": {"worker": ["a:1", "b:1"]}},
        CONFIG | {"task": {"type": "worker", "index": 2}},
        CONFIG | {"task": {"type": "ps", "index": 0}},
        {"cluster": {"worker": 2}, "task": {"type": "worker", "index": 0}},
    ],
)
def test_what_names_no_hosts_is_told_in_one_line(monkeypatch, config):
    with pytest.raises(Error, match=r"TF_CONFIG = .*: expected, on the first of two hosts"):
        named(monkeypatch, config)
