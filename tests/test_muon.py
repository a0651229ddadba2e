import keras
import numpy as np
import pytest

from keras_lenet.stages.muon import Muon


def stepped(shape, gradient, **settings):
    """What one step takes from a variable of zeros."""
    variable = keras.Variable(np.zeros(shape, np.float32))
    optimizer = Muon(0.1, weight_decay=0.0, adam_weight_decay=0.0, **settings)
    optimizer.apply([keras.ops.convert_to_tensor(gradient)], [variable])
    return -variable.numpy()


@pytest.mark.parametrize("shape", [(24, 10), (10, 24), (5, 5, 1, 6), (3, 3, 4, 8)])
def test_a_kernels_step_is_a_scaled_orthogonal_matrix(shape):
    gradient = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    step = stepped(shape, gradient).reshape(-1, shape[-1])
    singular = np.linalg.svd(step, compute_uv=False) / (0.1 * 0.2 * np.sqrt(max(step.shape)))
    # Five iterations bring singular values near 1, not to it: Jordan 2024.
    assert 0.5 < singular.min() < singular.max() < 1.3
    assert np.sum(step * gradient.reshape(step.shape)) > 0


def test_a_convolution_steps_as_the_dense_layer_that_it_equals():
    gradient = np.random.default_rng(1).normal(size=(5, 5, 2, 8)).astype(np.float32)
    dense = stepped((50, 8), gradient.reshape(50, 8))
    np.testing.assert_allclose(stepped((5, 5, 2, 8), gradient).reshape(50, 8), dense, rtol=1e-5)


def test_biases_take_adams_step():
    gradient = np.array([3.0, -0.01], np.float32)
    np.testing.assert_allclose(stepped((2,), gradient), 0.1 * np.sign(gradient), rtol=1e-3)
