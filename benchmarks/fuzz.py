"""Does hostile input ever end in a traceback, a hang, foreign code or an unreadable error?

    python benchmarks/fuzz.py                      # 10,000 inputs
    python benchmarks/fuzz.py --inputs 500 --only store,checkpoint --seed 7
    python benchmarks/fuzz.py --smoke

Valid content of every kind that comes from outside (records, manifests, whole reports, checkpoints, folders in the
hub's format, data sets, command lines) is mutated and given to the door that takes it. An input is either accepted or
refused by one printable line of at most 300 characters within the time limit; anything else is printed with the seed
that makes it again, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import hostile, mutations, mutations_cli, mutations_data
from benchmarks.checkpoints import KINDS
from conftest import CONNECTOR, ENCODER, LLM, make_result
from harness.analysis.composition import load_results
from harness.analysis.table import scores_of, table_of
from harness.schema import LINE, Evaluation, HarnessError, Measurement
from harness.storage import store
from harness.timing import plan

SECONDS = 120
"""An input that takes longer hangs; a dry run of the largest sweeps takes half a minute on a busy machine."""

Target = Callable[[random.Random, Path], Callable[[], object]]
"""Makes an input in a folder and returns what takes it."""
Targets = dict[str, tuple[float, Target]]
"""Name -> share of the inputs, and the target."""


class Hang(BaseException):
    """The time limit, which no `except Exception` may swallow."""


def _alarm(_number: int, _frame: object) -> None:
    raise Hang


class Records:
    """A results folder of one sweep with three points, as JSON."""

    def __init__(self) -> None:
        results = [make_result(direct=(1.0,) * 6), make_result(scales=(2.0,) * 6), make_result(right=None)]
        unique: dict[tuple[str, int], Measurement] = {}
        for result in results:
            for blocks in result.measurements.values():
                unique |= {(measurement.key, measurement.block): measurement for measurement in blocks.values()}
        self.measurements = [json.loads(measurement.model_dump_json()) for measurement in unique.values()]
        evaluations = {evaluation.key: evaluation for result in results for evaluation in result.evaluations.values()}
        self.evaluations = [json.loads(evaluation.model_dump_json()) for evaluation in evaluations.values()]
        made = store.make_manifest("any", "Any", [result.planned for result in results], "python -m harness.sweep")
        self.manifest = json.loads(made.model_dump_json())
        self.machine = results[0].measurements["encoder"][0].machine

    def write(self, folder: Path, manifest: bytes | None = None) -> tuple[Path, Path]:
        """The folder with its manifest; returns the files of measurements and evaluations."""
        paths = store.path_of(folder, self.machine, Measurement), store.path_of(folder, self.machine, Evaluation)
        paths[0].parent.mkdir(parents=True)
        for path, entries in zip(paths, (self.measurements, self.evaluations), strict=True):
            path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
        (folder / "sweeps").mkdir()
        content = json.dumps(self.manifest).encode() if manifest is None else manifest
        (folder / "sweeps" / "any.json").write_bytes(content)
        return paths


def read(folder: Path) -> None:
    """What a report does before it draws."""
    _, results = load_results(folder, "any")
    table_of(results)
    scores_of(results)


def targets() -> Targets:
    """Every door, with what is given to it."""
    records = Records()
    checkpoint = tiny_checkpoint()

    def lines(rng: random.Random, folder: Path) -> Callable[[], object]:
        path = rng.choice(records.write(folder))
        entries = records.measurements if path.name == store.MEASUREMENTS else records.evaluations
        kept = [json.dumps(entry).encode() for entry in entries]
        kept[rng.randrange(len(kept))] = hostile.text(rng, rng.choice(entries))
        path.write_bytes(b"\n".join(kept) + b"\n" if rng.random() < 0.9 else b"\n".join(kept))
        return lambda: read(folder)

    def manifest(rng: random.Random, folder: Path) -> Callable[[], object]:
        records.write(folder, hostile.text(rng, records.manifest))
        return lambda: read(folder)

    def report(rng: random.Random, folder: Path) -> Callable[[], object]:
        from harness.report import write_report

        lines(rng, folder)
        return lambda: write_report(folder, "any", folder / "reports")

    def folder_of_vlm(rng: random.Random, folder: Path) -> Callable[[], object]:
        from harness.models.vlm import check_checkpoint

        mine = shutil.copytree(checkpoint, folder / "vlm")
        name = rng.choice(("config.json", "config.json", "config.json", "model.safetensors", "tokenizer.json"))
        content = (mine / name).read_bytes()
        if name == "config.json":
            canary = {"command": f"touch {folder.parent}/code-ran"}
            stored = json.loads(content)
            if rng.random() < 0.1:
                stored["encoder"] |= {"timm": "", "target": "os:system", "args": canary}
            (mine / name).write_bytes(hostile.text(rng, stored))
        else:
            (mine / name).write_bytes(hostile.damage(rng, content))
        return lambda: check_checkpoint(mine)

    published = KINDS["llava"](Path(tempfile.mkdtemp(prefix="fuzz-hub-")) / "llava")

    def hub(rng: random.Random, folder: Path) -> Callable[[], object]:
        from harness.models.hub import hash_hub, learn
        from harness.suites.questions import examples

        mine = Path(shutil.copytree(published, folder / "hub"))
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            with contextlib.suppress(OSError):  # the one before has made a folder of this file, or removed it
                mutations.spoil_hub(rng, mine)
        return lambda: (learn(mine, None, "sdpa", examples()[0]), hash_hub(mine))

    def data(rng: random.Random, folder: Path) -> Callable[[], object]:
        from harness.suites.questions import fault_of
        from harness.suites.tasks import load_suite

        path = mutations_data.make(rng.randrange(2**32), folder)

        def take() -> None:
            if why := fault_of(load_suite("docvqa", None, str(path))):
                raise Said(why)

        return take

    def command_line(rng: random.Random, folder: Path) -> Callable[[], object]:
        arguments = next(mutations_cli.command_lines(rng))

        def take() -> None:
            # What a full-size sweep computes is not a matter of this door, and counting it takes a minute.
            with patch.object(plan, "work_of", lambda _: {}):
                why = mutations_cli.fault(arguments, folder)
            if why:
                raise AssertionError(f"{arguments}: {why}")

        return take

    found: Targets = {
        "store": (0.38, lines),
        "manifest": (0.28, manifest),
        "report": (0.002, report),
        "checkpoint": (0.12, folder_of_vlm),
        "hub": (0.06, hub),
        "data": (0.12, data),
        "command line": (0.04, command_line),
    }
    return found


class Said(HarnessError):
    """A fault that a door returns, as it returned it."""

    def __init__(self, text: str):
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return self.text


def tiny_checkpoint() -> Path:
    """A composed VLM of a few thousand weights."""
    from harness.models.tokenizer import build_tokenizer
    from harness.models.vlm import Vlm, VlmSpec
    from harness.suites import embedded

    folder = Path(tempfile.mkdtemp(prefix="fuzz-vlm-"))
    spec = VlmSpec(encoder=ENCODER, connector=CONNECTOR, llm=LLM, training_form=True)
    Vlm(spec, build_tokenizer(embedded.words())).save(folder)
    return folder


def outcome(take: Callable[[], object]) -> tuple[str, str]:
    """`accepted`, `refused` or a failure, with what was said."""
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            take()
        return "accepted", ""
    except HarnessError as error:
        said = str(error)
        return ("refused", said) if said.isprintable() and 0 < len(said) <= LINE else ("unreadable", repr(said))
    except Hang:
        return "hang", "".join(traceback.format_exc(limit=-3))
    except BaseException:
        return "traceback", "".join(traceback.format_exc(limit=-4))
    finally:
        signal.alarm(0)


def inputs(found: Targets, count: int, seed: int) -> Iterator[tuple[str, str]]:
    """Name and seed of each input."""
    rng = random.Random(seed)
    names = list(found)
    weights = [found[name][0] for name in names]
    for number in range(count):
        yield rng.choices(names, weights)[0], f"{seed}/{number}"


def run(found: Targets, count: int, seed: int) -> tuple[dict[str, Counter[str]], list[str]]:
    """Give `count` inputs to their doors; returns the outcomes by door, and what failed."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in found}
    failures: list[str] = []
    root = Path(tempfile.mkdtemp(prefix="fuzz-"))
    here = Path.cwd()
    previous = signal.signal(signal.SIGALRM, _alarm)
    begin = time.monotonic()
    try:
        for number, (name, own) in enumerate(inputs(found, count, seed), 1):
            folder = root / "input"
            folder.mkdir()
            os.chdir(folder)
            took = time.monotonic()
            result, said = outcome(found[name][1](random.Random(own), folder))
            counts[name][result] += 1
            counts[name]["milliseconds"] += round(1000 * (time.monotonic() - took))
            if result not in ("accepted", "refused"):
                failures.append(f"{name} {own}: {result}: {said}")
            os.chdir(here)
            shutil.rmtree(folder, ignore_errors=True)
            if (root / "code-ran").exists():
                failures.append(f"{name} {own}: foreign code ran")
                (root / "code-ran").unlink()
            if number % 500 == 0:
                print(f"  {number}/{count}, {len(failures)} failed, {time.monotonic() - begin:.0f} s", file=sys.stderr)
    finally:
        signal.signal(signal.SIGALRM, previous)
        os.chdir(here)
        shutil.rmtree(root, ignore_errors=True)
    return counts, failures


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="doors, separated by commas")
    parser.add_argument("--again", default="", help="one input, as a failure names it: DOOR SEED/NUMBER")
    parser.add_argument("--smoke", action="store_true", help="a few inputs for each door")
    asked = parser.parse_args(arguments)
    found: Targets = targets()
    if asked.only:
        found = {name: found[name] for name in asked.only.split(",")}
    if asked.again:
        name, _, own = asked.again.rpartition(" ")
        folder = Path(tempfile.mkdtemp(prefix="fuzz-again-"))
        os.chdir(folder)
        print(folder)
        found[name][1](random.Random(own), folder)()
        return 0
    begin = time.monotonic()
    counts, failures = run(found, 60 if asked.smoke else asked.inputs, asked.seed)
    for name, count in counts.items():
        each = _inputs(count)
        bad = each - count["accepted"] - count["refused"]
        told = f"{count['accepted']} accepted, {count['refused']} refused, {bad} failed"
        print(f"{name}: {each} inputs, {told}, {count['milliseconds'] / max(1, each):.0f} ms each")
    for failure in failures[:20]:
        print(failure)
    total, spent = sum(map(_inputs, counts.values())), time.monotonic() - begin
    print(f"{total} inputs in {spent:.0f} s: {len(failures)} failed (seed {asked.seed})")
    return 1 if failures else 0


def _inputs(count: Counter[str]) -> int:
    return sum(number for what, number in count.items() if what != "milliseconds")


if __name__ == "__main__":
    sys.exit(main())
