"""Average normalised Levenshtein similarity: DocVQA, InfoVQA (Biten et al., *Scene Text Visual Question Answering*)."""

from __future__ import annotations

from collections.abc import Sequence

from rapidfuzz.distance import Levenshtein

from harness.metrics import Graded, metric

THRESHOLD = 0.5


@metric("anls", "Robust Reading Competition, infographicsvqa_eval.py")
def anls(response: str, answers: Sequence[str]) -> Graded:
    """The best similarity over the references; below 0.5 it counts 0, exactly 0.5 is kept.

    The distance is over lower-cased text with folded white space, the length that of the raw strings in upper case
    (ß is two letters there). A trailing period costs its share.
    """
    said, best = _folded(response), 0.0
    for answer in answers:
        length = max(len(answer.upper()), len(response.upper()))
        distance = Levenshtein.distance(_folded(answer), said)
        best = max(best, 1.0 - (distance / length if length else 0.0))
    return Graded(best if best >= THRESHOLD else 0.0, said)


@metric("anls@lmms-eval", "lmms_eval/api/metrics.py: anls, on the stripped response")
def anls_stripped(response: str, answers: Sequence[str]) -> Graded:
    """The official definition on a response without white space around it."""
    return anls(response.strip(), answers)


@metric("anls@pix2struct", "google-research/pix2struct metrics.py: anls_metric")
def anls_strict(response: str, answers: Sequence[str]) -> Graded:
    """Both sides lower-cased and nothing else; a similarity of exactly 0.5 counts 0."""
    said, best = response.lower(), 0.0
    for answer in answers:
        known = answer.lower()
        length = max(len(said), len(known))
        far = Levenshtein.distance(known, said) / length if length else 0.0
        best = max(best, 1.0 - far if far < THRESHOLD else 0.0)
    return Graded(best, said)


def _folded(text: str) -> str:
    return " ".join(text.strip().lower().split())
