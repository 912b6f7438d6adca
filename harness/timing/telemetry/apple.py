"""macOS' thermal state, which needs no root (pyobjc)."""

from __future__ import annotations

import sys
from typing import Any

from harness.timing import telemetry


class Source(telemetry.Source):
    """How much the system slows down because of heat."""

    MEANINGS = {"thermal_level": "macOS' thermal state: 0 nominal, 1 fair, 2 serious, 3 critical"}

    def __init__(self, device: str):
        super().__init__(device)
        if sys.platform != "darwin":
            raise telemetry.Absent
        try:
            from Foundation import NSProcessInfo
        except ImportError as error:  # pyobjc is missing: unknown
            raise telemetry.Absent from error
        self._info: Any = NSProcessInfo.processInfo()

    def gauges(self) -> dict[str, float]:
        """The thermal state."""
        return {"thermal_level": float(self._info.thermalState())}
