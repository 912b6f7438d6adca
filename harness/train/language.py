"""Stage `language`: an LLM learns to look up an answer in what stands on a scene, before it is shown any image.

In place of visual tokens it gets what an encoder and a connector could tell at best: the scene as a grid, row by row,
in which the cell that holds an item's centre says what the item is, what it belongs to and where it stands, in linear
maps of the LLM's own words. A connector then only has to learn to say the same.

To look a value up by its key is what takes an LLM longest, and the longer, the more cells there are that say nothing:
among 36 cells and more a trial of size m had not begun to after 2,000 steps, in a bare list of the items it told signs
by their colour after 800 and numbers by their key after 1,200. So a scene is first told as a list in reading order.

Scenes are drawn once and told anew each time: words of one kind are exchanged for one another and numbers are drawn
again, in what stands there as in what is asked.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from harness.schema import Llm
from harness.suites import doc_read, embedded, scene_text, shapes
from harness.suites.scenes import PALETTE
from harness.train.descent import Course, Descended, Schedule, descend
from harness.train.dialogues import Dialogues, answer
from harness.train.pool import CONTEXTS, DIGITS, MAX_ITEMS, Row

BINS = 8
"""Of each axis, in which a told item says where it stands."""
ROLES = 2 + DIGITS + CONTEXTS
"""What a token of an item can be: its first and second word, its digits, what it belongs to."""
LIST = 0
"""In place of a grid's side: one item after the other, nothing between them."""
NOISE = 0.25
"""Of a told scene, as a share of the first weights' spread: what a connector says is never exact."""

KINDS: tuple[tuple[str, ...], ...] = (
    tuple(PALETTE),
    shapes.SHAPES,
    scene_text.LEXICON,
    *doc_read.WORD_KEYS.values(),
    doc_read.NUMBER_KEYS,
    doc_read.COLUMNS,
)
"""Words that may stand for one another."""


@dataclass(frozen=True)
class LanguageRecipe:
    """How long and how fast an LLM learns to look up."""

    scenes: dict[str, int]
    """How many of each suite are drawn."""
    held_out: dict[str, int]
    """How many are drawn besides, and only measured."""
    listed: float
    """Share of the steps, the first ones, in which a scene is told as a list."""
    shares: dict[int, float]
    """Share of each side of the grid, in cells, among the other steps."""
    steps: int
    batch: int
    questions: int
    """Of one scene, in one sequence."""
    lr: float
    warmup: float

    @property
    def schedule(self) -> Schedule:
        """Steps and rates."""
        return Schedule(self.steps, self.warmup)


def decides(llm: Llm, recipe: LanguageRecipe, seed: int) -> list[object]:
    """Everything that decides what an LLM has learned from what is told."""
    return [built_by(llm), vars(recipe), embedded.words(), embedded.fingerprint_of_drawing(), seed]


def built_by(llm: Llm) -> dict[str, object]:
    """The fields of an LLM that decide what it computes: not what it is called, nor where it is from."""
    return llm.model_dump(mode="json", exclude={"name", "title", "source"})


def told_anew(row: Row, rng: random.Random) -> Row:
    """The same scene with other words and numbers; what is asked stays true of it."""
    new: dict[str, str] = {}
    for kind in KINDS:
        new |= dict(zip(kind, rng.sample(kind, len(kind)), strict=True))
    new |= {f"{shape}s": f"{new[shape]}s" for shape in shapes.SHAPES}
    for _, _, label, context in row.items:
        if label.isdigit():  # a table's numbers have two digits, a form's two or three
            new[label] = str(rng.randint(10, 99 if len(context) > 1 else 999))

    def again(text: str) -> str:
        words = text.removesuffix("?").split(" ")
        return " ".join(new.get(word, word) for word in words) + "?" * text.endswith("?")

    return replace(
        row,
        items=[(x, y, again(label), [again(word) for word in context]) for x, y, label, context in row.items],
        questions=[(again(question), again(answer), kind) for question, answer, kind in row.questions],
    )


@dataclass(frozen=True)
class Telling:
    """What stands on some scenes, in the LLM's own tokens."""

    place: Tensor
    """(B, MAX_ITEMS, 2): x, y of each item as fractions; below 0 where there is none."""
    ids: Tensor
    """(B, MAX_ITEMS, ROLES) in the order of the roles (see `ROLES`); -1 where there is none."""

    @classmethod
    def of(cls, rows: list[Row], tokenizer: PreTrainedTokenizerFast) -> Telling:
        """Scenes in tokens."""
        place = torch.full((len(rows), MAX_ITEMS, 2), -1.0)
        ids = torch.full((len(rows), MAX_ITEMS, ROLES), -1)
        for i, row in enumerate(rows):
            for k, (x, y, label, context) in enumerate(sorted(row.items, key=_in_reading_order)):
                place[i, k] = torch.tensor((x, y))
                said = _tokens(tokenizer, label)
                begin = 2 if label.isdigit() else 0
                ids[i, k, begin : begin + len(said)] = torch.tensor(said)
                around = [token for word in context for token in _tokens(tokenizer, word)]
                ids[i, k, ROLES - CONTEXTS : ROLES - CONTEXTS + len(around)] = torch.tensor(around)
        return cls(place, ids)

    def to(self, device: torch.device) -> Telling:
        """The same on a device."""
        return Telling(self.place.to(device), self.ids.to(device))


def _in_reading_order(item: tuple[float, float, str, list[str]]) -> tuple[int, float]:
    """By rows of the page, in each from left to right."""
    return int(item[1] * BINS), item[0]


@cache
def _tokens(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


class Teller(nn.Module):
    """Tells an LLM what stands on scenes, as linear maps of its own embeddings; thrown away afterwards."""

    def __init__(self, width: int, spread: float):
        """`width` of the LLM's tokens, `spread` of its first weights."""
        super().__init__()
        self.spread = spread
        self.ground = nn.Parameter(torch.randn(width) * spread)
        self.roles = nn.Parameter(torch.randn(ROLES, width, width) * width**-0.5)
        self.where = nn.Parameter(torch.randn(2, BINS, width) * spread)

    def forward(self, embed: nn.Module, telling: Telling, side: int) -> Tensor:
        """The LLM's embedding of tokens, and scenes -> tokens (B, side^2 or for a list MAX_ITEMS, width)."""
        place = telling.place
        words = embed(telling.ids.clamp(min=0)) * (telling.ids >= 0).unsqueeze(-1)
        told = torch.einsum("bkrw,rwv->bkv", words, self.roles)
        for axis, bins in zip(self.where, (place * BINS).long().clamp(0, BINS - 1).unbind(-1), strict=True):
            told = told + axis[bins]
        told = told * (place[..., :1] >= 0)
        if side == LIST:
            tokens = self.ground + told
        else:
            cell = (place.clamp(0, 1 - 1e-6) * side).long()
            index = (cell[..., 1] * side + cell[..., 0]).unsqueeze(-1).expand_as(told)
            tokens = self.ground.repeat(len(place), side * side, 1).scatter_add(1, index, told)
        return tokens + torch.randn_like(tokens) * (NOISE * self.spread) if self.training else tokens


class Told(nn.Module):
    """An LLM with its teller."""

    def __init__(self, llm: PreTrainedModel):
        super().__init__()
        self.llm = llm
        self.teller = Teller(llm.config.hidden_size, llm.config.initializer_range)

    def forward(self, begin: int, telling: Telling, ids: Tensor, target: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """Scenes and what is asked about them -> cross-entropy, and (B, Q) whether the whole answer is right."""
        told = self.teller(self.llm.get_input_embeddings(), telling, side)
        return answer(self.llm, begin, told, ids, target)


def learn_language(
    llm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    rows: list[Row],
    held_out: list[Row],
    recipe: LanguageRecipe,
    seed: int,
    course: Course,
) -> Descended:
    """Run the stage in place; the last row of the log has the shares of held-out questions that are answered."""
    torch.manual_seed(seed)
    told, dialogues = Told(llm).train(), Dialogues(tokenizer)
    sides, shares = list(recipe.shares), np.array(list(recipe.shares.values()))

    listed = round(recipe.listed * recipe.steps)

    def step(number: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        side = int(rng.choice(sides, p=shares / shares.sum())) if number >= listed else LIST
        words = random.Random(int(rng.integers(2**62)))
        chosen = [told_anew(rows[k], words) for k in rng.choice(len(rows), recipe.batch, replace=False)]
        ids, target = (each.to(course.device) for each in dialogues.draw(chosen, rng, recipe.questions))
        telling = Telling.of(chosen, tokenizer).to(course.device)
        loss, right = told(dialogues.begin, telling, ids, target, side)
        return loss, {f"right@{side}": float(right.float().mean())}

    def measure() -> dict[str, float]:
        told.eval()
        found = right_by_kind(told, tokenizer, held_out, max(sides), course.device)
        told.train()
        return found

    done = descend(course, told, [(told.parameters(), recipe.lr)], step, recipe.schedule, seed, measure)
    llm.eval()
    return done


@torch.no_grad()
def right_by_kind(
    told: Told, tokenizer: PreTrainedTokenizerFast, rows: list[Row], side: int, device: torch.device
) -> dict[str, float]:
    """The share of all questions about scenes that are answered right, by kind."""
    found: dict[str, list[bool]] = {}
    dialogues = Dialogues(tokenizer)
    for row in rows:
        ids, target = dialogues.stack([[dialogues.tokens(question, said) for question, said, _ in row.questions]])
        telling = Telling.of([row], tokenizer).to(device)
        _, right = told(dialogues.begin, telling, ids.to(device), target.to(device), side)
        for (_, _, kind), good in zip(row.questions, right[0].tolist(), strict=True):
            found.setdefault(f"held_out_{kind.replace(' ', '_')}", []).append(good)
    return {name: float(np.mean(values)) for name, values in sorted(found.items())}
