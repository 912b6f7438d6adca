"""What every command does at its door: exit codes, one line for an error; hostile command lines through the sweep's."""

import itertools
import random
from pathlib import Path

import pytest

from benchmarks import mutations_cli
from harness.configuration.command_line import answer
from harness.schema import HarnessError


def raised(error):
    def run():
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (HarnessError("no\nsuch thing"), 2, "error: no such thing"),
        (OSError(28, "No space left on device"), 2, "error: [Errno 28] No space left on device"),
        (RecursionError(), 2, "error: something is nested too deeply"),
        (MemoryError(), 2, "error: there is not enough memory"),
        (KeyboardInterrupt(), 130, "interrupted: it is kept"),
        (TypeError("a\x1b[31m" + "b" * 999), 70, "error: unexpected TypeError: a\\x1b[31mbbb"),
    ],
)
def test_what_is_raised_becomes_one_line_and_an_exit_code(error, code, said, capsys):
    assert answer(raised(error), [], str, "it is kept") == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(said)
    assert err[:-1].isprintable()
    assert len(err) <= 301
    if code == 70:
        path = Path(err.rpartition("traceback in ")[2].rstrip(")\n"))
        assert "TypeError" in path.read_text()
        path.unlink()


def test_help_is_printed_in_place_of_a_run(capsys):
    assert answer(raised(TypeError()), ["x", "-h"], lambda: "how\n") == 0
    assert capsys.readouterr().out == "how\n"


def test_hostile_command_lines_end_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "harness.timing.plan.work_of", lambda _: {}
    )  # counting what a full-size sweep computes takes a minute
    lines = itertools.islice(mutations_cli.command_lines(random.Random(11)), 60)
    wrong = {str(line)[:200]: said for line in lines if (said := mutations_cli.fault(line, tmp_path))}
    assert not wrong
