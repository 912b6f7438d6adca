"""Is this machine quiet enough to measure on? Looked at before the first block, without root."""

from __future__ import annotations

import hashlib
import math
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import psutil

from harness.machine import available_cores
from harness.schema import HarnessError, one_line
from harness.timing.telemetry.nvidia import find_gpu
from harness.timing.telemetry.process import busy_seconds

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


def look(device: str, threads: int, seconds: float = LOOK) -> Use:
    """Watch for so many seconds what others do with this machine; this process and its children do not count."""
    gpu = find_gpu(device)
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
    foreign = (busy_seconds(later, stolen=True) - busy_seconds(times, stolen=True)) / passed
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
