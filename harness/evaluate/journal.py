"""Answers as they come: what a killed run has answered, the next one does not ask again.

One JSON line for each answer, under a key of everything that decides it; several processes may keep theirs in one file
(`harness.storage.lines`).
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.schema import HarnessError
from harness.storage import lines
from harness.storage.intake import parse_json

SYNC = 1.0
"""Seconds of answers that a power failure may take; a kill takes none that was written."""


class Journal:
    """The answers of one file; without a path they are kept in memory alone."""

    def __init__(self, path: Path | None):
        self.path = path
        self.known: dict[str, str] = {}
        self._synced = time.monotonic()

    def __enter__(self) -> Self:
        if self.path is not None:
            for number, line in lines.read(self.path):
                try:
                    entry = parse_json(line, f"{self.path}:{number}")
                    key, text = entry["key"], entry["text"]
                except (HarnessError, KeyError, TypeError):  # a damaged line is an answer that has to be given again
                    continue
                if isinstance(key, str) and isinstance(text, str):
                    self.known[key] = text
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """A kill takes nothing after `add`; after this a power failure does not either."""
        if self.path is not None and self.path.exists():
            lines.flush(self.path)

    def add(self, answers: dict[str, str]) -> None:
        """Keep answers by their keys."""
        self.known |= answers
        if self.path is None:
            return
        sync = time.monotonic() - self._synced >= SYNC
        kept = [json.dumps({"key": key, "text": text}).encode() for key, text in answers.items()]
        lines.append(self.path, kept, sync)
        if sync:
            self._synced = time.monotonic()
