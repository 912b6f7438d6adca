import math

import numpy as np
import pytest

from harness.stats import accuracy, combined, median_interval


def test_median_interval_takes_the_order_statistics_of_the_binomial_table():
    # Conover's table: n=10 -> ranks 2 and 9 (97.9%), n=6 -> ranks 1 and 6 (96.9%), n=20 -> ranks 6 and 15 (95.9%).
    for n, low, high in ((6, 1, 6), (10, 2, 9), (20, 6, 15), (71, 27, 45)):
        interval = median_interval(list(range(1, n + 1)))
        assert (interval.low, interval.high) == (low, high)
        assert interval.value == (n + 1) / 2


def test_median_interval_of_too_few_samples_is_infinite():
    assert median_interval([1.0, 2.0, 3.0, 4.0, 5.0]).high == math.inf


def test_median_interval_covers_the_true_median():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(600):
        interval = median_interval(rng.exponential(size=15).tolist())
        hits += interval.low <= math.log(2) <= interval.high
    assert 0.95 <= hits / 600 <= 0.995  # 15 samples: ranks 4 and 12 cover 96.5%


def test_accuracy_clusters_its_standard_error_by_image():
    # Two images with questions (1, 1) and (0, 0): mean 1/2, cluster sums 1 and -1, sqrt(2) / 4.
    got = accuracy([1, 1, 0, 0], ["a", "a", "b", "b"])
    assert got.mean == 0.5
    assert got.stderr == pytest.approx(math.sqrt(2) / 4)
    assert got.stderr_naive == pytest.approx(math.sqrt(1 / 3) / 2)
    assert (got.questions, got.clusters) == (4, 2)


def test_accuracy_of_single_question_images_equals_the_textbook_error():
    scores = [1.0, 0.0, 0.5, 1.0, 0.0, 1.0]
    got = accuracy(scores, list("abcdef"))
    assert got.stderr == pytest.approx(np.std(scores) / math.sqrt(6))


def test_combined_is_the_mean_of_suites_with_independent_errors():
    one, two = accuracy([1, 0, 1, 0], list("abcd")), accuracy([1, 1, 1, 0], list("abcd"))
    both = combined([one, two])
    assert both.mean == pytest.approx((0.5 + 0.75) / 2)
    assert both.stderr == pytest.approx(math.hypot(one.stderr, two.stderr) / 2)


def test_one_image_has_no_standard_error():
    got = accuracy([1, 0, 1], ["a", "a", "a"])
    assert math.isnan(got.stderr)
    assert (got.low, got.high) == (0.0, 1.0)
    both = combined([got, accuracy([1, 0], ["a", "b"])])
    assert (both.low, both.high) == (0.0, 1.0)


def test_nothing_has_no_statistics():
    with pytest.raises(ValueError, match="no samples"):
        median_interval([])
    with pytest.raises(ValueError, match="no answers"):
        accuracy([], [])
