"""Names of modalities: that of a list, whether it is CT, with intensities in Hounsfield units, and DICOM's name."""

from __future__ import annotations

import re
from pathlib import Path

from swinunetr.errors import InputError
from swinunetr.words import short

CT = re.compile(r"ct.*|(nc|ne|ce|cb|hr|ld|uld|md|ms|de|pc|sd|q)ct(a|pa)?")  # CT scan, CTA, NCCT, CECT, CBCT, ...
OTHERS = {  # words that name another modality, by DICOM's name of it
    "MR": {"mr", "mri", "mrt", "mra", "magnetic", "mrct"},
    "PT": {"pt", "pet", "positron", "petct", "ptct"},
    "NM": {"nm", "spect", "emission", "spectct"},
    "US": {"us", "ultrasound", "sonography"},
}
ANY_OTHER = {word for words in OTHERS.values() for word in words}
TWO_IN_ONE = {"mrct", "petct", "ptct", "spectct"}


def is_ct(modality: str) -> bool:
    """Return whether a modality is CT, by any of its usual names, such as "CT", "NCCT" or "Computed Tomography".

    Raises:
        InputError: The name is of CT and of another modality, as "PET/CT" is: their intensities differ.
    """
    words = _words(modality)
    if not (any(map(CT.fullmatch, words)) or words & TWO_IN_ONE or {"computed", "tomography"} <= words):
        return False
    if "emission" in words and "positron" not in words and not any(map(CT.fullmatch, words)):
        return False  # (single photon) emission computed tomography
    if words & ANY_OTHER:
        raise InputError(
            f"modality: '{modality}' names two modalities, whose intensities differ. Write CT for scans in Hounsfield "
            "units, or the other one, such as PT, for its own scans."
        )
    return True


def dicom_modality(modality: str) -> str:
    """Return DICOM's name of a modality: ``CT`` for "CT scan", ``MR`` for "MRI"; another name in capitals.

    Raises:
        InputError: The name is of CT and of another modality.
    """
    if is_ct(modality):
        return "CT"
    words = _words(modality)
    return next((name for name, others in OTHERS.items() if words & others), modality.strip().upper())


def listed_modality(content: dict, json_path: str | Path, otherwise: str = "CT") -> str:
    """Return the modality that the ``content`` of a list gives, as a name or by channel; ``otherwise`` without one.

    Raises:
        InputError: The list gives something else than a name, or the name is of CT and of another modality.
    """
    for key in ("modality", "channel_names"):  # the names of Decathlon and of nnU-Net
        channels = content.get(key)
        if channels is None or channels == {}:
            continue
        name = next(iter(channels.values())) if isinstance(channels, dict) else channels
        if not (isinstance(name, str) and name.strip()):
            raise InputError(
                f'json_path: expected "{key}" in \'{json_path}\' as {{"0": "CT"}}, found {short(channels)}.'
            )
        try:
            is_ct(name)
        except InputError as error:  # the name is of two modalities
            raise InputError(f"json_path: '{json_path}': {error}") from None
        return name.strip()
    return otherwise


def _words(modality: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", re.sub(r"computer(i[sz]ed)?", "computed", modality.lower())))
