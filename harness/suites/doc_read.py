"""`doc_read`: forms and small tables in print from large to fine, asked as DocVQA asks (metric: ANLS)."""

from __future__ import annotations

import random
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from harness.suites.scenes import CLEAR, FACES, SOURCE, Item, Question, Scene, font, put_text

PRINT_SIZES = {"large": (75, 87), "medium": (54, 63), "small": (39, 45), "tiny": (27, 31), "fine": (18, 21)}
"""Ranges of the em in canvas pixels: at 384 px input the smallest is about 10 px, at 64 px the largest is 7."""
TABLE_PRINT = 54
"""Largest em of a table: three columns in larger print would run into one another."""
FRAME = 15
"""Distance of a frame from the canvas's edge."""
MARGIN = 34
"""Least distance of print from the canvas's edge, with a frame or without."""

WORD_KEYS = {
    "name": ("anna", "ben", "carl", "dora", "eva", "finn", "gina", "hugo"),
    "city": ("paris", "rome", "oslo", "lima", "cairo", "delhi", "tokyo", "quito"),
    "item": ("tea", "coffee", "bread", "milk", "soap", "rice", "lamp", "book"),
    "day": ("monday", "tuesday", "friday", "sunday"),
}
NUMBER_KEYS = ("total", "tax", "order", "room", "code")
COLUMNS = ("price", "stock")

Ink = tuple[int, int, int]
Cell = tuple[str, tuple[str, ...]]
"""What stands in a cell, and what it belongs to."""


def words() -> tuple[str, ...]:
    """Every word that this suite prints."""
    return (*WORD_KEYS, *NUMBER_KEYS, *COLUMNS, *(w for values in WORD_KEYS.values() for w in values))


def draw(rng: random.Random) -> Scene:
    """A page with a form of three to five rows or a table of two to three rows, in one print size."""
    table = rng.random() < 0.3
    size = rng.randint(*PRINT_SIZES[rng.choice(tuple(PRINT_SIZES))])
    if table:
        size = min(size, TABLE_PRINT)
    paper = rng.randint(222, 255)
    image = Image.new("RGB", (SOURCE, SOURCE), (paper, paper, rng.randint(paper - 16, paper)))
    pen = ImageDraw.Draw(image)
    ink = (rng.randint(0, 60),) * 3
    if rng.random() < 0.3:
        pen.rectangle((FRAME, FRAME, SOURCE - FRAME, SOURCE - FRAME), outline=ink, width=4)
    rows, questions = _table(rng) if table else _form(rng)
    items = _put_rows(rng, pen, rows, rng.choice(FACES), size, ink)
    if table:
        rule = MARGIN + 0.9 * (SOURCE - 2 * MARGIN) / len(rows)
        pen.line((MARGIN, rule, SOURCE - MARGIN, rule), fill=ink, width=3)
    return Scene(image, questions, items)


def _form(rng: random.Random) -> tuple[list[list[Cell]], tuple[Question, ...]]:
    """Rows of a key and its value."""
    rows: list[list[Cell]] = []
    questions = []
    for key in rng.sample((*WORD_KEYS, *NUMBER_KEYS), rng.randint(3, 5)):
        value = rng.choice(WORD_KEYS[key]) if key in WORD_KEYS else str(rng.randint(10, 999))
        rows.append([(key, ()), (value, (key,))])
        questions.append(Question(f"what is the {key}?", value, "word field" if key in WORD_KEYS else "number field"))
    return rows, tuple(questions)


def _table(rng: random.Random) -> tuple[list[list[Cell]], tuple[Question, ...]]:
    """A head of two columns, then rows of a name and its two numbers."""
    columns = rng.sample(COLUMNS, 2)
    rows: list[list[Cell]] = [[("", ()), *((column, ()) for column in columns)]]
    questions = []
    for name in rng.sample(WORD_KEYS["item"], rng.randint(2, 3)):
        values = [str(rng.randint(10, 99)) for _ in columns]
        rows.append([(name, ("item",)), *((v, (name, c)) for v, c in zip(values, columns, strict=True))])
        for value, column in zip(values, columns, strict=True):
            questions.append(Question(f"what is the {column} of {name}?", value, "table"))
    return rows, tuple(questions)


def _put_rows(
    rng: random.Random, pen: ImageDraw.ImageDraw, rows: list[list[Cell]], face: str, size: int, ink: Ink
) -> tuple[Item, ...]:
    """Print rows of cells in columns, in an em of `size` or the largest below it that fits the page."""
    while (free := SOURCE - 2 * MARGIN - sum(widths := _widths(rows, font(face, size)))) < size * (len(widths) - 1):
        size -= 1
    # What is free is shared out: before the columns, between them (half an em at least), behind them.
    shares = [rng.uniform(0, 0.3), *(rng.uniform(0.7, 1.3) for _ in widths[1:]), rng.uniform(0, 1.2)]
    spare = free - size * (len(widths) - 1)
    gaps = [spare * share / sum(shares) for share in shares]
    lefts: list[float] = []
    x = float(MARGIN)
    for width, gap in zip(widths, gaps, strict=False):
        x += gap + (size if lefts else 0)
        lefts.append(x)
        x += width
    pitch = (SOURCE - 2 * MARGIN) / len(rows)
    loose = max(0.0, min(0.18, 0.4 - 0.5 * size / pitch))  # of a row, so that it keeps clear of its neighbours
    items = []
    for row, cells in enumerate(rows):
        head = not cells[0][0]
        y = MARGIN + (row + 0.5 + (0 if head else rng.uniform(-loose, loose))) * pitch
        for left, (text, context) in zip(lefts, cells, strict=True):
            if text:
                items.append(put_text(pen, (left, y), text, font(face, size), ink, context))
    return tuple(items)


def _widths(rows: Sequence[Sequence[Cell]], face: ImageFont.FreeTypeFont) -> list[float]:
    """Of each column, in canvas pixels."""
    return [max(face.getlength(text.upper()) for text, _ in column) + CLEAR for column in zip(*rows, strict=True)]
