"""The child process in which points are measured, and the parent's handle on it.

A point may crash, run out of memory or hang without taking the sweep along. The worker lives across points, so that
starting torch and drawing the suites are paid once, and is replaced when it dies. The parent waits for it in a system
call, so that it takes nothing from what is measured.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from harness.schema import HarnessError, Latency, Point, Score, Status


@dataclass(frozen=True)
class Outcome:
    """What became of one point."""

    status: Status
    reason: str = ""
    latency: Latency | None = None
    scores: tuple[Score, ...] = ()


class Worker:
    """Measures points one after the other in a process of its own."""

    def __init__(self, target: Callable[[Connection], None] | None = None):
        """`target` is the child's main function; tests give one that misbehaves."""
        self._target = target or serve
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None

    def measure(self, point: Point, timeout: float, progress: Callable[[str], None] = lambda _: None) -> Outcome:
        """Measure one point; `timeout` is the longest time without a sign of life, in seconds."""
        pipe = self._start()
        try:
            pipe.send(point.model_dump_json())
            deadline = time.monotonic() + timeout
            while True:
                if not pipe.poll(max(0.0, deadline - time.monotonic())):
                    self.stop()
                    return Outcome("timeout", f"no sign of life for {timeout:.0f} s; the process was stopped")
                message = pipe.recv()
                if isinstance(message, str):
                    progress(message)
                    deadline = time.monotonic() + timeout
                    continue
                outcome = _outcome(message)
                if outcome.status != "ok":
                    self.stop()  # what a failed point left behind must not meet the next one
                return outcome
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return Outcome("crashed", self._last_words())

    def stop(self) -> None:
        """End the process, at once."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
        self._process = self._pipe = None

    def _start(self) -> Connection:
        if self._process is not None and self._process.is_alive() and self._pipe is not None:
            return self._pipe
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=self._target, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        return self._pipe

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


def _outcome(message: dict[str, Any]) -> Outcome:
    latency = Latency.model_validate_json(message["latency"]) if message["latency"] else None
    scores = tuple(Score.model_validate_json(score) for score in message["scores"])
    return Outcome(message["status"], message["reason"], latency, scores)


def serve(pipe: Connection) -> None:
    """The child's main function: points in, signs of life and one outcome each out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    _die_with_parent()
    from harness.measurement import Measurer

    measurer = Measurer()
    while True:
        try:
            point = Point.model_validate_json(pipe.recv())
        except EOFError:
            return
        pipe.send(_attempt(measurer.measure, point, pipe.send))


def _attempt(
    measure: Callable[[Point, Callable[[str], None]], tuple[Latency, tuple[Score, ...]]],
    point: Point,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    from harness.bench import InvalidOutput

    status: Status
    try:
        latency, scores = measure(point, progress)
        return {
            "status": "ok",
            "reason": "",
            "latency": latency.model_dump_json(),
            "scores": [score.model_dump_json() for score in scores],
        }
    except InvalidOutput as error:
        status, reason = "invalid_output", str(error)
    except MemoryError as error:
        status, reason = "out_of_memory", str(error) or "out of memory"
    except HarnessError as error:
        status, reason = "error", str(error)
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        status = "out_of_memory" if "out of memory" in text.lower() or "can't allocate" in text.lower() else "error"
        reason = f"{type(error).__name__}: {text}"
    return {"status": status, "reason": reason, "latency": "", "scores": []}


def _die_with_parent() -> None:
    """End this process when its parent is gone, even if the parent was killed."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
