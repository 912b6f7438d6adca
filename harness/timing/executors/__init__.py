"""Where measurements are done: one file for each way, found by its name (`executor=`).

An executor's file holds a class `Executor` that derives from the one here and does one task after the other: it
measures components that take turns, or asks a point one suite. Tasks and outcomes are JSON, so that they can go to
another process or another machine. One of another package goes by its module's name: `executor=my_package.my_executor`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import registry
from harness.machine import describe
from harness.schema import (
    COMPONENT,
    Attempt,
    Component,
    HarnessError,
    InvalidOutput,
    Machine,
    Point,
    Score,
    Status,
    Suite,
    TimerTest,
    one_line,
)

Sign = Callable[[str, float | None], None]
"""Is told what is done, and which share of the task that makes, from 0 to 1, where it is known."""
Task = dict[str, Any]
"""`{"measure": [{key: component}, ...], "seed": ...}` or `{"evaluate": [point, suite], "journal": ...}`, as JSON."""


@dataclass(frozen=True)
class Outcome:
    """What became of one task."""

    status: Status
    reason: str = ""
    attempts: Mapping[str, tuple[Attempt, ...]] = field(default_factory=dict)
    """Of a measurement that went well: each component's, by its key."""
    score: Score | None = None
    """Of an evaluation that went well."""
    timer: TimerTest | None = None
    """Where the timer was refused: its test."""
    process: str = ""
    """Names the process that did it."""

    @classmethod
    def read(cls, message: Mapping[str, Any], process: str) -> Outcome:
        """An outcome as `perform` wrote it."""
        found = json.loads(message["results"])
        return cls(
            status=message["status"],
            reason=message["reason"],
            attempts={key: tuple(Attempt(**each) for each in tries) for key, tries in found["attempts"].items()},
            score=Score(**found["score"]) if found["score"] else None,
            timer=TimerTest(**found["timer"]) if found["timer"] else None,
            process=process,
        )


class Executor:
    """Does one task after the other. Derive from it and write `_do`."""

    def __init__(self, note: Callable[[str], None] = lambda _: None):
        """`note` is told what a library warns of where tasks are done."""
        self.note = note

    def machine(self, device: str) -> Machine:
        """Where tasks are done, as seen from a device there."""
        return describe(device)

    def measure(
        self,
        units: Sequence[Mapping[str, Component]],
        seed: str,
        timeout: float,
        progress: Sign = lambda *_: None,
    ) -> Outcome:
        """Measure components in turns (see `Measurer.measure`)."""
        asked = [{key: component.model_dump_json() for key, component in unit.items()} for unit in units]
        return self._do({"measure": asked, "seed": seed}, timeout, progress)

    def evaluate(
        self,
        point: Point,
        suite: Suite,
        timeout: float,
        progress: Sign = lambda *_: None,
        journal: Path | None = None,
    ) -> Outcome:
        """Ask one point one suite; answers are kept in `journal` as they come."""
        asked = {"evaluate": [point.model_dump_json(), suite.model_dump_json()], "journal": journal and str(journal)}
        return self._do(asked, timeout, progress)

    def stop(self) -> None:
        """End what tasks are done in; the next one begins in a fresh one, where there is such a thing."""

    def _do(self, task: Task, timeout: float, progress: Sign) -> Outcome:
        """Do one task; whatever goes wrong becomes a status and one line."""
        raise NotImplementedError


def find(name: str) -> type[Executor]:
    """The class of an executor; raises `HarnessError` for one that does not exist or cannot be imported."""
    return registry.subclass("timing.executors", name, Executor)


def perform(measurer: Any, task: Task, progress: Callable[..., None]) -> dict[str, Any]:
    """Do one task here; whatever goes wrong becomes a status and one line."""
    from harness.timing.bench import Cached, UntrustedTimer

    results: dict[str, Any] = {"attempts": {}, "score": None, "timer": None}
    status: Status = "ok"
    reason = ""
    try:
        if "measure" in task:
            units = [{key: COMPONENT.validate_json(each) for key, each in unit.items()} for unit in task["measure"]]
            results["attempts"] = measurer.measure(units, task["seed"], progress)
        else:
            point, suite = task["evaluate"]
            journal = Path(task["journal"]) if task["journal"] else None
            asked = Point.model_validate_json(point), Suite.model_validate_json(suite)
            results["score"] = measurer.evaluate(*asked, progress, journal)
    except UntrustedTimer as error:
        status, reason, results["timer"] = "untrusted_timer", str(error), error.timer
    except Cached as error:
        status, reason = "cached", str(error)
    except InvalidOutput as error:
        status, reason = "invalid_output", str(error)
    except MemoryError as error:
        status, reason = "out_of_memory", str(error) or "out of memory"
    except HarnessError as error:
        status, reason = "error", str(error)
    except Exception as error:
        reason = one_line(f"{type(error).__name__}: {error}")
        text = reason.lower()
        status = "out_of_memory" if "out of memory" in text or "can't allocate" in text else "error"
    return {"status": status, "reason": reason, "results": json.dumps(results, default=_plain)}


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json")
