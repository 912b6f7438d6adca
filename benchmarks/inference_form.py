"""What does a FastViT-type encoder gain by its inference form?

    python benchmarks/inference_form.py [--encoder NAME] [--resolution N] [--smoke]

The training form (branches with batch norm, timm's default) and the fused form are timed in turns in one run.
"""

import argparse

import torch
from torch.utils import benchmark

from harness.configuration.compose import compose_all
from harness.models.encoders import build_encoder
from harness.schema import Encoder

ROUNDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="fastvithd", help="a name of sweeps/encoder (default fastvithd)")
    parser.add_argument("--resolution", type=int, default=512, help="side of the square input (default 512)")
    parser.add_argument("--smoke", action="store_true", help="the same in seconds: does it run, not what is true")
    arguments = parser.parse_args()
    name, resolution, rounds, seconds = arguments.encoder, arguments.resolution, ROUNDS, 1.0
    if arguments.smoke:
        torch.set_num_threads(1)
        name, resolution, rounds, seconds = "tiny_fastvit", 64, 1, 0.05
    spec = Encoder(**compose_all([f"encoder={name}"])[1][0]["encoder"])
    pixels = torch.randn(1, 3, resolution, resolution)
    training, fused = build_encoder(spec, training_form=True).eval(), build_encoder(spec).eval()
    ratios = []
    for _ in range(rounds):
        medians = []
        for encoder in (training, fused):
            scope = {"encoder": encoder, "pixels": pixels, "torch": torch}
            timer = benchmark.Timer(
                "with torch.inference_mode(): encoder(pixels)", globals=scope, num_threads=torch.get_num_threads()
            )
            medians.append(timer.blocked_autorange(min_run_time=seconds).median)
        ratios.append(medians[0] / medians[1])
        print(
            f"{name} {resolution} px: training form {medians[0] * 1e3:.1f} ms, fused {medians[1] * 1e3:.1f} ms, ",
            end="",
        )
        print(f"ratio {ratios[-1]:.2f}")
    print(f"median ratio {sorted(ratios)[rounds // 2]:.2f}")


if __name__ == "__main__":
    main()
