"""What is written for each scan beside its segmentation: the options, and the files."""

import argparse

import pytest

from swinunetr.errors import InputError
from swinunetr.scans.writers import WRITERS, DicomObject, Picture, Uncertainty, Writer, asked_writers


def test_the_options_that_are_given_have_writers():
    assert asked_writers({}) == [] and asked_writers({"dicom_seg": "", "pictures": False}) == []
    writers = asked_writers({"uncertainty": True, "dicom_seg": "BINARY"})
    assert [type(writer) for writer in writers] == [DicomObject, Uncertainty] and writers[0].value == "BINARY"
    with pytest.raises(TypeError, match="unexpected keyword arguments: images"):
        asked_writers({"images": True})
    with pytest.raises(InputError, match="dicom_seg: expected one of LABELMAP, BINARY, found 'RTSTRUCT'"):
        asked_writers({"dicom_seg": "RTSTRUCT"})


def test_each_writer_has_an_option_and_an_ending_of_its_own():
    parser = argparse.ArgumentParser()
    for writer in WRITERS:
        parser.add_argument(f"--{writer.option}", **writer.argument)
    assert not asked_writers(vars(parser.parse_args([])))
    assert [type(writer) for writer in asked_writers(vars(parser.parse_args(["--pictures"])))] == [Picture]
    assert len({writer.option for writer in WRITERS}) == len({writer.ending for writer in WRITERS}) == len(WRITERS)
    assert set(WRITERS) == set(Writer.__subclasses__())
