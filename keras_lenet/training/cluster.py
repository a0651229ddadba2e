"""Several hosts that train one model, as TensorFlow's TF_CONFIG names them.

All run the same command and see the same runs folder, which the first of them, the chief, writes.
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
    """The hosts, "HOST:PORT" of each, the chief's first; and the index of this one."""

    hosts: tuple[str, ...]
    index: int

    @property
    def is_chief(self) -> bool:
        """Return whether this host writes the runs folder."""
        return self.index == 0

    @functools.cached_property
    def strategy(self) -> tf.distribute.Strategy:
        """Mirror every GPU of every host; wait until all hosts are there.

        TensorFlow makes no such strategy once it has computed anything.
        """
        import tensorflow as tf

        number, others = self.index + 1, [*self.hosts[: self.index], *self.hosts[self.index + 1 :]]
        console.say(f"host {number} of {len(self.hosts)}: waiting for {', '.join(others)}")
        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)  # as `devices.prepare_devices`
        with _interruptible():
            return tf.distribute.MultiWorkerMirroredStrategy()

    def agree(self, number: int = 0) -> int:
        """Return the chief's number, of 24 bits at most, on every host; each waits for the rest."""
        import tensorflow as tf

        def value(context: tf.distribute.experimental.ValueContext) -> tf.Tensor:
            # As a sum of floats, which every way of communication has.
            first = context.replica_id_in_sync_group == 0
            return tf.constant(float(number) if first else 0.0)

        spread = self.strategy.experimental_distribute_values_from_function(value)
        with _interruptible():
            return int(self.strategy.reduce("SUM", spread, axis=None).numpy())

    def part(self) -> None:
        """Tell the others that nothing is left to train, and end together with them.

        A host that still listens would take a chief that ends first for gone.
        """
        with contextlib.suppress(Error), self.watched():
            if self.is_chief:
                self.agree()
            self.agree()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Raise `Error` in place of what TensorFlow raises within ten seconds of a host's end."""
        with console.without_information():
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
    """Return the hosts that TF_CONFIG names; None where it isn't set, or names one host alone.

    Raises:
        Error: it is set to something else.
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
    """Let a signal end the process while TensorFlow waits, where no handler of ours would run."""
    numbers = signal.SIGINT, signal.SIGTERM
    before = {number: signal.signal(number, signal.SIG_DFL) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
