"""What a person sees while a sweep runs: one bar on a terminal; elsewhere one line per block and point, and one a
minute while a block goes on."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Column

from harness.analysis.composition import Result
from harness.analysis.table import row_of
from harness.stats import significant

MINUTE = 60.0
"""Seconds between two signs of life in a log."""
PRIOR = 0.05
"""The share of the work after which the pace so far says as much about the rest as the estimate does."""


class Progress:
    """Lines about what is being measured and what is done."""

    def __init__(self, seconds: float, console: Console | None = None):
        """`seconds` is how long it is expected to take."""
        self.console = console or Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self._expected, self._begin, self._done = seconds, time.monotonic(), 0.0
        self._said = self._begin
        self._bar: Bar | None = None
        if self.console.is_terminal:
            what = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, ratio=1))
            # Drawn with each sign of life: a thread that redraws would take time from what is measured.
            self._bar = Bar(
                BarColumn(24), TaskProgressColumn(), what, console=self.console, auto_refresh=False, expand=True
            )
            self._task = self._bar.add_task("", total=1.0)

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.remove_task(self._task)
            self._bar.stop()

    def doing(self, where: str, what: str) -> None:
        """A sign of life."""
        if self._bar:
            said = f"{self.left().strip()} {where}: {what}".strip()  # what is longer than the line loses its end
            self._bar.update(self._task, completed=self._done, description=said, refresh=True)
        elif time.monotonic() - self._said >= MINUTE:
            self.line(f"  {where}: {what}{self.left()}")

    def line(self, text: str) -> None:
        """Something is done."""
        self._said = time.monotonic()
        self.console.print(text, markup=False)

    def advance(self, share: float) -> None:
        """So much of the whole is done, 0 to 1; it never goes back, even where something is done again."""
        self._done = max(self._done, min(share, 1.0))

    def left(self) -> str:
        """About how long the rest will take: as expected at first, more and more by the pace so far.

        The estimate counts as much as the pace of `PRIOR` of the work would: on a machine that takes ten times as long
        as expected, five per cent of the work are enough to say more than half of it.
        """
        share = self._done
        if share >= 1:
            return ""
        spent = time.monotonic() - self._begin
        whole = (spent + PRIOR * self._expected) / (share + PRIOR)
        return f"  (about {readable((1 - share) * whole)} left)"


def outcome(result: Result) -> str:
    """One point in a few words."""
    if not result.timed:
        return f"{result.status}: {result.reason}"
    row = row_of(result)
    middle, low, high = (row[name] * 1e3 for name in ("ttft_model", "ttft_model_low", "ttft_model_high"))
    text = f"TTFT {significant(middle, low, high, result.disturbed):>22} ms" + ("  disturbed" * result.disturbed)
    each = "  ".join(f"{suite} {row[suite]:.3f}" for suite in result.evaluations if suite in row)
    failed = [
        f"{suite} failed: {evaluation.reason}"
        for suite, evaluation in result.evaluations.items()
        if evaluation.status != "ok"
    ]
    if "accuracy" in row:
        said = f"accuracy {row['accuracy']:.3f} ({each})"
    else:  # not the mean of fewer suites than were asked
        said = "  ".join(filter(None, [each, *failed])) or result.planned.no_accuracy
    return f"{text}  {said}"


def readable(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
