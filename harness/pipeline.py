"""From a command line to a report in four steps: compose, plan, execute, report.

`harness.sweep` is these four in a row; whatever else measures (a notebook, a gate, a benchmark) takes those it needs.
"""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from harness.configuration.compose import HOUSEKEEPING, Plain, compose_all, parse
from harness.configuration.options import RunOptions, check_folder, take
from harness.schema import Claim, Evaluation, HarnessError, Manifest, Measurement, Point, fingerprint
from harness.storage import store

if TYPE_CHECKING:
    from harness.analysis.composition import Result
    from harness.timing.executors import Executor
    from harness.timing.plan import Estimate, Plan

Say = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What a command line asks for, composed and checked: nothing was measured yet."""

    name: str
    title: str
    command: str
    options: RunOptions
    points: tuple[tuple[Point, str], ...]
    """What has to be measured, each with the command that measures it alone."""
    claims: tuple[Claim, ...] = ()
    narrowed: str = ""
    """How the command line chose among a sweep's points, in one line; empty if it did not."""

    @property
    def root(self) -> Path:
        """Folder of the store."""
        return Path(self.options.results)


@dataclass(frozen=True)
class Pending:
    """What of a plan is in the store, and what is not."""

    measurements: Mapping[str, Mapping[int, Measurement]]
    """By key and block."""
    evaluations: Mapping[str, Evaluation]
    todo: Sequence[Sequence[str]]
    """Keys to measure, for each block."""
    asked: Sequence[str]
    """Keys of evaluations to take."""

    @property
    def count(self) -> int:
        """Measurements to take."""
        return sum(map(len, self.todo))

    def __bool__(self) -> bool:
        return bool(self.count or self.asked)


def compose(arguments: Sequence[str], program: str = "harness.sweep", stored: bool = True) -> Request:
    """Overrides -> checked points; raises `HarnessError` for anything that could not be measured, and where results are
    to be `stored`, for folders that cannot be written to."""
    common, configs = compose_all(arguments)
    options = take(RunOptions, common)
    name = report_name(common, arguments)
    if stored:
        check_folder("results", options.results, write=not options.dry_run)
        check_folder("reports", str(Path(options.reports) / name), write=not options.dry_run)
    # torch takes seconds to import: a mistyped name is answered before that.
    from harness.analysis.claims import claims_of
    from harness.configuration.points import make_point
    from harness.timing.costs import encoder_parameters

    fetch = not options.dry_run
    made = {config["cell"]: (make_point(config, fetch), command_of(config)) for config in configs}
    cells = {cell: point for cell, (point, _) in made.items()}
    claims, counted = claims_of(common, cells, Path(options.results), encoder_parameters)
    points = tuple(pair for cell, pair in made.items() if cell not in counted)
    if not points:
        raise HarnessError("nothing has to be measured: all claims of this sweep are about counts")
    return Request(
        name=name,
        title=(common.get("sweep") or {}).get("title") or name,
        command=shlex.join(["python", "-m", program, *arguments]),
        options=options,
        points=points,
        claims=tuple(claims),
        narrowed=common["narrowed"] or "",
    )


def make_executor(options: RunOptions) -> Executor:
    """The executor that the options name."""
    from harness.timing.executors import find

    return find(options.executor)()


def plan(request: Request, executor: Executor) -> Plan:
    """Points -> what to measure there where the executor works."""
    from harness.suites.embedded import fingerprint_of_rows
    from harness.timing.plan import make_plan

    options = request.options
    devices = {execution.device for point, _ in request.points for execution in (point.vision, point.language)}
    machines = {device: executor.machine(device) for device in devices}
    rows = fingerprint_of_rows()
    return make_plan(request.points, machines, rows, options.directly, options.extrapolate, options.blind)


def pending(plan: Plan, request: Request) -> Pending:
    """What is left to do of a plan."""
    measurements, evaluations = store.load(request.root)
    force = request.options.force
    return Pending(measurements, evaluations, plan.missing(measurements, force), plan.unanswered(evaluations, force))


def mend(request: Request, say: Say) -> None:
    """Report files that cannot be read before anything is measured; what a kill left of a line is put aside."""
    if request.options.published:
        from harness.analysis.published import read_scores

        read_scores(request.root)
    for path in store.files(request.root):
        if mended := store.mend(path):
            say(f"note: {mended}")
    if (path := store.manifest_path(request.root, request.name)).is_file():
        try:
            store.parse_manifest(path)
        except HarnessError as error:
            say(f"note: {error}; this run writes it anew")


def check_suites(plan: Plan, left: Pending, say: Say) -> None:
    """Report suites whose data cannot be read before anything is measured."""
    from harness.suites.questions import fault_of

    for suite in {plan.evaluations[key][1].name: plan.evaluations[key][1] for key in left.asked}.values():
        if why := fault_of(suite):
            say(f"note: suite {suite.name} cannot be asked: {why}")


def summary(plan: Plan, request: Request, left: Pending) -> str:
    """What is planned and how much of it is there already, in one line."""
    device = plan.machines[plan.points[0].point.language.device]
    total = sum(component.protocol.blocks for component in plan.components.values())
    there = total - left.count + len(plan.evaluations) - len(left.asked)
    return (
        f"{request.name}: {len(plan.points)} points on {device.device_name} ({device.device}), composed of "
        f"{len(plan.components)} components; {there} of {total + len(plan.evaluations)} measurements in the store, "
        f"{left.count + len(left.asked)} to measure"
    )


def execute(plan: Plan, request: Request, executor: Executor, left: Pending, say: Say) -> None:
    """Measure what is left, alone on this machine; nothing is written before it is ours, and quiet if it has to be.

    Raises `Held` where another sweep measures, and `Disturbed` where others use it too much (see `await_quiet` and
    `Session.measure_all`).
    """
    from harness.progress import Progress, readable
    from harness.timing.executors.process import interruptible
    from harness.timing.quiet import look
    from harness.timing.session import Session, alone, await_quiet

    root, options = request.root, request.options
    manifest = store.make_manifest(
        request.name, request.title, plan.points, request.command, options.published, request.claims
    )
    for key in {key for block in left.todo for key in block}:
        plan.work(key)  # parts that do not fit each other are reported before anything is written
    if not left:
        _pin(root, manifest)
        return
    with alone(options.wait, say):
        left = pending(plan, request)  # a sweep that was waited for may have measured some of it
        if left.count:
            executions = [component.execution for component in plan.components.values()]
            threads = max(execution.threads for execution in executions)
            for device in sorted({execution.device for execution in executions}):
                await_quiet(partial(look, device, threads), options.busy, options.busy_wait, say)
        if resumed := plan.resumed(left.measurements, left.todo):
            what = "1 block has" if resumed == 1 else f"{resumed} blocks have"
            say(f"note: {what} measurements in the store; what is added to them is measured in other processes")
        if not store.manifest_path(root, manifest.name).exists():
            store.write_manifest(root, manifest)  # an earlier run's report stays what it is until this one ends
        try:
            expected = estimate(plan, left)
            with Progress(expected.seconds) as progress:
                what = f"{left.count} measurements in {sum(map(bool, left.todo))} blocks, {_evaluations(plan, left)}"
                progress.line(f"about {readable(expected.seconds)} to go: {what}")
                patient = options.busy == "warn"
                session = Session(plan, root, options.timeout, options.seed, progress, executor, expected, patient)
                with interruptible():
                    session.measure_all(left.todo)
                    session.ask_all(left.asked, again=options.force)
        finally:
            _pin(root, manifest)


def report(request: Request) -> tuple[Path, list[Result]]:
    """The report's folder, and the points that it shows."""
    from harness.report.write import write_report

    return write_report(request.root, request.name, Path(request.options.reports))


def _pin(root: Path, manifest: Manifest) -> None:
    """Note which entries of the store make up the run that has ended."""
    store.write_manifest(root, manifest.model_copy(update={"pins": store.Contents.of(root).pin(manifest.points)}))


def estimate(plan: Plan, left: Pending) -> Estimate:
    """What the rest will take, by the ceilings that this machine had last, or has now."""
    from harness.runtimes import find
    from harness.timing.plan import Estimate
    from harness.timing.plan import estimate as estimate_plan
    from harness.timing.timer import measure_ceilings

    if not left:
        return Estimate({}, 0.0)
    keys = {machine.key for machine in plan.machines.values()}
    all_measured = [each for blocks in left.measurements.values() for each in blocks.values()]
    known = [each.ceilings for each in all_measured if each.ceilings is not None and each.machine.key in keys]
    if known:
        ceilings = known[-1]
    else:
        first = plan.points[0].point.language
        device = find(first.runtime)(first).device
        ceilings = measure_ceilings(device, seconds=0.2)
        device.release()
    return estimate_plan(plan, left.todo, left.asked, left.measurements, left.evaluations.values(), ceilings)


def dry_run(plan: Plan, left: Pending) -> str:
    """The points, what is reused and what the rest will take."""
    from harness.progress import readable

    expected = estimate(plan, left)
    missing = {key for keys in left.todo for key in keys}
    shared = Counter(key for planned in plan.points for key in planned.components.values())
    lines = []
    for planned in plan.points:
        parts = []
        for part, key in planned.components.items():
            state = "to measure" if key in missing else "in the store"
            others = f", shared by {shared[key]} points" if shared[key] > 1 else ""
            parts.append(f"{part} {state}{others}")
        to_take = sum(key in left.asked for key in planned.evaluations.values())
        told = (
            f"{to_take} of {len(planned.evaluations)} evaluations to take" if planned.evaluations else "no evaluations"
        )
        if planned.blind:
            told += f", {sum(key in left.asked for key in planned.blind.values())} of {len(planned.blind)} blind"
        lines.append(f"  {planned.point.name:<44} {'; '.join(parts)}; {told}")
    naive = sum(planned.point.protocol.blocks for planned in plan.points)
    kinds = Counter(component.kind for component in plan.components.values())
    lines.append(
        f"components: {', '.join(f'{count} {kind}' for kind, count in sorted(kinds.items()))} "
        f"({naive} whole VLMs would be measured if nothing were composed)"
    )
    blocks = sum(map(bool, left.todo))
    lines.append(
        f"to measure: {left.count} measurements in {blocks} blocks (fresh processes), {_evaluations(plan, left)}"
    )
    unseen = expected.blind * sum(plan.evaluations[key][1].image == "grey" for key in left.asked)
    of_blind = f", {readable(unseen)} of it for blind evaluations (blind=false leaves them out)" if unseen else ""
    lines.append(f"estimated time: {readable(expected.seconds)}{of_blind}")
    return "\n".join(lines)


def _evaluations(plan: Plan, left: Pending) -> str:
    """How many evaluations are to be taken, and how many of them blind."""
    unseen = sum(plan.evaluations[key][1].image == "grey" for key in left.asked)
    return f"{len(left.asked)} evaluations" + (f" ({unseen} of them blind)" if unseen else "")


def report_name(common: Plain, arguments: Sequence[str]) -> str:
    """The name that was given, or the sweep's with the values of what the command line changed in it, so that no report
    hides another."""
    if common.get("name"):
        return str(common["name"])
    changed = [(one, argument) for argument in arguments for one in parse([argument]) if one.key not in HOUSEKEEPING]
    base = (common.get("sweep") or {}).get("name") or "points"
    if not changed:
        return str(base)
    values = (",".join(one.values) for one, _ in changed)
    plain = ("".join(c if c.isascii() and (c.isalnum() or c in "._") else "-" for c in v).strip("-") for v in values)
    return "-".join([base, *plain])[:80] + "-" + fingerprint(sorted(argument for _, argument in changed))[:6]


def command_of(config: Plain) -> str:
    """A command that measures a composed point again."""
    return shlex.join(["python", "-m", "harness.sweep", *config["overrides"], "force=true"])


def warn(text: str) -> None:
    """A note for a person, beside what a command prints."""
    print(text, file=sys.stderr)
