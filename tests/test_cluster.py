"""Several hosts that train as one: processes of this machine, on its loopback interface."""

import contextlib
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

import keras
import numpy as np
import pytest
import tiny
from conftest import SMOKE, keras_lenet

from keras_lenet import artifacts, pipeline, recipe
from keras_lenet.errors import Error
from keras_lenet.training import cluster

pytestmark = pytest.mark.slow

COMMAND = sys.executable, "-m", "keras_lenet"
PATIENCE = 900
"""Seconds, on a machine however busy, after which a process hangs."""


def addresses(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]


class Hosts:
    """The same command on several hosts, which see one folder for runs."""

    def __init__(self, folder, *arguments):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        hosts = addresses(2)
        self.processes = [self._start(index, hosts, arguments) for index in range(2)]

    def _start(self, index, hosts, arguments):
        task = {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": index}}
        with self.log(index).open("w") as log:
            return subprocess.Popen(
                [*COMMAND, *map(str, arguments), "--runs", str(self.folder)],
                env=os.environ | {"TF_CONFIG": json.dumps(task)},
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    def log(self, index):
        return self.folder.parent / f"host-{index}.log"

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
    return [list(row.values()) for row in tiny.history(folder / "smoke" / "train")]


@pytest.fixture(scope="module")
def arguments(synthetic):
    return ("train", SMOKE, "--set", f"data.dataset={synthetic}")


@pytest.fixture(scope="module")
def together(tmp_path_factory, arguments):
    """Two hosts that share one folder for runs."""
    folder = tmp_path_factory.mktemp("together") / "runs"
    hosts = Hosts(folder, *arguments)
    assert hosts.wait() == [0, 0], hosts.said(0) + hosts.said(1)
    return hosts


def test_two_hosts_train_as_one(together, tmp_path, arguments):
    """The same losses, but for the order of sums; and the chief alone leaves anything."""
    alone = keras_lenet(*arguments, "--runs", tmp_path)
    assert alone.returncode == 0, alone.stderr
    found, expected = history(together.folder), history(tmp_path)
    assert len(found) == len(expected) == 8
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert "done" in together.said(0)
    assert "this host has done its part" in together.said(1)
    assert "done in" not in together.said(1)
    names = [sorted(p.name for p in (f / "smoke").iterdir()) for f in (together.folder, tmp_path)]
    assert names[0] == names[1]


def test_a_host_that_dies_ends_the_rest_and_nothing_is_lost(together, tmp_path, arguments):
    folder = tmp_path / "runs"
    hosts = Hosts(folder, *arguments)
    hosts.wait_for("train epoch 1/8")
    hosts.processes[1].send_signal(signal.SIGKILL)
    assert hosts.wait() == [1, -signal.SIGKILL], hosts.said(0)
    assert "keras-lenet: one of the 2 hosts of TF_CONFIG is gone: start" in hosts.said(0)
    again = Hosts(folder, *arguments)
    assert again.wait() == [0, 0], again.said(0) + again.said(1)
    assert "train: resuming after epoch" in again.said(0)
    assert "train: resuming after epoch" in again.said(1)
    assert history(folder) == history(together.folder)
    first, second = (
        keras.models.load_model(one / "smoke" / "train" / "model.keras").get_weights()
        for one in (folder, together.folder)
    )
    for values, others in zip(first, second, strict=True):
        np.testing.assert_array_equal(values, others)


def test_what_is_trained_is_up_to_date_on_every_host(together, arguments):
    hosts = Hosts(together.folder, *arguments)
    assert hosts.wait() == [0, 0], hosts.said(0) + hosts.said(1)
    assert "smoke: everything is up to date" in hosts.said(0)
    assert "this host has done its part" in hosts.said(1)


class Chief:
    """Stands for the hosts, as one that is not the chief sees them: they agree on `numbers`."""

    is_chief = False

    def __init__(self, *numbers):
        self.numbers = [*numbers, 0]

    def agree(self):
        return self.numbers.pop(0)

    def watched(self):
        return contextlib.nullcontext()

    def part(self):
        assert not self.numbers


def opened(folder, synthetic, *overrides, hosts=None):
    loaded = recipe.load_recipe(SMOKE, [f"data.dataset={synthetic}", *overrides])
    return replace(pipeline.open_run(loaded, folder, None), hosts=hosts)


TRAIN = pipeline.STAGES["train"]


def begun(run):
    """The chief has finished an epoch of training; returns what all agree on."""
    out = artifacts.begin(run.stage_folder("train"), {})
    (out / "history.csv").write_text("epoch\n1\n")
    return pipeline._number(run, TRAIN)


def test_the_others_have_what_the_chief_has_and_leave_nothing(tmp_path, synthetic, monkeypatch):
    number = begun(opened(tmp_path, synthetic))
    seen = []

    def run(context):
        seen.append((context.out / "history.csv").read_text())
        (context.out / "history.csv").write_text("another")

    monkeypatch.setattr(importlib, "import_module", lambda name: types.SimpleNamespace(run=run))
    before = sorted(tmp_path.rglob("*"))
    pipeline.execute(opened(tmp_path, synthetic, hosts=Chief(number, number)), [TRAIN])
    assert seen == ["epoch\n1\n"] * 2
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("change", ["recipe", "data"])
def test_a_host_with_another_recipe_or_other_data_is_refused(tmp_path, synthetic, change):
    data = shutil.copytree(synthetic, tmp_path / "data")
    number = begun(opened(tmp_path / "runs", data))
    labels = data / "train-labels-idx1-ubyte"
    content = bytearray(labels.read_bytes())
    content[-1] ^= change == "data"
    labels.write_bytes(content)
    overrides = ["seed=1"] if change == "recipe" else []
    run = opened(tmp_path / "runs", data, *overrides, hosts=Chief(number))
    with pytest.raises(Error, match="this host has another recipe or other data than the chief"):
        pipeline.execute(run, [TRAIN])


def test_several_hosts_train_and_nothing_else(tmp_path, synthetic):
    run = opened(tmp_path, synthetic, hosts=Chief())
    with pytest.raises(Error, match="TF_CONFIG is for training alone: run with --until train"):
        pipeline.execute(run, pipeline.select(None, None))


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
