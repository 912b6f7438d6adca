"""The door of training at full size: `python -m harness.train.finetune stage=align data=FILE images=FOLDER`.

Two stages, as FastVLM's article and LLaVA have them: `align` (the projector alone, on frozen parts), then
`stage=joint start=FOLDER` (everything). One process or many (`accelerate launch -m harness.train.finetune ...`): a
step's samples are shared out, so the number of processes changes the time and not the result. The folder that is
written is a point of a sweep: `python -m harness.sweep checkpoint=FOLDER`.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.configuration.command_line import answer
from harness.configuration.compose import Plain, compose_all, usage_of
from harness.configuration.options import FinetuneOptions, Stage, check_folder, take
from harness.schema import Connector, Encoder, HarnessError, Template, fingerprint, first_fault
from harness.storage.intake import parse_json, read_json, read_lines

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn

    from harness.models.vlm import Vlm
    from harness.train.lesson import Lessons

STATE, LOG = "state", "log.jsonl"
"""Within the folder, while a training goes on: its state, and a row for each step."""
ARTICLE = 558_000
"""Samples of the article's stage 1 (LLaVA-558K)."""
ARTICLE_SAYS = "about 30 minutes with Qwen2-7B on one node of 8 H100-80GB (FastVLM, arXiv 2412.13303)"
"""`stage1_minutes` of `results/published/claims.csv`."""
UNLIKE = ("logit_scale", "logits_scaling", "final_logit_softcapping")
"""Settings of LLMs that change logits after the head, which the loss here does not."""


def rate_at(stage: Stage, step: int, steps: int) -> float:
    """The learning rate of a step, from 0: a linear warm-up, then a cosine to 0."""
    warm = math.ceil(stage.warmup * steps)
    if step < warm:
        return stage.lr * (step + 1) / warm
    return stage.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def options_of(config: Plain) -> tuple[FinetuneOptions, Stage]:
    """The options of a composed config; raises `HarnessError` for what is missing or does not go together."""
    options = take(FinetuneOptions, config)
    try:
        stage = take(Stage, config["stage"])
    except HarnessError as error:
        raise HarnessError(f"stage.{error}") from error
    if not options.data:
        raise HarnessError("data=null: a JSON file of conversations is expected, in LLaVA's form")
    check_folder("folder", options.folder)
    given = {one.partition("=")[0].lstrip("+").partition(".")[0] for one in config["overrides"]}
    parts = ("encoder", "connector", "template", "encoder_weights", "llm_weights")
    if options.start and (strange := [name for name in parts if name in given]):
        raise HarnessError(f"{strange[0]}=...: start={options.start} already has its parts; give one or the other")
    if not options.start and "llm" in stage.learns:
        raise HarnessError(f"start=null: stage={stage.name} goes on from the folder that stage=align wrote")
    return options, stage


def build(config: Plain, options: FinetuneOptions) -> Vlm:
    """The VLM that is trained: of hub checkpoints, or of `start`."""
    from pydantic import ValidationError

    from harness.models.vlm import check_checkpoint, load_vlm
    from harness.train.parts import assemble

    if options.start:
        check_checkpoint(Path(options.start))
        vlm = load_vlm(Path(options.start), training=True)
        if vlm.spec.template is None:
            raise HarnessError(f"start={options.start}: a VLM of the reference family, which harness.train trains")
    else:
        try:
            parts = Encoder(**config["encoder"]), Connector(**config["connector"]), Template(**config["template"])
        except ValidationError as error:
            raise HarnessError(first_fault(error)) from error
        vlm = assemble(*parts, options.encoder_weights, options.llm_weights, options.seed)
    if strange := [name for name in UNLIKE if getattr(vlm.llm.config, name, None) not in (None, 1.0)]:
        raise HarnessError(f"llm {vlm.spec.llm.name}: its {strange[0]} changes logits after the head: not supported")
    return vlm


def prepare(config: Plain) -> tuple[Lessons, str]:
    """Everything before the first step: parts, samples, and what names this training and no other."""
    from harness.configuration.points import check_resolution
    from harness.models.vlm import hash_checkpoint
    from harness.storage.intake import hash_files
    from harness.train.conversations import open_conversations
    from harness.train.lesson import Lessons
    from harness.train.parts import content_of

    options, stage = options_of(config)
    vlm = build(config, options)
    resolution = check_resolution(vlm.spec.encoder, options.resolution or vlm.spec.encoder.native)
    special = [str(token) for token in vlm.text().added_tokens_decoder.values() if token.special]
    forbidden = re.compile("|".join(map(re.escape, special)) or r"(?!)")
    images = Path(options.images) if options.images else None
    quiet = int(os.environ.get("RANK", "0")) > 0
    told = (lambda line: None) if quiet else (lambda line: print(line, file=sys.stderr))
    path, skip = Path(options.data or ""), options.bad == "skip"
    samples = open_conversations(path, images, stage.plain, forbidden, told, skip)
    lessons = Lessons(samples, vlm, options, stage, resolution)
    least = sum(map(len, vlm.question_ids(""))) + lessons.visual + 1
    if least > options.length:
        raise HarnessError(f"length={options.length}: an image and its prompt alone have {least - 1} tokens")
    decides: list[object] = [vlm.spec.model_dump(mode="json"), stage.model_dump(mode="json"), hash_files([path])]
    decides += [len(samples), resolution, options.length, options.precision, options.seed]
    if options.start:
        decides.append(hash_checkpoint(Path(options.start)))
    else:
        decides += [content_of(options.encoder_weights), content_of(options.llm_weights)]
    return lessons, fingerprint(decides)


def accelerator_of(options: FinetuneOptions, vlm: Vlm) -> Accelerator:
    """accelerate's view of this process and the others; with several GPUs weights are spread over them (FSDP), by a
    plugin made here unless `accelerate launch` brings one."""
    import torch
    from accelerate import Accelerator
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    shard = torch.cuda.is_available() and several if options.shard == "auto" else options.shard
    brought = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    plugin = None
    if shard and not brought:
        plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2,
            auto_wrap_policy="transformer_based_wrap",
            transformer_cls_names_to_wrap=sorted(getattr(vlm.llm, "_no_split_modules", None) or []),
            cpu_ram_efficient_loading=False,
            state_dict_type="FULL_STATE_DICT",
        )
    # Mixed precision is `Lesson`'s own autocast: the same for one process, DDP and FSDP.
    accelerator = Accelerator(mixed_precision="no", fsdp_plugin=plugin)
    if options.shard is True and accelerator.distributed_type != DistributedType.FSDP:
        raise HarnessError("shard=true: accelerate spreads weights over several GPUs, which are not here; shard=auto")
    return accelerator


def finetune(config: Plain, command: str = "") -> Path:
    """Train one VLM by its composed config, with the other processes that `accelerate launch` began; returns its
    folder. An unfinished training of the same folder is gone on with."""
    try:
        import accelerate
    except ImportError as error:
        raise HarnessError("accelerate is missing: pip install 'vlm-harness[train]'") from error
    import torch

    from harness.machine import describe
    from harness.models.vlm import TRAINING, WEIGHTS
    from harness.train.checkpointing import gather, keep, newest, read_said, take_up
    from harness.train.lesson import Lesson

    try:
        lessons, identity = prepare(config)
        folder = Path(lessons.options.folder)
        if _finished(folder, identity):
            return folder
        state = newest(folder / STATE)
        said: dict[str, Any] = read_said(state, "runs") if state else {"step": 0, "identity": identity, "runs": []}
        if said["identity"] != identity:
            raise HarnessError(f"folder={folder}: another training is unfinished there; give another folder")
    except HarnessError as error:
        if int(os.environ.get("RANK", "0")):
            raise SystemExit(error.exit_code) from error  # every process finds the same; the first one says it
        raise
    options, stage, vlm = lessons.options, lessons.stage, lessons.vlm
    accelerator = accelerator_of(options, vlm)
    device, first, processes = accelerator.device, accelerator.is_main_process, accelerator.num_processes
    torch.manual_seed(options.seed)
    if options.recompute:
        vlm.llm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if "encoder" in stage.learns and hasattr(vlm.encoder.backbone, "set_grad_checkpointing"):
            vlm.encoder.backbone.set_grad_checkpointing(True)
    half = options.precision == "bfloat16" or (options.precision == "auto" and device.type == "cuda")
    lesson = Lesson(vlm, stage, half)
    learned = [parameter for parameter in lesson.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(learned, lr=stage.lr, weight_decay=0.0)
    model, wrapped = accelerator.prepare(lesson, optimiser)
    if state:
        take_up(model, wrapped.optimizer, state)
    if first:
        folder.mkdir(parents=True, exist_ok=True)
        _cut(folder / LOG, int(said["step"]))
        much = sum(parameter.numel() for parameter in learned)
        where = f"{processes} process{'es' * (processes > 1)} on {device.type}"
        print(
            f"{stage.name}: {len(lessons.samples):,} samples, {lessons.steps:,} steps of {stage.batch}, "
            f"{much:,} weights learn{' (of this process)' * (processes > 1)}, {where}"
            + f", going on after step {said['step']:,}"
            * bool(state)
        )
    run = {"processes": processes, "device": device.type, "from": int(said["step"])}
    runs = [*said["runs"], run]

    def save(step: int) -> None:
        keep(model, wrapped.optimizer, folder / STATE, {"step": step, "identity": identity, "runs": runs}, first)

    _train(accelerator, model, wrapped, lessons, run, save)
    weights = gather(model)
    if first:
        machine = describe(device.type)
        training = {
            "command": command,
            "identity": identity,
            "stage": stage.model_dump(mode="json"),
            "options": options.model_dump(mode="json"),
            "samples": len(lessons.samples),
            "machine": machine.model_dump(mode="json"),
            "versions": machine.libraries | {"accelerate": accelerate.__version__},
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "runs": runs,
            "extrapolated": extrapolate(runs, stage),
            "log": _rows(folder / LOG),
        }
        stored = {name.removeprefix("vlm."): value for name, value in weights.items()}
        vlm.save(folder, training, getattr(torch, options.stored), stored)
        (folder / LOG).unlink(missing_ok=True)
        shutil.rmtree(folder / STATE, ignore_errors=True)
        print("\n".join(outcome(training, machine.device_name)))
        print(f"written to {folder}; ask it: python -m harness.sweep checkpoint={shlex.quote(str(folder))}")
        if not (folder / WEIGHTS).is_file() or not (folder / TRAINING).is_file():
            raise HarnessError(f"{folder}: the VLM could not be written")
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return folder


def _train(
    accelerator: Accelerator,
    model: nn.Module,
    optimiser: Any,
    lessons: Lessons,
    run: dict[str, Any],
    save: Callable[[int], None],
) -> None:
    """The steps from `run["from"]` on. `run` is told how many samples took how many seconds, its first step left out;
    `save(step)` writes the state."""
    import torch

    from harness.progress import Progress
    from harness.train.lesson import collate

    options, stage, steps = lessons.options, lessons.stage, lessons.steps
    device, first, processes = accelerator.device, accelerator.is_main_process, accelerator.num_processes
    begin, kept = time.perf_counter(), time.monotonic()
    base, warm, samples, since = int(run["from"]), 0.0, 0, 0
    with contextlib.ExitStack() as stack:
        progress: Progress | None = None
        log = stack.enter_context((Path(options.folder) / LOG).open("a", encoding="utf-8")) if first else None
        for step, examples in lessons.ahead(base, accelerator.process_index, processes):
            since += 1
            due = step + 1 < steps and (since >= options.save_steps or _minutes(kept) >= options.save_minutes)
            count = sum(example.tokens.learned for example in examples)
            said = torch.tensor([float(count), float(due and first)], device=device)
            tokens, wanted = (float(value) for value in accelerator.reduce(said, "sum"))
            torch.manual_seed(options.seed + step)  # a dropout, where an LLM has one, is the step's own
            rate = rate_at(stage, step, steps)
            for group in optimiser.param_groups:
                group["lr"] = rate
            total = torch.zeros((), device=device)
            size = options.micro_batch
            passes = [examples[i : i + size] for i in range(0, len(examples), size)]
            for number, part in enumerate(passes, start=1):
                given = [tensor.to(device) for tensor in collate(part, lessons.resolution)]
                with contextlib.nullcontext() if number == len(passes) else accelerator.no_sync(model):
                    loss = model(*given)
                    # Gradients are averaged over processes; what is wanted is the mean over the step's tokens.
                    accelerator.backward(loss * (processes / max(tokens, 1.0)))
                total += loss.detach()
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            mean = float(accelerator.reduce(total, "sum")) / max(tokens, 1.0)
            if not math.isfinite(mean):
                raise HarnessError(f"step {step + 1}: the loss is not finite; a lower stage.lr= may help")
            now = time.perf_counter()
            if step == base:
                warm = now
            else:
                samples += len(lessons.batch(step))
            if log is not None:
                row = {"step": step + 1, "loss": mean, "lr": rate, "tokens": int(tokens)}
                print(json.dumps(row | {"seconds": round(now - begin, 3)}), file=log, flush=True)
                if progress is None:
                    progress = stack.enter_context(Progress((now - begin) * (steps - step - 1)))
                progress.advance((step + 1 - base) / (steps - base))
                progress.doing(f"{stage.name} {step + 1:,} of {steps:,}", f"loss {mean:.3f}")
            if samples:
                run |= {"samples": samples, "seconds": round(now - warm, 3), "steps": step - base}
            else:  # one step alone, which also warms up
                run |= {"samples": len(lessons.batch(step)), "seconds": round(now - begin, 3), "steps": 1}
            if wanted:
                save(step + 1)
                since, kept = 0, time.monotonic()


def _minutes(since: float) -> float:
    return (time.monotonic() - since) / 60


def extrapolate(runs: Sequence[dict[str, Any]], stage: Stage) -> dict[str, Any] | None:
    """What the pace of the last run means for the article's stage 1; None for another stage, or without a pace."""
    run = next((run for run in reversed(runs) if run.get("samples") and run.get("seconds")), None)
    if run is None or list(stage.learns) != ["connector"]:
        return None
    pace = run["samples"] / run["seconds"]
    return {"samples": ARTICLE, "samples_per_second": pace, "hours": ARTICLE / pace / 3600, "article": ARTICLE_SAYS}


def outcome(training: dict[str, Any], device: str) -> list[str]:
    """What a finished training has shown, in lines."""
    lines = []
    if run := next((run for run in reversed(training["runs"]) if run.get("samples")), None):
        pace = run["samples"] / run["seconds"]
        many = f"{run['processes']} process{'es' * (run['processes'] > 1)}"
        lines.append(
            f"measured: {pace:.3g} samples/s in stage {training['stage']['name']} "
            f"({run['samples']:,} samples in {run['seconds']:.1f} s, {many} on {device})"
        )
    if found := training["extrapolated"]:
        hours = found["hours"]
        lines.append(
            f"extrapolated: {found['samples']:,} samples at {found['samples_per_second']:.3g} samples/s would take "
            f"{hours:.3g} h on this machine; the article says {found['article']}"
        )
    return lines


def _finished(folder: Path, identity: str) -> bool:
    """Whether this training was finished before; raises `HarnessError` if another one was."""
    from harness.models.vlm import TRAINING, WEIGHTS

    if not (folder / WEIGHTS).is_file():
        return False
    known = read_json(folder / TRAINING) if (folder / TRAINING).is_file() else {}
    if not isinstance(known, dict) or known.get("identity") != identity:
        raise HarnessError(f"folder={folder}: there is a VLM of another training; give another folder")
    if int(os.environ.get("RANK", "0")) == 0:
        print(f"{folder}: finished before; nothing is done")
    return True


def _rows(path: Path) -> list[Any]:
    """The rows of a log; one that was cut off by a kill is left out."""
    if not path.exists():
        return []
    return [parse_json(line, f"{path} at byte {at}") for at, line in read_lines(path) if line.endswith(b"\n")]


def _cut(path: Path, step: int) -> None:
    """Take the rows after `step` out of a log: those steps are done again."""
    rows = [row for row in _rows(path) if row["step"] <= step]
    part = path.with_suffix(".part")
    part.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    part.replace(path)


USAGE = """\
python -m harness.train.finetune stage=align data=FILE images=FOLDER folder=FOLDER [KEY=VALUE ...]
accelerate launch -m harness.train.finetune ...        the same on several GPUs

Trains a VLM of full size from hub checkpoints of its encoder and its LLM and conversations in LLaVA's form:
first the projector alone (stage=align), then everything (stage=joint start=FOLDER). The same command goes on
where it was interrupted. The folder is a point of a sweep: python -m harness.sweep checkpoint=FOLDER

  python -m harness.train.finetune data=blip_laion_cc_sbu_558k.json images=pretrain folder=checkpoints/aligned
  python -m harness.train.finetune stage=joint start=checkpoints/aligned data=llava_v1_5_mix665k.json images=data

A number of the stage goes by its name: stage.lr=0.0005.
"""


def run(arguments: Sequence[str]) -> int:
    """Train the VLM that the command line describes."""
    _, points = compose_all(arguments, root="finetune")
    if len(points) != 1:
        raise HarnessError(f"{len(points)} trainings: one at a time is expected, each option with one value")
    finetune(points[0], shlex.join(["python", "-m", "harness.train.finetune", *arguments]))
    return 0


def usage() -> str:
    """The help text, with every option and every name there is."""
    return USAGE + usage_of("finetune")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (0 good, 2 bad input, 130 interrupted)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    kept = "the same command goes on with the last state that was kept"
    return answer(lambda: run(arguments), arguments, usage, kept)


if __name__ == "__main__":
    sys.exit(main())
