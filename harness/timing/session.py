"""One run of a sweep: measurements in blocks, then evaluations; every outcome is in the store before the next one
begins."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

from harness.machine import commit
from harness.progress import MINUTE, Progress, readable
from harness.schema import Evaluation, Measurement, Score, one_line
from harness.storage import store
from harness.storage.lock import Held, device_lock, locked
from harness.suites.questions import fault_of
from harness.timing.plan import PROCESS_START_SECONDS, Estimate, Plan, batches
from harness.timing.telemetry import Disturbed, Use
from harness.timing.worker import Outcome, Worker

GIVE_UP = 2
"""Blocks in a row in which everything was disturbed, after which the rest would be as well."""


class Session:
    """Does what a plan asks for, one task after the other, in processes of their own."""

    def __init__(
        self,
        plan: Plan,
        root: Path,
        timeout: float,
        seed: int,
        progress: Progress,
        estimate: Estimate | None = None,
        patient: bool = True,
    ):
        """`estimate` is how long everything is expected to take; without it all measurements count the same. A session
        that is not `patient` gives up where everything is disturbed (see `measure_all`)."""
        self.plan, self.root, self.timeout, self.seed, self.progress = plan, root, timeout, seed, progress
        self.estimate, self.patient = estimate, patient
        self.commit = commit()
        self.worker = Worker(note=self._note)
        self._noted: set[str] = set()
        self._start = PROCESS_START_SECONDS if estimate else 0.0
        self._whole = 0.0
        """Seconds that everything is expected to take, and how many of them are done."""
        self._done = 0.0

    def measure_all(self, todo: Sequence[Sequence[str]], together: Mapping[str, str] | None = None) -> None:
        """For each block a fresh process in which what is missing takes turns, in random order.

        `together`: key -> name of a group whose components take turns pass by pass: the sides of a comparison. What
        fails is not measured again in later blocks of this run: it has no number, whatever they would say.

        Raises `Disturbed`, unless the session is patient, when in each of `GIVE_UP` blocks in a row every measurement
        that has samples was disturbed, after its repetitions, and blocks are left: so would those be. A block in which
        one measurement was not disturbed starts the count again; one in which nothing was measured does not count.
        """
        total, failed, lost = sum(map(len, todo)), set[str](), 0
        self._whole = self.estimate.seconds if self.estimate else float(total)
        count = 0
        try:
            for block, keys in enumerate(todo):
                if not keys:
                    continue
                begin = time.monotonic()
                last: dict[str, Measurement] = {}
                self._done += self._start
                for batch in batches(self.plan, set(keys) - failed, self.seed, block, together):
                    where = f"block {block + 1}/{len(todo)}, {count + len(last)}/{total} done"
                    measurements = self._measure(batch, block, len(last), where)
                    last |= {measurement.key: measurement for measurement in measurements}
                self.worker.stop()
                for key, measurement in last.items():
                    if measurement.status != "ok":
                        failed.add(key)
                self._done += sum(self._expected(key) for key in set(keys) - last.keys())
                count += len(keys)
                measured = [measurement for measurement in last.values() if measurement.status == "ok"]
                disturbed = sum(measurement.disturbed for measurement in measured)
                lost = lost + 1 if measured and disturbed == len(measured) else 0 if measured else lost
                self.progress.advance(self._done / self._whole)
                note = f", {disturbed} disturbed" if disturbed else ""
                spent = readable(time.monotonic() - begin)
                text = f"block {block + 1}/{len(todo)}: {len(keys)} measurements{note} in {spent}"
                self.progress.line(text + self.progress.left())
                if lost >= GIVE_UP and any(todo[block + 1 :]) and not self.patient:
                    raise Disturbed(
                        f"stopped: every measurement of {lost} blocks in a row was disturbed; what is measured is "
                        f"kept. Stop what uses this machine and run the same command again (force=true for these "
                        f"blocks as well), or go on with busy=warn"
                    )
        finally:
            self.worker.stop()

    def _measure(self, batch: Sequence[Sequence[str]], block: int, position: int, where: str) -> list[Measurement]:
        """Measure a batch of units; every outcome is in the store when this returns.

        Of a batch that failed each component has a failed measurement, whose reason says that it was one of several;
        then each unit is measured alone, and what it did there is the newer measurement, which counts. So the store
        tells of a crash that does not repeat.
        """
        components = self.plan.components
        keys = [key for unit in batch for key in unit]
        name = components[keys[0]].name if len(keys) == 1 else f"{len(keys)} components in turns"
        for key in keys:
            self.plan.work(key)  # now, and not while the child measures
        started, begin = datetime.now(UTC), time.monotonic()
        units = [[components[key] for key in unit] for unit in batch]
        seed, span = f"{self.seed}/{block}", sum(map(self._expected, keys))
        sign = partial(self._sign, f"{where}: {name}", span)
        outcome = self.worker.measure(units, seed, self.timeout, sign)
        again = outcome.status != "ok" and len(keys) > 1
        among = f"in turns with {len(keys) - 1} more: " if again else ""
        results = iter([side for unit in outcome.results for side in unit] if outcome.status == "ok" else [])
        measurements: list[Measurement] = []
        for place, key in enumerate(keys, start=position):
            common = {
                **self._origin(key, components[key].device, started),
                "component": components[key],
                "block": block,
                "process": outcome.process,
                "seed": self.seed,
                "position": place,
                "work": self.plan.work(key),
            }
            if outcome.status == "ok":
                attempts = enumerate(next(results))
                measurements += [
                    Measurement(**common, status="ok", attempt=attempt, **found) for attempt, found in attempts
                ]
            else:
                timer = outcome.results[0]["timer"] if outcome.results else None
                spent = round(time.monotonic() - begin, 3)
                failure = {"status": outcome.status, "timer": timer, "seconds": spent, "attempt": 0}
                measurements.append(Measurement(**common, **failure, reason=one_line(among + outcome.reason)))
        store.append(self.root, *measurements)  # at once: a kill leaves no disturbed measurement without its repetition
        if not again:
            self._done += span
            self.progress.advance(self._done / self._whole)
            if outcome.status != "ok":
                self.progress.line(f"failed: {name}: {outcome.reason}")
            return measurements
        self.progress.line(f"failed: {name}: {outcome.status}: {outcome.reason}; each is measured alone now")
        # Whose failure it was, each unit alone will tell, or each side.
        found: list[Measurement] = []
        for part in [[unit] for unit in batch] if len(batch) > 1 else [[[key]] for key in batch[0]]:
            if len(batch) == 1:
                self.worker.stop()  # sides that did not take turns are not of one process, so that this shows
            found += self._measure(part, block, position, where)
            position += sum(map(len, part))
        return found

    def _expected(self, key: str) -> float:
        """Seconds that a measurement is expected to take."""
        return self.estimate.measurements.get(key, 1.0) if self.estimate else 1.0

    def _sign(self, where: str, span: float, what: str, share: float | None = None) -> None:
        """A sign of life from a task that is expected to take `span` seconds."""
        if share is not None:
            self.progress.advance((self._done + share * span) / self._whole)
            what = f"{what} {share:.0%}"
        self.progress.doing(where, what)

    def _note(self, warning: str) -> None:
        """Say what a library warned of in the measuring process, once."""
        if warning not in self._noted:
            self._noted.add(warning)
            self.progress.line(f"note: {warning}")

    def ask_all(self, keys: Sequence[str], again: bool = False) -> None:
        """Ask what is missing, in one process that lives across points; `again`: what was answered too. A suite whose
        data cannot be read fails; the others are asked. Where an evaluation fails its blind run is not taken: there
        would be nothing to hold it against."""
        spans = [self.estimate.evaluation_of(self.plan.evaluations[key][1]) if self.estimate else 1.0 for key in keys]
        self._whole = max(self._whole, self._done + self._start + sum(spans))
        self._done += self._start
        sighted = {
            key: planned.evaluations[suite] for planned in self.plan.points for suite, key in planned.blind.items()
        }
        failed: set[str] = set()
        try:
            for count, (key, each) in enumerate(zip(keys, spans, strict=True), start=1):
                if sighted.get(key) in failed:
                    self._done += each
                    continue
                point, suite = self.plan.evaluations[key]
                name = f"{point.name} {suite.name}" + (" blind" if suite.image == "grey" else "")
                started, begin = datetime.now(UTC), time.monotonic()
                journal = store.journal_of(self.root, key)
                if why := fault_of(suite):
                    outcome = Outcome("error", why)
                else:
                    if again:
                        journal.unlink(missing_ok=True)
                    sign = partial(self._sign, f"evaluation {count}/{len(keys)}: {name}", each)
                    outcome = self.worker.evaluate(point, suite, self.timeout, sign, journal)
                evaluation = Evaluation(
                    **self._origin(key, point.device, started),
                    seconds=round(time.monotonic() - begin, 3),
                    status=outcome.status,
                    reason=outcome.reason,
                    point=point,
                    suite=suite,
                    score=Score(**outcome.results[0]["score"]) if outcome.results else None,
                )
                store.append(self.root, evaluation)
                self._done += each
                self.progress.advance(self._done / self._whole)
                if evaluation.status != "ok":
                    failed.add(key)
                    self.progress.line(f"failed: {name}: {evaluation.reason}")
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
def alone(wait: bool | float = False, say: Callable[[str], None] = lambda _: None) -> Iterator[None]:
    """Hold the machine for one sweep: two that measure at once would both be several times too slow.

    `wait`: as long as it takes, not at all, or so many seconds; `say` is told for whom, at once and then every minute.
    Raises `Held`, with the other one's name.
    """
    said = -math.inf

    def waiting(text: str) -> None:
        nonlocal said
        if time.monotonic() - said >= MINUTE:
            said = time.monotonic()
            say(f"waiting: {text}")

    with ExitStack() as held:
        try:
            what = "another sweep is measuring on this machine"
            held.enter_context(locked(device_lock(), wait, what, waiting, mode=0o666))
        except Held as error:
            raise Held(f"{error}; wait=true waits for it", error.holder) from error
        yield


Busy = Literal["wait", "warn", "refuse"]
"""What is done about a machine that others use: wait some time for quiet, and give up where everything is disturbed; go
on in any case; measure nothing, and give up likewise."""


def await_quiet(
    look: Callable[[], Use],
    busy: Busy,
    most: float,
    say: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Look at the machine before the first block, and wait up to `most` seconds until others leave it (`wait`), say who
    uses it (`warn`), or raise `Disturbed` (`refuse`). One quiet look is enough; a machine that stays busy is measured
    on, with a note."""
    use = look()
    if use.busy and busy == "refuse":
        raise Disturbed(f"this machine is busy, nothing was measured: {use}; busy=warn measures in any case")
    if use.busy and busy == "wait" and most:
        say(f"this machine is busy: {use}; waiting up to {readable(most)} for quiet (busy=warn goes on at once)")
        begin = clock()
        while use.busy and clock() - begin < most:
            use = look()
        if not use.busy:
            say(f"quiet after {readable(clock() - begin)}")
    if use.busy:
        say(f"note: this machine is busy: {use}; times will be disturbed")
