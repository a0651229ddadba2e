"""The command line: parses, calls, prints. Results go to stdout, everything else to stderr."""

import os

# Silence TensorFlow's start-up chatter; set before anything imports it. Errors still show.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# Help lists the commands in the order in which these register them.
# isort: off
from keras_lenet.cli import run, evaluate, draw, deploy, failures
from keras_lenet.cli.options import app
# isort: on

__all__ = ["app", "deploy", "draw", "evaluate", "main", "run"]


def main() -> None:
    """Entry point: errors that the user can put right become one line and an exit status."""
    failures.handle_signals()
    try:
        app()
    except BaseException as error:  # what a signal interrupts may raise anything, or an exit
        failures.explain(error)
        raise
