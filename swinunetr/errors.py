"""Errors that a user can correct: Jupyter and papermill show only their message, without a traceback."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """A problem of one file and what to do about it: an error if it ``stops`` the work, otherwise a warning."""

    what: str
    remedy: str
    stops: bool = True


class ShortError(Exception):
    """Base of errors that are shown without a traceback.

    IPython calls ``_render_traceback_`` where an error has it, and papermill prints the result.
    """

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


class InputError(ShortError, ValueError):
    """A parameter, file or folder cannot be used; the message says what was expected, what was found and what to do."""


class WriteError(InputError, OSError):
    """A file could not be written; the message says which, why, how much space is left and what to do.

    It is an OSError too, for code that goes on without the file.
    """


class CheckpointError(InputError):
    """A checkpoint cannot be used; the message says which file, what it contains, what was expected and what to do."""


class DatasetError(InputError):
    """A data set has errors; the message is one table of them."""


class TrainingStopped(ShortError, RuntimeError):
    """A run stopped before its last step; the last valid state is on disk.

    Reasons are a signal, full GPU memory, or a loss or gradient that is NaN or infinite.
    """
