"""What resolution costs: time of the encoder and of the prefill."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pandas as pd
from matplotlib.figure import Figure as Canvas

from harness.report.canvas import (
    GREYS,
    MARKERS,
    Figure,
    bars_text,
    has_curves,
    interval_reach,
    once,
    palette,
    plain_ticks,
    ticks_at,
)
from harness.report.content import Report
from harness.report.text import label, unit_for

ORDER = 50
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.5, 1.5, 1.5)))
"""Lines that lie on each other are both seen."""


def figures(report: Report) -> Iterator[Figure]:
    """One picture, unless each of many systems is a single point."""
    rows = report.timed
    if not has_curves(rows) or not {"encode", "prefill"} <= set(rows.columns):
        return
    yield Figure(
        "latency",
        "What resolution costs",
        "Left: time of the vision encoder against input resolution. Right: time of the LLM's prefill against the "
        f"number of visual tokens. Both axes are logarithmic.{bars_text(rows, 'encode', 'prefill')}",
        partial(paint, rows=rows),
        rows,
    )


def paint(canvas: Canvas, rows: pd.DataFrame) -> None:
    """Encoders on the left, LLMs on the right."""
    left, right = canvas.subplots(1, 2)
    colours, markers = palette(rows)
    unit, scale = unit_for(rows[["encode", "prefill"]].to_numpy(float).ravel())
    encoders = once(rows, "encode", ["encoder_title", "input_px"])
    llms = once(rows[rows["sequence_tokens"] > 0], "prefill", ["llm_title", "visual_tokens"])
    for axes, part, name, place, stage in (
        (left, encoders, "encoder_title", "input_px", "encode"),
        (right, llms, "llm_title", "visual_tokens", "prefill"),
    ):
        part = part[part[stage] > 0]
        if part.empty:
            axes.text(0.5, 0.5, "not measured", ha="center", transform=axes.transAxes)
            continue
        for k, title in enumerate(part[name].unique()):
            group = part[part[name] == title].sort_values(place)
            axes.errorbar(
                group[place],
                group[stage] * scale,
                yerr=interval_reach(group, stage, scale),
                color=colours[title] if stage == "encode" else GREYS[k % len(GREYS)],
                marker=MARKERS[k % len(MARKERS)] if stage == "encode" else markers[title],
                ls=DASHES[k % len(DASHES)],
                ms=max(3.5, 7 - 1.2 * k),
                mfc="none",
                lw=1.4,
                elinewidth=0.8,
                label=label(title, 30),
            )
        axes.set_yscale("log")
        axes.set_xscale("log")
        ticks_at(axes.xaxis, part[place])
        plain_ticks(axes.yaxis, part[stage] * scale)
        axes.set_title("vision encoding" if stage == "encode" else "LLM prefill", fontsize=9.5)
        axes.set_xlabel("input resolution, px" if stage == "encode" else "visual tokens")
        axes.legend(loc="upper left", handlelength=3)
        low, high = axes.get_ylim()
        axes.set_ylim(low, high * (high / low) ** 0.25)  # room for the legend above the lines
    left.set_ylabel(f"median, {unit}")
