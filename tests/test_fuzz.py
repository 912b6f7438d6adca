"""Hostile content at every door, a little of it in the suite; `benchmarks/fuzz.py` gives them thousands."""

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks import fuzz, hostile
from harness.schema import HarnessError

DOORS = ("store", "manifest", "checkpoint")
ELSEWHERE = {"hub": "test_mutations", "data": "test_local", "command line": "test_command_line"}
"""Doors that are tried in other files of the suite."""


@pytest.fixture(scope="module")
def doors():
    return fuzz.targets()


@pytest.mark.parametrize("door", DOORS)
def test_hostile_content_is_accepted_or_refused_in_one_line(door, doors, tmp_path_factory):
    @settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.integers(0, 2**32))  # hypothesis' own generators want subnormal numbers, which the runtime flushes
    def check(seed):
        folder = tmp_path_factory.mktemp(door.replace(" ", "-"))
        take = doors[door][1](random.Random(seed), folder)
        result, said = fuzz.outcome(take)
        assert result in ("accepted", "refused"), said
        assert not (folder.parent / "code-ran").exists()

    check()


def test_every_door_of_the_benchmark_is_tried_here(doors):
    assert {*DOORS, *ELSEWHERE, "report"} == set(doors)  # of whole reports with pictures test_report has a few
    for name in ELSEWHERE.values():
        assert (Path(__file__).parent / f"{name}.py").is_file()


@pytest.mark.parametrize("fault", ["traceback", "hang", "unreadable", "code"])
def test_the_fuzz_finds_what_it_looks_for(fault, monkeypatch, capsys):
    """A check that cannot fail would be none."""
    monkeypatch.setattr(fuzz, "SECONDS", 1)

    class Loud(HarnessError):
        def __str__(self) -> str:
            return "two\nlines"

    def planted(rng: random.Random, folder: Path):
        def take() -> None:
            if fault == "hang":
                while True:
                    pass
            if fault == "code":
                (folder.parent / "code-ran").touch()
            if fault == "unreadable":
                raise Loud("x")
            if fault == "traceback":
                raise KeyError("samples")

        return take

    monkeypatch.setattr(fuzz, "targets", lambda: {"planted": (1.0, planted)})
    assert fuzz.main(["--inputs", "1"]) == 1
    said = capsys.readouterr().out
    assert ("foreign code ran" if fault == "code" else fault) in said
    assert "planted 0/0" in said


def test_a_mutation_changes_something_and_leaves_the_original_alone():
    content = {"a": [1, {"b": "c"}], "d": None}
    before = repr(content)
    rng = random.Random(0)
    changed = [hostile.mutate(rng, content) != content for _ in range(300)]
    assert repr(content) == before
    assert sum(changed) > 250
