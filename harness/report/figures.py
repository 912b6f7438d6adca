"""The pictures of a report, each as PNG and SVG. Every one says device, date and protocol.

Titles and names come from records: they are shortened (`text.label`), matplotlib does not parse them as mathematics,
and none of them is part of a file's name unless `file_stem` made it one.
"""

from __future__ import annotations

import io
import math
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator
from matplotlib.transforms import Bbox
from PIL import Image

from harness.analysis.claims import LATENCY, Finding
from harness.analysis.table import (
    EXTRAPOLATED,
    FRONTIER_TTFT,
    PUBLISHED,
    frontier_of,
    has_frontier,
    suites_of,
    told_apart,
)
from harness.report.text import label, number_of, quantity, unit_for
from harness.schema import STAGES, Claim, file_stem, fingerprint, one_line

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
"""Okabe and Ito's palette, for encoders: told apart by colour-blind readers as well."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.5, 1.5, 1.5)))
"""Lines that lie on each other are both seen."""
GREYS = ("#222222", "#777777", "#aaaaaa")
"""For LLMs, which are told apart by their markers."""
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
VERDICTS = {"holds": "#009E73", "differs": "#D55E00", "undecided": "#777777"}
FRONT = "#F2C14E"
"""The frontier's band; interval bars are thin and have their point's colour."""
BASELINES = {"guess": (":", "guessing"), "majority": ((0, (4, 1.2, 1, 1.2)), "majority answer")}
"""How what no model earned is drawn: its line, and what the legend calls it."""
UNSEEN = "_"
"""The marker of a blind run."""
VISIBLE = 0.01
"""Stages that are nowhere this share of the longest bar are drawn together."""
TITLE, SMALL, TINY = 11.5, 8.5, 7.0
"""Font sizes of the title, of labels, and of small numbers and the provenance."""
DPI = 170
WIDTH = 6.6
"""Inches; with these fonts a picture can be read on a phone that shows it at two thirds of a column's width."""
STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "legend.fontsize": SMALL,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "svg.hashsalt": "vlm-harness",
    "text.parse_math": False,
    "figure.constrained_layout.use": True,
}


@dataclass(frozen=True)
class Figure:
    """A picture that was drawn: its file name without ending, and what it shows."""

    stem: str
    caption: str


class Gallery:
    """The pictures of one report and their files."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.figures: list[Figure] = []

    def add(
        self,
        name: str,
        title: str,
        caption: str,
        rows: pd.DataFrame,
        paint: Callable[[Canvas], None],
        tall: float = 4.6,
    ) -> None:
        """Draw a picture of the points `rows`, `tall` inches high, into files of its own."""
        stem = file_stem(name)
        if stem.casefold() in {figure.stem.casefold() for figure in self.figures}:  # `user` may be a suite as well
            stem = f"{stem}-{fingerprint([name, title])[:6]}"
        with plt.rc_context(STYLE), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from")  # drawn as a box
            canvas = plt.figure(figsize=(WIDTH, tall), dpi=DPI)
            canvas.suptitle(title, fontsize=TITLE, fontweight="bold", x=0.01, ha="left")
            if not rows.empty:
                where = textwrap.fill(label(provenance(rows), 600), 122)
                canvas.supxlabel(where, fontsize=TINY, color="#555555", x=0.01, ha="left")
            try:
                paint(canvas)
                canvas.savefig(pixels := io.BytesIO(), format="png", dpi=DPI)
                few = Image.open(pixels).convert("RGB").quantize(256, dither=Image.Dither.NONE)
                few.save(self.folder / f"{stem}.png", optimize=True, dpi=(DPI, DPI))
                canvas.savefig(self.folder / f"{stem}.svg", metadata={"Date": None})
            finally:
                plt.close(canvas)
        self.figures.append(Figure(stem, caption))


def draw_figures(table: pd.DataFrame, folder: Path) -> list[Figure]:
    """Every picture that the table has numbers for."""
    if table.empty or "ttft_user" not in table.columns:
        return []
    timed = table.dropna(subset=["ttft_user"])
    if timed.empty:
        return []
    gallery = Gallery(folder)
    scored = timed.dropna(subset=["accuracy"]) if "accuracy" in timed.columns else timed.iloc[:0]
    if not scored.empty:
        names = suites_of(scored)
        source = str(scored["accuracy_source"].iloc[0])
        measured = f"Mean accuracy of {_listed(names)}"
        what, axis = (measured, "mean accuracy")
        if source.startswith(PUBLISHED):
            what = f"Published scores, not measured here (Avg-5, {one_line(source.partition(':')[0], 80)}),"
            axis = "published Avg-5"
        for name, ttft, text in (
            ("frontier", FRONTIER_TTFT, f"{what} against time to first token."),
            (
                "frontier-user",
                "ttft_user",
                "The same against what a person waits for: with image decoding and resizing, tokenizing and sampling.",
            ),
        ):
            title = "What accuracy costs in time to first token" + (", as a person waits" if "user" in name else "")
            paint = partial(_frontier, rows=scored, accuracy="accuracy", axis=axis, ttft=ttft)
            gallery.add(name, title, f"{text} {_front_text(scored, 'accuracy', ttft)}", scored, paint)
        for name in names:
            rows = scored.dropna(subset=[name])
            text = f"Accuracy on {label(name)} alone against time to first token."
            paint = partial(_frontier, rows=rows, accuracy=name, axis=f"accuracy on {label(name)}", ttft=FRONTIER_TTFT)
            title = f"{label(name)}: accuracy against time to first token"
            gallery.add(f"frontier-{name}", title, f"{text} {_front_text(rows, name, FRONTIER_TTFT)}", rows, paint)
        if names:
            beside = _beside_text(scored, *names)
            gallery.add(
                "accuracy",
                "What resolution buys",
                f"Accuracy on each suite against input resolution.{_bars(scored, *names)}{beside}",
                scored,
                partial(_accuracy, rows=scored, names=names),
                3.9 if len(names) < 4 else 2.3 * math.ceil(len(names) / 3) + 1.4,
            )
    for name in wider_metrics(timed):
        rows = timed.dropna(subset=[f"published_{name}"])
        paint = partial(
            _frontier, rows=rows, accuracy=f"published_{name}", axis=f"published {label(name)}", ttft=FRONTIER_TTFT
        )
        text = f"Published scores on {label(name)}, not measured here, against time to first token."
        text = f"{text} {_front_text(rows, f'published_{name}', FRONTIER_TTFT)}"
        gallery.add(f"published-{name}", f"{label(name)} as published, time as measured", text, rows, paint)
    curves = timed["encoder_title"].nunique() <= len(COLOURS)  # more are single points of many systems
    if curves and {"encode", "prefill"} <= set(timed.columns):
        gallery.add(
            "latency",
            "What resolution costs",
            "Left: time of the vision encoder against input resolution. Right: time of the LLM's prefill against the "
            f"number of visual tokens. Both axes are logarithmic.{_bars(timed, 'encode', 'prefill')}",
            timed,
            partial(_latency, rows=timed),
        )
    if curves and {"encode_flops", "ceiling_flops_per_second"} <= set(timed.columns):
        gallery.add(
            "efficiency",
            "How far from the limit of this device",
            "Operations a second that each encoder (filled; small numbers: resolution in px) and each prefill (hollow; "
            "small numbers: visual tokens) reached, against operations for each byte that must be moved. The black "
            "line is what this device did in the same processes: a copy (slope) and a matrix product (level); the "
            "grey ones are shares of it. A point far below is badly mapped to the device, not large.",
            timed,
            partial(_efficiency, rows=timed),
        )
    shown, rest = _stages(timed)
    merged = f" Never a hundredth of the longest bar, and drawn as other: {_listed(rest)}." if rest else ""
    gallery.add(
        "breakdown",
        "Where the time to first token goes",
        "Median of each stage, by encoder and LLM, the fastest first; numbers: ttft_user."
        f"{_bars(timed, 'ttft_user')}{merged}",
        timed,
        partial(_breakdown, rows=timed, stages=shown, rest=rest),
        _height(timed),
    )
    return gallery.figures


def draw_claims(findings: Sequence[Finding], table: pd.DataFrame, folder: Path) -> list[Figure]:
    """What was claimed against what was measured here, of every latency claim."""
    shown = [f for f in findings if f.claim.kind in LATENCY and f.value is not None]
    if not shown:
        return []
    timed = table.dropna(subset=["ttft_user"]) if "ttft_user" in table.columns else table.iloc[:0]
    bars = " Bars: 95% intervals." if any(_known(f) for f in shown) else " One block: there are no intervals."
    more = " Some are extrapolated from a few layers, see the table." if any(f.extrapolated for f in shown) else ""
    pairs = len(_pairs(shown))
    gallery = Gallery(folder)
    gallery.add(
        "claims",
        "The article's claims about time to first token, here",
        "How many times as fast the candidate is as its reference: what the article claims (diamonds) and what was "
        f"measured here under both definitions, in the colour of the verdict. Right of 1 the candidate is faster."
        f"{bars}{more}",
        timed,
        partial(_claims, shown=shown),
        1.9 + 0.62 * pairs,
    )
    return gallery.figures


def _pairs(findings: Iterable[Finding]) -> list[str]:
    return list(dict.fromkeys(_pair(finding) for finding in findings))


def _pair(finding: Finding) -> str:
    return f"{label(finding.candidate, 34)}\nagainst {label(finding.reference, 34)}"


def _known(finding: Finding) -> bool:
    """Whether a finding has an interval."""
    return finding.value is not None and math.isfinite(finding.value.low) and math.isfinite(finding.value.high)


def _claims(canvas: Canvas, shown: Sequence[Finding]) -> None:
    axes = canvas.add_subplot()
    names = _pairs(shown)
    drawn = []
    for definition, marker, shift in (("ttft_paper", "o", -0.17), ("ttft_user", "s", 0.17)):
        for finding in (f for f in shown if f.definition == definition):
            assert finding.value is not None
            value, low, high = (
                _times_faster(finding.claim, each)
                for each in (finding.value.value, finding.value.low, finding.value.high)
            )
            if not (math.isfinite(value) and value > 0):
                continue
            at, colour = names.index(_pair(finding)) + shift, VERDICTS.get(finding.verdict, GREYS[0])
            reach = (
                [[max(0, value - low)], [max(0, high - value)]] if math.isfinite(low) and math.isfinite(high) else None
            )
            axes.errorbar(value, at, xerr=reach, fmt=marker, ms=6, color=colour, elinewidth=1.2)
            text = f"{value:.3g}x"
            axes.annotate(
                text,
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
    for finding in shown:
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
    _plain(axes.xaxis, [1, *drawn])
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("reference over candidate (right of 1: candidate faster →)", fontsize=9)
    handles: list[Any] = [Line2D([], [], color="black", marker="D", mfc="none", ls="", label="published")]
    handles += [
        Line2D([], [], color="#444444", marker=m, ls="", label=f"{d}, here")
        for m, d in (("o", "ttft_paper"), ("s", "ttft_user"))
    ]
    said = {f.verdict for f in shown}
    handles += [Patch(color=colour, label=verdict) for verdict, colour in VERDICTS.items() if verdict in said]
    _above(canvas, handles, 3)


def _times_faster(claim: Claim, value: float) -> float:
    """A claim's value as a ratio of times; a saved share becomes one as well."""
    if claim.kind == "ttft_ratio" or math.isinf(value):
        return value
    return 1 / (1 - value) if value < 1 else math.inf


def provenance(table: pd.DataFrame) -> str:
    """Who measured, when and how, in one line."""
    where = "; ".join(
        f"{one_line(name, 80)} ({device}, {dtype}, {number_of(threads, 'thread')})"
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
        passes = f", {number_of(low, 'pass', 'passes') if low == high else f'{low}–{high} passes'} of each encoder"
    protocol = "; ".join(sorted(table["protocol"].unique()))
    count = int(table["disturbed"].sum())
    rough = f"; {count} of {number_of(len(table), 'point')} disturbed" if count else ""
    return f"measured on {where}, {when}; batch 1{passes}; protocol {protocol}{rough}"


def wider_metrics(table: pd.DataFrame) -> list[str]:
    """Published metrics that more points have than have all five of Avg-5."""
    least = max(2, int(table["accuracy"].notna().sum()) if "accuracy" in table.columns else 0)
    columns = [name for name in table.columns if name.startswith("published_")]
    return [name.removeprefix("published_") for name in columns if table[name].notna().sum() > least]


def _listed(names: Sequence[str]) -> str:
    """Names in a sentence; many of them as a number."""
    if len(names) > 6:
        return number_of(len(names), "suite")
    plain = [label(name, 30) for name in names]
    return " and ".join(filter(None, [", ".join(plain[:-1]), *plain[-1:]]))


def _bars(rows: pd.DataFrame, *names: str) -> str:
    """What the bars of these columns are, if any of them can be seen."""
    return " Bars: 95% intervals." if any(_reach(rows, name).any() for name in names) else ""


def _front_text(rows: pd.DataFrame, accuracy: str, ttft: str) -> str:
    """What a picture of a frontier shows, and what it does not claim."""
    bars = _bars(rows, accuracy, ttft) + _beside_text(rows, accuracy)
    count = int(frontier_of(rows, accuracy, ttft).sum())
    if not has_frontier(rows, accuracy, ttft):
        return (
            f"The accuracy intervals of the {number_of(count, 'point')} that no other beats in both overlap: none is "
            f"known to be more accurate than the fastest, and no frontier is drawn.{bars}"
        )
    machine = " of its machine" if rows["machine"].nunique() > 1 else ""
    apart = int(told_apart(rows, accuracy, ttft).sum())
    more = ""
    if apart < count:
        more = f"; {apart} of them, with a black edge, are told apart by their accuracy intervals"
    return (
        f"On the yellow band: {count} of {number_of(len(rows), 'point')}, which no other{machine} beats in both{more}; "
        f"small numbers: input resolution in px.{bars}"
    )


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


def _legend(canvas: Canvas, rows: pd.DataFrame, more: Iterable[Any] = ()) -> None:
    """Encoders and LLMs above the panels, where they hide nothing."""
    colours, markers = _look(rows)
    handles: list[Any] = [Line2D([], [], color=c, lw=3, label=label(name, 30)) for name, c in colours.items()]
    if len(markers) > 1:
        handles += [Line2D([], [], color="#444444", marker=m, ls="", label=label(n, 30)) for n, m in markers.items()]
    handles += more
    longest = max(len(handle.get_label()) for handle in handles)
    _above(canvas, handles, max(1, min(4, 90 // (longest + 6))))


def _above(canvas: Canvas, handles: Sequence[Any], columns: int) -> None:
    """The legend under the title and above the panels, where it hides nothing."""
    title = canvas.get_suptitle()
    canvas.suptitle("")
    canvas.legend(
        handles=handles,
        loc="outside upper left",
        ncols=columns,
        title=title,
        title_fontproperties={"size": TITLE, "weight": "bold"},
        alignment="left",
        borderaxespad=0.2,
    )


def _reach(rows: pd.DataFrame, name: str, scale: float = 1.0) -> np.ndarray:
    """Distances of the interval's ends from the value, for matplotlib; nothing where the interval is unknown."""
    if f"{name}_low" not in rows.columns:  # a published score
        return np.zeros((2, len(rows)))
    value, low, high = (rows[column].to_numpy(float) for column in (name, f"{name}_low", f"{name}_high"))
    reach = np.vstack([value - low, high - value]) * scale
    return np.where(np.isfinite(reach), np.maximum(reach, 0), 0)


DECADE = 8
"""Times that differ by less than this factor are drawn on a linear axis, where every tick has its number."""


def _plain(axis: Any, values: Iterable[float]) -> None:
    """Ticks of a logarithmic axis as plain numbers: those of the values where they are few, else 1, 2, 5, 10, ..."""
    known = sorted({float(value) for value in values if value > 0 and math.isfinite(value)})
    span = known[-1] / known[0] if known else 1.0
    subs = (1, 2, 3, 4, 6, 8) if span < 20 else (1, 2, 5) if span < 200 else (1,)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def _places(axis: Any, values: Iterable[float], most: int = 6) -> None:
    """A tick at each of a few values of a logarithmic axis."""
    known = sorted(set(values))
    _plain(axis, known)
    if len(known) <= most:
        axis.set_major_locator(FixedLocator(known))


def _annotate(axes: Axes, labels: Sequence[tuple[str, float, float]], keep: Sequence[tuple[float, float]]) -> None:
    """Small labels beside their points, each at the first place where it hides neither a label nor one of the points
    `keep`; one that fits nowhere is left out."""
    canvas: Any = axes.figure
    canvas.draw_without_rendering()  # the layout decides where points are
    pixel = canvas.dpi / 72
    frame = axes.get_window_extent()

    def around(x: float, y: float, wide: float, high: float) -> Bbox:
        return Bbox.from_bounds(x - wide / 2, y - high / 2, wide, high)

    spots = [axes.transData.transform(point) for point in keep]
    taken = [around(x, y, 7 * pixel, 7 * pixel) for x, y in spots]
    for text, x, y in labels:
        wide, high = 0.62 * TINY * len(text) * pixel, 1.15 * TINY * pixel
        at_x, at_y = axes.transData.transform((x, y))
        for side, rise in ((1, -1), (1, 1), (-1, 1), (-1, -1), (0, 1), (0, -1), (1, 0), (-1, 0)):
            off_x, off_y = side * (wide / 2 + 4 * pixel), rise * (high / 2 + 4 * pixel)
            box = around(at_x + off_x, at_y + off_y, wide, high)
            if frame.contains(box.x0, box.y0) and frame.contains(box.x1, box.y1) and not box.count_overlaps(taken):
                axes.annotate(
                    text,
                    (x, y),
                    xytext=(off_x / pixel, off_y / pixel),
                    textcoords="offset points",
                    ha="center",
                    va="center",
                    fontsize=TINY,
                    color="#333333",
                    zorder=6,
                )
                taken.append(box)
                break


TTFT_LABELS = {
    "ttft_model": "time to first token: encoding + connector + prefill (ttft_model), {}",
    "ttft_user": "time to first token: image bytes to first token (ttft_user), {}",
}


def _frontier(canvas: Canvas, rows: pd.DataFrame, accuracy: str, axis: str, ttft: str) -> None:
    axes = canvas.add_subplot()
    unit, scale = unit_for(rows[ttft])
    claimed = has_frontier(rows, accuracy, ttft)
    best, apart = frontier_of(rows, accuracy, ttft) & claimed, told_apart(rows, accuracy, ttft) & claimed
    for colour, marker, group in _curves(rows):
        axes.plot(group[ttft] * scale, group[accuracy], color=colour, lw=1, alpha=0.3 if claimed else 0.6, zorder=2)
        looks: Any = (  # those behind, those on the frontier, those that are told apart
            (~best, {"alpha": 0.35 if claimed else 0.9, "ms": 4.5, "elinewidth": 0.7, "zorder": 2}),
            (best & ~apart, {"alpha": 1.0, "ms": 6.5, "elinewidth": 1.0, "zorder": 4}),
            (apart, {"alpha": 1.0, "ms": 8, "elinewidth": 1.3, "zorder": 5, "mec": "black"}),
        )
        for chosen, look in looks:
            for part, hollow in _apart(group[chosen[group.index]], accuracy):
                axes.errorbar(
                    part[ttft] * scale,
                    part[accuracy],
                    xerr=_reach(part, ttft, scale),
                    yerr=_reach(part, accuracy),
                    fmt=marker,
                    color=colour,
                    **(look | hollow),
                )
        _unseen(axes, group[ttft] * scale, group, accuracy, colour)
    _levels(axes, rows, accuracy)
    for _, front in rows[best].sort_values(ttft).groupby("machine"):
        axes.plot(
            front[ttft] * scale, front[accuracy], color=FRONT, lw=7, alpha=0.6, drawstyle="steps-post", zorder=1,
            solid_joinstyle="round", solid_capstyle="round",
        )  # fmt: skip
    if rows[ttft].max() > DECADE * rows[ttft].min():
        axes.set_xscale("log")
        _plain(axes.xaxis, rows[ttft] * scale)
    axes.set_xlabel(TTFT_LABELS[ttft].format(unit))
    axes.set_ylabel(axis)
    band = [Line2D([], [], color=FRONT, lw=7, alpha=0.6, label="frontier")] if claimed else []
    _legend(canvas, rows, [*band, *_beside_handles(rows, accuracy)])
    points = rows[best] if claimed else rows
    places = [(str(r["resolution"]), r[ttft] * scale, r[accuracy]) for r in points.to_dict("records")]
    _annotate(axes, places, [(x, y) for _, x, y in places])


def _accuracy(canvas: Canvas, rows: pd.DataFrame, names: Sequence[str]) -> None:
    wide = min(3, len(names))
    panels = canvas.subplots(math.ceil(len(names) / wide), wide, sharey=True, squeeze=False).ravel()
    top = max(float((rows[name] + _reach(rows, name)[1]).max()) for name in names)
    beside = [f"{name}_{what}" for name in names for what in (*BASELINES, "blind")]
    top = max([top, *(float(rows[column].max()) for column in beside if column in rows.columns)])
    for axes, name in zip(panels, names, strict=False):
        for colour, marker, group in _curves(rows.dropna(subset=[name])):
            axes.errorbar(
                group["resolution"],
                group[name],
                yerr=_reach(group, name),
                color=colour,
                marker=marker,
                ms=4,
                lw=1.2,
                elinewidth=0.8,
            )
            hollow = group[_marked(group, name)]
            axes.plot(hollow["resolution"], hollow[name], marker, ms=4, color=colour, mfc="white", zorder=3)
            _unseen(axes, group["resolution"], group, name, colour)
        _levels(axes, rows, name)
        axes.set_title(label(name, 24), fontsize=9.5)
        axes.set_xlabel("input resolution, px")
        places = sorted(rows["resolution"].unique())
        axes.set_xticks(places if len(places) <= 5 else places[:: math.ceil(len(places) / 5)])
        axes.set_ylim(0, min(1.0, 1.06 * top) or 1.0)
    for axes in panels[len(names) :]:
        axes.remove()
    panels[0].set_ylabel("accuracy")
    _legend(canvas, rows, _beside_handles(rows, *names))


def _marked(rows: pd.DataFrame, name: str) -> pd.Series[bool]:
    """Which scores are within the error of their blind runs."""
    column = f"{name}_blind_like"
    if column not in rows.columns:
        return pd.Series(False, index=rows.index)
    return rows[column].map(lambda mark: not pd.isna(mark) and bool(mark)).astype(bool)


def _apart(rows: pd.DataFrame, name: str) -> list[tuple[pd.DataFrame, dict[str, Any]]]:
    """Points with the look of their markers: hollow where a score is within the error of its blind run."""
    hollow = _marked(rows, name)
    looks: list[tuple[pd.DataFrame, dict[str, Any]]] = [(rows[~hollow], {}), (rows[hollow], {"mfc": "white"})]
    return [(part, look) for part, look in looks if not part.empty]


def _levels(axes: Axes, rows: pd.DataFrame, name: str) -> None:
    """A thin line at what guessing and the majority answer score; one each where all points have the same."""
    for what, (dash, _) in BASELINES.items():
        if f"{name}_{what}" in rows.columns:
            for value in sorted(set(rows[f"{name}_{what}"].dropna().round(6))):
                axes.axhline(value, color="#555555", lw=0.9, ls=dash, zorder=1)
                low, high = axes.get_ylim()
                axes.set_ylim(min(low, value - 0.04 * (high - low)), max(high, value + 0.04 * (high - low)))


def _unseen(axes: Axes, places: pd.Series[Any], rows: pd.DataFrame, name: str, colour: str) -> None:
    """A tick at what each point scores without sight."""
    if f"{name}_blind" in rows.columns:
        axes.plot(places, rows[f"{name}_blind"], UNSEEN, ms=7, mew=1.1, color=colour, alpha=0.7, zorder=2)


def _beside_handles(rows: pd.DataFrame, *names: str) -> list[Any]:
    """What the baselines look like, of those that these scores have."""
    there = {what for name in names for what in (*BASELINES, "blind") if f"{name}_{what}" in rows.columns}
    handles: list[Any] = [
        Line2D([], [], color="#555555", lw=0.9, ls=dash, label=text)
        for what, (dash, text) in BASELINES.items()
        if what in there
    ]
    if "blind" in there:
        handles.append(Line2D([], [], color="#444444", marker=UNSEEN, ms=7, mew=1.1, ls="", label="blind"))
    if any(_marked(rows, name).any() for name in names):
        handles.append(Line2D([], [], color="#444444", marker="o", ms=4, mfc="white", ls="", label="as blind"))
    return handles


def _beside_text(rows: pd.DataFrame, *names: str) -> str:
    """What is drawn beside scores, and how many of them are as good as blind."""
    there = {what for name in names for what in (*BASELINES, "blind") if f"{name}_{what}" in rows.columns}
    said = ""
    if lines := [text for what, (_, text) in BASELINES.items() if what in there]:
        said += f" Lines: {' and '.join(lines)}."
    if "blind" in there:
        count = sum(int(_marked(rows, name).sum()) for name in names)
        said += " Ticks: the same model, shown grey images."
        said += f" Hollow: within the error of that ({count} of {len(rows) * len(names)})." if count else ""
    return said


def _once(rows: pd.DataFrame, stage: str, what: Sequence[str]) -> pd.DataFrame:
    """Each component once: points share it, and the one that rests on the most blocks says it best."""
    return rows.dropna(subset=[stage]).sort_values("blocks", ascending=False, kind="stable").drop_duplicates(what)


def _latency(canvas: Canvas, rows: pd.DataFrame) -> None:
    left, right = canvas.subplots(1, 2)
    colours, markers = _look(rows)
    unit, scale = unit_for(rows[["encode", "prefill"]].to_numpy(float).ravel())
    encoders = _once(rows, "encode", ["encoder_title", "resolution"])
    llms = _once(rows[rows["sequence_tokens"] > 0], "prefill", ["llm_title", "visual_tokens"])
    for axes, part, name, place, stage in (
        (left, encoders, "encoder_title", "resolution", "encode"),
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
                yerr=_reach(group, stage, scale),
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
        _places(axes.xaxis, part[place])
        _plain(axes.yaxis, part[stage] * scale)
        axes.set_title("vision encoding" if stage == "encode" else "LLM prefill", fontsize=9.5)
        axes.set_xlabel("input resolution, px" if stage == "encode" else "visual tokens")
        axes.legend(loc="upper left", handlelength=3)
        low, high = axes.get_ylim()
        axes.set_ylim(low, high * (high / low) ** 0.25)  # room for the legend above the lines
    left.set_ylabel(f"median, {unit}")


SHARES = (0.5, 0.25, 0.1, 0.05, 0.02, 0.01)
"""Shares of the device's ceiling that are drawn as lines."""


def _efficiency(canvas: Canvas, rows: pd.DataFrame) -> None:
    axes = canvas.add_subplot()
    colours, markers = _look(rows)
    flops, speed = (rows[f"ceiling_{what}_per_second"].median() for what in ("flops", "bytes"))
    places: list[tuple[str, float, float]] = []
    for stage, filled in (("encode", True), ("prefill", False)):
        if f"{stage}_flops" not in rows.columns:
            continue
        what = ["encoder_title", "resolution"] if filled else ["llm_title", "visual_tokens"]
        part = _once(rows, f"{stage}_flops", what)
        for row in part[(part[f"{stage}_bytes"] > 0) & (part[f"{stage}_flops"] > 0)].to_dict("records"):
            x, y = row[f"{stage}_flops"] / row[f"{stage}_bytes"], row[f"{stage}_flops"] / row[stage] / 1e9
            colour = colours[row["encoder_title"]] if filled else "#444444"
            marker = "o" if filled else markers[row["llm_title"]]
            axes.plot(x, y, marker=marker, ms=6, ls="", color=colour, mfc=colour if filled else "none", zorder=3)
            places.append((str(row["resolution" if filled else "visual_tokens"]), x, y))
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
        _plain(axes.xaxis, x)
        _plain(axes.yaxis, [*ends[:, 1], roof[-1]])
    axes.grid(visible=False)
    axes.set_xlabel("operations for each byte of weights, inputs and outputs")
    axes.set_ylabel("10⁹ operations a second")
    handles = [Line2D([], [], color=c, marker="o", ls="", label=label(name, 30)) for name, c in colours.items()]
    for name, marker in markers.items():
        handles.append(
            Line2D([], [], color="#444444", marker=marker, mfc="none", ls="", label=f"prefill, {label(name, 24)}")
        )
    _above(canvas, handles, 4)
    _annotate(axes, places, [(x, y) for _, x, y in places])


def _stages(rows: pd.DataFrame) -> tuple[list[str], list[str]]:
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


def _breakdown(canvas: Canvas, rows: pd.DataFrame, stages: Sequence[str], rest: Sequence[str]) -> None:
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
            names.append(f"{row.resolution} px" if title else f"{row.group} · {row.resolution} px")
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
    reach = _reach(ordered, "ttft_user", scale)
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
    _above(canvas, axes.get_legend_handles_labels()[0], 5)
