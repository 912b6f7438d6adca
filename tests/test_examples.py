"""The worked examples of CONTRIBUTING.md, as they stand there."""

import re
import shlex
from pathlib import Path

import pytest

import harness
from benchmarks.checkpoints import KINDS
from harness.config import ROOT, compose_all
from harness.points import make_point
from harness.sweep import main

BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (ROOT.parent / "CONTRIBUTING.md").read_text(), re.DOTALL)
NAME = re.compile(r"^# (\S+)$", re.MULTILINE)
"""The comment that says where a file goes."""
COMMANDS = [text.strip() for language, text in BLOCKS if language == "bash"]


@pytest.fixture
def example(tmp_path, monkeypatch):
    """The files of the examples in their places; the hub is a folder here."""
    hub = KINDS["smolvlm"](tmp_path / "hub")
    made = []
    for language, text in BLOCKS:
        if language in ("yaml", "python"):
            name = NAME.search(text)[1]
            path = ROOT.parent / name if language == "yaml" else tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text.replace("HuggingFaceTB/SmolVLM-256M-Instruct", str(hub)))
            made += [path] if language == "yaml" else []
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for path in made:
        path.unlink()


def test_there_are_four_examples():
    assert len(COMMANDS) == 4
    assert [Path(NAME.search(text)[1]).stem for kind, text in BLOCKS if kind == "yaml"] == [
        "example_deit",
        "example_vlm",
        "example_mine",
        "example_system",
        "average_pool_3",
    ]


def test_the_examples_plan_what_they_promise(example, capsys):
    said = []
    for command in COMMANDS:
        assert main(shlex.split(command)[3:]) == 0
        said.append(capsys.readouterr().out)
    assert "example_deit 224px qwen2_0_5b" in said[0]
    assert "example_vlm 512px" in said[1]
    assert "1 exams" in said[1] or "1 of 1 exams" in said[1]
    assert "example_mine 128px" in said[2]
    assert "example_mine 256px" in said[2]
    assert "example_system 756px llm=qwen2_0_5b" in said[3]
    assert "example_system 756px llm=qwen2_1_5b" in said[3]


def test_a_system_of_ones_own_has_the_tokens_that_it_says(example):
    point = make_point(compose_all(["system=example_system"])[1][0])
    assert point.visual_tokens == point.system.visual_tokens == 405


def test_an_encoder_of_ones_own_is_measured(example):
    small = ["llm.config.num_hidden_layers=1", "llm.config.vocab_size=1000", "protocol=quick", "threads=1"]
    point = harness.measure("encoder=example_mine", "llm=qwen2_0_5b", "resolution=64", *small)
    assert point.status == "ok"
    assert point.visits["encoder"][0].component.visual_tokens == 4
    assert point.times()["encode"].value > 0
