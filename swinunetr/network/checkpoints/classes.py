"""Rows of a head by the names of its classes: those of a file, and those of a network."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from swinunetr.network.layouts import first_few

MOST_NAMES = 14  # of classes in one line of a report or message


@dataclass(frozen=True)
class HeadRows:
    """Rows of a head that a file and a network have in common, one per class.

    Attributes:
        rows: ``{row in the network: row in the file}`` of each class that both have.
        kept: Names of these classes in the network.
        dropped: Names of the other classes of the file.
        left_random: Names of the other classes of the network.
    """

    rows: Mapping[int, int]
    kept: tuple[str, ...]
    dropped: tuple[str, ...]
    left_random: tuple[str, ...]

    def notes(self) -> list[str]:
        """Return a line for each kind of class that there is."""
        kinds = {"kept": self.kept, "dropped": self.dropped, "stay random": self.left_random}
        return [f"rows of the head, {kind}: {first_few(names, MOST_NAMES)}" for kind, names in kinds.items() if names]


def match_classes(in_file: Sequence[str], in_network: Sequence[str]) -> HeadRows:
    """Return which rows of a file's head belong to which rows of a network's head.

    Names agree if they are equal in lower case with each run of spaces, underscores and hyphens as one space:
    ``"Left_Kidney"`` is ``"left kidney"``. Where this makes two names of one list equal, such as ``"T1"`` and ``"t1"``,
    they must agree exactly. A name that is twice in one list agrees with none, since either row could be meant.

    Args:
        in_file: Names of the classes in the file, in order of their rows.
        in_network: Names of the classes in the network, in order of their rows.
    """
    counts = [Counter(map(_plain, names)) for names in (in_file, in_network)]
    unclear = {name for count in counts for name in count if count[name] > 1}
    file_rows, network_rows = (_rows_by_name(names, unclear) for names in (in_file, in_network))
    rows = {row: file_rows[name] for name, row in network_rows.items() if name in file_rows}
    return HeadRows(
        rows=rows,
        kept=tuple(in_network[row] for row in rows),
        dropped=tuple(name for row, name in enumerate(in_file) if row not in rows.values()),
        left_random=tuple(name for row, name in enumerate(in_network) if row not in rows),
    )


def _rows_by_name(names: Sequence[str], unclear: set[str]) -> dict[object, int]:
    """Return the row of each name that is once in a list; a name whose plain form is unclear counts as it is."""
    compared = [(name,) if _plain(name) in unclear else _plain(name) for name in names]
    return {name: row for row, name in enumerate(compared) if compared.count(name) == 1}


def _plain(name: str) -> str:
    """Return the form of a class name that is compared; a name of separators only is compared as it is."""
    return re.sub(r"[\s_-]+", " ", name).strip().lower() or name
