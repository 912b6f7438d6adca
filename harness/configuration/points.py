"""From composed configs to points: resolve what is automatic, and check everything before anything is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.configuration.compose import Plain
from harness.machine import available_cores
from harness.models.hub import folder_of_hub, hash_hub, learn
from harness.models.vlm import (
    CONFIG,
    SHIPPED,
    SHIPPED_PREFIX,
    WEIGHTS,
    VlmSpec,
    check_checkpoint,
    folder_of,
    hash_checkpoint,
    is_ours,
    read_spec,
)
from harness.runtimes import check_runs
from harness.runtimes import find as find_runtime
from harness.schema import (
    DTYPE_BYTES,
    RANDOM,
    ComposedModel,
    Connector,
    Encoder,
    Execution,
    Fusion,
    HarnessError,
    HubModel,
    Llm,
    Point,
    Suite,
    System,
    TimingProtocol,
    first_fault,
    grid_of,
    unknown,
)
from harness.suites.hub import check_place, pin
from harness.suites.questions import examples
from harness.suites.tasks import expand, load_suite

ANSWERS = "torch"
"""The runtime that trained VLMs answer on."""
DTYPES = tuple(DTYPE_BYTES)
ATTENTIONS = ("sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention")


def make_point(config: Plain, weights: bool = True) -> Point:
    """One composed config -> a point; raises `HarnessError` for anything that could not be measured.

    Without `weights` nothing large is fetched: a plan needs a hub model's settings and the number of its weights.
    """
    if config.get("vlm"):
        return _hub_point(config, weights)
    config = _with_parts_of_folder(config)
    encoder = _noun(Encoder, config["encoder"], "encoder")
    also = tuple(_noun(Encoder, fields, "encoder") for fields in (config["also"] or {}).values())
    llm = _noun(Llm, config["llm"], "llm")
    connector = _noun(Connector, config["connector"], "connector")
    fusion = _noun(Fusion, config["fusion"], "fusion") if config.get("fusion") else None
    system = _system(config)
    checkpoint = find_checkpoint(encoder, llm, str(config["checkpoint"]))
    suites: tuple[Suite, ...] = ()
    if checkpoint:
        folder = folder_of(checkpoint)
        spec = check_checkpoint(folder, encoder)
        check_parts(folder, spec, encoder, connector, llm)
        if spec.also or spec.fusion or also or fusion:
            raise HarnessError(
                f"{folder}: several encoders, or layers within the LLM that see the image, are timed with random "
                f"weights only; give checkpoint=random"
            )
        encoder, connector, llm = spec.encoder, spec.connector, spec.llm
        suites = _suites(config)
    resolution, tiles = config["resolution"], _positive("tiles", config["tiles"])
    grid_of(tiles)
    if checkpoint and tiles > 1:
        raise HarnessError(f"tiles={tiles}: {checkpoint} was trained on one image at a time; give checkpoint=random")
    if tiles > 1 and also:
        raise HarnessError(f"tiles={tiles}: only one encoder can see tiles, here are {1 + len(also)}")
    model = ComposedModel(
        system=system, encoder=encoder, also=also, connector=connector, fusion=fusion, llm=llm, tiles=tiles
    )
    vision, language, protocol = _executions(config, model.kind)
    point = Point(
        model=model,
        resolution=check_resolution(encoder, encoder.native if resolution is None else resolution),
        vision=vision,
        language=language,
        weights=hash_checkpoint(folder_of(checkpoint)) if checkpoint else RANDOM,
        checkpoint=checkpoint,
        suites=suites if {vision.runtime, language.runtime} == {ANSWERS} else (),
        protocol=protocol,
    )
    if fusion is not None:
        check_fusion(fusion, point.visual_tokens, llm)
    return point


PARTS = ("encoder", "connector", "llm")


def _with_parts_of_folder(config: Plain) -> Plain:
    """The config with the parts of the checkpoint's folder in place of those that nobody named."""
    folder = Path(str(config["checkpoint"]))
    given = {one.partition("=")[0].lstrip("+").partition(".")[0] for one in config.get("overrides", PARTS)}
    if given.issuperset(PARTS) or config.get("system") or not folder.is_dir() or not is_ours(folder):
        return config
    spec = read_spec(folder, _noun(Encoder, config["encoder"], "encoder"))
    return config | {name: getattr(spec, name).model_dump() for name in PARTS if name not in given}


def _system(config: Plain) -> System | None:
    """The named system, with the overrides that change its parts."""
    if not config.get("system"):
        return None
    found: System = _noun(System, config["system"], "system")
    keys = ("encoder", "also", "connector", "fusion", "llm")
    changed = [o for o in config.get("overrides", ()) if o.partition("=")[0].lstrip("+").partition(".")[0] in keys]
    return found.model_copy(update={"changed": tuple(changed)})


def check_fusion(fusion: Fusion, visual_tokens: int, llm: Llm) -> None:
    """Refuse a fusion that looks at something else than what the connector gives, or has no place in the LLM."""
    rows, keys, _ = fusion.memory
    expected = rows if fusion.in_sequence else keys
    if expected != visual_tokens:
        raise HarnessError(f"fusion {fusion.name} is made for {expected} visual tokens, here are {visual_tokens}")
    layers = llm.config["num_hidden_layers"]
    if fusion.first + (fusion.count - 1) * fusion.every >= layers:
        raise HarnessError(f"fusion {fusion.name}: {llm.name} has {layers} layers, no place for {fusion.count} more")


def _hub_point(config: Plain, weights: bool) -> Point:
    """The point of a VLM as its authors published it."""
    fields = dict(config["vlm"])
    fields["name"] = fields.get("name") or Path(str(fields.get("path"))).name
    fields["title"] = fields.get("title") or fields["name"]
    asked = None if config["resolution"] is None else _positive("resolution", config["resolution"])
    fields["override"] = asked
    model = _noun(HubModel, fields, "vlm")
    _, language, protocol = _executions(config, model.kind)
    folder = folder_of_hub(model.path, model.revision, weights)
    found = learn(folder, asked, language.attention, examples()[0])
    tokens = found["visual_tokens"], max(protocol.text_tokens, found["head"] + 1)
    return Point(
        model=model.model_copy(update={"tokens": tokens}),
        resolution=found["resolution"],
        vision=language,
        language=language,
        weights=hash_hub(folder),
        suites=_suites(config),
        protocol=protocol,
    )


def _suites(config: Plain) -> tuple[Suite, ...]:
    """What a trained VLM is asked."""
    names = config["suites"]
    if not isinstance(names, list):
        raise HarnessError(f"suites={names}: a list is expected, e.g. suites=[doc_read,shapes]")
    limit = None if config["limit"] is None else _positive("limit", config["limit"])
    asked = [suite for name in names for suite in expand(str(name))]
    data = _data(config["data"], asked)
    suites = (load_suite(suite, limit, data.get(suite, "")) for suite in asked)
    return tuple(suite.model_copy(update={"source": pin(suite.source)}) for suite in suites)


def _data(given: Any, asked: list[str]) -> dict[str, str]:
    """Where data lies instead of on the hub, by suite."""
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise HarnessError(f"data={given}: suites and folders are expected, e.g. data={{docvqa:/data/docvqa}}")
    if strange := [str(suite) for suite in given if suite not in asked]:
        raise HarnessError(f"data: {unknown('suite', strange[0], asked)}")
    return {suite: check_place(suite, path) for suite, path in given.items()}


def _executions(config: Plain, kind: str) -> tuple[Execution, Execution, TimingProtocol]:
    """Where images become visual tokens, where the LLM runs, and how both are timed."""
    common = {
        "dtype": _choice("dtype", config["dtype"], DTYPES),
        "threads": available_cores() if config["threads"] == "auto" else _positive("threads", config["threads"]),
    }
    attention = _choice("attention", config["attention"], ATTENTIONS)
    asked = [str(config[f"{stage}_runtime"] or config["runtime"]) for stage in ("encoder", "llm")]
    names = [name.removeprefix("harness.runtimes.") for name in asked]
    if kind == "hub" and names[0] != names[1]:
        raise HarnessError(
            f"encoder_runtime={names[0]}, llm_runtime={names[1]}: a hub model runs in one; give runtime="
        )
    fused = ["fusion"] if config.get("fusion") else []
    for name, runs in zip(names, (["encoder"], ["connector", "llm", *fused]), strict=True):
        for each in ["hub"] if kind == "hub" else runs:
            check_runs(name, each)
    vision, language = (
        Execution(
            runtime=name,
            device=_device(name, str(config["device"])),
            libraries=find_runtime(name).libraries(),
            attention=attention if stage == "llm" else "",
            **common,
        )
        for stage, name in zip(("encoder", "llm"), names, strict=True)
    )
    return vision, language, _noun(TimingProtocol, config["protocol"], "protocol")


def _device(runtime: str, asked: str) -> str:
    """The device that a runtime finds."""
    device = find_runtime(runtime).resolve_device(asked)
    if ":" in device:
        number = device.partition(":")[2]
        raise HarnessError(
            f"device={device}: the first one is measured; CUDA_VISIBLE_DEVICES={number} makes it the first"
        )
    return device


def check_parts(folder: Path, spec: VlmSpec, encoder: Encoder, connector: Connector, llm: Llm) -> None:
    """Refuse a checkpoint of other parts than those that were asked for, in name or in architecture."""
    if (spec.encoder.name, spec.llm.name) != (encoder.name, llm.name):
        raise HarnessError(
            f"{folder} holds {spec.encoder.name} + {spec.llm.name}, asked for {encoder.name} + {llm.name}"
        )
    for stored, asked in ((spec.encoder, encoder), (spec.connector, connector), (spec.llm, llm)):
        before, now = (part.model_dump(exclude={"title", "source"}) for part in (stored, asked))
        for field, value in before.items():
            if now[field] != value:
                raise HarnessError(
                    f"{folder}: {asked.name} was trained with {field}={value}, asked for {field}={now[field]}; "
                    f"train that variant, or time it with checkpoint=random where its weights may be random"
                )


def check_resolution(encoder: Encoder, resolution: Any) -> int:
    """The resolution as a number that the encoder's stride divides."""
    asked = _positive("resolution", resolution)
    if asked < encoder.stride or (asked % encoder.stride and not encoder.crop):
        below = asked // encoder.stride * encoder.stride
        near = [str(r) for r in (below, below + encoder.stride) if r]
        raise HarnessError(
            f"resolution={asked}: encoder {encoder.name} has stride {encoder.stride}, which does not divide it; "
            f"nearest that work: {', '.join(near)}"
        )
    return asked


def find_checkpoint(encoder: Encoder, llm: Llm, asked: str) -> str:
    """Name or folder of the trained VLM (see `folder_of`); empty for random weights."""
    if asked == RANDOM:
        if not llm.config.get("vocab_size"):
            raise HarnessError(f"checkpoint=random: llm {llm.name} has no vocabulary of its own; use checkpoint=auto")
        return ""
    if asked != "auto":
        folder = Path(asked)
        if not folder.is_dir():
            raise HarnessError(f"checkpoint={asked}: there is no such folder")
        for name in (CONFIG, WEIGHTS):
            if not (folder / name).is_file():
                raise HarnessError(f"checkpoint={asked}: the folder has no {name}")
        return asked
    name = f"{encoder.name}-{llm.name}"
    if (SHIPPED / name / WEIGHTS).is_file():
        return SHIPPED_PREFIX + name
    if not llm.config.get("vocab_size"):
        trained = ", ".join(sorted(path.name for path in SHIPPED.glob("*") if path.is_dir()))
        raise HarnessError(
            f"no trained checkpoint for {encoder.name} + {llm.name}; shipped are: {trained or 'none'}; "
            f"train it with: python -m harness.train encoder={encoder.name} llm={llm.name}"
        )
    return ""


def no_accuracy(point: Point) -> str:
    """Why a point is not asked anything; empty if it is."""
    model = point.model
    if others := {point.vision.runtime, point.language.runtime} - {ANSWERS}:
        return f"no accuracy: {', '.join(sorted(others))} is timed with random weights; only {ANSWERS} answers"
    if isinstance(model, ComposedModel) and point.weights == RANDOM:
        what = model.system.name if model.system else f"{model.encoder.name} + {model.llm.name}"
        return (
            f"no accuracy: {what} have random weights here "
            f"(latency does not depend on their values); give a trained one with checkpoint=FOLDER"
        )
    return "" if point.suites else "no accuracy: no suite was asked (suites=[])"


def _noun(noun: type[Any], fields: Any, what: str) -> Any:
    try:
        return noun(**fields)
    except ValidationError as error:
        raise HarnessError(f"{what}: {first_fault(error)}") from error


def _positive(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise HarnessError(f"{name}={value}: a whole number above 0 is expected")
    return value


def _choice(name: str, value: Any, known: tuple[str, ...]) -> Any:
    if value not in known:
        raise HarnessError(f"{name}={value}: one of {', '.join(known)} is expected")
    return value
