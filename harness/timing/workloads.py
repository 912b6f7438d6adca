"""What a pass of each kind of component is: a generator that yields a stage's name when its work has been submitted.

A workload runs on any runtime (`harness.runtimes`) and knows no library. It makes inputs that never repeat, counts how
often the modules really ran, and keeps what a pass left behind for the bench to check; `harness.timing.bench` owns the
clock and decides between which stages it waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Generic, TypeVar, cast

import numpy as np

from harness.models.preprocess import pixel_tensor
from harness.models.tokenizer import build_tokenizer
from harness.runtimes import Array, LanguageModule, Module, Runtime
from harness.schema import (
    Component,
    ComposedVlmComponent,
    ConnectorComponent,
    Encoder,
    EncoderComponent,
    Execution,
    FusionComponent,
    HandoverComponent,
    HubComponent,
    LlmComponent,
)

Example = tuple[bytes, str]
"""An encoded image and a question about it."""
Runtimes = Callable[[Execution], Runtime]
"""The runtime of an execution, the same one each time it is asked."""

INPUTS = 8
"""Different inputs of a module that gets no images; they return after a while, their content never does."""
MANY = 10**7
"""Elements of an input from which one is enough: one element changes with every pass in any case."""
KEPT = 4
"""Outputs of passes that wait to be checked."""


@dataclass
class Passes:
    """How often something ran that is no module."""

    calls: int = 0


@dataclass
class PassSummary:
    """What one pass left behind, for the bench to check."""

    calls: int
    """How often the module that is timed ran; of several one that did not run once."""
    visual_tokens: int
    text_tokens: int


C = TypeVar("C", bound=Component)


class Workload(Generic[C]):
    """What all kinds of component share; `build` makes the one that a component asks for."""

    KINDS: ClassVar[dict[str, type[Workload[Any]]]] = {}

    def __init__(self, runtimes: Runtimes, component: C, examples: Sequence[Example]):
        self.runtimes, self.component, self.examples = runtimes, component, examples
        self.runtime = runtimes(component.execution)
        self.wait = self.runtime.device.wait
        self.modules: list[Module] = []
        self._out: Array = None
        self._tokens = (0, 0)
        self._outs: list[Array] = []
        self._sums: list[float] = []
        self._inputs: list[Array] = []
        self._made: dict[tuple[int, ...], list[Array]] = {}
        self.load()
        self.at(component)

    def __init_subclass__(cls, kind: str = "") -> None:
        if kind:
            Workload.KINDS[kind] = cls

    def load(self) -> None:
        """Build the component."""
        raise NotImplementedError

    def at(self, component: C) -> None:
        """The same modules for another resolution or number of tokens."""
        self.component = component

    def run(self, number: int) -> Iterator[str]:
        """A pass with input `number`; yields each stage's name when its work is submitted."""
        raise NotImplementedError

    def extra_stages(self) -> Iterator[str]:
        """What is timed right after a pass, on the same input."""
        return iter(())

    def outputs(self) -> PassSummary:
        """What the last pass left behind."""
        calls = next((module.calls for module in self.modules if module.calls != 1), 1)
        self._outs.append(self._out)
        if len(self._outs) == KEPT:
            self._add_up()
        return PassSummary(calls, *self._tokens)

    def checksums(self) -> list[float]:
        """Of each pass since this was asked last, a weighted sum of its output."""
        self._add_up()
        sums, self._sums = self._sums, []
        return sums

    def _add_up(self) -> None:
        self._sums += [self.runtime.checksum(out) for out in self._outs]
        self._outs.clear()

    def _start(self) -> None:
        self._tokens = (0, 0)
        for module in self.modules:
            module.calls = 0

    def _noise(self, runtime: Runtime, *shape: int, least: int = 1, most: int = INPUTS) -> list[Array]:
        """Different arrays of unit variance, made once: `most` of them, or `least` where that is much."""
        if shape not in self._made:
            generator = np.random.default_rng(0)
            count = most if np.prod(shape) < MANY else least
            made = (generator.standard_normal(shape, dtype=np.float32) for _ in range(count))
            self._made[shape] = [runtime.put(array) for array in made]
        return self._made[shape]

    def _input(self, number: int) -> Array:
        return self._inputs[number % len(self._inputs)]

    def _perturb_input(self, number: int, runtime: Runtime | None = None) -> None:
        """Change one element of the input of pass `number`. Called behind the last stage of the pass before, where no
        clock runs."""
        (runtime or self.runtime).perturb(self._input(number), (number % 997) / 997)

    def _pixels(self, number: int, encoder: Encoder, resolution: int, tiles: int) -> np.ndarray:
        """Image `number` as an encoder takes it, on the host."""
        encoded, _ = self.examples[number % len(self.examples)]
        pixels: np.ndarray = pixel_tensor(encoded, encoder, resolution, tiles).numpy()
        pixels[0, 0, 0, 0] = (number % 997) / 997  # the images return after a while; their pixels never do
        return pixels

    def _prompt(
        self, number: int, vocabulary: int, ids: Callable[[str], tuple[list[int], list[int]] | None] = lambda _: None
    ) -> tuple[list[int], list[int]]:
        """Ids before and after the image: question `number`, of the length that the protocol asks for."""
        question = self.examples[number % len(self.examples)][1]
        before, after = ids(question) or stand_in_ids(question)
        return fit(before, after, self.component.text_tokens, vocabulary)


class EncoderWorkload(Workload[EncoderComponent], kind="encoder"):
    """Bytes of an image -> visual tokens."""

    def load(self) -> None:
        """Build it in its inference form."""
        self.encoder = self.runtime.encoder(self.component)
        self.modules = [self.encoder]

    def at(self, component: EncoderComponent) -> None:
        """The same encoder at another resolution."""
        self.encoder.at(component.resolution)
        super().at(component)

    def run(self, number: int) -> Iterator[str]:
        """Bytes of an image -> visual tokens."""
        self._start()
        component = self.component
        pixels = self._pixels(number, component.encoder, component.resolution, component.tiles)
        yield "preprocess"
        there = self.runtime.put(pixels)
        yield "transfer"
        self._out = self.encoder(there)
        yield "encode"
        self._tokens = (self._out.shape[0] * self._out.shape[1], 0)


class HandoverWorkload(Workload[HandoverComponent], kind="handover"):
    """Visual tokens from one runtime to another, through the host's memory."""

    def load(self) -> None:
        """The runtime that they come from."""
        self.source = self.runtimes(self.component.source)
        self.modules = [Passes()]

    def at(self, component: HandoverComponent) -> None:
        """Another number of tokens."""
        tokens = component.visual_tokens // component.tiles
        # What is handed over may be the same memory: no input changes while an output of it waits to be checked.
        self._inputs = self._noise(self.source, component.tiles, tokens, component.features, least=KEPT + 1)
        super().at(component)

    def run(self, number: int) -> Iterator[str]:
        """An array of one runtime -> an array of the other."""
        self._start()
        self._out = self.runtime.put(self.source.take(self._input(number)))
        yield "handover"
        self.modules[0].calls += 1
        self._tokens = (self._out.shape[0] * self._out.shape[1], 0)
        self._perturb_input(number + 1, self.source)


class ConnectorWorkload(Workload[ConnectorComponent], kind="connector"):
    """Visual tokens -> the LLM's width, on random visual tokens."""

    def load(self) -> None:
        """Build it."""
        self.connector = self.runtime.connector(self.component)
        self.modules = [self.connector]

    def at(self, component: ConnectorComponent) -> None:
        """The same connector on another number of tiles."""
        (tokens, features), *more = component.inputs
        self._inputs = self._noise(self.runtime, component.tiles, tokens, features)
        self._more = [self._noise(self.runtime, 1, *shape, most=1)[0] for shape in more]
        super().at(component)

    def run(self, number: int) -> Iterator[str]:
        """Visual tokens -> the LLM's width."""
        self._start()
        self._out = self.connector(self._input(number), *self._more)
        yield "project"
        self._tokens = (self._out.shape[0] * self._out.shape[1], 0)
        self._perturb_input(number + 1)


class FusionWorkload(Workload[FusionComponent], kind="fusion"):
    """Layers within an LLM that attend to visual features, alone: random hidden states and a random memory."""

    def load(self) -> None:
        """Build them and what they attend to."""
        self.fused = self.runtime.fusion(self.component)
        self.modules = [self.fused]
        self._memory = self._noise(self.runtime, *self.component.fusion.memory, most=1)[0]

    def at(self, component: FusionComponent) -> None:
        """The same layers on another number of tokens."""
        length = component.visual_tokens + component.text_tokens
        self._inputs = self._noise(self.runtime, 1, length, component.width)
        super().at(component)

    def run(self, number: int) -> Iterator[str]:
        """Hidden states -> hidden states that have seen the image."""
        self._start()
        self._out = self.fused(self._input(number), self._memory)
        yield "fuse"
        self._tokens = (self._out.shape[1] - self.component.text_tokens, self.component.text_tokens)
        self._perturb_input(number + 1)


class LanguageWorkload(Workload[C]):
    """What an LLM alone and an LLM in a whole VLM share: from visual tokens and a prompt to the first token."""

    language: LanguageModule
    _visual: Array

    def _first_token(self, before: Array, after: Array) -> Iterator[str]:
        """The last stages of a pass: text ids (1, T0) and (1, T1) around the visual tokens."""
        self._out, length = self.language.prefill(before, self._visual, after)
        yield "prefill"
        self.language.sample(self._out)
        yield "sample"
        text = before.shape[1] + after.shape[1]
        self._tokens = (length() - text, text)

    def extra_stages(self) -> Iterator[str]:
        """Prefill over the visual tokens of the last pass alone: the paper's definition."""
        if self.component.visual_tokens:
            self.language.prefill_visual(self._visual)
            yield "prefill_visual"


class LlmWorkload(LanguageWorkload[LlmComponent], kind="llm"):
    """A question -> ids; ids and random visual tokens -> the first token's id."""

    def load(self) -> None:
        """Build it."""
        self.language = self.runtime.language(self.component)
        self.modules = [self.language]

    def at(self, component: LlmComponent) -> None:
        """The same LLM on another number of tokens."""
        width = component.llm.config["hidden_size"]
        self._inputs = self._noise(self.runtime, 1, component.visual_tokens, width)
        super().at(component)

    def run(self, number: int) -> Iterator[str]:
        """A question -> ids; ids and visual tokens -> the first token's id."""
        self._start()
        before, after = self._prompt(number, self.language.vocabulary)
        if not self.component.visual_tokens:  # then the text is all that can differ from pass to pass
            after[0] = number % self.language.vocabulary
        yield "tokenize"
        self._visual = self._input(number)
        first, second = map(self.runtime.put_ids, (before, after))
        yield "transfer"
        yield from self._first_token(first, second)
        self._perturb_input(number + 1)


class ComposedVlmWorkload(LanguageWorkload[ComposedVlmComponent], kind="composed_vlm"):
    """A whole VLM, from its checkpoint or with random weights."""

    def load(self) -> None:
        """Load it, or build it."""
        self.vlm = self.runtime.composed_vlm(self.component)
        self.language = self.vlm.language
        self.modules = [self.vlm.encoders[0], self.language]

    def at(self, component: ComposedVlmComponent) -> None:
        """The same VLM at another resolution."""
        self.vlm.at(component.resolution)
        super().at(component)

    def run(self, number: int) -> Iterator[str]:
        """One pass from image bytes and a question to the first token's id, stage by stage."""
        self._start()
        component = self.component
        images = [self._pixels(number, component.encoder, component.resolution, component.tiles)]
        images += [self._pixels(number, encoder, encoder.native, 1) for encoder in component.also]
        yield "preprocess"
        before, after = self._prompt(number, self.language.vocabulary, self.vlm.question_ids)
        yield "tokenize"
        there = [self.runtime.put(pixels) for pixels in images]
        first, second = map(self.runtime.put_ids, (before, after))
        yield "transfer"
        features = [encoder(pixels) for encoder, pixels in zip(self.vlm.encoders, there, strict=True)]
        yield "encode"
        self._visual = self.vlm.project(*features)
        yield "project"
        yield from self._first_token(first, second)


class HubWorkload(Workload[HubComponent], kind="hub"):
    """A VLM as its authors published it: its own processor, its own classes, cut into stages."""

    def load(self) -> None:
        """Load it from its safetensors."""
        self.model = self.runtime.hub_model(self.component)
        self.modules = [self.model]

    def run(self, number: int) -> Iterator[str]:
        """One pass from image bytes and a question to the first token's id, stage by stage."""
        self._start()
        image, question = self.examples[number % len(self.examples)]
        prepared = self.model.prepare(image, question, self.component.text_tokens, number)
        yield "preprocess"
        self._given = self.model.put(prepared)
        yield "transfer"
        self._encoded = self.model.encode(self._given)
        yield "encode"
        self._out, length = self.model.prefill(self._given, self._encoded)
        yield "prefill"
        self.model.sample(self._out)
        yield "sample"
        self._tokens = (prepared[-1], length() - prepared[-1])

    def extra_stages(self) -> Iterator[str]:
        """Prefill over the visual tokens of the last pass alone, and what its processor puts between them."""
        self.model.prefill_visual(self._given, self._encoded)
        yield "prefill_visual"


def build(runtimes: Runtimes, component: Component, examples: Sequence[Example]) -> Workload[Any]:
    """The component, ready to be timed."""
    return Workload.KINDS[component.kind](runtimes, component, examples)


def stand_in_ids(question: str) -> tuple[list[int], list[int]]:
    """Ids before and after the image where the LLM has no tokenizer: the reference family's, without its words."""
    return [0], _stand_in().encode(question, add_special_tokens=False) or [0]


def fit(before: list[int], after: list[int], length: int, vocabulary: int) -> tuple[list[int], list[int]]:
    """A prompt of `length` ids in all, its question cut or repeated: the length decides the latency, not the words."""
    return before, [after[k % len(after)] % vocabulary for k in range(length - len(before))]


@cache
def _stand_in() -> Any:
    """Tokenizer of the reference family without its words."""
    return cast(Any, build_tokenizer([]))
