"""How often is the verdict wrong? `python benchmarks/aa.py [--blocks N] [--smoke]`

A/A: twenty comparisons of a component with itself by the recommended rule (`analysis.comparison`: paired blocks, 95%
interval of the ratio against a margin), on this machine as it is. Every block is a fresh process that measures all
of them, the sides of a comparison pass by pass in turns. Printed are the false alarms; then, with 5% more time planted
into each pass of one side, how often that is caught; and the same for the rule that most tools use (Mann-Whitney on the
passes of one process).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

from scipy.stats import mannwhitneyu

from harness.analysis.comparison import compare
from harness.analysis.composition import counted
from harness.configuration.compose import compose_all
from harness.configuration.points import make_point
from harness.machine import describe
from harness.progress import Progress
from harness.schema import Component, LlmComponent, Measurement, Part
from harness.storage import store
from harness.timing.executors.process import Executor, work_off
from harness.timing.measurer import Measurer
from harness.timing.plan import Plan, components_of
from harness.timing.session import Session, alone

COMPARISONS = 20
SLOWDOWN = 0.05
STAGE = "prefill"


def slow_down(workload: Any) -> None:
    """Every stage of `workload` takes 5% longer, spent busily."""
    honest = workload.run

    def run(number: int) -> Iterator[str]:
        stages = honest(number)
        while True:
            begin = time.perf_counter()
            try:
                name = next(stages)
            except StopIteration:
                return
            end = time.perf_counter() + SLOWDOWN * (time.perf_counter() - begin)
            while time.perf_counter() < end:
                pass
            yield name

    workload.run = run


def child(pipe: Connection) -> None:
    """The worker's main function: components whose LLM is called `slow` are slowed down."""
    from harness.timing.workloads import build

    def planted(runtimes: Any, component: Any, examples: Any) -> Any:
        workload = build(runtimes, component, examples)
        if component.llm.name.startswith("slow"):
            slow_down(workload)
        return workload

    with patch("harness.timing.measurer.build", planted):
        work_off(pipe, Measurer())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=10, help="fresh processes (default 10)")
    parser.add_argument("--smoke", action="store_true", help="the same in seconds: does it run, not what is true")
    arguments = parser.parse_args()
    blocks, comparisons, rules = arguments.blocks, COMPARISONS, ["protocol.max_samples=60"]
    if arguments.smoke:
        blocks, comparisons, rules = 2, 2, ["protocol=quick", "threads=1"]
    _, configs = compose_all(["resolution=128", *rules, f"protocol.blocks={blocks}"])
    point = make_point(configs[0])
    whole = components_of(point)[Part("llm")]
    assert isinstance(whole, LlmComponent)
    # What a component is called decides nothing but the order: each name gets modules of its own.
    sides = ("a", "b", "slow")
    components: dict[str, Component] = {}
    for name in (f"{side}{k}" for k in range(comparisons) for side in sides):
        components[name] = whole.model_copy(update={"llm": whole.llm.model_copy(update={"name": name})})
    where = point.language.device
    plan = Plan(
        components=components,
        commands=dict.fromkeys(components, "benchmarks/aa.py"),
        machines={where: describe(where)},
        sides={name: name.lstrip("abslow") for name in components},
    )
    with tempfile.TemporaryDirectory() as folder, alone():
        with Progress(blocks * (8 + 0.9 * len(components))) as progress:
            session = Session(plan, Path(folder), 120, 0, progress, Executor(target=child))
            session.measure_all([list(components)] * blocks)
        measurements = store.by_block(store.read_all(Path(folder), Measurement))
    report("identical code", measurements, "b", comparisons)
    report(f"{SLOWDOWN:.0%} slower", measurements, "slow", comparisons)


def report(title: str, measurements: dict[str, dict[int, Measurement]], side: str, comparisons: int) -> None:
    """Print how often each verdict was given."""
    verdicts: Counter[str] = Counter()
    ratios, detectable, common = [], [], 0
    for k in range(comparisons):
        found = compare(measurements[f"a{k}"], measurements[f"{side}{k}"], STAGE)
        verdicts[found.verdict] += 1
        ratios.append(found.ratio.value)
        detectable.append(found.ratio.detectable)
        one, other = (measurements[name][0].samples for name in (f"a{k}", f"{side}{k}"))
        assert one is not None
        assert other is not None
        p = mannwhitneyu(counted(one, STAGE), counted(other, STAGE), alternative="less").pvalue
        common += p < 0.05
    told = ", ".join(f"{verdicts[verdict]} {verdict}" for verdict in ("PASS", "FAIL", "INCONCLUSIVE"))
    print(
        f"{title}: {told} of {comparisons} comparisons in {len(measurements['a0'])} blocks; "
        f"ratios {min(ratios):.3f} to "
        f"{max(ratios):.3f}, median {statistics.median(ratios):.3f}; detectable {statistics.median(detectable):.1%}"
    )
    print(f"  Mann-Whitney, p < 0.05 on the passes of one process each: {common} alarms of {comparisons}")


if __name__ == "__main__":
    main()
