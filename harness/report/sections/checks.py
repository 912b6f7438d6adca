"""What was done to find out whether the numbers are true, and what a reader must know about them."""

from __future__ import annotations

import pandas as pd

from harness.analysis.table import PUBLISHED
from harness.report.cells import deviation, timed
from harness.report.content import Report
from harness.report.sections import Section
from harness.report.text import number_of

ORDER = 60


def section(report: Report) -> Section | None:
    """Warnings first, then the checks."""
    warnings = [*(notes_of(report.table) if not report.table.empty else []), *report.remarks]
    remarks = checks(report.timed)
    if not warnings and not remarks:
        return None
    return Section("Can these numbers be trusted?", warnings=warnings, remarks=remarks)


def notes_of(table: pd.DataFrame) -> list[str]:
    """Why points have no accuracy; what is said of many points in the same words is said once, with their number."""
    said: dict[str, list[str]] = {}
    for row in table.to_dict("records"):
        if why := row["no_accuracy"]:
            names = [f"{row.get('encoder')} + {row['llm']}", row.get("system"), row.get("encoder")]
            names = [name for name in names if f" {name} " in why]
            said.setdefault(why.replace(f" {names[0]} ", " these parts ") if names else why, []).append(why)
    return [
        next(iter(whole)) if len(set(whole)) == 1 else f"{number_of(len(whole), 'point')}: {text}"
        for text, whole in said.items()
    ]


def checks(table: pd.DataFrame) -> list[str]:
    """What was done to find out whether the numbers are true, in sentences."""
    said = []
    if "residual_ttft_model" in table.columns:
        for _, row in table.dropna(subset=["residual_ttft_model"]).iterrows():
            said.append(
                f"{row['encoder_title']} {row['resolution']} px, {row['llm_title']}: the composed ttft_model deviates "
                f"by {deviation(row, 'residual_ttft_model')} from the whole VLM measured directly; waiting between "
                f"stages costs {timed(row, 'overlap')}"
            )
    sources = table["accuracy_source"].dropna() if "accuracy_source" in table.columns else pd.Series(dtype=str)
    published = sources[sources.str.startswith(PUBLISHED)]
    if not published.empty:
        said.append(
            f"accuracies are published values, not measured here: {len(published)} of {number_of(len(table), 'point')} "
            f"{'has' if len(published) == 1 else 'have'} one ({'; '.join(sorted(set(published)))})"
        )
    if "bend" in table.columns:
        for _, row in table.dropna(subset=["bend"]).drop_duplicates(["llm_title", "visual_tokens"]).iterrows():
            said.append(
                f"{row['llm_title']} with {number_of(row['visual_tokens'], 'visual token')} did not have to fit into "
                f"memory: {row['source'].partition('; ')[2]}; the depth in between is {deviation(row, 'bend')} off "
                "the line"
            )
    if (text := _several(table)) and not table.empty:
        said.append(text)
    if "encode_effective_samples" in table.columns and not table.empty:
        encoders = table.drop_duplicates(["encoder_title", "input_px"])  # points share them: each counts once
        samples, worth = encoders["encode_samples"].sum(), encoders["encode_effective_samples"].sum()
        said.append(
            f"{number_of(round(samples), 'counted encoder pass', 'counted encoder passes')} "
            f"{'is' if round(samples) == 1 else 'are'} worth {worth:.0f} independent ones (lag-1 autocorrelation "
            f"{encoders['encode_lag1'].median():.2f} within a process); intervals are taken over processes"
        )
    if "marked" in table.columns and not table.empty:
        said.append(_marked(table["marked"]))
    return said


def _marked(shares: pd.Series[float]) -> str:
    """What was marked, and what the medians do with it."""
    share, whole = shares.mean(), int((shares == 1).sum())
    if not share:
        return "no pass was marked as disturbed"
    text = f"on average, {share:.1%} of a point's passes are marked as disturbed; "
    if whole == len(shares):
        return text + "none is left unmarked, so all of them count"
    more = f" ({number_of(whole, 'point')} of {len(shares)})" if whole else ""
    return text + f"medians leave them out, unless a measurement has no others{more}"


def _several(table: pd.DataFrame) -> str:
    """Why one component may have several values; empty where each has one."""
    found, several = [], 0
    for stage, what, noun in (
        ("encode", ["encoder_title", "input_px"], "encoder"),
        ("prefill", ["llm_title", "visual_tokens"], "LLM"),
    ):
        if stage in table.columns:
            values = table.dropna(subset=[stage]).groupby(what)[stage].nunique()
            if count := int((values > 1).sum()):
                found.append(f"{count} of {number_of(len(values), noun)}")
                several += count
    if not found:
        return ""
    return (
        f"{' and '.join(found)} {'has' if several == 1 else 'have'} more than one value for the same input in the "
        "table: the measurements are the same, but each point leaves out the blocks in which one of its own components "
        "was disturbed, so the medians are taken over different blocks"
    )
