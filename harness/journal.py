"""Answers as they come: what a killed run has answered, the next one does not ask again.

One JSON line for each answer, under a key of everything that decides it; a line that a kill tore is cut off.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self

SYNC = 1.0
"""Seconds of answers that a power failure may take; a kill takes none that was written."""


class Journal:
    """The answers of one file; without a path they are kept in memory alone."""

    def __init__(self, path: Path | None):
        self.path = path
        self.known: dict[str, str] = {}
        self._handle: int | None = None
        self._synced = time.monotonic()

    def __enter__(self) -> Self:
        if self.path is None:
            return self
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        for line in content[:whole].splitlines():
            try:
                entry = json.loads(line)
                self.known[str(entry["key"])] = str(entry["text"])
            except (ValueError, KeyError, TypeError):  # a damaged line is an answer that has to be given again
                continue
        os.truncate(self._handle, whole)
        os.lseek(self._handle, 0, os.SEEK_END)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handle is not None:
            os.fsync(self._handle)
            os.close(self._handle)
            self._handle = None

    def add(self, answers: dict[str, str]) -> None:
        """Keep answers by their keys."""
        self.known |= answers
        if self._handle is None or not answers:
            return
        lines = "".join(json.dumps({"key": key, "text": text}) + "\n" for key, text in answers.items())
        rest = memoryview(lines.encode())
        while rest:
            rest = rest[os.write(self._handle, rest) :]
        if time.monotonic() - self._synced >= SYNC:
            os.fsync(self._handle)
            self._synced = time.monotonic()
