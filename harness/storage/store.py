"""The store: append-only entries under `results/measured/<machine>/`; the only writer there.

`measurements.jsonl` holds what was timed, `evaluations.jsonl` what was asked: files of JSON lines (`storage.lines`). An
entry is validated as it will be read back before it is written. `sweeps/<name>.json`, a sweep's manifest, names the
very entries that its last run rests on, by the hash of their lines, so that its report stays what it was whatever is
measured later.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from harness.schema import (
    SCHEMA_VERSION,
    Claim,
    Entry,
    Evaluation,
    HarnessError,
    Machine,
    Manifest,
    Measurement,
    Pins,
    Planned,
    Slug,
    first_fault,
)
from harness.storage import lines
from harness.storage.intake import LINE_BYTES, parse_json, read_text

MEASUREMENTS, EVALUATIONS = "measurements.jsonl", "evaluations.jsonl"
MANIFEST = "manifest.json"
"""A report's copy of its sweep's manifest, beside copies of the records that it names."""

E = TypeVar("E", bound=Entry)

mend = lines.mend


def file_of(noun: type[Entry]) -> str:
    """Name of the file that holds entries of this kind."""
    return MEASUREMENTS if noun is Measurement else EVALUATIONS


def path_of(root: Path, machine: Machine, noun: type[Entry]) -> Path:
    """The file of one machine's entries of one kind."""
    return root / "measured" / machine.key / file_of(noun)


def line_of(entry: Entry) -> bytes:
    """An entry as it is stored; raises `HarnessError` if it could not be read back, e.g. for a time that is NaN."""
    line = entry.model_dump_json().encode()
    try:
        type(entry).model_validate_json(line)
    except ValidationError as error:
        raise HarnessError(f"a {type(entry).__name__.lower()} that is not a result: {first_fault(error)}") from error
    return line


def digest_of(line: bytes) -> str:
    """The name of a line: the first 16 hex digits of its SHA-256."""
    return hashlib.sha256(line).hexdigest()[:16]


def append(root: Path, *entries: Entry) -> None:
    """Add entries of one machine and one kind to their file, all or none of them."""
    if entries:
        first = entries[0]
        lines.append(path_of(root, first.machine, type(first)), [line_of(entry) for entry in entries])


def read(path: Path, noun: type[E]) -> Iterator[E]:
    """Every whole entry of one file in the order of writing, while others may write."""
    for _, entry in read_named(path, noun):
        yield entry


def read_named(path: Path, noun: type[E]) -> Iterator[tuple[str, E]]:
    """The same, each with its name (`digest_of`)."""
    for number, line in lines.read(path):
        yield digest_of(line), _parse(path, number, line, noun)


def _parse(path: Path, number: int, line: bytes, noun: type[E]) -> E:
    try:
        return noun.model_validate_json(line)
    except ValidationError as error:
        fault = first_fault(error)
    where = f"{path}:{number}"
    try:
        content = parse_json(line, where)
    except HarnessError:
        content = None
    if not isinstance(content, dict):
        fault = "not a JSON record"
    elif (found := content.get("schema_version", SCHEMA_VERSION)) != SCHEMA_VERSION or isinstance(found, bool):
        raise HarnessError(
            f"{where}: written with schema {found}, this version reads {SCHEMA_VERSION}; "
            f"move the file elsewhere and measure again"
        )
    raise HarnessError(f"{where}: damaged record ({fault}); mend or delete that line, then run again")


def files(root: Path, *nouns: type[Entry]) -> list[Path]:
    """The files of every machine, of the kinds that are named or of all."""
    names = [file_of(noun) for noun in nouns or (Measurement, Evaluation)]
    return sorted(path for name in names for path in (root / "measured").glob(f"*/{name}"))


def read_all(root: Path, noun: type[E]) -> list[E]:
    """Every entry of one kind under `root`, machine by machine."""
    return [entry for path in files(root, noun) for entry in read(path, noun)]


def by_block(measurements: Iterable[Measurement]) -> dict[str, dict[int, Measurement]]:
    """Key -> block -> the newest measurement, a failed one too: what was measured later replaces what was before."""
    chosen: dict[str, dict[int, Measurement]] = {}
    for measurement in measurements:
        chosen.setdefault(measurement.key, {})[measurement.block] = measurement
    return chosen


def latest(evaluations: Iterable[Evaluation]) -> dict[str, Evaluation]:
    """By key: the newest good evaluation, or the newest failure where there is no good one."""
    chosen: dict[str, Evaluation] = {}
    for evaluation in evaluations:
        known = chosen.get(evaluation.key)
        if known is None or evaluation.status == "ok" or known.status != "ok":
            chosen[evaluation.key] = evaluation
    return chosen


def journal_of(root: Path, key: str) -> Path:
    """Where the answers of an evaluation are kept as they come."""
    return root / "journal" / f"{key}.jsonl"


@dataclass(frozen=True)
class Contents:
    """Entries of a store, with the names of their lines."""

    measurements: dict[str, Measurement]
    """In the order of writing, machine by machine."""
    evaluations: dict[str, Evaluation]

    @classmethod
    def of(cls, root: Path) -> Contents:
        """Everything under `root`."""
        measurements = {
            name: entry for path in files(root, Measurement) for name, entry in read_named(path, Measurement)
        }
        evaluations = {name: entry for path in files(root, Evaluation) for name, entry in read_named(path, Evaluation)}
        return cls(measurements, evaluations)

    def newest(self) -> tuple[dict[str, dict[int, Measurement]], dict[str, Evaluation]]:
        """What counts now: measurements by key and block, evaluations by key."""
        return by_block(self.measurements.values()), latest(self.evaluations.values())

    def pin(self, points: Iterable[Planned]) -> Pins:
        """The names of what counts now of these points."""
        points = list(points)
        keys = {key for planned in points for key in planned.components.values()}
        asked = {key for planned in points for key in (*planned.evaluations.values(), *planned.blind.values())}
        names = {id(entry): name for name, entry in (*self.measurements.items(), *self.evaluations.items())}
        measurements, evaluations = self.newest()
        return Pins(
            measurements={
                k: {b: names[id(v)] for b, v in blocks.items()} for k, blocks in measurements.items() if k in keys
            },
            evaluations={k: names[id(evaluation)] for k, evaluation in evaluations.items() if k in asked},
        )

    def pinned(self, pins: Pins, where: str) -> tuple[dict[str, dict[int, Measurement]], dict[str, Evaluation]]:
        """What was pinned; raises `HarnessError` if an entry is not in the store any more."""
        missing = [
            name for blocks in pins.measurements.values() for name in blocks.values() if name not in self.measurements
        ]
        missing += [name for name in pins.evaluations.values() if name not in self.evaluations]
        if missing:
            raise HarnessError(
                f"{where}: rests on {len(missing)} records that are not in the store any more (first: {missing[0]}); "
                f"put their files back, or let it rest on what is there with refresh=true"
            )
        measurements = {
            key: {block: self.measurements[name] for block, name in all_.items()}
            for key, all_ in pins.measurements.items()
        }
        return measurements, {key: self.evaluations[name] for key, name in pins.evaluations.items()}


def load(root: Path) -> tuple[dict[str, dict[int, Measurement]], dict[str, Evaluation]]:
    """What counts of everything under `root`: measurements by key and block, evaluations by key."""
    return Contents.of(root).newest()


def load_report(folder: Path) -> tuple[dict[str, dict[int, Measurement]], dict[str, Evaluation]]:
    """The same from the copies that stand beside a report."""
    return by_block(read(folder / MEASUREMENTS, Measurement)), latest(read(folder / EVALUATIONS, Evaluation))


def manifest_path(root: Path, name: str) -> Path:
    """Where the manifest of a sweep lies; refuses a name that would lie elsewhere."""
    try:
        TypeAdapter(Slug).validate_python(name)
    except ValidationError as error:
        raise HarnessError(f"{name!r} is not the name of a sweep: letters, digits and ._@+- are expected") from error
    return root / "sweeps" / f"{name}.json"


def make_manifest(
    name: str, title: str, points: Iterable[Planned], command: str, published: str = "", claims: Iterable[Claim] = ()
) -> Manifest:
    """A sweep that begins now; `write_manifest` pins what it rests on when it has ended."""
    started = datetime.now(UTC).isoformat(timespec="seconds")
    about = {"name": name, "title": title, "command": command, "started": started, "published": published}
    return Manifest(**about, points=tuple(points), claims=tuple(claims))


def write_manifest(root: Path, manifest: Manifest) -> None:
    """Write a sweep's manifest in place of the one before, in one step. What another machine measured under this name
    stays beside it."""
    path = manifest_path(root, manifest.name)
    if path.is_file():
        with suppress(HarnessError):  # one that cannot be read has nothing to keep; `pipeline.mend` has said so
            manifest = _beside(parse_manifest(path), manifest)
    write_whole(path, manifest.model_dump_json(indent=1) + "\n")


def _beside(before: Manifest, manifest: Manifest) -> Manifest:
    """A manifest with the points, and their pins, that another machine measured before."""
    ours = {planned.place for planned in manifest.points} | {""}
    kept = tuple(planned for planned in before.points if planned.place not in ours)
    if not kept:
        return manifest
    pins = manifest.pins
    if pins is not None and before.pins is not None:
        keys = {key for planned in kept for key in planned.components.values()}
        asked = {key for planned in kept for key in (*planned.evaluations.values(), *planned.blind.values())}
        pins = Pins(
            measurements={k: v for k, v in before.pins.measurements.items() if k in keys} | pins.measurements,
            evaluations={k: v for k, v in before.pins.evaluations.items() if k in asked} | pins.evaluations,
        )
    return manifest.model_copy(update={"points": (*kept, *manifest.points), "pins": pins})


def write_whole(path: Path, text: str) -> None:
    """Write a file in one step: a reader sees the one before or all of this one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def read_manifest(root: Path, name: str) -> Manifest:
    """The last run of the sweep `name`; a report's copy of it, where `root` is a folder of reports."""
    path = manifest_path(root, name)
    if (copy := root / name / MANIFEST).is_file():
        path = copy
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in path.parent.glob("*.json"))) or "none"
        raise HarnessError(f"no sweep {name!r} under {root}; there are: {there}")
    return parse_manifest(path)


def parse_manifest(path: Path) -> Manifest:
    """The manifest in a file."""
    try:
        return Manifest.model_validate_json(read_text(path, LINE_BYTES))
    except ValidationError as error:
        fault = first_fault(error)
        raise HarnessError(f"{path}: damaged manifest ({fault}); delete it and run the sweep again") from error
