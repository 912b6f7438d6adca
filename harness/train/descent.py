"""The steps of a stage: AdamW, a linear warm-up, a cosine, and a state that a killed training goes on from.

What a step does is decided by the seed and its number alone: a training that was killed and goes on ends with the same
weights as one that was not, bit for bit on a CPU with one thread.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.progress import Progress
from harness.schema import HarnessError
from harness.train.checkpointing import keep, newest, read_said, take_up

Row = dict[str, Any]
ROW = 50
"""Steps of a row of the log."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a stage learns."""

    steps: int
    warmup: float
    """Share of the steps in which the rate rises."""
    decay: float = 0.05
    """Of the weights (AdamW)."""
    clip: float = 1.0
    """Longest gradient."""

    def rate(self, step: int) -> float:
        """The rate of a step, from 0, as a share of the highest one: a linear warm-up, then a cosine to 0."""
        warm = math.ceil(self.warmup * self.steps)
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, self.steps - warm)))


@dataclass(frozen=True)
class Course:
    """Where a stage is trained, and how it survives a kill: nothing that decides its outcome."""

    folder: Path
    """Its state lies there while it goes on."""
    identity: str
    title: str
    device: torch.device
    every: int
    """Steps after which the state is kept."""


@dataclass(frozen=True)
class Descended:
    """What is known of the steps when all are done."""

    log: list[Row]
    """Means of each `ROW` steps."""
    seconds: float


Step = Callable[[int, np.random.Generator], tuple[Tensor, dict[str, float]]]
"""Its number, from 0, and the generator that draws its samples -> the loss and named shares for the log."""


def generator_of(seed: int, step: int) -> np.random.Generator:
    """What draws the samples of a step; torch's own generator (a dropout, where there is one) is set likewise."""
    torch.manual_seed(seed * 1_000_003 + step)
    return np.random.default_rng([seed, step])


def descend(
    course: Course,
    model: nn.Module,
    rates: list[tuple[Iterable[nn.Parameter], float]],
    step: Step,
    schedule: Schedule,
    seed: int,
    measure: Callable[[], dict[str, float]] | None = None,
    measured_every: int = 1000,
) -> Descended:
    """Train `model` in place, from its kept state where there is one. `rates`: what learns, with its highest rate.

    `measure` says what else belongs into a row, every `measured_every` steps and at the end. Raises `HarnessError` for
    a loss that is not finite, and for a state of another training.
    """
    model.to(course.device)
    groups = [([p for p in weights if p.requires_grad], rate) for weights, rate in rates]
    optimiser = torch.optim.AdamW(
        [{"params": weights, "lr": rate} for weights, rate in groups], betas=(0.9, 0.98), weight_decay=schedule.decay
    )
    state = newest(course.folder / "state")
    said: dict[str, Any] = {"step": 0, "identity": course.identity, "log": [], "window": {}, "seconds": 0.0}
    if state:
        said = read_said(state, "log")
        if said.get("identity") != course.identity:
            raise HarnessError(f"{state}: the state of another training; remove it, or give another cache=")
        take_up(model, optimiser, state)
    log, window, begin, spent = said["log"], said["window"], int(said["step"]), float(said["seconds"])
    start = time.perf_counter()

    def seconds() -> float:
        return round(spent + time.perf_counter() - start, 1)

    with ExitStack() as stack:
        progress: Progress | None = None
        for number in range(begin, schedule.steps):
            for group, (_, rate) in zip(optimiser.param_groups, groups, strict=True):
                group["lr"] = rate * schedule.rate(number)
            with torch.autocast(course.device.type, torch.bfloat16, enabled=course.device.type != "cpu"):
                loss, shares = step(number, generator_of(seed, number))
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_([p for weights, _ in groups for p in weights], schedule.clip)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            done = number + 1
            for name, share in {"loss": float(loss.detach()), **shares}.items():
                window.setdefault(name, []).append(share)
            if done % ROW == 0 or done == schedule.steps:
                means = {name: round(float(np.mean(values)), 4) for name, values in sorted(window.items())}
                if not math.isfinite(means["loss"]):
                    raise HarnessError(f"{course.title}: step {done}: the loss is not finite; give a lower rate (lr)")
                row = {"stage": course.title, "step": done, "seconds": seconds(), **means}
                if measure and (done % measured_every == 0 or done == schedule.steps):
                    row |= {name: round(value, 4) for name, value in measure().items()}
                log.append(row)
                window = {}
            if progress is None:
                rest = (time.perf_counter() - start) * (schedule.steps - done)
                progress = stack.enter_context(Progress(rest))
                progress.line(f"{course.title}: {schedule.steps - begin:,} of {schedule.steps:,} steps to go")
            progress.advance((done - begin) / (schedule.steps - begin))
            progress.doing(f"{course.title} step {done:,} of {schedule.steps:,}", _shown(log))
            if done % course.every == 0 and done < schedule.steps:
                at = {"step": done, "identity": course.identity, "log": log, "window": window, "seconds": seconds()}
                keep(model, optimiser, course.folder / "state", at, first=True)
    return Descended(log, seconds())


def forget(course: Course) -> None:
    """Remove the state of a stage whose outcome was kept."""
    shutil.rmtree(course.folder / "state", ignore_errors=True)


def _shown(log: list[Row]) -> str:
    """The last row in a few words."""
    row = log[-1] if log else {}
    return "  ".join(f"{name} {value:.3f}" for name, value in row.items() if name not in ("stage", "step", "seconds"))
