"""`python -m harness.sweep +sweep=resolution`: measure what is missing, and report.

Config -> points -> components and evaluations -> measurements in blocks -> store -> report. Every point is composed and
checked before the first one runs; what the store already has is not measured again; what fails is a record with a
reason and exit code 1; where others use the machine too much for a number, exit code 3.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from harness import pipeline
from harness.configuration.command_line import answer
from harness.configuration.compose import usage_of

if TYPE_CHECKING:
    from harness.analysis.composition import Result

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
    say = partial(print, flush=True)
    request = pipeline.compose(arguments)
    if request.narrowed:
        say(request.narrowed)
    executor = pipeline.make_executor(request.options)
    plan = pipeline.plan(request, executor)
    pipeline.mend(request, pipeline.warn)
    left = pipeline.pending(plan, request)
    pipeline.check_suites(plan, left, pipeline.warn)
    say(pipeline.summary(plan, request, left))
    if request.options.dry_run:
        say(pipeline.dry_run(plan, left))
        return 0
    pipeline.execute(plan, request, executor, left, say)
    folder, results = pipeline.report(request)
    here = {planned.place for planned in plan.points}  # another machine's points are on the page, not in this verdict
    own = [result for result in results if result.planned.place in here]
    return conclude(own, bool(left), str(folder / "index.html"))


def conclude(results: Sequence[Result], measured: bool, page: str) -> int:
    """Print how the points went; returns the exit code."""
    from harness.analysis.table import blind_like, scores_of
    from harness.progress import outcome

    for result in results if measured else []:
        print(f"{result.planned.point.name:<44} {outcome(result)}")
    for said in blind_like(scores_of(results)):
        print(f"note: {said}")
    print(f"report: {page}")
    timed = [result for result in results if result.timed]
    disturbed = [result for result in timed if result.disturbed]
    if disturbed:
        pipeline.warn(
            f"note: {len(disturbed)} of {len(results)} points rest on disturbed blocks; "
            f"something else was using this machine; force=true measures them again"
        )
    failed = [result for result in results if result.status != "ok"]
    for result in failed:
        pipeline.warn(f"failed: {result.planned.point.name}: {result.status}: {result.reason}")
    if failed:
        return 1
    return 3 if timed and len(disturbed) == len(timed) else 0


if __name__ == "__main__":
    sys.exit(main())
