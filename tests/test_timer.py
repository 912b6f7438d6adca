"""The timer's test against devices that keep or break the promise to wait."""

import threading
import time

import pytest

from harness.runtimes.torch import TorchDevice
from harness.timing.timer import check_timer, measure_ceilings


class Device:
    """A device that works by itself: `work` returns at once, the result is there `seconds` later for each repeat."""

    synchronous = False

    def __init__(self, clock, honest=True, launch=0.0, constant=False):
        self.clock, self.honest, self.launch, self.constant = clock, honest, launch, constant
        self.ready = 0.0

    def work(self, repeats):
        self.clock.advance(self.launch * repeats)
        self.ready = max(self.clock.now, self.ready) + 0.001 * (1 if self.constant else repeats)

    def wait(self):
        if self.honest:
            self.fetch()

    def fetch(self):
        self.clock.now = max(self.clock.now, self.ready)

    def matrix_product(self):
        self.clock.advance(0.25)
        return 10**9

    def copy(self):
        self.clock.advance(0.5)
        return 10**8


def test_a_device_that_is_awaited_passes(clock):
    found = check_timer(Device(clock), clock)
    assert found.fault == ""
    assert (found.launch, found.fetched_after, found.synchronous) == (0.0, 0.0, False)
    assert found.awaited == pytest.approx(0.020)
    assert found.awaited_double == pytest.approx(0.040)


def test_a_runtime_that_does_not_wait_is_refused(clock):
    found = check_timer(Device(clock, honest=False), clock)
    assert "does not wait for its device: it returned after 0.00 ms, the result was there after 20.00 ms" in found.fault


def test_time_that_does_not_grow_with_the_work_is_refused(clock):
    assert "twice the work took 1.00 times as long" in check_timer(Device(clock, constant=True), clock).fault


class Interrupted(Device):
    """Of a processor that is taken away for 160 ms from whoever works longer than 30."""

    def work(self, repeats):
        super().work(repeats)
        self.ready += 0.16 if repeats > 30 else 0.0


def test_a_busy_machine_is_asked_for_work_that_is_done_before_it_is_interrupted(clock):
    found = check_timer(Interrupted(clock), clock)
    assert found.fault == ""
    assert (found.awaited, found.awaited_double) == pytest.approx((0.010, 0.020))


def test_a_host_that_is_slower_than_its_device_is_refused(clock):
    found = check_timer(Device(clock, launch=0.004), clock)
    assert "the host is what is timed" in found.fault


def test_ceilings_are_rates_of_the_best_run(clock):
    found = measure_ceilings(Device(clock), clock=clock)
    assert (found.flops_per_second, found.bytes_per_second) == (4e9, 2e8)


class Background(TorchDevice):
    """A CPU runtime that hands work to a thread and never waits for it."""

    def __init__(self):
        super().__init__("cpu", "float32", 1)
        self.thread = None

    def work(self, repeats):
        self.fetch_thread()
        self.thread = threading.Thread(target=super().work, args=(repeats,))
        self.thread.start()

    def fetch_thread(self):
        if self.thread is not None:
            self.thread.join()

    def fetch(self):
        self.fetch_thread()
        super().fetch()


def test_a_real_runtime_that_does_not_wait_is_found_on_a_real_clock():
    assert "does not wait for its device" in check_timer(Background()).fault


def test_the_cpu_passes_on_a_real_clock():
    found = check_timer(TorchDevice("cpu", "float32", 1))
    assert found.fault == ""
    assert found.synchronous
    assert 0 < found.resolution < 1e-4
    assert found.fetched_after < 0.1 * found.awaited


def test_ceilings_of_this_machine_are_plausible():
    begin = time.monotonic()
    found = measure_ceilings(TorchDevice("cpu", "float32", 1), seconds=0.1)
    assert 1e9 < found.flops_per_second < 1e15
    assert 1e8 < found.bytes_per_second < 1e13
    assert time.monotonic() - begin < 60
