"""Every score with its evidence."""

from __future__ import annotations

import pandas as pd

from harness.report.cells import above, share, whole
from harness.report.content import Report
from harness.report.sections import Section

ORDER = 90


def section(report: Report) -> Section | None:
    """One folded table for each suite."""
    if report.scores.empty:
        return None
    note = (
        "Errors by image treat all questions about one image as one cluster; the design effect is the square of the "
        "ratio of the two errors. Intervals: Wilson's where scores are 0 or 1, Student's t otherwise, a cluster "
        "bootstrap for ratios. Unparsed answers count as wrong and are never guessed. **Protocol**: whose definition "
        "of the metric was used; without an @ it is the benchmark's own. **Guess**: the mean over possible answers. "
        "**Majority**: for each kind of question, the one answer that earns most on these very questions, an upper "
        "bound for constant answers. **Above blind**: the score minus that of the same model shown grey images, "
        "question by question, with an interval over images."
    )
    return Section("All scores", note, readable_scores(report.scores), folded_by="suite")


def readable_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """Scores as text: what they are, what they rest on, and whose definition they follow."""
    rows = []
    for _, row in scores.iterrows():
        failed = row["status"] != "ok"
        known = not failed and not pd.isna(row.get("value"))
        error = not failed and not pd.isna(row.get("stderr"))
        rows.append(
            {
                "point": row["point"],
                "suite": row["suite"],
                "part": "–" if failed else row["part"],
                "statistic": f"{row['status']}: {row['reason']}" if failed else row["what"].replace("_", " "),
                "value": f"{row['value']:.3f}" if known else "–",
                "95% interval": f"{row['low']:.3f}–{row['high']:.3f}" if known and not pd.isna(row["low"]) else "–",
                "guess": share(row, "guess"),
                "majority": share(row, "majority"),
                "blind": share(row, "blind"),
                "above blind": above(row),
                "questions": whole(row, "questions"),
                "images": whole(row, "images"),
                "unparsed": whole(row, "unparsed"),
                "error (by image)": f"{row['stderr']:.4f}" if error else "–",
                "error (naive)": f"{row['stderr_naive']:.4f}" if error else "–",
                "design effect": "–" if failed or pd.isna(row.get("design_effect")) else f"{row['design_effect']:.2f}",
                "protocol": "–" if failed else row["metric"] or "answers in submissions/",
            }
        )
    table = pd.DataFrame(rows)
    baselines = ["guess", "majority", "blind", "above blind"]
    return table.drop(columns=[name for name in baselines if rows and set(table[name]) <= {"–"}])
