"""From points to what has to be measured: components once each, a few whole VLMs, evaluations; and what that will
take."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Literal

import torch

from harness.configuration.points import RANDOM, no_accuracy
from harness.models.hub import folder_of_hub, weights_of_hub
from harness.models.vlm import folder_of, vocabulary_of
from harness.schema import (
    DRAWN,
    Ceilings,
    Component,
    Evaluation,
    Machine,
    Measurement,
    Planned,
    Point,
    Suite,
    Work,
    component_key,
    fingerprint,
    modules_of,
    question_key,
)
from harness.timing.bench import REPEATS, ROUNDS, SLOW, WINDOW
from harness.timing.costs import parameters_of, work_of

PROCESS_START_SECONDS = 6.0
"""Seconds that a fresh process takes until its first measurement: imports, timer test, ceilings (measured on two
cores)."""
EFFICIENCY = (0.2, 0.7)
"""Shares of the device's ceiling that a small and a large stage are assumed to reach before they have been measured."""
LARGE = 2e10
"""Operations from which a stage is large."""
IMAGE_DECODE_SECONDS = 0.012
"""Seconds to decode and resize an image, assumed before it has been measured."""
BUILD = 2e8
"""Weights that are made a second, assumed."""
EVALUATION_SECONDS = 2.5
"""Seconds of an evaluation, assumed before any was taken."""
BLIND = {True: 0.1, False: 0.75}
"""Share of an evaluation's time that a blind run takes, assumed before any was taken, of a suite that is drawn (few
different questions) and of others (0.59 of DocVQA's shape and 0.87 of GQA's, every question different, measured on two
cores)."""
BATCH_WEIGHT_BYTES = 2 * 2**30
"""Bytes of weights that take turns in one process; a larger model is measured alone."""
MEMORY = 0.6
"""Share of the memory that weights may take; a larger LLM is measured at a few depths and extended."""
DEPTHS = (2, 5, 8)
"""Layers that such an LLM is measured with: a line through the first and the last, the one between checks it."""
Extrapolate = Literal["auto", "always", "never"]


@dataclass
class Plan:
    """Everything that a sweep needs, each thing once."""

    points: list[Planned] = field(default_factory=list)
    components: dict[str, Component] = field(default_factory=dict)
    evaluations: dict[str, tuple[Point, Suite]] = field(default_factory=dict)
    commands: dict[str, str] = field(default_factory=dict)
    """Key -> a command that measures it again."""
    machines: dict[str, Machine] = field(default_factory=dict)
    """By device."""
    _work: dict[str, dict[str, Work]] = field(default_factory=dict)

    def work(self, key: str) -> dict[str, Work]:
        """The work of a component's stages, counted once: the estimate and the record both ask for it. That of a
        published VLM is not known: its code may look into tensors, which `meta` has not."""
        if self.components[key].published is not None:
            return {}
        if key not in self._work:
            self._work[key] = work_of(self.components[key])
        return self._work[key]

    def weight_bytes(self, key: str) -> int:
        """Bytes of a component's weights."""
        if (published := self.components[key].published) is not None:
            folder = folder_of_hub(published.path, published.revision, weights=False)
            return weights_of_hub(folder) * bytes_of(self.components[key])
        stages = {name: work.parameters for name, work in self.work(key).items() if name != "prefill_visual"}
        return sum(stages.values()) * bytes_of(self.components[key])

    def missing(self, measurements: Mapping[str, Mapping[int, Measurement]], force: bool = False) -> list[list[str]]:
        """For each block the keys of the components that it has to measure; blocks with nothing to do are empty."""
        most = max((c.protocol.blocks for c in self.components.values()), default=0)
        return [
            [
                key
                for key, component in self.components.items()
                if block < component.protocol.blocks
                and (force or is_missing(measurements.get(key, {}).get(block), component.protocol.repeats))
            ]
            for block in range(most)
        ]

    def resumed(self, measurements: Mapping[str, Mapping[int, Measurement]], todo: Sequence[Sequence[str]]) -> int:
        """How many blocks of `missing` have measurements in the store: what is added to them is of another process."""
        return sum(
            any(block in measurements.get(key, {}) for key in self.components.keys() - set(keys))
            for block, keys in enumerate(todo)
            if keys
        )

    def unanswered(self, evaluations: Mapping[str, Evaluation], force: bool = False) -> list[str]:
        """Keys of the evaluations that have to be taken."""
        return [key for key in self.evaluations if force or key not in evaluations or evaluations[key].status != "ok"]


def is_missing(measurement: Measurement | None, repeats: int) -> bool:
    """Whether a component has to be measured (again) in a block: it was not, it failed, or it was disturbed and a kill
    came before its repetition."""
    return (
        measurement is None or measurement.status != "ok" or (measurement.disturbed and measurement.attempt < repeats)
    )


def make_plan(
    points: Iterable[tuple[Point, str]],
    machines: dict[str, Machine],
    rows: str,
    direct: int | None,
    extrapolate: Extrapolate = "auto",
    blind: bool = False,
) -> Plan:
    """Points with their commands -> what to measure. `direct` whole VLMs are measured, too; None: all of them.

    Which ones is drawn by the points' fingerprints: a sample that nobody chose and that stays the same. LLMs that do
    not fit into memory, or all (`extrapolate`), are measured at a few depths. `blind`: each suite that is scored is
    asked with grey images as well.
    """
    plan = Plan(machines=machines)
    unique = {fingerprint(point): (point, command) for point, command in points}
    whole = set(sorted(unique)[:direct])
    for name, (point, command) in unique.items():
        machine = machines[point.device]
        keys = {}
        parts: dict[str, Component] = {}
        for component in components_of(point):
            number = sum(part.partition("@")[0] == component.kind for part in parts)
            parts[f"{component.kind}@{number}" if number else component.kind] = component
        llm = parts.get("llm")
        if llm is not None and (extrapolate == "always" or (extrapolate == "auto" and not fits(llm, machine))):
            parts = spread_depths(parts)
        for part, component in parts.items():
            if part == "vlm" and (name not in whole or not (extrapolate == "never" or fits(component, machine))):
                continue
            key = component_key(component, machine)
            keys[part] = key
            plan.components.setdefault(key, component)
            plan.commands.setdefault(key, command)
        asked: dict[str, str] = {}
        unseen: dict[str, str] = {}
        for suite in point.suites:
            sides = [(suite, asked)]
            if blind and suite.metric:
                sides.append((suite.model_copy(update={"image": "grey"}), unseen))
            for side, named in sides:
                named[suite.name] = key = question_key(point, side, machine, rows)
                plan.evaluations.setdefault(key, (point, side))
                plan.commands.setdefault(key, command)
        about = {"command": command, "no_accuracy": no_accuracy(point)}
        plan.points.append(Planned(point=point, components=keys, evaluations=asked, blind=unseen, **about))
    return plan


def components_of(point: Point) -> list[Component]:
    """A point's encoders, connector, fusion, LLM and whole VLM.

    Latency does not depend on the values of weights, so the parts have random ones and are shared by all points of
    the same architecture; the VLM has the point's own, and their residual says whether that holds.
    """
    if point.published is not None:
        assert point.tokens is not None
        return [
            Component(
                kind="published",
                published=point.published,
                resolution=point.resolution,
                visual_tokens=point.tokens[0],
                text_tokens=point.tokens[1],
                device=point.device,
                dtype=point.dtype,
                attention=point.attention,
                threads=point.threads,
                weights=point.weights,
                protocol=point.protocol,
            )
        ]
    llm, encoder = point.llm, point.encoder
    assert llm is not None
    assert encoder is not None
    if not llm.config.get("vocab_size"):
        size = vocabulary_of(folder_of(point.checkpoint))
        llm = llm.model_copy(update={"config": {**llm.config, "vocab_size": size}})
    common = {
        "device": point.device,
        "dtype": point.dtype,
        "threads": point.threads,
        "protocol": point.protocol,
    }
    alone = common | {"text_tokens": 0, "attention": "", "weights": RANDOM}
    text = {"text_tokens": point.protocol.text_tokens, "attention": point.attention}
    sight = {"resolution": point.resolution, "tiles": point.tiles}
    parts = {"encoder": encoder, "also": point.also, "connector": point.connector, "llm": llm}
    seen = [encoder.visual_tokens(point.resolution), *(each.visual_tokens(each.native) for each in point.also)]
    found = [Component(kind="encoder", encoder=encoder, **sight, visual_tokens=point.tiles * seen[0], **alone)]
    found += [
        Component(kind="encoder", encoder=each, resolution=each.native, visual_tokens=count, **alone)
        for each, count in zip(point.also, seen[1:], strict=True)
    ]
    found.append(Component(kind="connector", **parts, **sight, visual_tokens=point.visual_tokens, **alone))
    if (fusion := point.fusion) is not None:
        length = 0 if fusion.in_sequence else point.protocol.text_tokens
        shape = {"visual_tokens": point.sequence_tokens, "text_tokens": length}
        found.append(Component(kind="fusion", fusion=fusion, llm=llm, **(alone | shape)))
    common["visual_tokens"] = point.sequence_tokens
    return [
        *found,
        Component(kind="llm", llm=llm, **common, **text, weights=RANDOM),
        Component(
            kind="vlm",
            **parts,
            fusion=point.fusion,
            **sight,
            **common,
            **text,
            weights=point.weights,
            checkpoint=point.checkpoint,
        ),
    ]


def bytes_of(component: Component) -> int:
    """Bytes of one of a component's weights."""
    return int(getattr(torch, component.dtype).itemsize)


def fits(component: Component, machine: Machine) -> bool:
    """Whether a component's weights leave enough memory to work with."""
    memory = machine.memory_bytes
    if component.device == "cuda":
        memory = torch.cuda.get_device_properties(0).total_memory
    return parameters_of(component) * bytes_of(component) <= MEMORY * memory


def spread_depths(parts: Mapping[str, Component]) -> dict[str, Component]:
    """The parts with the LLM at `DEPTHS` layers each; as they are where it has not more than that."""
    whole = parts["llm"].llm
    assert whole is not None
    layers = whole.config["num_hidden_layers"]
    if layers <= DEPTHS[-1]:
        return dict(parts)
    made: dict[str, Component] = {}
    for part, component in parts.items():
        if part != "llm":
            made[part] = component
            continue
        for depth in DEPTHS:
            name = f"{whole.name} ({depth} of {layers} layers)"
            llm = whole.model_copy(update={"name": name, "config": {**whole.config, "num_hidden_layers": depth}})
            made[f"llm@{depth}"] = component.model_copy(update={"llm": llm})
    return made


def batches(
    plan: Plan, keys: Iterable[str], seed: int, block: int, together: Mapping[str, str] | None = None
) -> list[list[list[str]]]:
    """A block's batches of units in random order, the same for the same seed.

    A unit is one component, or the sides of a comparison (`together`: key -> name of its group). A batch is what takes
    turns: units whose weights fit into `BATCH_WEIGHT_BYTES` bytes together. Components that share their modules stay in
    one batch, so that a block builds each model once.
    """
    rng = random.Random(f"{seed}/{block}")
    groups: dict[str, dict[str, list[str]]] = {}
    for key in sorted(keys):
        unit = together[key] if together else key
        shared = unit if together else modules_of(plan.components[key])
        groups.setdefault(shared, {}).setdefault(unit, []).append(key)
    order = sorted(groups)
    rng.shuffle(order)
    made: dict[str, list[list[list[str]]]] = {}
    sizes: dict[str, int] = {}
    for name in order:
        units = list(groups[name].values())
        rng.shuffle(units)
        for sides in units:  # whose weights are made first decides where they lie, and that a few per cent
            rng.shuffle(sides)
        heads = {modules_of(plan.components[key]): key for unit in units for key in unit}
        size = sum(plan.weight_bytes(key) for key in heads.values())
        component = plan.components[units[0][0]]
        place = f"{component.device} {component.dtype} {component.threads}"
        if place not in made or sizes[place] + size > BATCH_WEIGHT_BYTES:
            made.setdefault(place, []).append([])
            sizes[place] = 0
        sizes[place] += size
        made[place][-1] += units
    found = [batch for place in sorted(made) for batch in made[place]]
    rng.shuffle(found)
    return found


def estimate_measurement(component: Component, work: Mapping[str, Work], ceilings: Ceilings) -> float:
    """Seconds that a measurement will take: the model on paper.

    A pass takes its work at `EFFICIENCY` of the device's matrix product; a measurement its warm-up, passes until
    `max_seconds` or `max_samples` (but six in any case, or `min_samples`), one at the begin of each round if they are
    short, and repeats, after its weights were made.
    """
    rules = component.protocol
    if not work:  # a published VLM: two passes of a second or so, until it has been measured
        return rules.warmup_seconds + rules.max_seconds + 2.0 * (ROUNDS + 6)
    once = sum(w.flops / (EFFICIENCY[w.flops > LARGE] * ceilings.flops_per_second) for w in work.values())
    once += IMAGE_DECODE_SECONDS if component.kind in ("encoder", "vlm") else 0.0
    if component.kind == "vlm":  # a staged and a fused pass
        once = 2 * once
    passes = max(min(rules.max_samples, rules.max_seconds / once), min(6, rules.min_samples))
    warmup = max(rules.warmup * once, min(rules.warmup_seconds, 1000 * once))
    parameters = max((w.parameters for w in work.values()), default=0)
    rounds = ROUNDS if once < WINDOW else 0
    return warmup + (passes + rounds + (REPEATS if once < SLOW else 1)) * once + parameters / BUILD


@dataclass(frozen=True)
class Estimate:
    """Seconds that what is missing will take."""

    measurements: Mapping[str, float]
    """One measurement to each component, by its key."""
    evaluation: float
    blocks: float = 0.0
    """All measurements, with the start of a process for each block."""
    evaluations: float = 0.0
    """All evaluations, with the start of their process."""
    blind: float = 0.0
    """One blind evaluation."""

    def evaluation_of(self, suite: Suite) -> float:
        """One evaluation, with sight or without."""
        return self.evaluation if suite.image == "given" else self.blind

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.blocks + self.evaluations


def estimate(
    plan: Plan,
    todo: Sequence[Sequence[str]],
    evaluations: Sequence[str],
    measurements: Mapping[str, Mapping[int, Measurement]],
    known: Iterable[Evaluation],
    ceilings: Ceilings,
) -> Estimate:
    """What the missing measurements and evaluations will take: measured ones as they took, others by
    `estimate_measurement`."""
    took: dict[str, float] = {}
    for key in {key for block in todo for key in block}:
        good = [measurement.seconds for measurement in measurements.get(key, {}).values() if measurement.status == "ok"]
        took[key] = (
            sum(good) / len(good) if good else estimate_measurement(plan.components[key], plan.work(key), ceilings)
        )
    seconds: dict[str, list[float]] = {"given": [], "grey": []}
    for evaluation in known:
        if evaluation.status == "ok":
            seconds[evaluation.suite.image].append(evaluation.seconds)
    each = fmean(seconds["given"] or [EVALUATION_SECONDS])
    suites = [plan.evaluations[key][1] for key in evaluations]
    shares = [BLIND[suite.source.path == DRAWN] for suite in suites if suite.image == "grey"]
    unseen = fmean(seconds["grey"] or [each * share for share in shares] or [0.0])
    blocks = sum(PROCESS_START_SECONDS + sum(took[key] for key in block) for block in todo if block)
    asking = (
        PROCESS_START_SECONDS + each * (len(evaluations) - len(shares)) + unseen * len(shares) if evaluations else 0.0
    )
    return Estimate(took, each, blocks, asking, unseen)
