"""What the child process does: measure components in turns, or ask one trained VLM one suite."""

from __future__ import annotations

import gc
import itertools
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch

from harness.evaluate.answers import answer_suite
from harness.models.answering import AnsweringModel
from harness.models.hub import folder_of_hub, parameters_of_hub
from harness.runtimes.torch_runtime import TorchDevice, TorchWorkload, build, load_point
from harness.schema import (
    Ceilings,
    Component,
    Memory,
    Point,
    Samples,
    Score,
    Suite,
    TimerTest,
    modules_of,
)
from harness.suites.questions import examples
from harness.timing.bench import Bench, UntrustedTimer, rarely, take_turns
from harness.timing.telemetry import Watch
from harness.timing.timer import check_timer, measure_ceilings

PAUSE = 0.5
"""Seconds between a disturbed measurement and its repetition."""

Progress = Callable[..., None]
"""Is told what is done, and which share of the task that makes, from 0 to 1, where it is known; a sign of life."""


@dataclass
class Built:
    """A component's modules, and the memory that they took, in bytes."""

    workload: TorchWorkload
    before: int
    loaded: int


class Measurer:
    """Measures components and asks suites; keeps the modules of the last ones, which the next ones often share."""

    def __init__(self) -> None:
        self._devices: dict[tuple[str, str, int], tuple[TorchDevice, TimerTest, Ceilings]] = {}
        self._bases: dict[str, int] = {}
        self._built: dict[tuple[int, str], Built] = {}
        self._model: tuple[str, AnsweringModel] | None = None

    def measure(
        self, units: Sequence[Sequence[Component]], seed: str, progress: Progress
    ) -> list[list[list[dict[str, Any]]]]:
        """What a `Measurement` holds of each component of each unit, once for each attempt: another one follows a
        disturbed one. They take turns in an order that `seed` decides (see `bench.take_turns`); all have the same
        device, dtype and threads."""
        begin = time.perf_counter()
        progress("loading")
        gc.freeze()  # what is imported need not be searched for garbage again
        components = [component for unit in units for component in unit]
        device, timer, ceilings = self._device(components[0])
        if timer.fault:
            raise UntrustedTimer(timer)
        base = self._bases.setdefault(components[0].device, device.allocated())  # before the first module was built
        took = self._build(device, units, progress)
        watch = Watch(components[0].device, components[0].threads)
        rng = random.Random(seed)
        attempts: list[list[list[dict[str, Any]]]] = [[[] for _ in unit] for unit in units]
        going = list(range(len(units)))
        try:
            for number in itertools.count():
                if number:
                    time.sleep(PAUSE)
                say = partial(progress, "timing again" if number else "timing")
                taken = self._sample(device, [units[n] for n in going], watch, rng, say, base, begin)
                for n, unit in zip(going, taken, strict=True):
                    for side, found in enumerate(unit):
                        same = side, modules_of(units[n][side])
                        found["seconds"] = round(found["seconds"] + took.pop(same, 0.0), 3)
                        attempts[n][side].append({"timer": timer, "ceilings": ceilings, **found})
                going = [
                    n
                    for n in going
                    if number < units[n][0].protocol.repeats and any(side[-1]["disturbed"] for side in attempts[n])
                ]
                if not going:
                    break
        finally:
            watch.close()
        return attempts

    def _sample(
        self,
        device: TorchDevice,
        units: Sequence[Sequence[Component]],
        watch: Watch,
        rng: random.Random,
        say: Callable[[float], None],
        base: int,
        begin: float,
    ) -> list[list[dict[str, Any]]]:
        """One attempt at each component of each unit; `say` is told about once a second which share of the time since
        `begin` and of what is left has passed."""
        benches: list[Bench] = []
        memories: dict[int, Memory] = {}
        count = sum(map(len, units))
        state, tick = watch.begin(), rarely(lambda: say(share_of(time.perf_counter() - begin, benches, count)))
        with torch.inference_mode():
            for side, component in (both for unit in units for both in enumerate(unit)):
                built = self._built[side, modules_of(component)]
                bench = Bench(built.workload, component, watch, tick, enter=partial(built.workload.at, component))
                gc.collect()
                now = device.allocated()
                device.reset_peak()
                bench.warm_up()
                memories[id(bench)] = self._memory(device, built, now, base)
                benches.append(bench)
            rest = iter(benches)
            sides = [[next(rest) for _ in unit] for unit in units]
            take_turns(sides, rng.shuffle)
            found = [[(bench, bench.samples()) for bench in unit] for unit in sides]
        throttles = {mark for unit in found for _, samples in unit for mark in samples.marks if "throttled" in mark}
        telemetry = watch.end(state, {mark.removeprefix("throttled: ") for mark in throttles})
        return [
            [
                {
                    "samples": samples,
                    "seconds": bench.busy,
                    "telemetry": telemetry.model_copy(update={"stolen": bench.stolen}),
                    "memory": memories[id(bench)],
                    "disturbed": is_disturbed(samples, bench.stolen, bench.component),
                }
                for bench, samples in unit
            ]
            for unit in found
        ]

    def evaluate(self, point: Point, suite: Suite, progress: Progress, journal: Path | None = None) -> Score:
        """Ask the point's trained VLM every question of `suite` that the journal has no answer to."""
        progress("loading")
        torch.set_num_threads(point.threads)
        torch.set_flush_denormal(True)
        same = point.model_dump_json(exclude={"suites", "protocol", "tokens"})
        if self._model is None or self._model[0] != same:
            self._model = None  # freed before the next one is loaded
            self._model = (same, load_point(point))
        return answer_suite(self._model[1], suite, progress, journal)

    def _device(self, component: Component) -> tuple[TorchDevice, TimerTest, Ceilings]:
        """The device, proven to be awaited, and what it can do; asked once in a process. It is warm afterwards."""
        asked = (component.device, component.dtype, component.threads)
        if asked not in self._devices:
            device = TorchDevice(*asked)
            ceilings = measure_ceilings(device)  # first: a fresh process is slow until it has worked for a second
            timer = check_timer(device)
            device.release()
            self._devices[asked] = (device, timer, ceilings)
        torch.set_num_threads(component.threads)
        return self._devices[asked]

    def _build(
        self, device: TorchDevice, units: Sequence[Sequence[Component]], progress: Progress
    ) -> dict[tuple[int, str], float]:
        """Build the modules that are not there yet, after those that are not wanted any more were freed; returns the
        seconds that each took. Units share them, the sides of one unit do not: they take turns pass by pass."""
        wanted = {(side, modules_of(component)): component for unit in units for side, component in enumerate(unit)}
        self._built = {same: built for same, built in self._built.items() if same in wanted}
        gc.collect()
        device.empty_cache()
        took = {}
        for same, component in wanted.items():
            if same not in self._built:
                progress("loading")
                begin = time.perf_counter()
                check_memory(component)
                before = device.allocated()
                workload = build(device, component, examples())
                self._built[same] = Built(workload, before, device.allocated())
                took[same] = time.perf_counter() - begin
        return took

    def _memory(self, device: TorchDevice, built: Built, now: int, base: int) -> Memory:
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
    lost = component.device == "cpu" and (stolen or 0.0) > rules.lost
    return lost or sum(map(bool, counted)) > rules.disturbed * len(counted)


def check_memory(component: Component) -> None:
    """Refuse modules whose weights alone exceed the memory that is free, before the system kills for it."""
    from harness.timing.costs import parameters_of

    if (published := component.published) is not None:
        parameters = parameters_of_hub(folder_of_hub(published.path, published.revision))
    else:
        parameters = parameters_of(component)
    need = parameters * getattr(torch, component.dtype).itemsize
    free = torch.cuda.mem_get_info()[0] if component.device == "cuda" else psutil.virtual_memory().available
    if need > free:
        raise MemoryError(
            f"{parameters / 1e6:.0f} M parameters need {need / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free"
        )
