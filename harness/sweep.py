"""The door: `python -m harness.sweep +sweep=resolution`.

Config -> points -> measurements -> records -> report. Every point is composed and checked before the first one runs;
what the store already has is not measured again; what fails is a record with a reason and exit code 1.
"""

from __future__ import annotations

import shlex
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

from harness import store
from harness.config import HOUSEKEEPING, Plain, compose_all, options
from harness.progress import Progress
from harness.schema import HarnessError, Machine, Point, Record, fingerprint, record_key

USAGE = """\
python -m harness.sweep [+sweep=NAME] [KEY=VALUE[,VALUE...] ...]

Measures time to first token and accuracy of every point and writes a report.

  +sweep=NAME        {sweeps}
  encoder=NAME       {encoders}
  llm=NAME           {llms}
  resolution=N       side of the square input in pixels
  checkpoint=FOLDER  a trained VLM (auto: the shipped one, else random weights)
  protocol=NAME      {protocols}
  device=NAME        auto, cpu, cuda, mps
  dtype=NAME         float32, float16, bfloat16
  suites=[NAME,...]  {suites}
  limit=N            at most N images of each suite
  force=true         measure again what the store already has

Several values make a grid: resolution=256,512. All options with their defaults: sweeps/config.yaml.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (0 good, 1 points failed, 2 bad input, 130 interrupted)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if {"-h", "--help"} & set(arguments):
        print(usage(), end="")
        return 0
    try:
        return run(arguments)
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: what is measured is kept; the same command goes on from here", file=sys.stderr)
        return 130


def usage() -> str:
    """The help text, with every name there is."""
    groups = {"sweeps": "sweep", "encoders": "encoder", "llms": "llm", "protocols": "protocol", "suites": "suite"}
    return USAGE.format(**{key: ", ".join(options(group)) for key, group in groups.items()})


def run(arguments: Sequence[str]) -> int:
    """Measure what is missing and write the report."""
    common, configs = compose_all(arguments)
    # torch takes seconds to import: a mistyped name is answered before that.
    from harness.machine import describe
    from harness.points import make_point
    from harness.suites.embedded import fingerprint_of_rows

    composed = [(make_point(config), command_of(config)) for config in configs]
    machines = {device: describe(device) for device in {point.device for point, _ in composed}}
    rows = fingerprint_of_rows()
    keys = {record_key(point, machines[point.device], rows): (point, command) for point, command in composed}
    root = Path(common["results"])
    name = report_name(common, arguments)
    timeout = _seconds(common["timeout"])
    for path in store.files(root):
        if mended := store.mend(path):
            print(f"note: {mended}", file=sys.stderr)
    known = store.latest(store.read_all(root))  # all machines: the report reads them, too
    done = set() if common["force"] else {key for key in keys if key in known and known[key].status == "ok"}
    title = (common.get("sweep") or {}).get("title", name)
    store.write_manifest(root, name, title, list(keys), shlex.join(["python", "-m", "harness.sweep", *arguments]))
    todo = {key: pair for key, pair in keys.items() if key not in done}
    device = next(iter(machines.values()))
    print(
        f"{name}: {len(keys)} points, {len(done)} in the store, {len(todo)} to measure "
        f"on {device.device_name} ({device.device})",
        flush=True,
    )
    failed = _measure(todo, machines, root, timeout) if todo else []
    from harness.report import write_report

    folder = write_report(root, name, Path(common["reports"]))
    print(f"report: {folder / 'index.html'}")
    for point, reason in failed:
        print(f"failed: {point.name}: {reason}", file=sys.stderr)
    return 1 if failed else 0


def report_name(common: Plain, arguments: Sequence[str]) -> str:
    """The sweep's name; with the values of what the command line changed in it, so that no report hides another."""
    changed = [argument for argument in arguments if argument.lstrip("+~").partition("=")[0] not in HOUSEKEEPING]
    base = (common.get("sweep") or {}).get("name") or "points"
    if not changed:
        return str(base)
    values = (argument.partition("=")[2] for argument in changed)
    plain = ("".join(c if c.isalnum() or c in "._" else "-" for c in value).strip("-") for value in values)
    return "-".join([base, *plain])[:80] + "-" + fingerprint(sorted(changed))[:6]


def _measure(
    todo: dict[str, tuple[Point, str]], machines: dict[str, Machine], root: Path, timeout: float
) -> list[tuple[Point, str]]:
    """Measure each point in the worker and append its record; returns the failed ones with their reasons."""
    from harness.machine import commit
    from harness.points import no_accuracy
    from harness.worker import Worker

    failed = []
    version = commit()
    begin = time.monotonic()
    with alone(), Progress(len(todo)) as progress:
        worker = Worker()
        try:
            for count, (key, (point, command)) in enumerate(todo.items(), start=1):
                started, start = datetime.now(UTC), time.monotonic()
                outcome = worker.measure(point, timeout, partial(progress.doing, count, point.name))
                record = Record(
                    key=key,
                    status=outcome.status,
                    reason=outcome.reason,
                    point=point,
                    machine=machines[point.device],
                    commit=version,
                    started=started.isoformat(timespec="seconds"),
                    seconds=round(time.monotonic() - start, 3),
                    command=command,
                    latency=outcome.latency,
                    scores=outcome.scores,
                    no_accuracy="" if outcome.scores or outcome.status != "ok" else no_accuracy(point),
                )
                store.append(store.path_of(root, record.machine), record)
                left = (time.monotonic() - begin) / count * (len(todo) - count)
                progress.done(count, record, left)
                if outcome.status != "ok":
                    failed.append((point, f"{outcome.status}: {outcome.reason}"))
        finally:
            worker.stop()
    return failed


def command_of(config: Plain) -> str:
    """A command that measures a composed point again."""
    return shlex.join(["python", "-m", "harness.sweep", *config["overrides"], "force=true"])


@contextmanager
def alone() -> Iterator[None]:
    """Hold the machine for one sweep: two that measure at once would both be several times too slow."""
    lock = FileLock(Path(tempfile.gettempdir()) / "vlm-harness.lock", mode=0o666)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise HarnessError("another sweep is measuring on this machine; wait for it, or stop it") from error
    try:
        yield
    finally:
        lock.release()


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
        raise HarnessError(f"timeout={value}: a number of seconds above 0 is expected")
    return float(value)


if __name__ == "__main__":
    sys.exit(main())
