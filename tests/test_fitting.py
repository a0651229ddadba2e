"""A fit keeps its best epoch, and goes on after an interruption as if there had been none.

Most of it on a model of one weight w, whose answer is w and whose loss is |target - w|: every step
of gradient descent takes it half a unit further.
"""

import contextlib
import functools
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from scipy.special import log_softmax, softmax

from keras_lenet import artifacts, console
from keras_lenet.data.loading import NO_CLASS
from keras_lenet.errors import Error
from keras_lenet.recipe import Recipe, Train
from keras_lenet.training import losses, setup
from keras_lenet.training.fit import State, fit

BOTH = pytest.mark.parametrize("namespace", [keras, tf_keras], ids=["keras", "tf_keras"])
STEPS = 2
NAN = float("nan")


class InterruptedFitError(Exception):
    pass


def within_a_quarter(targets, outputs):
    return keras.ops.cast(keras.ops.abs(targets - outputs) < 0.25, "float32")


def below(targets, outputs):
    return keras.ops.cast(outputs < 1.5, "float32")


def rising(targets, outputs):
    return outputs / 10


@functools.cache  # compiled once, since tracing takes most of the time
def _compiled(namespace, loss, accuracy, averaging):
    layer = namespace.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
    model = namespace.Sequential([namespace.Input((1,)), layer])
    average = {"use_ema": True, "ema_momentum": averaging} if averaging else {}
    metric = namespace.metrics.MeanMetricWrapper(accuracy, name="accuracy")
    model.compile(namespace.optimizers.SGD(0.5, **average), loss, metrics=[metric])
    model.optimizer.build(model.trainable_variables)
    return model, [variable.numpy() for variable in model.optimizer.variables]


def one_weight(namespace, loss="mean_absolute_error", accuracy=within_a_quarter, averaging=0.0):
    """The model, as it begins: w = 0, a learning rate of 1/2."""
    model, state = _compiled(namespace, loss, accuracy, averaging)
    model.set_weights([np.zeros((1, 1), np.float32)])
    for variable, value in zip(model.optimizer.variables, state, strict=True):
        variable.assign(value)
    return model


def pairs(*targets):
    """A batch of one image for each target."""
    shape = (len(targets), 1, 1)
    return tf.data.Dataset.from_tensor_slices((tf.ones(shape), tf.constant(targets, shape=shape)))


def fitted(model, out, epochs=3, stop_after=None, validation=2.0, targets=(100.0,) * 8, **settings):
    """Fit to far targets, one a step, so that w is 1, 2, 3 after the epochs; best where told."""
    namespace = keras if isinstance(model, keras.Model) else tf_keras
    asked = []

    def batches(epochs, context=None):
        asked.append(epochs)
        return pairs(*targets[epochs.start * STEPS : epochs.stop * STEPS])

    def stop(epoch, logs):
        if epoch + 1 == stop_after:
            raise InterruptedFitError

    state = fit(
        namespace,
        model,
        batches,
        pairs(validation) if isinstance(validation, float) else validation,
        epochs=epochs,
        steps=STEPS,
        out=out,
        title="train",
        schedule=lambda step: step / 10,
        callbacks=(namespace.callbacks.LambdaCallback(on_epoch_end=stop),),
        **settings,
    )
    return state, asked


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
        "train epoch 1/3: loss 99.7500, validation loss 1.0000, validation accuracy 0.00% "
        "(best so far) "
        "train epoch 2/3: loss 98.7500, validation loss 0.0000, validation accuracy 100.00% "
        "(best so far) "
        "train epoch 3/3: loss 97.7500, validation loss 1.0000, validation accuracy 0.00%"
    ) in said
    assert not said.endswith("(best so far)")


@pytest.mark.parametrize(("by_loss", "kept"), [(False, 1.0), (True, 2.0)])
def test_fit_ranks_epochs_by_loss_alone_where_told(tmp_path, by_loss, kept):
    model = one_weight(keras, accuracy=below)
    fitted(model, tmp_path, by_loss=by_loss)
    assert weight(model) == kept


@BOTH
def test_a_resumed_fit_remembers_its_best_epoch(tmp_path, namespace, capsys):
    with pytest.raises(InterruptedFitError):
        fitted(one_weight(namespace), tmp_path, epochs=4, stop_after=3)
    model = one_weight(namespace)
    state, asked = fitted(model, tmp_path, epochs=4)
    assert asked == [range(3, 4)]
    assert column(state, "val_loss") == [1.0, 0.0, 1.0, 2.0]
    assert state.best == 1
    assert weight(model) == 2.0
    assert "train: resuming after epoch 3" in capsys.readouterr().err
    assert (tmp_path / artifacts.CHECKPOINT).exists()  # until the result is safe


def test_a_resumed_fit_by_loss_goes_on_by_loss(tmp_path):
    with pytest.raises(InterruptedFitError):
        fitted(one_weight(keras, accuracy=rising), tmp_path, stop_after=2, by_loss=True)
    model = one_weight(keras, accuracy=rising)
    fitted(model, tmp_path, by_loss=True)
    assert weight(model) == 2.0


def test_a_finished_fit_takes_no_further_step(tmp_path):
    fitted(one_weight(keras), tmp_path)
    model = one_weight(keras)
    state, asked = fitted(model, tmp_path)
    assert asked == []
    assert (state.best, weight(model)) == (1, 2.0)


def optimizers():
    """Everything that a fit has to go on with: momentum, velocities, averages, the step."""
    settings = {
        "adamw": {},
        "averaged": {"weight_averaging": 0.9},
        "sgd": {"optimizer": "sgd", "schedule": "step", "step_epochs": 1},
        "muon": {"optimizer": "muon", "weight_averaging": 0.9},
        "float16": {"precision": "mixed_float16"},
    }
    return pytest.mark.parametrize("settings", settings.values(), ids=settings)


@functools.cache
def classifier(settings):
    """A model of ten classes and one input, compiled as a recipe's `train` section says."""
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(settings.precision)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(10)])
    keras.config.set_dtype_policy("float32")
    setup.compile_model(model, settings, STEPS, losses.cross_entropy)
    return model, [variable.numpy() for variable in (*model.weights, *model.optimizer.variables)]


@optimizers()
def test_a_resumed_fit_ends_where_an_uninterrupted_one_does(tmp_path, settings):
    settings = Train(epochs=4, learning_rate=0.1, **settings)
    averaged = settings.weight_averaging > 0

    def run(folder, stop_after=None):
        model, begin = classifier(settings)
        for variable, value in zip(
            (*model.weights, *model.optimizer.variables), begin, strict=True
        ):
            variable.assign(value)
        labels = (5.0, 1.0, 3.0, 4.0, 2.0, 6.0, 1.0, 2.0)
        state, _ = fitted(model, tmp_path / folder, 4, stop_after, 3.0, labels, averaged=averaged)
        return state, model.get_weights()

    whole, expected = run("whole")
    with pytest.raises(InterruptedFitError):
        run("parts", stop_after=2)
    resumed, weights = run("parts")
    assert resumed.history == whole.history
    assert len({row["val_loss"] for row in whole.history}) == 4
    for found, wanted in zip(weights, expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
    history = (tmp_path / "parts" / "history.csv").read_bytes()
    assert history == (tmp_path / "whole" / "history.csv").read_bytes()


def test_averaged_weights_are_validated_and_kept(tmp_path):
    """They lag: 0.5, (0.5 + 1)/2 = 0.75; (0.75 + 1.5)/2 = 1.125, (1.125 + 2)/2 = 1.5625; ..."""
    model = one_weight(keras, averaging=0.5)
    state, _ = fitted(model, tmp_path, validation=1.5625, averaged=True)
    assert column(state, "val_loss") == [0.8125, 0.0, 0.953125]
    assert weight(model) == 1.5625
    # It is trained on from the weights themselves, as without averages.
    assert column(state, "loss") == [99.75, 98.75, 97.75]


def test_averages_of_the_last_epoch_are_kept_where_it_is_the_best(tmp_path):
    model = one_weight(keras, averaging=0.5)
    fitted(model, tmp_path, validation=50.0, averaged=True)
    assert weight(model) == 2.515625


def test_a_loss_that_is_no_number_stops_the_fit_with_advice(tmp_path):
    complaint = (
        r"^train: the loss became nan in epoch 2, batch 2; lower the learning rate or lengthen"
        r" the warm-up$"
    )
    with pytest.raises(Error, match=complaint):
        fitted(one_weight(keras), tmp_path, targets=(100.0, 100.0, 100.0, NAN))
    with pytest.raises(Error, match="the loss became inf in epoch 1"):
        fitted(one_weight(keras), tmp_path / "infinite", targets=(float("inf"),) * 6)


def damages():
    whole = {"history": [], "best": -1}

    def archive(**arrays):
        def write(path):
            np.savez(path, **arrays)

        return write

    def flipped(path):
        content = bytearray(path.read_bytes())
        content[content.index("history".encode("utf-32-le"))] ^= 1
        path.write_bytes(content)

    kinds = {
        "empty": lambda path: path.write_bytes(b""),
        "text": lambda path: path.write_text("no archive"),
        "cut": lambda path: path.write_bytes(path.read_bytes()[:200]),
        "flipped": flipped,
        "without progress": archive(best_0=np.zeros(1)),
        "another progress": archive(progress=np.array(json.dumps(whole | {"new": 1}))),
        "no json": archive(progress=np.array("{")),
    }
    return pytest.mark.parametrize("damage", kinds.values(), ids=kinds)


@damages()
def test_a_damaged_checkpoint_is_said_and_not_used(tmp_path, damage, capsys):
    with pytest.raises(InterruptedFitError):
        fitted(one_weight(keras), tmp_path, stop_after=1)
    damage(tmp_path / artifacts.CHECKPOINT)
    state, asked = fitted(one_weight(keras), tmp_path, by_loss=True)
    said = "".join(capsys.readouterr().err.split("\n"))
    assert "is damaged; starting again from the first epoch" in said
    assert asked == [range(3)]
    assert state.by_loss
    assert column(state, "val_loss") == [1.0, 0.0, 1.0]


def test_progress_counts_steps_and_goes_on_where_it_was(tmp_path, monkeypatch):
    told = []

    class Bar:
        def add_task(self, title, **numbers):
            told.append((title, numbers))
            return "task"

        def update(self, task, completed):
            told.append((task, completed))

    monkeypatch.setattr(console, "progress", lambda: contextlib.nullcontext(Bar()))
    with pytest.raises(InterruptedFitError):
        fitted(one_weight(keras), tmp_path, stop_after=1)
    fitted(one_weight(keras), tmp_path)
    assert told == [
        ("train", {"total": 6, "completed": 0}),
        ("task", 2),
        ("train", {"total": 6, "completed": 2}),
        ("task", 4),
        ("task", 6),
    ]


def ranked(rows, by_loss=False):
    """Which of epochs with such (accuracy, loss) is the best; its weights are its number."""
    state = State(by_loss)
    for number, (accuracy, loss) in enumerate(rows):
        state.add({"val_accuracy": accuracy, "val_loss": loss}, [np.array(number)])
    assert state.best_weights == [np.array(state.best)]
    return state.best


@pytest.mark.parametrize(
    ("rows", "best"),
    [
        ([(0.8, 1.0), (0.9, 0.5), (0.9, 0.4), (0.85, 0.1)], 2),  # accuracy, then loss
        ([(0.9, 0.5), (0.9, 0.5)], 0),  # the first of equals
    ],
)
def test_the_best_epoch_is_that_of_highest_validation_accuracy_then_lowest_loss(rows, best):
    assert ranked(rows) == best


def test_by_loss_the_best_epoch_is_that_of_lowest_validation_loss():
    assert ranked([(0.9, 0.5), (0.8, 0.1), (0.85, 0.2)], by_loss=True) == 1
    assert ranked([(0.8, 0.1), (0.9, 0.1)], by_loss=True) == 0


@pytest.mark.parametrize("by_loss", [False, True])
@pytest.mark.parametrize("broken", [(0.9, NAN), (NAN, 0.1), (NAN, NAN), (0.9, float("inf"))])
def test_an_epoch_without_finite_figures_ranks_last(broken, by_loss):
    assert ranked([broken, (0.1, 2.0)], by_loss) == 1
    assert ranked([(0.1, 2.0), broken], by_loss) == 0
    assert ranked([broken, broken, (0.1, 2.0), (0.2, 1.0), broken], by_loss) == 3


def test_a_validation_loss_that_is_no_number_at_first_is_not_kept_for_ever(tmp_path):
    answers = iter([NAN, 2.0, 2.0])

    def changing():
        yield np.ones((1, 1), np.float32), np.full((1, 1), next(answers), np.float32)

    shape = tf.TensorSpec((1, 1))
    validation = tf.data.Dataset.from_generator(changing, output_signature=(shape, shape))
    model = one_weight(keras)
    state, _ = fitted(model, tmp_path, validation=validation, by_loss=True)
    assert [str(loss) for loss in column(state, "val_loss")] == ["nan", "0.0", "1.0"]
    assert (state.best, weight(model)) == (1, 2.0)


@pytest.mark.parametrize("attempt", ["at once", "resumed"])
def test_a_fit_without_one_finite_epoch_is_refused(tmp_path, attempt):
    if attempt == "resumed":
        with pytest.raises(InterruptedFitError):
            fitted(one_weight(keras), tmp_path, validation=NAN, stop_after=2)
    complaint = (
        r"^train: the validation loss was not finite after any of 3 epochs; lower the learning"
        r" rate or lengthen the warm-up$"
    )
    with pytest.raises(Error, match=complaint):
        fitted(one_weight(keras), tmp_path, validation=NAN)


def test_cross_entropy_of_a_class_and_of_none():
    logits = np.random.default_rng(0).normal(0, 3, (6, 10)).astype(np.float32)
    labels = np.array([0, 3, 9, 9, 1, NO_CLASS])
    found = np.array(losses.cross_entropy(labels, logits))
    log_probabilities = log_softmax(logits, axis=1)
    expected = [-row[label] for row, label in zip(log_probabilities[:5], labels[:5], strict=True)]
    np.testing.assert_allclose(found[:5], expected, rtol=1e-5)
    np.testing.assert_allclose(found[5], -log_probabilities[5].mean(), rtol=1e-5)
    column = np.array(losses.cross_entropy(labels[:, np.newaxis], logits))
    np.testing.assert_array_equal(column, found)
    smoothed = np.array(losses.cross_entropy(labels, logits, label_smoothing=0.2))
    np.testing.assert_allclose(smoothed, 0.8 * found - 0.2 * log_probabilities.mean(1), rtol=1e-5)


def with_teachers(labels, logits):
    return np.concatenate([np.reshape(labels, (-1, 1)), logits], axis=1).astype(np.float32)


def test_distillation_is_the_softened_divergence():
    teachers, logits = np.random.default_rng(0).normal(0, 3, (2, 5, 10)).astype(np.float32)
    found = np.array(losses.distillation(with_teachers(np.zeros(5), teachers), logits, 4.0))
    p, q = softmax(teachers / 4, axis=1), softmax(logits / 4, axis=1)
    np.testing.assert_allclose(found, 16 * (p * np.log(p / q)).sum(1), rtol=1e-4)
    same = np.array(losses.distillation(with_teachers(np.ones(5), teachers), teachers + 5, 4.0))
    np.testing.assert_allclose(same, 0, atol=1e-4)


def test_losses_of_half_precision_logits_are_computed_in_full():
    logits = np.random.default_rng(0).normal(0, 3, (5, 10)).astype(np.float16)
    teachers = with_teachers(np.ones(5), logits[::-1])
    for loss, targets in (
        (losses.cross_entropy, np.arange(5)),
        (functools.partial(losses.distillation, temperature=2.0), teachers),
    ):
        found = np.array(loss(targets, logits))
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, loss(targets, logits.astype(np.float32)))


@BOTH
def test_accuracy_leaves_out_what_has_no_class(namespace):
    metric = losses.accuracy(namespace)
    logits = np.eye(10, dtype=np.float32)[[0, 1, 2, 3]]
    metric.update_state(np.array([0, 1, 5, NO_CLASS]), logits)
    assert metric.name == "accuracy"
    assert float(metric.result()) == pytest.approx(2 / 3)


@BOTH
def test_accuracy_goes_by_the_label_where_teachers_answer_too(namespace):
    metric = losses.accuracy(namespace)
    logits = np.eye(10, dtype=np.float32)[[0, 1, 2, 3]]
    metric.update_state(with_teachers([0, 1, 5, NO_CLASS], logits[::-1]), logits)
    assert float(metric.result()) == pytest.approx(2 / 3)


def test_the_recipes_label_smoothing_is_minimized():
    labels, logits = np.array([3, 1], np.uint8), np.eye(10, dtype=np.float32)[:2] * 5
    chosen = losses.chosen(Recipe(name="one", train=Train(label_smoothing=0.3)))
    expected = losses.cross_entropy(labels, logits, 0.3)
    np.testing.assert_array_equal(chosen(labels, logits), expected)
    assert not np.allclose(expected, losses.cross_entropy(labels, logits))
