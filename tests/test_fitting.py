"""A fit keeps its best epoch, and resumes after an interruption.

Most tests fit a model of one weight w, whose answer is w and whose loss is |target - w|: every step
of gradient descent adds 1/2.
"""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from keras_lenet import artifacts
from keras_lenet.errors import Error
from keras_lenet.recipe import Train
from keras_lenet.training import setup
from keras_lenet.training.fit import Plan, State, fit

BOTH = pytest.mark.parametrize("namespace", [keras, tf_keras], ids=["keras", "tf_keras"])
STEPS = 2
NAN = float("nan")


class InterruptedFitError(Exception):
    pass


def within_a_quarter(targets, outputs):
    return keras.ops.cast(keras.ops.abs(targets - outputs) < 0.25, "float32")


def falling(targets, outputs):
    return 1 - outputs / 10


@functools.cache  # tracing takes most of the time
def _compiled(namespace, accuracy, averaging):
    layer = namespace.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
    model = namespace.Sequential([namespace.Input((1,)), layer])
    average = {"use_ema": True, "ema_momentum": averaging} if averaging else {}
    metric = namespace.metrics.MeanMetricWrapper(accuracy, name="accuracy")
    model.compile(namespace.optimizers.SGD(0.5, **average), "mae", metrics=[metric])
    model.optimizer.build(model.trainable_variables)
    return model, [variable.numpy() for variable in model.optimizer.variables]


def one_weight(namespace, accuracy=within_a_quarter, averaging=0.0):
    """The model, as it begins: w = 0, a learning rate of 1/2."""
    model, state = _compiled(namespace, accuracy, averaging)
    model.set_weights([np.zeros((1, 1), np.float32)])
    for variable, value in zip(model.optimizer.variables, state, strict=True):
        variable.assign(value)
    return model


def pairs(*targets):
    """A batch of one image for each target."""
    shape = (len(targets), 1, 1)
    return tf.data.Dataset.from_tensor_slices((tf.ones(shape), tf.constant(targets, shape=shape)))


def fitted(
    model, out, epochs=3, stop_after=None, validation=2.0, targets=(100.0,) * 8, by_loss=False
):
    """Fit to far targets, one a step, so that w is 1, 2, 3 after the epochs."""
    namespace = keras if isinstance(model, keras.Model) else tf_keras
    asked = []

    def batches(epochs, context=None):
        asked.append(epochs)
        return pairs(*targets[epochs.start * STEPS : epochs.stop * STEPS])

    def stop(epoch, logs):
        if epoch + 1 == stop_after:
            raise InterruptedFitError

    plan = Plan("train", out, epochs, STEPS, lambda step: step / 10, by_loss)
    last = namespace.callbacks.LambdaCallback(on_epoch_end=stop)
    return fit(namespace, model, batches, pairs(validation), plan, [last]), asked


def weight(model):
    return model.get_weights()[0].item()


def column(state, name):
    return [row[name] for row in state.history]


@BOTH
def test_fit_keeps_the_weights_of_its_best_epoch_not_of_its_last(tmp_path, namespace, capsys):
    model = one_weight(namespace)
    state, asked = fitted(model, tmp_path)
    assert asked == [range(3)]
    assert weight(model) == 2.0
    assert state.summary() == {"epochs": 3, "best_epoch": 2, "validation_accuracy": 1.0}
    assert (tmp_path / "history.csv").read_text() == (
        "epoch,loss,accuracy,val_loss,val_accuracy,learning_rate\n"
        "1,99.75,0.0,1.0,0.0,0.1\n"
        "2,98.75,0.0,0.0,1.0,0.3\n"
        "3,97.75,0.0,1.0,0.0,0.5\n"
    )
    said = " ".join(capsys.readouterr().err.split())
    assert (
        "train epoch 2/3: loss 98.7500, validation loss 0.0000, validation accuracy 100.00% "
        "(best so far) "
        "train epoch 3/3: loss 97.7500, validation loss 1.0000, validation accuracy 0.00%"
    ) in said
    assert not said.endswith("(best so far)")


@BOTH
def test_a_resumed_fit_remembers_its_best_epoch(tmp_path, namespace, capsys):
    with pytest.raises(InterruptedFitError):
        fitted(one_weight(namespace), tmp_path, epochs=4, stop_after=3)
    model = one_weight(namespace)
    state, asked = fitted(model, tmp_path, epochs=4)
    assert asked == [range(3, 4)]
    assert column(state, "val_loss") == [1.0, 0.0, 1.0, 2.0]
    assert (state.best, weight(model)) == (1, 2.0)
    assert "train: resuming after epoch 3" in capsys.readouterr().err
    assert (tmp_path / artifacts.CHECKPOINT).exists()
    model = one_weight(namespace)
    _, asked = fitted(model, tmp_path, epochs=4)
    assert asked == []
    assert weight(model) == 2.0


def test_a_plan_by_loss_keeps_the_epoch_of_lowest_loss(tmp_path):
    model = one_weight(keras, falling)
    fitted(model, tmp_path, by_loss=True)
    assert weight(model) == 2.0


@functools.cache
def classifier(settings):
    """A model of ten classes and one input, compiled as a recipe's `train` section says."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(10)])
    setup.compile_model(model, settings, STEPS, setup.cross_entropy)
    return model, [variable.numpy() for variable in (*model.weights, *model.optimizer.variables)]


@pytest.mark.parametrize(
    "settings",
    [
        {"weight_averaging": 0.9},
        {"optimizer": "sgd", "schedule": "step", "step_epochs": 1},
        {"optimizer": "muon", "weight_averaging": 0.9},
    ],
)
def test_a_resumed_fit_ends_where_an_uninterrupted_one_does(tmp_path, settings):
    settings = Train(epochs=4, learning_rate=0.1, **settings)

    def run(folder, stop_after=None):
        model, begin = classifier(settings)
        for variable, value in zip(
            (*model.weights, *model.optimizer.variables), begin, strict=True
        ):
            variable.assign(value)
        labels = (5.0, 1.0, 3.0, 4.0, 2.0, 6.0, 1.0, 2.0)
        state, _ = fitted(model, tmp_path / folder, 4, stop_after, 3.0, labels)
        return state, model.get_weights()

    whole, expected = run("whole")
    with pytest.raises(InterruptedFitError):
        run("parts", stop_after=2)
    resumed, weights = run("parts")
    assert resumed.history == whole.history
    assert len({row["val_loss"] for row in whole.history}) == 4
    for found, wanted in zip(weights, expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
    files = [(tmp_path / name / "history.csv").read_bytes() for name in ("whole", "parts")]
    assert files[0] == files[1]


@pytest.mark.parametrize(("validation", "kept"), [(1.5625, 1.5625), (50.0, 2.515625)])
def test_averaged_weights_are_validated_and_kept(tmp_path, validation, kept):
    """They lag: 0.5, (0.5 + 1)/2 = 0.75; (0.75 + 1.5)/2 = 1.125, (1.125 + 2)/2 = 1.5625; ..."""
    model = one_weight(keras, averaging=0.5)
    state, _ = fitted(model, tmp_path, validation=validation)
    averages = np.array([0.75, 1.5625, 2.515625])
    np.testing.assert_array_equal(column(state, "val_loss"), np.abs(validation - averages))
    assert weight(model) == kept
    # It is trained on from the weights themselves, as without averages.
    assert column(state, "loss") == [99.75, 98.75, 97.75]


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        ({"targets": (1.0, 1.0, 1.0, NAN)}, "loss became nan in epoch 2, batch 2"),
        ({"targets": (float("inf"),) * 6}, "loss became inf in epoch 1, batch 2"),
        ({"validation": NAN}, "validation loss became nan in epoch 1"),
    ],
)
def test_a_loss_that_is_not_finite_stops_the_fit(tmp_path, fault, complaint):
    advice = "; lower the learning rate or lengthen the warm-up"
    with pytest.raises(Error, match=f"^train: the {complaint}{advice}$"):
        fitted(one_weight(keras), tmp_path, **fault)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:200]),
        lambda path: path.write_text("no archive"),
        lambda path: np.savez(path, best_0=np.zeros(1)),
    ],
)
def test_a_damaged_checkpoint_is_not_used(tmp_path, damage, capsys):
    with pytest.raises(InterruptedFitError):
        fitted(one_weight(keras), tmp_path, stop_after=1)
    damage(tmp_path / artifacts.CHECKPOINT)
    _, asked = fitted(one_weight(keras), tmp_path)
    said = "".join(capsys.readouterr().err.split("\n"))
    assert "is damaged; starting again from the first epoch" in said
    assert asked == [range(3)]


@pytest.mark.parametrize(
    ("rows", "by_loss", "best"),
    [
        ([(0.8, 1.0), (0.9, 0.5), (0.9, 0.4), (0.9, 0.4), (0.85, 0.1)], False, 2),
        ([(0.9, 0.5), (0.8, 0.1), (0.85, 0.1)], True, 1),
    ],
)
def test_epochs_are_ranked_by_accuracy_then_loss_or_by_loss_alone(rows, by_loss, best):
    state = State()
    for number, (accuracy, loss) in enumerate(rows):
        state.add({"val_accuracy": accuracy, "val_loss": loss}, [np.array(number)], by_loss)
    assert (state.best, state.best_weights) == (best, [np.array(best)])
