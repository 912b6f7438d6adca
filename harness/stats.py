"""The judge: intervals for medians and scores. scipy does the mathematics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


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
    # The smallest rank with P(X <= rank) >= alpha / 2, so that P(X < rank) < alpha / 2 is left out at each end.
    rank = int(stats.binom.ppf((1 - confidence) / 2, n, 0.5))
    value = float(np.median(ordered))
    if rank < 1:
        return Interval(value, -math.inf, math.inf)
    return Interval(value, ordered[rank - 1], ordered[n - rank])


def sum_passes(seconds: Mapping[str, Sequence[float]], stages: Sequence[str]) -> list[float]:
    """The sum of `stages` for each pass: a TTFT is summed pass by pass, before any median."""
    return [math.fsum(parts) for parts in zip(*(seconds[stage] for stage in stages), strict=True)]


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
    questions: int
    clusters: int


def accuracy(scores: Sequence[float], clusters: Sequence[str], confidence: float = 0.95) -> Accuracy:
    """Mean of per-question scores; standard error clustered as in Miller, *Adding Error Bars to Evals* (2024), eq. 4.

    The interval takes Student's t with (clusters - 1) degrees of freedom and stays within [0, 1].
    """
    if not scores:
        raise ValueError("the accuracy of no answers")
    values = np.asarray(scores, float)
    n, mean = len(values), float(values.mean())
    _, cluster = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.bincount(cluster, weights=values - mean)
    if len(sums) < 2:  # one image says nothing about how images differ
        return Accuracy(mean, math.nan, math.nan, 0.0, 1.0, n, len(sums))
    stderr = math.sqrt(float((sums**2).sum())) / n
    naive = float(values.std(ddof=1)) / math.sqrt(n)
    reach = float(stats.t.ppf((1 + confidence) / 2, max(len(sums) - 1, 1))) * stderr
    return Accuracy(mean, stderr, naive, max(0.0, mean - reach), min(1.0, mean + reach), n, len(sums))


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
