"""The list of columns is that of the real tables."""

import re
from pathlib import Path

import pandas as pd
import pytest

from conftest import make_measurement, make_result
from harness.analysis.columns import GROUPS, find, markdown
from harness.analysis.table import suites_of, table_of
from harness.schema import Telemetry

ROOT = Path(__file__).parent.parent
TABLES = sorted((ROOT / "docs" / "showcase").glob("*/table.csv"))


def told(**changes):
    return Telemetry(seconds=1.0, **changes)


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.parent.name)
def test_every_column_of_a_real_table_is_listed(path):
    table = pd.read_csv(path, nrows=3)
    assert len(table.columns) > 100
    assert not [name for name in table.columns if find(name, suites_of(table)) is None]


def test_every_column_that_a_result_can_have_is_listed_and_columns_are_listed_once():
    table = table_of([make_result(right=(3, 10))])
    assert not [name for name in table.columns if find(name, suites_of(table)) is None]
    names = [column.name for columns in GROUPS.values() for column in columns]
    assert len(names) == len(set(names))


def test_a_column_that_nobody_lists_is_not_found():
    assert find("encode_nonsense", ["doc_read"]) is None
    assert find("docvqa_low", ["doc_read"]) is None
    assert find("docvqa_low", ["docvqa"]).unit == "share"
    assert find("ttft_user_high").unit == "s"


def test_the_page_of_columns_is_made_from_the_list():
    assert (ROOT / "docs" / "columns.md").read_text() == markdown(), (
        "python -m harness.analysis.columns > docs/columns.md"
    )
    assert not re.search(r"\(\?", markdown())  # no pattern is shown to a person


def test_what_the_machine_did_meanwhile_is_in_the_table():
    tells = (
        told(load=1.0, foreign=0.1, stolen=0.0, frequency_hz=(None, 2e9), thermal=("50 C", "61 C"), gpu_joules=3.0),
        told(load=2.0, foreign=0.3, frequency_hz=(None, 3e9), thermal=("61 C", "58 C"), gpu_joules=4.5),
    )
    measurements = {"encoder": {block: make_measurement(block=block, telemetry=one) for block, one in enumerate(tells)}}
    result = make_result()
    result.measurements["encoder"] = measurements["encoder"]
    # The connector took turns with the encoder: the same energy, said once more.
    result.measurements["connector"] = {
        block: make_measurement("connector", block, telemetry=one.model_copy(update={"stolen": 0.0}))
        for block, one in enumerate(tells)
    }
    silent = {b: v.model_copy(update={"telemetry": None}) for b, v in result.measurements["llm"].items()}
    result.measurements["llm"] = silent
    (row,) = table_of([result]).to_dict("records")
    assert row["load"] == 1.5
    assert row["foreign"] == pytest.approx(0.2)
    assert row["stolen"] == 0.0
    assert row["frequency_hz"] == 2.5e9
    assert row["celsius"] == 61
    assert row["gpu_joules"] == 7.5
    assert not {"gpu_watts", "gpu_clock_hz"} & set(row)  # this machine did not say


def test_the_first_pass_of_a_process_stands_beside_the_warm_ones():
    result = make_result()
    (row,) = table_of([result]).to_dict("records")
    firsts = [measurement.samples.seconds["encode"][0] for measurement in result.measurements["encoder"].values()]
    assert row["encode_cold"] == pytest.approx(sorted(firsts)[len(firsts) // 2])
    again = {b: v.model_copy(update={"attempt": 1}) for b, v in result.measurements["encoder"].items()}
    result.measurements["encoder"] = again  # repeated because they were disturbed: their process was warm
    assert result.cold("encoder", "encode") is None
    assert row["encode_overhead"] == result.measurements["encoder"][0].samples.overhead
