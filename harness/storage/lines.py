"""Files of JSON lines that several processes write and read at the same time: results and journals.

A line counts once its end is on the disk. Writers take turns by a lock beside the file and append with one `write`, so
a killed one leaves at most one torn last line; the next writer moves that aside to `<file>.torn`. Readers take no lock
and write nothing: what stands behind the last line end was never acknowledged, and is not read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.schema import HarnessError
from harness.storage.intake import LINE_BYTES
from harness.storage.lock import locked

WAIT = 60.0
"""Seconds that a writer waits for the others, each of which needs milliseconds."""


def append(path: Path, lines: Sequence[bytes], sync: bool = True) -> None:
    """Add whole lines (without their ends) in one piece; with `sync` they are on the disk when this returns."""
    if not lines:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(Path(f"{path}.lock"), wait=WAIT, what=f"{path} is being written"):
        _mend(path)  # another writer may have been killed since
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            rest = memoryview(b"".join(line + b"\n" for line in lines))
            while rest:
                rest = rest[os.write(handle, rest) :]
            if sync:
                os.fsync(handle)
        finally:
            os.close(handle)


def flush(path: Path) -> None:
    """Return when everything that was appended is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def mend(path: Path) -> str:
    """Move a torn last line aside; returns what was done in one line, or nothing."""
    if not path.exists():
        return ""
    with locked(Path(f"{path}.lock"), wait=WAIT, what=f"{path} is being written"):
        return _mend(path)


def _mend(path: Path) -> str:
    """`mend` for a caller that holds the lock; looks at the last byte, and further back only if it ends no line."""
    try:
        file = path.open("rb+")
    except FileNotFoundError:
        return ""
    with file:
        end = file.seek(0, os.SEEK_END)
        whole = _last_end(file.fileno(), end)
        if whole == end:
            return ""
        torn = os.pread(file.fileno(), end - whole, whole)
        aside = path.with_name(path.name + ".torn")
        with aside.open("ab") as kept:
            kept.write(torn + b"\n")
            kept.flush()
            os.fsync(kept.fileno())
        file.truncate(whole)
    return f"{path}: a write was interrupted; its {len(torn)} bytes are in {aside.name} now"


def _last_end(handle: int, size: int) -> int:
    """Where the last whole line ends, looked for from the end."""
    chunk, start = 2**16, size
    while start > 0:
        begin = max(0, start - chunk)
        if (found := os.pread(handle, start - begin, begin).rfind(b"\n")) >= 0:
            return begin + found + 1
        start = begin
    return 0


def read(path: Path) -> Iterator[tuple[int, bytes]]:
    """Number (from 1) and content of every whole line; nothing where there is no file.

    Raises `HarnessError` for a line that is longer than any that is written here.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    except OSError as error:
        raise HarnessError(f"{path}: not readable: {error}") from error
    with file:
        number = 0
        while line := file.readline(LINE_BYTES + 1):
            number += 1
            if not line.endswith(b"\n"):
                if len(line) > LINE_BYTES:
                    raise HarnessError(f"{path}:{number}: a line of more than {LINE_BYTES} bytes")
                return
            yield number, line[:-1]
