"""Figures of a score against values worked out by hand."""

import math

import pytest

from conftest import make_score
from harness.analysis.scores import statistics_of
from harness.schema import Answer


def answer(number, image, parsed, score, kind=""):
    return Answer(question_id=str(number), image=image, kind=kind, text=parsed or "?", parsed=parsed, score=score)


def pope(*rows):
    answers = tuple(answer(k, *row) for k, row in enumerate(rows))
    return make_score("pope", 0).model_copy(update={"metric": "pope@lmms-eval", "answers": answers})


def test_precision_recall_f1_and_the_real_yes_ratio():
    # Image a: two true positives, a false one; image b: a true negative, a missed one, one that nobody can read.
    found = statistics_of(
        pope(
            ("a", "yes", 1.0),
            ("a", "yes", 1.0),
            ("a", "yes", 0.0),
            ("b", "no", 1.0),
            ("b", "no", 0.0),
            ("b", None, 0.0),
        )
    )
    values = {figure.what: figure.value for figure in found}
    assert values == pytest.approx({"score": 0.5, "precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "yes_ratio": 0.5})
    assert all((figure.questions, figure.images, figure.unparsed) == (6, 2, 1) for figure in found)
    for figure in found[1:]:
        assert figure.low <= figure.value <= figure.high


def test_a_ratio_without_a_denominator_is_missing_not_zero():
    values = {figure.what: figure.value for figure in statistics_of(pope(("a", "no", 1.0), ("b", "no", 1.0)))}
    assert math.isnan(values["precision"])
    assert math.isnan(values["f1"])
    assert values["yes_ratio"] == 0.0


def test_each_kind_is_a_part_where_there_are_several():
    rows = [
        ("a", "yes", 1.0, "random"),
        ("b", "yes", 0.0, "random"),
        ("a", "no", 1.0, "popular"),
        ("b", "no", 1.0, "popular"),
    ]
    parts = {(f.part, f.what): f.value for f in statistics_of(pope(*rows))}
    assert parts["all", "score"] == 0.75
    assert parts["random", "score"] == 0.5
    assert parts["popular", "score"] == 1.0
    assert parts["random", "precision"] == 0.5
    only = statistics_of(pope(*(row[:3] for row in rows)))
    assert {f.part for f in only} == {"all"}
