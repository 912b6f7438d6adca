"""The door: `python -m harness.sweep +sweep=resolution`.

Config -> points -> components and exams -> visits in blocks -> store -> report. Every point is composed and checked
before the first one runs; what the store already has is not measured again; what fails is a record with a reason and
exit code 1.
"""

from __future__ import annotations

import shlex
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from harness import store
from harness.config import HOUSEKEEPING, Plain, compose_all, options
from harness.progress import Progress, outcome, readable
from harness.schema import Exam, HarnessError, Visit, fingerprint

if TYPE_CHECKING:
    from harness.plan import Plan

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
  dry_run=true       print what would be measured and how long it would take
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
    from harness.plan import make_plan
    from harness.points import make_point
    from harness.suites.embedded import fingerprint_of_rows

    direct, seed, timeout = _direct(common["direct"]), _whole("seed", common["seed"]), _seconds(common["timeout"])
    composed = [(make_point(config), command_of(config)) for config in configs]
    machines = {device: describe(device) for device in {point.device for point, _ in composed}}
    plan = make_plan(composed, machines, fingerprint_of_rows(), direct)
    root = Path(common["results"])
    name = report_name(common, arguments)
    for path in store.files(root):
        if mended := store.mend(path):
            print(f"note: {mended}", file=sys.stderr)
    visits, exams = store.load(root)
    todo, asked = plan.missing(visits, common["force"]), plan.unanswered(exams, common["force"])
    device = next(iter(machines.values()))
    count = sum(map(len, todo))
    total = sum(component.protocol.blocks for component in plan.components.values())
    print(
        f"{name}: {len(plan.points)} points on {device.device_name} ({device.device}), composed of "
        f"{len(plan.components)} components; {total - count + len(plan.exams) - len(asked)} of "
        f"{total + len(plan.exams)} measurements in the store, {count + len(asked)} to measure",
        flush=True,
    )
    if common["dry_run"]:
        _dry_run(plan, todo, asked, _estimate(plan, todo, asked, visits, exams))
        return 0
    title = (common.get("sweep") or {}).get("title", name)
    store.write_manifest(root, name, title, plan.points, shlex.join(["python", "-m", "harness.sweep", *arguments]))
    if count or asked:
        with alone():
            seconds = _estimate(plan, todo, asked, visits, exams)
            with Progress(seconds) as progress:
                what = f"{count} visits in {sum(map(bool, todo))} blocks, {len(asked)} exams"
                progress.line(f"about {readable(seconds)} to go: {what}")
                session = Session(plan, root, timeout, seed, progress)
                session.visit_all(todo)
                session.ask_all(asked)
    from harness.report import write_report

    folder, results = write_report(root, name, Path(common["reports"]))
    for result in results if count or asked else []:
        print(f"{result.planned.point.name:<44} {outcome(result)}")
    print(f"report: {folder / 'index.html'}")
    if disturbed := [result for result in results if result.disturbed]:
        print(
            f"note: {len(disturbed)} of {len(results)} points rest on disturbed blocks; "
            f"something else was using this machine",
            file=sys.stderr,
        )
    failed = [result for result in results if result.status != "ok"]
    for result in failed:
        print(f"failed: {result.planned.point.name}: {result.status}: {result.reason}", file=sys.stderr)
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


class Session:
    """One run of a sweep: visits in blocks, then exams; every outcome is in the store before the next one begins."""

    def __init__(self, plan: Plan, root: Path, timeout: float, seed: int, progress: Progress):
        from harness.machine import commit
        from harness.worker import Worker

        self.plan, self.root, self.timeout, self.seed, self.progress = plan, root, timeout, seed, progress
        self.commit = commit()
        self.worker = Worker()

    def visit_all(self, todo: Sequence[Sequence[str]], together: Mapping[str, str] | None = None) -> None:
        """For each block a fresh process that visits what is missing, in random order.

        `together` names groups whose visits follow one another: two sides of a comparison, so that the machine has no
        time to drift between them. Without it, components that share their modules are a group. What fails is not
        visited again in later blocks of this run: it has no number, whatever they would say.
        """
        from harness.measurement import modules_of
        from harness.plan import order

        groups = together or {key: modules_of(component) for key, component in self.plan.components.items()}
        total, done = sum(map(len, todo)), 0
        failed: set[str] = set()
        try:
            for block, keys in enumerate(todo):
                begin, disturbed = time.monotonic(), 0
                for position, key in enumerate(order(keys, groups, self.seed, block)):
                    if key not in failed:
                        visits = self._visit(key, block, position, f"block {block + 1}/{len(todo)}, {done + 1}/{total}")
                        disturbed += visits[-1].disturbed
                        if visits[-1].status != "ok":
                            failed.add(key)
                            self.progress.line(f"failed: {self.plan.components[key].name}: {visits[-1].reason}")
                    done += 1
                    self.progress.advance(done / total)
                self.worker.stop()
                if keys:
                    note = f", {disturbed} disturbed" if disturbed else ""
                    spent = readable(time.monotonic() - begin)
                    text = f"block {block + 1}/{len(todo)}: {len(keys)} visits{note} in {spent}"
                    self.progress.line(text + self.progress.left())
        finally:
            self.worker.stop()

    def _visit(self, key: str, block: int, position: int, where: str) -> list[Visit]:
        component = self.plan.components[key]
        name = f"{where}: {component.name}"
        work = self.plan.work(key)
        started, begin = datetime.now(UTC), time.monotonic()
        outcome = self.worker.visit(component, self.timeout, partial(self.progress.doing, name))
        common = {
            "key": key,
            "machine": self.plan.machines[component.device],
            "commit": self.commit,
            "started": started.isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - begin, 3),
            "command": self.plan.commands[key],
            "component": component,
            "block": block,
            "process": outcome.process,
            "seed": self.seed,
            "position": position,
            "work": work,
        }
        good = [found for found in outcome.results if "samples" in found]
        visits = [Visit(**common, status="ok", attempt=attempt, **found) for attempt, found in enumerate(good)]
        if outcome.status != "ok":
            # What was measured before the failure is no number; the timer's test is kept, it may be the reason.
            timer = next((found["timer"] for found in outcome.results), None)
            visits = [Visit(**common, status=outcome.status, reason=outcome.reason, attempt=len(good), timer=timer)]
        for visit in visits:
            store.append(self.root, visit)
        return visits

    def ask_all(self, keys: Sequence[str]) -> None:
        """Ask what is missing, in one process that lives across points."""
        from harness.schema import Score

        try:
            for count, key in enumerate(keys, start=1):
                point, suite = self.plan.exams[key]
                name = f"exam {count}/{len(keys)}: {point.name} {suite.name}"
                started, begin = datetime.now(UTC), time.monotonic()
                outcome = self.worker.exam(point, suite, self.timeout, partial(self.progress.doing, name))
                score = Score(**outcome.results[0]["score"]) if outcome.results else None
                exam = Exam(
                    key=key,
                    status=outcome.status,
                    reason=outcome.reason,
                    machine=self.plan.machines[point.device],
                    commit=self.commit,
                    started=started.isoformat(timespec="seconds"),
                    seconds=round(time.monotonic() - begin, 3),
                    command=self.plan.commands[key],
                    point=point,
                    suite=suite,
                    score=score,
                )
                store.append(self.root, exam)
                if exam.status != "ok":
                    self.progress.line(f"failed: {point.name} {suite.name}: {exam.reason}")
        finally:
            self.worker.stop()


def _estimate(
    plan: Plan,
    todo: Sequence[Sequence[str]],
    asked: Sequence[str],
    visits: Mapping[str, Mapping[int, Visit]],
    exams: Mapping[str, Exam],
) -> float:
    """Seconds that the rest will take, by the ceilings that this machine had last, or has now."""
    from harness.plan import estimate
    from harness.runtimes.torch_runtime import TorchDevice
    from harness.timer import measure_ceilings

    if not any(todo) and not asked:
        return 0.0
    keys = {machine.key for machine in plan.machines.values()}
    known = [v for blocks in visits.values() for v in blocks.values() if v.ceilings and v.machine.key in keys]
    if known:
        ceilings = known[-1].ceilings
    else:
        first = next(iter(plan.components.values()))
        place = TorchDevice(first.device, first.dtype, first.threads)
        ceilings = measure_ceilings(place, seconds=0.2)
        place.release()
    assert ceilings is not None
    return estimate(plan, todo, asked, visits, exams.values(), ceilings)


def _dry_run(plan: Plan, todo: Sequence[Sequence[str]], asked: Sequence[str], seconds: float) -> None:
    """Print the points, what is reused and what the rest will take."""
    missing = {key for keys in todo for key in keys}
    shared = Counter(key for planned in plan.points for key in planned.components.values())
    for planned in plan.points:
        parts = []
        for kind, key in planned.components.items():
            state = "to measure" if key in missing else "in the store"
            others = f", shared by {shared[key]} points" if shared[key] > 1 else ""
            parts.append(f"{kind} {state}{others}")
        left = sum(key in asked for key in planned.exams.values())
        told = f"{left} of {len(planned.exams)} exams to take" if planned.exams else "no exams"
        print(f"  {planned.point.name:<44} {'; '.join(parts)}; {told}")
    naive = sum(planned.point.protocol.blocks for planned in plan.points)
    kinds = Counter(plan.components[key].kind for key in plan.components)
    print(
        f"components: {', '.join(f'{count} {kind}' for kind, count in sorted(kinds.items()))} "
        f"({naive} whole VLMs would be visited if nothing were composed)"
    )
    blocks, visiting = sum(map(bool, todo)), sum(map(len, todo))
    print(f"to measure: {visiting} visits in {blocks} blocks (fresh processes), {len(asked)} exams")
    print(f"estimated time: {readable(seconds)}")


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


def _direct(value: object) -> int | None:
    if value == "all":
        return None
    return _whole("direct", value)


def _whole(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        more = " or all" if name == "direct" else ""
        raise HarnessError(f"{name}={value}: a whole number from 0{more} is expected")
    return value


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
        raise HarnessError(f"timeout={value}: a number of seconds above 0 is expected")
    return float(value)


if __name__ == "__main__":
    sys.exit(main())
