"""What was claimed elsewhere, and what came of it here."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pandas as pd

from harness.analysis.claims import Finding
from harness.report.content import Report
from harness.report.sections import Section

ORDER = 20


def section(report: Report) -> Section | None:
    """One row for each claim, reference and definition."""
    if not report.findings:
        return None
    rows = readable_claims(report.findings)
    note = (
        "Published values are ratios on an Apple M1 Max (`results/published/`); values here are ratios on this device, "
        "block by block, with 95% intervals. A claim holds if the value measured here reaches the published one, to "
        "the precision in which that was printed, and differs if even the upper end of the interval falls short of it. "
        "Counts are exact."
    )
    return Section("Published claims, measured here", note, rows, marks=rows["verdict"].tolist(), look="wrap")


def readable_claims(findings: Iterable[Finding]) -> pd.DataFrame:
    """One row for each claim, reference and definition, as text."""
    rows = []
    for finding in findings:
        claim, value = finding.claim, finding.value
        here = "–"
        if value is not None:
            here = size(value.value, claim.kind)
            if value.low != value.high:
                known = math.isfinite(value.low) and math.isfinite(value.high)
                until = " to " if value.low < 0 else "–"
                reach = f"{size(value.low, claim.kind)}{until}{size(value.high, claim.kind)}"
                here += f" ({reach if known else '1 block'})"
            here += " extrapolated" if finding.extrapolated else ""
        rows.append(
            {
                "claim": claim.statement,
                "published": f"{size(claim.published, claim.kind)} ({claim.source})",
                "reference": finding.reference or "–",
                "candidate": finding.candidate or "–",
                "definition": finding.definition,
                "measured here": here,
                "device": finding.device or "–",
                "verdict": finding.verdict,
                "why": finding.why,
            }
        )
    return pd.DataFrame(rows)


def size(value: float, kind: str) -> str:
    """A claim's value: `85x`, `22%`, `8.4 points`."""
    if kind == "ttft_reduction":
        return f"{value:.0%}"
    if kind == "score_delta":
        return f"{value:+.1f} points"
    return f"{value:.3g} min" if kind == "training_minutes" else f"{value:.3g}x"
