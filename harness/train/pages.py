"""Stage `pages`: an encoder that knows its letters learns to read what stands at a place of a whole scene.

From the visual token that holds an item's centre, at every resolution: which word, number or coloured shape is it, what
does it belong to (its row's key, its sign's colour), and where on the page is it? The parts that learned the letters
stay as they are, and the reader is thrown away afterwards.
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

BINS = 8
"""Of each axis of a page, from which the place of an item is told."""


@dataclass(frozen=True)
class PagesRecipe:
    """How long and how fast pages are learned."""

    images: dict[str, int]
    """How many scenes of each suite are drawn."""
    held_out: dict[str, int]
    """How many are drawn besides, and only measured."""
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
    """A batch of whole images at one resolution with everything that stands on them (see `Targets`)."""

    pixels: Tensor
    place: Tensor
    label: Tensor
    digits: Tensor
    context: Tensor

    @classmethod
    def of(
        cls, pool: Pool, rows: np.ndarray, resolution: int, device: torch.device, shift: tuple[int, int] = (0, 0)
    ) -> Page:
        """Images (batch, R, R, 3), all shifted by the same few pixels to the right and down."""
        images, there = pool.images[resolution][rows], pool.targets
        moved = np.array(shift, np.float32) / resolution
        place = np.where(there.place[rows] < 0, -1, there.place[rows] + moved).astype(np.float32)
        arrays = (
            np.roll(images, shift[::-1], axis=(1, 2)),
            place,
            there.label[rows],
            there.digits[rows],
            there.context[rows],
        )
        return cls(*tensors(arrays, device))

    @classmethod
    def draw(cls, pool: Pool, rng: np.random.Generator, batch: int, resolution: int, device: torch.device) -> Page:
        """Some images of a pool, shifted by up to 3% of the side."""
        rows = np.sort(rng.choice(len(pool), batch, replace=False))
        reach = max(1, round(0.03 * resolution))
        right, down = (int(pixels) for pixels in rng.integers(-reach, reach + 1, 2))
        return cls.of(pool, rows, resolution, device, (right, down))


class PageReading(nn.Module):
    """An encoder with its reader of items; what learned the letters is fixed."""

    def __init__(self, encoder: VisionEncoder):
        super().__init__()
        self.encoder = encoder
        self.classes = len(labels())
        self.items = Reader(encoder.spec.features, self.classes * (1 + CONTEXTS) + DIGITS * 11 + 2 * BINS)
        self._fixed = depths_of(encoder).letters
        for module in self._fixed:
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> PageReading:
        """As modules do it, but statistics of what is fixed stay as they are."""
        super().train(mode)
        for module in self._fixed:
            module.eval()
        return self

    def forward(self, page: Page) -> dict[str, tuple[Tensor, Tensor]]:
        """Logits (known, classes) and what they should be, of each thing that is asked."""
        tokens = self.encoder(normalise(page.pixels, self.encoder.spec))
        sizes = [self.classes, self.classes * CONTEXTS, DIGITS * 11, 2 * BINS]
        word, around, number, where = self.items(tokens, page.place).split(sizes, -1)
        there = (page.place[..., :1] >= 0).expand_as(page.place)
        bins = (page.place * BINS).long().clamp(0, BINS - 1).where(there, -1)
        asked = {
            "word": (word, page.label),
            "context": (around.unflatten(-1, (CONTEXTS, self.classes)), page.context),
            "digit": (number.unflatten(-1, (DIGITS, 11)), page.digits),
            "where": (where.unflatten(-1, (2, BINS)), bins),
        }
        return {name: (logits[target >= 0], target[target >= 0]) for name, (logits, target) in asked.items()}

    @torch.no_grad()
    def measure(self, pool: Pool, device: torch.device) -> dict[str, float]:
        """The share of everything asked that is read right, on all images of a pool at each resolution."""
        self.eval()
        found = {}
        for resolution in pool.images:
            right: dict[str, list[Tensor]] = {}
            for begin in range(0, len(pool), 16):
                rows = np.arange(begin, min(begin + 16, len(pool)))
                for name, (logits, target) in self(Page.of(pool, rows, resolution, device)).items():
                    right.setdefault(name, []).append(logits.argmax(-1) == target)
            for name, parts in right.items():
                found[f"held_out_{name}@{resolution}"] = float(torch.cat(parts).float().mean())
        self.train()
        return found


def learn_pages(
    encoder: VisionEncoder, pool: Pool, held_out: Pool, recipe: PagesRecipe, seed: int, course: Course
) -> Descended:
    """Run the stage in place; the last row of the log has the shares of held-out items that are read right."""
    torch.manual_seed(seed)
    reading = PageReading(encoder).train()
    resolutions, shares = list(recipe.shares), np.array(list(recipe.shares.values()))

    def step(_: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        resolution = int(rng.choice(resolutions, p=shares / shares.sum()))
        asked = reading(Page.draw(pool, rng, recipe.batch, resolution, course.device))
        known = {name: (logits, target) for name, (logits, target) in asked.items() if len(target)}
        loss = torch.stack([F.cross_entropy(logits, target) for logits, target in known.values()]).sum()
        return loss, {f"{name}@{resolution}": share_right(*each) for name, each in known.items()}

    done = descend(
        course,
        reading,
        [(reading.parameters(), recipe.lr)],
        step,
        recipe.schedule,
        seed,
        lambda: reading.measure(held_out, course.device),
        measured_every=recipe.schedule.steps,
    )
    encoder.requires_grad_(True).eval()
    return done
