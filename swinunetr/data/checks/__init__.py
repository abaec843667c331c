"""Check every file of a data set, or one file, and report what it holds: all problems in one table."""

# ruff: noqa: F401

from swinunetr.data.checks.dataset import check_dataset, check_headers, check_image, image_faults
from swinunetr.data.checks.files import CheckedFile, fingerprints
from swinunetr.data.checks.report import DatasetReport, describe_images
