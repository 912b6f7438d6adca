"""For notebooks: `harness.load("resolution")`, `harness.frontier(table)`, `harness.measure("resolution=128")`."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from harness import frame, store
from harness.schema import HarnessError, Record, record_key


def load(sweep: str = "resolution", results: str | Path = "results") -> pd.DataFrame:
    """The records of a sweep's last run as a table: one row a point, times in seconds (see `harness.frame`)."""
    _, records = store.records_of(Path(results), sweep)
    return frame.frame_of(records)


def records(sweep: str = "resolution", results: str | Path = "results") -> list[Record]:
    """The same as raw records: every sample and every answer."""
    return store.records_of(Path(results), sweep)[1]


def frontier(table: pd.DataFrame, accuracy: str = "accuracy", ttft: str = frame.FRONTIER_TTFT) -> pd.DataFrame:
    """The rows that no other row beats in time and accuracy, fastest first."""
    return table[frame.frontier_of(table, accuracy, ttft)].sort_values(ttft)


def measure(*overrides: str) -> Record:
    """Measure one point here and now, in this process, without storing it.

    `harness.measure("encoder=tiny_vit", "resolution=128")` takes the overrides of the command line.
    """
    import time
    from datetime import UTC, datetime

    from harness.config import compose_all
    from harness.machine import commit, describe
    from harness.measurement import Measurer
    from harness.points import make_point, no_accuracy
    from harness.suites.embedded import fingerprint_of_rows
    from harness.sweep import alone, command_of

    _, configs = compose_all(overrides)
    if len(configs) != 1:
        raise HarnessError(f"measure takes one point, the overrides make {len(configs)}")
    point = make_point(configs[0])
    machine = describe(point.device)
    started, begin = datetime.now(UTC), time.monotonic()
    with alone():
        latency, scores = Measurer().measure(point, lambda _: None)
    return Record(
        key=record_key(point, machine, fingerprint_of_rows()),
        status="ok",
        point=point,
        machine=machine,
        commit=commit(),
        started=started.isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - begin, 3),
        command=command_of(configs[0]),
        latency=latency,
        scores=scores,
        no_accuracy="" if scores else no_accuracy(point),
    )
