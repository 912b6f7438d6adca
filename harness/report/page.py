"""The page of a report: `index.html`, one file that can be mailed, no network. jinja2 escapes everything that goes into
it."""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup, escape

from harness.analysis.claims import Finding, Verdict
from harness.analysis.table import FRONTIER_TTFT, has_frontier
from harness.report.canvas import Picture
from harness.report.cells import score, timed
from harness.report.content import Report, provenance
from harness.report.sections import sections_of
from harness.report.text import joined, number_of
from harness.schema import one_line


def verdict(table: pd.DataFrame, findings: Sequence[Finding] = ()) -> str:
    """What the report says, in one sentence of facts."""
    said = []
    if findings:
        counts = Counter(finding.verdict for finding in findings)
        parts = joined([f"{counts[name]} {SAID[name][counts[name] > 1]}" for name in SAID if counts[name]])
        said.append(f"of {number_of(len(findings), 'comparison')} with a published claim, {parts}")
    good = table.dropna(subset=[FRONTIER_TTFT]) if FRONTIER_TTFT in table.columns else table.iloc[:0]
    good = good.sort_values(FRONTIER_TTFT) if len(good) else good
    front = good[good["on_frontier"]] if len(good) else good
    if good.empty:
        said.append("nothing was timed")
    elif front.empty:
        said += [f"{number_of(len(good), 'point')} timed, without accuracy", f"fastest: {_point(good.iloc[0])}"]
        said += [f"slowest: {_point(good.iloc[-1])}"] if len(good) > 1 else []
    elif not has_frontier(good):
        said.append("no frontier is claimed, because all its accuracy intervals overlap")
        said.append(f"fastest: {_point(front.iloc[0])}")
    else:
        known = number_of(int(good["accuracy"].notna().sum()), "point")
        machines = good["machine"].nunique()
        own = f" of their own machine ({machines} machines)" if machines > 1 else ""
        said.append(f"{len(front)} of {known} {'is' if len(front) == 1 else 'are'} on the frontier{own}")
        best = front.sort_values("accuracy").iloc[-1]
        if len(front) == 1:
            said.append(f"the fastest is also the most accurate: {_point(best)}")
        else:
            said += [f"fastest: {_point(front.iloc[0])}", f"most accurate: {_point(best)}"]
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


def prose(text: str) -> Markup:
    """A section's note as HTML: escaped, with `code` and **bold**."""
    marked = re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text)))
    return Markup(re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", marked))  # noqa: S704 - escaped above


def _embedded(picture: Picture, folder: Path) -> dict[str, str]:
    """A picture as a data URI, so that the page is whole without its folder."""
    content = base64.b64encode((folder / f"{picture.stem}.png").read_bytes()).decode()
    return {"caption": picture.caption, "uri": f"data:image/png;base64,{content}", "stem": picture.stem}


def write_page(report: Report, pictures: Sequence[Picture], folder: Path) -> None:
    """Write `index.html`; the pictures, which lie in `folder`, are in it."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["prose"] = prose
    manifest, rows = report.manifest, report.timed
    above, below = sections_of(report)
    page = environment.get_template("page.html").render(
        title=one_line(manifest.title),
        command=one_line(manifest.command, 2000),
        started=one_line(manifest.started),
        verdict=verdict(report.table, report.findings),
        provenance=provenance(rows) if not rows.empty else "nothing was measured",
        disturbed=int(rows["disturbed"].sum()) if not rows.empty else 0,
        timed=len(rows),
        missing=len(manifest.points) - len(report.table),
        above=above,
        pictures=[_embedded(picture, folder) for picture in pictures],
        below=below,
        number_of=number_of,
    )
    (folder / "index.html").write_text(page, encoding="utf-8")
