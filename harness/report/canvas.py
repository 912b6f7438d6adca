"""What the pictures of a report share: colours, fonts, axes, legends, baselines, and the two files of each.

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
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator
from matplotlib.transforms import Bbox
from PIL import Image

from harness.report.content import provenance
from harness.report.text import joined, label, number_of
from harness.schema import file_stem, fingerprint

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
"""Okabe and Ito's palette, for encoders: told apart by colour-blind readers as well."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
GREYS = ("#222222", "#777777", "#aaaaaa")
"""For LLMs, which are told apart by their markers."""
BASELINES = {"guess": (":", "guessing"), "majority": ((0, (4, 1.2, 1, 1.2)), "majority answer")}
"""How what no model earned is drawn: its line, and what the legend calls it."""
UNSEEN = "_"
"""The marker of a blind run."""
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
    """A picture that can be drawn."""

    stem: str
    """Name of its files, without the ending."""
    title: str
    caption: str
    """What it shows, in the words of its reader; it stands under the picture."""
    paint: Callable[[Canvas], None]
    """Draws it on an empty canvas that has its title."""
    rows: pd.DataFrame
    """Rows of the table that it shows: device, dates and protocol are theirs."""
    tall: float = 4.6
    """Inches."""


@dataclass(frozen=True)
class Picture:
    """A figure that was drawn: the name of its files, and its caption."""

    stem: str
    caption: str


class Gallery:
    """The pictures of one report and their files."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.pictures: list[Picture] = []

    def add(self, figure: Figure) -> None:
        """Draw a picture into files of its own, PNG and SVG, with who measured, when and how at the bottom."""
        stem = file_stem(figure.stem)
        if stem.casefold() in {picture.stem.casefold() for picture in self.pictures}:  # `user` may be a suite as well
            stem = f"{stem}-{fingerprint([figure.stem, figure.title])[:6]}"
        with plt.rc_context(STYLE), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from")  # drawn as a box
            canvas = plt.figure(figsize=(WIDTH, figure.tall), dpi=DPI)
            canvas.suptitle(figure.title, fontsize=TITLE, fontweight="bold", x=0.01, ha="left")
            if not figure.rows.empty:
                where = textwrap.fill(label(provenance(figure.rows), 600), 122)
                canvas.supxlabel(where, fontsize=TINY, color="#555555", x=0.01, ha="left")
            try:
                figure.paint(canvas)
                canvas.savefig(pixels := io.BytesIO(), format="png", dpi=DPI)
                few = Image.open(pixels).convert("RGB").quantize(256, dither=Image.Dither.NONE)
                few.save(self.folder / f"{stem}.png", optimize=True, dpi=(DPI, DPI))
                canvas.savefig(self.folder / f"{stem}.svg", metadata={"Date": None})
            finally:
                plt.close(canvas)
        self.pictures.append(Picture(stem, figure.caption))


def has_curves(rows: pd.DataFrame) -> bool:
    """Whether there are points, of few enough encoders for a colour each; many systems are single points."""
    return not rows.empty and rows["encoder_title"].nunique() <= len(COLOURS)


def listed(names: Sequence[str]) -> str:
    """Names in a sentence; many of them as a number."""
    if len(names) > 6:
        return number_of(len(names), "suite")
    return joined([label(name, 30) for name in names])


def bars_text(rows: pd.DataFrame, *names: str) -> str:
    """What the bars of these columns are, if any of them can be seen."""
    return " Bars: 95% intervals." if any(interval_reach(rows, name).any() for name in names) else ""


def palette(table: pd.DataFrame) -> tuple[dict[str, str], dict[str, str]]:
    """A colour for each encoder and a marker for each LLM, in the order of the table."""
    colours = {name: COLOURS[k % len(COLOURS)] for k, name in enumerate(table["encoder_title"].unique())}
    markers = {name: MARKERS[k % len(MARKERS)] for k, name in enumerate(table["llm_title"].unique())}
    return colours, markers


def curves(rows: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Colour, marker and rows of each (encoder, LLM), in rising resolution."""
    colours, markers = palette(rows)
    for encoder, colour in colours.items():
        for llm, marker in markers.items():
            chosen = rows[(rows["encoder_title"] == encoder) & (rows["llm_title"] == llm)]
            if not chosen.empty:
                yield colour, marker, chosen.sort_values("input_px")


def draw_legend(canvas: Canvas, rows: pd.DataFrame, more: Iterable[Any] = ()) -> None:
    """Encoders and LLMs above the panels, where they hide nothing."""
    colours, markers = palette(rows)
    handles: list[Any] = [Line2D([], [], color=c, lw=3, label=label(name, 30)) for name, c in colours.items()]
    if len(markers) > 1:
        handles += [Line2D([], [], color="#444444", marker=m, ls="", label=label(n, 30)) for n, m in markers.items()]
    handles += more
    longest = max(len(handle.get_label()) for handle in handles)
    legend_above(canvas, handles, max(1, min(4, 90 // (longest + 6))))


def legend_above(canvas: Canvas, handles: Sequence[Any], columns: int) -> None:
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


def interval_reach(rows: pd.DataFrame, name: str, scale: float = 1.0) -> np.ndarray:
    """Distances of the interval's ends from the value, for matplotlib; nothing where the interval is unknown."""
    if f"{name}_low" not in rows.columns:  # a published score
        return np.zeros((2, len(rows)))
    value, low, high = (rows[column].to_numpy(float) for column in (name, f"{name}_low", f"{name}_high"))
    reach = np.vstack([value - low, high - value]) * scale
    return np.where(np.isfinite(reach), np.maximum(reach, 0), 0)


def plain_ticks(axis: Any, values: Iterable[float]) -> None:
    """Ticks of a logarithmic axis as plain numbers: those of the values where they are few, else 1, 2, 5, 10, ..."""
    known = sorted({float(value) for value in values if value > 0 and math.isfinite(value)})
    span = known[-1] / known[0] if known else 1.0
    subs = (1, 2, 3, 4, 6, 8) if span < 20 else (1, 2, 5) if span < 200 else (1,)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def ticks_at(axis: Any, values: Iterable[float], most: int = 6) -> None:
    """A tick at each of a few values of a logarithmic axis."""
    known = sorted(set(values))
    plain_ticks(axis, known)
    if len(known) <= most:
        axis.set_major_locator(FixedLocator(known))


def annotate(axes: Axes, labels: Sequence[tuple[str, float, float]], keep: Sequence[tuple[float, float]]) -> None:
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


def as_blind(rows: pd.DataFrame, name: str) -> pd.Series[bool]:
    """Which scores are within the error of their blind runs."""
    column = f"{name}_blind_like"
    if column not in rows.columns:
        return pd.Series(False, index=rows.index)
    return rows[column].map(lambda mark: not pd.isna(mark) and bool(mark)).astype(bool)


def filled_and_hollow(rows: pd.DataFrame, name: str) -> list[tuple[pd.DataFrame, dict[str, Any]]]:
    """Points with the look of their markers: hollow where a score is within the error of its blind run."""
    hollow = as_blind(rows, name)
    looks: list[tuple[pd.DataFrame, dict[str, Any]]] = [(rows[~hollow], {}), (rows[hollow], {"mfc": "white"})]
    return [(part, look) for part, look in looks if not part.empty]


def draw_levels(axes: Axes, rows: pd.DataFrame, name: str) -> None:
    """A thin line at what guessing and the majority answer score; one each where all points have the same."""
    for what, (dash, _) in BASELINES.items():
        if f"{name}_{what}" in rows.columns:
            for value in sorted(set(rows[f"{name}_{what}"].dropna().round(6))):
                axes.axhline(value, color="#555555", lw=0.9, ls=dash, zorder=1)
                low, high = axes.get_ylim()
                axes.set_ylim(min(low, value - 0.04 * (high - low)), max(high, value + 0.04 * (high - low)))


def draw_unseen(axes: Axes, places: pd.Series[Any], rows: pd.DataFrame, name: str, colour: str) -> None:
    """A tick at what each point scores without sight."""
    if f"{name}_blind" in rows.columns:
        axes.plot(places, rows[f"{name}_blind"], UNSEEN, ms=7, mew=1.1, color=colour, alpha=0.7, zorder=2)


def beside_handles(rows: pd.DataFrame, *names: str) -> list[Any]:
    """What the baselines look like, of those that these scores have."""
    there = {what for name in names for what in (*BASELINES, "blind") if f"{name}_{what}" in rows.columns}
    handles: list[Any] = [
        Line2D([], [], color="#555555", lw=0.9, ls=dash, label=text)
        for what, (dash, text) in BASELINES.items()
        if what in there
    ]
    if "blind" in there:
        handles.append(Line2D([], [], color="#444444", marker=UNSEEN, ms=7, mew=1.1, ls="", label="blind"))
    if any(as_blind(rows, name).any() for name in names):
        handles.append(Line2D([], [], color="#444444", marker="o", ms=4, mfc="white", ls="", label="as blind"))
    return handles


def beside_text(rows: pd.DataFrame, *names: str) -> str:
    """What is drawn beside scores, and how many of them are as good as blind."""
    there = {what for name in names for what in (*BASELINES, "blind") if f"{name}_{what}" in rows.columns}
    said = ""
    if lines := [text for what, (_, text) in BASELINES.items() if what in there]:
        said += f" Lines: {' and the '.join(lines)}."
    if "blind" in there:
        count = sum(int(as_blind(rows, name).sum()) for name in names)
        said += " Ticks: the same model shown grey images."
        said += f" Hollow: within the error of the blind run ({count} of {len(rows) * len(names)})." if count else ""
    return said


def once(rows: pd.DataFrame, stage: str, what: Sequence[str]) -> pd.DataFrame:
    """Each component once: points share it, and the one that rests on the most blocks says it best."""
    return rows.dropna(subset=[stage]).sort_values("blocks", ascending=False, kind="stable").drop_duplicates(what)
