"""The training loop repeats Keras' own, and two logical CPUs give the losses of one device."""

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
sys.path.insert(0, sys.argv[3])

import keras
import tiny

from keras_lenet import models, recipe
from keras_lenet.reporting import plots
from keras_lenet.stages import train
from keras_lenet.training import setup

out, dataset = Path(sys.argv[1]), sys.argv[2]
trained = functools.partial(tiny.network, normalized=True)
models.MODELS["tiny"] = models.Architecture("tiny", tiny.network, 28, trained=trained)
setup.prepare_devices = lambda: None
plots.contact_sheet = plots.save = lambda *_: None
augmented = setup.augmented
one, two = tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def fit(folder, strategy, batches=-1):
    "Train; cut off after so many shares of batches."
    settings = (
        "model.name=tiny", f"data.dataset={dataset}", "data.validation_split=0.25",
        "train.epochs=2", "train.batch_size=10", "train.learning_rate=0.01",
        "train.weight_averaging=0.8",
    )
    wanted = recipe.from_overrides("test", settings)
    setup.augmented = lambda *settings: lambda **which: augmented(*settings)(**which).take(batches)
    setup.strategy = lambda *_: strategy
    train.run(tiny.context(wanted, out / folder))
    weights = keras.models.load_model(out / folder / "model.keras").get_weights()
    return [list(row.values()) for row in tiny.history(out / folder)], weights[-2].tolist()


found = [fit("one", one), fit("two", two)]
try:
    fit("resumed", two, batches=2 * 3)
except tf.errors.OutOfRangeError:
    found.append(fit("resumed", two))
print(json.dumps(found))
"""


@pytest.mark.slow
def test_two_devices_give_the_losses_of_one_and_resume(tmp_path):
    dataset = write_dataset(tmp_path / "images", train=40, test=10)
    command = [sys.executable, "-c", BOTH, tmp_path, dataset, Path(__file__).parent]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    one, two, resumed = json.loads(result.stdout)
    assert len(one[0]) == 2
    # Batch statistics of several devices are computed by another formula.
    np.testing.assert_allclose(two[0], one[0], rtol=1e-3)
    assert resumed == two
    assert "train: resuming after epoch 1" in result.stderr


class Calls(keras.callbacks.Callback):
    """A record of what callbacks are told, in order: hook, epoch or batch, and logs."""

    def __init__(self):
        super().__init__()
        self.seen = []
        for event in ("train", "epoch", "train_batch", "test"):
            for hook in (f"{event}_begin", f"{event}_end"):
                setattr(self, f"on_{hook}", functools.partial(self.note, hook))

    def note(self, hook, *told, logs=None):
        number = next((one for one in told if isinstance(one, int)), None)
        figures = next((one for one in (*told, logs) if isinstance(one, dict)), {})
        self.seen.append((hook, number, dict(figures)))

    def epochs(self):
        """All calls but those of batches."""
        return [(hook, number) for hook, number, _ in self.seen if "batch" not in hook]

    def batches(self):
        return [number for hook, number, _ in self.seen if "batch" in hook]

    def logs(self):
        """The figures of the last batch, of the validation and of the epoch, for each epoch."""
        last, ends = ("train_batch_end", STEPS - 1), ("test_end", "epoch_end")
        return [logs for hook, number, logs in self.seen if hook in ends or (hook, number) == last]


STEPS = 35


@pytest.fixture(scope="module")
def few():
    """Batches of 4: two numbers and their sum's sign, as many as an epoch takes."""
    inputs = np.random.default_rng(0).normal(size=(STEPS * 4, 2)).astype(np.float32)
    return tf.data.Dataset.from_tensor_slices((inputs, inputs.sum(axis=1) > 0)).batch(4)


def compiled(xla=False):
    keras.utils.set_random_seed(0)
    layers = [keras.Input((2,)), keras.layers.Dense(2, activation="softmax")]
    model = keras.Sequential(layers)
    loss = "sparse_categorical_crossentropy"
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"], jit_compile=xla)
    return model


@pytest.mark.parametrize("xla", [False, True])  # as on a single GPU
def test_the_loop_takes_the_steps_of_keras_and_calls_its_callbacks(few, xla):
    keras_own, wanted = compiled(), Calls()
    given = {"validation_data": few.take(3), "callbacks": [wanted], "shuffle": False, "verbose": 0}
    keras_own.fit(few, initial_epoch=1, epochs=3, **given)
    model, calls = compiled(xla), Calls()

    def batches(epochs, context):
        assert (epochs, context.num_replicas_in_sync) == (range(1, 3), 1)
        return few.repeat(len(epochs))

    take_steps(model, batches, few.take(3), epochs=range(1, 3), steps=STEPS, callbacks=[calls])
    for mine, other in zip(model.get_weights(), keras_own.get_weights(), strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-5)
    assert (calls.params["epochs"], calls.params["steps"]) == (3, STEPS)
    assert len(calls.logs()) == 6
    for told, other in zip(calls.logs(), wanted.logs(), strict=True):
        assert told == pytest.approx(other, abs=1e-4)
    assert calls.epochs() == wanted.epochs()
    assert calls.batches() == 2 * [0, 31, 32, 34]
