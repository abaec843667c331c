"""Errors that the reader can mend: Jupyter and papermill show the message alone, not a page of traceback."""


class InputError(ValueError):
    """Refuse a parameter, a file or a folder; the message says what was expected, what was found and what to do.

    IPython calls ``_render_traceback_`` on an exception that has it, and papermill prints what IPython shows.
    """

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]
