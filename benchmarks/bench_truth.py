"""Is the bench right, and what does it cost? `python benchmarks/bench_truth.py [rounds]`

The same encode and the same prefill are timed by the bench and by `torch.utils.benchmark`, in turns, in one process.
Printed are both medians, their ratio, and what the bench takes for itself between two passes as a share of 10 ms.
"""

from __future__ import annotations

import itertools
import statistics
import sys
from collections.abc import Iterator

import torch
from torch.utils.benchmark import Timer

from harness.bench import Bench
from harness.composition import counted
from harness.config import compose_all
from harness.measurement import examples
from harness.models.llms import prefill, splice
from harness.plan import components_of
from harness.points import make_point
from harness.runtimes.torch_runtime import EncoderSubject, LlmSubject, TorchDevice, build, fit, stand_in_ids
from harness.stats import median_interval
from harness.telemetry import Watch


class SamePixels(EncoderSubject, kind="encoder with its pixels ready"):
    """The encoder on pixels that are there already, as an independent timer calls it: nothing runs in between."""

    def run(self, number: int) -> Iterator[str]:
        """A pass without its preparations."""
        if not hasattr(self, "ready"):
            self.ready = [self._pixels(k) for k in range(8)]
        self._start()
        yield "preprocess"
        yield "transfer"
        self._out = self.encoder(self.ready[number % 8])
        yield "encode"
        self._tokens = (self._out.shape[1], 0)


class OnlyPrefill(LlmSubject, kind="llm without its visual prefill"):
    """The LLM without the second prefill beside it."""

    def beside(self) -> Iterator[str]:
        """Nothing."""
        return iter(())


@torch.inference_mode()
def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    _, configs = compose_all(["encoder=tiny_fastvithd", "llm=tiny_qwen2_m", "resolution=256"])
    point = make_point(configs[0])
    parts = {component.kind: component for component in components_of(point)}
    place = TorchDevice(point.device, point.dtype, point.threads)
    watch = Watch(point.device, point.threads)
    encoder = SamePixels(place, parts["encoder"], examples())
    llm = OnlyPrefill(place, parts["llm"], examples())
    whole = build(place, parts["encoder"], examples())
    next(encoder.run(0))
    before, after = fit(*stand_in_ids(examples()[0][1]), point.protocol.text_tokens, llm.llm.config.vocab_size)
    first, second = torch.tensor([before]), torch.tensor([after])
    pixels = itertools.cycle(encoder.ready)  # different images in turn, as the bench shows them
    calls = {
        "encode": lambda: encoder.encoder(next(pixels)),
        "prefill": lambda: prefill(llm.llm, splice(llm.llm, first, llm._inputs[0], second)),
    }
    subjects = {"encode": (encoder, parts["encoder"]), "prefill": (llm, parts["llm"])}
    for name, call in calls.items():
        subject, component = subjects[name]
        short = component.protocol.model_copy(update={"warmup": 3, "warmup_seconds": 0.0, "max_samples": 10})
        brief = component.model_copy(update={"protocol": short})
        timer = Timer("call()", globals={"call": call}, num_threads=point.threads)
        ours: list[float] = []
        theirs: list[float] = []
        ratios = []
        for _ in range(rounds):  # short turns, so that the machine's drift meets both alike
            samples = Bench(subject, brief, watch).measure()
            ours += samples.seconds[name][samples.warmup :]
            theirs += (turn := [timer.timeit(1).median for _ in range(10)])
            ratios.append(statistics.median(samples.seconds[name][samples.warmup :]) / statistics.median(turn))
        one, other = statistics.median(ours), statistics.median(theirs)
        interval = median_interval(ratios)
        print(
            f"{name}: bench {one * 1e3:.3f} ms, torch.utils.benchmark {other * 1e3:.3f} ms; ratio {interval.value:.4f} "
            f"(95% interval {interval.low:.4f} to {interval.high:.4f}, {rounds} turns of 10 calls each)"
        )
        cost = statistics.median(Bench(subject, component, watch).measure().overhead for _ in range(7))
        print(f"  the bench's own cost a pass: {cost * 1e6:.0f} us = {cost / 0.010:.2%} of a 10 ms call")
    samples = Bench(whole, parts["encoder"], watch).measure()
    cold = statistics.median(counted(samples, "encode"))
    print(f"encode in a visit, where an image is decoded before each pass: {cold * 1e3:.3f} ms")


if __name__ == "__main__":
    main()
