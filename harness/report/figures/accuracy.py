"""Accuracy on each suite against input resolution."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial

import pandas as pd
from matplotlib.figure import Figure as Canvas

from harness.analysis.table import suites_of
from harness.report.canvas import (
    BASELINES,
    Figure,
    as_blind,
    bars_text,
    beside_handles,
    beside_text,
    curves,
    draw_legend,
    draw_levels,
    draw_unseen,
    interval_reach,
)
from harness.report.content import Report
from harness.report.text import label

ORDER = 30


def figures(report: Report) -> Iterator[Figure]:
    """One picture with a panel for each suite."""
    rows = report.scored
    if rows.empty or not (names := suites_of(rows)):
        return
    yield Figure(
        "accuracy",
        "What resolution buys",
        f"Accuracy on each suite against input resolution.{bars_text(rows, *names)}{beside_text(rows, *names)}",
        partial(paint, rows=rows, names=names),
        rows,
        3.9 if len(names) < 4 else 2.3 * math.ceil(len(names) / 3) + 1.4,
    )


def paint(canvas: Canvas, rows: pd.DataFrame, names: Sequence[str]) -> None:
    """A panel for each suite, with what guessing, the majority answer and a blind run score."""
    wide = min(3, len(names))
    panels = canvas.subplots(math.ceil(len(names) / wide), wide, sharey=True, squeeze=False).ravel()
    top = max(float((rows[name] + interval_reach(rows, name)[1]).max()) for name in names)
    baselines = [f"{name}_{what}" for name in names for what in (*BASELINES, "blind")]
    top = max([top, *(float(rows[column].max()) for column in baselines if column in rows.columns)])
    for axes, name in zip(panels, names, strict=False):
        for colour, marker, group in curves(rows.dropna(subset=[name])):
            axes.errorbar(
                group["input_px"],
                group[name],
                yerr=interval_reach(group, name),
                color=colour,
                marker=marker,
                ms=4,
                lw=1.2,
                elinewidth=0.8,
            )
            hollow = group[as_blind(group, name)]
            axes.plot(hollow["input_px"], hollow[name], marker, ms=4, color=colour, mfc="white", zorder=3)
            draw_unseen(axes, group["input_px"], group, name, colour)
        draw_levels(axes, rows, name)
        axes.set_title(label(name, 24), fontsize=9.5)
        axes.set_xlabel("input resolution, px")
        places = sorted(rows["input_px"].unique())
        axes.set_xticks(places if len(places) <= 5 else places[:: math.ceil(len(places) / 5)])
        axes.set_ylim(0, min(1.0, 1.06 * top) or 1.0)
    for axes in panels[len(names) :]:
        axes.remove()
    panels[0].set_ylabel("accuracy")
    draw_legend(canvas, rows, beside_handles(rows, *names))
