"""Does the bench tell the truth? `python benchmarks/encode_truth.py [encoder] [resolution]`.

The same encoder call is timed by the harness and by `torch.utils.benchmark`, in turns in one run; the ratio of the
medians should be close to 1.
"""

import sys

import torch
from torch.utils import benchmark

from harness.bench import measure
from harness.config import compose_all
from harness.frame import times_of
from harness.measurement import examples
from harness.points import make_point
from harness.runtimes.torch_runtime import TorchRuntime

ROUNDS = 5


def main() -> None:
    encoder, resolution = [*sys.argv[1:3], *("tiny_fastvithd", "256")[len(sys.argv) - 1 :]]
    point = make_point(compose_all([f"encoder={encoder}", f"resolution={resolution}"])[1][0])
    runtime = TorchRuntime.load(point)
    pixels = torch.randn(1, 3, point.resolution, point.resolution)
    scope = {"encode": runtime.vlm.encode, "pixels": pixels, "torch": torch}
    timer = benchmark.Timer("with torch.inference_mode(): encode(pixels)", globals=scope, num_threads=point.threads)
    ratios = []
    for _ in range(ROUNDS):
        ours = times_of(measure(runtime, examples(), point.visual_tokens, point.protocol))["encode"].value
        theirs = timer.blocked_autorange(min_run_time=1.0).median
        ratios.append(ours / theirs)
        print(
            f"encode: harness {ours * 1e3:.3f} ms, torch.utils.benchmark {theirs * 1e3:.3f} ms, ratio {ratios[-1]:.3f}"
        )
    print(f"median ratio {sorted(ratios)[ROUNDS // 2]:.3f}")


if __name__ == "__main__":
    main()
