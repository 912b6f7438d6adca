"""What a person sees of long work, on a clock moved by hand."""

import io

import pytest
from rich.console import Console

from conftest import make_result
from harness.progress import MINUTE, PRIOR, Progress, outcome, readable


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


@pytest.fixture
def terminal(clock, monkeypatch):
    """Progress of 100 expected seconds on a terminal of 100 columns, and what it wrote."""
    monkeypatch.setattr("harness.progress.time.monotonic", clock)
    screen = io.StringIO()
    return Progress(100, Console(file=screen, force_terminal=True, width=100, height=20, highlight=False)), screen


def test_one_bar_moves_with_every_sign_of_life(terminal, clock):
    progress, screen = terminal
    seen = []
    with progress:
        for share in (0.1, 0.34, 0.2, 0.9):  # what is done again moves nothing back
            clock.advance(10)
            progress.advance(share)
            progress.doing("block 1/3", f"timing [{share:.0%}]")
            seen.append(screen.getvalue().splitlines()[-1])
            screen.truncate(0)
            screen.seek(0)
    shares = [int(line.partition("%")[0].split()[-1].split("m")[-1]) for line in seen]
    assert shares == [10, 34, 34, 90]
    assert all("block 1/3: timing [" in line for line in seen)  # what stands in brackets is no markup
    assert all("left)" in line for line in seen)
    lengths = [line.count("\u2501") + line.count("\u2578") + line.count("\u257a") for line in seen]
    assert lengths == [24] * 4


def test_the_bar_is_drawn_by_signs_of_life_alone(terminal):
    """A thread that redraws would take a processor from what is measured."""
    import threading

    progress, _ = terminal
    before = threading.active_count()
    with progress:
        assert threading.active_count() == before


def test_a_line_stays_above_the_bar(terminal):
    progress, screen = terminal
    with progress:
        progress.doing("block 1/3", "timing")
        progress.line("block 1/3: [done]")
    assert "block 1/3: [done]" in screen.getvalue()


def test_what_is_left_is_as_expected_at_first_and_by_the_pace_soon(clock, monkeypatch):
    monkeypatch.setattr("harness.progress.time.monotonic", clock)
    progress = Progress(34)
    assert progress.left() == "  (about 34 s left)"
    clock.advance(72)  # a machine that takes 21 times as long: 720 s and not 34
    progress.advance(0.1)
    whole = (72 + PRIOR * 34) / (0.1 + PRIOR)
    assert progress.left() == f"  (about {0.9 * whole / 60:.0f} min left)"
    assert 0.9 * whole > 0.6 * (720 - 72)
    clock.advance(288)
    progress.advance(0.5)
    assert progress.left() == "  (about 5 min left)"  # 360 s by the pace alone, and a little of the estimate
    progress.advance(1.0)
    assert progress.left() == ""


def test_while_nothing_moves_the_time_left_does_not_shrink(clock, monkeypatch):
    monkeypatch.setattr("harness.progress.time.monotonic", clock)
    progress = Progress(180)
    progress.advance(0.2)
    assert progress.left() == "  (about 29 s left)"  # the first fifth took no time
    clock.advance(600)
    assert progress.left() == "  (about 32 min left)"


def test_a_point_is_told_with_the_digits_that_it_deserves():
    scales = (1.0, 1.02, 0.98, 1.01, 0.99, 1.03)
    said = outcome(make_result(scales=scales, right=(10, 16)))
    assert "TTFT 15.6 (15.2–16.0) ms" in " ".join(said.split())
    assert "disturbed" not in said
    assert "accuracy 0.650 (doc_read 0.500  shapes 0.800)" in said


def test_a_disturbed_point_has_two_digits_and_says_so():
    result = make_result(scales=(80.0,), right=None, no_accuracy="no accuracy: random")
    for blocks in result.measurements.values():
        blocks[0] = blocks[0].model_copy(update={"disturbed": True})
    said = " ".join(outcome(result).split())
    assert said == "TTFT ~1200 ms disturbed no accuracy: random"


def test_a_suite_that_failed_costs_neither_the_time_nor_the_other_scores():
    result = make_result()
    broken = result.evaluations["shapes"].model_copy(
        update={"status": "error", "reason": "/data: no column x", "score": None}
    )
    evaluations = {**result.evaluations, "shapes": broken, "docvqa": broken}
    said = outcome(type(result)(result.planned, result.measurements, evaluations))
    assert said.startswith("TTFT ")
    assert said.endswith("  doc_read 0.500  shapes failed: /data: no column x  docvqa failed: /data: no column x")
    assert "accuracy" not in said  # no mean of fewer suites than were asked
    assert "accuracy 0.650 (doc_read 0.500  shapes 0.800)" in outcome(result)
