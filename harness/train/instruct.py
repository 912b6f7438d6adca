"""Stages `align` and `joint`: connector and LLM learn to answer from the visual tokens, then everything learns.

In `align` the encoder is frozen, so the visual tokens of all images are computed once and kept. Several questions about
an image share one sequence, in which no question sees another one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from rich.progress import track
from torch import Tensor, nn

from harness.models.encoders import VisionEncoder
from harness.models.preprocess import normalise
from harness.models.vlm import Vlm
from harness.schema import Connector
from harness.train.descent import Course, Descended, Schedule, descend
from harness.train.dialogues import Dialogues, answer
from harness.train.letters import tensors
from harness.train.pool import Pool

Rows = np.ndarray
"""Indices of images of the pool, sorted."""
Look = Callable[[int, Rows], Tensor]
"""Resolution, images -> visual tokens (B, N, features)."""
MEASURED = 2500
"""Steps after which the answers to held-out questions are counted."""


@dataclass(frozen=True)
class InstructRecipe:
    """How long and how fast one of the two stages learns."""

    images: int
    """How many images of the pool it learns from."""
    steps: int
    batch: int
    questions: int
    """Questions of one image in one sequence."""
    shares: dict[int, float]
    """Share of each resolution among the steps."""
    lr: float
    """Of connector and LLM; the encoder, where it learns, has half of it."""
    warmup: float

    @property
    def schedule(self) -> Schedule:
        """Steps and rates."""
        return Schedule(self.steps, self.warmup)


def decides(before: Sequence[object], connector: Connector, recipe: InstructRecipe, seed: int) -> list[object]:
    """Everything that decides what is learned, after the stages of these identities."""
    return [*before, connector.model_dump(mode="json", exclude={"name", "title", "source"}), vars(recipe), seed]


@torch.no_grad()
def encode_pool(encoder: VisionEncoder, pool: Pool, images: int, folder: Path) -> dict[int, np.ndarray]:
    """Visual tokens of the first `images` of the pool by resolution, fp16 (images, N, C), memory-mapped from `folder`.

    Computed on the CPU, whatever learns: the same tokens everywhere.
    """
    fused = copy.deepcopy(encoder).cpu()
    fused.fuse()  # the same visual tokens, sooner
    kept = {}
    folder.mkdir(parents=True, exist_ok=True)
    for resolution, pixels in pool.images.items():
        path = folder / f"tokens-{pool.name}-{images}-{resolution}.npy"
        with FileLock(f"{path}.lock"):
            if not path.exists():
                part = path.with_suffix(".part")
                shape = (images, encoder.spec.visual_tokens(resolution), encoder.spec.features)
                array = np.lib.format.open_memmap(part, mode="w+", dtype=np.float16, shape=shape)
                for begin in track(range(0, images, 64), f"encoding at {resolution} px"):
                    chunk = torch.from_numpy(pixels[begin : min(begin + 64, images)].copy())
                    array[begin : begin + len(chunk)] = fused(normalise(chunk, encoder.spec)).half().numpy()
                array.flush()
                part.replace(path)
        kept[resolution] = np.load(path, mmap_mode="r")
    return kept


def learn_align(
    vlm: Vlm, pool: Pool, held_out: Pool, recipe: InstructRecipe, tokens: Path, seed: int, course: Course
) -> Descended:
    """Connector and LLM learn in place; visual tokens are kept in the folder `tokens`."""
    vlm.eval().requires_grad_(True)
    vlm.encoder.requires_grad_(False)
    kept = encode_pool(vlm.encoder, pool, min(recipe.images, len(pool)), tokens)
    others = encode_pool(vlm.encoder, held_out, len(held_out), tokens)

    def looking(kept: dict[int, np.ndarray]) -> Look:
        return lambda resolution, rows: tensors((kept[resolution][rows],), course.device)[0].float()

    return _learn(vlm, pool, held_out, recipe, looking(kept), looking(others), seed, course)


def learn_joint(vlm: Vlm, pool: Pool, held_out: Pool, recipe: InstructRecipe, seed: int, course: Course) -> Descended:
    """Everything learns in place, but for the statistics of the encoder's batch norms."""
    vlm.eval().requires_grad_(True)

    def looking(pool: Pool) -> Look:
        def look(resolution: int, rows: Rows) -> Tensor:
            pixels = tensors((pool.images[resolution][rows],), course.device)[0]
            return vlm.encode(normalise(pixels, vlm.spec.encoder))

        return look

    return _learn(vlm, pool, held_out, recipe, looking(pool), looking(held_out), seed, course)


def _learn(
    vlm: Vlm,
    pool: Pool,
    held_out: Pool,
    recipe: InstructRecipe,
    look: Look,
    look_at_held_out: Look,
    seed: int,
    course: Course,
) -> Descended:
    dialogues, images = Dialogues(vlm.text()), min(recipe.images, len(pool))
    resolutions = list(recipe.shares)
    shares = np.array(list(recipe.shares.values())) / sum(recipe.shares.values())

    def step(_: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        resolution = int(rng.choice(resolutions, p=shares))
        rows = np.sort(rng.choice(images, recipe.batch, replace=False))
        asked = dialogues.draw([pool.rows[k] for k in rows], rng, recipe.questions)
        ids, target = (each.to(course.device) for each in asked)
        visual = vlm.project(look(resolution, rows))
        loss, right = answer(vlm.llm, dialogues.begin, visual, ids, target)
        return loss, {f"right@{resolution}": float(right.float().mean())}

    @torch.no_grad()
    def measure() -> dict[str, float]:
        found: dict[str, list[bool]] = {}
        for resolution in recipe.shares:
            for k, row in enumerate(held_out.rows):
                pairs = [[dialogues.tokens(question, said) for question, said, _ in row.questions]]
                ids, target = (each.to(course.device) for each in dialogues.stack(pairs))
                visual = vlm.project(look_at_held_out(resolution, np.array([k])))
                _, right = answer(vlm.llm, dialogues.begin, visual, ids, target)
                found.setdefault(f"held_out_{row.suite}@{resolution}", []).extend(right[0].tolist())
        return {name: float(np.mean(values)) for name, values in sorted(found.items())}

    rates: list[tuple[Iterable[nn.Parameter], float]] = [
        ([*vlm.connector.parameters(), *vlm.llm.parameters()], recipe.lr),
        ([*vlm.encoder.parameters()], recipe.lr / 2),
    ]
    done = descend(course, vlm, rates, step, recipe.schedule, seed, measure, measured_every=MEASURED)
    vlm.requires_grad_(True)
    return done
