"""Composed times against sums made by hand."""

import math

import pytest

from conftest import (
    ENCODER,
    GATED,
    LLM,
    MILLISECONDS,
    failed_measurement,
    make_evaluation,
    make_measurement,
    make_point,
    make_result,
)
from harness.analysis.composition import Result, compose, counted
from harness.analysis.table import table_of
from harness.report.figures import provenance
from harness.report.page import checks
from harness.report.tables import readable
from harness.schema import Ceilings, Manifest, Memory, Work

MEDIAN = 1.035e-3  # passes 1 to 6 count: the median of 1.01 to 1.06 ms


def test_a_point_is_the_sum_of_its_components_block_by_block():
    times = make_result(scales=(1, 2, 3, 4, 5, 6)).times()
    for name, stages in (("ttft_paper", (4, 8)), ("ttft_model", (4, 5, 6)), ("encode", (4,))):
        assert times[name].value == pytest.approx(sum(stages) * 3.5 * MEDIAN)
        assert (times[name].low, times[name].high) == pytest.approx((sum(stages) * MEDIAN, sum(stages) * 6 * MEDIAN))
    # The encoder and the LLM both move something to the device.
    assert times["transfer"].value == pytest.approx(2 * 3 * 3.5 * MEDIAN)
    assert times["ttft_user"].value == pytest.approx((1 + 2 + 3 + 3 + 4 + 5 + 6 + 7) * 3.5 * MEDIAN)
    assert "ttft_fused" not in times


def test_a_direct_measurement_gives_the_residual_and_what_waiting_costs():
    result = make_result(scales=(1.1,) * 6, direct=(1.0,) * 6)
    residual = result.residual("ttft_model")
    assert (residual.value, residual.low, residual.high) == pytest.approx((0.1, 0.1, 0.1))
    assert result.times()["ttft_fused"].value == pytest.approx(27 * MEDIAN)
    assert result.overlap().value == pytest.approx((28 - 27) * MEDIAN)
    assert make_result().residual("ttft_model") is None
    assert make_result().overlap() is None


def test_one_block_has_no_interval_and_few_have_a_wide_one():
    one, three = (make_result(scales=scales).times()["encode"] for scales in ((1.0,), (1.0, 1.1, 1.2)))
    assert (one.low, one.high) == (-math.inf, math.inf)
    assert three.low < 4 * MEDIAN
    assert three.high > 4 * 1.2 * MEDIAN


def test_marked_passes_are_left_out_of_the_median():
    marks = ("", "", "", "", "waited 9%", "waited 9%", "waited 9%")
    measurement = make_measurement(marks=marks)
    assert counted(measurement.samples, "encode") == pytest.approx([4.04e-3, 4.08e-3, 4.12e-3])
    assert len(counted(make_measurement(marks=("x",) * 7).samples, "encode")) == 6


def with_disturbed(count):
    result = make_result(scales=(1, 1, 1, 1, 1, 9))
    blocks = {b: v.model_copy(update={"disturbed": b >= 6 - count}) for b, v in result.measurements["encoder"].items()}
    return Result(result.planned, {**result.measurements, "encoder": blocks}, result.evaluations)


def test_disturbed_blocks_are_left_out_while_half_are_clean():
    one = with_disturbed(1)
    assert (one.blocks, one.disturbed_blocks, one.disturbed) == (5, 1, False)
    assert one.times()["ttft_model"].high == pytest.approx(15 * MEDIAN)
    most = with_disturbed(4)
    assert (most.blocks, most.disturbed_blocks, most.disturbed) == (6, 4, True)


def test_efficiency_is_the_floor_over_the_measured_time():
    found = make_result().efficiency("encoder", "encode")
    # 10^8 operations at 10^11 a second: 1 ms; 10^6 bytes at 10^10 a second: 0.1 ms; eager traffic: 3 ms.
    assert (found.floor, found.eager_floor, found.bound) == (pytest.approx(1e-3), pytest.approx(3e-3), "compute")
    assert found.share.value == pytest.approx(1 / 4.14)
    slow = make_measurement(ceilings=Ceilings(flops_per_second=1e12, bytes_per_second=1e9))
    result = make_result()
    assert (
        Result(result.planned, {**result.measurements, "encoder": {0: slow}}, {}).efficiency("encoder", "encode").bound
        == "memory"
    )


def test_memory_is_composed_of_what_each_component_added_or_measured_directly():
    result = make_result()
    # Each of three components grew from 500 to 600 when built and by 50 at work.
    assert result.memory() == (500 + 3 * 100 + 50, "composed of each component's process (RSS, VmHWM)")
    assert make_result(direct=(1.0,) * 6).memory() == (650, "process (RSS, VmHWM); largest of 6 blocks")
    blind = Memory(before=None, loaded=None, peak=None, source="unknown")
    blocks = {b: v.model_copy(update={"memory": blind}) for b, v in result.measurements["llm"].items()}
    assert Result(result.planned, {**result.measurements, "llm": blocks}, {}).memory() == (None, "unknown")


def test_percentiles_need_enough_independent_samples():
    result = make_result()
    assert result.percentile("encoder", "encode", 0.5) is not None
    assert result.percentile("encoder", "encode", 0.99) is None


@pytest.mark.parametrize("kind", ["encoder", "connector", "llm", "vlm"])
def test_a_component_that_failed_in_any_block_leaves_no_number(kind):
    result = make_result(direct=(1.0,) * 6)
    bad = failed_measurement(kind, 3, status="out_of_memory", reason="28.4 GiB")
    failed = Result(
        result.planned, {**result.measurements, kind: {**result.measurements[kind], 3: bad}}, result.evaluations
    )
    assert (failed.status, failed.reason) == ("out_of_memory", f"{kind}, block 3: 28.4 GiB")
    assert failed.times() == {}
    assert failed.residual("ttft_model") is None


def test_compose_takes_only_what_the_sweep_asked_for():
    result = make_result(scales=(1.0,) * 6)
    manifest = Manifest(name="a", title="a", points=(result.planned,), command="", started="")
    measurements = {v.key: dict(blocks) for blocks in result.measurements.values() for v in blocks.values()}
    measurements[next(iter(measurements))][6] = make_measurement(block=6, scale=100)  # of a protocol with more blocks
    evaluations = {evaluation.key: evaluation for evaluation in result.evaluations.values()}
    (found,) = compose(manifest, measurements, evaluations)
    assert found.times() == result.times()
    assert compose(manifest, measurements, {}) == []  # nothing was asked yet
    assert compose(manifest, {}, evaluations) == []
    wrong = make_evaluation("shapes", status="timeout", reason="hung", score=None, point=make_point())
    (failed,) = compose(manifest, {}, {wrong.key: wrong, **{k: v for k, v in evaluations.items() if k != wrong.key}})
    assert failed.status == "timeout"


def test_the_stages_of_the_made_up_measurements_are_those_of_the_schema():
    made = {name for v in make_result(direct=(1.0,)).measurements.values() for name in v[0].samples.seconds}
    assert set(MILLISECONDS) == {*made, "fuse"}


def fused(in_sequence):
    """Two encoders, the second 10x as slow, and layers within the LLM that see the image."""
    fusion = GATED.model_copy(update={"in_sequence": in_sequence})
    base = make_result(point=make_point(also=(ENCODER,), fusion=fusion), direct=(1.0,) * 6)
    second = {b: make_measurement("encoder", b, 10.0) for b in range(6)}
    third = {b: make_measurement("fusion", b) for b in range(6)}
    measurements = {**base.measurements, "encoder@1": second, "fusion": third}
    keys = {**base.planned.components, "encoder@1": "e", "fusion": "f"}
    return Result(base.planned.model_copy(update={"components": keys}), measurements, {})


def test_several_encoders_and_a_fusion_add_up():
    result = fused(in_sequence=True)
    times = result.times()
    assert times["encode"].value == pytest.approx((4 + 40) * MEDIAN)
    assert times["fuse"].value == pytest.approx(9 * MEDIAN)
    assert times["ttft_paper"].value == pytest.approx((44 + 8) * MEDIAN)
    assert times["ttft_model"].value == pytest.approx((44 + 5 + 9 + 6) * MEDIAN)
    # Both encoders need 1 ms at the ceiling; together they took 44.
    assert result.efficiency("encoder", "encode").share.value == pytest.approx(2 / (44 * 1.035))
    assert result.work("encoder", "encode").flops == 2 * 10**8
    # 100 bytes of weights each, 50 more while the largest works.
    parts = Result(result.planned, {k: v for k, v in result.measurements.items() if k != "vlm"}, {})
    assert parts.memory()[0] == 500 + 5 * 100 + 50
    assert result.residual("ttft_model") is not None
    assert result.residual("ttft_paper") is None  # the whole VLM's prefill over visual tokens holds the fusion
    row = table_of([result]).iloc[0]
    assert row["encode"] == pytest.approx(44 * MEDIAN)
    assert "encode_p90" not in row.index  # that of one encoder would be below the sum
    assert row["encode_flops"] == 2 * 10**8
    assert "batch 1; protocol" in provenance(table_of([result]))


def test_a_sequence_without_visual_tokens_has_no_ttft_of_the_paper():
    result = fused(in_sequence=False)
    assert "ttft_paper" not in result.times()
    assert "prefill_visual" not in result.times()
    assert result.times()["ttft_model"].value == pytest.approx((44 + 5 + 9 + 6) * MEDIAN)
    assert readable(table_of([result]))["ttft_paper ms"].tolist() == ["–"]


DEEP = LLM.model_copy(update={"config": {**LLM.config, "num_hidden_layers": 28}})


def extended(bend=0.0):
    """An LLM of 28 layers, measured with 2, 5 and 8: its prefill takes 1 ms and 2 ms a layer, more at 5 if it bends."""
    base = make_result(point=make_point(llm=DEEP))
    measurements, keys = {}, {}
    for part, blocks in base.measurements.items():
        if part != "llm":
            measurements[part], keys[part] = blocks, base.planned.components[part]
            continue
        for depth in (2, 5, 8):
            scale = (1 + 2 * depth + (bend if depth == 5 else 0)) / MILLISECONDS["prefill"]
            work = {"prefill": Work(flops=10**9 * (1 + depth), bytes=10**6, eager_bytes=10**7, parameters=100)}
            name = f"llm@{depth}"
            measurements[name] = {block: make_measurement("llm", block, scale, work=work) for block in blocks}
            keys[name] = f"key {depth}"
    return Result(base.planned.model_copy(update={"components": keys}), measurements, {})


def test_a_prefill_is_extended_from_two_depths_and_the_one_between_checks_the_line():
    result = extended()
    assert result.depths == (2, 5, 8)
    times = result.times()
    assert times["prefill"].value == pytest.approx(57 * MEDIAN)
    assert times["ttft_model"].value == pytest.approx((4 + 5 + 57) * MEDIAN)
    # No layer changes how long the first token's id takes to the host: the shallowest says it.
    assert times["sample"].value == pytest.approx(7 * 5 / 6 * MEDIAN)
    assert result.bend().value == pytest.approx(0.0, abs=1e-9)
    assert extended(bend=1.1).bend().value == pytest.approx(0.1)
    assert make_result().bend() is None


def test_the_line_is_judged_by_the_blocks_that_all_depths_have():
    result = extended(bend=1.1)
    middle = {b: v.model_copy(update={"disturbed": b < 2}) for b, v in result.measurements["llm@5"].items()}
    rough = {b: v.model_copy(update={"disturbed": b >= 2}) for b, v in result.measurements["encoder"].items()}
    disturbed = Result(result.planned, {**result.measurements, "llm@5": middle, "encoder": rough}, {})
    assert disturbed.bend().value == pytest.approx(0.1)


def test_the_work_of_an_extended_llm_is_extended_with_it():
    found = extended().efficiency("llm", "prefill")
    assert found.floor == pytest.approx(29e9 / 1e11)
    assert found.share.value == pytest.approx(0.29 / (57 * MEDIAN))


def test_the_memory_of_an_llm_that_was_never_whole_is_unknown():
    assert extended().memory() == (None, "unknown")


def test_a_table_and_a_page_call_extrapolated_what_is():
    (row,) = table_of([extended()]).to_dict("records")
    assert row["extrapolated"]
    assert row["source"] == "composed; prefill extrapolated from 2, 5, 8 to 28 layers"
    (cells,) = readable(table_of([extended()])).to_dict("records")
    assert cells["prefill ms"].endswith("extrapolated")
    assert cells["ttft_model ms"].endswith("extrapolated")
    assert not cells["encode ms"].endswith("extrapolated")
    assert any("to 28 layers; the depth between them is +0.0%" in said for said in checks(table_of([extended()])))
