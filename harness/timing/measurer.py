"""What the child process does: measure components in turns, or ask one trained VLM one suite."""

from __future__ import annotations

import gc
import itertools
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from harness.evaluate.answers import answer_suite
from harness.models.answering import AnsweringModel
from harness.models.hub import folder_of_hub, parameters_of_hub
from harness.models.loading import load_point
from harness.runtimes import Device, Runtime, find
from harness.schema import (
    Attempt,
    Ceilings,
    Component,
    Execution,
    HandoverComponent,
    HubComponent,
    Memory,
    Point,
    Samples,
    Score,
    Suite,
    TimerTest,
)
from harness.suites.questions import examples
from harness.timing.bench import Bench, UntrustedTimer, rarely, take_turns
from harness.timing.telemetry import THROTTLED, Watch
from harness.timing.timer import check_timer, measure_ceilings
from harness.timing.workloads import Workload, build

PAUSE = 0.5
"""Seconds between a disturbed measurement and its repetition."""

Progress = Callable[..., None]
"""Is told what is done, and which share of the task that makes, from 0 to 1, where it is known; a sign of life."""


@dataclass
class Built:
    """A component's modules, and the memory that they took, in bytes."""

    workload: Workload[Any]
    before: int
    loaded: int


@dataclass
class Ready:
    """A runtime that may be timed: its device is proven to be awaited, and what it can do is known."""

    runtime: Runtime
    timer: TimerTest
    ceilings: Ceilings


Units = Sequence[Mapping[str, Component]]
"""What takes turns: each a component by its key, or the sides of a comparison."""


class Measurer:
    """Measures components and asks suites; keeps the modules of the last ones, which the next ones often share."""

    def __init__(self) -> None:
        self._ready: dict[Execution, Ready] = {}
        self._proven: dict[tuple[str, str, str, int], tuple[TimerTest, Ceilings]] = {}
        self._bases: dict[str, int] = {}
        self._built: dict[tuple[int, str], Built] = {}
        self._model: tuple[str, AnsweringModel] | None = None

    def measure(self, units: Units, seed: str, progress: Progress) -> dict[str, list[Attempt]]:
        """Attempts at each component, by key: another one follows a disturbed one. They take turns in an order that
        `seed` decides (see `bench.take_turns`); all have the same device and threads."""
        begin = time.perf_counter()
        progress("loading")
        if not self._ready:  # nothing was built yet: what is frozen is never freed
            gc.freeze()  # what is imported need not be searched for garbage again
        for component in (component for unit in units for component in unit.values()):
            sources = (component.source,) if isinstance(component, HandoverComponent) else ()
            for execution in (component.execution, *sources):
                if (ready := self._prepare(execution)).timer.fault:
                    raise UntrustedTimer(ready.timer)
        first = next(iter(units[0].values())).execution
        device = self._ready[first].runtime.device
        base = self._bases.setdefault(first.device, device.allocated())  # before the first module was built
        took = self._build(units, progress)
        watch = Watch(first.device, first.threads)
        rng = random.Random(seed)
        attempts: dict[str, list[Attempt]] = {key: [] for unit in units for key in unit}
        going = list(units)
        try:
            for number in itertools.count():
                if number:
                    time.sleep(PAUSE)
                say = partial(progress, "timing again" if number else "timing")
                for key, (component, side, found) in self._sample(going, watch, rng, say, base, begin).items():
                    ready, loading = self._ready[component.execution], took.pop((side, component.modules), None)
                    found["seconds"] = round(found["seconds"] + (loading or 0.0), 3)
                    found |= {"load_seconds": loading, "timer": ready.timer, "ceilings": ready.ceilings}
                    attempts[key].append(Attempt(**found))
                going = [
                    unit
                    for unit in going
                    if number < next(iter(unit.values())).protocol.repeats
                    and any(attempts[key][-1].disturbed for key in unit)
                ]
                if not going:
                    break
        finally:
            watch.close()
        return attempts

    def _sample(
        self,
        units: Units,
        watch: Watch,
        rng: random.Random,
        say: Callable[[float], None],
        base: int,
        begin: float,
    ) -> dict[str, tuple[Component, int, dict[str, Any]]]:
        """One attempt at each component of each unit, by key, with its side; `say` is told about once a second which
        share of the time since `begin` and of what is left has passed."""
        benches: list[list[tuple[str, int, Bench]]] = []
        memories: dict[str, Memory] = {}
        warm: list[Bench] = []
        count = sum(map(len, units))
        before, tick = watch.gauges(), rarely(lambda: say(share_of(time.perf_counter() - begin, warm, count)))
        with ExitStack() as sessions:
            for ready in self._ready.values():
                sessions.enter_context(ready.runtime.session())
            for unit in units:
                benches.append([])
                for side, (key, component) in enumerate(unit.items()):
                    built, ready = self._built[side, component.modules], self._ready[component.execution]
                    device = ready.runtime.device
                    bench = Bench(built.workload, component, watch, tick, enter=partial(self._enter, built, component))
                    gc.collect()
                    now = device.allocated()
                    device.reset_peak()
                    bench.warm_up()
                    memories[key] = self._memory(device, built, now, base)
                    benches[-1].append((key, side, bench))
                    warm.append(bench)
            take_turns([[bench for _, _, bench in unit] for unit in benches], rng.shuffle)
            found = [(key, side, bench, bench.samples()) for unit in benches for key, side, bench in unit]
        marks = {mark for _, _, _, samples in found for mark in samples.marks if mark.startswith(THROTTLED)}
        throttles, after = {mark.removeprefix(THROTTLED) for mark in marks}, watch.gauges()
        return {
            key: (
                bench.component,
                side,
                {
                    "samples": samples,
                    "seconds": bench.busy,
                    "telemetry": watch.telemetry(bench.turns, bench.grown, before, after, throttles),
                    "memory": memories[key],
                    "disturbed": is_disturbed(samples, bench.stolen, bench.component),
                },
            )
            for key, side, bench, samples in found
        }

    def _enter(self, built: Built, component: Component) -> None:
        """Make a workload this component's again, and the process' settings those of its execution."""
        self._ready[component.execution].runtime.enter()
        built.workload.at(component)

    def evaluate(self, point: Point, suite: Suite, progress: Progress, journal: Path | None = None) -> Score:
        """Ask the point's trained VLM every question of `suite` that the journal has no answer to."""
        progress("loading")
        find(point.language.runtime)(point.language)  # threads are a setting of the process
        same = point.model_dump_json(exclude={"suites": True, "protocol": True, "model": {"tokens"}})
        if self._model is None or self._model[0] != same:
            self._model = None  # freed before the next one is loaded
            self._model = (same, load_point(point))
        return answer_suite(self._model[1], suite, progress, journal)

    def _prepare(self, execution: Execution) -> Ready:
        """The runtime of an execution, its device proven to be awaited, and what it can do; asked once in a process for
        each device and precision. It is warm afterwards."""
        if execution not in self._ready:
            runtime = find(execution.runtime)(execution)
            where = execution.runtime, execution.device, execution.dtype, execution.threads
            if where not in self._proven:
                ceilings = measure_ceilings(runtime.device)  # first: a fresh process is slow until it worked a second
                self._proven[where] = check_timer(runtime.device), ceilings
                runtime.device.release()
            self._ready[execution] = Ready(runtime, *self._proven[where])
        self._ready[execution].runtime.enter()
        return self._ready[execution]

    def _build(self, units: Units, progress: Progress) -> dict[tuple[int, str], float]:
        """Build the modules that are not there yet, after those that are not wanted any more were freed; returns the
        seconds that each took. Units share them, the sides of one unit do not: they take turns pass by pass."""
        wanted = {(side, each.modules): each for unit in units for side, each in enumerate(unit.values())}
        self._built = {same: built for same, built in self._built.items() if same in wanted}
        gc.collect()
        for ready in self._ready.values():
            ready.runtime.device.empty_cache()
        took = {}
        for same, component in wanted.items():
            if same not in self._built:
                progress("loading")
                runtime = self._ready[component.execution].runtime
                runtime.enter()
                check_memory(component, runtime.device)
                before, begin = runtime.device.allocated(), time.perf_counter()
                workload = build(lambda execution: self._prepare(execution).runtime, component, examples())
                self._built[same] = Built(workload, before, runtime.device.allocated())
                took[same] = round(time.perf_counter() - begin, 6)
        return took

    def _memory(self, device: Device, built: Built, now: int, base: int) -> Memory:
        """Memory as if the component were alone in its process: what the others hold is subtracted."""
        peak, source = device.peak()
        loaded = base + built.loaded - built.before
        others = ", the modules of other components subtracted" if len(self._built) > 1 else ""
        work = None if peak is None else max(0, peak - now)  # Linux counts pages in batches: it may be some behind
        return Memory(before=base, loaded=loaded, peak=None if work is None else loaded + work, source=source + others)


def share_of(spent: float, benches: Sequence[Bench], count: int) -> float:
    """Which share of the time that `count` components take has passed after `spent` seconds; `benches` are those that
    are warm, the others will take as long as they do on average."""
    if not benches:
        return 0.0
    ahead = math.fsum(bench.ahead for bench in benches)
    each = (ahead + math.fsum(bench.busy for bench in benches)) / len(benches)
    return spent / max(spent + ahead + (count - len(benches)) * each, 1e-9)


def is_disturbed(samples: Samples, stolen: float | None, component: Component) -> bool:
    """Whether more passes are marked, or more of the component's turns was stolen, than the protocol allows."""
    rules, counted = component.protocol, samples.marks[samples.warmup :]
    lost = component.execution.device == "cpu" and (stolen or 0.0) > rules.lost
    return lost or sum(map(bool, counted)) > rules.disturbed * len(counted)


def check_memory(component: Component, device: Device) -> None:
    """Refuse modules whose weights alone exceed the memory that is free, before the system kills for it."""
    from harness.timing.costs import parameters_of

    if isinstance(component, HubComponent):
        parameters = parameters_of_hub(folder_of_hub(component.model.path, component.model.revision))
    else:
        parameters = parameters_of(component)
    need, free = parameters * component.execution.weight_bytes, device.free_bytes()
    if need > free:
        raise MemoryError(
            f"{parameters / 1e6:.0f} M parameters need {need / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free"
        )
