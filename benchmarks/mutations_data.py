"""Data folders as nobody should have them: a good table for `docvqa` in one of the formats, and faults by a seed.

`make(seed, folder)` writes one and returns what `data={docvqa:...}` would be given; the same seed writes the same. Used
by `tests/test_local.py` in small and by `benchmarks/fuzz.py` in number.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image
from pyarrow import ipc, parquet

Rows = list[dict[str, Any]]

COLUMNS = ("questionId", "question", "question_types", "answers", "image")
FORMATS = ("parquet", "arrow", "csv", "tsv", "jsonl", "json")
STRANGE: tuple[Any, ...] = (
    *(None, 0, -1, 2**70, 1.5, float("nan"), float("inf"), True, "", " ", "nan", "[", "[]", '["a", 1]', [], [[]], {}),
    *("\x00", "\x1b[31m", "\u202e", "\ud800", "=cmd()", "{{ 7 * 7 }}", "a" * 5000, "../../../etc/passwd", "/etc/a"),
    *({"bytes": None, "path": None}, {"bytes": "x", "path": "../a.png"}, [None], ["a", None], [{"a": "b"}], b"\xff"),
)
NAMES = ("self", "row", "file_name", "range", "", "a.b", "Ω", "x" * 300, "image")
FOREIGN = (b"", b"\x00" * 100, b"PK\x03\x04", b"PAR1PAR1", b'"' * 99, b"[" * 10**5, b'"a,b\n' * 9, b"a,a\n1,2\n")
STEMS = ("validation-00000-of-00001", "docvqa_val", "data", "metadata", "train", "validation-00000-of-00002")


def picture(rng: random.Random) -> bytes:
    """A small PNG."""
    out = io.BytesIO()
    Image.new("RGB", (rng.randint(1, 40), rng.randint(1, 40)), (rng.randint(0, 255), 9, 9)).save(out, "PNG")
    return out.getvalue()


def rows_of(rng: random.Random, form: str, folder: Path) -> Rows:
    """Rows that are good: images inside or beside, as the format allows."""
    rows: Rows = []
    for number in range(rng.randint(0, 5)):
        stored = picture(rng)
        name = f"{number}.png"
        (folder / name).write_bytes(stored)
        inside = {"bytes": stored, "path": name} if form in ("parquet", "arrow") else base64.b64encode(stored).decode()
        rows.append(
            {
                "questionId": str(number),
                "question": f"what is {number}?",
                "question_types": ["form"],
                "answers": ["12", "1.2"],
                "image": rng.choice([inside, name]) if form not in ("parquet", "arrow") else inside,
            }
        )
    return rows


def swap_types(rng: random.Random, rows: Rows) -> Rows:
    """A strange value in one cell, or in a whole column."""
    column, value = rng.choice(COLUMNS), rng.choice(STRANGE)
    chosen = rows if rng.random() < 0.5 else rng.sample(rows, min(1, len(rows)))
    for row in chosen:
        row[column] = value
    return rows


def drop_column(rng: random.Random, rows: Rows) -> Rows:
    """A column less, in all rows or in one."""
    column = rng.choice(COLUMNS)
    for row in rows if rng.random() < 0.7 else rows[:1]:
        row.pop(column, None)
    return rows


def rename_column(rng: random.Random, rows: Rows) -> Rows:
    """A column under another name."""
    column, name = (
        rng.choice(COLUMNS),
        rng.choice(NAMES),
    )
    return [{name if key == column else key: value for key, value in row.items()} for row in rows]


def repeat(rng: random.Random, rows: Rows) -> Rows:
    """The same row twice."""
    return [*rows, *rows[:1]]


def nest(rng: random.Random, rows: Rows) -> Rows:
    """A cell that is deep."""
    deep: Any = "x"
    for _ in range(rng.choice([3, 70, 300])):
        deep = [deep]
    for row in rows[:1]:
        row[rng.choice(COLUMNS)] = deep
    return rows


OF_ROWS: tuple[Callable[[random.Random, Rows], Rows], ...] = (swap_types, drop_column, rename_column, repeat, nest)


def cut(rng: random.Random, content: bytes) -> bytes:
    """A file that ends too early."""
    return content[: rng.randint(0, len(content))]


def flip(rng: random.Random, content: bytes) -> bytes:
    """A few bytes changed."""
    changed = bytearray(content)
    for _ in range(min(len(changed), rng.randint(1, 8))):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def encode(rng: random.Random, content: bytes) -> bytes:
    """Another encoding than UTF-8."""
    return content.decode("latin-1").encode(rng.choice(["utf-16", "utf-32", "utf-8-sig"]))


def foreign(rng: random.Random, content: bytes) -> bytes:
    """Something else altogether."""
    return rng.choice(FOREIGN)


OF_BYTES: tuple[Callable[[random.Random, bytes], bytes], ...] = (cut, flip, encode, foreign)


def write(form: str, rows: Rows, path: Path) -> None:
    """Rows in a format; what it cannot hold is written as text."""
    if form in ("parquet", "arrow"):
        try:
            table = pa.Table.from_pylist(rows)
        except (pa.ArrowException, ValueError, TypeError, OverflowError):
            table = pa.Table.from_pylist([{key: ascii(value) for key, value in row.items()} for row in rows])
        try:
            if form == "parquet":
                parquet.write_table(table, path)
            else:
                with ipc.new_stream(str(path), table.schema) as sink:
                    sink.write_table(table)
        except (pa.ArrowException, ValueError):  # an empty struct, or one too deep: what was written stays as it is
            path.touch()
    elif form in ("csv", "tsv"):
        names = list(dict.fromkeys(key for row in rows for key in row)) or list(COLUMNS)
        with path.open("w", encoding="utf-8", errors="surrogatepass", newline="") as file:
            cells = csv.writer(file, delimiter="\t" if form == "tsv" else ",")
            cells.writerow(names)
            for row in rows:
                values = [row.get(name, "") for name in names]
                cells.writerow([json.dumps(v) if isinstance(v, list) else v for v in values])
    else:
        lines = [json.dumps(row, default=repr) for row in rows]
        path.write_text("\n".join(lines) if form == "jsonl" else f"[{','.join(lines)}]")


def make(seed: int, folder: Path) -> Path:
    """A data folder with faults (one in five has none), or the file in it."""
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    form = rng.choice(FORMATS)
    rows = rows_of(rng, form, folder)
    faulty = rng.random() < 0.8
    if faulty and rng.random() < 0.6:
        for change in rng.sample(OF_ROWS, rng.randint(1, 2)):
            rows = change(rng, rows)
    name = rng.choice(STEMS)
    path = folder / rng.choice(["", "data", "DocVQA"]) / f"{name}.{form}"
    path.parent.mkdir(exist_ok=True)
    write(form, rows, path)
    if faulty and rng.random() < 0.5:
        path.write_bytes(rng.choice(OF_BYTES)(rng, path.read_bytes()))
    if faulty and rng.random() < 0.2:
        said = rng.choice(["[1, {a: b}]", "{", "[{config_name: x, data_files: '../*'}]", "[{data_files: '**/*'}]", "7"])
        (folder / "README.md").write_text(f"---\nconfigs: {said}\n---\n")
    return path if rng.random() < 0.3 else folder
