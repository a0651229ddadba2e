"""Errors that the user can put right.

Anything else that escapes is a bug of ours and shows its traceback.
"""


class Error(Exception):
    """Shown as one line; says what was expected, what came and what to do."""

    exit_status = 1


class GateError(Error):
    """A finished evaluation missed a limit that its recipe sets."""

    exit_status = 3
