"""Errors that a user can correct show only their message."""

from IPython.core.interactiveshell import InteractiveShell

from swinunetr.errors import CheckpointError, DatasetError, InputError, TrainingStopped


def test_failed_cell_shows_only_the_message(capsys):
    shell = InteractiveShell.instance()
    shell.run_cell("from swinunetr.errors import InputError\nraise InputError('crop_size: expected 64, found 3.')")
    shown = capsys.readouterr().out
    assert "InputError: crop_size: expected 64, found 3." in shown and "Traceback" not in shown
    assert len(shown.strip().splitlines()) == 1


def test_error_types_are_subclasses_of_the_expected_ones():
    assert issubclass(CheckpointError, InputError) and issubclass(DatasetError, InputError)
    assert issubclass(InputError, ValueError) and issubclass(TrainingStopped, RuntimeError)
