"""What the child process does: visit a component, or ask one trained VLM one suite."""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psutil
import torch

from harness.answers import answer_suite
from harness.bench import Bench, interleave
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

SHARED = Memory(before=None, loaded=None, peak=None, source="unknown: several components shared the process")
"""Of components that were measured in turns."""

Progress = Callable[[str], None]


class UntrustedTimer(HarnessError):
    """The runtime does not wait for its device: nothing that it times is a number."""


class Measurer:
    """Visits components and asks suites; keeps the modules of the last ones, which the next ones often share."""

    def __init__(self) -> None:
        self._places: dict[tuple[str, str, int], tuple[TorchDevice, TimerTest, Ceilings]] = {}
        self._kept: dict[str, tuple[TorchSubject, int | None]] = {}
        self._vlm: tuple[str, Vlm] | None = None

    def visit(self, components: Sequence[Component], progress: Progress) -> Iterator[list[dict[str, Any]]]:
        """What a `Visit` of each component holds, once for each attempt; another one follows only a disturbed one.

        Several components are measured in turns: the sides of a comparison.
        """
        progress("loading")
        gc.freeze()  # what is imported need not be searched for garbage again
        known = []
        for component in components:
            place, timer, ceilings = self._place(component)
            known.append({"timer": timer, "ceilings": ceilings})
            if timer.fault:
                yield [{"timer": timer}] * len(components)
                raise UntrustedTimer(timer.fault)
        subjects = self._subjects(components)
        rules = components[0].protocol
        watch = Watch(components[0].device, components[0].threads)
        try:
            for _ in range(1 + rules.repeats):
                gc.collect()
                loaded = place.allocated()
                place.reset_peak()
                state = watch.begin()
                benches = [
                    Bench(subject, component, watch, lambda: progress("timing"))
                    for component, (subject, _) in zip(components, subjects, strict=True)
                ]
                with torch.inference_mode():
                    taken = interleave(benches)
                marks = {mark for samples in taken for mark in samples.marks if "throttled" in mark}
                telemetry = watch.end(state, {mark.removeprefix("throttled: ") for mark in marks})
                memory = _memory(place, subjects[0][1], loaded) if len(components) == 1 else SHARED
                disturbed = any(map(is_disturbed, taken, [telemetry] * len(taken), components))
                common = {"telemetry": telemetry, "memory": memory, "disturbed": disturbed}
                yield [one | {"samples": samples} | common for one, samples in zip(known, taken, strict=True)]
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

    def _subjects(self, components: Sequence[Component]) -> list[tuple[TorchSubject, int | None]]:
        """Each component's modules, built or kept, and the memory in use before they were built."""
        wanted = {modules_of(component): component for component in components}
        if len(wanted) < len(components):
            raise HarnessError("components that share their modules cannot be measured in turns")
        if not wanted.keys() <= self._kept.keys():  # free the last modules before the next ones are built
            self._kept = {same: kept for same, kept in self._kept.items() if same in wanted}
            gc.collect()
        for same, component in wanted.items():
            place, _, _ = self._place(component)
            if same in self._kept:
                self._kept[same][0].at(component)
            else:
                place.empty_cache()
                check_memory(component)
                before = place.allocated()
                self._kept[same] = (build(place, component, examples()), before)
        return [self._kept[same] for same in wanted]


def modules_of(component: Component) -> str:
    """Equal for components that share their modules: what resolution and token counts do not change."""
    return component.model_dump_json(exclude={"resolution", "visual_tokens", "text_tokens", "protocol"})


def is_disturbed(samples: Samples, telemetry: Telemetry, component: Component) -> bool:
    """Whether more passes are marked, or more of the visit's time was stolen, than the protocol allows."""
    rules, counted = component.protocol, samples.marks[samples.warmup :]
    stolen = component.device == "cpu" and (telemetry.stolen or 0.0) > rules.lost
    return stolen or sum(map(bool, counted)) > rules.disturbed * len(counted)


def _memory(place: TorchDevice, before: int | None, loaded: int | None) -> Memory:
    peak, source = place.peak()
    if peak is not None and loaded is not None:
        peak = max(peak, loaded)  # Linux counts pages in batches: its mark may be some pages behind
    return Memory(before=before, loaded=loaded, peak=peak, source=source)


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
