"""Where foreign content enters: whatever somebody else may have written is read here, within bounds, or refused.

No other module opens a file that comes from outside (`tests/test_intake.py` looks that none does). What is read is text
in UTF-8, JSON without NaN and infinity, YAML without objects, safetensors without pickles; each has a largest size, and
a fault is a `HarnessError` of one printable line that names the file. What cannot be bounded by looking at it first (a
chat template, a processor, a model built from a stored configuration) runs in a process of its own: `storage.apart`.
"""

from __future__ import annotations

import codecs
import hashlib
import io
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, Any

import yaml
from PIL import Image, UnidentifiedImageError

from harness.schema import WHOLE_NUMBER, HarnessError, check_plain

MIB = 2**20
CONFIG_BYTES = 16 * MIB
"""Largest configuration, manifest, YAML or template; a tokenizer's JSON is the largest that is known, at 11 MiB."""
LINE_BYTES = 256 * MIB
"""Largest line of a store: an evaluation of 200,000 answers is some 60 MiB."""

TOKENIZER_BYTES = 64 * MIB
"""Largest `tokenizer.json`: Gemma 3's, of 262,000 tokens, has 33 MB."""
ITEM_BYTES = 16 * MIB
"""Largest value of a list that is read one by one: a conversation of some thousand pages."""
TABLE_BYTES = 64 * MIB
"""Largest JSON document of rows; one of JSON lines may be larger."""
IMAGE_BYTES = 256 * MIB
IMAGE_PIXELS = 2**27
"""Largest image: 11,585 px squared, 400 MB when it is decoded; the largest infographics have half of it."""
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
"""Formats that are decoded. Pillow knows more, one of which (EPS) runs a program on what it is given."""


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """A regular file, open for reading; anything else is refused (a pipe would wait for ever)."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except (OSError, ValueError) as error:
        raise HarnessError(f"{path}: not readable: {error}") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise HarnessError(f"{path}: not a regular file")
    with os.fdopen(handle, "rb") as file:
        try:
            yield file
        except OSError as error:
            raise HarnessError(f"{path}: not readable: {error}") from error


def read_bytes(path: Path, most: int = CONFIG_BYTES) -> bytes:
    """A regular file's content; refused if it is larger than `most`."""
    with opened(path) as file:
        if (size := os.fstat(file.fileno()).st_size) > most:
            raise HarnessError(f"{path}: {size} bytes; at most {most} are read")
        return file.read(most)


def read_lines(path: Path, most: int = LINE_BYTES) -> Iterator[tuple[int, bytes]]:
    """A file's lines with their ends, each with the place where it begins; refused if one is longer than `most`."""
    with opened(path) as file:
        start = 0
        while line := file.readline(most + 1):
            if len(line) > most:
                raise HarnessError(f"{path}: a line of more than {most} bytes at byte {start}")
            yield start, line
            start += len(line)


def read_items(path: Path, most: int = ITEM_BYTES) -> Iterator[tuple[int, int]]:
    """Where each value of a JSON list of any length begins and how many bytes it has, without keeping any; a file that
    begins otherwise is JSON lines. `read_part` reads a value. Refused if one is longer than `most`."""
    with opened(path) as file:
        head = file.read(MIB).lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
        file.seek(0)
        if head != b"[":
            yield from ((start, len(line)) for start, line in read_lines(path, most) if line.strip())
            return
        yield from _List(file, str(path), most)


class _List:
    """The values of a JSON list, each by its place; text is read until it holds a whole one."""

    PIECE = 2**16
    SPACE = re.compile(r"[ \t\r\n]*")

    def __init__(self, file: IO[bytes], where: str, most: int):
        self.file, self.where, self.most = file, where, most
        self.text, self.at, self.byte = "", 0, 0
        """What was read and not done with begins at character `at`, byte `byte` of the file."""
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        self._scan = json.JSONDecoder().raw_decode

    def __iter__(self) -> Iterator[tuple[int, int]]:
        if self._sign() == "\ufeff":
            self._step(1)
        expected = "["
        while True:
            if (sign := self._sign()) == "]" and expected != "[":
                return
            if sign != expected:
                raise HarnessError(f"{self.where}: not JSON: '{expected}' is expected at byte {self.byte}")
            self._step(1)
            if expected == "[" and self._sign() == "]":
                return
            expected = ","
            yield self._value()

    def _value(self) -> tuple[int, int]:
        """Place and size of the value that begins here."""
        self._sign()
        while True:
            try:
                end = self._scan(self.text, self.at)[1]
                if end < len(self.text) or not self._more():  # a number might go on
                    start, before = self.byte, self.at
                    self._step(end - before)
                    return start, self.byte - start
            except (ValueError, RecursionError) as error:
                if isinstance(error, RecursionError) or not self._more():
                    raise HarnessError(f"{self.where}: not JSON: the value at byte {self.byte}: {error}") from error
            if len(self.text) - self.at > self.most:
                raise HarnessError(f"{self.where}: a value of more than {self.most} bytes at byte {self.byte}")

    def _sign(self) -> str:
        """The next character that is no space; empty at the end of the file."""
        while True:
            found = self.SPACE.match(self.text, self.at)
            self._step((found.end() if found else self.at) - self.at)
            if self.at < len(self.text):
                return self.text[self.at]
            if not self._more():
                return ""

    def _step(self, count: int) -> None:
        """So many characters are done with."""
        self.byte += len(self.text[self.at : self.at + count].encode())
        self.at += count

    def _more(self) -> bool:
        """Read on, as much again as is there: a long value is not scanned again and again."""
        left = self.text[self.at :]
        piece = self.file.read(max(self.PIECE, len(left)))
        try:
            self.text, self.at = left + self._decode(piece, not piece), 0
        except UnicodeDecodeError as error:
            raise HarnessError(f"{self.where}: not UTF-8 text (after byte {self.byte})") from error
        return bool(piece)


def read_part(path: Path, start: int, size: int) -> bytes:
    """So many bytes of a file from a place that `read_lines` named."""
    with opened(path) as file:
        file.seek(start)
        return file.read(size)


def hash_files(paths: Iterable[Path]) -> str:
    """The first 16 hex digits of the SHA-256 of files, their names included; read a piece at a time."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(os.fsencode(path.name))
        with opened(path) as file:
            while piece := file.read(16 * MIB):
                digest.update(piece)
    return digest.hexdigest()[:16]


def tensors_of(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of a safetensors file, from its header; no pickle is ever read."""
    from safetensors import SafetensorError, safe_open

    with opened(path):  # safetensors maps the file; a pipe or a folder is told here
        pass
    try:
        with safe_open(path, "np") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, OverflowError, MemoryError) as error:
        raise HarnessError(f"{path}: not readable as safetensors: {error}") from error


def read_text(path: Path, most: int = CONFIG_BYTES) -> str:
    """A text file in UTF-8."""
    try:
        return read_bytes(path, most).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise HarnessError(f"{path}: not UTF-8 text (byte {error.start})") from error


def read_json(path: Path, most: int = CONFIG_BYTES, whole: int = WHOLE_NUMBER) -> Any:
    """A JSON file: finite numbers, whole ones below `whole`, bounded in depth."""
    return parse_json(read_text(path, most), str(path), whole)


def parse_json(text: str | bytes, where: str, whole: int = WHOLE_NUMBER) -> Any:
    """JSON without NaN and infinity; `where` names it in a fault."""
    try:
        found = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise HarnessError(f"{where}: nested too deeply") from error
    except ValueError as error:  # not JSON, not UTF-8, a number of thousands of digits
        raise HarnessError(f"{where}: not JSON: {error}") from error
    return bounded(found, where, whole)


def read_yaml(path: Path, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """A YAML file of plain values."""
    return parse_yaml(read_text(path), str(path), loader)


def parse_yaml(text: str, where: str, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """YAML of plain values; `where` names it in a fault."""
    try:
        found = yaml.load(text, loader)  # noqa: S506 (`loader` is a SafeLoader, or adds tags to one)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise HarnessError(f"{where}: not readable: {error}") from error
    return bounded(found, where)


def bounded(value: Any, where: str, whole: int = WHOLE_NUMBER) -> Any:
    """`value` if it is plain, finite, not too deep and not too much (`harness.schema.check_plain`)."""
    try:
        return check_plain(value, whole)
    except ValueError as error:
        raise HarnessError(f"{where}: {error}") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number of JSON")


@contextmanager
def open_image(stored: bytes) -> Iterator[Image.Image]:
    """An image by its header, with a size that may be decoded; a fault while it is decoded is one line as well."""
    what = f"unreadable image of {len(stored)} bytes"
    try:
        if len(stored) > IMAGE_BYTES:
            raise HarnessError(f"{what}: at most {IMAGE_BYTES} are read")
        with Image.open(io.BytesIO(stored), formats=_image_formats()) as image:
            if image.width * image.height > IMAGE_PIXELS:
                raise HarnessError(f"{what}: {image.width} x {image.height} px, at most {IMAGE_PIXELS} px are decoded")
            yield image
    except HarnessError:
        raise
    except UnidentifiedImageError as error:
        raise HarnessError(f"{what}: none of {', '.join(IMAGE_FORMATS)}") from error
    except Exception as error:  # Pillow's readers raise whatever comes their way
        raise HarnessError(f"{what}: {type(error).__name__}: {error}") from error


@cache
def _image_formats() -> tuple[str, ...]:
    """Those of `IMAGE_FORMATS` that this Pillow was built with."""
    Image.init()
    return tuple(name for name in IMAGE_FORMATS if name in Image.OPEN)
