"""What else the machine did: read beside the samples, so that a disturbed one can be told from a slow one; and looked
at before the first of them.

Everything here works without root. What a system does not tell is None, never zero. One reading between two passes
costs some microseconds (`benchmarks/bench_truth.py` prints the whole cost of the bench).
"""

from __future__ import annotations

import hashlib
import math
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from harness.machine import available_cores
from harness.schema import HarnessError, Telemetry, one_line

MOST_THREADS = 64
"""Of how many threads the waiting time is read, the busiest first; more would cost more than they tell."""

HARMLESS = 0x1 | 0x2 | 0x10 | 0x100
"""NVML's reasons for a lower clock that are no disturbance: idle, set by the user, sync boost, display."""


LOOK = 1.0
"""Seconds of a look at a machine that nothing is measured on yet."""
SPARE = 0.25
"""Processors that others may use of those that the threads want, or share of a GPU: what a desktop does by itself."""
TRIAL = 0.3
"""Seconds in which threads that only count try to get their processors."""
DENIED = 0.2
"""Share of the trial that they may be without one: threads start and end, and one of them may be moved."""
NAMED = 3
"""Processes that are named as the machine's users, the busiest first."""


class Disturbed(HarnessError):
    """Others use this machine: what is measured on it now is not to be trusted."""

    exit_code = 3


@dataclass(frozen=True)
class Use:
    """What others did with this machine during a look at it."""

    processors: float
    """How many processors they used on average, a hypervisor's other guests among them."""
    wanted: int
    """How many threads will want one."""
    cores: int
    """How many there are."""
    users: tuple[str, ...] = ()
    """The busiest processes, e.g. `ffmpeg (pid 71, ann) 98%`."""
    gpu: float | None = None
    """Share of the time in which the GPU had work; None without one, or where it does not say."""
    load: float | None = None
    """Runnable processes of the last minute: a hint, it stays high for minutes after a training has ended."""
    got: float = 1.0
    """Share of the wanted processors' time that our own threads got when they tried: a container's quota, and what
    others do under the same one, shows in no counter of the machine."""

    @property
    def busy(self) -> bool:
        """Whether what is measured now would have to share: others use processors that the threads want, or the
        GPU, or the threads did not get their processors."""
        shared = self.processors - max(0, self.cores - self.wanted) > SPARE or (self.gpu or 0.0) > SPARE
        return shared or self.got < 1 - DENIED

    def __str__(self) -> str:
        text = f"others use {self.processors:.1f} of {self.cores} processors"
        text += f", {self.wanted} threads get {self.got:.0%} of theirs" if self.got < 1 - DENIED else ""
        text += f" and the GPU {self.gpu:.0%} of the time" if self.gpu else ""
        text += f" (load {self.load:.1f})" if self.load is not None else ""
        return f"{text}: {', '.join(self.users)}" if self.users else f"{text}; which processes cannot be seen from here"


@dataclass(frozen=True)
class Reading:
    """Counters at one moment; the difference of two belongs to what happened in between."""

    waited: float | None = None
    """Seconds that this process' threads were ready and had no processor, so far."""
    stolen: float | None = None
    """Seconds of processor time that the hypervisor gave to others, so far."""
    throttle: str = ""
    """Why the GPU runs slower than it could, now."""


def mark(before: Reading, after: Reading, seconds: float, cores: int, share: float) -> str:
    """Why a pass of `seconds` between two readings is disturbed; empty if it is not.

    Waiting and stolen time count as a share of what the pass could have had: its seconds on each of `cores`.
    """
    if after.throttle:
        return f"throttled: {after.throttle}"
    for what in ("waited", "stolen"):
        early, late = getattr(before, what), getattr(after, what)
        if early is not None and late is not None and late - early > share * seconds * cores:
            return f"{what} {(late - early) / (seconds * cores):.0%}"
    return ""


class Watch:
    """Reads the counters of this process and its machine."""

    def __init__(self, device: str, threads: int):
        """`threads` is how many threads compute: the share of time lost is taken of as many processors."""
        self.device = device
        self.cores = threads if device == "cpu" else 1
        self.machine_cores = psutil.cpu_count() or 1
        self._tick = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
        self._stat = _open("/proc/stat")
        self._tasks: list[int] = []
        self._gpu = _gpu(device)

    def follow_threads(self) -> None:
        """Look for the threads that have worked by now: a pool of threads starts with its first work."""
        self.close(stat=False)
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

    def close(self, stat: bool = True) -> None:
        """Give the open files back."""
        for handle in self._tasks:
            os.close(handle)
        self._tasks = []
        if stat and self._stat is not None:
            os.close(self._stat)
            self._stat = None

    def read(self, stolen: bool = True) -> Reading:
        """The counters now. Stolen time is told in ticks of 10 ms: it says nothing about a short pass."""
        waited = taken = None
        if self._tasks:
            waited = 0.0
            for handle in self._tasks:
                try:
                    waited += int(os.pread(handle, 64, 0).split()[1]) / 1e9
                except (OSError, IndexError):  # a thread has ended
                    continue
        if stolen and self._stat is not None:
            fields = os.pread(self._stat, 256, 0).split(b"\n", 1)[0].split()
            taken = int(fields[8]) / self._tick if len(fields) > 8 else None
        return Reading(waited, taken, self._gpu.throttle() if self._gpu else "")

    def begin(self) -> dict[str, Any]:
        """The state before a measurement, for `end`."""
        return self._state()

    def end(self, before: dict[str, Any], throttles: set[str]) -> Telemetry:
        """What happened since `begin`; `throttles` are the reasons that single passes met."""
        after = self._state()

        def grown(name: str) -> float | None:
            early, late = before[name], after[name]
            return None if early is None or late is None else late - early

        seconds = after["clock"] - before["clock"]
        stolen, busy, own = grown("stolen"), grown("busy"), grown("own")
        available = seconds * self.machine_cores
        voluntary, involuntary = grown("voluntary"), grown("involuntary")
        return Telemetry(
            seconds=seconds,
            load=before["load"],
            frequency_hz=(before["frequency"], after["frequency"]),
            waited_seconds=grown("waited"),
            stolen=None if stolen is None else min(1.0, stolen / available),
            foreign=None if busy is None or own is None else min(1.0, max(0.0, (busy - own) / available)),
            switches_voluntary=None if voluntary is None else int(voluntary),
            switches_involuntary=None if involuntary is None else int(involuntary),
            thermal=(before["thermal"], after["thermal"]),
            gpu_clock_hz=(before["clock_hz"], after["clock_hz"]),
            gpu_throttle=tuple(sorted(throttles)),
            gpu_power_watts=(before["watts"], after["watts"]),
            gpu_joules=grown("joules"),
        )

    def _state(self) -> dict[str, Any]:
        reading = self.read()
        busy = _busy(psutil.cpu_times())
        process = psutil.Process()
        used, switches = process.cpu_times(), process.num_ctx_switches()
        return {
            "clock": time.perf_counter(),
            "waited": _waited(),
            "stolen": reading.stolen,
            "busy": busy,
            "own": used.user + used.system,
            "voluntary": switches.voluntary,
            "involuntary": switches.involuntary,
            "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
            "frequency": _frequency(),
            "thermal": _thermal(),
            "clock_hz": self._gpu.clock() if self._gpu else None,
            "watts": self._gpu.power() if self._gpu else None,
            "joules": self._gpu.energy() if self._gpu else None,
        }


def look(device: str, threads: int, seconds: float = LOOK) -> Use:
    """Watch for so many seconds what others do with this machine; this process and its children do not count."""
    gpu = _gpu(device)
    before, times = _processes(), psutil.cpu_times()
    begin = time.monotonic()
    shares: list[float] = []
    for _ in range(5):
        time.sleep(seconds / 5)
        shares += [share] if gpu and (share := gpu.use()) is not None else []
    passed = time.monotonic() - begin
    after, later = _processes(), psutil.cpu_times()
    ours = {process.pid for process in (psutil.Process(), *psutil.Process().children(recursive=True))}
    used = {pid: (spent - before.get(pid, 0.0)) / passed for pid, spent in after.items()}
    foreign = (_busy(later, stolen=True) - _busy(times, stolen=True)) / passed
    foreign -= math.fsum(share for pid, share in used.items() if pid in ours)
    busiest = sorted((pid for pid in used if pid not in ours), key=used.__getitem__, reverse=True)[:NAMED]
    named = (_named(pid, used[pid]) for pid in busiest if used[pid] > 0.05)
    wanted = threads if device == "cpu" else 1
    return Use(
        processors=max(0.0, foreign),
        wanted=wanted,
        cores=psutil.cpu_count() or 1,
        users=tuple(filter(None, named)),
        gpu=math.fsum(shares) / len(shares) if shares else None,
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        got=trial(min(wanted, available_cores())),
    )


def trial(threads: int, seconds: float = TRIAL) -> float:
    """Share of `seconds` that each of so many threads had a processor while all of them did nothing but count."""

    def count() -> float:
        begin, used = time.perf_counter(), time.thread_time()
        while (passed := time.perf_counter() - begin) < seconds:
            hashlib.pbkdf2_hmac("sha256", b"", b"", 2000)  # about a millisecond without Python's lock
        return (time.thread_time() - used) / passed

    with ThreadPoolExecutor(threads) as pool:
        return math.fsum(pool.map(lambda _: count(), range(threads))) / threads


def _processes() -> dict[int, float]:
    """Seconds of processor time of every process that can be seen, so far."""
    found = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            times = process.cpu_times()
            found[process.pid] = times.user + times.system
    return found


def _named(pid: int, share: float) -> str:
    """A process as a person looks for it; empty where it has ended."""
    try:
        process = psutil.Process(pid)
        name, user = process.name(), ""
        with suppress(psutil.Error, KeyError):  # a container does not know all users
            user = f", {process.username()}"
        return f"{one_line(name, 40)} (pid {pid}{one_line(user, 40)}) {share:.0%}"
    except psutil.Error:
        return ""


def _busy(times: Any, stolen: bool = False) -> float:
    """Seconds in which the processors had work, of all of them together; time that a hypervisor took is told apart."""
    idle = times.idle + getattr(times, "iowait", 0.0) + (0.0 if stolen else getattr(times, "steal", 0.0))
    # Guests' time is part of user time; what is left is what processes of this system used.
    return float(sum(times) - idle - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0))


class Gpu:
    """NVIDIA's management library (nvidia-ml-py); what a card does not tell is None."""

    def __init__(self, library: Any, index: int):
        self._nvml = library
        self._handle = library.nvmlDeviceGetHandleByIndex(index)

    def _ask(self, name: str, *arguments: Any) -> Any:
        try:
            return getattr(self._nvml, name)(self._handle, *arguments)
        except (self._nvml.NVMLError, AttributeError):
            return None

    def throttle(self) -> str:
        """Names of the reasons for a lower clock, without the harmless ones."""
        reasons = self._ask("nvmlDeviceGetCurrentClocksEventReasons")
        if reasons is None:
            reasons = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        active = (reasons or 0) & ~HARMLESS
        names = {0x4: "power cap", 0x8: "hardware slowdown", 0x20: "software thermal", 0x40: "hardware thermal"}
        names[0x80] = "power brake"
        return ", ".join(name for bit, name in names.items() if active & bit)

    def use(self) -> float | None:
        """Share of the last moments in which a kernel ran."""
        rates = self._ask("nvmlDeviceGetUtilizationRates")
        return None if rates is None else float(rates.gpu) / 100

    def clock(self) -> float | None:
        """SM clock in hertz."""
        megahertz = self._ask("nvmlDeviceGetClockInfo", getattr(self._nvml, "NVML_CLOCK_SM", 1))
        return None if megahertz is None else megahertz * 1e6

    def power(self) -> float | None:
        """Board power in watts."""
        milliwatts = self._ask("nvmlDeviceGetPowerUsage")
        return None if milliwatts is None else milliwatts / 1e3

    def energy(self) -> float | None:
        """Joules since the driver was loaded: a counter, unlike power, which many cards sample only now and then."""
        millijoules = self._ask("nvmlDeviceGetTotalEnergyConsumption")
        return None if millijoules is None else millijoules / 1e3


def _gpu(device: str) -> Gpu | None:
    if device != "cuda":
        return None
    try:
        import pynvml

        pynvml.nvmlInit()
        import torch

        # NVML counts all cards, torch those that CUDA_VISIBLE_DEVICES leaves: the UUID is the same for both.
        uuid = str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
        for index in range(pynvml.nvmlDeviceGetCount()):
            found = pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByIndex(index))
            if uuid in (found if isinstance(found, str) else found.decode()):
                return Gpu(pynvml, index)
    except Exception:  # no driver, no permission, an old library: telemetry is missing, the measurement goes on
        return None
    return None


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


def _frequency() -> float | None:
    try:
        found = psutil.cpu_freq()
    except (OSError, NotImplementedError, RuntimeError):
        return None
    return found.current * 1e6 if found and found.current else None


def _thermal() -> str:
    """macOS' thermal state (no root needed), or the hottest sensor that the system shows."""
    if sys.platform == "darwin":
        try:
            from Foundation import NSProcessInfo

            state = int(NSProcessInfo.processInfo().thermalState())
            return ("nominal", "fair", "serious", "critical")[state]
        except Exception:  # pyobjc is missing or the state is new: unknown
            return ""
    if not hasattr(psutil, "sensors_temperatures"):
        return ""
    hottest = [sensor.current for group in psutil.sensors_temperatures().values() for sensor in group if sensor.current]
    return f"{max(hottest):.0f} C" if hottest else ""
