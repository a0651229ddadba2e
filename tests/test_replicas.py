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

out, dataset, *overrides = sys.argv[1:]
loaded = recipe.from_overrides("test", overrides)
training, validation = loading.load_training(dataset, None, 0.2, seed=0)
histories = []
for strategy in (tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])):
    train.strategy = lambda *_: strategy
    batches = train.augmented(loaded, training, loaded.train.batch_size, seed=0)
    folder = Path(out) / str(strategy.num_replicas_in_sync)
    _, state = train.fit(loaded, batches, training, validation, None, folder)
    histories.append([list(row.values()) for row in state.history])
print(json.dumps(histories))
"""


@pytest.mark.parametrize(
    "overrides",
    [
        ("model.name=lenet5_batchnorm", "train.weight_averaging=0.8"),
        ("train.precision=mixed_float16",),
        ("train.optimizer=muon",),
    ],
    ids=["batchnorm", "float16", "muon"],
)
def test_two_devices_give_the_losses_of_one(tmp_path, synthetic, overrides):
    settings = ("train.epochs=2", "train.batch_size=32", *overrides)
    command = [sys.executable, "-c", BOTH, tmp_path, synthetic, *settings]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    one, two = json.loads(result.stdout)
    np.testing.assert_allclose(two, one, rtol=1e-2 if "float16" in overrides[0] else 1e-4)
