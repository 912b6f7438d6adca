"""The tables of a report: where each value comes from, in which unit, and which columns stand first."""

import math

import pandas as pd
import pytest

from conftest import LLM, make_evaluation, make_measurement, make_point, make_result
from harness.analysis.composition import Result
from harness.analysis.published import with_published
from harness.analysis.table import column_of, has_frontier, suites_of, table_of, told_apart
from harness.report.tables import duration, readable, readable_scores, score, timed, told, write_tables
from harness.report.text import markdown


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


def of_one_image(result):
    evaluations = {}
    for suite, evaluation in result.evaluations.items():
        answers = tuple(answer.model_copy(update={"image": "only"}) for answer in evaluation.score.answers)
        evaluations[suite] = evaluation.model_copy(
            update={"score": evaluation.score.model_copy(update={"answers": answers})}
        )
    return Result(result.planned, result.measurements, evaluations)


def test_a_suite_about_one_image_is_measured_in_the_table_and_in_the_markdown(tmp_path):
    table = table_of([of_one_image(make_result())])
    assert table["doc_read_source"].tolist() == ["measured"]
    cells = readable(table)
    assert cells["doc_read"].tolist() == ["0.500 (1 image: no error)"]
    assert cells["accuracy"].tolist() == ["0.650 (a suite of 1 image: no error)"]
    write_tables(table, pd.DataFrame(), tmp_path)
    assert "published" not in (tmp_path / "table.md").read_text()


def test_published_scores_replace_the_source_with_the_value(tmp_path):
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / "accuracy.csv").write_text(
        "recipe,system,encoder,llm,resolution,visual_tokens,metric,score,source\n"
        "r,,micro FastViTHD,micro Qwen2,128,4,Avg5,55.5,table 1\n"
    )
    table = with_published(table_of([make_result()]), tmp_path, "r")
    assert table["accuracy_source"].tolist() == ["published, r: table 1"]
    assert table["doc_read_source"].tolist() == ["measured"]
    assert score(table.iloc[0], "accuracy") == "0.555 (published)"


def extended():
    """An LLM of 28 layers measured with 2, 5 and 8."""
    base = make_result(make_point(llm=LLM.model_copy(update={"config": {**LLM.config, "num_hidden_layers": 28}})))
    keys = {part: key for part, key in base.planned.components.items() if part != "llm"}
    measurements = {part: blocks for part, blocks in base.measurements.items() if part != "llm"}
    for depth in (2, 5, 8):
        keys[f"llm@{depth}"] = f"key {depth}"
        measurements[f"llm@{depth}"] = {block: make_measurement("llm", block, 1 + 2 * depth) for block in range(6)}
    return Result(base.planned.model_copy(update={"components": keys}), measurements, {})


def test_each_time_says_whether_it_was_measured_composed_or_extrapolated():
    (whole,) = table_of([make_result(direct=(1.0,) * 6)]).to_dict("records")
    sources = {"encode": "measured", "prefill": "measured", "transfer": "composed", "ttft_model": "composed"}
    assert {name: whole[f"{name}_source"] for name in sources} == sources
    assert whole["ttft_fused_source"] == "measured"
    table = table_of([extended()])
    for name in ("prefill", "prefill_visual", "ttft_paper", "ttft_model", "ttft_user"):
        assert table[f"{name}_source"].tolist() == ["extrapolated"]
    assert table["encode_source"].tolist() == ["measured"]
    assert duration(table.iloc[0], "prefill", 1e3).endswith(") extrapolated")
    assert not duration(table.iloc[0], "encode", 1e3).endswith("extrapolated")


def test_tens_of_seconds_are_seconds_in_the_whole_table():
    slow = table_of([make_result(scales=(1000, 1100, 900)), make_result(make_point(resolution=64), scales=(1, 1, 1))])
    cells = readable(slow)
    assert cells["ttft_user s"][0].startswith("32 (26–41)") or cells["ttft_user s"][0].startswith("32.1 (")
    assert not [column for column in cells.columns if column.endswith(" ms")]
    assert timed(slow.iloc[0], "ttft_user").split(" (")[0].endswith(" s")
    assert timed(slow.iloc[1], "ttft_user").split(" (")[0].endswith(" ms")


def test_accuracy_and_frontier_stand_before_the_times_and_silent_columns_are_left_out():
    cells = told(readable(table_of(pair((0, 0), (20, 20)))))
    columns = list(cells.columns)
    assert columns.index("frontier") < columns.index("accuracy") < columns.index("ttft_model ms")
    assert columns.index("accuracy") < 7
    assert "composed vs direct" not in columns  # nothing was measured directly
    assert "ttft_fused ms" not in columns


def pair(*right):
    points = [make_point(resolution=side) for side in (64, 128, 192)]
    return [make_result(p, (s,) * 6, right=r) for p, s, r in zip(points, (1, 2, 3), right, strict=False)]


def test_a_frontier_is_not_claimed_where_all_intervals_overlap():
    table = table_of(pair((8, 8), (9, 9), (10, 10)))
    assert table["on_frontier"].tolist() == [True, True, True]  # by value
    assert told_apart(table).tolist() == [True, False, False]
    assert not has_frontier(table)
    assert readable(table)["frontier"].tolist() == ["", "", ""]


def test_the_points_that_intervals_tell_apart():
    table = table_of(pair((0, 0), (1, 1), (20, 20)))
    assert told_apart(table).tolist() == [True, False, True]
    assert has_frontier(table)
    assert readable(table)["frontier"].tolist() == ["yes", "yes", "yes"]
    alone = table_of(pair((10, 10)))
    assert has_frontier(alone)  # nothing else is there to be mistaken for


@pytest.mark.parametrize(
    "name", ["machine", "encode", "encode_low", "accuracy", "px", "blocks", "published_x", "a_questions"]
)
def test_a_suite_may_be_called_like_a_column(name):
    result = make_result(right=None)
    evaluation = make_evaluation(name, 10)
    planned = result.planned.model_copy(update={"evaluations": {name: evaluation.key}})
    table = table_of([Result(planned, result.measurements, {name: evaluation})])
    assert suites_of(table) == [column_of(name)]
    assert table[column_of(name)].tolist() == [0.5]
    assert table["machine"].tolist() == [evaluation.machine.key]
    assert readable(table)["px"].tolist() == ["128"]
    assert readable(table)["accuracy"].tolist() == [score(table.iloc[0], "accuracy")]


def test_a_score_that_failed_is_a_row_with_its_reason():
    from harness.analysis.table import scores_of

    result = make_result()
    failed = {"status": "timeout", "reason": "no sign of life", "score": None}
    empty = result.evaluations["doc_read"].model_copy(update=failed)
    cells = readable_scores(
        scores_of([Result(result.planned, result.measurements, {**result.evaluations, "doc_read": empty})])
    )
    assert cells["figure"].tolist() == ["timeout: no sign of life", "score"]
    assert "no sign of life" in markdown(cells)
