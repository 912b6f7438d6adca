"""`shapes`: attributes, counts and relations of coloured shapes, asked as GQA asks (exact match)."""

from __future__ import annotations

import math
import random

from PIL import Image, ImageDraw

from harness.suites.scenes import PALETTE, SOURCE, Item, Question, Scene

SHAPES = ("circle", "square", "triangle", "star")
GRID = 3
RELATIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}


def draw(rng: random.Random) -> Scene:
    """Two to five shapes in the cells of a 3 x 3 grid, at least two colours and two forms among them, with one question
    of each kind that has one answer."""
    tone = rng.randint(200, 250)
    image = Image.new("RGB", (SOURCE, SOURCE), tuple(tone + rng.randint(-8, 5) for _ in range(3)))
    pen = ImageDraw.Draw(image)
    cells = rng.sample([(c, r) for c in range(GRID) for r in range(GRID)], rng.randint(2, 5))
    things: dict[tuple[int, int], tuple[str, str]] = {}
    while not _absent(things):
        things = {cell: (rng.choice(tuple(PALETTE)), rng.choice(SHAPES)) for cell in cells}
    pitch = SOURCE / GRID
    items = []
    for (column, row), (colour, shape) in things.items():
        radius = rng.uniform(57, 99)
        x = (column + 0.5) * pitch + rng.uniform(-21, 21)
        y = (row + 0.5) * pitch + rng.uniform(-21, 21)
        fill = tuple(min(255, max(0, c + rng.randint(-14, 14))) for c in PALETTE[colour])
        _shape(pen, shape, x, y, radius, fill, rng.uniform(-0.25, 0.25))
        items.append(Item(x / SOURCE, y / SOURCE, 2 * radius / SOURCE, f"{colour} {shape}"))
    return Scene(image, tuple(_questions(rng, things)), tuple(items))


def _absent(things: dict[tuple[int, int], tuple[str, str]]) -> list[tuple[str, str]]:
    """Colours and shapes that are there, but not as one thing."""
    there = set(things.values())
    pairs = {(colour, shape) for colour, _ in there for _, shape in there}
    return sorted(pairs - there)


def _shape(
    pen: ImageDraw.ImageDraw, shape: str, x: float, y: float, radius: float, fill: tuple[int, ...], turn: float
) -> None:
    if shape == "circle":
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
        return
    corners, dents = {"square": (4, 1.0), "triangle": (3, 1.0), "star": (10, 0.45)}[shape]
    start = turn + (math.pi / 4 if shape == "square" else -math.pi / 2)
    points = []
    for k in range(corners):
        r = radius * (dents if k % 2 and shape == "star" else 1.0)
        angle = start + 2 * math.pi * k / corners
        points.append((x + r * math.cos(angle), y + r * math.sin(angle)))
    pen.polygon(points, fill=fill)


def _questions(rng: random.Random, things: dict[tuple[int, int], tuple[str, str]]) -> list[Question]:
    colours = [colour for colour, _ in things.values()]
    shapes = [shape for _, shape in things.values()]
    questions = []
    if unique := [s for s in SHAPES if shapes.count(s) == 1]:
        shape = rng.choice(unique)
        questions.append(Question(f"what color is the {shape}?", colours[shapes.index(shape)], "attribute"))
    if unique := [c for c in PALETTE if colours.count(c) == 1]:
        colour = rng.choice(unique)
        questions.append(Question(f"what shape is {colour}?", shapes[colours.index(colour)], "attribute"))
    if rng.random() < 0.5:
        shape = rng.choice(SHAPES)
        questions.append(Question(f"how many {shape}s are there?", str(shapes.count(shape)), "count"))
    else:
        questions.append(Question("how many shapes are there?", str(len(things)), "count"))
    # Half of the answers are no, and then the colour is there and the shape is there, only not together.
    there = rng.random() < 0.5
    colour, shape = rng.choice(list(things.values()) if there else _absent(things))
    questions.append(Question(f"is there a {colour} {shape}?", "yes" if there else "no", "existence"))
    if relation := _relation(rng, things):
        questions.append(relation)
    return questions


def _relation(rng: random.Random, things: dict[tuple[int, int], tuple[str, str]]) -> Question | None:
    """A question about the direct neighbour of a shape that is named by a unique (colour, shape)."""
    options = []
    for (column, row), thing in things.items():
        if list(things.values()).count(thing) > 1:
            continue
        for relation, (dx, dy) in RELATIONS.items():
            # "A is left of B": start from B and look left.
            neighbour = things.get((column + dx, row + dy))
            if neighbour is not None:
                options.append((relation, thing, neighbour))
    if not options:
        return None
    relation, (colour, shape), (_, answer) = rng.choice(options)
    return Question(f"what shape is {relation} the {colour} {shape}?", answer, "relation")
