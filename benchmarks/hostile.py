"""Content as an enemy, an accident or an older version would write it: values, mutations of JSON, damaged bytes."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

TEXTS = (
    "",
    " ",
    "\x1b[31mred\x1b[0m",
    "line\nbreak\r\n",
    "\u202eright to left",
    "\u2028",
    "\ud800",
    "<script>alert(1)</script>",
    "a|b`c[d](javascript:e)",
    "=cmd|' /C calc'!A0",
    "$\\frac{$",
    "../../etc/passwd",
    "a/b\\c",
    "x" * 3000,
    "{{ 7 * 7 }}{% for i in range(10**9) %}x{% endfor %}",
    "os:system",
    "NaN",
    "0",
    "-1",
    "true",
    "null",
)
NUMBERS = (0, -1, 1, 2, 2**31, -(2**63), 2**64, 10**30, 0.0, -0.0, 0.5, 1e308, -1e-308, 1e-320)
OTHERS: tuple[Any, ...] = (None, True, False, [], {}, [[]], {"": {}}, [None], [1, "a", None], {"a": [1, {"b": 2}]})
RAW = ("NaN", "Infinity", "-Infinity", "1e999", "9" * 5000, "[" * 2000, '"\\ud800"', "tru", '"\x01"')
"""Pieces of text that are not JSON, or hardly."""


def value(rng: random.Random) -> Any:
    """Something that is not expected."""
    kind = rng.random()
    if kind < 0.35:
        return rng.choice(NUMBERS)
    return rng.choice(TEXTS) if kind < 0.7 else copy.deepcopy(rng.choice(OTHERS))


def places(content: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value within JSON content."""
    found = [above] if above else []
    pairs = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, inner in pairs:
        found += places(inner, (*above, key))
    return found


def mutate(rng: random.Random, content: Any, changes: int = 0) -> Any:
    """A copy of JSON content with one or a few values replaced, removed, repeated, swapped or renamed."""
    made = copy.deepcopy(content)
    for _ in range(changes or rng.choice((1, 1, 1, 2, 3))):
        where = places(made)
        if not where:
            return value(rng)
        *above, last = rng.choice(where)
        inner = made
        for key in above:
            inner = inner[key]
        what = rng.random()
        if what < 0.5:
            inner[last] = value(rng)
        elif what < 0.65:
            del inner[last]
        elif what < 0.75 and isinstance(inner, list):
            inner.insert(last, copy.deepcopy(inner[last]))
        elif what < 0.85 and isinstance(inner, dict):
            inner[rng.choice(("extra", "__class__", "", "\x1b", str(last) + " "))] = inner.pop(last)
        elif isinstance(inner[last], int | float) and not isinstance(inner[last], bool):
            inner[last] = inner[last] * rng.choice((-1, 0, 2, 1000, 1e6)) + rng.choice((0, 1, -1))
        else:
            inner[last] = [inner[last]]
    return made


def text(rng: random.Random, content: Any) -> bytes:
    """Mutated JSON as bytes; now and then damaged as text."""
    said = json.dumps(mutate(rng, content), ensure_ascii=rng.random() < 0.9)
    if rng.random() < 0.15:
        at = rng.randrange(len(said) + 1)
        said = said[:at] + rng.choice(RAW) + said[at + rng.choice((0, 1, 5)) :]
    return damage(rng, said.encode("utf-8", "surrogatepass")) if rng.random() < 0.1 else said.encode("utf-8", "replace")


def damage(rng: random.Random, content: bytes) -> bytes:
    """Bytes cut, flipped, repeated, or replaced altogether."""
    what = rng.randrange(6)
    if what == 0 or not content:
        return rng.choice((b"", b"\n", b"\xff\xfe", b"PK\x03\x04", bytes(range(256)), b"\x80\x04\x95."))
    at = rng.randrange(len(content))
    if what == 1:
        return content[:at]
    if what == 2:
        return content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :]
    if what == 3:
        return content[:at] + rng.randbytes(rng.randrange(1, 9)) + content[at:]
    if what == 4:
        return content[at:] + content[:at]
    return content + content[:at]
