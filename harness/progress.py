"""What a person sees while a sweep runs: a live line on a terminal; elsewhere one line per block and point, and one a
minute while a block goes on."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.status import Status

from harness.composition import Result
from harness.frame import row_of
from harness.report.tables import milliseconds

MINUTE = 60.0
"""Seconds between two signs of life in a log."""


class Progress:
    """Lines about what is being measured and what is done."""

    def __init__(self, seconds: float, console: Console | None = None):
        """`seconds` is how long it is expected to take."""
        self.console = console or Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self._expected, self._begin, self._done = seconds, time.monotonic(), 0.0
        # Two refreshes a second: the parent must not take time from what is measured.
        self._status = Status("", console=self.console, refresh_per_second=2) if self.console.is_terminal else None
        self._said = self._begin

    def __enter__(self) -> Self:
        if self._status:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status:
            self._status.stop()

    def doing(self, where: str, what: str) -> None:
        """A sign of life."""
        if self._status:
            self._status.update(f"{where}: {what}{self.left()}")
        elif time.monotonic() - self._said >= MINUTE:
            self.line(f"  {where}: {what}{self.left()}")

    def line(self, text: str) -> None:
        """Something is done."""
        self._said = time.monotonic()
        self.console.print(text, markup=False)

    def advance(self, share: float) -> None:
        """So much of the whole is done, 0 to 1."""
        self._done = share

    def left(self) -> str:
        """About how long the rest will take: as expected at first, more and more by the pace so far."""
        spent = time.monotonic() - self._begin
        share = self._done
        if share >= 1:
            return ""
        rest = (1 - share) * (self._expected if share == 0 else (1 - share) * self._expected + share * spent / share)
        return f"  (about {readable(rest)} left)"


def outcome(result: Result) -> str:
    """One point in a few words."""
    if not result.timed:
        return f"{result.status}: {result.reason}"
    import pandas as pd

    row = row_of(result)
    text = f"TTFT {milliseconds(pd.Series(row), 'ttft_model'):>26} ms" + ("  disturbed" if result.disturbed else "")
    each = "  ".join(f"{suite} {row[suite]:.3f}" for suite in result.exams if suite in row)
    failed = [f"{suite} failed: {exam.reason}" for suite, exam in result.exams.items() if exam.status != "ok"]
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
