"""Measure once, compose many: a point's times from measurements to its encoder, its connector and its LLM.

A block's value of a stage is the median of the measurement's counted, undisturbed passes; a point's value in a block is
the sum over its components, all of one block. The estimate is the median over blocks, the interval too: the process is
the unit of evidence, passes within one resemble each other. Where a whole VLM was measured directly, the residual says
how far the sum is from it.

Several encoders are parts of their own (`encoder`, `encoder@1`, ...), and their times add up, as in FastVLM's paper.

An LLM that does not fit into memory is measured at a few depths (`llm@2`, `llm@5`, `llm@8`: so many of its identical
layers) and its prefill extended linearly from the shallowest and the deepest; the one between says how straight that
line is. Its other stages, which no layer changes, are those of the shallowest. Such a time is called extrapolated.

Rules for disturbed measurements: a measurement in which too many passes were marked is disturbed. Disturbed blocks are
left out where at least half of the blocks are undisturbed; otherwise all of them count, and the point is called
disturbed.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from harness.metrics import METRICS
from harness.schema import (
    STAGES,
    TTFTS,
    Ceilings,
    ComposedModel,
    Evaluation,
    Fusion,
    HubModel,
    Manifest,
    Measurement,
    Part,
    Planned,
    Samples,
    Score,
    Status,
    Telemetry,
    Work,
    one_line,
)
from harness.stats import Interval, blocks_interval, effective_n, lag1, percentile, sum_passes
from harness.storage import store

Blocks = dict[int, float]
"""Block -> value."""

GROWS = ("prefill", "prefill_visual")
"""Stages that take longer with every layer of the LLM."""


@dataclass(frozen=True)
class Efficiency:
    """How near a stage is to what the device could do."""

    share: Interval
    """Floor / measured time."""
    floor: float
    """Seconds below which no implementation can go at the ceilings of the same process (median over blocks)."""
    eager_floor: float
    """The same for operations that each move their inputs and outputs through memory."""
    bound: str
    """What the floor is made of: `compute` or `memory`."""


@dataclass(frozen=True, repr=False)
class Result:
    """A point of a sweep with everything that was measured of it; statistics are derived on demand."""

    planned: Planned
    measurements: Mapping[str, Mapping[int, Measurement]]
    """Part (`encoder`, `encoder@1`, ...) -> block -> measurement, failed ones too."""
    evaluations: Mapping[str, Evaluation]
    """By suite."""
    blind: Mapping[str, Evaluation] = field(default_factory=dict)
    """The same with grey images, by suite."""

    def __repr__(self) -> str:
        """Its name and how it went; every measurement and evaluation is in `measurements` and `evaluations`."""
        told = self.status if self.status != "ok" else f"{self.blocks} blocks" if self.timed else "not timed"
        if self.timed and (times := self.composed("ttft_model")):
            told += f", ttft_model {statistics.median(times.values()) * 1e3:.4g} ms"
        asked = f", asked {', '.join(self.evaluations)}" if self.evaluations else ""
        return one_line(f"Result({self.planned.point.name}: {told}{asked})", 200)

    @property
    def status(self) -> Status:
        """`ok`, or that of the first thing that failed."""
        return self._fault[0]

    @property
    def reason(self) -> str:
        """What failed and why; empty if nothing did."""
        return self._fault[1]

    @cached_property
    def _fault(self) -> tuple[Status, str]:
        for kind, blocks in self.measurements.items():
            for block, measurement in sorted(blocks.items()):
                if measurement.status != "ok":
                    return measurement.status, f"{kind}, block {block}: {measurement.reason}"
        for suite, evaluation in self.evaluations.items():
            if evaluation.status != "ok":
                return evaluation.status, f"{suite}: {evaluation.reason}"
        for suite, evaluation in self.blind.items():
            if evaluation.status != "ok":
                return evaluation.status, f"{suite} blind: {evaluation.reason}"
        unfit = [
            self.untimed,
            *(f"{suite}: {self.unscored(suite)}" for suite in self.evaluations if self.unscored(suite)),
        ]
        unfit += [f"{suite} blind: {self.unpaired(suite)}" for suite in self.blind if self.unpaired(suite)]
        return next((("error", why) for why in unfit if why), ("ok", ""))

    @cached_property
    def untimed(self) -> str:
        """Why measurements that call themselves good make no time: records that do not fit each other, or the point."""
        if why := self._misfit():
            return why
        for part, blocks in self.measurements.items():
            for block, measurement in sorted(blocks.items()):
                if measurement.status != "ok":
                    continue
                if why := unfit(measurement, Part(part).kind):
                    return f"{part}, block {block}: {why}"
        if any(not self.measurements.get(part) for part in self.parts):
            return ""  # not measured yet
        common = self._common(self.parts)
        if not common:
            return "its components were never measured in one block; run the sweep again"
        if self.depths and any(value <= 0 for name in GROWS for value in self._sums(name).values()):
            return "an LLM of more layers was the faster one, so that its prefill cannot be extended"
        return ""

    def _misfit(self) -> str:
        """Why the components that the point names are not those of a point; empty if they are."""
        kinds = {part.kind for part in self.parts}
        whole = isinstance(self.planned.point.model, HubModel)
        expected = {"hub"} if whole else {"encoder", "connector", "llm"}
        if self.planned.point.hands_over:
            expected.add("handover")
        if not expected <= kinds or kinds - expected - (set() if whole else {"fusion"}):
            return (
                f"its components are {', '.join(sorted(kinds)) or 'missing'}; {', '.join(sorted(expected))} make it up"
            )
        return ""

    def unscored(self, suite: str) -> str:
        """Why an evaluation that calls itself good has no score; empty if it has one, or failed and says so."""
        evaluation = self.evaluations[suite]
        return ungraded(evaluation) if evaluation.status == "ok" else ""

    def unpaired(self, suite: str) -> str:
        """Why a blind run that calls itself good does not say anything about the evaluation; empty if it does, or
        failed."""
        blind, evaluation = self.blind[suite], self.evaluations.get(suite)
        if blind.score is None:
            return ""
        if why := ungraded(blind):
            return why
        if evaluation is None or evaluation.score is None or evaluation.score.metric not in METRICS:
            return ""  # there is nothing to pair it with, and that has its own reason
        return unpairable(evaluation.score, blind.score)

    def blind_score(self, suite: str) -> Score | None:
        """The blind run's score where it was asked the same questions; None where there is none."""
        blind = self.blind.get(suite)
        return None if blind is None or self.unpaired(suite) else blind.score

    @property
    def scored(self) -> dict[str, Score]:
        """Scores of this harness, by suite."""
        return {
            suite: evaluation.score
            for suite, evaluation in self.evaluations.items()
            if evaluation.status == "ok"
            and evaluation.score is not None
            and evaluation.score.metric
            and not self.unscored(suite)
        }

    @property
    def parts(self) -> tuple[Part, ...]:
        """What its times are the sum of: its components, an LLM's depths apart (`llm@2`)."""
        return tuple(part for part in map(Part, self.planned.components) if part.kind != "composed_vlm")

    def _parts_of(self, kind: str, stage: str) -> list[Part]:
        """The parts of one kind whose times of a stage count."""
        return [part for part in self.parts if part.kind == kind and self._weight(part, stage)]

    @property
    def layers(self) -> int:
        """Layers of its LLM; 0 where that is its own affair."""
        model = self.planned.point.model
        return int(model.llm.config["num_hidden_layers"]) if isinstance(model, ComposedModel) else 0

    @property
    def fusion(self) -> Fusion | None:
        """Layers within its LLM that attend to visual features."""
        model = self.planned.point.model
        return model.fusion if isinstance(model, ComposedModel) else None

    @property
    def depths(self) -> tuple[int, ...]:
        """Numbers of layers that its LLM was measured with; none if it was measured whole."""
        return tuple(sorted(part.layers for part in self.parts if part.layers))

    def _weight(self, part: Part, stage: str) -> float:
        """How often a part's time of a stage counts."""
        text_only = stage == "prefill_visual" and not self.planned.point.sequence_tokens
        if stage not in part.stages or text_only:
            return 0.0
        if not part.layers:
            return 1.0
        first, last = self.depths[0], self.depths[-1]
        depth = self.layers if stage in GROWS else first
        share = (depth - first) / (last - first)
        return {first: 1 - share, last: share}.get(part.layers, 0.0)

    @property
    def timed(self) -> bool:
        """Whether every component was measured and none of them failed."""
        good = all(v.status == "ok" for blocks in self.measurements.values() for v in blocks.values())
        return good and all(self.measurements.get(kind) for kind in self.parts) and not self.untimed

    def _series(self, kind: str, name: str) -> dict[int, list[float]]:
        """Block -> counted passes of a stage (or a sum of `TTFTS`) of one component, for the usable blocks."""
        found = {block: self.measurements[kind][block].samples for block in self._usable([kind])}
        return {block: counted(samples, name) for block, samples in found.items() if samples is not None}

    def stage(self, kind: str, name: str) -> Blocks:
        """Median seconds of a stage (or a sum of `TTFTS`) of one component in each usable block."""
        return {block: statistics.median(series) for block, series in self._series(kind, name).items()}

    def stage_median(self, kind: str, name: str) -> float:
        """Median over blocks of `stage`."""
        return statistics.median(self.stage(kind, name).values())

    def composed(self, name: str) -> Blocks:
        """Seconds of a stage or of a TTFT in each block, summed over the point's components.

        Nothing where the prefill is asked over visual tokens alone (`ttft_paper`) and no sequence holds any.
        """
        return {} if self.untimed else self._sums(name)

    def _sums(self, name: str) -> Blocks:
        stages = TTFTS.get(name, (name,))
        sums: Blocks = {}
        if "prefill_visual" in stages and not self.planned.point.sequence_tokens:
            return sums
        parts = [(part, s, weight) for part in self.parts for s in stages if (weight := self._weight(part, s))]
        for block in self._usable(self.parts) if parts else ():
            found = [self.measurements[part][block].samples for part, _, _ in parts]
            sums[block] = math.fsum(
                weight * statistics.median(counted(samples, s))
                for (_, s, weight), samples in zip(parts, found, strict=True)
                if samples is not None
            )
        return sums

    def bend(self) -> Interval | None:
        """How far the prefill at the depth between is from the line through the others, as a share of it; None if
        the LLM was measured whole."""
        if not self.timed or len(self.depths) < 3:
            return None
        first, middle, last = self.depths[0], self.depths[len(self.depths) // 2], self.depths[-1]
        times = {depth: self.stage(f"llm@{depth}", "prefill") for depth in self.depths}
        share = (middle - first) / (last - first)
        blocks = sorted(set.intersection(*(set(each) for each in times.values())))
        found = [times[middle][b] / ((1 - share) * times[first][b] + share * times[last][b]) - 1 for b in blocks]
        return blocks_interval(found, positive=False) if found else None

    def times(self) -> dict[str, Interval]:
        """Every stage and TTFT with the interval over blocks; `ttft_fused` where a whole VLM was measured."""
        if not self.timed:
            return {}
        sums = {name: self.composed(name) for name in (*STAGES, "prefill_visual", *TTFTS)}
        found = {name: blocks_interval([*values.values()]) for name, values in sums.items() if values}
        if self.whole:
            found["ttft_fused"] = blocks_interval([*self.stage(self.whole, "ttft_fused").values()])
        return found

    @property
    def whole(self) -> str:
        """The kind of component that was measured as a whole; empty if there is none."""
        return next((kind for kind in ("composed_vlm", "hub") if self.timed and self.measurements.get(kind)), "")

    @property
    def direct(self) -> bool:
        """Whether a composed VLM was measured as a whole, too."""
        return self.whole == "composed_vlm"

    def residual(self, name: str) -> Interval | None:
        """Composed over direct, minus 1, paired by block; None where the VLM was not measured directly, and for sums
        that hold `prefill_visual` where a fusion runs within it."""
        if not self.direct or ("prefill_visual" in TTFTS.get(name, ()) and self.fusion is not None):
            return None
        sums, whole = self.composed(name), self.stage("composed_vlm", name)
        ratios = [sums[block] / whole[block] for block in sums.keys() & whole.keys()]
        if not ratios:
            return None
        interval = blocks_interval(ratios)
        return Interval(interval.value - 1, interval.low - 1, interval.high - 1)

    def overlap(self) -> Interval | None:
        """Seconds that waiting between stages costs: sum of the stages minus the fused pass, of the same
        measurements."""
        if not self.whole:
            return None
        staged, fused = self.stage(self.whole, "ttft_user"), self.stage(self.whole, "ttft_fused")
        return blocks_interval([staged[block] - fused[block] for block in staged], positive=False)

    def percentile(self, kind: str, name: str, share: float) -> float | None:
        """A percentile of a stage over all usable blocks, or None where they hold too few samples to know it."""
        blocks = [*self._series(kind, name).values()]
        return percentile(blocks, share) if blocks else None

    def evidence(self, kind: str, name: str) -> tuple[int, float, float]:
        """Counted passes of a stage, how many independent ones they are worth, and their mean autocorrelation."""
        blocks = [*self._series(kind, name).values()]
        if not blocks:
            return 0, 0.0, 0.0
        return sum(map(len, blocks)), sum(map(effective_n, blocks)), statistics.fmean(map(lag1, blocks))

    def cold(self, kind: str, stage: str) -> float | None:
        """Seconds of a component's first pass in its process, median over blocks, disturbed or not; a repeated
        measurement has none."""
        measurements = [
            measurement
            for measurement in self.measurements.get(kind, {}).values()
            if measurement.samples and not measurement.attempt
        ]
        first = [v.samples.seconds[stage][0] for v in measurements if v.samples and v.samples.warmup]
        return statistics.median(first) if first else None

    def load(self, kind: str) -> float | None:
        """Seconds that building a component's modules took, median over blocks; None where another had built them."""
        spent = [each.load_seconds for each in self.measurements.get(kind, {}).values() if each.load_seconds]
        return statistics.median(spent) if spent else None

    def overhead(self, kind: str) -> float | None:
        """Seconds that the bench itself took for each pass of a component, median over blocks."""
        spent = [
            measurement.samples.overhead
            for measurement in self.measurements.get(kind, {}).values()
            if measurement.samples
        ]
        return statistics.median(spent) if spent else None

    def telemetry(self) -> list[Telemetry]:
        """What the machine said during each measurement of the point's components."""
        return [v.telemetry for part in self.parts for v in self.measurements.get(part, {}).values() if v.telemetry]

    def efficiency(self, kind: str, stage: str) -> Efficiency | None:
        """Floor over measured time of a stage, each block with its own ceilings."""
        shares, floors, eager, bound = [], [], [], ""
        parts = self._parts_of(kind, stage)
        for block, seconds in self.composed(stage).items() if len(parts) > 1 else self.stage(kind, stage).items():
            measurements = [self.measurements[part][block] for part in parts or [Part(kind)]]
            measurement = measurements[-1]
            if measurement.ceilings is None or any(stage not in each.work for each in measurements) or not seconds:
                continue
            work, ceilings = measurement.work[stage], measurement.ceilings
            if len(parts) > 1:
                work = self._add(parts, stage, measurements)
            floors.append(floor(work, ceilings))
            eager.append(floor(work.model_copy(update={"bytes": work.eager_bytes}), ceilings))
            shares.append(floors[-1] / seconds)
            compute = work.flops / ceilings.flops_per_second > work.bytes / ceilings.bytes_per_second
            bound = "compute" if compute else "memory"
        if not shares:
            return None
        return Efficiency(blocks_interval(shares), statistics.median(floors), statistics.median(eager), bound)

    def _add(self, parts: Sequence[Part], stage: str, measurements: Sequence[Measurement]) -> Work:
        """The work of a stage over several parts: of a deeper LLM from two shallow ones, whose layers are alike."""
        return Work.total(
            [measurement.work[stage] for measurement in measurements], [self._weight(part, stage) for part in parts]
        )

    def work(self, kind: str, stage: str) -> Work | None:
        """What a stage must do, over all components of a kind; None where it is not known."""
        parts = self._parts_of(kind, stage)
        measurements = [next((v for v in self.measurements[part].values() if stage in v.work), None) for part in parts]
        known = [measurement for measurement in measurements if measurement is not None]
        return self._add(parts, stage, known) if parts and len(known) == len(parts) else None

    def memory(self) -> tuple[int | None, str]:
        """Peak bytes of the whole VLM and where the number comes from."""
        if self.whole:
            found = [measurement.memory for measurement in self.measurements[self.whole].values() if measurement.memory]
            peaks = [memory.peak for memory in found if memory.peak is not None]
            if peaks:
                first = found[0]
                return max(peaks), f"{first.source}; largest of {len(peaks)} blocks"
        memories = {
            part: [v.memory for v in self.measurements.get(part, {}).values() if v.memory] for part in self.parts
        }
        devices = {each.component.execution.device for kind in self.measurements.values() for each in kind.values()}
        if not self.timed or self.depths or not all(memories.values()) or len(devices) > 1:
            return None, "unknown"  # of a few layers it is not the whole's, and a GPU's bytes are not the host's
        weights = work = 0
        before: list[int] = []
        for of_kind in memories.values():
            if any(None in (m.before, m.loaded, m.peak) for m in of_kind):
                return None, "unknown"
            before += [m.before or 0 for m in of_kind]
            weights += max((m.loaded or 0) - (m.before or 0) for m in of_kind)
            work = max(work, *((m.peak or 0) - (m.loaded or 0) for m in of_kind))
        source = memories[self.parts[-1]][0].source
        return min(before) + weights + work, f"composed of each component's {source}"

    @property
    def blocks(self) -> int:
        """How many blocks the times rest on."""
        return len(self._usable(self.parts)) if self.timed else 0

    @property
    def disturbed_blocks(self) -> int:
        """How many of the measured blocks hold a disturbed measurement."""
        return sum(self._disturbed(self.parts, block) for block in self._common(self.parts))

    @property
    def disturbed(self) -> bool:
        """Whether the times rest on disturbed blocks, because more than half of all are."""
        return any(self._disturbed(self.parts, block) for block in self._usable(self.parts))

    def marked(self) -> float:
        """Share of the counted passes that are marked."""
        marks = [
            mark
            for kind in self.parts
            for measurement in self.measurements.get(kind, {}).values()
            if measurement.samples is not None
            for mark in measurement.samples.marks[measurement.samples.warmup :]
        ]
        return sum(map(bool, marks)) / len(marks) if marks else 0.0

    def _common(self, kinds: Iterable[str]) -> list[int]:
        """Blocks in which every one of these components was measured."""
        sets = [{b for b, v in self.measurements.get(kind, {}).items() if v.status == "ok"} for kind in kinds]
        return sorted(set.intersection(*sets)) if sets else []

    def _disturbed(self, kinds: Iterable[str], block: int) -> bool:
        return any(self.measurements[kind][block].disturbed for kind in kinds)

    def _usable(self, kinds: Iterable[str]) -> list[int]:
        kinds = list(kinds)
        common = self._common(kinds)
        clean = [block for block in common if not self._disturbed(kinds, block)]
        return clean if 2 * len(clean) >= len(common) else common


def unfit(measurement: Measurement, kind: str) -> str:
    """Why a measurement that calls itself good has no times of such a component; empty if it has them. (That a
    measurement has all stages of its component, of as many passes each, the schema sees to.)"""
    if measurement.component.kind != kind:
        return f"the record is of a component of another kind ({measurement.component.kind})"
    for stage, series in measurement.samples.seconds.items() if measurement.samples is not None else ():
        if stage in LASTING and not min(series) > 0:
            return f"{stage} is said to have taken {min(series):g} s"
    return ""


LASTING = ("encode", "handover", "project", "fuse", "prefill", "prefill_visual", "ttft_fused")
"""Stages that compute, and so take longer than nothing on any clock."""


def ungraded(evaluation: Evaluation) -> str:
    """Why an evaluation that calls itself good has no score; empty if it has one, or is graded externally."""
    metric = evaluation.score.metric if evaluation.score is not None else ""
    if metric and metric not in METRICS:
        return f"the metric {metric} does not exist; there are: {', '.join(METRICS)}"
    return "" if metric or evaluation.suite.submission else "the record has no metric"


def unpairable(score: Score, blind: Score) -> str:
    """Why a blind run is not that of a score; empty if it is."""
    if (score.metric, score.data) != (blind.metric, blind.data):
        return "it was asked other questions than the evaluation, or scored by another metric"
    if {answer.question_id for answer in score.answers} != {answer.question_id for answer in blind.answers}:
        return "it answered other questions than the evaluation"
    return ""


def counted(samples: Samples, name: str) -> list[float]:
    """A stage's (or TTFT's) passes that count: after warm-up and undisturbed; all after warm-up where none is left."""
    series = sum_passes(samples.seconds, TTFTS[name]) if name in TTFTS else list(samples.seconds[name])
    after = list(zip(series[samples.warmup :], samples.marks[samples.warmup :], strict=True))
    return [value for value, mark in after if not mark] or [value for value, _ in after]


def floor(work: Work, ceilings: Ceilings) -> float:
    """Seconds below which no implementation can go at these ceilings: the roofline's bound (Williams et al., 2009)."""
    return max(work.flops / ceilings.flops_per_second, work.bytes / ceilings.bytes_per_second)


def result_of(
    planned: Planned, measurements: Mapping[str, Mapping[int, Measurement]], evaluations: Mapping[str, Evaluation]
) -> Result:
    """A point with what was measured of it, from measurements by key and block and evaluations by key."""
    blocks = planned.point.protocol.blocks
    found = {
        part: {block: each for block, each in measurements[key].items() if block < blocks}
        for part, key in planned.components.items()
        if key in measurements
    }
    asked = {suite: evaluations[key] for suite, key in planned.evaluations.items() if key in evaluations}
    unseen = {suite: evaluations[key] for suite, key in planned.blind.items() if key in evaluations}
    return Result(planned, found, asked, unseen)


def compose(
    manifest: Manifest, measurements: Mapping[str, Mapping[int, Measurement]], evaluations: Mapping[str, Evaluation]
) -> list[Result]:
    """The points of a sweep that anything was measured of, in the order of its grid."""
    results = [result_of(planned, measurements, evaluations) for planned in manifest.points]
    return [
        result
        for result in results
        if result.status != "ok" or (result.timed and len(result.evaluations) == len(result.planned.evaluations))
    ]


def load_results(root: Path, name: str) -> tuple[Manifest, list[Result]]:
    """A sweep's last run and its points, from the entries that it pinned: later measurements change nothing. Or, where
    `root` is a folder of reports, from the records of that report."""
    if (root / name / store.MANIFEST).is_file():
        return (manifest := store.read_manifest(root, name)), compose(manifest, *store.load_report(root / name))
    manifest = store.read_manifest(root, name)
    return manifest, compose(manifest, *_chosen(root, manifest, store.Contents.of(root)))


def refresh(root: Path, name: str) -> list[str]:
    """Let a sweep rest on what is newest in the store; returns what that changed, a line each."""
    manifest, contents = store.read_manifest(root, name), store.Contents.of(root)
    before = compose(manifest, *_chosen(root, manifest, contents))
    after = compose(manifest, *contents.newest())
    store.write_manifest(root, manifest.model_copy(update={"pins": contents.pin(manifest.points)}))
    return changes(before, after)


def _chosen(
    root: Path, manifest: Manifest, contents: store.Contents
) -> tuple[dict[str, dict[int, Measurement]], dict[str, Evaluation]]:
    if manifest.pins is None:
        return contents.newest()
    return contents.pinned(manifest.pins, str(store.manifest_path(root, manifest.name)))


def changes(before: Iterable[Result], after: Iterable[Result]) -> list[str]:
    """What differs between two choices of entries for the same points: of each component the median of its main stage,
    of each evaluation the mean score."""
    sides = [_told(results) for results in (before, after)]
    none = (None, "nothing")
    names = sorted(sides[0].keys() | sides[1].keys())
    pairs = [(name, sides[0].get(name, none), sides[1].get(name, none)) for name in names]
    return [f"{name}: {old[1]} -> {new[1]}" for name, old, new in pairs if old[0] != new[0]]


def _told(results: Iterable[Result]) -> dict[str, tuple[object, str]]:
    """By component and evaluation: what tells its entries apart from others, and what they say."""
    said: dict[str, tuple[object, str]] = {}
    for result in results:
        for blocks in result.measurements.values():
            first = next(iter(blocks.values()))
            stage = first.component.MAIN_STAGE or "ttft_user"
            medians = [statistics.median(counted(v.samples, stage)) for v in blocks.values() if v.samples is not None]
            value = f"{statistics.median(medians) * 1e3:.4g} ms" if medians else "failed"
            entries = [
                (block, measurement.started, measurement.process, measurement.attempt)
                for block, measurement in sorted(blocks.items())
            ]
            said[first.component.name] = entries, f"{stage} {value} ({len(blocks)} blocks)"
        blind = {f"{suite} blind": evaluation for suite, evaluation in result.blind.items()}
        for suite, evaluation in (*result.evaluations.items(), *blind.items()):
            scores = [answer.score or 0.0 for answer in evaluation.score.answers] if evaluation.score else []
            value = f"{statistics.fmean(scores):.3f}" if scores else evaluation.status
            said[f"{result.planned.point.name}, {suite}"] = (evaluation.started, evaluation.seconds), value
    return said
