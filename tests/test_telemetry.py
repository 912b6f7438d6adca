import os
import subprocess
import sys
import time

import pytest

from harness.telemetry import Gpu, Reading, Watch, mark


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (Reading(waited=1.0), Reading(waited=1.03), "waited 3%"),
        (Reading(waited=1.0), Reading(waited=1.01), ""),
        (Reading(stolen=1.0), Reading(stolen=1.1), "stolen 10%"),
        (Reading(), Reading(waited=9.0), ""),
        (Reading(stolen=1.0), Reading(), ""),
        (Reading(), Reading(throttle="power cap"), "throttled: power cap"),
    ],
)
def test_a_pass_is_marked_by_what_it_lost(before, after, said):
    assert mark(before, after, seconds=0.5, cores=2, share=0.02) == said


@pytest.mark.skipif(not os.path.exists("/proc/self/schedstat"), reason="the system does not tell")  # noqa: PTH110
def test_waiting_for_a_processor_is_seen():
    """Twice as many busy processes as processors: this one waits about half of the time."""
    watch = Watch("cpu", 1)
    end = time.monotonic() + 0.2
    while time.monotonic() < end:
        pass
    watch.follow_threads()
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        state, before = watch.begin(), watch.read()
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            pass
        after = watch.read()
        telemetry = watch.end(state, set())
    finally:
        for process in busy:
            process.kill()
            process.wait()
        watch.close()
    assert mark(before, after, 1.5, 1, 0.02).startswith("waited")
    assert telemetry.foreign > 0.2
    assert telemetry.waited_seconds > 0.1


class Nvml:
    """NVIDIA's library with a card that is too hot and cannot tell its energy."""

    class NVMLError(Exception):
        pass

    NVML_CLOCK_SM = 1

    def nvmlDeviceGetHandleByIndex(self, index):
        return f"card {index}"

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle):
        return 0x1 | 0x40

    def nvmlDeviceGetClockInfo(self, handle, kind):
        return 1410

    def nvmlDeviceGetPowerUsage(self, handle):
        return 250_500

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        raise self.NVMLError


def test_a_gpu_says_why_it_is_slow_and_what_it_cannot_tell_is_none():
    gpu = Gpu(Nvml(), 0)
    assert gpu.throttle() == "hardware thermal"
    assert (gpu.clock(), gpu.power(), gpu.energy()) == (1.41e9, 250.5, None)


def test_what_a_system_does_not_tell_is_none_never_zero():
    watch = Watch("cpu", 1)
    telemetry = watch.end(watch.begin(), set())
    assert (telemetry.gpu_joules, telemetry.gpu_power_watts, telemetry.gpu_clock_hz) == (
        None,
        (None, None),
        (None, None),
    )
    assert telemetry.seconds > 0
    watch.close()
