"""Fixtures of the whole project: a clock moved by hand, records without a device, a VLM of a few thousand weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from harness.schema import (
    Answer,
    Connector,
    Encoder,
    Latency,
    Llm,
    Machine,
    Point,
    Protocol,
    Record,
    Score,
    record_key,
)


class Clock:
    """A clock that moves only when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


ENCODER = Encoder(
    name="micro_fastvithd",
    title="micro FastViTHD",
    timm="fastvit_mci3",
    args={"layers": [1, 1, 1, 1, 1], "embed_dims": [16, 16, 16, 32, 32], "mlp_ratios": [1, 1, 1, 1, 1]},
    stride=64,
    features=64,
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
    native=128,
    source="tests",
)
LLM = Llm(
    name="micro_qwen2",
    title="micro Qwen2",
    architecture="qwen2",
    config={
        "vocab_size": 0,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
    },
    source="tests",
)
CONNECTOR = Connector(name="mlp2x_gelu", kind="mlp2x_gelu")
PROTOCOL = Protocol(
    warmup=1, warmup_seconds=0, min_samples=6, max_samples=6, precision=0.05, max_seconds=5, text_tokens=24
)
MACHINE = Machine(
    host="0" * 8,
    system="Linux",
    processor="test processor",
    cores=2,
    memory_bytes=2**34,
    device="cpu",
    device_name="test processor",
    python="3.11",
    libraries={"torch": "0"},
)


def make_point(**changes: Any) -> Point:
    fields: dict[str, Any] = {
        "encoder": ENCODER,
        "connector": CONNECTOR,
        "llm": LLM,
        "resolution": 128,
        "device": "cpu",
        "dtype": "float32",
        "attention": "sdpa",
        "threads": 1,
        "weights": "random",
        "suites": (),
        "protocol": PROTOCOL,
    }
    return Point(**(fields | changes))


def make_latency(scale: float = 1.0, passes: int = 7, warmup: int = 1) -> Latency:
    """Stage k of pass i takes (k + 1) * (1 + i / 100) * scale ms; a fused pass takes 27 of them."""
    names = ["preprocess", "tokenize", "transfer", "encode", "project", "prefill", "sample", "prefill_visual"]
    grow = [(1 + i / 100) * scale * 1e-3 for i in range(passes)]
    seconds = {name: tuple((k + 1) * g for g in grow) for k, name in enumerate(names)}
    return Latency(
        seconds=seconds | {"ttft_fused": tuple(27 * g for g in grow)},
        warmup=warmup,
        stop_reason="max_samples",
        visual_tokens=4,
        text_tokens=(8,) * passes,
        peak_bytes=10**9,
        peak_source="tests",
    )


def make_score(suite: str, right: int, questions: int = 20) -> Score:
    answers = tuple(
        Answer(question_id=str(i), image=str(i // 4), kind="any", text="yes", score=float(i < right))
        for i in range(questions)
    )
    return Score(suite=suite, metric="anls", data="0", answers=answers, seconds=0.1)


def make_record(**changes: Any) -> Record:
    point = changes.pop("point", None) or make_point()
    fields: dict[str, Any] = {
        "key": record_key(point, MACHINE, ""),
        "status": "ok",
        "point": point,
        "machine": MACHINE,
        "commit": "",
        "started": "2026-01-02T03:04:05+00:00",
        "seconds": 1.0,
        "command": "python -m harness.sweep",
        "latency": make_latency(),
        "scores": (make_score("doc_read", 10), make_score("shapes", 16)),
    }
    return Record(**(fields | changes))


@pytest.fixture(scope="session")
def vlm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VLM of random weights with the reference tokenizer, saved as training saves one."""
    import torch

    from harness.models.tokenizer import build_tokenizer
    from harness.models.vlm import Vlm, VlmSpec
    from harness.suites import embedded

    torch.manual_seed(0)
    spec = VlmSpec(encoder=ENCODER, connector=CONNECTOR, llm=LLM, training_form=True)
    vlm = Vlm(spec, build_tokenizer(embedded.words())).eval()
    folder = tmp_path_factory.mktemp("vlm") / "micro"
    vlm.save(folder, {"command": "tests"})
    return folder
