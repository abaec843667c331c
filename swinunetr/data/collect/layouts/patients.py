"""Patients by the names of cases, so that the scans of one patient stay in one part of a split."""

from __future__ import annotations

import re
from collections.abc import Mapping

IDS = re.compile(  # at the start of a folder or of a file name
    r"(TCGA-\w{2}-\w{4}|C3[LN]-\d{5}|LIDC-IDRI-\d{4}|sub-[A-Za-z0-9]+|(?:patient|pat|pt|subject|subj|sub)[-_ ]?\d+)"
    r"(?![A-Za-z0-9])",
    re.IGNORECASE,
)
SCAN = r"(?:cts?|mris?|mr|scans?|visits?|sessions?|ses|series|study|studies|timepoints?|tp|phase)"
NUMBERED = re.compile(rf"(?P<patient>.*\d.*?)(?:[-_ ./]+{SCAN}[-_ ]?\d+)+", re.IGNORECASE)


def patients_of(paths: Mapping[str, str]) -> dict[str, str]:
    """Return the patient of each case by its path, folders and file name with ``/``; the case itself if unsure.

    A patient is an id such as ``patient01``, ``sub-01`` or ``TCGA-AA-1234`` at the start of a name, or what precedes
    the number of a scan or of a visit, as in ``a17_ct2``. If all cases were of one patient, each is its own.
    """
    patients = {name: _patient(path) or name for name, path in paths.items()}
    return patients if len(set(patients.values())) > 1 else {name: name for name in paths}


def _patient(path: str) -> str | None:
    for name in path.split("/"):
        if match := IDS.match(name):
            return match[1]
    if match := NUMBERED.fullmatch(path):
        return match["patient"].replace("/", "_")
    return None
