"""Stage `pages`: an encoder that knows its letters learns to read what stands at a place of a whole scene.

From the visual token that holds an item's centre, at every resolution: which word, number or coloured shape is it, and
what does it belong to (its row's key, its sign's colour)? The parts that learned the letters stay as they are, and the
reader is thrown away afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.models.encoders import VisionEncoder
from harness.models.preprocess import normalise
from harness.suites import embedded
from harness.train.descent import Course, Descended, Schedule, descend
from harness.train.letters import Reader, depths_of, share_right, tensors
from harness.train.pool import CONTEXTS, DIGITS, Pool, labels


@dataclass(frozen=True)
class PagesRecipe:
    """How long and how fast pages are learned."""

    images: dict[str, int]
    """How many scenes of each suite are drawn."""
    shares: dict[int, float]
    """Share of each resolution among the steps."""
    steps: int
    batch: int
    lr: float
    warmup: float

    @property
    def schedule(self) -> Schedule:
        """Steps and rates."""
        return Schedule(self.steps, self.warmup)


def decides(letters: str, recipe: PagesRecipe, seed: int) -> list[object]:
    """Everything that decides what an encoder has learned from pages, after the letters of that identity."""
    return [letters, vars(recipe), embedded.fingerprint_of_drawing(), seed]


@dataclass(frozen=True)
class Page:
    """A batch of whole images at one resolution with everything that stands on them (see `Pool`)."""

    pixels: Tensor
    place: Tensor
    label: Tensor
    digits: Tensor
    context: Tensor

    @classmethod
    def draw(cls, pool: Pool, rng: np.random.Generator, batch: int, resolution: int, device: torch.device) -> Page:
        """Images (batch, R, R, 3), all shifted by the same few pixels (up to 3% of the side)."""
        rows = np.sort(rng.choice(len(pool), batch, replace=False))
        reach = max(1, round(0.03 * resolution))
        shift = rng.integers(-reach, reach + 1, 2)
        images = np.roll(pool.images[resolution][rows], shift[::-1], axis=(1, 2))
        moved = (shift / resolution).astype(np.float32)
        arrays = (
            images,
            pool.place[rows, :, :2] + moved,
            pool.label[rows],
            pool.digits[rows],
            pool.context[rows],
        )
        return cls(*tensors(arrays, device))


class PageReading(nn.Module):
    """An encoder with its reader of items; what learned the letters is fixed."""

    def __init__(self, encoder: VisionEncoder):
        super().__init__()
        self.encoder = encoder
        self.classes = len(labels())
        self.items = Reader(encoder.spec.features, self.classes * (1 + CONTEXTS) + DIGITS * 11)
        self._fixed = depths_of(encoder).letters
        for module in self._fixed:
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> PageReading:
        """As modules do it, but statistics of what is fixed stay as they are."""
        super().train(mode)
        for module in self._fixed:
            module.eval()
        return self

    def forward(self, page: Page) -> tuple[Tensor, dict[str, float]]:
        """The sum of three cross-entropies over what is known, and the share of right readings of each."""
        tokens = self.encoder(normalise(page.pixels, self.encoder.spec))
        word, around, number = self.items(tokens, page.place).split(
            [self.classes, self.classes * CONTEXTS, DIGITS * 11], -1
        )
        parts = {
            "word": (word, page.label),
            "context": (around.unflatten(-1, (CONTEXTS, self.classes)), page.context),
            "digit": (number.unflatten(-1, (DIGITS, 11)), page.digits),
        }
        total = tokens.new_zeros(())
        right = {}
        for name, (logits, target) in parts.items():
            known = target >= 0
            if known.any():
                total = total + F.cross_entropy(logits[known], target[known])
                right[f"{name}@{page.pixels.shape[1]}"] = share_right(logits[known], target[known])
        return total, right


def learn_pages(encoder: VisionEncoder, pool: Pool, recipe: PagesRecipe, seed: int, course: Course) -> Descended:
    """Run the stage in place."""
    torch.manual_seed(seed)
    reading = PageReading(encoder).train()
    resolutions, shares = list(recipe.shares), np.array(list(recipe.shares.values()))

    def step(rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        resolution = int(rng.choice(resolutions, p=shares / shares.sum()))
        loss, right = reading(Page.draw(pool, rng, recipe.batch, resolution, course.device))
        return loss, right

    done = descend(course, reading, [(reading.parameters(), recipe.lr)], step, recipe.schedule, seed)
    encoder.requires_grad_(True).eval()
    return done
