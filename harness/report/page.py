"""The page of a report: `index.html`, one file that can be mailed, no network. jinja2 escapes everything that goes into
it."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from harness.analysis.claims import Finding, Verdict
from harness.analysis.table import FRONTIER_TTFT, PUBLISHED, has_frontier
from harness.report.figures import Figure, provenance
from harness.report.tables import (
    claimed,
    deviation,
    readable,
    readable_claims,
    readable_latencies,
    readable_ranks,
    readable_scores,
    score,
    timed,
    told,
)
from harness.report.text import number_of
from harness.schema import Manifest, one_line


def verdict(table: pd.DataFrame, findings: Sequence[Finding] = ()) -> str:
    """What the report says, in one sentence of facts."""
    said = []
    if findings:
        counts = Counter(finding.verdict for finding in findings)
        parts = ", ".join(f"{counts[name]} {SAID[name][counts[name] > 1]}" for name in SAID if counts[name])
        said.append(f"of {number_of(len(findings), 'comparison')} with a published claim {parts}")
    good = table.dropna(subset=[FRONTIER_TTFT]) if FRONTIER_TTFT in table.columns else table.iloc[:0]
    good = good.sort_values(FRONTIER_TTFT) if len(good) else good
    front = good[good["on_frontier"]] if len(good) else good
    if good.empty:
        said.append("nothing was timed")
    elif front.empty:
        said += [f"{number_of(len(good), 'point')} timed, without accuracy", f"fastest: {_point(good.iloc[0])}"]
        said += [f"slowest: {_point(good.iloc[-1])}"] if len(good) > 1 else []
    elif not has_frontier(good):
        said.append("no frontier is claimed, because the intervals of its accuracies all overlap")
        said.append(f"fastest: {_point(front.iloc[0])}")
    else:
        known = number_of(int(good["accuracy"].notna().sum()), "point")
        machines = good["machine"].nunique()
        each = f" of {machines} machines, each for itself" if machines > 1 else ""
        said.append(f"{len(front)} of {known} {'is' if len(front) == 1 else 'are'} on the frontier{each}")
        best = front.sort_values("accuracy").iloc[-1]
        both = ["the fastest is the most accurate"] if len(front) == 1 else [f"fastest: {_point(front.iloc[0])}"]
        said += [*both, f"most accurate: {_point(best)}"]
    text = "; ".join(said)
    return f"{text[:1].upper()}{text[1:]}."


SAID: dict[Verdict, tuple[str, str]] = {
    "holds": ("holds", "hold"),
    "differs": ("differs", "differ"),
    "undecided": ("is undecided", "are undecided"),
    "cannot be measured here": ("cannot be measured here", "cannot be measured here"),
}
"""Verdicts in a sentence, of one and of several."""


def _point(row: pd.Series[Any]) -> str:
    """A point with its time and accuracy."""
    name = one_line(f"{row['encoder_title']} at {row['resolution']} px with {row['llm_title']}", 120)
    accuracy = score(row, "accuracy")
    return f"{name}, {timed(row, FRONTIER_TTFT)}" + (f", accuracy {accuracy}" if accuracy != "–" else "")


def notes_of(table: pd.DataFrame) -> list[str]:
    """Why points have no accuracy; what is said of many points in the same words is said once, with their number."""
    said: dict[str, list[str]] = {}
    for row in table.to_dict("records"):
        if why := row["no_accuracy"]:
            names = [name for name in (f"{row['encoder']} + {row['llm']}", row["encoder"]) if f" {name} " in why]
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
                f"{row['encoder_title']} {row['resolution']} px, {row['llm_title']}: composed ttft_model is "
                f"{deviation(row, 'residual_ttft_model')} off the whole VLM measured directly; waiting between stages "
                f"costs {timed(row, 'overlap')}"
            )
    sources = table["accuracy_source"].dropna() if "accuracy_source" in table.columns else pd.Series(dtype=str)
    published = sources[sources.str.startswith(PUBLISHED)]
    if not published.empty:
        said.append(
            f"accuracies are published ones, not measured here: {len(published)} of {number_of(len(table), 'point')} "
            f"{'has' if len(published) == 1 else 'have'} one ({'; '.join(sorted(set(published)))})"
        )
    if "bend" in table.columns:
        for _, row in table.dropna(subset=["bend"]).drop_duplicates(["llm_title", "visual_tokens"]).iterrows():
            said.append(
                f"{row['llm_title']} with {number_of(row['visual_tokens'], 'visual token')} did not have to fit into "
                f"memory: {row['source'].partition('; ')[2]}; the depth between them is {deviation(row, 'bend')} off "
                "the line"
            )
    if (text := _several(table)) and not table.empty:
        said.append(text)
    if "encode_effective_samples" in table.columns and not table.empty:
        encoders = table.drop_duplicates(["encoder_title", "resolution"])  # points share them: each counts once
        samples, worth = encoders["encode_samples"].sum(), encoders["encode_effective_samples"].sum()
        said.append(
            f"{number_of(round(samples), 'counted pass', 'counted passes')} of encoders "
            f"{'is' if round(samples) == 1 else 'are'} worth {worth:.0f} independent ones (lag-1 autocorrelation "
            f"{encoders['encode_lag1'].median():.2f} within a process); intervals are over processes"
        )
    if "marked" in table.columns and not table.empty:
        said.append(_marked(table["marked"]))
    return said


def _marked(shares: pd.Series[float]) -> str:
    """What was marked, and what the medians do with it."""
    share, whole = shares.mean(), int((shares == 1).sum())
    if not share:
        return "no pass was marked as disturbed"
    text = f"{share:.1%} of a point's passes (mean over points) are marked as disturbed; "
    if whole == len(shares):
        return text + "no other is left, so that all of them count"
    more = f" ({number_of(whole, 'point')} of {len(shares)} with no other: there all of them count)" if whole else ""
    return text + "medians leave marked passes out, and count all of a measurement that has no other" + more


def _several(table: pd.DataFrame) -> str:
    """Why one component may have several values; empty where each has one."""
    found = []
    for stage, what, noun in (
        ("encode", ["encoder_title", "resolution"], "encoder"),
        ("prefill", ["llm_title", "visual_tokens"], "LLM"),
    ):
        if stage in table.columns:
            values = table.dropna(subset=[stage]).groupby(what)[stage].nunique()
            if count := int((values > 1).sum()):
                found.append(f"{count} of {number_of(len(values), noun)} at one input")
    if not found:
        return ""
    return (
        f"{' and '.join(found)} have more than one value in the table: the measurements are the same, but a point "
        "leaves out the blocks in which any of its own components was disturbed, so that its median is over other "
        "blocks than that of the next point"
    )


def _embedded(figure: Figure, folder: Path) -> dict[str, str]:
    """A picture as a data URI, so that the page is whole without its folder."""
    content = base64.b64encode((folder / f"{figure.stem}.png").read_bytes()).decode()
    return {"caption": figure.caption, "uri": f"data:image/png;base64,{content}", "stem": figure.stem}


def _folded(detail: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Scores suite by suite."""
    return (
        [(str(suite), part.drop(columns="suite")) for suite, part in detail.groupby("suite", sort=False)]
        if len(detail)
        else []
    )


def write_page(
    manifest: Manifest,
    table: pd.DataFrame,
    scores: pd.DataFrame,
    figures: list[Figure],
    folder: Path,
    findings: Sequence[Finding] = (),
    ranks: pd.DataFrame | None = None,
    latencies: pd.DataFrame | None = None,
    remarks: Iterable[str] = (),
) -> None:
    """Write `index.html`; the pictures are in it. `remarks`: what a reader must know beside what the table says."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    timed_rows = table.dropna(subset=["ttft_user"]) if "ttft_user" in table.columns else table.iloc[:0]
    page = environment.get_template("page.html").render(
        title=one_line(manifest.title),
        command=one_line(manifest.command, 2000),
        started=one_line(manifest.started),
        verdict=verdict(table, findings),
        missing=len(manifest.points) - len(table),
        provenance=provenance(timed_rows) if not timed_rows.empty else "nothing was measured",
        figures=[_embedded(figure, folder) for figure in figures],
        notes=[*(notes_of(table) if not table.empty else []), *remarks],
        disturbed=int(timed_rows["disturbed"].sum()) if not timed_rows.empty else 0,
        timed=len(timed_rows),
        checks=checks(timed_rows),
        points=told(readable(table)) if not table.empty else table,
        claims=readable_claims(findings),
        ranks=readable_ranks(pd.DataFrame() if ranks is None else ranks),
        series=readable_latencies(pd.DataFrame() if latencies is None else latencies),
        scores=_folded(readable_scores(scores)),
        fronts=["front" if best else "" for best in claimed(table)],
        failures=table[table["status"] != "ok"].to_dict("records") if not table.empty else [],
        number_of=number_of,
    )
    (folder / "index.html").write_text(page, encoding="utf-8")
