"""An error that a user can resolve shows its message alone."""

from IPython.core.interactiveshell import InteractiveShell

from swinunetr.errors import CheckpointError, DatasetError, InputError, TrainingStopped


def test_a_cell_that_fails_shows_the_message_alone(capsys):
    shell = InteractiveShell.instance()
    shell.run_cell("from swinunetr.errors import InputError\nraise InputError('crop_size: expected 64, found 3.')")
    shown = capsys.readouterr().out
    assert "InputError: crop_size: expected 64, found 3." in shown and "Traceback" not in shown
    assert len(shown.strip().splitlines()) == 1


def test_what_a_caller_may_catch():
    assert issubclass(CheckpointError, InputError) and issubclass(DatasetError, InputError)
    assert issubclass(InputError, ValueError) and issubclass(TrainingStopped, RuntimeError)
