"""Setup of training: devices, batches, losses, optimizer, and the compiled model of a recipe."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_lenet import models
from keras_lenet.data import loading
from keras_lenet.data.loading import CLASSES, NO_CLASS
from keras_lenet.errors import Error
from keras_lenet.recipe import Train, TrainSettings
from keras_lenet.training.cluster import Cluster
from keras_lenet.training.fit import AT_A_TIME, Batches

_TARGETS = np.vstack([np.eye(CLASSES), np.full(CLASSES, 1 / CLASSES)]).astype(np.float32)
"""Target distribution of each label; the last is that of `NO_CLASS`."""


def device() -> str:
    """Return what Keras' backend computes on, in words."""
    if keras.backend.backend() != "tensorflow":
        return keras.backend.backend()
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return "CPU"
    names = [tf.config.experimental.get_device_details(gpu).get("device_name", "") for gpu in gpus]
    return "GPU: " + ", ".join(names)


def prepare_devices() -> None:
    """Take GPU memory as needed, so that several processes can share a card.

    Call this before anything is computed: TensorFlow refuses to change it later. Under another
    backend of Keras, TensorFlow makes the batches alone, and sees no GPU.
    """
    if keras.backend.backend() != "tensorflow":
        tf.config.set_visible_devices([], "GPU")
        return
    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)


def strategy(devices: Literal["all", "one"], cluster: Cluster | None) -> tf.distribute.Strategy:
    """Return the strategy of a recipe's `devices`: mirrored on several, else TensorFlow's own."""
    if keras.backend.backend() == "tensorflow" and devices == "all":
        if cluster:
            return cluster.strategy
        if len(tf.config.list_physical_devices("GPU")) > 1:
            return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


def outlier_seed(recipe: TrainSettings) -> int:
    """Return the seed of the OOD examples: the teachers', if there are any."""
    return recipe.distill.seed if recipe.distill else recipe.seed


def augmented(
    recipe: TrainSettings,
    training: loading.Examples,
    batch_size: int,
    seed: int,
    teachers: loading.TeacherLogits | None = None,
) -> Batches:
    """Return a function that makes the shuffled, augmented batches of a range of epochs."""
    return functools.partial(
        loading.training_batches,
        training,
        recipe.augment,
        recipe.degrade,
        size=models.input_size(recipe.model),
        batch_size=batch_size,
        seed=seed,
        teachers=teachers,
    )


def build(
    recipe: TrainSettings, training: loading.Examples, cluster: Cluster | None = None
) -> keras.Model:
    """Build and compile a recipe's trained graph, on the recipe's devices.

    Raises:
        Error: a batch doesn't divide among the devices, or the pixels can't be standardized.
    """
    settings = recipe.train
    keras.utils.set_random_seed(recipe.seed)
    spread = strategy(recipe.devices, cluster)
    count = spread.num_replicas_in_sync
    if settings.batch_size % count:
        raise Error(
            f"batch_size = {settings.batch_size} does not divide evenly among {count} devices; "
            "choose a multiple"
        )
    with spread.scope():
        statistics = None
        if recipe.data.standardize:
            pixels = training.images[training.labels != NO_CLASS] / np.float32(255)
            statistics = float(pixels.mean()), max(float(pixels.std()), 1 / 255)
        model = models.build_trained(keras, recipe.model, statistics)
        if recipe.model.initializer == "fan_in":
            models.initialize_by_fan_in(model, recipe.seed)
        for layer in model.layers:
            if count > 1 and isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = True  # statistics of the batch, not of a device's share
        steps = loading.steps_per_epoch(training, settings.batch_size)
        compile_model(model, settings, steps, choose_loss(recipe))
    return model


def compile_model(
    model: keras.Model, settings: Train, steps: int, loss: Callable[[Any, Any], Any]
) -> None:
    """Compile for `fit` with the recipe's optimizer and schedule, and the loss to be minimized.

    On TensorFlow XLA is used on a single GPU alone: on the CPU it is slower for a net this small,
    and MirroredStrategy does its own placing. Other backends decide for themselves.
    """
    single_gpu = len(tf.config.list_physical_devices("GPU")) == 1
    on_tensorflow = keras.backend.backend() == "tensorflow"
    # `take_steps` takes steps together on TensorFlow. Elsewhere Keras does, which takes no fewer
    # at the end of an epoch.
    together = max(count for count in range(1, AT_A_TIME + 1) if steps % count == 0)
    model.compile(
        optimizer=make_optimizer(settings, steps),
        loss=loss,
        metrics=[accuracy(keras)],
        jit_compile=single_gpu if on_tensorflow else "auto",
        steps_per_execution=1 if on_tensorflow else together,
    )
    model.optimizer.build(model.trainable_variables)


def choose_loss(recipe: TrainSettings, deployed: bool = False) -> Callable[[Any, Any], Any]:
    """Return the loss of targets and logits: the architecture's own, or the recipe's.

    An architecture's own loss may need logits that the deployed graph, which `deployed` means,
    gives only up to a constant.

    Raises:
        Error: the recipe asks for other targets than the architecture's own loss has.
    """
    own = models.find(recipe.model.name).loss
    if own and recipe.distill:
        raise Error(
            f"{recipe.model.name} is trained by a loss of its own, which takes labels as they are; "
            "leave out [distill]"
        )
    if own and not deployed:
        return own
    if recipe.distill:
        return functools.partial(distillation, temperature=recipe.distill.temperature)
    return cross_entropy


def cross_entropy(labels: Any, logits: Any) -> Any:
    """Compute the cross-entropy of logits; for an OOD example, against the uniform distribution.

    Args:
        labels: integers, (N,) or (N, 1): 0 to 9, or `NO_CLASS`.
        logits: float32, (N, 10).

    Returns:
        float32, (N,).
    """
    flat = ops.reshape(ops.cast(labels, "int32"), (-1,))
    targets = ops.take(_TARGETS, flat, axis=0)
    return keras.losses.categorical_crossentropy(targets, logits, from_logits=True)


def distillation(targets: Any, logits: Any, temperature: float) -> Any:
    """Compute the divergence of the model's softened distribution from the teachers'.

    It is multiplied by the squared temperature, which keeps the gradients' size: Hinton, Vinyals
    and Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2.

    Args:
        targets: float32, (N, 11): labels, which are ignored, and teacher logits.
        logits: float32, (N, 10).
        temperature: divides both sides' logits.

    Returns:
        Kullback-Leibler divergence in nats, float32, (N,).
    """
    teachers = ops.log_softmax(targets[:, 1:] / temperature)
    student = ops.log_softmax(logits / temperature)
    divergence = ops.sum(ops.exp(teachers) * (teachers - student), axis=1)
    return temperature**2 * divergence


def accuracy(namespace: Any) -> Any:
    """Return the metric "accuracy" of `keras` or `tf_keras`, over the images that have a class.

    Its targets are labels, or labels and teacher logits.
    """

    class Accuracy(namespace.metrics.SparseCategoricalAccuracy):
        def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
            # tf_keras makes a column of labels.
            labels = y_true if len(y_true.shape) == 1 else y_true[:, 0]
            known = ops.cast(labels != NO_CLASS, "float32")
            return super().update_state(labels, y_pred, known)

    return Accuracy(name="accuracy")


def make_optimizer(settings: Train, steps: int) -> keras.optimizers.Optimizer:
    """Return the optimizer of a `train` section, for epochs of `steps` steps."""
    averaging = settings.weight_averaging
    shared: dict[str, Any] = {
        "learning_rate": Schedule(settings, steps),
        "weight_decay": settings.weight_decay,
        "use_ema": averaging > 0,
        "ema_momentum": averaging or 0.99,
    }
    if settings.optimizer == "sgd":
        momentum = settings.momentum
        return keras.optimizers.SGD(momentum=momentum, nesterov=momentum > 0, **shared)
    if settings.optimizer == "muon":
        return Muon(adam_weight_decay=settings.weight_decay, **shared)
    return keras.optimizers.AdamW(**shared)


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """Learning rate by step: linear warm-up, then the schedule of a `train` section."""

    def __init__(self, settings: Train, steps: int) -> None:
        self.settings, self.steps = settings, steps

    def __call__(self, step: Any) -> Any:
        """Return the learning rate at `step`, counted from 0."""
        settings = self.settings
        epoch = ops.cast(step, "float32") / self.steps
        warming = (epoch + 1 / self.steps) / max(settings.warmup_epochs, 1)
        after = ops.maximum(epoch - settings.warmup_epochs, 0.0)
        if settings.schedule == "cosine":
            whole = settings.epochs - settings.warmup_epochs
            factor = (1 + ops.cos(np.pi * after / whole)) / 2
        elif settings.schedule == "step":
            factor = settings.step_factor ** ops.floor(after / settings.step_epochs)
        else:
            factor = 1.0
        return settings.learning_rate * ops.where(epoch < settings.warmup_epochs, warming, factor)


class Muon(keras.optimizers.Muon):
    """Keras' Muon, for the kernels of convolutions too, which Keras leaves to Adam.

    A kernel, (..., outputs), is reshaped to a matrix, (inputs, outputs). Before each step its
    momentum is replaced by the nearest orthogonal matrix: Jordan, "Muon: An optimizer for hidden
    layers in neural networks", 2024. Steps are scaled as in Liu et al., "Muon is scalable for LLM
    training", 2025, section 2.2, so that one learning rate serves kernels and biases. Adam takes
    the biases.
    """

    def _should_use_adamw(self, variable: Any) -> bool:
        return len(variable.shape) < 2

    def _muon_update_step(self, gradient: Any, variable: Any, lr: Any, m: Any) -> None:
        self.assign(m, gradient + self.momentum * m)
        update = ops.reshape(gradient + self.momentum * m, (-1, variable.shape[-1]))  # Nesterov's
        update = self.lr_adjust(self.zeropower_via_newtonschulz5(update, self.ns_steps))
        self.assign_sub(variable, ops.reshape(lr * update, variable.shape))
