"""Write a sweep's report: raw records, tables, pictures, one page.

`python -m harness.report SWEEP` makes it again from the store.
"""

from __future__ import annotations

from pathlib import Path

from harness import store
from harness.frame import frame_of
from harness.report.figures import draw_figures
from harness.report.page import write_page
from harness.report.tables import write_tables

RECORDS = "records.jsonl"


def write_report(results: Path, sweep: str, reports: Path) -> Path:
    """Make the report of the sweep's last run; returns its folder."""
    manifest, records = store.records_of(results, sweep)
    folder = reports / sweep
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(record.model_dump_json() + "\n" for record in records)
    (folder / RECORDS).write_text(lines)
    table = frame_of(records)
    for old in (*folder.glob("*.png"), *folder.glob("*.svg")):
        old.unlink()  # a picture of an earlier run must not stand beside this one's numbers
    write_tables(table, folder)
    figures = draw_figures(table, folder)
    write_page(manifest, table, figures, folder)
    return folder
