"""MMBench: an Excel table as LLaVA's `convert_mmbench_for_submission.py` writes it, for MMBench's server."""

from __future__ import annotations

from pathlib import Path

from harness.schema import Answer, HarnessError
from harness.suites.submissions import number

ENDING = "xlsx"


def write(answers: tuple[Answer, ...], model: str, path: Path) -> None:
    """One row for each answer; the format does not name the model."""
    rows = []
    for answer in answers:
        facts = dict(answer.facts)
        rest: dict[str, object] = {name: facts.pop(name) for name in ("answer", "split") if name in facts}
        row: dict[str, object] = {"index": number(answer), **facts, "prediction": answer.text, **rest}
        rows.append({name: _cell(value) for name, value in row.items()})
    import pandas as pd  # its import is a quarter of a second of every measuring process

    try:
        with pd.ExcelWriter(path, engine="openpyxl") as writer:
            pd.DataFrame(rows).to_excel(writer, index=False)
            for cells in writer.sheets["Sheet1"].iter_rows():
                for cell in cells:
                    if cell.data_type == "f":  # an answer that begins with = is not a formula
                        cell.data_type = "s"
    except ImportError as error:
        raise HarnessError('MMBench wants an Excel table: pip install "vlm-harness[submissions]"') from error


def _cell(value: object) -> object:
    """A value as a workbook can hold it: no control characters except tabs and ends of lines."""
    return "".join(c for c in value if c >= " " or c in "\t\n\r") if isinstance(value, str) else value
