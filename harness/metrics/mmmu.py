"""MMMU (Yue et al. 2023): multiple choice by letter or by the option's text, and open questions.

The official parser takes a random option when it finds none; here that answer is unparsed and wrong, and a figure of
its own says what guessing would score on average.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from harness.metrics import Graded, metric

SOURCE = "MMMU-Benchmark/MMMU mmmu/utils/eval_utils.py"
_COMMAS = re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b")
_SCIENTIFIC = re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+")
_SIMPLE = re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])")
_INDICATORS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_TRIVIAL = tuple(":,.!?;'")

Normal = str | float


@metric("mmmu", SOURCE)
def mmmu(response: str, answers: Sequence[str], choices: Sequence[str] = ()) -> Graded:
    """With `choices`: the reference is a letter. Without: an open question, whose references are texts or numbers."""
    if choices:
        letter = parse_choice(response, choices)
        return Graded(float(letter in answers), letter, 0.0 if letter else 1 / len(choices))
    said = parse_open(response)
    known = {normal for answer in answers for normal in normalise(answer)}
    texts = [text for text in known if isinstance(text, str)]
    right = any(one in known if isinstance(one, float) else any(text in one for text in texts) for one in said)
    return Graded(float(right), " | ".join(sorted(map(str, said))))


def parse_choice(response: str, choices: Sequence[str]) -> str | None:
    """The letter that a response names: `(A)`, else ` A `, else (in more than five words) an option's text; the last
    one where there are several, None where there is none."""
    for mark in ",.!?;:'":
        response = response.strip(mark)
    response = f" {response} "
    options = dict(zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", choices, strict=False))
    for form in ("({})", " {} "):
        places = {letter: response.rfind(form.format(letter)) for letter in options}
        if found := [letter for letter, place in places.items() if place >= 0]:
            return max(found, key=lambda letter: places[letter])
    if len(response.split()) <= 5:
        return None
    places = {letter: response.lower().rfind(text.lower()) for letter, text in options.items()}
    found = [letter for letter, place in places.items() if place >= 0]
    return max(found, key=lambda letter: places[letter], default=None)


def parse_open(response: str) -> set[Normal]:
    """Everything in a response that might be its answer: the ends of its key sentences, and their numbers."""
    response = response.strip().strip(".").lower()
    parts = response.split("\n")  # the official split into sentences looks for capitals after lower() took them away
    keys = []
    for index, part in enumerate(parts):
        marks = (*_INDICATORS, "=") if index == len(parts) - 1 else _INDICATORS
        tails = [part.split(mark)[-1].strip() for mark in marks if mark in part]
        shortest = ""
        for tail in tails:  # an empty tail gives way to whatever comes next, as it does officially
            if not shortest or len(tail) < len(shortest):
                shortest = tail
        if shortest and shortest not in _TRIVIAL:
            keys.append(shortest)
    keys = keys or [response]
    numbers = [number for key in keys for form in (_COMMAS, _SCIENTIFIC, _SIMPLE) for number in form.findall(key)]
    return {normal for text in [*keys, *numbers] for normal in normalise(text)}


def normalise(text: str) -> list[Normal]:
    """A number rounded to two decimals; else the text in lower case, a single letter only beside a space."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
        return [" " + text, text + " "] if len(text) == 1 else [text]
