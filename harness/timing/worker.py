"""The child process in which everything is measured, and the parent's handle on it.

A component may crash, run out of memory or hang without taking the sweep along: the process is replaced, and what it
was doing is a record with a reason. A block is one such process. The parent waits for it in a system call, so that it
takes nothing from what is measured.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, ClassVar

from harness.schema import Component, HarnessError, InvalidOutput, Point, Status, Suite, one_line

Sign = Callable[[str, float | None], None]
"""Is told what is done, and which share of the task that makes, from 0 to 1, where it is known."""


QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}
"""Settings of libraries in the measuring process, unless the user has others: one line of progress is enough."""


@dataclass(frozen=True)
class Outcome:
    """What became of one task."""

    status: Status
    reason: str = ""
    results: tuple[Any, ...] = ()
    """Of a measurement: for each unit, each of its components and each attempt, fields of a `Measurement`; of a refused
    timer only `{"timer": ...}`. Of an evaluation: `{"score": ...}`."""
    process: str = ""
    """Names the process that did it."""


class Worker:
    """Does one task after the other in a process of its own."""

    context: ClassVar[BaseContext] = multiprocessing.get_context("spawn")
    """How a process starts: with nothing of the parent's, its memory laid out anew."""

    def __init__(
        self, target: Callable[[Connection], None] | None = None, note: Callable[[str], None] = lambda _: None
    ):
        """`target` is the child's main function; tests give one that misbehaves. `note` is told what a library warns of
        in there."""
        self._target = target or serve
        self.note = note
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None
        self._name = ""

    def measure(
        self,
        units: Sequence[Sequence[Component]],
        seed: str,
        timeout: float,
        progress: Sign = lambda *_: None,
    ) -> Outcome:
        """Measure components in turns (see `Measurer.measurement`); `timeout` is the longest time without a sign of
        life, in seconds."""
        asked = [[component.model_dump_json() for component in unit] for unit in units]
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

    def _do(self, task: dict[str, Any], timeout: float, progress: Sign) -> Outcome:
        if _pressed:
            raise KeyboardInterrupt
        pipe = self._start()
        name = self._name
        try:
            pipe.send(task)
            deadline = time.monotonic() + timeout
            while True:
                if not pipe.poll(max(0.0, deadline - time.monotonic())):
                    self.stop()
                    return Outcome("timeout", f"no sign of life for {timeout:.0f} s; the process was stopped", (), name)
                message = pipe.recv()
                if isinstance(message, tuple):
                    progress(*message)
                    deadline = time.monotonic() + timeout
                    continue
                if isinstance(message, str):
                    self.note(message)
                    continue
                results = tuple(json.loads(message["results"]))
                if message["status"] != "ok":
                    self.stop()  # what a failed task left behind must not meet the next one
                return Outcome(message["status"], message["reason"], results, name)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return Outcome("crashed", self._last_words(), (), name)

    def stop(self) -> None:
        """End the process, at once; the next task begins in a fresh one."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
        self._process = self._pipe = None

    def _start(self) -> Connection:
        if self._process is not None and self._process.is_alive() and self._pipe is not None:
            return self._pipe
        ours, theirs = self.context.Pipe()
        process = self.context.Process(target=self._target, args=(theirs,), daemon=True)  # type: ignore[attr-defined]
        with _undisturbed():
            process.start()
            self._process, self._pipe, self._name = process, ours, uuid.uuid4().hex[:8]
        theirs.close()
        return ours

    def _last_words(self) -> str:
        process = self._process
        self._process = self._pipe = None
        if process is None:
            return "the measuring process is gone"
        process.join(10)
        code = process.exitcode
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            hint = "; often the kernel's out-of-memory killer" if name == "SIGKILL" else ""
            return f"the measuring process was ended by {name}{hint}"
        return f"the measuring process ended with exit code {code}"


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Hold Ctrl-C back: in the middle of a start it would leave a child that nobody knows, and its traceback.

    The child inherits a blocked signal, so that a Ctrl-C in its terminal is the parent's alone.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, lambda number, _: _pressed.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if hasattr(signal, "pthread_sigmask") else None
    try:
        yield
    finally:
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
        if _pressed:
            raise KeyboardInterrupt


_pressed: list[int] = []
"""Ctrl-C, kept: Python drops the exception when the signal comes while it destroys an object."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C ends what is done here, at the latest before the next task begins."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def press(number: int, _: object) -> None:
        _pressed.append(number)
        raise KeyboardInterrupt

    handler = signal.signal(signal.SIGINT, press)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        _pressed.clear()


def serve(pipe: Connection) -> None:
    """The child's main function: tasks in, signs of life and one outcome each out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    _die_with_parent()
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    # What goes to stderr breaks the line of progress; a crash, which does not come through here, still does.
    warnings.showwarning = lambda message, kind, *_: _send(pipe, one_line(f"{kind.__name__}: {message}"))
    from harness.timing.measurer import Measurer

    work_off(pipe, Measurer())


def work_off(pipe: Connection, measurer: Any) -> None:
    """Do every task that comes through `pipe` until the other end is closed."""

    def sign(what: str, share: float | None = None) -> None:
        _send(pipe, (what, share))

    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        _send(pipe, attempt(measurer, task, sign))


def _send(pipe: Connection, message: tuple[str, float | None] | str | dict[str, Any]) -> None:
    """A sign of life, a warning or an outcome; signs and warnings may come from several threads."""
    with _sending:
        pipe.send(message)


_sending = threading.RLock()


def attempt(measurer: Any, task: dict[str, Any], progress: Callable[..., None]) -> dict[str, Any]:
    """Do one task; whatever goes wrong becomes a status and one line."""
    from harness.timing.bench import Cached, UntrustedTimer

    results: list[Any] = []
    status: Status = "ok"
    reason = ""
    try:
        if "measure" in task:
            units = [[Component.model_validate_json(component) for component in unit] for unit in task["measure"]]
            results = measurer.measure(units, task["seed"], progress)
        else:
            point, suite = task["evaluate"]
            journal = Path(task["journal"]) if task["journal"] else None
            asked = Point.model_validate_json(point), Suite.model_validate_json(suite)
            score = measurer.evaluate(*asked, progress, journal)
            results = [{"score": score}]
    except UntrustedTimer as error:
        status, reason, results = "untrusted_timer", str(error), [{"timer": error.timer}]
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


def _die_with_parent() -> None:
    """End this process when its parent is gone, even if the parent was killed."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
