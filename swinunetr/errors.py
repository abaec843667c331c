"""Errors that a user can resolve: Jupyter and papermill show the message alone, without a traceback."""


class ShortError(Exception):
    """Show only the message: IPython calls ``_render_traceback_`` if there is one, and papermill prints its result."""

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


class InputError(ShortError, ValueError):
    """Refuse a parameter, a file or a folder; the message says what was expected, what was found and what to do."""


class CheckpointError(InputError):
    """Refuse a file: the message names it, what it seems to be, what was expected and what to do."""


class DatasetError(InputError):
    """Refuse a data set; the message is one table of all faults."""


class TrainingStopped(ShortError, RuntimeError):
    """End a run before its last step, on a signal or because its numbers broke; the last good state is on disk."""
