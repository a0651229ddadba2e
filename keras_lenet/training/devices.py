"""What training runs on: the CPU, one GPU or several, on this host or on several."""

from __future__ import annotations

from typing import Literal

import keras
import tensorflow as tf

from keras_lenet.training.cluster import Cluster


def device() -> str:
    """What Keras' backend computes on, in words."""
    if keras.backend.backend() != "tensorflow":
        return keras.backend.backend()
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return "CPU"
    names = [tf.config.experimental.get_device_details(gpu).get("device_name", "") for gpu in gpus]
    return "GPU: " + ", ".join(names)


def prepare_devices() -> None:
    """Take GPU memory as needed, so that several processes can share a card.

    Has to come before anything is computed: TensorFlow refuses to change it later. Under another
    of Keras' backends the GPUs are that one's, and TensorFlow, which makes the batches, sees none.
    """
    if keras.backend.backend() != "tensorflow":
        tf.config.set_visible_devices([], "GPU")
        return
    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)


def strategy(devices: Literal["all", "one"], cluster: Cluster | None) -> tf.distribute.Strategy:
    """What the recipe's `devices` comes to here: mirrored on several, or TensorFlow's default.

    Args:
        devices: "all" or "one".
        cluster: the hosts that train together, if there are several.
    """
    if keras.backend.backend() == "tensorflow" and devices == "all":
        if cluster:
            return cluster.strategy
        if len(tf.config.list_physical_devices("GPU")) > 1:
            return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()
