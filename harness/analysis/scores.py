"""What a score is made of: the whole, each kind of question, and what is no mean of scores (POPE's F1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.metrics import METRICS
from harness.schema import Answer, Score
from harness.stats import accuracy, ratio_interval

ALL_KINDS = "all"

RATIOS = {
    "precision": ((1, 0, 0, 0), (1, 1, 0, 0)),
    "recall": ((1, 0, 0, 0), (1, 0, 1, 0)),
    "f1": ((2, 0, 0, 0), (2, 1, 1, 0)),
    "yes_ratio": ((1, 1, 0, 0), (0, 0, 0, 1)),
}
"""Numerator and denominator as weights of true positives, false positives, false negatives and answers."""


@dataclass(frozen=True)
class Statistic:
    """One number of a suite, with what it rests on. Errors and intervals that do not exist are NaN."""

    part: str
    """`all`, or a kind of question."""
    what: str
    """`score`; `guessed`: the same where an unparsed answer counts what a guess scores on average; `precision`,
    `recall`, `f1`, `yes_ratio`."""
    value: float
    low: float
    high: float
    """95% interval: Wilson's or Student's t for a score, a cluster bootstrap for a ratio."""
    questions: int
    images: int
    unparsed: int
    """Answers that the metric could read nothing from; they count as wrong."""
    stderr: float = float("nan")
    """Clustered by image."""
    stderr_naive: float = float("nan")
    design_effect: float = float("nan")


def statistics_of(score: Score) -> list[Statistic]:
    """Every figure of a score: first the whole, then each kind where there are several; none where it is graded
    externally."""
    if not score.metric:
        return []
    kinds = sorted({answer.kind for answer in score.answers if answer.kind})
    parts = [(ALL_KINDS, list(score.answers))]
    if len(kinds) > 1:
        parts += [(kind, [answer for answer in score.answers if answer.kind == kind]) for kind in kinds]
    found = []
    for name, answers in parts:
        found.append(_mean(name, answers))
        if any(answer.chance for answer in answers):
            found.append(_mean(name, answers, "guessed"))
        if METRICS[score.metric].benchmark == "pope":
            found += _binary(name, answers)
    return found


def _mean(part: str, answers: Sequence[Answer], what: str = "score") -> Statistic:
    chances = [answer.chance if what == "guessed" else 0.0 for answer in answers]
    values = [(answer.score or 0.0) + chance for answer, chance in zip(answers, chances, strict=True)]
    mean = accuracy(values, [answer.image for answer in answers])
    return Statistic(
        part,
        what,
        mean.mean,
        mean.low,
        mean.high,
        mean.questions,
        mean.clusters,
        sum(answer.parsed is None for answer in answers),
        mean.stderr,
        mean.stderr_naive,
        mean.design_effect,
    )


def _binary(part: str, answers: Sequence[Answer]) -> list[Statistic]:
    """Precision, recall, F1 and the share of answers that are yes (lmms-eval's yes-ratio is that of the references)."""
    images = sorted({answer.image for answer in answers})
    row = {image: number for number, image in enumerate(images)}
    counts = np.zeros((len(images), 4))  # true and false positives, false negatives, answers
    for answer in answers:
        right = answer.score == 1.0
        if answer.parsed == "yes":
            counts[row[answer.image], 0 if right else 1] += 1
        elif answer.parsed == "no" and not right:
            counts[row[answer.image], 2] += 1
        counts[row[answer.image], 3] += 1

    found = []
    unparsed = sum(answer.parsed is None for answer in answers)
    for name, (top, bottom) in RATIOS.items():

        def ratio(sums: np.ndarray, top: tuple[int, ...] = top, bottom: tuple[int, ...] = bottom) -> np.ndarray:
            with np.errstate(invalid="ignore", divide="ignore"):
                return np.asarray(sums @ np.asarray(top, float) / (sums @ np.asarray(bottom, float)))

        value = ratio_interval(counts, ratio)
        found.append(Statistic(part, name, value.value, value.low, value.high, len(answers), len(images), unparsed))
    return found
