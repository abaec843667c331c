"""Voxel spacings of a data set along the axes of the body, and their median as a training grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from swinunetr.data.checks.dataset import check_headers
from swinunetr.data.checks.headers import Header
from swinunetr.errors import InputError

DIGITS = 2  # of a median in mm, so that it is one a reader would choose


def median_spacing(headers: Sequence[Header]) -> tuple[float, float, float]:
    """Return the median spacing of scans in mm along x, y, z of the body, each axis on its own."""
    x, y, z = np.median([header.body_spacing for header in headers], axis=0).round(DIGITS).tolist()
    return x, y, z


def median_spacing_of(cases: Sequence[Mapping[str, Any]]) -> tuple[float, float, float]:
    """Return the median spacing of the images of cases; files whose header cannot be used are left to the checks.

    Raises:
        InputError: No image has a header that can be used.
    """
    images = check_headers([{key: case[key] for key in ("name", "image")} for case in cases])
    headers = [image.header for image in images if image.valid]
    if not headers:
        what = next((f": '{image.path}': {image.faults[-1].what}; {image.faults[-1].remedy}" for image in images), "")
        raise InputError(f"spacing_mm: expected scans of which to take the median spacing, found none to read{what}.")
    return median_spacing(headers)
