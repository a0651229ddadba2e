"""Learning rate, optimizer, loss and metric."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
import tiny
from scipy.special import log_softmax

from keras_lenet import models
from keras_lenet.data.loading import NO_CLASS
from keras_lenet.errors import Error
from keras_lenet.recipe import Distill, Model, Recipe, Train
from keras_lenet.training import setup


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"schedule": "constant"}, {0: 0.2, 9: 2.0, 10: 2.0, 99: 2.0}),
        ({"schedule": "cosine", "warmup_epochs": 2}, {0: 0.1, 19: 2.0, 60: 1.0, 100: 0.0}),
        ({"schedule": "cosine", "warmup_epochs": 0}, {0: 2.0, 50: 1.0, 75: 0.2928932, 100: 0.0}),
        ({"schedule": "step", "step_epochs": 2, "step_factor": 0.5},
         {4: 1.0, 10: 2.0, 29: 2.0, 30: 1.0, 50: 0.5}),
    ],
)  # fmt: skip
def test_schedules_at_known_steps(settings, expected):
    settings = {"warmup_epochs": 1} | settings
    schedule = setup.Schedule(Train(epochs=10, learning_rate=2.0, **settings), steps=10)
    found = {step: float(schedule(step)) for step in expected}
    assert found == pytest.approx(expected, abs=1e-6)


def compiled(settings, steps=1):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    setup.compile_model(model, settings, steps, keras.losses.mean_squared_error)
    return model


def stepped(settings, *gradients):
    """The weights and the bias after one step for each gradient."""
    model = compiled(settings)
    model.set_weights([np.array([[1.0], [-2.0]]), np.array([3.0])])
    for first, second, third in gradients:
        gradient = [tf.constant([[first], [second]], tf.float32), tf.constant([third], tf.float32)]
        model.optimizer.apply(gradient)
    return np.concatenate([values.ravel() for values in model.get_weights()])


def settings(optimizer, **more):
    steady = {"schedule": "constant", "warmup_epochs": 0, "learning_rate": 0.1, "weight_decay": 0.0}
    return Train(optimizer=optimizer, **(steady | more))


@pytest.mark.parametrize(
    ("chosen", "gradient", "steps", "expected"),
    [
        (settings("sgd", momentum=0.0), (1, 2, -3), 2, [0.8, -2.4, 3.6]),
        # Nesterov: v = 0.9 v - 0.1 g, and 0.9 v - 0.1 g is added: -0.19 g, then -0.271 g.
        (settings("sgd", momentum=0.9), (1, 2, -3), 2, [1 - 0.461, -2 - 0.922, 3 + 1.383]),
        # Adam's step has the size of the learning rate; the decay is added.
        (settings("adamw", weight_decay=0.5), (1e-3, 5, -100), 1, [0.85, -2.0, 2.95]),
        # Half of a linear warm-up.
        (settings("adamw", warmup_epochs=2, epochs=3), (1, 1, -1), 1, [0.95, -2.05, 3.05]),
        (settings("adamw", weight_decay=0.5), (0, 0, 0), 1, [0.95, -1.9, 2.85]),
        (settings("sgd", weight_decay=0.5), (0, 0, 0), 1, [0.95, -1.9, 2.85]),
        (settings("muon", weight_decay=0.5), (0, 0, 0), 1, [0.95, -1.9, 2.85]),
    ],
)
def test_optimizers_take_known_steps(chosen, gradient, steps, expected):
    np.testing.assert_allclose(stepped(chosen, *[gradient] * steps), expected, rtol=1e-3)


RATE, MOMENTUM = 0.1, 0.95


def muon(start, *gradients, **settings):
    """A variable after one step of Muon for each gradient."""
    variable = keras.Variable(np.asarray(start, np.float32))
    chosen = setup.Muon(RATE, **({"weight_decay": 0.0, "adam_weight_decay": 0.0} | settings))
    for gradient in gradients:
        chosen.apply([keras.ops.convert_to_tensor(gradient, "float32")], [variable])
    return variable.numpy()


def orthogonalized(matrix):
    """By Jordan's five iterations, which act on each singular value alone: 2024, "Muon"."""
    left, singular, right = np.linalg.svd(matrix, full_matrices=False)
    singular = singular / np.linalg.norm(matrix)
    for _ in range(5):
        singular = 3.4445 * singular - 4.7750 * singular**3 + 2.0315 * singular**5
    return left * singular @ right


def test_muon_takes_two_known_steps_of_a_matrix():
    """Nesterov's momentum, orthogonalized, times 0.2 and the root of the longer side."""
    first, second = np.array([[[3.0, 1.0], [0.0, 2.0]], [[-1.0, 0.5], [4.0, 1.0]]])
    scale = RATE * 0.2 * np.sqrt(2)
    after_one = -scale * orthogonalized((1 + MOMENTUM) * first)
    np.testing.assert_allclose(muon(np.zeros((2, 2)), first), after_one, rtol=1e-4)
    after_two = after_one - scale * orthogonalized(second + MOMENTUM * (second + MOMENTUM * first))
    np.testing.assert_allclose(muon(np.zeros((2, 2)), first, second), after_two, rtol=1e-3)


@pytest.mark.parametrize("shape", [(10, 24), (3, 3, 4, 8)])
def test_muon_takes_a_kernel_as_the_matrix_of_its_inputs_and_outputs(shape):
    gradient = np.random.default_rng(0).normal(size=shape)
    matrix = gradient.reshape(-1, shape[-1])
    scale = RATE * 0.2 * np.sqrt(max(matrix.shape))
    expected = (-scale * orthogonalized(matrix)).reshape(shape)
    np.testing.assert_allclose(muon(np.zeros(shape), gradient), expected, atol=2e-4)


def test_muon_leaves_biases_to_adam():
    gradient = np.array([3.0, -0.01])
    np.testing.assert_allclose(muon(np.zeros(2), gradient), -RATE * np.sign(gradient), rtol=1e-3)
    decayed = muon(np.full(2, 4.0), np.zeros(2), adam_weight_decay=0.5)
    np.testing.assert_allclose(decayed, np.full(2, 3.8), rtol=1e-6)


@pytest.mark.parametrize("averaging", [0.0, 0.75])
def test_weights_are_averaged_with_the_recipes_momentum(averaging):
    chosen = compiled(settings("adamw", weight_averaging=averaging)).optimizer
    assert chosen.use_ema == (averaging > 0)
    assert not averaging or chosen.ema_momentum == averaging
    assert chosen.built  # its state can be set


@pytest.mark.parametrize(("gpus", "jit"), [(0, False), (1, True), (2, False)])
def test_xla_is_for_a_single_gpu(monkeypatch, gpus, jit):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: ["GPU"] * gpus)
    model = compiled(Train(), 64)
    assert (model.jit_compile, model.steps_per_execution) == (jit, 1)


@pytest.mark.parametrize(("steps", "together"), [(5, 5), (210, 30), (211, 1)])
def test_steps_that_jax_takes_together_make_up_an_epoch(monkeypatch, steps, together):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    assert compiled(Train(), steps).steps_per_execution == together


LOGITS, TEACHERS = np.random.default_rng(0).normal(0, 3, (2, 6, 10)).astype(np.float32)
LABELS = np.array([0, 3, 9, 9, 1, NO_CLASS])


def with_teachers(labels, logits):
    return np.concatenate([np.reshape(labels, (-1, 1)), logits], axis=1).astype(np.float32)


def test_cross_entropy_of_a_class_and_of_ood_examples():
    found = np.array(setup.cross_entropy(LABELS, LOGITS))
    log_probabilities = log_softmax(LOGITS, axis=1)
    np.testing.assert_allclose(found[:5], -log_probabilities[range(5), LABELS[:5]], rtol=1e-5)
    np.testing.assert_allclose(found[5], -log_probabilities[5].mean(), rtol=1e-5)
    column = setup.cross_entropy(LABELS[:, np.newaxis], LOGITS)
    np.testing.assert_array_equal(column, found)


@pytest.mark.parametrize("deployed", [False, True])
def test_students_learn_at_the_recipes_temperature(deployed):
    loss = setup.choose_loss(Recipe(name="test", distill=Distill(temperature=2.5)), deployed)
    found = loss(with_teachers(LABELS, TEACHERS), LOGITS)
    np.testing.assert_allclose(found, tiny.divergence(TEACHERS, LOGITS, 2.5), rtol=1e-4)
    same = loss(with_teachers(LABELS, TEACHERS), TEACHERS + 5)
    np.testing.assert_allclose(same, 0, atol=1e-4)


def test_an_architecture_is_trained_by_its_own_loss_and_fine_tuned_by_cross_entropy():
    wanted = Recipe(name="test", model=Model(name="lenet5_1998"))
    assert setup.choose_loss(wanted) is models.find("lenet5_1998").loss
    assert setup.choose_loss(wanted, deployed=True) is setup.cross_entropy
    assert setup.choose_loss(Recipe(name="test")) is setup.cross_entropy
    complaint = (
        r"^lenet5_1998 is trained by a loss of its own, which takes labels as they are; leave out "
        r"\[distill\]$"
    )
    with pytest.raises(Error, match=complaint):
        setup.choose_loss(wanted.model_copy(update={"distill": Distill()}))


@pytest.mark.parametrize("namespace", [keras, tf_keras], ids=["keras", "tf_keras"])
def test_accuracy_compares_labels_and_leaves_out_ood_examples(namespace):
    logits, labels = np.eye(10, dtype=np.float32)[:4], np.array([0, 1, 5, NO_CLASS])
    for targets in (labels, with_teachers(labels, logits[::-1])):
        metric = setup.accuracy(namespace)
        metric.update_state(targets, logits)
        assert metric.name == "accuracy"
        assert float(metric.result()) == pytest.approx(2 / 3)
