"""Cells: a value with its unit, its interval and whose it is, and a dash where there is none."""

import math

import pandas as pd
import pytest

from harness.report.cells import above, against, blocks, deviation, duration, percent, percentile, score, timed, told


def row(**values):
    return pd.Series({"a": 0.512, **values})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"a_source": "measured", "a_stderr": 0.0211}, "0.512 ± 0.021"),
        ({"a_source": "measured", "a_stderr": math.nan, "a_images": 1}, "0.512 (1 image: no error)"),
        ({"a_source": "measured", "a_stderr": math.nan}, "0.512 (a suite of 1 image: no error)"),
        ({"a_source": "published, LLaVA-1.5: table 6", "a_stderr": 0.1}, "0.512 (published)"),
        ({"a_stderr": math.nan}, "0.512 (of unknown source)"),
    ],
)
def test_a_score_says_whose_it_is_and_nothing_is_inferred_from_a_missing_error(values, said):
    assert score(row(**values), "a") == said


@pytest.mark.parametrize("cell", [duration, percent, deviation, timed, score, percentile, against])
def test_what_is_missing_is_a_dash(cell):
    for values in ({}, {"a": None}, {"a": math.nan}):
        series = pd.Series(values, dtype=object)
        assert (cell(series, "a", 1.0) if cell is duration else cell(series, "a")) == "–"


@pytest.mark.parametrize(
    ("disturbed", "count", "said"),
    [(False, 0, "6"), (True, 6, "6 (rests on 6 disturbed)"), (False, 2, "6 (2 disturbed left out)")],
)
def test_blocks_say_how_many_were_disturbed(disturbed, count, said):
    assert blocks(pd.Series({"blocks": 6.0, "disturbed": disturbed, "disturbed_blocks": count})) == said


def test_a_score_like_the_blind_runs_is_marked():
    values = {"above_blind": 0.1, "above_blind_low": -0.02, "above_blind_high": 0.22, "blind_like": True}
    assert above(pd.Series(values)) == "+0.100 (-0.020 to +0.220) (as blind)"
    assert above(pd.Series({**values, "above_blind_low": -math.inf, "blind_like": False})) == "+0.100 (1 image)"
    assert above(pd.Series({"above_blind": math.nan})) == "–"


def test_columns_that_say_nothing_are_left_out():
    table = pd.DataFrame({"a": ["–", ""], "b": ["–", "1"]})
    assert list(told(table).columns) == ["b"]
