"""`scene_text`: words on coloured, rotated signs before a noisy ground, asked as TextVQA asks (VQA accuracy)."""

from __future__ import annotations

import random

from PIL import Image, ImageDraw, ImageFilter

from harness.suites.scenes import FACES, PALETTE, SOURCE, Item, Question, Scene, font

LEXICON = (
    "stop", "exit", "open", "closed", "cafe", "hotel", "bank", "taxi", "park", "sale", "pizza", "bus",
    "shop", "bar", "fire", "way", "north", "south", "slow", "gate", "zone", "food", "music", "water",
)  # fmt: skip

PRINT_SIZES = (22, 30, 42, 58, 80)
"""Ems in canvas pixels, each varied by a tenth; 22 is 11 px at 256 px input and under 3 px at 64 px."""


def draw(rng: random.Random) -> Scene:
    """One to three signs of different colours and words; all in one print size."""
    size = round(rng.choice(PRINT_SIZES) * rng.uniform(0.92, 1.08))
    image = _ground(rng)
    count = rng.choice((1, 2, 2, 3))
    words = rng.sample(LEXICON, count)
    colours = rng.sample(tuple(PALETTE), count)
    vertical = rng.random() < 0.6 or size > 52  # large signs fit only above one another
    items = []
    for index, (word, colour) in enumerate(zip(words, colours, strict=True)):
        along = (index + 0.5 + rng.uniform(-0.12, 0.12)) / count
        across = 0.5 + rng.uniform(-0.12, 0.12)
        x, y = (across, along) if vertical else (along, across)
        tilt = rng.uniform(-12, 12) if not vertical and count == 3 else rng.uniform(-20, 20)
        items.append(_sign(image, rng, word, colour, size, (x, y), tilt))
    questions = []
    if count == 1:
        questions.append(Question("what does the sign say?", words[0], "only sign"))
    for word, colour in zip(words, colours, strict=True):
        questions.append(Question(f"what word is on the {colour} sign?", word, "by colour"))
    if count > 1:
        first, last = ("top", "bottom") if vertical else ("left", "right")
        questions.append(Question(f"what word is at the {first}?", words[0], "by place"))
        questions.append(Question(f"what word is at the {last}?", words[-1], "by place"))
    return Scene(image, tuple(questions), tuple(items), size)


def _ground(rng: random.Random) -> Image.Image:
    """A blurred mosaic with noise: what stands behind the signs."""
    cells = rng.randint(4, 9)
    base = [rng.randint(70, 190) for _ in range(3)]
    mosaic = Image.new("RGB", (cells, cells))
    mosaic.putdata([tuple(min(255, max(0, c + rng.randint(-45, 45))) for c in base) for _ in range(cells * cells)])
    ground = mosaic.resize((SOURCE, SOURCE), Image.Resampling.BICUBIC)
    grain = Image.frombytes("L", (SOURCE // 4, SOURCE // 4), rng.randbytes((SOURCE // 4) ** 2))
    grain = grain.resize((SOURCE, SOURCE), Image.Resampling.BILINEAR).convert("RGB")
    return Image.blend(ground, grain, rng.uniform(0.05, 0.22))


def _sign(
    image: Image.Image,
    rng: random.Random,
    word: str,
    colour: str,
    size: int,
    centre: tuple[float, float],
    tilt: float,
) -> Item:
    """Paste one sign with its centre at a place (fractions of the canvas), turned by `tilt` degrees."""
    face = font(rng.choice(FACES), size)
    text = word.upper()
    width = face.getlength(text)
    pad = size * rng.uniform(0.25, 0.5)
    plate = Image.new("RGBA", (int(width + 2 * pad), int(size * 1.25 + pad)), (0, 0, 0, 0))
    pen = ImageDraw.Draw(plate)
    fill = tuple(min(255, max(0, c + rng.randint(-14, 14))) for c in PALETTE[colour])
    pen.rounded_rectangle((0, 0, plate.width - 1, plate.height - 1), radius=size * rng.uniform(0.05, 0.4), fill=fill)
    light = colour in ("yellow", "orange")
    ink = (rng.randint(0, 40),) * 3 if light else (rng.randint(225, 255),) * 3
    pen.text((plate.width / 2, plate.height / 2), text, font=face, fill=ink, anchor="mm")
    if rng.random() < 0.25:
        plate = plate.filter(ImageFilter.GaussianBlur(size * 0.02))
    plate = plate.rotate(tilt, Image.Resampling.BICUBIC, expand=True)
    x, y = centre
    image.paste(plate, (round(x * SOURCE - plate.width / 2), round(y * SOURCE - plate.height / 2)), plate)
    return Item(x, y, width / SOURCE, word, (colour,))
