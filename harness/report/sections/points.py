"""Every point with what a reader compares: how good, how fast, and why."""

from __future__ import annotations

import pandas as pd

from harness.analysis.table import TIMES, has_frontier, suites_of
from harness.report.cells import against, blocks, deviation, duration, percent, percentile, score, told
from harness.report.content import Report
from harness.report.sections import Section
from harness.report.text import unit_for

ORDER = 70


def section(report: Report) -> Section:
    """One row for each point; those on the frontier are shaded."""
    note = (
        "Medians over blocks (fresh processes) with 95% intervals over blocks; accuracies with standard errors "
        "clustered by image. Shaded: on the frontier of (ttft_model, mean accuracy). Next to each suite are the scores "
        "of guessing, of the majority answer to each kind of question, and of the blind run (the same model shown grey "
        "images); **as blind**: the score is within the error of its blind run. `table.csv` has every column in SI "
        "units, `measurements.jsonl` every raw sample, `evaluations.jsonl` every answer."
    )
    rows = told(readable(report.table)) if not report.table.empty else report.table
    marks = ["front" if best else "" for best in claimed(report.table)]
    return Section("All points", note, rows, marks=marks, look="points")


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """The columns that a reader compares, as text: what a point is, how good, how fast, and the rest."""
    rows = []
    shown = [name for name in TIMES if name in table.columns]
    unit, scale = unit_for(table[shown].to_numpy(float).ravel())
    for (_, row), best in zip(table.iterrows(), claimed(table), strict=True):
        cells = {
            "encoder": row["encoder_title"],
            "LLM": row["llm_title"],
            "px": str(row["input_px"]),
            "visual tokens": str(row["visual_tokens"]),
            "frontier": "yes" if best else "",
            "accuracy": score(row, "accuracy"),
            f"ttft_model {unit}": duration(row, "ttft_model", scale),
            f"ttft_user {unit}": duration(row, "ttft_user", scale),
            **dict(
                cell
                for suite in suites_of(table)
                for cell in ((suite, score(row, suite)), (f"{suite}: guess / majority / blind", against(row, suite)))
            ),
            f"encode {unit}": duration(row, "encode", scale),
            "encode, share of roofline": percent(row, "encode_efficiency"),
            f"prefill {unit}": duration(row, "prefill", scale),
            "prefill, share of roofline": percent(row, "prefill_efficiency"),
            f"ttft_paper {unit}": duration(row, "ttft_paper", scale),
            f"ttft_fused {unit}": duration(row, "ttft_fused", scale),
            "composed vs direct": deviation(row, "residual_ttft_model"),
            f"encode p95 {unit}": percentile(row, "encode_p95", scale),
            "peak MB": "–" if pd.isna(row.get("peak_bytes")) else f"{row['peak_bytes'] / 1e6:.0f}",
            "blocks": blocks(row),
        }
        if row["status"] != "ok":
            cells["frontier"] = f"{row['status']}: {row['reason']}"
        rows.append(cells)
    return pd.DataFrame(rows)


def claimed(table: pd.DataFrame) -> list[bool]:
    """Which rows are called the frontier: none where its accuracies may all be the same."""
    return table["on_frontier"].tolist() if has_frontier(table) else [False] * len(table)
