"""One run of a sweep: visits in blocks, then exams; every outcome is in the store before the next one begins."""

from __future__ import annotations

import itertools
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
from harness.measurement import modules_of
from harness.plan import Plan, order
from harness.progress import Progress, readable
from harness.schema import Exam, HarnessError, Score, Visit
from harness.worker import Worker


class Session:
    """Does what a plan asks for, one task after the other, in processes of their own."""

    def __init__(self, plan: Plan, root: Path, timeout: float, seed: int, progress: Progress):
        self.plan, self.root, self.timeout, self.seed, self.progress = plan, root, timeout, seed, progress
        self.commit = commit()
        self.worker = Worker()

    def visit_all(self, todo: Sequence[Sequence[str]], together: Mapping[str, str] | None = None) -> None:
        """For each block a fresh process that visits what is missing, in random order.

        `together`: key -> name of a group whose components are measured in turns, pass by pass: the sides of a
        comparison, so that whatever the machine does meanwhile meets all of them. What fails is not visited again in
        later blocks of this run: it has no number, whatever they would say.
        """
        groups = together or {key: modules_of(component) for key, component in self.plan.components.items()}
        total, done = sum(map(len, todo)), 0
        failed: set[str] = set()
        try:
            for block, keys in enumerate(todo):
                begin, disturbed = time.monotonic(), 0
                ordered = order(keys, groups, self.seed, block)
                parts = [[*part] for _, part in itertools.groupby(ordered, groups.get)] if together else zip(ordered)
                for position, part in enumerate(parts):
                    left = [key for key in part if key not in failed]
                    where = f"block {block + 1}/{len(todo)}, {done + 1}/{total}"
                    last = {visit.key: visit for visit in self._visit(left, block, position, where)}
                    disturbed += sum(visit.disturbed for visit in last.values())
                    for key, visit in last.items():
                        if visit.status != "ok":
                            failed.add(key)
                            self.progress.line(f"failed: {visit.component.name}: {visit.reason}")
                    done += len(part)
                    self.progress.advance(done / total)
                self.worker.stop()
                if keys:
                    note = f", {disturbed} disturbed" if disturbed else ""
                    spent = readable(time.monotonic() - begin)
                    text = f"block {block + 1}/{len(todo)}: {len(keys)} visits{note} in {spent}"
                    self.progress.line(text + self.progress.left())
        finally:
            self.worker.stop()

    def _visit(self, keys: Sequence[str], block: int, position: int, where: str) -> list[Visit]:
        if not keys:
            return []
        components = [self.plan.components[key] for key in keys]
        work = [self.plan.work(key) for key in keys]
        doing = partial(self.progress.doing, f"{where}: {' | '.join(component.name for component in components)}")
        started, begin = datetime.now(UTC), time.monotonic()
        outcome = self.worker.visit(components, self.timeout, doing)
        if outcome.status != "ok" and len(keys) > 1:  # whose failure it was, each alone will tell
            return [visit for key in keys for visit in self._visit([key], block, position, where)]
        visits, spent = [], (time.monotonic() - begin) / len(keys)
        for side, key in enumerate(keys):
            common = {
                **self._origin(key, components[side].device, started, spent),
                "component": components[side],
                "block": block,
                "process": outcome.process,
                "seed": self.seed,
                "position": position,
                "work": work[side],
            }
            found = [attempt[side] for attempt in outcome.results]
            if outcome.status == "ok":
                visits += [Visit(**common, status="ok", attempt=n, **one) for n, one in enumerate(found)]
            else:  # what was measured before the failure is no number; the timer's test is kept, it may be the reason
                timer, attempt = found[0]["timer"] if found else None, sum("samples" in one for one in found)
                failure = {"status": outcome.status, "reason": outcome.reason, "attempt": attempt, "timer": timer}
                visits.append(Visit(**common, **failure))
        for visit in visits:
            store.append(self.root, visit)
        return visits

    def ask_all(self, keys: Sequence[str]) -> None:
        """Ask what is missing, in one process that lives across points."""
        try:
            for count, key in enumerate(keys, start=1):
                point, suite = self.plan.exams[key]
                name = f"exam {count}/{len(keys)}: {point.name} {suite.name}"
                started, begin = datetime.now(UTC), time.monotonic()
                outcome = self.worker.exam(point, suite, self.timeout, partial(self.progress.doing, name))
                exam = Exam(
                    **self._origin(key, point.device, started, time.monotonic() - begin),
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

    def _origin(self, key: str, device: str, started: datetime, seconds: float) -> dict[str, Any]:
        """Where an entry comes from."""
        return {
            "key": key,
            "machine": self.plan.machines[device],
            "commit": self.commit,
            "started": started.isoformat(timespec="seconds"),
            "seconds": round(seconds, 3),
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
