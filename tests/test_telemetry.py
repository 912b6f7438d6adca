"""What the machine says while something is measured, and to which component it belongs."""

import os
import subprocess
import sys
import time

import pytest

from conftest import make_component
from harness.timing.bench import Bench, take_turns
from harness.timing.telemetry import Reading, Watch, linux, mark, sources
from harness.timing.telemetry.nvidia import Gpu
from harness.timing.workloads import PassSummary


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
        counted, before = watch.counters(), watch.read()
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            pass
        after, later = watch.read(), watch.counters()
    finally:
        for process in busy:
            process.kill()
            process.wait()
        watch.close()
    assert mark(before, after, 1.5, 1, 0.02).startswith("waited")
    grown = {name: later[name] - counted[name] for name in later}
    assert grown["foreign_seconds"] > 0.2 * 1.5
    assert grown["waited_seconds"] > 0.1


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


def test_what_a_system_does_not_tell_is_missing_never_zero():
    watch = Watch("cpu", 1)
    told = watch.telemetry(1.5, watch.counters(), watch.gauges(), watch.gauges(), set())
    assert not [name for name in (*told.counters, *told.gauges) if name.startswith("gpu")]
    assert told.share("stolen_seconds") is None or told.share("stolen_seconds") >= 0
    assert told.share("nonsense_seconds") is None
    assert told.seconds == 1.5
    watch.close()


def test_every_gauge_and_counter_has_a_meaning():
    meant = {name for source in sources().values() for name in source.MEANINGS}
    watch = Watch("cpu", 1)
    assert {*watch.counters(), *watch.gauges()} <= meant
    assert {"foreign_seconds", "load"} <= {*watch.counters(), *watch.gauges()}
    watch.close()


def test_energy_of_the_packages_is_counted_past_the_end_of_the_register(tmp_path, monkeypatch):
    package = tmp_path / "intel-rapl:0"
    package.mkdir()
    (package / "max_energy_range_uj").write_text("10000000\n")
    energy = package / "energy_uj"
    energy.write_text("9000000\n")
    monkeypatch.setattr(linux, "POWERCAP", tmp_path)
    source = linux.Source("cpu")
    assert source.counters()["package_joules"] == 0.0
    energy.write_text("500000\n")  # it began again at ten joules
    assert source.counters()["package_joules"] == pytest.approx(1.5)
    energy.unlink()
    assert "package_joules" not in source.counters()
    source.close()


def test_an_energy_belongs_to_the_component_in_whose_turns_it_was_spent(clock):
    """Two components take turns; one of them spends ten joules a pass, the other one."""
    spent = {"joules": 0.0}

    class Spending:
        cores, machine_cores = 1, 2

        def read(self, stolen=True):
            return Reading()

        def counters(self):
            return {"gpu_joules": spent["joules"]}

        def follow_threads(self):
            pass

    class Work:
        def __init__(self, joules):
            self.joules, self.number = joules, 0.0

        def run(self, number):
            self.number = number
            clock.advance(0.01)
            spent["joules"] += self.joules
            yield from ("preprocess", "transfer", "encode")

        def extra_stages(self):
            return iter(())

        def outputs(self):
            return PassSummary(1, 4, 0)

        def checksums(self):
            return [float(self.number)]

        def wait(self):
            pass

    benches = [Bench(Work(joules), make_component(), Spending(), clock=clock) for joules in (10.0, 1.0)]
    for bench in benches:
        bench.warm_up()
    take_turns([[bench] for bench in benches])
    assert [bench.grown["gpu_joules"] for bench in benches] == [60.0, 6.0]  # six counted passes each


def test_a_gpu_that_others_use_is_seen_and_one_that_does_not_say_is_unknown():
    class Rates:
        gpu = 87

    asked = Nvml()
    asked.nvmlDeviceGetUtilizationRates = lambda handle: Rates()
    assert Gpu(asked, 0).use() == 0.87
    assert Gpu(Nvml(), 0).use() is None
