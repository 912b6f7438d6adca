"""GQA (Hudson and Manning 2019): equality with the one reference."""

from __future__ import annotations

import string
from collections.abc import Sequence

from harness.metrics import Graded, metric

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def plain(text: str) -> str:
    """Lower case, no punctuation, as Hugging Face's `exact_match` compares."""
    return text.lower().translate(_NO_PUNCTUATION)


@metric("gqa", "GQA eval.py: equality")
def gqa(response: str, answers: Sequence[str]) -> Graded:
    """1 if the response is the reference, to the letter."""
    return Graded(float(response in answers), response)


@metric("gqa@lmms-eval", "lmms_eval/tasks/gqa: exact_match, ignore_case, ignore_punctuation, on the stripped response")
def gqa_plain(response: str, answers: Sequence[str]) -> Graded:
    """Case and punctuation are ignored."""
    said = plain(response.strip())
    return Graded(float(said in map(plain, answers)), said)


@metric("gqa@llava", "haotian-liu/LLaVA scripts/convert_gqa_for_eval.py, then GQA's equality")
def gqa_converted(response: str, answers: Sequence[str]) -> Graded:
    """Periods at the end and case are ignored."""
    said = response.rstrip(".").lower()
    return Graded(float(said in answers), said)


@metric("gqa@vlmevalkit", "open-compass/VLMEvalKit, Qwen-VL: strip and lower case")
def gqa_lower(response: str, answers: Sequence[str]) -> Graded:
    """White space around it and case are ignored; "Yes." is wrong."""
    said = response.strip().lower()
    return Graded(float(said in [answer.strip().lower() for answer in answers]), said)
