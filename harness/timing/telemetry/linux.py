"""What Linux tells in /proc and /sys: time lost, temperature, the processor's energy."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

from harness.timing import telemetry

MOST_THREADS = 64
"""Of how many threads the waiting time is read, the busiest first; more would cost more than they tell."""
POWERCAP = Path("/sys/class/powercap")


class Source(telemetry.Source):
    """Waiting and stolen time, the hottest sensor, and joules of the packages where everybody may read them."""

    MEANINGS = {
        "waited_seconds": "time that this process' threads were ready to run and had no processor",
        "stolen_seconds": "processor time that a hypervisor gave to others",
        "celsius": "the hottest sensor",
        "package_joules": "energy of the processors' packages (RAPL), where the system lets everybody read it",
    }

    def __init__(self, device: str):
        super().__init__(device)
        self._stat = _open("/proc/stat")
        if self._stat is None:
            raise telemetry.Absent
        self._tick = os.sysconf("SC_CLK_TCK")
        self._tasks: list[int] = []
        packages = sorted(POWERCAP.glob("intel-rapl:?")) if POWERCAP.is_dir() else []
        self._packages = [(path, wrap) for path in packages if (wrap := _number(path / "max_energy_range_uj"))]
        self._joules = {path: 0.0 for path, _ in self._packages}
        self._last = {path: _number(path / "energy_uj") for path, _ in self._packages}

    def gauges(self) -> dict[str, float]:
        """The hottest sensor."""
        if not hasattr(psutil, "sensors_temperatures"):
            return {}
        groups = psutil.sensors_temperatures().values()
        hottest = [sensor.current for group in groups for sensor in group if sensor.current]
        return {"celsius": max(hottest)} if hottest else {}

    def counters(self) -> dict[str, float]:
        """Time lost by all threads, and energy."""
        found = {}
        if (waited := _waited()) is not None:
            found["waited_seconds"] = waited
        if (stolen := self._stolen()) is not None:
            found["stolen_seconds"] = stolen
        for path, wrap in self._packages:
            now, last = _number(path / "energy_uj"), self._last[path]
            if now is not None and last is not None:
                self._joules[path] += ((now - last) % wrap) / 1e6
                self._last[path] = now
                found["package_joules"] = sum(self._joules.values())
        return found

    def lost(self, stolen: bool) -> dict[str, float]:
        """The waiting time of the busiest threads; stolen time."""
        found = {}
        if self._tasks:
            waited = 0.0
            for handle in self._tasks:
                try:
                    waited += int(os.pread(handle, 64, 0).split()[1]) / 1e9
                except (OSError, IndexError):  # a thread has ended
                    continue
            found["waited"] = waited
        if stolen and (taken := self._stolen()) is not None:
            found["stolen"] = taken
        return found

    def _stolen(self) -> float | None:
        if self._stat is None:
            return None
        fields = os.pread(self._stat, 256, 0).split(b"\n", 1)[0].split()
        return int(fields[8]) / self._tick if len(fields) > 8 else None

    def follow_threads(self) -> None:
        """Read the threads that have worked by now."""
        self._close_tasks()
        tasks = Path("/proc/self/task")
        if not tasks.is_dir():
            return
        worked: list[tuple[int, int]] = []
        for task in tasks.iterdir():
            if (handle := _open(f"{task}/schedstat")) is not None:
                worked.append((int(os.pread(handle, 64, 0).split()[0]), handle))
        worked.sort(reverse=True)
        busiest = [handle for spent, handle in worked[:MOST_THREADS] if spent > 0.05 * worked[0][0]]
        for _, handle in worked:
            if handle not in busiest:
                os.close(handle)
        self._tasks = busiest

    def _close_tasks(self) -> None:
        for handle in self._tasks:
            os.close(handle)
        self._tasks = []

    def close(self) -> None:
        """Give the open files back."""
        self._close_tasks()
        if self._stat is not None:
            os.close(self._stat)
            self._stat = None


def _waited() -> float | None:
    """Seconds that all threads of this process have waited for a processor, so far."""
    total, told = 0.0, False
    for path in Path("/proc/self/task").glob("*/schedstat"):
        try:
            total += int(path.read_text().split()[1]) / 1e9
            told = True
        except (OSError, IndexError):  # a thread has ended
            continue
    return total if told else None


def _open(path: str) -> int | None:
    try:
        return os.open(path, os.O_RDONLY)
    except OSError:
        return None


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
