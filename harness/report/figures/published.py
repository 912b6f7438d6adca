"""Published scores on one benchmark against time to first token as measured here."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from harness.report.canvas import Figure
from harness.report.content import Report
from harness.report.figures.frontier import frontier
from harness.report.text import label

ORDER = 40


def figures(report: Report) -> Iterator[Figure]:
    """One picture for each metric that more points have than have all five of Avg-5."""
    for name in wider_metrics(report.timed):
        yield frontier(
            f"published-{name}",
            f"{label(name)} as published, time as measured",
            f"Published scores on {label(name)}, not measured here, against time to first token.",
            report.timed.dropna(subset=[f"published_{name}"]),
            f"published_{name}",
            f"published {label(name)}",
        )


def wider_metrics(table: pd.DataFrame) -> list[str]:
    """Published metrics that more points have than have all five of Avg-5."""
    least = max(2, int(table["accuracy"].notna().sum()) if "accuracy" in table.columns else 0)
    columns = [name for name in table.columns if name.startswith("published_")]
    return [name.removeprefix("published_") for name in columns if table[name].notna().sum() > least]
