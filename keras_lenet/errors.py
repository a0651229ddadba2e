"""Errors that the user can correct; other exceptions are faults of this package."""


class Error(Exception):
    """Error shown as one line: what was expected, what was found, what to do."""

    exit_status = 1


class GateError(Error):
    """Limit of a recipe that a finished evaluation missed."""

    exit_status = 3
