"""Results as a table: one row for each point, statistics derived from raw samples."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import asdict
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from harness import registry
from harness.analysis.composition import GROWS, Result
from harness.analysis.frontier import on_frontier
from harness.analysis.scores import ALL_KINDS, statistics_of
from harness.evaluate.baselines import Baselines, baselines_of, mean_baselines
from harness.schema import (
    MAIN_STAGES,
    STAGES,
    TTFTS,
    HubModel,
    Point,
    Score,
    Telemetry,
    TimingProtocol,
    one_line,
)
from harness.stats import Interval, accuracy, combined

TIMES = (*STAGES, "prefill_visual", *TTFTS, "ttft_fused")
"""Every duration that a row has, as `<name>`, `<name>_low`, `<name>_high` in seconds (median over blocks and
95% interval).

`ttft_fused` is there only for the points that were measured directly; everything else is composed.
"""

FRONTIER_TTFT = "ttft_model"
"""The TTFT that decides the frontier where none is named: what encoder, resolution and LLM cost, and nothing else."""

SHARES = (0.90, 0.95, 0.99)

BASELINES = tuple(Baselines.__dataclass_fields__)
"""What stands beside the score of each suite, and beside their mean `accuracy`, as `<suite>_<name>`: `guess`,
`majority`, `majority_answer` and `blind`; `above_blind`, the score minus the blind one, with `_low`, `_high` and
`_stderr`; and `blind_like`, whether that interval reaches down to 0. What is not known is missing."""

MEASURED, COMPOSED, EXTRAPOLATED, PUBLISHED = "measured", "composed", "extrapolated", "published"
"""Where a value comes from: the column `<name>_source` of each time and each accuracy says it."""


def row_of(result: Result) -> dict[str, Any]:
    """One point as a flat row; what is unknown is missing, never zero."""
    point = result.planned.point
    measurements = [v for blocks in result.measurements.values() for v in blocks.values()]
    entries = [*measurements, *result.evaluations.values(), *result.blind.values()]
    there = [entry.machine for entry in entries if entry.machine.device == point.language.device]
    machine = there[0] if there else None
    row: dict[str, Any] = {
        **_names(point),
        "resolution": point.resolution,
        "tiles": point.tiles,
        "input_px": point.input_px,
        "visual_tokens": point.visual_tokens,
        "sequence_tokens": point.sequence_tokens,
        "text_tokens": point.text_tokens,
        "status": result.status,
        "reason": result.reason,
        "weights": point.weights,
        "machine": machine.key if machine else "",
        "device": point.language.device,
        "device_name": machine.device_name if machine else "",
        "encoder_runtime": point.vision.runtime,
        "llm_runtime": point.language.runtime,
        "dtype": point.language.dtype,
        "threads": point.language.threads,
        "attention": point.language.attention,
        "date": max((entry.started for entry in entries), default="")[:10],
        "protocol": protocol_text(point.protocol),
        "no_accuracy": result.planned.no_accuracy,
        "commit": ", ".join(sorted({entry.commit for entry in entries})),
        "command": result.planned.command,
    }
    row |= _latency(result) if result.timed else {}
    scored: list[Score] = []
    against: list[Baselines] = []
    for name, score in result.scored.items():
        suite, whole = column_of(name), statistics_of(score)[0]
        scored.append(score)
        row |= {
            suite: whole.value,
            f"{suite}_source": MEASURED,
            f"{suite}_stderr": whole.stderr,
            f"{suite}_low": whole.low,
            f"{suite}_high": whole.high,
            f"{suite}_questions": whole.questions,
            f"{suite}_images": whole.images,
            f"{suite}_stderr_naive": whole.stderr_naive,
            f"{suite}_design_effect": whole.design_effect,
            f"{suite}_unparsed": whole.unparsed,
            f"{suite}_metric": score.metric,
        }
        against.append(baselines_of(score, result.blind_score(name)))
        row |= _baseline_columns(f"{suite}_", against[-1])
    external = sum(bool(suite.submission) for suite in point.suites)
    if scored and len(scored) == len(result.planned.evaluations) - external:
        parts = [accuracy([a.score or 0.0 for a in s.answers], [a.image for a in s.answers]) for s in scored]
        mean = combined(parts)
        row |= {
            "accuracy": mean.mean,
            "accuracy_source": MEASURED,
            "accuracy_stderr": mean.stderr,
            "accuracy_low": mean.low,
            "accuracy_high": mean.high,
        }
        row |= _baseline_columns("accuracy_", mean_baselines(against))
    return row


def _baseline_columns(stem: str, found: Baselines) -> dict[str, Any]:
    """The columns of what stands beside a score; none for what is not known."""
    values = {f"{stem}{name}": getattr(found, name) for name in BASELINES}
    return {name: value for name, value in values.items() if value not in (None, "") and not pd.isna(value)}


def _names(point: Point) -> dict[str, Any]:
    """What the parts of a point are called; a hub model stands where an encoder would."""
    model = point.model
    if isinstance(model, HubModel):
        return {"model": model.name, "encoder_title": model.title, "llm": "", "llm_title": model.llm or "its own"}
    towers = " + ".join(encoder.title for encoder in (model.encoder, *model.also))
    tiled = f", {model.tiles} tiles" if model.tiles > 1 else ""
    reduced = f", {model.connector.title}" if model.connector.title else ""
    fused = f", {model.fusion.title}" if model.fusion else ""
    title, named = f"{towers}{tiled}{reduced}", {}
    if system := model.system:
        changed = "".join(f", {override}" for override in system.changed)
        tokens = f", {point.visual_tokens} tokens" if model.connector.title else ""
        title = system.title + tokens + changed
        own = "" if system.changed else system.title  # a changed one is nobody's published system
        named = {"system": system.name, "system_title": own}
    return {
        **named,
        "encoder": model.encoder.name,
        "encoder_title": title,
        "towers": towers,
        "parts": f"{towers}{tiled}{reduced}{fused} + {model.llm.title}",
        "llm": model.llm.name,
        "llm_title": model.llm.title,
        "stride": model.encoder.stride,
    }


def _latency(result: Result) -> dict[str, Any]:
    """The columns of what was timed."""
    sources = {"composed_vlm": "composed, checked directly", "hub": "measured as a whole", "": "composed"}
    row: dict[str, Any] = {"source": sources[result.whole], "extrapolated": bool(result.depths)}
    if (bend := result.bend()) is not None:
        depths = ", ".join(map(str, result.depths))
        row["source"] += f"; prefill extrapolated from {depths} to {result.layers} layers"
        row |= _columns("bend", bend)
    peak, source = result.memory()
    row |= {
        "blocks": result.blocks,
        "disturbed_blocks": result.disturbed_blocks,
        "disturbed": result.disturbed,
        "marked": result.marked(),
        "peak_bytes": peak,
        "peak_source": source,
    }
    ceilings = [v.ceilings for kind in result.measurements.values() for v in kind.values() if v.ceilings]
    if ceilings:
        row["ceiling_flops_per_second"] = statistics.median(c.flops_per_second for c in ceilings)
        row["ceiling_bytes_per_second"] = statistics.median(c.bytes_per_second for c in ceilings)
    for name, interval in result.times().items():
        row |= {**_columns(name, interval), f"{name}_source": _source(result, name)}
    for name in TTFTS:
        if (residual := result.residual(name)) is not None:
            row |= _columns(f"residual_{name}", residual)
            row |= {f"direct_{name}": result.stage_median("composed_vlm", name)}
    if (overlap := result.overlap()) is not None:
        row |= _columns("overlap", overlap)
    for kind, stage in MAIN_STAGES:
        if kind not in {part.kind for part in result.parts}:
            continue
        if kind == "llm" and result.depths:
            if (found := result.efficiency(kind, stage)) is not None:
                row |= _columns(f"{stage}_efficiency", found.share)
                row |= {f"{stage}_floor": found.floor, f"{stage}_bound": found.bound}
            continue
        if f"{kind}@1" not in result.parts:  # of several encoders the percentiles of the sum are not known
            samples, worth, correlation = result.evidence(kind, stage)
            row |= {f"{stage}_samples": samples, f"{stage}_effective_samples": worth, f"{stage}_lag1": correlation}
            row |= {f"{stage}_p{100 * share:.0f}": result.percentile(kind, stage, share) for share in SHARES}
            row |= {f"{stage}_cold": result.cold(kind, stage), f"{stage}_overhead": result.overhead(kind)}
            row |= {f"{stage}_load": result.load(kind)}
        if (found := result.efficiency(kind, stage)) is not None:
            row |= _columns(f"{stage}_efficiency", found.share)
            row |= {
                f"{stage}_floor": found.floor,
                f"{stage}_eager_floor": found.eager_floor,
                f"{stage}_bound": found.bound,
            }
        if (work := result.work(kind, stage)) is not None:
            row |= {f"{stage}_flops": work.flops, f"{stage}_bytes": work.bytes, f"{stage}_parameters": work.parameters}
    if whole := result.whole:
        row |= {f"ttft_fused_p{100 * share:.0f}": result.percentile(whole, "ttft_fused", share) for share in SHARES}
    return row | _meanwhile(result.telemetry())


@cache
def telemetry_meanings() -> dict[str, str]:
    """Gauges and counters of all sources of telemetry (see `harness.timing.telemetry`), those of installed packages
    too, with the meaning of each. A column has its name, without `_seconds`."""
    sources = (module.Source for module in registry.every("timing.telemetry").values())
    return {name: meaning for source in sources for name, meaning in source.MEANINGS.items()}


AT_START = {"load"}
"""Gauges that count as they were before a batch: afterwards they tell of our own work."""


def _meanwhile(told: list[Telemetry]) -> dict[str, float]:
    """What the machine did during the measurements, of every source: time of processors as a share of all, what else
    was counted as a sum, a heat as the highest, anything else as the median. Nothing of what no source tells."""
    found: dict[str, float] = {}
    for name in sorted({name for each in told for name in each.counters}):
        if name.endswith("_seconds"):
            shares = [share for each in told if (share := each.share(name)) is not None]
            found[name.removesuffix("_seconds")] = max(0.0, statistics.fmean(shares)) if shares else math.nan
        else:
            found[name] = math.fsum(each.counters.get(name, 0.0) for each in told)
    for name in sorted({name for each in told for name in each.gauges}):
        when = 0 if name in AT_START else 1
        values = [value for each in told for value in each.gauges.get(name, ())[when : when + 1] if value is not None]
        if values:
            hot = name.endswith(("celsius", "_level"))
            found[name] = max(values) if hot else statistics.median(values)
    return found


def _source(result: Result, name: str) -> str:
    """Where a time comes from: measured as it is, composed of several measurements, or extrapolated."""
    stages = TTFTS.get(name, (name,))
    if result.depths and set(stages) & set(GROWS):
        return EXTRAPOLATED
    takes = [part for part in result.parts for stage in stages if stage in part.stages]
    return MEASURED if len(set(takes)) < 2 else COMPOSED  # a fused pass is no part's: it is measured


def _columns(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def protocol_text(protocol: TimingProtocol) -> str:
    """A protocol in a few words."""
    warm_up = f"{protocol.warmup} and {protocol.warmup_seconds:g} s warm-up"
    passes = f"{protocol.min_samples}–{protocol.max_samples} passes"
    rule = f"until ±{protocol.precision:.0%} or {protocol.max_seconds:g} s"
    return f"v{protocol.version}: {protocol.blocks} blocks, in each {warm_up}, {passes}, {rule}"


VARIANTS = ("machine", "encoder_runtime", "llm_runtime", "dtype", "threads", "attention", "weights", "protocol")
"""What may differ between points of one name; where it does, the encoder's title says so."""


OWN = (
    *("system", "system_title", "model", "input_px", "encoder", "encoder_title", "towers", "parts", "llm", "llm_title"),
    *("stride", "blocks", "resolution", "tiles", "visual_tokens", "sequence_tokens", "text_tokens", "status", "reason"),
    *("weights", "point", "machine", "device", "device_name", "dtype", "threads", "attention", "date", "protocol"),
    *("no_accuracy", "commit", "command", "source", "extrapolated", "disturbed_blocks", "disturbed", "marked"),
    *("on_frontier", "px", "LLM", "encoder_runtime", "llm_runtime", "visual tokens", "frontier", "composed vs direct"),
    "peak MB",
)
STEMS = (*TIMES, *("accuracy", "bend", "ceiling_", "direct_", "overlap", "peak_", "published_", "residual_", "suite_"))
"""Columns, and how columns begin, that are no suite's."""


def table_of(results: Iterable[Result]) -> pd.DataFrame:
    """All rows, with `on_frontier`: whether no other row of the same machine has a better TTFT and accuracy."""
    table = pd.DataFrame([row_of(result) for result in results])
    if table.empty:
        return table
    subject = table.reindex(columns=["system", "model", "encoder"]).bfill(axis=1).iloc[:, 0]
    cell = [subject, table["llm"], table["input_px"]]
    for column in VARIANTS:
        if (table.groupby(cell)[column].nunique() > 1).any():
            table["encoder_title"] += " [" + table[column].astype(str) + "]"
    table["on_frontier"] = frontier_of(table)
    return table


def frontier_of(table: pd.DataFrame, accuracy: str = "accuracy", ttft: str = FRONTIER_TTFT) -> pd.Series[bool]:
    """Which rows are on the frontier of (`ttft`, `accuracy`), each machine for itself; rows without both are not."""
    chosen = dict.fromkeys(table.index, False)
    if not {accuracy, ttft, "machine"} <= set(table.columns):
        return pd.Series(chosen, dtype=bool)
    known = np.isfinite(table[[accuracy, ttft]].astype(float)).all(axis=1)
    for _, group in table[known].groupby("machine"):
        chosen |= zip(group.index, on_frontier(group[ttft].tolist(), group[accuracy].tolist()), strict=True)
    return pd.Series(chosen, dtype=bool)


def told_apart(table: pd.DataFrame, accuracy: str = "accuracy", ttft: str = FRONTIER_TTFT) -> pd.Series[bool]:
    """Which rows of the frontier their intervals tell apart: the fastest of each machine, and then each whose accuracy
    interval lies above that of the one told apart before. Scores without intervals are taken as they were printed."""
    chosen = dict.fromkeys(table.index, False)
    front = table[frontier_of(table, accuracy, ttft)]
    for _, group in front.sort_values(ttft).groupby("machine"):
        reached = -np.inf
        for index, row in group.iterrows():
            value = row[accuracy]
            low, high = (row.get(f"{accuracy}_{end}", value) for end in ("low", "high"))
            if low > reached:
                chosen[index], reached = True, high
    return pd.Series(chosen, dtype=bool)


def has_frontier(table: pd.DataFrame, accuracy: str = "accuracy", ttft: str = FRONTIER_TTFT) -> bool:
    """Whether a frontier can be claimed: not where it has several points and their intervals all overlap."""
    if not {accuracy, ttft, "machine"} <= set(table.columns):
        return False
    front, apart = frontier_of(table, accuracy, ttft), told_apart(table, accuracy, ttft)
    return bool((apart.groupby(table["machine"]).sum() > 1).any() or (front.any() and front.equals(apart)))


def suites_of(table: pd.DataFrame) -> list[str]:
    """Columns of the suites that any row was asked."""
    suffix = "_questions"
    asked = [column.removesuffix(suffix) for column in table.columns if column.endswith(suffix)]
    return [name for name in asked if f"{name}_metric" in table.columns]


def column_of(suite: str) -> str:
    """A suite's column: its name, with `suite_` before one that the table needs for something else."""
    taken = (
        suite in OWN
        or suite.startswith(STEMS)
        or suite in {name.removesuffix("_seconds") for name in telemetry_meanings()}
    )
    return f"suite_{suite}" if taken else suite


def scores_of(results: Iterable[Result]) -> pd.DataFrame:
    """One row for each figure of each score: the whole, its kinds of questions, POPE's precision, recall, F1."""
    rows = []
    for result in results:
        point = result.planned.point
        for suite, evaluation in result.evaluations.items():
            about: dict[str, Any] = {
                "point": point.name,
                "suite": evaluation.suite.title,
                "status": evaluation.status,
                "reason": evaluation.reason,
            }
            if why := result.unscored(suite):
                about |= {"status": "error", "reason": why}
            if evaluation.score is None or why:
                rows.append(about)
                continue
            rows += [
                {**about, "status": blind.status, "reason": f"blind run: {blind.reason}"}
                for blind in [result.blind.get(suite)]
                if blind is not None and blind.status != "ok"
            ]
            about |= {
                "metric": evaluation.score.metric,
                "data": evaluation.score.data,
                "seconds": evaluation.score.seconds,
            }
            if evaluation.suite.submission:
                rows.append({**about, "part": ALL_KINDS, "what": "graded externally", "suite_name": suite})
            for figure in statistics_of(evaluation.score):
                rows.append({**about, **asdict(figure), "suite_name": suite})
                if figure.what == "score":
                    kind = None if figure.part == ALL_KINDS else figure.part
                    rows[-1] |= _baseline_columns("", baselines_of(evaluation.score, result.blind_score(suite), kind))
    return pd.DataFrame(rows)


def blind_like(scores: pd.DataFrame) -> list[str]:
    """What points answer within the error of their blind runs, suite by suite, and by kinds of questions where at least
    half of the points do; `scores` is the table of `scores_of`."""
    if "blind_like" not in scores.columns:
        return []
    found = []
    marked = scores.dropna(subset=["blind_like"])
    for (suite, part), rows in marked.groupby(["suite_name", "part"], sort=False):
        count, whole = int(rows["blind_like"].astype(bool).sum()), len(rows)
        if not count or (part != ALL_KINDS and 2 * count < whole):
            continue
        what = f"`{suite}`" if part == ALL_KINDS else f"questions of kind `{part}` in `{suite}`"
        points = "point answers" if whole == 1 else "points answer"
        found.append(one_line(f"{count} of {whole} {points} {what} no better than blind"))
    return found
