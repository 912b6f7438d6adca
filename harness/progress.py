"""What a person sees while a sweep runs: a live line on a terminal, one line per point elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.status import Status

from harness.schema import Record
from harness.stats import accuracy, combined, median_interval


class Progress:
    """Lines about points that are being measured and that are done."""

    def __init__(self, total: int, console: Console | None = None):
        self.total = total
        self.console = console or Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self._left = ""
        # Two refreshes a second: the parent must not take time from what is measured.
        self._status = Status("", console=self.console, refresh_per_second=2) if self.console.is_terminal else None

    def __enter__(self) -> Self:
        if self._status and self.total:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status:
            self._status.stop()

    def doing(self, count: int, name: str, what: str) -> None:
        """A sign of life of the point under way."""
        if self._status:
            self._status.update(f"{count}/{self.total} {name}: {what}{self._left}")

    def done(self, count: int, record: Record, seconds_left: float) -> None:
        """A point's outcome, and about how long the rest will take."""
        self._left = f"  (about {readable(seconds_left)} left)" if count < self.total else ""
        width = len(str(self.total))
        line = f"[{count:>{width}}/{self.total}] {record.point.name:<44} {outcome(record)}{self._left}"
        self.console.print(line, markup=False)


def outcome(record: Record) -> str:
    """One record in a few words."""
    if record.latency is None:
        return f"{record.status}: {record.reason}"
    fused = median_interval(record.latency.seconds["ttft_fused"][record.latency.warmup :])
    text = f"TTFT {fused.value * 1e3:8.2f} ms"
    if not record.scores:
        return f"{text}  {record.no_accuracy}"
    parts = [accuracy([a.score for a in s.answers], [a.image for a in s.answers]) for s in record.scores]
    each = "  ".join(f"{s.suite} {part.mean:.3f}" for s, part in zip(record.scores, parts, strict=True))
    return f"{text}  accuracy {combined(parts).mean:.3f} ({each})"


def readable(seconds: float) -> str:
    """Seconds as a person says them."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
