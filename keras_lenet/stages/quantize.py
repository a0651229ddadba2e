"""Quantization-aware fine-tuning with tensorflow-model-optimization.

It takes tf_keras models only, so this module is also the bridge: the same builder makes the
architecture in tf_keras, and the weights of the Keras 3 model are copied into it by layer name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras  # before tfmot, which sets TF_USE_LEGACY_KERAS for the whole process
import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras

from keras_lenet import models, terminal
from keras_lenet.artifacts import replacing
from keras_lenet.data import loading
from keras_lenet.stages import Context, confidence, fitting, train

WEIGHTS = "qat.h5"  # the legacy format, by its suffix: one file, the same bytes every time
CALIBRATION_BATCHES = 20


def run(context: Context) -> dict[str, Any]:
    """Write `qat.h5`, the fake-quantized model's weights and ranges, and `history.csv`."""
    recipe, settings = context.recipe, context.recipe.quantize
    size = models.input_size(recipe.model)
    train.prepare_devices()
    terminal.say(f"device: {train.device()}")
    training, validation = train.load_splits(context, settings.batch_size)
    mixed = loading.with_outliers(training, recipe.data.outliers, recipe.seed)
    # Its own order and warps, not those of the first epochs of training again.
    batches = train.augmented(context, mixed, settings.batch_size, recipe.seed + 1)
    steps = loading.steps_per_epoch(mixed, settings.batch_size)
    tf_keras.utils.set_random_seed(recipe.seed)
    trained = keras.models.load_model(context.inputs["train"] / train.MODEL, compile=False)
    float_model = to_tf_keras(trained, recipe.model)
    model = tfmot.quantization.keras.quantize_model(float_model)
    set_ranges(model, float_model, batches(range(1)).take(CALIBRATION_BATCHES))
    schedule = tf_keras.optimizers.schedules.CosineDecay(
        settings.learning_rate, settings.epochs * steps
    )
    model.compile(
        optimizer=tf_keras.optimizers.Adam(schedule),
        loss=fitting.cross_entropy,
        metrics=[fitting.accuracy(tf_keras)],
    )
    model.optimizer.build(model.trainable_variables)
    plain = loading.plain_batches(validation, size)
    state = fitting.fit(
        tf_keras,
        model,
        batches,
        plain,
        epochs=settings.epochs,
        steps=steps,
        out=context.out,
        title="quantize",
        schedule=schedule,
    )
    temperature = confidence.calibrate(model, plain, validation.labels)
    with replacing(context.out / WEIGHTS) as temporary:
        model.save_weights(temporary)
    best = state.history[state.best]
    return {
        "epochs": len(state.history),
        "best_epoch": state.best + 1,
        "validation_accuracy": best["val_accuracy"],
        "validation_images": len(validation),
        "temperature": temperature,
    }


def to_tf_keras(model: keras.Model, settings: models.Settings) -> Any:
    """The same architecture in tf_keras, with the weights of a Keras 3 model."""
    copy = models.build(tf_keras, settings)
    for layer in copy.layers:
        layer.set_weights(model.get_layer(layer.name).get_weights())
    return copy


def load(folder: Path, settings: models.Settings) -> Any:
    """The fake-quantized model that a finished quantize stage left in `folder`: tf_keras."""
    model = tfmot.quantization.keras.quantize_model(models.build(tf_keras, settings))
    model.load_weights(folder / WEIGHTS)
    return model


def unquantized(model: Any, settings: models.Settings) -> Any:
    """A fake-quantized model's own weights without the rounding: tf_keras."""
    plain = models.build(tf_keras, settings)
    for layer in plain.layers:
        if layer.weights:
            own = {
                weight.name: weight.numpy()
                for weight in model.get_layer(f"quant_{layer.name}").weights
            }
            layer.set_weights([own[weight.name] for weight in layer.weights])
    return plain


def set_ranges(model: Any, float_model: Any, batches: tf.data.Dataset) -> None:
    """Start every activation's range where it belongs, from the float model's own activations.

    tensorflow-model-optimization starts at [-6, 6] and moves by a thousandth a batch, so that a
    short fine-tuning would end with ranges still too wide, and steps too coarse. Each range starts
    at the mean over batches of the least and the greatest value, which is where the moving average
    would settle. The input's is fixed at [0, 1], which makes its int8 scale 1/255.
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
        for variable, value in zip(_activation_range(wrapper), extremes, strict=True):
            variable.assign(value)
    entrance = next(layer for layer in model.layers if hasattr(layer, "quantizer_vars"))
    entrance.quantizer_vars["min_var"].assign(0.0)
    entrance.quantizer_vars["max_var"].assign(1.0)


def _activation_range(wrapper: Any) -> list[Any]:
    """The minimum and maximum variables of a wrapped layer's output, if it has them."""
    ends = ("post_activation_min:0", "post_activation_max:0", "output_min:0", "output_max:0")
    return [variable for variable in wrapper.weights if variable.name.endswith(ends)]
