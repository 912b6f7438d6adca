"""The door: `python -m harness.sweep +sweep=resolution`.

Config -> points -> components and evaluations -> measurements in blocks -> store -> report. Every point is composed and
checked before the first one runs; what the store already has is not measured again; what fails is a record with a
reason and exit code 1; where others use the machine too much for a number, exit code 3.
"""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from harness.configuration.command_line import answer
from harness.configuration.compose import HOUSEKEEPING, Plain, compose_all, parse, usage_of
from harness.configuration.options import RunOptions, check_folder, take
from harness.schema import Evaluation, HarnessError, Manifest, Measurement, fingerprint
from harness.storage import store

if TYPE_CHECKING:
    from harness.timing.plan import Estimate, Plan

USAGE = """\
python -m harness.sweep [+sweep=NAME] [KEY=VALUE[,VALUE...] ...]

Measures time to first token and accuracy of every point and writes a report.

  python -m harness.sweep +sweep=resolution                   a sweep
  python -m harness.sweep +sweep=resolution encoder=tiny_vit  those of its points that have this encoder
  python -m harness.sweep encoder=fastvithd,fastvit llm=qwen2_0_5b resolution=256,512 dry_run=true

Several values make a grid. In a sweep, values that its points have choose among them, others replace what they have.
A field of a part goes by its name: protocol.blocks=12, llm.config.num_hidden_layers=8, +encoder.args.depth=6.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    0: good, though single points may rest on disturbed blocks. 1: points failed. 2: bad input. 3: nothing to be
    trusted, because others use this machine: another sweep measures, it is busy (`busy=refuse`), everything was
    disturbed. 130: interrupted.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    return answer(
        lambda: run(arguments), arguments, usage, "what is measured is kept; the same command goes on from here"
    )


def usage() -> str:
    """The help text, with every option and every name there is."""
    return USAGE + usage_of("config")


def run(arguments: Sequence[str]) -> int:
    """Measure what is missing and write the report."""
    common, configs = compose_all(arguments)
    options = take(RunOptions, common)
    name = report_name(common, arguments)
    check_folder("results", options.results, write=not options.dry_run)
    check_folder("reports", str(Path(options.reports) / name), write=not options.dry_run)
    if common["narrowed"]:
        print(common["narrowed"], flush=True)
    # torch takes seconds to import: a mistyped name is answered before that.
    from harness.analysis.claims import claims_of
    from harness.configuration.points import make_point
    from harness.machine import describe
    from harness.suites.embedded import fingerprint_of_rows
    from harness.suites.questions import fault_of
    from harness.timing.costs import encoder_parameters
    from harness.timing.plan import make_plan

    fetch = not options.dry_run
    made = {config["cell"]: (make_point(config, fetch), command_of(config)) for config in configs}
    root = Path(options.results)
    claims, counted = claims_of(common, {cell: point for cell, (point, _) in made.items()}, root, encoder_parameters)
    composed = [pair for cell, pair in made.items() if cell not in counted]
    if not composed:
        raise HarnessError("nothing has to be measured: all claims of this sweep are about counts")
    machines = {device: describe(device) for device in {point.device for point, _ in composed}}
    rows = fingerprint_of_rows()
    plan = make_plan(composed, machines, rows, options.directly, options.extrapolate, options.blind)
    if recipe := options.published:
        from harness.analysis.published import read_scores

        read_scores(root)  # what cannot be read is said before anything is measured
    for path in store.files(root):
        if mended := store.mend(path):
            print(f"note: {mended}", file=sys.stderr)
    measurements, evaluations = store.load(root)
    todo, asked = plan.missing(measurements, options.force), plan.unanswered(evaluations, options.force)
    for suite in {plan.evaluations[key][1].name: plan.evaluations[key][1] for key in asked}.values():
        if why := fault_of(suite):
            print(f"note: suite {suite.name} cannot be asked: {why}", file=sys.stderr)
    device = next(iter(machines.values()))
    count = sum(map(len, todo))
    total = sum(component.protocol.blocks for component in plan.components.values())
    print(
        f"{name}: {len(plan.points)} points on {device.device_name} ({device.device}), composed of "
        f"{len(plan.components)} components; {total - count + len(plan.evaluations) - len(asked)} of "
        f"{total + len(plan.evaluations)} measurements in the store, {count + len(asked)} to measure",
        flush=True,
    )
    if options.dry_run:
        _dry_run(plan, todo, asked, _estimate(plan, todo, asked, measurements, evaluations))
        return 0
    for key in {key for block in todo for key in block}:
        plan.work(key)  # parts that do not fit each other are said before anything is written
    title = (common.get("sweep") or {}).get("title") or name
    command = shlex.join(["python", "-m", "harness.sweep", *arguments])
    manifest = store.make_manifest(name, title, plan.points, command, recipe, claims)
    if count or asked:
        _measure(plan, root, options, manifest)
    else:
        _pin(root, manifest)
    from harness.analysis.table import blind_like, scores_of
    from harness.progress import outcome
    from harness.report import write_report

    folder, results = write_report(root, name, Path(options.reports))
    for result in results if count or asked else []:
        print(f"{result.planned.point.name:<44} {outcome(result)}")
    for said in blind_like(scores_of(results)):
        print(f"note: {said}")
    print(f"report: {folder / 'index.html'}")
    timed = [result for result in results if result.timed]
    disturbed = [result for result in timed if result.disturbed]
    if disturbed:
        print(
            f"note: {len(disturbed)} of {len(results)} points rest on disturbed blocks; "
            f"something else was using this machine; force=true measures them again",
            file=sys.stderr,
        )
    failed = [result for result in results if result.status != "ok"]
    for result in failed:
        print(f"failed: {result.planned.point.name}: {result.status}: {result.reason}", file=sys.stderr)
    if failed:
        return 1
    return 3 if timed and len(disturbed) == len(timed) else 0


def _measure(plan: Plan, root: Path, options: RunOptions, manifest: Manifest) -> None:
    """Measure what is missing, alone on this machine; nothing is written before it is ours, and quiet if it has to be.

    Raises `Held` where another sweep measures, and `Disturbed` where others use it too much (see `await_quiet` and
    `Session.measure_all`).
    """
    from harness.progress import Progress, readable
    from harness.timing.session import Session, alone, await_quiet
    from harness.timing.telemetry import look
    from harness.timing.worker import interruptible

    say = partial(print, flush=True)
    with alone(options.wait, say):
        measurements, evaluations = store.load(root)  # a sweep that was waited for may have measured some of it
        todo, asked = plan.missing(measurements, options.force), plan.unanswered(evaluations, options.force)
        if count := sum(map(len, todo)):
            first = next(iter(plan.components.values()))
            threads = max(component.threads for component in plan.components.values())
            await_quiet(partial(look, first.device, threads), options.busy, options.busy_wait, say)
        if resumed := plan.resumed(measurements, todo):
            what = "1 block has" if resumed == 1 else f"{resumed} blocks have"
            say(f"note: {what} measurements in the store; what is added to them is measured in other processes")
        if not store.manifest_path(root, manifest.name).exists():
            store.write_manifest(root, manifest)  # an earlier run's report stays what it is until this one ends
        try:
            expected = _estimate(plan, todo, asked, measurements, evaluations)
            with Progress(expected.seconds) as progress:
                what = f"{count} measurements in {sum(map(bool, todo))} blocks, {_evaluations(plan, asked)}"
                progress.line(f"about {readable(expected.seconds)} to go: {what}")
                patient = options.busy == "warn"
                session = Session(plan, root, options.timeout, options.seed, progress, expected, patient)
                with interruptible():
                    session.measure_all(todo)
                    session.ask_all(asked, again=options.force)
        finally:
            _pin(root, manifest)


def _pin(root: Path, manifest: Manifest) -> None:
    """Note which entries of the store make up the run that has ended."""
    store.write_manifest(root, manifest.model_copy(update={"pins": store.Contents.of(root).pin(manifest.points)}))


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


def _estimate(
    plan: Plan,
    todo: Sequence[Sequence[str]],
    asked: Sequence[str],
    measurements: Mapping[str, Mapping[int, Measurement]],
    evaluations: Mapping[str, Evaluation],
) -> Estimate:
    """What the rest will take, by the ceilings that this machine had last, or has now."""
    from harness.runtimes.torch_runtime import TorchDevice
    from harness.timing.plan import Estimate, estimate
    from harness.timing.timer import measure_ceilings

    if not any(todo) and not asked:
        return Estimate({}, 0.0)
    keys = {machine.key for machine in plan.machines.values()}
    known = [v for blocks in measurements.values() for v in blocks.values() if v.ceilings and v.machine.key in keys]
    if known:
        ceilings = known[-1].ceilings
    else:
        first = next(iter(plan.components.values()))
        place = TorchDevice(first.device, first.dtype, first.threads)
        ceilings = measure_ceilings(place, seconds=0.2)
        place.release()
    assert ceilings is not None
    return estimate(plan, todo, asked, measurements, evaluations.values(), ceilings)


def _dry_run(plan: Plan, todo: Sequence[Sequence[str]], asked: Sequence[str], expected: Estimate) -> None:
    """Print the points, what is reused and what the rest will take."""
    from harness.progress import readable

    missing = {key for keys in todo for key in keys}
    shared = Counter(key for planned in plan.points for key in planned.components.values())
    for planned in plan.points:
        parts = []
        for kind, key in planned.components.items():
            state = "to measure" if key in missing else "in the store"
            others = f", shared by {shared[key]} points" if shared[key] > 1 else ""
            parts.append(f"{kind} {state}{others}")
        left = sum(key in asked for key in planned.evaluations.values())
        told = f"{left} of {len(planned.evaluations)} evaluations to take" if planned.evaluations else "no evaluations"
        if planned.blind:
            told += f", {sum(key in asked for key in planned.blind.values())} of {len(planned.blind)} blind"
        print(f"  {planned.point.name:<44} {'; '.join(parts)}; {told}")
    naive = sum(planned.point.protocol.blocks for planned in plan.points)
    kinds = Counter(plan.components[key].kind for key in plan.components)
    print(
        f"components: {', '.join(f'{count} {kind}' for kind, count in sorted(kinds.items()))} "
        f"({naive} whole VLMs would be measured if nothing were composed)"
    )
    blocks, measuring = sum(map(bool, todo)), sum(map(len, todo))
    print(f"to measure: {measuring} measurements in {blocks} blocks (fresh processes), {_evaluations(plan, asked)}")
    unseen = expected.blind * sum(plan.evaluations[key][1].image == "grey" for key in asked)
    of_blind = f", {readable(unseen)} of it for blind evaluations (blind=false leaves them out)" if unseen else ""
    print(f"estimated time: {readable(expected.seconds)}{of_blind}")


def _evaluations(plan: Plan, asked: Sequence[str]) -> str:
    """How many evaluations are to be taken, and how many of them blind."""
    unseen = sum(plan.evaluations[key][1].image == "grey" for key in asked)
    return f"{len(asked)} evaluations" + (f" ({unseen} of them blind)" if unseen else "")


def command_of(config: Plain) -> str:
    """A command that measures a composed point again."""
    return shlex.join(["python", "-m", "harness.sweep", *config["overrides"], "force=true"])


if __name__ == "__main__":
    sys.exit(main())
