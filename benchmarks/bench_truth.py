"""Is the bench right, and what does it cost? `python benchmarks/bench_truth.py [--rounds N] [--smoke]`

The same encode and the same prefill are timed by the bench and by `torch.utils.benchmark`, in turns, in one process.
Printed are both medians, their ratio, and what the bench takes for itself between two passes as a share of 10 ms.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Iterator

import torch
from torch.utils.benchmark import Timer

from harness.analysis.composition import counted
from harness.configuration.compose import compose_all
from harness.configuration.points import make_point
from harness.models.llms import prefill, splice
from harness.runtimes.torch_runtime import (
    EncoderWorkload,
    LlmWorkload,
    TorchDevice,
    TorchWorkload,
    build,
    fit,
    stand_in_ids,
)
from harness.schema import Component
from harness.stats import median_interval
from harness.suites.questions import examples
from harness.timing.bench import Bench, window
from harness.timing.plan import components_of
from harness.timing.telemetry import Watch

VISUAL_TOKENS = 256
"""Of the prefill: it takes some ten milliseconds on two cores, as the encode does."""
TURN = 3
"""Calls of each timer before it is the other's turn."""
MEASUREMENTS = 15
"""Measurements whose own cost is looked at."""


class SamePixels(EncoderWorkload, kind="encoder with its pixels ready"):
    """The encoder on pixels that are there already, as an independent timer calls it: nothing runs in between."""

    def run(self, number: int) -> Iterator[str]:
        """A pass without its preparations."""
        if not hasattr(self, "ready"):
            component = self.component
            assert component.encoder is not None
            assert component.resolution is not None
            shape = component.encoder, component.resolution, component.tiles
            self.ready = [self._pixels(k, *shape) for k in range(8)]
        self._start()
        yield "preprocess"
        yield "transfer"
        self._out = self.encoder(self.ready[number % 8])
        yield "encode"
        self._tokens = (self._out.shape[1], 0)


class OnlyPrefill(LlmWorkload, kind="llm with its prompt ready"):
    """The LLM on a prompt that is there already, without the second prefill beside it."""

    def run(self, number: int) -> Iterator[str]:
        """A pass without its preparations."""
        if not hasattr(self, "prompt"):
            ids = fit(*stand_in_ids(self.examples[0][1]), self.component.text_tokens, self.llm.config.vocab_size)
            self.prompt = [torch.tensor([part]) for part in ids]
        self._start()
        yield "tokenize"
        self._visual = self._inputs[number % len(self._inputs)]
        yield "transfer"
        yield from self._first_token(*self.prompt)

    def extra_stages(self) -> Iterator[str]:
        """Nothing."""
        return iter(())


def alone(workload: TorchWorkload, component: Component, watch: Watch) -> Bench:
    """A bench that expects no prefill beside the pass."""
    bench = Bench(workload, component, watch)
    bench.seconds.pop("prefill_visual", None)
    return bench


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200, help="turns of three calls each (default 200)")
    parser.add_argument("--smoke", action="store_true", help="the same in seconds: does it run, not what is true")
    arguments = parser.parse_args()
    rounds, measurements, rules = arguments.rounds, MEASUREMENTS, ["resolution=256"]
    if arguments.smoke:
        rounds, measurements, rules = 6, 1, ["resolution=128", "threads=1"]
    _, configs = compose_all(["encoder=tiny_fastvithd", "llm=tiny_qwen2_m", *rules])
    point = make_point(configs[0])
    parts = {component.kind: component for component in components_of(point)}
    device = TorchDevice(point.device, point.dtype, point.threads)
    watch = Watch(point.device, point.threads)
    encoder = SamePixels(device, parts["encoder"], examples())
    parts["llm"] = parts["llm"].model_copy(update={"visual_tokens": VISUAL_TOKENS})
    llm = OnlyPrefill(device, parts["llm"], examples())
    whole = build(device, parts["encoder"], examples())
    next(encoder.run(0))
    next(llm.run(0))
    first, second = llm.prompt
    pixels, visual = itertools.cycle(encoder.ready), itertools.cycle(llm._inputs)  # in turn, as the bench shows them
    calls = {
        "encode": lambda: encoder.encoder(next(pixels)),
        "prefill": lambda: prefill(llm.llm, splice(llm.llm, first, next(visual), second)),
    }
    workloads = {"encode": (encoder, parts["encoder"]), "prefill": (llm, parts["llm"])}
    for name, call in calls.items():
        workload, component = workloads[name]
        endless = component.protocol.model_copy(update={"max_samples": 10**9})
        bench = alone(workload, component.model_copy(update={"protocol": endless}), watch)
        timer = Timer("call()", globals={"call": call}, num_threads=point.threads)
        ours, theirs = bench.seconds[name], []
        bench.warm_up()
        reading = watch.read()
        ratios = []
        for turn in range(rounds):  # short turns, back and forth, so that the machine's drift meets both alike
            if turn % 2:
                theirs += [timer.timeit(1).median for _ in range(TURN)]
            reading = window([bench], reading, TURN)
            if not turn % 2:
                theirs += [timer.timeit(1).median for _ in range(TURN)]
            ratios.append(statistics.median(ours[-TURN:]) / statistics.median(theirs[-TURN:]))
        one, other = statistics.median(ours), statistics.median(theirs)
        interval = median_interval(ratios)
        print(
            f"{name}: bench {one * 1e3:.3f} ms, torch.utils.benchmark {other * 1e3:.3f} ms; ratio {interval.value:.4f} "
            f"(95% interval {interval.low:.4f} to {interval.high:.4f}, {rounds} turns of {TURN} calls each)"
        )
        cost = statistics.median(alone(workload, component, watch).measure().overhead for _ in range(measurements))
        print(
            f"  the bench's own cost a pass: {cost * 1e6:.0f} us = {cost / 0.010:.2%} of a 10 ms call, "
            f"{cost / one:.2%} of this one"
        )
    samples = Bench(whole, parts["encoder"], watch).measure()
    cold = statistics.median(counted(samples, "encode"))
    print(f"encode in a measurement, where an image is decoded before each pass: {cold * 1e3:.3f} ms")


if __name__ == "__main__":
    main()
