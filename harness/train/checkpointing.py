"""The state of an unfinished training: what has learned, and the optimiser's moments, as safetensors.

A state is a folder that is written beside and renamed, so it is whole or not there. Weights and moments are gathered
from all processes, however they are spread (`torch.distributed.checkpoint`), and go back to any number of them. It
holds neither a schedule nor a generator of random numbers: here both follow from the step's number and the seed.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from harness.schema import HarnessError
from harness.storage.intake import read_json, tensors_of

LEARNED, MOMENTS, SAID = "learned.safetensors", "moments.safetensors", "state.json"


def gather(model: nn.Module, learned: bool = False) -> dict[str, Tensor]:
    """The weights of a model that may be spread over processes, whole, on the first one; the others get nothing.
    `learned`: without what is frozen. Called by all processes together."""
    how = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=learned)
    found: dict[str, Any] = get_model_state_dict(model, options=how)
    return {name: value.detach().clone() for name, value in found.items()}  # tied ones are no longer one tensor


def keep(model: nn.Module, optimiser: torch.optim.Optimizer, folder: Path, said: dict[str, Any], first: bool) -> None:
    """Write the state after `said["step"]` steps, then remove older ones; called by all processes, `first` writes."""
    learned = gather(model, learned=True)
    how = StateDictOptions(full_state_dict=True, cpu_offload=True, flatten_optimizer_state_dict=True)
    moments: dict[str, Any] = get_optimizer_state_dict(model, optimiser, options=how)
    if not first:
        return
    whole = folder / f"step-{said['step']:08d}"
    part = whole.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    save_file(learned, part / LEARNED)
    tensors = {name: value for name, value in moments.items() if isinstance(value, Tensor)}
    save_file({name: value.clone() for name, value in tensors.items()}, part / MOMENTS)
    (part / SAID).write_text(json.dumps(said))
    shutil.rmtree(whole, ignore_errors=True)
    part.rename(whole)
    for other in folder.iterdir():
        if other != whole:
            shutil.rmtree(other, ignore_errors=True)


def newest(folder: Path) -> Path | None:
    """The last whole state, if there is one."""
    return max((path for path in folder.glob("step-*") if path.suffix != ".part"), default=None)


def read_said(state: Path, listed: str) -> dict[str, Any]:
    """What was said of a state when it was kept: `step`, and under the name `listed` a list."""
    found = read_json(state / SAID)
    if not isinstance(found, dict) or not isinstance(found.get("step"), int) or not isinstance(found.get(listed), list):
        raise HarnessError(f"{state / SAID}: not the state of a training; remove {state}, or give another folder")
    return found


def take_up(model: nn.Module, optimiser: torch.optim.Optimizer, state: Path) -> None:
    """Put a state back into a model and its optimiser; called by all processes, each of which reads it."""
    for name in (LEARNED, MOMENTS):
        tensors_of(state / name)
    learned = load_file(state / LEARNED)
    moments: dict[str, dict[str, Tensor]] = {}
    for name, value in load_file(state / MOMENTS).items():
        weight, _, what = name.removeprefix("state.").rpartition(".")
        moments.setdefault(weight, {})[what] = value
    bare = getattr(model, "module", model)  # DistributedDataParallel's
    names = {id(weight): name for name, weight in bare.named_parameters()}
    groups = [
        {key: value for key, value in group.items() if key != "params"}
        | {"params": [names[id(weight)] for weight in group["params"]]}
        for group in optimiser.param_groups
    ]
    whole: dict[str, Any] = {"state": moments, "param_groups": groups}
    try:
        set_model_state_dict(model, learned, options=StateDictOptions(full_state_dict=True, strict=False))
        if torch.distributed.is_initialized():
            set_optimizer_state_dict(model, optimiser, whole, options=StateDictOptions(full_state_dict=True))
        else:  # torch 2.6 cannot put several groups back in that way
            order = [name for group in groups for name in group["params"]]
            known = {number: moments[name] for number, name in enumerate(order) if name in moments}
            optimiser.load_state_dict({**optimiser.state_dict(), "state": known})
    except (RuntimeError, ValueError, KeyError) as error:
        raise HarnessError(f"{state}: not the state of this training: {error}; give another folder") from error
