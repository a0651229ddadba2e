"""Devices that training runs on: the CPU, one GPU or several, on one host or on several."""

from __future__ import annotations

from typing import Literal

import keras
import tensorflow as tf

from keras_lenet.training.cluster import Cluster


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
