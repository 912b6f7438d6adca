"""From points to what has to be measured: components once each, a few whole VLMs, evaluations; and what that will
take."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Literal

from harness.configuration.points import no_accuracy
from harness.models.hub import folder_of_hub, weights_of_hub
from harness.models.vlm import folder_of, vocabulary_of
from harness.runtimes import find
from harness.schema import (
    DRAWN,
    Ceilings,
    Component,
    ComposedModel,
    ComposedVlmComponent,
    ConnectorComponent,
    EncoderComponent,
    Evaluation,
    FusionComponent,
    HandoverComponent,
    HubComponent,
    LlmComponent,
    Machine,
    Measurement,
    Part,
    Planned,
    Point,
    Suite,
    Work,
    component_key,
    evaluation_key,
    fingerprint,
)
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
    sides: dict[str, str] = field(default_factory=dict)
    """Key -> name of its group: components of one group are the sides of a comparison and take turns pass by pass.
    Empty where nothing is compared: then each is a group of its own."""
    _work: dict[str, dict[str, Work]] = field(default_factory=dict)

    def work(self, key: str) -> dict[str, Work]:
        """The work of a component's stages, counted once: the estimate and the record both ask for it. That of a hub
        model is not known: its code may look into tensors, which `meta` has not."""
        if key not in self._work:
            self._work[key] = work_of(self.components[key])
        return self._work[key]

    def weight_bytes(self, key: str) -> int:
        """Bytes of a component's weights."""
        component = self.components[key]
        if isinstance(component, HubComponent):
            folder = folder_of_hub(component.model.path, component.model.revision, weights=False)
            return weights_of_hub(folder) * component.execution.weight_bytes
        stages = {name: work.parameters for name, work in self.work(key).items() if name != "prefill_visual"}
        return sum(stages.values()) * component.execution.weight_bytes

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
        machine = machines[point.language.device]
        keys: dict[Part, str] = {}
        parts = components_of(point)
        if (llm := parts.get(Part("llm"))) is not None and (
            extrapolate == "always" or (extrapolate == "auto" and not fits(llm, machine))
        ):
            parts = spread_depths(parts)
        for part, component in parts.items():
            there = machines[component.execution.device]
            if part.kind == "composed_vlm" and not (
                name in whole and (extrapolate == "never" or fits(component, there))
            ):
                continue
            keys[part] = key = component_key(component, there)
            plan.components.setdefault(key, component)
            plan.commands.setdefault(key, command)
        asked: dict[str, str] = {}
        unseen: dict[str, str] = {}
        for suite in point.suites:
            sides = [(suite, asked)]
            if blind and suite.metric:
                sides.append((suite.model_copy(update={"image": "grey"}), unseen))
            for side, named in sides:
                named[suite.name] = key = evaluation_key(point, side, machine, rows)
                plan.evaluations.setdefault(key, (point, side))
                plan.commands.setdefault(key, command)
        about = {"place": machine.place, "command": command, "no_accuracy": no_accuracy(point)}
        plan.points.append(Planned(point=point, components=keys, evaluations=asked, blind=unseen, **about))
    return plan


def components_of(point: Point) -> dict[Part, Component]:
    """A point's encoders, handovers, connector, fusion, LLM and whole VLM.

    Latency does not depend on the values of weights, so the parts have random ones and are shared by all points of
    the same architecture; the VLM has the point's own, and their residual says whether that holds.
    """
    model, protocol = point.model, point.protocol
    if not isinstance(model, ComposedModel):
        tokens = {"visual_tokens": point.visual_tokens, "text_tokens": point.text_tokens}
        given = {"model": model, "resolution": point.resolution, "weights": point.weights}
        return {Part("hub"): HubComponent(execution=point.language, protocol=protocol, **given, **tokens)}
    llm = model.llm
    if not llm.config.get("vocab_size"):
        size = vocabulary_of(folder_of(point.checkpoint))
        llm = llm.model_copy(update={"config": {**llm.config, "vocab_size": size}})
    width, vision = llm.config["hidden_size"], point.vision
    projecting = point.language.model_copy(update={"attention": ""})
    found: dict[Part, Component] = {}
    towers = [(model.encoder, point.resolution, model.tiles), *((each, each.native, 1) for each in model.also)]
    for number, (encoder, resolution, tiles) in enumerate(towers):
        sight = {"tiles": tiles, "visual_tokens": tiles * encoder.visual_tokens(resolution), "protocol": protocol}
        found[Part.of("encoder", number)] = EncoderComponent(
            execution=vision, encoder=encoder, resolution=resolution, **sight
        )
        if point.hands_over:
            found[Part.of("handover", number)] = HandoverComponent(
                source=vision, execution=projecting, features=encoder.features, **sight
            )
    found[Part("connector")] = ConnectorComponent(
        execution=projecting,
        connector=model.connector,
        inputs=model.inputs(point.resolution),
        width=width,
        tiles=model.tiles,
        visual_tokens=point.visual_tokens,
        protocol=protocol,
    )
    if (fusion := model.fusion) is not None:
        found[Part("fusion")] = FusionComponent(
            execution=projecting,
            fusion=fusion,
            width=width,
            visual_tokens=point.sequence_tokens,
            text_tokens=0 if fusion.in_sequence else protocol.text_tokens,
            protocol=protocol,
        )
    prompt = {
        "execution": point.language,
        "llm": llm,
        "visual_tokens": point.sequence_tokens,
        "text_tokens": protocol.text_tokens,
        "protocol": protocol,
    }
    found[Part("llm")] = LlmComponent(**prompt)
    if not point.hands_over and "composed_vlm" in find(point.language.runtime).RUNS:  # a whole VLM is one program
        found[Part("composed_vlm")] = ComposedVlmComponent(
            encoder=model.encoder,
            also=model.also,
            connector=model.connector,
            fusion=fusion,
            resolution=point.resolution,
            tiles=model.tiles,
            weights=point.weights,
            checkpoint=point.checkpoint,
            **prompt,
        )
    return found


def fits(component: Component, machine: Machine) -> bool:
    """Whether a component's weights leave enough memory to work with."""
    return parameters_of(component) * component.execution.weight_bytes <= MEMORY * machine.device_bytes


def spread_depths(parts: Mapping[Part, Component]) -> dict[Part, Component]:
    """The parts with the LLM at `DEPTHS` layers each; as they are where it has not more than that."""
    made: dict[Part, Component] = {}
    for part, component in parts.items():
        if not isinstance(component, LlmComponent):
            made[part] = component
            continue
        whole = component.llm
        if (layers := whole.config["num_hidden_layers"]) <= DEPTHS[-1]:
            return dict(parts)
        for depth in DEPTHS:
            name = f"{whole.name} ({depth} of {layers} layers)"
            llm = whole.model_copy(update={"name": name, "config": {**whole.config, "num_hidden_layers": depth}})
            made[Part.of("llm", depth)] = component.model_copy(update={"llm": llm})
    return made


def batches(plan: Plan, keys: Iterable[str], seed: int, block: int) -> list[list[list[str]]]:
    """A block's batches of units in random order, the same for the same seed.

    A unit is one component, or the sides of a comparison (`Plan.sides`). A batch is what takes
    turns: units whose weights fit into `BATCH_WEIGHT_BYTES` bytes together. Components that share their modules stay in
    one batch, so that a block builds each model once.
    """
    rng = random.Random(f"{seed}/{block}")
    groups: dict[str, dict[str, list[str]]] = {}
    for key in sorted(keys):
        unit = plan.sides.get(key, key)
        shared = unit if plan.sides else plan.components[key].modules
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
        heads = {plan.components[key].modules: key for unit in units for key in unit}
        size = sum(plan.weight_bytes(key) for key in heads.values())
        execution = plan.components[units[0][0]].execution
        place = f"{execution.device} {execution.dtype} {execution.threads}"
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
    if isinstance(component, HubComponent):  # two passes of a second or so, until it has been measured
        return rules.warmup_seconds + rules.max_seconds + 2.0 * (rules.rounds + 6)
    once = sum(w.flops / (EFFICIENCY[w.flops > LARGE] * ceilings.flops_per_second) for w in work.values())
    once += IMAGE_DECODE_SECONDS if isinstance(component, EncoderComponent | ComposedVlmComponent) else 0.0
    if component.IS_WHOLE:  # a staged and a fused pass
        once = 2 * once
    passes = max(min(rules.max_samples, rules.max_seconds / max(once, 1e-6)), min(6, rules.min_samples))
    warmup = max(rules.warmup * once, min(rules.warmup_seconds, 1000 * once))
    parameters = max((w.parameters for w in work.values()), default=0)
    rounds = rules.rounds if once < rules.window_seconds else 0
    return warmup + (passes + rounds + (rules.audits if once < rules.slow_seconds else 1)) * once + parameters / BUILD


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
