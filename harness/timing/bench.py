"""The bench: components -> samples of their stages. Whatever is called a latency was read from its clock.

A *staged* pass waits for the device after every stage, so each stage has a time of its own. A *fused* pass of a whole
VLM waits once, at the end, and is what a user meets. They take turns, and their difference is kept: waiting between
stages costs something, and overlap between stages saves something.

| stage | covers |
|---|---|
| `preprocess` | encoded bytes -> pixel tensor: decode, pad, resize, normalise |
| `tokenize` | prompt template and text -> ids |
| `transfer` | pixels and ids to the device |
| `encode` | vision tower forward |
| `handover` | visual tokens from the runtime of the encoder to that of the LLM |
| `project` | connector forward |
| `fuse` | all layers within the LLM that attend to visual features, one after the other |
| `prefill` | LLM forward over visual and text tokens, KV cache written, logits of the last position |
| `sample` | first token's id on the host |
| `prefill_visual` | prefill over the visual tokens alone, measured right after the pass it belongs to |
| `ttft_fused` | `preprocess` to `sample` without waiting in between |

No two passes see the same input, each pass is checked (the module ran once, the number of tokens is right, its output
is finite and is not the one before), and at the end one input is repeated: were that much faster, a cache would be
hiding the work.
"""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

from harness.schema import (
    TTFTS,
    Component,
    HarnessError,
    InvalidOutput,
    Samples,
    TimerTest,
    TimingProtocol,
)
from harness.stats import half_width, spread, sum_passes
from harness.timing.telemetry import Reading, mark

SIGN = 1.0
"""Seconds between two signs of life: whoever hears one wakes up and takes a processor from what is timed (every pass
lost 10% of its time to it once)."""
Stop = Literal["precision", "settled", "max_samples", "max_seconds"]


class Cached(InvalidOutput):
    """A cache hides the work that should be timed."""


class UntrustedTimer(HarnessError):
    """The runtime does not wait for its device: nothing that it times is a number."""

    def __init__(self, timer: TimerTest):
        super().__init__(timer.fault)
        self.timer = timer


class Summary(Protocol):
    """What a pass left behind for the bench to check."""

    calls: int
    """How often the module that is timed ran, counted where it happens."""
    visual_tokens: int
    text_tokens: int


class Workload(Protocol):
    """A component on a runtime (see `harness.timing.workloads`)."""

    def run(self, number: int) -> Iterator[str]:
        """A pass with input `number`; yields each stage's name when its work is submitted."""

    def extra_stages(self) -> Iterator[str]:
        """What is timed right after a pass, on the same input; nothing for most components."""

    def outputs(self) -> Summary:
        """What the last pass left behind."""

    def checksums(self) -> list[float]:
        """Of each pass since this was asked last, a weighted sum of its output's elements: not finite if one of them is
        not, and another one for another input. Asked once a window: on cold caches a sum costs ten times its work."""

    def wait(self) -> None:
        """Return when the device is done."""


class Counters(Protocol):
    """What the bench needs of `harness.timing.telemetry.Watch`."""

    cores: int
    """Of how many processors time lost is a share."""
    machine_cores: int
    """How many there are."""

    def read(self, stolen: bool = True) -> Reading:
        """The machine's counters now."""

    def follow_threads(self) -> None:
        """Look for the threads that exist now."""

    def counters(self) -> dict[str, float]:
        """What only grows, so far: seconds, joules."""


class Bench:
    """Takes the samples of one measurement."""

    def __init__(
        self,
        workload: Workload,
        component: Component,
        watch: Counters,
        tick: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.perf_counter,
        enter: Callable[[], object] = lambda: None,
    ):
        """`tick` is a sign of life, called between two passes; `enter` makes the workload this component's again, when
        another one had the same modules in the meantime."""
        self.workload, self.component, self.watch = workload, component, watch
        self.tick, self.clock, self.enter = tick, clock, enter
        self.rules: TimingProtocol = component.protocol
        self.seconds: dict[str, list[float]] = {name: [] for name in component.stages}
        self.marks: list[str] = []
        self.stop: Stop | None = None
        self._expected = (1, component.visual_tokens, component.text_tokens)
        self._number = 0
        self._last = math.nan
        self._warmup = 0
        self._spent = 0.0
        self.busy = 0.0
        """Seconds that this component has had in all."""
        self.grown: dict[str, float] = {}
        """By how much each of the machine's counters grew during its own turns."""
        self.turns = 0.0
        """Seconds of these turns."""
        self._once = 0.0
        self.long = True
        """Whether stolen time, which is told in ticks, says something about a pass."""
        half_width([1.0] * self.rules.fewest)  # its tables are made now, not between two samples

    def measure(self) -> Samples:
        """Sample until the median is known well enough, or a bound is met.

        Raises `InvalidOutput` for a pass whose outputs are not what the component promises, `Cached` when a repeated
        input is answered from memory.
        """
        self.warm_up()
        take_turns([[self]])
        return self.samples()

    def warm_up(self) -> None:
        """Passes until the protocol's number and seconds are over; they are kept and flagged."""
        self.enter()
        rules, begin, reading = self.rules, self.clock(), self.watch.read()
        while len(self.marks) < rules.warmup or (
            len(self.marks) < rules.max_samples and self.clock() - begin < rules.warmup_seconds
        ):
            reading = window([self], reading, 1)
        self.busy += self.clock() - begin
        self._warmup, self._spent, self.stop = len(self.marks), 0.0, None
        self._once = math.fsum(series[-1] for series in self.seconds.values() if series)
        self.long = self._once >= self.rules.window_seconds
        self.watch.follow_threads()  # a pool of threads starts with its first work

    @property
    def left(self) -> int:
        """Passes until the most that the protocol allows."""
        return max(1, self.rules.max_samples - (len(self.marks) - self._warmup))

    @property
    def ahead(self) -> float:
        """About how many seconds its samples will still take after its warm-up, unless they are precise earlier."""
        if self.stop:
            return 0.0
        rules, counted = self.rules, len(self.marks) - self._warmup
        once = self._spent / counted if counted else self._once
        fewest = (min(rules.fewest, rules.min_samples) - counted) * once
        return max(fewest, min((rules.max_samples - counted) * once, rules.max_seconds - self._spent), 0.0)

    def resume(self) -> None:
        """Come back after another component's turn: one pass, unless it is long, that is checked and not counted,
        because the processor's caches hold the other's weights."""
        begin = self.clock()
        self.enter()
        self._last = math.nan
        if not self.long:
            for _ in self._staged(self.workload.run(self._next())):
                pass
            self._check()
            self._check_outputs()
        self.busy += self.clock() - begin

    def account(self, before: Mapping[str, float], after: Mapping[str, float], seconds: float, sides: int) -> None:
        """Add this component's share of a turn of so many seconds that `sides` had together, and of what the machine's
        counters grew by between two readings around it."""
        self.turns += seconds / sides
        self.busy += seconds / sides
        for name in before.keys() & after.keys():
            self.grown[name] = self.grown.get(name, 0.0) + (after[name] - before[name]) / sides

    @property
    def stolen(self) -> float | None:
        """Share of the processors' time that a hypervisor took during this component's turns."""
        if "stolen_seconds" not in self.grown or not self.turns:
            return None
        return self.grown["stolen_seconds"] / (self.turns * self.watch.machine_cores)

    def samples(self) -> Samples:
        """What was sampled, after one input was repeated."""
        begin = self.clock()
        self.enter()
        timed = math.fsum(math.fsum(values[self._warmup :]) for values in self.seconds.values())
        if self.stop is None:
            raise RuntimeError("samples are asked for before the last turn")
        found = Samples(
            seconds={name: _rounded(values) for name, values in self.seconds.items()},
            warmup=self._warmup,
            marks=tuple(self.marks),
            stop_reason=self.stop,
            repeated=self._audit(),
            overhead=(self._spent - timed) / (len(self.marks) - self._warmup),
        )
        self.busy += self.clock() - begin
        return found

    def close(self, note: str, passes: int, seconds: float) -> None:
        """Judge and mark the passes of a window and look at the stopping rule; `seconds`: what the look at the machine
        took."""
        begin = self.clock()
        self._check_outputs()
        self.marks += [note] * passes
        self._spent += seconds
        self.stop = self.stop or self._stop()
        self._spent += self.clock() - begin

    def take(self) -> None:
        """One staged pass, what is timed beside it, and the fused pass of a whole VLM; each on a new input."""
        begin = self.clock()
        self.tick()
        for name, spent in self._staged(self.workload.run(self._next())):
            self.seconds[name].append(spent)
        self._check()
        for name, spent in self._staged(self.workload.extra_stages()):
            self.seconds[name].append(spent)
        if "ttft_fused" in self.seconds:
            self.seconds["ttft_fused"].append(self._fused(self._next()))
            self._check()
        self._spent += self.clock() - begin

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _staged(self, stages: Iterator[str]) -> Iterator[tuple[str, float]]:
        """Seconds of each stage, the device awaited on both sides."""
        clock, wait = self.clock, self.workload.wait
        names: list[str] = []
        wait()
        edges = [clock()]
        for name in stages:
            wait()
            edges.append(clock())
            names.append(name)
        return zip(names, map(operator.sub, edges[1:], edges), strict=False)

    def _fused(self, number: int) -> float:
        """Seconds of one whole pass, the device awaited before and after."""
        self.workload.wait()
        begin = self.clock()
        for _ in self.workload.run(number):
            pass
        self.workload.wait()
        return self.clock() - begin

    def _check(self) -> None:
        """Refuse a pass that did not do what was asked for."""
        found = self.workload.outputs()
        if (found.calls, found.visual_tokens, found.text_tokens) != self._expected:
            component = self.component
            if found.calls != 1:
                raise InvalidOutput(f"the {component.kind} ran {found.calls} times in one pass, not once")
            if found.visual_tokens != component.visual_tokens:
                raise InvalidOutput(f"{found.visual_tokens} visual tokens, expected {component.visual_tokens}")
            raise InvalidOutput(f"{found.text_tokens} text tokens, expected {component.text_tokens}")

    def _check_outputs(self, repeated: bool = False) -> None:
        """Refuse passes whose output is not finite, or that of the pass before although the input was another."""
        for total in self.workload.checksums():
            if not math.isfinite(total):
                raise InvalidOutput("the output is not finite")
            if total == self._last and not repeated:
                raise Cached("two different inputs gave the same output: a cache answers, or the input is ignored")
            self._last = total

    def _stop(self) -> Stop | None:
        counted = len(self.marks) - self._warmup
        if counted >= self.rules.max_samples:
            return "max_samples"
        if self._spent >= self.rules.max_seconds and counted >= min(self.rules.fewest, self.rules.min_samples):
            return "max_seconds"
        clean = [number for number in range(self._warmup, len(self.marks)) if not self.marks[number]]
        if len(clean) < self.rules.min_samples:
            return None
        heads = [[head[number] for number in clean] for head in self._heads()]
        if all(half_width(head) <= self.rules.precision for head in heads):
            return "precision"
        return "settled" if len(clean) >= self.rules.settled and all(map(_is_settled, heads)) else None

    def _heads(self) -> list[list[float]]:
        """The series that must be known well before a measurement ends."""
        if self.component.IS_WHOLE:
            return [sum_passes(self.seconds, TTFTS["ttft_user"]), self.seconds["ttft_fused"]]
        return [self.seconds[self.component.MAIN_STAGE]]

    def _audit(self) -> dict[str, tuple[float, ...]]:
        """Seconds of passes that repeat the last input; raises `Cached` if they are far below those of new inputs.

        A connector is left out: its few microseconds depend on which of the processor's caches holds its input.
        """
        stages = [stage for stage in ("encode", "prefill") if stage in self.seconds]
        once = sum(self.seconds[stage][-1] for stage in stages)
        rules = self.rules
        count = (1 if once >= rules.slow_seconds else rules.audits) if stages else 0
        repeats = [self._times(self._number) for _ in range(count)]
        repeated = {stage: [times[stage] for times in repeats] for stage in stages}
        new = {stage: self.seconds[stage][self._warmup :] for stage in stages}
        if any(max(repeated[stage]) < rules.cached * min(new[stage]) for stage in stages):
            pairs = [(self._times(self._next()), self._times(self._number)) for _ in range(3 * rules.audits)]
            for stage in stages:
                slow, fast = [a[stage] for a, _ in pairs], [b[stage] for _, b in pairs]
                repeated[stage] += fast
                if max(fast) < rules.cached * min(slow):
                    raise Cached(
                        f"{stage} took {min(slow) * 1e3:.2f} ms or more on new inputs and {max(fast) * 1e3:.2f} ms or "
                        f"less on a repeated one: a cache hides the work"
                    )
        return {stage: _rounded(values) for stage, values in repeated.items()}

    def _times(self, number: int) -> dict[str, float]:
        self.tick()
        times = dict(self._staged(self.workload.run(number)))
        self._check()
        self._check_outputs(repeated=True)
        return times


def take_turns(units: Sequence[Sequence[Bench]], shuffle: Callable[[list[Any]], None] = lambda _: None) -> None:
    """Sample several components until each is known well enough, in rounds, in another order each time.

    The benches of one unit are the sides of a comparison: they take turns pass by pass, forwards and backwards (a b, b
    a, ...), and get as many passes: whatever the machine does meanwhile, it does to all of them.
    """
    last = units[0] if len(units) == len(units[0]) == 1 else None  # alone it is warm already
    while going := [unit for unit in units if not all(bench.stop for bench in unit)]:
        shuffle(going)
        for unit in going:
            if unit is not last:
                for bench in unit:
                    bench.resume()
            last = unit
            _turn(unit)


def _turn(unit: Sequence[Bench]) -> None:
    """A unit's share of one round."""
    first = unit[0]
    passes = math.ceil(first.rules.max_samples / first.rules.rounds)
    seconds = first.rules.max_seconds / first.rules.rounds * len(unit)
    earlier = len(first.marks)
    before, reading = first.watch.counters(), first.watch.read()
    begin = first.clock()
    while True:
        left = min(earlier + passes - len(first.marks), *(bench.left for bench in unit))
        reading = window(unit, reading, left, first.rules.window_seconds)
        spent = first.clock() - begin
        if len(first.marks) >= earlier + passes or spent >= seconds or all(bench.stop for bench in unit):
            break
    after = first.watch.counters()
    for bench in unit:
        bench.account(before, after, spent, len(unit))


def window(benches: Sequence[Bench], before: Reading, most: int, seconds: float = math.inf) -> Reading:
    """Up to `most` passes of each bench, none started after `seconds`; what disturbed the machine between the reading
    `before` and the one returned marks each of them."""
    first = benches[0]
    begin, passes, turn = first.clock(), 0, list(benches)
    while True:
        for bench in turn:
            bench.take()
        turn.reverse()
        passes += 1
        spent = first.clock() - begin
        if passes >= most or spent >= seconds:
            break
    after = first.watch.read(first.long)
    note = mark(before, after, spent, first.watch.cores, first.rules.lost)
    looked = (first.clock() - begin - spent) / len(benches)
    for bench in benches:
        bench.close(note, passes, looked)
    return after


def rarely(tick: Callable[[], None], clock: Callable[[], float] = time.perf_counter) -> Callable[[], None]:
    """`tick`, but at most once in `SIGN` seconds."""
    last = -math.inf

    def sign() -> None:
        nonlocal last
        if (now := clock()) - last >= SIGN:
            tick()
            last = now

    return sign


def _is_settled(samples: Sequence[float]) -> bool:
    """Whether the spread of the samples does not change any more."""
    spreads = [spread(samples[: len(samples) * share // 4]) for share in (2, 3, 4)]
    return max(spreads) - min(spreads) <= 0.05 * min(spreads)


def _rounded(seconds: list[float]) -> tuple[float, ...]:
    """To the nanosecond, which is all that the clock tells; a record is half as long."""
    return tuple(round(value, 9) for value in seconds)
