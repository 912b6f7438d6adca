"""POPE (Li et al. 2023): is the object there? The reference is `yes` or `no`."""

from __future__ import annotations

from collections.abc import Sequence

from harness.metrics import Graded, metric
from harness.metrics.vqa_accuracy import without_punctuation


@metric("pope", "RUCAIBox/POPE evaluate.py, LLaVA eval_pope.py")
def pope(response: str, answers: Sequence[str]) -> Graded:
    """The first sentence without commas: `No`, `not` or `no` among its words is a no, everything else a yes."""
    words = response.partition(".")[0].replace(",", "").split(" ")
    said = "no" if {"No", "not", "no"} & set(words) else "yes"
    return _graded(said, answers)


@metric("pope@lmms-eval", "lmms_eval/tasks/pope/utils.py")
def pope_exact(response: str, answers: Sequence[str]) -> Graded:
    """Only `yes` and `no` themselves count, in any case: "Yes." is wrong."""
    said = response.lower().strip()
    return _graded(said if said in ("yes", "no") else None, answers)


@metric("pope@vlmevalkit", "open-compass/VLMEvalKit vlmeval/dataset/utils/yorn.py: YOrN_Extraction")
def pope_word(response: str, answers: Sequence[str]) -> Graded:
    """Either word, but not both, anywhere in the response."""
    found = {"yes", "no"} & set(without_punctuation(response.lower()).split())
    return _graded(found.pop() if len(found) == 1 else None, answers)


def _graded(said: str | None, answers: Sequence[str]) -> Graded:
    return Graded(float(said in [answer.lower().strip() for answer in answers]), said)
