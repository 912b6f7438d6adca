"""What does composing save, and is it right? `python benchmarks/composed.py [--blocks N] [--smoke]`

4 encoders x 5 resolutions x 3 LLMs: 60 points. The naive way measures every whole VLM, the composed way each encoder,
connector and LLM once for each resolution or number of tokens. Both take every measurement in the same blocks,
interleaved at random by the same rules, and with as many passes. Printed are the seconds that the measurements took,
how far blocks scatter, and how far the composed sums are from the direct measurements.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
from pathlib import Path

from harness.analysis.composition import Result
from harness.configuration.compose import compose_all
from harness.configuration.points import make_point
from harness.machine import describe
from harness.progress import Progress
from harness.schema import Measurement
from harness.storage import store
from harness.timing.plan import Plan, make_plan
from harness.timing.session import Session, alone

PASSES = ["protocol.max_samples=8", "protocol.min_samples=8", "protocol.max_seconds=20", "protocol.repeats=0"]
"""Both ways take eight passes of everything, however long they are."""
GRID = [
    "encoder=tiny_fastvithd,tiny_fastvit,tiny_convnext,tiny_vit",
    "resolution=64,128,192,256,320",
]
SMOKE = ["encoder=tiny_vit", "resolution=64,128"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=3, help="fresh processes (default 3)")
    parser.add_argument("--smoke", action="store_true", help="the same in seconds: does it run, not what is true")
    arguments = parser.parse_args()
    blocks, grid, passes = arguments.blocks, GRID, PASSES
    if arguments.smoke:
        # Undisturbed by rule: where one of two blocks were left out, nothing would be known of their scatter.
        undisturbed = ["+protocol.lost=1", "+protocol.disturbed=1"]
        blocks, grid, passes = 2, SMOKE, ["protocol=quick", "threads=1", *undisturbed]
    # Random weights: the three LLMs have a vocabulary of their own, so any encoder may stand before any of them.
    llms = {
        "s": ["llm.config.hidden_size=128", "llm.config.num_hidden_layers=2", "llm.config.intermediate_size=256"],
        "m": ["llm.config.hidden_size=256", "llm.config.num_hidden_layers=4", "llm.config.intermediate_size=768"],
        "l": ["llm.config.hidden_size=512", "llm.config.num_hidden_layers=8", "llm.config.intermediate_size=1536"],
    }
    points = []
    for name, sizes in list(llms.items())[: 1 if arguments.smoke else None]:
        heads = ["llm.config.num_attention_heads=4", "llm.config.num_key_value_heads=2", "llm.config.vocab_size=8000"]
        common = ["llm=qwen2_0_5b", f"llm.name={name}", *sizes, *heads, "checkpoint=random"]
        _, configs = compose_all([*grid, *common, *passes, f"protocol.blocks={blocks}"])
        points += [(make_point(config), "benchmarks/composed.py") for config in configs]
    device = points[0][0].device
    plan = make_plan(points, {device: describe(device)}, "", None)
    with tempfile.TemporaryDirectory() as folder, alone():
        with Progress(blocks * (8 + 1.3 * len(plan.components))) as progress:
            Session(plan, Path(folder), 300, 0, progress).measure_all([list(plan.components)] * blocks)
        report(plan, Path(folder))


def report(plan: Plan, root: Path) -> None:
    """Print what the measurements under `root` say."""
    every = store.read_all(root, Measurement)
    measurements = store.by_block(every)
    spent = {True: 0.0, False: 0.0}
    for one in every:
        spent[one.component.kind == "vlm"] += one.seconds
    count = sum(component.kind == "vlm" for component in plan.components.values())
    print(
        f"naive: {count} whole VLMs, {spent[True]:.0f} s in {len({one.block for one in every})} blocks; composed: "
        f"{len(plan.components) - count} components, {spent[False]:.0f} s: {spent[False] / spent[True]:.2f} of the time"
    )
    results = [
        Result(planned, {kind: measurements[key] for kind, key in planned.components.items()}, {})
        for planned in plan.points
    ]
    widths: dict[str, list[float]] = {"naive": [], "composed": []}
    errors = []
    for result in results:
        direct, composed = result.stage("vlm", "ttft_model"), result.composed("ttft_model")
        for name, values in (("naive", direct), ("composed", composed)):
            if len(values) > 1:
                widths[name].append(statistics.stdev(map(math.log, values.values())))
        if residual := result.residual("ttft_model"):
            errors.append(residual)
    if all(widths.values()):
        scatter = {name: statistics.median(found) for name, found in widths.items()}
        narrow = (scatter["composed"] / scatter["naive"]) ** 2
        print(
            f"at the same width of the intervals, which shrink with the root of the blocks: "
            f"{narrow * spent[False] / spent[True]:.2f} of the time"
        )
        print("scatter between blocks (standard deviation of log ttft_model, median over points): "
              + ", ".join(f"{name} {found:.1%}" for name, found in scatter.items()))  # fmt: skip
    else:
        print("scatter between blocks: unknown, no point has two undisturbed blocks; give --blocks more")
    if not errors:
        print("composed against direct: unknown, no point has an undisturbed block of both")
        return
    inside = sum(error.low <= 0 <= error.high for error in errors)
    print(
        f"composed against direct: median {statistics.median(error.value for error in errors):+.1%}, "
        f"from {min(error.value for error in errors):+.1%} to {max(error.value for error in errors):+.1%}; "
        f"{inside} of {len(errors)} intervals of the residual hold 0"
    )


if __name__ == "__main__":
    main()
