"""For notebooks: `harness.load("resolution")`, `harness.frontier(table)`, `harness.measure("resolution=128")`."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from harness.analysis import composition
from harness.analysis.comparison import compare, compare_scores
from harness.analysis.composition import Result
from harness.analysis.table import FRONTIER_TTFT, TIMES, frontier_of, suites_of, table_of
from harness.schema import TTFTS, HarnessError, one_line, unknown
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
    use this machine before it begins, and when that disturbed what was measured; raises `HarnessError` where nothing
    could be measured. What fails of an evaluation is in the result, with its reason.
    """
    import tempfile
    import warnings

    from rich.console import Console

    from harness import pipeline
    from harness.progress import Progress
    from harness.timing.executors.inline import Executor
    from harness.timing.quiet import look
    from harness.timing.session import Session, alone

    request = pipeline.compose(overrides, stored=False)
    if len(request.points) != 1:
        raise HarnessError(f"measure takes one point, the overrides make {len(request.points)}")
    executor = Executor()
    plan = pipeline.plan(request, executor)
    (planned,) = plan.points
    where = planned.point.language
    with alone(), tempfile.TemporaryDirectory() as folder:
        if (use := look(where.device, where.threads)).busy:
            warnings.warn(one_line(f"this machine is busy: {use}; times will be disturbed"), stacklevel=2)
        quiet = Progress(0.0, Console(quiet=True))
        session = Session(plan, Path(folder), request.options.timeout, request.options.seed, quiet, executor)
        session.measure_all([[*planned.components.values()]])
        session.ask_all([*planned.evaluations.values(), *planned.blind.values()])
        result = composition.result_of(planned, *store.load(Path(folder)))
    first = [each for blocks in result.measurements.values() for each in blocks.values()]
    if failed := next((each for each in first if each.status != "ok"), None):
        raise HarnessError(f"{failed.component.name}: {failed.status}: {failed.reason}")
    if rough := [each.component.name for each in first if each.disturbed]:
        told = ", ".join(rough)
        warnings.warn(one_line(f"others used this machine, so that these times are rough: {told}"), stacklevel=2)
    return result
