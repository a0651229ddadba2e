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
from keras_lenet.stages import STAGES
from keras_lenet.training import cluster

pytestmark = pytest.mark.slow

PATIENCE = 900
"""Seconds, on a machine however busy, after which a process hangs."""


class Hosts:
    """The same command on two hosts, which see one folder for runs."""

    def __init__(self, folder, *arguments):
        self.folder, self.logs = folder, [folder.parent / f"host-{index}.log" for index in (0, 1)]
        folder.mkdir(parents=True, exist_ok=True)
        with socket.socket() as one, socket.socket() as two:
            for each in (one, two):
                each.bind(("127.0.0.1", 0))
            hosts = [f"127.0.0.1:{each.getsockname()[1]}" for each in (one, two)]
        command = [sys.executable, "-m", "keras_lenet", *map(str, arguments), "--runs", str(folder)]
        self.processes = []
        for index, path in enumerate(self.logs):
            task = {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": index}}
            environment = os.environ | {"TF_CONFIG": json.dumps(task)}
            with path.open("w") as log:
                process = subprocess.Popen(
                    command, env=environment, stdout=subprocess.DEVNULL, stderr=log
                )
            self.processes.append(process)

    def said(self, index):
        return self.logs[index].read_text()

    def end(self, *expected):
        """Wait for these exit statuses."""
        try:
            found = [process.wait(PATIENCE) for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()
        assert found == list(expected), self.said(0) + self.said(1)

    def wait_for(self, text):
        """Wait until the chief has said it."""
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
    hosts = Hosts(tmp_path_factory.mktemp("together") / "runs", *arguments)
    hosts.end(0, 0)
    return hosts


def test_two_hosts_train_as_one_and_the_chief_alone_writes(together, tmp_path, arguments):
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


def test_training_resumes_after_a_host_died(together, tmp_path, arguments):
    hosts = Hosts(tmp_path / "runs", *arguments)
    hosts.wait_for("train epoch 1/8")
    hosts.processes[1].send_signal(signal.SIGKILL)
    hosts.end(1, -signal.SIGKILL)
    assert "keras-lenet: one of the 2 hosts of TF_CONFIG is gone: start" in hosts.said(0)
    again = Hosts(tmp_path / "runs", *arguments)
    again.end(0, 0)
    assert all("train: resuming after epoch" in again.said(index) for index in (0, 1))
    assert history(again.folder) == history(together.folder)
    first, second = (
        keras.models.load_model(one.folder / "smoke" / "train" / "model.keras").get_weights()
        for one in (again, together)
    )
    for values, others in zip(first, second, strict=True):
        np.testing.assert_array_equal(values, others)


class Chief:
    """Stand-in for the hosts as a follower sees them: they agree on `numbers`."""

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


TRAIN = STAGES["train"]


def begun(run):
    """The chief has finished an epoch of training; returns what all agree on."""
    out = artifacts.begin(run.stage_folder("train"), {})
    (out / "history.csv").write_text("epoch\n1\n")
    return pipeline._number(run, TRAIN)


def test_followers_resume_from_the_chiefs_files_and_write_nothing(tmp_path, synthetic, monkeypatch):
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


def test_several_hosts_only_train(tmp_path, synthetic):
    run = opened(tmp_path, synthetic, hosts=Chief())
    with pytest.raises(Error, match="TF_CONFIG is for training alone: run with --until train"):
        pipeline.execute(run, pipeline.select(None, None))


CONFIG = {"cluster": {"chief": ["a:1"], "worker": ["b:1", "c:1"]}}
ONE = {"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}


def named(monkeypatch, config):
    monkeypatch.setenv("TF_CONFIG", config if isinstance(config, str) else json.dumps(config))
    return cluster.of_environment()


def test_tf_config_names_the_hosts_chief_first(monkeypatch):
    found = named(monkeypatch, CONFIG | {"task": {"type": "worker", "index": 1}})
    assert found == cluster.Cluster(("a:1", "b:1", "c:1"), 2)
    assert not found.is_chief
    assert named(monkeypatch, CONFIG | {"task": {"type": "chief", "index": 0}}).is_chief
    assert named(monkeypatch, ONE) is None
    assert named(monkeypatch, "") is None


@pytest.mark.parametrize(
    "config",
    [
        "two hosts",
        "[]",
        {"cluster": {"worker": ["a:1", "b:1"]}},
        CONFIG | {"task": {"type": "worker", "index": 2}},
        {"cluster": {"worker": 2}, "task": {"type": "worker", "index": 0}},
    ],
)
def test_a_malformed_tf_config_is_an_error_in_one_line(monkeypatch, config):
    with pytest.raises(Error, match=r"TF_CONFIG = .*: expected, on the first of two hosts"):
        named(monkeypatch, config)
