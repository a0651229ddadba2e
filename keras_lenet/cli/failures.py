"""Errors and signals that become one line and an exit status; others show their traceback."""

import errno
import os
import re
import signal
import sys
import threading
from types import FrameType
from typing import NoReturn

from keras_lenet.console import plain
from keras_lenet.errors import Error

TRAINING_PACKAGES = {
    "jinja2",
    "keras",
    "matplotlib",
    "pydantic",
    "scipy",
    "sklearn",
    "tensorflow",
    "tensorflow_model_optimization",
    "tf_keras",
}
FILE_SYSTEM_ERRORS = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.ENOTDIR,
    errno.ENOENT,
    errno.EEXIST,
}
DISK_FULL = os.strerror(errno.ENOSPC)
PATIENCE = 5.0
"""Seconds that an interrupted process may take to end."""

_stopped: list[int] = []
"""The exit status, once a signal has come."""


def handle_signals() -> None:
    """Make SIGTERM and SIGINT end the process with one line."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)


def explain(error: BaseException) -> None:
    """End the process with one line, if the user can put the error right; else return."""
    if _stopped:  # what was interrupted fell over it
        sys.exit(_stopped[0])
    if isinstance(error, Error):
        fail(str(error), error.exit_status)
    if isinstance(error, ModuleNotFoundError) and error.name:
        if error.name.partition(".")[0] in TRAINING_PACKAGES:
            fail(
                f"this command needs {error.name}, which the base install leaves out: "
                "pip install 'keras-lenet[train]'"
            )
    elif isinstance(error, OSError) and error.errno in FILE_SYSTEM_ERRORS:
        fail(f"{error.filename or 'the disk'}: {error.strerror}")
    elif DISK_FULL in str(error):  # raised by TensorFlow or HDF5, with no errno
        fail(f"the disk: {DISK_FULL}")
    elif said := re.search(r"^keras_lenet\.errors\.Error: (.+)$", str(error), re.MULTILINE):
        fail(said[1])  # raised while tf.data read images, whose own error quotes it


def fail(message: str, status: int = 1) -> NoReturn:
    """Say what went wrong in one line, and exit."""
    _say(message)
    sys.exit(status)


def _say(message: str) -> None:
    print(f"keras-lenet: {plain(' '.join(message.split()))}", file=sys.stderr, flush=True)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """Say how to go on, and leave with the status that shells expect of this signal."""
    message = f"stopped by {signal.Signals(number).name}"
    pipeline = sys.modules.get("keras_lenet.pipeline")
    if pipeline is not None and hasattr(pipeline, "progress"):  # imported, and to its end
        message += f" {pipeline.progress()}; the same command goes on from there"
    status = 128 + number
    _stopped.append(status)
    # The exit is an exception, and is lost where Python ignores exceptions: in garbage collection.
    insisting = threading.Timer(PATIENCE, _insist, (message, status))
    insisting.daemon = True
    insisting.start()
    fail(message, status)


def _insist(message: str, status: int) -> None:
    """End a process that goes on though it was interrupted; what it has finished is safe."""
    _say(message)
    os._exit(status)
