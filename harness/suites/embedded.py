"""The embedded suites: rows in the schema of the benchmark that each stands for, drawn when they are asked for.

| suite | columns of | metric |
|---|---|---|
| `doc_read` | DocVQA: questionId, question, question_types, image, docId, answers | ANLS |
| `scene_text` | TextVQA: question_id, image_id, question, image, answers (ten) | VQA accuracy |
| `shapes` | GQA: id, imageId, question, answer, image | exact match |
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from harness.schema import fingerprint
from harness.suites import doc_read, scene_text, shapes
from harness.suites.scenes import PALETTE, Draw, Question, Scene, generator

DRAW: dict[str, Draw] = {"doc_read": doc_read.draw, "scene_text": scene_text.draw, "shapes": shapes.draw}

Row = dict[str, Any]

IMAGES = 80
"""Images of a suite whose task does not say how many."""


def rows(suite: str, images: int, split: str = "test") -> Iterator[Row]:
    """The rows of the first `images` images of a split, one for each question; `image` is {bytes, path}."""
    for index in range(images):
        rng = generator(suite, split, index)
        scene = DRAW[suite](rng)
        image = {"bytes": png(scene), "path": f"{suite}-{split}-{index}.png"}
        for number, question in enumerate(scene.questions):
            yield _ROW[suite](index, number, question, image, rng)


def _docvqa_row(index: int, number: int, question: Question, image: Row, _rng: Any) -> Row:
    return {
        "questionId": f"{index}-{number}",
        "question": question.text,
        "question_types": [question.kind],
        "image": image,
        "docId": index,
        "answers": [question.answer],
    }


def _textvqa_row(index: int, number: int, question: Question, image: Row, rng: Any) -> Row:
    # Ten people answer; now and then one errs, as TextVQA's do. The truth keeps at least seven of the ten.
    erring = rng.choices((0, 1, 2, 3), (6, 2, 1, 1))[0]
    others = [word for word in scene_text.LEXICON if word != question.answer]
    answers = [question.answer] * (10 - erring) + rng.sample(others, erring)
    return {
        "image_id": f"{index}",
        "question_id": f"{index}-{number}",
        "question": question.text,
        "image": image,
        "image_classes": [question.kind],
        "answers": answers,
    }


def _gqa_row(index: int, number: int, question: Question, image: Row, _rng: Any) -> Row:
    return {
        "id": f"{index}-{number}",
        "imageId": f"{index}",
        "question": question.text,
        "answer": question.answer,
        "groups": {"global": question.kind},
        "image": image,
    }


_ROW: dict[str, Callable[[int, int, Question, Row, Any], Row]] = {
    "doc_read": _docvqa_row,
    "scene_text": _textvqa_row,
    "shapes": _gqa_row,
}


def png(scene: Scene) -> bytes:
    """The scene's image as PNG bytes (lossless, fastest compression)."""
    out = io.BytesIO()
    scene.image.save(out, "PNG", compress_level=1)
    return out.getvalue()


@cache
def fingerprint_of_drawing() -> str:
    """Hash of a few drawn scenes of each suite: changes when what is drawn changes, not when a comment does."""
    digest = hashlib.sha256()
    for suite, draw in DRAW.items():
        for index in range(6):
            scene = draw(generator(suite, "fingerprint", index))
            digest.update(scene.image.tobytes())
            digest.update(repr((scene.questions, scene.items)).encode())
    return digest.hexdigest()[:16]


@cache
def fingerprint_of_rows() -> str:
    """Hash of a few rows of each suite's test split, answers and images included: what a record's key holds."""
    return fingerprint([repr(list(rows(suite, 4))) for suite in DRAW])


def words() -> list[str]:
    """Every word that a question or an answer of the embedded suites can hold, numbers aside."""
    asked = "what is the of does sign say word on at top bottom left right color shape how many shapes are there a"
    kinds = [form for shape in shapes.SHAPES for form in (shape, f"{shape}s")]
    relations = [word for relation in shapes.RELATIONS for word in relation.split()]
    return [*asked.split(), "yes", "no", *PALETTE, *kinds, *relations, *doc_read.words(), *scene_text.LEXICON]
