"""From the command line to composed points: Hydra's groups and overrides, and grids that are unions of products.

`sweeps/` is the config root. A sweep file lists grids; a grid gives one or several values to each axis:

    grids:
      - {encoder: [a, b], llm: m, resolution: [64, 128]}
      - {encoder: a, llm: [s, l], resolution: [64, 128]}

A file may also have `options`, defaults of its own (`options: {protocol: long}`), and, in place of grids, `claims`,
whose sides (`references` and `candidate`) are grids of one cell each.

Overrides of the command line win over every grid, may themselves list several values (`resolution=256,512`), and are
what makes the grid where no sweep is named. Every point is composed here before anything is measured.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

import sweeps
from harness.schema import HarnessError

ROOT = Path(sweeps.__file__).parent

Plain = dict[str, Any]

SWEEPS = ("sweep", "training")
"""Config groups whose files list grids."""

REPORTED = ("accuracy", "published_recipe")
"""Options that decide what stands beside a measurement."""

PARTS = {"system", "encoder", "connector", "fusion", "llm", "vlm", "resolution", "tiles", "also"}
"""Options that say which model a point is."""

HOUSEKEEPING = (
    *(*SWEEPS, *REPORTED),
    *("force", "direct", "seed", "dry_run", "timeout", "busy", "busy_wait", "wait"),
    *("results", "reports", "folder", "cache"),
)
"""Options that do not decide what a point is."""


def options(group: str) -> list[str]:
    """Names of the files of a config group, e.g. every encoder."""
    return sorted(path.stem for path in (ROOT / group).glob("*.yaml"))


def _one(overrides: Sequence[str], root: str) -> Plain:
    try:
        config = compose(config_name=root, overrides=list(overrides))
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise HarnessError(" ".join(str(error).split("\n")[0].split())) from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _check_names(overrides: Sequence[Override], root: str) -> None:
    """Refuse an override whose key or whose option of a group does not exist, even with Hydra's `+`."""
    keys = [str(key) for key in OmegaConf.load(ROOT / f"{root}.yaml") if key != "defaults"]
    groups = sorted(path.name for path in ROOT.iterdir() if path.is_dir() and any(path.glob("*.yaml")))
    for override in overrides:
        key = override.get_key_element().lstrip("+~")
        if key.partition(".")[0] not in (*keys, *groups):
            raise HarnessError(unknown("option", key, sorted({*keys, *groups})))
        for value in _values(override) if key in groups else ():
            if value not in options(key):
                raise HarnessError(unknown(key, value, options(key)))


def unknown(kind: str, name: str, known: Sequence[str]) -> str:
    """One line for a name that does not exist, with the near names first."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(known)}"
    return f"unknown {kind} {name!r}; {hint}"


def _values(override: Override) -> list[str]:
    """Every value of an override as text: one, or each of `a,b`."""
    if override.is_sweep_override():
        return [str(value) for value in override.sweep_string_iterator()]
    return [override.get_value_element_as_str()]


def _decides(override: Override) -> bool:
    return override.get_key_element().lstrip("+") not in HOUSEKEEPING


def _axes(grid: Plain) -> dict[str, list[str]]:
    return {
        key: [
            str(v).lower() if isinstance(v, bool) else str(v) for v in (value if isinstance(value, list) else [value])
        ]
        for key, value in grid.items()
    }


def sides(claim: Plain) -> list[Plain]:
    """The grids of one cell that a claim compares: its references, and last its candidate."""
    return [*(claim.get("references") or []), *([claim["candidate"]] if claim.get("candidate") else [])]


def cell_of(side: Plain) -> str:
    """What `compose_all` calls the point of a grid of one cell (`cell`)."""
    return "\n".join(sorted(f"{key}={value}" for key, (value,) in _axes(side).items()))


def _refuse(overrides: Sequence[Override]) -> None:
    """Refuse what Hydra would take but a sweep cannot mean."""
    for override in overrides:
        if override.is_delete():
            raise HarnessError(f"{override.input_line}: nothing can be taken away; give the option another value")
        if override.is_sweep_override() and override.get_key_element().lstrip("+") in SWEEPS:
            raise HarnessError(f"{override.input_line}: one sweep at a time")


def _parse(argument: str) -> Override:
    """One argument of the command line."""
    try:
        return OverridesParser.create().parse_override(argument)
    except HydraException as error:
        raise HarnessError(
            f"cannot read {argument!r}: KEY=VALUE is expected, values with signs in quotes: \"KEY='a <b>'\""
        ) from error


def compose_all(arguments: Sequence[str], root: str = "config") -> tuple[Plain, list[Plain]]:
    """Overrides of the command line -> the common config, and one config for each point, without repeats.

    A point's config says under `overrides` which ones make it alone.

    Raises `HarnessError` for an unknown name, key or malformed override.
    """
    with initialize_config_module(version_base=None, config_module="sweeps"):
        overrides = [_parse(argument) for argument in arguments]
        _check_names(overrides, root)
        _refuse(overrides)
        swept = {o.get_key_element(): _values(o) for o in overrides if o.is_sweep_override()}
        fixed = [o.input_line for o in overrides if not o.is_sweep_override()]
        firsts = [f"{key}={values[0]}" for key, values in swept.items()]
        given = {o.get_key_element().lstrip("+~") for o in overrides}
        sweep = _one([*fixed, *firsts], root).get("sweep") or {}
        own = [f"{key}={value}" for key, value in (sweep.get("options") or {}).items() if key not in given]
        fixed += own
        common = _one([*fixed, *firsts], root)
        grids = sweep.get("grids") or [side for claim in sweep.get("claims") or [] for side in sides(claim)] or [{}]
        if sweep.get("claims"):
            taken = sorted(key for key in given if key.partition(".")[0] in PARTS)
            if taken or swept:
                raise HarnessError(
                    f"{[*taken, *swept][0]}=...: claims name their own points, and are measured one way at a time"
                )
        alone = [o.input_line for o in overrides if not o.is_sweep_override() and _decides(o)]
        alone += [option for option in own if option.partition("=")[0] not in HOUSEKEEPING]
        points: dict[str, Plain] = {}
        for grid in grids:
            axes = {key: values for key, values in _axes(grid).items() if key not in given} | swept
            for chosen in itertools.product(*axes.values()):
                texts = [f"{key}={value}" for key, value in zip(axes, chosen, strict=True)]
                if (name := "\n".join(sorted(texts))) not in points:
                    points[name] = _one([*fixed, *texts], root) | {"overrides": [*texts, *alone], "cell": name}
    return common, list(points.values())
