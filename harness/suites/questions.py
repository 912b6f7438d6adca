"""Rows of a suite -> questions: what to ask about which image, and what is right. Bad rows are named, not skipped."""

from __future__ import annotations

import ast
import hashlib
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

from jinja2 import StrictUndefined, TemplateError, UndefinedError
from jinja2.sandbox import SandboxedEnvironment
from PIL import Image, UnidentifiedImageError

from harness.schema import DRAWN, HarnessError, Suite, fingerprint
from harness.suites import embedded, hub
from harness.suites.tasks import load_suite

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Question:
    """A row, reduced to what an answerer and a metric need."""

    question_id: str
    prompt: str
    answers: tuple[str, ...]
    image: str
    """The first 16 hex digits of the SHA-256 of its stored bytes: equal images are one, whatever they are called.
    Several images are joined by `+`."""
    kind: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What the metric needs beside the answers, e.g. `choices`."""


class Pictures(Mapping[str, tuple[bytes, ...]]):
    """What a question shows, as it is stored, by key. Images of a dataset stay on the disk until they are asked for."""

    def __init__(self) -> None:
        self.found: dict[str, Callable[[], tuple[bytes, ...]]] = {}

    def __getitem__(self, key: str) -> tuple[bytes, ...]:
        return self.found[key]()

    def __iter__(self) -> Iterator[str]:
        return iter(self.found)

    def __len__(self) -> int:
        return len(self.found)


@dataclass(frozen=True)
class Questions:
    """All questions of a suite, and its images as they are stored."""

    asked: tuple[Question, ...]
    images: Mapping[str, tuple[bytes, ...]]
    revision: str
    """Of the data: the hub's commit, or empty."""

    @property
    def fingerprint(self) -> str:
        """Hash of everything that is asked, images included."""
        return fingerprint([(q.question_id, q.prompt, q.answers, q.image, q.kind, dict(q.facts)) for q in self.asked])


def load(suite: Suite) -> Questions:
    """Every question of a suite, of its first images if it says how many; read once in a process.

    Raises `HarnessError` naming dataset, row and column for a column that is missing, a reference list that is empty,
    an image that is none, and an id that appears twice.
    """
    return _load(suite.model_dump_json())


EXAMPLES = 24
"""Different images of `scene_text`, with a question each, that the bench shows in turn."""


def examples() -> list[tuple[bytes, str]]:
    """What the bench shows: different images of one size, each with one question."""
    questions = load(load_suite("scene_text", EXAMPLES))
    first = {asked.image: asked.prompt for asked in reversed(questions.asked)}
    return [(questions.images[image][0], first[image]) for image in questions.images]


@cache
def _load(content: str) -> Questions:
    suite = Suite.model_validate_json(content)
    source = suite.source
    revision: str | None = None
    pictures: Mapping[str, bytes] | None = None
    if source.path == DRAWN:
        rows: Iterable[Mapping[str, Any]] = embedded.rows(suite.name, suite.images or embedded.IMAGES)
    else:
        rows, revision = hub.rows(source)
        pictures = hub.pictures(source) if source.images else None
    where = f"{source.path}{f' ({source.name})' if source.name else ''}, split {source.split}"
    asked: list[Question] = []
    images = Pictures()
    seen: dict[str, int] = {}
    parts = _Parts(suite)
    for number, row in enumerate(rows):
        place = f"{where}, row {number}"
        found = parts.of({**row, "row": number}, place)
        if found is None:
            continue
        if (first := seen.setdefault(found["id"], number)) != number:
            raise HarnessError(f"{place}: the id {found['id']!r} is that of row {first} already")
        shown = _pictures(found["image"], pictures, place)
        key = "+".join(hashlib.sha256(stored).hexdigest()[:16] for stored in shown)
        if key not in images:
            if suite.images is not None and len(images) == suite.images:
                continue
            for stored in shown:
                _check(stored, place)
            again = partial(_again, rows, number, parts, pictures, place)
            images.found[key] = again if revision is not None else partial(tuple, shown)
        asked.append(Question(found["id"], found["prompt"], found["answers"], key, found["kind"], found["facts"]))
    if not asked:
        raise HarnessError(f"{where}: no question is left to ask")
    return Questions(tuple(asked), images, revision or "")


class _Parts:
    """A suite's expressions, compiled once."""

    def __init__(self, suite: Suite):
        environment = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
        environment.filters |= {"literal": ast.literal_eval, "options": options_of, "without_image_marks": unmarked}
        environment.filters["letter"] = letter_of
        texts = {"image": "image", "kind": "''", **suite.fields}
        if not suite.submission and "answers" not in texts:
            raise HarnessError(f"suite {suite.name}: metadata has no answers, and nobody else to judge")
        self._environment = environment
        try:
            self._prompt = environment.from_string(suite.prompt)
            self._fields = {key: self._compile(text) for key, text in texts.items()}
            self._facts = {key: self._compile(text) for key, text in suite.facts.items()}
        except TemplateError as error:
            raise HarnessError(f"suite {suite.name}: {error}") from error

    def _compile(self, text: str) -> Any:
        return self._environment.compile_expression(text, undefined_to_none=False)

    def of(self, row: Mapping[str, Any], place: str) -> dict[str, Any] | None:
        """A row's parts; None if the suite does not ask it."""
        what = "where"
        try:
            if "where" in self._fields and not self.value("where", row):
                return None
            found: dict[str, Any] = {}
            for what in self._fields.keys() - {"where"}:
                found[what] = self.value(what, row)
            what = "doc_to_text"
            found["prompt"] = self._prompt.render(row)
            for what, expression in self._facts.items():
                found.setdefault("facts", {})[what] = _defined(expression(**row))
        except UndefinedError as error:
            there = ", ".join(str(name) for name in row if name != "row")
            raise HarnessError(f"{place}: {what}: {error}; the columns are: {there}") from error
        except (TemplateError, ValueError, TypeError, LookupError, SyntaxError) as error:
            raise HarnessError(f"{place}: {what}: {type(error).__name__}: {error}") from error
        answers = found.get("answers", ())
        if answers is None or answers == [] or answers == "":
            raise HarnessError(f"{place}: answers is empty: this split has no references to score against")
        answers = [answers] if isinstance(answers, str | int | float) else list(answers)
        if bad := [answer for answer in answers if not isinstance(answer, str | int | float)]:
            raise HarnessError(f"{place}: answers: {bad[0]!r} is no text")
        return found | {
            "id": str(found["id"]),
            "answers": tuple(map(str, answers)),
            "kind": str(found["kind"] or ""),
            "facts": found.get("facts", {}),
        }

    def value(self, name: str, row: Mapping[str, Any]) -> Any:
        """One of the suite's fields."""
        return _defined(self._fields[name](**row))


def _defined(value: Any) -> Any:
    if isinstance(value, StrictUndefined):
        str(value)  # raises, naming what is missing
    return value


def options_of(choices: Iterable[Any]) -> str:
    """Options as benchmarks print them: `A. red`, one a line."""
    return "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))


def letter_of(index: Any) -> str:
    """The letter of an option's index. (Jinja's own `int` makes 0 of what is no number.)"""
    if int(index) < 0:
        raise ValueError(f"{index} is no option's index; hidden references are often -1")
    return LETTERS[int(index)]


def unmarked(text: str) -> str:
    """MMMU's text without `<image 1>`: the image stands before it."""
    return re.sub(r"<image \d+> ?", "", text)


def _pictures(value: Any, pictures: Mapping[str, bytes] | None, place: str) -> tuple[bytes, ...]:
    """The stored bytes of all images of a question."""
    values = value if isinstance(value, list) else [value]
    if not values:
        raise HarnessError(f"{place}: image: there is none")
    return tuple(_picture(one, pictures, place) for one in values)


def _picture(value: Any, pictures: Mapping[str, bytes] | None, place: str) -> bytes:
    """The stored bytes of an image column, or of the picture that it names."""
    if pictures is not None:
        if str(value) not in pictures:
            raise HarnessError(f"{place}: image: there is no picture {value!r}")
        return pictures[str(value)]
    if isinstance(value, Mapping):
        value = value.get("bytes")
    if isinstance(value, bytes):
        return value
    raise HarnessError(f"{place}: image: holds no stored image, but {type(value).__name__}")


def _again(
    rows: Any, number: int, parts: _Parts, pictures: Mapping[str, bytes] | None, place: str
) -> tuple[bytes, ...]:
    """The stored images of one row, read once more."""
    return _pictures(parts.value("image", {**rows[number], "row": number}), pictures, place)


def _check(stored: bytes, place: str) -> None:
    """Refuse bytes in which no image begins; whether it is whole is seen when it is decoded."""
    try:
        with Image.open(io.BytesIO(stored)):
            return
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise HarnessError(f"{place}: image: {len(stored)} bytes that are no readable image") from error
