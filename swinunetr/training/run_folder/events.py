"""Events of a run for TensorBoard, which hold nothing that is not in other files too."""

from __future__ import annotations

import threading
from pathlib import Path

from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from swinunetr.files import not_written


class Events:
    """Events in the folder of a run. Where they can no longer be written, a line says so and the run goes on.

    Args:
        folder: Folder of the run.
        first_step: Step from which events of an earlier start of the run are replaced.

    Raises:
        WriteError: The first file cannot be written.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        self.writer: SummaryWriter | None = None
        threading.excepthook = _keep_errors_short
        try:
            self.writer = SummaryWriter(folder, purge_step=first_step)
        except UnicodeEncodeError:
            print("No events for TensorBoard are written, which allows only UTF-8 in the name of logdir.")
        except OSError as error:
            raise not_written(folder / "events.out.tfevents", error) from error

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """Add a number."""
        self._add("add_scalar", tag, value, step)

    def add_figure(self, tag: str, figure: Figure, step: int) -> None:
        """Add a figure, which stays open."""
        self._add("add_figure", tag, figure, step, close=False)

    def _add(self, method: str, *content: object, **options: object) -> None:
        try:
            if self.writer:
                getattr(self.writer, method)(*content, **options)
        except OSError as error:  # of this event or, as a thread writes them, of an earlier one
            self.writer = None
            print(f"Events for TensorBoard are no longer written ({error}); metrics.csv and the pictures are.")


def _keep_errors_short(error: threading.ExceptHookArgs) -> None:
    """Leave errors of the thread that writes events to :class:`Events`, which gets them too."""
    if type(error.thread).__name__ != "_AsyncWriterThread":
        threading.__excepthook__(error)
