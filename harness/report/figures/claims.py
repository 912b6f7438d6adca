"""What was claimed against what was measured here, of every latency claim."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from harness.analysis.claims import LATENCY, Finding
from harness.report.canvas import GREYS, SMALL, TINY, Figure, legend_above, plain_ticks
from harness.report.content import Report
from harness.report.text import label
from harness.schema import Claim
from harness.stats import Interval

ORDER = 10
VERDICTS = {"holds": "#009E73", "differs": "#D55E00", "undecided": "#777777"}

Known = tuple[Finding, Interval]
"""A finding with the value that was measured here."""


def figures(report: Report) -> Iterator[Figure]:
    """One picture, where a claim about latency was measured."""
    shown = [(f, f.value) for f in report.findings if f.claim.kind in LATENCY and f.value is not None]
    if not shown:
        return
    bars = " Bars: 95% intervals." if any(map(_bounded, shown)) else " One block, so there are no intervals."
    more = (
        " Some values are extrapolated from a few layers (see the table)."
        if any(f.extrapolated for f, _ in shown)
        else ""
    )
    yield Figure(
        "claims",
        "The article's claims about time to first token, measured here",
        "How many times as fast as its reference the candidate is: as the article claims (diamonds) and as measured "
        "here under both definitions, coloured by verdict. To the right of 1 the candidate is faster."
        f"{bars}{more}",
        partial(paint, shown=shown),
        report.timed,
        1.9 + 0.62 * len(_pairs(f for f, _ in shown)),
    )


def _pairs(findings: Iterable[Finding]) -> list[str]:
    return list(dict.fromkeys(_pair(finding) for finding in findings))


def _pair(finding: Finding) -> str:
    return f"{label(finding.candidate, 34)}\nagainst {label(finding.reference, 34)}"


def _bounded(known: Known) -> bool:
    """Whether a finding has an interval."""
    return math.isfinite(known[1].low) and math.isfinite(known[1].high)


def paint(canvas: Canvas, shown: Sequence[Known]) -> None:
    """Each pair of systems on a line of its own, with both definitions of the time."""
    axes = canvas.add_subplot()
    names = _pairs(f for f, _ in shown)
    drawn = []
    for definition, marker, shift in (("ttft_paper", "o", -0.17), ("ttft_user", "s", 0.17)):
        for finding, found in shown:
            if finding.definition != definition:
                continue
            value, low, high = (_times_faster(finding.claim, each) for each in (found.value, found.low, found.high))
            if not (math.isfinite(value) and value > 0):
                continue
            at, colour = names.index(_pair(finding)) + shift, VERDICTS.get(finding.verdict, GREYS[0])
            known = math.isfinite(low) and math.isfinite(high)
            reach = [[max(0, value - low)], [max(0, high - value)]] if known else None
            axes.errorbar(value, at, xerr=reach, fmt=marker, ms=6, color=colour, elinewidth=1.2)
            axes.annotate(
                f"{value:.3g}x",
                (1.0, at),
                xycoords=("axes fraction", "data"),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=SMALL,
                color=colour,
                annotation_clip=False,
            )
            drawn.append(value)
    for finding, _ in shown:
        value = _times_faster(finding.claim, finding.claim.published)
        if math.isfinite(value) and value > 0:
            axes.plot(value, names.index(_pair(finding)), "D", ms=7, mfc="none", color="black")
            axes.annotate(
                f"{value:.3g}x", (value, names.index(_pair(finding))), xytext=(7, 0), textcoords="offset points",
                va="center", fontsize=TINY,
            )  # fmt: skip
            drawn.append(value)
    axes.axvline(1.0, color="#888888", lw=1)
    axes.set_xscale("log")
    axes.set_xlim(min([0.7, *(0.8 * value for value in drawn)]), max([1.5, *(1.9 * value for value in drawn)]))
    plain_ticks(axes.xaxis, [1, *drawn])
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("reference over candidate (right of 1: candidate faster →)", fontsize=9)
    handles: list[Any] = [Line2D([], [], color="black", marker="D", mfc="none", ls="", label="published")]
    handles += [
        Line2D([], [], color="#444444", marker=m, ls="", label=f"{d}, measured here")
        for m, d in (("o", "ttft_paper"), ("s", "ttft_user"))
    ]
    said = {f.verdict for f, _ in shown}
    handles += [Patch(color=colour, label=verdict) for verdict, colour in VERDICTS.items() if verdict in said]
    legend_above(canvas, handles, 3)


def _times_faster(claim: Claim, value: float) -> float:
    """A claim's value as a ratio of times; a saved share becomes one as well."""
    if claim.kind == "ttft_ratio" or math.isinf(value):
        return value
    return 1 / (1 - value) if value < 1 else math.inf
