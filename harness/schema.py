"""The language: the nouns every room speaks. Imports nothing of the project.

Units are SI (seconds, bytes); milliseconds exist only on pages. Raw samples are kept, statistics are derived
(`harness.stats`). Everything here is frozen, validated when it is read back from disk, and has one canonical
JSON form, so that `fingerprint` names its content.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

SCHEMA_VERSION = 1
"""Version of a record on disk; raised when a field changes its meaning."""


class HarnessError(Exception):
    """Something the user can mend. Its text is one line: what was found, where, what to do."""


class Noun(BaseModel):
    """Frozen, strict about unknown fields, and documented field by field."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def first_fault(error: ValidationError) -> str:
    """Where and what the first fault of a validation is, in a few words."""
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else str(first["msg"])


def fingerprint(content: Any) -> str:
    """The first 16 hex digits of the SHA-256 of `content`'s canonical JSON."""
    plain = content.model_dump(mode="json") if isinstance(content, BaseModel) else content
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Encoder(Noun):
    """A vision encoder, built by timm."""

    name: str
    title: str
    """Name on a page, e.g. `FastViTHD`."""
    timm: str
    """Entry point of `timm.create_model`."""
    args: dict[str, Any] = {}
    """Keyword arguments of the entry point; they may override the architecture's sizes."""
    stride: int
    """Pixels per visual token along one side, over all stages."""
    features: int
    """Channels of a visual token before the connector."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    """Normalisation of the pixels, in units of 0..1."""
    native: int
    """Resolution that the architecture was published for, in pixels."""
    source: str
    """Where the numbers above come from."""

    def visual_tokens(self, resolution: int) -> int:
        """Number of visual tokens of one `resolution` x `resolution` image."""
        return (resolution // self.stride) ** 2


class Connector(Noun):
    """What maps a visual token to the LLM's width."""

    name: str
    kind: str
    """A class that `harness.models.connectors` registers."""


class Llm(Noun):
    """A decoder, built by transformers from its configuration class."""

    name: str
    title: str
    architecture: str
    """`model_type` of transformers, e.g. `qwen2`."""
    config: dict[str, Any]
    """Fields of the configuration class; `vocab_size` 0 takes the tokenizer's size (reference family only)."""
    source: str


class Suite(Noun):
    """An accuracy suite: where its rows come from, how it asks and how it scores."""

    name: str
    title: str
    stands_for: str = ""
    """The published benchmark whose schema and metric an embedded suite has."""
    metric: str
    """A function that `harness.suites.metrics` registers."""
    images: int
    """How many images of the split are drawn."""
    max_new_tokens: int = 8
    version: int = 1
    """Raised when asking or scoring changes what a score means."""


class Protocol(Noun):
    """How latency is measured; everything that decides what a sample means."""

    version: int = 1
    """Raised when the code that measures changes what it measures."""
    warmup: int = Field(ge=0)
    """Fewest passes that are kept but flagged and never counted."""
    warmup_seconds: float = Field(ge=0)
    """Warm-up goes on for at least this long: a fresh process is slower than one that has worked for a while."""
    min_samples: int = Field(ge=1)
    max_samples: int = Field(ge=1)
    """Bounds of the number of counted passes of each kind."""
    precision: float = Field(gt=0)
    """Stop when the half-width of the 95% interval of the median TTFT is within this share of it."""
    max_seconds: float = Field(gt=0)
    """Stop after this long, whatever the precision, but with no fewer than six samples; the reason is recorded."""
    text_tokens: int = Field(ge=2)
    """Length of the text prompt of a model without trained weights (FastVLM's template with a short question: 24)."""


class Point(Noun):
    """One cell of the grid: everything that decides what is measured."""

    encoder: Encoder
    connector: Connector
    llm: Llm
    resolution: int
    """Side of the square input in pixels."""
    device: str
    dtype: Literal["float32", "float16", "bfloat16"]
    attention: str
    """transformers' `attn_implementation` of the LLM."""
    threads: int
    """Intra-op threads of torch on the CPU."""
    weights: str
    """`random`, or a prefix of the SHA-256 of the checkpoint's weights, configuration and tokenizer."""
    checkpoint: str = ""
    """`shipped:<name>` or the folder as it was given; not part of the identity, the weights' hash is."""
    suites: tuple[Suite, ...]
    """What the trained VLM is asked; nothing where the weights are random."""
    protocol: Protocol

    @property
    def visual_tokens(self) -> int:
        """(resolution / stride)^2."""
        return self.encoder.visual_tokens(self.resolution)

    @property
    def name(self) -> str:
        """Short name for a line of progress or an error."""
        return f"{self.encoder.name} {self.resolution}px {self.llm.name}"


class Machine(Noun):
    """Where a number was measured; two machines never share a curve."""

    host: str
    """A hash of the host's name: tells machines apart without publishing the name."""
    system: str
    processor: str
    cores: int
    memory_bytes: int
    device: str
    """Torch device type: cpu, cuda or mps."""
    device_name: str
    driver: str = ""
    python: str
    libraries: dict[str, str]
    """Versions of what decides speed: torch, torchvision, timm, transformers."""

    @property
    def key(self) -> str:
        """Name of this machine's folder under `results/`."""
        return f"{self.device}-{fingerprint(self)}"


STAGES = ("preprocess", "tokenize", "transfer", "encode", "project", "prefill", "sample")
"""Stages of a staged pass in their order; see `harness.bench` for what each covers."""

TTFTS = {
    "ttft_paper": ("encode", "prefill_visual"),
    "ttft_model": ("encode", "project", "prefill"),
    "ttft_user": STAGES,
}
"""The sums of stages that go by a name; `ttft_fused` is measured, not summed."""


class Latency(Noun):
    """Raw samples of one point. All lists of `seconds` run over the same passes: the first `warmup` are flagged."""

    seconds: dict[str, tuple[float, ...]]
    """By stage: seconds of each pass, warm-up first; `prefill_visual` and `ttft_fused` stand beside the stages."""
    warmup: int
    stop_reason: Literal["precision", "max_samples", "max_seconds"]
    visual_tokens: int
    text_tokens: tuple[int, ...]
    """Of each staged pass: prompts of trained models differ in length."""
    peak_bytes: int | None
    """Largest memory of the process (CPU) or of the allocator (GPU) while it was measured; None: unknown."""
    peak_source: str
    """What `peak_bytes` is, e.g. `process peak, VmHWM`."""


class Answer(Noun):
    """One answered question."""

    question_id: str
    image: str
    """Image the question is about: the cluster of its standard error."""
    kind: str
    text: str
    """The raw response."""
    score: float


class Score(Noun):
    """Answers of one suite; statistics over them are derived by `harness.stats`."""

    suite: str
    metric: str
    data: str
    """Fingerprint of the rows, images included."""
    answers: tuple[Answer, ...]
    seconds: float
    """Wall time of answering."""


Status = Literal["ok", "out_of_memory", "crashed", "timeout", "invalid_output", "error"]


class Record(Noun):
    """One outcome of one point, a failure too."""

    schema_version: int = SCHEMA_VERSION
    key: str
    """See `record_key`: what resume compares."""
    status: Status
    reason: str = ""
    """Why there is no measurement, in one line; empty when there is one."""
    point: Point
    machine: Machine
    commit: str
    """Commit of the harness, with `+dirty` when files differ from it; empty outside a checkout."""
    started: str
    """UTC, ISO 8601."""
    seconds: float
    command: str
    """A command that measures this point again."""
    latency: Latency | None = None
    scores: tuple[Score, ...] = ()
    no_accuracy: str = ""
    """Why there are no scores; empty when there are."""


def record_key(point: Point, machine: Machine, rows: str) -> str:
    """What makes two measurements the same: point, machine and the rows that the suites draw."""
    content = point.model_dump(mode="json", exclude={"checkpoint"})
    return fingerprint([SCHEMA_VERSION, content, machine.model_dump(mode="json"), rows])


class Manifest(Noun):
    """The last run of a sweep: which records belong to it."""

    name: str
    title: str
    keys: tuple[str, ...]
    command: str
    started: str
