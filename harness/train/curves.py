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
"""Of a log: `stage`, `step`, `seconds`, `loss` and shares of what was right."""
Record = dict[str, Any]
"""Of a stage: `title`, `identity`, `log`, and where it is finished `samples` and `seconds`."""


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


def records_of(folder: Path) -> list[Record]:
    """What is known of the stages of a folder: a stage, finished or not, or a trained VLM with all of its stages.

    Raises `HarnessError` where there is none.
    """
    states = sorted(folder.glob("state/step-????????/state.json"))
    for path in (folder / "training.json", folder / "weights.json", *states[-1:]):
        content = read_json(path) if path.is_file() else None
        if isinstance(content, dict) and isinstance(content.get("log"), list):
            log = content["log"]
            stages = content.get("stages", [{key: content.get(key) for key in ("identity", "samples", "seconds")}])
            # Rows of a log name their stage and its subject, in the order of the stages.
            titles = list(dict.fromkeys(str(row["stage"]) for row in log))
            if len(titles) == len(stages):
                return [
                    {**stage, "title": title, "log": [row for row in log if row["stage"] == title]}
                    for stage, title in zip(stages, titles, strict=True)
                ]
    raise HarnessError(f"{folder}: neither a stage of a training nor a trained VLM of the reference family")


def table(records: Iterable[Record]) -> str:
    """Stages as a table in Markdown, one that several VLMs share only once."""
    lines = ["| stage | samples | seconds | loss | right at the end |", "|---|---|---|---|---|"]
    for record in {record["identity"]: record for record in records}.values():
        last = record["log"][-1]
        samples = f"{record['samples']:,}" if record.get("samples") else f"(step {last['step']:,})"
        shares = ", ".join(f"{name} {share:.3f}" for name, share in at_the_end(last).items())
        seconds = record.get("seconds") or last["seconds"]
        lines.append(f"| {record['title']} | {samples} | {seconds:,.0f} | {last['loss']:.3f} | {shares} |")
    return "\n".join(lines)


def at_the_end(row: Row) -> dict[str, float]:
    """What a last row says of held-out samples (of others where there are none), at the largest resolution."""
    names = [name for name in shares_of([row]) if name.startswith("held_out_")] or shares_of([row])
    largest = max((int(name.partition("@")[2]) for name in names if "@" in name), default=0)
    chosen = [name for name in names if "@" not in name or name.endswith(f"@{largest}")]
    return {name.removeprefix("held_out_").replace("_", " "): row[name] for name in chosen}


def run(arguments: Sequence[str]) -> int:
    """Draw the curves of every folder, print what they came to."""
    if not arguments:
        raise HarnessError("a folder is expected: python -m harness.train.curves FOLDER")
    records: list[Record] = []
    for folder in map(Path, arguments):
        found = records_of(folder)
        draw_curves([row for record in found for row in record["log"]], folder / PICTURE)
        records += found
    print(table(records))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (0 good, 2 bad input, 130 interrupted)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    return answer(lambda: run(arguments), arguments, lambda: __doc__ or "", "nothing is lost")


if __name__ == "__main__":
    sys.exit(main())
