"""Small pictures full of print: what an encoder learns its letters from before it sees a whole scene.

A scene of a suite holds some thirty characters on an area that costs as much as four hundred would; dense print makes
a step of the encoder's first training ten times as instructive.
"""

from __future__ import annotations

import hashlib
import math
import random
import string
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from rich.progress import track

from harness.schema import fingerprint
from harness.suites import embedded
from harness.suites.scenes import FACES, PALETTE, font

SIDE = 96
"""Side of a picture in pixels."""
OVERSAMPLING = 3
"""Pictures are drawn larger and reduced, so that their print is blurred as a reduced scene's is."""
EMS = (7, 26)
"""Smallest and largest em in pixels; a capital of the smallest is 5 pixels high."""
MOST = 128
"""Most characters that are kept of one picture."""
CHARACTERS = string.ascii_uppercase + string.digits

Mark = tuple[str, float, float]


def draw(index: int, split: str = "train") -> tuple[np.ndarray, list[Mark]]:
    """Picture `index` of a split: uint8 (SIDE, SIDE, 3), and each whole character with its centre as fractions."""
    rng = random.Random(f"print/{split}/{index}")
    words = embedded.words()
    em = math.exp(rng.uniform(*map(math.log, EMS))) * OVERSAMPLING
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
                text = "".join(rng.choices(CHARACTERS, k=rng.randint(2, 6)))
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
    rng.shuffle(kept)  # those that are left out of a very full picture are not always the lowest
    pixels = np.asarray(picture, np.float32)
    grain = np.random.default_rng(rng.getrandbits(32)).normal(0, rng.choice((0, 0, 4, 8)), pixels.shape)
    return (pixels + grain).clip(0, 255).astype(np.uint8), kept[:MOST]


def _colours(rng: random.Random) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Dark on light as on a page, or as on a sign."""
    if rng.random() < 0.5:
        tone = rng.randint(215, 255)
        return (tone, tone, tone), (rng.randint(0, 70),) * 3
    colour = rng.choice(tuple(PALETTE))
    light = colour in ("yellow", "orange")
    return PALETTE[colour], (rng.randint(0, 40),) * 3 if light else (rng.randint(225, 255),) * 3


@cache
def fingerprint_of_print() -> str:
    """Hash of a few pictures: changes when what is drawn changes (print, faces, words, colours), not with a comment,
    and not with the scenes of the suites."""
    digest = hashlib.sha256(repr((PALETTE, FACES, embedded.words())).encode())
    for index in range(8):
        pixels, marks = draw(index, "fingerprint")
        digest.update(pixels.tobytes())
        digest.update(repr([(sign, round(x, 3), round(y, 3)) for sign, x, y in marks]).encode())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class PrintPool:
    """Drawn pictures of one split."""

    images: np.ndarray
    """uint8 (n, SIDE, SIDE, 3), memory-mapped."""
    character: np.ndarray
    """int64 (n, MOST): index into `CHARACTERS`, -1 where there is none."""
    place: np.ndarray
    """float32 (n, MOST, 2): its centre as fractions."""

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.images)

    def take(self, rows: np.ndarray | slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Images, characters and places of some pictures."""
        return self.images[rows], self.character[rows], self.place[rows]


def open_print_pool(count: int, split: str, folder: Path, workers: int) -> PrintPool:
    """Draw the first `count` pictures of a split into `folder`, or open them if they are already there."""
    whole = folder / f"print-{split}-{fingerprint([count, fingerprint_of_print()])}"
    if not whole.exists():
        part = whole.with_suffix(".part")
        part.mkdir(parents=True, exist_ok=True)
        shape = (count, SIDE, SIDE, 3)
        images = np.lib.format.open_memmap(part / "images.npy", mode="w+", dtype=np.uint8, shape=shape)
        character = np.full((count, MOST), -1, np.int64)
        place = np.zeros((count, MOST, 2), np.float32)
        with ProcessPoolExecutor(workers) as processes:
            drawn = processes.map(partial(draw, split=split), range(count), chunksize=64)
            for row, (pixels, marks) in enumerate(track(drawn, f"drawing print ({split})", total=count)):
                images[row] = pixels
                for k, (sign, x, y) in enumerate(marks):
                    character[row, k] = CHARACTERS.index(sign)
                    place[row, k] = (x, y)
        images.flush()
        np.save(part / "character.npy", character)
        np.save(part / "place.npy", place)
        part.rename(whole)
    images = np.load(whole / "images.npy", mmap_mode="r")
    return PrintPool(images, np.load(whole / "character.npy"), np.load(whole / "place.npy"))
