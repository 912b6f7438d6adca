"""From conversations to the loss of a step: its samples, how they become tensors, and what learns from them."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.configuration.options import FinetuneOptions, Stage
from harness.models.answering import PLACE
from harness.models.preprocess import decode_image, fill_of, normalise, square
from harness.models.vlm import Vlm
from harness.schema import HarnessError
from harness.storage.intake import IMAGE_BYTES, read_bytes
from harness.train.conversations import Conversations, Sample, Tokens, tokenise
from harness.train.dialogues import IGNORED
from harness.train.parts import HEADS


@dataclass(frozen=True)
class Example:
    """A sample as the model takes it."""

    tokens: Tokens
    pixels: Tensor | None
    """uint8 (R, R, 3)."""


@dataclass
class Lessons:
    """Samples in the order of a training, prepared by threads."""

    samples: Conversations
    vlm: Vlm
    options: FinetuneOptions
    stage: Stage
    resolution: int

    @property
    def steps(self) -> int:
        """Steps of the whole training; an epoch's last one may have fewer samples."""
        return self.stage.epochs * self._steps

    @property
    def _steps(self) -> int:
        """Steps of an epoch."""
        return math.ceil(len(self.samples) / self.stage.batch)

    def batch(self, step: int) -> list[int]:
        """Which samples a step has, over all processes: decided by the seed alone."""
        epoch, place = divmod(step, self._steps)
        order = np.random.default_rng([self.options.seed, epoch]).permutation(len(self.samples))
        return [int(k) for k in order[place * self.stage.batch : (place + 1) * self.stage.batch]]

    def share(self, step: int, rank: int, processes: int) -> list[tuple[int, bool]]:
        """The part of one process, as many as any other has: whoever is short repeats a sample that does not count."""
        batch = self.batch(step)
        short = -len(batch) % processes
        return [*((k, True) for k in batch), *((batch[0], False) for _ in range(short))][rank::processes]

    def example(self, number: int, counts: bool) -> Example:
        """A sample, read and prepared; it has no targets if it does not count, or cannot be used and `bad` is skip."""
        sample = self.samples[number]
        tokens = tokenise(sample, self.vlm, self.visual, self.stage.plain, self.options.length)
        pixels = None
        try:
            pixels = self._pixels(sample)
        except HarnessError as error:
            told = f"{sample.name}: {error}"
            if self.options.bad == "refuse":
                raise HarnessError(f"{told}; mend it, or go on without it with bad=skip") from error
            print(told, file=sys.stderr)
            counts, tokens = False, Tokens([0], [-1])
        return Example(tokens if counts else Tokens(tokens.ids, [IGNORED] * len(tokens.ids)), pixels)

    def _pixels(self, sample: Sample) -> Tensor | None:
        """The image of a sample, padded and resized: uint8 (R, R, 3)."""
        if sample.image is None:
            return None
        image = decode_image(read_bytes(sample.image, IMAGE_BYTES))
        return torch.from_numpy(square(image, self.resolution, fill_of(self.vlm.spec.encoder)).copy())

    @property
    def visual(self) -> int:
        """Visual tokens of an image."""
        spec = self.vlm.spec
        return spec.connector.visual_tokens(spec.encoder.visual_tokens(self.resolution))

    def ahead(self, begin: int, rank: int, processes: int) -> Iterator[tuple[int, list[Example]]]:
        """The share of every step from `begin` on; the next one is prepared while a step is computed."""
        with ThreadPoolExecutor(self.options.workers) as pool:

            def ask(step: int) -> list[Future[Example]]:
                if step >= self.steps:
                    return []
                return [pool.submit(self.example, *one) for one in self.share(step, rank, processes)]

            asked = ask(begin)
            for step in range(begin, self.steps):
                following = ask(step + 1)
                yield step, [one.result() for one in asked]
                asked = following


def collate(examples: Sequence[Example], resolution: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels uint8 (I, R, R, 3), ids and targets (B, L). Without any image a black one stands in, which is encoded for
    nothing: processes that train together have to compute the same layers."""
    length = max(len(example.tokens.ids) for example in examples)
    ids = torch.zeros(len(examples), length, dtype=torch.long)
    target = torch.full((len(examples), length), IGNORED)
    for row, example in enumerate(examples):
        size = len(example.tokens.ids)
        ids[row, :size] = torch.tensor(example.tokens.ids)
        target[row, :size] = torch.tensor(example.tokens.target)
    pixels = [example.pixels for example in examples if example.pixels is not None]
    black = torch.zeros(resolution, resolution, 3, dtype=torch.uint8)
    return torch.stack(pixels or [black]), ids, target


class Lesson(nn.Module):
    """A VLM as one module from samples to a loss, with what its stage leaves alone frozen.

    Everything is called within one `forward`, as processes that share weights or gradients want it.
    """

    def __init__(self, vlm: Vlm, stage: Stage, autocast: bool):
        """`autocast`: compute in bfloat16; the weights stay as they are."""
        super().__init__()
        self.vlm, self.autocast, self.sees = vlm, autocast, "encoder" in stage.learns
        vlm.requires_grad_(False)
        for name in stage.learns:
            getattr(vlm, name).requires_grad_(True)
        for head in HEADS:  # after the last features: never called
            if isinstance(found := getattr(vlm.encoder.backbone, head, None), nn.Module):
                found.requires_grad_(False)
        self.train()
        vlm.encoder.eval()  # batch norms keep the statistics that they came with

    def forward(self, pixels: Tensor, ids: Tensor, target: Tensor) -> Tensor:
        """Pixels, ids and targets (see `collate`) -> the sum of the cross-entropies."""
        vlm = self.vlm
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=self.autocast):
            with contextlib.nullcontext() if self.sees else torch.no_grad():
                seen = vlm.encode(normalise(pixels, vlm.spec.encoder))
            visual = vlm.project(seen).flatten(0, 1)
            embeddings = vlm.llm.get_input_embeddings()(ids.clamp(min=0))
            places = ids == PLACE
            if bool(places.any()):
                embeddings = embeddings.clone()
                embeddings[places] = visual.to(embeddings.dtype)
            else:  # the image stands in for none: its gradients are zeros, but they are there
                embeddings = embeddings + 0.0 * visual.sum()
            # No mask: sequences are filled up at their ends, where a causal model does not look.
            hidden = vlm.llm.base_model(inputs_embeds=embeddings, use_cache=False).last_hidden_state
            asked = target != IGNORED
            logits = vlm.llm.get_output_embeddings()(hidden[asked])
        return F.cross_entropy(logits.float(), target[asked], reduction="sum")
