"""Can this clock be trusted, and what can this device do? Asked once in every process that measures.

The proof that a runtime waits for its device needs no knowledge of the device: known work is submitted, the runtime is
asked to wait, and then the work's result is fetched to the host. A runtime that waited has nothing left to do then; one
that did not spends the work's time in the fetch. And twice the work must take about twice the time.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from harness.runtimes import Device
from harness.schema import Ceilings, TimerTest

GOALS = (0.02, 0.02, 0.01, 0.005, 0.0025, 0.0025, 0.0025)
"""Seconds that the known work should take, test after test: long against every overhead, short against a measurement;
then short enough to be done before a busy machine takes the processor away."""
TRIES = 5


def check_timer(device: Device, clock: Callable[[], float] = time.perf_counter) -> TimerTest:
    """Time known work on `device`; the outcome names a fault if the runtime does not really wait.

    A fault must show in every test: a runtime that does not wait never passes, a busy machine fails now and then.
    """
    found = []
    for goal in GOALS:
        found.append(_test(device, clock, goal))
        if not found[-1].fault:
            return found[-1]
    return found[0]


def _test(device: Device, clock: Callable[[], float], goal: float) -> TimerTest:
    resolution = _resolution(clock)
    empty = statistics.median(_timed(lambda: None, device, clock) for _ in range(101))
    device.work(1)
    device.fetch()
    once = min(_chain(device, 1, clock)[2] for _ in range(3))
    repeats = max(1, round(goal / max(once, 1e-6)))
    # Single and double work take turns, and the least disturbed of several tries counts: others only add time.
    tries = [(*_chain(device, repeats, clock), _chain(device, 2 * repeats, clock)[1]) for _ in range(TRIES)]
    launch, awaited, whole, fetched, double = (min(values) for values in zip(*tries, strict=True))
    fault = ""
    if awaited < 0.8 * whole:
        fault = (
            f"the runtime does not wait for its device: it returned after {awaited * 1e3:.2f} ms, "
            f"the result was there after {whole * 1e3:.2f} ms"
        )
    elif not 1.5 < double / awaited < 2.7:
        fault = f"twice the work took {double / awaited:.2f} times as long: what is timed is not the work"
    elif not device.synchronous and launch > 0.5 * awaited:
        fault = (
            f"submitting took {launch / awaited:.0%} of the awaited time on a device that works by itself: "
            f"the host is what is timed"
        )
    return TimerTest(
        resolution=resolution,
        empty=empty,
        launch=launch,
        awaited=awaited,
        awaited_double=double,
        fetched_after=fetched,
        synchronous=device.synchronous,
        fault=fault,
    )


def measure_ceilings(device: Device, seconds: float = 0.5, clock: Callable[[], float] = time.perf_counter) -> Ceilings:
    """The best matrix product and the best copy within `seconds` for each, and of at least three."""

    def best(submit: Callable[[], int]) -> float:
        submit()
        device.wait()
        rates: list[float] = []
        start = clock()
        while len(rates) < 3 or clock() - start < seconds:
            begin = clock()
            amount = submit()
            device.wait()
            rates.append(amount / max(clock() - begin, 1e-9))
        return max(rates)

    return Ceilings(flops_per_second=best(device.matrix_product), bytes_per_second=best(device.copy))


def _timed(submit: Callable[[], None], device: Device, clock: Callable[[], float]) -> float:
    begin = clock()
    submit()
    device.wait()
    return clock() - begin


def _chain(device: Device, repeats: int, clock: Callable[[], float]) -> tuple[float, float, float, float]:
    """Seconds until the work was submitted, until it was awaited, until its result was there; and the last step."""
    device.wait()
    begin = clock()
    device.work(repeats)
    submitted = clock()
    device.wait()
    awaited = clock()
    device.fetch()
    there = clock()
    return submitted - begin, awaited - begin, there - begin, there - awaited


def _resolution(clock: Callable[[], float]) -> float:
    """The smallest step between two readings that differ."""
    steps = []
    for _ in range(20):
        begin = now = clock()
        for _ in range(100_000):
            now = clock()
            if now != begin:
                break
        steps.append(now - begin)
    return min(steps)
