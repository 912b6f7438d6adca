"""What the child process does: visit one component, or ask one trained VLM one suite."""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import torch

from harness.answers import answer_suite
from harness.bench import Bench
from harness.models.vlm import Vlm
from harness.runtimes.torch_runtime import Example, TorchDevice, TorchSubject, build, load_trained
from harness.schema import Ceilings, Component, HarnessError, Memory, Point, Samples, Score, Suite, Telemetry, TimerTest
from harness.suites.embedded import load
from harness.telemetry import Watch
from harness.timer import check_timer, measure_ceilings

EXAMPLES = Suite(name="scene_text", title="", metric="vqa_accuracy", images=24)
"""Images and questions that a component is shown; 24 different images in turn."""
PAUSE = 0.5
"""Seconds between a disturbed visit and its repetition."""

Progress = Callable[[str], None]


class UntrustedTimer(HarnessError):
    """The runtime does not wait for its device: nothing that it times is a number."""


class Measurer:
    """Visits components and asks suites; keeps the modules of the last one, which the next one often shares."""

    def __init__(self) -> None:
        self._places: dict[tuple[str, str, int], tuple[TorchDevice, TimerTest, Ceilings]] = {}
        self._kept: tuple[str, TorchSubject, int | None] | None = None
        self._vlm: tuple[str, Vlm] | None = None

    def visit(self, component: Component, progress: Progress) -> Iterator[dict[str, Any]]:
        """What a `Visit` holds, once for each attempt; another one follows only a disturbed one."""
        progress("loading")
        gc.freeze()  # what is imported need not be searched for garbage again
        place, timer, ceilings = self._place(component)
        if timer.fault:
            yield {"timer": timer}
            raise UntrustedTimer(timer.fault)
        subject, before = self._subject(place, component)
        watch = Watch(component.device, component.threads)
        try:
            for _ in range(1 + component.protocol.repeats):
                gc.collect()
                loaded = place.allocated()
                place.reset_peak()
                state = watch.begin()
                with torch.inference_mode():
                    samples = Bench(subject, component, watch, lambda: progress("timing")).measure()
                telemetry = watch.end(state, {m.removeprefix("throttled: ") for m in samples.marks if "throttled" in m})
                peak, source = place.peak()
                if peak is not None and loaded is not None:
                    peak = max(peak, loaded)  # Linux counts pages in batches: the mark may be some pages behind
                memory = Memory(before=before, loaded=loaded, peak=peak, source=source)
                found = {"timer": timer, "ceilings": ceilings, "samples": samples}
                disturbed = is_disturbed(samples, telemetry, component)
                yield found | {"telemetry": telemetry, "memory": memory, "disturbed": disturbed}
                if not disturbed:
                    return
                time.sleep(PAUSE)
        finally:
            watch.close()

    def exam(self, point: Point, suite: Suite, progress: Progress) -> Score:
        """Ask the point's trained VLM every question of `suite`."""
        progress("loading")
        torch.set_num_threads(point.threads)
        torch.set_flush_denormal(True)
        same = point.model_dump_json(include={"weights", "checkpoint", "device", "dtype", "attention"})
        if self._vlm is None or self._vlm[0] != same:
            self._vlm = None
            self._vlm = (same, load_trained(point))
        vlm = self._vlm[1]
        vlm.encoder.prepare(point.resolution)
        return answer_suite(vlm, suite, point.resolution, lambda: progress(suite.name))

    def _place(self, component: Component) -> tuple[TorchDevice, TimerTest, Ceilings]:
        """The device, proven to be awaited, and what it can do; asked once in a process. It is warm afterwards."""
        asked = (component.device, component.dtype, component.threads)
        if asked not in self._places:
            place = TorchDevice(*asked)
            ceilings = measure_ceilings(place)  # first: a fresh process is slow until it has worked for a second
            timer = check_timer(place)
            place.release()
            self._places[asked] = (place, timer, ceilings)
        torch.set_num_threads(component.threads)
        return self._places[asked]

    def _subject(self, place: TorchDevice, component: Component) -> tuple[TorchSubject, int | None]:
        """The component's modules, built or kept, and the memory in use before they were built."""
        same = modules_of(component)
        if self._kept is not None and self._kept[0] == same:
            return self._kept[1].at(component), self._kept[2]
        self._kept = None  # free the last modules before the next ones are built
        gc.collect()
        place.empty_cache()
        check_memory(component)
        before = place.allocated()
        subject = build(place, component, examples())
        self._kept = (same, subject, before)
        return subject, before


def modules_of(component: Component) -> str:
    """Equal for components that share their modules: what resolution and token counts do not change."""
    return component.model_dump_json(exclude={"resolution", "visual_tokens", "text_tokens", "protocol"})


def is_disturbed(samples: Samples, telemetry: Telemetry, component: Component) -> bool:
    """Whether more passes are marked, or more of the visit's time was stolen, than the protocol allows."""
    rules, counted = component.protocol, samples.marks[samples.warmup :]
    stolen = component.device == "cpu" and (telemetry.stolen or 0.0) > rules.lost
    return stolen or sum(map(bool, counted)) > rules.disturbed * len(counted)


def examples() -> list[Example]:
    """Different images, each with one question."""
    first = {asked.image: asked for asked in reversed(load(EXAMPLES))}
    return [(asked.encoded, asked.question) for asked in itertools.islice(reversed(first.values()), EXAMPLES.images)]


def check_memory(component: Component) -> None:
    """Refuse modules whose weights alone exceed the memory that is free, before the system kills for it."""
    from harness.costs import parameters_of

    parameters = parameters_of(component)
    need = parameters * getattr(torch, component.dtype).itemsize
    free = torch.cuda.mem_get_info()[0] if component.device == "cuda" else psutil.virtual_memory().available
    if need > free:
        raise MemoryError(
            f"{parameters / 1e6:.0f} M parameters need {need / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free"
        )
