"""From the command line to composed points: Hydra's groups and overrides, and grids that are unions of products.

`sweeps/` is the config root. A sweep file lists grids; a grid gives one or several values to each axis:

    grids:
      - {encoder: [a, b], llm: m, resolution: [64, 128]}
      - {encoder: a, llm: [s, l], resolution: [64, 128]}

A file may also have `options`, defaults of its own (`options: {protocol: long}`), and, in place of grids, `claims`,
whose sides (`references` and `candidate`) are grids of one cell each (see `harness.configuration.options.SweepFile`).

Overrides of the command line narrow a sweep, or change it. A value that points of the sweep have, of a part
(`encoder=b`, a system's included) or of any axis, chooses these points: `encoder=b` leaves the two of the first grid.
A value that none has replaces what they have: `llm=x` gives it to every point. Of several values (`resolution=128,256`)
each does the one or the other, and the points are the union. Where no sweep is named, the overrides are the grid.

Every point is composed here before anything is measured.
"""

from __future__ import annotations

import itertools
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, Quote, QuotedString, RangeSweep
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

import sweeps
from harness.configuration.options import (
    FinetuneOptions,
    Options,
    PointOptions,
    RunOptions,
    SweepFile,
    TrainOptions,
    shown,
    take,
    take_sweep,
)
from harness.schema import HarnessError, check_plain, unknown

ROOT = Path(sweeps.__file__).parent

Plain = dict[str, Any]

SWEEPS = ("sweep", "training")
"""Config groups whose files list grids: of `config.yaml` and of `train.yaml`."""

RUNS: dict[str, type[Options]] = {"config": RunOptions, "train": TrainOptions, "finetune": FinetuneOptions}
"""By root config: what its run takes."""

PARTS = {"system", "encoder", "connector", "fusion", "llm", "vlm", "resolution", "tiles", "also"}
"""Options that say which model a point is."""

ABSENT = {"system", "fusion", "vlm"}
"""Parts that a point can do without (`system=null`)."""

HOUSEKEEPING = {
    *SWEEPS,
    *(RunOptions.model_fields.keys() - {"extrapolate"}),
    *(TrainOptions.model_fields.keys() - {"threads"}),
}
"""Options that do not decide what a point is."""

POINTS = 20_000
"""Most points of one sweep."""
ARGUMENTS, LENGTH, NESTED = 256, 4096, 16
"""Most arguments of a command line, characters of one, brackets within brackets in one."""
KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*([.@][A-Za-z0-9_]+)*")


def options(group: str) -> list[str]:
    """Names of the files of a config group, e.g. every encoder."""
    return sorted(path.stem for path in (ROOT / group).glob("*.yaml"))


def keys_of(root: str) -> tuple[list[str], list[str]]:
    """The options of a root config: those with a value, and those that name a file of a group."""
    keys, groups = _keys_of(root, (ROOT / f"{root}.yaml").stat().st_mtime_ns)
    return [*keys], [*groups]


@cache
def _keys_of(root: str, changed: int) -> tuple[list[str], list[str]]:
    """The same, of the file as it was `changed`: every value of a sweep asks for them."""
    listed = OmegaConf.to_container(OmegaConf.load(ROOT / f"{root}.yaml"), resolve=False)
    assert isinstance(listed, dict)
    groups = [str(key) for each in listed["defaults"] if each != "_self_" for key in each]
    grids = {"config": ["sweep"], "train": ["training"]}.get(root, [])
    return [str(key) for key in listed if key != "defaults"], [*groups, *grids]


def usage_of(root: str) -> str:
    """Every option of a root config, with its names or its default, as the YAML says what it is for."""
    keys, groups = keys_of(root)
    text = (ROOT / f"{root}.yaml").read_text(encoding="utf-8")
    lines = ["", "Parts and what else goes by a name:", ""]
    for group in groups:
        label = f"+{group}=NAME" if group in SWEEPS else f"{group}=NAME"
        lines += textwrap.wrap(
            f"{label:<20}  {', '.join(options(group))}", 118, initial_indent="  ", subsequent_indent=" " * 24,
            break_on_hyphens=False,
        )  # fmt: skip
    if "suites" in keys:
        suites = f"{'suites=[NAME,...]':<20}  {', '.join(options('suite'))}"
        lines += textwrap.wrap(suites, 118, initial_indent="  ", subsequent_indent=" " * 24)
    lines += ["", "Options with their defaults:", ""]
    for key in keys:
        found = re.search(rf"^{key}:[ ]+(\S.*?)[ ]+# (.*)$", text, re.MULTILINE)
        default, about = found.groups() if found else ("", "")
        lines += textwrap.wrap(
            f"{f'{key}={default}':<20}  {about}", 118, initial_indent="  ", subsequent_indent=" " * 24
        )
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Given:
    """One option as the command line gives it."""

    argument: str
    prefix: str
    """Hydra's `+` or `++`, where a field is added to a part."""
    key: str
    texts: tuple[str, ...]
    """Every value as Hydra reads it: one, or each of `a,b`."""
    values: tuple[str, ...]
    """The same as a grid has them, for comparison."""

    @property
    def several(self) -> bool:
        """Whether the argument lists values."""
        return len(self.texts) > 1

    def override(self, place: int = 0) -> str:
        """The option with one of its values."""
        return f"{self.prefix}{self.key}={self.texts[place]}"


def parse(arguments: Sequence[str], root: str = "config") -> list[Given]:
    """The command line, option by option, the last where one is given twice; raises `HarnessError` for what is not
    there or cannot be read, even with Hydra's `+`."""
    if len(arguments) > ARGUMENTS:
        raise HarnessError(f"{len(arguments)} arguments: at most {ARGUMENTS} are taken")
    keys, groups = keys_of(root)
    found: dict[str, Given] = {}
    for argument in arguments:
        given = _parse(argument)
        top = given.key.partition(".")[0]
        if top not in (*keys, *groups):
            raise HarnessError(unknown("option", given.key, sorted({*keys, *groups})))
        if given.key in groups:
            for value in given.values:
                if value not in options(given.key) and not (value == "null" and given.key in ABSENT):
                    raise HarnessError(unknown(given.key, value, options(given.key)))
        if given.several and given.key in SWEEPS:
            raise HarnessError(f"{shown(argument)}: one sweep at a time")
        if given.several and given.key in HOUSEKEEPING:
            raise HarnessError(f"{shown(argument)}: one value is expected")
        found.pop(given.key, None)
        found[given.key] = given
    return list(found.values())


def _parse(argument: str) -> Given:
    """One argument of the command line."""
    if len(argument) > LENGTH:
        raise HarnessError(f"{shown(argument)}: {len(argument)} characters; at most {LENGTH} are taken")
    if not argument.isprintable():
        raise HarnessError(f"{argument!r}: control characters and bytes that are not text are not taken")
    key, equals, value = argument.partition("=")
    if key.startswith("~"):
        raise HarnessError(f"{shown(argument)}: nothing can be taken away; give the option another value")
    name = key.lstrip("+")
    if not equals or not KEY.fullmatch(name) or len(key) - len(name) > 2 or _depth(value) > NESTED:
        raise HarnessError(_unreadable(argument))
    if "${" in value:
        raise HarnessError(f"{shown(argument)}: interpolations are not taken from the command line")
    try:
        parsed = OverridesParser.create().parse_override(argument)
        texts, values = _values(name, parsed)
        for each in values:
            check_plain(each)
    except (HydraException, RecursionError) as error:
        raise HarnessError(_unreadable(argument)) from error
    except ValueError as error:  # not finite, too large, thousands of digits
        raise HarnessError(f"{name}={shown(value)}: {error}") from error
    prefix = key[: len(key) - len(name)] if "." in name else "+" if name in SWEEPS else ""
    return Given(argument, prefix, name, tuple(texts), tuple(map(_same, values)))


def _unreadable(argument: str) -> str:
    return f"cannot read {shown(argument)!r}: KEY=VALUE is expected, values with signs in quotes: \"KEY='a <b>'\""


def _depth(text: str) -> int:
    """How deep brackets are nested."""
    steps = (1 if c in "([{" else -1 if c in ")]}" else 0 for c in text)
    return max(itertools.accumulate(steps), default=0)


def _values(key: str, override: Override) -> tuple[list[str], list[Any]]:
    """Every value of an override, as Hydra's text and plain; bounded before it is enumerated."""
    if not override.is_sweep_override():
        return [override.get_value_element_as_str()], [override.value()]
    if override.is_interval_sweep():
        raise ValueError("an interval holds no values to take one by one; range(START,STOP,STEP) does")
    found = override._value
    if isinstance(found, Glob):
        names = found.filter(options(key)) if (ROOT / key).is_dir() else []
        if not names:
            raise ValueError("no name of a config file fits")
        return names, list(names)
    if isinstance(found, RangeSweep):
        count = _length(found)
        if not 1 <= count <= POINTS:
            raise ValueError(f"{count or 'no'} values; 1 to {POINTS} are taken")
    elements = list(override.sweep_iterator())
    if not elements:
        raise ValueError("no values")
    if len(elements) > POINTS:
        raise ValueError(f"{len(elements)} values; 1 to {POINTS} are taken")
    return [Override._get_value_element_as_str(e) for e in elements], [Override._convert_value(e) for e in elements]


def _length(found: RangeSweep) -> int:
    """How many values a range holds."""
    start, stop, step = check_plain([found.start, found.stop, found.step])
    if not step:
        raise ValueError("a step other than 0 is expected")
    return int(max(0, math.ceil((stop - start) / step)))


def _same(value: Any) -> str:
    """A value as text that is equal for equal values."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _text(value: Any) -> str:
    """A value of a sweep file as Hydra reads it on a command line."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_text, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{_text(key)}:{_text(each)}' for key, each in value.items())}}}"
    if isinstance(value, str) and not re.fullmatch(r"[A-Za-z0-9_./@-]+", value):
        return str(Override._get_value_element_as_str(QuotedString(value, quote=Quote.single)))
    return _same(value)


def _one(overrides: Sequence[str], root: str) -> Plain:
    try:
        config = compose(config_name=root, overrides=list(overrides))
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise HarnessError(str(error).split("\n")[0]) from error
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise HarnessError(f"these options do not go together: {shown(' '.join(overrides))}: {error}") from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _axes(grid: Mapping[str, Any]) -> dict[str, list[str]]:
    return {
        key: [_same(v) for v in (value if isinstance(value, list | tuple) else [value])] for key, value in grid.items()
    }


def sides(claim: Plain) -> list[Plain]:
    """The grids of one cell that a claim compares: its references, and last its candidate."""
    return [*(claim.get("references") or []), *([claim["candidate"]] if claim.get("candidate") else [])]


def cell_of(side: Plain) -> str:
    """What `compose_all` calls the point of a grid of one cell (`cell`)."""
    return "\n".join(sorted(f"{key}={value}" for key, (value,) in _axes(side).items()))


def _cells(grids: Sequence[Mapping[str, Any]], root: str) -> list[dict[str, str]]:
    """Every cell of the union of products, without repeats."""
    axes = [_axes(grid) for grid in grids]
    _bound(sum(math.prod(map(len, each.values())) for each in axes))
    for text in {f"{key}={_text(value)}" for each in axes for key, values in each.items() for value in values}:
        parse([text], root)
    cells = (dict(zip(each, chosen, strict=True)) for each in axes for chosen in itertools.product(*each.values()))
    return list({tuple(sorted(cell.items())): cell for cell in cells}.values())


def _bound(count: int) -> None:
    if not 1 <= count <= POINTS:
        raise HarnessError(f"{count or 'no'} points; a sweep has 1 to {POINTS}")


class _Implied:
    """What a cell has where it says nothing: what its system, or the default, says."""

    def __init__(self, own: Sequence[str], root: str):
        self._own, self._root = own, root
        self._known: dict[str, Plain] = {}

    def __call__(self, cell: Mapping[str, str], key: str) -> str:
        if key in cell:
            return cell[key]
        system = cell.get("system", "")
        if system not in self._known:
            self._known[system] = _one([*([f"system={system}"] if system else []), *self._own], self._root)
        value = OmegaConf.select(OmegaConf.create(self._known[system]), key)
        return _same(value.get("name") if OmegaConf.is_dict(value) else value)


def _narrow(
    cells: Sequence[Mapping[str, str]], given: Sequence[Given], implied: _Implied
) -> list[tuple[Mapping[str, str], dict[str, list[str]]]]:
    """The cells that `given` chooses, each with the values that it takes of every option in `given`.

    That is its own value, if it is given, and every given value that no cell has; a cell that would have none is not
    chosen.
    """
    there = {one.key: {implied(cell, one.key) for cell in cells} for one in given}
    found = []
    for cell in cells:
        axes = {
            one.key: [
                text
                for text, value in zip(one.texts, one.values, strict=True)
                if value == implied(cell, one.key) or value not in there[one.key]
            ]
            for one in given
        }
        if all(axes.values()):
            found.append((cell, axes))
    return found


def _told(given: Sequence[Given], cells: Sequence[Mapping[str, str]], chosen: int, sweep: str) -> str:
    """What the overrides left out of the sweep, in a line; raises `HarnessError` if that is everything."""
    texts = " ".join(f"{one.key}={','.join(one.values)}" for one in given)
    if not chosen:
        raise HarnessError(
            f"no point of sweep {sweep} has {texts} at once, though each is there; without the sweep they are a grid"
        )
    return f"{texts}: {chosen} of {len(cells)} points of {sweep}" if chosen < len(cells) else ""


def compose_all(arguments: Sequence[str], root: str = "config") -> tuple[Plain, list[Plain]]:
    """Overrides of the command line -> the common config, and one config for each point, without repeats.

    A point's config says under `overrides` which ones make it alone. The common config says under `narrowed`, in a
    line, how many points of the sweep the overrides chose; empty if all.

    Raises `HarnessError` for an unknown name, key or malformed override, and for options out of their bounds.
    """
    given = parse(arguments, root)
    keys = {one.key for one in given}
    with initialize_config_module(version_base=None, config_module="sweeps"):
        firsts = [one.override() for one in given]
        common = _one(firsts, root)
        listed = common.get("sweep")
        sweep = SweepFile() if listed is None else take_sweep(listed)
        own = parse([f"{key}={_text(value)}" for key, value in sweep.options.items() if key not in keys], root)
        if any(one.several or one.key in SWEEPS for one in own):
            raise HarnessError(f"sweep {sweep.name}: its options have one value each, and are not a sweep's")
        preset = [one.override() for one in own]
        if preset:
            common = _one([*firsts, *preset], root)
        if root in RUNS:
            take(RUNS[root], common)
        if sweep.claims:
            taken = [key for key in sorted(keys) if key.partition(".")[0] in PARTS]
            if taken := [*taken, *(one.key for one in given if one.several)]:
                raise HarnessError(f"{taken[0]}=...: claims name their own points, and are measured one way at a time")
        grids = sweep.grids or [side for claim in sweep.claims for side in sides(claim.model_dump())]
        cells = _cells(grids or [{}], root)
        movable = [one for one in given if grids and one.key in PARTS.union(*cells)]
        implied = _Implied(preset, root)
        chosen = _narrow(cells, movable, implied)
        common["narrowed"] = _told(movable, cells, len(chosen), sweep.name)
        listing = {one.key: list(one.texts) for one in given if one.several and one not in movable}
        fixed = [one for one in given if not one.several and one not in movable]
        base = [one.override() for one in (*fixed, *own)]
        alone = [one.override() for one in (*fixed, *own) if one.key not in HOUSEKEEPING]
        products = [(cell, {k: [_text(v)] for k, v in cell.items()} | axes | listing) for cell, axes in chosen]
        _bound(sum(math.prod(map(len, axes.values())) for _, axes in products))
        points: dict[str, Plain] = {}
        for cell, axes in products:
            for values in itertools.product(*axes.values()):
                point = dict(zip(axes, values, strict=True))
                if point.get("system") == cell.get("system"):  # what its system implies is no change of the system
                    point = {k: v for k, v in point.items() if k in {*cell, *listing} or v != _text(implied(cell, k))}
                texts = [f"{key}={value}" for key, value in point.items()]
                if (name := "\n".join(sorted(texts))) not in points:
                    config = _one([*base, *texts], root)
                    if root == "config":
                        take(PointOptions, config)
                    points[name] = config | {"overrides": [*texts, *alone], "cell": name}
    return common, list(points.values())
