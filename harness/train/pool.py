"""Scenes to learn from: what stands on them, what may be asked, and their images at every training resolution.

Scenes come from the `train` split of the embedded suites, or from `held_out` where something is only measured; the
seeds of both never occur in the `test` split. They are drawn once and kept on disk.
"""

from __future__ import annotations

import json
import random
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from rich.progress import track

from harness.models.preprocess import square
from harness.schema import fingerprint
from harness.suites import doc_read, embedded, scene_text, shapes
from harness.suites.scenes import PALETTE, Scene, generator

DIGITS = 3
"""Longest number that a suite prints."""
MAX_ITEMS = 12
CONTEXTS = 2


@cache
def labels() -> tuple[str, ...]:
    """Everything that an item or a context can be, numbers aside: words, colours, `colour shape`."""
    things = [f"{colour} {shape}" for colour in PALETTE for shape in shapes.SHAPES]
    return tuple(dict.fromkeys([*doc_read.words(), *scene_text.LEXICON, *PALETTE, *things]))


@cache
def _index() -> dict[str, int]:
    return {label: k for k, label in enumerate(labels())}


@dataclass(frozen=True)
class Row:
    """One scene without its image."""

    suite: str
    items: list[tuple[float, float, str, list[str]]]
    """x, y (fractions of the canvas), label, context (see `scenes.Item`)."""
    questions: list[tuple[str, str, str]]
    """Question, answer, kind."""

    @classmethod
    def of(cls, suite: str, scene: Scene) -> Row:
        """What stands on a drawn scene."""
        items = [(i.x, i.y, i.label, list(i.context)) for i in scene.items]
        return cls(suite, items, [(q.text, q.answer, q.kind) for q in scene.questions])


@dataclass(frozen=True)
class Targets:
    """What stands on some scenes as numbers."""

    place: np.ndarray
    """float32 (n, MAX_ITEMS, 2): x, y of each item as fractions; below 0 where there is none."""
    label: np.ndarray
    """int64 (n, MAX_ITEMS): index into `labels()`, -1 for a number or no item."""
    digits: np.ndarray
    """int64 (n, MAX_ITEMS, DIGITS): digits of a number, 10 after its end; -1 for a word."""
    context: np.ndarray
    """int64 (n, MAX_ITEMS, CONTEXTS): index into `labels()`, or -1."""

    @classmethod
    def of(cls, rows: list[Row]) -> Targets:
        """The targets of scenes."""
        n, index = len(rows), _index()
        place = np.full((n, MAX_ITEMS, 2), -1, np.float32)
        label = np.full((n, MAX_ITEMS), -1, np.int64)
        digits = np.full((n, MAX_ITEMS, DIGITS), -1, np.int64)
        context = np.full((n, MAX_ITEMS, CONTEXTS), -1, np.int64)
        for i, row in enumerate(rows):
            for k, (x, y, text, around) in enumerate(row.items):
                place[i, k] = (x, y)
                if text.isdigit():
                    digits[i, k] = [int(c) for c in text] + [10] * (DIGITS - len(text))
                else:
                    label[i, k] = index[text]
                for slot, word in enumerate(around):
                    context[i, k, slot] = index[word]
        return cls(place, label, digits, context)


@dataclass(frozen=True)
class Pool:
    """Drawn scenes with their images."""

    name: str
    """Names this content and no other."""
    images: dict[int, np.ndarray]
    """By resolution: uint8 (n, R, R, 3), memory-mapped."""
    rows: list[Row]
    targets: Targets

    def __len__(self) -> int:
        """Number of images."""
        return len(self.rows)


Task = tuple[str, str, int, tuple[int, ...]]
"""Suite, split, index, resolutions."""


def _render(task: Task) -> tuple[list[np.ndarray], Row]:
    suite, split, index, resolutions = task
    scene = embedded.DRAW[suite](generator(suite, split, index))
    return [square(scene.image, resolution, (0, 0, 0)) for resolution in resolutions], Row.of(suite, scene)


def _tasks(counts: dict[str, int], split: str, resolutions: tuple[int, ...]) -> list[Task]:
    tasks = [(suite, split, index, resolutions) for suite, count in counts.items() for index in range(count)]
    random.Random(0).shuffle(tasks)
    return tasks


def open_rows(counts: dict[str, int], split: str, folder: Path, workers: int) -> list[Row]:
    """What stands on so many scenes of each suite, without an image; drawn, or read if it was kept in `folder`."""
    path = folder / f"rows-{split}-{fingerprint([counts, embedded.fingerprint_of_drawing()])}.json"
    if not path.exists():
        tasks = _tasks(counts, split, ())
        with ProcessPoolExecutor(workers) as processes:
            drawn = processes.map(_render, tasks, chunksize=64)
            _write(path, [row for _, row in track(drawn, f"drawing what is asked ({split})", total=len(tasks))])
    return _read(path)


def open_pool(counts: dict[str, int], split: str, resolutions: tuple[int, ...], folder: Path, workers: int) -> Pool:
    """Draw so many scenes of each suite into `folder`, or open them if they are already there."""
    name = f"{split}-{fingerprint([counts, resolutions, embedded.fingerprint_of_drawing()])}"
    folder = folder / f"pool-{name}"
    if not (folder / "rows.json").exists():
        tasks = _tasks(counts, split, resolutions)
        folder.mkdir(parents=True, exist_ok=True)
        maps = [
            np.lib.format.open_memmap(folder / f"{r}.npy", mode="w+", dtype=np.uint8, shape=(len(tasks), r, r, 3))
            for r in resolutions
        ]
        rows = []
        with ProcessPoolExecutor(workers) as processes:
            drawn = processes.map(_render, tasks, chunksize=16)
            for index, (pixels, row) in enumerate(track(drawn, f"drawing scenes ({split})", total=len(tasks))):
                for target, array in zip(maps, pixels, strict=True):
                    target[index] = array
                rows.append(row)
        for target in maps:
            target.flush()
        _write(folder / "rows.json", rows)  # last: a folder with rows is complete
    images = {r: np.load(folder / f"{r}.npy", mmap_mode="r") for r in resolutions}
    rows = _read(folder / "rows.json")
    return Pool(name, images, rows, Targets.of(rows))


def _write(path: Path, rows: list[Row]) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps([[row.suite, row.items, row.questions] for row in rows]))
    part.replace(path)


def _read(path: Path) -> list[Row]:
    return [Row(suite, items, questions) for suite, items, questions in json.loads(path.read_text())]
