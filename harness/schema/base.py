"""What every noun is: frozen, validated, with one canonical JSON form. And errors in one printable line."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
import reprlib
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

LINE = 300
"""Characters that an error, a reason or anything else that is said about foreign content may have."""


def one_line(text: object, most: int = LINE) -> str:
    """`text` as one printable line of at most `most` characters, whatever it holds.

    White space becomes single spaces; control codes, direction marks and lone surrogates are spelled as escapes, so
    that no terminal obeys them; what is too long loses its middle, because the end says what to do.
    """
    given = str(text)
    if len(given) > 8 * most:  # a megabyte need not be walked through
        given = f"{given[: 4 * most]} … {given[-4 * most :]}"
    words = " ".join(given.split())
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in words)
    if len(line) <= most:
        return line
    tail = most // 3
    return f"{line[: most - tail - 3]} … {line[-tail:]}"


def file_stem(name: str, most: int = 60) -> str:
    """`name` as a file's name without ending: letters, digits, `._-`, never hidden, never a path, at most `most` long.

    What had to be changed gets a few digits of its fingerprint, so that two names keep two files.
    """
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in name)
    if plain == name.strip(".-") and 0 < len(name) <= most:
        return name
    return f"{plain.strip('.-')[: most - 7] or 'unnamed'}-{fingerprint(ascii(name))[:6]}"


class HarnessError(Exception):
    """Something the user can mend. Its text is one printable line (`one_line`): what was found, where, what to do."""

    exit_code = 2
    """Of a command that ends with it."""

    def __init__(self, text: object):
        super().__init__(one_line(text))


class InvalidOutput(HarnessError):
    """Something ran, but what came out is not what it promises: no number may come of it."""


def unknown(kind: str, name: str, known: Sequence[str]) -> str:
    """One line for a name that does not exist, with the near names first."""
    said = one_line(name, 80)
    near = difflib.get_close_matches(said, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(known) or 'none'}"
    return f"unknown {kind} {said!r}; {hint}"


DEPTH = 64
"""How deep plain content (JSON, YAML, keyword arguments) may be nested."""
ITEMS = 10**6
"""Most values that plain content may hold; YAML's aliases can make billions of a few lines."""
WHOLE_NUMBER = 2**63
"""Whole numbers beyond this are no setting of anything."""


def check_plain(value: Any, whole: int = WHOLE_NUMBER) -> Any:
    """`value` if it is plain (mappings, lists, text, numbers), finite, not too deep and not too much.

    Raises `ValueError` saying what it is otherwise.
    """
    for count, (depth, item) in enumerate(_walk(value)):
        if depth > DEPTH:
            raise ValueError(f"nested more than {DEPTH} deep")
        if count > ITEMS:
            raise ValueError(f"more than {ITEMS} values")
        if isinstance(item, float) and not math.isfinite(item):
            raise ValueError(f"{item} is not a finite number")
        if isinstance(item, str) and not item.isascii() and re.search("[\ud800-\udfff]", item):
            raise ValueError(f"{item[:40]!r} is not Unicode text (a lone surrogate)")
        if isinstance(item, int) and not -whole <= item < whole:
            raise ValueError(f"a whole number of {item.bit_length()} bits")
    return value


def _walk(value: Any) -> Iterator[tuple[int, Any]]:
    """Every value with its depth, without recursion."""
    left: list[tuple[int, Any]] = [(0, value)]
    while left:
        depth, item = left.pop()
        yield depth, item
        if isinstance(item, dict):
            left += [(depth + 1, each) for each in (*item.keys(), *item.values())]
        elif isinstance(item, list | tuple):
            left += [(depth + 1, each) for each in item]


Plain = Annotated[dict[str, Any], AfterValidator(check_plain)]
"""Keyword arguments and the like: whatever JSON can hold, but NaN and infinity."""
Line = Annotated[str, AfterValidator(one_line)]
"""Text that is printed: one printable line, whatever was stored."""
Count = Annotated[int, Field(ge=0, lt=2**53)]
Positive = Annotated[int, Field(ge=1, lt=2**53)]
Pixels = Annotated[int, Field(ge=1, le=2**16)]
"""Side of a square, in pixels."""
Seconds = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Slug = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.@+-]*$", max_length=100)]
"""A name that becomes part of a file's name."""


class Frozen(BaseModel):
    """Frozen, strict about unknown fields, without NaN and infinity, and documented field by field."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    def __repr__(self) -> str:
        """Its fields in one short line; all of them are in `model_dump()`, and in `str()`."""
        return one_line(f"{type(self).__name__}({', '.join(f'{name}={_short(value)}' for name, value in self)})", 200)


_SHORTENED = reprlib.Repr()
_SHORTENED.maxlevel = 1
_SHORTENED.maxstring = _SHORTENED.maxother = 40


def _short(value: Any) -> str:
    return f"{type(value).__name__}(...)" if isinstance(value, Frozen) else _SHORTENED.repr(value)


def first_fault(error: ValidationError) -> str:
    """Where and what the first fault of a validation is, in a few words."""
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else str(first["msg"])


def fingerprint(content: Any) -> str:
    """The first 16 hex digits of the SHA-256 of `content`'s canonical JSON."""
    plain = content.model_dump(mode="json") if isinstance(content, BaseModel) else content
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
