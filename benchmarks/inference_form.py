"""What a FastViT-type encoder gains by its inference form: `benchmarks/inference_form.py [encoder] [resolution]`.

The training form (branches with batch norm, timm's default) and the fused form are timed in turns in one run.
"""

import sys

import torch
from torch.utils import benchmark

from harness.config import compose_all
from harness.models.encoders import build_encoder
from harness.schema import Encoder

ROUNDS = 5


def main() -> None:
    name, resolution = [*sys.argv[1:3], *("fastvithd", "512")[len(sys.argv) - 1 :]]
    spec = Encoder(**compose_all([f"encoder={name}"])[1][0]["encoder"])
    pixels = torch.randn(1, 3, int(resolution), int(resolution))
    training, fused = build_encoder(spec, training_form=True).eval(), build_encoder(spec).eval()
    ratios = []
    for _ in range(ROUNDS):
        medians = []
        for encoder in (training, fused):
            scope = {"encoder": encoder, "pixels": pixels, "torch": torch}
            timer = benchmark.Timer(
                "with torch.inference_mode(): encoder(pixels)", globals=scope, num_threads=torch.get_num_threads()
            )
            medians.append(timer.blocked_autorange(min_run_time=1.0).median)
        ratios.append(medians[0] / medians[1])
        print(
            f"{name} {resolution} px: training form {medians[0] * 1e3:.1f} ms, fused {medians[1] * 1e3:.1f} ms, ",
            end="",
        )
        print(f"ratio {ratios[-1]:.2f}")
    print(f"median ratio {sorted(ratios)[ROUNDS // 2]:.2f}")


if __name__ == "__main__":
    main()
