"""Stages on torch: cpu, cuda and mps with the same code.

The runtime is the instrument: `run` is a generator that yields a stage's name when its work has been submitted, and
`wait` returns when the device has finished. `timing.bench` owns the clock and decides between which stages it waits.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import psutil
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from harness.models.answering import AnsweringModel, Composed, Prepared
from harness.models.connectors import build_connector
from harness.models.encoders import VisionEncoder
from harness.models.fusions import Fused
from harness.models.hub import HubVlm, fit_prompt, folder_of_hub, hash_hub, load_hub
from harness.models.llms import build_llm, prefill, splice
from harness.models.preprocess import pixel_tensor
from harness.models.tokenizer import build_tokenizer
from harness.models.vlm import Vlm, VlmSpec, folder_of, hash_checkpoint, load_vlm, move
from harness.schema import Component, Encoder, HarnessError, Point, inputs_of

Example = tuple[bytes, str]
"""An encoded image and a question about it."""

PROBE = {"cpu": 512, "cuda": 4096, "mps": 1024}
"""Side of the matrices of the timer test: some milliseconds of work."""
PRODUCT = {"cpu": 2048, "cuda": 8192, "mps": 4096}
"""Side of the matrices whose product shows the most that a device can compute."""
BUFFER = {"cpu": 256 * 2**20, "cuda": 2**30, "mps": 512 * 2**20}
"""Bytes of the buffer whose copy shows the most that it can move; several times the caches."""

MANY = 10**7
"""Elements of an input from which one is enough."""

KEPT = 4
"""PassSummary of passes that wait to be checked."""


class TorchDevice:
    """One torch device: how to wait for it, its memory, and known work for `harness.timing.timer`."""

    def __init__(self, device: str, dtype: str, threads: int):
        torch.set_num_threads(threads)
        torch.set_flush_denormal(True)
        self.device, self.dtype = torch.device(device), getattr(torch, dtype)
        self.synchronous = device == "cpu"
        self._own_peak = True
        self._kept: dict[str, Tensor] = {}

    def wait(self) -> None:
        """Return when everything submitted to the device is done; on the CPU calls are synchronous."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()

    def _tensor(self, name: str, *shape: int) -> Tensor:
        if name not in self._kept:
            made = torch.rand(*shape, device=self.device, dtype=torch.float32)
            self._kept[name] = (made / shape[-1] ** 0.5).to(self.dtype)
        return self._kept[name]

    @torch.inference_mode()
    def work(self, repeats: int) -> None:
        """Submit the same matrix product `repeats` times, each on the result of the one before."""
        side = PROBE[self.device.type]
        matrix = self._tensor("matrix", side, side)
        result = self._tensor("start", side, side)
        for _ in range(repeats):
            result = torch.mm(matrix, result).clamp_(0, 1)
        self._kept["result"] = result

    @torch.inference_mode()
    def fetch(self) -> None:
        """Bring one number of `work`'s result to the host."""
        self._kept["result"][0, 0].item()

    @torch.inference_mode()
    def matrix_product(self) -> int:
        """Submit one large matrix product; returns its floating-point operations."""
        side = PRODUCT[self.device.type]
        if "out" not in self._kept:
            self._kept["out"] = torch.empty(side, side, device=self.device, dtype=self.dtype)
        torch.mm(self._tensor("left", side, side), self._tensor("right", side, side), out=self._kept["out"])
        return 2 * side**3

    @torch.inference_mode()
    def copy(self) -> int:
        """Submit one copy of a large buffer; returns the bytes read and written."""
        count = BUFFER[self.device.type] // 4
        for name in ("source", "target"):
            if name not in self._kept:
                self._kept[name] = torch.ones(count, device=self.device, dtype=torch.float32)
        self._kept["target"].copy_(self._kept["source"])
        return 2 * 4 * count

    def release(self) -> None:
        """Give back what the probes hold."""
        self._kept.clear()
        self.empty_cache()

    def empty_cache(self) -> None:
        """Give back what the allocator keeps for later."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        elif self.device.type == "mps":
            torch.mps.empty_cache()

    def allocated(self) -> int:
        """Bytes in use now."""
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated(self.device)
        if self.device.type == "mps":
            return torch.mps.current_allocated_memory()
        return int(psutil.Process().memory_info().rss)

    def reset_peak(self) -> None:
        """Start a new peak of memory where the system can."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        elif sys.platform == "linux":
            try:
                Path("/proc/self/clear_refs").write_text("5")
                self._own_peak = True
            except OSError:  # a hardened container forbids it
                self._own_peak = False

    def peak(self) -> tuple[int | None, str]:
        """Largest memory since `reset_peak` in bytes, and what that number is."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device), "CUDA allocator (allocated, its own peak)"
        if self.device.type == "mps":
            return (
                torch.mps.current_allocated_memory(),
                "MPS allocator, sampled after the last pass (torch has no peak)",
            )
        if sys.platform == "linux":
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("VmHWM"):
                    since = "" if self._own_peak else ", peak since its start"
                    return int(line.split()[1]) * 1024, f"process (RSS, VmHWM{since})"
            return None, "unknown"
        if sys.platform == "win32":
            return int(psutil.Process().memory_info().peak_wset), "process (RSS, peak working set since its start)"
        import resource

        scale = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
        return peak, "process (RSS, ru_maxrss since its start)"


@dataclass
class PassSummary:
    """What one pass left behind, for the bench to check."""

    calls: int
    visual_tokens: int
    text_tokens: int


class Counter:
    """Counts a module's forward passes by a hook, whatever the code around it believes."""

    def __init__(self, module: nn.Module):
        self.calls = 0
        module.register_forward_hook(self._count)

    def _count(self, *_: object) -> None:
        self.calls += 1


class TorchWorkload:
    """What all kinds of component share; `build` makes the one that a component asks for.

    Passes are run under `torch.inference_mode`, which their caller enters once: a generator that entered it would do
    so at every stage, on the clock.
    """

    KINDS: ClassVar[dict[str, type[TorchWorkload]]] = {}

    def __init__(self, device: TorchDevice, component: Component, examples: Sequence[Example]):
        self.device, self.component, self.examples = device, component, examples
        self.wait = device.wait
        self.modules: list[nn.Module] = []
        self._out: Tensor = torch.zeros(())
        self._tokens = (0, 0)
        self._outs: list[Tensor] = []
        self._sums: list[float] = []
        self._weights: Tensor | None = None
        self._noises: dict[tuple[int, int, int], list[Tensor]] = {}
        self._inputs: list[Tensor] = []
        self.load()
        self._counters = [Counter(module) for module in self.modules]

    def __init_subclass__(cls, kind: str = "") -> None:
        if kind:
            TorchWorkload.KINDS[kind] = cls

    def load(self) -> None:
        """Build the component and what feeds it."""
        raise NotImplementedError

    def run(self, number: int) -> Iterator[str]:
        """A pass with input `number`; yields each stage's name when its work is submitted."""
        raise NotImplementedError

    def extra_stages(self) -> Iterator[str]:
        """What is timed right after a pass, on the same input."""
        return iter(())

    def outputs(self) -> PassSummary:
        """What the last pass left behind."""
        calls = next((counter.calls for counter in self._counters if counter.calls != 1), 1)
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
        """Reduce each output to one number; a plain sum is always near zero behind a layer norm."""
        for kept in self._outs:
            out = kept.flatten()
            if out.dtype is not torch.float32:
                out = out.float()  # half precision might overflow in the sum alone
            if self._weights is None or self._weights.numel() != out.numel():
                self._weights = (torch.arange(out.numel(), device=out.device) % 1009).float().cos()
            self._sums.append(torch.dot(out, self._weights).item())
        self._outs.clear()

    def at(self, component: Component) -> TorchWorkload:
        """The same modules for another resolution or number of tokens."""
        self.component = component
        return self

    def _noise(self, tokens: int, width: int, rows: int = 1) -> list[Tensor]:
        """Different (rows, tokens, width) of unit variance, made once: eight, or one where that is much."""
        shape = (rows, tokens, width)
        if shape not in self._noises:
            generator = torch.Generator().manual_seed(0)
            count = 8 if rows * tokens * width < MANY else 1  # one element changes with every pass in any case
            made: list[Any] = [torch.randn(shape, generator=generator) for _ in range(count)]
            self._noises[shape] = [tensor.to(self.device.device, self.device.dtype) for tensor in made]
        return self._noises[shape]

    def _perturb_input(self, number: int) -> None:
        """Change one element of the input of pass `number`: the eight return after a while, their content never does.

        Called behind the last stage of the pass before, where no clock runs.
        """
        given = self._inputs[number % len(self._inputs)]
        if given.numel():  # text that only attends to visual tokens has none among its inputs
            given[0, 0, 0] = (number % 997) / 997

    def _start(self) -> None:
        self._tokens = (0, 0)
        for counter in self._counters:
            counter.calls = 0

    def _pixels(self, number: int, encoder: Encoder, resolution: int, tiles: int) -> Tensor:
        """Image `number` as an encoder takes it, on the host."""
        encoded, _ = self.examples[number % len(self.examples)]
        pixels = pixel_tensor(encoded, encoder, resolution, tiles)
        pixels[0, 0, 0, 0] = (number % 997) / 997  # the images return after a while; their pixels never do
        return pixels


class EncoderWorkload(TorchWorkload, kind="encoder"):
    """A vision encoder of random weights."""

    def load(self) -> None:
        """Build it in its inference form."""
        assert self.component.encoder is not None
        torch.manual_seed(0)
        with torch.device(self.device.device):
            self.encoder = VisionEncoder(self.component.encoder).to(self.device.dtype).eval()
        self.modules = [self.encoder]
        self.at(self.component)

    def at(self, component: Component) -> TorchWorkload:
        """The same encoder at another resolution."""
        assert component.resolution is not None
        self.encoder.prepare(component.resolution)
        return super().at(component)

    def run(self, number: int) -> Iterator[str]:
        """Bytes of an image -> visual tokens."""
        self._start()
        component = self.component
        assert component.encoder is not None
        assert component.resolution is not None
        pixels = self._pixels(number, component.encoder, component.resolution, component.tiles)
        yield "preprocess"
        pixels = pixels.to(self.device.device, self.device.dtype)
        yield "transfer"
        self._out = self.encoder(pixels)
        yield "encode"
        self._tokens = (self._out.shape[0] * self._out.shape[1], 0)


class ConnectorWorkload(TorchWorkload, kind="connector"):
    """A connector of random weights on random visual tokens."""

    def load(self) -> None:
        """Build it and its inputs."""
        connector, llm = self.component.connector, self.component.llm
        assert connector is not None
        assert llm is not None
        torch.manual_seed(0)
        with torch.device(self.device.device):
            self.connector = build_connector(connector, inputs_of(self.component), llm.config["hidden_size"])
            self.connector.to(self.device.dtype).eval()
        self.modules = [self.connector]
        self.at(self.component)

    def at(self, component: Component) -> TorchWorkload:
        """The same connector on another number of tiles."""
        (count, features), *more = inputs_of(component)
        self._inputs = self._noise(count, features, component.tiles)
        self._more = [self._noise(*shape)[0] for shape in more]
        return super().at(component)

    def run(self, number: int) -> Iterator[str]:
        """Visual tokens -> the LLM's width."""
        self._start()
        tokens = self._inputs[number % len(self._inputs)]
        self._out = self.connector(tokens, *self._more)
        yield "project"
        self._tokens = (self._out.shape[0] * self._out.shape[1], 0)
        self._perturb_input(number + 1)


class FusionWorkload(TorchWorkload, kind="fusion"):
    """Layers within an LLM that attend to visual features, alone: random hidden states and a random memory."""

    def load(self) -> None:
        """Build them and their inputs."""
        fusion, llm = self.component.fusion, self.component.llm
        assert fusion is not None
        assert llm is not None
        torch.manual_seed(0)
        width = llm.config["hidden_size"]
        with torch.device(self.device.device):
            self.fused = Fused(fusion, width).to(self.device.dtype).eval()
        self.modules = [self.fused]
        self.width = width
        self._memory = torch.randn(fusion.memory).to(self.device.device, self.device.dtype)
        self.at(self.component)

    def at(self, component: Component) -> TorchWorkload:
        """The same layers on another number of tokens."""
        self._inputs = self._noise(component.visual_tokens + component.text_tokens, self.width)
        return super().at(component)

    def run(self, number: int) -> Iterator[str]:
        """Hidden states -> hidden states that have seen the image."""
        self._start()
        self._out = self.fused(self._inputs[number % len(self._inputs)], self._memory)
        yield "fuse"
        self._tokens = (self._out.shape[1] - self.component.text_tokens, self.component.text_tokens)
        self._perturb_input(number + 1)


class LanguageWorkload(TorchWorkload):
    """What an LLM alone and an LLM in a whole VLM share: from visual tokens and a prompt to the first token."""

    llm: PreTrainedModel
    _visual: Tensor

    def _first_token(self, first: Tensor, second: Tensor) -> Iterator[str]:
        """The last stages of a pass: text ids (1, T0) and (1, T1) around the visual tokens."""
        self._out, kv = prefill(self.llm, self._embed(first, second))
        yield "prefill"
        int(self._out.argmax(-1).item())
        yield "sample"
        text = first.shape[1] + second.shape[1]
        self._tokens = (int(kv.get_seq_length()) - text, text)

    def _embed(self, first: Tensor, second: Tensor) -> Tensor:
        return splice(self.llm, first, self._visual, second)

    def extra_stages(self) -> Iterator[str]:
        """Prefill over the visual tokens of the last pass alone: the paper's definition."""
        if self.component.visual_tokens:
            prefill(self.llm, self._visual)
            yield "prefill_visual"


class LlmWorkload(LanguageWorkload, kind="llm"):
    """An LLM of random weights on random visual tokens and a prompt of the protocol's length."""

    def load(self) -> None:
        """Build it and its inputs."""
        assert self.component.llm is not None
        torch.manual_seed(0)
        device, dtype = self.device.device, self.device.dtype
        self.llm = build_llm(self.component.llm, self.component.attention, device, dtype)
        self.modules = [self.llm]
        self.at(self.component)

    def at(self, component: Component) -> TorchWorkload:
        """The same LLM on another number of tokens."""
        assert component.llm is not None
        self._inputs = self._noise(component.visual_tokens, component.llm.config["hidden_size"])
        return super().at(component)

    def run(self, number: int) -> Iterator[str]:
        """A question -> ids; ids and visual tokens -> the first token's id."""
        self._start()
        question = self.examples[number % len(self.examples)][1]
        before, after = stand_in_ids(question)
        before, after = fit(before, after, self.component.text_tokens, self.llm.config.vocab_size)
        if not self.component.visual_tokens:  # then the text is all that can differ from pass to pass
            after[0] = number % self.llm.config.vocab_size
        yield "tokenize"
        self._visual = self._inputs[number % len(self._inputs)]
        first, second = (torch.tensor([ids], device=self.device.device) for ids in (before, after))
        yield "transfer"
        yield from self._first_token(first, second)
        self._perturb_input(number + 1)


class VlmWorkload(LanguageWorkload, kind="vlm"):
    """A whole VLM, from its checkpoint or with random weights."""

    def load(self) -> None:
        """Load it, or build it."""
        component = self.component
        encoder, connector, llm = component.encoder, component.connector, component.llm
        assert encoder is not None
        assert connector is not None
        assert llm is not None
        device, dtype = self.device.device, self.device.dtype
        if component.checkpoint:
            self.vlm = load_trained(component)
        else:
            parts: dict[str, Any] = {
                "encoder": encoder,
                "also": component.also,
                "connector": connector,
                "fusion": component.fusion,
            }
            spec = VlmSpec(**parts, llm=llm, training_form=False)
            torch.manual_seed(0)
            how: dict[str, Any] = {"attention": component.attention, "device": device, "dtype": dtype}
            self.vlm = Vlm(spec, **how, resolution=component.resolution).eval()
        self.llm = self.vlm.llm
        self.modules = [self.vlm.encoder, self.llm]
        self.at(component)

    def at(self, component: Component) -> TorchWorkload:
        """The same VLM at another resolution."""
        assert component.resolution is not None
        self.vlm.prepare(component.resolution)
        return super().at(component)

    def run(self, number: int) -> Iterator[str]:
        """One pass from image bytes and a question to the first token's id, stage by stage."""
        self._start()
        device, component = self.device.device, self.component
        assert component.encoder is not None
        assert component.resolution is not None
        images = [self._pixels(number, component.encoder, component.resolution, component.tiles)]
        images += [self._pixels(number, encoder, encoder.native, 1) for encoder in component.also]
        yield "preprocess"
        question = self.examples[number % len(self.examples)][1]
        before, after = self.vlm.question_ids(question) if self.vlm.tokenizer else stand_in_ids(question)
        before, after = fit(before, after, self.component.text_tokens, self.llm.config.vocab_size)
        yield "tokenize"
        there = [pixels.to(device, self.device.dtype) for pixels in images]
        first, second = (torch.tensor([ids], device=device) for ids in (before, after))
        yield "transfer"
        features = [self.vlm.encode(there[0])]
        features += [encoder(pixels) for encoder, pixels in zip(self.vlm.also, there[1:], strict=True)]
        yield "encode"
        self._visual = self.vlm.project(*features).flatten(0, 1)[None]  # the tiles of one image are one sequence
        yield "project"
        yield from self._first_token(first, second)

    def _embed(self, first: Tensor, second: Tensor) -> Tensor:
        return self.vlm.prompt(self._visual, first, second)

    def extra_stages(self) -> Iterator[str]:
        """Prefill over the visual tokens of the last pass alone, which then stand first."""
        if self.vlm.fused is not None:
            self.vlm.fused.places = slice(0, self._visual.shape[1])
        yield from super().extra_stages()


class PublishedWorkload(TorchWorkload, kind="published"):
    """A VLM as its authors published it: its own processor, its own classes, cut into stages."""

    def load(self) -> None:
        """Load it from its safetensors."""
        self.model = load_published(self.component)
        self.modules = [self.model.model.get_encoder(modality="image"), self.model.core]

    def run(self, number: int) -> Iterator[str]:
        """One pass from image bytes and a question to the first token's id, stage by stage."""
        self._start()
        image, question = self.examples[number % len(self.examples)]
        model, device = self.model, self.device.device
        prepared = model.prepare([image], [question])
        prompt = fit_prompt(prepared.prompts[0], model.image_token, self.component.text_tokens)
        pixels = prepared.image["pixel_values"].clone()
        pixels.view(-1)[0] = (number % 997) / 997  # the images return after a while; their pixels never do
        yield "preprocess"
        given = {**prepared.image, "pixel_values": pixels}
        there = Prepared({name: value.to(device) for name, value in given.items()}, ())
        self._prompt = {name: value.to(device) for name, value in prompt.items()}
        yield "transfer"
        self._encoded = model.encode([there])
        yield "encode"
        self._prepared = there
        prefilled = model.begin([there], [self._prompt], self._encoded, whole=True)
        self._out = prefilled.logits
        yield "prefill"
        int(self._out.argmax(-1).item())
        yield "sample"
        visual = int((prompt["input_ids"] == model.image_token).sum())
        self._tokens = (visual, int(prefilled.cache.get_seq_length()) - visual)

    def extra_stages(self) -> Iterator[str]:
        """Prefill over the visual tokens of the last pass alone, and what its processor puts between them."""
        places = (self._prompt["input_ids"][0] == self.model.image_token).nonzero()[:, 0]
        region = {name: value[:, places[0] : places[-1] + 1] for name, value in self._prompt.items()}
        self.model.begin([self._prepared], [region], self._encoded, whole=True)
        yield "prefill_visual"


def build(device: TorchDevice, component: Component, examples: Sequence[Example]) -> TorchWorkload:
    """The component, ready to be timed."""
    return TorchWorkload.KINDS[component.kind](device, component, examples)


def stand_in_ids(question: str) -> tuple[list[int], list[int]]:
    """Ids before and after the image where the LLM has no tokenizer: the reference family's, without its words."""
    return [0], _stand_in().encode(question, add_special_tokens=False) or [0]


def fit(before: list[int], after: list[int], length: int, vocabulary: int) -> tuple[list[int], list[int]]:
    """A prompt of `length` ids in all, its question cut or repeated: the length decides the latency, not the words."""
    return before, [after[k % len(after)] % vocabulary for k in range(length - len(before))]


def load_trained(wanted: Component | Point) -> Vlm:
    """The trained VLM of a component or point, on its device and in its dtype; refused if it was replaced since."""
    folder = folder_of(wanted.checkpoint)
    if (found := hash_checkpoint(folder)) != wanted.weights:
        raise HarnessError(f"{wanted.checkpoint} was replaced since the sweep began ({wanted.weights} -> {found})")
    vlm = load_vlm(folder, wanted.attention, own=wanted.encoder)
    return move(vlm, wanted.device, getattr(torch, wanted.dtype))


def load_published(wanted: Component | Point) -> HubVlm:
    """The published VLM of a component or point, on its device and in its dtype."""
    assert wanted.published is not None
    folder = folder_of_hub(wanted.published.path, wanted.published.revision)
    if (found := hash_hub(folder)) != wanted.weights:
        raise HarnessError(f"{wanted.published.path} was replaced since the sweep began ({wanted.weights} -> {found})")
    dtype = getattr(torch, wanted.dtype)
    return load_hub(folder, wanted.published.override, wanted.attention, wanted.device, dtype, wanted.weights)


def load_point(point: Point) -> AnsweringModel:
    """A point's VLM, ready to be asked."""
    if point.published is not None:
        return load_published(point)
    vlm = load_trained(point)
    vlm.encoder.prepare(point.resolution)
    return Composed(vlm, point.resolution, point.weights)


@cache
def _stand_in() -> PreTrainedTokenizerFast:
    """Tokenizer of the reference family without its words."""
    return build_tokenizer([])
