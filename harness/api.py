"""For notebooks: `harness.load("resolution")`, `harness.frontier(table)`, `harness.measure("resolution=128")`."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from harness.analysis import composition
from harness.analysis.comparison import compare, compare_scores
from harness.analysis.composition import Result
from harness.analysis.table import FRONTIER_TTFT, TIMES, frontier_of, suites_of, table_of
from harness.configuration.options import RunOptions, take
from harness.schema import TTFTS, Evaluation, HarnessError, Measurement, one_line, unknown
from harness.storage import store

__all__ = [
    "compare",
    "compare_scores",
    "frontier",
    "load",
    "measure",
    "points",
    "reports",
    "summary",
    "sweeps",
]

SUMMARY = (
    *("encoder", "llm", "resolution", "visual_tokens", "encode", "encode_efficiency", "prefill", "prefill_efficiency"),
    *(*TTFTS, "ttft_fused", "residual_ttft_model", "peak_bytes", "blocks", "disturbed_blocks"),
)
"""What a reader compares first: the columns of the page's table, before the suites."""


class Points(list[Result]):
    """Results, as a list; shown by their names."""

    def __repr__(self) -> str:
        names = ", ".join(result.planned.point.name for result in self[:4])
        return one_line(f"{len(self)} points: {names}{', ...' if len(self) > 4 else ''}", 300)


def load(sweep: str | Path = "resolution", results: str | Path = "results") -> pd.DataFrame:
    """The points of a sweep's last run as a table: one row a point, times in seconds (see `harness.analysis.table`).

    `sweep` is a name (see `sweeps`), or the folder of a report. `summary` of the table has its first columns.
    """
    return table_of(points(sweep, results))


def points(sweep: str | Path = "resolution", results: str | Path = "results") -> list[Result]:
    """The same with everything they are made of: every measurement, every sample, every answer."""
    folder, name = Path(sweep), str(sweep)
    if folder.is_dir() and (folder / store.MEASUREMENTS).is_file():
        if not (folder / store.MANIFEST).is_file():
            raise HarnessError(
                f"{folder}: a report without {store.MANIFEST}; make it again with python -m harness.report"
            )
        results, name = folder.parent, folder.name
    if name not in (known := sweeps(results)):
        raise HarnessError(f"{unknown('sweep', name, known)} (under {results}; or give a report's folder)")
    return Points(composition.load_results(Path(results), name)[1])


def sweeps(results: str | Path = "results") -> list[str]:
    """Names of the sweeps that were run into `results`, or whose reports lie there."""
    run = {path.stem for path in (Path(results) / "sweeps").glob("*.json")}
    return sorted(run | {folder.name for folder in reports(results)})


def reports(folder: str | Path = "reports") -> list[Path]:
    """Folders of reports that `load` opens."""
    return sorted(path.parent for path in Path(folder).glob(f"*/{store.MANIFEST}"))


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """The columns of `load`'s table that a report's small table has, as numbers: seconds, shares, bytes."""
    named = [*SUMMARY, *suites_of(table), "accuracy", "on_frontier", "status"]
    return table[[column for column in named if column in table.columns]]


def frontier(table: pd.DataFrame, accuracy: str = "accuracy", ttft: str = FRONTIER_TTFT) -> pd.DataFrame:
    """The rows that no other row beats in time and accuracy, fastest first.

    `accuracy` is a suite or their mean, `ttft` any time of the table. Raises `HarnessError` for a column that is not
    there.
    """
    if table.empty:
        return table
    suites = [*suites_of(table), *(column for column in table.columns if column.startswith("published_"))]
    for kind, name, known in (("accuracy", accuracy, ["accuracy", *suites]), ("ttft", ttft, TIMES)):
        there = [column for column in known if column in table.columns and table[column].notna().any()]
        if name not in there:
            why = (
                f"{unknown(kind, name, there)}"
                if there
                else f"no row of this table has a number for {kind}: {_why(table)}"
            )
            raise HarnessError(why)
    chosen = table[frontier_of(table, accuracy, ttft)].sort_values(ttft)
    return chosen.assign(on_frontier=True)


def _why(table: pd.DataFrame) -> str:
    """What the points say about having no number."""
    said = [str(text) for text in table.get("no_accuracy", pd.Series(dtype=str)) if text]
    return said[0] if said else "its points failed, or were not asked"


def measure(*overrides: str) -> Result:
    """Measure one point here and now, in this process and so in one block, without storing it.

    `harness.measure("encoder=tiny_vit", "resolution=128")` takes the overrides of the command line. Warns when others
    use this machine before it begins, and when that disturbed what was measured.
    """
    import time
    import warnings
    from datetime import UTC, datetime

    from harness.configuration.compose import compose_all
    from harness.configuration.points import make_point
    from harness.machine import commit, describe
    from harness.suites.embedded import fingerprint_of_rows
    from harness.suites.questions import fault_of
    from harness.sweep import command_of
    from harness.timing.measurer import Measurer
    from harness.timing.plan import make_plan
    from harness.timing.session import alone
    from harness.timing.telemetry import look

    common, configs = compose_all(overrides)
    if len(configs) != 1:
        raise HarnessError(f"measure takes one point, the overrides make {len(configs)}")
    point = make_point(configs[0])
    machine = describe(point.device)
    blind = take(RunOptions, common).blind
    only = [(point, command_of(configs[0]))]
    plan = make_plan(only, {point.device: machine}, fingerprint_of_rows(), None, blind=blind)
    (planned,) = plan.points
    measurer = Measurer()
    common = {"status": "ok", "machine": machine, "commit": commit(), "command": planned.command}
    measurements: dict[str, dict[int, Measurement]] = {}
    evaluations: dict[str, Evaluation] = {}
    unseen: dict[str, Evaluation] = {}
    with alone():
        if (use := look(point.device, point.threads)).busy:
            warnings.warn(one_line(f"this machine is busy: {use}; times will be disturbed"), stacklevel=2)
        started = datetime.now(UTC).isoformat(timespec="seconds")
        units = [[plan.components[key]] for key in planned.components.values()]
        taken = measurer.measure(units, "0/0", lambda *_: None)
        for position, (kind, key) in enumerate(planned.components.items()):
            attempts = taken[position][0]
            attempt, found = len(attempts) - 1, attempts[-1]
            where = {"block": 0, "attempt": attempt, "process": "here", "seed": 0, "position": position}
            made = {"key": key, "component": plan.components[key], "work": plan.work(key)}
            measurements[kind] = {0: Measurement(**common, **where, **made, **found, started=started)}
        for taking, name, key in [
            *((evaluations, *each) for each in planned.evaluations.items()),
            *((unseen, *each) for each in planned.blind.items()),
        ]:
            started, begin = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
            _, suite = plan.evaluations[key]
            score, reason = None, fault_of(suite)
            try:
                score = None if reason else measurer.evaluate(point, suite, lambda *_: None)
            except HarnessError as error:  # one suite's fault costs that suite
                reason = str(error)
            spent = {"started": started, "seconds": round(time.monotonic() - begin, 3)}
            became = common | {"status": "error" if reason else "ok", "reason": reason}
            taking[name] = Evaluation(**became, **spent, key=key, point=point, suite=suite, score=score)
    if rough := [
        measurement for blocks in measurements.values() for measurement in blocks.values() if measurement.disturbed
    ]:
        names = ", ".join(measurement.component.name for measurement in rough)
        warnings.warn(one_line(f"others used this machine, so that these times are rough: {names}"), stacklevel=2)
    return Result(planned, measurements, evaluations, unseen)
