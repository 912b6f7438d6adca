"""Stage 0: an encoder learns its letters, then to read what stands at a given place.

Trained from scratch through an LLM's loss alone, a small VLM learns only the language and ignores the image. So the
encoder is first asked directly, in two phases.

- *print*: on small pictures full of print, from features on the way (stride 8 and 16; a ViT's middle and last block):
  which character stands at this place?
- *pages*: on whole scenes at every resolution, from the visual token that holds an item's centre: which word, number
  or coloured shape is it, and what does it belong to (its row's key, its sign's colour)? The parts that learned the
  letters stay as they are.

All heads are thrown away afterwards.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.models.encoders import VisionEncoder
from harness.models.preprocess import normalise
from harness.schema import HarnessError
from harness.train.pool import CHARACTERS, CONTEXTS, DIGITS, Pool, PrintPool, labels

EARLY_STRIDES = (8, 16)
"""Strides of the features from which characters are read; what comes before the first is fixed after *print*."""


@dataclass(frozen=True)
class PretrainRecipe:
    """How long and how fast stage 0 learns; everything that decides its outcome but the data."""

    print_steps: int
    print_batch: int
    print_lr: float
    page_steps: int
    page_batch: int
    page_lr: float
    shares: dict[int, float]
    """Share of each resolution among the steps on pages."""
    seed: int


@dataclass(frozen=True)
class Page:
    """A batch of whole images at one resolution with everything that stands on them (see `Pool`)."""

    pixels: Tensor
    place: Tensor
    label: Tensor
    digits: Tensor
    context: Tensor

    @classmethod
    def draw(cls, pool: Pool, rng: np.random.Generator, batch: int, resolution: int) -> Page:
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
        return cls(*map(torch.from_numpy, arrays))


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
        scaled = (place * side).clamp(0, side - 1e-4)
        cell = scaled.long()
        offset = scaled - cell - 0.5
        waves = torch.cat([offset, torch.sin(2 * torch.pi * offset), torch.cos(2 * torch.pi * offset)], -1)
        index = (cell[..., 1] * side + cell[..., 0]).unsqueeze(-1).expand(-1, -1, tokens.shape[2])
        return self.mlp(torch.cat([self.norm(tokens.gather(1, index)), self.offset(waves)], -1))  # type: ignore[no-any-return]


class Reading(nn.Module):
    """An encoder with its readers."""

    def __init__(self, encoder: VisionEncoder):
        super().__init__()
        self.encoder = encoder
        self.classes = len(labels())
        self.items = Reader(encoder.spec.features, self.classes * (1 + CONTEXTS) + DIGITS * 11)
        watched, self.letters = early_parts(encoder)
        self.characters = nn.ModuleList(Reader(width, len(CHARACTERS)) for _, width in watched)
        self._early: list[Tensor] = []
        self._hooks = [module.register_forward_hook(self._keep) for module, _ in watched]

    def _keep(self, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        if output.dim() == 4:
            self._early.append(output.flatten(2).transpose(1, 2))
        else:
            self._early.append(output[:, int(self.encoder.backbone.num_prefix_tokens) :])

    def read_print(self, pixels: Tensor, character: Tensor, place: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Pictures (B, S, S, 3), characters (B, K) or -1, places (B, K, 2) -> loss and shares of right readings."""
        self._early.clear()
        self.encoder(normalise(pixels, self.encoder.spec))
        known = character >= 0
        total = pixels.new_zeros((), dtype=torch.float32)
        right = {}
        for depth, (reader, early) in enumerate(zip(self.characters, self._early, strict=True)):
            logits = reader(early, place)[known]
            total = total + F.cross_entropy(logits, character[known])
            right[f"character{depth}"] = _share(logits, character[known])
        return total, right

    def read_page(self, page: Page) -> tuple[Tensor, dict[str, float]]:
        """The sum of three cross-entropies over what is known, and the share of right readings of each."""
        self._early.clear()
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
                right[f"{name}@{page.pixels.shape[1]}"] = _share(logits[known], target[known])
        return total, right

    def fix_letters(self) -> None:
        """Learn nothing more in the parts before the first reader of characters."""
        for module in self.letters:
            module.requires_grad_(False)
            module.eval()

    def release(self) -> VisionEncoder:
        """The bare encoder, wholly trainable again, in evaluation mode."""
        for hook in self._hooks:
            hook.remove()
        return self.encoder.requires_grad_(True).eval()


def early_parts(encoder: VisionEncoder) -> tuple[list[tuple[nn.Module, int]], list[nn.Module]]:
    """The modules whose outputs characters are read from, with their widths; and all modules up to the first one."""
    backbone = encoder.backbone
    if hasattr(backbone, "blocks"):  # a ViT
        blocks, half = list(backbone.blocks), len(backbone.blocks) // 2
        watched = [(blocks[half - 1], backbone.embed_dim), (blocks[-1], backbone.embed_dim)]
        return watched, [backbone.patch_embed, backbone.norm_pre, *blocks[:half]]
    stages, reductions = list(backbone.stages), [info["reduction"] for info in backbone.feature_info]
    if not set(EARLY_STRIDES) <= set(reductions):
        raise HarnessError(f"encoder {encoder.spec.name} has no features of strides {EARLY_STRIDES} to pre-train on")
    at = [reductions.index(stride) for stride in EARLY_STRIDES]
    watched = [(stages[k], int(backbone.feature_info[k]["num_chs"])) for k in at]
    return watched, [backbone.stem, *stages[: at[0] + 1]]


def _share(logits: Tensor, target: Tensor) -> float:
    return float((logits.argmax(-1) == target).float().mean())


def pretrain(
    encoder: VisionEncoder,
    print_pool: PrintPool,
    pool: Pool,
    recipe: PretrainRecipe,
    log: Callable[[dict[str, object]], None],
) -> None:
    """Run stage 0 in place. `log` gets a row every 50 steps."""
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    reading = Reading(encoder).train()
    resolutions, shares = list(recipe.shares), np.array(list(recipe.shares.values()))

    def letters() -> tuple[Tensor, dict[str, float]]:
        rows = np.sort(rng.choice(len(print_pool.images), recipe.print_batch, replace=False))
        arrays = (print_pool.images[rows], print_pool.character[rows], print_pool.place[rows])
        return reading.read_print(*map(torch.from_numpy, arrays))

    def page() -> tuple[Tensor, dict[str, float]]:
        resolution = int(rng.choice(resolutions, p=shares / shares.sum()))
        return reading.read_page(Page.draw(pool, rng, recipe.page_batch, resolution))

    descend("print", letters, [{"params": list(reading.parameters()), "lr": recipe.print_lr}], recipe.print_steps, log)
    reading.fix_letters()
    learning = [parameter for parameter in reading.parameters() if parameter.requires_grad]
    descend("pages", page, [{"params": learning, "lr": recipe.page_lr}], recipe.page_steps, log)
    reading.release()


def descend(
    stage: str,
    step: Callable[[], tuple[Tensor, dict[str, float]]],
    groups: list[dict[str, Any]],
    steps: int,
    log: Callable[[dict[str, object]], None],
) -> None:
    """AdamW on what `step` returns, a linear warm-up over 3% of the steps, then a cosine; a row of means every 50."""
    optimiser = torch.optim.AdamW(groups, weight_decay=0.05, betas=(0.9, 0.98))
    pace = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, [group["lr"] for group in groups], total_steps=steps, pct_start=0.03, final_div_factor=2.0
    )
    window: dict[str, list[float]] = {}
    start = time.perf_counter()
    for number in range(1, steps + 1):
        loss, shares = step()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        pace.step()
        for name, share in {"loss": float(loss.detach()), **shares}.items():
            window.setdefault(name, []).append(share)
        if number % 50 == 0 or number == steps:
            means = {name: round(float(np.mean(values)), 4) for name, values in sorted(window.items())}
            log({"stage": stage, "step": number, "seconds": round(time.perf_counter() - start, 1), **means})
            window = {}
