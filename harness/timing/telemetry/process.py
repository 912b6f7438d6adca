"""What the operating system tells of this process and of all others, on any system (psutil)."""

from __future__ import annotations

import os
from typing import Any

import psutil

from harness.timing import telemetry


class Source(telemetry.Source):
    """Load, clock, and what others used."""

    MEANINGS = {
        "load": "runnable processes before the batch, of the last minute",
        "frequency_hz": "mean frequency of the processors",
        "foreign_seconds": "processor time that other processes used",
        "switches_voluntary": "context switches of this process that it asked for",
        "switches_involuntary": "context switches of this process that it did not ask for",
    }

    def __init__(self, device: str):
        super().__init__(device)
        self._process = psutil.Process()

    def gauges(self) -> dict[str, float]:
        """Load and frequency."""
        found = {"load": os.getloadavg()[0]} if hasattr(os, "getloadavg") else {}
        try:
            clock = psutil.cpu_freq()
        except (OSError, NotImplementedError, RuntimeError):
            clock = None
        if clock and clock.current:
            found["frequency_hz"] = clock.current * 1e6
        return found

    def counters(self) -> dict[str, float]:
        """Others' processor time, and context switches."""
        used, switches = self._process.cpu_times(), self._process.num_ctx_switches()
        return {
            "foreign_seconds": busy_seconds(psutil.cpu_times()) - used.user - used.system,
            "switches_voluntary": float(switches.voluntary),
            "switches_involuntary": float(switches.involuntary),
        }


def busy_seconds(times: Any, stolen: bool = False) -> float:
    """Seconds in which the processors had work, of all of them together; time that a hypervisor took is told apart."""
    idle = times.idle + getattr(times, "iowait", 0.0) + (0.0 if stolen else getattr(times, "steal", 0.0))
    # Guests' time is part of user time; what is left is what processes of this system used.
    return float(sum(times) - idle - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0))
