"""Rows of a suite -> questions: what to ask about which image, and what is right. Bad rows are named, not skipped."""

from __future__ import annotations

import ast
import hashlib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, TemplateError, UndefinedError, meta, nodes, pass_eval_context
from jinja2.filters import do_join
from jinja2.parser import Parser
from jinja2.sandbox import SandboxedEnvironment

from harness.metrics import METRICS
from harness.schema import DRAWN, HarnessError, Suite, fingerprint
from harness.storage import apart
from harness.storage.intake import open_image
from harness.suites import embedded, hub, local
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
    options: int = 0
    """How many options it lets one choose from, by their letters; 0 where it has none."""


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
    columns: tuple[str, ...] = ()
    """Of local data: all that are there."""

    @property
    def fingerprint(self) -> str:
        """Hash of everything that is asked, images included."""
        return fingerprint([(q.question_id, q.prompt, q.answers, q.image, q.kind, dict(q.facts)) for q in self.asked])


def load(suite: Suite) -> Questions:
    """Every question of a suite, of its first images if it says how many; read once in a process.

    Raises `HarnessError` naming folder, file and column for a column that is missing, and data set, row and column for
    a reference list that is empty, an image that is none, and an id that appears twice.
    """
    return _load(_rows_of(suite))


def _rows_of(suite: Suite) -> str:
    """A suite as JSON, without what is shown in place of its images: the rows are the same."""
    return suite.model_copy(update={"image": "given"}).model_dump_json()


OPENING = 120.0
"""Seconds in which a local data set must be open, beside those that its size takes."""
BYTES_PER_SECOND = 10e6


def fault_of(suite: Suite) -> str:
    """Why a suite's local data cannot be asked about, in one line; empty if it can, and for what is not local.

    Everything is read once, in a process of its own with limits: tables and images are other people's, and the suite's
    expressions may loop over them.
    """
    if suite.source.path == DRAWN or not local.is_local(suite.source.path):
        return ""
    return _fault_of(Path(suite.source.path).expanduser(), _rows_of(suite))


@cache
def _fault_of(path: Path, suite: str) -> str:
    try:
        size = sum(size for _, size, _ in local.content_of(path))
        seconds = OPENING + size / BYTES_PER_SECOND
        apart.call("harness.suites.questions:inspect", {"suite": suite}, seconds=seconds)
    except HarnessError as error:
        said = str(error)
        return said if str(path) in said or str(path.absolute()) in said else f"{path}: {said}"
    return ""


def inspect(suite: str) -> dict[str, Any]:
    """Read everything that a suite (as JSON) asks about, its images decoded: what there is, for `storage.apart`."""
    asked = Suite.model_validate_json(suite)
    found = _load(suite, True)
    return {
        "split": asked.source.split,
        "columns": list(found.columns),
        "questions": len(found.asked),
        "images": len(found.images),
        "fingerprint": found.fingerprint,
    }


EXAMPLES = 24
"""Different images of `scene_text`, with a question each, that the bench shows in turn."""


def examples() -> list[tuple[bytes, str]]:
    """What the bench shows: different images of one size, each with one question."""
    questions = load(load_suite("scene_text", EXAMPLES))
    first = {asked.image: asked.prompt for asked in reversed(questions.asked)}
    return [(questions.images[image][0], first[image]) for image in questions.images]


@cache
def _load(content: str, whole: bool = False) -> Questions:
    """`whole`: look at all of each image, not only at how it begins."""
    suite = Suite.model_validate_json(content)
    source = suite.source
    where = f"{source.path}{f' ({source.name})' if source.name else ''}, split {source.split}"
    parts = _Parts(suite)
    again, revision, columns = True, "", ()
    stored: Callable[[Any, int], bytes] = _stored
    if source.path == DRAWN:
        rows: Any = embedded.rows(suite.name, suite.images or embedded.IMAGES)
        again = False
    elif local.is_local(source.path):
        rows = local.open_table(source, source.name, source.split, parts.wanted)
        stored, columns = _pictures_of(suite, rows), rows.columns
    else:
        rows, revision = hub.rows(source)
        if source.images:
            stored = partial(_listed, hub.pictures(source, source.images))
    asked: list[Question] = []
    images = Pictures()
    seen: dict[str, int] = {}
    for number, row in enumerate(rows):
        place = f"{where}, row {number}"
        found = parts.of({**row, "row": number}, place)
        if found is None:
            continue
        if (first := seen.setdefault(found["id"], number)) != number:
            raise HarnessError(f"{place}: the id {found['id']!r} is that of row {first} already")
        shown = _shown(found["image"], number, stored, place)
        key = "+".join(hashlib.sha256(one).hexdigest()[:16] for one in shown)
        if key not in images:
            if suite.images is not None and len(images) == suite.images:
                continue
            for one in shown:
                _check(one, place, whole)
            images.found[key] = partial(_again, rows, number, parts, stored, place) if again else partial(tuple, shown)
        names = ("kind", "facts", "options")
        asked.append(
            Question(found["id"], found["prompt"], found["answers"], key, **{name: found[name] for name in names})
        )
    if not asked:
        raise HarnessError(f"{where}: no question is left to ask")
    return Questions(tuple(asked), images, revision, columns)


class _Parts:
    """A suite's expressions, compiled once."""

    def __init__(self, suite: Suite):
        environment = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True, finalize=_said)
        environment.filters |= {"literal": literal, "options": options_of, "without_image_marks": unmarked}
        environment.filters |= {"letter": letter_of, "join": joined}
        self._suite = suite
        texts = {"image": "image", "kind": "''", **suite.fields}
        if not suite.submission and "answers" not in texts:
            raise HarnessError(f"suite {suite.name}: metadata has no answers, and nobody else to judge")
        self._environment = environment
        try:
            self._prompt = environment.from_string(suite.prompt)
            self._fields = {key: self._compile(text) for key, text in texts.items()}
            self._facts = {key: self._compile(text) for key, text in suite.facts.items()}
            self._names = self._columns([suite.prompt], [*texts.values(), *suite.facts.values()])
            self._shown = self._columns([], [texts["image"]])
        except (TemplateError, ValueError, ArithmeticError, RecursionError) as error:
            raise HarnessError(f"suite {suite.name}: {type(error).__name__}: {error}") from error

    def _compile(self, text: str) -> Any:
        return self._environment.compile_expression(text, undefined_to_none=False)

    def _columns(self, templates: Sequence[str], expressions: Sequence[str]) -> dict[str, bool]:
        """The columns that are used, and whether a row must have each: not one that is only asked whether it is
        defined, or has a default."""
        trees = [self._environment.parse(text) for text in templates]
        for text in expressions:
            expression = Parser(self._environment, text, state="variable").parse_expression()
            trees.append(nodes.Template([nodes.Output([expression], lineno=1)], lineno=1))
        for tree in trees:
            tree.set_environment(self._environment)
        used = {name for tree in trees for name in meta.find_undeclared_variables(tree)} - {"row"}
        spared = {
            test.node.name
            for tree in trees
            for test in tree.find_all((nodes.Test, nodes.Filter))
            if test.name in ("defined", "undefined", "default", "d") and isinstance(test.node, nodes.Name)
        }
        return {name: name not in spared for name in sorted(used - set(self._environment.globals))}

    def wanted(self, columns: Sequence[str]) -> dict[str, str]:
        """Which of a table's columns the suite's names are; raises `HarnessError` for one that must be there."""
        found, missing = {}, []
        for name, must in self._names.items():
            files = [text.format(name) for text in local.FILE_COLUMNS] if name in self._shown else []
            column = next((one for one in (name, *files) if one in columns), None)
            if column is not None:
                found[name] = column
            elif must:
                missing.append(name)
        if missing:
            raise HarnessError(
                f"no column {' and no '.join(missing)}, which suite {self._suite.name} asks for; the columns are: "
                f"{', '.join(columns) or 'none'}"
            )
        return found

    def of(self, row: Mapping[str, Any], place: str) -> dict[str, Any] | None:
        """A row's parts; None if the suite does not ask it."""
        what = "where"
        try:
            if "where" in self._fields and not self.value("where", row):
                return None
            found: dict[str, Any] = {}
            for what in (name for name in self._fields if name not in ("where", "options")):
                found[what] = self.value(what, row)
            what = "doc_to_text"
            found["prompt"] = self._prompt.render(row)
            for what, expression in self._facts.items():
                found.setdefault("facts", {})[what] = _defined(expression(row))
            if "options" in self._fields:
                what = "options"
                found[what] = self.value(what, row)
        except UndefinedError as error:
            there = ", ".join(str(name) for name in row if name != "row")
            raise HarnessError(f"{place}: {what}: {error}; the columns are: {there}") from error
        except HarnessError:
            raise
        except Exception as error:  # the expressions are the suite's, the values are the data's: anything may be raised
            raise HarnessError(f"{place}: {what}: {type(error).__name__}: {error}") from error
        answers = found.get("answers", ())
        if answers is None or answers == [] or answers == "" or answers != answers:
            raise HarnessError(f"{place}: answers is empty: this split has no references to score against")
        answers = list(answers) if isinstance(answers, list | tuple) else [answers]
        if bad := [answer for answer in answers if not _plain(answer)]:
            raise HarnessError(f"{place}: answers: {bad[0]!r} is no text")
        if not _plain(found["id"]):
            raise HarnessError(f"{place}: id: {found['id']!r} is no text")
        made = found | {
            "id": str(found["id"]),
            "answers": tuple(map(str, answers)),
            "kind": str(found["kind"] or ""),
            "facts": found.get("facts", {}),
            "options": self._options(found.get("options"), place),
        }
        try:
            fingerprint([made[name] for name in ("id", "prompt", "answers", "kind", "facts")])
            if made["facts"] and self._suite.metric:
                METRICS[self._suite.metric]("", made["answers"], **made["facts"])
        except Exception as error:  # what a metric cannot take is said before anything is answered
            raise HarnessError(f"{place}: no text that can be judged: {type(error).__name__}: {error}") from error
        return made

    def _options(self, found: Any, place: str) -> int:
        """How many options a question has."""
        if not isinstance(found, list | tuple | None):
            raise HarnessError(f"{place}: options: a list is expected, not {type(found).__name__}")
        return min(len(found or ()), len(LETTERS))

    def value(self, name: str, row: Mapping[str, Any]) -> Any:
        """One of the suite's fields."""
        return _defined(self._fields[name](row))


def _defined(value: Any) -> Any:
    if isinstance(value, StrictUndefined):
        str(value)  # raises, naming what is missing
    return value


def _plain(value: Any) -> bool:
    """Whether a value is a text or a number."""
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


def _said(value: Any) -> Any:
    """What a prompt may say: no null, no list and no bytes, which would be spelled as Python does."""
    if isinstance(value, StrictUndefined) or _plain(value):
        return value
    raise ValueError(f"a text is expected, not {type(value).__name__}")


def literal(value: Any) -> Any:
    """What a text spells as Python does (MMMU's lists); a list as it is."""
    return ast.literal_eval(value) if isinstance(value, str) else value


@pass_eval_context
def joined(context: Any, value: Any, sign: str = "", attribute: str | int | None = None) -> Any:
    """Jinja's `join`, to which a text alone is a list of one."""
    return do_join(context, [value] if isinstance(value, str) else value, sign, attribute)


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


def _shown(value: Any, number: int, stored: Callable[[Any, int], bytes], place: str) -> tuple[bytes, ...]:
    """The stored bytes of all images of a question of row `number`."""
    values = value if isinstance(value, list) else [value]
    if not values:
        raise HarnessError(f"{place}: image: there is none")
    try:
        return tuple(stored(one, number) for one in values)
    except HarnessError as error:
        raise HarnessError(f"{place}: image: {error}") from error


def _stored(value: Any, _: int) -> bytes:
    """The stored bytes of an image column."""
    if isinstance(value, Mapping):
        value = value.get("bytes")
    if isinstance(value, bytes):
        return value
    raise HarnessError(f"holds no stored image, but {type(value).__name__}")


def _listed(pictures: Mapping[str, bytes], value: Any, _: int) -> bytes:
    """The picture that an image column names."""
    if str(value) not in pictures:
        raise HarnessError(f"there is no picture {value!r}")
    return pictures[str(value)]


def _pictures_of(suite: Suite, table: local.Table) -> Callable[[Any, int], bytes]:
    """How the images of a local table are read: from it or beside it; or from a table of their own, if there is one."""
    own = suite.source.images
    if not own or not table.folder.has(own["name"]):
        return table.image
    names = (own["id"], own["image"])

    def wanted(columns: Sequence[str]) -> dict[str, str]:
        if missing := [name for name in names if name not in columns]:
            raise HarnessError(f"no column {missing[0]}; the columns are: {', '.join(columns) or 'none'}")
        return {name: name for name in names}

    pictures = local.open_table(suite.source, own["name"], own["split"], wanted)
    places = {str(row[own["id"]]): number for number, row in enumerate(pictures)}

    def stored(value: Any, _: int) -> bytes:
        if (place := places.get(str(value))) is None:
            raise HarnessError(f"there is no picture {value!r}")
        return pictures.image(pictures[place][own["image"]], place)

    return stored


def _again(rows: Any, number: int, parts: _Parts, stored: Callable[[Any, int], bytes], place: str) -> tuple[bytes, ...]:
    """The stored images of one row, read once more."""
    return _shown(parts.value("image", {**rows[number], "row": number}), number, stored, place)


def _check(stored: bytes, place: str, whole: bool) -> None:
    """Refuse bytes in which no image begins, or one too large; `whole`: or one that is cut or damaged."""
    try:
        with open_image(stored) as image:
            if not whole:
                return
            if image.format == "PNG":
                image.verify()  # its parts carry check sums
            else:
                image.draft("RGB", (max(1, image.width // 8), max(1, image.height // 8)))
                image.load()
    except HarnessError as error:
        raise HarnessError(f"{place}: image: {error}") from error
