"""Which cases train and which validate: those of one patient always in the same list."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from swinunetr.data.collect.cases import PARTS, FoundCase
from swinunetr.errors import InputError

VALIDATION = 0.2  # of the patients, where nothing else is said
TRAINING_PART, VALIDATION_PART, TEST_PART = PARTS


def has_own_split(cases: Sequence[FoundCase]) -> bool:
    """Return whether a collection says itself which of its labelled cases validate."""
    return any(case.part == VALIDATION_PART for case in cases)


def split(
    collections: Mapping[str, Sequence[FoundCase]],
    validation: float | None = None,
    folds: int | None = None,
    complete: Sequence[str] | None = None,
) -> dict[str, dict[str, list[FoundCase]]]:
    """Return the cases of each part, training, validation and test, by collection.

    A collection's own split comes first. Of the others, a fraction of the patients validates, always the same for the
    same patients, in any order.

    Args:
        collections: Cases by the name of their collection.
        validation: Fraction of the patients. None: ``VALIDATION`` if no collection has a split of its own, else 0.
        folds: Number of parts that the training list will be split into; then only own splits give validation cases.
            None: no folds.
        complete: Collections that label all classes, of which validation cases are drawn. None or empty: of all.

    Raises:
        InputError: ``validation`` or ``folds`` is outside its bounds, both are given, or there are too few patients.
    """
    check_options(validation, folds)
    with_own = [name for name, cases in collections.items() if has_own_split(cases)]
    fraction = (0 if folds is not None or with_own else VALIDATION) if validation is None else validation
    drawn_from = [name for name in complete or collections if name not in with_own]
    patients = _patients(collections, drawn_from)
    others_train = _patients(collections, [name for name in collections if name not in drawn_from]) != []
    held_out = set(_draw(patients, fraction, others_train) if drawn_from and fraction else [])
    parts: dict[str, dict[str, list[FoundCase]]] = {}
    for name, cases in collections.items():
        parts[name] = {part: [] for part in PARTS}
        for case in cases:
            drawn = VALIDATION_PART if (name, case.patient) in held_out else TRAINING_PART
            parts[name][case.part if case.part in (VALIDATION_PART, TEST_PART) else drawn].append(case)
    if folds is not None:
        _check_folds(parts, folds)
    return parts


def check_options(validation: float | None, folds: int | None) -> None:
    """Check what needs no cases of the options of :func:`split`.

    Raises:
        InputError: ``validation`` is outside its bounds, or both are given.
    """
    if validation is not None and folds is not None:
        raise InputError(
            "validation, folds: expected one of them, found both. Folds validate on parts of the training list."
        )
    if validation is not None and not 0 < validation < 1:
        raise InputError(
            f"validation: expected a fraction between 0 and 1, such as {VALIDATION}, found {validation:g}."
        )


def _patients(collections: Mapping[str, Sequence[FoundCase]], names: Sequence[str]) -> list[tuple[str, str]]:
    """Return the patients of some collections, each with the collection, whom no own split keeps from training."""
    pairs = ((name, case) for name in names for case in collections[name])
    return list(dict.fromkeys((name, case.patient) for name, case in pairs if case.part in ("", TRAINING_PART)))


def _draw(patients: Sequence[tuple[str, str]], fraction: float, others_train: bool) -> list[tuple[str, str]]:
    """Return the patients that validate: at least one, and not all if there are no others in training."""
    most = len(patients) - (not others_train)
    if most < 1:
        raise InputError(
            f"validation: expected labelled cases of at least 2 patients, found {len(patients)}. Give more cases, or a "
            "collection that has validation cases."
        )
    return sorted(patients, key=_shuffled)[: min(max(1, round(fraction * len(patients))), most)]


def _shuffled(patient: tuple[str, str]) -> str:
    """Return a key that puts patients in an order which is random and, unlike that of a seed, each one's own."""
    return hashlib.sha256("\n".join(patient).encode(errors="surrogateescape")).hexdigest()


def _check_folds(parts: Mapping[str, Mapping[str, Sequence[FoundCase]]], folds: int) -> None:
    patients = {(name, case.patient) for name, part in parts.items() for case in part[TRAINING_PART]}
    if not 2 <= folds <= len(patients):
        what = f"expected a number of parts from 2 to {len(patients)}, the patients in training"
        raise InputError(f"folds: {what}, found {folds}.")
