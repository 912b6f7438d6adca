"""The bench: one point -> samples of every stage. Whatever is called a latency was read from its clock.

A *staged* pass waits for the device after every stage, so each stage has a time of its own. A *fused* pass waits once,
at the end, and is what a user meets. They take turns, a different image each time, and their difference is kept:
waiting between stages costs something, and overlap between stages saves something.

| stage | covers |
|---|---|
| `preprocess` | encoded bytes -> pixel tensor: decode, pad, resize, normalise |
| `tokenize` | prompt template and text -> ids |
| `transfer` | pixels and ids to the device |
| `encode` | vision tower forward |
| `project` | connector forward |
| `prefill` | LLM forward over visual and text tokens, KV cache written, logits of the last position |
| `sample` | first token's id on the host |
| `prefill_visual` | prefill over the visual tokens alone, measured right after the pass it belongs to |
| `ttft_fused` | `preprocess` to `sample` without waiting in between |
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, Protocol

from harness.schema import STAGES, TTFTS, HarnessError, Latency
from harness.schema import Protocol as Rules
from harness.stats import median_interval, sum_passes

FEWEST = 6
"""Samples that even a slow point gets: with fewer the median has no 95% interval."""

Example = tuple[bytes, str]
"""An encoded image and a question about it."""


class InvalidOutput(HarnessError):
    """The pass ran, but what came out is not what the point promises: no number may come of it."""


class Runtime(Protocol):
    """What the bench needs of a runtime (see `harness.runtimes.torch_runtime`)."""

    outputs: Any

    def run(self, encoded: bytes, question: str) -> Iterator[str]:
        """One pass; yields each stage's name when its work is submitted."""

    def prefill_visual(self) -> Iterator[str]:
        """Prefill over the last pass's visual tokens."""

    def wait(self) -> None:
        """Return when the device is done."""

    def reset_peak(self) -> None:
        """Start a new peak of memory."""

    def peak(self) -> tuple[int | None, str]:
        """Largest memory since then, and what the number is."""


def measure(
    runtime: Runtime,
    examples: Sequence[Example],
    visual_tokens: int,
    rules: Rules,
    tick: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Latency:
    """Take samples until the median of the staged and of the fused TTFT are known well enough.

    `tick` is called before each pass, outside of what is timed: a sign of life.
    Raises `InvalidOutput` when a pass gives the wrong number of visual tokens or logits that are not finite.
    """
    seconds: dict[str, list[float]] = {name: [] for name in (*STAGES, "prefill_visual", "ttft_fused")}
    text_tokens: list[int] = []
    runtime.reset_peak()
    begin = warm = clock()
    stop: Literal["precision", "max_samples", "max_seconds"] | None = None
    passes = warmup = 0
    while stop is None:
        tick()
        example, other = (examples[(2 * passes + k) % len(examples)] for k in (0, 1))
        for name, spent in _staged(runtime, runtime.run(*example), clock):
            seconds[name].append(spent)
        check(runtime.outputs, visual_tokens)
        text_tokens.append(runtime.outputs.text_tokens)
        for name, spent in _staged(runtime, runtime.prefill_visual(), clock):
            seconds[name].append(spent)
        seconds["ttft_fused"].append(_fused(runtime, other, clock))
        check(runtime.outputs, visual_tokens)
        passes += 1
        if passes <= rules.warmup or clock() - begin <= rules.warmup_seconds:
            warmup, warm = passes, clock()
            continue
        stop = _stop(seconds, rules, warmup, passes - warmup, clock() - warm)
    peak_bytes, peak_source = runtime.peak()
    return Latency(
        seconds={name: tuple(values) for name, values in seconds.items()},
        warmup=warmup,
        stop_reason=stop,
        visual_tokens=runtime.outputs.visual_tokens,
        text_tokens=tuple(text_tokens),
        peak_bytes=peak_bytes,
        peak_source=peak_source,
    )


def _staged(runtime: Runtime, stages: Iterator[str], clock: Callable[[], float]) -> Iterator[tuple[str, float]]:
    """Seconds of each stage, the device awaited on both sides."""
    runtime.wait()
    last = clock()
    for name in stages:
        runtime.wait()
        now = clock()
        yield name, now - last
        last = clock()


def _fused(runtime: Runtime, example: Example, clock: Callable[[], float]) -> float:
    """Seconds of one whole pass, the device awaited before and after."""
    runtime.wait()
    begin = clock()
    for _ in runtime.run(*example):
        pass
    runtime.wait()
    return clock() - begin


def check(outputs: Any, visual_tokens: int) -> None:
    """Refuse a pass whose outputs are not what was asked for."""
    if outputs.encoder_calls != 1:
        raise InvalidOutput(f"the encoder ran {outputs.encoder_calls} times in one pass, not once")
    if outputs.visual_tokens != visual_tokens:
        raise InvalidOutput(f"{outputs.visual_tokens} visual tokens, expected {visual_tokens}")
    if not bool(outputs.logits.isfinite().all()):
        raise InvalidOutput("the logits of the first token are not finite")


def _stop(
    seconds: dict[str, list[float]], rules: Rules, warmup: int, counted: int, elapsed: float
) -> Literal["precision", "max_samples", "max_seconds"] | None:
    if counted >= rules.max_samples:
        return "max_samples"
    if elapsed >= rules.max_seconds and counted >= min(FEWEST, rules.min_samples):
        return "max_seconds"
    if counted < rules.min_samples:
        return None
    for total in (sum_passes(seconds, TTFTS["ttft_user"]), seconds["ttft_fused"]):
        interval = median_interval(total[warmup:])
        if math.isinf(interval.high) or (interval.high - interval.low) / 2 > rules.precision * interval.value:
            return None
    return "precision"
