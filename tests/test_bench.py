"""The bench against a workload whose stages take exactly known times of a clock moved by hand."""

import itertools
import math

import pytest

from conftest import make_component
from harness.runtimes.torch_runtime import PassSummary
from harness.schema import STAGES_OF, InvalidOutput
from harness.timing.bench import WINDOW, Bench, Cached, rarely, take_turns, window
from harness.timing.telemetry import Reading

STAGES = STAGES_OF["vlm"][:7]
TIMES = dict(zip((*STAGES, "prefill_visual"), (0.5, 0.25, 0.125, 8.0, 1.0, 4.0, 0.0625, 2.0), strict=True))
WHOLE = sum(TIMES[stage] for stage in STAGES)


class Asynchronous:
    """Submitting a stage takes no time; waiting takes what was submitted, and waiting itself costs `toll`."""

    def __init__(self, clock, toll=0.0, drift=0.0):
        self.clock, self.toll, self.drift = clock, toll, drift
        self.pending = 0.0
        self.shown = []
        self.visual, self.text, self.calls = 4, 24, 1
        self.cached = set()
        self.total = lambda number: float(number)
        self.sums = []

    def run(self, number):
        self.shown.append(number)
        for stage in STAGES:
            if not (stage in self.cached and number in self.shown[:-1]):
                self.pending += TIMES[stage] * (1 + self.drift * len(self.shown))
            yield stage

    def extra_stages(self):
        self.pending += TIMES["prefill_visual"]
        yield "prefill_visual"

    def outputs(self):
        self.sums.append(self.total(self.shown[-1]))
        return PassSummary(self.calls, self.visual, self.text)

    def checksums(self):
        sums, self.sums = self.sums, []
        return sums

    def wait(self):
        if self.pending:
            self.clock.advance(self.pending + self.toll)
        self.pending = 0.0


class Calm:
    """A machine on which nothing else happens."""

    cores = machine_cores = 1

    def __init__(self, waited=()):
        self.waited = itertools.chain(waited, itertools.repeat(0.0))
        self.sum = 0.0

    def read(self, stolen=True):
        self.sum += next(self.waited)
        return Reading(waited=self.sum)

    def follow_threads(self):
        pass


def bench(workload, clock, watch=None, tick=lambda: None, **rules):
    component = make_component("vlm")
    protocol = component.protocol.model_copy(update=rules)
    return Bench(workload, component.model_copy(update={"protocol": protocol}), watch or Calm(), tick, clock)


def test_every_stage_gets_its_own_time_and_the_fused_pass_their_sum(clock):
    samples = bench(Asynchronous(clock), clock).measure()
    for stage, seconds in TIMES.items():
        assert samples.seconds[stage] == (seconds,) * 7
    assert samples.seconds["ttft_fused"] == (WHOLE,) * 7
    assert samples.overhead == 0.0


def test_waiting_between_stages_is_paid_in_the_staged_pass_only(clock):
    samples = bench(Asynchronous(clock, toll=0.03125), clock).measure()
    assert samples.seconds["encode"][0] == 8.03125
    assert samples.seconds["ttft_fused"][0] == WHOLE + 0.03125


def test_no_input_is_shown_twice_but_for_the_two_repeats_at_the_end(clock, monkeypatch):
    monkeypatch.setattr("harness.timing.bench.SLOW", 13.0)  # encode and prefill take 12 seconds here
    workload = Asynchronous(clock)
    samples = bench(workload, clock).measure()
    assert workload.shown == [*range(1, 15), 14, 14]
    assert samples.repeated == {"encode": (8.0,) * 2, "prefill": (4.0,) * 2}


def test_a_slow_pass_is_repeated_once(clock):
    workload = Asynchronous(clock)
    samples = bench(workload, clock).measure()
    assert workload.shown == [*range(1, 15), 14]
    assert samples.repeated == {"encode": (8.0,), "prefill": (4.0,)}


def test_one_pass_may_be_all_that_a_protocol_asks_for(clock):
    samples = bench(Asynchronous(clock), clock, min_samples=1, max_samples=16, max_seconds=4).measure()
    assert len(samples.seconds["encode"]) == 1 + 1
    assert samples.stop_reason == "max_seconds"


def test_warm_up_is_kept_and_flagged(clock):
    samples = bench(Asynchronous(clock), clock).measure()
    assert samples.warmup == 1
    assert all(len(values) == 1 + 6 for values in samples.seconds.values())


def test_warm_up_goes_on_until_its_seconds_are_over(clock):
    samples = bench(Asynchronous(clock), clock, warmup_seconds=100.0).measure()
    assert samples.warmup == math.ceil(100 / (2 * WHOLE + TIMES["prefill_visual"])) == 4
    assert len(samples.seconds["encode"]) == 4 + 6


@pytest.mark.parametrize(
    ("drift", "changes", "reason", "counted"),
    [
        (0.0, {"max_samples": 60, "max_seconds": 1e6}, "precision", 6),
        (0.5, {"max_samples": 11, "max_seconds": 1e6}, "max_samples", 11),
        (0.5, {"max_samples": 60, "max_seconds": 1e-9}, "max_seconds", 6),
        (0.0, {"min_samples": 20, "max_samples": 60, "max_seconds": 1e-9}, "max_seconds", 6),
        (0.0, {"min_samples": 20, "max_samples": 60, "max_seconds": 1e6}, "precision", 20),
    ],
)
def test_it_stops_for_the_reason_it_says(clock, drift, changes, reason, counted):
    samples = bench(Asynchronous(clock, drift=drift), clock, **changes).measure()
    assert samples.stop_reason == reason
    assert len(samples.seconds["encode"]) == 1 + counted


def test_noise_that_does_not_shrink_any_more_has_settled(clock):
    """Passes of three lengths in turn: the median's interval never gets narrow, the quartiles never move."""

    class Uneven(Asynchronous):
        def run(self, number):
            self.drift = (number // 2 % 3) / max(len(self.shown), 1)
            return super().run(number)

    samples = bench(Uneven(clock), clock, max_samples=1000, max_seconds=1e9, precision=1e-4).measure()
    assert samples.stop_reason == "settled"
    assert 40 <= len(samples.marks) - 1 < 100


@pytest.mark.parametrize(
    ("field", "value", "what"),
    [
        ("visual", 5, "5 visual tokens, expected 4"),
        ("text", 23, "23 text tokens, expected 24"),
        ("total", lambda _: float("nan"), "not finite"),
        ("total", lambda _: float("inf"), "not finite"),
        ("calls", 0, "the vlm ran 0 times"),
        ("calls", 2, "the vlm ran 2 times"),
    ],
)
def test_wrong_outputs_give_no_number(clock, field, value, what):
    workload = Asynchronous(clock)
    setattr(workload, field, value)
    with pytest.raises(InvalidOutput, match=what):
        bench(workload, clock).measure()


def test_the_same_output_for_two_inputs_is_no_measurement(clock):
    workload = Asynchronous(clock)
    workload.total = lambda _: 3.0
    with pytest.raises(Cached, match="two different inputs gave the same output"):
        bench(workload, clock).measure()


@pytest.mark.parametrize("stage", ["encode", "prefill"])
def test_a_cache_that_answers_a_repeated_input_is_found(clock, stage):
    workload = Asynchronous(clock)
    workload.cached = {stage}
    with pytest.raises(Cached, match=f"{stage} took .* ms or more on new inputs and 0.00 ms or less on a repeated one"):
        bench(workload, clock).measure()


def test_a_pass_whose_threads_waited_for_a_processor_is_marked_and_kept(clock):
    # Readings: at the start, after the warm-up, before the first round, after its first pass.
    watch = Calm(waited=[0, 0, 0, 1.0])
    samples = bench(Asynchronous(clock), clock, watch).measure()
    seconds = 2 * WHOLE + TIMES["prefill_visual"]
    assert [bool(mark) for mark in samples.marks].count(True) == 1
    assert next(filter(None, samples.marks)) == f"waited {1 / seconds:.0%}"
    assert len(samples.seconds["encode"]) == 7


def test_marked_passes_do_not_count_towards_the_fewest(clock):
    watch = Calm(waited=[1.0] * 15)
    samples = bench(Asynchronous(clock), clock, watch, max_samples=60, max_seconds=1e6).measure()
    assert sum(not mark for mark in samples.marks[1:]) >= 6
    assert any(samples.marks)


def test_a_sign_of_life_comes_at_most_once_a_second(clock):
    ticks = []
    workload = Asynchronous(clock)
    bench(workload, clock, tick=rarely(lambda: ticks.append(clock.now), clock), max_samples=6).measure()
    assert len(ticks) == 7 + 1  # passes and the repeat take longer than a second here
    fast = Asynchronous(clock)
    fast.run = lambda number: (fast.shown.append(number), clock.advance(0.01), iter(STAGES))[2]
    fast.extra_stages = lambda: iter(["prefill_visual"])
    ticks.clear()
    bench(fast, clock, tick=rarely(lambda: ticks.append(clock.now), clock)).measure()
    assert len(ticks) == 1


def test_sides_take_turns_forwards_and_backwards_and_get_as_many_passes(clock):
    """The machine slows down all the time; each side's median grows by the same share."""
    begun, drift = [], {"factor": 1.0}

    class Side(Asynchronous):
        def __init__(self, name, seconds):
            super().__init__(clock)
            self.name, self.length = name, seconds

        def run(self, number):
            begun.append(self.name)
            self.shown.append(number)
            drift["factor"] *= 1.0005
            clock.advance(self.length * drift["factor"])
            yield from STAGES

        def extra_stages(self):
            yield "prefill_visual"

    rules = {"max_samples": 24, "min_samples": 24, "warmup": 1, "max_seconds": 1e9}
    sides = [bench(Side(name, seconds), clock, **rules) for name, seconds in (("a", 0.010), ("b", 0.011))]
    for side in sides:
        side.warm_up()
    take_turns([sides])
    one, other = (side.samples() for side in sides)
    assert "".join(begun[4:6]) == "ab"  # one uncounted pass each
    assert "".join(begun[6:22]) == "aabbbbaaaabbbbaa"  # two runs a pass, the staged and the fused one
    assert len(one.marks) == len(other.marks) == 25
    medians = [sorted(samples.seconds["ttft_fused"][1:])[12] for samples in (one, other)]
    assert medians[1] / medians[0] == pytest.approx(1.1, rel=0.01)


def test_a_window_lasts_until_its_seconds_are_over(clock):
    fast = Asynchronous(clock)
    fast.run = lambda number: (fast.shown.append(number), clock.advance(0.004), iter(STAGES))[2]
    fast.extra_stages = lambda: iter(["prefill_visual"])
    reads = []
    watch = Calm()
    honest = watch.read
    watch.read = lambda stolen=True: (reads.append(clock.now), honest())[1]
    bench(fast, clock, watch, max_samples=28, min_samples=28).measure()
    # A round is seven passes of 8 ms; around each the hypervisor's counter is read, and after each window all are.
    assert [round(b - a, 6) for a, b in itertools.pairwise(reads[2:])] == [0.056, 0, 0] * 3 + [0.056, 0]
    assert WINDOW == 0.05


def test_components_take_turns_in_another_order_each_round_and_share_modules(clock):
    """Two resolutions of one encoder: `enter` sets the modules before each turn, one uncounted pass follows it."""
    turns = []

    class Shared(Asynchronous):
        where = None

        def run(self, number):
            turns.append(self.where)
            for stage in STAGES:
                clock.advance({"low": 0.001, "high": 0.002}[self.where])
                yield stage

        def extra_stages(self):
            return iter(["prefill_visual"])

        def outputs(self):
            self.sums.append(float(len(turns)))
            return PassSummary(1, 4, 24)

    workload = Shared(clock)
    rules = {"max_samples": 8, "min_samples": 8, "warmup": 1}
    benches = {}
    for name in ("low", "high"):
        component = make_component("vlm")
        component = component.model_copy(update={"protocol": component.protocol.model_copy(update=rules)})
        enter = lambda name=name: setattr(workload, "where", name)  # noqa: E731
        benches[name] = Bench(workload, component, Calm(), clock=clock, enter=enter)
        benches[name].warm_up()
    take_turns([[benches["low"]], [benches["high"]]], shuffle=lambda going: going.reverse())
    for name, seconds in (("low", 0.001), ("high", 0.002)):
        samples = benches[name].samples()
        assert samples.seconds["encode"] == pytest.approx([seconds] * 9)
        assert samples.stop_reason == "max_samples"
    each = 1 + 2 * 2  # the uncounted pass, and two passes of a staged and a fused run
    order = [turns[4 + k * each] for k in range(8)]
    assert order == ["high", "low", "high", "low", "high", "low", "high", "low"]
    assert all(len(set(turns[4 + k * each : 4 + (k + 1) * each])) == 1 for k in range(8))


def test_what_a_hypervisor_took_during_the_turns_is_told_as_a_share(clock):
    class Stolen(Calm):
        machine_cores = 2

        def read(self, stolen=True):
            return Reading(stolen=0.1 * clock.now)

    one = bench(Asynchronous(clock), clock, Stolen())
    assert one.stolen is None
    one.measure()
    assert one.stolen == pytest.approx(0.05)
    silent = bench(Asynchronous(clock), clock)
    silent.measure()
    assert silent.stolen is None  # not told, not zero


def test_the_sides_of_a_comparison_share_what_was_stolen_in_their_turns(clock):
    class Stolen(Calm):
        machine_cores = 2

        def read(self, stolen=True):
            return Reading(stolen=0.1 * clock.now)

    sides = [bench(Asynchronous(clock), clock, Stolen()) for _ in range(2)]
    for side in sides:
        side.warm_up()
    take_turns([sides])
    assert [side.stolen for side in sides] == pytest.approx([0.05, 0.05])


@pytest.mark.parametrize(("seconds", "passes"), [(math.inf, 10), (4.5, 6), (8.5, 9)])
def test_what_is_ahead_of_a_component_is_known_after_its_warm_up(clock, seconds, passes):
    """Ten passes, or as many as begin within some passes' time, but six in any case."""
    once = 2 * WHOLE + TIMES["prefill_visual"]  # a staged pass with what stands beside it, and a fused one
    rules = {"max_samples": 10, "min_samples": 10, "max_seconds": min(seconds * once, 1e9)}
    one = bench(Asynchronous(clock), clock, warmup=1, warmup_seconds=0, **rules)
    one.warm_up()
    seen, reading = [one.ahead / once], one.watch.read()
    while not one.stop:
        reading = window([one], reading, 1)
        seen.append(one.ahead / once)
    assert len(seen) == passes + 1
    assert seen == pytest.approx([max(min(passes, seconds, 10) - n, 6 - n, 0) for n in range(passes)] + [0.0])
