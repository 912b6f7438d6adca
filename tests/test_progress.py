"""What a person sees of long work, on a clock moved by hand."""

import io

import pytest
from rich.console import Console

from conftest import make_result
from harness.progress import MINUTE, Progress, outcome, readable


@pytest.mark.parametrize(("seconds", "said"), [(12.4, "12 s"), (99, "99 s"), (600, "10 min"), (7300, "2 h")])
def test_a_duration_is_told_in_the_unit_that_fits(seconds, said):
    assert readable(seconds) == said


def test_a_log_gets_a_sign_of_life_a_minute(clock, monkeypatch):
    monkeypatch.setattr("harness.progress.time.monotonic", clock)
    log = io.StringIO()
    progress = Progress(600, Console(file=log, soft_wrap=True))
    for _ in range(130):
        clock.advance(1)
        progress.doing("block 1/3", "timing")
    assert [line.partition("  (")[0] for line in log.getvalue().splitlines()] == ["  block 1/3: timing"] * 2
    clock.advance(MINUTE - 11)
    progress.line("block 1/3: done")  # 59 s after the last one; the next is due in a minute
    clock.advance(2)
    progress.doing("block 2/3", "timing")
    assert log.getvalue().splitlines()[-1] == "block 1/3: done"


def test_a_suite_that_failed_costs_neither_the_time_nor_the_other_scores():
    result = make_result()
    broken = result.exams["shapes"].model_copy(
        update={"status": "error", "reason": "/data: no column x", "score": None}
    )
    exams = {**result.exams, "shapes": broken, "docvqa": broken}
    said = outcome(type(result)(result.planned, result.visits, exams))
    assert said.startswith("TTFT ")
    assert said.endswith("  doc_read 0.500  shapes failed: /data: no column x  docvqa failed: /data: no column x")
    assert "accuracy" not in said  # no mean of fewer suites than were asked
    assert "accuracy 0.650 (doc_read 0.500  shapes 0.800)" in outcome(result)
