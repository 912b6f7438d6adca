"""The page of a report: `index.html`, one folder, no network. jinja2 escapes everything that goes into it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jinja2
import pandas as pd

from harness.claims import Finding
from harness.report.figures import Figure, provenance
from harness.report.tables import (
    deviation,
    milliseconds,
    readable,
    readable_claims,
    readable_latencies,
    readable_ranks,
    readable_scores,
)
from harness.schema import Manifest


def checks(table: pd.DataFrame) -> list[str]:
    """What was done to find out whether the numbers are true, in sentences."""
    said = []
    if "residual_ttft_model" in table.columns:
        for _, row in table.dropna(subset=["residual_ttft_model"]).iterrows():
            said.append(
                f"{row['encoder_title']} {row['resolution']} px, {row['llm_title']}: composed ttft_model is "
                f"{deviation(row, 'residual_ttft_model')} off the whole VLM measured directly; waiting between stages "
                f"costs {milliseconds(row, 'overlap')} ms"
            )
    if "accuracy_source" in table.columns:
        count = int(table["accuracy_source"].notna().sum())
        said.append(
            f"accuracies are published ones, not measured here: {count} of {len(table)} points have one "
            f"({'; '.join(sorted(set(table['accuracy_source'].dropna())))})"
        )
    if "bend" in table.columns:
        for _, row in table.dropna(subset=["bend"]).drop_duplicates(["llm_title", "visual_tokens"]).iterrows():
            said.append(
                f"{row['llm_title']} with {row['visual_tokens']} visual tokens did not have to fit into memory: "
                f"{row['source'].partition('; ')[2]}; the depth between them is {deviation(row, 'bend')} off the line"
            )
    if "encode_effective_samples" in table.columns and not table.empty:
        encoders = table.drop_duplicates(["encoder_title", "resolution"])  # points share them: each counts once
        samples, worth = encoders["encode_samples"].sum(), encoders["encode_effective_samples"].sum()
        said.append(
            f"{samples:.0f} counted passes of encoders are worth {worth:.0f} independent ones (lag-1 autocorrelation "
            f"{encoders['encode_lag1'].median():.2f} within a process); intervals are over processes"
        )
        said.append(
            f"{table['marked'].mean():.1%} of a point's passes (mean over points) are marked; medians leave them out"
        )
    return said


def write_page(
    manifest: Manifest,
    table: pd.DataFrame,
    scores: pd.DataFrame,
    figures: list[Figure],
    folder: Path,
    findings: Sequence[Finding] = (),
    ranks: pd.DataFrame | None = None,
    latencies: pd.DataFrame | None = None,
) -> None:
    """Write `index.html` beside the pictures that it shows."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    timed = table.dropna(subset=["ttft_user"]) if "ttft_user" in table.columns else table.iloc[:0]
    shown = readable(table) if not table.empty else table
    detail = readable_scores(scores)
    claims = readable_claims(findings)
    order = readable_ranks(pd.DataFrame() if ranks is None else ranks)
    series = readable_latencies(pd.DataFrame() if latencies is None else latencies)
    notes = sorted({note for note in table.get("no_accuracy", []) if note})
    page = environment.get_template("page.html").render(
        title=manifest.title,
        command=manifest.command,
        started=manifest.started,
        missing=len(manifest.points) - len(table),
        provenance=provenance(timed) if not timed.empty else "nothing was measured",
        figures=figures,
        notes=notes,
        disturbed=int(timed["disturbed"].sum()) if not timed.empty else 0,
        timed=len(timed),
        checks=checks(timed),
        columns=list(shown.columns),
        rows=shown.to_numpy().tolist(),
        claim_columns=list(claims.columns),
        claim_rows=claims.to_numpy().tolist(),
        rank_columns=list(order.columns),
        rank_rows=order.to_numpy().tolist(),
        series_columns=list(series.columns),
        series_rows=series.to_numpy().tolist(),
        score_columns=list(detail.columns),
        score_rows=detail.to_numpy().tolist(),
        on_frontier=table["on_frontier"].tolist() if not table.empty else [],
        failures=table[table["status"] != "ok"].to_dict("records") if not table.empty else [],
    )
    (folder / "index.html").write_text(page)
