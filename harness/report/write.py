"""Write a sweep's report: raw results, tables, pictures, one page.

`python -m harness.report SWEEP` makes it again from the store.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from harness.analysis.claims import find, ranking
from harness.analysis.composition import Result, load_results
from harness.analysis.published import encoder_latencies, with_published
from harness.analysis.table import blind_like, frontier_of, scores_of, table_of
from harness.report.figures import draw_claims, draw_figures
from harness.report.page import write_page
from harness.report.tables import write_claims, write_tables
from harness.schema import Entry, HarnessError, Manifest
from harness.storage import store
from harness.suites.submissions import write_submission

LONGEST = 200
"""Characters of a sweep's name; file systems take 255 bytes with an ending."""


def write_report(results: Path, sweep: str, reports: Path) -> tuple[Path, list[Result]]:
    """Make the report of the sweep's last run; returns its folder and the points it shows.

    The folder holds copies of the records that it was made from, so that it can be made again from itself:
    `write_report(reports, sweep, reports)`.
    """
    if sweep != Path(sweep).name or sweep in ("", ".", "..") or len(sweep) > LONGEST:
        raise HarnessError(f"sweep={sweep}: the name of a sweep is expected, not a path")
    manifest, points = load_results(results, sweep)
    folder = reports / sweep
    folder.mkdir(parents=True, exist_ok=True)
    _write_lines(folder / store.MANIFEST, [manifest])
    measurements = {
        (v.key, v.block): v for point in points for blocks in point.measurements.values() for v in blocks.values()
    }
    evaluations = {
        evaluation.key: evaluation
        for point in points
        for evaluation in (*point.evaluations.values(), *point.blind.values())
    }
    _write_lines(folder / store.MEASUREMENTS, measurements.values())
    _write_lines(folder / store.EVALUATIONS, evaluations.values())
    remarks = _write_submissions(points, folder / "submissions")
    table = table_of(points)
    latencies = pd.DataFrame()
    if manifest.published and not table.empty:
        latencies = encoder_latencies(table, results)
        table = with_published(table, results, manifest.published)
        table["on_frontier"] = frontier_of(table)
    for old in (*folder.glob("*.png"), *folder.glob("*.svg"), *folder.glob("claims.[cm]*"), *folder.glob("scores.*")):
        old.unlink()  # a picture of an earlier run must not stand beside this one's numbers
    scores = scores_of(points)
    remarks += [said.replace("`", "") for said in blind_like(scores)]
    write_tables(table, scores, folder)
    findings = find(manifest.claims, points, results)
    ranks = ranking(points) if findings else pd.DataFrame()
    write_claims(findings, ranks, folder)
    figures = draw_claims(findings, table, folder) + draw_figures(table, folder)
    write_page(manifest, table, scores, figures, folder, findings, ranks, latencies, remarks)
    return folder, points


def _write_submissions(points: Iterable[Result], folder: Path) -> list[str]:
    """Answers for those who judge them; returns what could not be written, and why."""
    remarks = []
    for point in points:
        for evaluation in point.evaluations.values():
            if evaluation.score is None or not evaluation.suite.submission:
                continue
            try:
                write_submission(evaluation, point.planned.point.name, folder)
            except HarnessError as error:
                remarks.append(
                    f"{evaluation.suite.title}, {point.planned.point.name}: not written for submission: {error}"
                )
    return remarks


def _write_lines(path: Path, entries: Iterable[Entry | Manifest]) -> None:
    """One line each, in one step: what is replaced may be what was read."""
    store.write_whole(path, "".join(entry.model_dump_json() + "\n" for entry in entries))
