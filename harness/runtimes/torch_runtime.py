"""Stages on torch: cpu, cuda and mps with the same code.

The runtime is the instrument: `run` is a generator that yields a stage's name when its work has been submitted, and
`wait` returns when the device has finished. `harness.bench` owns the clock and decides between which stages it waits.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from harness.models.preprocess import pixel_tensor
from harness.models.tokenizer import build_tokenizer
from harness.models.vlm import Vlm, VlmSpec, folder_of, hash_checkpoint, load_vlm
from harness.schema import HarnessError, Point


@dataclass
class Outputs:
    """What one pass left behind, for the bench to check."""

    visual_tokens: int = 0
    text_tokens: int = 0
    logits: Tensor | None = None
    encoder_calls: int = 0


@dataclass
class TorchRuntime:
    """One VLM on one torch device."""

    vlm: Vlm
    device: torch.device
    dtype: torch.dtype
    resolution: int
    text_tokens: int
    """Prompt length for a VLM without a tokenizer of its own."""
    outputs: Outputs = field(default_factory=Outputs)

    @classmethod
    def load(cls, point: Point) -> TorchRuntime:
        """Build the point's VLM, from its checkpoint or with random weights, on its device."""
        torch.set_num_threads(point.threads)
        torch.set_flush_denormal(True)
        device, dtype = torch.device(point.device), getattr(torch, point.dtype)
        if point.checkpoint:
            if (found := hash_checkpoint(folder_of(point.checkpoint))) != point.weights:
                raise HarnessError(
                    f"{point.checkpoint} was replaced since the sweep began ({point.weights} -> {found})"
                )
            vlm = load_vlm(folder_of(point.checkpoint), point.attention)
            _cast(vlm, dtype)
        else:
            spec = VlmSpec(encoder=point.encoder, connector=point.connector, llm=point.llm, training_form=False)
            torch.manual_seed(0)
            vlm = Vlm(spec, attention=point.attention, device=device, dtype=dtype)
        vlm.encoder.prepare(point.resolution)
        return cls(vlm.to(device).eval(), device, dtype, point.resolution, point.protocol.text_tokens)

    def wait(self) -> None:
        """Return when everything submitted to the device is done; on the CPU calls are synchronous."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()

    @torch.inference_mode()
    def run(self, encoded: bytes, question: str) -> Iterator[str]:
        """One pass from image bytes and a question to the first token's id, stage by stage."""
        self.outputs = out = Outputs()
        pixels = pixel_tensor(encoded, self.vlm.spec.encoder, self.resolution)
        yield "preprocess"
        before, after = self._ids(question)
        yield "tokenize"
        pixels = pixels.to(self.device, self.dtype)
        first, second = (torch.tensor([ids], device=self.device) for ids in (before, after))
        yield "transfer"
        features = self.vlm.encode(pixels)
        out.encoder_calls += 1
        yield "encode"
        visual = self.vlm.project(features)
        yield "project"
        logits, _ = self.vlm.prefill(self.vlm.prompt(visual, first, second))
        yield "prefill"
        int(logits.argmax(-1).item())
        yield "sample"
        out.visual_tokens, out.text_tokens, out.logits = visual.shape[1], len(before) + len(after), logits
        self._visual = visual

    @torch.inference_mode()
    def prefill_visual(self) -> Iterator[str]:
        """Prefill over the visual tokens of the last pass alone: the paper's definition."""
        self.vlm.prefill(self._visual)
        yield "prefill_visual"

    def _ids(self, question: str) -> tuple[list[int], list[int]]:
        if self.vlm.tokenizer is not None:
            return self.vlm.question_ids(question)
        # Random weights: the length of the prompt decides the latency, its ids do not. The reference tokenizer
        # stands in, and its ids are repeated to the protocol's length.
        ids = _stand_in().encode(question, add_special_tokens=False) or [0]
        vocabulary = self.vlm.llm.config.vocab_size
        ids = [ids[k % len(ids)] % vocabulary for k in range(self.text_tokens)]
        return ids[:1], ids[1:]

    def at(self, resolution: int, text_tokens: int) -> TorchRuntime:
        """The same VLM at another resolution."""
        self.resolution, self.text_tokens = resolution, text_tokens
        self.vlm.encoder.prepare(resolution)
        return self

    def reset_peak(self) -> None:
        """Start a new peak of memory where the system can."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        elif sys.platform == "linux":
            self._own_peak = True
            try:
                Path("/proc/self/clear_refs").write_text("5")
            except OSError:  # a hardened container forbids it
                self._own_peak = False

    def peak(self) -> tuple[int | None, str]:
        """Largest memory since `reset_peak` in bytes, and what that number is."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device), "CUDA allocator peak"
        if self.device.type == "mps":
            return torch.mps.current_allocated_memory(), "MPS allocated now (torch has no peak)"
        if sys.platform == "linux":
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("VmHWM"):
                    since = "" if self._own_peak else " since its start"
                    return int(line.split()[1]) * 1024, f"process peak{since} (VmHWM)"
            return None, "unknown"
        if sys.platform == "win32":
            return None, "unknown"
        import resource

        scale = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale, "process peak since its start (ru_maxrss)"


def _cast(vlm: Vlm, dtype: torch.dtype) -> None:
    """Weights in `dtype`; the rotary frequencies of the LLM stay in float32, as transformers keeps them."""
    vlm.encoder.to(dtype)
    vlm.connector.to(dtype)
    for parameter in vlm.llm.parameters():
        parameter.data = parameter.data.to(dtype)


@cache
def _stand_in() -> PreTrainedTokenizerFast:
    """Tokenizer of the reference family without its words."""
    return build_tokenizer([])
