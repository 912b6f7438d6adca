import math
import statistics

import numpy as np
import pytest

from harness.stats import (
    accuracy,
    blocks_interval,
    clustered,
    combined,
    effective_n,
    half_width,
    lag1,
    median_interval,
    paired_difference,
    paired_ratio,
    percentile,
    ratio_interval,
    significant,
    spread,
    wilson,
)


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


def test_the_interval_over_blocks_depends_on_how_many_there_are():
    six = blocks_interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    assert (six.value, six.low, six.high) == (3.5, 1.0, 6.0)
    three = blocks_interval([1.0, 1.1, 1.2])
    logs = [math.log(x) for x in (1.0, 1.1, 1.2)]
    mean, sd = sum(logs) / 3, statistics.stdev(logs)
    reach = 4.302652729911275 * sd / math.sqrt(3)
    assert (three.value, three.low, three.high) == pytest.approx((1.1, math.exp(mean - reach), math.exp(mean + reach)))
    assert blocks_interval([5.0]).high == math.inf
    signed = blocks_interval([-1.0, 0.0, 1.0], positive=False)
    assert signed.low == pytest.approx(-signed.high) == pytest.approx(-4.302652729911275 / math.sqrt(3))


def test_neighbours_that_resemble_each_other_are_worth_less():
    assert lag1([1.0, 1.0, 1.0]) == 0.0
    assert lag1([1, 2, 3, 4, 5]) == pytest.approx(0.4)
    assert effective_n([1, 2, 3, 4, 5]) == pytest.approx(5 * 0.6 / 1.4)
    assert effective_n([1, -1] * 10) == 20


@pytest.mark.parametrize(("share", "enough"), [(0.5, 5), (0.9, 29), (0.95, 59), (0.99, 299)])
def test_a_percentile_is_known_from_the_number_of_samples_that_the_binomial_asks_for(share, enough):
    alternating = [float(k % 2) for k in range(enough)]
    assert percentile([alternating], share) is not None
    assert percentile([alternating[:-1]], share) is None


def test_the_paired_ratio_is_students_t_on_the_logarithms():
    found = paired_ratio([1.0, 2.0, 4.0], [1.1, 2.2, 4.8])
    logs = [math.log(x) for x in (1.1, 1.1, 1.2)]
    mean, error = sum(logs) / 3, statistics.stdev(logs) / math.sqrt(3)
    reach = 4.302652729911275 * error
    assert (found.value, found.low, found.high) == pytest.approx(
        (math.exp(mean), math.exp(mean - reach), math.exp(mean + reach))
    )
    assert found.detectable == pytest.approx(math.exp(reach + 1.0606601717798212 * error) - 1)
    with pytest.raises(ValueError, match="cannot be paired"):
        paired_ratio([1.0], [1.0, 2.0])


def test_false_alarms_of_the_verdict_are_rare_and_slowdowns_are_seen():
    """Identical code with 1% noise between blocks: never a failure beyond the margin; 5% slower: always one."""
    rng = np.random.default_rng(0)
    same, slow = [], []
    for _ in range(300):
        base, candidate = (rng.normal(1, 0.01, 10).tolist() for _ in range(2))
        same.append(paired_ratio(base, candidate).verdict(0.02))
        slow.append(paired_ratio(base, [1.05 * c for c in candidate]).verdict(0.02))
    assert same.count("FAIL") == 0
    assert slow.count("FAIL") > 0.95 * len(slow)
    assert slow.count("PASS") == 0


def test_spread_and_half_width_are_shares_of_the_median():
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(2 / 3)
    assert half_width([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) == pytest.approx(2.5 / 3.5)
    assert half_width([1.0] * 5) == math.inf


def test_wilsons_interval_is_that_of_the_textbook():
    low, high = wilson(0.8, 20, 1.959964)  # 16 of 20
    assert (low, high) == pytest.approx((0.5840, 0.9193), abs=1e-4)
    assert wilson(0.0, 10, 1.959964)[0] == 0.0
    assert wilson(0.0, 10, 1.959964)[1] == pytest.approx(0.2775, abs=1e-4)


def test_right_and_wrong_answers_get_wilsons_interval_which_never_has_width_0():
    found = accuracy([1.0] * 12, [str(k) for k in range(12)])
    assert (found.mean, found.stderr) == (1.0, 0.0)
    assert 0.6 < found.low < 0.8
    assert found.high == 1.0
    graded = accuracy([0.5] * 12, [str(k) for k in range(12)])
    assert graded.low < 0.45 < 0.55 < graded.high
    rounding = accuracy([1.0, 0.0, 0.0] * 2, ["a"] * 3 + ["b"] * 3)  # sums that cancel, but for their last bit
    assert rounding.stderr == 0.0
    assert rounding.high - rounding.low > 0.5
    nothing = paired_difference([1.0] * 8, [1.0] * 8, list("abcdefgh"))
    assert (nothing.low, nothing.high) == (-3 / 8, 3 / 8)


def test_the_design_effect_tells_what_clusters_cost():
    alike = accuracy([1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0], ["a", "a", "b", "b", "c", "c", "d", "d"])
    assert alike.design_effect == pytest.approx(7 / 4)  # pairs that always agree: nearly 2 (n less one in the naive)
    apart = accuracy([1.0, 0.0, 1.0, 0.0], ["a", "a", "b", "b"])
    assert apart.design_effect == 0.0


def test_a_cluster_bootstrap_of_a_mean_agrees_with_its_standard_error():
    rng = np.random.default_rng(1)
    hits = rng.binomial(4, 0.6, size=200)
    counts = np.stack([hits, np.full(200, 4)], 1).astype(float)
    found = ratio_interval(counts, lambda sums: sums[..., 0] / sums[..., 1])
    mean, error, _ = clustered(
        [float(k < hit) for hit in hits for k in range(4)], [str(c) for c in range(200) for _ in range(4)]
    )
    assert found.value == pytest.approx(mean)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert ratio_interval(counts, lambda sums: sums[..., 0] / sums[..., 1]) == found  # seeded


def test_a_paired_difference_sees_what_two_intervals_do_not():
    rng = np.random.default_rng(2)
    base = rng.binomial(1, 0.5, size=400).astype(float)
    better = np.where(rng.random(400) < 0.05, 1.0, base)
    images = [str(k // 2) for k in range(400)]
    one, other = accuracy(list(base), images), accuracy(list(better), images)
    assert one.high > other.low
    found = paired_difference(list(base), list(better), images)
    assert found.low > 0
    assert found.value == pytest.approx(other.mean - one.mean)
    with pytest.raises(ValueError, match="cannot be paired"):
        paired_difference([1.0], [], [])


@pytest.mark.parametrize(
    ("value", "low", "high", "disturbed", "said"),
    [
        (3.2134, 3.18, 3.30, False, "3.21 (3.18–3.30)"),
        (21732.11, 20120.3, 24000.0, False, "21700 (20100–24000)"),  # +- 1940: its second digit counts
        (21732.11, 17000.0, 25000.0, False, "22000 (17000–25000)"),  # +- 4000: its first one
        (9.9964, 9.99, 10.002, False, "9.996 (9.990–10.002)"),
        (217.32, -math.inf, math.inf, False, "217"),
        (0.0012345, -math.inf, math.inf, False, "0.00123"),
        (1234.5678, 1234.5, 1234.6, True, "~1200 (1200–1200)"),  # an interval does not know what all blocks share
        (1234.5678, -math.inf, math.inf, True, "~1200"),
        (120.0, 3.4, 300.0, True, "~120 (3–300)"),
        (4.42, 4.42, 4.42, False, "4.42 (4.42–4.42)"),
        (5.0, -3.0, 20.0, False, "5 (-3–20)"),
        (0.0, 0.0, 0.0, False, "0.00 (0.00–0.00)"),
    ],
)
def test_a_number_has_the_digits_that_its_interval_supports(value, low, high, disturbed, said):
    assert significant(value, low, high, disturbed) == said
