"""What an answerer asks of a VLM (`AnsweringModel`), and a composed VLM that can do it.

A prompt is one sequence of ids in which every visual token has its place. Its *head* goes up to the last visual token:
all questions about an image share it, so it is prefilled once, and each question goes on from a copy of its cache.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor
from transformers import DynamicCache

from harness.models.preprocess import pixel_tensor
from harness.models.vlm import Vlm
from harness.schema import HarnessError

PLACE = -1
"""Stands for a visual token in the ids of a composed VLM."""

Prompt = dict[str, Tensor]
"""`input_ids` (1, L), and whatever else a model is told of each token."""


Images = Sequence[bytes | Image.Image]
"""The image of a question, or several: as they are stored, or decoded."""


@dataclass(frozen=True)
class Prepared:
    """An image and prompts about it as a VLM takes them; on the host."""

    image: dict[str, Tensor]
    """Pixels, and sizes where the model wants them."""
    prompts: tuple[Prompt, ...]


@dataclass(eq=False)
class Prefilled:
    """What a prefill left behind."""

    logits: Tensor
    """Of the last position (B, vocabulary)."""
    cache: DynamicCache
    shift: int = 0
    """What is added to the cache's length for the position of the next token (multimodal rotary positions)."""

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of the cache."""
        kept = [tensor for layer in self.cache.layers for tensor in vars(layer).values() if isinstance(tensor, Tensor)]
        return sum(tensor.numel() * tensor.element_size() for tensor in kept) // max(1, len(self.logits))

    def select(self, rows: Tensor) -> Prefilled:
        """A copy whose row i is row `rows[i]`; the cache may grow without changing this one."""
        cache = copy_rows(self.cache, rows)
        return Prefilled(self.logits[rows], cache, self.shift)


class AnsweringModel(Protocol):
    """A VLM that answers; see `Composed` and `harness.models.hub.HubVlm`."""

    identity: Any
    """Names everything that decides its answers."""
    device: torch.device

    @property
    def eos_ids(self) -> frozenset[int]:
        """Ids that end an answer."""

    def prompt(self, text: str, images: int = 1) -> tuple[int, ...]:
        """Ids of a whole prompt, each image as a placeholder."""

    def prepare(self, shown: Images, texts: Sequence[str]) -> Prepared:
        """What is shown and prompts about it; called from several threads at once."""

    def batch_key(self, prepared: Prepared) -> Hashable:
        """Equal for images that may be encoded as one batch."""

    def prefix_length(self, prompt: Prompt) -> int:
        """Length of what can be prefilled before the rest of the prompt is known."""

    def encode(self, prepared: Sequence[Prepared]) -> Any:
        """A batch of images that are alike -> their visual tokens, in a form of the model's own."""

    def begin(self, prepared: Sequence[Prepared], prompts: Sequence[Prompt], encoded: Any) -> Prefilled:
        """Prefill the heads, all of one length, of the images that were encoded together."""

    def extend(self, ids: Tensor, prefilled: Prefilled, keep: int = 1) -> Tensor:
        """More ids (B, T) on top of the cache, which grows -> logits of the last positions (B, keep, vocabulary)."""

    def detokenize(self, ids: Sequence[int]) -> str:
        """Ids of an answer as text."""

    def tokenize(self, text: str) -> list[int]:
        """Ids of the text of an answer."""


def copy_rows(cache: DynamicCache, rows: Tensor) -> DynamicCache:
    """A cache whose row i is row `rows[i]` of `cache`, whatever kinds of layers it has."""
    made = copy.copy(cache)
    made.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in made.layers:
        layer.batch_select_indices(rows)
    return made


class Composed:
    """A composed VLM at one resolution."""

    def __init__(self, vlm: Vlm, resolution: int, weights: str = ""):
        """`weights` names them in the identity."""
        self.vlm, self.resolution = vlm, resolution
        first = next(vlm.parameters())
        self.device, self.dtype = first.device, first.dtype
        attention, spec = vlm.llm.config._attn_implementation, vlm.spec.model_dump(mode="json")
        self.identity = [weights, spec, str(first.dtype), attention, resolution]
        self.eos_ids = frozenset([vlm.end])

    def prompt(self, text: str, images: int = 1) -> tuple[int, ...]:
        """Ids of a whole prompt, the image as one `PLACE`; raises `HarnessError` for several."""
        if images != 1:
            raise HarnessError(f"a question has {images} images; a composed VLM takes exactly one")
        before, after = self.vlm.question_ids(text)
        return (*before, PLACE, *after)

    def prepare(self, shown: Images, texts: Sequence[str]) -> Prepared:
        """Pixels (1, 3, R, R), and prompts with a `PLACE` for each visual token."""
        pixels = pixel_tensor(shown[0], self.vlm.spec.encoder, self.resolution)
        count = self.vlm.spec.connector.visual_tokens(self.vlm.spec.encoder.visual_tokens(self.resolution))
        prompts = []
        for text in texts:
            before, after = self.vlm.question_ids(text)
            prompts.append({"input_ids": torch.tensor([[*before, *([PLACE] * count), *after]])})
        return Prepared({"pixel_values": pixels}, tuple(prompts))

    def batch_key(self, prepared: Prepared) -> Hashable:
        """All images are squares of one size."""
        return None

    def prefix_length(self, prompt: Prompt) -> int:
        """Up to the last visual token."""
        return int((prompt["input_ids"][0] == PLACE).nonzero()[-1]) + 1

    def encode(self, prepared: Sequence[Prepared]) -> Tensor:
        """Visual tokens (B, N, W)."""
        pixels = torch.cat([one.image["pixel_values"] for one in prepared])
        return self.vlm.project(self.vlm.encode(pixels.to(self.device, self.dtype)))

    def begin(self, prepared: Sequence[Prepared], prompts: Sequence[Prompt], encoded: Tensor) -> Prefilled:
        """Prefill what stands before each image, and it."""
        size = self.prefix_length(prompts[0])
        ids = torch.cat([prompt["input_ids"][:, :size] for prompt in prompts]).to(self.device)
        before = ids[:, : size - encoded.shape[1]]
        return Prefilled(*self.vlm.prefill(self.vlm.prompt(encoded, before, ids[:, size:])))

    def extend(self, ids: Tensor, prefilled: Prefilled, keep: int = 1) -> Tensor:
        """More ids on top of the cache."""
        return self.vlm.decode(ids, prefilled.cache, keep)

    def detokenize(self, ids: Sequence[int]) -> str:
        """Ids of an answer as text."""
        return str(self.vlm.text().decode(list(ids), skip_special_tokens=True))

    def tokenize(self, text: str) -> list[int]:
        """Ids of the text of an answer."""
        return list(self.vlm.text().encode(text, add_special_tokens=False))
