"""Is a prefill extended from a few layers the one that is measured? `python benchmarks/extrapolation.py [blocks]`

Qwen2-0.5B and Qwen2-1.5B fit into memory: each is measured with all of its layers and, in the same blocks, with 2, 5
and 8 of them. Printed is the extended prefill over the measured one.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from harness import store
from harness.composition import compose
from harness.config import compose_all
from harness.machine import describe
from harness.plan import make_plan
from harness.points import make_point
from harness.progress import Progress
from harness.schema import Manifest
from harness.session import Session, alone
from harness.stats import blocks_interval

GRID = ["encoder=fastvithd", "llm=qwen2_0_5b,qwen2_1_5b", "resolution=256,512", "checkpoint=random"]


def main() -> None:
    blocks = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    rules = [f"protocol.blocks={blocks}", "protocol.max_seconds=4", "protocol.repeats=0"]
    _, configs = compose_all([*GRID, *rules])
    points = [(make_point(config), "benchmarks/extrapolation.py") for config in configs]
    device = points[0][0].device
    machines = {device: describe(device)}
    whole, deep = (make_plan(points, machines, "", 0, how) for how in ("never", "always"))
    whole.components |= deep.components
    whole.commands |= deep.commands
    with tempfile.TemporaryDirectory() as folder, alone():
        root = Path(folder)
        with Progress(blocks * 12.0 * len(whole.components)) as progress:
            Session(whole, root, 600, 0, progress).visit_all([list(whole.components)] * blocks)
        for plan in (whole, deep):
            plan.points.sort(key=lambda planned: planned.point.name)
        sides = [
            compose(Manifest(name="", title="", points=plan.points, command="", started=""), *store.load(root))
            for plan in (whole, deep)
        ]
        for measured, extended in zip(*sides, strict=True):
            one, other = measured.composed("prefill"), extended.composed("prefill")
            ratio = blocks_interval([other[block] / one[block] for block in one.keys() & other.keys()])
            bend = extended.bend()
            assert bend is not None
            point = measured.planned.point
            print(
                f"{point.llm and point.llm.title}, {point.visual_tokens} visual tokens: extended over measured "
                f"{ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f}); the depth between is {bend.value:+.1%} off"
            )


if __name__ == "__main__":
    main()
