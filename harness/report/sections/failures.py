"""Points that failed, with their reasons and the commands that measure them again."""

from __future__ import annotations

import pandas as pd

from harness.report.content import Report
from harness.report.sections import Section

ORDER = 10


def section(report: Report) -> Section | None:
    """One row for each of them."""
    if report.table.empty or (bad := report.table[report.table["status"] != "ok"]).empty:
        return None
    rows = pd.DataFrame(
        [
            {
                "point": f"{row['encoder']} {row['resolution']} px {row['llm']}",
                "what happened": f"{row['status']}: {row['reason']}",
                "command": row["command"],
            }
            for row in bad.to_dict("records")
        ]
    )
    title = "Failed point" if len(bad) == 1 else "Failed points"
    return Section(title, rows=rows, look="wrap", marks=["differs"] * len(bad))
