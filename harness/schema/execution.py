"""Where and how something runs, and how it is timed."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from harness.schema.base import Count, Frozen, Positive, Slug, fingerprint

DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
"""Bytes of one weight."""


class Execution(Frozen):
    """Where a stage runs: what runs it, on which device, in which precision."""

    runtime: str = "torch"
    """A file of `harness.runtimes`, or an importable module."""
    device: str
    dtype: Literal["float32", "float16", "bfloat16"]
    threads: Positive
    """Threads that one operation may use on the CPU."""
    attention: str = ""
    """transformers' `attn_implementation` of an LLM; empty where nothing of the kind can be chosen."""
    libraries: dict[str, str] = {}
    """Versions of the runtime's own libraries: another one is another measurement."""

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    @property
    def weight_bytes(self) -> int:
        """Bytes of one weight."""
        return DTYPE_BYTES[self.dtype]


class TimingProtocol(Frozen):
    """How latency is measured; everything that decides what a sample means."""

    version: int = 2
    """Raised when the code that measures changes what it measures."""
    blocks: int = Field(ge=1, le=1000)
    """Fresh processes that measure every component once: the unit of evidence. More may be added later."""
    warmup: int = Field(ge=1, le=10**6)
    """Fewest passes of a measurement that are kept but flagged and never counted."""
    warmup_seconds: float = Field(ge=0, le=10**6)
    """A measurement's warm-up goes on for this long, but for no more passes than may be counted."""
    min_samples: int = Field(ge=1, le=10**6)
    max_samples: int = Field(ge=1, le=10**6)
    """Bounds of the number of counted passes of a measurement."""
    precision: float = Field(gt=0, le=100)
    """Stop when the half-width of the 95% interval of the median is within this share of it."""
    max_seconds: float = Field(gt=0, le=10**6)
    """Stop after this long, whatever the precision, but with no fewer than six samples, or `min_samples` if that is
    less; the reason is recorded."""
    text_tokens: int = Field(ge=2, le=2**20)
    """Length of the prompt beside the image, of every model (FastVLM's template with a short question: 24)."""
    lost: float = Field(default=0.02, gt=0)
    """A pass is marked as disturbed when its threads waited for a processor, or the hypervisor took it away, for more
    than this share of its time, or when the device throttled."""
    disturbed: float = Field(default=0.25, gt=0, le=1)
    """A measurement is disturbed when more than this share of its counted passes is marked."""
    repeats: int = Field(default=1, ge=0, le=100)
    """How often a disturbed measurement is repeated before it is reported as disturbed."""
    fewest: int = Field(default=6, ge=1, le=10**6)
    """Samples that even a slow component gets, unless `min_samples` is less: with fewer the median of a measurement has
    no 95% interval."""
    settled: int = Field(default=40, ge=4, le=10**6)
    """Samples from which the noise itself may be called settled: when the spread between the quartiles of the first
    half, of three quarters and of all of them differ by less than 5%."""
    rounds: int = Field(default=4, ge=1, le=1000)
    """Turns in which the samples of a measurement are taken: a machine drifts within seconds, and what is spread over a
    block sees its mean."""
    window_seconds: float = Field(default=0.05, gt=0, le=3600)
    """Between two looks at the machine's counters and at the stopping rule, or one pass if that takes longer: a look
    costs some ten microseconds. From this length on stolen time, which is told in ticks, says something as well."""
    audits: int = Field(default=2, ge=1, le=100)
    """Passes of one input at the end of a measurement, to see whether a cache hides work; one if a pass is slow."""
    slow_seconds: float = Field(default=5.0, gt=0)
    """From here on a pass is slow: a cache that hides its work would show in one repeat."""
    cached: float = Field(default=0.9, gt=0, lt=1)
    """Repeats that are all faster than this share of every other pass are suspected of a cache: three times as many
    decide."""


class Machine(Frozen):
    """Where a number was measured; two machines never share a curve."""

    host: str
    """A hash of the host's name: tells machines apart without publishing the name."""
    system: str
    processor: str
    cores: Positive
    memory_bytes: Count
    device_bytes: Count
    """Memory of the device: a GPU's own, the machine's where they share it."""
    device: Slug
    """Torch device type: cpu, cuda or mps."""
    device_name: str
    driver: str = ""
    build: str = ""
    """Build of the operating system, e.g. macOS' `25B78`: an update changes latencies."""
    governor: str = ""
    """The CPU's frequency governor, with `turbo off` and `SMT off` where they are; empty where the system hides it."""
    instructions: str = ""
    """The instruction set that torch's CPU kernels use, e.g. `AVX512`."""
    pools: tuple[str, ...] = ()
    """Thread pools and linear algebra libraries in the process, e.g. `openmp libgomp`, `mkl 2024.2`."""
    python: str
    libraries: dict[str, str]
    """Versions of what decides the speed of preprocessing: numpy, pillow. A runtime's own are its execution's."""

    @property
    def place(self) -> str:
        """The kind of machine and its device, whatever its software is today and whatever a container calls its
        host."""
        return f"{self.device}-{fingerprint([self.processor, self.cores, self.device_name])[:8]}"

    @property
    def key(self) -> str:
        """Name of this machine's folder under `results/`."""
        return f"{self.device}-{fingerprint(self)}"
