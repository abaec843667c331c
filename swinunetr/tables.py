"""Tables that are shown as Markdown in a notebook, and as aligned text in a terminal or a log."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


class Shown:
    """Base class of objects that are shown as tables: as Markdown in Jupyter, as text by ``print`` and in logs.

    A subclass that is a dataclass needs ``repr=False``; otherwise the dataclass replaces ``__repr__``.
    """

    def tables(self) -> list[Table]:
        """Return the tables in the order in which they are shown."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return "\n".join(filter(None, (table.text() for table in self.tables())))

    def _repr_markdown_(self) -> str:
        return "\n\n".join(filter(None, (table.markdown() for table in self.tables())))


@dataclass(frozen=True, repr=False)
class Table(Shown):
    """Table with a title above it and notes below it.

    Attributes:
        columns: Headings; they are not shown if there are no rows.
        rows: Cells of each row; each is shown as ``str(cell)``.
        notes: Sentences below the table.
        title: Line above the table; empty means none.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    notes: Sequence[str] = ()
    title: str = ""

    def tables(self) -> list[Table]:
        """Return the table itself."""
        return [self]

    def text(self) -> str:
        """Return the table as text with aligned columns: words to the left, numbers to the right."""
        lines = [tuple(map(str, row)) for row in (self.columns, *self.rows)] if self.rows else []
        columns = list(zip(*lines, strict=True))
        widths = [max(map(len, column)) for column in columns]
        numeric = [all(map(_is_number, column[1:])) for column in columns]
        aligned = [
            "  ".join(cell.rjust(w) if n else cell.ljust(w) for cell, w, n in zip(row, widths, numeric, strict=True))
            for row in lines
        ]
        title = [self.title] if self.title else []
        return "\n".join([*title, *(line.rstrip() for line in aligned), *self.notes])

    def markdown(self) -> str:
        """Return the table as Markdown, with the notes as a list."""
        lines = [tuple(map(_as_markdown, row)) for row in (self.columns, *self.rows)]
        lines.insert(1, ("---",) * len(self.columns))
        table = "\n".join("| " + " | ".join(row) + " |" for row in lines) if self.rows else ""
        return "\n\n".join(filter(None, (self.title, table, "\n".join(f"- {note}" for note in self.notes))))


@dataclass(frozen=True, repr=False)
class Tables(Shown):
    """Tables that are shown together."""

    parts: Sequence[Table]

    def tables(self) -> list[Table]:
        """Return the tables."""
        return list(self.parts)


def _as_markdown(cell: object) -> str:
    """Return a cell in one line, in which ``|`` ends no cell and ``$`` starts no formula."""
    return re.sub(r"([|$])", r"\\\1", " ".join(str(cell).splitlines()))


def _is_number(cell: str) -> bool:
    """Return whether a cell holds a number, such as ``0.93 ± 0.01`` or ``20 of 20``, or nothing."""
    return cell in ("", "-") or bool(re.fullmatch(r"[-+]?\d[\d.]*( (±|of) \d[\d.]*)?", cell))
