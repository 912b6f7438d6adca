"""What an embedded suite draws: a scene, its questions, and where everything stands.

A scene is drawn on a `SOURCE` x `SOURCE` canvas, larger than any resolution at which the reference family
is asked about it, so that the input resolution decides what is legible. All randomness comes from a
generator that is seeded with (suite, split, index): the same scene on every machine and in every process, and
no seed of the test split can occur in the training split.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

SOURCE = 768
"""Side of the drawn canvas in pixels: twice the largest resolution of the default sweep."""
CLEAR = 6
"""Least distance in canvas pixels between print and whatever is not its ground: an edge, a line, another sign."""

PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (208, 36, 36),
    "green": (34, 148, 62),
    "blue": (38, 76, 206),
    "yellow": (238, 206, 30),
    "purple": (138, 44, 168),
    "orange": (242, 128, 22),
}

FACES = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSerif.ttf", "DejaVuSerif-Bold.ttf", "DejaVuSansMono.ttf")
"""Type faces; all of them ship inside matplotlib, so every machine draws the same letters."""


@dataclass(frozen=True)
class Question:
    """One question of a scene with its true answer (lower case) and its kind, e.g. `table` or `count`."""

    text: str
    answer: str
    kind: str


@dataclass(frozen=True)
class Item:
    """A thing that can be read at one place of the scene; the encoder's pre-training asks for it.

    `x`, `y` are the centre and `width` the extent, all as fractions of the canvas. `label` is a word, a number
    or `colour shape`; `context` names what the thing belongs to (its row's key, its sign's colour, ...).
    """

    x: float
    y: float
    width: float
    label: str
    context: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scene:
    """A drawn image with what may be asked about it."""

    image: Image.Image
    questions: tuple[Question, ...]
    items: tuple[Item, ...]


Draw = Callable[[random.Random], Scene]


def generator(suite: str, split: str, index: int) -> random.Random:
    """The only source of randomness of scene `index` of a split."""
    return random.Random(f"{suite}/{split}/{index}")


@lru_cache(maxsize=512)
def font(face: str, size: int) -> ImageFont.FreeTypeFont:
    """A face of `FACES` at `size` canvas pixels per em."""
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / face
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


def put_text(
    pen: ImageDraw.ImageDraw,
    xy: tuple[float, float],
    word: str,
    face: ImageFont.FreeTypeFont,
    fill: tuple[int, int, int],
    context: tuple[str, ...] = (),
) -> Item:
    """Print `word` in capitals with its left middle at `xy` (canvas pixels); return it as an item."""
    (x, y), text = xy, word.upper()
    pen.text((x, y), text, font=face, fill=fill, anchor="lm")
    width = face.getlength(text)
    return Item((x + width / 2) / SOURCE, y / SOURCE, width / SOURCE, word, context)
