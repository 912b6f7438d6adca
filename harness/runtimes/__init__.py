"""What runs stages: one file for each runtime, found by its name (`encoder_runtime=`, `llm_runtime=`, `runtime=`).

A runtime's file holds a class `Runtime` that derives from the one here. It says which kinds of component it can run and
makes them; everything else (what a pass is, inputs that never repeat, the clock) is the same for all of them and lies
in `harness.timing`. A runtime of another package goes by its module's name: `encoder_runtime=my_package.my_runtime`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import psutil

from harness import registry
from harness.schema import (
    ComposedVlmComponent,
    ConnectorComponent,
    EncoderComponent,
    Execution,
    FusionComponent,
    HarnessError,
    HubComponent,
    LlmComponent,
)

if TYPE_CHECKING:
    import numpy as np

Array = Any
"""An array of a runtime, wherever it lies; it has a `shape`."""


class Device(Protocol):
    """How to wait for a device, its memory, and known work for `harness.timing.timer`."""

    synchronous: bool
    """Whether calls are expected to return only when their work is done."""

    def wait(self) -> None:
        """Return when everything submitted to the device is done."""

    def work(self, repeats: int) -> None:
        """Submit the same matrix product `repeats` times, each on the result of the one before."""

    def fetch(self) -> None:
        """Bring the result of `work` to the host, which cannot be had before it is done."""

    def matrix_product(self) -> int:
        """Submit one large matrix product; returns its floating-point operations."""

    def copy(self) -> int:
        """Submit one copy of a large buffer; returns the bytes read and written."""

    def release(self) -> None:
        """Give back what the work above holds."""

    def empty_cache(self) -> None:
        """Give back what an allocator keeps for later."""

    def allocated(self) -> int:
        """Bytes in use now."""

    def free_bytes(self) -> int:
        """Bytes that may still be used."""

    def reset_peak(self) -> None:
        """Start a new peak of memory where the system can."""

    def peak(self) -> tuple[int | None, str]:
        """Largest memory since `reset_peak` in bytes, and what that number is."""


class Module(Protocol):
    """Something that runs once in each pass."""

    calls: int
    """How often it ran since this was set to 0, counted where it happens."""


class EncoderModule(Module, Protocol):
    """A vision encoder."""

    def at(self, resolution: int) -> None:
        """Be ready for images of this side."""

    def __call__(self, pixels: Array, /) -> Array:
        """Pixels (tiles, 3, R, R) -> visual tokens (tiles, N, features)."""


class ConnectorModule(Module, Protocol):
    """A connector."""

    def __call__(self, *tokens: Array) -> Array:
        """Visual tokens (tiles, N, features) of each encoder -> (tiles, M, width)."""


class FusionModule(Module, Protocol):
    """Layers within an LLM that attend to visual features, one after the other."""

    def __call__(self, hidden: Array, memory: Array, /) -> Array:
        """Hidden states (1, L, width) and what they attend to -> hidden states."""


class LanguageModule(Module, Protocol):
    """An LLM: from visual tokens and text ids to the first token."""

    vocabulary: int

    def prefill(self, before: Array, visual: Array, after: Array) -> tuple[Array, Callable[[], int]]:
        """Ids (1, T0), visual tokens (1, N, width), ids (1, T1) -> logits (1, vocabulary), and what tells the length of
        the KV cache that was written; it is asked when no clock runs any more."""

    def prefill_visual(self, visual: Array) -> None:
        """Prefill over the visual tokens alone."""

    def sample(self, logits: Array) -> int:
        """The first token's id, on the host."""


class VlmModule(Protocol):
    """A whole VLM of parts that share one process and one runtime."""

    @property
    def encoders(self) -> Sequence[EncoderModule]:
        """The first one, and those that see the same image at their own resolutions."""

    @property
    def language(self) -> LanguageModule:
        """Its LLM."""

    def at(self, resolution: int) -> None:
        """Be ready for images of this side."""

    def question_ids(self, question: str) -> tuple[list[int], list[int]] | None:
        """Ids before and after the image; None where it has no tokenizer."""

    def project(self, *features: Array) -> Array:
        """Visual tokens of each encoder -> what the LLM takes: (1, N, width), the tiles of an image in a row."""


class HubModule(Module, Protocol):
    """A VLM as its authors published it, cut into stages."""

    def prepare(self, image: bytes, question: str, text_tokens: int, number: int) -> Any:
        """Image and question as its own processor makes them, the prompt cut or repeated to so many text tokens, and
        last the number of visual tokens in it; one element of the pixels differs with `number`."""

    def put(self, prepared: Any) -> Any:
        """The same on the device."""

    def encode(self, given: Any) -> Any:
        """Visual tokens, in a form of the model's own."""

    def prefill(self, given: Any, encoded: Any) -> tuple[Array, Callable[[], int]]:
        """Logits of the last position, and what tells the length of the KV cache."""

    def prefill_visual(self, given: Any, encoded: Any) -> None:
        """Prefill over the visual tokens alone, and what its processor puts between them."""

    def sample(self, logits: Array) -> int:
        """The first token's id, on the host."""


class Runtime:
    """One runtime in one execution. Derive from it, and say in `RUNS` which kinds of component the methods make."""

    RUNS: ClassVar[frozenset[str]] = frozenset()
    """Kinds of component."""

    device: Device

    def __init__(self, execution: Execution):
        self.execution = execution

    @classmethod
    def libraries(cls) -> dict[str, str]:
        """Versions of what decides its speed; another one is another measurement."""
        return {}

    @classmethod
    def resolve_device(cls, asked: str) -> str:
        """`auto` or a name -> the device; raises `HarnessError` where it is not there."""
        if asked not in ("auto", "cpu"):
            raise HarnessError(f"device={asked}: this runtime runs on the cpu only; use device=cpu")
        return "cpu"

    def enter(self) -> None:
        """Make this process' settings (threads, ...) those of the execution; called before it is used again."""

    def session(self) -> AbstractContextManager[Any]:
        """What all passes run within."""
        return nullcontext()

    def put(self, host: np.ndarray) -> Array:
        """A host array (float32) on the device, in the execution's precision; `transfer`, and half of `handover`. Where
        nothing has to be moved it may be the same memory."""
        raise NotImplementedError

    def put_ids(self, ids: Sequence[int]) -> Array:
        """Token ids (1, T) on the device."""
        raise NotImplementedError

    def take(self, here: Array) -> np.ndarray:
        """An array of the device on the host, as float32; the other half of `handover`. Returns when it is there."""
        raise NotImplementedError

    def perturb(self, given: Array, value: float) -> None:
        """Set one element of an input, so that no two passes see the same."""
        raise NotImplementedError

    def checksum(self, out: Array) -> float:
        """A weighted sum of all elements: not finite if one of them is not, and another one for another output."""
        raise NotImplementedError

    def encoder(self, component: EncoderComponent) -> EncoderModule:
        """A vision encoder of random weights."""
        raise NotImplementedError

    def connector(self, component: ConnectorComponent) -> ConnectorModule:
        """A connector of random weights."""
        raise NotImplementedError

    def fusion(self, component: FusionComponent) -> FusionModule:
        """A fusion's layers of random weights."""
        raise NotImplementedError

    def language(self, component: LlmComponent) -> LanguageModule:
        """An LLM of random weights."""
        raise NotImplementedError

    def composed_vlm(self, component: ComposedVlmComponent) -> VlmModule:
        """A whole VLM, from its checkpoint or of random weights."""
        raise NotImplementedError

    def hub_model(self, component: HubComponent) -> HubModule:
        """A VLM as its authors published it."""
        raise NotImplementedError


@cache
def find(name: str) -> type[Runtime]:
    """The class of a runtime; raises `HarnessError` for one that does not exist or cannot be imported."""
    return registry.subclass("runtimes", name, Runtime)


def check_runs(name: str, kind: str) -> None:
    """Refuse a kind of component that a runtime cannot run."""
    if kind not in (runs := find(name).RUNS):
        raise HarnessError(f"runtime {name} runs no component of kind {kind}, only: {', '.join(sorted(runs))}")


def free_memory() -> int:
    """Bytes of the host's memory that may still be used."""
    return int(psutil.virtual_memory().available)
