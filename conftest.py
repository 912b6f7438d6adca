"""Fixtures of the whole project: a clock moved by hand, records without a device, a VLM of a few thousand weights."""

from __future__ import annotations

import copy
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Tests measure for no comparison: they need not wait for a sweep on this machine, nor keep one waiting.
os.environ.setdefault("VLM_HARNESS_BUSY", "warn")
os.environ.setdefault("VLM_HARNESS_LOCK", str(Path(tempfile.gettempdir()) / f"vlm-harness-{os.getpid()}.lock"))

from harness.analysis.composition import Result
from harness.configuration import compose
from harness.schema import (
    STAGES_OF,
    Answer,
    Ceilings,
    Component,
    Connector,
    Encoder,
    Evaluation,
    Fusion,
    Llm,
    Machine,
    Measurement,
    Memory,
    Planned,
    Point,
    Protocol,
    Samples,
    Score,
    Source,
    Suite,
    Telemetry,
    TimerTest,
    Work,
    component_key,
    question_key,
)
from harness.timing.worker import Worker


class Forked(ForkServerProcess):
    """A process of its own with the environment of its parent, as a spawned one has it."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._environment = dict(os.environ)

    def run(self) -> None:
        os.environ.clear()
        os.environ.update(self._environment)
        super().run()


class Imported(ForkServerContext):
    """Starts processes from one that has imported what measures, and has done nothing else: the eight seconds of
    processor time that these imports take are spent once, not in each of a hundred processes."""

    Process = Forked


@pytest.fixture(scope="session", autouse=True)
def imported() -> Iterator[None]:
    """Measuring processes begin with their imports done, and are as fresh otherwise: each is forked from a process that
    never computed. Those of a real command (`python -m harness.sweep`) and of tests that ask for `spawned` begin as a
    user's do."""
    multiprocessing.set_forkserver_preload(["harness.timing.measurer", "conftest"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Worker, "context", Imported())
        yield


@pytest.fixture
def spawned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring processes begin as a user's do."""
    monkeypatch.setattr(Worker, "context", multiprocessing.get_context("spawn"))


@pytest.fixture(scope="session", autouse=True)
def composed_once() -> Iterator[None]:
    """The same overrides are composed once: Hydra takes a tenth of a second for each point of a sweep."""
    known: dict[Any, dict[str, Any]] = {}
    honest: Callable[[Sequence[str], str], dict[str, Any]] = compose._one

    def one(overrides: Sequence[str], root: str) -> dict[str, Any]:
        folders = (str(compose.ROOT), *(entry.path for entry in os.scandir(compose.ROOT) if entry.is_dir()))
        files = [(entry.path, entry.stat().st_mtime_ns) for folder in folders for entry in os.scandir(folder)]
        key = (tuple(overrides), root, tuple(sorted(files)), os.environ.get("VLM_HARNESS_BUSY"))
        if key not in known:
            known[key] = honest(overrides, root)
        return copy.deepcopy(known[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compose, "_one", one)
        yield


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
GATED = Fusion(
    name="gated",
    title="gated cross-attention",
    kind="gated_cross_attention",
    args={"heads": 2, "head_dim": 8},
    every=2,
    first=1,
    count=2,
    memory=(1, 3, 64),
    in_sequence=False,
    source="tests",
)
PROTOCOL = Protocol(
    blocks=6, warmup=1, warmup_seconds=0, min_samples=6, max_samples=6, precision=0.05, max_seconds=5, text_tokens=24
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


MILLISECONDS = {
    "preprocess": 1,
    "tokenize": 2,
    "transfer": 3,
    "encode": 4,
    "project": 5,
    "fuse": 9,
    "prefill": 6,
    "sample": 7,
    "prefill_visual": 8,
    "ttft_fused": 27,
}
"""What each stage of a made-up measurement takes, before its scale."""


def make_component(kind: str = "encoder", **changes: Any) -> Component:
    point = make_point()
    fields: dict[str, Any] = {
        "kind": kind,
        "encoder": None if kind == "llm" else point.encoder,
        "connector": point.connector if kind in ("connector", "vlm") else None,
        "fusion": GATED if kind == "fusion" else None,
        "llm": None if kind == "encoder" else point.llm,
        "resolution": point.resolution if kind in ("encoder", "connector", "vlm") else None,
        "visual_tokens": point.visual_tokens,
        "text_tokens": 24 if kind in ("llm", "vlm") else 0,
        "device": "cpu",
        "dtype": "float32",
        "attention": "sdpa",
        "threads": 1,
        "weights": "random",
        "protocol": PROTOCOL,
    }
    return Component(**(fields | changes))


def make_samples(kind: str = "encoder", scale: float = 1.0, passes: int = 7, marks: tuple[str, ...] = ()) -> Samples:
    """Stage s of pass i takes MILLISECONDS[s] * (1 + i / 100) * scale; the first pass is warm-up."""
    grow = [(1 + i / 100) * scale * 1e-3 for i in range(passes)]
    return Samples(
        seconds={name: tuple(MILLISECONDS[name] * g for g in grow) for name in STAGES_OF[kind]},
        warmup=1,
        marks=marks or ("",) * passes,
        stop_reason="max_samples",
        repeated={},
        overhead=1e-4,
    )


ENTRY: dict[str, Any] = {
    "status": "ok",
    "machine": MACHINE,
    "commit": "",
    "started": "2026-01-02T03:04:05+00:00",
    "seconds": 1.0,
    "command": "python -m harness.sweep",
}
"""Where made-up measurements and evaluations come from."""


def make_measurement(kind: str = "encoder", block: int = 0, scale: float = 1.0, **changes: Any) -> Measurement:
    component = changes.pop("component", None) or make_component(kind)
    fields: dict[str, Any] = {
        "key": component_key(component, MACHINE),
        **ENTRY,
        "component": component,
        "block": block,
        "attempt": 0,
        "process": f"process-{block}",
        "seed": 0,
        "position": 0,
        "timer": TimerTest(
            resolution=1e-7,
            empty=1e-6,
            launch=0.02,
            awaited=0.02,
            awaited_double=0.04,
            fetched_after=1e-5,
            synchronous=True,
        ),
        "samples": make_samples(kind, scale, marks=changes.pop("marks", ())),
        "telemetry": Telemetry(seconds=1.0),
        "memory": Memory(before=500, loaded=600, peak=650, source="process (RSS, VmHWM)"),
        "ceilings": Ceilings(flops_per_second=1e11, bytes_per_second=1e10),
        "work": {"encode": Work(flops=10**8, bytes=10**6, eager_bytes=3 * 10**7, parameters=1000)}
        if kind == "encoder"
        else {},
    }
    return Measurement(**(fields | changes))


def failed_measurement(kind: str = "encoder", block: int = 0, **changes: Any) -> Measurement:
    """A measurement without samples: `status` and `reason` say why."""
    empty = {"samples": None, "telemetry": None, "memory": None, "ceilings": None}
    return make_measurement(kind, block, **(empty | changes))


def make_score(suite: str, right: int, questions: int = 20) -> Score:
    answers = tuple(
        Answer(question_id=str(i), image=str(i // 4), kind="any", text="yes", parsed="yes", score=float(i < right))
        for i in range(questions)
    )
    return Score(suite=suite, metric="anls", data="0", answers=answers, seconds=0.1)


def make_evaluation(suite: str = "doc_read", right: int = 10, **changes: Any) -> Evaluation:
    point = changes.pop("point", None) or make_point()
    noun = Suite(
        name=suite,
        title=suite,
        metric="anls",
        source=Source(path="drawn", name=suite, split="test"),
        prompt="{{question}}",
        fields={"id": "questionId", "answers": "answers"},
        images=5,
    )
    fields: dict[str, Any] = {
        "key": question_key(point, noun, MACHINE, ""),
        **ENTRY,
        "point": point,
        "suite": noun,
        "score": make_score(suite, right),
    }
    return Evaluation(**(fields | changes))


def make_result(
    point: Point | None = None,
    scales: tuple[float, ...] = (1.0,) * 6,
    direct: tuple[float, ...] = (),
    right: tuple[int, int] | None = (10, 16),
    no_accuracy: str = "",
) -> Result:
    """A point in `len(scales)` blocks, all of its components `scales[block]` times as slow as `MILLISECONDS`."""
    point = point or make_point()
    measurements: dict[str, dict[int, Measurement]] = {}
    keys = {}
    for kind in ("encoder", "connector", "llm", *(("vlm",) if direct else ())):
        parts = {"encoder": None if kind == "llm" else point.encoder, "llm": None if kind == "encoder" else point.llm}
        component = make_component(kind, **parts, visual_tokens=point.visual_tokens)
        if kind != "llm":
            component = component.model_copy(update={"resolution": point.resolution})
        keys[kind] = component_key(component, MACHINE)
        each = direct if kind == "vlm" else scales
        measurements[kind] = {
            block: make_measurement(kind, block, scale, component=component) for block, scale in enumerate(each)
        }
    suites = dict(zip(("doc_read", "shapes"), right or (), strict=False))
    evaluations = {suite: make_evaluation(suite, count, point=point) for suite, count in suites.items()}
    planned = Planned(
        point=point,
        components=keys,
        evaluations={suite: evaluation.key for suite, evaluation in evaluations.items()},
        command="python -m harness.sweep",
        no_accuracy=no_accuracy,
    )
    return Result(planned, measurements, evaluations)


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


def talkative(vlm: Any) -> Any:
    """Random weights that answer differently to different images and questions."""
    import torch

    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in vlm.llm.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.3, generator=generator)
        for parameter in vlm.connector.parameters():
            parameter.mul_(20)
    return vlm
