"""The bench against a runtime whose stages take exactly known times of a clock moved by hand."""

import pytest
import torch

from conftest import PROTOCOL
from harness.bench import InvalidOutput, measure
from harness.runtimes.torch_runtime import Outputs
from harness.schema import STAGES

TIMES = dict(zip((*STAGES, "prefill_visual"), (0.5, 0.25, 0.125, 8.0, 1.0, 4.0, 0.0625, 2.0), strict=True))


class AsynchronousRuntime:
    """Submitting a stage takes no time; waiting takes what was submitted, and waiting itself costs `toll`."""

    def __init__(self, clock, toll=0.0, drift=0.0):
        self.clock, self.toll, self.drift = clock, toll, drift
        self.pending = 0.0
        self.outputs = Outputs()
        self.shown = []
        self.tokens, self.logits, self.calls = 4, torch.zeros(1, 8), 1

    def run(self, encoded, question):
        self.shown.append(encoded)
        for stage in STAGES:
            self.pending += TIMES[stage] * (1 + self.drift * len(self.shown))
            yield stage
        self.outputs = Outputs(self.tokens, 9, self.logits, self.calls)

    def prefill_visual(self):
        self.pending += TIMES["prefill_visual"]
        yield "prefill_visual"

    def wait(self):
        if self.pending:
            self.clock.advance(self.pending + self.toll)
        self.pending = 0.0

    def reset_peak(self):
        pass

    def peak(self):
        return 123, "tests"


EXAMPLES = [(bytes([k]), "what?") for k in range(4)]


def test_every_stage_gets_its_own_time_and_the_fused_pass_their_sum(clock):
    latency = measure(AsynchronousRuntime(clock), EXAMPLES, 4, PROTOCOL, clock=clock)
    for stage, seconds in TIMES.items():
        assert latency.seconds[stage] == (seconds,) * 7
    assert latency.seconds["ttft_fused"] == (sum(TIMES[s] for s in STAGES),) * 7
    assert (latency.visual_tokens, latency.text_tokens, latency.peak_bytes) == (4, (9,) * 7, 123)


def test_waiting_between_stages_is_paid_in_the_staged_pass_only(clock):
    latency = measure(AsynchronousRuntime(clock, toll=0.03125), EXAMPLES, 4, PROTOCOL, clock=clock)
    assert latency.seconds["encode"][0] == 8.03125
    assert latency.seconds["ttft_fused"][0] == sum(TIMES[s] for s in STAGES) + 0.03125


def test_each_pass_sees_another_image(clock):
    runtime = AsynchronousRuntime(clock)
    measure(runtime, EXAMPLES, 4, PROTOCOL, clock=clock)
    assert runtime.shown == [EXAMPLES[k % 4][0] for k in range(14)]


def test_warm_up_is_kept_and_flagged(clock):
    latency = measure(AsynchronousRuntime(clock), EXAMPLES, 4, PROTOCOL, clock=clock)
    assert latency.warmup == 1
    assert all(len(values) == 1 + 6 for values in latency.seconds.values())


def test_warm_up_goes_on_until_its_seconds_are_over(clock):
    rules = PROTOCOL.model_copy(update={"warmup_seconds": 100.0})
    latency = measure(AsynchronousRuntime(clock), EXAMPLES, 4, rules, clock=clock)
    one = 2 * sum(TIMES[s] for s in STAGES) + TIMES["prefill_visual"]  # 29.875 s a pass: four begin within 100 s
    assert latency.warmup == int(100 / one) == 3
    assert len(latency.seconds["encode"]) == 3 + 6


@pytest.mark.parametrize(
    ("drift", "changes", "reason", "passes"),
    [
        (0.0, {"max_samples": 60, "max_seconds": 1e6}, "precision", 1 + 6),
        (0.5, {"max_samples": 11, "max_seconds": 1e6}, "max_samples", 1 + 11),
        (0.5, {"max_samples": 60, "max_seconds": 1e-9}, "max_seconds", 1 + 6),
        (0.0, {"min_samples": 20, "max_samples": 60, "max_seconds": 1e-9}, "max_seconds", 1 + 6),
        (0.0, {"min_samples": 20, "max_samples": 60, "max_seconds": 1e6}, "precision", 1 + 20),
    ],
)
def test_it_stops_for_the_reason_it_says(clock, drift, changes, reason, passes):
    rules = PROTOCOL.model_copy(update=changes)
    latency = measure(AsynchronousRuntime(clock, drift=drift), EXAMPLES, 4, rules, clock=clock)
    assert latency.stop_reason == reason
    assert len(latency.seconds["encode"]) == passes


@pytest.mark.parametrize(
    ("field", "value", "what"),
    [
        ("tokens", 5, "5 visual tokens, expected 4"),
        ("logits", torch.tensor([[0.0, float("nan")]]), "not finite"),
        ("calls", 0, "the encoder ran 0 times"),
    ],
)
def test_wrong_outputs_give_no_number(clock, field, value, what):
    runtime = AsynchronousRuntime(clock)
    setattr(runtime, field, value)
    with pytest.raises(InvalidOutput, match=what):
        measure(runtime, EXAMPLES, 4, PROTOCOL, clock=clock)


def test_a_sign_of_life_comes_before_every_pass(clock):
    ticks = []
    measure(AsynchronousRuntime(clock), EXAMPLES, 4, PROTOCOL, lambda: ticks.append(clock.now), clock)
    assert len(ticks) == 7
