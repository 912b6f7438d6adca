"""Which of the published claims hold on this device: ratios of measured times, counts, and what cannot be measured.

A claim compares a reference with a candidate. Latency claims are ratios on this device, block by block, under two
definitions of time to first token: the article's (`ttft_paper`) and what a person waits for (`ttft_user`). Counts of
tokens and parameters are exact. A latency claim `holds` if what was measured reaches the published value, to the
rounding in which it was printed; it `differs` if not even the upper end of the 95% interval does. Between the two it is
`undecided`: more blocks would tell. Where it does not hold, the stage is named that gains less than published and
would, at its published ratio, bring the total nearest to the published one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from harness.analysis.composition import Result
from harness.analysis.published import open_published
from harness.analysis.scores import statistics_of
from harness.configuration.compose import Plain, cell_of, sides
from harness.schema import Claim, Encoder, HarnessError, Point, fingerprint
from harness.stats import Interval, blocks_interval

LATENCY = ("ttft_ratio", "ttft_reduction")
"""Kinds of claims whose points must be measured."""
DEFINITIONS = ("ttft_paper", "ttft_user")
PREFILL = {"ttft_paper": "prefill_visual", "ttft_user": "prefill"}
"""The prefill that each definition holds; what was published is over visual tokens alone."""
SUITES = {"TextVQA": "textvqa", "DocVQA": "docvqa"}
Verdict = Literal["holds", "differs", "undecided", "cannot be measured here"]


@dataclass(frozen=True)
class Finding:
    """One claim against one reference, under one definition."""

    claim: Claim
    reference: str
    candidate: str
    definition: str
    """`ttft_paper`, `ttft_user`, `exact` or `scores`."""
    value: Interval | None
    verdict: Verdict
    why: str = ""
    """What explains a difference, or why nothing could be measured."""
    extrapolated: bool = False
    device: str = ""


def read_claims(results: Path) -> dict[str, dict[str, Any]]:
    """`published/claims.csv`, by id."""
    columns = {"id", "statement", "kind", "published_value", "source"}
    table = open_published(results, "claims.csv", columns)
    return {str(row["id"]): {str(key): value for key, value in row.items()} for row in table.to_dict("records")}


def rounding(text: str) -> float:
    """Half a unit of the last printed digit: 0.05 for 3.4, 0.5 for 85."""
    return 0.5 * 10.0 ** -len(str(text).partition(".")[2].rstrip())


def make_claim(row: Mapping[str, Any], references: Sequence[Point], candidate: Point | None) -> Claim:
    """A row of the published claims with the points that stand for its two sides."""
    try:
        value = float(row["published_value"])
    except ValueError as error:
        raise HarnessError(f"claims.csv: {row['id']}: published_value={row['published_value']} is no number") from error
    return Claim(
        id=str(row["id"]),
        statement=str(row["statement"]),
        kind=str(row["kind"]),
        published=value,
        rounding=rounding(str(row["published_value"])),
        source=str(row["source"]),
        references=tuple(references),
        candidate=candidate,
    )


def claims_of(
    common: Plain, points: Mapping[str, Point], results: Path, count: Callable[[Encoder], int]
) -> tuple[list[Claim], set[str]]:
    """The claims of a sweep with their points, and the cells that are only counted, not measured; `count` gives the
    weights of an encoder."""
    listed = (common.get("sweep") or {}).get("claims") or []
    if not listed:
        return [], set()
    rows = read_claims(results)
    claims, cells, timed = [], set(), set()
    for entry in listed:
        if entry["id"] not in rows:
            raise HarnessError(f"claim {entry['id']}: claims.csv has no such row; there are: {', '.join(rows)}")
        row = rows[entry["id"]]
        own = [cell_of(side) for side in sides(entry)]
        cells.update(own)
        if row["kind"] in (*LATENCY, "score_delta"):
            timed.update(own)
        candidate = points[own[-1]] if entry.get("candidate") else None
        references = own[: len(entry.get("references") or [])]
        claim = make_claim(row, [points[cell] for cell in references], candidate)
        if claim.kind == "encoder_params_ratio":
            encoders = [point.encoder for point in (*claim.references, claim.candidate) if point and point.encoder]
            claim = claim.model_copy(update={"parameters": {encoder.name: count(encoder) for encoder in encoders}})
        claims.append(claim)
    return claims, cells - timed


def find(claims: Iterable[Claim], results: Iterable[Result], root: Path) -> list[Finding]:
    """Every claim against each of its references."""
    by_point = {fingerprint(result.planned.point): result for result in results}
    stages = read_stages(root)
    found: list[Finding] = []
    for claim in claims:
        if claim.kind in LATENCY:
            for reference in claim.references:
                found += _latency(claim, reference, by_point, stages)
        elif claim.kind in ("token_ratio", "encoder_params_ratio"):
            found += [_count(claim, reference) for reference in claim.references]
        elif claim.kind == "score_delta":
            found += [_scores(claim, reference, by_point) for reference in claim.references]
        else:
            why = "it is the time of a training run on one node of 8 H100-80GB; harness.train.finetune measures a pace"
            found.append(Finding(claim, "", "", "training", None, "cannot be measured here", why))
    return found


def title_of(point: Point) -> str:
    """A side of a claim on a page."""
    if point.published is not None:
        name = point.published.title
    else:
        assert point.encoder is not None
        name = point.system.title if point.system else point.encoder.title
    return f"{name} @{point.side}"


def ratio(claim: Claim, reference: float, candidate: float) -> float:
    """What the claim is about: how many times faster, or which share of the time is saved."""
    return reference / candidate if claim.kind == "ttft_ratio" else 1 - candidate / reference


def _latency(
    claim: Claim, reference: Point, results: Mapping[str, Result], stages: Mapping[tuple[str, int], dict[str, float]]
) -> list[Finding]:
    assert claim.candidate is not None
    pair = [results.get(fingerprint(point)) for point in (reference, claim.candidate)]
    names = title_of(reference), title_of(claim.candidate)
    good = [side for side in pair if side is not None and side.timed]
    if len(good) < 2:
        reasons = [side.reason if side is not None else "not measured yet" for side in pair]
        why = "; ".join(f"{name}: {reason}" for name, reason in zip(names, reasons, strict=True) if reason)
        return [Finding(claim, *names, d, None, "cannot be measured here", why) for d in DEFINITIONS]
    first, second = good
    machine = next(iter(next(iter(first.measurements.values())).values())).machine
    extended = bool(first.depths or second.depths)
    found = []
    for definition in DEFINITIONS:
        one, two = first.composed(definition), second.composed(definition)
        ratios = [ratio(claim, one[block], two[block]) for block in sorted(one.keys() & two.keys())]
        if not ratios:
            why = f"no block has {definition} of both"
            found.append(Finding(claim, *names, definition, None, "cannot be measured here", why))
            continue
        value = blocks_interval(ratios, positive=claim.kind == "ttft_ratio")
        verdict, why = judge(claim, value)
        if verdict != "holds":
            why = "; ".join(filter(None, [why, explain(claim, first, second, definition, stages)]))
        found.append(Finding(claim, *names, definition, value, verdict, why, extended, machine.device_name))
    return found


def judge(claim: Claim, value: Interval) -> tuple[Verdict, str]:
    """A measured value against the published one, and how far it is from it."""
    least, share = claim.published - claim.rounding - 1e-9, value.value / claim.published
    told = f"{share:.2f} of the published value"
    if value.value >= least:
        return (
            "holds",
            f"{share:.1f} times the published value" if value.value > claim.published + claim.rounding else "",
        )
    if math.isinf(value.high):
        return "undecided", f"{told}, in one block"
    if value.high >= least:
        return "undecided", f"{told}, which the interval still holds"
    return "differs", told


def explain(
    claim: Claim,
    first: Result,
    second: Result,
    definition: str,
    stages: Mapping[tuple[str, int], dict[str, float]],
) -> str:
    """The stage that explains why a claim is not reached; empty where its published stages are not known."""
    published = [stages.get(_key(side.planned.point)) for side in (first, second)]
    if published[0] is None or published[1] is None:
        return ""
    totals = [_median(side, definition) for side in (first, second)]
    nearest, text = math.inf, ""
    for name, stage in (("encode", "encode"), ("prefill", PREFILL[definition])):
        mine, other = (_median(side, stage) for side in (first, second))
        theirs = published[0][name] / published[1][name]
        if theirs <= mine / other:
            continue  # here the candidate gains as much in this stage as in the article
        swapped = ratio(claim, totals[0] - mine + other * theirs, totals[1])
        if abs(swapped - claim.published) < nearest:
            nearest = abs(swapped - claim.published)
            text = (
                f"{name} explains it: reference over candidate is {theirs:.3g} as published and {mine / other:.3g} here"
            )
    if not text:  # then the stages weigh otherwise
        here = _median(first, "encode") / totals[0]
        there = published[0]["encode"] / (published[0]["encode"] + published[0]["prefill"])
        text = f"each stage gains as much as published; encoding is {here:.0%} of the reference here, {there:.0%} there"
    return text


def _median(result: Result, name: str) -> float:
    return blocks_interval([*result.composed(name).values()]).value


def _key(point: Point) -> tuple[str, int]:
    return (point.system.name if point.system and not point.system.changed else "", point.side)


def read_stages(results: Path) -> dict[tuple[str, int], dict[str, float]]:
    """`published/system_latency.csv`: milliseconds of encoding and prefill, by system and side of the input."""
    table = open_published(results, "system_latency.csv", {"system", "resolution", "encode_ms", "prefill_ms", "source"})
    found = {}
    for row in table.to_dict("records"):
        try:
            times = {"encode": float(row["encode_ms"]), "prefill": float(row["prefill_ms"])}
            found[str(row["system"]), int(row["resolution"])] = times
        except ValueError as error:
            raise HarnessError(f"system_latency.csv: {row['system']}: {error}") from error
    return found


def _count(claim: Claim, reference: Point) -> Finding:
    """A ratio of counts, exact."""
    candidate = claim.candidate
    assert candidate is not None
    if claim.kind == "token_ratio":
        one, two, unit = reference.visual_tokens, candidate.visual_tokens, "tokens"
        told = f"{one} and {two} {unit}"
    else:
        assert reference.encoder is not None
        assert candidate.encoder is not None
        one, two = claim.parameters[reference.encoder.name], claim.parameters[candidate.encoder.name]
        told = f"{one / 1e6:.1f} M and {two / 1e6:.1f} M weights"
    value = one / two
    good = value >= claim.published - claim.rounding - 1e-9
    why = told if good else f"{told}: {value / claim.published:.2f} of the published value"
    interval = Interval(value, value, value)
    names = title_of(reference), title_of(candidate)
    return Finding(claim, *names, "exact", interval, "holds" if good else "differs", why)


def _scores(claim: Claim, reference: Point, results: Mapping[str, Result]) -> Finding:
    """A difference of scores in points of a hundred, where both sides were asked."""
    assert claim.candidate is not None
    names = title_of(reference), title_of(claim.candidate)
    suite = next((suite for title, suite in SUITES.items() if title in claim.statement), "")
    pair = [results.get(fingerprint(point)) for point in (reference, claim.candidate)]
    evaluations = [side.evaluations.get(suite) if side is not None else None for side in pair]
    scores = [
        statistics_of(evaluation.score)[0].value
        for evaluation in evaluations
        if evaluation is not None and evaluation.score is not None
    ]
    if len(scores) < 2:
        why = "an accuracy needs trained weights; those of both sides are random here"
        return Finding(claim, *names, "scores", None, "cannot be measured here", why)
    value = 100 * (scores[1] - scores[0])
    good = value >= claim.published - claim.rounding
    why = "" if good else f"{value - claim.published:+.1f} points from the published value"
    return Finding(claim, *names, "scores", Interval(value, value, value), "holds" if good else "differs", why)


def ranking(results: Iterable[Result]) -> pd.DataFrame:
    """All timed points in the order of `ttft_paper`, with their rank under `ttft_user`."""
    rows = []
    for result in results:
        if not result.timed:
            continue
        times = result.times()
        if any(name not in times for name in DEFINITIONS):
            continue
        rows.append(
            {
                "point": title_of(result.planned.point),
                "extrapolated": bool(result.depths),
                **{name: times[name].value for name in DEFINITIONS},
            }
        )
    table = pd.DataFrame(rows)
    if not table.empty:
        for name in DEFINITIONS:
            table[f"rank_{name}"] = table[name].rank(method="min").astype(int)
        table = table.sort_values("ttft_paper", ignore_index=True)
    return table


def table_of(findings: Iterable[Finding]) -> pd.DataFrame:
    """One row for each finding; what is unknown is missing."""
    rows = []
    for finding in findings:
        claim, value = finding.claim, finding.value
        rows.append(
            {
                "claim": claim.id,
                "statement": claim.statement,
                "kind": claim.kind,
                "published": claim.published,
                "source": claim.source,
                "reference": finding.reference,
                "candidate": finding.candidate,
                "definition": finding.definition,
                "value": value.value if value else None,
                "low": value.low if value else None,
                "high": value.high if value else None,
                "extrapolated": finding.extrapolated,
                "device": finding.device,
                "verdict": finding.verdict,
                "why": finding.why,
            }
        )
    return pd.DataFrame(rows)
