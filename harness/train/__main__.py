"""The door of training: `python -m harness.train encoder=tiny_fastvithd llm=tiny_qwen2_m`.

What was finished once is kept in the cache, or comes with the package, by the fingerprint of everything that decides
it; a training that was interrupted goes on where its state was kept last.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.configuration.command_line import answer
from harness.configuration.compose import Plain, compose_all, usage_of
from harness.configuration.options import check_folder, check_recipe


def train(config: Plain) -> Path:
    """Train one VLM by its composed config; returns its folder, or the last stage's where the training ends earlier."""
    os.environ.setdefault("OMP_NUM_THREADS", str(config["threads"]))
    import torch

    from harness.train.curriculum import Curriculum

    torch.set_num_threads(config["threads"])
    torch.set_flush_denormal(True)
    curriculum = Curriculum(config)
    outcome = curriculum.reach(config["until"])
    folder = outcome.weights.parent
    if config["until"] == "joint":
        folder = Path(config["folder"]) / curriculum.name
        command = command_of(curriculum.encoder.name, curriculum.llm.name, curriculum.seed, config["recipe"])
        curriculum.save(folder, command)
    print(f"{curriculum.name}: {config['until']} is in {folder}", file=sys.stderr)
    return folder


def command_of(encoder: str, llm: str, seed: int, recipe: Plain) -> str:
    """The command that trains this VLM again, whatever the default recipe becomes."""
    words = [f"encoder={encoder}", f"llm={llm}", f"seed={seed}"]
    for stage, values in recipe.items():
        for key, value in values.items():
            if isinstance(value, dict):  # shares: resolutions are numbers, which only a whole mapping can name
                words.append(f"recipe.{stage}.{key}={{{','.join(f'{k}:{v}' for k, v in value.items())}}}")
            else:
                words.append(f"recipe.{stage}.{key}={value}")
    return shlex.join(["python", "-m", "harness.train", *words])


USAGE = """\
python -m harness.train [+training=NAME] [KEY=VALUE[,VALUE...] ...]

Trains VLMs of the reference family, one after the other, and writes a folder for each.

  python -m harness.train encoder=tiny_fastvithd llm=tiny_qwen2_m
  python -m harness.train +training=reference_family encoder=tiny_vit

Several values make a grid. A number of the recipe goes by its name: recipe.joint.steps=50. A training that was
interrupted goes on with the same command; until=letters ends it earlier.
"""


def run(arguments: Sequence[str]) -> int:
    """Train every point that the command line names, one after the other."""
    common, points = compose_all(arguments, root="train")
    for option in ("folder", "cache"):
        check_folder(option, str(common[option]))
    for config in points:
        check_recipe(config["recipe"])
    if common["narrowed"]:
        print(common["narrowed"], file=sys.stderr)
    for config in points:
        train(config)
    return 0


def usage() -> str:
    """The help text, with every option and every name there is."""
    return USAGE + usage_of("train")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (0 good, 2 bad input, 130 interrupted)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    kept = "the same command goes on with the last state that was kept"
    return answer(lambda: run(arguments), arguments, usage, kept)


if __name__ == "__main__":
    sys.exit(main())
