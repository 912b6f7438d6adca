"""Training images, drawn once, resized once to every training resolution, and kept as bytes on disk.

Scenes come from the `train` split of the embedded suites, whose seeds never occur in their `test` split.
"""

from __future__ import annotations

import json
import random
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import track

from harness.models.preprocess import square
from harness.schema import fingerprint
from harness.suites import embedded
from harness.suites.scenes import generator

DIGITS = 3
"""Longest number that a suite prints."""
MAX_ITEMS = 12
CONTEXTS = 2

Row = dict[str, object]


def labels() -> list[str]:
    """Everything that an item or a context can be, numbers aside: words, colours, `colour shape`."""
    from harness.suites import doc_read, scene_text, shapes
    from harness.suites.scenes import PALETTE

    things = [f"{colour} {shape}" for colour in PALETTE for shape in shapes.SHAPES]
    return list(dict.fromkeys([*doc_read.words(), *scene_text.LEXICON, *PALETTE, *things]))


@dataclass(frozen=True)
class Pool:
    """The drawn images of one recipe."""

    name: str
    """Names this content and no other."""
    images: dict[int, np.ndarray]
    """By resolution: uint8 (n, R, R, 3), memory-mapped."""
    place: np.ndarray
    """float32 (n, MAX_ITEMS, 3): x, y, width of each item as fractions; x < 0 where there is none."""
    label: np.ndarray
    """int64 (n, MAX_ITEMS): index into `labels()`, -1 for a number or no item."""
    digits: np.ndarray
    """int64 (n, MAX_ITEMS, DIGITS): digits of a number, 10 after its end; -1 for a word."""
    context: np.ndarray
    """int64 (n, MAX_ITEMS, CONTEXTS): index into `labels()`, or -1."""
    questions: list[list[tuple[str, str]]]
    """Of each image: (question, answer)."""

    def __len__(self) -> int:
        """Number of images."""
        return len(self.questions)


def _render(task: tuple[str, int, tuple[int, ...]]) -> tuple[list[np.ndarray], Row]:
    suite, index, resolutions = task
    scene = embedded.DRAW[suite](generator(suite, "train", index))
    pixels = [square(scene.image, resolution, (0, 0, 0)) for resolution in resolutions]
    items = [(i.x, i.y, i.width, i.label, i.context) for i in scene.items]
    return pixels, {"items": items, "questions": [(q.text, q.answer) for q in scene.questions]}


def open_pool(counts: dict[str, int], resolutions: tuple[int, ...], folder: Path, workers: int) -> Pool:
    """Draw the pool into `folder`, or open it if the same one is already there."""
    name = fingerprint([counts, resolutions, embedded.fingerprint_of_drawing()])
    folder = folder / f"pool-{name}"
    tasks = [(suite, index, resolutions) for suite, count in counts.items() for index in range(count)]
    random.Random(0).shuffle(tasks)
    if not (folder / "rows.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        maps = [
            np.lib.format.open_memmap(folder / f"{r}.npy", mode="w+", dtype=np.uint8, shape=(len(tasks), r, r, 3))
            for r in resolutions
        ]
        rows = []
        with ProcessPoolExecutor(workers) as processes:
            drawn = processes.map(_render, tasks, chunksize=64)
            for index, (pixels, row) in enumerate(track(drawn, "drawing", total=len(tasks))):
                for target, array in zip(maps, pixels, strict=True):
                    target[index] = array
                rows.append(row)
        for target in maps:
            target.flush()
        (folder / "rows.json").write_text(json.dumps(rows))
    images = {r: np.load(folder / f"{r}.npy", mmap_mode="r") for r in resolutions}
    return _with_targets(name, images, json.loads((folder / "rows.json").read_text()))


def _with_targets(name: str, images: dict[int, np.ndarray], rows: list[Row]) -> Pool:
    index = {label: i for i, label in enumerate(labels())}
    n = len(rows)
    place = np.full((n, MAX_ITEMS, 3), -1, np.float32)
    label = np.full((n, MAX_ITEMS), -1, np.int64)
    digits = np.full((n, MAX_ITEMS, DIGITS), -1, np.int64)
    context = np.full((n, MAX_ITEMS, CONTEXTS), -1, np.int64)
    questions = []
    for row_index, row in enumerate(rows):
        items = row["items"]
        assert isinstance(items, list)
        for k, (x, y, width, text, around) in enumerate(items):
            place[row_index, k] = (x, y, width)
            if text.isdigit():
                digits[row_index, k] = [int(c) for c in text] + [10] * (DIGITS - len(text))
            else:
                label[row_index, k] = index[text]
            for slot, word in enumerate(around):
                context[row_index, k, slot] = index[word]
        pairs = row["questions"]
        assert isinstance(pairs, list)
        questions.append([(str(q), str(a)) for q, a in pairs])
    return Pool(name, images, place, label, digits, context, questions)
