"""`scene_text`: words on coloured, rotated signs before a noisy ground, asked as TextVQA asks (VQA accuracy)."""

from __future__ import annotations

import math
import random

from PIL import Image, ImageDraw, ImageFilter

from harness.suites.scenes import CLEAR, FACES, PALETTE, SOURCE, Item, Question, Scene, font

LEXICON = (
    "stop", "exit", "open", "closed", "cafe", "hotel", "bank", "taxi", "park", "sale", "pizza", "bus",
    "shop", "bar", "fire", "way", "north", "south", "slow", "gate", "zone", "food", "music", "water",
)  # fmt: skip

PRINT_SIZES = (22, 33, 45, 63, 87, 120)
"""Ems in canvas pixels, each varied by a tenth; 22 is 11 px at 384 px input, 7 px at 256 and under 2 px at 64."""
TILT = 20
"""Largest turn of a sign in degrees; less where it would not have room."""


def draw(rng: random.Random) -> Scene:
    """One to three signs of different colours and words, above or beside one another; all in one print size."""
    size = round(rng.choice(PRINT_SIZES) * rng.uniform(0.92, 1.08))
    image = _ground(rng)
    count = rng.choice((1, 2, 2, 3))
    words = rng.sample(LEXICON, count)
    colours = rng.sample(tuple(PALETTE), count)
    plates = [_plate(rng, word, colour, size) for word, colour in zip(words, colours, strict=True)]
    vertical = rng.random() < 0.6
    band = SOURCE / count
    if any(plate.width > band - 4 * CLEAR for plate, _ in plates):  # wide signs fit only above one another
        vertical = True
    items = []
    for index, ((plate, width), word, colour) in enumerate(zip(plates, words, colours, strict=True)):
        room = (SOURCE, band) if vertical else (band, SOURCE)
        plate = _turned(plate, rng.uniform(-TILT, TILT), (room[0] - 2 * CLEAR, room[1] - 2 * CLEAR))
        # Its own band of the canvas, the middle of it rather than the ends.
        spare = [side - 2 * CLEAR - length for side, length in zip(room, plate.size, strict=True)]
        offset = [CLEAR + most * rng.uniform(0.2, 0.8) for most in spare]
        x, y = (offset[0], index * band + offset[1]) if vertical else (index * band + offset[0], offset[1])
        left, top = round(x), round(y)
        image.paste(plate, (left, top), plate)
        middle = (left + plate.width / 2) / SOURCE, (top + plate.height / 2) / SOURCE
        items.append(Item(*middle, width / SOURCE, word, (colour,)))
    questions = []
    if count == 1:
        questions.append(Question("what does the sign say?", words[0], "only sign"))
    for word, colour in zip(words, colours, strict=True):
        questions.append(Question(f"what word is on the {colour} sign?", word, "by colour"))
    if count > 1:
        first, last = ("top", "bottom") if vertical else ("left", "right")
        questions.append(Question(f"what word is at the {first}?", words[0], "by place"))
        questions.append(Question(f"what word is at the {last}?", words[-1], "by place"))
    return Scene(image, tuple(questions), tuple(items))


def _ground(rng: random.Random) -> Image.Image:
    """A blurred mosaic with noise: what stands behind the signs."""
    cells = rng.randint(4, 9)
    base = [rng.randint(70, 190) for _ in range(3)]
    mosaic = Image.new("RGB", (cells, cells))
    mosaic.putdata([tuple(min(255, max(0, c + rng.randint(-45, 45))) for c in base) for _ in range(cells * cells)])
    ground = mosaic.resize((SOURCE, SOURCE), Image.Resampling.BICUBIC)
    grain = Image.frombytes("L", (SOURCE // 6, SOURCE // 6), rng.randbytes((SOURCE // 6) ** 2))
    grain = grain.resize((SOURCE, SOURCE), Image.Resampling.BILINEAR).convert("RGB")
    return Image.blend(ground, grain, rng.uniform(0.05, 0.22))


def _plate(rng: random.Random, word: str, colour: str, size: int) -> tuple[Image.Image, float]:
    """A sign that is not turned yet, and how wide its print is."""
    text = word.upper()
    faces = [font(face, size) for face in FACES]
    pad = size * rng.uniform(0.25, 0.5)
    most = SOURCE - 4 * CLEAR - 2 * pad
    face = rng.choice([face for face in faces if face.getlength(text) <= most])
    width = face.getlength(text)
    plate = Image.new("RGBA", (int(width + 2 * pad), int(size * 1.25 + pad)), (0, 0, 0, 0))
    pen = ImageDraw.Draw(plate)
    fill = tuple(min(255, max(0, c + rng.randint(-14, 14))) for c in PALETTE[colour])
    pen.rounded_rectangle((0, 0, plate.width - 1, plate.height - 1), radius=size * rng.uniform(0.05, 0.4), fill=fill)
    light = colour in ("yellow", "orange")
    ink = (rng.randint(0, 40),) * 3 if light else (rng.randint(225, 255),) * 3
    pen.text((plate.width / 2, plate.height / 2), text, font=face, fill=ink, anchor="mm")
    if rng.random() < 0.25:
        plate = plate.filter(ImageFilter.GaussianBlur(size * 0.02))
    return plate, width


def _turned(plate: Image.Image, tilt: float, room: tuple[float, float]) -> Image.Image:
    """A sign turned by `tilt` degrees, or by as much of them as it has room for."""
    while True:
        angle = math.radians(abs(tilt))
        width = plate.width * math.cos(angle) + plate.height * math.sin(angle)
        height = plate.width * math.sin(angle) + plate.height * math.cos(angle)
        if (width < room[0] - 2 and height < room[1] - 2) or abs(tilt) < 0.5:
            return plate.rotate(tilt, Image.Resampling.BICUBIC, expand=True)
        tilt *= 0.9
