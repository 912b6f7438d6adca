"""The table of a report: everything as CSV, what a reader compares as Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from harness.claims import Finding, table_of
from harness.frame import suites_of


def milliseconds(row: pd.Series[Any], name: str) -> str:
    """A duration with its 95% interval over blocks, e.g. `3.21 (3.18–3.30)`; a dash where there is none."""
    value = row.get(name)
    if value is None or pd.isna(value):
        return "–"
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    if math.isinf(low) or math.isinf(high):
        return f"{value * 1e3:.2f} (1 block)"
    return f"{value * 1e3:.2f} ({low * 1e3:.2f}–{high * 1e3:.2f})"


def grown(row: pd.Series[Any], name: str) -> str:
    """A duration that rests on an LLM's prefill: marked where that was extrapolated."""
    text = milliseconds(row, name)
    return f"{text} extrapolated" if text != "–" and row.get("extrapolated") is True else text


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
    rough = int(row["disturbed_blocks"])
    if not rough:
        return f"{row['blocks']:.0f}"
    return f"{row['blocks']:.0f}, {'rests on ' if row['disturbed'] else 'without '}{rough} disturbed"


def percentile(row: pd.Series[Any], name: str) -> str:
    """A percentile in milliseconds, or `n/a` with the number of independent samples, which is too small."""
    value = row.get(name)
    if value is not None and not pd.isna(value):
        return f"{value * 1e3:.2f}"
    worth = row.get(f"{name.rpartition('_')[0]}_effective_samples")
    return "–" if worth is None or pd.isna(worth) else f"n/a (n={worth:.0f})"


def score(row: pd.Series[Any], name: str) -> str:
    """An accuracy with its standard error, e.g. `0.512 ± 0.021`; a dash where there is none."""
    value = row.get(name)
    if value is None or pd.isna(value):
        return "–"
    error = row.get(f"{name}_stderr")
    return f"{value:.3f} (published)" if error is None or pd.isna(error) else f"{value:.3f} ± {error:.3f}"


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """The columns that a reader compares, as text."""
    rows = []
    for _, row in table.iterrows():
        cells = {
            "encoder": row["encoder_title"],
            "LLM": row["llm_title"],
            "px": str(row["resolution"]),
            "visual tokens": str(row["visual_tokens"]),
            "encode ms": milliseconds(row, "encode"),
            "of limit": percent(row, "encode_efficiency"),
            "prefill ms": grown(row, "prefill"),
            "of its limit": percent(row, "prefill_efficiency"),
            "ttft_paper ms": grown(row, "ttft_paper"),
            "ttft_model ms": grown(row, "ttft_model"),
            "ttft_user ms": grown(row, "ttft_user"),
            "ttft_fused ms": milliseconds(row, "ttft_fused"),
            "composed vs direct": deviation(row, "residual_ttft_model"),
            "encode p95 ms": percentile(row, "encode_p95"),
            "peak MB": "–" if pd.isna(row.get("peak_bytes")) else f"{row['peak_bytes'] / 1e6:.0f}",
            "blocks": blocks(row),
        }
        for suite in suites_of(table):
            cells[suite] = score(row, suite)
        cells["accuracy"] = score(row, "accuracy")
        cells["frontier"] = "yes" if row.get("on_frontier") else ""
        if row["status"] != "ok":
            cells["frontier"] = f"{row['status']}: {row['reason']}"
        rows.append(cells)
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame) -> str:
    """A GitHub table of text cells."""

    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    head = [str(column) for column in table.columns]
    body = [line([str(cell) for cell in row]) for row in table.itertuples(index=False)]
    return "\n".join([line(head), line(["---"] * len(head)), *body]) + "\n"


def whole(row: pd.Series[Any], name: str) -> str:
    """A number of things; a dash where there is none."""
    value = row.get(name)
    return "–" if value is None or pd.isna(value) else f"{value:.0f}"


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
                "questions": whole(row, "questions"),
                "images": whole(row, "images"),
                "unparsed": whole(row, "unparsed"),
                "error (by image)": f"{row['stderr']:.4f}" if error else "–",
                "error (naive)": f"{row['stderr_naive']:.4f}" if error else "–",
                "design effect": "–" if failed or pd.isna(row.get("design_effect")) else f"{row['design_effect']:.2f}",
                "protocol": "–" if failed else row["metric"] or "answers in submissions/",
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
                here += f" ({size(value.low, claim.kind)}–{size(value.high, claim.kind)})" if known else " (1 block)"
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
    for row in ranks.to_dict("records"):
        mark = " extrapolated" if row["extrapolated"] else ""
        moved = row["rank_ttft_paper"] - row["rank_ttft_user"]
        rows.append(
            {
                "point": row["point"],
                "ttft_paper s": f"{row['ttft_paper']:.2f}{mark}",
                "rank": str(row["rank_ttft_paper"]),
                "ttft_user s": f"{row['ttft_user']:.2f}{mark}",
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
        table_of(findings).to_csv(folder / "claims.csv", index=False)
        text = markdown(readable_claims(findings))
        (folder / "claims.md").write_text(text + ("\n" + markdown(readable_ranks(ranks)) if not ranks.empty else ""))


def write_tables(table: pd.DataFrame, scores: pd.DataFrame, folder: Path) -> None:
    """`table.csv` (all columns, SI units) and `table.md`; `scores.csv` and `scores.md` where there are scores."""
    table.to_csv(folder / "table.csv", index=False)
    (folder / "table.md").write_text(markdown(readable(table)))
    if not scores.empty:
        scores.to_csv(folder / "scores.csv", index=False)
        (folder / "scores.md").write_text(markdown(readable_scores(scores)))
