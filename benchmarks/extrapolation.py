"""Is a prefill extended from a few layers the one that is measured?

    python benchmarks/extrapolation.py [--blocks N] [--smoke]

Qwen2-0.5B and Qwen2-1.5B fit into memory: each is measured with all of its layers and with 2, 5 and 8 of them, in turns
pass by pass, so that the machine's drift meets all alike. Printed is the extended prefill over the measured one.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from harness.analysis.composition import Result
from harness.configuration.compose import compose_all
from harness.configuration.points import make_point
from harness.machine import describe
from harness.progress import Progress
from harness.storage import store
from harness.timing.plan import DEPTHS, make_plan
from harness.timing.session import Session, alone

GRID = ["encoder=fastvithd", "llm=qwen2_0_5b,qwen2_1_5b", "resolution=1024", "checkpoint=random"]
SMOKE = [
    *("encoder=tiny_vit", "llm=qwen2_0_5b", "resolution=64", "checkpoint=random", "threads=1"),
    *("llm.config.hidden_size=64", "llm.config.intermediate_size=128", "llm.config.num_hidden_layers=10"),
    *("llm.config.num_attention_heads=4", "llm.config.num_key_value_heads=2", "llm.config.vocab_size=1000"),
]
"""An LLM that is made in no time; ten layers, so that there is something to extend."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=3, help="fresh processes (default 3)")
    parser.add_argument("--smoke", action="store_true", help="the same in seconds: does it run, not what is true")
    arguments = parser.parse_args()
    blocks, grid, rules = arguments.blocks, GRID, ["protocol.max_seconds=4", "protocol.repeats=0"]
    if arguments.smoke:
        blocks, grid, rules = 2, SMOKE, ["protocol=quick"]
    _, configs = compose_all([*grid, *rules, f"protocol.blocks={blocks}"])
    points = [(make_point(config), "benchmarks/extrapolation.py") for config in configs]
    device = points[0][0].device
    machines = {device: describe(device)}
    whole, deep = (make_plan(points, machines, "", 0, how) for how in ("never", "always"))
    whole.components |= deep.components
    whole.commands |= deep.commands
    # The depths of an LLM and the whole one are the sides of a comparison; encoders and connectors are not needed.
    together = {
        key: f"{component.llm.name.partition(' ')[0]} {component.visual_tokens}"
        for key, component in whole.components.items()
        if component.kind == "llm" and component.llm
    }
    with tempfile.TemporaryDirectory() as folder, alone():
        root = Path(folder)
        with Progress(blocks * 30.0 * len(together)) as progress:
            Session(whole, root, 600, 0, progress).measure_all([list(together)] * blocks, together)
        measurements, _ = store.load(root)
    for planned, extended in zip(
        *(sorted(plan.points, key=lambda p: p.point.name) for plan in (whole, deep)), strict=True
    ):
        keys = {part: key for part, key in extended.components.items() if "@" in part}
        point = extended.point
        assert point.llm is not None
        result = Result(
            extended.model_copy(update={"components": keys}),
            {part: measurements[key] for part, key in keys.items()},
            {},
        )
        measured = Result(planned, {"llm": measurements[planned.components["llm"]]}, {}).stage("llm", "prefill")
        times = {depth: result.stage(f"llm@{depth}", "prefill") for depth in DEPTHS}
        blocks_of_all = sorted(set.intersection(*(set(found) for found in times.values())))
        line = partial(_line, times[DEPTHS[0]], times[DEPTHS[-1]])
        found = {block: line(block, point.llm.config["num_hidden_layers"]) for block in blocks_of_all}
        ratios = {block: found[block] / measured[block] for block in found.keys() & measured.keys()}
        bend = statistics.median(times[DEPTHS[1]][block] / line(block, DEPTHS[1]) - 1 for block in blocks_of_all)
        print(
            f"{point.llm.title}, {point.visual_tokens} visual tokens: extended over measured "
            f"{statistics.median(ratios.values()):.3f} (blocks: {', '.join(f'{r:.3f}' for r in ratios.values())}); "
            f"the depth between is {bend:+.1%} off the line"
        )


def _line(shallow: Mapping[int, float], deep: Mapping[int, float], block: int, layers: int) -> float:
    """Seconds at so many layers on the line through the shallowest and the deepest that were measured."""
    share = (layers - DEPTHS[0]) / (DEPTHS[-1] - DEPTHS[0])
    return (1 - share) * shallow[block] + share * deep[block]


if __name__ == "__main__":
    main()
