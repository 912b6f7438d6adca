"""One measurement of one point: load its VLM, take the samples, answer the suites."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable
from functools import partial

import psutil
import torch

from harness.answers import answer_suite
from harness.bench import Example, measure
from harness.models.vlm import Vlm, VlmSpec
from harness.runtimes.torch_runtime import TorchRuntime
from harness.schema import Latency, Point, Score, Suite
from harness.suites.embedded import load

EXAMPLES = Suite(name="scene_text", title="", metric="vqa_accuracy", images=24)
"""Images and questions that the bench shows a VLM; 24 different images in turn."""


class Measurer:
    """Measures points; keeps the VLM of the last one, which the next one often shares."""

    def __init__(self) -> None:
        self._kept: tuple[str, TorchRuntime] | None = None

    def measure(self, point: Point, progress: Callable[[str], None]) -> tuple[Latency, tuple[Score, ...]]:
        """Samples first, with nothing else running, then answers; `progress` gets a sign of life now and then."""
        progress("loading")
        runtime = self._runtime(point)
        shown = examples()
        latency = measure(runtime, shown, point.visual_tokens, point.protocol, lambda: progress("timing"))
        scores = []
        for suite in point.suites:
            scores.append(answer_suite(runtime.vlm, suite, point.resolution, partial(progress, suite.name)))
        return latency, tuple(scores)

    def _runtime(self, point: Point) -> TorchRuntime:
        same = point.model_dump_json(exclude={"resolution", "suites", "protocol"})
        if self._kept is not None and self._kept[0] == same:
            return self._kept[1].at(point.resolution, point.protocol.text_tokens)
        self._kept = None  # free the last VLM before the next one is built
        gc.collect()
        if point.device == "cuda":
            torch.cuda.empty_cache()
        elif point.device == "mps":
            torch.mps.empty_cache()
        check_memory(point)
        runtime = TorchRuntime.load(point)
        self._kept = (same, runtime)
        return runtime


def examples() -> list[Example]:
    """Different images, each with one question."""
    first = {asked.image: asked for asked in reversed(load(EXAMPLES))}
    return [(asked.encoded, asked.question) for asked in itertools.islice(reversed(first.values()), EXAMPLES.images)]


def check_memory(point: Point) -> None:
    """Refuse a model whose weights alone exceed the memory that is free, before the system kills for it."""
    spec = VlmSpec(encoder=point.encoder, connector=point.connector, llm=point.llm, training_form=False)
    if not point.llm.config.get("vocab_size"):
        return  # the reference family fits everywhere
    parameters = sum(p.numel() for p in Vlm(spec, device="meta").parameters())
    need = parameters * getattr(torch, point.dtype).itemsize
    free = torch.cuda.mem_get_info()[0] if point.device == "cuda" else psutil.virtual_memory().available
    if need > free:
        raise MemoryError(
            f"{parameters / 1e6:.0f} M parameters need {need / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free"
        )
