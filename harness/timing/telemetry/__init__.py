"""What else the machine did: read beside the samples, so that a disturbed one can be told from a slow one.

One file for each source, all of which are asked; a package that is installed can offer more (see `harness.registry`). A
source's file holds a class `Source` that derives from the one here. Everything here works without root. What a system
does not tell is missing, never zero. One reading between two passes costs some microseconds
(`benchmarks/bench_truth.py` prints the whole cost of the bench).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import psutil

from harness import registry
from harness.schema import Telemetry

THROTTLED = "throttled: "
"""How a mark begins that says why the device was slow."""


@dataclass(frozen=True)
class Reading:
    """Counters at one moment; the difference of two belongs to what happened in between."""

    waited: float | None = None
    """Seconds that this process' threads were ready and had no processor, so far."""
    stolen: float | None = None
    """Seconds of processor time that the hypervisor gave to others, so far."""
    throttle: str = ""
    """Why the device runs slower than it could, now."""


def mark(before: Reading, after: Reading, seconds: float, cores: int, share: float) -> str:
    """Why a pass of `seconds` between two readings is disturbed; empty if it is not.

    Waiting and stolen time count as a share of what the pass could have had: its seconds on each of `cores`.
    """
    if after.throttle:
        return THROTTLED + after.throttle
    for what in ("waited", "stolen"):
        early, late = getattr(before, what), getattr(after, what)
        if early is not None and late is not None and late - early > share * seconds * cores:
            return f"{what} {(late - early) / (seconds * cores):.0%}"
    return ""


class Source:
    """Something that tells of the machine. Derive from it; each method may stay as it is."""

    MEANINGS: ClassVar[Mapping[str, str]] = {}
    """What each gauge and counter is; names end with their unit (`_seconds`, `_joules`, `_hz`, `celsius`, ...)."""

    def __init__(self, device: str):
        """`device` is what is measured; raises `Absent` where there is nothing to ask."""

    def gauges(self) -> dict[str, float]:
        """What can be read at any moment: a temperature, a clock."""
        return {}

    def counters(self) -> dict[str, float]:
        """What only grows: seconds, joules. Asked at both ends of each of a component's turns."""
        return {}

    def lost(self, stolen: bool) -> dict[str, float]:
        """`waited` and `stolen` of a `Reading`; asked between any two windows, so in microseconds. Stolen time only if
        it is asked for: it is told in ticks of 10 ms, which say nothing about a short pass."""
        return {}

    def throttle(self) -> str:
        """Why the device is slower than it could be, now; asked as often."""
        return ""

    def follow_threads(self) -> None:
        """Look for the threads that have worked by now."""

    def close(self) -> None:
        """Give open files back."""


class Absent(Exception):
    """There is nothing of the kind here."""


def sources() -> dict[str, type[Source]]:
    """Every source that there is, by its name, here or not."""
    folder = "timing.telemetry"
    return {name: registry.subclass(folder, name, Source) for name in registry.modules(folder)}


class Watch:
    """Asks all sources."""

    def __init__(self, device: str, threads: int):
        """`threads` is how many threads compute: the share of time lost is taken of as many processors."""
        self.cores = threads if device == "cpu" else 1
        self.machine_cores = psutil.cpu_count() or 1
        self.sources: list[Source] = []
        for source in sources().values():
            try:
                self.sources.append(source(device))
            except Absent:
                continue

    def follow_threads(self) -> None:
        """Look for the threads that have worked by now: a pool of threads starts with its first work."""
        for source in self.sources:
            source.follow_threads()

    def close(self) -> None:
        """Give open files back."""
        for source in self.sources:
            source.close()

    def read(self, stolen: bool = True) -> Reading:
        """The time lost, and why the device is slow, now."""
        lost: dict[str, float] = {}
        reasons = []
        for source in self.sources:
            lost |= source.lost(stolen)
            reasons.append(source.throttle())
        return Reading(lost.get("waited"), lost.get("stolen"), ", ".join(filter(None, reasons)))

    def gauges(self) -> dict[str, float]:
        """All gauges now."""
        return {name: value for source in self.sources for name, value in source.gauges().items()}

    def counters(self) -> dict[str, float]:
        """All counters so far."""
        return {name: value for source in self.sources for name, value in source.counters().items()}

    def telemetry(
        self,
        seconds: float,
        grown: Mapping[str, float],
        before: Mapping[str, float],
        after: Mapping[str, float],
        throttles: set[str],
    ) -> Telemetry:
        """What belongs to a component: by how much counters grew during its own turns of so many seconds, and gauges
        before and after all of them."""
        names = sorted(before.keys() | after.keys())
        return Telemetry(
            seconds=seconds,
            processors=self.machine_cores,
            counters=dict(grown),
            gauges={name: (before.get(name), after.get(name)) for name in names},
            throttles=tuple(sorted(throttles)),
        )
