"""The pictures of a report, each as PNG and SVG. Every one says device, date and protocol."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter

from harness.claims import LATENCY, Finding
from harness.frame import FRONTIER_TTFT, frontier_of, suites_of
from harness.schema import STAGES, Claim

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
"""Okabe and Ito's palette: told apart by colour-blind readers, too."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "svg.hashsalt": "vlm-harness",
    "figure.constrained_layout.use": True,
}


@dataclass(frozen=True)
class Figure:
    """A picture that was drawn: its file name without ending, and what it shows."""

    stem: str
    caption: str


def draw_figures(table: pd.DataFrame, folder: Path) -> list[Figure]:
    """Every picture that the table has numbers for."""
    if table.empty or "ttft_user" not in table.columns:
        return []
    timed = table.dropna(subset=["ttft_user"])
    figures = []
    scored = timed.dropna(subset=["accuracy"]) if "accuracy" in timed.columns else timed.iloc[:0]

    def add(stem: str, caption: str, rows: pd.DataFrame, paint: Callable[[Canvas, pd.DataFrame], None]) -> None:
        with plt.rc_context(STYLE):
            canvas = plt.figure(figsize=(7.6, 4.8))
            paint(canvas, rows)
            canvas.supxlabel(textwrap.fill(provenance(rows), 150), fontsize=6.5, color="#555555")
            canvas.savefig(folder / f"{stem}.png", dpi=160)
            canvas.savefig(folder / f"{stem}.svg", metadata={"Date": None})
            plt.close(canvas)
        figures.append(Figure(stem, caption))

    if not scored.empty:
        names = suites_of(scored)
        published = "accuracy_source" in scored.columns
        what = f"Mean accuracy of {', '.join(names)}"
        label = "mean accuracy"
        if published:
            what = (
                f"Published scores, not measured here (Avg-5, {scored['accuracy_source'].iloc[0].partition(':')[0]}),"
            )
            label = "published Avg-5"
        add(
            "frontier",
            f"{what} against time to first token. Bars: 95% intervals. "
            "The line joins the points that no other point beats in both.",
            scored,
            partial(_frontier, accuracy="accuracy", label=label),
        )
        add(
            "frontier-user",
            "The same against what a person waits for: with image decoding and resizing, tokenizing and sampling.",
            scored,
            partial(_frontier, accuracy="accuracy", label=label, ttft="ttft_user"),
        )
        for name in names:
            add(
                f"frontier-{name}",
                f"Accuracy on {name} alone against time to first token.",
                scored.dropna(subset=[name]),
                partial(_frontier, accuracy=name, label=f"accuracy on {name}"),
            )
        if names:
            add(
                "accuracy",
                "What resolution buys: accuracy on each suite against input resolution. Bars: 95% intervals.",
                scored,
                _accuracy,
            )
    for name in wider_metrics(timed):
        add(
            f"published-{name}",
            f"Published scores on {name}, not measured here, against time to first token.",
            timed.dropna(subset=[f"published_{name}"]),
            partial(_frontier, accuracy=f"published_{name}", label=f"published {name}"),
        )
    curves = timed["encoder_title"].nunique() <= len(COLOURS)  # more are single points of many systems
    if curves:
        add(
            "latency",
            "What resolution costs: time of the vision encoder and of the LLM's prefill against input resolution "
            "(logarithmic). Bars: 95% intervals of the median.",
            timed,
            _latency,
        )
    if curves and "encode_flops" in timed.columns:
        add(
            "efficiency",
            "How far from the limit: operations a second that each encoder (filled) and each prefill (hollow) reached, "
            "against operations for each byte that must be moved. The lines are what this device did in the same "
            "processes: a copy (slope) and a matrix product (level). A point far below them is badly mapped, not big.",
            timed,
            _efficiency,
        )
    add("breakdown", "Where the time to first token goes: median of each stage.", timed, _breakdown)
    return figures


def draw_claims(findings: Sequence[Finding], table: pd.DataFrame, folder: Path) -> list[Figure]:
    """What was claimed against what was measured here, of every latency claim."""
    shown = [f for f in findings if f.claim.kind in LATENCY and f.value is not None]
    if not shown:
        return []
    names = list(dict.fromkeys(f"{f.candidate}\nagainst {f.reference}" for f in shown))
    with plt.rc_context(STYLE):
        canvas = plt.figure(figsize=(7.6, 1.2 + 0.55 * len(names)))
        axes = canvas.add_subplot()
        for definition, colour, shift in (("ttft_paper", COLOURS[0], -0.12), ("ttft_user", COLOURS[1], 0.12)):
            rows = [f for f in shown if f.definition == definition]
            at = [names.index(f"{f.candidate}\nagainst {f.reference}") + shift for f in rows]
            values = [_times_faster(f.claim, f.value.value) for f in rows if f.value]
            ends = [[_times_faster(f.claim, end) for end in (f.value.low, f.value.high)] for f in rows if f.value]
            reach = [[v - low, high - v] for v, (low, high) in zip(values, ends, strict=True)]
            errors = np.clip(np.nan_to_num(np.array(reach).T, posinf=0.0, neginf=0.0), 0, None)
            axes.errorbar(
                values,
                at,
                xerr=errors,
                fmt="o",
                ms=5,
                color=colour,
                elinewidth=1,
                capsize=2,
                label=f"{definition}, here",
            )
        places = {f"{f.candidate}\nagainst {f.reference}": _times_faster(f.claim, f.claim.published) for f in shown}
        axes.plot(
            [*places.values()],
            [names.index(n) for n in places],
            "D",
            ms=7,
            mfc="none",
            color="black",
            label="published",
        )
        axes.axvline(1.0, color="#888888", lw=0.8)
        axes.set_xscale("log")
        _plain_log(axes.xaxis)
        axes.set_yticks(range(len(names)), names, fontsize=7.5)
        axes.invert_yaxis()
        axes.set_xlabel("time to first token, reference over candidate (logarithmic)")
        axes.legend(fontsize=7.5, loc="best")
        if not table.empty and "ttft_user" in table.columns:
            canvas.supxlabel(
                textwrap.fill(provenance(table.dropna(subset=["ttft_user"])), 150), fontsize=6.5, color="#555555"
            )
        canvas.savefig(folder / "claims.png", dpi=160)
        canvas.savefig(folder / "claims.svg", metadata={"Date": None})
        plt.close(canvas)
    more = " Some are extrapolated from a few layers, see the table." if any(f.extrapolated for f in shown) else ""
    return [Figure("claims", f"What the article claims and what was measured here. Bars: 95% intervals.{more}")]


def _times_faster(claim: Claim, value: float) -> float:
    """A claim's value as a ratio of times; a saved share becomes one, too."""
    if claim.kind == "ttft_ratio" or math.isinf(value):
        return value
    return 1 / (1 - value) if value < 1 else math.inf


def provenance(table: pd.DataFrame) -> str:
    """Who measured, when and how, in one line."""
    where = "; ".join(
        f"{name} ({device}, {dtype}, {threads} threads)"
        for name, device, dtype, threads in sorted(
            set(table[["device_name", "device", "dtype", "threads"]].itertuples(index=False, name=None))
        )
    )
    dates = sorted(table["date"].unique())
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    samples = table["encode_samples"].dropna() if "encode_samples" in table.columns else pd.Series(dtype=float)
    passes = ""
    if not samples.empty:  # where there are several encoders they are not counted together
        low, high = int(samples.min()), int(samples.max())
        passes = f", {low if low == high else f'{low}–{high}'} passes of each encoder"
    protocol = "; ".join(sorted(table["protocol"].unique()))
    rough = f"; {table['disturbed'].sum()} of {len(table)} points disturbed" if table["disturbed"].any() else ""
    return f"measured on {where}, {when}; batch 1{passes}; protocol {protocol}{rough}"


def wider_metrics(table: pd.DataFrame) -> list[str]:
    """Published metrics that more points have than have all five of Avg-5."""
    least = max(2, int(table["accuracy"].notna().sum()) if "accuracy" in table.columns else 0)
    columns = [name for name in table.columns if name.startswith("published_")]
    return [name.removeprefix("published_") for name in columns if table[name].notna().sum() > least]


def _look(table: pd.DataFrame) -> tuple[dict[str, str], dict[str, str]]:
    """A colour for each encoder and a marker for each LLM, in the order of the table."""
    colours = {name: COLOURS[k % len(COLOURS)] for k, name in enumerate(table["encoder_title"].unique())}
    markers = {name: MARKERS[k % len(MARKERS)] for k, name in enumerate(table["llm_title"].unique())}
    return colours, markers


def _curves(rows: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Colour, marker and rows of each (encoder, LLM), in rising resolution."""
    colours, markers = _look(rows)
    for encoder, colour in colours.items():
        for llm, marker in markers.items():
            chosen = rows[(rows["encoder_title"] == encoder) & (rows["llm_title"] == llm)]
            if not chosen.empty:
                yield colour, marker, chosen.sort_values("resolution")


def _legend(axes: Axes, rows: pd.DataFrame, **where: Any) -> None:
    colours, markers = _look(rows)
    handles = [Line2D([], [], color=c, lw=3, label=name) for name, c in colours.items()]
    if len(markers) > 1:
        handles += [Line2D([], [], color="#444444", marker=m, ls="", label=name) for name, m in markers.items()]
    axes.legend(handles=handles, fontsize=7.5, **where)


def _reach(rows: pd.DataFrame, name: str, scale: float = 1.0) -> np.ndarray:
    """Distances of the interval's ends from the value, for matplotlib; nothing where the interval is unknown."""
    if f"{name}_low" not in rows.columns:  # a published score
        return np.zeros((2, len(rows)))
    value, low, high = (rows[column].to_numpy(float) for column in (name, f"{name}_low", f"{name}_high"))
    reach = np.vstack([value - low, high - value]) * scale
    return np.where(np.isfinite(reach), np.maximum(reach, 0), 0)


DECADE = 8
"""Times that differ by less than this factor are drawn on a linear axis, where every tick has its number."""


def _plain_log(axis: Any) -> None:
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axis.set_minor_formatter(NullFormatter())


TTFT_LABELS = {
    "ttft_model": "time to first token, vision encoding + connector + LLM prefill (ttft_model), ms",
    "ttft_user": "time to first token, image bytes to first token's id (ttft_user), ms",
}


def _frontier(canvas: Canvas, rows: pd.DataFrame, accuracy: str, label: str, ttft: str = FRONTIER_TTFT) -> None:
    axes = canvas.add_subplot()
    for colour, marker, group in _curves(rows):
        x, y = group[ttft] * 1e3, group[accuracy]
        axes.plot(x, y, color=colour, lw=0.8, alpha=0.35)
        axes.errorbar(
            x,
            y,
            xerr=_reach(group, ttft, 1e3),
            yerr=_reach(group, accuracy),
            fmt=marker,
            ms=5,
            color=colour,
            elinewidth=0.7,
            capsize=1.5,
        )
        for px, at_x, at_y in zip(group["resolution"], x, y, strict=True):
            axes.annotate(
                str(px), (at_x, at_y), xytext=(4, -9), textcoords="offset points", fontsize=6, color="#555555"
            )
    front = rows[frontier_of(rows, accuracy, ttft)].sort_values(ttft)
    axes.plot(front[ttft] * 1e3, front[accuracy], color="black", lw=1.4, drawstyle="steps-post", zorder=1, alpha=0.8)
    if rows[ttft].max() > DECADE * rows[ttft].min():
        axes.set_xscale("log")
        _plain_log(axes.xaxis)
    axes.set_xlabel(TTFT_LABELS[ttft])
    axes.set_ylabel(label)
    axes.set_title("Which points are on the frontier (black line; small numbers: input resolution in px)", fontsize=9)
    _legend(axes, rows, loc="best")


def _accuracy(canvas: Canvas, rows: pd.DataFrame) -> None:
    names = suites_of(rows)
    panels = canvas.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        for colour, marker, group in _curves(rows.dropna(subset=[name])):
            axes.errorbar(
                group["resolution"],
                group[name],
                yerr=_reach(group, name),
                color=colour,
                marker=marker,
                ms=4,
                lw=1,
                elinewidth=0.7,
            )
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("input resolution, px")
        axes.set_xticks(sorted(rows["resolution"].unique()))
        axes.set_ylim(0, 1)
    panels[0].set_ylabel("accuracy")
    _legend(panels[-1], rows, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _latency(canvas: Canvas, rows: pd.DataFrame) -> None:
    left, right = canvas.subplots(1, 2)
    for axes, stage, title in ((left, "encode", "vision encoding"), (right, "prefill", "LLM prefill")):
        for colour, marker, group in _curves(rows):
            axes.errorbar(
                group["resolution"],
                group[stage] * 1e3,
                yerr=_reach(group, stage, 1e3),
                color=colour,
                marker=marker,
                ms=4,
                lw=1,
                elinewidth=0.7,
            )
        axes.set_yscale("log")
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted(rows["resolution"].unique()))
        for axis in (axes.xaxis, axes.yaxis):
            _plain_log(axis)
        low, high = axes.get_ylim()
        axes.set_ylim(10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high)))
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("input resolution, px")
    left.set_ylabel("median, ms (logarithmic)")
    _legend(left, rows, loc="best")


def _efficiency(canvas: Canvas, rows: pd.DataFrame) -> None:
    axes = canvas.add_subplot()
    colours, markers = _look(rows)
    flops, speed = (rows[f"ceiling_{what}_per_second"].median() for what in ("flops", "bytes"))
    most = 0.0
    for stage, filled in (("encode", True), ("prefill", False)):
        part = rows.dropna(subset=[f"{stage}_flops"]) if f"{stage}_flops" in rows.columns else rows.iloc[:0]
        if not filled:  # one point for each LLM and number of tokens, whatever the encoder was
            part = part.drop_duplicates(["llm_title", "visual_tokens"])
        else:
            part = part.drop_duplicates(["encoder_title", "resolution"])
        for row in part.to_dict("records"):
            x, y = row[f"{stage}_flops"] / row[f"{stage}_bytes"], row[f"{stage}_flops"] / row[stage] / 1e9
            most = max(most, x)
            colour = colours[row["encoder_title"]] if filled else "#444444"
            marker = "o" if filled else markers[row["llm_title"]]
            axes.plot(x, y, marker=marker, ms=6, ls="", color=colour, mfc=colour if filled else "none", zorder=3)
            text = f"{row['resolution']}" if filled else f"{row['visual_tokens']}+{row['text_tokens']}"
            axes.annotate(text, (x, y), xytext=(5, -3), textcoords="offset points", fontsize=6, color="#555555")
    x = np.geomspace(axes.get_xlim()[0] if axes.get_xlim()[0] > 0 else 1.0, 2 * max(most, flops / speed), 100)
    axes.plot(x, np.minimum(speed * x, flops) / 1e9, color="black", lw=1.2)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("operations for each byte of weights, inputs and outputs")
    axes.set_ylabel("10⁹ operations a second")
    axes.set_title("How far from the limit (small numbers: resolution in px; visual + text tokens)", fontsize=9)
    handles = [Line2D([], [], color=c, marker="o", ls="", label=name) for name, c in colours.items()]
    for name, marker in markers.items():
        handles.append(Line2D([], [], color="#444444", marker=marker, mfc="none", ls="", label=f"prefill, {name}"))
    axes.legend(handles=handles, fontsize=7.5, loc="best")


def _breakdown(canvas: Canvas, rows: pd.DataFrame) -> None:
    axes = canvas.add_subplot()
    canvas.set_size_inches(7.6, max(3.2, 0.24 * len(rows) + 1.4))
    labels = [f"{r.encoder_title} {r.resolution} · {r.llm_title}" for r in rows.itertuples()]
    left = np.zeros(len(rows))
    unit, scale = ("s", 1.0) if rows["ttft_user"].max() >= 10 else ("ms", 1e3)
    for colour, stage in zip(COLOURS, STAGES, strict=False):
        if stage not in rows:
            continue
        width = np.nan_to_num(rows[stage].to_numpy(float)) * scale  # a published VLM has no time of its own for each
        axes.barh(labels, width, left=left, color=colour, label=stage, height=0.75)
        left += width
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", labelsize=7)
    axes.set_xlabel(f"median of each stage, {unit}")
    axes.set_title("Where the time to first token goes", fontsize=9)
    axes.legend(fontsize=7.5, ncols=1, loc="best")
