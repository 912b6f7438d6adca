"""The sections of a report's page: one file each, in the order of its `ORDER`; an installed package may offer more.

A module of this folder has `section(report)`, which returns a `Section`, or None where it has nothing to say.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pandas as pd

from harness.registry import LAST, ordered
from harness.report.content import Report

PICTURES = 50
"""Sections with a smaller `ORDER` stand above the pictures."""


@dataclass(frozen=True)
class Section:
    """A heading with what stands under it, in this order: warnings, note, remarks, table. All of it is text, which the
    page escapes."""

    title: str
    note: str = ""
    """What a reader must know to read the table; `code` and **bold** are marked as here."""
    rows: pd.DataFrame = field(default_factory=pd.DataFrame)
    """A table of text cells."""
    folded_by: str = ""
    """A column whose values each have a table of their own, which opens when it is clicked."""
    marks: Sequence[str] = ()
    """The colour of each row: `front`, `holds`, `differs`, `undecided` or empty."""
    look: str = ""
    """`wrap`: cells of several lines; `points`: the first column stays where it is when the table is scrolled."""
    warnings: Sequence[str] = ()
    remarks: Sequence[str] = ()

    def tables(self) -> Iterator[tuple[str, pd.DataFrame, Sequence[str]]]:
        """The table in one piece without a name, or in pieces with theirs; and the marks of its rows."""
        rows, marks = self.rows.reset_index(drop=True), self.marks or [""] * len(self.rows)
        if self.folded_by and len(rows):
            for name, part in rows.groupby(self.folded_by, sort=False):
                yield str(name), part.drop(columns=self.folded_by), [marks[place] for place in part.index]
        elif len(rows):
            yield "", rows, marks


def sections_of(report: Report) -> tuple[list[Section], list[Section]]:
    """The sections that have something to say: those above the pictures, and those below."""
    above: list[Section] = []
    below: list[Section] = []
    for module in ordered("report.sections", "section"):
        if made := module.section(report):
            (above if getattr(module, "ORDER", LAST) < PICTURES else below).append(made)
    return above, below
