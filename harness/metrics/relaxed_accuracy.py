"""Relaxed accuracy of ChartQA (Masry et al. 2022, section 5.1): a number may be 5% off, text must be equal."""

from __future__ import annotations

from collections.abc import Sequence

from harness.metrics import Graded, metric

TOLERANCE = 0.05


@metric("relaxed_accuracy", "google-research/pix2struct metrics.py: relaxed_correctness")
def relaxed_accuracy(response: str, answers: Sequence[str]) -> Graded:
    """1 if the response is within 5% of a reference that is a number other than 0, or is its text, ignoring case.

    Kept as published: a reference of 0 is compared as text ("0.0" is wrong), "1,000" is no number, "5%" is 0.05, and a
    year within 5% is right.
    """
    return Graded(float(any(_close(response, answer, answer) for answer in answers)), response)


@metric("relaxed_accuracy@lmms-eval", "lmms_eval/tasks/chartqa/utils.py, on the stripped response")
def relaxed_accuracy_stripped(response: str, answers: Sequence[str]) -> Graded:
    """The same on a response without white space around it."""
    return relaxed_accuracy(response.strip(), answers)


@metric("relaxed_accuracy@qwen-vl", "QwenLM/Qwen-VL eval_mm/evaluate_vqa.py, InternVL")
def relaxed_accuracy_swapped(response: str, answers: Sequence[str]) -> Graded:
    """Its arguments are swapped: 5% of the response, and a response of 0 is compared as text."""
    return Graded(float(any(_close(answer, response, response) for answer in answers)), response)


def _close(one: str, other: str, scale: str) -> bool:
    value, target = _number(one), _number(scale)
    if value is not None and target:
        return abs(value - target) / abs(target) <= TOLERANCE
    return one.lower() == other.lower()


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100.0 if text.endswith("%") else float(text)
    except ValueError:
        return None
