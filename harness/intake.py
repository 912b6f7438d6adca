"""Where foreign content enters: whatever somebody else may have written is read here, within bounds, or refused.

No other module opens a file that comes from outside (`tests/test_intake.py` looks that none does). What is read is text
in UTF-8, JSON without NaN and infinity, YAML without objects, safetensors without pickles; each has a largest size, and
a fault is a `HarnessError` of one printable line that names the file. What cannot be bounded by looking at it first (a
chat template, a processor, a model built from a stored configuration) runs in a process of its own: `harness.apart`.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from harness.schema import HarnessError

MIB = 2**20
CONFIG_BYTES = 16 * MIB
"""Largest configuration, manifest, YAML or template; a tokenizer's JSON is the largest that is known, at 11 MiB."""
LINE_BYTES = 256 * MIB
"""Largest line of a store: an evaluation of 200,000 answers is some 60 MiB."""
TABLE_BYTES = 64 * MIB
DEPTH = 64
"""How deep JSON or YAML may be nested."""
ITEMS = 10**6
"""Most values that a configuration may hold; YAML's aliases can make billions of a few lines."""
DIGITS = 2**63
"""Whole numbers beyond this are no setting of anything."""


def read_bytes(path: Path, most: int = CONFIG_BYTES) -> bytes:
    """A regular file's content; refused if it is no regular file (a pipe would wait for ever) or larger than `most`."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
        with os.fdopen(handle, "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise HarnessError(f"{path}: not a regular file")
            if found.st_size > most:
                raise HarnessError(f"{path}: {found.st_size} bytes; at most {most} are read")
            return file.read(most)
    except (OSError, ValueError) as error:
        raise HarnessError(f"{path}: not readable: {error}") from error


def read_text(path: Path, most: int = CONFIG_BYTES) -> str:
    """A text file in UTF-8."""
    try:
        return read_bytes(path, most).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise HarnessError(f"{path}: not UTF-8 text (byte {error.start})") from error


def read_json(path: Path, most: int = CONFIG_BYTES, digits: int = DIGITS) -> Any:
    """A JSON file: finite numbers, whole ones below `digits`, bounded in depth."""
    return parse_json(read_text(path, most), str(path), digits)


def parse_json(text: str | bytes, where: str, digits: int = DIGITS) -> Any:
    """JSON without NaN and infinity; `where` names it in a fault."""
    try:
        found = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise HarnessError(f"{where}: nested too deeply") from error
    except ValueError as error:  # not JSON, not UTF-8, a number of thousands of digits
        raise HarnessError(f"{where}: not JSON: {error}") from error
    return bounded(found, where, digits)


def read_yaml(path: Path, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """A YAML file of plain values."""
    try:
        found = yaml.load(read_text(path), loader)  # noqa: S506 - a SafeLoader, or one that only reads names
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise HarnessError(f"{path}: not readable: {error}") from error
    return bounded(found, str(path))


def bounded(value: Any, where: str, digits: int = DIGITS) -> Any:
    """`value` if it is plain, finite, not too deep and not too much; refused otherwise."""
    for count, (depth, item) in enumerate(_walk(value)):
        if depth > DEPTH:
            raise HarnessError(f"{where}: nested more than {DEPTH} deep")
        if count > ITEMS:
            raise HarnessError(f"{where}: more than {ITEMS} values")
        if isinstance(item, float) and not math.isfinite(item):
            raise HarnessError(f"{where}: {item} is not a finite number")
        if isinstance(item, int) and not -digits <= item < digits:
            raise HarnessError(f"{where}: a number of {item.bit_length()} bits is no setting of anything")
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


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number of JSON")
