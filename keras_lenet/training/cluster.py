"""Hosts of TF_CONFIG, which train one model together.

All hosts run the same command and see the same runs folder. The first host, the chief, writes it.
Every host computes every step, on its share of each batch.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keras_lenet import console
from keras_lenet.errors import Error

if TYPE_CHECKING:
    import tensorflow as tf

VARIABLE = "TF_CONFIG"
_EXPECTED = (
    'expected, on the first of two hosts, {"cluster": {"worker": ["HOST:PORT", "HOST:PORT"]}, '
    '"task": {"type": "worker", "index": 0}}'
)


@dataclass(frozen=True)
class Cluster:
    """The hosts, "HOST:PORT" of each, the chief first, and the index of this host."""

    hosts: tuple[str, ...]
    index: int

    @property
    def is_chief(self) -> bool:
        """Return whether this host writes the runs folder."""
        return self.index == 0

    @functools.cached_property
    def strategy(self) -> tf.distribute.Strategy:
        """Mirror every GPU of every host; wait for all hosts.

        Make it before anything is computed: TensorFlow refuses later.
        """
        import tensorflow as tf

        number, others = self.index + 1, [*self.hosts[: self.index], *self.hosts[self.index + 1 :]]
        console.say(f"host {number} of {len(self.hosts)}: waiting for {', '.join(others)}")
        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)  # as `setup.prepare_devices`
        with _interruptible():
            return tf.distribute.MultiWorkerMirroredStrategy()

    def agree(self, number: int = 0) -> int:
        """Return the chief's number, of at most 24 bits, on every host; wait for all hosts."""
        import tensorflow as tf

        def value(context: tf.distribute.experimental.ValueContext) -> tf.Tensor:
            # Every communication library can sum floats.
            first = context.replica_id_in_sync_group == 0
            return tf.constant(float(number) if first else 0.0)

        spread = self.strategy.experimental_distribute_values_from_function(value)
        with _interruptible():
            return int(self.strategy.reduce("SUM", spread, axis=None).numpy())

    def part(self) -> None:
        """Tell the others that nothing is left to train, and end together with them.

        A host that still waits would report that the chief is gone.
        """
        with contextlib.suppress(Error), self.watched():
            if self.is_chief:
                self.agree()
            self.agree()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Raise Error instead of what TensorFlow raises within ten seconds of a host's end."""
        with console.quiet_native_logs():
            import tensorflow as tf

        gone = (tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.DeadlineExceededError)
        try:
            yield
        except (*gone, tf.errors.UnavailableError) as error:
            raise Error(
                f"one of the {len(self.hosts)} hosts of {VARIABLE} is gone: start the same command "
                "on all of them again, and training goes on from the last finished epoch"
            ) from error


def of_environment() -> Cluster | None:
    """Return the hosts that TF_CONFIG names; None if it isn't set, or names one host alone.

    Raises:
        Error: it is malformed.
    """
    text = os.environ.get(VARIABLE)
    if not text:
        return None
    try:
        config = json.loads(text)
        hosts = {
            (kind, number): str(host)
            for kind in ("chief", "worker")
            for number, host in enumerate(config["cluster"].get(kind, ()))
        }
        index = list(hosts).index((config["task"]["type"], int(config["task"]["index"])))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Error(f"{VARIABLE} = {text:.200}: {_EXPECTED}") from error
    return Cluster(tuple(hosts.values()), index) if len(hosts) > 1 else None


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let signals end the process while TensorFlow waits: Python handlers don't run there."""
    numbers = signal.SIGINT, signal.SIGTERM
    before = {number: signal.signal(number, signal.SIG_DFL) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
