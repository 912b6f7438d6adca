import subprocess
import sys

import pandas as pd
import pytest

from conftest import ENCODER, MACHINE, failed_visit, make_point, make_result
from harness import store
from harness.composition import Result
from harness.frame import frame_of
from harness.report import write_report
from harness.report.tables import blocks, deviation, markdown, percentile, readable


def grid(**options):
    results = []
    for k, resolution in enumerate((64, 128)):
        for encoder in ("a", "b"):
            spec = ENCODER.model_copy(update={"name": encoder, "title": f"encoder {encoder}", "features": ord(encoder)})
            scale = (k + 1) * (2 if encoder == "b" else 1)
            point = make_point(encoder=spec, resolution=resolution)
            results.append(make_result(point, (scale,) * 6, right=(5 + 5 * k, 16), **options))
    return results


def failed(reason="hung"):
    result = make_result(make_point(resolution=192), right=None)
    bad = failed_visit(status="timeout", reason=reason, component=result.visits["encoder"][0].component)
    return Result(result.planned, {**result.visits, "encoder": {0: bad}}, {})


def elsewhere(result, **changes):
    machine = MACHINE.model_copy(update=changes)
    visits = {
        kind: {b: v.model_copy(update={"machine": machine}) for b, v in found.items()}
        for kind, found in result.visits.items()
    }
    return Result(result.planned, visits, result.exams)


def test_frame_has_accuracy_with_errors_and_the_frontier():
    table = frame_of(grid())
    assert table["doc_read"].tolist() == [0.25, 0.25, 0.5, 0.5]
    assert table["accuracy"].tolist() == pytest.approx([0.525, 0.525, 0.65, 0.65])
    assert table["on_frontier"].tolist() == [True, False, True, False]
    assert table["source"].unique().tolist() == ["composed"]
    assert table["encode_p99"].isna().all()


def test_a_missing_number_is_missing_never_zero():
    table = frame_of([make_result(), failed()])
    assert pd.isna(table["encode"][1])
    assert pd.isna(table["accuracy"][1])
    assert "ttft_fused" not in table.columns  # nothing was measured directly
    shown = readable(table)
    assert shown["encode ms"][1] == "–"
    assert shown["frontier"][1] == "timeout: encoder, block 0: hung"


@pytest.mark.parametrize("changes", [{"host": "f" * 8}, {"driver": "550"}, {"governor": "powersave"}])
def test_machines_have_frontiers_and_curves_of_their_own(changes):
    slow = elsewhere(make_result(scales=(2.0,) * 6), **changes)
    table = frame_of([make_result(), slow])
    assert table["on_frontier"].tolist() == [True, True]
    assert table["encoder_title"].nunique() == 2


def test_a_row_says_what_was_measured_directly_and_how_far_the_sum_is_off():
    table = frame_of([make_result(scales=(1.1,) * 6, direct=(1.0,) * 6), make_result(make_point(resolution=64))])
    assert table["source"].tolist() == ["composed, checked directly", "composed"]
    row = table.iloc[0]
    assert deviation(row, "residual_ttft_model") == "+10.0% (+10.0 to +10.0)"
    assert deviation(table.iloc[1], "residual_ttft_model") == "–"
    assert row["direct_ttft_model"] == pytest.approx(15 * 1.035e-3)
    assert percentile(row, "encode_p95").startswith("n/a (n=")
    assert blocks(row) == "6"


def write(tmp_path, results):
    for result in results:
        for entry in (*(v for found in result.visits.values() for v in found.values()), *result.exams.values()):
            store.append(tmp_path / "results", entry)
    absent = make_result(make_point(resolution=1024), right=None).planned
    keys = {kind: f"absent {kind}" for kind in absent.components}
    points = [result.planned for result in results] + [absent.model_copy(update={"components": keys})]
    store.write_manifest(tmp_path / "results", store.make_manifest("any", "A <title>", points, "command"))
    return write_report(tmp_path / "results", "any", tmp_path / "reports")[0]


def test_report_names_what_is_missing_and_what_failed_and_escapes_everything(tmp_path):
    folder = write(tmp_path, [*grid(), failed("<script>alert(1)</script>")])
    page = (folder / "index.html").read_text()
    assert "1 of the sweep" in page
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "A &lt;title&gt;" in page
    assert (
        "measured on test processor (cpu, float32, 1 thread), 2026-01-02; batch 1, 36 passes of each encoder;" in page
    )
    assert "protocol v2: 6 blocks, in each 1 and 0 s warm-up, 6–6 passes" in page
    assert (folder / "frontier.svg").stat().st_size > 5000
    assert "rest on disturbed blocks" not in page


def test_report_says_when_something_else_used_the_machine(tmp_path):
    result = make_result()
    rough = {b: v.model_copy(update={"disturbed": True}) for b, v in result.visits["llm"].items()}
    folder = write(tmp_path, [Result(result.planned, {**result.visits, "llm": rough}, result.exams)])
    page = (folder / "index.html").read_text()
    assert "1 of 1 point rests on disturbed blocks" in page
    assert "rests on 6 disturbed" in (folder / "table.md").read_text()


def test_report_of_points_without_accuracy_has_no_frontier_but_latency(tmp_path):
    point = make_point()
    folder = write(tmp_path, [make_result(point, right=None, no_accuracy="no accuracy: random", direct=(1.0,) * 6)])
    assert not (folder / "frontier.png").exists()
    for stem in ("latency", "breakdown", "efficiency"):
        assert (folder / f"{stem}.png").stat().st_size > 5000
    page = (folder / "index.html").read_text()
    assert "no accuracy: random" in page
    assert "off the whole VLM measured directly" in page


def test_report_of_failures_only_still_opens(tmp_path):
    folder = write(tmp_path, [failed("SIGSEGV")])
    assert "timeout: encoder, block 0: SIGSEGV" in (folder / "index.html").read_text()
    assert not list(folder.glob("*.png"))


def test_markdown_escapes_its_own_marks():
    assert markdown(pd.DataFrame({"a": ["x|y"]})) == "| a |\n| --- |\n| x\\|y |\n"


def test_the_report_needs_no_torch():
    code = "import sys, harness.report; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
