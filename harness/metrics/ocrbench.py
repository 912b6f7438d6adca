"""OCRBench (Liu et al. 2023): the reference must be contained in the response."""

from __future__ import annotations

from collections.abc import Sequence

from harness.metrics import Graded, metric

EXPRESSIONS = "HME100k"
"""Handwritten mathematical expressions: their case counts, their white space does not."""


@metric("ocrbench", "Yuliang-Liu/MultimodalOCR OCRBench/example.py")
def ocrbench(response: str, answers: Sequence[str], dataset: str = "") -> Graded:
    """1 if one of the references is part of the response.

    An answer of "0" is part of almost any long response: the suite caps the tokens.
    """

    def folded(text: str) -> str:
        if dataset == EXPRESSIONS:
            return text.strip().replace("\n", " ").replace(" ", "")
        return text.lower().strip().replace("\n", " ")

    said = folded(response)
    return Graded(float(any(folded(answer) in said for answer in answers)), said)
