"""Quantization-aware fine-tuning with tensorflow-model-optimization.

It takes tf_keras models only. The same builder makes the architecture in tf_keras, and the weights
of the Keras 3 model are copied into it by layer name.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras  # before tfmot, which sets TF_USE_LEGACY_KERAS for the whole process
import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras
from tensorflow_model_optimization.python.core.quantization.keras import quantizers
from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
    default_8bit_quantize_configs,
    default_8bit_quantize_registry,
)

from keras_lenet import console, models
from keras_lenet.artifacts import replacing
from keras_lenet.data import loading
from keras_lenet.evaluation import confidence
from keras_lenet.recipe import Model, QuantizeSettings
from keras_lenet.stages import Context, train
from keras_lenet.training import setup
from keras_lenet.training.fit import Plan, fit

WEIGHTS = "qat.h5"  # the legacy format, by its suffix: one file, the same bytes every time
CALIBRATION_BATCHES = 20
TANH_RANGE = -1.0, 127 / 128
"""Range of TFLite's int8 tanh: scale 1/128, zero point 0."""
TANH_ENDS = float(np.arctanh(-127.5 / 128)), float(np.arctanh(126.5 / 128))
"""Inputs beyond which its output is -128 or 127."""
_DEFAULTS = default_8bit_quantize_registry.Default8BitQuantizeRegistry()


def run(context: Context[QuantizeSettings]) -> dict[str, Any]:
    """Write `qat.h5`, the fake-quantized model's weights and ranges, and `history.csv`."""
    recipe, settings = context.settings, context.settings.quantize
    setup.prepare_devices()
    console.say(f"device: {setup.device()}")
    training, validation = context.splits(settings.batch_size)
    mixed = loading.with_outliers(training, recipe.data.outliers, setup.outlier_seed(recipe))
    teachers = context.teacher_logits()
    # Another seed: the order and, without teachers, the augmentation differ from training's.
    batches = setup.augmented(recipe, mixed, settings.batch_size, recipe.seed + 1, teachers)
    steps = loading.steps_per_epoch(mixed, settings.batch_size)
    tf_keras.utils.set_random_seed(recipe.seed)
    trained = keras.models.load_model(context.inputs["train"] / train.MODEL, compile=False)
    float_model = to_tf_keras(trained, recipe.model)
    model = fake_quantized(float_model)
    set_ranges(model, float_model, batches(epochs=range(1)).take(CALIBRATION_BATCHES))
    schedule = tf_keras.optimizers.schedules.CosineDecay(
        settings.learning_rate, settings.epochs * steps
    )
    model.compile(
        optimizer=tf_keras.optimizers.Adam(schedule),
        loss=setup.choose_loss(recipe, deployed=True),
        metrics=[setup.accuracy(tf_keras)],
    )
    model.optimizer.build(model.trainable_variables)
    plain = loading.plain_batches(validation, models.input_size(recipe.model), teachers=teachers)
    callbacks = [_hold_ranges(model, settings.epochs - 1)]
    if project := models.find(recipe.model.name).project:
        callbacks.append(_projection(model, float_model, project))
    plan = Plan("quantize", context.out, settings.epochs, steps, schedule)
    state = fit(tf_keras, model, batches, plain, plan, callbacks)
    with replacing(context.out / WEIGHTS) as temporary:
        model.save_weights(temporary)
    return state.summary() | {
        "validation_images": len(validation),
        "temperature": confidence.temperature(model.predict(plain, verbose=0), validation.labels),
    }


def to_tf_keras(model: keras.Model, settings: Model) -> Any:
    """Build the same architecture in tf_keras, with the weights of a Keras 3 model."""
    copy = models.build(tf_keras, settings)
    for layer in copy.layers:
        layer.set_weights(model.get_layer(layer.name).get_weights())
    return copy


def load(folder: Path, settings: Model) -> Any:
    """Load the fake-quantized tf_keras model of a finished quantize stage.

    Its logits are divided by its temperature.
    """
    model = fake_quantized(models.build(tf_keras, settings))
    model.load_weights(folder / WEIGHTS)
    confidence.divide(model, confidence.temperature_of(folder))
    return model


def unquantized(model: Any, settings: Model) -> Any:
    """Build the float tf_keras model with the weights of a fake-quantized model, not rounded."""
    plain = models.build(tf_keras, settings)
    for layer in plain.layers:
        if layer.weights:
            layer.set_weights([weight.numpy() for weight in _own_weights(model, layer)])
    return plain


def _own_weights(model: Any, layer: Any) -> list[tf.Variable]:
    """Return those weights of a fake-quantized model's layer that the float `layer` has too."""
    wrapped = {weight.name: weight for weight in model.get_layer(f"quant_{layer.name}").weights}
    return [wrapped[weight.name] for weight in layer.weights]


def _hold_ranges(model: Any, last: int) -> Any:
    """Return a callback that holds the activations' ranges in epoch `last`.

    The weights then adapt to the quantization steps of the file.
    """
    variables = [variable for layer in model.layers for variable in _activation_range(layer)]
    held: list[Any] = []

    def hold(epoch: int, logs: Any) -> None:
        if epoch == last:
            held.extend(variable.numpy() for variable in variables)

    def restore(batch: int, logs: Any) -> None:
        if held:
            for variable, value in zip(variables, held, strict=True):
                variable.assign(value)

    return tf_keras.callbacks.LambdaCallback(on_epoch_begin=hold, on_train_batch_end=restore)


def _projection(
    model: Any, float_model: Any, project: Callable[[str, list[Any]], list[Any]]
) -> Any:
    """Return a callback that projects the weights to what the architecture allows."""
    weighted = {
        layer.name: _own_weights(model, layer) for layer in float_model.layers if layer.weights
    }

    def apply(batch: int, logs: Any) -> None:
        for name, weights in weighted.items():
            allowed = project(name, [weight.numpy() for weight in weights])
            for weight, value in zip(weights, allowed, strict=True):
                weight.assign(value)

    return tf_keras.callbacks.LambdaCallback(on_train_batch_end=apply)


class _BeforeTanh(quantizers.MovingAverageQuantizer):
    """Quantizer whose range ends at `TANH_ENDS`."""

    def __init__(self) -> None:
        super().__init__(num_bits=8, per_axis=False, symmetric=False, narrow_range=False)

    def __call__(self, inputs: Any, training: bool, weights: Any, **kwargs: Any) -> Any:
        # In inference the range alone clips: the converter must see no clipping op.
        inputs = tf.clip_by_value(inputs, *TANH_ENDS) if training else inputs
        return super().__call__(inputs, training, weights, **kwargs)


class _AsInput(quantizers.NoQuantizer):
    """Quantizer with the range of the layer's input, which `fake_quantized` sets."""

    range: tuple[Any, Any] | None = None

    def __call__(self, inputs: Any, training: bool, weights: Any, **kwargs: Any) -> Any:
        if self.range is None:
            return inputs
        return tf.quantization.fake_quant_with_min_max_vars(inputs, *self.range)


class _Tanh(default_8bit_quantize_configs.NoOpQuantizeConfig):
    """Configuration of a layer with weights and tanh: tfmot's, with TFLite's output range."""

    def get_weights_and_quantizers(self, layer: Any) -> Any:
        return _DEFAULTS.get_quantize_config(layer).get_weights_and_quantizers(layer)

    def get_activations_and_quantizers(self, layer: Any) -> Any:
        return [(layer.activation, _BeforeTanh())]

    def set_quantize_weights(self, layer: Any, quantize_weights: Any) -> None:
        _DEFAULTS.get_quantize_config(layer).set_quantize_weights(layer, quantize_weights)

    def set_quantize_activations(self, layer: Any, quantize_activations: Any) -> None:
        (layer.activation,) = quantize_activations

    def get_output_quantizers(self, layer: Any) -> Any:
        return [quantizers.FixedQuantizer(8, *TANH_RANGE, False)]


class _Pooled(default_8bit_quantize_configs.NoOpQuantizeConfig):
    """Configuration of average pooling: in TFLite its input and output have one scale."""

    def get_output_quantizers(self, layer: Any) -> Any:
        return [_AsInput()]


def fake_quantized(float_model: Any) -> Any:
    """Wrap each layer of a float model so that it rounds as its int8 kernel will.

    This differs from `tfmot.quantization.keras.quantize_model` for tanh and average pooling: their
    ranges are the kernels' own, since others would cost an extra QUANTIZE op before or after each.
    """

    def annotated(layer: Any) -> Any:
        config = _Pooled() if _is_average(layer) else _Tanh() if _is_tanh(layer) else None
        return tfmot.quantization.keras.quantize_annotate_layer(layer, config)

    with tfmot.quantization.keras.quantize_scope({"_Tanh": _Tanh, "_Pooled": _Pooled}):
        model = tfmot.quantization.keras.quantize_apply(
            tf_keras.models.clone_model(float_model, clone_function=annotated)
        )
    for before, wrapper in itertools.pairwise(model.layers):
        if hasattr(wrapper, "layer") and _is_average(wrapper.layer):
            variables = _activation_range(before)
            ends = TANH_RANGE if _is_tanh(before.layer) else tuple(variables)
            wrapper._output_quantizers[0].range = ends
    return model


def _is_average(layer: Any) -> bool:
    return isinstance(layer, tf_keras.layers.AveragePooling2D)


def _is_tanh(layer: Any) -> bool:
    activation = getattr(layer, "activation", None)
    # A wrapped layer has it inside the quantizer of its input.
    return getattr(activation, "activation", activation) is tf_keras.activations.tanh


def set_ranges(model: Any, float_model: Any, batches: tf.data.Dataset) -> None:
    """Set every activation's range from the float model's own activations.

    tensorflow-model-optimization starts at [-6, 6] and moves by a thousandth a batch: a short
    fine-tuning would end with ranges that are too wide. Each range starts at the mean over batches
    of the least and the greatest value, to which the moving average would converge. The input's
    range is [0, 1], which makes its int8 scale 1/255.
    """
    by_name = {layer.name: layer for layer in float_model.layers}
    watched = [
        (wrapper, by_name[wrapper.layer.name].output)
        for wrapper in model.layers
        if hasattr(wrapper, "layer") and _activation_range(wrapper)
    ]
    probe = tf_keras.Model(float_model.input, [output for _, output in watched])
    ranges = np.mean(
        [[(np.min(values), np.max(values)) for values in probe(images)] for images, _ in batches],
        axis=0,
    )
    for (wrapper, _), extremes in zip(watched, ranges, strict=True):
        if _is_tanh(wrapper.layer):  # its range is that of its input
            extremes = np.arctanh(np.clip(extremes, *np.tanh(TANH_ENDS)))
        for variable, value in zip(_activation_range(wrapper), extremes, strict=True):
            variable.assign(value)
    entrance = next(layer for layer in model.layers if hasattr(layer, "quantizer_vars"))
    entrance.quantizer_vars["min_var"].assign(0.0)
    entrance.quantizer_vars["max_var"].assign(1.0)


def _activation_range(wrapper: Any) -> list[Any]:
    """Return the minimum and maximum variables of a wrapped layer's output, or its tanh's input."""
    ends = ("activation_min:0", "activation_max:0", "output_min:0", "output_max:0")
    return [variable for variable in wrapper.weights if variable.name.endswith(ends)]
