"""The training loop does what Keras' own does, and several devices give the losses of one.

Two logical CPUs stand for two GPUs.
"""

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import write_dataset

from keras_lenet.training.fit import take_steps

BOTH = """
import functools
import json
import sys
from pathlib import Path

import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
sys.path.insert(0, sys.argv[4])

import keras
import tiny

from keras_lenet import models, recipe
from keras_lenet.reporting import plots
from keras_lenet.stages import train
from keras_lenet.training import devices, setup

out, dataset, cases = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
trained = functools.partial(tiny.network, normalized=True)
models.MODELS["tiny"] = tiny.architecture(trained=trained)
devices.prepare_devices = lambda: None
plots.contact_sheet = plots.save = lambda *_: None
augmented = setup.augmented
one, two = tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def fit(folder, overrides, strategy, batches=-1):
    "Train; cut off after so many shares of batches."
    data = [f"data.dataset={dataset}", "data.validation_split=0.25"]
    wanted = recipe.from_overrides("test", ["model.name=tiny", *data, *overrides])
    setup.augmented = lambda *settings: lambda **which: augmented(*settings)(**which).take(batches)
    devices.strategy = lambda *_: strategy
    train.run(tiny.context(wanted, out / folder))
    weights = keras.models.load_model(out / folder / "model.keras").get_weights()
    return [list(row.values()) for row in tiny.history(out / folder)], weights[-2].tolist()


found = {
    name: [fit(f"{name}-{count}", overrides, strategy) for count, strategy in ((1, one), (2, two))]
    for name, overrides in cases.items()
}
averaged = cases["batchnorm"]
try:
    fit("resumed", averaged, two, batches=2 * 3)
except tf.errors.OutOfRangeError:
    found["resumed"] = fit("resumed", averaged, two)
print(json.dumps(found))
"""
CASES = {"batchnorm": ("train.weight_averaging=0.8",), "muon": ("train.optimizer=muon",)}


@pytest.fixture(scope="module")
def histories(tmp_path_factory):
    """By case, those of one device and of two."""
    folder = tmp_path_factory.mktemp("fits")
    dataset = write_dataset(folder / "images", train=40, test=10)
    shared = ("train.epochs=2", "train.batch_size=10", "train.learning_rate=0.01")
    cases = json.dumps({name: (*shared, *overrides) for name, overrides in CASES.items()})
    command = [sys.executable, "-c", BOTH, folder, dataset, cases, Path(__file__).parent]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout), result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_devices_give_the_losses_of_one(histories, name):
    (one, _), (two, _) = histories[0][name]
    assert len(one) == 2
    # Batch statistics of several devices are computed by another formula.
    np.testing.assert_allclose(two, one, rtol=1e-3)


@pytest.mark.slow
def test_training_on_two_devices_resumes_to_the_same_weights(histories):
    found, said = histories
    assert found["resumed"] == found["batchnorm"][1]
    assert "train: resuming after epoch 1" in said


class Calls(keras.callbacks.Callback):
    """A record of what callbacks are told, in order, and with which logs."""

    def __init__(self):
        super().__init__()
        self.seen, self.logs = [], []

    def on_train_begin(self, logs=None):
        self.seen.append(("begin", self.params["epochs"], self.params["steps"]))

    def on_train_end(self, logs=None):
        self.seen.append(("finish",))

    def on_epoch_begin(self, epoch, logs=None):
        self.seen.append(("epoch", epoch))

    def on_train_batch_begin(self, batch, logs=None):
        self.seen.append(("batch from", batch))

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(("batch", batch))
        self.last = dict(logs)

    def on_test_begin(self, logs=None):
        self.seen.append(("test",))

    def on_test_end(self, logs=None):
        self.seen.append(("tested",))
        self.logs.append(dict(logs))

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(("end", epoch))
        self.logs.append(self.last | logs)  # with those of the last batch

    def without_batches(self):
        return [call for call in self.seen if not call[0].startswith("batch")]


STEPS = 35


@pytest.fixture(scope="module")
def few():
    """Batches of 4: two numbers and their sum's sign, as many as an epoch takes."""
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(STEPS * 4, 2)).astype(np.float32)
    return tf.data.Dataset.from_tensor_slices((inputs, inputs.sum(axis=1) > 0)).batch(4)


def compiled(xla=False, loss="sparse_categorical_crossentropy"):
    keras.utils.set_random_seed(0)
    layers = [keras.Input((2,)), keras.layers.Dense(2, activation="softmax")]
    model = keras.Sequential(layers)
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"], jit_compile=xla)
    return model


def by_ours(model, few, calls):
    """Take two epochs; returns what was asked of the function that makes the batches."""
    asked = []

    def batches(epochs, context):
        asked.append((epochs, context.num_replicas_in_sync, context.num_input_pipelines))
        return few.repeat(len(epochs))

    take_steps(model, batches, few.take(3), epochs=range(1, 3), steps=STEPS, callbacks=[calls])
    return asked


@pytest.fixture(scope="module")
def expected(few):
    """What Keras makes of it."""
    model, calls = compiled(), Calls()
    told = {"validation_data": few.take(3), "callbacks": [calls], "shuffle": False, "verbose": 0}
    model.fit(few, initial_epoch=1, epochs=3, **told)
    return model, calls


@pytest.mark.parametrize("xla", [False, True])  # as on a single GPU
def test_the_loop_takes_the_steps_that_keras_takes(few, expected, xla):
    model, calls = compiled(xla), Calls()
    assert by_ours(model, few, calls) == [(range(1, 3), 1, 1)]
    theirs, wanted = expected
    for mine, other in zip(model.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-5)
    assert len(calls.logs) == 4
    for told, other in zip(calls.logs, wanted.logs, strict=True):
        assert told == pytest.approx(other, abs=1e-4)
    assert calls.without_batches() == wanted.without_batches()
    # Steps are looked at together, and those left over too.
    batches = [call for call in calls.seen if call[0].startswith("batch")]
    assert batches == 2 * [("batch from", 0), ("batch", 31), ("batch from", 32), ("batch", 34)]


def test_models_that_are_fitted_in_turns_are_not_compiled_again(few):
    traced = []

    def loss(targets, outputs):
        traced.append(1)
        return keras.losses.sparse_categorical_crossentropy(targets, outputs)

    pair = compiled(loss=loss), compiled(loss=loss)
    for model in pair:
        by_ours(model, few, Calls())
    count = len(traced)
    for model in pair:
        by_ours(model, few, Calls())
    assert len(traced) == count > 0
