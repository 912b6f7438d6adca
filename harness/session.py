"""One run of a sweep: visits in blocks, then exams; every outcome is in the store before the next one begins."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from harness import store
from harness.machine import commit
from harness.plan import Plan, batches
from harness.progress import Progress, readable
from harness.schema import Exam, HarnessError, Score, Visit
from harness.worker import Outcome, Worker


class Session:
    """Does what a plan asks for, one task after the other, in processes of their own."""

    def __init__(self, plan: Plan, root: Path, timeout: float, seed: int, progress: Progress):
        self.plan, self.root, self.timeout, self.seed, self.progress = plan, root, timeout, seed, progress
        self.commit = commit()
        self.worker = Worker()

    def visit_all(self, todo: Sequence[Sequence[str]], together: Mapping[str, str] | None = None) -> None:
        """For each block a fresh process in which what is missing takes turns, in random order.

        `together`: key -> name of a group whose components take turns pass by pass: the sides of a comparison. What
        fails is not visited again in later blocks of this run: it has no number, whatever they would say.
        """
        total, done = sum(map(len, todo)), 0
        failed: set[str] = set()
        try:
            for block, keys in enumerate(todo):
                begin, disturbed, position = time.monotonic(), 0, 0
                for batch in batches(self.plan, set(keys) - failed, self.seed, block, together):
                    visits = self._visit(
                        batch, block, position, f"block {block + 1}/{len(todo)}, {done + position}/{total} done"
                    )
                    position += sum(map(len, batch))
                    last = {visit.key: visit for visit in visits}
                    disturbed += sum(visit.disturbed for visit in last.values())
                    for key, visit in last.items():
                        if visit.status != "ok":
                            failed.add(key)
                            self.progress.line(f"failed: {visit.component.name}: {visit.reason}")
                    self.progress.advance((done + position) / total)
                done += len(keys)
                self.worker.stop()
                if keys:
                    self.progress.advance(done / total)
                    note = f", {disturbed} disturbed" if disturbed else ""
                    spent = readable(time.monotonic() - begin)
                    text = f"block {block + 1}/{len(todo)}: {len(keys)} visits{note} in {spent}"
                    self.progress.line(text + self.progress.left())
        finally:
            self.worker.stop()

    def _visit(self, batch: Sequence[Sequence[str]], block: int, position: int, where: str) -> list[Visit]:
        """Visit a batch of units; every outcome is in the store when this returns."""
        components = self.plan.components
        count = sum(map(len, batch))
        name = components[batch[0][0]].name if count == 1 else f"{count} components in turns"
        for key in (key for unit in batch for key in unit):
            self.plan.work(key)  # now, and not while the child measures
        started, begin = datetime.now(UTC), time.monotonic()
        units = [[components[key] for key in unit] for unit in batch]
        seed = f"{self.seed}/{block}"
        outcome = self.worker.visit(units, seed, self.timeout, partial(self.progress.doing, f"{where}: {name}"))
        if outcome.status != "ok" and count > 1:  # whose failure it was, each unit alone will tell, or each side
            parts = [[unit] for unit in batch] if len(batch) > 1 else [[[key]] for key in batch[0]]
            found: list[Visit] = []
            for part in parts:
                if len(batch) == 1:
                    self.worker.stop()  # sides that did not take turns are not of one process, so that this shows
                found += self._visit(part, block, position, where)
                position += sum(map(len, part))
            return found
        visits: list[Visit] = []
        for number, unit in enumerate(batch):
            for side, key in enumerate(unit):
                common = {
                    **self._origin(key, components[key].device, started),
                    "component": components[key],
                    "block": block,
                    "process": outcome.process,
                    "seed": self.seed,
                    "position": position,
                    "work": self.plan.work(key),
                }
                position += 1
                if outcome.status == "ok":
                    attempts = enumerate(outcome.results[number][side])
                    visits += [Visit(**common, status="ok", attempt=attempt, **found) for attempt, found in attempts]
                else:
                    timer = outcome.results[0]["timer"] if outcome.results else None
                    spent = round(time.monotonic() - begin, 3)
                    failure = {"status": outcome.status, "reason": outcome.reason, "timer": timer, "seconds": spent}
                    visits.append(Visit(**common, **failure, attempt=0))
        for visit in visits:
            store.append(self.root, visit)
        return visits

    def ask_all(self, keys: Sequence[str], again: bool = False, faults: Mapping[str, str] | None = None) -> None:
        """Ask what is missing, in one process that lives across points; `again`: what was answered too. `faults`: by
        key, why an exam cannot be taken; it fails, the others are taken."""
        try:
            for count, key in enumerate(keys, start=1):
                point, suite = self.plan.exams[key]
                name = f"exam {count}/{len(keys)}: {point.name} {suite.name}"
                started, begin = datetime.now(UTC), time.monotonic()
                journal = store.journal_of(self.root, key)
                if why := (faults or {}).get(key):
                    outcome = Outcome("error", why)
                else:
                    if again:
                        journal.unlink(missing_ok=True)
                    outcome = self.worker.exam(point, suite, self.timeout, partial(self.progress.doing, name), journal)
                exam = Exam(
                    **self._origin(key, point.device, started),
                    seconds=round(time.monotonic() - begin, 3),
                    status=outcome.status,
                    reason=outcome.reason,
                    point=point,
                    suite=suite,
                    score=Score(**outcome.results[0]["score"]) if outcome.results else None,
                )
                store.append(self.root, exam)
                if exam.status != "ok":
                    self.progress.line(f"failed: {point.name} {suite.name}: {exam.reason}")
        finally:
            self.worker.stop()

    def _origin(self, key: str, device: str, started: datetime) -> dict[str, Any]:
        """Where an entry comes from."""
        return {
            "key": key,
            "machine": self.plan.machines[device],
            "commit": self.commit,
            "started": started.isoformat(timespec="seconds"),
            "command": self.plan.commands[key],
        }


@contextmanager
def alone() -> Iterator[None]:
    """Hold the machine for one sweep: two that measure at once would both be several times too slow."""
    lock = FileLock(Path(tempfile.gettempdir()) / "vlm-harness.lock", mode=0o666)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise HarnessError("another sweep is measuring on this machine; wait for it, or stop it") from error
    try:
        yield
    finally:
        lock.release()
