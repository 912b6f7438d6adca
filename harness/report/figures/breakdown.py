"""Where the time to first token goes: a bar for each point, a colour for each stage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Canvas

from harness.analysis.table import EXTRAPOLATED
from harness.report.canvas import SMALL, TINY, Figure, bars_text, interval_reach, legend_above, listed
from harness.report.content import Report
from harness.report.text import label, quantity, unit_for
from harness.schema import STAGES

ORDER = 70
STAGE_COLOURS = {
    "preprocess": "#c9c2b2",
    "tokenize": "#e8e3d6",
    "transfer": "#a89f8d",
    "encode": "#33415c",
    "project": "#8d99ae",
    "fuse": "#5f6f8c",
    "prefill": "#a63d40",
    "sample": "#e2aeb0",
    "other": "#dddddd",
}
"""Slate for vision, red for the LLM, sand for the rest: none of them is an encoder's colour."""
VISIBLE = 0.01
"""Stages that are nowhere this share of the longest bar are drawn together."""


def figures(report: Report) -> Iterator[Figure]:
    """One picture of all points."""
    rows = report.timed
    if rows.empty:
        return
    shown, rest = visible_stages(rows)
    merged = f" Stages below 1% of the longest bar are drawn together as other: {listed(rest)}." if rest else ""
    yield Figure(
        "breakdown",
        "Where the time to first token goes",
        "Median of each stage, grouped by encoder and LLM, fastest first; numbers: ttft_user."
        f"{bars_text(rows, 'ttft_user')}{merged}",
        partial(paint, rows=rows, stages=shown, rest=rest),
        rows,
        _height(rows),
    )


def visible_stages(rows: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Stages that can be seen in a picture of all bars, and those that are too short for it."""
    there = [stage for stage in STAGES if stage in rows.columns and rows[stage].notna().any()]
    longest = float(rows["ttft_user"].max())
    rest = [stage for stage in there if rows[stage].max() < VISIBLE * longest]
    return [stage for stage in there if stage not in rest], rest


def _groups(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Bars by encoder and LLM, the group with the fastest bar first; without groups where each has hardly more than
    one."""
    titled = rows.assign(group=[f"{label(r.encoder_title)} · {label(r.llm_title, 24)}" for r in rows.itertuples()])
    titled = titled.sort_values("ttft_user")
    if titled["group"].nunique() * 2 > len(titled):
        return [("", titled)]
    return [(str(name), group) for name, group in titled.groupby("group", sort=False)]


def _height(rows: pd.DataFrame) -> float:
    groups = _groups(rows)
    return max(2.8, 0.2 * len(rows) + 0.27 * (len(groups) - 1) + 1.7)


def paint(canvas: Canvas, rows: pd.DataFrame, stages: Sequence[str], rest: Sequence[str]) -> None:
    """Horizontal bars, grouped by encoder and LLM; `rest`: stages that are drawn together."""
    axes = canvas.add_subplot()
    unit, scale = unit_for(rows["ttft_user"])
    at, y, names, heads = [], 0.0, [], []
    groups = _groups(rows)
    for title, group in groups:
        if title:
            heads.append((title, y))
            y += 1.0
        for row in group.itertuples():
            at.append(y)
            names.append(f"{row.input_px} px" if title else f"{row.group} · {row.input_px} px")
            y += 1.0
        y += 0.35
    ordered = pd.concat([group for _, group in groups])
    left = np.zeros(len(ordered))
    for stage in [*stages, *(["other"] if rest else [])]:
        columns = list(rest) if stage == "other" else [stage]
        # a published VLM has no time of its own for each
        width = np.nan_to_num(ordered[columns].to_numpy(float)).sum(axis=1) * scale
        axes.barh(at, width, left=left, color=STAGE_COLOURS[stage], label=stage, height=0.8)
        left += width
    reach = interval_reach(ordered, "ttft_user", scale)
    total = ordered["ttft_user"].to_numpy(float) * scale
    axes.errorbar(total, at, xerr=reach, fmt="none", ecolor="#555555", elinewidth=0.8)
    end = total + reach[1]
    for place, x, each in zip(at, end, ordered.to_dict("records"), strict=True):
        text = quantity(each["ttft_user"], each["ttft_user_low"], each["ttft_user_high"], scale).partition(" ")[0]
        text += "*" if each["ttft_user_source"] == EXTRAPOLATED else ""
        axes.annotate(text, (x, place), xytext=(3, 0), textcoords="offset points", va="center", fontsize=TINY)
    for title, place in heads:
        axes.annotate(
            title, (0, place), xytext=(2, 0), textcoords="offset points", va="center", fontsize=SMALL, weight="bold"
        )
    axes.set_yticks(at, names, fontsize=TINY if heads else 7.5)
    axes.set_ylim(y - 0.2, -0.8)
    axes.set_xlim(0, 1.09 * float(end.max()) or 1.0)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    extended = "; *: extrapolated" if (ordered["ttft_user_source"] == EXTRAPOLATED).any() else ""
    axes.set_xlabel(f"median of each stage, {unit}{extended}")
    legend_above(canvas, axes.get_legend_handles_labels()[0], 5)
