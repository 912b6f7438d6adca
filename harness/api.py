"""For notebooks: `harness.load("resolution")`, `harness.frontier(table)`, `harness.measure("resolution=128")`."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from harness import composition, frame
from harness.composition import Result
from harness.schema import Exam, HarnessError, Visit, one_line


def load(sweep: str = "resolution", results: str | Path = "results") -> pd.DataFrame:
    """The points of a sweep's last run as a table: one row a point, times in seconds (see `harness.frame`)."""
    return frame.frame_of(points(sweep, results))


def points(sweep: str = "resolution", results: str | Path = "results") -> list[Result]:
    """The same with everything they are made of: every visit, every sample, every answer."""
    return composition.load_results(Path(results), sweep)[1]


def frontier(table: pd.DataFrame, accuracy: str = "accuracy", ttft: str = frame.FRONTIER_TTFT) -> pd.DataFrame:
    """The rows that no other row beats in time and accuracy, fastest first."""
    return table[frame.frontier_of(table, accuracy, ttft)].sort_values(ttft)


def measure(*overrides: str) -> Result:
    """Measure one point here and now, in this process and so in one block, without storing it.

    `harness.measure("encoder=tiny_vit", "resolution=128")` takes the overrides of the command line. Warns when others
    use this machine before it begins, and when that disturbed what was measured.
    """
    import time
    import warnings
    from datetime import UTC, datetime

    from harness.config import compose_all
    from harness.machine import commit, describe
    from harness.measurement import Measurer
    from harness.plan import make_plan
    from harness.points import make_point
    from harness.session import alone
    from harness.suites.embedded import fingerprint_of_rows
    from harness.suites.questions import fault_of
    from harness.sweep import command_of
    from harness.telemetry import look

    _, configs = compose_all(overrides)
    if len(configs) != 1:
        raise HarnessError(f"measure takes one point, the overrides make {len(configs)}")
    point = make_point(configs[0])
    machine = describe(point.device)
    plan = make_plan([(point, command_of(configs[0]))], {point.device: machine}, fingerprint_of_rows(), None)
    (planned,) = plan.points
    measurer = Measurer()
    common = {"status": "ok", "machine": machine, "commit": commit(), "command": planned.command}
    visits, exams = {}, {}
    with alone():
        if (use := look(point.device, point.threads)).busy:
            warnings.warn(one_line(f"this machine is busy: {use}; times will be disturbed"), stacklevel=2)
        started = datetime.now(UTC).isoformat(timespec="seconds")
        units = [[plan.components[key]] for key in planned.components.values()]
        taken = measurer.visit(units, "0/0", lambda *_: None)
        for position, (kind, key) in enumerate(planned.components.items()):
            attempts = taken[position][0]
            attempt, found = len(attempts) - 1, attempts[-1]
            where = {"block": 0, "attempt": attempt, "process": "here", "seed": 0, "position": position}
            made = {"key": key, "component": plan.components[key], "work": plan.work(key)}
            visits[kind] = {0: Visit(**common, **where, **made, **found, started=started)}
        for name, key in planned.exams.items():
            started, begin = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
            _, suite = plan.exams[key]
            score, reason = None, fault_of(suite)
            try:
                score = None if reason else measurer.exam(point, suite, lambda *_: None)
            except HarnessError as error:  # one suite's fault costs that suite
                reason = str(error)
            spent = {"started": started, "seconds": round(time.monotonic() - begin, 3)}
            became = common | {"status": "error" if reason else "ok", "reason": reason}
            exams[name] = Exam(**became, **spent, key=key, point=point, suite=suite, score=score)
    if rough := [visit for blocks in visits.values() for visit in blocks.values() if visit.disturbed]:
        names = ", ".join(visit.component.name for visit in rough)
        warnings.warn(one_line(f"others used this machine, so that these times are rough: {names}"), stacklevel=2)
    return Result(planned, visits, exams)
