"""Cells of a report's tables: a value with its unit, its interval and the digits that it deserves."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from harness.analysis.table import EXTRAPOLATED, MEASURED, PUBLISHED
from harness.report.text import quantity, unit_for


def duration(row: pd.Series[Any], name: str, scale: float) -> str:
    """A time with its 95% interval over blocks, e.g. `3.21 (3.18–3.30)`, called extrapolated where it is; a dash where
    there is none. `scale` makes the unit of seconds."""
    value = row.get(name)
    if value is None or pd.isna(value):
        return "–"
    text = quantity(value, row[f"{name}_low"], row[f"{name}_high"], scale)
    return f"{text} {EXTRAPOLATED}" if row.get(f"{name}_source") == EXTRAPOLATED else text


def milliseconds(row: pd.Series[Any], name: str) -> str:
    """`duration` in milliseconds."""
    return duration(row, name, 1e3)


def timed(row: pd.Series[Any], name: str) -> str:
    """`duration` with the unit that fits it."""
    value = row.get(name)
    if value is None or pd.isna(value):
        return "–"
    unit, scale = unit_for([value])
    return duration(row, name, scale).replace(" (", f" {unit} (", 1)


def percent(row: pd.Series[Any], name: str) -> str:
    """A share, e.g. `34%`; a dash where there is none."""
    value = row.get(name)
    return "–" if value is None or pd.isna(value) else f"{value:.0%}"


def deviation(row: pd.Series[Any], name: str) -> str:
    """A relative deviation with its interval, e.g. `-1.2% (-2.0 to +0.3)`; a dash where there is none."""
    value = row.get(name)
    if value is None or pd.isna(value):
        return "–"
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    if math.isinf(low) or math.isinf(high):
        return f"{value:+.1%} (1 block)"
    return f"{value:+.1%} ({100 * low:+.1f} to {100 * high:+.1f})"


def blocks(row: pd.Series[Any]) -> str:
    """How many blocks the times rest on, and how many were disturbed."""
    if pd.isna(row.get("blocks")):
        return "–"
    rough = round(row["disturbed_blocks"])
    if not rough:
        return f"{row['blocks']:.0f}"
    which = f"rests on {rough} disturbed" if row["disturbed"] else f"{rough} disturbed left out"
    return f"{row['blocks']:.0f} ({which})"


def percentile(row: pd.Series[Any], name: str, scale: float = 1e3) -> str:
    """A percentile, or `n/a` with the number of independent samples, which is too small."""
    value = row.get(name)
    if value is not None and not pd.isna(value):
        return f"{value * scale:.2f}"
    worth = row.get(f"{name.rpartition('_')[0]}_effective_samples")
    return "–" if worth is None or pd.isna(worth) else f"n/a (n={worth:.0f})"


NOT_SEEN = " (as blind)"
"""Stands behind a score that is within the error of its blind run."""


def score(row: pd.Series[Any], name: str) -> str:
    """An accuracy with its standard error, e.g. `0.512 ± 0.021`, and whose it is if it was not measured here; a dash
    where there is none."""
    value = row.get(name)
    if value is None or pd.isna(value):
        return "–"
    error, source = row.get(f"{name}_stderr"), str(row.get(f"{name}_source"))
    if source != MEASURED:
        return f"{value:.3f} ({PUBLISHED if source.startswith(PUBLISHED) else 'of unknown source'})"
    if error is not None and not pd.isna(error):
        return f"{value:.3f} ± {error:.3f}{NOT_SEEN if is_marked(row, name) else ''}"
    images = row.get(f"{name}_images")  # a mean over suites has none of its own
    return f"{value:.3f} ({'1 image' if images == 1 else 'a suite of 1 image'}: no error)"


def is_marked(row: pd.Series[Any], name: str) -> bool:
    """Whether a score is within the error of its blind run."""
    mark = row.get(f"{name}_blind_like")
    return mark is not None and not pd.isna(mark) and bool(mark)


def against(row: pd.Series[Any], name: str) -> str:
    """What guessing, the majority answer and the blind run score, e.g. `0.07 / 0.21 / 0.12`; dashes for what is
    missing."""
    parts = [row.get(f"{name}_{what}") for what in ("guess", "majority", "blind")]
    if all(value is None or pd.isna(value) for value in parts):
        return "–"
    return " / ".join("–" if value is None or pd.isna(value) else f"{value:.3f}" for value in parts)


def whole(row: pd.Series[Any], name: str) -> str:
    """A number of things; a dash where there is none."""
    value = row.get(name)
    return "–" if value is None or pd.isna(value) else f"{value:.0f}"


def share(row: pd.Series[Any], name: str) -> str:
    """A score without an error; a dash where there is none."""
    value = row.get(name)
    return "–" if value is None or pd.isna(value) else f"{value:.3f}"


def above(row: pd.Series[Any]) -> str:
    """A score minus its blind run's with the 95% interval, marked where that reaches down to 0."""
    value = row.get("above_blind")
    if value is None or pd.isna(value):
        return "–"
    low, high = row["above_blind_low"], row["above_blind_high"]
    reach = f"{low:+.3f} to {high:+.3f}" if math.isfinite(low) and math.isfinite(high) else "1 image"
    return f"{value:+.3f} ({reach})" + (NOT_SEEN if row["blind_like"] else "")


def told(table: pd.DataFrame) -> pd.DataFrame:
    """A readable table without the columns in which no row says anything."""
    silent = [column for column in table.columns if set(table[column]) <= {"–", ""}]
    return table.drop(columns=silent)
