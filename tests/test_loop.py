"""The training loop does what Keras' own does, and several devices give the losses of one.

Two logical CPUs stand for two GPUs.
"""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lenet import models
from keras_lenet.recipe import Model, Recipe
from keras_lenet.stages import loop, train

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


class Calls(keras.callbacks.Callback):
    """What a callback is told, in order."""

    def __init__(self):
        super().__init__()
        self.seen, self.logs = [], []

    def on_epoch_begin(self, epoch, logs=None):
        self.seen.append(("epoch", epoch))

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(("batch", batch))
        self.last = dict(logs)

    def on_test_begin(self, logs=None):
        self.seen.append(("test",))

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(("end", epoch))
        self.logs.append(self.last | logs)  # with those of the last batch


@pytest.fixture
def few():
    """Batches of 4: images and labels, as many as 35 steps take."""
    generator = np.random.default_rng(0)
    images = generator.random((140, 32, 32, 1), np.float32)
    return tf.data.Dataset.from_tensor_slices((images, np.arange(140) % 10)).batch(4)


def fitted(few, fit, xla=False):
    """A model's weights, and what its callbacks were told, after `fit`."""
    keras.utils.set_random_seed(0)
    recipe = Recipe(name="test")
    model = models.build(keras, Model())
    train.compile_model(model, recipe.train, 35, train.loss(recipe))
    model.jit_compile = xla
    calls = Calls()
    fit(model, few, calls)
    return model.get_weights(), calls


def by_ours(model, few, calls):
    loop.fit(
        model,
        lambda epochs, _: few.repeat(len(epochs)),
        few.take(3),
        epochs=range(1, 3),
        steps=35,
        callbacks=[calls],
    )


def by_keras(model, few, calls):
    model.fit(
        few,
        initial_epoch=1,
        epochs=3,
        validation_data=few.take(3),
        callbacks=[calls],
        shuffle=False,
        verbose=0,
    )


@pytest.mark.parametrize("xla", [False, True])  # as on a single GPU
def test_the_loop_takes_the_steps_that_keras_takes(few, xla):
    ours, calls = fitted(few, by_ours, xla)
    theirs, expected = fitted(few, by_keras)
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-4)
    for told, other in zip(calls.logs, expected.logs, strict=True):
        assert told == pytest.approx(other, abs=1e-3)
    batches = [("batch", step) for step in range(35)]
    apart = [call for call in expected.seen if call not in batches]
    assert [call for call in calls.seen if call not in batches] == apart


def test_steps_are_looked_at_together_and_those_left_over_too(few):
    _, calls = fitted(few, by_ours)
    looks = [call[1] for call in calls.seen if call[0] == "batch"]
    assert looks == [31, 34, 31, 34]
