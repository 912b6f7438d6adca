"""Is the candidate slower, or worse, than the baseline? And a refusal where two numbers must not be compared."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from harness.analysis.composition import counted
from harness.schema import TTFTS, WHOLE_VLM_KINDS, Evaluation, HarnessError, Machine, Measurement, unknown
from harness.stats import Difference, Ratio, Verdict, paired_difference, paired_ratio

MARGIN = 0.02
"""A slowdown that is not worth an alarm."""


@dataclass(frozen=True)
class Comparison:
    """The outcome of one comparison."""

    ratio: Ratio
    margin: float
    verdict: Verdict
    reasons: tuple[str, ...]
    """What a reader must know beside the verdict, e.g. that blocks were disturbed."""

    def __str__(self) -> str:
        r = self.ratio
        text = f"{self.verdict}: {r.value:.3f} times the baseline (95% interval {r.low:.3f} to {r.high:.3f}, "
        text += f"{r.pairs} pairs of blocks, margin {self.margin:.0%}, detectable {r.detectable:.1%})"
        return "; ".join([text, *self.reasons])


def differences(baseline: Machine, candidate: Machine) -> list[str]:
    """What differs between two machines, as `field: this, that`; nothing if numbers of both may be compared."""
    one, other = baseline.model_dump(), candidate.model_dump()
    found = []
    for field in one:
        if field == "libraries":
            names = sorted(one[field].keys() | other[field].keys())
            pairs = [(n, one[field].get(n, "absent"), other[field].get(n, "absent")) for n in names]
        else:
            pairs = [(field, one[field], other[field])]
        found += [f"{name}: {a or 'unknown'}, {b or 'unknown'}" for name, a, b in pairs if a != b]
    return found


def compare(
    baseline: Mapping[int, Measurement], candidate: Mapping[int, Measurement], stage: str, margin: float = MARGIN
) -> Comparison:
    """Compare a stage of two components, block by block.

    Blocks pair by their number, so both sides must have been measured in the same rounds. Pairs with a disturbed
    measurement are left out; where that is more than half of them there is no verdict. Raises `HarnessError` when the
    two were measured on different machines, devices, threads, dtypes or protocols, when either failed, or when the
    component has no such stage. A time to first token is that of a whole VLM, other components have none.
    """
    for name, side in (("baseline", baseline), ("candidate", candidate)):
        if not side:
            raise HarnessError(f"{name}: nothing was measured")
        if failed := next((v for v in side.values() if v.status != "ok"), None):
            raise HarnessError(f"{name} failed: {failed.status}: {failed.reason}")
    one, other = next(iter(baseline.values())), next(iter(candidate.values()))
    found = differences(one.machine, other.machine)
    for field in ("kind", "device", "dtype", "attention", "threads", "protocol"):
        a, b = getattr(one.component, field), getattr(other.component, field)
        if field == "protocol":
            a, b = (p.model_copy(update={"blocks": 1, "repeats": 0}) for p in (a, b))
        if a != b:
            found.append(f"{field}: {a}, {b}")
    if found:
        raise HarnessError(f"these two must not be compared: {'; '.join(found)}; measure both in one sweep")
    for measurement in (*baseline.values(), *candidate.values()):
        if stage not in (known := stages_of(measurement)):
            raise HarnessError(
                f"{unknown('stage', stage, known)}; {measurement.component.name} has: {', '.join(known)}"
            )
    common = sorted(baseline.keys() & candidate.keys())
    clean = [block for block in common if not (baseline[block].disturbed or candidate[block].disturbed)]
    reasons = []
    if len(clean) < len(common):
        reasons.append(f"{len(common) - len(clean)} of {len(common)} blocks were disturbed")
    if apart := sum(baseline[block].process != candidate[block].process for block in common):
        reasons.append(f"in {apart} of {len(common)} blocks the sides were not measured in one process")
    if one.commit != other.commit:
        reasons.append(f"the harness differs: {one.commit or 'no commit'}, {other.commit or 'no commit'}")
    enough = 2 * len(clean) >= len(common)
    used = clean if enough else common
    if not used:
        raise HarnessError("the two share no block: measure both in one sweep")
    one_side, other_side = ([_median(side[block], stage) for block in used] for side in (baseline, candidate))
    ratio = paired_ratio(one_side, other_side)
    if not enough:
        reasons.append("too few undisturbed blocks for a verdict; measure again on a quieter machine")
    return Comparison(ratio, margin, ratio.verdict(margin) if enough else "INCONCLUSIVE", tuple(reasons))


def stages_of(measurement: Measurement) -> list[str]:
    """What a measurement's times are known of: its stages, and of a whole VLM the sums that go by a name."""
    assert measurement.samples is not None
    own = list(measurement.samples.seconds)
    sums = [name for name, parts in TTFTS.items() if set(parts[:1] + parts[-1:]) <= set(own)]
    return [*own, *(sums if measurement.component.kind in WHOLE_VLM_KINDS else [])]


def _median(measurement: Measurement, stage: str) -> float:
    assert measurement.samples is not None
    return statistics.median(counted(measurement.samples, stage))


def compare_scores(baseline: Evaluation, candidate: Evaluation) -> Difference:
    """The candidate's score minus the baseline's on the same questions, paired and clustered by image.

    Raises `HarnessError` when either failed, or when suite, protocol, data or questions differ.
    """
    for name, side in (("baseline", baseline), ("candidate", candidate)):
        if side.score is None:
            raise HarnessError(f"{name} has no score: {side.status}: {side.reason}")
        if not side.score.metric:
            raise HarnessError(f"{name} has no score: {side.suite.title} is judged by others")
    assert baseline.score is not None
    assert candidate.score is not None
    one, other = baseline.score, candidate.score
    found = [
        f"{field}: {a}, {b}"
        for field in ("suite", "metric", "data")
        if (a := getattr(one, field)) != (b := getattr(other, field))
    ]
    for field in ("prompt", "max_new_tokens", "version"):
        if (a := getattr(baseline.suite, field)) != (b := getattr(candidate.suite, field)):
            found.append(f"{field}: {a!r}, {b!r}")
    sides = [{answer.question_id: answer for answer in score.answers} for score in (one, other)]
    if alone := sides[0].keys() ^ sides[1].keys():
        found.append(f"{len(alone)} questions are not on both sides, e.g. {min(alone)}")
    if found:
        raise HarnessError(f"these two scores must not be compared: {'; '.join(found)}")
    ids = list(sides[0])
    before, after = ([side[key].score or 0.0 for key in ids] for side in sides)
    return paired_difference(before, after, [sides[0][key].image for key in ids])
