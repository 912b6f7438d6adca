"""Conversations about images in LLaVA's form: a JSON list of `{id, image, conversations: [{from, value}, ...]}`.

A file may have more than fits into memory as objects: it is read once for the place of each sample, which is checked;
a sample is read again when its turn comes. Where a sample cannot be used, one line says which, why, and what to do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.models.answering import PLACE
from harness.models.vlm import Vlm
from harness.schema import HarnessError, one_line
from harness.storage.intake import parse_json, read_items, read_part
from harness.train.dialogues import IGNORED

IMAGE = "<image>"
"""Stands in the first turn where the image belongs; it is always shown before the text, as LLaVA does."""
ASKED, SAID = "human", "gpt"


@dataclass(frozen=True)
class Sample:
    """One conversation."""

    name: str
    """Where it stands, for a fault."""
    image: Path | None
    turns: tuple[tuple[str, str], ...]
    """What was asked and what was answered."""


@dataclass(frozen=True)
class Conversations:
    """The samples of a file that can be used, by their places in it."""

    path: Path
    images: Path | None
    number: np.ndarray
    """Of each sample: where it stands in the file, from 0."""
    start: np.ndarray
    size: np.ndarray
    """Bytes."""

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.number)

    def __getitem__(self, k: int) -> Sample:
        """A sample; raises `HarnessError` where the file was changed meanwhile."""
        stored = read_part(self.path, int(self.start[k]), int(self.size[k]))
        return read_sample(stored, self.path, int(self.number[k]), self.images)


def open_conversations(
    path: Path, images: Path | None, pairs: bool, forbidden: re.Pattern[str], told: Callable[[str], None], skip: bool
) -> Conversations:
    """Read and check every sample of a file, whether its image is there included.

    `pairs`: each has to be an image and one answer, as captions are. `forbidden`: special tokens of the LLM, which no
    text may hold. `told` gets a line for each of the first samples that cannot be used; with `skip` they are left out,
    without it the file is refused (`HarnessError`).
    """
    good, bad = [], 0
    for number, (start, size) in enumerate(read_items(path)):
        try:
            sample = read_sample(read_part(path, start, size), path, number, images)
            check_sample(sample, pairs, forbidden)
            good.append((number, start, size))
        except HarnessError as error:
            bad += 1
            if bad <= SHOWN:
                told(str(error))
    if bad > SHOWN:
        told(f"{path}: {bad - SHOWN} more samples cannot be used")
    if not good:
        raise HarnessError(f"{path}: no sample can be used; a list of {{id, image, conversations}} is expected")
    if bad and not skip:
        raise HarnessError(
            f"{path}: {bad} of {bad + len(good)} samples cannot be used; mend them, or leave them out with bad=skip"
        )
    columns = np.array(good, np.int64).T
    return Conversations(path, images, *columns)


SHOWN = 20
"""How many bad samples get a line of their own."""


def read_sample(stored: bytes, path: Path, number: int, images: Path | None) -> Sample:
    """A sample from its JSON; raises `HarnessError`, in one line that names it, for what is not in LLaVA's form."""
    where = f"{path}: sample {number}"
    found = parse_json(stored, where)
    if not isinstance(found, dict):
        raise HarnessError(f"{where}: an object with conversations is expected, found {one_line(found, 40)}")
    if isinstance(found.get("id"), str | int):
        where += f" (id {one_line(found['id'], 60)})"
    said = [_turn(turn, where) for turn in _list(found.get("conversations"), where)]
    if said and said[0][0] == SAID:
        said = said[1:]  # LLaVA's way with conversations that were cut at their begin
    turns = []
    for k, (who, text) in enumerate(said):
        if who != (ASKED, SAID)[k % 2]:
            raise HarnessError(f"{where}: two turns of {who} in a row; {ASKED} and {SAID} take turns")
        if who == SAID:
            turns.append((said[k - 1][1], text))
    if not turns:
        raise HarnessError(f"{where}: no answer to learn from; a turn of {SAID} after one of {ASKED} is expected")
    image = found.get("image")
    places = [text.count(IMAGE) for pair in turns for text in pair]
    if image is None:
        if sum(places):
            raise HarnessError(f"{where}: {IMAGE} stands in it, but it has no image; give one, or take {IMAGE} out")
        return Sample(where, None, tuple(turns))
    if sum(places) != 1 or places[0] != 1:
        raise HarnessError(f"{where}: {IMAGE} stands in it {sum(places)} times; once, in the first turn, is expected")
    first = turns[0][0].replace(IMAGE, "").strip()
    return Sample(where, _path(image, images, where), ((first, turns[0][1]), *turns[1:]))


def _list(found: Any, where: str) -> list[Any]:
    if not isinstance(found, list):
        raise HarnessError(f"{where}: conversations: a list of turns is expected, found {one_line(found, 40)}")
    return found


def _turn(turn: Any, where: str) -> tuple[str, str]:
    """Who says what."""
    who, text = (turn.get("from"), turn.get("value")) if isinstance(turn, dict) else (None, None)
    if who not in (ASKED, SAID) or not isinstance(text, str):
        raise HarnessError(
            f'{where}: a turn is {one_line(turn, 60)}; {{"from": "{ASKED}" or "{SAID}", "value": TEXT}} is expected'
        )
    return who, text


def _path(image: Any, images: Path | None, where: str) -> Path:
    """Where an image lies: within the folder, whatever a sample says."""
    if not isinstance(image, str) or not image or "\0" in image:
        raise HarnessError(f"{where}: image: {one_line(image, 60)}: the path of one image is expected")
    if images is None:
        raise HarnessError(f"{where}: it has an image; say with images=FOLDER where images lie")
    relative = Path(image)
    if relative.is_absolute() or ".." in relative.parts:
        raise HarnessError(f"{where}: image: {one_line(image, 80)} leaves the folder of images; give a path within it")
    return images / relative


def check_sample(sample: Sample, pairs: bool, forbidden: re.Pattern[str]) -> None:
    """Refuse a sample whose image is not there, that is no caption where `pairs` are wanted, or whose text would be
    taken for special tokens."""
    if sample.image is not None:
        try:
            there = sample.image.is_file()
        except (OSError, ValueError):  # a name that no file can have
            there = False
        if not there:
            raise HarnessError(f"{sample.name}: there is no image {sample.image}; is images= the right folder?")
    if pairs and (sample.image is None or len(sample.turns) != 1):
        raise HarnessError(
            f"{sample.name}: stage align wants one image and one answer (a caption); other samples are for stage=joint"
        )
    for token in (token for pair in sample.turns for text in pair for token in forbidden.findall(text)):
        raise HarnessError(f"{sample.name}: its text holds {token}, which means something to the LLM; take it out")


@dataclass(frozen=True)
class Tokens:
    """A sample as a sequence of ids."""

    ids: list[int]
    """`PLACE` for each visual token."""
    target: list[int]
    """The token that must follow each position; `IGNORED` outside of answers."""

    @property
    def learned(self) -> int:
        """How many tokens have a loss."""
        return sum(token != IGNORED for token in self.target)


def tokenise(sample: Sample, vlm: Vlm, visual: int, plain: bool, length: int) -> Tokens:
    """A sample for an LLM, with `visual` tokens for its image; what is longer than `length` loses its end.

    The loss is on answers and the token that ends each. `plain`: the image and its caption alone, which a line ends.
    """
    ids: list[int] = []
    target: list[int] = []

    def given(more: list[int]) -> None:
        ids.extend(more)
        target.extend([IGNORED] * len(more))

    for more, learned in _pieces(sample, vlm, visual, plain):
        if not learned:
            given(more)
            continue
        ids.extend(more)
        target[len(ids) - len(more) - 1 :] = [*more, IGNORED]  # each position says what follows it
    return Tokens(ids[:length], target[:length])


def _pieces(sample: Sample, vlm: Vlm, visual: int, plain: bool) -> Iterator[tuple[list[int], bool]]:
    """What a sequence is put together from, and whether it is to be learned."""
    tokenizer, template = vlm.text(), vlm.spec.template
    if template is None:
        raise HarnessError("a VLM of the reference family has no template: its prompts have one turn")

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False)) if text else []

    if plain:
        yield encode(template.bos), False
        yield [PLACE] * visual, False
        yield encode(sample.turns[0][1] + "\n"), True
        return
    opening = template.bos + template.system + template.user
    for k, (asked, said) in enumerate(sample.turns):
        if k == 0 and sample.image is not None:
            before, after = vlm.question_ids(asked)  # as it will be asked
            yield before, False
            yield [PLACE] * visual, False
            yield after, False
        else:
            yield encode((opening if k == 0 else template.after + template.user) + asked + template.reply), False
        yield [*encode(said), vlm.end], True
