import random

import pytest

from harness.analysis.frontier import on_frontier


def by_definition(seconds, accuracy):
    points = list(zip(seconds, accuracy, strict=True))
    return [
        not any(t <= s and b >= a and (t < s or b > a) for t, b in points)
        for s, a in points
    ]  # fmt: skip


def test_agrees_with_the_definition_on_random_points_with_ties():
    rng = random.Random(0)
    for _ in range(200):
        n = rng.randint(1, 12)
        seconds = [rng.randint(1, 5) / 10 for _ in range(n)]
        accuracy = [rng.randint(0, 4) / 4 for _ in range(n)]
        assert on_frontier(seconds, accuracy) == by_definition(seconds, accuracy)


def test_one_point_is_its_own_frontier_and_nothing_has_none():
    assert on_frontier([1.0], [0.0]) == [True]
    assert on_frontier([], []) == []


def test_an_unknown_value_cannot_be_compared():
    with pytest.raises(ValueError, match="finite"):
        on_frontier([1.0, float("nan")], [0.5, 0.5])
