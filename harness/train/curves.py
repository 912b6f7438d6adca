"""Loss curves: `python -m harness.train.curves FOLDER [FOLDER ...]` draws them and prints a table in Markdown.

A folder is a stage of the training cache, finished or not, or a trained VLM; its picture is written beside what it
holds.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from harness.configuration.command_line import answer
from harness.schema import HarnessError
from harness.storage.intake import read_json

PICTURE = "curves.png"
Row = dict[str, Any]


def draw_curves(log: Sequence[Row], path: Path) -> None:
    """A PNG with two panels for each stage of a log: the loss, and the shares of what is read or answered right."""
    from matplotlib.figure import Figure

    stages = list(dict.fromkeys(str(row["stage"]) for row in log))
    figure = Figure(figsize=(9, 2.6 * max(1, len(stages))), layout="constrained")
    axes = figure.subplots(max(1, len(stages)), 2, squeeze=False)
    for (left, right), stage in zip(axes, stages, strict=True):
        rows = [row for row in log if row["stage"] == stage]
        left.plot([row["step"] for row in rows], [row["loss"] for row in rows], linewidth=1)
        left.set(title=stage, xlabel="step", ylabel="loss", yscale="log")
        for name in shares_of(rows):
            points = [(row["step"], row[name]) for row in rows if name in row]
            mark = "o" if name.startswith("held_out") else ""
            right.plot(*zip(*points, strict=True), linewidth=1, marker=mark, markersize=3, label=name.replace("_", " "))
        right.set(xlabel="step", ylabel="share right", ylim=(0, 1))
        if shares_of(rows):
            right.legend(fontsize=6, loc="lower right")
    part = path.with_suffix(".part")
    figure.savefig(part, dpi=110, format="png")
    part.replace(path)


def shares_of(rows: Iterable[Row]) -> list[str]:
    """Names of the columns of a log that are shares of what is right."""
    return sorted({name for row in rows for name in row} - {"stage", "step", "seconds", "loss"})


def log_of(folder: Path) -> list[Row]:
    """The log of a stage, finished or not, or of a trained VLM; raises `HarnessError` where there is none."""
    states = sorted(folder.glob("state/step-????????/state.json"))
    for path in (folder / "training.json", folder / "weights.json", *states[-1:]):
        if path.is_file():
            content = read_json(path)
            if isinstance(content, dict) and isinstance(log := content.get("log"), list):
                return log
    raise HarnessError(f"{folder}: neither a stage of a training nor a trained VLM")


def table(log: Sequence[Row]) -> str:
    """The last row of each stage as a table in Markdown."""
    lines = ["| stage | steps | seconds | loss | right at the end |", "|---|---|---|---|---|"]
    last = {str(row["stage"]): row for row in log}
    for stage, row in last.items():
        shares = ", ".join(f"{name.replace('_', ' ')} {row[name]:.3f}" for name in shares_of([row]))
        lines.append(f"| {stage} | {row['step']:,} | {row['seconds']:,.0f} | {row['loss']:.3f} | {shares} |")
    return "\n".join(lines)


def run(arguments: Sequence[str]) -> int:
    """Draw the curves of every folder, print what they came to."""
    if not arguments:
        raise HarnessError("a folder is expected: python -m harness.train.curves FOLDER")
    log: list[Row] = []
    for folder in map(Path, arguments):
        rows = log_of(folder)
        draw_curves(rows, folder / PICTURE)
        log += rows
    print(table(log))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (0 good, 2 bad input, 130 interrupted)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    return answer(lambda: run(arguments), arguments, lambda: __doc__ or "", "nothing is lost")


if __name__ == "__main__":
    sys.exit(main())
