"""Stages 1 and 2: the connector and the LLM learn to answer from frozen visual tokens, then everything together.

Stage 1 encodes the pool once and trains on the kept visual tokens, so that thousands of steps cost little. All the
questions of an image share its visual prefix in one sequence: a question sees the image and itself, no other question.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from harness.models.encoders import VisionEncoder
from harness.models.preprocess import normalise
from harness.models.vlm import Vlm
from harness.train.pool import Pool
from harness.train.pretrain import descend

IGNORED = -100

Rows = np.ndarray
"""Indices of images of the pool, sorted."""


@dataclass(frozen=True)
class InstructRecipe:
    """How long and how fast stages 1 and 2 learn."""

    images: int
    """How many images of the pool stage 1 encodes and keeps."""
    align_steps: int
    align_batch: int
    joint_steps: int
    joint_batch: int
    questions: int
    """Questions of one image in one sequence."""
    shares: dict[int, float]
    lr: float
    joint_lr: float
    seed: int


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


def shared_prefix_mask(prefix: int, questions: int, length: int) -> Tensor:
    """Attention mask (1, 1, L, L), true where allowed: causal, and no question sees another one."""
    block = torch.cat([torch.zeros(prefix, dtype=torch.long), torch.arange(1, questions + 1).repeat_interleave(length)])
    allowed = (block[None, :] == 0) | (block[None, :] == block[:, None])
    return (allowed & torch.ones(len(block), len(block)).tril().bool())[None, None]


def answer_loss(vlm: Vlm, features: Tensor, ids: Tensor, target: Tensor) -> tuple[Tensor, float]:
    """Visual tokens (B, N, C), questions with answers (B, Q, T) -> cross-entropy, share of answers wholly right."""
    batch, questions, length = ids.shape
    visual = vlm.project(features)
    before = torch.full((batch, 1), vlm.question_ids("")[0][0])
    embeddings = vlm.prompt(visual, before, ids.flatten(1))
    prefix = 1 + visual.shape[1]
    position = torch.cat([torch.arange(prefix), torch.arange(prefix, prefix + length).repeat(questions)])
    hidden = vlm.llm.model(
        inputs_embeds=embeddings,
        attention_mask=shared_prefix_mask(prefix, questions, length),
        position_ids=position[None].expand(batch, -1),
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
def encode_pool(encoder: VisionEncoder, pool: Pool, images: int, folder: Path) -> dict[int, Tensor]:
    """Visual tokens of the first `images` of the pool by resolution, fp16 (images, N, C); kept in `folder`."""
    fused = copy.deepcopy(encoder)
    fused.fuse()  # the same visual tokens, sooner
    kept = {}
    for resolution, pixels in pool.images.items():
        path = folder / f"tokens-{min(images, len(pool))}-{resolution}.safetensors"
        with FileLock(f"{path}.lock"):
            if not path.exists():
                chunks = [pixels[i : min(i + 64, images)].copy() for i in range(0, min(images, len(pool)), 64)]
                tokens = [
                    fused(normalise(torch.from_numpy(chunk), encoder.spec)).half()
                    for chunk in track(chunks, f"encoding at {resolution} px")
                ]
                save_file({"tokens": torch.cat(tokens)}, path.with_suffix(".part"))
                path.with_suffix(".part").replace(path)
        kept[resolution] = load_file(path)["tokens"]
    return kept


def instruct(
    vlm: Vlm, pool: Pool, recipe: InstructRecipe, folder: Path, log: Callable[[dict[str, object]], None]
) -> None:
    """Run stages 1 and 2 in place; visual tokens are kept in `folder`. `log` gets a row every 50 steps."""
    torch.manual_seed(recipe.seed + 1)
    rng = np.random.default_rng(recipe.seed + 1)
    dialogues = Dialogues.of(vlm, pool)
    vlm.eval()  # the encoder's batch norms keep the statistics of stage 0
    language = [*vlm.connector.parameters(), *vlm.llm.parameters()]
    resolutions = list(recipe.shares)
    shares = np.array(list(recipe.shares.values())) / sum(recipe.shares.values())

    def run(
        stage: str,
        steps: int,
        groups: list[dict[str, Any]],
        images: int,
        batch: int,
        look: Callable[[int, Rows], Tensor],
    ) -> None:
        def step() -> tuple[Tensor, dict[str, float]]:
            resolution = int(rng.choice(resolutions, p=shares))
            rows = np.sort(rng.choice(images, batch, replace=False))
            ids, target = dialogues.draw(rows, rng, recipe.questions)
            loss, right = answer_loss(vlm, look(resolution, rows), ids, target)
            return loss, {f"right@{resolution}": right}

        descend(stage, step, groups, steps, log)

    if recipe.align_steps:
        kept = encode_pool(vlm.encoder, pool, recipe.images, folder)
        groups: list[dict[str, Any]] = [{"params": language, "lr": recipe.lr}]
        frozen = lambda resolution, rows: kept[resolution][rows].float()  # noqa: E731
        run("align", recipe.align_steps, groups, min(recipe.images, len(pool)), recipe.align_batch, frozen)
    if recipe.joint_steps:
        groups = [
            {"params": language, "lr": recipe.joint_lr},
            {"params": list(vlm.encoder.parameters()), "lr": recipe.joint_lr / 2},
        ]

        def see(resolution: int, rows: Rows) -> Tensor:
            return vlm.encode(normalise(torch.from_numpy(pool.images[resolution][rows]), vlm.spec.encoder))

        run("joint", recipe.joint_steps, groups, len(pool), recipe.joint_batch, see)
