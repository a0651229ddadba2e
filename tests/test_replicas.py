"""Several devices give the losses that one gives: two logical CPUs stand for two GPUs."""

import json
import subprocess
import sys

import numpy as np
import pytest

BOTH = """
import json
import sys
from pathlib import Path

import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

from keras_lenet import recipe
from keras_lenet.data import loading
from keras_lenet.stages import train

out, dataset, cases = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
devices = (tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
training, validation = loading.load_training(dataset, None, 0.2, seed=0)
found = {}
for name, overrides in cases.items():
    loaded = recipe.from_overrides(name, overrides)
    batches = train.augmented(loaded, training, loaded.train.batch_size, seed=0)
    found[name] = []
    for strategy in devices:
        train.strategy = lambda *_: strategy
        folder = out / f"{name}-{strategy.num_replicas_in_sync}"
        _, state = train.fit(loaded, batches, training, validation, None, folder)
        found[name].append([[row["loss"], row["val_loss"]] for row in state.history])
print(json.dumps(found))
"""
CASES = {
    "batchnorm": ("model.name=lenet5_batchnorm", "train.weight_averaging=0.8"),
    "float16": ("train.precision=mixed_float16",),
    "muon": ("train.optimizer=muon",),
}


@pytest.fixture(scope="module")
def histories(tmp_path_factory, synthetic):
    """By case, those of one device and of two."""
    shared = ("train.epochs=2", "train.batch_size=32")
    cases = json.dumps({name: (*shared, *overrides) for name, overrides in CASES.items()})
    command = [sys.executable, "-c", BOTH, tmp_path_factory.mktemp("fits"), synthetic, cases]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize(
    ("name", "tolerance"),
    # Batch statistics of several devices are computed by another formula.
    [("batchnorm", 1e-3), ("float16", 1e-2), ("muon", 1e-4)],
)
def test_two_devices_give_the_losses_of_one(histories, name, tolerance):
    one, two = histories[name]
    np.testing.assert_allclose(two, one, rtol=tolerance)
