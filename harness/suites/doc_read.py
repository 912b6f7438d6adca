"""`doc_read`: forms and small tables in print from large to tiny, asked as DocVQA asks (metric: ANLS)."""

from __future__ import annotations

import random

from PIL import Image, ImageDraw

from harness.suites.scenes import FACES, SOURCE, Item, Question, Scene, font, put_text

PRINT_SIZES = {"large": (50, 58), "medium": (36, 42), "small": (26, 30), "tiny": (18, 21)}
"""Ranges of the em in canvas pixels; at 256 px input the smallest is about 9 px, at 64 px the largest is 7."""
TABLE_PRINT = 36
"""Largest em of a table: three columns in larger print would run into one another."""

WORD_KEYS = {
    "name": ("anna", "ben", "carl", "dora", "eva", "finn", "gina", "hugo"),
    "city": ("paris", "rome", "oslo", "lima", "cairo", "delhi", "tokyo", "quito"),
    "item": ("tea", "coffee", "bread", "milk", "soap", "rice", "lamp", "book"),
    "day": ("monday", "tuesday", "friday", "sunday"),
}
NUMBER_KEYS = ("total", "tax", "order", "room", "code")
COLUMNS = ("price", "stock")

Ink = tuple[int, int, int]


def words() -> tuple[str, ...]:
    """Every word that this suite prints."""
    return (*WORD_KEYS, *NUMBER_KEYS, *COLUMNS, *(w for values in WORD_KEYS.values() for w in values))


def draw(rng: random.Random) -> Scene:
    """A page with a form of three to five rows or a table of two to three rows, in one print size."""
    body = _table if rng.random() < 0.3 else _form
    low, high = PRINT_SIZES[rng.choice(tuple(PRINT_SIZES))]
    size = rng.randint(low, high)
    if body is _table:
        size = min(size, TABLE_PRINT)
    paper = rng.randint(222, 255)
    image = Image.new("RGB", (SOURCE, SOURCE), (paper, paper, rng.randint(paper - 16, paper)))
    pen = ImageDraw.Draw(image)
    ink = (rng.randint(0, 60),) * 3
    if rng.random() < 0.3:
        pen.rectangle((10, 10, SOURCE - 10, SOURCE - 10), outline=ink, width=3)
    questions, items = body(rng, pen, size, ink)
    return Scene(image, questions, items, size)


def _form(
    rng: random.Random, pen: ImageDraw.ImageDraw, size: int, ink: Ink
) -> tuple[tuple[Question, ...], tuple[Item, ...]]:
    face = font(rng.choice(FACES), size)
    keys = rng.sample((*WORD_KEYS, *NUMBER_KEYS), rng.randint(3, 5))
    pitch = SOURCE / len(keys)
    left = rng.uniform(18, 40)
    middle = rng.uniform(250, 270) if size > 44 else rng.uniform(200, 300)
    questions, items = [], []
    for row, key in enumerate(keys):
        y = (row + 0.5 + rng.uniform(-0.18, 0.18)) * pitch
        value = rng.choice(WORD_KEYS[key]) if key in WORD_KEYS else str(rng.randint(10, 999))
        items.append(put_text(pen, (left, y), key, face, ink))
        items.append(put_text(pen, (middle, y), value, face, ink, (key,)))
        questions.append(Question(f"what is the {key}?", value, "word field" if key in WORD_KEYS else "number field"))
    return tuple(questions), tuple(items)


def _table(
    rng: random.Random, pen: ImageDraw.ImageDraw, size: int, ink: Ink
) -> tuple[tuple[Question, ...], tuple[Item, ...]]:
    face = font(rng.choice(FACES), size)
    names = rng.sample(WORD_KEYS["item"], rng.randint(2, 3))
    columns = rng.sample(COLUMNS, 2)
    pitch = SOURCE / (len(names) + 1)
    lefts = (rng.uniform(16, 26), rng.uniform(196, 206), rng.uniform(356, 366))
    questions, items = [], []
    for left, column in zip(lefts[1:], columns, strict=True):
        items.append(put_text(pen, (left, pitch / 2), column, face, ink))
    rule = pitch * 0.85
    pen.line((14, rule, SOURCE - 14, rule), fill=ink, width=2)
    for row, name in enumerate(names, start=1):
        y = (row + 0.5 + rng.uniform(-0.12, 0.12)) * pitch
        items.append(put_text(pen, (lefts[0], y), name, face, ink, ("item",)))
        for left, column in zip(lefts[1:], columns, strict=True):
            value = str(rng.randint(10, 99))
            items.append(put_text(pen, (left, y), value, face, ink, (name, column)))
            questions.append(Question(f"what is the {column} of {name}?", value, "table"))
    return tuple(questions), tuple(items)
