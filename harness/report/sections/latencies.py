"""Published latencies of the same encoders beside those measured here."""

from __future__ import annotations

import pandas as pd

from harness.report.content import Report
from harness.report.sections import Section

ORDER = 80


def section(report: Report) -> Section | None:
    """One row for each encoder, resolution and published series."""
    if report.latencies.empty:
        return None
    note = (
        "From FastVLM's paper, measured on another device with another runtime; where its tables contradict each "
        "other, both series are shown."
    )
    return Section("Published latencies of the same encoders", note, readable_latencies(report.latencies))


def readable_latencies(latencies: pd.DataFrame) -> pd.DataFrame:
    """Published encoder latencies beside those here, each series apart, as text."""
    return pd.DataFrame(
        [
            {
                "encoder": row["encoder"],
                "px": str(row["resolution"]),
                "published ms": f"{row['published'] * 1e3:.1f}",
                "series": row["series"],
                "published on": row["device"],
                "source": row["source"],
                "measured here ms": f"{row['here'] * 1e3:.1f}",
                "measured on": row["here_device"],
                "measured / published": f"{row['here'] / row['published']:.1f}",
            }
            for row in latencies.to_dict("records")
        ]
    )
