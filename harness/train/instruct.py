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
from torch.nn import functional as F

from harness.models.encoders import VisionEncoder
from harness.models.preprocess import normalise
from harness.models.vlm import Vlm
from harness.schema import Connector
from harness.train.descent import Course, Descended, Schedule, descend
from harness.train.letters import tensors
from harness.train.pool import Pool

IGNORED = -100

Rows = np.ndarray
"""Indices of images of the pool, sorted."""


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


@dataclass(frozen=True)
class Dialogues:
    """Questions and answers of the pool as padded token ids (images, most questions, most tokens)."""

    ids: np.ndarray
    target: np.ndarray
    """The token that must follow each position, `IGNORED` outside the answer."""
    count: np.ndarray
    """Number of questions of each image."""

    @classmethod
    def of(cls, vlm: Vlm, pool: Pool) -> Dialogues:
        """Tokenise every question and answer of the pool once."""
        rows = []
        for pairs in pool.questions:
            row = []
            for question, answer in pairs:
                _, asked = vlm.question_ids(question)
                said = [*vlm.text().encode(answer, add_special_tokens=False), vlm.end]
                row.append((asked, said))
            rows.append(row)
        most = max(map(len, rows))
        length = max(len(asked) + len(said) - 1 for row in rows for asked, said in row)
        ids = np.zeros((len(rows), most, length), np.int64)
        target = np.full((len(rows), most, length), IGNORED, np.int64)
        for i, row in enumerate(rows):
            for j, (asked, said) in enumerate(row):
                ids[i, j, : len(asked) + len(said) - 1] = [*asked, *said[:-1]]
                target[i, j, len(asked) - 1 : len(asked) + len(said) - 1] = said
        return cls(ids, target, np.array([len(row) for row in rows]))

    def draw(self, rows: np.ndarray, rng: np.random.Generator, questions: int) -> tuple[Tensor, Tensor]:
        """`questions` questions of each row, with repetition where it has fewer: ids and targets (B, Q, T)."""
        chosen = np.stack(
            [rng.permuted(np.arange(max(questions, self.count[r])) % self.count[r])[:questions] for r in rows]
        )
        return torch.from_numpy(self.ids[rows[:, None], chosen]), torch.from_numpy(self.target[rows[:, None], chosen])


def shared_prefix_mask(prefix: int, questions: int, length: int, device: torch.device | None = None) -> Tensor:
    """Attention mask (1, 1, L, L), true where allowed: causal, and no question sees another one."""
    block = torch.cat([torch.zeros(prefix, dtype=torch.long), torch.arange(1, questions + 1).repeat_interleave(length)])
    allowed = (block[None, :] == 0) | (block[None, :] == block[:, None])
    return (allowed & torch.ones(len(block), len(block)).tril().bool())[None, None].to(device)


def answer_loss(vlm: Vlm, features: Tensor, ids: Tensor, target: Tensor) -> tuple[Tensor, float]:
    """Visual tokens (B, N, C), questions with answers (B, Q, T) -> cross-entropy, share of answers wholly right."""
    batch, questions, length = ids.shape
    visual = vlm.project(features)
    before = torch.full((batch, 1), vlm.question_ids("")[0][0], device=ids.device)
    embeddings = vlm.prompt(visual, before, ids.flatten(1))
    prefix = 1 + visual.shape[1]
    position = torch.cat([torch.arange(prefix), torch.arange(prefix, prefix + length).repeat(questions)])
    hidden = vlm.llm.model(
        inputs_embeds=embeddings,
        attention_mask=shared_prefix_mask(prefix, questions, length, ids.device),
        position_ids=position[None].expand(batch, -1).to(ids.device),
        use_cache=False,
    ).last_hidden_state[:, prefix:]
    flat = target.flatten(1)
    asked = flat != IGNORED
    logits = vlm.llm.lm_head(hidden[asked])
    loss = F.cross_entropy(logits, flat[asked])
    right = torch.ones_like(target, dtype=torch.bool)
    right.flatten(1)[asked] = logits.argmax(-1) == flat[asked]
    return loss, float(right.all(-1).float().mean())


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


def learn_align(vlm: Vlm, pool: Pool, recipe: InstructRecipe, tokens: Path, seed: int, course: Course) -> Descended:
    """Connector and LLM learn in place; visual tokens are kept in the folder `tokens`."""
    vlm.eval().requires_grad_(True)
    vlm.encoder.requires_grad_(False)
    images = min(recipe.images, len(pool))
    kept = encode_pool(vlm.encoder, pool, images, tokens)

    def look(resolution: int, rows: Rows) -> Tensor:
        return tensors((kept[resolution][rows],), course.device)[0].float()

    return _learn(vlm, pool, recipe, images, look, seed, course)


def learn_joint(vlm: Vlm, pool: Pool, recipe: InstructRecipe, seed: int, course: Course) -> Descended:
    """Everything learns in place, but for the statistics of the encoder's batch norms."""
    vlm.eval().requires_grad_(True)

    def look(resolution: int, rows: Rows) -> Tensor:
        pixels = tensors((pool.images[resolution][rows],), course.device)[0]
        return vlm.encode(normalise(pixels, vlm.spec.encoder))

    return _learn(vlm, pool, recipe, min(recipe.images, len(pool)), look, seed, course)


def _learn(
    vlm: Vlm,
    pool: Pool,
    recipe: InstructRecipe,
    images: int,
    look: Callable[[int, Rows], Tensor],
    seed: int,
    course: Course,
) -> Descended:
    dialogues = Dialogues.of(vlm, pool)
    resolutions = list(recipe.shares)
    shares = np.array(list(recipe.shares.values())) / sum(recipe.shares.values())

    def step(rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        resolution = int(rng.choice(resolutions, p=shares))
        rows = np.sort(rng.choice(images, recipe.batch, replace=False))
        ids, target = (each.to(course.device) for each in dialogues.draw(rows, rng, recipe.questions))
        loss, right = answer_loss(vlm, look(resolution, rows), ids, target)
        return loss, {f"right@{resolution}": right}

    rates: list[tuple[Iterable[nn.Parameter], float]] = [
        ([*vlm.connector.parameters(), *vlm.llm.parameters()], recipe.lr),
        ([*vlm.encoder.parameters()], recipe.lr / 2),
    ]
    done = descend(course, vlm, rates, step, recipe.schedule, seed)
    vlm.requires_grad_(True)
    return done
