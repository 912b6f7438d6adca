"""Official definitions on inputs that tempt an implementation to be kinder or stricter than they are."""

import pytest

from harness.suites.metrics import METRICS, anls, evalai, gqa_exact_match, vqa_accuracy


@pytest.mark.parametrize(
    ("response", "answers", "score"),
    [
        ("paris", ["paris"], 1.0),
        ("  PARIS\n", ["Paris"], 1.0 - 0 / 8),
        ("paris.", ["paris"], 1 - 1 / 6),
        ("ab", ["ax"], 0.5),  # exactly 0.5 is kept
        ("ab", ["xy"], 0.0),
        ("abc", ["axy"], 0.0),  # a third: below the threshold
        ("two  words", ["two words"], 1.0),  # folded white space counts in the length, not in the distance
        ("671", ["670", "671"], 1.0),
        ("67", ["671"], 1 - 1 / 3),
        ("", ["x"], 0.0),
        ("", [""], 1.0),
        ("STRASSE", ["straße"], 1 - 2 / 7),  # upper() makes ß two letters long, lower() leaves it one
    ],
)
def test_anls(response, answers, score):
    assert anls(response, answers) == pytest.approx(score)


@pytest.mark.parametrize(
    ("text", "processed"),
    [
        ("The STOP sign", "stop sign"),
        ("ten,two", "tentwo"),
        ("None", "0"),
        ("dont", "don't"),
        ("it's", "it 's"),
        ("yes!", "yes"),
        ("x-b", "x b"),
        ("x - b", "x b"),  # the mark touches a space: deleted, not replaced
        ("a-b", "b"),  # replaced by a space first, so "a" is an article
        ("3.5", "3.5"),
        ("end.", "end"),
        ("what?\n", "what"),
        ("1,000", "1000"),
        ("", ""),
    ],
)
def test_evalai_processor(text, processed):
    assert evalai(text) == processed


@pytest.mark.parametrize(("agreeing", "score"), [(10, 1.0), (4, 1.0), (3, 0.9), (2, 0.6), (1, 0.3), (0, 0.0)])
def test_vqa_accuracy_leaves_one_reference_out(agreeing, score):
    references = ["stop"] * agreeing + [f"other{k}" for k in range(10 - agreeing)]
    assert vqa_accuracy("Stop.", references) == pytest.approx(score)


def test_vqa_accuracy_with_one_reference_is_always_zero():
    assert vqa_accuracy("stop", ["stop"]) == 0.0


@pytest.mark.parametrize(
    ("response", "answer", "score"),
    [("Yes.", "yes", 1.0), (" red ", "red", 1.0), ("red circle", "red", 0.0), ("", "red", 0.0), ("2", "2", 1.0)],
)
def test_gqa_exact_match(response, answer, score):
    assert gqa_exact_match(response, [answer]) == score


def test_a_question_without_references_is_an_error_not_a_zero():
    for name, metric in METRICS.items():
        with pytest.raises(ValueError, match=name):
            metric("x", [])
