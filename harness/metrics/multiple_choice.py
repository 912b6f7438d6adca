"""Multiple choice by a letter: ScienceQA, AI2D, SEED-Bench. The reference is the letter."""

from __future__ import annotations

import re
from collections.abc import Sequence

from harness.metrics import Graded, metric
from harness.metrics.gqa import plain

_LEADING = re.compile(r"^\s*([A-Z])\.")
_SENTENCE = re.compile(r"The answer is ([A-Z]).")


def _letter(parsed: str | None, answers: Sequence[str]) -> Graded:
    return Graded(float(parsed in answers), parsed)


@metric("scienceqa", "haotian-liu/LLaVA llava/eval/eval_science_qa.py")
def scienceqa(response: str, answers: Sequence[str]) -> Graded:
    """A letter A to E alone, `X. ` before a text, or exactly one "The answer is X."; anything else is wrong."""
    if response in tuple("ABCDE"):
        return _letter(response, answers)
    if len(response) >= 3 and response[0] in "ABCDE" and response[1:3] == ". ":
        return _letter(response[0], answers)
    found = _SENTENCE.findall(response)
    return _letter(found[0] if len(found) == 1 else None, answers)


@metric("scienceqa@lmms-eval", "lmms_eval/tasks/scienceqa/utils.py, on the stripped response")
def scienceqa_prefix(response: str, answers: Sequence[str]) -> Graded:
    """The letter alone in either case, or an upper-case letter with a period before the rest."""
    said = response.strip()
    if said.upper() in answers:
        return _letter(said.upper(), answers)
    if len(said) >= 2 and said[0].isupper() and said[1] == ".":
        return _letter(said[0], answers)
    return Graded(0.0, said.upper() if len(said) == 1 and said.isalpha() else None)


@metric("ai2d", "lmms_eval/tasks/ai2d: leading letter, then exact_match ignoring case and punctuation")
def ai2d(response: str, answers: Sequence[str]) -> Graded:
    """The letter of a leading upper-case `X.`, else the whole text; case and punctuation are ignored."""
    said = response.strip()
    found = _LEADING.match(said)
    read = plain(found[1] if found else said)
    right = read in [plain(answer) for answer in answers]
    return Graded(float(right), read.upper() if len(read) == 1 and read.isalpha() else None)


@metric("seed_bench", "lmms_eval/tasks/seedbench: the first character")
def seed_bench(response: str, answers: Sequence[str]) -> Graded:
    """The first character of the stripped response, in either case: "Dog" counts as D, "(B)" is wrong."""
    first = response.strip()[:1].upper()
    return Graded(float(first in answers), first if first in tuple("ABCD") else None)
