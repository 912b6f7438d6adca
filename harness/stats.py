"""The judge: intervals for medians and scores. scipy does the mathematics."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from scipy import special  # not scipy.stats, whose import is a second of every measuring process


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95% interval."""

    value: float
    low: float
    high: float


def median_interval(samples: Sequence[float], confidence: float = 0.95) -> Interval:
    """The median with the distribution-free interval between two order statistics.

    The ranks are the narrowest symmetric pair whose binomial coverage is at least `confidence` (Conover, *Practical
    Nonparametric Statistics*, 3.2). Below six samples no pair covers 95%: the interval is then infinite, not wrong.
    """
    if not samples:
        raise ValueError("the median of no samples")
    ordered = sorted(samples)
    n = len(ordered)
    rank = _rank(n, confidence)
    value = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
    if rank < 1:
        return Interval(value, -math.inf, math.inf)
    return Interval(value, ordered[rank - 1], ordered[n - rank])


@cache
def _ranks(most: int, confidence: float) -> list[int]:
    """For each n: the smallest rank with P(X <= rank) >= alpha / 2, so that P(X < rank) < alpha / 2 is left out."""
    tail, n = (1 - confidence) / 2, np.arange(most + 1)
    with np.errstate(invalid="ignore"):
        above = np.nan_to_num(np.ceil(special.bdtrik(tail, n, 0.5))).clip(0)  # or one too many, by rounding
    below = (above - 1).clip(0)
    return [int(rank) for rank in np.where(special.bdtr(below, n, 0.5) >= tail, below, above)]


def _rank(n: int, confidence: float) -> int:
    """The rank for `n` samples; tabled, because the bench asks while it measures."""
    return _ranks(1 << max(10, n.bit_length()), confidence)[n]


def blocks_interval(values: Sequence[float], positive: bool = True) -> Interval:
    """The median over blocks with its 95% interval.

    From six blocks on the interval is distribution-free (`median_interval`). Two to five are too few for that:
    Student's t over the logarithms (over the values where they may be negative) assumes that blocks scatter normally,
    and is wide. One block says nothing about how blocks differ: the interval is infinite.
    """
    positive = positive and min(values, default=0.0) > 0  # a time of 0 has no logarithm
    if len(values) >= 6:
        return median_interval(values)
    middle = median_interval(values).value
    if len(values) < 2:
        return Interval(middle, -math.inf, math.inf)
    scale = np.log(np.asarray(values, float)) if positive else np.asarray(values, float)
    reach = float(special.stdtrit(len(values) - 1, 0.975) * scale.std(ddof=1)) / math.sqrt(len(values))
    low, high = float(scale.mean()) - reach, float(scale.mean()) + reach
    if positive:
        low, high = math.exp(low), math.exp(min(high, 700.0))
    return Interval(middle, min(low, middle), max(high, middle))


def significant(value: float, low: float = -math.inf, high: float = math.inf, disturbed: bool = False) -> str:
    """A number and its interval with the digits that they deserve: `3.21 (3.18–3.30)`, `~1200 (900–2100)`, `3.21`.

    The interval decides the last digit: it is the second one of its half-width where that begins with 1, 2 or 3 (below
    3.55), and the first one otherwise (Particle Data Group, *Review of Particle Physics*, 5.3 of the introduction).
    Without an interval three digits are shown; where the machine was `disturbed` two at most, marked as rough, because
    the interval does not know of a disturbance that all blocks share.
    """
    bounded = math.isfinite(low) and math.isfinite(high)
    size = _magnitude(value)
    place = size - 2
    if bounded and high > low:
        place = min(_magnitude((high - low) / 2 / 3.55), size)
    if disturbed:
        place = max(place, size - 1)
    text = ("~" if disturbed else "") + _at(value, place)
    ends = (_at(end, min(place, _magnitude(end)) if end else place) for end in (low, high))
    return f"{text} ({'–'.join(ends)})" if bounded else text


def _magnitude(value: float) -> int:
    """The power of ten of a number's first digit; that of 1 for zero."""
    return math.floor(math.log10(abs(value))) if value else 0


def _at(value: float, place: int) -> str:
    """A number rounded to a power of ten."""
    return f"{round(value, -place):.{max(0, -place)}f}"


def half_width(samples: Sequence[float]) -> float:
    """Half the width of the median's 95% interval as a share of the median; infinite below six samples."""
    interval = median_interval(samples)
    return (interval.high - interval.low) / 2 / interval.value if interval.value > 0 else math.inf


def spread(samples: Sequence[float]) -> float:
    """The distance between the quartiles as a share of the median: noise that an outlier does not move."""
    ordered = sorted(samples)
    low, middle, high = (ordered[round(share * (len(ordered) - 1))] for share in (0.25, 0.5, 0.75))
    return (high - low) / middle if middle > 0 else math.inf


def lag1(samples: Sequence[float]) -> float:
    """Autocorrelation of neighbours, in -1..1; 0 where there is nothing to correlate."""
    values = np.asarray(samples, float)
    centred = values - values.mean() if len(values) else values
    power = float(centred @ centred)
    return float(centred[:-1] @ centred[1:]) / power if power > 0 else 0.0


def effective_n(samples: Sequence[float]) -> float:
    """How many independent samples these are worth: n (1 - r) / (1 + r) for a lag-1 autocorrelation r, at most n."""
    r = max(0.0, lag1(samples))
    return len(samples) * (1 - r) / (1 + r)


def percentile(blocks: Sequence[Sequence[float]], share: float, confidence: float = 0.95) -> float | None:
    """The percentile `share` over all blocks, or None where they hold too few independent samples to know one.

    A distribution-free upper bound exists when 1 - share^n >= confidence (n = 29 for p90, 59 for p95, 299 for p99);
    n is the sum of the blocks' effective numbers, since neighbours in a process resemble each other.
    """
    n = sum(effective_n(block) for block in blocks)
    if share**n > 1 - confidence:
        return None
    return float(np.percentile(np.concatenate([np.asarray(block, float) for block in blocks]), 100 * share))


Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE"]


@dataclass(frozen=True)
class Ratio:
    """A candidate's time over a baseline's, from paired blocks."""

    value: float
    low: float
    high: float
    """95% interval; unbounded below three pairs."""
    pairs: int
    detectable: float
    """Smallest slowdown that as many pairs with this noise would show in four cases of five, e.g. 0.02."""

    def verdict(self, margin: float) -> Verdict:
        """Whether the candidate is slower by more than `margin` (0.02: 2%).

        PASS: the whole interval lies below 1 + margin; FAIL: above it; else the pairs do not tell.
        """
        if self.high < 1 + margin:
            return "PASS"
        return "FAIL" if self.low > 1 + margin else "INCONCLUSIVE"


def paired_ratio(baseline: Sequence[float], candidate: Sequence[float], confidence: float = 0.95) -> Ratio:
    """The geometric mean of candidate / baseline over paired blocks, with Student's t on the log ratios.

    Block i of both sides must be of one round, so that the machine's drift cancels; the number of blocks is fixed
    beforehand (stopping when it looks significant would void the interval).
    """
    if len(baseline) != len(candidate) or not baseline:
        raise ValueError(f"{len(baseline)} baseline blocks and {len(candidate)} candidate blocks cannot be paired")
    logs = np.log(np.asarray(candidate, float) / np.asarray(baseline, float))
    n, mean = len(logs), float(logs.mean())
    if n < 3:
        return Ratio(math.exp(mean), 0.0, math.inf, n, math.inf)
    error = float(logs.std(ddof=1)) / math.sqrt(n)
    reach = float(special.stdtrit(n - 1, (1 + confidence) / 2)) * error
    power = reach + float(special.stdtrit(n - 1, 0.8)) * error
    return Ratio(math.exp(mean), math.exp(mean - reach), math.exp(mean + reach), n, math.exp(power) - 1)


def sum_passes(seconds: Mapping[str, Sequence[float]], stages: Sequence[str]) -> list[float]:
    """The sum of those `stages` that were timed for each pass: a TTFT is summed pass by pass, before any median."""
    timed = [seconds[stage] for stage in stages if stage in seconds]
    return [math.fsum(parts) for parts in zip(*timed, strict=True)]


@dataclass(frozen=True)
class Accuracy:
    """A mean score with both standard errors."""

    mean: float
    stderr: float
    """Clustered by image: questions about one image share its luck."""
    stderr_naive: float
    """As if every question had an image of its own."""
    low: float
    high: float
    """95% interval."""
    questions: int
    clusters: int

    @property
    def design_effect(self) -> float:
        """How many times as many questions are needed for asking several about one image; below 1 it helps."""
        return (self.stderr / self.stderr_naive) ** 2 if self.stderr_naive > 0 else math.nan


ROUNDING = 1e-9
"""A standard error below this is the rounding of sums that cancel."""


def clustered(values: Sequence[float], clusters: Sequence[str]) -> tuple[float, float, int]:
    """Mean, standard error clustered as in Miller, *Adding Error Bars to Evals* (2024), eq. 4, and how many clusters
    there are. One cluster says nothing about how clusters differ: the error is not a number."""
    scores = np.asarray(values, float)
    mean = float(scores.mean())
    _, cluster = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.bincount(cluster, weights=scores - mean)
    error = math.sqrt(float((sums**2).sum())) / len(scores) if len(sums) > 1 else math.nan
    return mean, 0.0 if error < ROUNDING else error, len(sums)


def accuracy(scores: Sequence[float], clusters: Sequence[str], confidence: float = 0.95) -> Accuracy:
    """Mean of per-question scores in 0..1 with a clustered standard error and an interval.

    Scores of 0 and 1 get Wilson's interval with the number of questions that the clustered error amounts to; others
    Student's t, cut at 0 and 1. Both take as many degrees of freedom as there are clusters, less one. Where clusters do
    not differ at all each is one piece of evidence for Wilson's interval: an interval never has width 0.
    """
    if not scores:
        raise ValueError("the accuracy of no answers")
    n = len(scores)
    mean, stderr, count = clustered(scores, clusters)
    if math.isnan(stderr):
        return Accuracy(mean, math.nan, math.nan, 0.0, 1.0, n, count)
    naive = float(np.asarray(scores, float).std(ddof=1)) / math.sqrt(n)
    quantile = float(special.stdtrit(count - 1, (1 + confidence) / 2))
    if stderr == 0 or set(scores) <= {0.0, 1.0}:
        low, high = wilson(mean, mean * (1 - mean) / stderr**2 if stderr > 0 else count, quantile)
    else:
        low, high = max(0.0, mean - quantile * stderr), min(1.0, mean + quantile * stderr)
    return Accuracy(mean, stderr, naive, low, high, n, count)


def wilson(share: float, n: float, quantile: float) -> tuple[float, float]:
    """Wilson's score interval of a share of `n` (1927); unlike the normal one it never has width 0."""
    square = quantile**2
    middle = (share + square / (2 * n)) / (1 + square / n)
    reach = quantile * math.sqrt(share * (1 - share) / n + square / (4 * n**2)) / (1 + square / n)
    return max(0.0, min(share, middle - reach)), min(1.0, max(share, middle + reach))


DRAWS = 2000
"""Resamples of a cluster bootstrap."""


def ratio_interval(
    counts: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], confidence: float = 0.95
) -> Interval:
    """A statistic of summed counts with its cluster bootstrap interval (percentiles of 2,000 resamples, seed 0).

    `counts` (clusters, k) are added up over clusters; `statistic` takes (..., k). For what is no mean of scores: F1,
    precision, a yes-ratio. Where a resample has no value (0 / 0) it is left out.
    """
    rng = np.random.default_rng(0)
    clusters = len(counts)
    value = float(statistic(counts.sum(0)))
    if clusters < 2:
        return Interval(value, math.nan, math.nan)
    weights = rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=DRAWS)
    drawn = statistic(weights @ counts)
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        return Interval(value, math.nan, math.nan)
    low, high = np.percentile(drawn, [50 * (1 - confidence), 50 * (1 + confidence)])
    return Interval(value, float(low), float(high))


@dataclass(frozen=True)
class Difference:
    """A candidate's score minus a baseline's, question by question."""

    value: float
    stderr: float
    low: float
    high: float
    """95% interval."""
    questions: int
    clusters: int

    def verdict(self, margin: float) -> Verdict:
        """PASS: not worse by more than `margin` (0.01: one point); FAIL: worse by more; else they do not tell."""
        if self.low > -margin:
            return "PASS"
        return "FAIL" if self.high < -margin else "INCONCLUSIVE"


def paired_difference(
    baseline: Sequence[float], candidate: Sequence[float], clusters: Sequence[str], confidence: float = 0.95
) -> Difference:
    """The mean of the differences, clustered by image; Student's t with (clusters - 1) degrees of freedom.

    Element i of both sides must be the same question. Where no cluster differs from another, the rule of three bounds
    the share of images that might: 3 / clusters.
    """
    if len(baseline) != len(candidate) or not baseline:
        raise ValueError(f"{len(baseline)} baseline answers and {len(candidate)} candidate answers cannot be paired")
    values = [b - a for a, b in zip(baseline, candidate, strict=True)]
    mean, error, count = clustered(values, clusters)
    reach = float(special.stdtrit(count - 1, (1 + confidence) / 2)) * error if count > 1 else math.inf
    reach = reach or 3 / count
    return Difference(mean, error, mean - reach, mean + reach, len(values), count)


def combined(parts: Sequence[Accuracy]) -> Accuracy:
    """The unweighted mean over suites, whose questions are independent of one another (as the paper's Avg-5)."""
    if not parts:
        raise ValueError("the mean of no suites")
    mean = sum(part.mean for part in parts) / len(parts)
    stderr = math.sqrt(sum(part.stderr**2 for part in parts)) / len(parts)
    naive = math.sqrt(sum(part.stderr_naive**2 for part in parts)) / len(parts)
    if math.isnan(stderr):
        low, high = 0.0, 1.0
    else:
        low, high = max(0.0, mean - 1.96 * stderr), min(1.0, mean + 1.96 * stderr)
    questions, clusters = sum(p.questions for p in parts), sum(p.clusters for p in parts)
    return Accuracy(mean, stderr, naive, low, high, questions, clusters)
