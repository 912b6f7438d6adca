"""What a command line may say: the options of a run and of a point, each with what it takes.

`sweeps/config.yaml` and `sweeps/train.yaml` hold their defaults and what they are for; the models here say which values
are taken, in the words of an error (`seed=-1: a whole number from 0 is expected`). A test holds the two together.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

from harness.schema import Frozen, HarnessError, Line, Slug, one_line

DAY = 86400
CORES = os.cpu_count() or 1
THREADS = 4 * CORES
"""Most threads that are taken: torch ends with a segmentation fault where the system cannot start them all."""


class Options(Frozen):
    """Fields whose docstrings say what is expected."""

    model_config = ConfigDict(strict=True)


def _one_value(value: Any) -> Any:
    """A tuple for a list: YAML has only lists."""
    return tuple(value) if isinstance(value, list) else value


def _text(value: Any) -> Any:
    """A folder called 2026 is a number to YAML."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Text = Annotated[str, BeforeValidator(_text), StringConstraints(max_length=4096)]
Folder = Annotated[str, BeforeValidator(_text), StringConstraints(min_length=1, max_length=4096)]
Whole = Annotated[int, Field(ge=0, lt=2**32)]
Names = Annotated[tuple[Annotated[Text, Field(min_length=1)], ...], BeforeValidator(_one_value)]


class RunOptions(Options):
    """How a sweep is run. None of them decides what a point is, but for `extrapolate`."""

    name: Slug | None = None
    """a name of letters, digits and ._@+- (of the report's folder, and to load it by)"""
    accuracy: Literal["measured", "published"]
    """measured or published"""
    published_recipe: Text
    """the name of a training recipe"""
    blind: bool
    """true or false"""
    direct: Whole | Literal["all"]
    """a whole number from 0 or all"""
    extrapolate: Literal["auto", "always", "never"]
    """auto, always or never"""
    executor: Text
    """the name of an executor"""
    seed: Whole
    """a whole number from 0"""
    dry_run: bool
    """true or false"""
    force: bool
    """true or false"""
    timeout: Annotated[float, Field(gt=0, le=365 * DAY)]
    """a number of seconds above 0"""
    busy: Literal["wait", "warn", "refuse"]
    """wait, warn or refuse"""
    busy_wait: Annotated[float, Field(ge=0, le=DAY)]
    """a number of seconds from 0 to 86400"""
    wait: bool | Annotated[float, Field(ge=0, le=365 * DAY)]
    """true, false or a number of seconds"""
    results: Folder
    """a folder"""
    reports: Folder
    """a folder"""

    @property
    def published(self) -> str:
        """The recipe whose published scores are joined; empty if accuracy is measured."""
        return self.published_recipe if self.accuracy == "published" else ""

    @property
    def directly(self) -> int | None:
        """How many points are measured as a whole as well; None: all."""
        return None if self.direct == "all" else self.direct


class PointOptions(Options):
    """What a point is, beside the parts that it is made of."""

    resolution: Annotated[int, Field(ge=1, le=2**16)] | None
    """a whole number above 0 (pixels, at most 65536)"""
    also: dict[str, dict[str, Any]]
    """a mapping of encoders"""
    tiles: Annotated[int, Field(ge=1, le=2**10 + 1)]
    """a whole number above 0 (at most 1025)"""
    checkpoint: Folder
    """auto, random or a folder"""
    suites: Names
    """a list, e.g. suites=[doc_read,shapes],"""
    data: dict[Text, Folder] | None
    """a folder for a suite, e.g. data={docvqa:/data/docvqa},"""
    limit: Annotated[int, Field(ge=1, le=2**31)] | None
    """a whole number above 0"""
    runtime: Text
    """the name of a runtime"""
    encoder_runtime: Text | None
    """the name of a runtime, or null,"""
    llm_runtime: Text | None
    """the name of a runtime, or null,"""
    device: Text
    """the name of a device"""
    dtype: Literal["float32", "float16", "bfloat16"]
    """one of float32, float16, bfloat16"""
    threads: Annotated[int, Field(ge=1, le=THREADS)] | Literal["auto"]
    """a whole number above 0"""
    attention: Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention"]
    """one of sdpa, eager, flash_attention_2, flash_attention_3, flex_attention"""


class TrainOptions(Options):
    """How a VLM is trained, beside its parts and its recipe."""

    seed: Whole
    """a whole number from 0"""
    threads: Annotated[int, Field(ge=1, le=THREADS)]
    """a whole number above 0"""
    folder: Folder
    """a folder"""
    cache: Folder
    """a folder"""
    device: Literal["cpu", "cuda", "mps"]
    """cpu, cuda or mps"""
    until: Literal["letters", "pages", "language", "align", "joint"]
    """letters, pages, language, align or joint"""
    every: Annotated[int, Field(ge=1, le=2**31)]
    """a whole number above 0 (steps)"""


class FinetuneOptions(Options):
    """How a VLM of full size is trained, beside its parts, its template and its stage."""

    data: Text | None
    """a JSON file of conversations"""
    images: Folder | None
    """a folder"""
    encoder_weights: Text
    """a hub id, a folder or a safetensors file"""
    llm_weights: Text
    """a hub id or a folder"""
    start: Folder | None
    """a folder that stage=align wrote"""
    folder: Folder
    """a folder"""
    resolution: Annotated[int, Field(ge=1, le=2**16)] | None
    """a whole number above 0 (pixels, at most 65536)"""
    length: Annotated[int, Field(ge=8, le=2**20)]
    """a whole number from 8 (tokens)"""
    micro_batch: Annotated[int, Field(ge=1, le=2**16)]
    """a whole number above 0"""
    precision: Literal["auto", "float32", "bfloat16"]
    """auto, float32 or bfloat16"""
    shard: bool | Literal["auto"]
    """true, false or auto"""
    recompute: bool
    """true or false"""
    stored: Literal["float32", "bfloat16", "float16"]
    """float32, bfloat16 or float16"""
    save_minutes: Annotated[float, Field(gt=0, le=DAY)]
    """a number of minutes above 0"""
    save_steps: Annotated[int, Field(ge=1, le=2**31)]
    """a whole number above 0"""
    bad: Literal["refuse", "skip"]
    """refuse or skip"""
    workers: Annotated[int, Field(ge=1, le=256)]
    """a whole number from 1 to 256"""
    seed: Whole
    """a whole number from 0"""


class Stage(Options):
    """A file under `sweeps/stage/`: what learns, how fast and for how long."""

    name: Slug
    learns: Annotated[
        tuple[Literal["encoder", "connector", "llm"], ...], BeforeValidator(_one_value), Field(min_length=1)
    ]
    """a list of encoder, connector, llm"""
    lr: Annotated[float, Field(gt=0, le=1)]
    """a number above 0, at most 1"""
    batch: Annotated[int, Field(ge=1, le=2**20)]
    """a whole number above 0 (samples)"""
    warmup: Annotated[float, Field(ge=0, lt=1)]
    """a share from 0, below 1"""
    epochs: Annotated[int, Field(ge=1, le=10**4)]
    """a whole number above 0"""
    plain: bool
    """true or false"""
    source: Line = ""


Scalar = str | int | float | bool | None
Axis = Annotated[Scalar | tuple[Scalar, ...], BeforeValidator(_one_value)]
Key = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*$", max_length=200)]
Grid = dict[Key, Axis]
Side = dict[Key, Scalar]
"""A grid of one cell."""


class ClaimSides(Options):
    """A published claim of a sweep, with the points that stand for its sides."""

    id: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    references: Annotated[tuple[Side, ...], BeforeValidator(_one_value)] = ()
    candidate: Side | None = None


class SweepFile(Options):
    """What a file under `sweeps/sweep/` or `sweeps/training/` holds."""

    name: Slug = "points"
    title: Line = ""
    options: dict[Key, Any] = Field(default={})
    """Defaults of its own for any option."""
    grids: Annotated[tuple[Grid, ...], BeforeValidator(_one_value)] = ()
    claims: Annotated[tuple[ClaimSides, ...], BeforeValidator(_one_value)] = ()


M = TypeVar("M", bound=Options)


def take(model: type[M], config: Mapping[str, Any]) -> M:
    """The options of `model` out of a composed config; raises `HarnessError` with what is expected in place of what."""
    try:
        return model(**{name: config[name] for name in model.model_fields if name in config})
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        expected = (model.model_fields[name].description or "").replace(", is", " is")
        if name == "threads" and isinstance(config[name], int) and config[name] > THREADS:
            expected += f" and of at most {THREADS}, four for each core of this machine,"
        raise HarnessError(f"{name}={shown(config.get(name))}: {expected} is expected") from error


def take_sweep(fields: Any) -> SweepFile:
    """The content of a sweep file, with what the command line changed in it."""
    if not isinstance(fields, dict):
        raise HarnessError(f"sweep: {shown(fields)}: a mapping with grids is expected")
    try:
        return SweepFile(**{str(key): value for key, value in fields.items()})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if not str(part).startswith(("constrained", "tuple[")))
        raise HarnessError(f"sweep.{where}: {shown(first['input'])}: {first['msg']}") from error


def shown(value: Any) -> str:
    """A value in an error: as the command line has it, and short."""
    return "null" if value is None else one_line(str(value).lower() if isinstance(value, bool) else value, 80)


def check_folder(option: str, folder: str, write: bool = True) -> None:
    """Refuse a folder that is something else, or that can neither be written to nor made."""
    path = Path(folder)
    try:
        there = next(each for each in (path, *path.absolute().parents) if each.exists())
    except OSError as error:
        raise HarnessError(f"{option}={shown(folder)}: {error.strerror}; give another folder") from error
    if not there.is_dir():
        raise HarnessError(f"{option}={shown(folder)}: {there} is a file; give a folder")
    if write and not os.access(there, os.W_OK | os.X_OK):
        raise HarnessError(f"{option}={shown(folder)}: {there} cannot be written to; give another folder")


def check_recipe(recipe: Any) -> None:
    """Refuse a training recipe that holds anything but numbers above 0, at most 10^9, and mappings of them."""

    def check(name: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for key, each in value.items():
                check(f"{name}.{key}", each)
        elif isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 10**9:
            raise HarnessError(f"{name}={shown(value)}: a number above 0, at most a billion, is expected")
        elif not isinstance(value, int) and not set(name.split(".")) & {"lr", "warmup", "listed", "shares"}:
            raise HarnessError(f"{name}={shown(value)}: a whole number is expected")

    check("recipe", recipe)
