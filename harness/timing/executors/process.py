"""Measures in a child process: fresh for each block.

A component may crash, run out of memory or hang without taking the sweep along: the process is replaced, and what it
was doing is a record with a reason. A block is one such process. The parent waits for it in a system call, so that it
takes nothing from what is measured.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from typing import Any, ClassVar

from harness.schema import one_line
from harness.timing import executors
from harness.timing.executors import Outcome, Sign, perform

QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}
"""Settings of libraries in the measuring process, unless the user has others: one line of progress is enough."""


class Executor(executors.Executor):
    """Does one task after the other in a process of its own."""

    context: ClassVar[BaseContext] = multiprocessing.get_context("spawn")
    """How a process starts: with nothing of the parent's, its memory laid out anew."""

    def __init__(
        self, note: Callable[[str], None] = lambda _: None, target: Callable[[Connection], None] | None = None
    ):
        """`target` is the child's main function; tests give one that misbehaves."""
        super().__init__(note)
        self._target = target or serve
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None
        self._name = ""

    def _do(self, task: dict[str, Any], timeout: float, progress: Sign) -> Outcome:
        """`timeout` is the longest time without a sign of life, in seconds."""
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
                    return Outcome(
                        "timeout", f"no sign of life for {timeout:.0f} s; the process was stopped", process=name
                    )
                message = pipe.recv()
                if isinstance(message, tuple):
                    progress(*message)
                    deadline = time.monotonic() + timeout
                    continue
                if isinstance(message, str):
                    self.note(message)
                    continue
                if message["status"] != "ok":
                    self.stop()  # what a failed task left behind must not meet the next one
                return Outcome.read(message, name)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return Outcome("crashed", self._last_words(), process=name)

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
        _send(pipe, perform(measurer, task, sign))


def _send(pipe: Connection, message: tuple[str, float | None] | str | dict[str, Any]) -> None:
    """A sign of life, a warning or an outcome; signs and warnings may come from several threads."""
    with _sending:
        pipe.send(message)


_sending = threading.RLock()


def _die_with_parent() -> None:
    """End this process when its parent is gone, even if the parent was killed."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
