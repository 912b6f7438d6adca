"""Planted failures: real components with a real fault in them, measured by a real session. None of them ends the
sweep, none of them yields a number."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial

import pytest
import torch

from conftest import ENCODER, MACHINE, make_component
from harness.progress import Progress
from harness.runtimes.torch_runtime import TorchDevice
from harness.schema import Measurement
from harness.storage import store
from harness.timing import measurer
from harness.timing.measurer import Measurer, build, measure_ceilings, share_of
from harness.timing.plan import Plan
from harness.timing.session import Session
from harness.timing.timer import check_timer
from harness.timing.worker import Outcome, Worker, attempt, work_off

FAULTS = {
    "out of memory": ("out_of_memory", "can't allocate memory"),
    "crash": ("crashed", "SIGSEGV"),
    "hang": ("timeout", "no sign of life for 4 s"),
    "nan": ("invalid_output", "the output is not finite"),
    "wrong token count": ("invalid_output", "3 visual tokens, expected 4"),
    "cached by content": ("cached", "a cache hides the work"),
    "cached by shape": ("cached", "two different inputs gave the same output"),
    "not run": ("invalid_output", "the encoder ran 0 times"),
    "does not wait": ("untrusted_timer", "does not wait for its device"),
}


class Unawaited(TorchDevice):
    """Hands its work to a thread and never waits for it."""

    thread = None

    def work(self, repeats):
        if self.thread:
            self.thread.join()
        self.thread = threading.Thread(target=super().work, args=(repeats,))
        self.thread.start()

    def fetch(self):
        self.thread.join()
        super().fetch()


class Skipped:
    """An encoder that returns what it returned once."""

    def __init__(self, kept):
        self.kept = kept

    def __call__(self, pixels):
        return self.kept

    def prepare(self, resolution):
        pass


def plant(workload, fault):
    """Put the fault into the encoder of `workload`."""
    honest, memory = workload.encoder.backbone.forward_features, {}

    def forward(pixels):
        if fault == "out of memory":
            torch.empty(10**15)
        if fault == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if fault == "hang":
            time.sleep(600)
        if fault == "nan":
            return honest(pixels) * float("nan")
        if fault == "wrong token count":
            return honest(pixels).flatten(2)[:, :, None, :3]
        key = pixels.shape if fault == "cached by shape" else pixels.numpy().tobytes()
        if fault.startswith("cached") and key in memory:
            return memory[key]
        memory[key] = honest(pixels)
        return memory[key]

    workload.encoder.backbone.forward_features = forward
    if fault == "not run":
        kept = honest(torch.zeros(1, 3, 128, 128)).flatten(2).transpose(1, 2)
        workload.encoder = Skipped(kept)
    return workload


def make_measurer():
    """A measurer that builds components with the fault that their encoder is named after."""
    measurer.build = lambda place, component, examples: plant(build(place, component, examples), component.encoder.name)
    measurer.measure_ceilings = partial(measure_ceilings, seconds=0.05)
    return Measurer()


def child(pipe):
    """The worker's main function."""
    work_off(pipe, make_measurer())


class Mixed(Worker):
    """A real worker for what ends a process or hangs; the rest, which only raises, is done here to save time."""

    def measure(self, units, seed, timeout, progress=lambda *_: None):
        names = [component.encoder.name for unit in units for component in unit]
        if len(names) > 2:  # the faults among them end the batch; a real one would take a process for nothing
            return Outcome("crashed", "somebody's fault")
        if {"crash", "hang", "fine"} & {*names}:
            return super().measure(units, seed, timeout if "hang" in names else 600, progress)
        measurer.TorchDevice = Unawaited if names == ["does not wait"] else TorchDevice
        asked = [[component.model_dump_json() for component in unit] for unit in units]
        done = attempt(make_measurer(), {"measure": asked, "seed": seed}, progress)
        return Outcome(done["status"], done["reason"], tuple(json.loads(done["results"])), "here")


@pytest.fixture(scope="module")
def measurements(tmp_path_factory):
    root = tmp_path_factory.mktemp("failures")
    names = ["fine", *FAULTS, "fine, too"]
    components = {
        name: make_component(encoder=ENCODER.model_copy(update={"name": name}), attention="") for name in names
    }
    plan = Plan(components=components, commands=dict.fromkeys(names, "command"), machines={"cpu": MACHINE})
    try:
        with Progress(1.0) as progress:
            session = Session(plan, root, 4, 0, progress)
            session.worker = Mixed(child)
            session.measure_all([names, names])
    finally:
        measurer.build, measurer.measure_ceilings = build, measure_ceilings
        measurer.check_timer = check_timer
        measurer.TorchDevice = TorchDevice
    return store.read_all(root, Measurement)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_failure_is_one_record_with_its_reason_and_no_number(measurements, fault):
    status, reason = FAULTS[fault]
    found = [v for v in measurements if v.component.encoder.name == fault]
    together, measurement = found  # it is not measured again in the second block
    assert (together.status, together.reason) == ("crashed", f"in turns with {len(FAULTS) + 1} more: somebody's fault")
    assert (measurement.status, measurement.block) == (status, 0)
    assert reason in measurement.reason
    assert measurement.samples is None
    assert measurement.ceilings is None
    assert "\n" not in measurement.reason


def test_the_timer_test_of_a_refused_runtime_is_in_its_record(measurements):
    *_, measurement = [v for v in measurements if v.component.encoder.name == "does not wait"]
    assert "does not wait" in measurement.timer.fault
    assert all(v.timer.fault == "" for v in measurements if v.status == "ok")


@pytest.mark.parametrize("name", ["fine", "fine, too"])
def test_what_has_no_fault_is_measured_in_every_block(measurements, name):
    together, *found = [v for v in measurements if v.component.encoder.name == name and v.attempt == 0]
    assert (together.status, together.block) == ("crashed", 0)
    assert [(v.status, v.block) for v in found] == [("ok", 0), ("ok", 1)]
    assert name != "fine" or found[0].process != found[1].process
    for measurement in found:
        assert len(measurement.samples.seconds["encode"]) == 7
        assert measurement.memory.peak >= measurement.memory.loaded > 1e7
        assert measurement.work["encode"].flops > 0
        assert measurement.telemetry.seconds > 0


def test_a_busy_process_beside_it_disturbs_a_measurement_and_is_named():
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 1))]
    rules = make_component().protocol.model_copy(update={"min_samples": 30, "max_samples": 30, "warmup_seconds": 0.3})
    component = make_component(resolution=512, visual_tokens=64, attention="", protocol=rules)
    measurer = Measurer()
    try:
        ((attempts,),) = measurer.measure([[component]], "0/0", lambda *_: None)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert len(attempts) == 2  # repeated once, within the bound, and then reported as it is
    last = attempts[-1]
    assert last["disturbed"]
    assert any("waited" in mark for mark in last["samples"].marks)
    assert last["telemetry"].foreign > 0.2


class Warm:
    """A bench that has been warmed up."""

    def __init__(self, busy, ahead):
        self.busy, self.ahead = busy, ahead


@pytest.mark.parametrize(
    ("spent", "benches", "count", "share"),
    [
        (30.0, [], 7, 0.0),  # nothing is known before the first component is warm
        (10.0, [Warm(1, 9)], 1, 10 / 19),
        (10.0, [Warm(1, 9), Warm(1, 29)], 4, 10 / (10 + 38 + 2 * 20)),  # two more that take as long on average
        (50.0, [Warm(10, 0)], 1, 1.0),
    ],
)
def test_the_share_of_a_batch_is_that_of_the_time_it_takes(spent, benches, count, share):
    assert share_of(spent, benches, count) == pytest.approx(share)
