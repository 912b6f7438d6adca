"""Measures in this process: for notebooks and tests. A block is not a fresh process here."""

from __future__ import annotations

from collections.abc import Callable

from harness.timing import executors
from harness.timing.executors import Outcome, Sign, Task, perform
from harness.timing.measurer import Measurer


class Executor(executors.Executor):
    """Does one task after the other, here."""

    def __init__(self, note: Callable[[str], None] = lambda _: None):
        super().__init__(note)
        self._measurer = Measurer()

    def _do(self, task: Task, timeout: float, progress: Sign) -> Outcome:
        return Outcome.read(perform(self._measurer, task, lambda what, share=None: progress(what, share)), "here")
