"""The door of training: `python -m harness.train encoder=tiny_fastvithd llm=tiny_qwen2_m`.

Stage 0's encoder is kept in the cache by the fingerprint of everything that decides it and shared by all LLMs; a
training that was interrupted starts again at its last finished stage.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from harness.configuration.command_line import answer
from harness.configuration.compose import Plain, compose_all, usage_of
from harness.configuration.options import check_folder, check_recipe
from harness.schema import Connector, Encoder, Llm, fingerprint
from harness.storage.intake import read_json


def train(config: Plain) -> Path:
    """Train one VLM by its composed config; returns its folder."""
    os.environ.setdefault("OMP_NUM_THREADS", str(config["threads"]))
    import torch
    from filelock import FileLock
    from safetensors.torch import load_file, save_file

    from harness.machine import available_cores, describe
    from harness.models.encoders import build_encoder
    from harness.models.tokenizer import build_tokenizer
    from harness.models.vlm import Vlm, VlmSpec
    from harness.suites import embedded
    from harness.train.instruct import InstructRecipe, instruct
    from harness.train.pool import open_pool, open_print_pool
    from harness.train.pretrain import PretrainRecipe, pretrain

    torch.set_num_threads(config["threads"])
    torch.set_flush_denormal(True)
    recipe, seed, cache = config["recipe"], config["seed"], Path(config["cache"])
    encoder = Encoder(**config["encoder"])
    spec = VlmSpec(
        encoder=encoder, connector=Connector(**config["connector"]), llm=Llm(**config["llm"]), training_form=True
    )
    title = f"{encoder.name}-{spec.llm.name}"
    resolutions = tuple(int(r) for r in recipe["pretrain"]["shares"])
    drawing = embedded.fingerprint_of_drawing()
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / "lock"):  # trainings side by side share what they draw
        pool = open_pool(recipe["pool"], resolutions, cache, available_cores())
        letters = open_print_pool(recipe["print"], cache, available_cores())
    losses: list[dict[str, object]] = []

    def log(row: dict[str, object]) -> None:
        losses.append(row)
        print(title, json.dumps(row), file=sys.stderr, flush=True)

    torch.manual_seed(seed)
    vlm = Vlm(spec, build_tokenizer(embedded.words()))
    start = time.perf_counter()
    decides = [encoder.model_dump(mode="json"), recipe["print"], recipe["pool"], recipe["pretrain"], drawing, seed]
    stage0 = cache / f"{encoder.name}-{fingerprint(decides)}"
    kept, kept_log = stage0 / "encoder.safetensors", stage0 / "log.json"
    if kept.exists():
        vlm.encoder.load_state_dict(load_file(kept))
        losses.extend(_read(kept_log))
    else:
        torch.manual_seed(seed)
        vlm.encoder = build_encoder(encoder, training_form=True)
        pretrain(vlm.encoder, letters, pool, PretrainRecipe(**_typed(recipe["pretrain"]), seed=seed), log)
        stage0.mkdir(parents=True, exist_ok=True)
        _write(kept_log, losses)
        save_file(vlm.encoder.state_dict(), kept.with_suffix(".part"))
        kept.with_suffix(".part").replace(kept)
    instruct(vlm, pool, InstructRecipe(**_typed(recipe["instruct"]), seed=seed), stage0, log)
    folder = Path(config["folder"]) / title
    training = {
        "command": command_of(encoder.name, spec.llm.name, seed, recipe),
        "recipe": recipe,
        "seed": seed,
        "drawing": drawing,
        "machine": describe("cpu").model_dump(mode="json"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds_of_this_run": round(time.perf_counter() - start, 1),
        "log": losses,
    }
    vlm.save(folder, training)
    print(f"{title}: written to {folder}", file=sys.stderr)
    return folder


def command_of(encoder: str, llm: str, seed: int, recipe: Plain) -> str:
    """The command that trains this VLM again, whatever the default recipe becomes."""
    words = [f"encoder={encoder}", f"llm={llm}", f"seed={seed}"]

    for stage, values in recipe.items():
        for key, value in values.items() if isinstance(values, dict) else ():
            if isinstance(value, dict):  # shares: resolutions are numbers, which only a whole mapping can name
                words.append(f"recipe.{stage}.{key}={{{','.join(f'{k}:{v}' for k, v in value.items())}}}")
            else:
                words.append(f"recipe.{stage}.{key}={value}")
        if not isinstance(values, dict):
            words.append(f"recipe.{stage}={values}")
    return shlex.join(["python", "-m", "harness.train", *words])


def _typed(stage: Plain) -> Plain:
    return stage | {"shares": {int(r): float(s) for r, s in stage["shares"].items()}}


def _read(path: Path) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = read_json(path)
    return rows


def _write(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text(json.dumps(rows))


USAGE = """\
python -m harness.train [+training=NAME] [KEY=VALUE[,VALUE...] ...]

Trains VLMs of the reference family, one after the other, and writes a folder for each.

  python -m harness.train encoder=tiny_fastvithd llm=tiny_qwen2_m
  python -m harness.train +training=reference_family encoder=tiny_vit

Several values make a grid. A number of the recipe goes by its name: recipe.instruct.joint_steps=50.
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
    kept = "the same command goes on with the stage that was interrupted"
    return answer(lambda: run(arguments), arguments, usage, kept)


if __name__ == "__main__":
    sys.exit(main())
