import keras
import numpy as np
import pytest

from keras_lenet.training.optimizer import Muon

LEARNING_RATE, MOMENTUM = 0.1, 0.95


def stepped(start, *gradients, **settings):
    """A variable after one step for each gradient."""
    variable = keras.Variable(np.asarray(start, np.float32))
    settings = {"weight_decay": 0.0, "adam_weight_decay": 0.0} | settings
    optimizer = Muon(LEARNING_RATE, **settings)
    for gradient in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(gradient, "float32")], [variable])
    return variable.numpy()


def orthogonalized(matrix):
    """By Jordan's five iterations, which act on each singular value alone: 2024, "Muon"."""
    left, singular, right = np.linalg.svd(matrix, full_matrices=False)
    singular = singular / np.linalg.norm(matrix)
    for _ in range(5):
        singular = 3.4445 * singular - 4.7750 * singular**3 + 2.0315 * singular**5
    return left * singular @ right


FIRST, SECOND = np.array([[3.0, 1.0], [0.0, 2.0]]), np.array([[-1.0, 0.5], [4.0, 1.0]])


def test_two_steps_of_a_matrix_of_two_by_two():
    """Nesterov's momentum, orthogonalized, times 0.2 and the root of the longer side."""
    scale = LEARNING_RATE * 0.2 * np.sqrt(2)
    after_one = -scale * orthogonalized((1 + MOMENTUM) * FIRST)
    np.testing.assert_allclose(stepped(np.zeros((2, 2)), FIRST), after_one, rtol=1e-4)
    momentum = SECOND + MOMENTUM * FIRST
    after_two = after_one - scale * orthogonalized(SECOND + MOMENTUM * momentum)
    np.testing.assert_allclose(stepped(np.zeros((2, 2)), FIRST, SECOND), after_two, rtol=1e-3)


@pytest.mark.parametrize("shape", [(24, 10), (10, 24), (5, 5, 1, 6), (3, 3, 4, 8)])
def test_a_kernel_steps_as_the_matrix_of_its_inputs_and_outputs(shape):
    gradient = np.random.default_rng(0).normal(size=shape)
    matrix = gradient.reshape(-1, shape[-1])
    scale = LEARNING_RATE * 0.2 * np.sqrt(max(matrix.shape))
    expected = (-scale * orthogonalized(matrix)).reshape(shape)
    np.testing.assert_allclose(stepped(np.zeros(shape), gradient), expected, atol=2e-4)


def test_biases_take_adams_step():
    gradient = np.array([3.0, -0.01])
    expected = -LEARNING_RATE * np.sign(gradient)
    np.testing.assert_allclose(stepped(np.zeros(2), gradient), expected, rtol=1e-3)


def test_weights_decay_apart_from_their_gradients():
    decayed = stepped(np.full((2, 2), 4.0), np.zeros((2, 2)), weight_decay=0.5)
    np.testing.assert_allclose(decayed, np.full((2, 2), 3.8), rtol=1e-6)
    decayed = stepped(np.full(2, 4.0), np.zeros(2), adam_weight_decay=0.5)
    np.testing.assert_allclose(decayed, np.full(2, 3.8), rtol=1e-6)
