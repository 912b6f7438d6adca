"""What a report writes, made safe for where it stands: one line, escaped, with the unit and the digits it deserves.

Titles, names and reasons come from records that somebody else may have written. Everything that goes into Markdown,
CSV or a picture goes through this module; the page is escaped by jinja2.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from harness.schema import one_line

CELL = 2000
"""Characters that a cell may have."""
TEN_SECONDS = 10.0
"""Times from here on are shown in seconds."""


def number_of(count: int, noun: str, plural: str = "") -> str:
    """So many of a thing: `1 point`, `3 points`."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def joined(parts: Sequence[str]) -> str:
    """Parts of a sentence: `a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def label(text: object, most: int = 40) -> str:
    """A title or a name in a picture: one short line that matplotlib neither parses nor leaves out of a legend."""
    line = one_line(text, most)
    return f" {line}" if line.startswith("_") else line


def cell(text: object) -> str:
    """A cell of a Markdown table that shows exactly `text`: no markup, no link, no other cell."""
    line = html.escape(one_line(text, CELL), quote=False)
    line = re.sub(r"[\\`*\[\]|~]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", line)
    line = re.sub(r"(?<=\w):(?=//)", "&#58;", line)  # GitHub makes links of bare addresses
    line = re.sub(r"\bwww\.", "www&#46;", line, flags=re.IGNORECASE)
    return re.sub(r"@(?=[\w-]+\.)", "&#64;", line)


def markdown(table: pd.DataFrame) -> str:
    """A GitHub table of text cells."""

    def line(cells: Iterable[object]) -> str:
        return "| " + " | ".join(map(cell, cells)) + " |"

    rule = "| " + " | ".join(["---"] * len(table.columns)) + " |"
    return "\n".join([line(table.columns), rule, *map(line, table.itertuples(index=False, name=None))]) + "\n"


def inert(value: object) -> object:
    """A value as a spreadsheet may open it: text that it would take for a formula gets an apostrophe in front."""
    if not isinstance(value, str):
        return value
    line = one_line(value, CELL)
    return f"'{line}" if line[:1] in ("=", "+", "-", "@", "＝", "＋", "－", "＠") else line


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """A table as CSV: numbers as they are, text on one line and no formula."""
    shown = table.rename(columns=inert)
    for place, kind in enumerate(shown.dtypes):
        if not pd.api.types.is_numeric_dtype(kind):
            shown.isetitem(place, shown.iloc[:, place].map(inert).array)
    shown.to_csv(path, index=False, encoding="utf-8")


def decimals(value: float, low: float, high: float) -> int:
    """Digits behind the point that a value's interval supports: two of its half-width; three of a value without one."""
    reach = (high - low) / 2
    if math.isfinite(reach) and reach > 0:
        return min(3, max(0, 1 - math.floor(math.log10(reach))))
    return min(3, max(0, 2 - math.floor(math.log10(abs(value))))) if value else 0


def quantity(value: float, low: float, high: float, scale: float = 1.0) -> str:
    """A value and its 95% interval, e.g. `3.21 (3.18–3.30)`, times `scale`; `(1 block)` where there is no interval."""
    value, low, high = value * scale, low * scale, high * scale
    places = decimals(value, low, high)
    if not (math.isfinite(low) and math.isfinite(high)):
        return f"{value:.{places}f} (1 block)"
    return f"{value:.{places}f} ({low:.{places}f}–{high:.{places}f})"


def unit_for(seconds: Iterable[float]) -> tuple[str, float]:
    """The unit that these times are shown in, and what seconds are multiplied with."""
    return ("s", 1.0) if max((abs(s) for s in seconds if math.isfinite(s)), default=0.0) >= TEN_SECONDS else ("ms", 1e3)
