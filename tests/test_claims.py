"""Verdicts on published claims, from times made up to the millisecond."""

import shutil

import pandas as pd
import pytest

from conftest import ENCODER, LLM, MACHINE, make_measurement, make_point, make_result
from harness.analysis.claims import claims_of, find, make_claim, ranking, read_claims, read_stages, rounding, table_of
from harness.analysis.composition import Result
from harness.analysis.published import HERE
from harness.configuration.compose import cell_of, compose_all
from harness.report.tables import readable_ranks
from harness.report.write import write_report
from harness.schema import HarnessError, System
from harness.storage import store
from harness.sweep import main


def point(name, side=128, **changes):
    system = System(name=name, title=f"System {name}", source="tests")
    return make_point(system=system, resolution=side, **changes)


WIDE = LLM.model_copy(update={"config": {**LLM.config, "hidden_size": 64}})
LARGE = ENCODER.model_copy(update={"args": {**ENCODER.args, "mlp_ratios": [2, 1, 1, 1, 1]}})
FAST, SLOW = point("fast"), point("slow", encoder=LARGE, llm=WIDE)
ROW = {"id": "a", "statement": "fast is 3x faster", "kind": "ttft_ratio", "published_value": "3.0", "source": "here"}


def claim(reference=SLOW, candidate=FAST, **changes):
    return make_claim(ROW | changes, [reference], candidate)


def results(slow=(4.0,) * 6, fast=(1.0,) * 6):
    return [make_result(SLOW, scales=slow, right=None), make_result(FAST, scales=fast, right=None)]


@pytest.fixture
def published(tmp_path):
    """A results folder with published stages of two systems: encode 10x, prefill 2x."""
    folder = tmp_path / "published"
    shutil.copytree(HERE, folder)
    text = "system,resolution,encode_ms,prefill_ms,source\nslow,128,100,10,t\nfast,128,10,5,t\n"
    (folder / "system_latency.csv").write_text(text)
    return tmp_path


@pytest.mark.parametrize(("text", "half"), [("3.4", 0.05), ("85", 0.5), ("0.22", 0.005), ("5.0", 0.05)])
def test_a_value_is_known_to_half_its_last_digit(text, half):
    assert rounding(text) == pytest.approx(half)


def test_a_ratio_that_is_reached_holds_under_both_definitions(published):
    found = find([claim()], results(), published)
    assert [f.definition for f in found] == ["ttft_paper", "ttft_user"]
    assert all(f.verdict == "holds" and f.value.value == pytest.approx(4.0) for f in found)
    assert found[0].why == "1.3 times the published value"
    assert found[0].device == MACHINE.device_name


@pytest.mark.parametrize(("factor", "verdict"), [(2.94, "differs"), (2.96, "holds")])
def test_the_rounding_of_the_print_is_allowed(published, factor, verdict):
    found = find([claim()], results(slow=(factor,) * 6), published)
    assert {f.verdict for f in found} == {verdict}


def test_between_the_value_and_the_end_of_its_interval_nothing_is_decided(published):
    scattered = find([claim()], results(slow=(2.0, 2.1, 2.2, 2.3, 2.9, 3.1)), published)[0]
    assert scattered.value.value == pytest.approx(2.25)
    assert scattered.verdict == "undecided"
    assert scattered.why.startswith("0.75 of the published value, which the interval still holds; encode explains it")
    one = find([claim()], results(slow=(2.0,), fast=(1.0,)), published)[0]
    assert (one.verdict, one.why.partition(";")[0]) == ("undecided", "0.67 of the published value, in one block")


def test_blocks_that_the_sides_do_not_share_are_no_evidence(published):
    slow, fast = results()
    last = {kind: {b + 6: v for b, v in blocks.items()} for kind, blocks in slow.measurements.items()}
    found = find([claim()], [Result(slow.planned, last, {}), fast], published)
    assert {f.verdict for f in found} == {"cannot be measured here"}
    assert found[0].why == "no block has ttft_paper of both"


def test_a_difference_has_its_factor_and_the_stage_that_explains_it(published):
    # Here both stages are 2x: encode 8 against 4, prefill 16 against 8 (in units of a made-up millisecond).
    found = find([claim(published_value="6.0")], results(slow=(2.0,) * 6), published)[0]
    assert found.verdict == "differs"
    assert found.why == (
        "0.33 of the published value; encode explains it: reference over candidate is 10 as published and 2 here"
    )


def test_stages_may_gain_as_much_and_weigh_otherwise(published):
    # 20x in encoding and 2.25x in prefill, both more than published; but the prefill is most of it here.
    slow, fast = results(slow=(2.25,) * 6)
    light = {b: make_measurement("encoder", b, 0.0225) for b in range(6)}
    lighter = {b: make_measurement("encoder", b, 0.001) for b in range(6)}
    pair = [
        Result(slow.planned, {**slow.measurements, "encoder": light}, {}),
        Result(fast.planned, {**fast.measurements, "encoder": lighter}, {}),
    ]
    found = find([claim(published_value="6.0")], pair, published)[0]
    assert found.verdict == "differs"
    assert found.why.endswith("each stage gains as much as published; encoding is 0% of the reference here, 91% there")


def test_a_saved_share_of_the_time(published):
    found = find([claim(kind="ttft_reduction", published_value="0.22")], results(slow=(1.25,) * 6), published)[0]
    assert found.value.value == pytest.approx(0.2)
    assert found.verdict == "differs"
    assert find([claim(kind="ttft_reduction", published_value="0.20")], results(slow=(1.25,) * 6), published)[
        0
    ].verdict == ("holds")


def test_what_was_not_measured_is_said_and_not_judged(published):
    found = find([claim()], results()[1:], published)
    assert {f.verdict for f in found} == {"cannot be measured here"}
    assert found[0].why == "System slow @128: not measured yet"
    assert found[0].value is None


def test_counts_are_exact(published):
    dense = make_point(encoder=ENCODER.model_copy(update={"stride": 32}), resolution=256)
    sparse = make_point(resolution=256)
    row = {"kind": "token_ratio", "published_value": "4.0"}
    found = find([claim(dense, sparse, **row)], [], published)
    assert (found[0].value.value, found[0].verdict, found[0].why) == (4.0, "holds", "64 and 16 tokens")
    row = {"kind": "encoder_params_ratio", "published_value": "3.4"}
    sizes = {ENCODER.name: 100, "large": 330}
    big = make_point(encoder=ENCODER.model_copy(update={"name": "large"}))
    found = find([claim(big, FAST, **row).model_copy(update={"parameters": sizes})], [], published)
    assert (found[0].value.value, found[0].verdict) == (3.3, "differs")
    assert found[0].why.endswith("0.97 of the published value")


def test_scores_need_trained_weights_on_both_sides(published):
    row = {"kind": "score_delta", "published_value": "8.4", "statement": "better on DocVQA"}
    found = find([claim(**row)], results(), published)[0]
    assert found.verdict == "cannot be measured here"
    assert "random" in found.why
    pair = []
    for each, right in ((SLOW, 8), (FAST, 10)):
        result = make_result(each, right=(right, 1))
        pair.append(Result(result.planned, result.measurements, {"docvqa": result.evaluations["doc_read"]}))
    found = find([claim(**row)], pair, published)[0]
    assert (found.value.value, found.verdict) == (pytest.approx(10.0), "holds")


def test_training_time_is_not_made_up(published):
    found = find([make_claim(ROW | {"kind": "training_minutes"}, [], None)], [], published)[0]
    assert (found.value, found.verdict) == (None, "cannot be measured here")
    assert "8 H100" in found.why


def test_the_two_definitions_rank_apart():
    # A little faster for the paper, and with a connector that takes 50 ms.
    slow, fast = results(slow=(0.9,) * 6)
    heavy = {b: make_measurement("connector", b, 10.0) for b in range(6)}
    table = ranking([Result(slow.planned, {**slow.measurements, "connector": heavy}, {}), fast])
    assert table["point"].tolist() == ["System slow @128", "System fast @128"]
    assert table["rank_ttft_paper"].tolist() == [1, 2]
    assert table["rank_ttft_user"].tolist() == [2, 1]
    assert readable_ranks(table)["its rank"].tolist() == ["2 (-1)", "1 (+1)"]


def test_the_sweeps_claims_are_all_published_ones_and_only_latencies_are_measured(tmp_path):
    common, configs = compose_all(["+sweep=claims"])
    listed = {entry["id"] for entry in common["sweep"]["claims"]}
    assert listed == set(read_claims(tmp_path))
    cells = {config["cell"] for config in configs}
    points = dict.fromkeys(cells, FAST)
    claims, counted = claims_of(common, points, tmp_path, lambda encoder: 5)
    assert len(claims) == 12
    assert [claim.parameters for claim in claims if claim.kind == "encoder_params_ratio"] == [{ENCODER.name: 5}]
    assert cell_of({"system": "mm1_like"}) in counted
    assert cell_of({"system": "cambrian_1_8b"}) not in counted  # counted and timed
    assert common["protocol"]["blocks"] == 3
    assert compose_all(["+sweep=claims", "protocol=quick"])[0]["protocol"]["blocks"] == 1
    names = {(s, int(r)) for s, r in read_stages(tmp_path)}
    for config in configs:
        if config["cell"] not in counted:
            side = config["resolution"] or config["encoder"]["native"]
            tiles = 3 if config["tiles"] == 10 else 1
            assert (config["system"]["name"], tiles * side) in names  # every published total is split


def test_a_claims_sides_cannot_be_overridden():
    for taken in ("resolution=512", "llm.config.num_hidden_layers=2", "threads=1,2"):
        with pytest.raises(HarnessError, match=r"=\.\.\.: claims name their own points"):
            compose_all(["+sweep=claims", taken])


def test_an_unknown_claim_and_a_damaged_table_are_said(published):
    common = {"sweep": {"claims": [{"id": "ttft_vs_nobody"}]}}
    with pytest.raises(
        HarnessError, match=r"claim ttft_vs_nobody: claims\.csv has no such row; there are: ttft_vs_llava"
    ):
        claims_of(common, {}, published, lambda encoder: 5)
    (published / "published" / "claims.csv").write_text("id,statement\na,b\n")
    with pytest.raises(HarnessError, match="the column kind is missing"):
        read_claims(published)
    with pytest.raises(HarnessError, match="a: published_value=many is no number"):
        make_claim(ROW | {"published_value": "many"}, [], None)


def test_the_page_shows_every_claim_with_device_and_verdict(published):
    found = results(slow=(2.0, 2.1, 2.0, 1.9, 2.0, 2.2))
    for result in found:
        for blocks in result.measurements.values():
            for measurement in blocks.values():
                store.append(published, measurement)
    row = {"id": "b", "statement": "<b>tokens</b>", "kind": "token_ratio", "published_value": "1.0"}
    claims = [claim(), claim(**row), make_claim(ROW | {"kind": "training_minutes"}, [], None)]
    planned = [result.planned for result in found]
    store.write_manifest(published, store.make_manifest("claims", "Claims", planned, "command", claims=claims))
    folder, _ = write_report(published, "claims", published / "reports")
    page = (folder / "index.html").read_text()
    assert "&lt;b&gt;tokens&lt;/b&gt;" in page
    for text in ("The claims, here", "2x (1.9x–2.2x)", "3x (here)", "differs", "cannot be measured here", "its rank"):
        assert text in page
    assert (folder / "claims.png").stat().st_size > 10_000
    table = pd.read_csv(folder / "claims.csv")
    assert table["verdict"].tolist() == ["differs", "differs", "holds", "cannot be measured here"]
    assert table["value"].isna().tolist() == [False, False, False, True]
    assert "| ttft_user |" in (folder / "claims.md").read_text()


def test_extrapolated_values_are_marked():
    deep = make_point(
        llm=LLM.model_copy(update={"config": {**LLM.config, "num_hidden_layers": 20}}), system=SLOW.system
    )
    result = make_result(deep, right=None)
    keys = dict(result.planned.components)
    llm = keys.pop("llm")
    measurements = {kind: blocks for kind, blocks in result.measurements.items() if kind != "llm"}
    for depth in (2, 5, 8):
        keys[f"llm@{depth}"], measurements[f"llm@{depth}"] = llm, result.measurements["llm"]
    extended = Result(result.planned.model_copy(update={"components": keys}), measurements, {})
    found = find([claim(deep)], [extended, results()[1]], HERE.parent)
    assert all(f.extrapolated for f in found)
    assert table_of(found)["extrapolated"].all()


def test_the_plan_of_the_claims_is_printed_with_its_time(capsys, tmp_path):
    assert main(["+sweep=claims", "dry_run=true", f"results={tmp_path}"]) == 0
    said = capsys.readouterr().out
    assert "claims: 12 points" in said
    assert "estimated time: " in said
    assert "mm1_like" not in said
