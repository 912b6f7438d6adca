"""Results as a table: one row for each point, statistics derived from raw samples."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from harness.analysis.composition import GROWS, Result
from harness.analysis.frontier import on_frontier
from harness.analysis.scores import ALL_KINDS, statistics_of
from harness.evaluate.baselines import Beside, beside, mean_beside
from harness.schema import MAIN_STAGES, STAGES, STAGES_OF, TTFTS, Point, Protocol, Score, Telemetry, one_line
from harness.stats import Interval, accuracy, combined

TIMES = (*STAGES, "prefill_visual", *TTFTS, "ttft_fused")
"""Every duration that a row has, as `<name>`, `<name>_low`, `<name>_high` in seconds (median over blocks and
95% interval).

`ttft_fused` is there only for the points that were measured directly; everything else is composed.
"""

FRONTIER_TTFT = "ttft_model"
"""The TTFT that decides the frontier where none is named: what encoder, resolution and LLM cost, and nothing else."""

SHARES = (0.90, 0.95, 0.99)

BESIDE = tuple(Beside.__dataclass_fields__)
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
    machine = entries[0].machine if entries else None
    row: dict[str, Any] = {
        **_names(point),
        "resolution": point.side,
        "tiles": point.tiles,
        "visual_tokens": point.visual_tokens,
        "sequence_tokens": point.sequence_tokens,
        "text_tokens": point.tokens[1] if point.tokens else point.protocol.text_tokens,
        "status": result.status,
        "reason": result.reason,
        "weights": point.weights,
        "machine": machine.key if machine else "",
        "device": point.device,
        "device_name": machine.device_name if machine else "",
        "dtype": point.dtype,
        "threads": point.threads,
        "attention": point.attention,
        "date": max((entry.started for entry in entries), default="")[:10],
        "protocol": protocol_text(point.protocol),
        "no_accuracy": result.planned.no_accuracy,
        "commit": ", ".join(sorted({entry.commit for entry in entries})),
        "command": result.planned.command,
    }
    row |= _latency(result) if result.timed else {}
    scored: list[Score] = []
    against: list[Beside] = []
    for name, evaluation in result.scored.items():
        assert evaluation.score is not None
        suite, whole = column_of(name), statistics_of(evaluation.score)[0]
        scored.append(evaluation.score)
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
            f"{suite}_metric": evaluation.score.metric,
        }
        against.append(beside(evaluation.score, result.blind_score(name)))
        row |= _beside(f"{suite}_", against[-1])
    judged = sum(bool(suite.submission) for suite in point.suites)
    if scored and len(scored) == len(result.planned.evaluations) - judged:
        parts = [accuracy([a.score or 0.0 for a in s.answers], [a.image for a in s.answers]) for s in scored]
        mean = combined(parts)
        row |= {
            "accuracy": mean.mean,
            "accuracy_source": MEASURED,
            "accuracy_stderr": mean.stderr,
            "accuracy_low": mean.low,
            "accuracy_high": mean.high,
        }
        row |= _beside("accuracy_", mean_beside(against))
    return row


def _beside(stem: str, found: Beside) -> dict[str, Any]:
    """The columns of what stands beside a score; none for what is not known."""
    values = {f"{stem}{name}": getattr(found, name) for name in BESIDE}
    return {name: value for name, value in values.items() if value not in (None, "") and not pd.isna(value)}


def _names(point: Point) -> dict[str, Any]:
    """What the parts of a point are called; a published VLM stands where an encoder would."""
    if point.published is not None:
        whole = point.published
        return {"encoder": whole.name, "encoder_title": whole.title, "llm": "", "llm_title": whole.llm or "its own"}
    assert point.encoder is not None
    assert point.connector is not None
    assert point.llm is not None
    towers = " + ".join(encoder.title for encoder in (point.encoder, *point.also))
    tiled = f", {point.tiles} tiles" if point.tiles > 1 else ""
    reduced = f", {point.connector.title}" if point.connector.title else ""
    named = {}
    if point.system:
        own = "" if point.system.changed else point.system.title  # a changed one is nobody's published system
        named = {"system": point.system.name, "system_title": own}
    fused = f", {point.fusion.title}" if point.fusion else ""
    return {
        **named,
        "encoder": point.system.name if point.system else point.encoder.name,
        "encoder_title": _system_title(point) if point.system else f"{towers}{tiled}{reduced}",
        "towers": towers,
        "parts": f"{towers}{tiled}{reduced}{fused} + {point.llm.title}",
        "llm": point.llm.name,
        "llm_title": point.llm.title,
        "stride": point.encoder.stride,
    }


def _system_title(point: Point) -> str:
    """A system's name; with its number of tokens where the connector decides it."""
    assert point.system is not None
    assert point.connector is not None
    changed = "".join(f", {override}" for override in point.system.changed)
    return point.system.title + (f", {point.visual_tokens} tokens" if point.connector.title else "") + changed


def _latency(result: Result) -> dict[str, Any]:
    """The columns of what was timed."""
    sources = {"vlm": "composed, checked directly", "published": "measured as a whole", "": "composed"}
    row: dict[str, Any] = {"source": sources[result.whole], "extrapolated": bool(result.depths)}
    if (bend := result.bend()) is not None:
        assert result.planned.point.llm is not None
        layers = result.planned.point.llm.config["num_hidden_layers"]
        row["source"] += f"; prefill extrapolated from {', '.join(map(str, result.depths))} to {layers} layers"
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
            row |= {f"direct_{name}": result.stage_median("vlm", name)}
    if (overlap := result.overlap()) is not None:
        row |= _columns("overlap", overlap)
    for kind, stage in MAIN_STAGES:
        if kind not in {part.partition("@")[0] for part in result.parts}:
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


def _meanwhile(told: list[Telemetry]) -> dict[str, float]:
    """What the machine did during the measurements; nothing of what it does not say."""
    apart = {each.model_copy(update={"stolen": None}) for each in told}  # energy of what took turns is there once
    heat = [re.fullmatch(r"(\d+) C", each.thermal[1]) for each in told]
    found: dict[str, tuple[Callable[[list[float]], float], list[float | None]]] = {
        "load": (statistics.fmean, [each.load for each in told]),
        "foreign": (statistics.fmean, [each.foreign for each in told]),
        "stolen": (statistics.fmean, [each.stolen for each in told]),
        "frequency_hz": (statistics.median, [each.frequency_hz[1] for each in told]),
        "celsius": (max, [float(match[1]) if match else None for match in heat]),
        "gpu_clock_hz": (statistics.median, [each.gpu_clock_hz[1] for each in told]),
        "gpu_watts": (statistics.median, [each.gpu_power_watts[1] for each in told]),
        "gpu_joules": (math.fsum, [each.gpu_joules for each in apart]),
    }
    known = {name: (fold, [one for one in values if one is not None]) for name, (fold, values) in found.items()}
    return {name: fold(values) for name, (fold, values) in known.items() if values}


def _source(result: Result, name: str) -> str:
    """Where a time comes from: measured as it is, composed of several measurements, or extrapolated."""
    stages = TTFTS.get(name, (name,))
    if result.depths and set(stages) & set(GROWS):
        return EXTRAPOLATED
    takes = [part for part in result.parts for stage in stages if stage in STAGES_OF[part.partition("@")[0]]]
    return MEASURED if len(set(takes)) < 2 else COMPOSED  # a fused pass is no part's: it is measured


def _columns(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def protocol_text(protocol: Protocol) -> str:
    """A protocol in a few words."""
    warm_up = f"{protocol.warmup} and {protocol.warmup_seconds:g} s warm-up"
    passes = f"{protocol.min_samples}–{protocol.max_samples} passes"
    rule = f"until ±{protocol.precision:.0%} or {protocol.max_seconds:g} s"
    return f"v{protocol.version}: {protocol.blocks} blocks, in each {warm_up}, {passes}, {rule}"


VARIANTS = ("machine", "dtype", "threads", "attention", "weights", "protocol")
"""What may differ between points of one name; where it does, the encoder's title says so."""


OWN = (
    *("system", "system_title", "encoder", "encoder_title", "towers", "parts", "llm", "llm_title", "stride", "blocks"),
    *("resolution", "tiles", "visual_tokens", "sequence_tokens", "text_tokens", "status", "reason", "weights", "point"),
    *("machine", "device", "device_name", "dtype", "threads", "attention", "date", "protocol", "no_accuracy", "commit"),
    *("command", "source", "extrapolated", "disturbed_blocks", "disturbed", "marked", "on_frontier", "px", "LLM"),
    *("load", "foreign", "stolen", "frequency_hz", "celsius", "gpu_clock_hz", "gpu_watts", "gpu_joules"),
    *("visual tokens", "frontier", "of limit", "of its limit", "composed vs direct", "peak MB"),
)
STEMS = (*TIMES, *("accuracy", "bend", "ceiling_", "direct_", "overlap", "peak_", "published_", "residual_", "suite_"))
"""Columns, and how columns begin, that are no suite's."""


def table_of(results: Iterable[Result]) -> pd.DataFrame:
    """All rows, with `on_frontier`: whether no other row of the same machine has a better TTFT and accuracy."""
    table = pd.DataFrame([row_of(result) for result in results])
    if table.empty:
        return table
    cell = ["encoder", "llm", "resolution"]
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
    taken = suite in OWN or suite.startswith(STEMS)
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
                rows.append({**about, "part": ALL_KINDS, "what": "judged by others", "suite_name": suite})
            for figure in statistics_of(evaluation.score):
                rows.append({**about, **asdict(figure), "suite_name": suite})
                if figure.what == "score":
                    kind = None if figure.part == ALL_KINDS else figure.part
                    rows[-1] |= _beside("", beside(evaluation.score, result.blind_score(suite), kind))
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
