"""The points ranked by two definitions of the time to first token."""

from __future__ import annotations

import pandas as pd

from harness.report.content import Report
from harness.report.sections import Section
from harness.report.text import unit_for

ORDER = 30


def section(report: Report) -> Section | None:
    """Both rankings, where there are claims that were made under one of them."""
    if report.ranks.empty:
        return None
    note = (
        "Fastest first. **ttft_paper** leaves out image decoding and resizing, the connector, layers that fuse vision "
        "within the LLM, and the text of the prompt; a user waits for all of these as well."
    )
    return Section("Two definitions, two rankings", note, readable_ranks(report.ranks))


def readable_ranks(ranks: pd.DataFrame) -> pd.DataFrame:
    """Both rankings of the points, as text."""
    rows = []
    unit, scale = unit_for(ranks["ttft_user"]) if not ranks.empty else ("s", 1.0)
    for row in ranks.to_dict("records"):
        mark = " extrapolated" if row["extrapolated"] else ""
        moved = row["rank_ttft_paper"] - row["rank_ttft_user"]
        rows.append(
            {
                "point": row["point"],
                f"ttft_paper {unit}": f"{row['ttft_paper'] * scale:.3g}{mark}",
                "rank by ttft_paper": str(row["rank_ttft_paper"]),
                f"ttft_user {unit}": f"{row['ttft_user'] * scale:.3g}{mark}",
                "rank by ttft_user": str(row["rank_ttft_user"]) + (f" ({moved:+d})" if moved else ""),
                "share left out": f"{1 - row['ttft_paper'] / row['ttft_user']:.0%}",
            }
        )
    return pd.DataFrame(rows)
