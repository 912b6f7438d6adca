"""The page of a report: `index.html`, one folder, no network. jinja2 escapes everything that goes into it."""

from __future__ import annotations

from pathlib import Path

import jinja2
import pandas as pd

from harness.report.figures import Figure, provenance
from harness.report.tables import readable
from harness.schema import Manifest


def write_page(manifest: Manifest, table: pd.DataFrame, figures: list[Figure], folder: Path) -> None:
    """Write `index.html` beside the pictures that it shows."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    timed = table.dropna(subset=["ttft_user"]) if "ttft_user" in table.columns else table.iloc[:0]
    shown = readable(table) if not table.empty else table
    notes = sorted({note for note in table.get("no_accuracy", []) if note})
    page = environment.get_template("page.html").render(
        title=manifest.title,
        command=manifest.command,
        started=manifest.started,
        missing=len(manifest.keys) - len(table),
        provenance=provenance(timed) if not timed.empty else "nothing was measured",
        figures=figures,
        notes=notes,
        columns=list(shown.columns),
        rows=shown.to_numpy().tolist(),
        on_frontier=table["on_frontier"].tolist() if not table.empty else [],
        failures=table[table["status"] != "ok"].to_dict("records") if not table.empty else [],
    )
    (folder / "index.html").write_text(page)
