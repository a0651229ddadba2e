"""Training and quantization go on after an interruption as if there had been none."""

import keras
import numpy as np
import pytest
import tf_keras
from scipy.special import softmax

from keras_lenet import artifacts, models
from keras_lenet.data import loading
from keras_lenet.errors import Error
from keras_lenet.recipe import Augment, Model, Recipe, Train
from keras_lenet.stages import fitting, train

EPOCHS, STEPS = 3, 5  # 360 training images in batches of 64


class InterruptedFitError(Exception):
    pass


@pytest.fixture(scope="module")
def splits(synthetic):
    return loading.load_training(str(synthetic), None, 0.1, seed=0)


def fit(namespace, splits, out, stop_after=None, **settings):
    namespace.utils.set_random_seed(0)
    keras.config.set_dtype_policy(settings.get("precision", "float32"))
    model = models.build(namespace, Model())
    keras.config.set_dtype_policy("float32")
    schedule = tf_keras.optimizers.schedules.CosineDecay(1e-3, EPOCHS * STEPS)
    if namespace is keras:
        recipe = Recipe(name="test", train=Train(epochs=EPOCHS, **settings))
        train.compile_model(model, recipe.train, STEPS, train.loss(recipe))
    else:
        model.compile(
            tf_keras.optimizers.Adam(schedule),
            fitting.cross_entropy,
            metrics=[fitting.accuracy(tf_keras)],
        )
        model.optimizer.build(model.trainable_variables)

    def batches(epochs, context=None):
        return loading.training_batches(
            splits[0], Augment(), size=32, batch_size=64, seed=0, epochs=epochs, context=context
        )

    def stop(epoch, logs):
        if epoch + 1 == stop_after:
            raise InterruptedFitError

    state = fitting.fit(
        namespace,
        model,
        batches,
        loading.plain_batches(splits[1], 32),
        epochs=EPOCHS,
        steps=STEPS,
        out=out,
        title="train",
        schedule=schedule,
        averaged=bool(settings.get("weight_averaging")),
        callbacks=(namespace.callbacks.LambdaCallback(on_epoch_end=stop),),
    )
    return state, model.get_weights()


@pytest.mark.parametrize(
    ("namespace", "settings"),
    [
        (keras, {}),
        (keras, {"weight_averaging": 0.9, "label_smoothing": 0.1}),
        (keras, {"optimizer": "sgd", "schedule": "step", "step_epochs": 1}),
        (keras, {"optimizer": "muon", "weight_averaging": 0.9}),
        (keras, {"precision": "mixed_float16"}),
        (tf_keras, {}),
    ],
    ids=["adamw", "averaged", "sgd", "muon", "float16", "tf_keras"],
)
def test_a_resumed_fit_ends_where_an_uninterrupted_one_does(tmp_path, splits, namespace, settings):
    whole, expected = fit(namespace, splits, tmp_path / "whole", **settings)
    with pytest.raises(InterruptedFitError):
        fit(namespace, splits, tmp_path / "parts", stop_after=2, **settings)
    resumed, weights = fit(namespace, splits, tmp_path / "parts", **settings)
    assert resumed.history == whole.history
    for found, wanted in zip(weights, expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
    history = (tmp_path / "parts" / "history.csv").read_bytes()
    assert history == (tmp_path / "whole" / "history.csv").read_bytes()
    assert (tmp_path / "parts" / artifacts.CHECKPOINT).exists()  # until the result is safe


def test_a_damaged_checkpoint_is_said_and_not_used(tmp_path, splits, capfd):
    with pytest.raises(InterruptedFitError):
        fit(keras, splits, tmp_path, stop_after=1)
    checkpoint = tmp_path / artifacts.CHECKPOINT
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 1
    checkpoint.write_bytes(content)
    state, _ = fit(keras, splits, tmp_path)
    assert "is damaged; starting again" in capfd.readouterr().err
    assert len(state.history) == EPOCHS


def test_a_loss_that_is_no_number_stops_the_fit_with_advice(tmp_path, splits):
    with pytest.raises(Error, match=r"train: the loss became (nan|inf) in epoch \d.*learning rate"):
        fit(keras, splits, tmp_path, optimizer="sgd", learning_rate=1e6, warmup_epochs=0)


def test_the_best_epoch_is_that_of_highest_validation_accuracy_then_lowest_loss():
    state = fitting.State()
    for number, (accuracy, loss) in enumerate([(0.8, 1.0), (0.9, 0.5), (0.9, 0.4), (0.85, 0.1)]):
        state.add({"val_accuracy": accuracy, "val_loss": loss}, [np.array(number)])
    assert state.best == 2
    assert state.best_weights == [np.array(2)]


def test_by_loss_the_best_epoch_is_that_of_lowest_validation_loss():
    state = fitting.State(by_loss=True)
    for number, (accuracy, loss) in enumerate([(0.9, 0.5), (0.8, 0.1), (0.85, 0.2)]):
        state.add({"val_accuracy": accuracy, "val_loss": loss}, [np.array(number)])
    assert state.best == 1
    assert state.best_weights == [np.array(1)]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"schedule": "constant"}, {0: 0.1, 9: 1.0, 10: 1.0, 99: 1.0}),
        ({"schedule": "cosine"}, {4: 0.5, 10: 1.0, 55: 0.5, 100: 0.0}),
        (
            {"schedule": "step", "step_epochs": 2, "step_factor": 0.5},
            {10: 1.0, 29: 1.0, 30: 0.5, 50: 0.25},
        ),
    ],
)
def test_schedules_at_known_steps(settings, expected):
    schedule = train.Schedule(
        Train(epochs=10, warmup_epochs=1, learning_rate=1.0, **settings), steps=10
    )
    found = {step: float(schedule(step)) for step in expected}
    assert found == pytest.approx(expected, abs=1e-6)


def test_cross_entropy_of_a_class_and_of_none():
    logits = np.random.default_rng(0).normal(0, 3, (6, 10)).astype(np.float32)
    labels = np.array([0, 3, 9, 9, 1, loading.NO_CLASS])
    found = np.array(fitting.cross_entropy(labels, logits))
    log_probabilities = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    expected = [-row[label] for row, label in zip(log_probabilities[:5], labels[:5], strict=True)]
    np.testing.assert_allclose(found[:5], expected, rtol=1e-5)
    np.testing.assert_allclose(found[5], -log_probabilities[5].mean(), rtol=1e-5)
    smoothed = np.array(fitting.cross_entropy(labels, logits, label_smoothing=0.2))
    np.testing.assert_allclose(smoothed, 0.8 * found - 0.2 * log_probabilities.mean(1), rtol=1e-5)


@pytest.mark.parametrize("namespace", [keras, tf_keras])
def test_accuracy_leaves_out_what_has_no_class(namespace):
    metric = fitting.accuracy(namespace)
    logits = np.eye(10, dtype=np.float32)[[0, 1, 2, 3]]
    metric.update_state(np.array([0, 1, 5, loading.NO_CLASS]), logits)
    assert metric.name == "accuracy"
    assert float(metric.result()) == pytest.approx(2 / 3)


def test_distillation_is_the_softened_divergence():
    generator = np.random.default_rng(0)
    teachers, logits = generator.normal(0, 3, (2, 5, 10)).astype(np.float32)
    targets = np.concatenate([np.zeros((5, 1), np.float32), teachers], axis=1)
    found = np.array(fitting.distillation(targets, logits, 4.0))
    p, q = softmax(teachers / 4, axis=1), softmax(logits / 4, axis=1)
    np.testing.assert_allclose(found, 16 * (p * np.log(p / q)).sum(1), rtol=1e-4)
    same = np.array(fitting.distillation(targets, teachers + 5, 4.0))
    np.testing.assert_allclose(same, 0, atol=1e-4)


@pytest.mark.parametrize("namespace", [keras, tf_keras])
def test_accuracy_goes_by_the_label_where_teachers_answer_too(namespace):
    metric = fitting.accuracy(namespace)
    logits = np.eye(10, dtype=np.float32)[[0, 1, 2, 3]]
    labels = np.array([[0], [1], [5], [loading.NO_CLASS]], np.float32)
    metric.update_state(np.concatenate([labels, logits[::-1]], axis=1), logits)
    assert float(metric.result()) == pytest.approx(2 / 3)
