"""Stages of a training: each has its own checkpoint, and what was finished once is never learned again.

A stage is named by everything that decides its outcome. At its end the weights are rounded (matrices to half
precision) and written; the next stage always begins from that file, so a file that is shipped with the package, half
as large as what was trained, is gone on from exactly as if it had been trained here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from harness.models.vlm import stored
from harness.schema import HarnessError, fingerprint
from harness.storage.intake import read_json

FINISHED = Path(__file__).parent / "finished"
"""Finished stages that come with the package: `STAGE-SUBJECT.safetensors` and `.json`."""


@dataclass(frozen=True)
class Stage:
    """One part of a training, with everything that decides what comes out of it."""

    name: str
    """What is learned, e.g. `letters`."""
    subject: str
    """What learns: the name of an encoder, of an LLM, or of both."""
    decides: tuple[Any, ...]
    """Plain values: part of the recipe, specifications, what drew the samples, the seed, the stages before."""

    @property
    def title(self) -> str:
        """Stage and subject, as files are called."""
        return f"{self.name}-{self.subject}"

    @property
    def identity(self) -> str:
        """Fingerprint of everything that decides the outcome."""
        return fingerprint([self.name, *self.decides])

    def folder(self, cache: Path) -> Path:
        """Where it is trained."""
        return cache / f"{self.title}-{self.identity}"


@dataclass(frozen=True)
class Outcome:
    """A finished stage."""

    weights: Path
    """Safetensors, by the names of the modules that learned."""
    record: dict[str, Any]
    """`identity`, `seconds`, `samples`, `steps`, `machine`, `log` and what else its stage says."""

    def restore(self, **modules: nn.Module) -> None:
        """Put the weights into the modules, which are named as they were when they were kept."""
        try:
            found = load_file(self.weights)
            for name, module in modules.items():
                own = {
                    key.removeprefix(f"{name}."): value for key, value in found.items() if key.startswith(f"{name}.")
                }
                missing, strange = module.load_state_dict(own, strict=False)
                if strange or {*missing} - _tied(module):
                    raise HarnessError(f"{self.weights}: these are not the weights of this {name}; remove the file")
        except (SafetensorError, OSError, RuntimeError) as error:
            raise HarnessError(f"{self.weights}: {error}; remove the file") from error


def _tied(module: nn.Module) -> set[str]:
    """Names of tensors that are another one's: an LLM's head that is its embedding."""
    seen: set[int] = set()
    tied = set()
    for name, value in module.state_dict().items():
        if value.numel() and value.data_ptr() in seen:
            tied.add(name)
        seen.add(value.data_ptr())
    return tied


def find(stage: Stage, cache: Path) -> Outcome | None:
    """The outcome of a stage that was finished here or comes with the package."""
    for weights in (stage.folder(cache) / "weights.safetensors", FINISHED / f"{stage.title}.safetensors"):
        said = weights.with_suffix(".json")
        if weights.is_file() and said.is_file():
            record = read_json(said)
            if isinstance(record, dict) and record.get("identity") == stage.identity:
                return Outcome(weights, record)
    return None


def finish(stage: Stage, cache: Path, record: dict[str, Any], **modules: nn.Module) -> Outcome:
    """Keep what a stage has learned: rounded weights of the named modules, and what is known about them."""
    folder = stage.folder(cache)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{name}.{key}": value
        for name, module in modules.items()
        for key, value in stored(module.state_dict(), torch.float16).items()
        if key not in _tied(module)
    }
    outcome = Outcome(folder / "weights.safetensors", {"identity": stage.identity, "stage": stage.name, **record})
    outcome.weights.with_suffix(".json").write_text(json.dumps(outcome.record, indent=1) + "\n")
    part = outcome.weights.with_suffix(".part")
    save_file(tensors, part)
    part.chmod(0o644)  # safetensors writes for the owner alone
    part.replace(outcome.weights)  # last: a folder with weights is complete
    return outcome


def reach(stage: Stage, cache: Path, learn: Callable[[], Outcome]) -> Outcome:
    """The outcome of a stage, learned only where it is nowhere to be found; two trainings never learn the same."""
    if (outcome := find(stage, cache)) is not None:
        return outcome
    stage.folder(cache).mkdir(parents=True, exist_ok=True)
    with FileLock(stage.folder(cache) / "lock"):
        return find(stage, cache) or learn()
