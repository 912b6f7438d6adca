"""The notebook: append-only entries under `results/measured/<machine>/`; the only writer there.

`visits.jsonl` holds what was timed, `exams.jsonl` what was asked. One entry is one line, written by a single `write`
under a lock and flushed to the disk, so several writers may share a file and a killed one leaves at most one torn last
line. The next writer moves a torn last line aside to `<file>.torn`, says so, and goes on; a line that is damaged
otherwise is an error that names file and line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from filelock import FileLock
from pydantic import ValidationError

from harness.schema import (
    SCHEMA_VERSION,
    Claim,
    Entry,
    Exam,
    HarnessError,
    Machine,
    Manifest,
    Planned,
    Visit,
    first_fault,
)

VISITS, EXAMS = "visits.jsonl", "exams.jsonl"
MANIFEST = "manifest.json"
"""A report's copy of its sweep's manifest, beside copies of the records that it names."""

E = TypeVar("E", bound=Entry)


def file_of(noun: type[Entry]) -> str:
    """Name of the file that holds entries of this kind."""
    return VISITS if noun is Visit else EXAMS


def path_of(root: Path, machine: Machine, noun: type[Entry]) -> Path:
    """The file of one machine's entries of one kind."""
    return root / "measured" / machine.key / file_of(noun)


def mend(path: Path) -> str:
    """Move a torn last line aside; returns what was done in one line, or nothing."""
    if not path.exists():
        return ""
    with FileLock(f"{path}.lock"):
        return _mend(path)


def _mend(path: Path) -> str:
    """`mend` for a caller that holds the lock. Looks at the last byte first, and reads the file only if it is torn."""
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return ""
        file.seek(-1, os.SEEK_END)
        if file.read(1) == b"\n":
            return ""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    torn = content[whole:]
    aside = path.with_name(path.name + ".torn")
    with aside.open("ab") as file:
        file.write(torn + b"\n")
        file.flush()
        os.fsync(file.fileno())
    os.truncate(path, whole)
    line = content.count(b"\n") + 1
    return f"{path}:{line}: a write was interrupted; its {len(torn)} bytes are in {aside.name} now"


def append(root: Path, entry: Entry) -> None:
    """Add one entry to its machine's file."""
    path = path_of(root, entry.machine, type(entry))
    path.parent.mkdir(parents=True, exist_ok=True)
    line = (entry.model_dump_json() + "\n").encode()
    with FileLock(f"{path}.lock"):
        if path.exists():
            _mend(path)  # another writer may have been killed since
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[os.write(handle, rest) :]
            os.fsync(handle)
        finally:
            os.close(handle)


def read(path: Path, noun: type[E]) -> Iterator[E]:
    """Every entry of one file in the order of writing; a torn last line is an error here like any other."""
    if not path.exists():
        return
    with FileLock(f"{path}.lock"):  # not in the middle of another process's write
        lines = path.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        yield _parse(path, number, line, noun)


def _parse(path: Path, number: int, line: bytes, noun: type[E]) -> E:
    try:
        return noun.model_validate_json(line)
    except ValidationError as error:
        what = first_fault(error)
        content = None if error.errors()[0]["type"] == "json_invalid" else json.loads(line)
        if not isinstance(content, dict):
            what = "not a JSON record"
        elif (found := content.get("schema_version", SCHEMA_VERSION)) != SCHEMA_VERSION:
            raise HarnessError(
                f"{path}:{number}: written with schema {found}, this version reads {SCHEMA_VERSION}; "
                f"move the file elsewhere and measure again"
            ) from error
    raise HarnessError(f"{path}:{number}: damaged record ({what}); mend or delete that line, then run again")


def files(root: Path, *nouns: type[Entry]) -> list[Path]:
    """The files of every machine, of the kinds that are named or of all."""
    names = [file_of(noun) for noun in nouns or (Visit, Exam)]
    return sorted(path for name in names for path in (root / "measured").glob(f"*/{name}"))


def read_all(root: Path, noun: type[E]) -> list[E]:
    """Every entry of one kind under `root`, machine by machine."""
    return [entry for path in files(root, noun) for entry in read(path, noun)]


def by_block(visits: Iterable[Visit]) -> dict[str, dict[int, Visit]]:
    """Key -> block -> the newest visit, a failed one too: what was measured later replaces what was before."""
    chosen: dict[str, dict[int, Visit]] = {}
    for visit in visits:
        chosen.setdefault(visit.key, {})[visit.block] = visit
    return chosen


def latest(exams: Iterable[Exam]) -> dict[str, Exam]:
    """By key: the newest good exam, or the newest failure where there is no good one."""
    chosen: dict[str, Exam] = {}
    for exam in exams:
        known = chosen.get(exam.key)
        if known is None or exam.status == "ok" or known.status != "ok":
            chosen[exam.key] = exam
    return chosen


def journal_of(root: Path, key: str) -> Path:
    """Where the answers of an exam are kept as they come."""
    return root / "journal" / f"{key}.jsonl"


def load(root: Path) -> tuple[dict[str, dict[int, Visit]], dict[str, Exam]]:
    """What counts of everything under `root`: visits by key and block, exams by key."""
    return by_block(read_all(root, Visit)), latest(read_all(root, Exam))


def load_report(folder: Path) -> tuple[dict[str, dict[int, Visit]], dict[str, Exam]]:
    """The same from the copies that stand beside a report."""
    return by_block(read(folder / VISITS, Visit)), latest(read(folder / EXAMS, Exam))


def write_manifest(
    root: Path,
    name: str,
    title: str,
    points: Iterable[Planned],
    command: str,
    published: str = "",
    claims: Iterable[Claim] = (),
) -> None:
    """Note which results make up the last run of a sweep."""
    path = root / "sweeps" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    started = datetime.now(UTC).isoformat(timespec="seconds")
    fields = {"points": tuple(points), "command": command, "started": started, "published": published}
    manifest = Manifest(name=name, title=title, claims=tuple(claims), **fields)
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(manifest.model_dump_json(indent=1) + "\n")
    part.replace(path)


def read_manifest(root: Path, name: str) -> Manifest:
    """The last run of the sweep `name`; a report's copy of it, where `root` is a folder of reports."""
    path = root / name / MANIFEST
    path = path if path.is_file() else root / "sweeps" / f"{name}.json"
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in path.parent.glob("*.json"))) or "none"
        raise HarnessError(f"no sweep {name!r} under {root}; there are: {there}")
    try:
        return Manifest.model_validate_json(path.read_text())
    except ValidationError as error:
        raise HarnessError(f"{path}: damaged manifest; delete it and run the sweep again") from error
