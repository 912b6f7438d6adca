"""The main job from the command line: measured once, resumed, killed, and refused what cannot be measured."""

import contextlib
import io
import json
import math
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from conftest import make_measurement, make_samples
from harness import api
from harness.models.vlm import SHIPPED
from harness.report.text import quantity
from harness.schema import Evaluation, Measurement
from harness.storage import store
from harness.sweep import main, report_name, usage
from harness.timing import measurer, telemetry
from harness.timing.session import alone
from harness.timing.telemetry import Disturbed, Use

CALM = ["+protocol.lost=1", "+protocol.disturbed=1"]
"""Whatever else runs here, nothing counts as disturbed: the exit code says what the sweep did."""
QUICK = ["protocol=quick", *CALM, "limit=2", "threads=1"]
GRID = ["encoder=tiny_fastvithd", "resolution=64,128", *QUICK]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line in this process: only what measures is started. (A fresh parent costs seconds of imports.)"""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def measurements(folder: Path) -> list[Measurement]:
    return store.read_all(folder / "results", Measurement)


def evaluations(folder: Path) -> list[Evaluation]:
    return store.read_all(folder / "results", Evaluation)


@pytest.fixture
def unpictured(monkeypatch):
    """No pictures, which take longer than what is measured here; other tests of this file draw them."""
    monkeypatch.setattr("harness.report.write.draw_figures", lambda *_: [])


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    command = [sys.executable, "-m", "harness.sweep", *GRID]  # as a person runs it
    return folder, subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)


def test_every_point_has_samples_ttfts_tokens_and_accuracy(measured):
    folder, done = measured
    assert done.returncode == 0, done.stderr
    points = api.points(report_of(folder), folder / "results")
    assert [p.planned.point.resolution for p in points] == [64, 128]
    for point in points:
        assert point.status == "ok"
        assert point.planned.point.checkpoint == "shipped:tiny_fastvithd-tiny_qwen2_m"
        assert set(point.measurements) == {"encoder", "connector", "llm", "vlm"}
        for (measurement,) in (blocks.values() for blocks in point.measurements.values()):
            assert measurement.component.visual_tokens == (point.planned.point.resolution // 64) ** 2
            assert all(len(v) == 1 + 6 and min(v) > 0 for v in measurement.samples.seconds.values())
            assert measurement.memory.peak > 1e7
            assert measurement.timer.fault == ""
        assert set(point.evaluations) == set(point.blind) == {"doc_read", "scene_text", "shapes"}
    table = api.load(report_of(folder), folder / "results")
    assert (table["ttft_user"] > table["ttft_model"]).all()
    assert (table["ttft_fused"] > 0).all()
    assert table["encode_low"].tolist() == [-math.inf] * 2  # one block says nothing about how blocks differ
    assert ((table["encode_efficiency"] > 0) & (table["encode_efficiency"] < 1.2)).all()
    assert table["accuracy_stderr"].notna().all()
    assert table["on_frontier"].any()


def test_composed_times_agree_with_the_whole_vlm_measured_directly(measured):
    """One block of six passes on a shared machine: within a factor, not within a percent."""
    folder, _ = measured
    table = api.load(report_of(folder), folder / "results")
    assert table["residual_ttft_model"].abs().max() < 1.0


def test_components_of_a_block_share_a_process_in_the_order_of_its_seed(measured):
    found = measurements(measured[0])
    first = [v for v in found if v.attempt == 0]
    assert len({v.process for v in first}) == 1
    assert sorted(v.position for v in first) == list(range(len(first)))
    assert {v.seed for v in first} == {0}


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
    assert page.count('src="data:image/png;base64,') >= 7  # in the page itself, which can be mailed
    assert "http://" not in page
    assert "https://" not in page
    assert (report / "table.csv").read_text().count("\n") == 3
    assert (report / "table.md").read_text().count("\n") == 4
    assert len((report / "measurements.jsonl").read_text().splitlines()) == 8
    assert len((report / "evaluations.jsonl").read_text().splitlines()) == 12  # with sight and without


def test_the_same_command_again_measures_nothing(measured):
    folder, _ = measured
    before = measurements(folder), evaluations(folder)
    begin = time.process_time()
    again = run(folder, *GRID)
    assert again.returncode == 0
    assert "20 of 20 measurements in the store, 0 to measure" in again.stdout
    assert (measurements(folder), evaluations(folder)) == before
    assert time.process_time() - begin < 60


def test_a_dry_run_says_what_is_shared_and_how_long_it_takes_and_measures_nothing(measured):
    folder, _ = measured
    before = measurements(folder)
    more = [argument.replace("64,128", "64,128,192") for argument in GRID]
    said = run(folder, *more, "direct=0", "protocol.blocks=2", "dry_run=true")
    assert said.returncode == 0, said.stderr
    lines = said.stdout.splitlines()
    assert "3 points on" in lines[0]
    assert (
        "encoder to measure; connector to measure; llm to measure; 3 of 3 evaluations to take, 3 of 3 blind" in lines[3]
    )
    assert "components: 3 connector, 3 encoder, 3 llm (6 whole VLMs would be measured" in said.stdout
    assert "to measure: 12 measurements in 2 blocks (fresh processes), 6 evaluations (3 of them blind)" in said.stdout
    estimated = r"estimated time: \d+ (s|min), \d+ s of it for blind evaluations \(blind=false leaves them out\)"
    assert re.search(estimated, said.stdout)
    assert measurements(folder) == before


@pytest.mark.usefixtures("unpictured")
def test_more_blocks_are_added_to_those_in_the_store(measured):
    folder, _ = measured
    before = len(measurements(folder))
    done = run(folder, *GRID, "protocol.blocks=2")
    assert done.returncode == 0, done.stderr
    assert "block 2/2: 8 measurements" in done.stdout
    found = measurements(folder)[before:]
    assert {v.block for v in found} == {1}
    assert len({v.process for v in found} | {v.process for v in measurements(folder)[:before]}) == 2


@pytest.mark.usefixtures("unpictured")
def test_the_command_of_a_record_measures_that_point_again(measured):
    folder, _ = measured
    measurement = next(v for v in measurements(folder) if v.component.kind == "vlm")
    before = len(measurements(folder))
    again = run(folder, *shlex.split(measurement.command)[3:], "suites=[]")
    assert again.returncode == 0, again.stderr
    good = [v.key for v in measurements(folder)[before:] if v.attempt == 0 and v.status == "ok"]
    assert good.count(measurement.key) == 1


def lines_of(folder: Path) -> int:
    """How many records are in the store; -1 before the sweep has made it."""
    found = [path.read_bytes().count(b"\n") for path in (folder / "results").glob("measured/*/*.jsonl")]
    return sum(found) if (folder / "results").exists() else -1


@pytest.mark.usefixtures("unpictured")
def test_killed_at_a_random_moment_and_started_again_it_ends_with_every_block_and_evaluation_once(tmp_path):
    grid = [
        "encoder=tiny_fastvithd",
        "resolution=64",
        "protocol=quick",
        *CALM,
        "protocol.blocks=2",
        "limit=1",
        "threads=1",
    ]
    rng = random.Random(os.getpid())
    sweep = subprocess.Popen(
        [sys.executable, "-m", "harness.sweep", *grid],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    lines, begin = (
        rng.choice([0, 4, 8, 9, 10]),
        time.monotonic(),
    )  # records in the store: measurements of two blocks, evaluations
    while sweep.poll() is None and time.monotonic() - begin < 600 and lines_of(tmp_path) < lines:
        time.sleep(0.01)
    time.sleep(rng.uniform(0, 2))
    sweep.send_signal(signal.SIGKILL)
    sweep.wait()
    done = run(tmp_path, *grid)
    assert done.returncode == 0, done.stderr
    blocks = Counter((v.key, v.block) for v in measurements(tmp_path) if v.status == "ok")
    assert sorted(blocks.values()) == [1] * (4 * 2)
    asked = Counter(e.key for e in evaluations(tmp_path) if e.status == "ok")
    assert sorted(asked.values()) == [1] * 6


def test_interrupted_it_keeps_what_is_measured_and_says_how_to_go_on(tmp_path):
    grid = ["encoder=tiny_fastvithd", "resolution=64", "protocol=quick", "protocol.blocks=20", "limit=1", "threads=1"]
    sweep = subprocess.Popen(
        [sys.executable, "-m", "harness.sweep", *grid],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        lines = [sweep.stdout.readline()]
        while lines[-1] and "block 1/20: " not in lines[-1]:
            lines.append(sweep.stdout.readline())
        assert any("to go" in line for line in lines[1:]), lines  # beside what a busy machine makes it note
        assert "block 1/20: 4 measurements" in lines[-1], lines
        sweep.send_signal(signal.SIGINT)
        _, said = sweep.communicate(timeout=300)
    finally:
        sweep.kill()
        sweep.wait()
    assert sweep.returncode == 130
    assert "the same command goes on from here" in said
    assert "Traceback" not in said
    good = [
        measurement for measurement in measurements(tmp_path) if measurement.status == "ok" and measurement.attempt == 0
    ]
    assert 4 <= len(good) <= 8


def test_a_point_that_fails_is_a_record_and_exit_code_1(tmp_path):
    """A checkpoint whose weights hold a NaN passes the checks of its files and fails in the worker: once it was asked,
    scored 0.000, and stood on the frontier."""
    folder = shutil.copytree(SHIPPED / "tiny_fastvithd-tiny_qwen2_m", tmp_path / "broken")
    state = load_file(folder / "model.safetensors")
    state["llm.model.norm.weight"][0] = math.nan
    save_file(state, folder / "model.safetensors")
    few = ["resolution=64", f"checkpoint={folder}", "suites=[shapes]", *QUICK]  # each failure costs a process
    done = run(tmp_path, *few)
    assert done.returncode == 1
    assert "failed: tiny_fastvithd 64px tiny_qwen2_m: error: vlm, block 0:" in done.stderr
    assert "the weights are not finite: llm.model.norm.weight holds a NaN or an infinity" in done.stderr
    among, bad = [measurement for measurement in measurements(tmp_path) if measurement.component.kind == "vlm"]
    assert among.reason.startswith("in turns with 3 more: ")  # then each was measured alone
    assert (bad.status, bad.samples) == ("error", None)
    assert {evaluation.status for evaluation in evaluations(tmp_path)} == {"error"}
    page = (tmp_path / "reports" / report_of(tmp_path) / "index.html").read_text()
    assert "A point that failed" in page
    good = Counter(measurement.component.kind for measurement in measurements(tmp_path) if measurement.status == "ok")
    assert good == {"encoder": 1, "connector": 1, "llm": 1}


@pytest.mark.usefixtures("unpictured")
def test_a_suite_that_cannot_be_read_costs_that_suite_alone(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "validation.csv").write_text("question,answer\nwhat?,7\n")
    asked = ["suites=[doc_read,docvqa]", f"data={{docvqa:{data}}}", "encoder=tiny_vit", "resolution=64", "direct=0"]
    done = run(tmp_path, *asked, *QUICK)
    assert done.returncode == 1
    why = f"{data}/validation.csv: no column answers and no image and no questionId and no question_types, which suite "
    assert f"note: suite docvqa cannot be asked: {why}docvqa asks for; the columns are: question, answer" in done.stderr
    (line,) = [one for one in done.stdout.splitlines() if one.startswith("tiny_vit 64px")]
    assert re.search(r" TTFT +\d.* ms.*  doc_read \d\.\d{3}  docvqa failed: ", line)
    (point,) = api.points(report_of(tmp_path), tmp_path / "results")
    assert point.timed
    assert {suite: evaluation.status for suite, evaluation in point.evaluations.items()} == {
        "doc_read": "ok",
        "docvqa": "error",
    }
    table = api.load(report_of(tmp_path), tmp_path / "results")
    assert table["doc_read"].notna().all()
    assert "accuracy" not in table or table["accuracy"].isna().all()
    page = (tmp_path / "reports" / report_of(tmp_path) / "index.html").read_text()
    assert "no column answers" in page
    row = table.iloc[0]
    assert quantity(row["ttft_model"], row["ttft_model_low"], row["ttft_model_high"], 1e3) in page
    again = run(tmp_path, *asked, *QUICK, "dry_run=true")
    assert "2 to measure" in again.stdout  # only what failed, and its blind run


def test_a_busy_machine_is_named_by_the_sweep_and_its_page(tmp_path):
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        done = run(tmp_path, "resolution=256", "protocol=quick", "direct=0", "suites=[]")
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert done.returncode == 3, done.stderr  # there is no time in it that could be trusted
    assert "note: this machine is busy: others use" in done.stdout
    assert re.search(r"TTFT +~\d+ ms  disturbed", done.stdout)
    assert "1 of 1 points rest on disturbed blocks; something else was using this machine" in done.stderr
    assert "rests on disturbed blocks" in (tmp_path / "reports" / report_of(tmp_path) / "index.html").read_text()


def test_a_notebook_is_warned_before_and_after(monkeypatch):
    use = Use(1.9, 2, 2, ("ffmpeg (pid 71, ann) 98%",), load=7.5)
    monkeypatch.setattr(telemetry, "look", lambda device, threads: use)

    def measure(self, units, seed, progress):
        found = {name: getattr(make_measurement(), name) for name in ("timer", "telemetry", "memory", "ceilings")}
        given = {**found, "seconds": 1.0, "disturbed": True}
        return [[[{**given, "samples": make_samples(component.kind)}]] for (component,) in units]

    monkeypatch.setattr(measurer.Measurer, "measure", measure)
    with pytest.warns(UserWarning, match="machine") as warned:
        api.measure("resolution=64", *QUICK, "suites=[]", "direct=0")
    before, after = (str(one.message) for one in warned)
    assert before.startswith(
        "this machine is busy: others use 1.9 of 2 processors (load 7.5): ffmpeg (pid 71, ann) 98%"
    )
    assert after.startswith("others used this machine, so that these times are rough: encoder tiny_fastvithd 64px, ")
    assert all("\n" not in text for text in (before, after))
    assert all(one.filename == __file__ for one in warned)  # it points at the caller's line


@pytest.mark.usefixtures("unpictured")
def test_full_size_parts_are_timed_with_random_weights(tmp_path):
    tiny = ["llm.config.num_hidden_layers=1", "llm.config.vocab_size=1000", "encoder=fastvit", "llm=qwen2_0_5b"]
    done = run(tmp_path, *tiny, "resolution=64", *QUICK)
    assert done.returncode == 0, done.stderr
    assert "no accuracy: fastvit + qwen2_0_5b have random weights" in done.stdout
    assert not evaluations(tmp_path)
    (whole,) = [v for v in measurements(tmp_path) if v.component.kind == "vlm" and v.attempt == 0]
    assert (whole.component.visual_tokens, whole.component.text_tokens, whole.component.weights) == (4, 24, "random")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["encoder=fastvitd"], "did you mean fastvit"),
        (["encoder=tiny_fastvithd", "resolution=100"], "nearest that work: 64, 128"),
        (["checkpoint=/nowhere"], "there is no such folder"),
        (["device=cuda"], "sees no cuda here"),
        (["direct=some"], "a whole number from 0 or all is expected"),
        (["seed=-1"], "a whole number from 0 is expected"),
        (["busy=maybe"], "busy=maybe: wait, warn or refuse is expected"),
        (["busy_wait=-1"], "a number of seconds from 0 to 86400 is expected"),
        (["busy_wait=nan"], "busy_wait=nan: nan is not a finite number"),
        (["wait=later"], "wait=later: true, false or a number of seconds is expected"),
        (["protocol.blocks=0"], "protocol: blocks: Input should be greater than or equal to 1"),
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
    (path,) = (folder / "results" / "measured").glob("*/measurements.jsonl")
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    path.write_bytes(lines[0] + b'{"broken": true}\n' + b"".join(lines[1:]))
    monkeypatch.chdir(folder)
    try:
        assert main(GRID) == 2
        assert "measurements.jsonl:2: damaged record" in capsys.readouterr().err
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
    assert refused.returncode == 3
    assert f"another sweep is measuring on this machine: pid {os.getpid()} on " in refused.stderr
    assert "wait=true waits for it" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert not (tmp_path / "results").exists()  # nothing is written before the machine is ours, no manifest either


def test_a_sweep_that_waits_measures_what_the_other_one_did_not(tmp_path, monkeypatch):
    """The other one measures block 0 while this one waits: it is not measured again."""
    from harness.timing import session

    seen = []
    monkeypatch.setattr(session.Session, "measure_all", lambda self, todo: seen.append(todo))
    monkeypatch.setattr(session.Session, "ask_all", lambda self, asked, again: None)
    monkeypatch.setattr(telemetry, "look", lambda device, threads: Use(0.0, threads, 2))
    honest, loads = store.load, []

    def load(root):
        loads.append(honest(root))
        if len(loads) == 2:  # after the lock was got
            return {key: {0: measurement} for key, measurement in made.items()}, {}
        return loads[-1]

    made = {}
    monkeypatch.setattr(store, "load", load)
    few = ["resolution=64", *QUICK, "suites=[]", "direct=0", "protocol.blocks=2", "wait=5"]
    assert run(tmp_path, *few).returncode == 0
    made |= {key: make_measurement(key=key) for key in seen[0][0]}
    loads.clear()
    assert run(tmp_path, *few).returncode == 0
    assert [len(block) for block in seen[0]] == [3, 3]
    assert [len(block) for block in seen[1]] == [0, 3]


@pytest.mark.parametrize("busy", ["refuse", "wait"])
def test_a_busy_machine_that_is_not_accepted_is_exit_code_3(busy, tmp_path, monkeypatch):
    from harness.timing import session

    def stop(self, todo):
        raise Disturbed("stopped: every measurement of 2 blocks in a row was disturbed")

    monkeypatch.setattr(session.Session, "measure_all", stop)
    monkeypatch.setattr(telemetry, "look", lambda device, threads: Use(1.9, threads, 2, ("ffmpeg (pid 71, ann) 98%",)))
    done = run(tmp_path, "resolution=64", *QUICK, "threads=2", "suites=[]", f"busy={busy}", "busy_wait=0")
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    if busy == "refuse":
        assert "ffmpeg (pid 71, ann) 98%" in done.stderr
        assert not (tmp_path / "results").exists()
    else:
        assert done.stderr == "error: stopped: every measurement of 2 blocks in a row was disturbed\n"
        assert "note: this machine is busy: others use 1.9 of 2 processors: ffmpeg" in done.stdout


def test_one_point_from_a_notebook(measured, monkeypatch):
    monkeypatch.setattr(telemetry, "look", lambda device, threads: Use(0.0, threads, 2))
    point = api.measure("resolution=64", *QUICK)
    assert point.status == "ok"
    assert point.planned.components.items() <= {(v.component.kind, v.key) for v in measurements(measured[0])}
    assert point.measurements["encoder"][0].samples.seconds["encode"][0] > 0
    assert json.loads(point.measurements["vlm"][0].model_dump_json())["component"]["visual_tokens"] == 1
