import subprocess
import sys

import pandas as pd
import pytest

from conftest import ENCODER, make_latency, make_point, make_record, make_score
from harness import store
from harness.frame import frame_of, times_of
from harness.report import write_report
from harness.report.tables import markdown, readable


def grid():
    records = []
    for k, resolution in enumerate((64, 128)):
        for encoder in ("a", "b"):
            spec = ENCODER.model_copy(update={"name": encoder, "title": f"encoder {encoder}"})
            scale = (k + 1) * (2 if encoder == "b" else 1)
            scores = (make_score("doc_read", 5 + 5 * k), make_score("shapes", 16))
            point = make_point(encoder=spec, resolution=resolution)
            records.append(make_record(point=point, latency=make_latency(scale), scores=scores))
    return records


def test_ttfts_are_summed_pass_by_pass_and_warm_up_never_counts():
    times = times_of(make_latency())
    # Stage k takes (k + 1) ms * (1 + i / 100); passes 1 to 6 count, so the median's factor is 1.035.
    assert times["encode"].value == pytest.approx(4e-3 * 1.035)
    assert times["ttft_paper"].value == pytest.approx((4 + 8) * 1e-3 * 1.035)
    assert times["ttft_model"].value == pytest.approx((4 + 5 + 6) * 1e-3 * 1.035)
    assert times["ttft_user"].value == pytest.approx(28e-3 * 1.035)
    assert times["ttft_fused"].value == pytest.approx(27e-3 * 1.035)
    assert (times["encode"].low, times["encode"].high) == pytest.approx((4e-3 * 1.01, 4e-3 * 1.06))


def test_frame_has_accuracy_with_errors_and_the_frontier():
    table = frame_of(grid())
    assert table["doc_read"].tolist() == [0.25, 0.25, 0.5, 0.5]
    assert table["accuracy"].tolist() == pytest.approx([0.525, 0.525, 0.65, 0.65])
    assert table["on_frontier"].tolist() == [True, False, True, False]


def test_a_missing_number_is_missing_never_zero():
    failed = make_record(status="timeout", reason="hung", latency=None, scores=())
    table = frame_of([make_record(), failed])
    assert pd.isna(table["encode"][1])
    assert pd.isna(table["accuracy"][1])
    shown = readable(table)
    assert shown["encode ms"][1] == "–"
    assert shown["frontier"][1] == "timeout: hung"


def test_machines_have_frontiers_of_their_own():
    one, two = make_record(), make_record(latency=make_latency(2.0))
    other = two.machine.model_copy(update={"device_name": "other"})
    table = frame_of([one, two.model_copy(update={"machine": other})])
    assert table["on_frontier"].tolist() == [True, True]


def write(tmp_path, records):
    for record in records:
        store.append(store.path_of(tmp_path / "results", record.machine), record)
    store.write_manifest(tmp_path / "results", "any", "A <title>", [r.key for r in records] + ["absent"], "command")
    return write_report(tmp_path / "results", "any", tmp_path / "reports")


def test_report_names_what_is_missing_and_what_failed_and_escapes_everything(tmp_path):
    bad = make_record(
        point=make_point(resolution=192), status="error", reason="<script>alert(1)</script>", latency=None, scores=()
    )
    folder = write(tmp_path, [*grid(), bad])
    page = (folder / "index.html").read_text()
    assert "1 of the sweep" in page
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "A &lt;title&gt;" in page
    assert "measured on test processor (cpu, float32, 1 threads), 2026-01-02; batch 1, 6 passes a point;" in page
    assert "protocol v1: 1 and 0 s warm-up, 6–6 passes" in page
    assert (folder / "frontier.svg").exists()
    assert "2026-01-02" in (folder / "frontier.svg").read_text() or (folder / "frontier.png").stat().st_size > 5000


def test_report_of_points_without_accuracy_has_no_frontier_but_latency(tmp_path):
    records = [r.model_copy(update={"scores": (), "no_accuracy": "no accuracy: random"}) for r in grid()]
    folder = write(tmp_path, records)
    assert not (folder / "frontier.png").exists()
    assert (folder / "latency.png").exists()
    assert "no accuracy: random" in (folder / "index.html").read_text()


def test_report_of_failures_only_still_opens(tmp_path):
    folder = write(tmp_path, [make_record(status="crashed", reason="SIGSEGV", latency=None, scores=())])
    assert "crashed: SIGSEGV" in (folder / "index.html").read_text()
    assert not list(folder.glob("*.png"))


def test_markdown_escapes_its_own_marks():
    assert markdown(pd.DataFrame({"a": ["x|y"]})) == "| a |\n| --- |\n| x\\|y |\n"


def test_the_report_needs_no_torch():
    code = "import sys, harness.report; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
