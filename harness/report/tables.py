"""The tables of a report as files: all columns as CSV, what a reader compares as Markdown."""

from __future__ import annotations

from pathlib import Path

from harness.analysis.claims import table_of
from harness.report.cells import told
from harness.report.content import Report
from harness.report.sections.claims import readable_claims
from harness.report.sections.points import readable
from harness.report.sections.rankings import readable_ranks
from harness.report.sections.scores import readable_scores
from harness.report.text import markdown, write_csv


def write_tables(report: Report, folder: Path) -> None:
    """`table.csv` (all columns, SI units) and `table.md`; the same of scores and claims, where there are any."""
    write_csv(report.table, folder / "table.csv")
    (folder / "table.md").write_text(markdown(told(readable(report.table))), encoding="utf-8")
    if not report.scores.empty:
        write_csv(report.scores, folder / "scores.csv")
        (folder / "scores.md").write_text(markdown(readable_scores(report.scores)), encoding="utf-8")
    if report.findings:
        write_csv(table_of(report.findings), folder / "claims.csv")
        text = markdown(readable_claims(report.findings))
        text += "\n" + markdown(readable_ranks(report.ranks)) if not report.ranks.empty else ""
        (folder / "claims.md").write_text(text, encoding="utf-8")
