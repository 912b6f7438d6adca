"""Small pictures full of print: what an encoder learns its letters from before it sees a whole scene.

A scene of a suite holds some thirty characters on an area that costs as much as four hundred would; dense print makes
a step of the encoder's first training ten times as instructive.
"""

from __future__ import annotations

import math
import random

import numpy as np
from PIL import Image, ImageDraw

from harness.suites import embedded
from harness.suites.scenes import FACES, PALETTE, font

SIDE = 96
"""Side of a picture in pixels."""
OVERSAMPLING = 3
"""Pictures are drawn larger and reduced, so that their print is blurred as a reduced scene's is."""
MOST = 128
"""Most characters that are kept of one picture."""

Mark = tuple[str, float, float]


def draw(index: int) -> tuple[np.ndarray, list[Mark]]:
    """Picture `index`: uint8 (SIDE, SIDE, 3), and each whole character with its centre as fractions."""
    rng = random.Random(f"print/{index}")
    words = embedded.words()
    em = math.exp(rng.uniform(math.log(8), math.log(26))) * OVERSAMPLING
    face = font(rng.choice(FACES), round(em))
    side = SIDE * OVERSAMPLING
    paper, ink = _colours(rng)
    canvas = Image.new("RGB", (side * 3 // 2, side * 3 // 2), paper)
    pen = ImageDraw.Draw(canvas)
    marks: list[Mark] = []
    y = rng.uniform(0.5, 1.0) * em
    while y < canvas.height:
        x = rng.uniform(-2, 2) * em
        while x < canvas.width:
            if rng.random() < 0.6:
                text = rng.choice(words).upper()
            elif rng.random() < 0.6:
                text = str(rng.randint(10, 999))
            else:
                text = "".join(rng.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", k=rng.randint(2, 6)))
            pen.text((x, y), text, font=face, fill=ink, anchor="lm")
            for k, sign in enumerate(text):
                marks.append((sign, x + face.getlength(text[:k]) + face.getlength(sign) / 2, y))
            x += face.getlength(text) + em * rng.uniform(0.3, 2.0)
        y += em * rng.uniform(1.0, 2.2)
    turn = rng.uniform(-20, 20) if rng.random() < 0.5 else 0.0
    centre = canvas.width / 2
    canvas = canvas.rotate(turn, Image.Resampling.BICUBIC, fillcolor=paper)
    cut = (canvas.width - side) // 2
    picture = canvas.crop((cut, cut, cut + side, cut + side)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    kept = []
    for sign, x, y in marks:
        dx, dy = x - centre, y - centre
        place = (cos * dx + sin * dy + centre - cut) / side, (-sin * dx + cos * dy + centre - cut) / side
        if all(0.05 < p < 0.95 for p in place):
            kept.append((sign, *place))
    pixels = np.asarray(picture, np.float32)
    grain = np.random.default_rng(index).normal(0, rng.choice((0, 0, 4, 8)), pixels.shape)
    return (pixels + grain).clip(0, 255).astype(np.uint8), kept[:MOST]


def _colours(rng: random.Random) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Dark on light as on a page, or as on a sign."""
    if rng.random() < 0.5:
        tone = rng.randint(215, 255)
        return (tone, tone, tone), (rng.randint(0, 70),) * 3
    colour = rng.choice(tuple(PALETTE))
    light = colour in ("yellow", "orange")
    return PALETTE[colour], (rng.randint(0, 40),) * 3 if light else (rng.randint(225, 255),) * 3
