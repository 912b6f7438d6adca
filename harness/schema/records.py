"""Records: what was measured and answered, where, and how it went."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, field_validator, model_validator

from harness.schema.base import Count, Frozen, Line, Plain, Positive, Seconds, Share
from harness.schema.components import Component
from harness.schema.execution import Machine
from harness.schema.points import Point
from harness.schema.suites import Suite

SCHEMA_VERSION = 4
"""Version of a record on disk; raised when a field changes its meaning."""


class TimerTest(Frozen):
    """Whether a runtime's clock can be trusted; see `harness.timing.timer`. All times in seconds."""

    resolution: float
    """Smallest step of the clock."""
    empty: float
    """Median cost of timing nothing: two readings of the clock and a wait for an idle device."""
    launch: float
    """Until the calls that submit known work have returned."""
    awaited: float
    """Until the runtime says that the same work is done."""
    awaited_double: float
    """The same for twice the work."""
    fetched_after: float
    """From then until its result is on the host: next to nothing if the runtime really waited."""
    synchronous: bool
    """Whether a call returns only when its work is done, as on the CPU."""
    fault: str = ""
    """Why the runtime cannot be trusted, in one line; empty if it can."""


class Ceilings(Frozen):
    """The most that this device did in this process: the best of several runs each."""

    flops_per_second: PositiveFloat
    """A large square matrix product in the component's dtype, 2 n^3 operations."""
    bytes_per_second: PositiveFloat
    """A copy of a buffer larger than the caches, bytes read and written."""


class Work(Frozen):
    """What a stage must do, counted and not measured; see `harness.timing.costs`."""

    flops: Count
    """Floating-point operations of its matrix products, convolutions and attentions (two for a multiply-add)."""
    bytes: Count
    """Weights, inputs and outputs, each moved once: the traffic that no implementation can avoid."""
    eager_bytes: Count
    """What its operations read and write when each runs for itself."""
    parameters: Count

    @classmethod
    def total(cls, works: Sequence[Work], weights: Sequence[float] = ()) -> Work:
        """The sum of works, weighted if weights are given."""
        pairs = list(zip(weights or [1.0] * len(works), works, strict=True))
        return cls(**{name: round(sum(w * getattr(work, name) for w, work in pairs)) for name in cls.model_fields})


class Samples(Frozen):
    """Raw samples of one measurement. All tuples run over the same passes: the first `warmup` are flagged."""

    seconds: dict[str, tuple[Seconds, ...]]
    """By stage: seconds of each pass, warm-up first."""
    warmup: Count
    marks: tuple[str, ...]
    """For each pass: why it is disturbed, e.g. `waited 12%`; empty if it is not."""
    stop_reason: Literal["precision", "settled", "max_samples", "max_seconds"]
    repeated: dict[str, tuple[Seconds, ...]]
    """By stage: seconds of passes that repeat one input; far below the others, a cache hides the work."""
    overhead: float
    """Seconds that the bench itself took for each counted pass, outside of what it timed."""

    @model_validator(mode="after")
    def _run_over_the_same_passes(self) -> Samples:
        if not self.seconds or self.warmup >= len(self.marks):
            raise ValueError(f"{len(self.marks)} passes, {self.warmup} of them warm-up: none is left to count")
        for stage, series in self.seconds.items():
            if len(series) != len(self.marks):
                raise ValueError(f"{stage} has {len(series)} passes, {len(self.marks)} are marked")
        return self


class Telemetry(Frozen):
    """What the machine did while a component was measured; what no source tells is missing."""

    seconds: Seconds
    """Of the component's own turns."""
    processors: Positive = 1
    """How many the machine has: shares of their time are taken of all."""
    counters: dict[str, float] = {}
    """By how much each grew during the component's own turns, with the unit in its name: `stolen_seconds` of processor
    time, `gpu_joules`, ..."""
    gauges: dict[str, tuple[float | None, float | None]] = {}
    """What was read before the batch's first turn and after its last: `celsius`, `gpu_clock_hz`, ..."""
    throttles: tuple[str, ...] = ()
    """Reasons for which the device slowed down during the batch."""

    def share(self, counter: str) -> float | None:
        """Seconds of processor time as a share of what all processors had; None where it is not told."""
        grown = self.counters.get(counter)
        return None if grown is None or not self.seconds else grown / (self.seconds * self.processors)


class Memory(Frozen):
    """Memory in bytes as if the component were alone in its process; None where it is unknown."""

    before: int | None
    """Before any module was built."""
    loaded: int | None
    """When it was built, before its first pass."""
    peak: int | None
    """Most while it worked."""
    source: str
    """What the three numbers are, e.g. `process (VmRSS, VmHWM)`."""


Status = Literal["ok", "out_of_memory", "crashed", "timeout", "invalid_output", "cached", "untrusted_timer", "error"]


class Entry(Frozen):
    """One line of the store: an outcome with where it comes from; a failure too."""

    schema_version: int = SCHEMA_VERSION
    key: str
    """What resume compares; see `component_key` and `evaluation_key`."""
    status: Status
    reason: Line = ""
    """Why there is no result, in one line; empty when there is one."""
    machine: Machine
    commit: str
    """Commit of the harness, with `+dirty` when files differ from it; empty outside a checkout."""
    started: str
    """UTC, ISO 8601."""
    seconds: Seconds
    """What it took, loading included."""
    command: str
    """A command that measures this again."""

    @field_validator("schema_version", mode="before")
    @classmethod
    def _is_of_this_schema(cls, found: Any) -> Any:
        if isinstance(found, bool) or found != SCHEMA_VERSION:
            raise ValueError(f"written with schema {found}, this version reads {SCHEMA_VERSION}")
        return found

    @field_validator("started")
    @classmethod
    def _is_a_date(cls, found: str) -> str:
        if not re.match(r"\d{4}-\d\d-\d\d", found):
            raise ValueError(f"{found!r} is not a date")
        return found


class Attempt(Frozen):
    """One try at a component in a process: what a measurement holds beside where it comes from."""

    seconds: Seconds
    """What it took, loading included."""
    load_seconds: Seconds | None = None
    """What building or loading its modules took; None where another component had built them already."""
    disturbed: bool
    """Whether more passes are marked than the protocol allows."""
    timer: TimerTest
    samples: Samples
    telemetry: Telemetry
    memory: Memory
    ceilings: Ceilings


class Measurement(Entry):
    """One component, measured once in one block."""

    component: Component
    block: Count
    """Which block: a fresh process in which all components take turns."""
    attempt: Count
    """0; more where the measurements before it were disturbed."""
    process: str
    """Names the process; measurements of one block share it, unless a failure ended it."""
    seed: int
    position: int
    """Place in the block's first round; `seed` and `block` decide it and the order of the later rounds."""
    load_seconds: Seconds | None = None
    """What building or loading its modules took; None where another component had built them already."""
    disturbed: bool = False
    """Whether more passes are marked than the protocol allows."""
    timer: TimerTest | None = None
    samples: Samples | None = None
    telemetry: Telemetry | None = None
    memory: Memory | None = None
    ceilings: Ceilings | None = None
    work: dict[str, Work] = {}

    @model_validator(mode="after")
    def _has_samples_if_it_is_good(self) -> Measurement:
        if (self.status == "ok") != (self.samples is not None):
            raise ValueError(f"status {self.status} {'without' if self.samples is None else 'with'} samples")
        if self.samples is not None and self.samples.seconds.keys() != set(self.component.stages):
            raise ValueError(f"a {self.component.kind} has stages {', '.join(self.samples.seconds)}")
        return self


class Answer(Frozen):
    """One answered question."""

    question_id: str
    image: str
    """Image the question is about: the cluster of its standard error."""
    kind: str
    text: str
    """The raw response."""
    parsed: str | None
    """What the metric read from it; None: nothing that it could compare, and so the answer is wrong."""
    score: Share | None
    """None: it is graded externally."""
    chance: Share = 0.0
    """What a guess at random would have scored on average, where nothing could be read (MMMU's official rule)."""
    facts: Plain = {}
    """What a submission needs beside the answer."""


class Prior(Frozen):
    """What questions of one kind and form score without a look at the image and without a model; see
    `harness.evaluate.baselines`."""

    kind: str
    form: Literal["options", "yes/no", "open"]
    """What is answered: the letter of an option, yes or no, anything else."""
    questions: Positive
    guess: Share
    """Mean official score of an answer drawn from those that are possible."""
    majority: Share
    """Mean official score of the one answer that earns most."""
    answer: str
    """That answer."""
    exact: bool = True
    """Whether every possible answer was scored against every question; if not, a part of them that a seed chose."""


class Score(Frozen):
    """Answers of one suite; statistics over them are derived by `harness.stats`."""

    suite: str
    metric: str
    data: str
    """Fingerprint of the rows, images included."""
    answers: Annotated[tuple[Answer, ...], Field(min_length=1)]
    revision: str = ""
    """Of the data: the hub's commit; empty for a folder and for what is drawn."""
    seconds: float
    """Wall time of answering."""
    resumed: int = 0
    """How many answers the journal of an earlier run had."""
    priors: tuple[Prior, ...] = ()
    """What its kinds of questions score without a look; empty where it is graded externally."""


class Evaluation(Entry):
    """One point asked one suite."""

    point: Point
    suite: Suite
    score: Score | None = None

    @model_validator(mode="after")
    def _has_a_score_if_it_is_good(self) -> Evaluation:
        if (self.status == "ok") != (self.score is not None):
            raise ValueError(f"status {self.status} {'without' if self.score is None else 'with'} a score")
        if self.score is None:
            return self
        if (self.score.suite, self.score.metric) != (self.suite.name, self.suite.metric):
            raise ValueError(f"suite {self.suite.name} ({self.suite.metric}) has a score of {self.score.suite}")
        if any((answer.score is None) != bool(self.suite.submission) for answer in self.score.answers):
            raise ValueError("an answer has a score exactly where nobody else judges")
        if len({answer.question_id for answer in self.score.answers}) < len(self.score.answers):
            raise ValueError("a question is answered twice")
        return self
