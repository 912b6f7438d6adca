"""Records as a table: one row for each point, statistics derived from its raw samples."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any

import pandas as pd

from harness.frontier import on_frontier
from harness.schema import STAGES, TTFTS, Latency, Protocol, Record
from harness.stats import Interval, accuracy, combined, median_interval, sum_passes

TIMES = (*STAGES, "prefill_visual", *TTFTS, "ttft_fused")
"""Every duration that a row has, as `<name>`, `<name>_low`, `<name>_high` in seconds (median, 95% interval)."""


FRONTIER_TTFT = "ttft_model"
"""The TTFT that decides the frontier where none is named: what encoder, resolution and LLM cost, and nothing else."""


def times_of(latency: Latency) -> dict[str, Interval]:
    """Median and interval of every stage and every TTFT; sums are taken pass by pass, before the median."""
    counted = {name: values[latency.warmup :] for name, values in latency.seconds.items()}
    for name, stages in TTFTS.items():
        counted[name] = tuple(sum_passes(counted, stages))
    return {name: median_interval(counted[name]) for name in TIMES}


def row_of(record: Record) -> dict[str, Any]:
    """One record as a flat row; what is unknown is missing, never zero."""
    point, machine = record.point, record.machine
    row: dict[str, Any] = {
        "encoder": point.encoder.name,
        "encoder_title": point.encoder.title,
        "llm": point.llm.name,
        "llm_title": point.llm.title,
        "resolution": point.resolution,
        "stride": point.encoder.stride,
        "visual_tokens": point.visual_tokens,
        "status": record.status,
        "reason": record.reason,
        "weights": point.weights,
        "device": machine.device,
        "device_name": machine.device_name,
        "dtype": point.dtype,
        "threads": point.threads,
        "attention": point.attention,
        "date": record.started[:10],
        "protocol": protocol_text(point.protocol),
        "no_accuracy": record.no_accuracy,
        "commit": record.commit,
        "command": record.command,
        "key": record.key,
    }
    if record.latency is not None:
        latency = record.latency
        row |= {
            "text_tokens": statistics.median(latency.text_tokens[latency.warmup :]),
            "samples": len(latency.seconds["ttft_fused"]) - latency.warmup,
            "stop_reason": latency.stop_reason,
            "peak_bytes": latency.peak_bytes,
            "peak_source": latency.peak_source,
        }
        for name, interval in times_of(latency).items():
            row |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
    parts = []
    for score in record.scores:
        part = accuracy([a.score for a in score.answers], [a.image for a in score.answers])
        parts.append(part)
        row |= {
            score.suite: part.mean,
            f"{score.suite}_stderr": part.stderr,
            f"{score.suite}_low": part.low,
            f"{score.suite}_high": part.high,
            f"{score.suite}_questions": part.questions,
        }
    if parts:
        mean = combined(parts)
        row |= {
            "accuracy": mean.mean,
            "accuracy_stderr": mean.stderr,
            "accuracy_low": mean.low,
            "accuracy_high": mean.high,
        }
    return row


def protocol_text(protocol: Protocol) -> str:
    """A protocol in a few words."""
    warm_up = f"{protocol.warmup} and {protocol.warmup_seconds:g} s warm-up"
    passes = f"{protocol.min_samples}–{protocol.max_samples} passes"
    return f"v{protocol.version}: {warm_up}, {passes}, until ±{protocol.precision:.0%} or {protocol.max_seconds:g} s"


VARIANTS = ("device_name", "dtype", "threads", "attention", "weights", "protocol")
"""What may differ between points of one name; where it does, the encoder's title says so."""


def frame_of(records: Iterable[Record]) -> pd.DataFrame:
    """All rows, with `on_frontier`: whether no other row of the same machine has a better TTFT and accuracy."""
    table = pd.DataFrame([row_of(record) for record in records])
    if table.empty:
        return table
    cell = ["encoder", "llm", "resolution"]
    for column in VARIANTS:
        if (table.groupby(cell)[column].nunique() > 1).any():
            table["encoder_title"] += " [" + table[column].astype(str) + "]"
    table["on_frontier"] = frontier_of(table)
    return table


def frontier_of(table: pd.DataFrame, accuracy: str = "accuracy", ttft: str = FRONTIER_TTFT) -> pd.Series[bool]:
    """Which rows are on the frontier of (`ttft`, `accuracy`), each device for itself; rows without both are not."""
    chosen = dict.fromkeys(table.index, False)
    if not {accuracy, ttft, "device_name"} <= set(table.columns):
        return pd.Series(chosen, dtype=bool)
    for _, group in table.dropna(subset=[accuracy, ttft]).groupby(["device", "device_name"]):
        chosen |= zip(group.index, on_frontier(group[ttft].tolist(), group[accuracy].tolist()), strict=True)
    return pd.Series(chosen, dtype=bool)


def suites_of(table: pd.DataFrame) -> list[str]:
    """Names of the suites that any row was asked."""
    suffix = "_questions"
    return [column.removesuffix(suffix) for column in table.columns if column.endswith(suffix)]
