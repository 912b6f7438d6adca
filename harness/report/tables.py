"""The table of a report: everything as CSV, what a reader compares as Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from harness.analysis.claims import Finding, table_of
from harness.analysis.table import EXTRAPOLATED, MEASURED, PUBLISHED, TIMES, has_frontier, suites_of
from harness.report.text import markdown, quantity, unit_for, write_csv


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
    return f"{row['blocks']:.0f}, {'rests on ' if row['disturbed'] else 'without '}{rough} disturbed"


def percentile(row: pd.Series[Any], name: str, scale: float = 1e3) -> str:
    """A percentile, or `n/a` with the number of independent samples, which is too small."""
    value = row.get(name)
    if value is not None and not pd.isna(value):
        return f"{value * scale:.2f}"
    worth = row.get(f"{name.rpartition('_')[0]}_effective_samples")
    return "–" if worth is None or pd.isna(worth) else f"n/a (n={worth:.0f})"


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


NOT_SEEN = " (as blind)"
"""Stands behind a score that is within the error of its blind run."""


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


def claimed(table: pd.DataFrame) -> list[bool]:
    """Which rows are called the frontier: none where its accuracies may all be the same."""
    return table["on_frontier"].tolist() if has_frontier(table) else [False] * len(table)


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """The columns that a reader compares, as text: what a point is, how good, how fast, and the rest."""
    rows = []
    shown = [name for name in TIMES if name in table.columns]
    unit, scale = unit_for(table[shown].to_numpy(float).ravel())
    for (_, row), best in zip(table.iterrows(), claimed(table), strict=True):
        cells = {
            "encoder": row["encoder_title"],
            "LLM": row["llm_title"],
            "px": str(row["resolution"]),
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
            "of limit": percent(row, "encode_efficiency"),
            f"prefill {unit}": duration(row, "prefill", scale),
            "of its limit": percent(row, "prefill_efficiency"),
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


def told(table: pd.DataFrame) -> pd.DataFrame:
    """A readable table without the columns in which no row says anything."""
    silent = [column for column in table.columns if set(table[column]) <= {"–", ""}]
    return table.drop(columns=silent)


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


def readable_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """Scores as text: what they are, what they rest on, and whose definition they follow."""
    rows = []
    for _, row in scores.iterrows():
        failed = row["status"] != "ok"
        known = not failed and not pd.isna(row.get("value"))
        error = not failed and not pd.isna(row.get("stderr"))
        rows.append(
            {
                "point": row["point"],
                "suite": row["suite"],
                "part": "–" if failed else row["part"],
                "figure": f"{row['status']}: {row['reason']}" if failed else row["what"].replace("_", " "),
                "value": f"{row['value']:.3f}" if known else "–",
                "95% interval": f"{row['low']:.3f}–{row['high']:.3f}" if known and not pd.isna(row["low"]) else "–",
                "guess": share(row, "guess"),
                "majority": share(row, "majority"),
                "blind": share(row, "blind"),
                "above blind": above(row),
                "questions": whole(row, "questions"),
                "images": whole(row, "images"),
                "unparsed": whole(row, "unparsed"),
                "error (by image)": f"{row['stderr']:.4f}" if error else "–",
                "error (naive)": f"{row['stderr_naive']:.4f}" if error else "–",
                "design effect": "–" if failed or pd.isna(row.get("design_effect")) else f"{row['design_effect']:.2f}",
                "protocol": "–" if failed else row["metric"] or "answers in submissions/",
            }
        )
    table = pd.DataFrame(rows)
    beside = ["guess", "majority", "blind", "above blind"]
    return table.drop(columns=[name for name in beside if rows and set(table[name]) <= {"–"}])


def size(value: float, kind: str) -> str:
    """A claim's value: `85x`, `22%`, `8.4 points`."""
    if kind == "ttft_reduction":
        return f"{value:.0%}"
    if kind == "score_delta":
        return f"{value:+.1f} points"
    return f"{value:.3g} min" if kind == "training_minutes" else f"{value:.3g}x"


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
                "here": here,
                "device": finding.device or "–",
                "verdict": finding.verdict,
                "why": finding.why,
            }
        )
    return pd.DataFrame(rows)


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
                "rank": str(row["rank_ttft_paper"]),
                f"ttft_user {unit}": f"{row['ttft_user'] * scale:.3g}{mark}",
                "its rank": str(row["rank_ttft_user"]) + (f" ({moved:+d})" if moved else ""),
                "left out": f"{1 - row['ttft_paper'] / row['ttft_user']:.0%}",
            }
        )
    return pd.DataFrame(rows)


def readable_latencies(latencies: pd.DataFrame) -> pd.DataFrame:
    """Published encoder latencies beside those here, each series apart, as text."""
    return pd.DataFrame(
        [
            {
                "encoder": row["encoder"],
                "px": str(row["resolution"]),
                "published ms": f"{row['published'] * 1e3:.1f}",
                "series": row["series"],
                "on": row["device"],
                "source": row["source"],
                "here ms": f"{row['here'] * 1e3:.1f}",
                "on this": row["here_device"],
                "here over published": f"{row['here'] / row['published']:.1f}",
            }
            for row in latencies.to_dict("records")
        ]
    )


def write_claims(findings: Sequence[Finding], ranks: pd.DataFrame, folder: Path) -> None:
    """`claims.csv` and `claims.md`, where a sweep has claims."""
    if findings:
        write_csv(table_of(findings), folder / "claims.csv")
        text = markdown(readable_claims(findings))
        text += "\n" + markdown(readable_ranks(ranks)) if not ranks.empty else ""
        (folder / "claims.md").write_text(text, encoding="utf-8")


def write_tables(table: pd.DataFrame, scores: pd.DataFrame, folder: Path) -> None:
    """`table.csv` (all columns, SI units) and `table.md`; `scores.csv` and `scores.md` where there are scores."""
    write_csv(table, folder / "table.csv")
    (folder / "table.md").write_text(markdown(told(readable(table))), encoding="utf-8")
    if not scores.empty:
        write_csv(scores, folder / "scores.csv")
        (folder / "scores.md").write_text(markdown(readable_scores(scores)), encoding="utf-8")
