"""The training loop does what Keras' own does, and several devices give the losses of one.

Two logical CPUs stand for two GPUs.
"""

import functools
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


HOOKS = ("train_begin", "train_end", "epoch_begin", "epoch_end", "train_batch_begin",
         "train_batch_end", "test_begin", "test_end")  # fmt: skip


class Calls(keras.callbacks.Callback):
    """A record of what callbacks are told, in order: hook, epoch or batch, and logs."""

    def __init__(self):
        super().__init__()
        self.seen = []
        for hook in HOOKS:
            setattr(self, f"on_{hook}", functools.partial(self.note, hook))

    def note(self, hook, *told, logs=None):
        number = next((one for one in told if isinstance(one, int)), None)
        figures = next((one for one in (*told, logs) if isinstance(one, dict)), {})
        self.seen.append((hook, number, dict(figures)))

    def named(self, *hooks):
        return [(hook, number) for hook, number, _ in self.seen if hook in hooks]

    def logs(self):
        """The figures of the last batch, of the validation and of the epoch, for each epoch."""
        last = ("train_batch_end", STEPS - 1)
        ends = ("test_end", "epoch_end")
        return [logs for hook, number, logs in self.seen if hook in ends or (hook, number) == last]


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
    assert (calls.params["epochs"], calls.params["steps"]) == (3, STEPS)
    assert len(calls.logs()) == 6
    for told, other in zip(calls.logs(), wanted.logs(), strict=True):
        assert told == pytest.approx(other, abs=1e-4)
    by_epoch = [hook for hook in HOOKS if "batch" not in hook]
    assert calls.named(*by_epoch) == wanted.named(*by_epoch)
    # Steps are looked at together, and those left over too.
    batches = [number for _, number in calls.named("train_batch_begin", "train_batch_end")]
    assert batches == 2 * [0, 31, 32, 34]


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
