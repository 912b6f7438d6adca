"""The verdict on identical code, on a slowdown, and the refusal of what must not be compared."""

import random

import pytest

from conftest import MACHINE, PROTOCOL, failed_measurement, make_component, make_evaluation, make_measurement
from harness.analysis.comparison import compare, compare_scores, differences
from harness.schema import HarnessError


def side(scales, **changes):
    return {block: make_measurement(block=block, scale=scale, **changes) for block, scale in enumerate(scales)}


def noise(seed, share=0.005):
    rng = random.Random(seed)
    return [rng.gauss(1, share) for _ in range(10)]


def test_identical_code_passes_and_drift_that_both_sides_share_cancels():
    drift = [1 + 0.1 * block for block in range(10)]
    found = compare(side([d * n for d, n in zip(drift, noise(1), strict=True)]),
                    side([d * n for d, n in zip(drift, noise(2), strict=True)]), "encode")  # fmt: skip
    assert found.verdict == "PASS"
    assert abs(found.ratio.value - 1) < 0.01
    assert found.ratio.pairs == 10


def test_a_slowdown_beyond_the_margin_fails_and_one_near_it_is_inconclusive():
    base = side(noise(1))
    assert compare(base, side([1.05 * n for n in noise(2)]), "encode").verdict == "FAIL"
    assert compare(base, side([1.02 * n for n in noise(2)]), "encode").verdict == "INCONCLUSIVE"
    assert compare(base, side([0.9 * n for n in noise(2)]), "encode").verdict == "PASS"


def test_two_blocks_never_decide():
    assert compare(side([1, 1]), side([2, 2]), "encode").verdict == "INCONCLUSIVE"


def test_disturbed_blocks_are_left_out_and_said_and_too_many_leave_no_verdict():
    base, bad = side(noise(1)), side([3 * n for n in noise(2)])
    for block in range(3):
        base[block] = base[block].model_copy(update={"disturbed": True})
    found = compare(base, {**side(noise(3)), **{b: bad[b] for b in range(3)}}, "encode")
    assert (found.verdict, found.ratio.pairs, found.reasons) == ("PASS", 7, ("3 of 10 blocks were disturbed",))
    rough = {block: measurement.model_copy(update={"disturbed": True}) for block, measurement in bad.items()}
    found = compare(side(noise(1)), rough, "encode")
    assert found.verdict == "INCONCLUSIVE"
    assert "too few undisturbed blocks" in str(found)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"machine": MACHINE.model_copy(update={"driver": "550"})}, "driver: unknown, 550"),
        ({"machine": MACHINE.model_copy(update={"libraries": {"torch": "1"}})}, "torch: 0, 1"),
        ({"machine": MACHINE.model_copy(update={"governor": "powersave"})}, "governor: unknown, powersave"),
        ({"component": make_component(threads=2)}, "threads: 1, 2"),
        ({"component": make_component(dtype="float16")}, "dtype: float32, float16"),
        ({"component": make_component(protocol=PROTOCOL.model_copy(update={"warmup": 9}))}, "protocol: "),
    ],
)
def test_what_must_not_be_compared_is_refused_by_name(changes, said):
    with pytest.raises(HarnessError, match="these two must not be compared") as error:
        compare(side(noise(1)), side(noise(2), **changes), "encode")
    assert said in str(error.value)


def test_more_blocks_are_no_other_protocol():
    more = make_component(protocol=PROTOCOL.model_copy(update={"blocks": 12}))
    assert compare(side(noise(1)), side(noise(2), component=more), "encode").verdict == "PASS"


def test_a_failed_side_is_no_comparison():
    with pytest.raises(HarnessError, match="candidate failed: crashed: SIGSEGV"):
        compare(side([1]), {0: failed_measurement(status="crashed", reason="SIGSEGV")}, "encode")
    with pytest.raises(HarnessError, match="share no block"):
        compare(side([1]), {5: make_measurement(block=5)}, "encode")


def test_equal_machines_differ_in_nothing():
    assert differences(MACHINE, MACHINE) == []


def evaluate(scores, **changes):
    base = make_evaluation()
    answers = tuple(
        base.score.answers[0].model_copy(update={"question_id": str(k), "image": str(k // 2), "score": score})
        for k, score in enumerate(scores)
    )
    return base.model_copy(update={"score": base.score.model_copy(update={"answers": answers, **changes})})


def test_two_scores_are_compared_question_by_question_and_clustered_by_image():
    found = compare_scores(evaluate([1, 0, 1, 0, 1, 1]), evaluate([1, 0, 0, 0, 1, 0]))
    assert found.value == pytest.approx(-2 / 6)
    # Differences by image: 0, -1, -1; their sums less the mean's share: 2/3, -1/3, -1/3.
    assert found.stderr == pytest.approx((4 / 9 + 1 / 9 + 1 / 9) ** 0.5 / 6)
    assert (found.questions, found.clusters) == (6, 3)
    assert compare_scores(evaluate([1, 0] * 40), evaluate([1, 0] * 40)).verdict(0.1) == "PASS"
    assert (
        compare_scores(evaluate([1, 0] * 40), evaluate([1, 0] * 40)).verdict(0.01) == "INCONCLUSIVE"
    )  # 40 images, 7.5 points
    assert compare_scores(evaluate([1] * 80), evaluate([0.5] * 80)).verdict(0.01) == "FAIL"
    assert compare_scores(evaluate([1, 0, 1, 0, 1, 1]), evaluate([1, 0, 0, 1, 1, 0])).verdict(0.01) == "INCONCLUSIVE"


@pytest.mark.parametrize(
    ("candidate", "said"),
    [
        (evaluate([1, 1], metric="anls@lmms-eval"), "metric: anls, anls@lmms-eval"),
        (evaluate([1, 1], data="other"), "data: "),
        (evaluate([1, 1, 1]), "1 questions are not on both sides, e.g. 2"),
        (make_evaluation(status="error", reason="hung", score=None), "candidate has no score: error: hung"),
    ],
)
def test_scores_of_other_questions_or_protocols_are_not_compared(candidate, said):
    with pytest.raises(HarnessError, match=said):
        compare_scores(evaluate([1, 1]), candidate)
