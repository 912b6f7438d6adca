"""What every column of `table.csv` means, with its unit; `python -m harness.analysis.columns` prints `docs/columns.md`.

A name in braces stands for several: `{time}` for a stage or a time to first token, `{stage}` for a main stage,
`{ttft}` for a time to first token, `{suite}` for a suite or `accuracy`, their mean.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from harness.analysis.table import SHARES, TIMES, telemetry_meanings
from harness.schema import MAIN_STAGES, TTFTS

STAGE_NAMES = tuple(dict.fromkeys(stage for _, stage in MAIN_STAGES))


@dataclass(frozen=True)
class Column:
    """One column, or several of one kind."""

    name: str
    unit: str
    """s, B, px, ...; empty for text and for what has none."""
    meaning: str

    def covers(self, name: str, suites: Iterable[str]) -> bool:
        """Whether a column of a table with these suites is this one."""
        return re.fullmatch(_pattern(self.name, tuple(suites)), name) is not None


@cache
def _pattern(name: str, suites: tuple[str, ...]) -> str:
    stands = {"time": TIMES, "stage": STAGE_NAMES, "ttft": tuple(TTFTS), "suite": (*suites, "accuracy")}
    for what, names in stands.items():
        name = name.replace(f"{{{what}}}", f"(?:{'|'.join(map(re.escape, names))})")
    return name.replace("{P}", f"(?:{'|'.join(f'{100 * share:.0f}' for share in SHARES)})")


UNITS = {"_seconds": "share", "_joules": "J", "_hz": "Hz", "_watts": "W", "celsius": "°C"}
"""By the end of the name of a gauge or counter."""


def _machine() -> tuple[Column, ...]:
    """What the sources of telemetry tell (see `harness.timing.telemetry`), theirs of installed packages too."""
    found = []
    for name, meaning in telemetry_meanings().items():
        unit = next((unit for end, unit in UNITS.items() if name.endswith(end)), "")
        if name.endswith("_seconds"):
            meaning += "; of all processors' time, mean over the measurements of the point's components"
        elif name.endswith("_joules") or name.startswith("switches_"):
            meaning += ", during the components' own turns, in all blocks"
        else:
            hot = name.endswith(("celsius", "_level"))
            meaning += f"; {'highest' if hot else 'median'} over the measurements"
        found.append(Column(name.removesuffix("_seconds"), unit, meaning))
    return tuple(sorted(found, key=lambda column: column.name))


GROUPS: dict[str, tuple[Column, ...]] = {
    "The point": (
        Column("system", "", "a system of the literature, by its name here"),
        Column("system_title", "", "its published name; empty where something in it was changed"),
        Column("model", "", "a hub model, by its name here"),
        Column("encoder", "", "the (first) vision encoder; missing for a hub model"),
        Column(
            "encoder_title",
            "",
            "the same for a person, with tiles, connector, and whatever else distinguishes the points",
        ),
        Column("towers", "", "all encoders that see the image"),
        Column("parts", "", "all parts in one line"),
        Column("llm", "", "the LLM; empty for a hub model"),
        Column("llm_title", "", "the same for a person"),
        Column("stride", "px", "input pixels along one side of a visual token of the encoder"),
        Column("resolution", "px", "side of the square that the encoder sees; of a hub model its processor's"),
        Column("tiles", "", "squares that an image is cut into (AnyRes)"),
        Column("input_px", "px", "side of the whole input, that of the grid of tiles"),
        Column("visual_tokens", "tokens", "what the LLM gets of an image"),
        Column("sequence_tokens", "tokens", "visual tokens in the LLM's sequence; 0 where text only attends to them"),
        Column("text_tokens", "tokens", "of the prompt without its image"),
        Column("weights", "", "fingerprint of the weights, or random"),
    ),
    "How it was measured": (
        Column("status", "", "ok, or how it failed"),
        Column("reason", "", "why it failed"),
        Column("machine", "", "fingerprint of hardware and libraries"),
        Column("device", "", "cpu, cuda or mps"),
        Column("device_name", "", "the processor's or GPU's name"),
        Column("encoder_runtime", "", "what runs the encoder"),
        Column("llm_runtime", "", "what runs connector and LLM"),
        Column("dtype", "", "precision of weights and activations"),
        Column("threads", "", "torch's threads on the CPU"),
        Column("attention", "", "attention implementation of the LLM"),
        Column("date", "", "day of the newest record"),
        Column("protocol", "", "blocks, warm-up, passes and stopping rule"),
        Column("no_accuracy", "", "why no suite was asked"),
        Column("commit", "", "of this project, when it was measured"),
        Column("command", "", "measures this point again"),
        Column("source", "", "how the times were found: composed, checked directly, measured as a whole, extrapolated"),
        Column("extrapolated", "", "whether the prefill was extended from fewer layers"),
        Column("blocks", "", "fresh processes that the times rest on"),
        Column("disturbed_blocks", "", "of all blocks, those that hold a disturbed measurement"),
        Column("disturbed", "", "whether the times rest on disturbed blocks"),
        Column("marked", "share", "of the counted passes that were marked as disturbed"),
    ),
    "Time": (
        Column("{time}", "s", "median over blocks of a stage or a sum of stages"),
        Column("{time}_low", "s", "lower end of its 95% interval"),
        Column("{time}_high", "s", "upper end of its 95% interval"),
        Column("{time}_source", "", "measured, composed, extrapolated or published"),
        Column("{stage}_samples", "passes", "counted passes in all blocks"),
        Column("{stage}_effective_samples", "passes", "how many independent ones they are worth"),
        Column("{stage}_lag1", "", "mean autocorrelation of one pass and the next"),
        Column("{stage}_p{P}", "s", "percentile over all passes; missing where there are too few to know it"),
        Column("ttft_fused_p{P}", "s", "percentile of the fused pass"),
        Column(
            "{stage}_cold",
            "s",
            "the component's first pass in its process, median over blocks",
        ),
        Column("{stage}_load", "s", "building the component's modules, median over blocks; missing: they were shared"),
        Column("{stage}_overhead", "s", "what the bench itself took for each pass, outside of what it timed"),
        Column("residual_{ttft}", "share", "composed over directly measured, minus 1"),
        Column("residual_{ttft}_(?:low|high)", "share", "95% interval of that"),
        Column("direct_{ttft}", "s", "the same time, of the whole VLM measured directly"),
        Column("overlap", "s", "what waiting between stages costs: sum of the stages minus the fused pass"),
        Column("overlap_(?:low|high)", "s", "95% interval of that"),
        Column("bend", "share", "how far the middle depth is off the line between the others (extrapolation)"),
        Column("bend_(?:low|high)", "share", "95% interval of that"),
    ),
    "Work and limits": (
        Column("{stage}_flops", "FLOP", "floating-point operations of the stage, counted"),
        Column("{stage}_bytes", "B", "weights, inputs and outputs that must be moved"),
        Column("{stage}_parameters", "", "weights that the stage uses"),
        Column("{stage}_floor", "s", "least time that the operations or the bytes take on this device"),
        Column("{stage}_eager_floor", "s", "the same if every operation writes its result to memory"),
        Column("{stage}_bound", "", "which of the two decides: compute or memory"),
        Column("{stage}_efficiency", "share", "floor over measured time"),
        Column("{stage}_efficiency_(?:low|high)", "share", "95% interval of that"),
        Column("ceiling_flops_per_second", "FLOP/s", "what a matrix product reached in the same processes"),
        Column("ceiling_bytes_per_second", "B/s", "what a copy reached in the same processes"),
        Column("peak_bytes", "B", "most memory of the whole VLM"),
        Column("peak_source", "", "where that number comes from"),
    ),
    "The machine meanwhile": _machine(),
    "Accuracy": (
        Column("{suite}", "share", "score by the suite's metric; `accuracy`: mean of all suites"),
        Column("{suite}_source", "", "measured or published"),
        Column("{suite}_stderr", "share", "standard error, questions of an image together"),
        Column("{suite}_low", "share", "lower end of the 95% interval"),
        Column("{suite}_high", "share", "upper end of the 95% interval"),
        Column("{suite}_questions", "", "how many were asked"),
        Column("{suite}_images", "", "number of distinct images"),
        Column("{suite}_stderr_naive", "share", "standard error if all questions were independent"),
        Column("{suite}_design_effect", "", "variance over the naive one"),
        Column("{suite}_unparsed", "", "answers in which no answer was found"),
        Column("{suite}_metric", "", "metric and protocol"),
        Column("{suite}_guess", "share", "what guessing among a kind's answers scores"),
        Column("{suite}_majority", "share", "what the best constant answer for each kind of question scores"),
        Column("{suite}_majority_answer", "", "those answers"),
        Column("{suite}_blind", "share", "the same model, shown grey images"),
        Column("{suite}_above_blind", "share", "score minus blind score, paired by image"),
        Column("{suite}_above_blind_(?:low|high)", "share", "95% interval of that"),
        Column("{suite}_above_blind_stderr", "share", "standard error of that"),
        Column("{suite}_blind_like", "", "whether that interval reaches down to 0"),
        Column("published_.+", "share", "a score that a paper printed"),
        Column("on_frontier", "", "whether no other point of the machine is faster and more accurate"),
    ),
}


def find(name: str, suites: Iterable[str] = ()) -> Column | None:
    """The column of that name in a table with these suites; None for one that is not listed."""
    listed = [column for columns in GROUPS.values() for column in columns]
    exact = next((column for column in listed if column.name == name), None)
    return exact or next((column for column in listed if column.covers(name, suites)), None)


def markdown() -> str:
    """All columns as `docs/columns.md`."""
    lines = [
        "# Columns of a report's table.csv",
        "",
        "One row is a point. What is unknown is missing, never zero. Times are in seconds, sizes in bytes.",
        "",
        "{time} is one of " + ", ".join(f"`{name}`" for name in TIMES) + ";",
        "{stage} one of " + ", ".join(f"`{name}`" for name in STAGE_NAMES) + ";",
        "{ttft} one of " + ", ".join(f"`{name}`" for name in TTFTS) + ";",
        "{suite} a suite, or `accuracy`, the mean of all.",
    ]
    for title, columns in GROUPS.items():
        lines += ["", f"## {title}", "", "| column | unit | meaning |", "|---|---|---|"]
        for column in columns:
            shown = column.name.replace("(?:low|high)", "low, _high").replace("published_.+", "published_{suite}")
            shown = shown.replace("_p{P}", "_p90, _p95, _p99")
            lines.append(f"| {shown} | {column.unit} | {column.meaning} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(markdown())
