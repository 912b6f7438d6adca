"""Stage `letters`: an encoder learns which character stands at a place, on small pictures full of print.

Trained from scratch through an LLM's loss alone, a small VLM learns only the language and ignores the image. So the
encoder is first asked directly, from features on the way (strides 8 and 16; a ViT's middle and last block). The parts
of it that come later do not learn yet. The readers are thrown away afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor, nn
from torch.nn import functional as F

from harness.models.encoders import VisionEncoder
from harness.models.preprocess import normalise
from harness.schema import Encoder, HarnessError
from harness.train.descent import Course, Descended, Schedule, descend
from harness.train.print import CHARACTERS, PrintPool, fingerprint_of_print, open_print_pool

EARLY_STRIDES = (8, 16)
"""Strides of the features from which characters are read; what comes before the first is fixed afterwards."""


@dataclass(frozen=True)
class LettersRecipe:
    """How long and how fast letters are learned; with the encoder, the print and the seed all that decides it."""

    pictures: int
    """That are drawn to learn from."""
    held_out: int
    """That are drawn besides, and only measured."""
    steps: int
    batch: int
    lr: float
    warmup: float

    @property
    def schedule(self) -> Schedule:
        """Steps and rates."""
        return Schedule(self.steps, self.warmup)


def decides(encoder: Encoder, recipe: LettersRecipe, seed: int) -> list[object]:
    """Everything that decides which letters an encoder has learned."""
    return [built_by(encoder), vars(recipe), fingerprint_of_print(), seed]


def built_by(encoder: Encoder) -> dict[str, object]:
    """The fields of an encoder that decide what it computes: not what it is called, nor where it is from."""
    return encoder.model_dump(mode="json", exclude={"name", "title", "source", "native"})


class Reader(nn.Module):
    """Reads from one token at each of several places, given where in the token's cell the place lies."""

    def __init__(self, features: int, outputs: int):
        super().__init__()
        self.norm = nn.LayerNorm(features)
        self.offset = nn.Linear(6, 64)
        self.mlp = nn.Sequential(nn.Linear(features + 64, 384), nn.GELU(), nn.Linear(384, outputs))

    def forward(self, tokens: Tensor, place: Tensor) -> Tensor:
        """Tokens (B, N, C) of a square grid and places (B, K, 2) in 0..1 -> outputs (B, K, outputs)."""
        side = round(tokens.shape[1] ** 0.5)
        scaled = place.clamp(0, 1 - 1e-6) * side
        scaled = scaled.clamp(max=side - 1e-4)
        cell = scaled.long()
        offset = scaled - cell - 0.5
        waves = torch.cat([offset, torch.sin(2 * torch.pi * offset), torch.cos(2 * torch.pi * offset)], -1)
        index = (cell[..., 1] * side + cell[..., 0]).unsqueeze(-1).expand(-1, -1, tokens.shape[2])
        return self.mlp(torch.cat([self.norm(tokens.gather(1, index)), self.offset(waves)], -1))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Depths:
    """Where characters are read from an encoder."""

    indices: list[int]
    """Of timm's intermediate features."""
    widths: list[int]
    letters: list[nn.Module]
    """All modules up to the first depth: those that are fixed once letters are learned."""
    beyond: list[nn.Module]
    """All modules after the last depth: those that letters do not reach."""


def depths_of(encoder: VisionEncoder) -> Depths:
    """Strides 8 and 16 of a convolutional encoder, the middle and the last block of a ViT.

    Raises `HarnessError` for an encoder that has neither.
    """
    backbone = encoder.backbone
    if hasattr(backbone, "blocks"):  # a ViT
        blocks, half = list(backbone.blocks), len(backbone.blocks) // 2
        before = {"patch_embed", "pos_drop", "patch_drop", "norm_pre", "blocks"}
        return Depths(
            [half - 1, len(blocks) - 1],
            [backbone.embed_dim] * 2,
            [backbone.patch_embed, backbone.norm_pre, *blocks[:half]],
            [module for name, module in backbone.named_children() if name not in before],
        )
    reductions = [info["reduction"] for info in getattr(backbone, "feature_info", [])]
    if not set(EARLY_STRIDES) <= set(reductions):
        raise HarnessError(f"encoder {encoder.spec.name} has no features of strides {EARLY_STRIDES} to pre-train on")
    at, stages = [reductions.index(stride) for stride in EARLY_STRIDES], list(backbone.stages)
    others = [module for name, module in backbone.named_children() if name not in ("stem", "stages")]
    return Depths(
        at,
        [int(backbone.feature_info[k]["num_chs"]) for k in at],
        [backbone.stem, *stages[: at[0] + 1]],
        [*stages[at[-1] + 1 :], *others],
    )


class LetterReading(nn.Module):
    """An encoder as far as letters reach, with a reader at each depth."""

    def __init__(self, encoder: VisionEncoder):
        super().__init__()
        self.encoder, depths = encoder, depths_of(encoder)
        self.indices = depths.indices
        for module in depths.beyond:
            module.requires_grad_(False)
        self.readers = nn.ModuleList(Reader(width, len(CHARACTERS)) for width in depths.widths)

    def forward(self, pixels: Tensor, character: Tensor, place: Tensor) -> tuple[list[Tensor], Tensor]:
        """Pictures uint8 (B, S, S, 3), characters (B, K) or -1, places (B, K, 2) -> logits (known, characters) of each
        depth, and what they should be."""
        maps = self.encoder.backbone.forward_intermediates(
            normalise(pixels, self.encoder.spec), indices=self.indices, stop_early=True, intermediates_only=True
        )
        known = character >= 0
        logits = [
            reader(features.flatten(2).transpose(1, 2), place)[known]
            for reader, features in zip(self.readers, maps, strict=True)
        ]
        return logits, character[known]

    @torch.no_grad()
    def measure(self, pool: PrintPool, device: torch.device) -> dict[str, float]:
        """The share of all characters of pictures that are read right, at each depth."""
        self.eval()
        right, total = np.zeros(len(self.readers)), 0
        for begin in range(0, len(pool), 50):
            logits, target = self(*tensors(pool.take(slice(begin, begin + 50)), device))
            right += [int((each.argmax(-1) == target).sum()) for each in logits]
            total += len(target)
        self.train()
        return {f"held_out_depth{depth}": float(share) for depth, share in enumerate(right / total)}


def tensors(arrays: tuple[np.ndarray, ...], device: torch.device) -> list[Tensor]:
    """Copies of arrays, some of them memory-mapped, on a device."""
    return [torch.from_numpy(np.array(array)).to(device) for array in arrays]


def learn_letters(
    encoder: VisionEncoder, recipe: LettersRecipe, cache: Path, workers: int, seed: int, course: Course
) -> Descended:
    """Run the stage in place; the last row of the log has the share of held-out characters that are read right."""
    with FileLock(cache / "lock"):  # trainings side by side share what they draw
        pool = open_print_pool(recipe.pictures, "train", cache, workers)
        held_out = open_print_pool(recipe.held_out, "held_out", cache, workers)
    torch.manual_seed(seed)
    reading = LetterReading(encoder).train()

    def step(_: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        rows = np.sort(rng.choice(len(pool), recipe.batch, replace=False))
        logits, target = reading(*tensors(pool.take(rows), course.device))
        loss = torch.stack([F.cross_entropy(each, target) for each in logits]).sum()
        return loss, {f"depth{depth}": share_right(each, target) for depth, each in enumerate(logits)}

    done = descend(
        course,
        reading,
        [(reading.parameters(), recipe.lr)],
        step,
        recipe.schedule,
        seed,
        lambda: reading.measure(held_out, course.device),
    )
    encoder.requires_grad_(True).eval()
    return done


def share_right(logits: Tensor, target: Tensor) -> float:
    """The share of rows whose largest logit is the target's."""
    return float((logits.argmax(-1) == target).float().mean())
