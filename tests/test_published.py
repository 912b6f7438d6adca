"""A published VLM from the command line: timed and asked like any other, killed and resumed."""

import json
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
from test_questions import SCHEMAS, picture, write

from benchmarks.checkpoints import KINDS
from harness.schema import Evaluation, HubComponent, Measurement
from harness.storage import store
from harness.sweep import main

QUESTIONS = 120


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint, and two suites in the hub's layout."""
    root = tmp_path_factory.mktemp("published")
    KINDS["qwen2_vl"](root / "tiny-qwen")
    for name, count in (("docvqa", QUESTIONS), ("mm_vet", 4)):
        rows = [{"question": f"what is {k}?", "image": picture(k // 2), **SCHEMAS[name][1](k)} for k in range(count)]
        write(root / name, name, rows)
    return root


def command(folder, *more):
    where = f"data={{docvqa:{folder / 'docvqa'},mm_vet:{folder / 'mm_vet'}}}"
    vlm = ["vlm=hub", f"vlm.path={folder / 'tiny-qwen'}", "vlm.title='Tiny <Qwen>'", "resolution=112"]
    rest = [
        "suites=[docvqa,mm_vet]",
        where,
        "protocol=quick",
        "+protocol.lost=1",
        "+protocol.disturbed=1",
        "threads=1",
        *more,
    ]
    return [sys.executable, "-m", "harness.sweep", *vlm, *rest]


def journal(folder):
    files = list((folder / "results" / "journal").glob("*.jsonl"))
    return [json.loads(line)["key"] for file in files for line in file.read_text().splitlines() if line.endswith("}")]


def test_killed_while_it_answers_it_loses_no_answer_and_repeats_none(folder, tmp_path, monkeypatch):
    environment = os.environ | {"HF_HOME": str(tmp_path / "hf")}
    process = subprocess.Popen(command(folder), cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 600
    while not journal(folder) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(1)  # the child ends with its parent
    before = journal(folder)
    assert 0 < len(before) < QUESTIONS
    monkeypatch.chdir(folder)
    assert main(command(folder)[3:]) == 0
    after = journal(folder)
    assert len(after) == len(set(after)) == 2 * QUESTIONS + 4  # with sight, without, and what others judge
    taken = store.read_all(folder / "results", Evaluation)
    evaluations = {evaluation.suite.name: evaluation for evaluation in taken if evaluation.suite.image == "given"}
    (blind,) = [evaluation for evaluation in taken if evaluation.suite.image == "grey"]
    assert (blind.suite.name, len(blind.score.answers)) == ("docvqa", QUESTIONS)
    assert evaluations["docvqa"].score.resumed == len(before)
    assert len(evaluations["docvqa"].score.answers) == QUESTIONS


def test_its_stages_are_timed_and_what_its_own_code_hides_is_missing(folder):
    (measurement,) = store.read_all(folder / "results", Measurement)
    assert measurement.status == "ok", measurement.reason
    assert set(measurement.samples.seconds) == set(HubComponent.STAGES)
    # Qwen's processor rounds 768 / sqrt(768**2 / 112**2), which is 111.99999999999999, down to 84 px.
    assert measurement.component.visual_tokens == 9
    assert measurement.component.text_tokens >= 24
    table = pd.read_csv(next((folder / "reports").glob("*")) / "table.csv")
    (row,) = table.to_dict("records")
    assert row["source"] == "measured as a whole"
    assert not {"project", "tokenize"} & set(table.columns)
    stages = ("preprocess", "transfer", "encode", "prefill", "sample")
    assert row["ttft_user"] == pytest.approx(sum(row[stage] for stage in stages))
    assert row["ttft_model"] == pytest.approx(row["encode"] + row["prefill"])
    assert row["ttft_fused"] > 0


def test_its_page_escapes_its_title_and_names_the_answers_to_be_judged(folder):
    report = next((folder / "reports").glob("*"))
    page = (report / "index.html").read_text()
    assert "Tiny &lt;Qwen&gt;" in page
    assert "Tiny <Qwen>" not in page
    assert "answers in submissions/" in page
    (submission,) = (report / "submissions").iterdir()
    assert len(json.loads(submission.read_text())) == 4


def test_the_same_command_again_measures_nothing(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert main(command(folder)[3:]) == 0
    assert "0 to measure" in capsys.readouterr().out


def test_a_model_that_is_not_there_is_one_line(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert main(command(folder, "vlm.path=no/such-model")[3:]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: vlm no/such-model: neither a folder nor to be had from the hub")
    assert len(said.splitlines()) == 1
