"""The front door in Python: what it offers, how short it is, and which names it refuses."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import harness
from conftest import make_evaluation, make_measurement, make_point, make_result
from harness import api
from harness.analysis.table import table_of
from harness.schema import HarnessError, Manifest


@pytest.fixture
def table():
    return table_of([make_result(make_point(resolution=side), right=(side // 16, 10)) for side in (64, 128)])


def test_functions_stay_functions_whatever_is_imported():
    modules = {path.stem for path in Path(harness.__file__).parent.iterdir()}
    assert not modules & {*harness.__all__}  # importing a submodule would put it in the function's place
    for name in harness.__all__:
        assert callable(getattr(harness, name))
        assert name in dir(harness)
    assert sorted(api.__all__) == sorted(harness.__all__)


def test_help_shows_the_functions():
    code = "import harness; help(harness)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for name in harness.__all__:
        assert f"    {name}(" in said


def test_reprs_are_short():
    result = make_result(direct=(1.0,) * 6)
    assert (
        repr(result)
        == "Result(micro_fastvithd 128px micro_qwen2: 6 blocks, ttft_model 15.53 ms, asked doc_read, shapes)"
    )
    assert len(repr(api.Points([result] * 24))) <= 300
    assert repr(api.Points([result])).startswith("1 points: micro_fastvithd 128px micro_qwen2")
    for noun in (make_measurement(), make_evaluation(), make_point(), result.planned):
        assert len(repr(noun)) <= 200


def test_frontier_is_that_of_the_columns_that_are_asked_for(table):
    front = harness.frontier(table, "doc_read", "encode")
    assert front["on_frontier"].all()
    assert len(front) == 1
    assert front["doc_read"].item() == table["doc_read"].max()


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({"accuracy": "docread"}, "unknown accuracy 'docread'; did you mean doc_read"),
        ({"ttft": "ttft_modle"}, "unknown ttft 'ttft_modle'; did you mean ttft_model"),
        ({"ttft": "encoder"}, "unknown ttft 'encoder'; did you mean encode"),
    ],
)
def test_frontier_refuses_names_that_are_not_there(table, chosen, said):
    with pytest.raises(HarnessError, match=said):
        harness.frontier(table, **chosen)


def test_frontier_says_why_there_is_no_accuracy():
    table = table_of([make_result(right=None, no_accuracy="no accuracy: random weights")])
    with pytest.raises(
        HarnessError, match="no row of this table has a number for accuracy: no accuracy: random weights"
    ):
        harness.frontier(table)
    assert harness.frontier(pd.DataFrame()).empty


def test_summary_has_the_numbers_that_a_reader_compares(table):
    short = harness.summary(table)
    assert len(short.columns) < 30 < len(table.columns)
    assert {"encoder", "llm", "resolution", "encode", "ttft_model", "doc_read", "accuracy"} <= set(short.columns)


def test_a_report_folder_is_opened(tmp_path):
    result = make_result()
    folder = tmp_path / "reports" / "mine"
    folder.mkdir(parents=True)
    measurements = [measurement for blocks in result.measurements.values() for measurement in blocks.values()]
    (folder / "measurements.jsonl").write_text(
        "".join(measurement.model_dump_json() + "\n" for measurement in measurements)
    )
    (folder / "evaluations.jsonl").write_text(
        "".join(evaluation.model_dump_json() + "\n" for evaluation in result.evaluations.values())
    )
    with pytest.raises(HarnessError, match=r"a report without manifest.json"):
        harness.load(folder)
    manifest = Manifest(name="mine", title="Mine", points=(result.planned,), command="", started="2026-01-02")
    (folder / "manifest.json").write_text(json.dumps(manifest.model_dump(mode="json")))
    assert harness.load(folder)["ttft_model"].item() > 0
    assert harness.reports(tmp_path / "reports") == [folder]


def test_an_unknown_sweep_is_answered_with_near_names(tmp_path):
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "resolution.json").write_text("{}")
    assert harness.sweeps(tmp_path) == ["resolution"]
    with pytest.raises(HarnessError, match="unknown sweep 'resolutoin'; did you mean resolution"):
        harness.load("resolutoin", tmp_path)


@pytest.mark.parametrize("stage", ["ttft_model", "prefill", "encod"])
def test_a_stage_that_a_component_has_not_is_not_compared(stage):
    side = {0: make_measurement()}
    with pytest.raises(HarnessError, match=f"unknown stage '{stage}'.*preprocess, transfer, encode"):
        harness.compare(side, side, stage)


def test_the_prompt_lists_its_commands(capsys):
    from harness.__main__ import COMMANDS, main

    assert main([]) == 0
    said = capsys.readouterr().out
    for name in COMMANDS:
        assert f"  {name} " in said
    assert main(["sweeep"]) == 2
    assert "unknown command 'sweeep'; did you mean sweep" in capsys.readouterr().err


def test_a_pipe_that_is_closed_is_no_traceback():
    piped = f"{sys.executable} -m harness sweep --help | head -1"
    done = subprocess.run(["sh", "-c", piped], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("python -m harness.sweep")
    assert done.stderr == ""


def test_a_shipped_report_opens_by_its_name_or_its_folder():
    shown = Path(__file__).parent.parent / "docs" / "showcase"
    table = harness.load("resolution", shown)
    assert len(table) == 24
    assert harness.load(shown / "resolution")["ttft_model"].equals(table["ttft_model"])
    assert {"resolution", "claims"} <= set(harness.sweeps(shown))
