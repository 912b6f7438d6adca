"""The main job from the command line: measured once, resumed, killed, and refused what cannot be measured."""

import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from harness import api, store
from harness.models.vlm import SHIPPED
from harness.sweep import alone, main, report_name, usage

QUICK = ["protocol=quick", "limit=2", "threads=1"]
GRID = ["encoder=tiny_fastvithd", "resolution=64,128", *QUICK]


def run(folder: Path, *arguments: str, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness.sweep", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False, **options)


def stored(folder: Path) -> list:
    return store.read_all(folder / "results")


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    return folder, run(folder, *GRID)


def test_every_point_has_samples_ttfts_tokens_and_accuracy(measured):
    folder, done = measured
    assert done.returncode == 0, done.stderr
    records = stored(folder)
    assert [r.point.resolution for r in records] == [64, 128]
    for record in records:
        assert record.status == "ok"
        assert record.point.checkpoint == "shipped:tiny_fastvithd-tiny_qwen2_m"
        assert record.latency.visual_tokens == (record.point.resolution // 64) ** 2
        assert all(len(v) == 1 + 6 and min(v) > 0 for v in record.latency.seconds.values())
        assert record.latency.peak_bytes > 1e7
        assert {s.suite for s in record.scores} == {"doc_read", "scene_text", "shapes"}
    table = api.load(report_of(folder), folder / "results")
    for name in ("ttft_paper", "ttft_model", "ttft_user", "ttft_fused"):
        assert (table[f"{name}_low"] <= table[name]).all()
        assert (table[name] <= table[f"{name}_high"]).all()
    assert (table["ttft_user"] > table["ttft_model"]).all()
    assert table["accuracy_stderr"].notna().all()
    assert table["on_frontier"].any()


def report_of(folder: Path) -> str:
    (name,) = [p.name for p in (folder / "reports").iterdir()]
    return name


def test_the_report_stands_alone(measured):
    folder, _ = measured
    report = folder / "reports" / report_of(folder)
    page = (report / "index.html").read_text()
    for stem in (
        "frontier",
        "frontier-user",
        "frontier-doc_read",
        "frontier-scene_text",
        "frontier-shapes",
        "accuracy",
        "latency",
    ):
        assert (report / f"{stem}.png").stat().st_size > 5000
        assert (report / f"{stem}.svg").stat().st_size > 5000
        assert f'src="{stem}.png"' in page
    assert "http://" not in page
    assert "https://" not in page
    assert (report / "table.csv").read_text().count("\n") == 3
    assert (report / "table.md").read_text().count("\n") == 4
    assert len((report / "records.jsonl").read_text().splitlines()) == 2


def test_the_same_command_again_measures_nothing(measured):
    folder, _ = measured
    before = stored(folder)
    begin = time.monotonic()
    again = run(folder, *GRID)
    assert again.returncode == 0
    assert "2 in the store, 0 to measure" in again.stdout
    assert stored(folder) == before
    assert time.monotonic() - begin < 60


def test_the_command_of_a_record_measures_that_point_again(measured):
    folder, _ = measured
    record = stored(folder)[0]
    again = run(folder, *shlex.split(record.command)[3:])
    assert again.returncode == 0, again.stderr
    assert [r.key for r in stored(folder)].count(record.key) == 2


def test_killed_at_a_random_moment_and_started_again_it_ends_with_one_good_record_a_point(tmp_path):
    grid = ["encoder=tiny_fastvithd", "resolution=64,128,192", "protocol=quick", "limit=1", "threads=1"]
    rng = random.Random(os.getpid())
    for _ in range(2):
        sweep = subprocess.Popen(
            [sys.executable, "-m", "harness.sweep", *grid],
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(rng.uniform(4, 16))
        sweep.send_signal(signal.SIGKILL)
        sweep.wait()
    done = run(tmp_path, *grid)
    assert done.returncode == 0, done.stderr
    keys = Counter(r.key for r in stored(tmp_path) if r.status == "ok")
    assert sorted(keys.values()) == [1, 1, 1]


def test_interrupted_it_keeps_what_is_measured_and_says_how_to_go_on(tmp_path):
    grid = ["encoder=tiny_fastvithd", "resolution=64,128,192,256", "limit=1", "threads=1"]
    sweep = subprocess.Popen(
        [sys.executable, "-m", "harness.sweep", *grid],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert sweep.stdout.readline()  # how many points
    assert "[1/4]" in sweep.stdout.readline()
    sweep.send_signal(signal.SIGINT)
    _, said = sweep.communicate(timeout=60)
    assert sweep.returncode == 130
    assert "the same command goes on from here" in said
    assert "Traceback" not in said
    assert len(stored(tmp_path)) in (1, 2)


def test_a_point_that_fails_is_a_record_and_exit_code_1(tmp_path):
    """A checkpoint whose weights do not fit its configuration passes the checks and fails in the worker."""
    folder = tmp_path / "broken"
    folder.mkdir()
    source = SHIPPED / "tiny_fastvithd-tiny_qwen2_m"
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_bytes((source / name).read_bytes())
    (folder / "model.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ")
    done = run(tmp_path, "resolution=64", f"checkpoint={folder}", *QUICK)
    assert done.returncode == 1
    assert "failed: tiny_fastvithd 64px tiny_qwen2_m: error:" in done.stderr
    assert "does not fit config.json" in done.stderr
    (record,) = stored(tmp_path)
    assert (record.status, record.latency, record.scores) == ("error", None, ())
    page = (tmp_path / "reports" / report_of(tmp_path) / "index.html").read_text()
    assert "Points that failed" in page
    again = run(tmp_path, "resolution=64", f"checkpoint={folder}", *QUICK)
    assert again.returncode == 1  # a failed point is tried again
    assert len(stored(tmp_path)) == 2


def test_full_size_parts_are_timed_with_random_weights(tmp_path):
    tiny = ["llm.config.num_hidden_layers=1", "llm.config.vocab_size=1000", "encoder=fastvit", "llm=qwen2_0_5b"]
    done = run(tmp_path, *tiny, "resolution=64", *QUICK)
    assert done.returncode == 0, done.stderr
    assert "no accuracy: fastvit + qwen2_0_5b have random weights" in done.stdout
    (record,) = stored(tmp_path)
    assert record.scores == ()
    assert (record.latency.visual_tokens, set(record.latency.text_tokens)) == (4, {24})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["encoder=fastvitd"], "did you mean fastvit"),
        (["encoder=tiny_fastvithd", "resolution=100"], "nearest that work: 64, 128"),
        (["checkpoint=/nowhere"], "there is no such folder"),
        (["device=cuda"], "sees no cuda here"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert said in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert out == ""
    assert not (tmp_path / "results").exists()


def test_a_damaged_record_file_is_named_before_anything_is_measured(measured, monkeypatch, capsys):
    folder, _ = measured
    (path,) = (folder / "results" / "measured").glob("*/records.jsonl")
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    path.write_bytes(lines[0] + b'{"broken": true}\n' + b"".join(lines[1:]))
    monkeypatch.chdir(folder)
    try:
        assert main(GRID) == 2
        assert "records.jsonl:2: damaged record" in capsys.readouterr().err
    finally:
        path.write_bytes(whole)


def test_help_names_every_option(capsys):
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert said == usage()
    for name in ("resolution", "tiny_fastvithd", "fastvithd", "vicuna_7b", "standard", "doc_read"):
        assert name in said


def test_a_changed_sweep_has_a_report_of_its_own():
    common = {"sweep": {"name": "resolution"}}
    assert report_name(common, ["+sweep=resolution", "force=true"]) == "resolution"
    changed = report_name(common, ["+sweep=resolution", "encoder=fastvithd", "resolution=256,512"])
    assert changed.startswith("resolution-fastvithd-256-512-")
    assert report_name({}, []) == "points"
    assert report_name({}, ["threads=1"]) != report_name({}, ["limit=1"])


def test_two_sweeps_never_measure_at_once(tmp_path):
    with alone():
        refused = run(tmp_path, "resolution=64", *QUICK)
    assert refused.returncode == 2
    assert "another sweep is measuring on this machine" in refused.stderr
    assert not stored(tmp_path)


def test_one_point_from_a_notebook(measured):
    record = api.measure("resolution=64", *QUICK)
    assert record.status == "ok"
    assert record.key in {r.key for r in stored(measured[0])}
    assert json.loads(record.model_dump_json())["latency"]["visual_tokens"] == 1
