"""How far each stage is from what this device can do: a roofline."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from harness.report.canvas import TINY, Figure, annotate, has_curves, legend_above, once, palette, plain_ticks
from harness.report.content import Report
from harness.report.text import label

ORDER = 60
SHARES = (0.5, 0.25, 0.1, 0.05, 0.02, 0.01)
"""Shares of the device's ceiling that are drawn as lines."""


def figures(report: Report) -> Iterator[Figure]:
    """One picture, unless each of many systems is a single point."""
    rows = report.timed
    if not has_curves(rows) or not {"encode_flops", "ceiling_flops_per_second"} <= set(rows.columns):
        return
    yield Figure(
        "efficiency",
        "How close to this device's roofline",
        "Operations per second reached by each encoder (filled; small numbers: resolution in px) and each prefill "
        "(hollow; small numbers: visual tokens), against operations per byte that must be moved. The black line is "
        "what this device achieved in the same processes: a copy (slope) and a matrix product (plateau); the grey "
        "lines are shares of it. A point far below the black line makes poor use of the device, whatever its size.",
        partial(paint, rows=rows),
        rows,
    )


def paint(canvas: Canvas, rows: pd.DataFrame) -> None:
    """Points under the roof of this device, with lines at shares of it."""
    axes = canvas.add_subplot()
    colours, markers = palette(rows)
    flops, speed = (rows[f"ceiling_{what}_per_second"].median() for what in ("flops", "bytes"))
    places: list[tuple[str, float, float]] = []
    for stage, filled in (("encode", True), ("prefill", False)):
        if f"{stage}_flops" not in rows.columns:
            continue
        what = ["encoder_title", "input_px"] if filled else ["llm_title", "visual_tokens"]
        part = once(rows, f"{stage}_flops", what)
        for row in part[(part[f"{stage}_bytes"] > 0) & (part[f"{stage}_flops"] > 0)].to_dict("records"):
            x, y = row[f"{stage}_flops"] / row[f"{stage}_bytes"], row[f"{stage}_flops"] / row[stage] / 1e9
            colour = colours[row["encoder_title"]] if filled else "#444444"
            marker = "o" if filled else markers[row["llm_title"]]
            axes.plot(x, y, marker=marker, ms=6, ls="", color=colour, mfc=colour if filled else "none", zorder=3)
            places.append((str(row["input_px" if filled else "visual_tokens"]), x, y))
    axes.set_xscale("log")
    axes.set_yscale("log")
    if places:
        ends = np.array([[x, y] for _, x, y in places])
        x = np.geomspace(0.7 * ends[:, 0].min(), 1.5 * max(ends[:, 0].max(), flops / speed), 100)
        roof = np.minimum(speed * x, flops) / 1e9
        axes.plot(x, roof, color="black", lw=1.6)
        lowest = min((y / (min(speed * at, flops) / 1e9) for _, at, y in places), default=1.0)
        axes.text(x[-1], roof[-1], " 100%", fontsize=TINY, va="center")
        for share in (share for share in SHARES if share > 0.6 * lowest):
            axes.plot(x, share * roof, color="#999999", lw=0.7, ls="--", zorder=1)
            axes.text(x[-1], share * roof[-1], f" {share:.0%}", fontsize=TINY, va="center", color="#666666")
        axes.set_ylim(0.6 * ends[:, 1].min(), 1.5 * max(roof[-1], ends[:, 1].max()))
        plain_ticks(axes.xaxis, x)
        plain_ticks(axes.yaxis, [*ends[:, 1], roof[-1]])
    axes.grid(visible=False)
    axes.set_xlabel("operations per byte of weights, inputs and outputs")
    axes.set_ylabel("10⁹ operations per second")
    handles = [Line2D([], [], color=c, marker="o", ls="", label=label(name, 30)) for name, c in colours.items()]
    for name, marker in markers.items():
        handles.append(
            Line2D([], [], color="#444444", marker=marker, mfc="none", ls="", label=f"prefill, {label(name, 24)}")
        )
    legend_above(canvas, handles, 4)
    annotate(axes, places, [(x, y) for _, x, y in places])
