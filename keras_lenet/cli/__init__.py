"""The command line: parses, calls, prints. Results go to stdout, everything else to stderr."""

import errno
import os
import re
import signal
import sys
from types import FrameType
from typing import NoReturn

# Silence TensorFlow's messages at start-up, before anything imports it. Errors still show.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# Help lists the commands in the order of these imports.
# isort: off
from keras_lenet.cli import run, evaluate, draw, deploy
from keras_lenet.cli.options import app
from keras_lenet.console import plain
from keras_lenet.errors import Error
# isort: on

__all__ = ["app", "deploy", "draw", "evaluate", "main", "run"]

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
_STDERR = os.dup(2)
"""Copy of stderr, since `console.captured` diverts the descriptor itself."""


def main() -> None:
    """Run the command line; print an error that the user can correct as one line."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    try:
        app()
    except Exception as error:
        message = _explain(error)
        if message is None:
            raise  # a fault of ours shows its traceback
        message = plain(" ".join(message.split()))
        print(f"keras-lenet: {message}", file=sys.stderr, flush=True)
        sys.exit(error.exit_status if isinstance(error, Error) else 1)


def _explain(error: Exception) -> str | None:
    """Return what the user has to correct; None if the error is a fault of this package."""
    if isinstance(error, Error):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and error.name:
        if error.name.partition(".")[0] in TRAINING_PACKAGES:
            return (
                f"this command needs {error.name}, which the base install leaves out: "
                "pip install 'keras-lenet[train]'"
            )
    elif isinstance(error, OSError) and error.errno in FILE_SYSTEM_ERRORS:
        return f"{error.filename or 'the disk'}: {error.strerror}"
    elif DISK_FULL in str(error):  # raised by TensorFlow or HDF5, with no errno
        return f"the disk: {DISK_FULL}"
    elif quoted := re.search(r"^keras_lenet\.errors\.Error: (.+)$", str(error), re.MULTILINE):
        return quoted[1]  # raised inside tf.data, whose own error quotes it
    return None


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """End the process at once, with the status that shells expect of this signal.

    An exception would be lost in garbage collection, and replaced by TensorFlow while it traces.
    Results are safe from kills, and the system releases locks.
    """
    message = f"keras-lenet: stopped by {signal.Signals(number).name}"
    if "keras_lenet.pipeline" in sys.modules:
        message += "; run the same command again to resume"
    if os.isatty(_STDERR):
        message = f"\x1b[?25h\n{message}"  # shows the cursor, which progress bars hide
    os.write(_STDERR, f"{message}\n".encode())
    os._exit(128 + number)
