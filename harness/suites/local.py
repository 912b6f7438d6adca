"""A suite's data in a folder or a file, as people have it: the files of a split, their rows, the images beside them.

| file | rows |
|---|---|
| `.parquet`, `.arrow` (what `save_to_disk` writes) | as they are stored; only the columns that a suite needs are read |
| `.csv`, `.tsv` | texts; a column in which every cell is a JSON list has lists |
| `.jsonl`, `.ndjson` | one JSON object a line |
| `.json` | a list of objects, or an object with one such list in it |

Images are stored bytes, `{bytes, path}`, text in base64, or names of files: relative to the table, to the folder or to
its `images/`, and never outside of the folder. Nothing is guessed (a date stays a text, `NA` is a text), nothing is
unpickled, and no loading script is run; which is why the `datasets` library, whose readers guess, does not read here.
All of this is other people's content: `harness.suites.questions.fault_of` opens it in a process of its own first.
"""

from __future__ import annotations

import base64
import binascii
import bisect
import csv
import io
import mmap
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
from pyarrow import ipc
from pyarrow import parquet as pq

from harness.schema import HarnessError, Source
from harness.storage.intake import (
    IMAGE_BYTES,
    LINE_BYTES,
    MIB,
    TABLE_BYTES,
    opened,
    parse_json,
    parse_yaml,
    read_bytes,
    read_json,
    read_lines,
    read_part,
    read_text,
)

Row = Mapping[str, Any]

SPLITS = {
    "train": {"train", "training"},
    "validation": {"validation", "valid", "val", "dev"},
    "test": {"test", "testing"},
}
"""What files call the splits."""
NOT_TABLES = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json"}
"""JSON files that stand beside data and hold none."""
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
FILE_COLUMNS = ("{}_file_name", "{}_file", "{}_path", "file_name")
"""Columns that name an image's file where the column itself is not there; the last is that of an `imagefolder`."""
FILES = 10**6
"""Most files that a folder may hold."""
BATCH = 16
"""Rows of a table that are read together."""
GROWTH = 64
"""How many times its size, and a GiB, a file of columns may become when it is read: repeats are stored once there."""
CARD = "README.md"


def is_local(path: str) -> bool:
    """Whether a data set's path is a folder or file of this machine."""
    try:
        return Path(path).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # too long for a name, no such user, a null character
        return False


def files_below(path: Path) -> list[os.DirEntry[str]]:
    """The regular files in a folder and its sub-folders, hidden ones left out; links to folders are not followed."""
    found: list[os.DirEntry[str]] = []
    todo = [str(path)]
    while todo:
        with os.scandir(todo.pop()) as entries:
            for entry in sorted(entries, key=lambda one: one.name):
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    todo.append(entry.path)
                elif entry.is_file():
                    found.append(entry)
        if len(found) + len(todo) > FILES:
            raise HarnessError(f"{path}: more than {FILES} files; give the folder of one data set")
    return sorted(found, key=lambda one: one.path)


def content_of(path: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of every file that a data set may be made of."""
    try:
        if path.is_dir():
            entries = files_below(path)
        elif path.suffix.lower() in (".parquet", ".arrow"):
            entries = []
        else:  # a table of texts, whose images lie beside it
            entries = [one for one in files_below(path.parent) if one.name.lower().endswith(PICTURES)]
        about = [(one.path, one.stat()) for one in entries] or [(str(path), path.stat())]
        about += [(str(path), path.stat())] if path.is_file() and entries else []
    except OSError as error:
        raise HarnessError(f"{path}: not readable: {error}") from error
    return [(name, found.st_size, found.st_mtime_ns) for name, found in about]


class Folder:
    """Where the files of a data set lie, and beyond which nothing is read."""

    def __init__(self, path: str):
        """`path`: a folder, or a file with one table."""
        self.path = Path(path).expanduser().absolute()
        self.root = self.path if self.path.is_dir() else self.path.parent
        hub = self.root.parent.name == "snapshots"  # the hub's cache: its files are links to their content
        self._bound = (self.root.parent.parent if hub else self.root).resolve()

    def tables(self, name: str | None, split: str, apart: str | None = None) -> list[Path]:
        """The files of a split: as the hub's card says, else as their names say. `name`: the configuration, perhaps a
        sub-folder; `apart`: another configuration's, whose files are not meant."""
        if self.path.is_file():
            if self.path.suffix.lower() not in FORMATS:
                raise HarnessError(
                    f"{self.path}: not a file of data; what is read ends in {', '.join(sorted(FORMATS))}"
                )
            return [self.path]
        found = self._of_card(name, split)
        if found is None:
            below = [Path(one.path) for one in files_below(self.root)]
            found = [one for one in below if one.suffix.lower() in FORMATS and one.name not in NOT_TABLES]
            if name and (self.root / name).is_dir():
                found = [one for one in found if one.is_relative_to(self.root / name)]
            elif apart and (self.root / apart).is_dir():
                found = [one for one in found if not one.is_relative_to(self.root / apart)]
            if not found:
                raise HarnessError(f"{self.root}: no file of data in it ({', '.join(sorted(FORMATS))} are read)")
        return [self._inside(one) for one in self._of_split(found, split)]

    def has(self, name: str) -> bool:
        """Whether there is a configuration of this name."""
        return (self.root / name).is_dir() or any(one.get("config_name") == name for one in self._configs)

    @cached_property
    def _configs(self) -> list[dict[str, Any]]:
        """What the hub's card says under `configs:`."""
        card = self.root / CARD
        if self.path.is_file() or not card.is_file():
            return []
        head = re.match(r"---\s*\n(.*?)\n---", read_text(card), re.DOTALL)
        about = parse_yaml(head[1], str(card)) if head else None
        configs = about.get("configs") if isinstance(about, dict) else None
        return [one for one in configs if isinstance(one, dict)] if isinstance(configs, list) else []

    def _of_card(self, name: str | None, split: str) -> list[Path] | None:
        """The files that the card's `configs:` give for a split; None if it says nothing, or nothing that is there."""
        configs = self._configs
        wanted = [c for c in configs if c.get("config_name", "default") == (name or "default")]
        wanted = wanted or [c for c in configs if c.get("default") is True and name is None]
        wanted = wanted or (configs if len(configs) == 1 else [])
        if not wanted:
            return None
        given, below = wanted[0].get("data_files", "**"), self.root / str(wanted[0].get("data_dir") or "")
        if isinstance(given, list) and all(isinstance(one, dict) for one in given):
            given = {str(one.get("split", "train")): one.get("path") for one in given}
        if isinstance(given, dict):
            given = given.get(split)
            found = self._matching(below, given)
            return found or None
        return self._of_split(self._matching(below, given), split) or None

    def _matching(self, below: Path, patterns: Any) -> list[Path]:
        """Files of data that a pattern of the card, or one of several, names."""
        found: set[Path] = set()
        for pattern in patterns if isinstance(patterns, list) else [patterns] if patterns else []:
            parts = PurePosixPath(str(pattern)).parts
            if "://" in str(pattern) or ".." in parts or str(pattern).startswith("/"):
                raise HarnessError(f"{self.root / CARD}: {pattern!r} leaves the folder")
            try:
                found |= {one for one in below.glob(str(pattern)) if one.suffix.lower() in FORMATS and one.is_file()}
            except (ValueError, NotImplementedError, re.error) as error:
                raise HarnessError(f"{self.root / CARD}: {pattern!r} is no pattern of files: {error}") from error
        return sorted(one for one in found if one.name not in NOT_TABLES)

    def _of_split(self, files: Sequence[Path], split: str) -> list[Path]:
        """Those of `files` that hold a split, by their names; one table alone is the split that is wanted."""
        meant = {one: self._split_of(one, split) for one in files}
        chosen = [one for one in files if meant[one] == split]
        unnamed = [one for one in files if not meant[one]]
        chosen = chosen or unnamed
        if not chosen and files:
            others = ", ".join(sorted(set(meant.values())))
            raise HarnessError(
                f"{self.root}: no file of split {split}, only of {others}; give the file itself to take it nevertheless"
            )
        series: dict[tuple[Path, str, str], list[Path]] = {}
        for one in chosen:
            shard = re.fullmatch(r"(.*?)[-_.]?(?:part[-_.]?)?\d{1,5}(?:-of-\d{5}(?:-\w+)?)?", one.stem)
            series.setdefault((one.parent, shard[1] if shard else one.stem, one.suffix.lower()), []).append(one)
        if len(series) > 1:
            names = ", ".join(str(group[0].relative_to(self.root)) for group in series.values())
            raise HarnessError(
                f"{self.root}: {len(series)} tables may be split {split}: {names}; give one of the files"
            )
        for shards in (re.search(r"-of-(\d{5})", one.stem) for one in chosen):
            if shards and int(shards[1]) != len(chosen):
                raise HarnessError(f"{self.root}: {len(chosen)} of {int(shards[1])} files of split {split} are there")
        return chosen

    def _split_of(self, file: Path, wanted: str) -> str:
        """The split that a file's name, or else its folders', says; empty if none does."""
        names = {wanted: {wanted.lower()}, **SPLITS}
        for part in reversed(file.relative_to(self.root).with_suffix("").parts):
            words = {*re.split(r"[^a-z0-9]+", part.lower()), part.lower()}
            if found := [split for split, spelled in names.items() if words & spelled]:
                return wanted if wanted in found else found[0]
        return ""

    def image(self, value: Any, table: Path) -> bytes:
        """The stored bytes of an image column's value; `table`: the file that it stands in."""
        if isinstance(value, Mapping):
            value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
        if isinstance(value, str):
            value = _of_base64(value) or self._file(value, table)
        if not isinstance(value, bytes):
            raise HarnessError(f"holds no stored image, but {type(value).__name__}")
        return value

    def _file(self, name: str, table: Path) -> bytes:
        """The file that a relative path names."""
        plain = PurePosixPath(name.replace("\\", "/"))
        if plain.is_absolute() or ".." in plain.parts or re.match(r"[A-Za-z]:|\w+://", name):
            raise HarnessError(f"{name[:40]!r} leaves the folder {self.root}")
        endings = ("",) if plain.suffix else ("", *PICTURES)
        for start in dict.fromkeys((table.parent, self.root, self.root / "images")):
            for ending in endings:
                try:
                    found = start / f"{plain}{ending}"
                    if found.is_file():
                        return read_bytes(self._inside(found), IMAGE_BYTES)
                except (OSError, ValueError):  # too long for a name, a null character
                    continue
        raise HarnessError(f"{name[:40]!r} is neither a file in {self.root} nor an image in base64")

    def _inside(self, path: Path) -> Path:
        """The file, if it is in the folder, links followed."""
        if not path.resolve().is_relative_to(self._bound):
            raise HarnessError(f"{path} is a link that leaves the folder {self.root}")
        return path


HEADS = (b"\x89PNG", b"\xff\xd8", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*", b"P5", b"P6", b"\0\0\0")
"""How images begin: a text that spells one in base64 is told from the name of a file by it."""


def _of_base64(text: str) -> bytes | None:
    """The image that a text spells in base64, or in a `data:` URI; None if it does not."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        found = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return None
    return found if found.startswith(HEADS) else None


class Table(Sequence[Row]):
    """The rows of a split, in one file or several; only the columns that are wanted."""

    def __init__(self, folder: Folder, paths: Sequence[Path], wanted: Callable[[Sequence[str]], Mapping[str, str]]):
        """`wanted`: from the columns of a file to what a row shall hold: name -> column."""
        self.folder, self.paths = folder, tuple(paths)
        self._files, self._columns = [], []
        self.columns: tuple[str, ...] = ()
        for path in paths:
            file = FORMATS[path.suffix.lower()](path)
            self.columns = self.columns or tuple(file.columns)
            try:
                columns = wanted(file.columns)
            except HarnessError as error:
                raise HarnessError(f"{path}: {error}") from error
            file.keep(sorted(set(columns.values())))
            self._files.append(file)
            self._columns.append(columns)
        self._ends = [*accumulate(map(len, self._files))]

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, number: Any) -> Any:
        place = bisect.bisect_right(self._ends, number)
        row = self._files[place][number - (self._ends[place - 1] if place else 0)]
        return {name: row.get(column) for name, column in self._columns[place].items()}

    def __iter__(self) -> Iterator[Row]:
        return (self[number] for number in range(len(self)))

    def image(self, value: Any, number: int) -> bytes:
        """The stored bytes of an image of row `number`."""
        return self.folder.image(value, self.paths[bisect.bisect_right(self._ends, number)])


def open_table(
    source: Source, name: str | None, split: str, wanted: Callable[[Sequence[str]], Mapping[str, str]]
) -> Table:
    """A split of a local data set.

    Raises `HarnessError` naming the folder or file for a split that is not there, a file that cannot be read, and what
    `wanted` says of its columns.
    """
    folder = Folder(source.path)
    apart = source.images["name"] if source.images else None
    return Table(folder, folder.tables(name, split, apart if apart != name else None), wanted)


@contextmanager
def _columnar(path: Path) -> Iterator[tuple[Callable[[list[str]], Iterable[Any]], Any]]:
    """A parquet or Arrow file: what gives batches of some of its columns, and its schema."""

    def stored(columns: list[str]) -> Iterator[Any]:
        for batch in source:
            for start in range(0, len(batch), BATCH):
                yield batch.slice(start, BATCH).select(columns)

    try:
        with opened(path) as file:
            if path.suffix.lower() == ".parquet":
                source: Any = pq.ParquetFile(file, buffer_size=MIB)
                yield (lambda columns: source.iter_batches(BATCH, columns=columns)), source.schema_arrow
            else:
                source = ipc.open_stream(file)
                yield stored, source.schema
    except (pa.ArrowException, ValueError, TypeError, LookupError, OverflowError) as error:
        raise HarnessError(f"{path}: not readable: {error}") from error


class _Columns:
    """A parquet or Arrow file. Rows are asked for in any order, so the columns that are kept are copied into a file of
    Arrow's own, which has no name and is gone with the process (`TMPDIR` says where)."""

    def __init__(self, path: Path):
        self.path = path
        self._ends: list[int] = []
        self._lock = threading.Lock()
        with _columnar(path) as (_, schema):
            self.columns = [str(name) for name in schema.names]

    def keep(self, columns: list[str]) -> None:
        """Copy these columns."""
        if twice := [column for column in columns if self.columns.count(column) > 1]:
            raise HarnessError(f"{self.path}: two columns are called {twice[0]}")
        most, total = GROWTH * self.path.stat().st_size + 2**30, 0
        with tempfile.TemporaryFile() as spool, _columnar(self.path) as (batches, _):
            writer: Any = None
            for batch in batches(columns):
                plain = _decoded(batch)
                plain.validate(full=True)
                writer = writer or ipc.new_file(pa.PythonFile(spool, "w"), plain.schema)
                writer.write_batch(plain)
                total += plain.nbytes
                self._ends.append(len(self) + len(plain))
                if total > most:
                    raise HarnessError(f"{self.path}: its columns become more than {most} bytes; that is not read")
            if writer is not None:
                writer.close()
                spool.flush()
                mapped = mmap.mmap(spool.fileno(), 0, access=mmap.ACCESS_READ)
                self._stored = ipc.open_file(pa.py_buffer(mapped))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, number: int) -> Row:
        place = bisect.bisect_right(self._ends, number)
        with self._lock:
            batch = self._stored.get_batch(place)
        before = self._ends[place - 1] if place else 0
        try:
            row: Row = batch.slice(number - before, 1).to_pylist()[0]
        except (ValueError, TypeError, OverflowError, LookupError) as error:  # a date that Python has not, and the like
            raise HarnessError(f"{self.path}, row {number}: {error}") from error
        return row


def _decoded(batch: Any) -> Any:
    """The batch without dictionaries, which differ between batches, and without what its writer noted."""
    arrays = [one.dictionary_decode() if pa.types.is_dictionary(one.type) else one for one in batch.columns]
    return pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)


class _Text:
    """A file of which each row is read again when it is asked for; rows may hold images, and they may be many."""

    def __init__(self, path: Path):
        self.path = path
        self.columns: list[str] = []
        self._places: list[tuple[int, int]] = []

    def keep(self, columns: list[str]) -> None:
        """Nothing is copied."""

    def __len__(self) -> int:
        return len(self._places)


class _Lines(_Text):
    """JSON lines. A key that a row lacks is null there."""

    def __init__(self, path: Path):
        super().__init__(path)
        columns: dict[str, None] = {}
        for number, (start, line) in enumerate(read_lines(path), start=1):
            if line.strip():
                columns |= dict.fromkeys(self._row(line, f"{path}, line {number}"))
                self._places.append((start, len(line)))
        self.columns = list(columns)

    def __getitem__(self, number: int) -> Row:
        return self._row(read_part(self.path, *self._places[number]), f"{self.path}, row {number}")

    @staticmethod
    def _row(line: bytes, where: str) -> dict[str, Any]:
        row = parse_json(line.removeprefix(b"\xef\xbb\xbf"), where)
        if not isinstance(row, dict):
            raise HarnessError(f"{where}: an object is expected, not {type(row).__name__}")
        return row


class _Json(_Text):
    """One JSON document with the rows in it."""

    def __init__(self, path: Path):
        super().__init__(path)
        found = read_json(path, TABLE_BYTES)
        lists = [found] if isinstance(found, list) else [*found.values()] if isinstance(found, dict) else []
        lists = [one for one in lists if isinstance(one, list) and one and all(isinstance(row, dict) for row in one)]
        if len(lists) != 1:
            raise HarnessError(f"{path}: a list of objects is expected, or an object with one; here are {len(lists)}")
        self._rows: list[Row] = lists[0]
        self.columns = list(dict.fromkeys(key for row in self._rows for key in row))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> Row:
        return self._rows[number]


class _Cells(_Text):
    """Comma, semicolon or tab separated texts with a header."""

    def __init__(self, path: Path):
        super().__init__(path)
        csv.field_size_limit(LINE_BYTES)
        self._delimiter = self._separator()
        records = self._records(read_lines(path))
        _, header = next(records, ((0, 0), []))
        self.columns = header
        if not header or len(set(header)) < len(header) or not all(header):
            raise HarnessError(f"{path}: a header is expected, with a name of its own for every column")
        lists, filled = set(header), set()
        for place, cells in records:
            if len(cells) != len(header):
                raise HarnessError(
                    f"{path}, row {len(self)}: {len(cells)} cells; the header names {len(header)} columns"
                )
            self._places.append(place)
            texts = {name for name, cell in zip(header, cells, strict=True) if cell}
            filled |= texts
            lists -= {n for n, cell in zip(header, cells, strict=True) if n in lists and cell and _list(cell) is None}
        self._lists = lists & filled

    def __getitem__(self, number: int) -> Row:
        part = io.BytesIO(read_part(self.path, *self._places[number]))
        _, cells = next(self._records((0, line) for line in part))
        row = dict(zip(self.columns, cells, strict=True))
        return row | {name: _list(row[name]) for name in self._lists}

    def _separator(self) -> str:
        if self.path.suffix.lower() == ".tsv":
            return "\t"
        _, head = next(read_lines(self.path), (0, b""))
        return max(",;\t", key=lambda sign: head.count(sign.encode()))

    def _records(self, lines: Iterable[tuple[int, bytes]]) -> Iterator[tuple[tuple[int, int], list[str]]]:
        """Each record's place (start, size) and its cells; a quoted cell may hold line ends."""
        end = 0

        def texts() -> Iterator[str]:
            nonlocal end
            for start, line in lines:
                end += len(line)
                try:
                    yield line.decode("utf-8" if start else "utf-8-sig")
                except UnicodeDecodeError as error:
                    raise HarnessError(f"{self.path}: not UTF-8 text (byte {start + error.start})") from error

        reader = csv.reader(texts(), delimiter=self._delimiter, strict=True)
        while True:
            start = end
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise HarnessError(f"{self.path}: not readable as cells at byte {start}: {error}") from error
            if cells:
                yield (start, end - start), cells


def _list(cell: str) -> list[Any] | None:
    """The JSON list in a cell; None if it is none."""
    if not (cell.startswith("[") and cell.endswith("]")):
        return None
    try:
        found = parse_json(cell, "cell")
    except HarnessError:
        return None
    return found if isinstance(found, list) else None


FORMATS: dict[str, Any] = {
    ".parquet": _Columns,
    ".arrow": _Columns,
    ".csv": _Cells,
    ".tsv": _Cells,
    ".jsonl": _Lines,
    ".ndjson": _Lines,
    ".json": _Json,
}
"""What reads a file, by its ending."""
