"""The notebook: append-only records under `results/measured/<machine>/records.jsonl`; the only writer there.

One record is one line, written by a single `write` under a lock and flushed to the disk, so several writers may share
a file and a killed one leaves at most one torn last line. The next writer moves a torn last line aside to
`records.jsonl.torn`, says so, and goes on; a line that is damaged otherwise is an error that names file and line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock
from pydantic import ValidationError

from harness.schema import SCHEMA_VERSION, HarnessError, Machine, Manifest, Record, first_fault

FILE = "records.jsonl"


def path_of(root: Path, machine: Machine) -> Path:
    """The file of one machine's records."""
    return root / "measured" / machine.key / FILE


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
    aside = path.with_name(FILE + ".torn")
    with aside.open("ab") as file:
        file.write(torn + b"\n")
        file.flush()
        os.fsync(file.fileno())
    os.truncate(path, whole)
    line = content.count(b"\n") + 1
    return f"{path}:{line}: a write was interrupted; its {len(torn)} bytes are in {aside.name} now"


def append(path: Path, record: Record) -> None:
    """Add one record."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = (record.model_dump_json() + "\n").encode()
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


def read(path: Path) -> Iterator[Record]:
    """Every record of one file in the order of writing; a torn last line is an error here like any other."""
    if not path.exists():
        return
    with FileLock(f"{path}.lock"):  # not in the middle of another process's write
        lines = path.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        yield _parse(path, number, line)


def _parse(path: Path, number: int, line: bytes) -> Record:
    try:
        return Record.model_validate_json(line)
    except ValidationError as error:
        what = first_fault(error)
        content = None if error.errors()[0]["type"] == "json_invalid" else json.loads(line)
        if not isinstance(content, dict):
            what = "not a JSON record"
        elif (found := content.get("schema_version", SCHEMA_VERSION)) != SCHEMA_VERSION:
            what = f"schema {found}"
    raise HarnessError(
        f"{path}:{number}: damaged record ({what}; this version writes schema {SCHEMA_VERSION}); "
        f"mend or delete that line, then run again"
    )


def files(root: Path) -> list[Path]:
    """The record files of every machine."""
    return sorted((root / "measured").glob(f"*/{FILE}"))


def read_all(root: Path) -> list[Record]:
    """Every record under `root`, machine by machine."""
    return [record for path in files(root) for record in read(path)]


def latest(records: list[Record]) -> dict[str, Record]:
    """By key: the newest good record, or the newest failure where there is no good one."""
    chosen: dict[str, Record] = {}
    for record in records:
        known = chosen.get(record.key)
        if known is None or record.status == "ok" or known.status != "ok":
            chosen[record.key] = record
    return chosen


def write_manifest(root: Path, name: str, title: str, keys: list[str], command: str) -> None:
    """Note which records make up the last run of a sweep."""
    path = root / "sweeps" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    started = datetime.now(UTC).isoformat(timespec="seconds")
    manifest = Manifest(name=name, title=title, keys=tuple(keys), command=command, started=started)
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(manifest.model_dump_json(indent=1) + "\n")
    part.replace(path)


def read_manifest(root: Path, name: str) -> Manifest:
    """The last run of the sweep `name`."""
    path = root / "sweeps" / f"{name}.json"
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in path.parent.glob("*.json"))) or "none"
        raise HarnessError(f"no sweep {name!r} under {root}; there are: {there}")
    try:
        return Manifest.model_validate_json(path.read_text())
    except ValidationError as error:
        raise HarnessError(f"{path}: damaged manifest; delete it and run the sweep again") from error


def records_of(root: Path, name: str) -> tuple[Manifest, list[Record]]:
    """A sweep's last run and its records, in the order of its grid; points without a record are left out."""
    manifest = read_manifest(root, name)
    known = latest(read_all(root))
    return manifest, [known[key] for key in manifest.keys if key in known]
