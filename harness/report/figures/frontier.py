"""Accuracy against time to first token: the mean of all suites, and each suite alone."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pandas as pd
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from harness.analysis.table import FRONTIER_TTFT, PUBLISHED, frontier_of, has_frontier, suites_of, told_apart
from harness.report.canvas import (
    Figure,
    annotate,
    bars_text,
    beside_handles,
    beside_text,
    curves,
    draw_legend,
    draw_levels,
    draw_unseen,
    filled_and_hollow,
    interval_reach,
    listed,
    plain_ticks,
)
from harness.report.content import Report
from harness.report.text import label, number_of, unit_for
from harness.schema import one_line

ORDER = 20
FRONT = "#F2C14E"
"""The frontier's band; interval bars are thin and have their point's colour."""
DECADE = 8
"""Times that differ by less than this factor are drawn on a linear axis, where every tick has its number."""
TTFT_LABELS = {
    "ttft_model": "time to first token: encoding + connector + prefill (ttft_model), {}",
    "ttft_user": "time to first token: image bytes to first token (ttft_user), {}",
}


def figures(report: Report) -> Iterator[Figure]:
    """Two definitions of the time with the mean accuracy, then one picture for each suite."""
    scored = report.scored
    if scored.empty:
        return
    names = suites_of(scored)
    source = str(scored["accuracy_source"].iloc[0])
    what, axis = f"Mean accuracy of {listed(names)}", "mean accuracy"
    if source.startswith(PUBLISHED):
        what = f"Published scores, not measured here (Avg-5, {one_line(source.partition(':')[0], 80)}),"
        axis = "published Avg-5"
    title = "What accuracy costs in time to first token"
    yield frontier("frontier", title, f"{what} against time to first token.", scored, "accuracy", axis)
    yield frontier(
        "frontier-user",
        f"{title}, for the user",
        "The same against the time a user waits, which includes image decoding and resizing, tokenizing and sampling.",
        scored,
        "accuracy",
        axis,
        "ttft_user",
    )
    for name in names:
        yield frontier(
            f"frontier-{name}",
            f"{label(name)}: accuracy against time to first token",
            f"Accuracy on {label(name)} alone against time to first token.",
            scored.dropna(subset=[name]),
            name,
            f"accuracy on {label(name)}",
        )


def frontier(
    stem: str, title: str, text: str, rows: pd.DataFrame, accuracy: str, axis: str, ttft: str = FRONTIER_TTFT
) -> Figure:
    """The picture of one accuracy against one time; `axis` is the accuracy's label."""
    shown = partial(paint, rows=rows, accuracy=accuracy, axis=axis, ttft=ttft)
    return Figure(stem, title, f"{text} {front_text(rows, accuracy, ttft)}", shown, rows)


def front_text(rows: pd.DataFrame, accuracy: str, ttft: str) -> str:
    """What a picture of a frontier shows, and what it does not claim."""
    bars = bars_text(rows, accuracy, ttft) + beside_text(rows, accuracy)
    count = int(frontier_of(rows, accuracy, ttft).sum())
    if not has_frontier(rows, accuracy, ttft):
        return (
            f"The accuracy intervals of the {number_of(count, 'point')} that no other point beats in both overlap: "
            f"none is known to be more accurate than the fastest, so no frontier is drawn.{bars}"
        )
    machine = " of the same machine" if rows["machine"].nunique() > 1 else ""
    apart = int(told_apart(rows, accuracy, ttft).sum())
    more = f"; the accuracy intervals of {apart} of them (black edge) do not overlap" if apart < count else ""
    return (
        f"Yellow band: the {count} of {number_of(len(rows), 'point')} that no other point{machine} beats in both{more}."
        f" Small numbers: input resolution in px.{bars}"
    )


def paint(canvas: Canvas, rows: pd.DataFrame, accuracy: str, axis: str, ttft: str) -> None:
    """Curves of each encoder and LLM, with the frontier behind them where one is claimed."""
    axes = canvas.add_subplot()
    unit, scale = unit_for(rows[ttft])
    claimed = has_frontier(rows, accuracy, ttft)
    best, apart = frontier_of(rows, accuracy, ttft) & claimed, told_apart(rows, accuracy, ttft) & claimed
    for colour, marker, group in curves(rows):
        axes.plot(group[ttft] * scale, group[accuracy], color=colour, lw=1, alpha=0.3 if claimed else 0.6, zorder=2)
        looks: Any = (  # those behind, those on the frontier, those that are told apart
            (~best, {"alpha": 0.35 if claimed else 0.9, "ms": 4.5, "elinewidth": 0.7, "zorder": 2}),
            (best & ~apart, {"alpha": 1.0, "ms": 6.5, "elinewidth": 1.0, "zorder": 4}),
            (apart, {"alpha": 1.0, "ms": 8, "elinewidth": 1.3, "zorder": 5, "mec": "black"}),
        )
        for chosen, look in looks:
            for part, hollow in filled_and_hollow(group[chosen[group.index]], accuracy):
                axes.errorbar(
                    part[ttft] * scale,
                    part[accuracy],
                    xerr=interval_reach(part, ttft, scale),
                    yerr=interval_reach(part, accuracy),
                    fmt=marker,
                    color=colour,
                    **(look | hollow),
                )
        draw_unseen(axes, group[ttft] * scale, group, accuracy, colour)
    draw_levels(axes, rows, accuracy)
    for _, front in rows[best].sort_values(ttft).groupby("machine"):
        axes.plot(
            front[ttft] * scale, front[accuracy], color=FRONT, lw=7, alpha=0.6, drawstyle="steps-post", zorder=1,
            solid_joinstyle="round", solid_capstyle="round",
        )  # fmt: skip
    if rows[ttft].max() > DECADE * rows[ttft].min():
        axes.set_xscale("log")
        plain_ticks(axes.xaxis, rows[ttft] * scale)
    axes.set_xlabel(TTFT_LABELS[ttft].format(unit))
    axes.set_ylabel(axis)
    band = [Line2D([], [], color=FRONT, lw=7, alpha=0.6, label="frontier")] if claimed else []
    draw_legend(canvas, rows, [*band, *beside_handles(rows, accuracy)])
    points = rows[best] if claimed else rows
    places = [(str(r["input_px"]), r[ttft] * scale, r[accuracy]) for r in points.to_dict("records")]
    annotate(axes, places, [(x, y) for _, x, y in places])
