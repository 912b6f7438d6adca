"""Foreign input, spoilt at random: what a fuzz feeds to the doors of the harness. The same seed spoils the same way."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    3,
    2**31,
    10**12,
    -(10**12),
    10**40,
    0.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "x" * 5000,
    "336",
    "\x1b[31mred\x1b[0m\n\r\x00",
    "\u202eright to left",
    "../../etc/passwd",
    "os:system",
    [],
    [0],
    [[]],
    [1, "a", None],
    {},
    {"a": 1},
    {"type": "image", "height": -1, "width": 0},
)
"""What stands where something else is expected."""

TEMPLATES = (
    "",
    "{% for",
    "{{ messages }}",
    "{{ 1 // 0 }}",
    "{{ messages[0].content[0].nothing.at.all }}",
    "{{ raise_exception('no\\n\\x1b[31m') }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ 'x' * 100000 }}",
    "{% for m in messages %}{{ m.content }}{% endfor %}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% include '/etc/passwd' %}",
    "<image>",
    "<image>" * 7 + "a",
    "a<image>b",
)
"""Chat templates, each of which ends."""

JSONS = ("config.json", "preprocessor_config.json", "processor_config.json", "tokenizer_config.json")
FILES = (*JSONS, "tokenizer.json", "generation_config.json", "chat_template.jinja", "model.safetensors")


def hub_folders(rng: random.Random, source: Path, where: Path) -> Iterator[tuple[Path, str]]:
    """Copies of the folder `source` of the hub's format, each spoilt in another way, and in which; endless.

    A copy lies in `where` and is gone when the next one is asked for.
    """
    for number in range(2**62):
        folder = Path(shutil.copytree(source, where / f"{number}"))
        try:
            yield folder, "; ".join(spoil_hub(rng, folder) for _ in range(rng.choice((1, 1, 1, 2, 3))))
        finally:
            shutil.rmtree(folder)


def spoil_hub(rng: random.Random, folder: Path) -> str:
    """Spoil one thing in a folder of the hub's format; says what."""
    spoils: tuple[Callable[[random.Random, Path], str], ...]
    spoils = (*[_spoil_value] * 6, _spoil_template, *[_spoil_bytes] * 2)
    return rng.choice(spoils)(rng, folder)


def _spoil_value(rng: random.Random, folder: Path) -> str:
    """Something else for one value of a JSON file, or none, or one more."""
    file = folder / rng.choice([name for name in JSONS if (folder / name).is_file()] or ["config.json"])
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):  # spoilt already
        return f"{file.name} left"
    where, what = spoil_json(rng, content)
    file.write_text(json.dumps(content))
    return f"{file.name}: {where} {what}"


def spoil_json(rng: random.Random, content: Any) -> tuple[str, str]:
    """Change one value in nested lists and dicts, in place; says where and what."""
    places = [*_places(content, "")]
    if not places:
        return "", "left"
    path, holder, key = rng.choice(places)
    kind = rng.randrange(10)
    if kind == 0:
        del holder[key]
        return path, "deleted"
    if kind == 1:
        holder[key] = nested(rng.choice((10, 100, 900)))
        return path, "nested"
    if kind == 2 and isinstance(holder[key], int | float):
        holder[key] = rng.choice((-1, 0, 2, 1000, -1000)) * holder[key]
        return path, f"multiplied: {holder[key]}"
    if kind == 3:
        other = rng.choice(places)
        holder[key] = json.loads(json.dumps(other[1][other[2]]))
        return path, f"as {other[0]}"
    holder[key] = rng.choice(VALUES)
    return path, f"= {str(holder[key])[:40]!r}"


def nested(depth: int) -> Any:
    """A list in a list in a list."""
    made: Any = []
    for _ in range(depth):
        made = [made]
    return made


def _places(content: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """Every value: where it is, what holds it, under which key or index."""
    pairs = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in list(pairs):
        yield f"{path}.{key}", content, key
        yield from _places(value, f"{path}.{key}")


def _spoil_template(rng: random.Random, folder: Path) -> str:
    """Another chat template."""
    template = rng.choice(TEMPLATES)
    (folder / "chat_template.jinja").write_text(template)
    return f"template {template[:40]!r}"


def _spoil_bytes(rng: random.Random, folder: Path) -> str:
    """A file that is cut, changed, replaced by something else, or missing."""
    file = folder / rng.choice([name for name in FILES if (folder / name).is_file()] or ["config.json"])
    return f"{file.name} {spoil_file(rng, file)}"


def spoil_file(rng: random.Random, file: Path) -> str:
    """Cut, change, replace or remove a file; says which."""
    whole = file.read_bytes() if file.is_file() else b"{}"
    place = rng.randrange(len(whole) + 1)
    ways: dict[str, bytes] = {
        "cut": whole[:place],
        "empty": b"",
        "with a byte changed": whole[:place] + bytes([rng.randrange(256)]) + whole[place + 1 :],
        "with more behind it": whole + rng.randbytes(20),
        "not UTF-8": b"\xff\xfe\x00" + whole[:place],
        "nested": b"[" * 100_000,
        "a number of 5,000 digits": b'{"a": ' + b"9" * 5000 + b"}",
        "a list": b"[]",
        "a pickle": b"\x80\x04\x95\x1d\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x8c\x06system\x93.",
        "a header without end": (2 ** rng.randrange(63)).to_bytes(8, "little") + whole[8:],
        "random": rng.randbytes(rng.randrange(1, 200)),
    }
    way = rng.choice([*ways, "missing", "a folder", "a pipe", "a link to nowhere", "a link to itself"])
    file.unlink(missing_ok=True)
    if way in ways:
        file.write_bytes(ways[way])
    elif way == "a folder":
        file.mkdir()
    elif way == "a pipe" and hasattr(os, "mkfifo"):
        os.mkfifo(file)
    elif way.startswith("a link"):
        file.symlink_to(file if way.endswith("itself") else file.parent / "nowhere")
    return way
