"""What a report says, before it is said: page, tables, CSV files and pictures are made from a `Report` alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import pandas as pd

from harness.analysis.claims import Finding
from harness.analysis.composition import Result
from harness.report.text import number_of
from harness.schema import Manifest, one_line


@dataclass(frozen=True)
class Report:
    """One sweep's last run: what was asked, what came out, and what it was compared with."""

    manifest: Manifest
    table: pd.DataFrame
    """One row a point (docs/columns.md), failed points included; empty without points."""
    scores: pd.DataFrame = field(default_factory=pd.DataFrame)
    """One row for each statistic of each score, with its evidence."""
    findings: Sequence[Finding] = ()
    """Published claims and what became of them here."""
    ranks: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Points by two definitions of the time to first token, where there are claims."""
    latencies: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Published latencies of encoders beside those here."""
    remarks: Sequence[str] = ()
    """What a reader must know beside what the table says."""
    points: Sequence[Result] = ()
    """What the table was made from, down to every sample and answer."""

    @cached_property
    def timed(self) -> pd.DataFrame:
        """The rows that have a time to first token."""
        return self.table.dropna(subset=["ttft_user"]) if "ttft_user" in self.table.columns else self.table.iloc[:0]

    @cached_property
    def scored(self) -> pd.DataFrame:
        """Those of them that have an accuracy as well."""
        return self.timed.dropna(subset=["accuracy"]) if "accuracy" in self.timed.columns else self.timed.iloc[:0]


def provenance(table: pd.DataFrame) -> str:
    """Who measured, when and how, in one line."""
    where = "; ".join(
        f"{one_line(name, 80)} ({device}, {dtype}, {number_of(threads, 'thread')})"
        for name, device, dtype, threads in sorted(
            set(table[["device_name", "device", "dtype", "threads"]].itertuples(index=False, name=None))
        )
    )
    dates = sorted(table["date"].unique())
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    samples = table["encode_samples"].dropna() if "encode_samples" in table.columns else pd.Series(dtype=float)
    passes = ""
    if not samples.empty:  # where there are several encoders they are not counted together
        low, high = int(samples.min()), int(samples.max())
        passes = f", {number_of(low, 'pass', 'passes') if low == high else f'{low}–{high} passes'} of each encoder"
    protocol = "; ".join(sorted(table["protocol"].unique()))
    count = int(table["disturbed"].sum())
    rough = f"; {count} of {number_of(len(table), 'point')} disturbed" if count else ""
    return f"measured on {where}, {when}; batch 1{passes}; protocol {protocol}{rough}"
